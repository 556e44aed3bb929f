//! The cluster's name server on one node: sockets around `dns::answer`, and forwarding of all other names.
//!
//! In: [`Records`] published through a [`Handle`], and questions of Pods and nodes. Out: answers.
//!
//! Invariants: before the first records nothing is answered but SERVFAIL; only sources in the allowed networks
//! are served, all others get REFUSED (UDP) or a closed connection (TCP); a question about the cluster is answered
//! in the socket's own task without lock or wait; forwarded questions, what they were answered, connections and
//! buffers are bounded; a question is never forwarded to ourselves.
//!
//! hickory-server's own socket loops accept any number of connections and start one task for each datagram; here
//! only its codec is used, so that nothing is unbounded.

mod cache;
mod forward;
mod loops;
mod message;
mod sockets;

pub use forward::parse_resolv_conf;

use arc_swap::{ArcSwap, ArcSwapOption};
use forward::Forwarder;
use ipnet::IpNet;
use minisvc_dns::Records;
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{net::TcpListener, net::UdpSocket, sync::Semaphore, task::JoinSet};

/// Questions that wait for the node's resolvers at the same time; more get SERVFAIL at once.
const FORWARDED_MAX: usize = 256;
/// TCP connections open at the same time; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 128;

/// What a name server is started with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where to listen. An address may be assigned to the node later; a port of 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// UDP sockets for each address, usually one a core; at least one.
    pub sockets_per_address: usize,
    /// Networks whose questions are answered: Pods, nodes, loopback. The own addresses are always allowed.
    pub allowed: Vec<IpNet>,
    /// The node's resolvers for names outside the cluster. Own addresses are left out, as they would loop.
    pub upstreams: Vec<SocketAddr>,
}

/// What can go wrong at start.
#[derive(Debug, thiserror::Error)]
pub enum NameserverError {
    /// An address cannot be listened on.
    #[error("cannot listen for DNS on {address}/{protocol}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The forwarder cannot be set up.
    #[error("cannot set up forwarding to the node's resolvers: {source}")]
    Forwarder {
        /// Why.
        source: Box<hickory_resolver::net::NetError>,
    },
}

/// Numbers of questions, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Questions that were read.
    pub questions: AtomicU64,
    /// Answered from the cluster's records.
    pub answered: AtomicU64,
    /// Of these: with NXDOMAIN.
    pub no_such_name: AtomicU64,
    /// Sent to the node's resolvers.
    pub forwarded: AtomicU64,
    /// Answered with SERVFAIL.
    pub failed: AtomicU64,
    /// Refused: not allowed, or not served.
    pub refused: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

pub(crate) struct Shared {
    records: ArcSwapOption<Records>,
    allowed: ArcSwap<Vec<IpNet>>,
    own: Vec<IpAddr>,
    counters: Counters,
    forwarder: Forwarder,
    /// A name that only this server asks for: see [`loops`].
    secret: [String; 2],
    /// Whether a question for it came back.
    in_circle: AtomicBool,
    forwarded: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Shared {
    /// Whether names outside the cluster can be asked for.
    fn can_forward(&self) -> bool {
        self.forwarder.is_available() && !self.in_circle.load(Relaxed)
    }

    fn allows(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.own.contains(&source) || self.allowed.load().iter().any(|net| net.contains(&source))
    }
}

/// What the rest of the node tells a running name server, and asks of it.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Answers from these records from now on.
    pub fn publish(&self, records: Records) {
        self.0.records.store(Some(Arc::new(records)));
    }

    /// Serves these networks from now on, and no others.
    pub fn allow(&self, networks: Vec<IpNet>) {
        self.0.allowed.store(Arc::new(networks));
    }

    /// Whether records were published.
    pub fn is_ready(&self) -> bool {
        self.0.records.load().is_some()
    }

    /// Numbers of questions.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

/// Bound sockets that are not served yet.
pub struct Nameserver {
    shared: Arc<Shared>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Nameserver {
    /// Binds all sockets. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// If an address is taken, or may not be bound.
    pub fn bind(config: &Config) -> Result<Self, NameserverError> {
        let (mut udp, mut tcp, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for address in &config.addresses {
            let address = sockets::bind(*address, config.sockets_per_address.max(1), &mut udp, &mut tcp)?;
            addresses.push(address);
        }
        let upstreams: Vec<_> =
            config.upstreams.iter().copied().filter(|upstream| !addresses.contains(upstream)).collect();
        let shared = Arc::new(Shared {
            records: ArcSwapOption::empty(),
            allowed: ArcSwap::from_pointee(config.allowed.clone()),
            own: addresses.iter().map(|address| address.ip().to_canonical()).collect(),
            counters: Counters::default(),
            forwarder: Forwarder::new(&upstreams)
                .map_err(|source| NameserverError::Forwarder { source: Box::new(source) })?,
            secret: loops::secret(),
            in_circle: AtomicBool::new(false),
            forwarded: Arc::new(Semaphore::new(FORWARDED_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        Ok(Self { shared, udp, tcp, addresses })
    }

    /// The addresses that are listened on, with the ports that were taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How to publish records to it.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Answers until `shutdown` completes.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        for socket in self.udp {
            tasks.spawn(sockets::serve_udp(Arc::new(socket), self.shared.clone()));
        }
        for listener in self.tcp {
            tasks.spawn(sockets::serve_tcp(listener, self.shared.clone()));
        }
        if self.shared.forwarder.is_available() {
            tasks.spawn(loops::watch(self.shared.clone()));
        }
        shutdown.await;
        tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
