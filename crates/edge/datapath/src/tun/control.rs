//! How a server and the process that carries its tunnel talk: one line of JSON each way, on a connection of its own.
//!
//! Invariants:
//! - One worker a socket: it holds a lock on `<socket>.lock`, and its process id stands in there, until it ends.
//! - A line is at most [`LINE_BYTES_MAX`] long, and nobody waits for one for longer than [`PATIENCE`].
//! - An answer tells which program gives it, in whatever version, so a worker left by another one is known as such.

use super::TunnelStats;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a node's worker listens.
pub const SOCKET: &str = "/run/minisvc/tunnel.sock";
/// Longest line, in bytes: some 20,000 peers.
pub const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long one reads or writes at most, without a byte passing.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long a worker that was asked to end, or was killed, may take.
const END_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// MTU of a tunnel in bytes: what IPv4 asks of every link (RFC 791), and what its length field can say.
const MTU_BYTES: std::ops::RangeInclusive<u32> = 68..=65_535;
/// Most queues of a TUN device (Linux, MAX_TAP_QUEUES).
const QUEUES_MAX: usize = 256;

/// The tunnel that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    /// The TUN link, which exists.
    pub link: String,
    /// Where it listens and sends from.
    pub local: SocketAddr,
    /// Largest inner packet, in bytes.
    pub mtu_bytes: u32,
    /// Queues of the TUN device, a thread each.
    pub queues: usize,
    /// Peers by their podCIDR.
    pub peers: BTreeMap<IpNet, SocketAddr>,
}

impl Wanted {
    /// Why no tunnel can be like that, naming the field.
    pub(super) fn refusal(&self) -> Option<String> {
        let (mtu_bytes, queues) = (self.mtu_bytes, self.queues);
        if !MTU_BYTES.contains(&mtu_bytes) {
            return Some(format!(
                "mtuBytes {mtu_bytes}: must be {} to {}",
                MTU_BYTES.start(),
                MTU_BYTES.end()
            ));
        }
        (!(1..=QUEUES_MAX).contains(&queues)).then(|| format!("queues {queues}: must be 1 to {QUEUES_MAX}"))
    }
}

/// What a worker can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Carry this tunnel from now on; says nothing new to a worker that does.
    Run(Wanted),
    /// End.
    Stop,
}

/// What a worker answers. Fields that another version leaves out or adds do no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// [`program`] of the worker.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// Why what was asked is not done.
    pub error: Option<String>,
    /// Packets and drops of the tunnel it carries.
    pub stats: TunnelStats,
}

/// The worker could not be asked, started or ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No conversation.
    #[error("{operation} the tunnel's process at {}: {source}", .socket.display())]
    Talk {
        /// What was tried.
        operation: &'static str,
        /// With whom.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It did not start.
    #[error("start the tunnel's process: {why}")]
    Start {
        /// Why not.
        why: String,
    },
    /// It does not end.
    #[error("the tunnel's process (pid {pid}) does not end")]
    Stuck {
        /// Its process.
        pid: i32,
    },
    /// This program's file cannot be looked at.
    #[error("look at this program's own file: {source}")]
    Program {
        /// Why not.
        source: io::Error,
    },
}

fn talk(operation: &'static str, socket: &Path) -> impl FnOnce(io::Error) -> ControlError {
    let socket = socket.to_owned();
    move |source| ControlError::Talk { operation, socket, source }
}

/// Which program this process runs: its version, and its file as told apart from any other.
///
/// # Errors
/// If the file cannot be looked at.
pub fn program() -> Result<String, ControlError> {
    let file = std::fs::metadata("/proc/self/exe").map_err(|source| ControlError::Program { source })?;
    let (version, modified) =
        (env!("CARGO_PKG_VERSION"), format!("{}.{:09}", file.mtime(), file.mtime_nsec()));
    Ok(format!("{version} {}:{} {} {modified}", file.dev(), file.ino(), file.size()))
}

