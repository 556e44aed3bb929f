use super::harness::{CONFIG_MAPS, Server, config_map, pki};
use http::Method;
use minisvc_apimachinery::join::node_user;
use serde_json::json;

#[tokio::test]
async fn anybody_may_ask_for_health_version_and_the_ca_and_nothing_else() {
    let server = Server::start().await;
    let mut nobody = server.client(None).await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz?verbose", "/version", "/cacerts"] {
        assert_eq!(nobody.get(path).await.code, 200, "{path}");
    }
    assert!(nobody.get("/readyz?verbose").await.text.contains("[+]store ok"));
    assert_eq!(nobody.get("/version").await.body["major"], "1");
    assert_eq!(nobody.get("/cacerts").await.text, server.pki.ca_certificate());
    for path in ["/api", "/apis", "/api/v1/pods", "/metrics", "/openapi/v3", "/nonsense"] {
        let refused = nobody.get(path).await;
        assert_eq!((refused.code, &refused.body["reason"]), (401, &json!("Unauthorized")), "{path}");
    }
    assert_eq!(nobody.post("/minisvc/v1/join", &json!({})).await.code, 401);
    server.stop().await;
}

#[tokio::test]
async fn bearers_are_who_their_token_says() {
    let server = Server::start().await;
    let mut admin = server.client(None).await.bearer(&server.pki.admin_token);
    assert_eq!(admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await.code, 201);
    let mut wrong = server.admin().await.bearer("wrong");
    assert_eq!(wrong.get("/api").await.code, 401);
    let mut other = server.admin().await;
    other.headers.insert("impersonate-user", "jane".parse().unwrap());
    let refused = other.get("/api/v1/pods").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        r#"users "jane" is forbidden: User "system:admin" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
    let mut joining = server.client(None).await.bearer(&server.pki.join_token.secret);
    let refused = joining.get("/api/v1/namespaces/default/secrets").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        r#"secrets is forbidden: User "system:bootstrap" cannot list resource "secrets" in API group "" in the namespace "default""#
    );
    assert_eq!(joining.get("/metrics").await.code, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_not_let_in() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let foreign = pki(dir.path());
    let (certificate, key) = foreign.admin.tls().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.pki.ca_der()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificate, key)
        .unwrap();
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    // With TLS 1.3 the client learns of the refusal when it reads.
    if let Ok(mut stream) = connector.connect(name, stream).await {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = stream.write_all(b"GET /api HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut answer = Vec::new();
        assert!(stream.read_to_end(&mut answer).await.is_err() || answer.is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_node_writes_its_own_and_no_more() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let mut node = server.client(Some(&server.pki.node)).await;
    let object = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    assert_eq!(node.post("/api/v1/nodes", &object("node1")).await.code, 201);
    let other = node.post("/api/v1/nodes", &object("node2")).await;
    assert_eq!(other.code, 403);
    assert!(other.message().contains(&node_user("node1")), "{}", other.message());
    admin.post("/api/v1/nodes", &object("node2")).await.expect(201);
    let ready = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    assert_eq!(node.patch("/api/v1/nodes/node1/status", "merge-patch", &ready).await.code, 200);
    assert_eq!(node.patch("/api/v1/nodes/node2/status", "merge-patch", &ready).await.code, 403);

    let pods = "/api/v1/namespaces/default/pods";
    for (pod, on) in [("mine", "node1"), ("other", "node2")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "spec": {"nodeName": on, "containers": [{"name": "c", "image": "echo"}]}});
        admin.post(pods, &pod).await.expect(201);
    }
    let running = json!({"status": {"phase": "Running"}});
    for (pod, code) in [("mine", 200), ("other", 403)] {
        let status = node.patch(&format!("{pods}/{pod}/status"), "merge-patch", &running).await;
        assert_eq!(status.code, code, "{}", status.text);
    }
    assert_eq!(node.delete(&format!("{pods}/other")).await.code, 403);
    let now = json!({"gracePeriodSeconds": 0});
    let gone = node.send(Method::DELETE, &format!("{pods}/mine"), "application/json", now.to_string()).await;
    assert_eq!(gone.code, 200, "{}", gone.text);
    assert_eq!(admin.get(&format!("{pods}/mine")).await.code, 404);

    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    assert_eq!(node.post(leases, &lease("node1")).await.code, 201);
    assert_eq!(node.post(leases, &lease("node2")).await.code, 403);
    assert_eq!(node.get("/api/v1/services").await.code, 200);
    assert_eq!(node.post(CONFIG_MAPS, &config_map("a", json!({}))).await.code, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_node_reads_what_its_pods_name_and_no_more() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let mut node = server.client(Some(&server.pki.node)).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["mine", "other", "nobodys"] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        admin.post(secrets, &secret).await.expect(201);
        admin.post(CONFIG_MAPS, &config_map(name, json!({}))).await.expect(201);
    }
    for (name, on) in [("mine", Some("node1")), ("other", Some("node2")), ("nobodys", None)] {
        // Its own name says nothing, nor does a word of its own.
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"on": "node1"}},
            "spec": {"nodeName": on, "containers": [{"name": "c", "image": "echo", "args": ["other", "nobodys"],
                "envFrom": [{"configMapRef": {"name": name}}]}],
                "volumes": [{"name": "v", "secret": {"secretName": name}}]}});
        admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    }
    for kind in [secrets, CONFIG_MAPS] {
        node.get(&format!("{kind}/mine")).await.expect(200);
        for name in ["other", "nobodys", "absent"] {
            let refused = node.get(&format!("{kind}/{name}")).await;
            assert_eq!(refused.code, 403, "{kind}/{name}");
            let words = "no relationship found between node 'node1' and this object";
            assert!(refused.message().ends_with(words), "{}", refused.message());
        }
        assert_eq!(node.get(kind).await.code, 403);
    }
    let certificates = node.get("/api/v1/secrets?fieldSelector=type%3Dkubernetes.io/tls").await;
    assert_eq!(certificates.expect(200)["items"], json!([]));
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    admin
        .post(
            "/api/v1/namespaces/default/serviceaccounts",
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )
        .await;
    for (name, with_uid, why) in [
        ("mine", true, ""),
        ("mine", false, "node requested token with a pod binding without a uid"),
        ("other", true, "node requested token bound to a pod scheduled on a different node"),
        ("nobodys", true, "node requested token bound to a pod scheduled on a different node"),
        ("", true, "node requested token not bound to a pod"),
    ] {
        let mut to = json!({"apiVersion": "v1", "kind": "Pod", "name": name});
        if with_uid && !name.is_empty() {
            let pod = admin.get(&format!("/api/v1/namespaces/default/pods/{name}")).await.expect(200);
            to["uid"] = pod["metadata"]["uid"].clone();
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "boundObjectRef": to}});
        let answer = node.post(tokens, &request).await;
        assert_eq!(answer.code, if why.is_empty() { 201 } else { 403 }, "{name}: {}", answer.text);
        assert!(why.is_empty() || answer.message().ends_with(why), "{}", answer.message());
    }
    let now = json!({"gracePeriodSeconds": 0}).to_string();
    let mine = "/api/v1/namespaces/default/pods/mine";
    admin.send(Method::DELETE, mine, "application/json", now).await.expect(200);
    assert_eq!(node.get(&format!("{secrets}/mine")).await.code, 403);
    server.stop().await;
}
