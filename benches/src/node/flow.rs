//! Steady traffic from a Pod, counted until it is stopped.
//!
//! Invariants: each wait ends within [`PATIENCE`]; what is not answered by then is lost.

use anyhow::Context;
use socket2::SockRef;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two datagrams.
const EACH: Duration = Duration::from_millis(1);
/// Time between two questions, or two connections, by TCP.
const EACH_TCP: Duration = Duration::from_millis(5);

/// Which traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams of one flow.
    Datagrams,
    /// Questions by one TCP connection.
    Held,
    /// A TCP connection for each question.
    Fresh,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Datagrams, questions or connections.
    pub sent: u64,
    /// Of these: answered.
    pub answered: u64,
    /// Longest time without an answer.
    pub gap: Duration,
}

/// Sends until told to stop.
pub fn run(kind: Kind, to: SocketAddr, stop: &Arc<AtomicBool>) -> anyhow::Result<Flow> {
    match kind {
        Kind::Datagrams => datagrams(to, stop),
        Kind::Held => asked(stop, &mut Some(connect(to)?), to),
        Kind::Fresh => asked(stop, &mut None, to),
    }
    .with_context(|| format!("{kind:?} to {to}"))
}

fn datagrams(to: SocketAddr, stop: &AtomicBool) -> anyhow::Result<Flow> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    let mut flow = Flow::default();
    let mut last = Instant::now();
    let mut due = last;
    let mut ended = None;
    loop {
        match ended {
            None if stop.load(Relaxed) => ended = Some(Instant::now()),
            // A datagram that is refused is one that is lost.
            None => flow.sent += socket.send(b"?\n").map_or(1, |_| 1),
            Some(at) if flow.answered >= flow.sent || at.elapsed() > PATIENCE => break,
            Some(_) => {}
        }
        due = (due + EACH).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        while socket.recv(&mut [0; 512]).is_ok() {
            flow.answered += 1;
            flow.gap = flow.gap.max(last.elapsed());
            last = Instant::now();
        }
    }
    Ok(flow)
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks by the connection that is held, or else by a new one each time.
fn asked(stop: &AtomicBool, held: &mut Option<TcpStream>, to: SocketAddr) -> anyhow::Result<Flow> {
    let mut flow = Flow::default();
    let mut last = Instant::now();
    let mut buffer = [0; 512];
    while !stop.load(Relaxed) {
        flow.sent += 1;
        let answer = match held {
            Some(stream) => stream.write_all(b"?\n").and_then(|()| stream.read(&mut buffer)),
            None => connect(to).and_then(|mut stream| {
                stream.write_all(b"?\n")?;
                stream.read(&mut buffer)
            }),
        };
        flow.gap = flow.gap.max(last.elapsed());
        if matches!(answer, Ok(1..)) {
            flow.answered += 1;
            last = Instant::now();
        }
        std::thread::sleep(EACH_TCP);
    }
    Ok(flow)
}

/// Asks by new connections, one after another, until this Pod answers; when that was.
///
/// By TCP: where a port is UDP's, a change makes the node look through all flows there are, and this would make many.
pub fn until_answered_by(pod: &str, to: SocketAddr, limit: Duration) -> anyhow::Result<Instant> {
    let begun = Instant::now();
    let start = format!("pod={pod} ");
    let mut buffer = [0; 512];
    while begun.elapsed() < limit {
        let answer = connect(to).and_then(|mut stream| {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.write_all(b"?\n")?;
            stream.read(&mut buffer)
        });
        if answer.is_ok_and(|n| buffer.get(..n).is_some_and(|text| text.starts_with(start.as_bytes()))) {
            return Ok(Instant::now());
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    anyhow::bail!("{to} is not answered by {pod} within {limit:?}")
}
