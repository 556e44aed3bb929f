//! The clients that are attached to a container: what they are sent, and what they write.
//!
//! Invariants: a client holds one packet of output at most that it has not taken, and one of input that the program has
//! not read; while it holds the one it is sent no other, while it holds the other it is not read from. A session
//! whose client is gone lives on until its input is written.

use super::ShimBundle;
use crate::{
    attach::{self, FromShim, PACKET_BYTES_MAX, SESSIONS_MAX, ToShim, Wanted},
    sys,
};
use nix::{errno::Errno, poll::PollFlags, unistd::write};
use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    time::{Duration, Instant},
};

/// Something of the sessions to wait for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// Another client.
    Listener,
    /// A client, by its place.
    Client(usize),
    /// Room in standard input.
    Stdin,
}

/// All sessions of a container, and its standard input.
pub(super) struct Sessions {
    listener: Option<UnixListener>,
    list: Vec<Session>,
    stdin: Option<OwnedFd>,
    /// Standard input ends with the first session that has it.
    once: bool,
    tty: bool,
}

struct Session {
    socket: OwnedFd,
    wanted: Wanted,
    /// A packet that the client has no room for, and since when.
    behind: Option<(Instant, Vec<u8>)>,
    /// What standard input has no room for.
    input: Vec<u8>,
    /// The client has no more input.
    is_input_over: bool,
    /// The client is gone.
    is_gone: bool,
    /// There is no use for this session any more.
    is_over: bool,
}

impl Session {
    fn new(socket: OwnedFd) -> Self {
        let wanted = Wanted::default();
        let (is_input_over, is_gone, is_over) = (false, false, false);
        Self { socket, wanted, behind: None, input: Vec::new(), is_input_over, is_gone, is_over }
    }

    fn send(&mut self, since: Instant, packet: Vec<u8>) {
        match attach::try_send(&self.socket, &packet) {
            Ok(()) => self.behind = None,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => self.behind = Some((since, packet)),
            // Nobody is there; what it has sent before is still read.
            Err(_) => self.take_no_more(),
        }
    }

    fn take_no_more(&mut self) {
        self.behind = None;
        (self.wanted.stdout, self.wanted.stderr) = (false, false);
    }
}

impl Sessions {
    /// Waits for clients of the container that `bundle` describes; `stdin` is where its input goes.
    pub(super) fn new(listener: UnixListener, stdin: Option<OwnedFd>, bundle: &ShimBundle) -> Self {
        // As with containerd, a terminal is never taken from its program: who has lost the connection may come back.
        let once = bundle.stdin_once && !bundle.tty;
        Self { listener: Some(listener), list: Vec::new(), stdin, once, tty: bundle.tty }
    }

    /// No client, and none to come.
    pub(super) fn none() -> Self {
        Self { listener: None, list: Vec::new(), stdin: None, once: false, tty: false }
    }

    /// Whether a client has not taken yet what it was sent.
    pub(super) fn is_behind(&self) -> bool {
        self.list.iter().any(|session| session.behind.is_some())
    }

    /// How long the first client that is behind has left.
    pub(super) fn patience(&self, stuck_max: Duration) -> Option<Duration> {
        let since = self.list.iter().filter_map(|session| Some(session.behind.as_ref()?.0)).min()?;
        Some(stuck_max.saturating_sub(since.elapsed()))
    }

    /// Ends the sessions of those that have taken nothing for so long.
    pub(super) fn let_go_of_stuck(&mut self, stuck_max: Duration) {
        for session in &mut self.list {
            if session.behind.as_ref().is_some_and(|(since, _)| since.elapsed() >= stuck_max) {
                session.take_no_more();
                session.is_gone = true;
            }
        }
        self.settle();
    }

