//! Health checks of load balancers: which Services tell, by which node port, how many endpoints they have on this node.
//!
//! Source: kubernetes pkg/proxy/healthcheck; `spec.healthCheckNodePort` of type LoadBalancer with
//! `externalTrafficPolicy: Local`.

use crate::endpoints::service_of;
use k8s_openapi::api::core::v1::Service;
use minisvc_apimachinery::{ObjectKey, Snapshot};
use std::collections::{BTreeMap, BTreeSet};

/// What one health check tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectKey,
    /// Addresses of ready endpoints on this node.
    pub local_endpoints: usize,
}

/// The health checks that a node serves, by port.
pub fn health_checks(snapshot: &Snapshot, node_name: &str) -> BTreeMap<u16, HealthCheck> {
    let ports: BTreeMap<&ObjectKey, u16> =
        snapshot.services.iter().filter_map(|(key, service)| Some((key, port(service)?))).collect();
    if ports.is_empty() {
        return BTreeMap::new();
    }
    let mut local: BTreeMap<ObjectKey, BTreeSet<&str>> = BTreeMap::new();
    for slice in snapshot.endpoint_slices.values() {
        let Some(service) = service_of(slice).filter(|service| ports.contains_key(service)) else { continue };
        let ready = |ready: Option<bool>| ready.unwrap_or(true);
        let here = slice.endpoints.iter().filter(|endpoint| {
            endpoint.node_name.as_deref() == Some(node_name)
                && ready(endpoint.conditions.as_ref().and_then(|conditions| conditions.ready))
        });
        local
            .entry(service)
            .or_default()
            .extend(here.filter_map(|endpoint| Some(endpoint.addresses.first()?.as_str())));
    }
    ports
        .into_iter()
        .map(|(key, port)| {
            let local_endpoints = local.get(key).map_or(0, BTreeSet::len);
            (port, HealthCheck { service: key.clone(), local_endpoints })
        })
        .collect()
}

fn port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let port = u16::try_from(spec.health_check_node_port?).ok()?;
    (local && balanced && port != 0).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn only_ready_endpoints_of_this_node_count() {
        let mut snapshot = Snapshot::default();
        let mut add = |name: &str, policy: &str, port: u16| {
            let key = ObjectKey::new("default", name);
            let service = json!({ "spec": { "type": "LoadBalancer", "externalTrafficPolicy": policy, "healthCheckNodePort": port } });
            snapshot.services.insert(key.clone(), Arc::new(serde_json::from_value(service).unwrap()));
            let end = |address: &str, node: &str, ready: bool| json!({ "addresses": [address], "nodeName": node, "conditions": { "ready": ready } });
            let slice = json!({
                "metadata": { "namespace": "default", "name": name, "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4",
                "endpoints": [end("10.42.0.1", "n1", true), end("10.42.0.2", "n1", false), end("10.42.1.1", "n2", true)],
            });
            snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
        };
        add("web", "Local", 31_000);
        add("other", "Cluster", 31_001);
        let told = |node: &str| {
            let checks = health_checks(&snapshot, node).into_iter();
            checks.map(|(port, check)| (port, check.service.name, check.local_endpoints)).collect::<Vec<_>>()
        };
        assert_eq!(told("n1"), [(31_000, "web".to_owned(), 1)]);
        assert_eq!(told("n3"), [(31_000, "web".to_owned(), 0)]);
    }
}
