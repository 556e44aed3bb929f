//! What passes between a container's shim and the node's server while a client is attached.
//!
//! One connection of a Unix socket a session; each packet is a byte that says what it is, and its content.
//! Invariants: packets are of bounded length and arrive whole; the socket lies in the container's own directory,
//! which only its user can enter; the kernel's socket buffer is all that waits between the two.

use crate::sys;
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{
        socket::{
            AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, recv, send, socket,
        },
        stat::Mode,
    },
};
use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};
use tokio::io::unix::AsyncFd;

/// Longest content of a packet, in bytes.
pub(crate) const BYTES_MAX: usize = 16 << 10;
/// Longest packet, in bytes.
pub(crate) const PACKET_BYTES_MAX: usize = BYTES_MAX + 1;
/// Sessions of a container at a time; more are refused.
pub(crate) const SESSIONS_MAX: usize = 16;
const SOCKET: &str = "attach.sock";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;
const RESIZE: u8 = 4;
const STDIN_CLOSED: u8 = 5;
const HELLO: u8 = 6;
const FULL: u8 = 7;

/// What a client can tell a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToShim<'a> {
    /// The first packet: which streams the client wants.
    Hello(Wanted),
    /// Bytes for the container's standard input.
    Stdin(&'a [u8]),
    /// This client has no more of them.
    StdinClosed,
    /// The terminal's new size: columns and rows.
    Resize(u16, u16),
}

/// Streams that a session has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// It writes to standard input.
    pub(crate) stdin: bool,
    /// It is sent standard output.
    pub(crate) stdout: bool,
    /// It is sent standard error.
    pub(crate) stderr: bool,
}

/// What a shim can tell a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FromShim<'a> {
    /// Output of the container.
    Output {
        /// Whether it went to standard error.
        stderr: bool,
        /// What it is.
        bytes: &'a [u8],
    },
    /// The answer to [`ToShim::Hello`]: what is written from now on will be sent.
    Attached,
    /// The answer to one client too many.
    Full,
    /// The last packet of a session that was not broken off.
    Ended,
}

impl<'a> ToShim<'a> {
    /// The packet of this.
    pub(crate) fn packet(self) -> Vec<u8> {
        match self {
            Self::Hello(wanted) => {
                vec![HELLO, u8::from(wanted.stdin), u8::from(wanted.stdout), u8::from(wanted.stderr)]
            }
            Self::Stdin(bytes) => [&[STDIN], bytes].concat(),
            Self::StdinClosed => vec![STDIN_CLOSED],
            Self::Resize(columns, rows) => {
                [[RESIZE].as_slice(), &columns.to_be_bytes(), &rows.to_be_bytes()].concat()
            }
        }
    }

    /// Reads a packet; none if it says nothing that is known.
    pub(crate) fn read(packet: &'a [u8]) -> Option<Self> {
        match *packet {
            [HELLO, stdin, stdout, stderr] => {
                Some(Self::Hello(Wanted { stdin: stdin != 0, stdout: stdout != 0, stderr: stderr != 0 }))
            }
            [STDIN, ref bytes @ ..] => Some(Self::Stdin(bytes)),
            [STDIN_CLOSED] => Some(Self::StdinClosed),
            [RESIZE, a, b, c, d] => {
                Some(Self::Resize(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
            }
            _ => None,
        }
    }
}

impl<'a> FromShim<'a> {
    /// The packet of this.
    pub(crate) fn packet(self) -> Vec<u8> {
        match self {
            Self::Output { stderr, bytes } => [&[if stderr { STDERR } else { STDOUT }], bytes].concat(),
            Self::Attached => vec![HELLO],
            Self::Full => vec![FULL],
            Self::Ended => vec![ENDED],
        }
    }

    /// Reads a packet; none if it says nothing that is known.
    pub(crate) fn read(packet: &'a [u8]) -> Option<Self> {
        match *packet {
            [STDOUT, ref bytes @ ..] => Some(Self::Output { stderr: false, bytes }),
            [STDERR, ref bytes @ ..] => Some(Self::Output { stderr: true, bytes }),
            [HELLO] => Some(Self::Attached),
            [FULL] => Some(Self::Full),
            [ENDED] => Some(Self::Ended),
            _ => None,
        }
    }
}

/// Sends a packet if there is room for it.
pub(crate) fn try_send(socket: &OwnedFd, packet: &[u8]) -> Result<(), Errno> {
    send(socket.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).map(drop)
}

/// Takes a packet if there is one; one of no length is the end.
pub(crate) fn try_recv(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)
}

/// The socket's address. By a descriptor of its directory, as a path of many names is too long for an address.
fn address(dir: &OwnedFd) -> Result<UnixAddr, Errno> {
    UnixAddr::new(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())).as_path())
}

