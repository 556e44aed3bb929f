use super::harness::{CONFIG_MAPS, SERVICES, Server, config_map, revision, service};
use http::{Method, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn objects_live_and_die() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let made = admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(made["metadata"]["resourceVersion"], revision(&server).to_string());
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(admin.get(&path).await.expect(200), made);
    let again = admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await;
    assert_eq!((again.code, again.message()), (409, "configmaps \"a\" already exists"));

    let mut newer = made.clone();
    newer["data"]["a"] = "2".into();
    let newer = admin.put(&path, &newer).await.expect(200);
    assert_eq!(newer["data"]["a"], "2");
    let mut stale = made.clone();
    stale["data"]["a"] = "3".into();
    let conflict = admin.put(&path, &stale).await;
    assert_eq!(conflict.code, 409);
    assert!(conflict.message().contains("the object has been modified"), "{}", conflict.message());

    // What changes nothing makes no revision.
    let before = revision(&server);
    assert_eq!(admin.put(&path, &newer).await.expect(200), newer);
    assert_eq!(revision(&server), before);

    let gone = admin.delete(&path).await.expect(200);
    assert_eq!((&gone["status"], &gone["details"]["name"]), (&json!("Success"), &json!("a")));
    let missing = admin.get(&path).await;
    assert_eq!((missing.code, missing.message()), (404, "configmaps \"a\" not found"));
    assert_eq!(admin.delete(&path).await.code, 404);
    server.stop().await;
}

#[tokio::test]
async fn patches_of_each_kind() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(SERVICES, &service("web")).await.expect(201);
    let path = format!("{SERVICES}/web");
    let merged =
        admin.patch(&path, "merge-patch", &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(merged["metadata"]["labels"]["a"], "b");
    let port = json!({"spec": {"ports": [{"port": 443, "name": "s"}, {"port": 80, "name": "p"}]}});
    let strategic = admin.patch(&path, "strategic-merge-patch", &port).await.expect(200);
    assert_eq!(strategic["spec"]["ports"].as_array().unwrap().len(), 2);
    let json_patch = json!([{"op": "replace", "path": "/metadata/labels/a", "value": "c"}]);
    let patched = admin.patch(&path, "json-patch", &json_patch).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["a"], "c");
    let unknown = admin.send(Method::PATCH, &path, "application/x-patch", "{}").await;
    assert_eq!(unknown.code, 415);
    let stale = json!({"metadata": {"resourceVersion": "1"}});
    assert_eq!(admin.patch(&path, "merge-patch", &stale).await.code, 409);
    let missing = admin.patch(&format!("{SERVICES}/no"), "merge-patch", &json!({})).await;
    assert_eq!(missing.code, 404);
    server.stop().await;
}

