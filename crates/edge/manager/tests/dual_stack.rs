//! A cluster of both families as its API shows it: what the control plane gives to nodes and Services, and takes back.

#![allow(clippy::unwrap_used)]

use minisvc_apimachinery::{
    ClusterConfig, ObjectKey,
    cluster::AddressRange,
    resource::{ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICE_CIDRS, SERVICES},
};
use minisvc_apiserver::{CancellationToken, pki::node_request};
use minisvc_client::{ApiClient, PatchKind, join};
use minisvc_controllers::node_lifecycle::Grace;
use minisvc_manager::{Manager, ManagerConfig};
use serde_json::{Value, json};
use std::time::Instant;

mod server;
use server::{PATIENCE, Server, until};

fn cluster() -> ClusterConfig {
    let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let range =
        |first: &str, last: &str| AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap() };
    ClusterConfig {
        cluster_cidrs: nets(["10.42.0.0/16", "fd42::/56"]),
        service_cidrs: nets(["10.43.0.0/16", "fd43::/112"]),
        load_balancer_pool: vec![
            range("192.168.9.200", "192.168.9.209"),
            range("2001:db8:9::200", "2001:db8:9::209"),
        ],
        ..ClusterConfig::default()
    }
}

/// The endpoints of Service `web` by family, once there are as many slices as `wanted` and they say this.
async fn endpoints(client: &ApiClient, wanted: &[&str]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let query = "labelSelector=kubernetes.io%2Fservice-name%3Dweb";
        let list: Value = client.list(&ENDPOINT_SLICES, "default", query).await.unwrap();
        let slices = list["items"].as_array().unwrap();
        let shown = |slice: &Value| {
            let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
            let addresses = endpoints.iter().filter_map(|endpoint| endpoint["addresses"][0].as_str());
            let addresses = addresses.collect::<Vec<_>>().join(" ");
            format!("{} {addresses}", slice["addressType"].as_str().unwrap())
        };
        let mut found: Vec<String> = slices.iter().map(shown).collect();
        found.sort();
        if found == wanted {
            return;
        }
        assert!(Instant::now() < end, "waited in vain for {wanted:?}: {found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A node that has joined over its IPv6 address, and has a ready Pod.
async fn node_with_a_pod(server: &Server, admin: &ApiClient) {
    let (key, csr) = node_request("node2").unwrap();
    let token = server.pki.join_token.to_string();
    let joined = join(&server.url(), &token, "node2", "2001:db8::2".parse().unwrap(), &csr).await.unwrap();
    assert_eq!(joined.cluster, cluster());
    let node = server.client(&joined.certificate, &key);
    let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node2" } });
    node.create::<Value>(&NODES, "", &object).await.unwrap();
    let node_key = ObjectKey::cluster("node2");
    let nets = json!(["10.42.0.0/24", "fd42::/64"]);
    let given = until(admin, &NODES, &node_key, "podCIDRs", |node| node["spec"]["podCIDRs"] == nets).await;
    assert_eq!(given["spec"]["podCIDR"], nets[0]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "labels": { "app": "web" } },
        "spec": { "nodeName": "node2", "containers": [{ "name": "c", "image": "echo" }] },
    });
    admin.create::<Value>(&PODS, "default", &pod).await.unwrap();
    let status = json!({ "status": {
        "phase": "Running", "podIP": "10.42.0.2", "podIPs": [{ "ip": "10.42.0.2" }, { "ip": "fd42::2" }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    let pod = ObjectKey::new("default", "a");
    node.patch::<Value>(&PODS, &pod, Some("status"), PatchKind::Merge, &status).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_gets_and_gives_back_its_second_family() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "127.0.0.1:0", &cluster()).await;
    let admin = server.client(&server.pki.admin.certificate, &server.pki.admin.key);
    let controllers = server.client(&server.pki.controllers.certificate, &server.pki.controllers.key);
    let config = ManagerConfig {
        cluster: cluster(),
        api_server: "192.168.9.1:6443".parse().unwrap(),
        ca: server.pki.ca_certificate().to_owned(),
        grace: Grace::default(),
        node_name: "node1".to_owned(),
    };
    let manager = Manager::new(controllers, config);
    let mut health = manager.health();
    let stop = CancellationToken::new();
    let running = tokio::spawn(manager.run(stop.clone().cancelled_owned()));
    assert!(tokio::time::timeout(PATIENCE, health.ready()).await.unwrap());
    let both = json!(["10.43.0.10", "fd43::a"]);
    let dns = ObjectKey::new("kube-system", "kube-dns");
    until(&admin, &SERVICES, &dns, "kube-dns", |s| s["spec"]["clusterIPs"] == both).await;
    let cidrs = json!(["10.43.0.0/16", "fd43::/112"]);
    let own = ObjectKey::cluster("kubernetes");
    until(&admin, &SERVICE_CIDRS, &own, "the networks", |cidr| cidr["spec"]["cidrs"] == cidrs).await;
    node_with_a_pod(&server, &admin).await;

    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"],
            "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    admin.create::<Value>(&SERVICES, "default", &service).await.unwrap();
    let web = ObjectKey::new("default", "web");
    let ingress = |service: &Value| {
        let points = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        points.iter().filter_map(|point| Some(point["ip"].as_str()?.to_owned())).collect::<Vec<_>>()
    };
    let addresses = ["2001:db8:9::200", "192.168.9.200"];
    let given = until(&admin, &SERVICES, &web, "addresses", |s| ingress(s) == addresses).await;
    assert_eq!(given["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    endpoints(&admin, &["IPv4 10.42.0.2", "IPv6 fd42::2"]).await;
    let primary = |object: &Value| object["subsets"][0]["addresses"][0]["ip"] == "fd42::2";
    until(&admin, &ENDPOINTS, &web, "its Endpoints", primary).await;

    let to = async |spec: Value| {
        let patch = json!({ "spec": spec });
        admin.patch::<Value>(&SERVICES, &web, None, PatchKind::Merge, &patch).await.unwrap()
    };
    let single = to(json!({ "ipFamilyPolicy": "SingleStack" })).await;
    assert_eq!(single["spec"]["clusterIPs"], json!([given["spec"]["clusterIP"]]));
    endpoints(&admin, &["IPv6 fd42::2"]).await;
    until(&admin, &SERVICES, &web, "one address", |s| ingress(s) == addresses[..1]).await;
    to(json!({ "ipFamilyPolicy": "PreferDualStack" })).await;
    endpoints(&admin, &["IPv4 10.42.0.2", "IPv6 fd42::2"]).await;
    until(&admin, &SERVICES, &web, "both addresses again", |s| ingress(s) == addresses).await;
    stop.cancel();
    running.await.unwrap();
    server.stop().await;
}
