//! What a Pod with ports of its node (`hostPort`) wants of the table: each is a frontend whose only endpoint is the Pod.
//!
//! In: a Pod and its node. Out: a plan. As a Service with policy `Local`, the client's address is kept; as the ports that
//! CNI's `portmap` makes, they are there as long as the Pod has its address, be it ready or not, and on every address of
//! the node but the loopback. Those of init containers count if these are sidecars.
//!
//! Invariants: nothing is claimed but addresses of the node itself; no Pod gets a port by which the node is
//! reached by its cluster, for whoever took that could not be told to give it back.

use crate::{
    owner::Owner,
    plan::{EndpointSet, FrontendPlan, NodeView, Place, Scope, ServicePlan, Target},
    service::protocol,
};
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use minisvc_apimachinery::{ObjectKey, containers};
use minisvc_netstate::{
    family::{Address, Endpoint, Network},
    nft::{Frontend, Protocol},
};
use minisvc_reconcile::Rejection;
use std::net::IpAddr;

/// By which other nodes and the API server reach a node: its own server, health, and the two tunnels.
const OF_NODES: [(Protocol, u16); 4] =
    [(Protocol::Tcp, 10250), (Protocol::Tcp, 10256), (Protocol::Udp, 8472), (Protocol::Udp, 51820)];

/// Whether a Pod is on this node and has ports of it that are not its own anyway.
pub fn wants_ports(pod: &Pod, node: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.node_name.as_deref() == Some(node)
        && !spec.host_network.unwrap_or(false)
        && ports(pod).next().is_some()
}

/// The containers' ports that are also the node's.
fn ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let containers = pod.spec.iter().flat_map(containers::lasting);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|port| port != 0))
}

/// The container's port that a port of the node leads to, with what says so.
pub fn port_behind(pod: &Pod, frontend: (IpAddr, Protocol, u16)) -> Option<&ContainerPort> {
    let (address, of, number) = frontend;
    let mut found = ports(pod).filter(|port| {
        protocol(port.protocol.as_deref()) == Some(of)
            && port.host_port == Some(number.into())
            && asked(port).is_none_or(|ip| ip == address || ip.is_unspecified())
    });
    let first = found.next()?;
    // Of several the one that names the address counts.
    Some(found.find(|port| asked(port) == Some(address)).unwrap_or(first))
}

/// `hostIP`, if it says any.
fn asked(port: &ContainerPort) -> Option<IpAddr> {
    port.host_ip.as_deref().and_then(|ip| ip.parse().ok())
}

/// The Pod's address of a family, while it has one of the Pods' networks.
fn address<A: Address>(pod: &Pod, node: &NodeView) -> Option<A> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let address = all.filter_map(|ip| A::of(ip.parse().ok()?)).next()?;
    node.cluster_networks::<A>().iter().any(|net| net.holds(address)).then_some(address)
}

/// Plans the ports of one Pod.
pub fn plan<A: Address>(key: &ObjectKey, pod: &Pod, node: &NodeView) -> ServicePlan<A> {
    let mut plan = ServicePlan {
        created_s: pod.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
        ..ServicePlan::default()
    };
    let Some(own) = address::<A>(pod, node) else { return plan };
    let owner = Owner::Pod(key.clone());
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
    let mut wanted: Vec<&ContainerPort> = ports(pod).collect();
    // Those that name an address come last, so that they have it.
    wanted.sort_by_key(|port| asked(port).is_some_and(|ip| !ip.is_unspecified()));
    for port in wanted {
        let protocol = protocol(port.protocol.as_deref());
        let numbers = port.host_port.and_then(number).zip(number(port.container_port));
        let Some((protocol, (of_node, of_pod))) = protocol.zip(numbers) else { continue };
        if OF_NODES.contains(&(protocol, of_node))
            || protocol == Protocol::Tcp && node.api_ports.contains(&of_node)
        {
            let message = format!("hostPort {of_node}/{protocol} is the node's own");
            plan.rejected.push(owner.reject("PortOfNode", message));
            continue;
        }
        let set = (protocol, of_pod, Scope::Cluster);
        for address in addresses(&owner, port, node, &mut plan.rejected) {
            let place = Place::Address(Frontend { address, protocol, port: of_node });
            let target = Target::Set(set);
            let frontend =
                FrontendPlan { internal: target, external: target, source_ranges: None, masquerade: false };
            plan.frontends.insert(place, frontend);
            let endpoints = vec![Endpoint { address: own, port: of_pod }];
            plan.sets.insert(set, EndpointSet { endpoints, affinity_s: None });
            plan.hairpin = vec![own];
        }
    }
    plan
}

/// The node's addresses that a port is on.
fn addresses<A: Address>(
    owner: &Owner,
    port: &ContainerPort,
    node: &NodeView,
    rejected: &mut Vec<Rejection>,
) -> Vec<A> {
    let own = node.all_addresses_of::<A>();
    match asked(port) {
        None => own,
        Some(asked) => match A::of(asked) {
            Some(_) if asked.is_unspecified() => own,
            Some(address) if own.contains(&address) => vec![address],
            Some(address) => {
                let message =
                    format!("hostIP {address} is no address of node {} for ports of Pods", node.name);
                rejected.push(owner.reject("AddressNotHere", message));
                Vec::new()
            }
            // The other family's table has it.
            None => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests;
