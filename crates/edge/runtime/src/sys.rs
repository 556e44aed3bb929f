//! System calls that neither std nor nix offer safely. The only unsafe code of this crate is here.
#![allow(unsafe_code)]

use crate::shim::User;
use nix::{
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use std::{
    ffi::{CStr, CString},
    fs,
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};
use tokio::io::unix::AsyncFd;

/// Makes a mount read-only.
pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Ignores set-user-ID bits.
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Ignores device nodes.
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Refuses to execute.
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &str) -> io::Result<CString> {
    CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A detached copy of the mount that shows `path`; `recursive`: with all that is mounted below.
pub(crate) fn open_tree_clone(path: &str, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a detached mount at `target`.
pub(crate) fn move_mount(tree: &OwnedFd, target: &str) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: both strings are NUL-terminated and outlive the call; `tree` is open.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Sets mount attributes on the mount `fd` stands for, or of `path` if there is no `fd`.
pub(crate) fn mount_setattr(
    fd: Option<&OwnedFd>,
    path: &str,
    recursive: bool,
    attributes: u64,
) -> io::Result<()> {
    let path = c_path(path)?;
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = (if recursive { libc::AT_RECURSIVE } else { 0 })
        | (if fd.is_some() { libc::AT_EMPTY_PATH } else { 0 });
    let dir = fd.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    // SAFETY: `attr` and `path` outlive the call, and the size is that of `attr`.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// A descriptor for the process `pid`, readable once it has ended.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends `signal` to the process of a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; `pidfd` is open.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) }).map(drop)
}

/// Registers a descriptor with the runtime, to wait until it is readable or writable.
pub(crate) fn watch_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns `fd`, which stays open and the same as long as it lives.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Field 22 of `/proc/<pid>/stat`: when the process was started, in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is in parentheses and may hold anything, closing parentheses too.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// A pidfd of the process `pid`, if it is still the one that was started at `start_time`.
///
/// The check comes after the open: from then on the descriptor cannot mean another process.
pub(crate) fn pidfd_of(pid: i32, expected: u64) -> io::Result<OwnedFd> {
    let pidfd = pidfd_open(pid)?;
    if start_time(pid)? == expected { Ok(pidfd) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// Splits the process. Returns the child's id in the parent, none in the child.
///
/// Callers are single-threaded: shim, exec helper and their children.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: only called before any thread is started, so no lock can be left held in the child.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Some(pid)),
    }
}

/// Ends this process at once, without running exit handlers of the parent's copy.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Asks the kernel to kill this process when its parent ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into()).map(drop)
}

/// Closes every descriptor from `first` on when this process executes another program.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers; marking descriptors close-on-exec invalidates none of them.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Closes every inherited descriptor from `first` on. Only for the first lines of a hidden command.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: callers own no descriptor object yet: they have opened none since they were executed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0) })
        .map(drop)
}

/// Takes over a descriptor that the parent has left open for this process, by its number.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads a flag.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into())?;
    // SAFETY: open, as just checked, and named by the parent on our command line for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends one byte over a Unix socket, and with it a descriptor if there is one.
pub(crate) fn send_fd(socket: &UnixStream, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[] } else { rights.as_slice() };
    let bytes = [IoSlice::new(b" ")];
    sendmsg::<()>(socket.as_raw_fd(), &bytes, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Takes what [`send_fd`] has sent.
pub(crate) fn recv_fd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut bytes, Some(&mut space), flags)?;
    let received = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just given us this one descriptor, there is room for no other; nobody else owns it.
    Ok(received.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Lets one descriptor through to the program that `command` executes.
pub(crate) fn keep_across_exec(command: &mut tokio::process::Command, fd: BorrowedFd<'_>) {
    let fd = fd.as_raw_fd();
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || check(libc::fcntl(fd, libc::F_SETFD, 0).into()).map(drop));
    }
}

/// Undoes ignored and blocked signals; programs expect the defaults, and std ignores SIGPIPE.
pub(crate) fn reset_signals() {
    // SAFETY: SIG_DFL and an empty mask are always valid; errors (SIGKILL, SIGSTOP) do not matter.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ignores the signals that a terminal sends to whole groups.
pub(crate) fn ignore_terminal_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: SIG_IGN is always valid for these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Makes the terminal on descriptor 0 the controlling terminal of this session.
pub(crate) fn take_controlling_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Sets a terminal's size in characters.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

/// Makes this process a user's, and reduces it and all it executes to the capabilities of `mask` (bit by number); nothing
/// it executes gains any. Root keeps those at once, others have none left.
pub(crate) fn drop_privileges(user: &User, mask: u64) -> io::Result<()> {
    for capability in (0..64).filter(|capability| mask & (1 << capability) == 0) {
        // SAFETY: takes no pointers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                break; // beyond the kernel's last capability
            }
            return Err(error);
        }
    }
    // Ambient capabilities would survive the exec of an unprivileged user's program.
    // SAFETY: takes no pointers. Fails only on kernels without ambient capabilities.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    // A node that runs without root of the machine can be nobody else, and may not set groups.
    if !user.is_root() {
        let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    let kept = if user.uid == 0 { mask } else { 0 };
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let header: [u32; 2] = [0x2008_0522, 0]; // _LINUX_CAPABILITY_VERSION_3, this process
    let data: [u32; 6] = [low, low, 0, high, high, 0]; // effective, permitted, inheritable; low and high words
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Executes the program behind an open descriptor. Returns only on failure.
pub(crate) fn execute_fd(program: &OwnedFd, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    let empty: &CStr = c"";
    // SAFETY: both arrays are null-terminated and their strings outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            empty.as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}
