use super::harness::Server;
use axum::{Router, extract::Request, response::Response, routing::any};
use http::{Method, StatusCode, header};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use minisvc_store::Limits;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A node's server that echoes: its log is the request's path, what is sent to exec comes back.
async fn echo(mut request: Request) -> Response {
    if request.headers().contains_key(header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let io = TokioIo::new(upgrade.await.unwrap());
            let (mut reader, mut writer) = tokio::io::split(io);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        let headers = request.headers();
        assert!(!headers.contains_key(header::AUTHORIZATION), "the client's token is not the node's to see");
        let mut response =
            Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(header::CONNECTION, "upgrade");
        for name in ["upgrade", "sec-websocket-protocol", "x-stream-protocol-version"] {
            if let Some(value) = headers.get(name) {
                response = response.header(name, value);
            }
        }
        return response.header("x-path", request.uri().to_string()).body(axum::body::Body::empty()).unwrap();
    }
    if request.uri().path().contains("/redirecting/") {
        let elsewhere = format!("https://127.0.0.1:1{}", request.uri());
        let response = Response::builder().status(StatusCode::FOUND).header(header::LOCATION, elsewhere);
        return response.body(axum::body::Body::empty()).unwrap();
    }
    Response::new(request.uri().to_string().into())
}

async fn serve_node(listener: tokio::net::TcpListener, server: &Server) {
    let address = listener.local_addr().unwrap().ip();
    let (key, csr) = crate::pki::node_request("node1").unwrap();
    let certificate = server.pki.sign_node(&csr, "node1", address, jiff::Timestamp::now()).unwrap();
    serve_as(listener, server, crate::Identity { certificate, key });
}

fn serve_as(listener: tokio::net::TcpListener, server: &Server, identity: crate::Identity) {
    let mut roots = RootCertStore::empty();
    roots.add(server.pki.ca_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let (chain, key) = identity.tls().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return Ok(()) };
                let router = Router::new().route("/{*path}", any(echo));
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                    .with_upgrades()
                    .await
            });
        }
    });
}

#[tokio::test]
async fn logs_and_exec_go_to_the_node_of_the_pod() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server::start_with(Limits::default(), port).await;
    serve_node(listener, &server).await;
    let mut admin = server.admin().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}});
    admin.post("/api/v1/nodes", &node).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    for (name, on, containers) in [("one", "node1", 1), ("two", "node1", 2), ("waiting", "", 1)] {
        let containers: Vec<_> =
            (0..containers).map(|n| json!({"name": format!("c{n}"), "image": "echo"})).collect();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": containers}});
        if name == "two" {
            pod["spec"]["initContainers"] = json!([{"name": "before", "image": "echo"}]);
        }
        if !on.is_empty() {
            pod["spec"]["nodeName"] = on.into();
        }
        admin.post(pods, &pod).await.expect(201);
    }
    let early = admin.get(&format!("{pods}/one/log")).await;
    assert_eq!(early.code, 503, "{}", early.text);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    admin.patch("/api/v1/nodes/node1/status", "merge-patch", &status).await.expect(200);
    let log = admin.get(&format!("{pods}/one/log?tailLines=5")).await;
    assert_eq!((log.code, log.text.as_str()), (200, "/containerLogs/default/one/c0?tailLines=5"));
    let which = admin.get(&format!("{pods}/two/log")).await;
    assert_eq!(which.code, 400);
    let words = "choose one of: [c0 c1] or one of the init containers: [before]";
    assert!(which.message().contains(words), "{}", which.message());
    assert_eq!(admin.get(&format!("{pods}/two/log?container=before")).await.code, 200);
    assert_eq!(admin.get(&format!("{pods}/two/log?container=c1")).await.code, 200);
    assert_eq!(admin.get(&format!("{pods}/two/log?container=c9")).await.code, 400);
    assert_eq!(admin.get(&format!("{pods}/waiting/log")).await.code, 400);
    assert_eq!(admin.get(&format!("{pods}/missing/log")).await.code, 404);

    admin.headers.insert(header::UPGRADE, "SPDY/3.1".parse().unwrap());
    admin.headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
    let spdy = admin.send(Method::POST, &format!("{pods}/one/exec?command=sh"), "", "").await;
    assert_eq!(spdy.code, 400);
    assert!(spdy.message().contains("WebSocket"), "{}", spdy.message());

    let mut admin = server.admin().await;
    admin.headers.insert(header::UPGRADE, "websocket".parse().unwrap());
    admin.headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
    admin.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io".parse().unwrap());
    let answer = admin.raw(Method::GET, &format!("{pods}/one/exec?command=sh"), "", "").await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"any bytes at all").await.unwrap();
    let mut back = [0; 16];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"any bytes at all");

    // kubectl tries SPDY after a refusal, and prints what that one says.
    let mut admin = server.admin().await;
    for method in [Method::GET, Method::POST] {
        let refused = admin.send(method, &format!("{pods}/one/attach?stdin=true&stdout=true"), "", "").await;
        assert_eq!(refused.code, 400);
        assert!(refused.message().starts_with("stdin: container c0 of pod one has none"));
    }

    // Port forwarding has no container, and an older way in.
    let mut admin = server.admin().await;
    admin.headers.insert(header::UPGRADE, "SPDY/3.1".parse().unwrap());
    admin.headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
    admin.headers.insert("x-stream-protocol-version", "portforward.k8s.io".parse().unwrap());
    let answer = admin.raw(Method::POST, &format!("{pods}/two/portforward"), "", "").await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["x-stream-protocol-version"], "portforward.k8s.io");
    assert!(!answer.headers().contains_key("x-path"), "only what belongs to an upgrade is passed on");
    let mut admin = server.admin().await;
    let plain = admin.get(&format!("{pods}/two/portforward?ports=80")).await;
    assert_eq!(plain.code, 400);
    assert!(plain.message().starts_with("portforward is served over WebSocket"), "{}", plain.message());
    server.stop().await;
}

