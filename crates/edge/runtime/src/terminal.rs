//! Terminals of containers' programs: how they are opened, taken over and copied.
//!
//! Invariant: a terminal is of the devpts that its program sees, so that it has a name there (`tty`, `ttyname`); where
//! an image has no place for one, it is of the node's and has none.

use crate::sys;
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    pty::{OpenptyResult, openpty},
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
};
use tokio::io::{AsyncRead, AsyncWrite, unix::AsyncFd};

/// The type of terminal that programs are told of, as containerd has it.
const TERM: (&str, &str) = ("TERM", "xterm");

/// Opens a terminal of the devpts at `/dev/pts`.
pub(crate) fn open() -> io::Result<OpenptyResult> {
    let pty = openpty(None, None)?;
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(pty)
}

/// Makes reads and writes of a terminal's master side return at once.
pub(crate) fn set_nonblocking(master: &OwnedFd) -> io::Result<()> {
    fcntl(master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Makes it this session's terminal, and the process' three streams.
pub(crate) fn take(slave: &OwnedFd) -> io::Result<()> {
    dup2_stdin(slave)?;
    dup2_stdout(slave)?;
    dup2_stderr(slave)?;
    sys::take_controlling_terminal()
}

/// The environment of a program with a terminal, whose type may be in it already.
pub(crate) fn environment(mut env: Vec<(String, String)>) -> Vec<(String, String)> {
    if !env.iter().any(|(name, _)| name == TERM.0) {
        env.insert(0, (TERM.0.to_owned(), TERM.1.to_owned()));
    }
    env
}

/// The master side of a terminal, non-blocking, as a stream.
pub(crate) struct Master(AsyncFd<OwnedFd>);

impl Master {
    /// Registers it with the runtime.
    pub(crate) fn watch(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(sys::watch_fd(fd)?))
    }
}

impl AsyncRead for Master {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_read_ready(context))?;
            let read = guard.try_io(|fd| {
                nix::unistd::read(fd.get_ref().as_fd(), buffer.initialize_unfilled()).map_err(io::Error::from)
            });
            match read {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return std::task::Poll::Ready(Ok(()));
                }
                // The last program has closed its side: that is a terminal's end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return std::task::Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return std::task::Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Master {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_write_ready(context))?;
            let wrote =
                guard.try_io(|fd| nix::unistd::write(fd.get_ref().as_fd(), bytes).map_err(io::Error::from));
            if let Ok(result) = wrote {
                return std::task::Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
