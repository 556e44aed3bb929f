//! The shim: a small process that owns one run of one container.
//!
//! It is the same binary, executed as `minisvc pod-shim BUNDLE`, single-threaded and without a runtime. It
//! leaves the server's session, makes the container's namespaces, starts process 1 there, copies its output to
//! the log and to the clients that are attached, their input to it, and writes down how it ended. Invariants: the server's death does not touch it; its own death kills
//! the container (PDEATHSIG on process 1, whose end ends the pid namespace); `state.json` is always whole.

mod follow;
mod init;
mod mounts;
mod output;
mod root;
mod seccomp;
mod sessions;
mod user;
mod volumes;

pub(crate) use init::{Program, become_user, find_program};
pub(crate) use output::LINE_BYTES_MAX;
pub(crate) use user::User;
pub(crate) use volumes::ShimMount;

use crate::{
    attach,
    exec::Settings,
    files,
    record::{ProcessId, Terminated},
    sys, terminal,
};
use jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl},
    sched::{CloneFlags, unshare},
    sys::wait::waitpid,
    unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid},
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

/// Longest report of the container's set-up, in bytes.
const REPORT_BYTES_MAX: u64 = 64 << 10;

/// What the server tells a shim, in a file that only its user can read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShimBundle {
    /// Where to keep [`ShimState`].
    pub(crate) state: PathBuf,
    /// Locked while the shim lives.
    pub(crate) lock: PathBuf,
    /// Log of this run.
    pub(crate) log: PathBuf,
    /// Rotate at that size, in bytes.
    pub(crate) log_bytes_max: u64,
    /// File of the network namespace; none: the node's own network.
    pub(crate) netns: Option<PathBuf>,
    /// Host name.
    pub(crate) hostname: String,
    /// The container's root; none: the node's own file system.
    pub(crate) root: Option<PathBuf>,
    /// A lock to hold while the container runs, so that its root stays.
    #[serde(default)]
    pub(crate) hold: Option<PathBuf>,
    /// A directory for what the container changes in its root.
    #[serde(default)]
    pub(crate) changes: Option<PathBuf>,
    /// Generated files: source on the node, target in the container.
    pub(crate) generated: Vec<(PathBuf, String)>,
    /// Where the container's last words go, on the node and in the container; none, if the latter is empty.
    pub(crate) message: PathBuf,
    /// See above.
    pub(crate) message_target: String,
    /// Volumes.
    pub(crate) mounts: Vec<ShimMount>,
    /// Directories to hide.
    pub(crate) masked: Vec<PathBuf>,
    /// Command and arguments; empty: the built-in echo server.
    pub(crate) argv: Vec<String>,
    /// How it is run.
    pub(crate) settings: Settings,
    /// Whether standard input is kept open for clients that attach.
    pub(crate) stdin: bool,
    /// Whether it ends with the first of them.
    pub(crate) stdin_once: bool,
    /// Whether the streams are a terminal.
    pub(crate) tty: bool,
}

/// What a shim writes down about its container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ShimState {
    /// The shim itself.
    pub(crate) shim: Option<ProcessId>,
    /// Process 1 of the container, as the node sees it.
    pub(crate) process: Option<ProcessId>,
    /// When its program was executed.
    pub(crate) started_at: Option<Timestamp>,
    /// How it ended.
    pub(crate) terminated: Option<Terminated>,
    /// What could not be set up as it should be.
    pub(crate) notes: Vec<String>,
}

/// `minisvc pod-shim BUNDLE`. Returns the exit status of the process the server waits for.
///
/// The daemon's first state goes to standard output, which is then closed.
pub fn main(args: &[OsString]) -> i32 {
    let [bundle] = args else { return 2 };
    // Nothing the server had open may live on in here. Fails only before Linux 5.9.
    let _ = sys::close_from(3);
    match detach() {
        Ok(false) => return 0,
        Ok(true) => {}
        Err(error) => {
            let _ = writeln!(io::stderr(), "pod shim: {error}");
            return 1;
        }
    }
    let state = run(Path::new(bundle))
        .unwrap_or_else(|error| ShimState { terminated: Some(start_error(error)), ..ShimState::default() });
    report(&state);
    0
}

fn start_error(message: String) -> Terminated {
    Terminated {
        exit_code: 128,
        signal: 0,
        reason: "StartError".to_owned(),
        message,
        started_at: None,
        finished_at: Timestamp::now(),
    }
}

/// Leaves session and parent. True in the daemon, false in the process the server waits for.
fn detach() -> io::Result<bool> {
    setsid()?;
    if sys::fork()?.is_some() {
        return Ok(false);
    }
    sys::ignore_terminal_signals();
    std::env::set_current_dir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stderr(&null)?;
    Ok(true)
}

/// Tells the server, which reads until the end of the file; it may be gone by now.
fn report(state: &ShimState) {
    if let Ok(text) = serde_json::to_vec(state) {
        let _ = io::stdout().write_all(&text).and_then(|()| io::stdout().flush());
    }
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
    }
}

struct Child {
    pid: i32,
    pidfd: OwnedFd,
    /// Where to write; none: there is no standard input.
    stdin: Option<OwnedFd>,
    /// A pipe, or the terminal's master side.
    stdout: OwnedFd,
    /// None with a terminal, which has one output only.
    stderr: Option<OwnedFd>,
}

