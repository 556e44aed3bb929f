//! What a node's network must look like, from the cluster's Nodes and the node's own Pods.
//!
//! ```text
//! Snapshot (Nodes) + NodeView + local Pods ── desired() ──▶ PodNetwork { links, tunnel }
//! ```
//!
//! Invariants:
//! - Pure: the same input gives the same output, in whatever order it came in.
//! - Every name and Ethernet address is a function of API data, so nodes agree without telling each other, and a
//!   restarted node recognizes what it made.
//! - A bad Node or Pod is left out with a reason and harms no other.

mod address;
mod peers;
mod pods;
mod underlay;
mod way;

pub use address::{
    AllocateError, GATEWAY_MAC, allocate, gateway_address, link_name, node_address, pod_mac, vtep_mac,
};
pub use minisvc_netstate::link::{Interface, InterfaceRoute};
pub use peers::internal_ips;
pub use underlay::{Asked, Underlay, UnderlayError, choose_underlay};
pub use way::{Way, way};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use minisvc_apimachinery::{ClusterConfig, Family, ObjectKey, Overlay, Snapshot};
use minisvc_netstate::link::{
    AddressScope, LOOPBACK_LINK, LOOPBACK_MTU_BYTES, LinkKind, LinkSpec, NetKey, NetSpec, NetState, Owned,
    RouteSpec, Scope, Sysctl,
};
use minisvc_reconcile::{Planned, Rejection};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// UDP port of the VXLAN overlay.
pub const VXLAN_PORT: u16 = 8472;
/// Network identifier of the VXLAN overlay.
pub const VXLAN_VNI: u32 = 42;
/// UDP port of the `tun` overlay.
pub const TUNNEL_PORT: u16 = 51820;
/// Bytes that VXLAN adds to a packet beside the outer IP header: UDP and VXLAN headers and the inner Ethernet header.
const VXLAN_OVERHEAD_BYTES: u32 = 8 + 8 + 14;
/// Bytes that the `tun` overlay adds to a packet beside the outer IP header: the UDP header.
const TUNNEL_OVERHEAD_BYTES: u32 = 8;
/// The smallest packet that every link with IPv6 must take, in bytes (RFC 8200 section 5).
pub const IPV6_MTU_MIN_BYTES: u32 = 1280;

/// What a node knows of itself.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    /// Its Node's name.
    pub node_name: &'a str,
    /// The facts all nodes share.
    pub cluster: &'a ClusterConfig,
    /// The link and address by which it reaches the other nodes.
    pub underlay: &'a Underlay,
    /// Load-balancer addresses that this node holds now.
    pub lb_addresses: &'a [IpAddr],
}

/// A Pod that runs on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Its namespace in the API.
    pub namespace: String,
    /// Its name in the API.
    pub name: String,
    /// Its addresses, one of each family of the node's podCIDRs, the primary family's first. Never empty in a plan.
    pub addresses: Vec<IpAddr>,
    /// File name of its network namespace.
    pub netns: String,
    /// Name of the host's end of its link.
    pub ifname: String,
}

impl LocalPod {
    /// A Pod whose namespace is named by its uid, and its link by [`link_name`].
    pub fn new(uid: &str, namespace: &str, name: &str, addresses: Vec<IpAddr>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            addresses,
            netns: uid.to_owned(),
            ifname: link_name(uid),
        }
    }
}

/// The network of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// What must exist in the kernel.
    pub links: NetState,
    /// The user-space tunnel that must run, for the overlay `tun`.
    pub tunnel: Option<Tunnel>,
}

/// The user-space tunnel of the overlay `tun`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Where it listens and sends from.
    pub local: SocketAddr,
    /// Largest inner packet, in bytes.
    pub mtu_bytes: u32,
    /// Peers by their podCIDRs.
    pub peers: BTreeMap<IpNet, SocketAddr>,
}

/// Largest packet of a Pod in bytes, given the underlay's: between nodes it has the underlay's own header around it.
pub fn pod_mtu_bytes(overlay: Overlay, underlay: &Underlay) -> u32 {
    let outer = if underlay.address.is_ipv4() { 20 } else { 40 };
    underlay.mtu_bytes.saturating_sub(match overlay {
        Overlay::Vxlan => outer + VXLAN_OVERHEAD_BYTES,
        Overlay::HostGw => 0,
        Overlay::Tun => outer + TUNNEL_OVERHEAD_BYTES,
    })
}

/// Which addresses on foreign links (`lo`, the underlay) and which settings are ours in this cluster.
pub fn owned(cluster: &ClusterConfig, underlay: &Underlay) -> Owned {
    Owned {
        sysctls: Sysctl::host(&cluster.families(), &underlay.ifname),
        networks: cluster.cluster_cidrs.iter().chain(&cluster.service_cidrs).copied().collect(),
        ranges: cluster.load_balancer_pool.iter().map(|range| (range.first, range.last)).collect(),
    }
}

/// The podCIDRs of a Node, the primary family's first; empty while it has none.
///
/// # Errors
/// The text is what the Node has instead of a network.
pub fn pod_cidrs(node: &Node) -> Result<Vec<IpNet>, String> {
    let Some(spec) = &node.spec else { return Ok(Vec::new()) };
    let all = spec.pod_cidrs.as_deref().filter(|all| !all.is_empty());
    let texts = all.unwrap_or(spec.pod_cidr.as_slice());
    texts.iter().map(|text| text.parse().map(|net: IpNet| net.trunc()).map_err(|_| text.clone())).collect()
}

/// The network of a family.
pub(crate) fn net_of(nets: &[IpNet], family: Family) -> Option<IpNet> {
    nets.iter().copied().find(|net| Family::of_net(*net) == family)
}

