//! Clients and endpoints of either family.

use super::*;

/// An endpoint at an address that answers with the client that the proxy told it of.
async fn endpoint_at(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.to_ascii_lowercase();
            let client =
                head.lines().find_map(|line| line.strip_prefix("x-forwarded-for: ")).unwrap_or_default();
            let length = client.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{client}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
#[allow(clippy::print_stderr)]
async fn clients_of_either_family_reach_endpoints_of_either() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let listen = ["127.0.0.1:0", "[::1]:0"].map(|text| text.parse().unwrap()).to_vec();
    let proxy = IngressProxy::bind(&Config { http: listen, https: Vec::new() }).unwrap();
    let (addresses, handle) = (proxy.addresses(), proxy.handle());
    let (four, six) = (endpoint_at("127.0.0.1:0").await, endpoint_at("[::1]:0").await);
    assert_eq!(handle.publish(table(&[("four.test", "/", &[four]), ("six.test", "/", &[six])])), []);
    let serving = tokio::spawn(proxy.serve(std::future::pending()));
    for (address, shown) in addresses.into_iter().zip(["127.0.0.1", "::1"]) {
        for host in ["four.test", "six.test"] {
            let request = Request::get("/").header("host", host).body(Full::<Bytes>::default()).unwrap();
            let response = client(address).await.send_request(request).await.unwrap();
            assert_eq!(text(response).await, shown, "{host} by {address}");
        }
    }
    serving.abort();
}