/// Runs the container to its end. An error is one from before anything was started.
fn run(path: &Path) -> Result<ShimState, String> {
    let bundle: ShimBundle = files::read_record(path)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("{}: no such bundle", path.display()))?;
    let _lock = lock(&bundle.lock).map_err(|error| format!("lock {}: {error}", bundle.lock.display()))?;
    let hold = |path: &PathBuf| {
        minisvc_images::Image::hold(path).map_err(|error| format!("hold the image: {error}"))
    };
    let _image_stays = bundle.hold.as_ref().map(hold).transpose()?;
    let mut log = output::LogFile::open(&bundle.log, bundle.log_bytes_max)
        .map_err(|error| format!("open log {}: {error}", bundle.log.display()))?;
    let me = std::process::id() as i32;
    let mut state = ShimState { shim: process_id(me), ..ShimState::default() };
    let save =
        |state: &ShimState| files::write_record(&bundle.state, state).map_err(|error| error.to_string());
    save(&state)?;
    let dir = bundle.state.parent().unwrap_or(Path::new("/"));
    let listener = attach::listen_in(dir).map_err(|error| format!("listen in {}: {error}", dir.display()))?;

    let mut child = match start(&bundle, &mut state.notes) {
        Ok(child) => child,
        Err(message) => {
            state.terminated = Some(start_error(message));
            save(&state)?;
            return Ok(state);
        }
    };
    let started_at = Timestamp::now();
    state.process = process_id(child.pid);
    state.started_at = Some(started_at);
    // From here on the container's fate matters more than a record that cannot be written.
    let _ = save(&state);
    report(&state);
    let sessions = sessions::Sessions::new(listener, child.stdin.take(), &bundle);
    let group = &bundle.settings.group;
    state.terminated = Some(follow::follow(&child, sessions, &mut log, (started_at, group), |terminated| {
        let _ = save(&ShimState { terminated: Some(terminated.clone()), ..state.clone() });
    }));
    Ok(state)
}

fn lock(path: &Path) -> io::Result<Flock<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Whether a shim holds this lock.
pub(crate) fn is_locked(path: &Path) -> bool {
    File::options().write(true).open(path).is_ok_and(|file| {
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err_and(|(_, e)| e == Errno::EWOULDBLOCK)
    })
}

fn process_id(pid: i32) -> Option<ProcessId> {
    sys::start_time(pid).ok().map(|start_time| ProcessId { pid, start_time })
}

/// Makes the namespaces and process 1. Returns once its program runs, or with why it does not.
fn start(bundle: &ShimBundle, notes: &mut Vec<String>) -> Result<Child, String> {
    let open = |path: &PathBuf| {
        File::open(path).map_err(|error| format!("open network namespace {}: {error}", path.display()))
    };
    let netns = bundle.netns.as_ref().map(open).transpose()?;
    let (ours, theirs) = streams(bundle)?;
    let (report_read, report_write) =
        pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("make a pipe: {error}"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| format!("make a pid namespace: {error}"))?;
    let Some(pid) = sys::fork().map_err(|error| format!("fork: {error}"))? else {
        drop((ours, report_read));
        init::main(bundle, netns.as_ref(), theirs, report_write);
    };
    drop((theirs, report_write));
    let pidfd = sys::pidfd_open(pid).map_err(|error| format!("open process {pid}: {error}"))?;
    let mut text = String::new();
    let read = File::from(report_read).take(REPORT_BYTES_MAX).read_to_string(&mut text);
    let mut failure = read.err().map(|error| format!("read the container's report: {error}"));
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("note", note)) => notes.push(note.to_owned()),
            Some((_, error)) => failure = Some(error.to_owned()),
            None => {}
        }
    }
    let received = match failure {
        Some(failure) => Err(failure),
        None => ours.receive(bundle).map_err(|error| format!("receive the container's terminal: {error}")),
    };
    match received {
        Ok((stdin, stdout, stderr)) => Ok(Child { pid, pidfd, stdin, stdout, stderr }),
        Err(failure) => {
            let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), None);
            Err(failure)
        }
    }
}

/// The shim's ends of a container's streams.
enum Ours {
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    Terminal { console: UnixStream },
}

fn streams(bundle: &ShimBundle) -> Result<(Ours, init::Streams), String> {
    let fail = |error: Errno| format!("make a pipe: {error}");
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(fail);
    if bundle.tty {
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("make a socket pair: {error}"))?;
        return Ok((Ours::Terminal { console: ours }, init::Streams::Terminal { console: theirs }));
    }
    let (stdin_read, stdin_write) = if bundle.stdin {
        let (read, write) = pipe()?;
        // A program that does not read must not stop its shim.
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_WRONLY | OFlag::O_NONBLOCK)).map_err(fail)?;
        (Some(read), Some(write))
    } else {
        (None, None)
    };
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    Ok((
        Ours::Pipes { stdin: stdin_write, stdout: out_read, stderr: err_read },
        init::Streams::Pipes { stdin: stdin_read, stdout: out_write, stderr: err_write },
    ))
}

impl Ours {
    /// Standard input, output and error, once the container has set its own ends up.
    fn receive(self, bundle: &ShimBundle) -> io::Result<(Option<OwnedFd>, OwnedFd, Option<OwnedFd>)> {
        match self {
            Self::Pipes { stdin, stdout, stderr } => Ok((stdin, stdout, Some(stderr))),
            Self::Terminal { console } => {
                let missing = || io::Error::from(io::ErrorKind::UnexpectedEof);
                let master = sys::recv_fd(console.as_fd())?.ok_or_else(missing)?;
                terminal::set_nonblocking(&master)?;
                let stdin = if bundle.stdin { Some(master.try_clone()?) } else { None };
                Ok((stdin, master, None))
            }
        }
    }
}

/// Deletes what a shim of an earlier run has left, so that its end cannot be taken for the next one's.
pub(crate) fn forget_state(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
