//! Real questions over real sockets.

mod book;
mod upstream;

use super::*;
use hickory_server::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, Synced};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

struct Server {
    /// Which of its addresses is asked.
    address: SocketAddr,
    addresses: Vec<SocketAddr>,
    handle: Handle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// None if another test has a port that this needs.
fn bound(config: &Config) -> Option<Nameserver> {
    match Nameserver::bind(config) {
        Err(NameserverError::Bind { source, .. }) if source.kind() == std::io::ErrorKind::AddrInUse => None,
        bound => Some(bound.unwrap()),
    }
}

impl Server {
    fn start(allowed: &str, upstreams: Vec<SocketAddr>) -> Self {
        Self::start_at(&["127.0.0.1:0"], &[allowed], upstreams)
    }

    fn start_at(addresses: &[&str], allowed: &[&str], upstreams: Vec<SocketAddr>) -> Self {
        let config = Config {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            sockets_per_address: 2,
            allowed: allowed.iter().map(|net| net.parse().unwrap()).collect(),
            upstreams,
        };
        // A port that is free for TCP need not be for UDP: other tests have sockets too.
        let nameserver = (0..20).find_map(|_| bound(&config)).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (addresses, handle) = (nameserver.addresses().to_vec(), nameserver.handle());
        let task = tokio::spawn(nameserver.serve(async {
            let _ = stopped.await;
        }));
        Self { address: addresses[0], addresses, handle, stop, task }
    }

    async fn udp(&self, question: &Message) -> Message {
        self.udp_from("127.0.0.2:0", question).await
    }

