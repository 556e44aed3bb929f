use super::*;
use crate::life::Action;
use axum::{Router, http::Version, response::Redirect, routing::get};
use std::path::Path;
use tokio::net::TcpListener;

const SECOND: Duration = Duration::from_secs(1);

async fn asks(action: Action, address: IpAddr) -> Answer {
    let executable = Executable::open(Path::new("/bin/true")).unwrap();
    let target = Target { address: Some(address), executable: &executable, order: None };
    target.probe(&action, SECOND).await
}

fn http(port: u16, path: &str) -> Action {
    Action::HttpGet { host: None, port, path: path.into(), tls: false, headers: Vec::new() }
}

fn local() -> IpAddr {
    [127, 0, 0, 1].into()
}

async fn web() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let agent = |headers: axum::http::HeaderMap| async move {
        let of = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let right = of("user-agent") == "kube-probe/1.33" && of("accept") == "*/*" && of("x-a") == "b";
        if right && of("host") == "web.example" {
            axum::http::StatusCode::OK
        } else {
            axum::http::StatusCode::IM_A_TEAPOT
        }
    };
    let router = Router::new()
        .route("/ok", get(|| async { "x".repeat(100_000) }))
        .route("/bad", get(|| async { (axum::http::StatusCode::INTERNAL_SERVER_ERROR, "no") }))
        .route("/slow", get(|| async { tokio::time::sleep(SECOND * 5).await }))
        .route("/here", get(|| async { Redirect::to("/ok") }))
        .route("/there", get(|| async { Redirect::to("http://192.0.2.1/ok") }))
        .route("/round", get(|| async { Redirect::to("/round") }))
        .route("/headers", get(agent));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

#[tokio::test]
async fn http_in_the_kubelets_words() {
    let port = web().await;
    let bad = |answer: Answer| match answer {
        Answer::Bad(text) | Answer::Doubtful(text) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(asks(http(port, "/ok"), local()).await, Answer::Good);
    assert_eq!(asks(http(port, "/here"), local()).await, Answer::Good);
    assert_eq!(bad(asks(http(port, "/bad"), local()).await), "HTTP probe failed with statuscode: 500");
    assert_eq!(bad(asks(http(port, "/gone"), local()).await), "HTTP probe failed with statuscode: 404");
    let there = asks(http(port, "/there"), local()).await;
    assert_eq!(there, Answer::Doubtful("Probe terminated redirects, Response body: ".into()));
    assert!(bad(asks(http(port, "/round"), local()).await).ends_with("stopped after 10 redirects"));
    let slow = bad(asks(http(port, "/slow"), local()).await);
    assert!(slow.contains("Client.Timeout exceeded while awaiting headers"), "{slow}");
    let headers = vec![("Host".to_owned(), "web.example".to_owned()), ("X-A".to_owned(), "b".to_owned())];
    let host = Some("localhost".to_owned());
    let action = Action::HttpGet { host, port, path: "/headers".into(), tls: false, headers };
    assert_eq!(asks(action, [192, 0, 2, 1].into()).await, Answer::Good);
    let closed = unused().await;
    assert_eq!(
        bad(asks(http(closed, "/x"), local()).await),
        format!(
            "Get \"http://127.0.0.1:{closed}/x\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
        )
    );
}

async fn unused() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn https_with_any_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let made = rcgen::generate_simple_self_signed(vec!["nobody.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = hyper_util::rt::TokioIo::new(acceptor.accept(stream).await.unwrap());
        let answer =
            |_| async { Ok::<_, std::convert::Infallible>(::http::Response::new(String::from("hi"))) };
        hyper::server::conn::http1::Builder::new()
            .serve_connection(stream, hyper::service::service_fn(answer))
            .await
    });
    let action = Action::HttpGet { host: None, port, path: "/".into(), tls: true, headers: Vec::new() };
    assert_eq!(asks(action, local()).await, Answer::Good);
}

#[tokio::test]
async fn tcp_in_the_kubelets_words() {
    let port = web().await;
    assert_eq!(asks(Action::TcpSocket { host: None, port }, local()).await, Answer::Good);
    let port = unused().await;
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(asks(Action::TcpSocket { host: None, port }, local()).await, Answer::Bad(refused));
    let why = "couldn't find port: x".to_owned();
    assert_eq!(asks(Action::Impossible { why: why.clone() }, local()).await, Answer::Unknown(why));
}

/// A server of the gRPC health protocol that knows the services `up` and `down`.
async fn health() -> u16 {
    use axum::body::{Body, Bytes};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = |request: axum::extract::Request| async move {
        assert_eq!(
            (request.version(), request.headers()["te"].as_bytes()),
            (Version::HTTP_2, b"trailers".as_slice())
        );
        let asked = axum::body::to_bytes(request.into_body(), 1000).await.unwrap();
        let service = String::from_utf8_lossy(&asked[5..]).trim_start_matches('\n').to_owned();
        let (code, status) = match service.get(1..).unwrap_or_default() {
            "up" | "" => ("0", 1),
            "down" => ("0", 2),
            "old" => ("12", 0),
            _ => ("5", 0),
        };
        let mut trailers = axum::http::HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        trailers.insert("grpc-message", "words".parse().unwrap());
        let data = Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status]));
        let frames = [Ok::<_, std::convert::Infallible>(data), Ok(Frame::trailers(trailers))];
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    };
    let router = Router::new().route("/grpc.health.v1.Health/Check", axum::routing::post(check));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

#[tokio::test]
async fn grpc_in_the_kubelets_words() {
    let port = health().await;
    let of = |service: &str| asks(Action::Grpc { port, service: service.into() }, local());
    assert_eq!(of("").await, Answer::Good);
    assert_eq!(of("up").await, Answer::Good);
    let bad = |text: &str| Answer::Bad(text.to_owned());
    assert_eq!(of("down").await, bad("service unhealthy (responded with \"NOT_SERVING\")"));
    let words =
        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): words";
    assert_eq!(of("old").await, bad(words));
    assert_eq!(
        of("nobody").await,
        bad("error: health rpc probe failed: rpc error: code = NotFound desc = words")
    );
    let port = unused().await;
    let Answer::Bad(text) = asks(Action::Grpc { port, service: String::new() }, local()).await else {
        panic!()
    };
    assert!(text.starts_with(&format!("error: failed to connect service at \"127.0.0.1:{port}\"")), "{text}");
    // What listens and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = asks(Action::Grpc { port, service: String::new() }, local()).await;
    assert_eq!(silent, bad("timeout: health rpc did not complete within 1s"));
}
