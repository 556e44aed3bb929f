//! Real requests over real sockets, to endpoints of every temper.

use super::*;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use minisvc_apimachinery::ObjectKey;
use minisvc_ingress::{Backend, Certificate, PathType};
use rustls::pki_types::{CertificateDer, ServerName};
use std::{convert::Infallible, sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
mod families;

struct Proxy {
    http: SocketAddr,
    https: SocketAddr,
    handle: Handle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Proxy {
    fn start(table: RouteTable) -> Self {
        let any = vec!["127.0.0.1:0".parse().unwrap()];
        let proxy = IngressProxy::bind(&Config { http: any.clone(), https: any }).unwrap();
        let (addresses, handle) = (proxy.addresses(), proxy.handle());
        assert_eq!(handle.publish(table), []);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(proxy.serve(async {
            let _ = stopped.await;
        }));
        Self { http: addresses[0], https: addresses[1], handle, stop, task }
    }

    async fn get(&self, host: &str, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header("host", host).body(Full::<Bytes>::default()).unwrap();
        let response = client(self.http).await.send_request(request).await.unwrap();
        let status = response.status();
        (status, text(response).await)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(Duration::from_secs(20), self.task).await.unwrap().unwrap();
    }
}

type Sender<B> = hyper::client::conn::http1::SendRequest<B>;

async fn client<B>(address: SocketAddr) -> Sender<B>
where
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// An endpoint that answers with its name, the path, some headers, and the length of the body.
async fn endpoint(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| async move {
                let get = |headers: &HeaderMap, name: &str| {
                    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned()
                };
                let headers = request.headers().clone();
                let path = request.uri().to_string();
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(frame) = body.frame().await {
                    length += frame.unwrap().data_ref().map_or(0, Bytes::len);
                }
                let shown = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-secret"];
                let shown = shown.map(|header| get(&headers, header)).join(" ");
                let text = format!("{name} {path} {shown} {length} {}", peer.port());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

/// An endpoint that does with each connection what `act` says, after it read the request's head.
async fn rude_endpoint<F>(act: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            tokio::spawn(act(stream));
        }
    });
    address
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A free port that nobody listens on.
fn dead() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn backend(endpoints: &[SocketAddr]) -> Arc<Backend> {
    let service = ObjectKey::new("default", "web");
    Arc::new(Backend { service, port: "80".into(), endpoints: endpoints.to_vec() })
}

fn table(routes: &[(&str, &str, &[SocketAddr])]) -> RouteTable {
    let mut table = RouteTable::default();
    for (host, path, endpoints) in routes {
        assert!(table.add_path(host, PathType::Prefix, path, &backend(endpoints)));
    }
    table
}

#[tokio::test]
async fn hosts_and_paths_reach_their_services_and_others_get_404_and_503() {
    let (one, two) = (endpoint("one").await, endpoint("two").await);
    let proxy =
        Proxy::start(table(&[("a.test", "/", &[one]), ("a.test", "/two", &[two]), ("b.test", "/", &[])]));
    for (host, path, expected) in
        [("a.test", "/x?y=1", "one /x?y=1 a.test"), ("A.test:80", "/two/z", "two /two/z")]
    {
        let (status, text) = proxy.get(host, path).await;
        assert!(status == StatusCode::OK && text.starts_with(expected), "{text}");
    }
    let (status, text) = proxy.get("c.test", "/").await;
    assert_eq!((status, text.lines().count()), (StatusCode::NOT_FOUND, 1));
    assert_eq!(proxy.get("b.test", "/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    proxy.handle.publish(table(&[("c.test", "/", &[two])]));
    assert_eq!(proxy.get("c.test", "/").await.0, StatusCode::OK);
    assert_eq!(proxy.get("a.test", "/").await.0, StatusCode::NOT_FOUND);
    let counters = proxy.handle.counters();
    assert_eq!(counters.requests.load(Relaxed), 6);
    assert_eq!(counters.responses.each_ref().map(|c| c.load(Relaxed)), [0, 3, 0, 2, 1]);
    proxy.stop().await;
}

#[tokio::test]
async fn endpoints_take_turns_and_learn_about_the_client_only_from_the_proxy() {
    let (one, two) = (endpoint("one").await, endpoint("two").await);
    let proxy = Proxy::start(table(&[("a.test", "/", &[one, two])]));
    let mut sender = client(proxy.http).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let request = Request::get("/")
            .header("host", "a.test")
            .header("x-forwarded-for", "6.6.6.6")
            .header("connection", "x-secret")
            .header("x-secret", "1")
            .body(Full::<Bytes>::default())
            .unwrap();
        // One connection for all: it is kept open by the proxy.
        sender.ready().await.unwrap();
        let text = text(sender.send_request(request).await.unwrap()).await;
        assert!(text.contains("/ a.test 127.0.0.1 http a.test - 0"), "{text}");
        seen.push(text[..3].to_owned());
    }
    assert_eq!(seen[..2], seen[2..]);
    assert_ne!(seen[0], seen[1]);
    assert_eq!(proxy.handle.counters().connections.load(Relaxed), 1);
    drop(sender);
    proxy.stop().await;
}

#[tokio::test]
async fn connections_to_endpoints_are_used_again() {
    let one = endpoint("one").await;
    let proxy = Proxy::start(table(&[("", "/", &[one])]));
    let port = |text: String| text.rsplit(' ').next().unwrap().to_owned();
    let first = port(proxy.get("a", "/").await.1);
    // The connection comes back a moment after the response was read.
    let again =
        timeout(Duration::from_secs(10), async { while port(proxy.get("a", "/").await.1) != first {} });
    again.await.unwrap();
    proxy.stop().await;
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 512;
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = echo.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
            .unwrap();
    });
    let proxy = Proxy::start(table(&[("", "/", &[address])]));
    let body = vec![7u8; CHUNK * CHUNKS];
    let request = Request::post("/").header("host", "x").body(Full::new(Bytes::from(body))).unwrap();
    let mut response = client(proxy.http).await.send_request(request).await.unwrap();
    let mut length = 0;
    while let Some(frame) = response.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(length, CHUNK * CHUNKS);
    proxy.stop().await;
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request() {
    let one = endpoint("one").await;
    let proxy = Proxy::start(table(&[("a", "/", &[dead(), one]), ("b", "/", &[dead()])]));
    for _ in 0..4 {
        let request = Request::post("/").header("host", "a").body(Full::new(Bytes::from("body"))).unwrap();
        let response = client(proxy.http).await.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(text(response).await.contains(" 4 "), "the body arrives once and whole");
    }
    assert_eq!(proxy.get("b", "/").await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(proxy.handle.counters().connect_failures.load(Relaxed), 3);
    proxy.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_dies_before_answering_gives_502_and_in_the_middle_a_broken_body() {
    let silent = rude_endpoint(|stream| async { drop(stream) }).await;
    let half = rude_endpoint(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    })
    .await;
    let proxy = Proxy::start(table(&[("silent", "/", &[silent]), ("half", "/", &[half])]));
    assert_eq!(proxy.get("silent", "/").await.0, StatusCode::BAD_GATEWAY);
    let request = Request::get("/").header("host", "half").body(Full::<Bytes>::default()).unwrap();
    let response = client(proxy.http).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.is_err(), "half a body is never taken for a whole one");
    proxy.stop().await;
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_costs_no_get() {
    let address = rude_endpoint(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        // Takes the next request on this connection, and closes without an answer.
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let proxy = Proxy::start(table(&[("", "/", &[address])]));
    for _ in 0..3 {
        assert_eq!(proxy.get("a", "/").await, (StatusCode::OK, "ok".to_owned()));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn upgraded_connections_pass_bytes_both_ways() {
    let address = rude_endpoint(|mut stream| async move {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-key: k\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await.unwrap();
        buffer.reverse();
        stream.write_all(&buffer).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(table(&[("", "/", &[address])]));
    let mut stream = TcpStream::connect(proxy.http).await.unwrap();
    let request =
        b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let head = read_head(&mut stream).await.to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("upgrade: websocket") && head.contains("x-key: k")
    );
    stream.write_all(b"abcd").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "dcba");
    drop(stream);
    timeout(Duration::from_secs(10), async {
        while proxy.handle.counters().tunnels.load(Relaxed) != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    proxy.stop().await;
}

#[tokio::test]
async fn smuggled_and_malformed_requests_are_refused() {
    let one = endpoint("one").await;
    let proxy = Proxy::start(table(&[("", "/", &[one])]));
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(proxy.http).await.unwrap();
        stream.write_all(bad.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 4"), "{bad:?}: {head}");
    }
    let mut stream = TcpStream::connect(proxy.http).await.unwrap();
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(80 * 1024));
    let _ = stream.write_all(long.as_bytes()).await;
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 431"));
    proxy.stop().await;
}

fn certificate(name: &str, host: &str) -> (Arc<Certificate>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let certificate = Certificate {
        secret: ObjectKey::new("default", name),
        chain_pem: made.cert.pem().into_bytes(),
        key_pem: made.signing_key.serialize_pem().into_bytes(),
    };
    (Arc::new(certificate), made.cert.der().clone())
}

async fn tls_get(
    address: SocketAddr,
    host: &'static str,
    trusted: &CertificateDer<'static>,
    alpn: &[u8],
) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from(host).unwrap(), stream).await?;
    let request =
        Request::get(format!("https://{host}/")).header("host", host).body(Full::<Bytes>::default()).unwrap();
    let io = TokioIo::new(stream);
    let response = if alpn == b"h2" {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    Ok(text(response).await)
}

#[tokio::test]
async fn tls_shows_each_name_its_certificate_and_a_bad_secret_harms_no_other() {
    let one = endpoint("one").await;
    let mut table = table(&[("", "/", &[one])]);
    let (a, a_der) = certificate("a", "a.test");
    let (wild, wild_der) = certificate("wild", "x.wild.test");
    let (other, _) = certificate("other", "other.test");
    let bad = Arc::new(Certificate { key_pem: a.key_pem.clone(), ..(*other).clone() });
    let broken = Arc::new(Certificate {
        secret: ObjectKey::new("default", "broken"),
        chain_pem: b"no pem".to_vec(),
        key_pem: Vec::new(),
    });
    for (host, certificate) in
        [("a.test", &a), ("*.wild.test", &wild), ("bad.test", &bad), ("broken.test", &broken)]
    {
        assert!(table.add_certificate(host, certificate));
    }
    let proxy = Proxy::start(RouteTable::default());
    let rejected: Vec<_> =
        proxy.handle.publish(table).into_iter().map(|r| (r.kind, r.name, r.reason)).collect();
    let expected = |name: &str| ("Secret", name.to_owned(), "InvalidCertificate");
    assert_eq!(rejected, [expected("broken"), expected("other")]);
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let text = tls_get(proxy.https, "a.test", &a_der, alpn).await.unwrap();
        assert!(text.starts_with("one / a.test 127.0.0.1 https a.test"), "{text}");
    }
    assert!(tls_get(proxy.https, "x.wild.test", &wild_der, b"h2").await.unwrap().contains("x.wild.test"));
    assert!(
        tls_get(proxy.https, "a.test", &wild_der, b"h2").await.is_err(),
        "the certificate is the name's own"
    );
    assert!(tls_get(proxy.https, "bad.test", &a_der, b"h2").await.is_err());
    assert!(proxy.handle.counters().tls_failures.load(Relaxed) >= 1);
    proxy.stop().await;
}
