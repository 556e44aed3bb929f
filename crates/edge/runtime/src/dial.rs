//! Connections to a Pod's own loopback: made in the Pod's network namespace, used from here. That of a Pod in its node's
//! network is the node's.
//!
//! Invariant: no thread of the runtime ever changes its namespace. A thread of its own enters it, makes the sockets, which
//! stay in the namespace they were made in, and ends.

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::{TcpSocket, TcpStream};

/// Longest time for a connection that stays within one kernel.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Connects to `port` on 127.0.0.1, then on ::1, as the Pod itself would.
///
/// # Errors
/// In the words of the container runtimes, with both reasons.
pub(crate) async fn loopback(netns: Option<&Path>, port: u16) -> Result<TcpStream, String> {
    let wanted = netns.map(Path::to_owned);
    let sockets = tokio::task::spawn_blocking(move || sockets(wanted)).await;
    let failed = |error: &dyn std::fmt::Display| {
        let path = netns.unwrap_or(Path::new("")).display();
        format!("failed to enter the pod's network namespace {path}: {error}")
    };
    let [v4, v6] = sockets.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let v4 = match connect(v4, IpAddr::V4(Ipv4Addr::LOCALHOST), port).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    connect(v6, IpAddr::V6(Ipv6Addr::LOCALHOST), port).await.map_err(|v6| {
        format!(
            "failed to connect to localhost:{port} inside the pod's network namespace, IPv4: dial tcp4 \
             127.0.0.1:{port}: {v4} IPv6: dial tcp6 [::1]:{port}: {v6}"
        )
    })
}

type Socket = io::Result<OwnedFd>;

fn sockets(netns: Option<PathBuf>) -> io::Result<[Socket; 2]> {
    let make = move || -> io::Result<[Socket; 2]> {
        if let Some(netns) = netns {
            setns(File::open(&netns)?, CloneFlags::CLONE_NEWNET)?;
        }
        let of = |family| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            socket(family, SockType::Stream, flags, None).map_err(io::Error::from)
        };
        Ok([of(AddressFamily::Inet), of(AddressFamily::Inet6)])
    };
    let thread = std::thread::Builder::new().name("enter-netns".to_owned()).spawn(make)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
}

async fn connect(socket: Socket, address: IpAddr, port: u16) -> Result<TcpStream, String> {
    let connect = async {
        let socket = TcpSocket::from_std_stream(socket?.into());
        let stream = socket.connect(SocketAddr::new(address, port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match tokio::time::timeout(CONNECT_WITHIN, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(words(&error)),
        Err(_) => Err("connect: connection timed out".to_owned()),
    }
}

/// Why a connection failed, as Go words it.
pub(crate) fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            format!("connect: {}", nix::errno::Errno::from_raw(number).desc().to_ascii_lowercase())
        }
        None => error.to_string(),
    }
}