/// A node says its own address: whoever answers there must be that node, and is not followed anywhere.
#[tokio::test]
async fn a_node_is_who_its_certificate_says_and_leads_nowhere_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server::start_with(Limits::default(), port).await;
    serve_node(listener, &server).await;
    let (key, csr) = crate::pki::node_request("node1").unwrap();
    let address = "127.0.0.1".parse().unwrap();
    let of_another = server.pki.sign_node(&csr, "node1", address, jiff::Timestamp::now()).unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.3".to_owned()]).unwrap();
    for (at, certificate, key) in
        [("127.0.0.2", of_another, key), ("127.0.0.3", own.cert.pem(), own.signing_key.serialize_pem())]
    {
        let listener = tokio::net::TcpListener::bind((at, port)).await.unwrap();
        serve_as(listener, &server, crate::Identity { certificate, key });
    }
    let mut admin = server.admin().await;
    for (n, pod, words) in [
        (1, "redirecting", "node \"node1\" answered 302 Found"),
        (2, "stolen", "invalid peer certificate"),
        (3, "foreign", "invalid peer certificate"),
    ] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{n}")},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("127.0.0.{n}")}]}});
        admin.post("/api/v1/nodes", &node).await.expect(201);
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "spec": {"nodeName": format!("node{n}"), "containers": [{"name": "c", "image": "echo"}]}});
        let pods = "/api/v1/namespaces/default/pods";
        admin.post(pods, &object).await.expect(201);
        let answer = admin.get(&format!("{pods}/{pod}/log")).await;
        assert_eq!(answer.code, 502, "{pod}: {}", answer.text);
        assert!(answer.message().contains(words), "{pod}: {}", answer.message());
    }
    server.stop().await;
}

