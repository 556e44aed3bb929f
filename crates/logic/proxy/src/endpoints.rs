//! Who may answer for a Service's port on this node.
//!
//! In: the EndpointSlices of a Service. Out: sorted endpoints for each traffic policy. Ready endpoints first, those
//! that still serve while they terminate only if none is ready. Hints keep endpoints for nodes or zones: they are
//! followed by policy `Cluster` only, and only if every ready endpoint has one and one is for us.
//! Source: KEP-1669, KEP-2086, KEP-2433, KEP-4444; kubernetes pkg/proxy/topology.go.

use crate::plan::NodeView;
use minisvc_apimachinery::endpoint_slices::{Endpoint, EndpointSlice};
use minisvc_netstate::{
    family::{self, Address},
    nft::{Protocol, element::ENDPOINTS_MAX},
};
use std::collections::BTreeMap;

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Candidate {
    ready: bool,
    serving_terminating: bool,
    local: bool,
    /// Whether the node is among those it is kept for; none: it is kept for no node in particular.
    for_node: Option<bool>,
    /// The same of zones.
    for_zone: Option<bool>,
}

/// The endpoints of a port, by policy, sorted by address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints<A> {
    /// For policy `Cluster`.
    pub cluster: Vec<family::Endpoint<A>>,
    /// For policy `Local`: on this node.
    pub local: Vec<family::Endpoint<A>>,
    /// Whether more endpoints than a set can hold were left out.
    pub truncated: bool,
}

/// Sorts out the endpoints of the port with this name and protocol.
pub fn endpoints<'a, A: Address>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: Protocol,
    node: &NodeView,
) -> Endpoints<A> {
    let mut candidates: BTreeMap<family::Endpoint<A>, Candidate> = BTreeMap::new();
    for slice in slices {
        if slice.address_type != A::FAMILY.name() {
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
                let known = candidates.entry(family::Endpoint { address, port }).or_default();
                let seen = candidate(endpoint, node);
                known.ready |= seen.ready;
                known.serving_terminating |= seen.serving_terminating;
                known.local |= seen.local;
                known.for_node = known.for_node.max(seen.for_node);
                known.for_zone = known.for_zone.max(seen.for_zone);
            }
        }
    }
    let preferred = preference(&candidates);
    let cluster = usable(&candidates, |candidate| !candidate.ready || preferred(candidate));
    let local = usable(&candidates, |candidate| candidate.local);
    let max = usize::from(ENDPOINTS_MAX);
    let truncated = cluster.len() > max || local.len() > max;
    let cut = |mut endpoints: Vec<family::Endpoint<A>>| {
        endpoints.truncate(max);
        endpoints
    };
    Endpoints { cluster: cut(cluster), local: cut(local), truncated }
}

fn usable<A: Address>(
    candidates: &BTreeMap<family::Endpoint<A>, Candidate>,
    wanted: impl Fn(&Candidate) -> bool,
) -> Vec<family::Endpoint<A>> {
    let with = |state: fn(&Candidate) -> bool| -> Vec<_> {
        candidates.iter().filter(|(_, c)| wanted(c) && state(c)).map(|(endpoint, _)| *endpoint).collect()
    };
    let ready = with(|c| c.ready);
    if ready.is_empty() { with(|c| c.serving_terminating) } else { ready }
}

/// Which ready endpoints are meant for this node: those kept for it, else those kept for its zone, else all.
fn preference<A: Address>(candidates: &BTreeMap<family::Endpoint<A>, Candidate>) -> fn(&Candidate) -> bool {
    let kept = |hint: fn(&Candidate) -> Option<bool>| {
        let ready = || candidates.values().filter(|candidate| candidate.ready).map(hint);
        ready().all(|hint| hint.is_some()) && ready().any(|hint| hint == Some(true))
    };
    if kept(|candidate| candidate.for_node) {
        |candidate| candidate.for_node == Some(true)
    } else if kept(|candidate| candidate.for_zone) {
        |candidate| candidate.for_zone == Some(true)
    } else {
        |_| true
    }
}

fn candidate(endpoint: &Endpoint, node: &NodeView) -> Candidate {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    Candidate {
        ready,
        serving_terminating: serving && terminating,
        local: endpoint.node_name.as_deref() == Some(&node.name),
        for_node: (!nodes.is_empty()).then(|| nodes.iter().any(|hint| hint.name == node.name)),
        for_zone: (!zones.is_empty())
            .then(|| zones.iter().any(|hint| Some(&hint.name) == node.zone.as_ref())),
    }
}

/// The address of an endpoint, if it is one a packet may be sent to.
fn address<A: Address>(endpoint: &Endpoint) -> Option<A> {
    endpoint.addresses.first()?.parse().ok().filter(|address: &A| !address.is_reserved())
}

/// The addresses that may be Pods of this node: on it, or nobody says where.
pub fn addresses_maybe_here<'a, A: Address>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node_name: &str,
) -> impl Iterator<Item = A> {
    slices
        .into_iter()
        .filter(|slice| slice.address_type == A::FAMILY.name())
        .flat_map(|slice| &slice.endpoints)
        .filter(move |endpoint| endpoint.node_name.as_deref().is_none_or(|name| name == node_name))
        .filter_map(address)
}
