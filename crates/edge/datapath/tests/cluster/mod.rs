//! A small world of Services for tests: objects from JSON.
#![allow(dead_code, missing_docs, clippy::expect_used)]

use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, cluster::AddressRange};
use minisvc_proxy::NodeView;
use serde_json::{Value, json};
use std::sync::Arc;

pub fn node(name: &str, address: &str) -> NodeView {
    let pool = AddressRange {
        first: "203.0.113.1".parse().expect("address"),
        last: "203.0.113.9".parse().expect("address"),
    };
    let cluster = ClusterConfig { load_balancer_pool: vec![pool], ..ClusterConfig::default() };
    NodeView {
        name: name.to_owned(),
        addresses: vec![address.parse().expect("address")],
        zone: None,
        cluster,
    }
}

#[derive(Clone, Default)]
pub struct Objects {
    snapshot: Snapshot,
}

impl Objects {
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    pub fn service(&mut self, name: &str, spec: &str) {
        let spec: Value = serde_json::from_str(spec).expect("JSON");
        let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        let service = serde_json::from_value(object).expect("Service");
        self.snapshot.services.insert(ObjectKey::new("default", name), Arc::new(service));
    }

    pub fn ingress(&mut self, name: &str, address: &str) {
        let key = ObjectKey::new("default", name);
        let service = self.snapshot.services.get(&key).expect("Service");
        let mut object = serde_json::to_value(&**service).expect("JSON");
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}});
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
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, node)| {
                json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
            })
            .collect();
        let name = format!("{service}-1");
        let object = json!({
            "metadata": {"namespace": "default", "name": name,
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        });
        let slice = serde_json::from_value(object).expect("EndpointSlice");
        self.snapshot.endpoint_slices.insert(ObjectKey::new("default", name), Arc::new(slice));
    }

    pub fn remove(&mut self, name: &str) {
        self.snapshot.services.remove(&ObjectKey::new("default", name));
    }
}
