//! The ingress of one node: hyper and rustls around [`minisvc_ingress::RouteTable`].
//!
//! In: a route table published through a [`Handle`], and HTTP requests. Out: the answers of endpoints, or 4xx and
//! 5xx with one line of text.
//!
//! Invariants: a request is routed by one table, however often it is swapped; nothing a request or an Ingress says
//! is ever put into a configuration text; connections, headers, idle upstream connections, tunnels and all waits
//! are bounded; a request is sent again only if no byte of it can have been acted on.

mod body;
mod forward;
mod headers;
mod pool;
mod serve;
mod tls;

use arc_swap::ArcSwap;
use minisvc_ingress::RouteTable;
use minisvc_reconcile::Rejection;
use pool::Pool;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
};
use tls::Keys;
use tokio::{net::TcpListener, sync::Semaphore};

/// Client connections open at the same time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 4096;
/// Upgraded connections (WebSockets, say) open at the same time; more get 503.
const TUNNELS_MAX: usize = 4096;

/// Where to listen.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Plain HTTP, usually the node's address and port 80. An address may be assigned later.
    pub http: Vec<SocketAddr>,
    /// HTTPS, usually the node's address and port 443.
    pub https: Vec<SocketAddr>,
}

/// What can go wrong at start.
#[derive(Debug, thiserror::Error)]
pub enum IngressProxyError {
    /// An address cannot be listened on.
    #[error("cannot listen for ingress on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS for ingress: {source}")]
    Tls {
        /// Why.
        source: rustls::Error,
    },
}

/// Numbers since the start, and what is open now.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were read.
    pub requests: AtomicU64,
    /// Responses by class: 1xx (upgrades), 2xx, 3xx, 4xx, 5xx.
    pub responses: [AtomicU64; 5],
    /// Requests without a rule (404).
    pub not_found: AtomicU64,
    /// Requests for a backend without endpoints (503).
    pub no_endpoints: AtomicU64,
    /// Connections to endpoints that could not be opened.
    pub connect_failures: AtomicU64,
    /// Requests sent to another connection or endpoint after a failure.
    pub retries: AtomicU64,
    /// TLS handshakes that failed.
    pub tls_failures: AtomicU64,
    /// Client connections open now.
    pub connections: AtomicU64,
    /// Upgraded connections open now.
    pub tunnels: AtomicU64,
}

/// The table and the keys that belong to it, swapped as one.
pub(crate) struct Published {
    pub(crate) table: RouteTable,
    pub(crate) keys: Keys,
}

pub(crate) struct Shared {
    pub(crate) published: ArcSwap<Published>,
    pub(crate) pool: Pool,
    pub(crate) counters: Counters,
    /// Turns round robin over a backend's endpoints.
    pub(crate) turn: AtomicUsize,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) tunnels: Arc<Semaphore>,
}

/// What the rest of the node tells a running proxy, and asks of it.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Routes by this table from now on. Returns the Secrets whose certificate or key is unusable; their hosts are
    /// served without TLS, all others are not affected.
    pub fn publish(&self, table: RouteTable) -> Vec<Rejection> {
        let old = self.0.published.load_full();
        let (keys, rejected) = Keys::load(&table, &old.keys);
        self.0.published.store(Arc::new(Published { table, keys }));
        rejected
    }

    /// Numbers for metrics.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

/// Bound sockets that are not served yet.
pub struct IngressProxy {
    shared: Arc<Shared>,
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
    tls: Arc<rustls::ServerConfig>,
}

impl IngressProxy {
    /// Binds all sockets. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// If an address is taken, or may not be bound.
    pub fn bind(config: &Config) -> Result<Self, IngressProxyError> {
        let shared = Arc::new(Shared {
            published: ArcSwap::from_pointee(Published {
                table: RouteTable::default(),
                keys: Keys::default(),
            }),
            pool: Pool::default(),
            counters: Counters::default(),
            turn: AtomicUsize::new(0),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tunnels: Arc::new(Semaphore::new(TUNNELS_MAX)),
        });
        let listen = |addresses: &[SocketAddr]| {
            let one = |address: &SocketAddr| {
                let address = *address;
                serve::listen(address).map_err(|source| IngressProxyError::Bind { address, source })
            };
            addresses.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        let tls = tls::config(shared.clone()).map_err(|source| IngressProxyError::Tls { source })?;
        Ok(Self { http: listen(&config.http)?, https: listen(&config.https)?, shared, tls: Arc::new(tls) })
    }

    /// The addresses that are listened on, HTTP before HTTPS, with the ports that were taken.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.http.iter().chain(&self.https).filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// How to publish a table to it.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Serves until `shutdown` completes, then lets requests in flight end for a few seconds.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        serve::serve(self.shared, self.http, self.https, self.tls, shutdown).await;
    }
}

#[cfg(test)]
mod tests;
