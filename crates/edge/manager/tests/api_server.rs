//! The control loops, the client and joining against the real API server, over TLS, with a restart in the middle.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::too_many_lines)] // a test from end to end

use jiff::Timestamp;
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey,
    cluster::AddressRange,
    resource::{
        CONFIG_MAPS, ENDPOINT_SLICES, EVENTS, LEASES, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS, SERVICES,
    },
};
use minisvc_apiserver::{CancellationToken, pki::node_request};
use minisvc_client::{ApiClient, DeleteOptions, JoinError, PatchKind, join, lease};
use minisvc_controllers::node_lifecycle::Grace;
use minisvc_manager::{Manager, ManagerConfig};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

mod server;
use server::{PATIENCE, Server, until};

fn cluster() -> ClusterConfig {
    let ip = |last| IpAddr::from([192, 168, 9, last]);
    let load_balancer_pool = vec![AddressRange { first: ip(200), last: ip(209) }];
    ClusterConfig { load_balancer_pool, ..ClusterConfig::default() }
}

async fn endpoints(client: &ApiClient, count: usize) {
    let end = Instant::now() + PATIENCE;
    loop {
        let query = "labelSelector=kubernetes.io%2Fservice-name%3Dweb";
        let list: Value = client.list(&ENDPOINT_SLICES, "default", query).await.unwrap();
        let slices = list["items"].as_array().unwrap();
        let found: usize = slices.iter().map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).sum();
        if found == count && !slices.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "waited in vain for {count} endpoints: {list:#}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn pod(admin: &ApiClient, name: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "echo" }] },
    });
    admin.create::<Value>(&PODS, "default", &pod).await.unwrap();
}

