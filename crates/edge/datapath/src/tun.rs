//! The overlay `tun`: Pods' packets between nodes over UDP, in user space.
//!
//! ```text
//! TUN queue ─ one read: up to 64 KiB of one flow ─▶ split to packets ─▶ one sendmsg with UDP GSO ─▶ peer
//! UDP socket ─ one recvmmsg with GRO ─▶ checked packets ─▶ coalesced, one write ─▶ TUN queue
//! ```
//! Invariants:
//! - Packets of both families pass, whichever the family of the nodes' own addresses is.
//! - A packet is sent only to the peer whose podCIDR holds its destination, and accepted only from the peer whose
//!   podCIDR holds its source; all others are counted and dropped.
//! - Every buffer is allocated at start; nothing is queued beyond the kernel's own queues.
//! - Threads end when [`TunnelHandle`] is stopped or dropped, even while idle.
//! - A node's tunnel runs in a process of its own ([`worker`]), which outlives the server that tells it its peers.
#![allow(unsafe_code)]

pub mod control;
mod peers;
pub mod worker;
mod workers;

pub use peers::Peers;

use arc_swap::ArcSwap;
use quinn_udp::{UdpSockRef, UdpSocketState};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tun_rs::{DeviceBuilder, SyncDevice};

/// Kernel buffer asked for on the UDP socket in each direction, in bytes.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Shortest header of a packet of each family.
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;

/// The tunnel could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// `/dev/net/tun` cannot be used.
    #[error("tun overlay needs /dev/net/tun: load the module tun and run as root, or choose --overlay vxlan")]
    Device {
        /// Why.
        source: io::Error,
    },
    /// The UDP socket cannot be had.
    #[error("tun overlay: listen on udp {local}")]
    Socket {
        /// Where.
        local: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread.
    #[error("tun overlay: start a thread")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

/// Packets and drops since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelStats {
    /// Packets given to peers.
    pub sent: u64,
    /// Packets accepted from peers.
    pub received: u64,
    /// Packets to no peer's podCIDR, or that could not be sent.
    pub dropped_sent: u64,
    /// Packets from no peer, or whose source is not the peer's.
    pub dropped_received: u64,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    dropped_sent: AtomicU64,
    dropped_received: AtomicU64,
}

fn count(counter: &AtomicU64, packets: usize) {
    counter.fetch_add(packets as u64, Ordering::Relaxed);
}

/// What all threads of a tunnel share.
struct Shared {
    socket: UdpSocket,
    state: UdpSocketState,
    peers: ArcSwap<Peers>,
    counters: Counters,
    mtu_bytes: usize,
}

/// A running tunnel.
pub struct TunnelHandle {
    shared: Arc<Shared>,
    stop: Option<UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

/// Makes a persistent multi-queue TUN link with offloads; the tunnel attaches to it. The link, and the routes on it,
/// outlive the process.
pub(crate) fn create(name: &str) -> io::Result<()> {
    open(name)?.persist()
}

fn open(name: &str) -> io::Result<SyncDevice> {
    DeviceBuilder::new().name(name).offload(true).multi_queue(true).inherit_enable_state().build_sync()
}

impl TunnelHandle {
    /// Attaches to the link (which must exist) and serves `local` until stopped. `queues` TUN queues are read by a
    /// thread each; one thread reads the socket.
    ///
    /// # Errors
    /// If the link or the socket cannot be had.
    pub fn start(
        link: &str,
        local: SocketAddr,
        mtu_bytes: u32,
        queues: usize,
        peers: Peers,
    ) -> Result<Self, TunnelError> {
        let device = |source| TunnelError::Device { source };
        let mut devices = vec![open(link).map_err(device)?];
        for _ in 1..queues.max(1) {
            let next = devices[0].try_clone().map_err(device)?;
            devices.push(next);
        }
        for queue in &devices {
            set_nonblocking(queue).map_err(device)?;
        }
        let (socket, state) = bind(local).map_err(|source| TunnelError::Socket { local, source })?;
        let shared = Arc::new(Shared {
            socket,
            state,
            peers: ArcSwap::from_pointee(peers),
            counters: Counters::default(),
            mtu_bytes: mtu_bytes as usize,
        });
        let thread = |source| TunnelError::Thread { source };
        let (stop, stopped) = UnixStream::pair().map_err(thread)?;
        let mut handle = Self { shared, stop: Some(stop), threads: Vec::new() };
        let devices: Vec<_> = devices.into_iter().map(Arc::new).collect();
        for device in &devices {
            let (shared, device) = (handle.shared.clone(), device.clone());
            let stopped = stopped.try_clone().map_err(thread)?;
            handle.spawn("tunnel-send", move || workers::send(&shared, &device, &stopped)).map_err(thread)?;
        }
        let shared = handle.shared.clone();
        handle
            .spawn("tunnel-receive", move || workers::receive(&shared, &devices, &stopped))
            .map_err(thread)?;
        Ok(handle)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(body)?);
        Ok(())
    }

    /// Replaces the peers; packets on the way see either table.
    pub fn set_peers(&self, peers: Peers) {
        self.shared.peers.store(Arc::new(peers));
    }

    /// Packets and drops so far.
    pub fn stats(&self) -> TunnelStats {
        let counters = &self.shared.counters;
        TunnelStats {
            sent: counters.sent.load(Ordering::Relaxed),
            received: counters.received.load(Ordering::Relaxed),
            dropped_sent: counters.dropped_sent.load(Ordering::Relaxed),
            dropped_received: counters.dropped_received.load(Ordering::Relaxed),
        }
    }

    /// Whether all threads still run; they end only when stopped, or if the device or the socket fails for good.
    pub fn is_running(&self) -> bool {
        !self.threads.is_empty() && self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Ends all threads and waits for them.
    pub fn stop(&mut self) {
        // Closing this end wakes whoever polls the other.
        self.stop = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a tunnel thread panicked");
            }
        }
    }
}

impl Drop for TunnelHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bind(local: SocketAddr) -> io::Result<(UdpSocket, UdpSocketState)> {
    let socket = UdpSocket::bind(local)?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    // The kernel gives less if its limit is less; that costs speed only.
    let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER_BYTES);
    let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER_BYTES);
    // On a blocking socket a batch would wait until it is full.
    socket.set_nonblocking(true)?;
    Ok((socket, state))
}

fn set_nonblocking(device: &SyncDevice) -> io::Result<()> {
    let mut on: libc::c_int = 1;
    // SAFETY: the descriptor is open and the argument lives for the whole call.
    match unsafe { libc::ioctl(device.as_raw_fd(), libc::FIONBIO as _, &mut on) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Source and destination of a packet; None for what is neither IPv4 nor IPv6.
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    fn address<const BYTES: usize>(packet: &[u8], at: usize) -> Option<IpAddr>
    where
        IpAddr: From<[u8; BYTES]>,
    {
        packet.get(at..)?.first_chunk::<BYTES>().copied().map(IpAddr::from)
    }
    match packet.first()? >> 4 {
        4 if packet.len() >= IPV4_HEADER_BYTES => {
            Some((address::<4>(packet, 12)?, address::<4>(packet, 16)?))
        }
        6 if packet.len() >= IPV6_HEADER_BYTES => {
            Some((address::<16>(packet, 8)?, address::<16>(packet, 24)?))
        }
        _ => None,
    }
}
