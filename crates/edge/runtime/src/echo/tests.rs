use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

struct Server {
    tcp: SocketAddr,
    udp: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

/// Serves on loopback, on any address of 127/8 and on ::1, and is asked by IPv4.
async fn start() -> Server {
    start_on(sockets::wildcard()).await
}

async fn start_on(wildcard: IpAddr) -> Server {
    let identity = Identity {
        pod: "web-0".into(),
        namespace: "default".into(),
        node: "node1".into(),
        address: Some(Ipv4Addr::new(10, 42, 0, 5).into()),
    };
    let any = vec![
        ContainerPort { port: 0, protocol: "TCP".into() },
        ContainerPort { port: 0, protocol: "UDP".into() },
    ];
    let (tcp, udp) = listen(&any, wildcard).unwrap();
    let port = |address: SocketAddr| SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    let (tcp_address, udp_address) = (port(tcp[0].local_addr().unwrap()), port(udp[0].local_addr().unwrap()));
    let (stop, stopped) = oneshot::channel();
    let task = tokio::task::spawn_local(serve(identity, tcp, udp, async {
        let _ = stopped.await;
    }));
    Server { tcp: tcp_address, udp: udp_address, stop, task }
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(end.as_bytes()) && stream.read(&mut byte).await.unwrap() > 0 {
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn http_tells_who_answered_on_a_kept_connection() {
    local(async {
        let server = start().await;
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        // The method in two segments: what is there first could be either protocol.
        stream.write_all(b"GE").await.unwrap();
        tokio::task::yield_now().await;
        for request in
            ["T /a/b?c=d HTTP/1.1\r\nHost: web.example\r\n\r\n", "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"]
        {
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "}\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            let body: serde_json::Value =
                serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            assert_eq!(body["pod"], "web-0");
            assert_eq!(body["address"], "10.42.0.5");
            assert_eq!(body["client"], stream.local_addr().unwrap().to_string());
            if body["path"] != "/2" {
                assert_eq!(
                    (&body["path"], &body["query"], &body["host"]),
                    (&"/a/b".into(), &"c=d".into(), &"web.example".into())
                );
            }
        }
    });
}

#[test]
fn large_bodies_go_both_ways() {
    local(async {
        let server = start().await;
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        stream
            .write_all(b"GET /bytes/1000003 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(all.len() - head, 1_000_003);
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n").await.unwrap();
        stream.write_all(&vec![0; 3_000_000]).await.unwrap();
        assert!(read_until(&mut stream, "}\n").await.contains("\"bodyBytes\":3000000"));
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        stream.write_all(b"GET /bytes/-1 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(read_until(&mut stream, "\r\n").await.contains("400"));
    });
}

#[test]
fn raw_tcp_answers_line_by_line_and_a_stop_lets_it_finish() {
    local(async {
        let server = start().await;
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        let expected = format!(
            "pod=web-0 namespace=default node=node1 address=10.42.0.5 client={} protocol=TCP\n",
            stream.local_addr().unwrap()
        );
        for _ in 0..3 {
            stream.write_all(b"hello\n").await.unwrap();
            assert_eq!(read_until(&mut stream, "\n").await, expected);
        }
        server.stop.send(()).unwrap();
        stream.write_all(b"still\n").await.unwrap();
        assert_eq!(read_until(&mut stream, "\n").await, expected);
        stream.write_all(b"no end").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_until(&mut stream, "\n").await, expected);
        server.task.await.unwrap();
        assert!(TcpStream::connect(server.tcp).await.is_err());
    });
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    local(async {
        let server = start().await;
        let mut raw = TcpStream::connect(server.tcp).await.unwrap();
        raw.write_all(b"x\n").await.unwrap();
        read_until(&mut raw, "\n").await;
        let mut web = TcpStream::connect(server.tcp).await.unwrap();
        web.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        read_until(&mut web, "}\n").await;
        server.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
    });
}

/// Asks by UDP; what is answered, which must come from where it was asked.
async fn ask(from: &UdpSocket, to: SocketAddr) -> String {
    from.send_to(b"", to).await.unwrap();
    let mut buffer = [0; 500];
    let answer = tokio::time::timeout(Duration::from_secs(10), from.recv_from(&mut buffer));
    let (length, asked) = answer.await.expect("an answer").unwrap();
    assert_eq!(asked, to);
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn udp_answers_from_the_address_it_was_sent_to() {
    local(async {
        // Where the kernel has no IPv6, the socket is of IPv4.
        for wildcard in [sockets::wildcard(), Ipv4Addr::UNSPECIFIED.into()] {
            let server = start_on(wildcard).await;
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let client = format!("client={} protocol=UDP\n", socket.local_addr().unwrap());
            for last in [1, 9] {
                let text = ask(&socket, SocketAddr::from(([127, 0, 0, last], server.udp.port()))).await;
                assert!(text.ends_with(&client) && text.contains("pod=web-0"), "{text}");
            }
        }
    });
}

/// Whether this machine has an IPv6 loopback; says so if not.
fn has_ipv6() -> bool {
    let found = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    if let Err(error) = &found {
        eprintln!("skipped: no IPv6 loopback: {error}");
    }
    found.is_ok()
}

#[test]
fn clients_of_both_families_are_answered_on_one_port() {
    if !has_ipv6() {
        return;
    }
    local(async {
        let server = start().await;
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let to = SocketAddr::new(loopback, server.tcp.port());
            let mut stream = TcpStream::connect(to).await.unwrap();
            let client = stream.local_addr().unwrap();
            stream.write_all(b"hello\n").await.unwrap();
            let text = read_until(&mut stream, "\n").await;
            assert!(text.ends_with(&format!("client={client} protocol=TCP\n")), "{text}");
            let mut stream = TcpStream::connect(to).await.unwrap();
            let client = stream.local_addr().unwrap().to_string();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let answer = read_until(&mut stream, "}\n").await;
            assert!(answer.contains(&format!("\"client\":\"{client}\"")), "{answer}");
            let socket = UdpSocket::bind((loopback, 0)).await.unwrap();
            let client = socket.local_addr().unwrap();
            let text = ask(&socket, SocketAddr::new(loopback, server.udp.port())).await;
            assert!(text.ends_with(&format!("client={client} protocol=UDP\n")), "{text}");
        }
    });
}

#[test]
fn default_ports_are_both_protocols_and_others_are_refused() {
    local(async {
        let sctp = [ContainerPort { port: 1, protocol: "SCTP".into() }];
        let error = listen(&sctp, Ipv4Addr::LOCALHOST.into()).unwrap_err();
        assert!(error.contains("SCTP"), "{error}");
    });
}