#[tokio::test]
async fn only_pods_at_their_own_addresses_are_proxied_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start_with(Limits::default(), listener.local_addr().unwrap().port()).await;
    serve_node(listener, &server).await;
    let mut admin = server.admin().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}, "spec": {"podCIDR": "10.42.1.0/24"}});
    admin.post("/api/v1/nodes", &node).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    admin.patch("/api/v1/nodes/node1/status", "merge-patch", &status).await.expect(200);
    let pods = "/api/v1/namespaces/default/pods";
    for (name, address) in [
        ("own", "10.42.1.5"),
        ("another", "10.42.2.5"),
        ("loopback", "127.0.0.1"),
        ("metadata", "169.254.169.254"),
        ("outside", "192.0.2.1"),
        ("none", ""),
    ] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "echo"}]}});
        admin.post(pods, &pod).await.expect(201);
        if !address.is_empty() {
            let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
            admin.patch(&format!("{pods}/{name}/status"), "merge-patch", &status).await.expect(200);
        }
        let answer = admin.get(&format!("{pods}/{name}:80/proxy")).await;
        if name == "own" {
            assert_eq!(answer.code, 301, "{}", answer.text);
            assert_eq!(answer.headers[header::LOCATION], format!("{pods}/{name}:80/proxy/"));
        } else {
            assert_eq!((answer.code, answer.message()), (400, "address not allowed"), "{name}");
        }
    }
    for (path, code, part) in [
        ("pods/missing/proxy/", 404, "pods \"missing\" not found"),
        ("pods/own:http/proxy/", 400, "invalid pod request"),
        ("pods/https:outside:1/proxy/", 400, "address not allowed"),
        ("pods/ftp:own:1/proxy/", 400, "invalid pod request"),
        ("services/missing/proxy/", 404, "services \"missing\" not found"),
    ] {
        let answer = admin.get(&format!("/api/v1/namespaces/default/{path}")).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.text);
        assert!(answer.message().contains(part), "{path}: {}", answer.message());
    }
    services_lead_to_their_pods(&mut admin).await;

    let health = admin.get("/api/v1/nodes/node1/proxy/healthz").await;
    assert_eq!((health.code, health.text.as_str()), (200, "/healthz"));
    for path in ["exec/a/b/c?command=sh", "containerLogs/a/b/c", "healthz/../exec/a/b/c", ""] {
        let refused = admin.get(&format!("/api/v1/nodes/node1/proxy/{path}")).await;
        assert_eq!(refused.code, 403, "{path}");
    }
    assert_eq!(admin.send(Method::POST, "/api/v1/nodes/node1/proxy/healthz", "", "").await.code, 403);
    server.stop().await;
}

async fn services_lead_to_their_pods(admin: &mut super::harness::Client) {
    admin.post(super::harness::SERVICES, &super::harness::service("web")).await.expect(201);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let proxied = "/api/v1/namespaces/default/services/web:80/proxy";
    let unavailable = admin.get(proxied).await;
    assert_eq!(
        (unavailable.code, unavailable.message()),
        (503, "no endpoints available for service \"web\"")
    );
    // A name is never looked up, whichever Pod it is said to be of.
    let named = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "FQDN",
        "metadata": {"name": "fqdn", "labels": {"kubernetes.io/service-name": "web"}}, "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": ["localhost"], "targetRef": {"kind": "Pod", "name": "own", "namespace": "default"}}]});
    admin.post(slices, &named).await.expect(201);
    assert_eq!(admin.get(proxied).await.code, 503);
    // What anybody may write into a slice leads nowhere but to a Pod, at its own address.
    for (name, address, pod) in [
        ("a", "192.0.2.1", "own"),
        ("b", "10.42.1.5", "another"),
        ("c", "10.42.1.9", "own"),
        ("d", "10.42.1.5", "own"),
    ] {
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}}, "ports": [{"name": "", "port": 8080}],
            "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": pod, "namespace": "default"}}]});
        admin.post(slices, &slice).await.expect(201);
        let answer = admin.get(proxied).await;
        assert_eq!(answer.code, if name == "d" { 301 } else { 503 }, "{name}: {}", answer.text);
    }
    let none = admin.get("/api/v1/namespaces/default/services/web:81/proxy").await;
    assert_eq!((none.code, none.message()), (503, "no service port 81 found for service \"web\""));
}
