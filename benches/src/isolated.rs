//! A benchmark that runs in namespaces of its own: this very command again, as their first process.
//!
//! Invariant: what is made inside ends with this process, however it ends.

use anyhow::{Context, ensure};
use minisvc_lab::namespaces::{Isolation, isolate};
use nix::sched::{CloneFlags, setns};
use std::{fs::File, path::Path, process::Command, thread::JoinHandle};

/// The flag that says that this process is the inner one; every such benchmark has it.
const INSIDE: &str = "--inside";

/// Runs this command again inside, or says why it cannot be run here.
pub fn again(isolation: Isolation) -> anyhow::Result<()> {
    let mut command = command()?;
    isolate(&mut command, isolation)?;
    match command.status() {
        Ok(status) => {
            ensure!(status.success(), "the benchmark ended with {status}");
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: namespaces may not be made here ({error})");
            Ok(())
        }
        Err(error) => Err(error).context("start in namespaces"),
    }
}

/// This command with the flag for the inner process.
fn command() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg(INSIDE);
    Ok(command)
}

/// Does something on a thread of its own inside a network namespace.
pub fn thread_in<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
    let file = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
    Ok(std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
        work()
    }))
}

/// What such a thread came to.
pub fn outcome<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread of the benchmark panicked"))?
}
