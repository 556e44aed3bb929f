//! The two Pods of a site at work: connections that are asked once, and one that carries as much as it can.
//!
//! Invariant: every wait ends by itself.

use super::site::Site;
use crate::{figures::Times, isolated::thread_in};
use anyhow::{Context, ensure};
use socket2::SockRef;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The port where a byte is answered by a byte.
pub const ASKED: u16 = 8080;
/// The port where everything is taken, and at the end its length said.
pub const TAKEN: u16 = 8081;
/// No single step takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is written at once.
const BLOCK_BYTES: usize = 128 << 10;

/// What is to be measured next.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// So many connections, one after another.
    Connections(SocketAddr, u32),
    /// One connection for so long.
    Bulk(SocketAddr, Duration),
}

/// What was measured.
pub struct Done {
    /// Connections, or bytes, a second.
    pub rate: f64,
    /// How long each connection took to be established.
    pub connects: Times,
}

/// Both Pods of a site, waiting for work.
pub struct Pair {
    work: mpsc::Sender<Work>,
    done: mpsc::Receiver<anyhow::Result<Done>>,
    _client: JoinHandle<anyhow::Result<()>>,
}

impl Pair {
    /// Starts what answers and what asks; both end with this process.
    pub fn start(site: &Site) -> anyhow::Result<Self> {
        let listeners = thread_in(&site.server(), || {
            Ok((
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, ASKED))?,
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, TAKEN))?,
            ))
        })?;
        let (asked, taken) = crate::isolated::outcome(listeners)?;
        std::thread::spawn(move || answer_all(&asked));
        std::thread::spawn(move || take_all(&taken));
        let (work, orders) = mpsc::channel::<Work>();
        let (said, done) = mpsc::channel();
        let client = thread_in(&site.client(), move || {
            for work in orders {
                said.send(carry_out(work))?;
            }
            Ok(())
        })?;
        Ok(Self { work, done, _client: client })
    }

    /// Has the Pod that asks do something.
    pub fn carry_out(&self, work: Work) -> anyhow::Result<Done> {
        self.work.send(work)?;
        self.done.recv().context("the Pod that asks has ended")?
    }
}

fn carry_out(work: Work) -> anyhow::Result<Done> {
    match work {
        Work::Connections(to, count) => connections(to, count),
        Work::Bulk(to, how_long) => bulk(to, how_long),
    }
    .with_context(|| format!("{work:?}"))
}

fn connections(to: SocketAddr, count: u32) -> anyhow::Result<Done> {
    let mut connects = Times::default();
    let begun = Instant::now();
    for _ in 0..count {
        let asked = Instant::now();
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        connects.push(asked.elapsed());
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
        // Ends it at once: no port waits in TIME_WAIT for another minute.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(Done { rate: f64::from(count) / begun.elapsed().as_secs_f64(), connects })
}

fn bulk(to: SocketAddr, how_long: Duration) -> anyhow::Result<Done> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let block = vec![0; BLOCK_BYTES];
    let mut sent = 0_u64;
    let begun = Instant::now();
    while begun.elapsed() < how_long {
        stream.write_all(&block)?;
        sent += BLOCK_BYTES as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut taken = [0; 8];
    stream.read_exact(&mut taken)?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(u64::from_be_bytes(taken) == sent, "not everything arrived");
    Ok(Done { rate: sent as f64 / took, connects: Times::default() })
}

fn answer_all(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        let _client_says_so = stream.set_nodelay(true).and_then(|()| {
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)
        });
    }
}

fn take_all(listener: &TcpListener) {
    let mut buffer = vec![0; BLOCK_BYTES];
    for mut stream in listener.incoming().flatten() {
        let _client_says_so = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| {
            let mut taken = 0_u64;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return stream.write_all(&taken.to_be_bytes()),
                    length => taken += length as u64,
                }
            }
        });
    }
}
