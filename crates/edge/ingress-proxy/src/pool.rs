//! Connections to endpoints, kept for the next request.
//!
//! Invariant: at most [`IDLE_PER_ENDPOINT`] of one endpoint and [`IDLE_MAX`] of all wait, none longer than
//! [`IDLE_TIME`] after which a request would still take it.

use crate::body::ProxyBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// Idle connections of one endpoint.
const IDLE_PER_ENDPOINT: usize = 64;
/// Idle connections of all endpoints.
const IDLE_MAX: usize = 1024;
/// Shorter than what servers close idle connections after.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// Time to open a connection; endpoints are near.
const CONNECT: Duration = Duration::from_secs(2);
/// Largest head of a response.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection that can take a request.
pub(crate) type Sender = SendRequest<ProxyBody>;

#[derive(Default)]
pub(crate) struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    by_endpoint: BTreeMap<SocketAddr, Vec<(Sender, Instant)>>,
    count: usize,
}

impl Pool {
    /// An idle connection to the endpoint, the one used last first.
    pub(crate) fn take(&self, endpoint: SocketAddr) -> Option<Sender> {
        let mut idle = self.lock();
        loop {
            let (sender, since) = idle.by_endpoint.get_mut(&endpoint)?.pop()?;
            idle.count -= 1;
            if sender.is_ready() && since.elapsed() < IDLE_TIME {
                return Some(sender);
            }
        }
    }

    /// Keeps a connection that is ready for the next request, if there is room.
    pub(crate) fn put(&self, endpoint: SocketAddr, sender: Sender) {
        let mut idle = self.lock();
        if idle.count >= IDLE_MAX {
            idle.sweep();
        }
        if idle.count >= IDLE_MAX {
            return;
        }
        let connections = idle.by_endpoint.entry(endpoint).or_default();
        if connections.len() < IDLE_PER_ENDPOINT {
            connections.push((sender, Instant::now()));
            idle.count += 1;
        }
    }

    /// Closes what waited too long or was closed by its endpoint.
    pub(crate) fn sweep(&self) {
        self.lock().sweep();
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Whoever panicked in between left at worst a connection too few.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn sweep(&mut self) {
        self.by_endpoint.retain(|_, connections| {
            connections.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_TIME);
            !connections.is_empty()
        });
        self.count = self.by_endpoint.values().map(Vec::len).sum();
    }
}

/// Opens a connection to an endpoint.
pub(crate) async fn connect(endpoint: SocketAddr) -> io::Result<Sender> {
    let stream = timeout(CONNECT, TcpStream::connect(endpoint)).await??;
    stream.set_nodelay(true)?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the connection, at the latest when its sender is dropped and the last body was read.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%endpoint, %error, "connection to an endpoint ended");
        }
    });
    Ok(sender)
}
