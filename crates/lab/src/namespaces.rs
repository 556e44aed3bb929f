//! Starting a program in namespaces of its own, as root and as an ordinary user.
//!
//! An ordinary user gets a user namespace in which it is root; root needs none, and keeps what only the first user
//! namespace allows (`/dev/net/tun`, large socket buffers).
//!
//! Invariant: the started program is pid 1 of its pid namespace and dies with the process that started it if
//! asked to, so the whole world inside ends with either.
#![allow(unsafe_code)]

use nix::sched::{CloneFlags, unshare};
use std::{ffi::CString, io, os::unix::process::CommandExt, process::Command};

/// Which namespaces the program gets beside mount, pid, uts and ipc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// A network namespace of its own.
    pub network: bool,
    /// A user namespace in which this user is root. Needed by ordinary users only.
    pub user: bool,
    /// Whether the program is killed when its starter dies.
    pub die_with_parent: bool,
}

impl Isolation {
    /// Everything its own; with a user namespace if this process is not root.
    pub fn whole() -> Self {
        Self { network: true, user: !nix::unistd::geteuid().is_root(), die_with_parent: true }
    }
}

/// What the child needs, made before the fork: after it, only async-signal-safe calls are allowed.
struct Prepared {
    isolation: Isolation,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    proc: CString,
    setgroups: CString,
    uid_map_path: CString,
    gid_map_path: CString,
}

fn c(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

/// Makes `command` start as pid 1 of namespaces of its own, with a fresh `/proc`, `/sys` and an empty `/run`.
///
/// The process that `spawn` returns is only a waiting parent: it passes the exit status on, and when it is killed
/// the program is too. `SIGTERM` to it does not reach the program.
pub fn isolate(command: &mut Command, isolation: Isolation) -> io::Result<()> {
    let prepared = Prepared {
        isolation,
        uid_map: format!("0 {} 1\n", nix::unistd::geteuid()).into_bytes(),
        gid_map: format!("0 {} 1\n", nix::unistd::getegid()).into_bytes(),
        proc: c("proc")?,
        setgroups: c("/proc/self/setgroups")?,
        uid_map_path: c("/proc/self/uid_map")?,
        gid_map_path: c("/proc/self/gid_map")?,
    };
    // SAFETY: the closure runs between fork and exec and makes only system calls on memory prepared above.
    unsafe {
        command.pre_exec(move || enter(&prepared));
    }
    Ok(())
}

fn enter(prepared: &Prepared) -> io::Result<()> {
    let Isolation { network, user, die_with_parent } = prepared.isolation;
    if die_with_parent {
        die_with(libc::SIGKILL)?;
    }
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    flags.set(CloneFlags::CLONE_NEWNET, network);
    flags.set(CloneFlags::CLONE_NEWUSER, user);
    unshare(flags).map_err(io::Error::from)?;
    if user {
        // A map of the own group needs setgroups to be given up first (user_namespaces(7)).
        write_file(&prepared.setgroups, b"deny")?;
        write_file(&prepared.uid_map_path, &prepared.uid_map)?;
        write_file(&prepared.gid_map_path, &prepared.gid_map)?;
    }
    // The pid namespace begins with the next child.
    // SAFETY: fork in the single-threaded child of a fork.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => first_process(prepared),
        child => wait_and_exit(child),
    }
}

/// Runs as pid 1 of the new pid namespace, before exec.
fn first_process(prepared: &Prepared) -> io::Result<()> {
    die_with(libc::SIGKILL)?;
    let mounts: [(&std::ffi::CStr, &std::ffi::CStr, libc::c_ulong); 4] = [
        (c"", c"/", libc::MS_REC | libc::MS_PRIVATE),
        (c"proc", c"/proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC),
        (c"sysfs", c"/sys", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC),
        (c"tmpfs", c"/run", libc::MS_NOSUID | libc::MS_NODEV),
    ];
    for (kind, target, flags) in mounts {
        if kind == c"sysfs" && !prepared.isolation.network {
            continue; // sysfs may be mounted only by the owner of the network namespace it shows
        }
        let groups = if kind == c"sysfs" { take_groups() } else { -1 };
        // SAFETY: the strings are NUL-terminated and outlive the call.
        let failed = unsafe {
            libc::mount(prepared.proc.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null())
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        put_groups(groups);
    }
    Ok(())
}

/// Where control groups are; a fresh sysfs has nothing there.
const GROUPS: &std::ffi::CStr = c"/sys/fs/cgroup";

/// The mounts of control groups, held by a descriptor; -1 if there are none.
fn take_groups() -> i32 {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as u32;
    // SAFETY: the path is NUL-terminated and static.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, GROUPS.as_ptr(), flags) };
    i32::try_from(fd).unwrap_or(-1)
}

/// Puts them where they were. A machine without them has Pods without limits, and says so.
fn put_groups(fd: i32) {
    if fd < 0 {
        return;
    }
    // SAFETY: the paths are NUL-terminated and static; the descriptor is ours.
    unsafe {
        let (from, to) = (c"".as_ptr(), GROUPS.as_ptr());
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
        libc::syscall(libc::SYS_move_mount, fd, from, libc::AT_FDCWD, to, flags);
        libc::close(fd);
    }
}

fn die_with(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: prctl with an integer argument touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn write_file(path: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: path is NUL-terminated, bytes is valid for its length, the descriptor is ours.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let error = io::Error::last_os_error();
        libc::close(fd);
        if written < 0 { Err(error) } else { Ok(()) }
    }
}

/// Keeps the waiting parent: passes the exit status of pid 1 on.
fn wait_and_exit(child: libc::pid_t) -> ! {
    let mut status = 0;
    // SAFETY: plain system calls; _exit runs no destructors of the forked copy.
    unsafe {
        // Standard streams stay with pid 1 alone, so that whoever reads them sees their end.
        libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32);
        while libc::waitpid(child, &mut status, 0) < 0 && *libc::__errno_location() == libc::EINTR {}
        if libc::WIFEXITED(status) {
            libc::_exit(libc::WEXITSTATUS(status))
        }
        libc::_exit(128 + libc::WTERMSIG(status))
    }
}
