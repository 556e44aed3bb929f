//! Tests on the real kernel: a test's body runs in a child process inside namespaces of its own.
//!
//! ```ignore
//! #[test]
//! fn a_link_comes_up() {
//!     minisvc_lab::testing::in_namespaces("a_link_comes_up", || { /* root of a new network namespace */ });
//! }
//! ```
//! The child is the test binary again, told to run this one test; it is root of a new user (if need be), network,
//! mount and pid namespace with an empty `/run`, and everything it leaves ends with it.
#![allow(clippy::expect_used, clippy::print_stderr)]

use crate::namespaces::{Isolation, isolate};
use std::process::Command;

const INSIDE: &str = "MINISVC_TEST_INSIDE";

/// Runs `body` in namespaces of its own. `name` is the test's full path as `cargo test` prints it.
///
/// # Panics
/// If the body panics, or if namespaces cannot be made for another reason than a missing privilege.
pub fn in_namespaces(name: &str, body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        body();
        return;
    }
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, name);
    isolate(&mut command, Isolation::whole()).expect("prepare namespaces");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            eprintln!("skipped: {name}: namespaces may not be made here ({error})");
            return;
        }
        Err(error) => panic!("{name}: start in namespaces: {error}"),
    };
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed inside its namespaces ({}):\n{text}", output.status);
    assert!(text.contains("1 passed"), "{name} is not the full name of a test:\n{text}");
    for line in text.lines().filter(|line| line.starts_with("skipped:")) {
        eprintln!("{line}");
    }
}

/// As [`in_namespaces`], with a current-thread tokio runtime around the body.
///
/// # Panics
/// As [`in_namespaces`].
pub fn in_namespaces_async(name: &str, body: impl Future<Output = ()>) {
    in_namespaces(name, || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("start a runtime")
            .block_on(body);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_root_of_an_empty_world() {
        in_namespaces("testing::tests::the_body_is_root_of_an_empty_world", || {
            assert!(nix::unistd::geteuid().is_root());
            assert_eq!(std::process::id(), 1);
            let links: Vec<_> = std::fs::read_dir("/sys/class/net").unwrap().collect();
            assert_eq!(links.len(), 1, "only lo");
            assert_eq!(std::fs::read_dir("/run").unwrap().count(), 0);
        });
    }

    #[test]
    #[should_panic(expected = "failed inside")]
    fn a_panic_inside_is_a_failure_outside() {
        in_namespaces("testing::tests::a_panic_inside_is_a_failure_outside", || {
            assert!(std::env::var("NO_SUCH_VARIABLE").is_ok(), "as planned");
        });
    }
}
