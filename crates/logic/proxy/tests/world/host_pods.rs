//! Pods with ports of their node.

use super::{NODE, NODE_TOO, World, both};
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::ObjectKey;
use minisvc_netstate::{
    family::Endpoint,
    nft::{Packet, Protocol},
};
use proptest::prelude::*;
use serde_json::json;
use std::{net::Ipv4Addr, sync::Arc};

#[derive(Clone, Debug)]
pub struct HostPort {
    pub protocol: Protocol,
    pub of_node: u16,
    pub of_pod: u16,
    /// `hostIP` by its IPv4 form, and whether it is the twin.
    pub address: Option<(Ipv4Addr, bool)>,
}

#[derive(Clone, Debug)]
pub struct HostPod {
    pub name: String,
    pub node: &'static str,
    pub address: Ipv4Addr,
    /// Older than any Service, or younger.
    pub old: bool,
    pub ports: Vec<HostPort>,
}

impl HostPod {
    pub fn object(&self) -> (ObjectKey, Arc<Pod>) {
        let ports = self.ports.iter().map(|port| {
            let ip = port.address.map(|(address, twin)| both(address)[usize::from(twin)]);
            json!({"containerPort": port.of_pod, "hostPort": port.of_node, "hostIP": ip,
                   "protocol": port.protocol.to_string().to_uppercase()})
        });
        let ports: Vec<_> = ports.collect();
        let ips = both(self.address).map(|ip| json!({"ip": ip}));
        let object = json!({
            "metadata": {"namespace": "default", "name": self.name,
                         "creationTimestamp": self.old.then_some("2026-01-01T00:00:00Z")},
            "spec": {"nodeName": self.node, "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIPs": ips},
        });
        (ObjectKey::new("default", self.name.clone()), Arc::new(serde_json::from_value(object).expect("Pod")))
    }

    /// Where a packet to a port of the node n1 goes; `six`: it is of the twin's family.
    fn takes(&self, packet: &Packet, six: bool) -> Option<Endpoint> {
        let here = self.node == "n1" && [NODE, NODE_TOO].contains(&packet.destination);
        let matches = |port: &&HostPort| {
            let at = port.address.is_none_or(|(address, twin)| {
                twin == six && (address == packet.destination || address.is_unspecified())
            });
            at && port.protocol == packet.protocol && port.of_node == packet.port
        };
        // What the API and the node itself are reached by is nobody else's.
        let own = [(Protocol::Tcp, 6443), (Protocol::Tcp, 10250)].contains(&(packet.protocol, packet.port));
        let port = self.ports.iter().find(matches).filter(|_| here && !own)?;
        Some(Endpoint { address: self.address, port: port.of_pod })
    }
}

impl World {
    /// The endpoint of the Pods older, or younger, than all Services.
    pub fn host_port(&self, packet: &Packet, six: bool, old: bool) -> Option<Endpoint> {
        self.pods.iter().filter(|pod| pod.old == old).find_map(|pod| pod.takes(packet, six))
    }

    pub fn change_pods(&mut self, which: u8, one_less: bool) {
        let count = self.pods.len();
        let at = usize::from(which) % count.max(1);
        if one_less && count > 0 {
            self.pods.remove(at);
        } else if let Some(pod) = self.pods.get_mut(at) {
            pod.old = !pod.old;
            pod.address = Ipv4Addr::new(10, 42, 0, which % 8 + 1);
        }
    }
}

fn port() -> impl Strategy<Value = HostPort> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    let of_node = prop_oneof![Just(80u16), Just(30001), Just(30002), Just(6443), Just(10250)];
    let address = prop_oneof![
        Just(NODE),
        Just(NODE_TOO),
        Just(Ipv4Addr::UNSPECIFIED),
        Just(Ipv4Addr::new(198, 51, 100, 7))
    ];
    (protocol, of_node, 8080u16..8082, proptest::option::of((address, any::<bool>()))).prop_map(
        |(protocol, of_node, of_pod, address)| {
            // The twin of no address at all is not the other family's.
            let address = address.map(|(address, twin)| (address, twin && !address.is_unspecified()));
            HostPort { protocol, of_node, of_pod, address }
        },
    )
}

pub fn some() -> impl Strategy<Value = Vec<HostPod>> {
    let node = prop_oneof![3 => Just("n1"), 1 => Just("n2")];
    let pod = (node, 1u8..6, any::<bool>(), proptest::collection::vec(port(), 1..4));
    proptest::collection::vec(pod, 0..3).prop_map(|pods| {
        let numbered = pods.into_iter().enumerate().map(|(number, (node, address, old, mut ports))| {
            ports.sort_by_key(|port| (port.protocol, port.of_node));
            ports.dedup_by_key(|port| (port.protocol, port.of_node));
            let address = Ipv4Addr::new(10, 42, if node == "n1" { 0 } else { 1 }, address);
            HostPod { name: format!("p{number}"), node, address, old, ports }
        });
        numbered.collect()
    })
}
