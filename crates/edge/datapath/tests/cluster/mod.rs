//! A small world of Services for tests: objects from JSON.
#![allow(dead_code, missing_docs, clippy::expect_used)]

pub mod pods;
pub mod raw;

use ipnet::IpNet;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, cluster::AddressRange};
use minisvc_proxy::NodeView;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// The IPv6 address that stands beside an IPv4 address of a test: `fd00::` and its bytes.
pub fn twin(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(0xfd00 << 112 | u128::from(u32::from(address)))
}

fn both(address: &str) -> Vec<IpAddr> {
    let address: Ipv4Addr = address.parse().expect("address");
    vec![address.into(), twin(address).into()]
}

fn both_nets(net: &str) -> Vec<IpNet> {
    let net: ipnet::Ipv4Net = net.parse().expect("network");
    let six = ipnet::Ipv6Net::new(twin(net.network()), 96 + net.prefix_len()).expect("length");
    vec![net.into(), six.into()]
}

/// A node 192.168.9.1 of a dual-stack cluster.
pub fn node(name: &str) -> NodeView {
    let pool = both("203.0.113.1").into_iter().zip(both("203.0.113.9"));
    let cluster = ClusterConfig {
        cluster_cidrs: both_nets("10.42.0.0/16"),
        service_cidrs: both_nets("10.43.0.0/16"),
        external_ip_cidrs: both_nets("198.51.100.0/24"),
        load_balancer_pool: pool.map(|(first, last)| AddressRange { first, last }).collect(),
        ..ClusterConfig::default()
    };
    NodeView { name: name.to_owned(), addresses: both("192.168.9.1"), cluster, ..NodeView::default() }
}

/// Dual-stack Services: each address given in IPv4 has its [`twin`].
#[derive(Clone, Default)]
pub struct Objects {
    snapshot: Snapshot,
}

impl Objects {
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    pub fn service(&mut self, name: &str, spec: &str) {
        let mut spec: Value = serde_json::from_str(spec).expect("JSON");
        if let Some(address) = spec["clusterIP"].as_str().map(both) {
            spec["clusterIPs"] = json!(address);
        }
        if let Some(addresses) = spec["externalIPs"].as_array() {
            let addresses: Vec<_> =
                addresses.iter().flat_map(|ip| both(ip.as_str().expect("address"))).collect();
            spec["externalIPs"] = json!(addresses);
        }
        if let Some(ranges) = spec["loadBalancerSourceRanges"].as_array() {
            let ranges: Vec<_> =
                ranges.iter().flat_map(|range| both_nets(range.as_str().expect("range"))).collect();
            spec["loadBalancerSourceRanges"] = json!(ranges);
        }
        let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        let service = serde_json::from_value(object).expect("Service");
        self.snapshot.services.insert(ObjectKey::new("default", name), Arc::new(service));
    }

    pub fn ingress(&mut self, name: &str, address: &str) {
        let key = ObjectKey::new("default", name);
        let service = self.snapshot.services.get(&key).expect("Service");
        let mut object = serde_json::to_value(&**service).expect("JSON");
        let ingress: Vec<_> = both(address).iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        object["status"] = json!({"loadBalancer": {"ingress": ingress}});
        self.snapshot.services.insert(key, Arc::new(serde_json::from_value(object).expect("Service")));
    }

    pub fn slice(&mut self, service: &str, ports: &str, endpoints: &[(&str, &str)]) {
        let ports: Value = serde_json::from_str(ports).expect("JSON");
        let ports: Vec<Value> = ports
            .as_array()
            .expect("list")
            .iter()
            .map(|port| {
                let mut port = port.clone();
                let fields = port.as_object_mut().expect("object");
                fields.entry("protocol").or_insert(json!("TCP"));
                port
            })
            .collect();
        for (family, type_) in [(0, "IPv4"), (1, "IPv6")] {
            let endpoints = endpoints.iter().map(|(address, node)| {
                json!({"addresses": [both(address)[family]], "nodeName": node, "conditions": {"ready": true}})
            });
            let name = format!("{service}-{}", type_.to_lowercase());
            let object = json!({
                "metadata": {"namespace": "default", "name": name,
                             "labels": {"kubernetes.io/service-name": service}},
                "addressType": type_, "ports": ports, "endpoints": endpoints.collect::<Vec<_>>(),
            });
            let slice = serde_json::from_value(object).expect("EndpointSlice");
            self.snapshot.endpoint_slices.insert(ObjectKey::new("default", name), Arc::new(slice));
        }
    }

    /// A Pod on n1 with these ports of its container.
    pub fn pod(&mut self, name: &str, address: &str, ports: &str) {
        let ports: Value = serde_json::from_str(ports).expect("JSON");
        let ips = both(address).into_iter().map(|ip| json!({"ip": ip}));
        let object = json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIPs": ips.collect::<Vec<_>>()},
        });
        let pod = serde_json::from_value(object).expect("Pod");
        self.snapshot.pods.insert(ObjectKey::new("default", name), Arc::new(pod));
    }

    pub fn remove(&mut self, name: &str) {
        self.snapshot.services.remove(&ObjectKey::new("default", name));
    }
}
