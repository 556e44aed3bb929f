//! The client and the control loops against an API server in this process.

mod fake;

use super::*;
use fake::{Fake, key};
use jiff::{SignedDuration, Timestamp};
use minisvc_apimachinery::{Snapshot, Synced, cluster::AddressRange};
use serde_json::{Value, json};
use std::net::IpAddr;
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(20);

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn newest(follower: &minisvc_client::Follower) -> Option<Arc<Synced<Snapshot>>> {
    follower.snapshots().borrow().clone()
}

fn services(follower: &minisvc_client::Follower) -> Vec<String> {
    newest(follower).map_or_else(Vec::new, |s| s.services.keys().map(|key| key.name.clone()).collect())
}

#[tokio::test]
async fn a_follower_survives_a_restart_and_a_lost_window_and_forgets_what_vanished() {
    let mut fake = Fake::start().await;
    fake.put(&key("services", "default", "a"), json!({}));
    fake.put(&key("nodes", "", "node1"), json!({}));
    let interest = Interest::new([Kind::Services, Kind::Nodes]);
    let follower = follow(&fake.client(), &interest);
    until("the first lists", || newest(&follower).filter(|s| s.nodes.len() == 1 && s.services.len() == 1))
        .await;
    fake.put(&key("services", "default", "b"), json!({}));
    until("an event", || (services(&follower) == ["a", "b"]).then_some(())).await;

    fake.kill().await;
    fake.delete(&key("services", "default", "a"));
    fake.put(&key("services", "default", "c"), json!({}));
    until("the loss to be noticed", || follower.contact().problem()).await;
    assert_eq!(services(&follower), ["a", "b"], "the last snapshot stands");
    fake.start_again().await;
    until("the new list", || (services(&follower) == ["b", "c"]).then_some(())).await;

    fake.put(&key("services", "default", "d"), json!({}));
    until("an event after the new list", || (services(&follower) == ["b", "c", "d"]).then_some(())).await;
    until("contact", || (follower.contact().age() < Duration::from_secs(1)).then_some(())).await;
    until("the problem to pass", || follower.contact().problem().is_none().then_some(())).await;
}

struct Running {
    fake: Fake,
    health: Health,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(grace: Grace) -> Self {
        let fake = Fake::start().await;
        let ip = |last| IpAddr::from([192, 168, 9, last]);
        let pool = vec![AddressRange { first: ip(200), last: ip(209) }];
        let config = ManagerConfig {
            cluster: ClusterConfig { load_balancer_pool: pool, ..ClusterConfig::default() },
            api_server: "192.168.9.1:6443".parse().unwrap(),
            ca: "PEM".to_owned(),
            grace,
            node_name: "node1".to_owned(),
        };
        let manager = Manager::new(fake.client(), config);
        let mut health = manager.health();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(manager.run(async {
            let _ = stopped.await;
        }));
        assert!(tokio::time::timeout(PATIENCE, health.ready()).await.unwrap());
        Self { fake, health, stop: Some(stop), task }
    }

    fn node(&self, name: &str, ready: bool) {
        let mut node = self.fake.get(&key("nodes", "", name)).unwrap_or_else(|| json!({}));
        node["status"] = json!({
            "addresses": [{ "type": "InternalIP", "address": "192.168.9.1" }],
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        });
        self.fake.put(&key("nodes", "", name), node);
    }

