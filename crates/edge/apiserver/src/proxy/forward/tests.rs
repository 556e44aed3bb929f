use super::{super::backend::Scheme, *};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PREFIX: &str = "/api/v1/namespaces/a/services/web/proxy";

#[test]
fn paths_are_split_as_they_were_sent() {
    assert_eq!(split("/api/v1/nodes/n/proxy/healthz", 5), ("/api/v1/nodes/n/proxy", "/healthz"));
    assert_eq!(split("/api/v1/nodes/n/proxy", 5), ("/api/v1/nodes/n/proxy", ""));
    let path = format!("{PREFIX}/a%2Fb//c/");
    assert_eq!(split(&path, 7), (PREFIX, "/a%2Fb//c/"));
    assert_eq!(split("/api", 7), ("/api", ""));
}

#[test]
fn redirects_within_the_backend_stay_below_the_proxy() {
    fn of(location: &str) -> String {
        rewrite(location, &["10.42.0.5:80", "127.0.0.1:6443"], PREFIX)
    }
    assert_eq!(of("/login?x=1"), format!("{PREFIX}/login?x=1"));
    assert_eq!(of("http://10.42.0.5:80/login"), format!("{PREFIX}/login"));
    assert_eq!(of("https://127.0.0.1:6443/login"), format!("{PREFIX}/login"));
    assert_eq!(of(&format!("{PREFIX}/there")), format!("{PREFIX}/there"));
    assert_eq!(of(&format!("{PREFIX}s/there")), format!("{PREFIX}{PREFIX}s/there"));
    for other in ["http://example.org/x", "//example.org/x", "next", "?page=2", "http://10.42.0.5:80"] {
        assert_eq!(of(other), other);
    }
}

#[test]
fn what_is_between_neighbours_is_not_passed_on() {
    let mut request = Request::new(Body::empty());
    for (name, value) in [
        ("connection", "keep-alive, x-own"),
        ("keep-alive", "timeout=5"),
        ("x-own", "1"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "x"),
        ("authorization", "Bearer secret"),
        ("cookie", "a=b"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let host = HeaderValue::from_static("api:6443");
    let headers = outgoing(&request, &host, is_upgrade(request.headers()));
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cookie", "host", "x-forwarded-host", "x-forwarded-uri"]);
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    let headers = outgoing(&request, &host, is_upgrade(request.headers()));
    assert_eq!(
        (&headers["connection"], &headers["upgrade"]),
        (&"Upgrade".parse().unwrap(), &"h2c".parse().unwrap())
    );
}

/// Reads until `until` has come, and answers with `answer`.
async fn serve(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    until: &'static str,
    answer: &'static str,
) -> String {
    let mut seen = String::new();
    while !seen.ends_with(until) {
        let mut buffer = [0; 1024];
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(length > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    seen
}

/// A backend that takes one connection.
async fn backend(until: &'static str, answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { serve(listener.accept().await.unwrap().0, until, answer).await });
    (address, task)
}

/// The same over TLS, with a certificate that it made for itself, for another name.
async fn tls_backend(
    until: &'static str,
    answer: &'static str,
) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let made = rcgen::generate_simple_self_signed(vec!["somebody.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        assert_eq!(stream.get_ref().1.server_name(), None, "it is dialled by its address");
        serve(stream, until, answer).await
    });
    (address, task)
}

async fn send(
    address: SocketAddr,
    method: Method,
    rest: &str,
    body: &'static str,
) -> Result<Response, Status> {
    send_by(Scheme::Http, address, method, rest, body).await
}

async fn send_by(
    scheme: Scheme,
    address: SocketAddr,
    method: Method,
    rest: &str,
    body: &'static str,
) -> Result<Response, Status> {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = format!("{PREFIX}{rest}?q=1").parse().unwrap();
    request.headers_mut().insert(header::HOST, "api:6443".parse().unwrap());
    let permit = REQUESTS.try_acquire().unwrap();
    let pods = PodDialer::new().unwrap();
    let backend = Backend { address, scheme };
    forward(&pods, backend, PREFIX, rest, request, permit, CancellationToken::new()).await
}

#[tokio::test]
async fn a_request_goes_there_and_its_answer_comes_back() {
    let answer = "HTTP/1.1 302 Found\r\nLocation: /next\r\nConnection: close, x-hop\r\nx-hop: 1\r\nx-app: 2\r\nContent-Length: 5\r\n\r\nthere";
    let (address, seen) = backend("payload", answer).await;
    let response = send(address, Method::PUT, "/a%2Fb", "payload").await.unwrap();
    let seen = seen.await.unwrap();
    assert!(seen.starts_with("PUT /a%2Fb?q=1 HTTP/1.1\r\n"), "{seen}");
    assert!(
        seen.contains("host: api:6443\r\n") && seen.contains(&format!("x-forwarded-uri: {PREFIX}/a%2Fb\r\n"))
    );
    assert_eq!(response.status(), StatusCode::FOUND, "no redirect is followed");
    assert_eq!(response.headers()[header::LOCATION], format!("{PREFIX}/next"));
    assert_eq!(response.headers()["x-app"], "2");
    assert!(!response.headers().contains_key("x-hop") && !response.headers().contains_key("connection"));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "there");
}

#[tokio::test]
async fn a_backend_of_https_is_spoken_to_by_tls_whoever_it_is() {
    let (address, seen) = tls_backend("payload", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere").await;
    let response = send_by(Scheme::Https, address, Method::POST, "/a", "payload").await.unwrap();
    assert!(seen.await.unwrap().starts_with("POST /a?q=1 HTTP/1.1\r\n"));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "there");
    // What is no TLS is not spoken to in the clear.
    let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listening.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listening.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let refused = send_by(Scheme::Https, plain, Method::GET, "/", "").await.unwrap_err();
    assert_eq!(refused.code, 503);
    assert!(refused.message.starts_with("error trying to reach service: tls: "), "{}", refused.message);
}

#[tokio::test]
async fn what_cannot_be_reached_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let status = send(address, Method::GET, "/", "").await.unwrap_err();
    assert_eq!((status.code, status.reason.as_str()), (503, "ServiceUnavailable"));
    assert_eq!(
        status.message,
        format!("error trying to reach service: dial tcp {address}: connect: connection refused")
    );
    let (address, _task) = backend("\r\n\r\n", "no HTTP at all\r\n\r\n").await;
    assert_eq!(send(address, Method::GET, "/", "").await.unwrap_err().code, 503);
    let (address, _task) =
        backend("\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
    assert_eq!(send(address, Method::GET, "/", "").await.unwrap_err().code, 503, "nobody asked for it");
}
