//! Real connections through the service table: a node, three Pods on routed links, and a client outside.
#![allow(missing_docs, clippy::expect_used)]

mod cluster;

use cluster::{
    Objects, node,
    pods::{WAIT, answerers, any, ask_udp, at, call, here, in_a_world, inside, ip, names},
};
use minisvc_datapath::{conntrack::delete_udp_flows, nft::ServiceTableTarget};
use minisvc_netstate::family::{Address, Family};
use minisvc_proxy::{Planner, udp_flow_is_stale};
use minisvc_reconcile::Target;
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::mpsc,
};

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

#[test]
fn connections_meet_what_the_table_says() {
    in_a_world("connections_meet_what_the_table_says", || {
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
    let mut planner = Planner::new(node("n1"), actual);
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
    let deleted = delete_udp_flows(|flow| udp_flow_is_stale(planner.table(), &BTreeSet::new(), flow))
        .expect("conntrack");
    assert_eq!(deleted, 1);
    let moved = once().expect("an answer");
    assert_ne!(moved, who, "the flow moves on when its endpoint is gone");
    objects.slice("plain", ports, &[]);
    target.apply(&planner.update(&objects.snapshot()).ops).expect("apply");
    let deleted = delete_udp_flows(|flow| udp_flow_is_stale(planner.table(), &BTreeSet::new(), flow))
        .expect("conntrack");
    assert_eq!(deleted, 1);
    assert_eq!(
        once(),
        Err(ErrorKind::ConnectionRefused),
        "told at once when the last is gone: {who}, {moved}"
    );
    drop(ask);
    client.join().expect("client");
}