    fn beat(&self, name: &str) {
        let lease = json!({ "spec": { "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now()) } });
        self.fake.put(&key("leases", "kube-node-lease", name), lease);
    }

    fn pod(&self, name: &str, address: Option<&str>) {
        let at = key("pods", "default", name);
        let mut pod = self.fake.get(&at).unwrap_or_else(|| {
            json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c" }] } })
        });
        if let Some(address) = address {
            pod["status"] = json!({
                "phase": "Running", "podIP": address,
                "conditions": [{ "type": "Ready", "status": "True" }],
            });
        }
        self.fake.put(&at, pod);
    }

    fn service(&self, name: &str, kind: &str) {
        let spec = json!({
            "type": kind, "selector": { "app": "web" },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }],
        });
        self.fake.put(&key("services", "default", name), json!({ "spec": spec }));
    }

    fn endpoints(&self, service: &str) -> Vec<Value> {
        let state = self.fake.state.lock().unwrap();
        let slices = state.objects.iter().filter(|(key, slice)| {
            key.0 == "endpointslices" && slice["metadata"]["labels"]["kubernetes.io/service-name"] == service
        });
        slices.flat_map(|(_, slice)| slice["endpoints"].as_array().cloned().unwrap_or_default()).collect()
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_cluster_is_run() {
    let running = Running::start(Grace::default()).await;
    assert_eq!(running.health.problem(), None);
    let fake = &running.fake;
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(fake.get(&key("namespaces", "", namespace)).is_some(), "{namespace}");
    }
    assert_eq!(
        fake.get(&key("services", "kube-system", "kube-dns")).unwrap()["spec"]["clusterIP"],
        "10.43.0.10"
    );
    assert_eq!(running.endpoints("kubernetes")[0]["addresses"], json!(["192.168.9.1"]));

    for name in ["node1", "node2", "node3"] {
        running.node(name, true);
        running.beat(name);
    }
    until("each node's network", || {
        let of =
            |name| fake.get(&key("nodes", "", name)).unwrap()["spec"]["podCIDR"].as_str().map(str::to_owned);
        let nets: std::collections::BTreeSet<_> = [of("node1")?, of("node2")?, of("node3")?].into();
        (nets.len() == 3).then_some(())
    })
    .await;

    running.service("web", "LoadBalancer");
    for name in ["a", "b", "c"] {
        running.pod(name, None);
    }
    until("three Pods on three nodes", || {
        let of = |name| {
            fake.get(&key("pods", "default", name)).unwrap()["spec"]["nodeName"].as_str().map(str::to_owned)
        };
        let nodes: std::collections::BTreeSet<_> = [of("a")?, of("b")?, of("c")?].into();
        (nodes.len() == 3).then_some(())
    })
    .await;
    let balancer = || fake.get(&key("services", "default", "web")).unwrap()["status"]["loadBalancer"].clone();
    until("the load balancer's address", || {
        (balancer()["ingress"][0]["ip"] == "192.168.9.200").then_some(())
    })
    .await;

    let mut slowest = Duration::ZERO;
    for (n, name) in ["a", "b", "c"].iter().enumerate() {
        let start = Instant::now();
        running.pod(name, Some(&format!("10.42.{n}.2")));
        until("the endpoint", || (running.endpoints("web").len() == n + 1).then_some(())).await;
        slowest = slowest.max(start.elapsed());
    }
    println!("Pod ready to EndpointSlice written: at most {slowest:?}");
    fake.delete(&key("pods", "default", "b"));
    until("the endpoint to go", || (running.endpoints("web").len() == 2).then_some(())).await;
    let ips = |name| {
        let subsets = fake.get(&key("endpoints", "default", name))?["subsets"].clone();
        let addresses = subsets[0]["addresses"].as_array()?.clone();
        Some(addresses.iter().map(|a| a["ip"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>())
    };
    until("the Endpoints", || ips("web").filter(|ips| *ips == ["10.42.0.2", "10.42.2.2"])).await;
    assert_eq!(ips("kubernetes").unwrap(), ["192.168.9.1"]);

    fake.put(&key("services", "default", "db"), json!({ "spec": { "ports": [] } }));
    let by_hand =
        json!({ "subsets": [{ "addresses": [{ "ip": "192.0.2.7" }], "ports": [{ "port": 5432 }] }] });
    fake.put(&key("endpoints", "default", "db"), by_hand);
    until("the mirrored slice", || (running.endpoints("db").len() == 1).then_some(())).await;
    fake.delete(&key("services", "default", "db"));
    until("the Endpoints to follow their Service", || {
        (fake.get(&key("endpoints", "default", "db")).is_none() && running.endpoints("db").is_empty())
            .then_some(())
    })
    .await;

    fake.put(&key("configmaps", "gone", "x"), json!({}));
    fake.put(&key("services", "gone", "x"), json!({ "spec": {} }));
    fake.put(&key("namespaces", "", "gone"), json!({
        "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" }, "spec": { "finalizers": ["kubernetes"] },
    }));
    until("the namespace to go", || fake.get(&key("namespaces", "", "gone")).is_none().then_some(())).await;
    assert!(
        fake.get(&key("services", "gone", "x")).is_none()
            && fake.get(&key("configmaps", "gone", "x")).is_none()
    );

    // Nothing is written without need: a quiet second, seen by the server.
    let quiet = async {
        let mut last = usize::MAX;
        loop {
            let now = fake.state.lock().unwrap().writes.len();
            if now == last {
                return;
            }
            last = now;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, quiet).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_silent_node_is_declared_unknown_but_not_for_our_own_blindness() {
    let grace = Grace { silence: SignedDuration::from_millis(800), ..Grace::default() };
    let mut running = Running::start(grace).await;
    let status = |running: &Running, name: &str| {
        running.fake.get(&key("nodes", "", name)).unwrap()["status"]["conditions"][0]["status"].clone()
    };
    for name in ["node1", "node2"] {
        running.node(name, true);
    }
    let end = Instant::now() + PATIENCE;
    while status(&running, "node2") != "Unknown" {
        assert!(Instant::now() < end);
        running.beat("node1");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(&running, "node1"), "True");
    // The server goes away for longer than the grace period: its nodes could not renew.
    running.fake.kill().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    running.fake.start_again().await;
    let start = Instant::now();
    let health = running.health.clone();
    until("contact again", || health.problem().is_none().then_some(())).await;
    while start.elapsed() < Duration::from_secs(2) {
        running.beat("node1");
        assert_eq!(status(&running, "node1"), "True");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn an_outage_amid_writes_gives_no_address_twice() {
    let mut running = Running::start(Grace::default()).await;
    for n in 0..6 {
        running.service(&format!("s{n}"), "LoadBalancer");
        if n == 3 {
            running.fake.kill().await;
            running.fake.start_again().await;
        }
    }
    let addresses = || {
        let state = running.fake.state.lock().unwrap();
        let of =
            |value: &Value| value["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned);
        state
            .objects
            .iter()
            .filter(|(key, _)| key.0 == "services")
            .filter_map(|(_, o)| of(o))
            .collect::<Vec<_>>()
    };
    let all = until("all addresses", || Some(addresses()).filter(|all| all.len() == 6)).await;
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 6);
    running.stop().await;
}
