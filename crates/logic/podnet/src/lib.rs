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
    AllocateError, GATEWAY_ADDRESS, GATEWAY_MAC, allocate, link_name, node_address, pod_mac, vtep_mac,
};
pub use minisvc_netstate::link::{Interface, InterfaceRoute};
pub use peers::internal_ip;
pub use underlay::{Underlay, UnderlayError, choose_underlay};
pub use way::{Way, way};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Overlay, Snapshot};
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
/// Bytes that VXLAN adds to a packet: outer IPv4, UDP and VXLAN headers and the inner Ethernet header.
pub const VXLAN_OVERHEAD_BYTES: u32 = 20 + 8 + 8 + 14;
/// Bytes that the `tun` overlay adds to a packet: outer IPv4 and UDP headers.
pub const TUNNEL_OVERHEAD_BYTES: u32 = 20 + 8;

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
    /// Its address, from the node's podCIDR.
    pub address: IpAddr,
    /// File name of its network namespace.
    pub netns: String,
    /// Name of the host's end of its link.
    pub ifname: String,
}

impl LocalPod {
    /// A Pod whose namespace is named by its uid, and its link by [`link_name`].
    pub fn new(uid: &str, namespace: &str, name: &str, address: IpAddr) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            address,
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
    /// Peers by their podCIDR.
    pub peers: BTreeMap<IpNet, SocketAddr>,
}

/// Largest packet of a Pod in bytes, given the underlay's.
pub fn pod_mtu_bytes(overlay: Overlay, underlay_mtu_bytes: u32) -> u32 {
    underlay_mtu_bytes.saturating_sub(match overlay {
        Overlay::Vxlan => VXLAN_OVERHEAD_BYTES,
        Overlay::HostGw => 0,
        Overlay::Tun => TUNNEL_OVERHEAD_BYTES,
    })
}

/// Which addresses on foreign links (`lo`, the underlay) are ours in this cluster.
pub fn owned(cluster: &ClusterConfig) -> Owned {
    Owned {
        networks: cluster.cluster_cidrs.iter().chain(&cluster.service_cidrs).copied().collect(),
        ranges: cluster.load_balancer_pool.iter().map(|range| (range.first, range.last)).collect(),
    }
}

/// The first podCIDR of a Node that has one.
///
/// # Errors
/// The text is what the Node has instead.
pub fn pod_cidr(node: &Node) -> Option<Result<IpNet, String>> {
    let spec = node.spec.as_ref()?;
    let text = spec.pod_cidr.as_ref().or_else(|| spec.pod_cidrs.as_ref()?.first())?;
    Some(text.parse::<IpNet>().map_err(|_| text.clone()))
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

    pub(crate) fn address(&mut self, scope: Scope, link: &str, address: IpAddr) {
        let key = NetKey::Address(scope, link.to_owned(), IpNet::from(address));
        self.links.insert(key, NetSpec::Address(AddressScope::Global));
    }

    pub(crate) fn route(&mut self, scope: Scope, destination: IpNet, route: RouteSpec) {
        self.links.insert(NetKey::Route(scope, destination.trunc()), NetSpec::Route(route));
    }

    pub(crate) fn sysctls(&mut self, scope: &Scope, sysctls: &[Sysctl]) {
        for sysctl in sysctls {
            self.links.insert(NetKey::Sysctl(scope.clone(), *sysctl), NetSpec::Sysctl(sysctl.wanted()));
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
    #[error("node {node:?}: spec.podCIDR: {text:?} is not an IPv4 network inside the cluster's networks")]
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
    let own = own_pod_cidr(snapshot, view)?;
    let source = node_address(&own);
    let mut builder = Builder { links: NetState::new(), rejected: Vec::new() };
    builder.sysctls(&Scope::Host, &Sysctl::HOST);
    builder.link(Scope::Host, LOOPBACK_LINK, LinkKind::Loopback, LOOPBACK_MTU_BYTES);
    builder.address(Scope::Host, LOOPBACK_LINK, source);
    if let Some(dns) = view.cluster.dns_address() {
        // Many nodes have this one: as a source, masquerading to a Pod elsewhere, answers would never come back.
        let key = NetKey::Address(Scope::Host, LOOPBACK_LINK.to_owned(), IpNet::from(dns));
        builder.links.insert(key, NetSpec::Address(AddressScope::Host));
    }
    for address in view.lb_addresses {
        builder.address(Scope::Host, &view.underlay.ifname, *address);
    }
    for net in &view.cluster.service_cidrs {
        let link = view.underlay.ifname.clone();
        let route = RouteSpec::Via { link, gateway: None, onlink: false, source: Some(source) };
        builder.route(Scope::Host, *net, route);
    }
    // A Pod address that no node has is refused at once instead of leaving by the default route.
    for net in &view.cluster.cluster_cidrs {
        builder.route(Scope::Host, *net, RouteSpec::Unreachable);
    }
    let peers = peers::peers(snapshot, view, own, &mut builder);
    let tunnel = peers::overlay(view, own, &peers, &mut builder);
    pods::pods(view, own, pods, &mut builder);
    builder.rejected.sort();
    Ok(Planned { desired: PodNetwork { links: builder.links, tunnel }, rejected: builder.rejected })
}

fn own_pod_cidr(snapshot: &Snapshot, view: &NodeView<'_>) -> Result<IpNet, NotReady> {
    let name = || view.node_name.to_owned();
    let node = snapshot
        .nodes
        .get(&ObjectKey::cluster(view.node_name))
        .ok_or_else(|| NotReady::NodeMissing(name()))?;
    match pod_cidr(node).ok_or_else(|| NotReady::PodCidrMissing(name()))? {
        Ok(net @ IpNet::V4(_)) if inside_cluster(view.cluster, &net) => Ok(net.trunc()),
        Ok(net) => Err(NotReady::PodCidrInvalid { node: name(), text: net.to_string() }),
        Err(text) => Err(NotReady::PodCidrInvalid { node: name(), text }),
    }
}

pub(crate) fn inside_cluster(cluster: &ClusterConfig, net: &IpNet) -> bool {
    cluster.cluster_cidrs.iter().any(|cidr| cidr.contains(net))
}

#[cfg(test)]
mod tests;
