//! Resolvers of the node: asked once, not in a circle, not for longer than a client waits.

use super::*;

/// A resolver that counts, and asks `next` for everything it is asked.
async fn resolver(next: Option<SocketAddr>) -> (SocketAddr, Arc<AtomicU64>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            Counters::count(&counter);
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(asked.metadata.id, OpCode::Query);
            answer.add_query(asked.queries[0].clone());
            let name = asked.queries[0].name().clone();
            if let Some(next) = next {
                let onward = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                onward.send_to(&buffer[..length], next).await.unwrap();
                let mut buffer = [0; 4096];
                let said = timeout(Duration::from_millis(500), onward.recv(&mut buffer)).await;
                let Ok(Ok(length)) = said else { continue };
                socket.send_to(&buffer[..length], client).await.unwrap();
            } else {
                let data = RData::A(hickory_server::proto::rr::rdata::A::new(192, 0, 2, 7));
                answer.add_answer(hickory_server::proto::rr::Record::from_rdata(name, 30, data));
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        }
    });
    (address, asked)
}

#[tokio::test]
async fn what_a_resolver_said_is_not_asked_again() {
    let (upstream, asked) = resolver(None).await;
    let server = Server::start("127.0.0.0/8", vec![upstream]);
    server.handle.publish(records("cluster.local"));
    for name in ["www.example.test.", "WWW.example.test.", "www.EXAMPLE.test."] {
        let answer = server.udp(&question(name, RecordType::A)).await;
        assert_eq!(addresses(&answer), ["192.0.2.7"]);
        assert_eq!(answer.queries[0].name().to_ascii(), name);
    }
    // Once for the name, once to look for a circle.
    assert!(asked.load(Relaxed) <= 2, "{asked:?}");
    server.stop().await;
}

#[tokio::test]
async fn resolvers_that_lead_in_a_circle_are_not_asked() {
    let (own, asked, nameserver) = loop {
        let own = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (upstream, asked) = resolver(Some(own)).await;
        let config = Config {
            addresses: vec![own],
            allowed: vec!["127.0.0.0/8".parse().unwrap()],
            upstreams: vec![upstream],
            ..Config::default()
        };
        if let Some(nameserver) = bound(&config) {
            break (own, asked, nameserver);
        }
    };
    let handle = nameserver.handle();
    handle.publish(records("cluster.local"));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(nameserver.serve(async {
        let _ = stopped.await;
    }));
    let server = Server { address: own, addresses: vec![own], handle, stop, task };
    timeout(Duration::from_secs(10), async {
        while !server.handle.0.in_circle.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let before = asked.load(Relaxed);
    let answer = server.udp(&question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(!answer.metadata.recursion_available && asked.load(Relaxed) <= before + 1);
    let answer = server.udp(&question("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["10.43.0.20"]);
    server.stop().await;
}

#[tokio::test]
async fn a_resolver_that_is_silent_is_waited_for_less_than_a_client_waits() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start("127.0.0.0/8", vec![silent.local_addr().unwrap()]);
    server.handle.publish(records("cluster.local"));
    let asked = std::time::Instant::now();
    let answer = server.udp(&question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(asked.elapsed() < Duration::from_millis(4900), "{:?}", asked.elapsed());
    server.stop().await;
}
