//! Process 1 of a container, from its fork to the execution of its program.
//!
//! Runs in the child of the shim, single-threaded; whatever fails is reported through a pipe that the
//! execution closes.

use super::{ShimBundle, User, mounts, seccomp};
use crate::{security::Security, sys, terminal};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::OpenptyResult,
    sched::{CloneFlags, setns, unshare},
    sys::stat::fstat,
    unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, sethostname, setsid},
};
use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

/// The search path of a container whose environment has none (Docker's).
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Device number of `/dev/null`.
const NULL: libc::dev_t = libc::makedev(1, 3);

/// Where set-up tells what did not go as it should.
pub(super) struct Report(File);

impl Report {
    /// A deviation that the container can live with.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.0, "note {}", text.replace('\n', " "));
    }

    /// Whether nobody reads it any more.
    fn is_abandoned(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    fn error(&mut self, text: &str) {
        let _ = writeln!(self.0, "error {}", text.replace('\n', " "));
    }
}

/// What becomes the program's standard streams.
pub(super) enum Streams {
    /// Pipes; without one for standard input there is none.
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    /// A terminal, made in the container; its master side is sent here.
    Terminal { console: UnixStream },
}

/// Becomes the container's program, or reports why not.
pub(super) fn main(bundle: &ShimBundle, netns: Option<&File>, streams: Streams, report: OwnedFd) -> ! {
    let mut report = Report(File::from(report));
    let error = match set_up(bundle, netns, streams, &mut report) {
        Ok((program, user)) => program.execute(&bundle.argv, &bundle.settings.env, &user.home),
        Err(error) => error,
    };
    report.error(&error);
    sys::exit_now(127)
}

fn set_up(
    bundle: &ShimBundle,
    netns: Option<&File>,
    streams: Streams,
    report: &mut Report,
) -> Result<(Program, User), String> {
    sys::die_with_parent().map_err(|error| format!("tie to the shim: {error}"))?;
    let group = bundle.settings.group.open();
    group.and_then(|group| group.join()).map_err(|error| format!("join the control groups: {error}"))?;
    if report.is_abandoned() {
        return Err("the shim has ended".to_owned()); // before the line above could tie us to it
    }
    let exe = if bundle.argv.is_empty() {
        Some(File::open("/proc/self/exe").map_err(|error| format!("open the built-in server: {error}"))?)
    } else {
        None
    };
    // The node's, for an image without a place for one of its own; it cannot be opened from inside.
    let spare = if bundle.tty { terminal::open().ok() } else { None };
    setsid().map_err(|error| format!("start a session: {error}"))?;
    if let Some(netns) = netns {
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("enter the network namespace: {error}"))?;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
        .map_err(|error| format!("make mount, uts and ipc namespaces: {error}"))?;
    if let Err(error) = unshare(CloneFlags::CLONE_NEWCGROUP) {
        report.note(&format!("no cgroup namespace: {error}"));
    }
    sethostname(&bundle.hostname).map_err(|error| format!("set host name {:?}: {error}", bundle.hostname))?;
    set_sysctls(&bundle.settings.security)?;
    mounts::set_up(bundle, report)?;
    let user = User::of(&bundle.settings.security, &bundle.settings.image_user)?;
    std::env::set_current_dir(&bundle.settings.working_dir)
        .map_err(|error| format!("chdir to cwd ({:?}): {error}", bundle.settings.working_dir))?;
    let program = match exe {
        Some(exe) => Program::BuiltIn(exe.into()),
        None => Program::File(find_program(&bundle.argv[0], &bundle.settings.env)?),
    };
    match streams {
        Streams::Pipes { stdin, stdout, stderr } => take_pipes(stdin, &stdout, &stderr),
        Streams::Terminal { console } => take_terminal(spare, &console),
    }
    .and_then(|()| sys::close_on_exec_from(3))
    .map_err(|error| format!("set up the process: {error}"))?;
    own_streams(&user, report);
    become_user(&user, &bundle.settings.security)?;
    Ok((program, user))
}

/// Settings of the Pod's namespaces; where they are written, `/proc` shows those of this process.
fn set_sysctls(security: &Security) -> Result<(), String> {
    for (name, value) in &security.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(path, value).map_err(|error| format!("set sysctl {name} to {value:?}: {error}"))?;
    }
    Ok(())
}