/// What a node's agent does once a Pod runs.
async fn runs(node: &ApiClient, name: &str, address: &str) {
    let status = json!({ "status": {
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    let key = ObjectKey::new("default", name);
    node.patch::<Value>(&PODS, &key, Some("status"), PatchKind::Merge, &status).await.unwrap();
}

async fn namespaces_have_an_account_and_the_certificates(admin: &ApiClient, ca: &str) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}});
    admin.create::<Value>(&NAMESPACES, "", &namespace).await.unwrap();
    // Sent at once: nobody has made the account yet.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "early"},
        "spec": {"containers": [{"name": "c", "image": "echo"}]}});
    let pod: Value = admin.create(&PODS, "late", &pod).await.unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    let account = ObjectKey::new("late", "default");
    for _ in 0..2 {
        until(admin, &SERVICE_ACCOUNTS, &account, "the account", |o| o["kind"] == "ServiceAccount").await;
        admin.delete(&SERVICE_ACCOUNTS, &account, &DeleteOptions::default()).await.unwrap();
    }
    let root_ca = ObjectKey::new("late", "kube-root-ca.crt");
    let is_right = |object: &Value| object["data"] == json!({ "ca.crt": ca });
    until(admin, &CONFIG_MAPS, &root_ca, "the certificates", is_right).await;
    for broken in
        [json!({"data": {"ca.crt": "mine"}}), json!({"data": {"ca.crt": "mine"}, "immutable": true})]
    {
        let patch = PatchKind::Merge;
        let changed: Value = admin.patch(&CONFIG_MAPS, &root_ca, None, patch, &broken).await.unwrap();
        assert!(!is_right(&changed));
        until(admin, &CONFIG_MAPS, &root_ca, "the certificates again", is_right).await;
    }
    admin.delete(&NAMESPACES, &ObjectKey::cluster("late"), &DeleteOptions::default()).await.unwrap();
    until(admin, &NAMESPACES, &ObjectKey::cluster("late"), "the namespace to go", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_run_over_a_restart_of_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "127.0.0.1:0", &cluster()).await;
    let admin = server.client(&server.pki.admin.certificate, &server.pki.admin.key);
    let controllers = server.client(&server.pki.controllers.certificate, &server.pki.controllers.key);
    let config = ManagerConfig {
        cluster: cluster(),
        api_server: "192.168.9.1:6443".parse().unwrap(),
        ca: server.pki.ca_certificate().to_owned(),
        grace: Grace { silence: jiff::SignedDuration::from_secs(4), ..Grace::default() },
        node_name: "node1".to_owned(),
    };
    let manager = Manager::new(controllers, config);
    let mut health = manager.health();
    let stop = CancellationToken::new();
    let running = tokio::spawn(manager.run(stop.clone().cancelled_owned()));
    assert!(tokio::time::timeout(PATIENCE, health.ready()).await.unwrap());
    let dns = ObjectKey::new("kube-system", "kube-dns");
    until(&admin, &SERVICES, &dns, "kube-dns", |s| s["spec"]["clusterIP"] == "10.43.0.10").await;

    namespaces_have_an_account_and_the_certificates(&admin, server.pki.ca_certificate()).await;

    let (key, csr) = node_request("node2").unwrap();
    let (token, ip) = (server.pki.join_token.to_string(), IpAddr::from([192, 168, 9, 2]));
    let joined = join(&server.url(), &token, "node2", ip, &csr).await.unwrap();
    let wrong = format!("{}.{}", token.rsplit_once('.').unwrap().0, "00".repeat(32));
    let refused = join(&server.url(), &wrong, "node3", ip, &csr).await.unwrap_err();
    assert!(matches!(refused, JoinError::Refused { .. }), "{refused}");
    assert_eq!(joined.cluster, cluster());
    let node = server.client(&joined.certificate, &key);

    node.create::<Value>(
        &NODES,
        "",
        &json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node2" } }),
    )
    .await
    .unwrap();
    let node_key = ObjectKey::cluster("node2");
    let ready = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": "192.168.9.2" }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    node.patch::<Value>(&NODES, &node_key, Some("status"), PatchKind::Merge, &ready).await.unwrap();
    let beating = node.clone();
    let beat = tokio::spawn(async move {
        loop {
            let _ = lease::renew_node(&beating, "node2", 4, Timestamp::now()).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    until(&admin, &NODES, &node_key, "podCIDR", |node| node["spec"]["podCIDR"] == "10.42.0.0/24").await;

    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "type": "LoadBalancer", "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    admin.create::<Value>(&SERVICES, "default", &service).await.unwrap();
    let web = ObjectKey::new("default", "web");
    until(&admin, &SERVICES, &web, "an address", |s| {
        s["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.168.9.200"
    })
    .await;
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        pod(&admin, name).await;
        let key = ObjectKey::new("default", name);
        until(&admin, &PODS, &key, "a node", |pod| pod["spec"]["nodeName"] == "node2").await;
        let start = Instant::now();
        runs(&node, name, &format!("10.42.0.{}", n + 2)).await;
        endpoints(&admin, n + 1).await;
        println!("Pod ready to EndpointSlice seen: {:?}", start.elapsed());
    }

    let spare = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "spare" } });
    admin.create::<Value>(&NAMESPACES, "", &spare).await.unwrap();
    admin.create::<Value>(&SERVICES, "spare", &service).await.unwrap();
    admin.delete(&NAMESPACES, &ObjectKey::cluster("spare"), &Default::default()).await.unwrap();
    until(&admin, &NAMESPACES, &ObjectKey::cluster("spare"), "the namespace to go", Value::is_null).await;

    let address = server.address.to_string();
    server.stop().await;
    assert!(admin.ping("/version").await.is_err());
    let server = Server::start(dir.path(), &address, &cluster()).await;
    pod(&admin, "c").await;
    until(&admin, &PODS, &ObjectKey::new("default", "c"), "a node after the restart", |pod| {
        pod["spec"]["nodeName"] == "node2"
    })
    .await;
    runs(&node, "c", "10.42.0.4").await;
    endpoints(&admin, 3).await;
    admin.delete(&SERVICES, &web, &Default::default()).await.unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        let list: Value = admin.list(&ENDPOINT_SLICES, "default", "").await.unwrap();
        if list["items"].as_array().unwrap().len() == 1 {
            break;
        }
        assert!(Instant::now() < end, "slices stay: {list:#}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let events: Value = admin.list(&EVENTS, "default", "").await.unwrap();
    let reasons: Vec<&str> =
        events["items"].as_array().unwrap().iter().filter_map(|e| e["reason"].as_str()).collect();
    assert!(reasons.contains(&"Scheduled"), "{reasons:?}");

    beat.abort();
    let _ = beat.await;
    until(&admin, &NODES, &node_key, "the silence to be noticed", |node| {
        node["status"]["conditions"][0]["status"] == "Unknown"
    })
    .await;
    let gone = ObjectKey::new("default", "a");
    until(&admin, &PODS, &gone, "its Pods not to be ready", |pod| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "False")
    })
    .await;
    assert!(
        admin
            .get_optional::<Value>(&LEASES, &ObjectKey::new("kube-node-lease", "node2"))
            .await
            .unwrap()
            .is_some()
    );
    stop.cancel();
    running.await.unwrap();
    server.stop().await;
}