/// Asks the worker behind `socket`.
///
/// # Errors
/// If nobody answers in time, or nothing that can be read.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, ControlError> {
    let mut stream = UnixStream::connect(socket).map_err(talk("connect to", socket))?;
    let exchange = |stream: &mut UnixStream| -> io::Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        write_line(stream, request)?;
        read_line(stream)
    };
    exchange(&mut stream).map_err(talk("ask", socket))
}

pub(super) fn write_line<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() as u64 > LINE_BYTES_MAX {
        let why = format!("{} bytes, at most {LINE_BYTES_MAX} are allowed", line.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&line)
}

pub(super) fn read_line<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        let why = format!("no whole line of at most {LINE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(serde_json::from_slice(&line)?)
}

/// The file whose lock the worker of `socket` holds.
pub(super) fn lock_file(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".lock");
    path.into()
}

/// Whether a worker holds the lock.
pub fn is_running(socket: &Path) -> bool {
    File::options().write(true).open(lock_file(socket)).is_ok_and(|file| {
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err_and(|(_, errno)| errno == Errno::EWOULDBLOCK)
    })
}

/// Ends the worker of `socket`, by force if it does not listen. Nothing to do if none runs.
///
/// # Errors
/// If one still runs then.
pub fn end(socket: &Path) -> Result<(), ControlError> {
    if !is_running(socket) {
        return Ok(());
    }
    if ask(socket, &Request::Stop).is_ok() && ended(socket) {
        return Ok(());
    }
    let pid = kill_holder(socket).map_err(talk("kill", socket))?;
    if ended(socket) { Ok(()) } else { Err(ControlError::Stuck { pid }) }
}

fn ended(socket: &Path) -> bool {
    let asked = Instant::now();
    while is_running(socket) {
        if asked.elapsed() > END_MAX {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

fn kill_holder(socket: &Path) -> io::Result<i32> {
    let text = std::fs::read_to_string(lock_file(socket))?;
    let pid: i32 = text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // Who holds the lock now held it when the process was opened: that number was not given to another one.
    if is_running(socket) {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo is allowed, and the descriptor is open.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, info, 0)
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            link: "msvtun".to_owned(),
            local: "192.0.2.1:51820".parse().unwrap(),
            mtu_bytes: 1472,
            queues: 2,
            peers: [("10.42.1.0/24".parse().unwrap(), "192.0.2.2:51820".parse().unwrap())].into(),
        }
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        for request in [Request::Run(wanted()), Request::Stop] {
            write_line(&mut here, &request).unwrap();
            assert_eq!(read_line::<Request>(&mut there).unwrap(), request);
        }
    }

    #[test]
    fn an_answer_of_another_version_is_understood() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(b"{\"program\":\"9.9\",\"mood\":\"fine\"}\n").unwrap();
        let answer = read_line::<Answer>(&mut there).unwrap();
        assert_eq!(answer, Answer { program: "9.9".to_owned(), ..Answer::default() });
    }

    #[test]
    fn what_is_too_long_or_broken_off_is_refused() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let long = Answer { error: Some("x".repeat(LINE_BYTES_MAX as usize)), ..Answer::default() };
        let error = write_line(&mut here, &long).unwrap_err().to_string();
        assert!(error.contains("at most 1048576"), "{error}");
        here.write_all(b"{\"run\":").unwrap();
        drop(here);
        let error = read_line::<Request>(&mut there).unwrap_err().to_string();
        assert!(error.contains("no whole line"), "{error}");
    }

    #[test]
    fn a_tunnel_that_cannot_be_is_refused_by_field() {
        assert_eq!(wanted().refusal(), None);
        let refused = |wanted: Wanted| wanted.refusal().unwrap();
        assert!(refused(Wanted { mtu_bytes: 67, ..wanted() }).starts_with("mtuBytes 67:"));
        assert!(refused(Wanted { queues: 0, ..wanted() }).starts_with("queues 0:"));
    }

    #[test]
    fn nobody_there_is_nobody_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("tunnel.sock");
        assert!(!is_running(&socket) && end(&socket).is_ok());
        assert!(ask(&socket, &Request::Stop).unwrap_err().to_string().starts_with("connect to"));
    }
}
