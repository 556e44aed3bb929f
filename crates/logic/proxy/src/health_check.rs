//! Health checks of load balancers: which Services tell, by which node port, how many endpoints they have on this node.
//!
//! Source: kubernetes pkg/proxy/healthcheck; `spec.healthCheckNodePort` of type LoadBalancer with
//! `externalTrafficPolicy: Local`.

use k8s_openapi::api::core::v1::Service;
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    service_changes::{ServiceChanges, service_of},
};
use std::collections::{BTreeMap, BTreeSet};

/// What one health check tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectKey,
    /// Addresses of ready endpoints on this node.
    pub local_endpoints: usize,
}

/// The health checks that a node serves, followed from snapshot to snapshot.
///
/// Invariant: after any sequence of updates they are those of the last snapshot.
#[derive(Clone, Debug)]
pub struct HealthChecks {
    node_name: String,
    changes: ServiceChanges,
    /// The Services that tell, and by which port.
    ports: BTreeMap<ObjectKey, u16>,
    checks: BTreeMap<u16, HealthCheck>,
}

impl HealthChecks {
    /// None yet.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            changes: ServiceChanges::default(),
            ports: BTreeMap::new(),
            checks: BTreeMap::new(),
        }
    }

    /// Takes in a snapshot; whether that may have changed the checks.
    pub fn update(&mut self, snapshot: &Snapshot) -> bool {
        let mut changed = false;
        for key in self.changes.take_in(snapshot) {
            let now = snapshot.services.get(&key).and_then(|service| port(service));
            let before = match now {
                Some(port) => self.ports.insert(key, port),
                None => self.ports.remove(&key),
            };
            changed |= before.is_some() || now.is_some();
        }
        if changed {
            self.checks = health_checks(&self.ports, snapshot, &self.node_name);
        }
        changed
    }

    /// By port.
    pub fn checks(&self) -> &BTreeMap<u16, HealthCheck> {
        &self.checks
    }
}

fn health_checks(
    ports: &BTreeMap<ObjectKey, u16>,
    snapshot: &Snapshot,
    node_name: &str,
) -> BTreeMap<u16, HealthCheck> {
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
            .extend(here.filter_map(|endpoint| Some(&**endpoint.addresses.first()?)));
    }
    ports
        .iter()
        .map(|(key, port)| {
            let local_endpoints = local.get(key).map_or(0, BTreeSet::len);
            (*port, HealthCheck { service: key.clone(), local_endpoints })
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
        let told = |checks: &HealthChecks| {
            let checks = checks.checks().iter();
            checks
                .map(|(port, check)| (*port, check.service.name.clone(), check.local_endpoints))
                .collect::<Vec<_>>()
        };
        let (mut n1, mut n3) = (HealthChecks::new("n1"), HealthChecks::new("n3"));
        assert!(n1.update(&snapshot) && n3.update(&snapshot));
        assert_eq!(told(&n1), [(31_000, "web".to_owned(), 1)]);
        assert_eq!(told(&n3), [(31_000, "web".to_owned(), 0)]);
        // Others' changes are no reason to look again; its own are, and so is its end.
        snapshot.endpoint_slices.remove(&ObjectKey::new("default", "other"));
        assert!(!n1.update(&snapshot));
        snapshot.endpoint_slices.remove(&ObjectKey::new("default", "web"));
        assert!(n1.update(&snapshot));
        assert_eq!(told(&n1), [(31_000, "web".to_owned(), 0)]);
        snapshot.services.remove(&ObjectKey::new("default", "web"));
        assert!(n1.update(&snapshot));
        assert!(told(&n1).is_empty());
    }
}
