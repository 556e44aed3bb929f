//! The tunnel on the real kernel: its process outlives whoever started it, by whatever way that ends, and it carries
//! both families between nodes of either.
//!
//! Without the usual harness: the worker is this same program, and must fork before any thread is started.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod world;

use minisvc_apimachinery::{Family, Overlay};
use minisvc_datapath::tun::{
    Peers, TunnelHandle,
    control::{Request, Wanted, ask, end, is_running, program},
    worker,
};
use minisvc_lab::testing::in_namespaces;
use minisvc_netstate::link::TUN_LINK;
use minisvc_podnet::Tunnel;
use nix::{
    sys::signal::{Signal, kill},
    sys::socket::{setsockopt, sockopt},
    unistd::Pid,
};
use rtnetlink::LinkUnspec;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};
use world::{
    PATIENCE, World, block_on, handle, index, receive_checked, send_checked, six, six_of, tcp_server, udp,
};

const TESTS: [(&str, fn()); 3] = [
    ("a_tunnel_outlives_its_starter", outlives_its_starter),
    ("both_families_pass_between_nodes_known_by_ipv4", || carries(Family::Ipv4)),
    ("both_families_pass_between_nodes_known_by_ipv6", || carries(Family::Ipv6)),
];
type Pod = (usize, String, IpAddr);

/// Of the Pods' links: what an underlay of 1500 bytes leaves within IPv6 and UDP.
const MTU_BYTES: u32 = 1500 - 40 - 8;
const LARGE_BYTES: usize = 32 << 20;
const STARTER: &str = "starter";
const SOCKET: &str = "/run/tunnel.sock";
const UPGRADED: &str = "/run/upgraded";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(status) = worker::run(std::env::args_os()) {
        std::process::exit(status);
    }
    match args.get(1).map(String::as_str) {
        Some(STARTER) => starter(&args[2]),
        filter => {
            let filter = filter.filter(|filter| !filter.starts_with('-'));
            for (name, body) in TESTS {
                if filter.is_none_or(|filter| name.contains(filter)) {
                    in_namespaces(name, body);
                    println!("test {name} ... ok: 1 passed");
                }
            }
        }
    }
}

/// Stands for the server: has a worker carry the tunnel, and lives until it is killed.
fn starter(wanted: &str) {
    let wanted: Wanted = serde_json::from_str(wanted).expect("a tunnel");
    println!("{}", told(wanted));
    loop {
        std::thread::park();
    }
}

/// Has the worker carry this tunnel; its process.
fn told(wanted: Wanted) -> u32 {
    let answer = worker::carry(Path::new(SOCKET), wanted).expect("an answer");
    assert_eq!((answer.error, answer.program), (None, program().unwrap()));
    answer.pid
}

fn start_starter(program: &str, wanted: &Wanted) -> (Child, u32) {
    let mut child = Command::new(program)
        .args([STARTER, &serde_json::to_string(wanted).unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().expect("the worker's process"))
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"x").unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    to.read_exact(&mut [0]).unwrap();
}

/// A byte there and back.
fn exchange(here: &mut TcpStream, there: &mut TcpStream) {
    pass(here, there);
    pass(there, here);
}

fn kill_and_wait(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    while is_running(Path::new(SOCKET)) {
        assert!(killed.elapsed() < PATIENCE, "a killed worker holds its lock");
        std::thread::yield_now();
    }
}

/// Says so if not.
fn has_tun() -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = &opened {
        println!("skipped: tun overlay needs /dev/net/tun: {error}");
    }
    opened.is_ok()
}

/// Starts the node's tunnel, the nodes being known by addresses of this family.
fn start_tunnel(world: &mut World, node: usize, outer: Family) {
    let Tunnel { local, peers, .. } = world.planned(node).tunnel.unwrap();
    let end = |end: SocketAddr| match (end.ip(), outer) {
        (IpAddr::V4(v4), Family::Ipv6) => SocketAddr::new(six(v4.octets()[3]).into(), end.port()),
        _ => end,
    };
    let peers: BTreeMap<_, _> = peers.into_iter().map(|(net, peer)| (net, end(peer))).collect();
    let start = || TunnelHandle::start(TUN_LINK, end(local), MTU_BYTES, 2, Peers::new(&peers));
    let tunnel = world.on_node(node, start).unwrap();
    world.nodes[node].tunnel = Some(tunnel);
}

fn carries(outer: Family) {
    if !has_tun() {
        return;
    }
    let mut world = World::new(Overlay::Tun, 2);
    let pods = [world.pod(0, 2), world.pod(1, 2)];
    for node in 0..2 {
        let links = world.planned(node).links;
        world.with_target(node, async |target| target.converge(&links).await.unwrap());
        // An outer IPv6 header is larger than what the plan of IPv4 nodes leaves room for.
        world.on_node(node, || set_mtu(TUN_LINK));
        start_tunnel(&mut world, node, outer);
    }
    for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for six in [false, true] {
            let of = |pod: &Pod| if six { six_of(pod.2) } else { pod.2 };
            tcp(&world, from, to, of(from), of(to));
            datagrams(&world, from, to, of(from), of(to));
        }
        zero_checksum(&world, from, to);
    }
    let stats = world.nodes[0].tunnel.as_ref().unwrap().stats();
    // What the kernel itself says to the link's groups (RFC 4861, RFC 3810) has no peer, and is not sent.
    assert_eq!(stats.dropped_received, 0, "{stats:?}");
}

/// Long streams are split and put together again on the way; every byte is checked.
fn tcp(world: &World, from: &Pod, to: &Pod, source: IpAddr, target: IpAddr) {
    let listener = world.in_pod(to, || tcp_server(target));
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_checked(&listener, LARGE_BYTES));
        let took = world.in_pod(from, || send_checked(address, LARGE_BYTES));
        assert_eq!(receiver.join().unwrap().ip(), source);
        println!("{source} -> {target}: {} MiB in {took:?}", LARGE_BYTES >> 20);
    });
}

