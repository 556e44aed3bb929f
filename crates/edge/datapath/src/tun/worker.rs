//! The process that carries a tunnel: `minisvc tunnel-worker SOCKET`.
//!
//! It leaves session and parent of the server that starts it, so the server's end, however it comes, is nothing to
//! it: it keeps the peers it was told last. It has no async runtime, two kinds of threads (the tunnel's own and one that answers
//! [`control`](super::control)), and holds nothing of the server's but its network namespace.

use super::control::{
    Answer, ControlError, PATIENCE, Request, Wanted, ask, end, is_running, lock_file, program, read_line,
    write_line,
};
use super::{Peers, TunnelHandle};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The hidden command of the binary.
pub const COMMAND: &str = "tunnel-worker";
/// What a worker says once it listens.
const READY: &str = "ready";
/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(5);
/// How long a worker waits for the end of the one before.
const LOCK_MAX: Duration = Duration::from_secs(2);
/// Longest report of a start, in bytes.
const REPORT_BYTES_MAX: usize = 4 << 10;

/// Runs the worker if `args` (the program's name first) ask for one.
///
/// Must come before anything else in `main`: it forks, so no thread may run. Returns the process' exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Option<i32> {
    let mut args = args.into_iter().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    let (Some(socket), None) = (args.next(), args.next()) else { return Some(2) };
    Some(main(Path::new(&socket)))
}

/// Has the wanted tunnel carried, in the network namespace of the calling thread: by the worker of `socket`, or by a
/// new one where none answers, or where it runs another program than this process.
///
/// # Errors
/// If there is no worker in the end; what it could not do, it says in its answer.
pub fn carry(socket: &Path, wanted: Wanted) -> Result<Answer, ControlError> {
    let (program, request) = (program()?, Request::Run(wanted));
    match ask(socket, &request) {
        Ok(answer) if answer.program == program => return Ok(answer),
        Ok(answer) => {
            tracing::info!(pid = answer.pid, "the tunnel's process runs another program and is replaced");
        }
        Err(error) if is_running(socket) => {
            tracing::warn!(%error, "the tunnel's process does not answer and is replaced");
        }
        Err(_) => {}
    }
    end(socket)?;
    start(socket)?;
    ask(socket, &request)
}

/// Starts a worker for `socket` from this process' own program, in the network namespace of the calling thread.
/// Returns once it listens; it carries nothing yet.
///
/// # Errors
/// If it does not come up, as when another one runs.
pub fn start(socket: &Path) -> Result<(), ControlError> {
    let failed = |why: String| ControlError::Start { why };
    let mut child = Command::new("/proc/self/exe")
        .arg0("minisvc")
        .arg(COMMAND)
        .arg(socket)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("execute this program: {error}")))?;
    let report = child.stdout.take().map(read_report).unwrap_or_else(|| Ok(String::new()));
    if report.is_err() {
        // What was started leaves its session first; before that it is still this child.
        let _ = child.kill();
    }
    child.wait().map_err(|error| failed(format!("wait for it: {error}")))?;
    match report.map_err(|error| failed(format!("read its report: {error}")))?.trim() {
        READY => Ok(()),
        "" => Err(failed("it ended without a word".to_owned())),
        why => Err(failed(why.to_owned())),
    }
}

/// Reads until the writers are gone, for as long as a start may take.
fn read_report(mut from: impl Read + AsFd) -> io::Result<String> {
    let deadline = Instant::now() + START_MAX;
    let mut report = Vec::new();
    let mut buffer = [0; 512];
    while report.len() < REPORT_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match from.read(&mut buffer)? {
            0 => break,
            length => report.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&report).into_owned())
}

fn main(socket: &Path) -> i32 {
    // SAFETY: nothing has been opened yet that anybody here would close again. Fails only before Linux 5.9.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    match detach() {
        Ok(false) => return 0,
        Ok(true) => {}
        Err(error) => return report(&format!("leave the server: {error}")),
    }
    let (lock, listener) = match listen(socket) {
        Ok(listening) => listening,
        Err(error) => return report(&error),
    };
    let program = match program() {
        Ok(program) => program,
        Err(error) => return report(&error.to_string()),
    };
    report(READY);
    serve(&listener, &program);
    let _ = std::fs::remove_file(socket);
    drop(lock);
    0
}

/// Leaves session and parent. True in the process that stays, false in the one the server waits for.
fn detach() -> io::Result<bool> {
    setsid()?;
    // SAFETY: no thread has been started, so no lock can be left held in the child.
    match unsafe { libc::fork() } {
        0 => {}
        -1 => return Err(io::Error::last_os_error()),
        _ => return Ok(false),
    }
    std::env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o077));
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stderr(&null)?;
    Ok(true)
}

/// Tells the server, which reads until the end of the file. Returns the status of a start that failed.
fn report(text: &str) -> i32 {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
    }
    1
}

/// Takes the lock, then the socket, which only its owner may connect to.
fn listen(socket: &Path) -> Result<(Flock<File>, UnixListener), String> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).map_err(|error| format!("make {}: {error}", dir.display()))?;
    }
    let path = lock_file(socket);
    let failed = |error: io::Error| format!("lock {}: {error}", path.display());
    let mut lock = lock(&path).map_err(failed)?;
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
    // What is there was left by a worker that was killed.
    let _ = std::fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).map_err(|error| format!("listen on {}: {error}", socket.display()))?;
    Ok((lock, listener))
}

fn lock(path: &Path) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_MAX;
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, errno)) if Instant::now() > deadline => return Err(errno.into()),
            Err((again, _)) => file = again,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Answers, one at a time, until asked to stop.
fn serve(listener: &UnixListener, program: &str) {
    let mut carried = Carried::default();
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            // Out of descriptors or memory: the tunnel goes on meanwhile.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let request = read_line::<Request>(&mut stream);
        let stop = matches!(request, Ok(Request::Stop));
        let done = match request {
            Ok(Request::Run(wanted)) => carried.set(wanted),
            Ok(Request::Stop) => {
                carried = Carried::default();
                Ok(())
            }
            Err(error) => Err(format!("request: {error}")),
        };
        answer(&mut stream, program, &carried, done.err());
        if stop {
            return;
        }
    }
}

fn answer(stream: &mut UnixStream, program: &str, carried: &Carried, error: Option<String>) {
    let stats = carried.0.as_ref().map(|(_, handle)| handle.stats()).unwrap_or_default();
    let answer = Answer { program: program.to_owned(), pid: std::process::id(), error, stats };
    // Who asked may be gone: the next one asks again.
    let _ = write_line(stream, &answer);
}

/// The tunnel, and what it was started for.
#[derive(Default)]
struct Carried(Option<(Wanted, TunnelHandle)>);

impl Carried {
    fn set(&mut self, wanted: Wanted) -> Result<(), String> {
        if let Some(refusal) = wanted.refusal() {
            return Err(refusal);
        }
        let peers = Peers::new(&wanted.peers);
        let fixed = |wanted: &Wanted| (wanted.link.clone(), wanted.local, wanted.mtu_bytes, wanted.queues);
        if let Some((running, handle)) = &mut self.0
            && handle.is_running()
            && fixed(running) == fixed(&wanted)
        {
            handle.set_peers(peers);
            *running = wanted;
            return Ok(());
        }
        self.0 = None;
        let started = TunnelHandle::start(&wanted.link, wanted.local, wanted.mtu_bytes, wanted.queues, peers);
        let handle = started.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
        self.0 = Some((wanted, handle));
        Ok(())
    }
}
