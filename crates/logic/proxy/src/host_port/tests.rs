use crate::{NodeView, Planner};
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    resource::{ENDPOINT_SLICES, NODES, PODS, SERVICES},
};
use minisvc_netstate::{
    family::Address,
    nft::{Key, ServiceTable, Value},
};
use serde_json::{Value as Json, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A node with an address of each family, one more, and the API.
fn world() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|ip| json!({"type": "InternalIP", "address": ip}));
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": addresses}});
    snapshot.set(&NODES, ObjectKey::cluster("n1"), Some(node)).unwrap();
    let slice = json!({"metadata": {"namespace": "default", "name": "kubernetes"}, "addressType": "IPv4",
        "ports": [{"name": "https", "port": 7443}], "endpoints": [{"addresses": ["192.0.2.1"]}]});
    snapshot.set(&ENDPOINT_SLICES, ObjectKey::new("default", "kubernetes"), Some(slice)).unwrap();
    snapshot
}

fn pod(snapshot: &mut Snapshot, name: &str, created: &str, spec: Json) {
    let mut object = json!({"metadata": {"namespace": "ns", "name": name, "creationTimestamp": created},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.42.0.7"}, {"ip": "fd42::7"}]}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    snapshot.set(&PODS, ObjectKey::new("ns", name), Some(object)).unwrap();
}

fn ports(ports: Json) -> Json {
    json!({"containers": [{"name": "c", "ports": ports}]})
}

/// `ADDRESS:PORT` of the frontends, and what is left out.
fn planned<A: Address>(snapshot: &Snapshot) -> (Vec<String>, Vec<String>) {
    let cluster = minisvc_apimachinery::ClusterConfig {
        cluster_cidrs: ["10.42.0.0/16", "fd42::/56"].map(|net| net.parse().unwrap()).to_vec(),
        ..minisvc_apimachinery::ClusterConfig::default()
    };
    let first = |ip: IpAddr| vec![ip];
    let more = vec!["198.51.100.1".parse().unwrap()];
    let node = NodeView::of(snapshot, "n1", first("192.0.2.1".parse().unwrap()), more, &cluster);
    let mut planner = Planner::<A>::new(node, ServiceTable::new());
    planner.update(snapshot);
    let frontends = planner.table().iter().filter_map(|(key, value)| match (key, value) {
        (Key::Frontend(frontend), Value::Mark(_)) => Some(frontend.to_string()),
        (Key::NodePort(protocol, port), _) => Some(format!("node . {protocol} . {port}")),
        _ => None,
    });
    let rejected = planner.rejected().into_iter();
    let words =
        rejected.map(|rejection| format!("{} {}: {}", rejection.kind, rejection.name, rejection.message));
    (frontends.collect(), words.collect())
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-02T00:00:00Z";

#[test]
fn a_port_is_on_all_addresses_of_the_node_or_on_the_one_it_says() {
    let mut snapshot = world();
    let all = json!([
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 81, "hostPort": 8081, "hostIP": "198.51.100.1", "protocol": "UDP"},
        {"containerPort": 82, "hostPort": 8082, "hostIP": "0.0.0.0", "protocol": "SCTP"},
        {"containerPort": 83, "hostPort": 8083, "hostIP": "2001:db8::1"},
        {"containerPort": 84, "hostPort": 8084, "hostIP": "192.0.2.9"},
        {"containerPort": 85},
    ]);
    pod(&mut snapshot, "web", OLD, ports(all));
    let (frontends, rejected) = planned::<Ipv4Addr>(&snapshot);
    assert_eq!(
        frontends,
        [
            "192.0.2.1 . tcp . 8080",
            "192.0.2.1 . sctp . 8082",
            "198.51.100.1 . tcp . 8080",
            "198.51.100.1 . udp . 8081",
            "198.51.100.1 . sctp . 8082",
        ]
    );
    assert_eq!(rejected, ["Pod web: hostIP 192.0.2.9 is no address of node n1 for ports of Pods"]);
    let (frontends, rejected) = planned::<Ipv6Addr>(&snapshot);
    assert_eq!(frontends, ["2001:db8::1 . tcp . 8080", "2001:db8::1 . tcp . 8083"]);
    assert_eq!(rejected, [""; 0]);
}

#[test]
fn the_node_keeps_what_it_is_reached_by() {
    let mut snapshot = world();
    let own = [("TCP", 7443), ("TCP", 10250), ("UDP", 8472), ("UDP", 7443)];
    let own = own.map(|(protocol, port)| json!({"containerPort": 1, "hostPort": port, "protocol": protocol}));
    pod(&mut snapshot, "web", OLD, ports(json!(own)));
    let (frontends, rejected) = planned::<Ipv4Addr>(&snapshot);
    assert_eq!(frontends, ["192.0.2.1 . udp . 7443", "198.51.100.1 . udp . 7443"]);
    let words = ["tcp", "tcp", "udp"].iter().zip([10250, 7443, 8472]);
    let words: Vec<_> =
        words.map(|(of, port)| format!("Pod web: hostPort {port}/{of} is the node's own")).collect();
    assert_eq!(rejected, words);
}

#[test]
fn pods_elsewhere_over_or_in_the_nodes_network_have_none() {
    let one = || ports(json!([{"containerPort": 80, "hostPort": 8080}]));
    let with = |field: &str, value: Json| {
        let mut spec = one();
        spec[field] = value;
        spec
    };
    let init = |policy: Json| {
        let port = json!([{"containerPort": 80, "hostPort": 8080}]);
        json!({"containers": [], "initContainers": [{"name": "i", "restartPolicy": policy, "ports": port}]})
    };
    for (spec, count) in [
        (one(), 2),
        (with("nodeName", "n2".into()), 0),
        (with("hostNetwork", true.into()), 0),
        (init("Always".into()), 2),
        (init(Json::Null), 0),
    ] {
        let mut snapshot = world();
        pod(&mut snapshot, "web", OLD, spec.clone());
        assert_eq!(planned::<Ipv4Addr>(&snapshot).0.len(), count, "{spec}");
    }
    let mut snapshot = world();
    let status = json!({"phase": "Failed", "podIP": "10.42.0.7"});
    let meta = json!({"namespace": "ns", "name": "web"});
    let mut over = json!({"metadata": meta, "spec": with("nodeName", "n1".into()), "status": status});
    for (status, count) in [
        (over["status"].clone(), 0),
        (json!({"phase": "Pending"}), 0),
        (json!({"phase": "Running", "podIP": "192.0.2.7"}), 0),
        (json!({"phase": "Running", "podIP": "10.42.0.7"}), 2),
    ] {
        over["status"] = status.clone();
        snapshot.set(&PODS, ObjectKey::new("ns", "web"), Some(over.clone())).unwrap();
        assert_eq!(planned::<Ipv4Addr>(&snapshot).0.len(), count, "{status}");
    }
}

#[test]
fn the_older_claim_wins_whatever_it_is_of() {
    let service = |snapshot: &mut Snapshot, created: &str| {
        let object = json!({"metadata": {"namespace": "ns", "name": "web", "creationTimestamp": created},
            "spec": {"type": "NodePort", "clusterIP": "10.43.0.9", "ports": [{"port": 80, "nodePort": 30080}]}});
        snapshot.set(&SERVICES, ObjectKey::new("ns", "web"), Some(object)).unwrap();
    };
    let one = || ports(json!([{"containerPort": 80, "hostPort": 30080}]));
    let mut snapshot = world();
    service(&mut snapshot, OLD);
    pod(&mut snapshot, "web", NEW, one());
    let (frontends, rejected) = planned::<Ipv4Addr>(&snapshot);
    // Node ports do not answer at the other address.
    let expected = ["node . tcp . 30080", "10.43.0.9 . tcp . 80", "198.51.100.1 . tcp . 30080"];
    assert_eq!(frontends, expected);
    assert_eq!(rejected, ["Pod web: 192.0.2.1 . tcp . 30080 belongs to Service ns/web"]);

    service(&mut snapshot, "2026-01-03T00:00:00Z");
    pod(&mut snapshot, "last", "2026-01-04T00:00:00Z", one());
    let (frontends, rejected) = planned::<Ipv4Addr>(&snapshot);
    let expected = ["10.43.0.9 . tcp . 80", "192.0.2.1 . tcp . 30080", "198.51.100.1 . tcp . 30080"];
    assert_eq!(frontends, expected);
    let expected = [
        "Pod last: 192.0.2.1 . tcp . 30080 belongs to Pod ns/web",
        "Pod last: 198.51.100.1 . tcp . 30080 belongs to Pod ns/web",
        "Service web: 192.0.2.1 . tcp . 30080 belongs to Pod ns/web",
    ];
    assert_eq!(rejected, expected);
}
