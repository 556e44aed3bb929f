use super::{
    question::{Asked, Start, Target},
    text, walk,
};
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Snapshot,
    cluster::{FACTS_ANNOTATION, NodeFacts},
    resource,
};
use minisvc_netstate::nft::Protocol;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

fn cluster() -> Snapshot {
    let (cluster, link) = (ClusterConfig::default(), "eth0".to_owned());
    let facts =
        NodeFacts { cluster, link, prefix_len: 24, second: None, node_ports_at: None, addresses: Vec::new() };
    let facts = serde_json::to_string(&facts).unwrap();
    let node = |n: u8| {
        json!({"metadata": {"name": format!("node{n}"), "annotations": {FACTS_ANNOTATION: facts}},
            "spec": {"podCIDR": format!("10.42.{n}.0/24")},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{n}")}],
                       "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    let pod = |name: &str, n: u8, last: u8| {
        json!({"metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}")},
            "spec": {"nodeName": format!("node{n}"), "containers": []},
            "status": {"phase": "Running", "podIP": format!("10.42.{n}.{last}")}})
    };
    let slice = |name: &str, ends: &[(&str, &str)]| {
        let ends: Vec<Value> = ends
            .iter()
            .map(|(address, node)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
            .collect();
        json!({"metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": ends})
    };
    let service = |name: &str, spec: Value, ingress: Value| {
        json!({"metadata": {"namespace": "default", "name": name}, "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}}})
    };
    let http = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let web = json!({"type": "LoadBalancer", "clusterIP": "10.43.1.1", "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["198.51.100.0/24"], "ports": http});
    let mut snapshot = Snapshot::default();
    for (kind, object) in [
        (&resource::NODES, node(1)),
        (&resource::NODES, node(2)),
        (&resource::PODS, pod("one", 1, 5)),
        (&resource::PODS, pod("two", 2, 5)),
        (&resource::SERVICES, service("web", web, json!([{"ip": "203.0.113.1"}]))),
        (&resource::ENDPOINT_SLICES, slice("web", &[("10.42.2.5", "node2")])),
        (&resource::SERVICES, service("none", json!({"clusterIP": "None"}), json!([]))),
        (
            &resource::SERVICES,
            service("name", json!({"type": "ExternalName", "externalName": "example.org"}), json!([])),
        ),
        (
            &resource::SERVICES,
            service(
                "all",
                json!({"clusterIP": "10.43.1.2", "ports": [{"name": "http", "port": 80}]}),
                json!([]),
            ),
        ),
        (&resource::ENDPOINT_SLICES, slice("all", &[("10.42.1.5", "node1"), ("10.42.2.5", "node2")])),
    ] {
        snapshot.set(kind, super::key_of(kind, &object), Some(object)).unwrap();
    }
    snapshot
}

fn traced(from: Option<&str>, to: &str, via: Option<&str>) -> Result<walk::Walk<Ipv4Addr>, String> {
    let snapshot = cluster();
    let asked = Asked { to: Target::parse(to)?, from, via, namespace: "default" };
    walk::walk(&snapshot, asked.resolve(&snapshot)?)
}

fn said(from: &str, to: &str) -> String {
    text::text(&traced(Some(from), to, None).unwrap(), false)
}

#[test]
fn a_walk_reads_as_a_story() {
    let link = minisvc_podnet::link_name("uid-one");
    let expected = format!(
        "from     Pod default/one (10.42.1.5) on node1
to       10.43.1.2:80/tcp
node1    cluster IP of Service default/all, port 80 (http)
         internalTrafficPolicy Cluster: endpoints of all nodes
            50 %  DNAT to 10.42.1.5:8080        to Pod default/one here, by {link}; source becomes node1's address
            50 %  DNAT to 10.42.2.5:8080        to Pod default/two on node2, by msvvx via 10.42.2.0; source is kept
verdict  reaches one of 2 endpoints
"
    );
    assert_eq!(said("one", "all:http"), expected);
}

#[test]
fn a_packet_is_followed_to_the_node_it_is_sent_to() {
    let walk = traced(Some("pod/one"), "192.0.2.2:30080", None).unwrap();
    let sources: Vec<_> =
        walk.hops.iter().map(|hop| (hop.node.as_str(), hop.packet.source.to_string())).collect();
    assert_eq!(sources, [("node1", "10.42.1.5".to_owned()), ("node2", "192.0.2.1".to_owned())]);
    assert_eq!(walk.end(), walk::End::Endpoint);
    // A node that sends to itself does so from that very address; node ports of a Local policy let nodes in.
    let own = traced(Some("node1"), "192.0.2.1:30080", None).unwrap();
    assert_eq!(own.hops[0].packet.source.to_string(), "192.0.2.1");
    assert!(own.hops[0].packet.from_node);
    let to_service = traced(Some("node1"), "web:80", None).unwrap();
    assert_eq!(to_service.hops[0].packet.source.to_string(), "10.42.1.1");
}

#[test]
fn refusals_say_why() {
    let last = |from: &str, to: &str| said(from, to).lines().last().unwrap().to_owned();
    let local = "dropped: the Service has endpoints, but none on this node, and the policy is Local";
    assert_eq!(last("198.51.100.7", "192.0.2.1:30080"), format!("verdict  {local}"));
    assert_eq!(last("198.51.100.7", "203.0.113.1:80"), "verdict  reaches the endpoint");
    assert_eq!(
        last("192.0.2.99", "203.0.113.1:80"),
        "verdict  dropped: the client is in none of loadBalancerSourceRanges"
    );
    let refused = "verdict  refused (TCP reset): no Service has this address and port";
    assert_eq!(last("one", "all:81"), refused);
    assert_eq!(
        last("one", "10.42.9.9:80"),
        "verdict  refused (TCP reset): there is no route to that address"
    );
    assert_eq!(last("one", "10.43.0.10:53/udp"), "verdict  passes, as it was sent");
    let walk = traced(Some("198.51.100.7"), "10.43.1.2:80", Some("node2")).unwrap();
    assert_eq!((walk.hops[0].node.as_str(), walk.end()), ("node2", walk::End::Endpoint));
    let json = text::json(&walk);
    assert_eq!(json["hops"][0]["endpoints"][0]["probability"], 0.5);
    assert_eq!(json["hops"][0]["endpoints"][0]["masquerade"], true);
    assert_eq!(json["verdict"], "Endpoint");
}

#[test]
fn what_names_nothing_is_refused_by_name() {
    let refused = |from: Option<&str>, to: &str, via: Option<&str>| traced(from, to, via).unwrap_err();
    for (to, words) in [
        ("10.43.1.1", "has no port"),
        ("10.43.1.1:0", "is not a port, 1 to 65535"),
        ("10.43.1.1:70000", "is not a port"),
        ("10.43.1.1:http", "is not a port"),
        ("10.43.1.1:80/icmp", "\"icmp\" is no protocol: tcp, udp or sctp"),
        (":80", "the address is missing"),
        ("fd00::1:80", "in brackets"),
        ("[fd00:::1]:80", "is no IPv6 address"),
        ("nobody:80", "there is no Service default/nobody"),
        ("other/web:80", "there is no Service other/web"),
        ("web:https", "Service default/web has no port \"https\""),
        ("none:80", "is headless"),
        ("name:80", "ExternalName: it is a name for \"example.org\""),
    ] {
        let error = refused(Some("one"), to, None);
        assert!(error.contains(words), "{to}: {error}");
    }
    for (from, words) in [
        ("nobody", "neither a Pod default/nobody nor a Node nobody"),
        ("node/one", "there is no Node one"),
        ("pod/node1", "there is no Pod default/node1"),
        ("fd00::1", "10.43.1.1 is of the other family"),
    ] {
        let error = refused(Some(from), "10.43.1.1:80", None);
        assert!(error.contains(words), "{from}: {error}");
    }
    assert!(refused(Some("198.51.100.7"), "10.43.1.1:80", None).contains("--via NODE"));
    assert!(refused(Some("198.51.100.7"), "10.43.1.1:80", Some("node9")).contains("no such Node"));
    assert!(refused(Some("one"), "10.43.1.1:80", Some("node2")).contains("inside the cluster"));
    let mut snapshot = cluster();
    let key = ObjectKey::cluster("node1");
    let mut older = (*snapshot.nodes[&key]).clone();
    older.metadata.annotations = None;
    snapshot.nodes.insert(key, std::sync::Arc::new(older));
    let asked = Asked { to: Target::parse("web:80").unwrap(), from: None, via: None, namespace: "default" };
    let question = asked.resolve::<Ipv4Addr>(&snapshot).unwrap();
    assert_eq!((&question.start, question.protocol), (&Start::Node("node1".to_owned()), Protocol::Tcp));
    assert!(walk::walk(&snapshot, question).unwrap_err().contains(FACTS_ANNOTATION));
}
