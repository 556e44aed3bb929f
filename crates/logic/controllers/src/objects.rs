//! Small questions about objects that several controllers ask.

use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, PodCondition, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use minisvc_apimachinery::Family;
use std::{collections::BTreeMap, net::IpAddr};

pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// Whether labels satisfy a Service's selector. An empty selector selects nothing here, as for Services.
pub(crate) fn selects(selector: &BTreeMap<String, String>, meta: &ObjectMeta) -> bool {
    !selector.is_empty()
        && meta
            .labels
            .as_ref()
            .is_some_and(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Whether the Pod is in its node's own network.
pub(crate) fn is_in_node_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Whether all containers have ended for good: such a Pod counts for nothing.
pub(crate) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub(crate) fn pod_condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub(crate) fn pod_is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

pub(crate) fn node_condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub(crate) fn node_is_ready(node: &Node) -> bool {
    node_condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// A node's own addresses, at most one of each family: its InternalIPs.
pub(crate) fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok())
}

/// The networks of a node's Pods.
pub(crate) fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = node.spec.as_ref() else { return Vec::new() };
    let all = spec.pod_cidrs.as_deref().unwrap_or_default();
    let texts: Vec<&str> = match (all, spec.pod_cidr.as_deref()) {
        ([], Some(one)) => vec![one],
        _ => all.iter().map(String::as_str).collect(),
    };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The families of a Service's endpoints, the primary one first. One that does not say has that of its address; a
/// headless one that does not say has both.
pub(crate) fn families(service: &Service) -> Vec<Family> {
    let Some(spec) = service.spec.as_ref() else { return Vec::new() };
    let said = spec.ip_families.as_deref().unwrap_or_default();
    let said: Vec<Family> = said.iter().filter_map(|name| Family::named(name)).collect();
    if !said.is_empty() {
        return said;
    }
    let address = spec.cluster_ip.as_deref().and_then(|text| text.parse().ok());
    address.map_or_else(|| Family::ALL.to_vec(), |address| vec![Family::of(address)])
}

/// FNV-1a, 64 bits: stable between versions and machines.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
