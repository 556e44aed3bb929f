//! Lines over TCP, datagrams over UDP.

use super::{Attempt, Report, kind, now_us, target, target::Place};
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::{Instant, timeout},
};

/// Longest line of an answer.
const LINE_BYTES_MAX: u64 = 4096;
const QUESTION: &[u8] = b"who?\n";

fn failed(error: std::io::Error) -> Attempt {
    Attempt::failed(kind(&error))
}

/// Reads `pod=… node=… client=…`.
fn answer(line: &str) -> Attempt {
    let word = |key: &str| {
        let mut words = line.split_whitespace().filter_map(|word| word.split_once('='));
        words.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    Attempt { ok: true, pod: word("pod"), node: word("node"), client: word("client"), ..Attempt::default() }
}

/// The protocol of a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
}

/// A connection, or a socket that keeps its port.
enum Line {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Line {
    async fn open(kind: Kind, place: &Place) -> Result<Self, Attempt> {
        let addresses = place.resolve().await?;
        match kind {
            Kind::Tcp => {
                let stream = TcpStream::connect(&addresses[..]).await.map_err(failed)?;
                Ok(Self::Tcp(BufReader::new(stream)))
            }
            Kind::Udp => {
                let first = addresses.first().ok_or_else(|| Attempt::failed("resolve"))?;
                Ok(Self::Udp(target::udp_socket(*first).await.map_err(failed)?))
            }
        }
    }

    async fn ask(&mut self) -> Result<Attempt, Attempt> {
        match self {
            Self::Tcp(stream) => {
                stream.write_all(QUESTION).await.map_err(failed)?;
                let mut line = String::new();
                (&mut *stream).take(LINE_BYTES_MAX).read_line(&mut line).await.map_err(failed)?;
                if line.ends_with('\n') { Ok(answer(&line)) } else { Err(Attempt::failed("closed")) }
            }
            Self::Udp(socket) => {
                let mut buffer = [0; 2048];
                // What comes late answers an earlier question.
                while socket.try_recv(&mut buffer).is_ok() {}
                socket.send(QUESTION).await.map_err(failed)?;
                let length = socket.recv(&mut buffer).await.map_err(failed)?;
                Ok(answer(&String::from_utf8_lossy(&buffer[..length])))
            }
        }
    }
}

/// A line over a new connection, or a datagram from a new port.
pub(super) async fn once(kind: Kind, place: &Place) -> Result<Attempt, Attempt> {
    Line::open(kind, place).await?.ask().await
}

/// One connection that is asked again and again, and ends with its first failure; or one socket, which goes on.
pub(super) async fn hold(
    (kind, place): (Kind, &Place),
    pause: Duration,
    limit: Duration,
    count: Option<u32>,
    mut stop: watch::Receiver<bool>,
    report: &Report,
) {
    let mut line = None;
    let mut asked = 0;
    while count.is_none_or(|count| asked < count) && !*stop.borrow() {
        asked += 1;
        let (at_us, begun) = (now_us(), Instant::now());
        let one = async {
            let line = match &mut line {
                Some(line) => line,
                none => none.insert(Line::open(kind, place).await?),
            };
            line.ask().await
        };
        let outcome = timeout(limit, one).await.unwrap_or_else(|_| Err(Attempt::failed("timeout")));
        let over = outcome.is_err() && kind == Kind::Tcp;
        let mut attempt = outcome.unwrap_or_else(|failed| failed);
        attempt.at_us = at_us;
        attempt.took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        if report.send(attempt).await.is_err() || over {
            return;
        }
        let _stopped = timeout(pause, stop.wait_for(|stop| *stop)).await;
    }
}
