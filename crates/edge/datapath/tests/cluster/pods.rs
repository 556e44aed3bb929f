//! Pods and a client as network namespaces around a node, which is the namespace that a test starts in.
//!
//! Everything is there in both families: what a test says in IPv4 means the [`twin`] in IPv6.
#![allow(dead_code, missing_docs, clippy::expect_used, clippy::print_stderr)]

use super::twin;
use minisvc_lab::testing::in_namespaces;
use minisvc_netstate::family::{Address, Family};
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc,
    time::Duration,
};

pub const WAIT: Duration = Duration::from_secs(3);

pub fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split_whitespace()).status().is_ok_and(|status| status.success())
}

/// Runs `work` on a thread inside a named namespace.
pub fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("namespace");
    let run = move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter");
        work()
    };
    std::thread::spawn(run).join().expect("thread")
}

/// Prepares something on a thread inside a named namespace, and goes on there with what that gives.
pub fn start<F: FnOnce()>(namespace: &str, prepare: impl FnOnce() -> F + Send + 'static) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("namespace");
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter");
        let work = prepare();
        let _ = ready.send(());
        work();
    });
    is_ready.recv().expect("prepared");
}

/// What stands for an IPv4 address, or for a node's own localhost, in the family that is tried.
pub fn here<A: Address>(address: &str) -> IpAddr {
    let address: Ipv4Addr = address.parse().expect("address");
    match A::FAMILY {
        Family::Ipv4 => address.into(),
        Family::Ipv6 if address.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        Family::Ipv6 => twin(address).into(),
    }
}

/// The same with a port.
pub fn at<A: Address>(to: &str) -> SocketAddr {
    let (address, port) = to.split_once(':').expect("a port");
    SocketAddr::new(here::<A>(address), port.parse().expect("a port"))
}

pub fn any<A: Address>() -> IpAddr {
    match A::FAMILY {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A link to a namespace as Pods have it: /32 and /128, fixed gateways, a route per address.
pub fn attach(name: &str, address: &str) -> bool {
    let gateway = "169.254.1.1";
    let six = here::<Ipv6Addr>(address);
    ip(&format!("netns add {name}"))
        && ip(&format!("link add msv{name} type veth peer name eth0 netns {name}"))
        && ip(&format!("link set msv{name} up"))
        && ip(&format!("addr add {gateway}/32 dev msv{name} scope link"))
        && ip(&format!("route add {address}/32 dev msv{name}"))
        && ip(&format!("-n {name} link set lo up"))
        && ip(&format!("-n {name} link set eth0 up"))
        && ip(&format!("-n {name} addr add {address}/32 dev eth0"))
        && ip(&format!("-n {name} route add {gateway} dev eth0"))
        && ip(&format!("-n {name} route add default via {gateway} dev eth0 onlink"))
        && ip(&format!("addr add fe80::1/64 dev msv{name} nodad"))
        && ip(&format!("route add {six}/128 dev msv{name}"))
        && ip(&format!("-n {name} addr add {six}/128 dev eth0 nodad"))
        && ip(&format!("-n {name} route add default via fe80::1 dev eth0"))
}

/// Answers every TCP connection and UDP datagram with `name source`.
pub fn serve(name: &'static str, address: IpAddr, port: u16) {
    inside(name, move || {
        let tcp = TcpListener::bind((address, port)).expect("listen");
        let udp = UdpSocket::bind((address, port)).expect("bind");
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let mut stream = stream;
                let peer = stream.peer_addr().expect("peer").ip();
                let _ = write!(stream, "{name} {peer}");
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    });
}

/// Who answers a TCP connection and as whom they see the caller; or the error.
pub fn call<A: Address>(namespace: Option<&str>, to: &str) -> Result<(String, String), ErrorKind> {
    let to = at::<A>(to);
    let work = move || -> std::io::Result<(String, String)> {
        let mut stream = TcpStream::connect_timeout(&to, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (name, source) = text.split_once(' ').unwrap_or_default();
        Ok((name.to_owned(), source.to_owned()))
    };
    match namespace {
        Some(namespace) => inside(namespace, work),
        None => work(),
    }
    .map_err(|error| error.kind())
}

/// What answers a UDP datagram; or the error.
pub fn ask_udp<A: Address>(namespace: Option<&str>, to: &str) -> Result<String, ErrorKind> {
    let to = at::<A>(to);
    let work = move || -> std::io::Result<String> {
        let socket = UdpSocket::bind((any::<A>(), 0))?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    match namespace {
        Some(namespace) => inside(namespace, work),
        None => work(),
    }
    .map_err(|error| error.kind())
}

pub fn answerers<A: Address>(namespace: Option<&str>, to: &str, times: usize) -> BTreeSet<String> {
    (0..times).map(|_| call::<A>(namespace, to).expect("an answer").0).collect()
}

pub fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

fn build() -> bool {
    std::fs::create_dir_all("/run/netns").expect("directory");
    let made = ip("link set lo up")
        && ip("addr add 10.42.0.1/32 dev lo")
        && ip("link add underlay type veth peer name eth0")
        && ip("netns add client")
        && ip("link set eth0 netns client")
        && ip("addr add 192.168.9.1/24 dev underlay")
        && ip("link set underlay up")
        && ip("-n client link set lo up")
        && ip("-n client addr add 192.168.9.9/24 dev eth0")
        && ip("-n client link set eth0 up")
        && ip("-n client route add 10.43.0.0/16 via 192.168.9.1")
        && ip("-n client route add 198.51.100.0/24 via 192.168.9.1")
        && ip("-n client route add 198.18.0.0/15 via 192.168.9.1")
        && ip("route add 10.43.0.0/16 dev underlay src 10.42.0.1")
        && build_v6();
    made && [("a", "10.42.0.2"), ("b", "10.42.0.3"), ("c", "10.42.0.4")].iter().all(|(name, address)| {
        let made = attach(name, address);
        let name: &'static str = name;
        serve(name, here::<Ipv4Addr>(address), 8080);
        serve(name, here::<Ipv6Addr>(address), 8080);
        made
    })
}

/// The same for IPv6; no address waits for the detection of duplicates.
fn build_v6() -> bool {
    let six = here::<Ipv6Addr>;
    let services = format!("{}/112", six("10.43.0.0"));
    let (node, pods, client) = (six("192.168.9.1"), six("10.42.0.1"), six("192.168.9.9"));
    ip(&format!("addr add {pods}/128 dev lo"))
        && ip(&format!("addr add {node}/120 dev underlay nodad"))
        && ip(&format!("-n client addr add {client}/120 dev eth0 nodad"))
        && ip(&format!("-n client route add {services} via {node}"))
        && ip(&format!("-n client route add {}/120 via {node}", six("198.51.100.0")))
        && ip(&format!("-n client route add {}/120 via {node}", six("198.18.0.0")))
        && ip(&format!("route add {services} dev underlay src {pods}"))
}

/// Runs a test's body on the node of such a world, in namespaces of its own.
pub fn in_a_world(name: &str, body: impl FnOnce()) {
    in_namespaces(name, || {
        if Command::new("ip").arg("-V").output().is_err() {
            eprintln!("skipped: no ip");
            return;
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        assert!(build(), "links");
        body();
    });
}
