//! Passes over a table of the real kernel.

use super::*;
use minisvc_apimachinery::ClusterConfig;
use minisvc_lab::testing::in_namespaces;
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};

/// A Service with one UDP port, whose only endpoint is this.
fn snapshot(endpoint: &str) -> Snapshot {
    let key = ObjectKey::new("default", "names");
    let service = json!({"metadata": {"namespace": "default", "name": "names"},
        "spec": {"clusterIP": "10.43.1.1", "ports": [{"port": 53, "protocol": "UDP"}]}});
    let slice = json!({"metadata": {"namespace": "default", "name": "names-1",
            "labels": {"kubernetes.io/service-name": "names"}},
        "addressType": "IPv4", "ports": [{"port": 53, "protocol": "UDP"}],
        "endpoints": [{"addresses": [endpoint], "nodeName": "n1"}]});
    let mut snapshot = Snapshot::default();
    snapshot.services.insert(key.clone(), Arc::new(serde_json::from_value(service).unwrap()));
    snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
    snapshot
}

/// Which endpoint a datagram from this port goes to.
fn ask(from: u16, servers: &[UdpSocket; 2]) -> usize {
    let client = UdpSocket::bind(("127.0.0.1", from)).unwrap();
    client.send_to(b"?", "10.43.1.1:53").unwrap();
    servers.iter().position(|server| server.recv(&mut [0; 1]).is_ok()).expect("an endpoint")
}

#[test]
fn more_stale_flows_than_one_call_deletes_are_forgotten() {
    in_namespaces("services::tests::more_stale_flows_than_one_call_deletes_are_forgotten", || {
        let added = |words: &str| std::process::Command::new("ip").args(words.split(' ')).status();
        if added("link set lo up").is_err() {
            eprintln!("skipped: no ip");
            return;
        }
        for address in ["10.42.0.2/32", "10.42.0.3/32", "10.43.1.1/32"] {
            assert!(added(&format!("addr add {address} dev lo")).unwrap().success());
        }
        let servers = ["10.42.0.2:53", "10.42.0.3:53"].map(|address| {
            let server = UdpSocket::bind(address.parse::<SocketAddr>().unwrap()).unwrap();
            server.set_nonblocking(true).unwrap();
            server
        });
        let address = "192.0.2.1".parse().unwrap();
        let node = NodeView {
            name: "n1".to_owned(),
            addresses: vec![address],
            cluster: ClusterConfig::default(),
            ..NodeView::default()
        };
        let mut table: Option<Table<Ipv4Addr>> = None;
        pass(&mut table, &node, &snapshot("10.42.0.2")).unwrap();
        let ports = || 20_000..20_000 + u16::try_from(conntrack::DELETES_MAX).unwrap() + 500;
        assert!(ports().all(|port| ask(port, &servers) == 0));
        pass(&mut table, &node, &snapshot("10.42.0.3")).unwrap();
        assert!(ports().all(|port| ask(port, &servers) == 1));
    });
}