/// A node's address among the Pods of a family: what its own packets to Pods come from.
pub(crate) fn source(own: &[IpNet], family: Family) -> Option<IpAddr> {
    net_of(own, family).map(|net| node_address(&net))
}

/// Builds the state; private, so that only this crate decides what goes in.
pub(crate) struct Builder {
    pub(crate) links: NetState,
    pub(crate) rejected: Vec<Rejection>,
}

impl Builder {
    pub(crate) fn link(&mut self, scope: Scope, name: &str, kind: LinkKind, mtu_bytes: u32) {
        let spec = NetSpec::Link(LinkSpec { kind, mtu_bytes, up: true });
        self.links.insert(NetKey::Link(scope, name.to_owned()), spec);
    }

    pub(crate) fn address(&mut self, scope: Scope, link: &str, address: IpAddr, reach: AddressScope) {
        let key = NetKey::Address(scope, link.to_owned(), IpNet::from(address));
        self.links.insert(key, NetSpec::Address(reach));
    }

    pub(crate) fn route(&mut self, scope: Scope, destination: IpNet, route: RouteSpec) {
        self.links.insert(NetKey::Route(scope, destination.trunc()), NetSpec::Route(route));
    }

    pub(crate) fn sysctls(&mut self, scope: &Scope, sysctls: &[Sysctl]) {
        for sysctl in sysctls {
            self.links
                .insert(NetKey::Sysctl(scope.clone(), sysctl.clone()), NetSpec::Sysctl(sysctl.wanted()));
        }
    }

    pub(crate) fn reject_node(&mut self, name: &str, reason: &'static str, message: String) {
        let (kind, namespace, name) = ("Node", String::new(), name.to_owned());
        self.rejected.push(Rejection { kind, namespace, name, reason, message });
    }
}

/// Nothing can be said yet about this node's network: what is there must stay as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The API has no Node of this name.
    #[error("node {0:?} is not registered")]
    NodeMissing(String),
    /// The manager has not given it a podCIDR.
    #[error("node {0:?} has no spec.podCIDR yet")]
    PodCidrMissing(String),
    /// Its podCIDR is unusable.
    #[error("node {node:?}: spec.podCIDRs: {text:?} is not a network inside the cluster's networks")]
    PodCidrInvalid {
        /// The Node.
        node: String,
        /// What it has.
        text: String,
    },
}

/// What must exist on this node.
///
/// Reads only the Nodes of the snapshot. `pods` are the node's own Pods by uid, whoever decided their addresses.
///
/// # Errors
/// While this node's own Node has no usable podCIDR. The caller then changes nothing: an empty state would take the
/// network away from Pods that run.
pub fn desired(
    snapshot: &Snapshot,
    view: &NodeView<'_>,
    pods: &BTreeMap<String, LocalPod>,
) -> Result<Planned<PodNetwork>, NotReady> {
    let own = own_pod_cidrs(snapshot, view)?;
    let mut builder = Builder { links: NetState::new(), rejected: Vec::new() };
    builder.sysctls(&Scope::Host, &Sysctl::host(&view.cluster.families(), &view.underlay.ifname));
    builder.link(Scope::Host, LOOPBACK_LINK, LinkKind::Loopback, LOOPBACK_MTU_BYTES);
    for net in &own {
        builder.address(Scope::Host, LOOPBACK_LINK, node_address(net), AddressScope::Global);
    }
    for dns in view.cluster.dns_addresses() {
        // Many nodes have this one: as a source, masquerading to a Pod elsewhere, answers would never come back.
        builder.address(Scope::Host, LOOPBACK_LINK, dns, AddressScope::Host);
    }
    for address in view.lb_addresses {
        // Of several IPv6 addresses of a link the kernel would choose this one as a source as gladly as the node's own.
        let reach = if address.is_ipv4() { AddressScope::Global } else { AddressScope::Host };
        builder.address(Scope::Host, &view.underlay.ifname, *address, reach);
    }
    for net in &view.cluster.service_cidrs {
        let link = view.underlay.ifname.clone();
        let Some(source) = source(&own, Family::of_net(*net)) else { continue };
        let route = RouteSpec::Via { link, gateway: None, onlink: false, source: Some(source) };
        builder.route(Scope::Host, *net, route);
    }
    // A Pod address that no node has is refused at once instead of leaving by the default route.
    for net in &view.cluster.cluster_cidrs {
        builder.route(Scope::Host, *net, RouteSpec::Unreachable);
    }
    let peers = peers::peers(snapshot, view, &own, &mut builder);
    let tunnel = peers::overlay(view, &own, &peers, &mut builder);
    pods::pods(view, &own, pods, &mut builder);
    builder.rejected.sort();
    Ok(Planned { desired: PodNetwork { links: builder.links, tunnel }, rejected: builder.rejected })
}

fn own_pod_cidrs(snapshot: &Snapshot, view: &NodeView<'_>) -> Result<Vec<IpNet>, NotReady> {
    let name = || view.node_name.to_owned();
    let node = snapshot
        .nodes
        .get(&ObjectKey::cluster(view.node_name))
        .ok_or_else(|| NotReady::NodeMissing(name()))?;
    let invalid = |text| NotReady::PodCidrInvalid { node: name(), text };
    let own = pod_cidrs(node).map_err(invalid)?;
    if own.is_empty() {
        return Err(NotReady::PodCidrMissing(name()));
    }
    match own.iter().find(|net| !inside_cluster(view.cluster, net)) {
        Some(net) => Err(invalid(net.to_string())),
        None => Ok(own),
    }
}

pub(crate) fn inside_cluster(cluster: &ClusterConfig, net: &IpNet) -> bool {
    cluster.cluster_cidrs.iter().any(|cidr| cidr.contains(net))
}

#[cfg(test)]
mod tests;