    /// What to wait for.
    pub(super) fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let listener = self.listener.iter().map(|fd| (Source::Listener, fd.as_fd(), PollFlags::POLLIN));
        let clients = self.list.iter().enumerate().filter_map(|(at, session)| {
            let flags = match session.behind {
                Some(_) => PollFlags::POLLOUT,
                None if session.input.is_empty() && !session.is_gone => PollFlags::POLLIN,
                None => return None,
            };
            Some((Source::Client(at), session.socket.as_fd(), flags))
        });
        let waits = self.list.iter().any(|session| !session.input.is_empty());
        let stdin = self.stdin.iter().filter(move |_| waits);
        let stdin = stdin.map(|fd| (Source::Stdin, fd.as_fd(), PollFlags::POLLOUT));
        listener.chain(clients).chain(stdin)
    }

    /// Goes on with a source that is ready. `terminal` has its size set, if it is one. To be followed by
    /// [`Self::settle`] before the sources are asked for again.
    pub(super) fn go_on(&mut self, source: Source, terminal: &OwnedFd) {
        match source {
            Source::Listener => self.accept(),
            Source::Client(at) => self.client(at, terminal),
            Source::Stdin => self.write(),
        }
    }

    fn accept(&mut self) {
        let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
        let socket = OwnedFd::from(socket);
        if self.list.len() < SESSIONS_MAX {
            self.list.push(Session::new(socket));
        } else {
            let _ = attach::try_send(&socket, &FromShim::Full.packet());
        }
    }

    fn client(&mut self, at: usize, terminal: &OwnedFd) {
        let Some(session) = self.list.get_mut(at) else { return };
        if let Some((since, packet)) = session.behind.take() {
            session.send(since, packet);
            return;
        }
        let mut buffer = [0; PACKET_BYTES_MAX];
        let length = match attach::try_recv(&session.socket, &mut buffer) {
            Ok(0) => 0,
            Ok(length) => length,
            // A client that went without having taken all: what it has sent is still there.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNRESET) => return,
            Err(_) => 0,
        };
        if length == 0 {
            session.is_gone = true;
            return;
        }
        match ToShim::read(&buffer[..length]) {
            Some(ToShim::Hello(wanted)) => {
                session.wanted = wanted;
                session.send(Instant::now(), FromShim::Attached.packet());
            }
            Some(ToShim::Stdin(bytes)) if session.wanted.stdin => {
                session.input = bytes.to_vec();
                self.write();
            }
            Some(ToShim::StdinClosed) => session.is_input_over = session.wanted.stdin,
            Some(ToShim::Resize(columns, rows)) if self.tty => {
                let _ = sys::set_window_size(terminal.as_fd(), columns, rows);
            }
            Some(ToShim::Stdin(_) | ToShim::Resize(..)) | None => {}
        }
    }

    /// Writes what waits, as far as there is room.
    fn write(&mut self) {
        for session in self.list.iter_mut().filter(|session| !session.input.is_empty()) {
            let Some(stdin) = &self.stdin else {
                session.input.clear(); // nobody reads it any more
                continue;
            };
            match write(stdin, &session.input) {
                Ok(length) => drop(session.input.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.stdin = None;
                    session.input.clear();
                }
            }
        }
    }

    /// Draws the consequences of clients that are gone, or have no more input.
    pub(super) fn settle(&mut self) {
        let idle = |session: &&mut Session| session.input.is_empty() && session.behind.is_none();
        for session in self.list.iter_mut().filter(idle) {
            if !(session.is_gone || session.is_input_over) {
                continue;
            }
            if std::mem::take(&mut session.wanted.stdin) && self.once {
                self.stdin = None;
            } else if session.is_input_over && !self.once {
                // As with containerd, this client has said all that it wanted to say.
                session.is_over = true;
            }
            session.is_input_over = false;
            session.is_over |= session.is_gone;
        }
        self.list.retain(|session| {
            if session.is_over && !session.is_gone {
                let _ = attach::try_send(&session.socket, &FromShim::Ended.packet());
            }
            !session.is_over
        });
        if self.stdin.is_none() {
            self.list.iter_mut().for_each(|session| session.input.clear());
        }
    }

    /// Sends output to those that want it.
    pub(super) fn output(&mut self, stderr: bool, bytes: &[u8]) {
        for session in &mut self.list {
            let wanted = if stderr { session.wanted.stderr } else { session.wanted.stdout };
            if wanted && session.behind.is_none() {
                session.send(Instant::now(), FromShim::Output { stderr, bytes }.packet());
            }
        }
    }

    /// Tells every client that this was all.
    pub(super) fn end(self) {
        for session in self.list.iter().filter(|session| session.behind.is_none() && !session.is_gone) {
            let _ = attach::try_send(&session.socket, &FromShim::Ended.packet());
        }
    }
}
