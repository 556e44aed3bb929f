//! Running a program inside a machine of the lab, from the host, without root.
//!
//! Who owns a user namespace has every right in it, so entering needs no privilege: the machine's first process is
//! found through the credentials of its socket (the kernel translates its pid), and `setns` takes all its
//! namespaces at once.
//!
//! Invariant: called before any thread is started; `setns` of a user namespace needs a single-threaded process.
#![allow(unsafe_code)]

use crate::{LabError, layout::Lab};
use nix::sched::CloneFlags;
use std::{
    ffi::OsString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::{
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::Command,
};

/// Pid, as this process sees it, of whoever listens at `socket`.
///
/// # Errors
/// If nobody does.
pub fn listener_pid(socket: &Path) -> io::Result<i32> {
    let stream = UnixStream::connect(socket)?;
    let credentials = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(credentials.pid())
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open returns a descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Moves this process (and its future children, for the pid namespace) into the machine's namespaces.
///
/// # Errors
/// If the machine is off or belongs to another user.
pub fn enter(lab: &Lab, member: &str) -> Result<(), LabError> {
    let socket = lab.member(member).socket();
    let off = |_| LabError::MemberOff { member: member.to_owned() };
    let pid = listener_pid(&socket).map_err(off)?;
    let failed =
        |source| LabError::File { operation: "enter the namespaces behind", path: socket.clone(), source };
    let target = pidfd(pid).map_err(failed)?;
    let mut flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let user = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user"));
    if user("self").map_err(failed)? != user(&pid.to_string()).map_err(failed)? {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    // SAFETY: setns takes a descriptor and flags.
    if unsafe { libc::setns(target.as_raw_fd(), flags.bits()) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(())
}

/// Runs a command line in a machine of the lab with our standard streams; returns its exit status as a shell has it.
///
/// # Errors
/// If the machine cannot be entered or the program cannot be started.
pub fn exec(lab: &Lab, member: &str, command_line: &[OsString]) -> Result<u8, LabError> {
    let Some((program, args)) = command_line.split_first() else {
        return Err(LabError::Refused { why: "no command given".to_owned() });
    };
    // `minisvc` inside is this very program, installed or not.
    let program = if program == "minisvc" { OsString::from("/proc/self/exe") } else { program.clone() };
    let directory = std::env::current_dir();
    enter(lab, member)?;
    let mut command = Command::new(&program);
    command.args(args);
    // Verbs such as `minisvc image` then mean this machine's node.
    command.env("MINISVC_DATA_DIR", lab.member(member).data());
    if let Ok(directory) = directory {
        command.current_dir(directory);
    }
    // SAFETY: prctl between fork and exec touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let failed = |source| LabError::File { operation: "run", path: program.clone().into(), source };
    let mut child = command.spawn().map_err(failed)?;
    // The terminal signals the whole group; the program decides, we report.
    // SAFETY: SIG_IGN is a valid disposition, set after the child was started.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGQUIT, libc::SIG_IGN);
    }
    let status = child.wait().map_err(failed)?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(1))
}
