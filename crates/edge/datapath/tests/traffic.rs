//! Real connections through the service table: a node, three Pods on routed links, and a client outside.
#![allow(missing_docs, clippy::expect_used)]

mod cluster;

use cluster::{Objects, node, twin};
use minisvc_datapath::{conntrack::delete_udp_flows, nft::ServiceTableTarget};
use minisvc_lab::testing::in_namespaces;
use minisvc_netstate::family::{Address, Family};
use minisvc_proxy::{Planner, udp_flow_is_stale};
use minisvc_reconcile::Target;
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc,
    time::Duration,
};

const WAIT: Duration = Duration::from_secs(3);

fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split_whitespace()).status().is_ok_and(|status| status.success())
}

/// Runs `work` on a thread inside a named namespace.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("namespace");
    let run = move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter");
        work()
    };
    std::thread::spawn(run).join().expect("thread")
}

/// What stands for an IPv4 address, or for a node's own localhost, in the family that is tried.
fn here<A: Address>(address: &str) -> IpAddr {
    let address: Ipv4Addr = address.parse().expect("address");
    match A::FAMILY {
        Family::Ipv4 => address.into(),
        Family::Ipv6 if address.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        Family::Ipv6 => twin(address).into(),
    }
}

/// The same with a port.
fn at<A: Address>(to: &str) -> SocketAddr {
    let (address, port) = to.split_once(':').expect("a port");
    SocketAddr::new(here::<A>(address), port.parse().expect("a port"))
}

