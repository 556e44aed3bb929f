//! Clients that keep so many questions waiting for an answer, each asked again with another name once it is answered.
//!
//! Invariant: a client that is not answered for a second ends with an error.

use crate::figures::Times;
use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Room for any answer to these questions.
const ANSWER_BYTES_MAX: usize = 1232;

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Udp,
    Tcp,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Udp { "UDP" } else { "TCP" })
    }
}

/// What is asked for, how, and of whom.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub server: SocketAddr,
    pub way: Way,
    pub names: u32,
    /// Questions of one client that wait for an answer.
    pub at_once: usize,
    pub clients: usize,
    pub how_long: Duration,
}

/// Has all clients ask; answers, the time this took, and how long each took.
pub fn run(load: &Load) -> anyhow::Result<(usize, Duration, Times)> {
    let begun = Instant::now();
    let mut all = Times::default();
    let clients: Vec<_> = (0..load.clients as u32)
        .map(|client| {
            let load = *load;
            std::thread::spawn(move || match load.way {
                Way::Udp => by_udp(&load, client * load.names / 2),
                Way::Tcp => by_tcp(&load, client * load.names / 2),
            })
        })
        .collect();
    for client in clients {
        let times = crate::isolated::outcome(client)?;
        all.extend(times);
    }
    Ok((all.len(), begun.elapsed(), all))
}

fn by_udp(load: &Load, first: u32) -> anyhow::Result<Times> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(load.server)?;
    socket.set_nonblocking(true)?;
    let mut next = first;
    let mut sent = vec![Instant::now(); load.at_once];
    let mut times = Times::default();
    let mut ask = |id: usize, sent: &mut [Instant]| {
        next += 7;
        sent[id] = Instant::now();
        socket.send(&question(u16::try_from(id)?, next % load.names)).context("ask")
    };
    for id in 0..load.at_once {
        ask(id, &mut sent)?;
    }
    let begun = Instant::now();
    let mut answered = Vec::new();
    let mut buffer = [0; ANSWER_BYTES_MAX];
    while begun.elapsed() < load.how_long {
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut waiting, PollTimeout::try_from(PATIENCE)?)? == 1, "no answer within {PATIENCE:?}");
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let id = checked(buffer.get(..length).unwrap_or_default())?;
                    times.push(sent.get(id).context("an answer to no question")?.elapsed());
                    answered.push(id);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        for id in answered.drain(..) {
            ask(id, &mut sent)?;
        }
    }
    Ok(times)
}

fn by_tcp(load: &Load, first: u32) -> anyhow::Result<Times> {
    let mut next = first;
    let mut times = Times::default();
    let mut ask = |stream: &mut TcpStream| -> anyhow::Result<Instant> {
        next += 7;
        let question = question(0, next % load.names);
        let mut framed = u16::try_from(question.len())?.to_be_bytes().to_vec();
        framed.extend(question);
        let now = Instant::now();
        stream.write_all(&framed)?;
        Ok(now)
    };
    let mut connections = Vec::new();
    for _ in 0..load.at_once {
        let mut stream = TcpStream::connect_timeout(&load.server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let sent = ask(&mut stream)?;
        connections.push((stream, sent));
    }
    let begun = Instant::now();
    let mut buffer = [0; 2 + ANSWER_BYTES_MAX];
    while begun.elapsed() < load.how_long {
        for (stream, sent) in &mut connections {
            // An answer is written at once, and is far shorter than a segment.
            let length = stream.read(&mut buffer).context("no answer")?;
            let answer = buffer.get(..length).unwrap_or_default();
            let (size, message) = answer.split_first_chunk::<2>().context("half an answer")?;
            ensure!(usize::from(u16::from_be_bytes(*size)) == message.len(), "half an answer");
            checked(message)?;
            times.push(sent.elapsed());
            *sent = ask(stream)?;
        }
    }
    Ok(times)
}

/// The number of the question that is answered here, if it is answered by one record.
fn checked(answer: &[u8]) -> anyhow::Result<usize> {
    let header = answer.first_chunk::<12>().context("no header")?;
    ensure!(header[3] & 0xf == 0 && header[7] == 1, "an answer without a record: {header:?}");
    Ok(usize::from(u16::from_be_bytes([header[0], header[1]])))
}

fn question(id: u16, number: u32) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let name = super::name(number);
    for label in [name.as_str(), "default", "svc", "cluster", "local"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}
