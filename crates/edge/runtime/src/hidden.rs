//! The commands of the binary that people do not type: it executes itself as shim, echo server, exec helper.
//!
//! They run before anything else of the program: no thread, no runtime, no logging has been started.

use std::ffi::{OsStr, OsString};

/// `minisvc pod-shim BUNDLE`.
pub(crate) const SHIM: &str = "pod-shim";
/// `minisvc pod-echo`.
pub(crate) const ECHO: &str = "pod-echo";
/// `minisvc pod-exec FD`.
pub(crate) const EXEC: &str = "pod-exec";

/// Runs the hidden command that `args` (the program's name first) ask for; none if they ask for none.
///
/// Must be the first thing in `main`. Returns the process' exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Option<i32> {
    let mut args = args.into_iter().skip(1);
    let command = args.next()?;
    let known = [SHIM, ECHO, EXEC].into_iter().find(|name| command == OsStr::new(name))?;
    let rest: Vec<OsString> = args.collect();
    Some(match known {
        SHIM => crate::shim::main(&rest),
        EXEC => crate::exec::helper::main(&rest),
        _ => crate::echo::main(),
    })
}