fn any<A: Address>() -> IpAddr {
    match A::FAMILY {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A link to a namespace as Pods have it: /32 and /128, fixed gateways, a route per address.
fn attach(name: &str, address: &str) -> bool {
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
fn serve(name: &'static str, address: IpAddr, port: u16) {
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
fn call<A: Address>(namespace: Option<&str>, to: &str) -> Result<(String, String), ErrorKind> {
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
fn ask_udp<A: Address>(namespace: Option<&str>, to: &str) -> Result<String, ErrorKind> {
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

fn answerers<A: Address>(namespace: Option<&str>, to: &str, times: usize) -> BTreeSet<String> {
    (0..times).map(|_| call::<A>(namespace, to).expect("an answer").0).collect()
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

fn world() -> Objects {
    let mut objects = Objects::default();
    let all: &[(&str, &str)] = &[("10.42.0.2", "n1"), ("10.42.0.3", "n1"), ("10.42.0.4", "n1")];
    objects.service("plain", r#"{"clusterIP": "10.43.1.1", "type": "NodePort", "ports": [{"name": "t", "port": 80, "nodePort": 30080}, {"name": "u", "port": 53, "protocol": "UDP"}]}"#);
    objects.slice(
        "plain",
        r#"[{"name": "t", "port": 8080}, {"name": "u", "port": 8080, "protocol": "UDP"}]"#,
        all,
    );
    objects.service(
        "sticky",
        r#"{"clusterIP": "10.43.1.2", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}"#,
    );
    objects.slice("sticky", r#"[{"port": 8080}]"#, all);
    objects.service("empty", r#"{"clusterIP": "10.43.1.3", "type": "NodePort", "ports": [{"name": "t", "port": 80, "nodePort": 30081}, {"name": "u", "port": 53, "protocol": "UDP"}]}"#);
    objects.service("self", r#"{"clusterIP": "10.43.1.4", "externalIPs": ["198.51.100.7", "198.18.0.7"], "ports": [{"port": 80}]}"#);
    objects.slice("self", r#"[{"port": 8080}]"#, &[("10.42.0.2", "n1")]);
    // n2 is another node: a Pod of it is served from here by nobody with a Local policy.
    objects.service("local", r#"{"clusterIP": "10.43.1.5", "type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30082}]}"#);
    objects.slice("local", r#"[{"port": 8080}]"#, &[("10.42.0.2", "n1"), ("10.42.0.3", "n2")]);
    objects.service("elsewhere", r#"{"clusterIP": "10.43.1.6", "type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30083}]}"#);
    objects.slice("elsewhere", r#"[{"port": 8080}]"#, &[("10.42.0.3", "n2")]);
    objects
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

#[test]
fn connections_meet_what_the_table_says() {
    in_namespaces("connections_meet_what_the_table_says", || {
        if Command::new("ip").arg("-V").output().is_err() {
            eprintln!("skipped: no ip");
            return;
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        assert!(build(), "links");
        meet::<Ipv4Addr>();
        meet::<Ipv6Addr>();
    });
}

/// All of it by the addresses of one family.
fn meet<A: Address>() {
    let call = call::<A>;
    let answerers = answerers::<A>;
    let ask_udp = ask_udp::<A>;
    let text = |address: &str| here::<A>(address).to_string();
    let mut target = ServiceTableTarget::<A>::open().expect("open");
    let actual = target.observe().expect("observe");
    let mut planner = Planner::new(node("n1"), &actual);
    let mut objects = world();
    target.apply(&planner.update(&objects.snapshot()).ops).expect("apply");

    let all = names(&["a", "b", "c"]);
    assert_eq!(answerers(Some("a"), "10.43.1.1:80", 60), all, "from a Pod");
    assert_eq!(answerers(None, "10.43.1.1:80", 60), all, "from the node");
    assert_eq!(answerers(Some("client"), "192.168.9.1:30080", 60), all, "node port");
    assert_eq!(answerers(None, "192.168.9.1:30080", 60), all, "node port from the node");
    let source = |namespace: &str, to: &str| call(Some(namespace), to).expect("an answer").1;
    assert_eq!(source("a", "10.43.1.4:80"), text("10.42.0.1"), "hairpin");
    assert_eq!(source("b", "10.43.1.4:80"), text("10.42.0.3"), "a Pod keeps its address");
    assert_ne!(source("client", "192.168.9.1:30080"), text("192.168.9.9"), "masqueraded");
    for _ in 0..10 {
        let answer = call(Some("client"), "192.168.9.1:30082").expect("an answer");
        assert_eq!(answer, ("a".to_owned(), text("192.168.9.9")), "Local keeps the source");
    }
    assert_eq!(
        answerers(Some("a"), "192.168.9.1:30082", 40),
        names(&["a", "b"]),
        "inside, Local is not meant"
    );
    assert_eq!(call(Some("client"), "192.168.9.1:30083"), Err(ErrorKind::TimedOut), "no local endpoint");

    let by_external = call(Some("client"), "198.51.100.7:80").expect("an answer");
    assert_eq!(by_external.0, "a", "an external IP that the cluster allows");
    assert_ne!(by_external.1, text("192.168.9.9"), "masqueraded");
    assert!(call(Some("client"), "198.18.0.7:80").is_err(), "one that it does not allow");

    for to in ["10.43.1.3:80", "10.43.1.1:81", "10.43.77.77:80"] {
        for from in [Some("a"), Some("client"), None] {
            assert_eq!(call(from, to), Err(ErrorKind::ConnectionRefused), "{from:?} {to}");
        }
    }
    assert_eq!(call(Some("client"), "192.168.9.1:30081"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(call(None, "127.0.0.1:30080"), Err(ErrorKind::ConnectionRefused), "never on localhost");
    for from in [Some("a"), Some("client")] {
        assert_eq!(ask_udp(from, "10.43.1.3:53"), Err(ErrorKind::ConnectionRefused), "{from:?} UDP");
    }
    // The kernel tells a local sender whose packet is rejected this way.
    assert_eq!(ask_udp(None, "10.43.1.3:53"), Err(ErrorKind::PermissionDenied), "UDP from the node");
    spoof::<A>();
    affinity(&mut objects, &mut planner, &mut target);
    udp(&mut objects, &mut planner, &mut target);
    assert_eq!(&target.observe().expect("observe"), planner.table());
}

/// What a Pod sends as somebody else arrives nowhere; what it sends as itself does.
fn spoof<A: Address>() {
    let (own, other, to) = (here::<A>("10.42.0.2"), here::<A>("10.42.0.99"), here::<A>("10.42.0.3"));
    let (length, at_once) = if A::FAMILY == Family::Ipv4 { (32, "") } else { (128, "nodad") };
    assert!(ip(&format!("-n a addr add {other}/{length} dev eth0 {at_once}")), "an address that is nobody's");
    let (ready, listening) = mpsc::channel();
    let file = std::fs::File::open("/run/netns/b").expect("namespace");
    let receiver = std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter");
        let socket = UdpSocket::bind((to, 9000)).expect("bind");
        socket.set_read_timeout(Some(WAIT)).expect("timeout");
        ready.send(()).expect("test");
        let mut buffer = [0; 64];
        socket.recv_from(&mut buffer).expect("a datagram").1.ip()
    });
    listening.recv().expect("receiver");
    inside("a", move || {
        for source in [other, own] {
            let socket = UdpSocket::bind((source, 0)).expect("bind");
            socket.send_to(b"?", (to, 9000)).expect("send");
        }
    });
    assert_eq!(receiver.join().expect("receiver"), own, "the first that arrives is the second that was sent");
    assert!(ip(&format!("-n a addr del {other}/{length} dev eth0")));
}

fn affinity<A: Address>(objects: &mut Objects, planner: &mut Planner<A>, target: &mut ServiceTableTarget<A>) {
    let answerers = answerers::<A>;
    let first = answerers(Some("client"), "10.43.1.2:80", 20);
    assert_eq!(first.len(), 1, "one endpoint for one client");
    let pods = [("a", "10.42.0.2"), ("b", "10.42.0.3"), ("c", "10.42.0.4")];
    let others: Vec<_> = pods.iter().filter(|(name, _)| !first.contains(*name)).collect();
    let kept: Vec<_> =
        pods.iter().filter(|(name, _)| *name != others[0].0).map(|(_, a)| (*a, "n1")).collect();
    objects.slice("sticky", r#"[{"port": 8080}]"#, &kept);
    target.apply(&planner.update(&objects.snapshot()).ops).expect("apply");
    assert_eq!(answerers(Some("client"), "10.43.1.2:80", 20), first, "stays while others go");
    objects.slice("sticky", r#"[{"port": 8080}]"#, &[(others[0].1, "n1"), (others[1].1, "n1")]);
    target.apply(&planner.update(&objects.snapshot()).ops).expect("apply");
    let second = answerers(Some("client"), "10.43.1.2:80", 20);
    assert_eq!(second.len(), 1, "learns anew when its endpoint is gone");
    assert_ne!(first, second);
}

fn udp<A: Address>(objects: &mut Objects, planner: &mut Planner<A>, target: &mut ServiceTableTarget<A>) {
    let (ask, questions) = mpsc::channel::<()>();
    let (answer, answers) = mpsc::channel();
    let file = std::fs::File::open("/run/netns/a").expect("namespace");
    let client = std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter");
        let socket = UdpSocket::bind((any::<A>(), 4444)).expect("bind");
        socket.connect(at::<A>("10.43.1.1:53")).expect("connect");
        socket.set_read_timeout(Some(WAIT)).expect("timeout");
        for () in questions {
            let mut buffer = [0; 64];
            let got = socket.send(b"?").and_then(|_| socket.recv(&mut buffer));
            let text = got.map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned());
            let _ = answer.send(text.map_err(|error| error.kind()));
        }
    });
    let once = || {
        ask.send(()).expect("client");
        answers.recv().expect("client")
    };
    let who = once().expect("an answer");
    assert_eq!(once().as_ref(), Ok(&who), "a flow stays");
    let pods = [("a", "10.42.0.2"), ("b", "10.42.0.3"), ("c", "10.42.0.4")];
    let left: Vec<_> =
        pods.iter().filter(|(name, _)| !who.starts_with(name)).map(|(_, a)| (*a, "n1")).collect();
    let ports = r#"[{"name": "t", "port": 8080}, {"name": "u", "port": 8080, "protocol": "UDP"}]"#;
    objects.slice("plain", ports, &left);
    let delta = planner.update(&objects.snapshot());
    assert!(delta.udp);
    target.apply(&delta.ops).expect("apply");
    let deleted = delete_udp_flows(|flow| udp_flow_is_stale(planner.table(), flow)).expect("conntrack");
    assert_eq!(deleted, 1);
    let moved = once().expect("an answer");
    assert_ne!(moved, who, "the flow moves on when its endpoint is gone");
    objects.slice("plain", ports, &[]);
    target.apply(&planner.update(&objects.snapshot()).ops).expect("apply");
    let deleted = delete_udp_flows(|flow| udp_flow_is_stale(planner.table(), flow)).expect("conntrack");
    assert_eq!(deleted, 1);
    assert_eq!(
        once(),
        Err(ErrorKind::ConnectionRefused),
        "told at once when the last is gone: {who}, {moved}"
    );
    drop(ask);
    client.join().expect("client");
}