/// Datagrams of many lengths, one by one and many by one call (UDP GSO), come whole and in order.
fn datagrams(world: &World, from: &Pod, to: &Pod, source: IpAddr, target: IpAddr) {
    let there = world.in_pod(to, || udp(target));
    let here = world.in_pod(from, || udp(source));
    here.connect(there.local_addr().unwrap()).unwrap();
    let largest = MTU_BYTES as usize - if target.is_ipv4() { 28 } else { 48 };
    let bytes = |length: usize| (0..length).map(|at| (at * 7 + length) as u8).collect::<Vec<u8>>();
    let mut buffer = vec![0; 65536];
    let mut expect = |sent: &[u8]| {
        let (length, caller) = there.recv_from(&mut buffer).unwrap();
        assert_eq!(caller, here.local_addr().unwrap());
        assert!(buffer[..length] == *sent, "a datagram of {} bytes came otherwise", sent.len());
    };
    for length in (0..=largest).step_by(97).chain([largest]) {
        here.send(&bytes(length)).unwrap();
        expect(&bytes(length));
    }
    let all = bytes(20 * 1000 + 500);
    setsockopt(&here, sockopt::UdpGsoSegment, &1000).unwrap();
    here.send(&all).unwrap();
    for segment in all.chunks(1000) {
        expect(segment);
    }
}

/// A datagram over IPv6 whose checksum comes out as zero is not one without a checksum, which nobody may take.
fn zero_checksum(world: &World, from: &Pod, to: &Pod) {
    let (source, target) = (six_of(from.2), six_of(to.2));
    let there = world.in_pod(to, || udp(target));
    let here = world.in_pod(from, || udp(source));
    let to = there.local_addr().unwrap();
    let words = [source, target].into_iter().flat_map(|address| {
        let IpAddr::V6(address) = address else { unreachable!("of IPv6") };
        address.segments()
    });
    let ports = [here.local_addr().unwrap().port(), to.port()];
    // Length twice, in the pseudo header and in the header, and the protocol.
    let mut sum: u32 = words.chain(ports).chain([10, 10, 17]).map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let payload = (!(sum as u16)).to_be_bytes();
    here.send_to(&payload, to).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = there.recv_from(&mut buffer).expect("a datagram with a checksum of 0xffff");
    assert_eq!(buffer[..length], payload);
}

fn set_mtu(link: &str) {
    block_on(async {
        let handle = handle().await;
        let index = index(&handle, link).await;
        handle
            .link()
            .change(LinkUnspec::new_with_index(index).mtu(MTU_BYTES).build())
            .execute()
            .await
            .unwrap();
    });
}

fn outlives_its_starter() {
    if !has_tun() {
        return;
    }
    let socket = Path::new(SOCKET);
    let mut world = World::new(Overlay::Tun, 2);
    let pods = [world.pod(0, 2), world.pod(1, 2)];
    let planned = world.planned(0);
    world.with_target(0, async |target| target.converge(&planned.links).await.unwrap());
    world.converge_one(1);
    let tunnel = planned.tunnel.unwrap();
    let wanted = Wanted {
        link: "msvtun".to_owned(),
        local: tunnel.local,
        mtu_bytes: tunnel.mtu_bytes,
        queues: 2,
        peers: tunnel.peers,
    };
    let (mut starter, first) = world.on_node(0, || start_starter("/proc/self/exe", &wanted));
    let listener = world.in_pod(&pods[1], || tcp_server(pods[1].2));
    let address = listener.local_addr().unwrap();
    let mut here = world.in_pod(&pods[0], || TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
    let (mut there, _) = listener.accept().unwrap();
    exchange(&mut here, &mut there);

    starter.kill().unwrap();
    starter.wait().unwrap();
    exchange(&mut here, &mut there);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_checked(&listener, 1 << 20));
        world.in_pod(&pods[0], || send_checked(address, 1 << 20));
        assert_eq!(receiver.join().unwrap().ip(), pods[0].2, "a new connection");
    });

    // Whoever comes next finds it, and cannot start another or talk it into nonsense.
    assert_eq!(told(wanted.clone()), first);
    let refused = worker::start(socket).unwrap_err().to_string();
    assert!(refused.contains("lock /run/tunnel.sock.lock"), "{refused}");
    let nonsense = Request::Run(Wanted { mtu_bytes: 1, ..wanted.clone() });
    assert!(ask(socket, &nonsense).unwrap().error.unwrap().starts_with("mtuBytes 1:"));
    exchange(&mut here, &mut there);

    // Killed, it is replaced, and what was open goes on.
    kill_and_wait(first);
    let second = world.on_node(0, || told(wanted.clone()));
    assert_ne!(second, first);
    exchange(&mut here, &mut there);

    // Another program, as after an upgrade, brings its own worker.
    std::fs::copy("/proc/self/exe", UPGRADED).unwrap();
    let (mut upgraded, third) = world.on_node(0, || start_starter(UPGRADED, &wanted));
    assert_ne!(third, second);
    exchange(&mut here, &mut there);
    upgraded.kill().unwrap();
    upgraded.wait().unwrap();
    exchange(&mut here, &mut there);

    // One that cannot be reached any more is ended all the same, and so is one that can.
    std::fs::remove_file(socket).unwrap();
    end(socket).unwrap();
    assert!(!is_running(socket));
    world.on_node(0, || told(wanted));
    exchange(&mut here, &mut there);
    end(socket).unwrap();
    assert!(!is_running(socket) && !socket.exists());
}