fn open_dir(dir: &Path) -> Result<OwnedFd, Errno> {
    open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

/// Waits for sessions of the container whose directory is `dir`, in place of an earlier shim.
///
/// Whatever the listener's type calls them, connections keep packets apart.
pub(crate) fn listen_in(dir: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(dir.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let dir = open_dir(dir)?;
    let socket = new_socket()?;
    bind(socket.as_raw_fd(), &address(&dir)?)?;
    listen(&socket, Backlog::new(SESSIONS_MAX as i32)?)?;
    Ok(socket.into())
}

/// The server's end of a session.
pub(crate) struct Session(AsyncFd<OwnedFd>);

impl Session {
    /// Connects to the shim of the container whose directory is `dir`.
    ///
    /// # Errors
    /// If no shim listens there, or more sessions wait already than may.
    pub(crate) fn connect(dir: &Path) -> io::Result<Self> {
        let dir = open_dir(dir)?;
        let socket = new_socket()?;
        nix::sys::socket::connect(socket.as_raw_fd(), &address(&dir)?)?;
        Ok(Self(sys::watch_fd(socket)?))
    }

    /// Sends a packet as soon as there is room for it.
    pub(crate) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            let mut guard = self.0.writable().await?;
            if let Ok(sent) = guard.try_io(|fd| Ok(try_send(fd.get_ref(), packet)?)) {
                return sent;
            }
        }
    }

    /// The next packet; of no length at the end.
    pub(crate) async fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|fd| Ok(try_recv(fd.get_ref(), buffer)?)) {
                // Told once, before what was sent: the shim went without having read all that we have sent.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(length) => return Ok(&buffer[..length?]),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_were_written() {
        for sent in [
            ToShim::Hello(Wanted { stdin: true, stdout: false, stderr: true }),
            ToShim::Stdin(b""),
            ToShim::Stdin(b"ls\n"),
            ToShim::StdinClosed,
            ToShim::Resize(80, 600),
        ] {
            assert_eq!(ToShim::read(&sent.packet()), Some(sent));
        }
        for sent in [
            FromShim::Output { stderr: false, bytes: b"x" },
            FromShim::Output { stderr: true, bytes: b"" },
            FromShim::Attached,
            FromShim::Full,
            FromShim::Ended,
        ] {
            assert_eq!(FromShim::read(&sent.packet()), Some(sent));
        }
        for odd in [b"".as_slice(), b"\x04\0\x50", b"\x06\x01", b"\xff"] {
            assert_eq!((ToShim::read(odd), FromShim::read(odd)), (None, None));
        }
    }

    #[tokio::test]
    async fn a_session_goes_through_a_socket_however_long_its_path_is() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        assert!(Session::connect(&long).is_err());
        drop(listen_in(&long).unwrap());
        assert_eq!(Session::connect(&long).err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let listener = listen_in(&long).unwrap();
        let session = Session::connect(&long).unwrap();
        session.send(&ToShim::Stdin(b"x").packet()).await.unwrap();
        let accepted = OwnedFd::from(listener.accept().unwrap().0);
        let mut buffer = [0; PACKET_BYTES_MAX];
        let length = try_recv(&accepted, &mut buffer).unwrap();
        assert_eq!(ToShim::read(&buffer[..length]), Some(ToShim::Stdin(b"x")));
        drop(accepted);
        assert_eq!(session.recv(&mut buffer).await.unwrap(), b"");
    }
}
