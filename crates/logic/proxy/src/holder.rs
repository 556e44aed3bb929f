//! Which node answers for a load balancer's address.
//!
//! In: the snapshot. Out: the same node on every node, by rendezvous hashing: when a node comes or goes, only the
//! addresses that it wins or held move.

use crate::service::load_balancer_ips;
use k8s_openapi::api::core::v1::{Node, Service};
use minisvc_apimachinery::{ObjectKey, Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Nodes with this label hold addresses only if no other node can.
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The load balancer addresses that a node must hold, sorted.
pub fn load_balancer_addresses_of(node_name: &str, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    balanced(snapshot)
        .into_iter()
        .filter(|(address, services)| holder_of(*address, services, snapshot).as_deref() == Some(node_name))
        .map(|(address, _)| address)
        .collect()
}

/// The node that holds an address; None if no Service has it, or no Ready node may answer for it.
pub fn lb_holder(address: IpAddr, snapshot: &Snapshot) -> Option<String> {
    let services = balanced(snapshot).remove(&address)?;
    holder_of(address, &services, snapshot)
}

/// The Services of type LoadBalancer by their addresses.
fn balanced(snapshot: &Snapshot) -> BTreeMap<IpAddr, Vec<(&ObjectKey, &Service)>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (key, service) in &snapshot.services {
        let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        if kind != Some("LoadBalancer") {
            continue;
        }
        let v4 = load_balancer_ips::<Ipv4Addr>(service, &mut Vec::new()).into_iter().map(IpAddr::from);
        let v6 = load_balancer_ips::<Ipv6Addr>(service, &mut Vec::new()).into_iter().map(IpAddr::from);
        for address in v4.chain(v6) {
            found.entry(address).or_default().push((key, &**service));
        }
    }
    found
}

fn holder_of(address: IpAddr, services: &[(&ObjectKey, &Service)], snapshot: &Snapshot) -> Option<String> {
    let mut ready: Vec<(&str, bool)> = snapshot
        .nodes
        .iter()
        .filter(|(_, node)| is_ready(node))
        .map(|(key, node)| (key.name.as_str(), is_excluded(node)))
        .collect();
    for (key, service) in services {
        let policy = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref());
        if policy == Some("Local") {
            let with_endpoints = nodes_with_endpoints(key, snapshot);
            ready.retain(|(name, _)| with_endpoints.contains(name));
        }
    }
    let only_excluded = ready.iter().all(|(_, excluded)| *excluded);
    ready
        .into_iter()
        .filter(|(_, excluded)| only_excluded || !excluded)
        .max_by_key(|(name, _)| (score(address, name), *name))
        .map(|(name, _)| name.to_owned())
}

/// Whether a node says it is ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_excluded(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDE_LABEL))
}

/// Nodes on which a Service has an endpoint that is ready, or still serves.
fn nodes_with_endpoints<'a>(service: &ObjectKey, snapshot: &'a Snapshot) -> BTreeSet<&'a str> {
    let first = ObjectKey::new(service.namespace.clone(), "");
    snapshot
        .endpoint_slices
        .range(first..)
        .take_while(|(key, _)| key.namespace == service.namespace)
        .filter(|(_, slice)| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("kubernetes.io/service-name")) == Some(&service.name)
        })
        .flat_map(|(_, slice)| &slice.endpoints)
        .filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            ready || conditions.and_then(|c| c.serving).unwrap_or(false)
        })
        .filter_map(|endpoint| endpoint.node_name.as_deref())
        .collect()
}

/// FNV-1a with a final mix: the same on every node and in every version.
fn score(address: IpAddr, node: &str) -> u64 {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bytes = octets.into_iter().chain(node.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 33
}
