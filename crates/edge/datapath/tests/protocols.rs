//! What depends on the protocol: SCTP, the same number under two protocols, UDP clients that keep their port, and TCP
//! segments that connection tracking takes for nothing it knows.
#![allow(missing_docs, clippy::expect_used)]

mod cluster;

use cluster::{
    Objects, node,
    pods::{WAIT, ask_udp, at, call, here, in_a_world, inside, names, start},
    raw::{Chunk, Raw, SCTP, Sctp, Segment, TCP, u16_at, u32_at},
};
use minisvc_datapath::{conntrack::delete_udp_flows, nft::ServiceTableTarget};
use minisvc_netstate::family::Address;
use minisvc_proxy::{Planner, udp_flow_is_stale};
use minisvc_reconcile::Target;
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
};

/// The node's table of one family, as its agent keeps it.
struct Table<A: Address> {
    objects: Objects,
    planner: Planner<A>,
    target: ServiceTableTarget<A>,
}

impl<A: Address> Table<A> {
    fn new() -> Self {
        let mut target = ServiceTableTarget::open().expect("open");
        let actual = target.observe().expect("observe");
        Self { objects: Objects::default(), planner: Planner::new(node("n1"), actual), target }
    }

    /// What the agent does after each change.
    fn settle(&mut self) {
        let delta = self.planner.update(&self.objects.snapshot());
        self.target.apply(&delta.ops).expect("apply");
        if delta.udp {
            let table = self.planner.table();
            delete_udp_flows(|flow| udp_flow_is_stale(table, &BTreeSet::new(), flow)).expect("conntrack");
        }
    }
}

/// Answers the handshake of SCTP; tells what came, and from where.
fn sctp_server<A: Address>(pod: &'static str, heard: mpsc::Sender<(&'static str, Sctp, IpAddr)>) {
    const OWN_TAG: u32 = 0x0b0b_0b0b;
    start(pod, move || {
        let socket = Raw::open::<A>(SCTP);
        move || {
            let mut client_tag = 0;
            loop {
                let Ok((bytes, from)) = socket.receive() else { continue };
                let packet = Sctp::read(&bytes);
                let chunk = match packet.chunk {
                    Chunk::Init => Chunk::InitAck,
                    Chunk::CookieEcho => Chunk::CookieAck,
                    Chunk::InitAck | Chunk::CookieAck => continue,
                };
                if packet.chunk == Chunk::Init {
                    client_tag = packet.own_tag;
                }
                let (own_tag, tag) = (OWN_TAG, client_tag);
                let answer = Sctp { from: packet.to, to: packet.from, tag, chunk, own_tag };
                socket.send_to(&answer.bytes(), from).expect("answer");
                if heard.send((pod, packet, from)).is_err() {
                    return;
                }
            }
        }
    });
}

/// Opens an association and returns with the COOKIE ACK; all answers come from the address that was asked.
fn associate<A: Address>(to: &str, own_port: u16) -> std::io::Result<()> {
    const OWN_TAG: u32 = 0x0a0a_0a0a;
    let to = at::<A>(to);
    let socket = Raw::open::<A>(SCTP);
    socket.connect(to.ip())?;
    let ask = |tag, chunk| -> std::io::Result<Sctp> {
        let packet = Sctp { from: own_port, to: to.port(), tag, chunk, own_tag: OWN_TAG };
        socket.send(&packet.bytes())?;
        let (bytes, from) = socket.receive()?;
        let answer = Sctp::read(&bytes);
        assert_eq!((from, answer.from, answer.to), (to.ip(), to.port(), own_port), "translated back");
        assert_eq!(answer.tag, OWN_TAG);
        Ok(answer)
    };
    let answer = ask(0, Chunk::Init)?;
    assert_eq!(answer.chunk, Chunk::InitAck);
    let answer = ask(answer.own_tag, Chunk::CookieEcho)?;
    assert_eq!(answer.chunk, Chunk::CookieAck);
    Ok(())
}

#[test]
fn sctp_reaches_an_endpoint_and_its_answers_come_back() {
    in_a_world("sctp_reaches_an_endpoint_and_its_answers_come_back", || {
        sctp::<Ipv4Addr>();
        sctp::<Ipv6Addr>();
    });
}