    async fn udp_from(&self, client: &str, question: &Message) -> Message {
        let socket = UdpSocket::bind(client).await.unwrap();
        socket.send_to(&question.to_vec().unwrap(), self.address).await.unwrap();
        let mut buffer = [0; 4096];
        let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn tcp(&self, questions: &[&Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answers = Vec::new();
        for question in questions {
            let bytes = question.to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await.unwrap();
            answers.push(Message::from_vec(&answer).unwrap());
        }
        answers
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// One virtual Service `web`, one headless `many` with 60 endpoints, one alias `away` for www.example.test.
fn records(zone: &str) -> Records {
    records_of(zone, 60)
}

fn records_of(zone: &str, endpoints: u32) -> Records {
    let mut world = Snapshot::default();
    for (name, spec) in [
        ("web", serde_json::json!({"clusterIP": "10.43.0.20"})),
        ("many", serde_json::json!({"clusterIP": "None"})),
        ("away", serde_json::json!({"type": "ExternalName", "externalName": "www.example.test"})),
    ] {
        let object = serde_json::json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        let key = ObjectKey::new("default", name);
        world.services.insert(key, Arc::new(serde_json::from_value(object).unwrap()));
    }
    let address = |n: u32| format!("10.42.{}.{}", n >> 8, n & 0xff);
    let endpoints: Vec<_> =
        (1..=endpoints).map(|n| serde_json::json!({ "addresses": [address(n)] })).collect();
    let slice = serde_json::json!({
        "metadata": {"namespace": "default", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "endpoints": endpoints,
    });
    let key = ObjectKey::new("default", "many-1");
    world.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
    let config = ClusterConfig { cluster_domain: zone.to_owned(), ..ClusterConfig::default() };
    Records::new(&config, &Synced::after_all_lists(world))
}

fn addresses(message: &Message) -> Vec<String> {
    let address = |record: &hickory_server::proto::rr::Record| match &record.data {
        RData::A(a) => Some(a.0.to_string()),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

#[tokio::test]
async fn nothing_is_answered_before_the_first_records() {
    let server = Server::start("127.0.0.0/8", vec![]);
    let question = question("web.default.svc.cluster.local.", RecordType::A);
    assert_eq!(server.udp(&question).await.metadata.response_code, ResponseCode::ServFail);
    assert!(!server.handle.is_ready());
    server.handle.publish(records("cluster.local"));
    assert_eq!(addresses(&server.udp(&question).await), ["10.43.0.20"]);
    server.stop().await;
}

#[tokio::test]
async fn the_case_and_the_id_of_the_question_come_back() {
    let server = Server::start("127.0.0.0/8", vec![]);
    server.handle.publish(records("cluster.local"));
    let answer = server.udp(&question("WeB.default.SVC.cluster.local.", RecordType::A)).await;
    assert_eq!((answer.metadata.id, answer.metadata.authoritative), (4711, true));
    assert_eq!(answer.queries[0].name().to_ascii(), "WeB.default.SVC.cluster.local.");
    assert_eq!(answer.answers[0].name.to_ascii(), "WeB.default.SVC.cluster.local.");
    assert_eq!(addresses(&answer), ["10.43.0.20"]);
    assert!(answer.edns.is_none(), "no EDNS unless asked with it");
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_truncated_and_comes_over_tcp() {
    let server = Server::start("127.0.0.0/8", vec![]);
    server.handle.publish(records("cluster.local"));
    let plain = question("many.default.svc.cluster.local.", RecordType::A);
    let answer = server.udp(&plain).await;
    assert!(answer.metadata.truncation && addresses(&answer).len() == 15, "{}", answer.answers.len());
    let mut large = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    large.set_edns(edns);
    let answer = server.udp(&large).await;
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 60));
    assert_eq!(answer.edns.unwrap().max_payload(), 1232);
    let answers = server.tcp(&[&plain, &large]).await;
    assert!(answers.iter().all(|a| a.answers.len() == 60 && !a.metadata.truncation));
    server.stop().await;
}

#[tokio::test]
async fn negative_answers_carry_the_zone() {
    let server = Server::start("127.0.0.0/8", vec![]);
    server.handle.publish(records("cluster.local"));
    for (name, code) in [("x.default.svc", ResponseCode::NXDomain), ("default.svc", ResponseCode::NoError)] {
        let answer = server.udp(&question(&format!("{name}.cluster.local."), RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(answer.authorities[0].name.to_ascii(), "cluster.local.");
        assert!(matches!(&answer.authorities[0].data, RData::SOA(soa) if soa.minimum == 5));
    }
    assert_eq!(server.handle.counters().no_such_name.load(Relaxed), 1);
    server.stop().await;
}

#[tokio::test]
async fn strangers_are_refused() {
    let server = Server::start("10.42.0.0/16", vec![]);
    server.handle.publish(records("cluster.local"));
    let question = question("web.default.svc.cluster.local.", RecordType::A);
    let answer = server.udp(&question).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::Refused, 0));
    // 127.0.0.1 is the server's own address and always allowed, 127.0.0.2 is a stranger.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    server.handle.allow(vec!["127.0.0.0/8".parse().unwrap()]);
    assert_eq!(addresses(&server.udp(&question).await), ["10.43.0.20"]);
    server.stop().await;
}

#[tokio::test]
async fn clients_of_both_families_are_served_at_the_address_of_theirs() {
    if let Err(error) = std::net::UdpSocket::bind("[::1]:0") {
        eprintln!("skipped: no IPv6 loopback: {error}");
        return;
    }
    let mut server = Server::start_at(&["127.0.0.1:0", "[::1]:0"], &["127.0.0.2/32", "fd42::/56"], vec![]);
    server.handle.publish(records("cluster.local"));
    let question = question("web.default.svc.cluster.local.", RecordType::A);
    let ours = server.addresses.clone();
    for (address, client) in ours.into_iter().zip(["127.0.0.2:0", "[::1]:0"]) {
        server.address = address;
        assert_eq!(addresses(&server.udp_from(client, &question).await), ["10.43.0.20"], "{client}");
        assert_eq!(addresses(&server.tcp(&[&question]).await[0]), ["10.43.0.20"], "{client}");
    }
    let allows = |source: &str| server.handle.0.allows(source.parse().unwrap());
    assert!(allows("fd42::ff:0:0:1") && allows("::ffff:127.0.0.2"));
    assert!(!allows("fd42:0:0:100::1") && !allows("127.0.0.3"));
    server.stop().await;
}

#[tokio::test]
async fn other_names_go_to_the_resolvers_of_the_node() {
    let upstream = Server::start("127.0.0.0/8", vec![]);
    upstream.handle.publish(records("example.test"));
    let server = Server::start("127.0.0.0/8", vec![upstream.address]);
    server.handle.publish(records("cluster.local"));
    let answer = server.udp(&question("web.default.svc.example.test.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["10.43.0.20"]);
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    // Truncated upstream, fetched from there over TCP.
    let answers = server.tcp(&[&question("many.default.svc.example.test.", RecordType::A)]).await;
    assert_eq!(addresses(&answers[0]).len(), 60);
    let answer = server.udp(&question("x.default.svc.example.test.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].name.to_ascii(), "example.test.");
    // An alias that leads out of the cluster is followed for the client.
    let answer = server.udp(&question("away.default.svc.cluster.local.", RecordType::A)).await;
    assert!(matches!(&answer.answers[0].data, RData::CNAME(c) if c.0.to_ascii() == "www.example.test."));
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    server.stop().await;
    upstream.stop().await;
}

#[tokio::test]
async fn without_a_resolver_other_names_fail_at_once() {
    let server = Server::start("127.0.0.0/8", vec![]);
    server.handle.publish(records("cluster.local"));
    let answer = server.udp(&question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(!answer.metadata.recursion_available);
    server.stop().await;
}

#[tokio::test]
async fn a_server_never_asks_itself() {
    let of_own = |_| {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        bound(&Config { addresses: vec![own], upstreams: vec![own], ..Config::default() })
    };
    let nameserver = (0..20).find_map(of_own).unwrap();
    assert!(!nameserver.shared.forwarder.is_available());
}

#[tokio::test]
async fn what_is_no_question_is_told_so_or_dropped() {
    let server = Server::start("127.0.0.0/8", vec![]);
    server.handle.publish(records("cluster.local"));
    let mut update = question("cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(server.udp(&update).await.metadata.response_code, ResponseCode::NotImp);
    let none = Message::new(1, MessageType::Query, OpCode::Query);
    assert_eq!(server.udp(&none).await.metadata.response_code, ResponseCode::FormErr);
    let transfer = question("cluster.local.", RecordType::AXFR);
    assert_eq!(server.tcp(&[&transfer]).await[0].metadata.response_code, ResponseCode::Refused);
    // A response and a fragment get nothing; the next question on the same socket is answered.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let response = Message::response(7, OpCode::Query).to_vec().unwrap();
    for noise in [&response[..], &[1, 2, 3]] {
        socket.send_to(noise, server.address).await.unwrap();
    }
    let last = question("web.default.svc.cluster.local.", RecordType::A);
    socket.send_to(&last.to_vec().unwrap(), server.address).await.unwrap();
    let mut buffer = [0; 512];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, 4711);
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_comes_later_can_be_bound_now() {
    let mut addresses = vec!["192.0.2.53:0".parse().unwrap()];
    if std::net::UdpSocket::bind("[::]:0").is_ok() {
        addresses.push("[2001:db8::a]:0".parse().unwrap());
    }
    Nameserver::bind(&Config { addresses, ..Config::default() }).unwrap();
}

#[test]
fn resolv_conf_is_read_as_resolvers_read_it() {
    let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.2.3\nnameserver x\n nameserver fe80::1\nnameserver\n";
    assert_eq!(parse_resolv_conf(text), ["10.0.2.3:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]);
    assert_eq!(parse_resolv_conf(&"nameserver 9.9.9.9\n".repeat(5)).len(), 3);
}