/// Lets another user than root open `/dev/stdout` and its like.
fn own_streams(user: &User, report: &mut Report) {
    if user.uid == 0 {
        return;
    }
    let owner = Some(Uid::from_raw(user.uid));
    for (name, stream) in [
        ("input", std::io::stdin().as_fd()),
        ("output", std::io::stdout().as_fd()),
        ("error", std::io::stderr().as_fd()),
    ] {
        // /dev/null is everybody's.
        let is_null = fstat(stream)
            .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == NULL);
        if !is_null && let Err(error) = fchown(stream, owner, None) {
            report.note(&format!("standard {name} is root's: {error}"));
        }
    }
}

/// Makes this process the container's user with the capabilities it may have, and its signals what programs expect.
pub(crate) fn become_user(user: &User, security: &Security) -> Result<(), String> {
    sys::reset_signals();
    sys::drop_privileges(user, security.capability_mask())
        .map_err(|error| format!("become user {}:{}: {error}", user.uid, user.gid))?;
    if security.filtered { seccomp::apply() } else { Ok(()) }
}

fn take_pipes(stdin: Option<OwnedFd>, stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<()> {
    let stdin = match stdin {
        Some(stdin) => stdin,
        None => File::open("/dev/null")?.into(),
    };
    dup2_stdin(&stdin)?;
    dup2_stdout(stdout)?;
    Ok(dup2_stderr(stderr)?)
}

fn take_terminal(spare: Option<OpenptyResult>, console: &UnixStream) -> io::Result<()> {
    let pty = terminal::open().or_else(|error| spare.ok_or(error))?;
    sys::send_fd(console, Some(pty.master.as_fd()))?;
    terminal::take(&pty.slave)
}

/// What to execute.
pub(crate) enum Program {
    /// This binary's echo server.
    BuiltIn(OwnedFd),
    /// A file.
    File(PathBuf),
}

impl Program {
    /// Executes it; `home` is the directory that `HOME` says if `env` does not. Returns why it could not.
    pub(crate) fn execute(&self, argv: &[String], env: &[(String, String)], home: &str) -> String {
        let strings = |list: Vec<String>| list.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
        let mut merged = std::collections::BTreeMap::from([("PATH", DEFAULT_PATH), ("HOME", home)]);
        merged.extend(env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let env = strings(merged.iter().map(|(name, value)| format!("{name}={value}")).collect());
        let argv = match self {
            Self::BuiltIn(_) => strings(vec!["minisvc".to_owned(), crate::hidden::ECHO.to_owned()]),
            Self::File(_) => strings(argv.to_vec()),
        };
        let (Ok(argv), Ok(env)) = (argv, env) else {
            return "a NUL character in command, args or env".to_owned();
        };
        match self {
            Self::BuiltIn(fd) => format!("exec: \"echo\": {}", sys::execute_fd(fd, &argv, &env)),
            Self::File(path) => match CString::new(path.as_os_str().as_bytes()) {
                Ok(c_path) => match nix::unistd::execve(&c_path, &argv, &env) {
                    Ok(never) => match never {},
                    Err(errno) => format!("exec: {:?}: {}", path, errno.desc()),
                },
                Err(_) => "a NUL character in the command".to_owned(),
            },
        }
    }
}

/// Finds the file of a command as execvp does, in the container's PATH.
pub(crate) fn find_program(command: &str, env: &[(String, String)]) -> Result<PathBuf, String> {
    if command.contains('/') {
        return match fs::metadata(command) {
            Ok(meta) if meta.is_dir() => Err(format!("exec: {command:?}: is a directory")),
            Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
                Err(format!("exec: {command:?}: permission denied"))
            }
            Ok(_) => Ok(command.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("exec: {command:?}: stat {command}: no such file or directory"))
            }
            Err(error) => Err(format!("exec: {command:?}: stat {command}: {error}")),
        };
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(OsStr::new(command)))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .ok_or_else(|| format!("exec: {command:?}: executable file not found in $PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool");
        fs::write(&file, "").unwrap();
        let env = vec![("PATH".to_owned(), format!("/nowhere:{}", dir.path().display()))];
        assert!(find_program("tool", &env).unwrap_err().contains("not found in $PATH"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_program("tool", &env).unwrap(), file);
        assert!(find_program("/nowhere/tool", &env).unwrap_err().contains("no such file or directory"));
        assert!(find_program("/tmp", &env).unwrap_err().contains("is a directory"));
    }
}
