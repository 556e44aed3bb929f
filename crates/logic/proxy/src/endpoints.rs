//! Who may answer for a Service's port on this node.
//!
//! In: the EndpointSlices of a Service. Out: sorted endpoints for each traffic policy. Ready endpoints first, those
//! that still serve while they terminate only if none is ready.
//! Source: KEP-1669, KEP-2086; kubernetes pkg/proxy/topology.go.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use minisvc_apimachinery::ObjectKey;
use minisvc_netstate::nft::{Protocol, element::ENDPOINTS_MAX};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

/// The label that names the Service of an EndpointSlice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service whose endpoints a slice holds.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Candidate {
    ready: bool,
    serving_terminating: bool,
    local: bool,
}

/// The endpoints of a port, by policy, sorted by address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For policy `Cluster`.
    pub cluster: Vec<SocketAddrV4>,
    /// For policy `Local`: on this node.
    pub local: Vec<SocketAddrV4>,
    /// Whether more endpoints than a set can hold were left out.
    pub truncated: bool,
}

/// Sorts out the endpoints of the port with this name and protocol.
pub fn endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: Protocol,
    node_name: &str,
) -> Endpoints {
    let mut candidates: BTreeMap<SocketAddrV4, Candidate> = BTreeMap::new();
    for slice in slices {
        if slice.address_type != "IPv4" {
            continue;
        }
        let ports = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && crate::service::protocol(port.protocol.as_deref()) == Some(protocol)
        });
        for port in ports.filter_map(|port| u16::try_from(port.port?).ok()).filter(|port| *port != 0) {
            for endpoint in &slice.endpoints {
                let Some(address) = address(endpoint) else { continue };
                // The same endpoint may be in two slices for a moment: what either says holds.
                let known = candidates.entry(SocketAddrV4::new(address, port)).or_default();
                let seen = candidate(endpoint, node_name);
                known.ready |= seen.ready;
                known.serving_terminating |= seen.serving_terminating;
                known.local |= seen.local;
            }
        }
    }
    let cluster = usable(&candidates, |_| true);
    let local = usable(&candidates, |candidate| candidate.local);
    let max = usize::from(ENDPOINTS_MAX);
    let truncated = cluster.len() > max || local.len() > max;
    let cut = |mut endpoints: Vec<SocketAddrV4>| {
        endpoints.truncate(max);
        endpoints
    };
    Endpoints { cluster: cut(cluster), local: cut(local), truncated }
}

fn usable(
    candidates: &BTreeMap<SocketAddrV4, Candidate>,
    wanted: impl Fn(&Candidate) -> bool,
) -> Vec<SocketAddrV4> {
    let with = |state: fn(&Candidate) -> bool| -> Vec<_> {
        candidates.iter().filter(|(_, c)| wanted(c) && state(c)).map(|(endpoint, _)| *endpoint).collect()
    };
    let ready = with(|c| c.ready);
    if ready.is_empty() { with(|c| c.serving_terminating) } else { ready }
}

fn candidate(endpoint: &Endpoint, node_name: &str) -> Candidate {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    Candidate {
        ready,
        serving_terminating: serving && terminating,
        local: endpoint.node_name.as_deref() == Some(node_name),
    }
}

/// The address of an endpoint, if it is one a packet may be sent to.
fn address(endpoint: &Endpoint) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = endpoint.addresses.first()?.parse().ok()?;
    let reserved = address.is_loopback()
        || address.is_unspecified()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast();
    (!reserved).then_some(address)
}

/// The addresses that may be Pods of this node: on it, or nobody says where.
pub fn addresses_maybe_here<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node_name: &str,
) -> impl Iterator<Item = Ipv4Addr> {
    slices
        .into_iter()
        .filter(|slice| slice.address_type == "IPv4")
        .flat_map(|slice| &slice.endpoints)
        .filter(move |endpoint| endpoint.node_name.as_deref().is_none_or(|name| name == node_name))
        .filter_map(address)
}