fn sctp<A: Address>() {
    let mut table = Table::<A>::new();
    table.objects.service("signal", r#"{"clusterIP": "10.43.2.1", "type": "NodePort", "ports": [{"name": "s", "port": 36412, "protocol": "SCTP", "nodePort": 30412}, {"name": "t", "port": 36412, "nodePort": 30412}]}"#);
    table.objects.slice(
        "signal",
        r#"[{"name": "s", "port": 9899, "protocol": "SCTP"}, {"name": "t", "port": 8080}]"#,
        &[("10.42.0.3", "n1"), ("10.42.0.4", "n1")],
    );
    table.objects.service("empty", r#"{"clusterIP": "10.43.2.2", "type": "NodePort", "ports": [{"port": 36412, "protocol": "SCTP", "nodePort": 30413}]}"#);
    table.settle();
    let (tell, heard) = mpsc::channel();
    for pod in ["b", "c"] {
        sctp_server::<A>(pod, tell.clone());
    }
    let mut answered = BTreeSet::new();
    let (vip, port) = ("10.43.2.1:36412", "192.168.9.1:30412");
    let wayfarers = [(Some("a"), vip), (None, vip), (Some("client"), port), (Some("client"), vip)];
    for own_port in 40_001..40_017 {
        for (from, to) in wayfarers {
            let what = format!("{from:?} to {to}");
            match from {
                Some(namespace) => inside(namespace, move || associate::<A>(to, own_port)),
                None => associate::<A>(to, own_port),
            }
            .unwrap_or_else(|error| panic!("{what}: {error}"));
            let first = heard.recv().expect("INIT");
            let second = heard.recv().expect("COOKIE ECHO");
            assert_eq!((first.1.chunk, second.1.chunk), (Chunk::Init, Chunk::CookieEcho));
            assert_eq!((first.0, first.1.to, first.2), (second.0, 9899, second.2), "one endpoint, its port");
            match from {
                Some("a") => assert_eq!(first.2, here::<A>("10.42.0.2"), "a Pod keeps its address"),
                Some(_) => assert_ne!(first.2, here::<A>("192.168.9.9"), "{what} is masqueraded"),
                None => {}
            }
            answered.insert(first.0.to_owned());
        }
    }
    assert_eq!(answered, names(&["b", "c"]));
    for (from, to) in [("a", "10.43.2.2:36412"), ("client", "192.168.9.1:30413"), ("a", "10.43.2.1:36413")] {
        let refused = inside(from, move || associate::<A>(to, 40_100)).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{from} to {to}");
    }
    // The same number by TCP is another port of the Service.
    assert!(call::<A>(Some("a"), "10.43.2.1:36412").is_ok());
    let told = r#"{"clusterIP": "10.43.2.1", "type": "NodePort", "ports": [{"name": "t", "port": 36412, "nodePort": 30412}]}"#;
    table.objects.service("signal", told);
    table.settle();
    let refused = inside("a", || associate::<A>("10.43.2.1:36412", 40_200)).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "SCTP was taken out");
    assert!(call::<A>(Some("a"), "10.43.2.1:36412").is_ok(), "TCP was not");
    // A port of the node that is a Pod's: nobody's address is changed but the Pod's own.
    let ports = r#"[{"containerPort": 9899, "hostPort": 30414, "protocol": "SCTP"}]"#;
    table.objects.pod("b", "10.42.0.3", ports);
    table.settle();
    for (from, own) in [(Some("a"), "10.42.0.2"), (None, "192.168.9.1"), (Some("client"), "192.168.9.9")] {
        let to = "192.168.9.1:30414";
        match from {
            Some(namespace) => inside(namespace, move || associate::<A>(to, 40_300)),
            None => associate::<A>(to, 40_300),
        }
        .unwrap_or_else(|error| panic!("{from:?}: {error}"));
        let (first, second) = (heard.recv().expect("INIT"), heard.recv().expect("COOKIE ECHO"));
        assert_eq!((first.0, first.2, second.0), ("b", here::<A>(own), "b"), "{from:?}");
    }
}

#[test]
fn one_number_is_two_ports() {
    in_a_world("one_number_is_two_ports", || {
        two_ports::<Ipv4Addr>();
        two_ports::<Ipv6Addr>();
    });
}

/// A Service with 53 by TCP and UDP; each is taken out while the other goes on.
fn two_ports<A: Address>() {
    let mut table = Table::<A>::new();
    let tcp = r#"{"name": "t", "port": 53, "nodePort": 30053}"#;
    let udp = r#"{"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}"#;
    let of = |ports: &[&str]| {
        format!(r#"{{"clusterIP": "10.43.2.3", "type": "NodePort", "ports": [{}]}}"#, ports.join(","))
    };
    let ports = r#"[{"name": "t", "port": 8080}, {"name": "u", "port": 8080, "protocol": "UDP"}]"#;
    table.objects.slice("names", ports, &[("10.42.0.3", "n1")]);
    let expected = |there| if there { Ok("b".to_owned()) } else { Err(ErrorKind::ConnectionRefused) };
    for (given, by_tcp, by_udp) in [
        (&[tcp, udp][..], true, true),
        (&[tcp][..], true, false),
        (&[udp][..], false, true),
        (&[udp, tcp][..], true, true),
    ] {
        table.objects.service("names", &of(given));
        table.settle();
        for (from, to) in [("a", "10.43.2.3:53"), ("client", "192.168.9.1:30053")] {
            let answer = call::<A>(Some(from), to).map(|(name, _)| name);
            assert_eq!(answer, expected(by_tcp), "{given:?} {from}");
            let answer = ask_udp::<A>(Some(from), to).map(|text| text[..1].to_owned());
            assert_eq!(answer, expected(by_udp), "{given:?} {from}");
        }
    }
}

/// A Pod whose UDP socket keeps its port; each question is answered, or refused.
struct Asker {
    ask: mpsc::Sender<()>,
    answers: mpsc::Receiver<Result<String, ErrorKind>>,
}

impl Asker {
    fn new<A: Address>(namespace: &str, own: &'static str, to: &'static str) -> Self {
        let (ask, questions) = mpsc::channel::<()>();
        let (answer, answers) = mpsc::channel();
        start(namespace, move || {
            let socket = UdpSocket::bind(at::<A>(own)).expect("bind");
            socket.connect(at::<A>(to)).expect("connect");
            socket.set_read_timeout(Some(WAIT)).expect("timeout");
            move || {
                for () in questions {
                    let mut buffer = [0; 64];
                    let got = socket.send(b"?").and_then(|_| socket.recv(&mut buffer));
                    let text = got.map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
                    let _ = answer.send(text.map_err(|error| error.kind()));
                }
            }
        });
        Self { ask, answers }
    }

    fn once(&self) -> Result<String, ErrorKind> {
        self.ask.send(()).expect("asker");
        let answer = self.answers.recv().expect("asker");
        answer.map(|text| text.split(' ').next().unwrap_or_default().to_owned())
    }
}

#[test]
fn a_udp_client_that_keeps_its_port_follows_the_service() {
    in_a_world("a_udp_client_that_keeps_its_port_follows_the_service", || {
        kept_ports::<Ipv4Addr>();
        kept_ports::<Ipv6Addr>();
    });
}

fn kept_ports<A: Address>() {
    let mut table = Table::<A>::new();
    let ports = r#"[{"port": 8080, "protocol": "UDP"}]"#;
    let spec = |policy: &str| {
        format!(
            r#"{{"clusterIP": "10.43.2.4", "type": "NodePort", "externalTrafficPolicy": "{policy}", "ports": [{{"port": 53, "protocol": "UDP", "nodePort": 30054}}]}}"#
        )
    };
    let refused = Err(ErrorKind::ConnectionRefused);
    let from_pod = Asker::new::<A>("a", "10.42.0.2:5001", "10.43.2.4:53");
    let from_outside = Asker::new::<A>("client", "192.168.9.9:5002", "192.168.9.1:30054");
    // A flow that is older than its Service: nothing listens on that port of the node.
    table.settle();
    assert_eq!((from_pod.once(), from_outside.once()), (refused.clone(), refused.clone()));
    table.objects.service("kept", &spec("Cluster"));
    table.settle();
    assert_eq!((from_pod.once(), from_outside.once()), (refused.clone(), refused), "no endpoint");
    for pod in ["b", "c"] {
        let address = if pod == "b" { "10.42.0.3" } else { "10.42.0.4" };
        table.objects.slice("kept", ports, &[(address, "n1")]);
        table.settle();
        assert_eq!((from_pod.once(), from_outside.once()), (Ok(pod.to_owned()), Ok(pod.to_owned())));
    }
    // More endpoints move nobody who has one.
    table.objects.slice("kept", ports, &[("10.42.0.3", "n1"), ("10.42.0.4", "n1")]);
    table.settle();
    for _ in 0..8 {
        assert_eq!((from_pod.once(), from_outside.once()), (Ok("c".to_owned()), Ok("c".to_owned())));
    }
}

#[test]
fn a_udp_client_that_keeps_its_port_is_held_to_what_is_no_more() {
    in_a_world("a_udp_client_that_keeps_its_port_is_held_to_what_is_no_more", || {
        lost_ports::<Ipv4Addr>();
        lost_ports::<Ipv6Addr>();
    });
}

/// Policy `Local` never leads to another node, and a port that is taken out fails at once, for flows that are known too.
fn lost_ports<A: Address>() {
    let mut table = Table::<A>::new();
    let spec = |policy: &str, port: &str| {
        format!(
            r#"{{"clusterIP": "10.43.2.5", "type": "NodePort", "externalTrafficPolicy": "{policy}", "ports": [{port}]}}"#
        )
    };
    let port = r#"{"port": 53, "protocol": "UDP", "nodePort": 30055}"#;
    table.objects.slice("lost", r#"[{"port": 8080, "protocol": "UDP"}]"#, &[("10.42.0.3", "n2")]);
    table.objects.service("lost", &spec("Cluster", port));
    table.settle();
    let from_pod = Asker::new::<A>("a", "10.42.0.2:5003", "10.43.2.5:53");
    let from_outside = Asker::new::<A>("client", "192.168.9.9:5004", "192.168.9.1:30055");
    let (b, refused) = (Ok("b".to_owned()), Err(ErrorKind::ConnectionRefused));
    assert_eq!((from_pod.once(), from_outside.once()), (b.clone(), b.clone()));
    table.objects.service("lost", &spec("Local", port));
    table.settle();
    assert_eq!(from_pod.once(), b.clone(), "Local is about those outside");
    assert_eq!(from_outside.once(), Err(ErrorKind::WouldBlock), "the only endpoint is elsewhere");
    table.objects.service("lost", &spec("Cluster", port));
    table.settle();
    assert_eq!((from_pod.once(), from_outside.once()), (b.clone(), b), "and back");
    table.objects.service("lost", &spec("Cluster", r#"{"port": 53, "nodePort": 30055}"#));
    table.settle();
    assert_eq!((from_pod.once(), from_outside.once()), (refused.clone(), refused), "TCP only");
}

#[test]
fn a_stray_segment_resets_no_connection() {
    in_a_world("a_stray_segment_resets_no_connection", || {
        stray::<Ipv4Addr>("10.42.0.2");
        stray::<Ipv6Addr>("10.42.0.2");
    });
}

/// Kubernetes' test "should drop INVALID conntrack entries": an endpoint sends a segment far outside of the window.
/// Connection tracking does not translate it back, so a client that got it would answer it with a reset, and the endpoint
/// would take that for the end of the connection.
fn stray<A: Address>(client: &str) {
    const PORT: u16 = 8090;
    let mut table = Table::<A>::new();
    table.objects.service("held", r#"{"clusterIP": "10.43.2.6", "ports": [{"port": 80}]}"#);
    table.objects.slice("held", r#"[{"port": 8090}]"#, &[("10.42.0.3", "n1")]);
    table.settle();
    let of = |address| here::<A>(address).to_string().parse::<A>().ok().expect("of the family");
    let (source, destination) = (of("10.42.0.3"), of(client));
    let (tell, forged) = mpsc::channel();
    // Echoes what it reads; a `!` is followed by forged segments.
    start("b", move || {
        let listener = TcpListener::bind((source.into(), PORT)).expect("listen");
        let seen = Raw::open::<A>(TCP);
        move || {
            let (mut stream, peer) = listener.accept().expect("client");
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).expect("echo");
                if byte != *b"!" {
                    continue;
                }
                // The segment with that byte tells what each side expects next.
                let (next, acknowledged) = loop {
                    let (segment, _) = seen.receive().expect("the client's segment");
                    let header = usize::from(segment[12] >> 4) * 4;
                    if u16_at(&segment, 0) == peer.port() && segment[header..] == *b"!" {
                        break (u32_at(&segment, 4).wrapping_add(1), u32_at(&segment, 8));
                    }
                };
                for far in [0x4000_0000, 0xc000_0000] {
                    let sequence = acknowledged.wrapping_add(far);
                    let segment = Segment { from: PORT, to: peer.port(), sequence, acknowledged: next };
                    seen.send_to(&segment.bytes(source, destination), destination.into()).expect("send");
                }
                let _ = tell.send(());
            }
        }
    });
    inside("a", move || {
        let listening = Raw::open::<A>(TCP);
        let mut stream = TcpStream::connect(at::<A>("10.43.2.6:80")).expect("connect");
        stream.set_read_timeout(Some(WAIT)).expect("timeout");
        let mut ask = |byte: u8| -> std::io::Result<u8> {
            stream.write_all(&[byte])?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            Ok(answer[0])
        };
        assert_eq!(ask(b'!').ok(), Some(b'!'));
        forged.recv().expect("forged");
        for byte in b"still there" {
            assert_eq!(ask(*byte).map_err(|error| error.kind()), Ok(*byte));
        }
        // All that came to this Pod came from the Service's address.
        let vip = here::<A>("10.43.2.6");
        let mut heard = 0;
        while heard < 12 {
            let (segment, from) = listening.receive().expect("a segment");
            assert_eq!(from, vip, "an untranslated segment from port {}", u16_at(&segment, 0));
            heard += 1;
        }
    });
}