#[tokio::test]
async fn bad_bodies_are_refused_by_name_and_nothing_is_stored() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let before = revision(&server);
    let long = format!("{{\"data\":\"{}\"}}", "x".repeat(3 << 20));
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for (media, body, code, words) in [
        ("application/json", "{", 400, "body"),
        ("application/json", "[]", 400, ""),
        ("application/json", deep.as_str(), 400, "body"),
        ("application/json", long.as_str(), 413, "limit"),
        ("application/json", "\u{0}", 400, "body"),
        ("application/yaml", "a: [", 400, "body"),
        ("application/yaml", "kind: ConfigMap\n---\nkind: ConfigMap", 400, "documents"),
        ("application/vnd.kubernetes.protobuf", "k8s\0", 400, "no kind"),
        ("application/vnd.kubernetes.protobuf", "{}", 400, "expected prefix [107 56 115 0]"),
        (
            "application/vnd.kubernetes.protobuf",
            "k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x03\x2a\x01x",
            400,
            "unknown field number 5 of ConfigMap",
        ),
        ("text/plain", "x", 415, "application/json"),
        (
            "application/json",
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"A_b"}}"#,
            422,
            "metadata.name",
        ),
        ("application/json", r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#, 400, "Secret"),
        (
            "application/json",
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":1}}"#,
            400,
            "string",
        ),
    ] {
        let answer = admin.send(Method::POST, CONFIG_MAPS, media, body.to_owned()).await;
        assert_eq!(answer.code, code, "{media} {:.60}: {}", body, answer.text);
        assert!(answer.message().contains(words), "{words}: {}", answer.message());
        assert_eq!(answer.body["kind"], "Status");
        // The rest of a body that is too long is not waited for.
        if code == 413 {
            admin = server.admin().await;
        }
    }
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dat": {}});
    let strict = admin.post(&format!("{CONFIG_MAPS}?fieldValidation=Strict"), &unknown).await;
    assert_eq!(strict.code, 400);
    assert!(strict.message().contains("unknown field \"dat\""), "{}", strict.message());
    let dry = admin.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("dry", json!({}))).await;
    assert_eq!(dry.code, 201);
    assert_eq!(
        admin.post(&format!("{CONFIG_MAPS}?dryRun=Some"), &config_map("dry", json!({}))).await.code,
        400
    );
    assert_eq!(revision(&server), before);
    let warned = admin.post(CONFIG_MAPS, &unknown).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers[header::WARNING], r#"299 - "unknown field \"dat\"""#);
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-yaml}\ndata: {a: b}\n";
    assert_eq!(
        admin.send(Method::POST, CONFIG_MAPS, "application/yaml", yaml).await.expect(201)["data"]["a"],
        "b"
    );
    server.stop().await;
}

#[tokio::test]
async fn methods_and_paths_that_are_not_served_say_so() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    for (method, path, code) in [
        (Method::GET, "/apis/apps/v1/namespaces/default/daemonsets", 404),
        (Method::GET, "/api/v1/namespaces/default/pods/x/nonsense", 404),
        (Method::POST, "/api/v1/namespaces/default/pods/x", 405),
        (Method::PUT, "/api/v1/namespaces/default/pods", 405),
        (Method::DELETE, "/api/v1/namespaces/default/pods/x/status", 405),
        (Method::POST, "/api/v1/pods", 405),
        (Method::POST, "/version", 405),
        (Method::PUT, "/metrics", 405),
        (Method::POST, "/api/v1/namespaces/default/configmaps?fieldValidation=Some", 400),
    ] {
        let body = config_map("x", json!({})).to_string();
        let answer = admin.send(method.clone(), path, "application/json", body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
        assert_eq!(answer.body["status"], "Failure", "{method} {path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn collections_are_deleted_by_label() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        admin.post(CONFIG_MAPS, &config_map(name, json!({"app": app}))).await.expect(201);
    }
    let deleted = admin.delete(&format!("{CONFIG_MAPS}?labelSelector=app%3Dx")).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = admin.get(CONFIG_MAPS).await.expect(200);
    let names: Vec<&Value> =
        left["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_services_of_sixteen_clients_get_a_thousand_addresses_and_ports() {
    let server = Server::start().await;
    let mut clients = Vec::new();
    for client in 0..16 {
        let mut admin = server.admin().await;
        clients.push(tokio::spawn(async move {
            let mut got = Vec::new();
            for n in (0..1000).filter(|n| n % 16 == client) {
                let made = admin.post(SERVICES, &service(&format!("s{n}"))).await.expect(201);
                let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
                got.push((made["spec"]["clusterIP"].as_str().unwrap().to_owned(), port));
            }
            got
        }));
    }
    let mut addresses = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for client in clients {
        for (address, port) in client.await.unwrap() {
            assert!((30000..=32767).contains(&port) && address.starts_with("10.43."), "{address} {port}");
            addresses.insert(address);
            ports.insert(port);
        }
    }
    assert_eq!((addresses.len(), ports.len()), (1000, 1000));
    let mut admin = server.admin().await;
    let taken = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late"},
        "spec": {"clusterIP": addresses.first().unwrap(), "ports": [{"port": 80}]}});
    let refused = admin.post(SERVICES, &taken).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().contains("spec.clusterIP"), "{}", refused.message());
    server.stop().await;
}
