//! The other nodes, and how each overlay reaches their Pods.

use crate::{
    Builder, NodeView, TUNNEL_PORT, Tunnel, VXLAN_PORT, VXLAN_VNI, inside_cluster, node_address, pod_cidr,
    pod_mtu_bytes, vtep_mac,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use minisvc_apimachinery::{Overlay, Snapshot};
use minisvc_netstate::link::{LinkKind, NetKey, NetSpec, RouteSpec, Scope, TUN_LINK, VXLAN_LINK};
use std::net::{IpAddr, SocketAddr};

/// Another node that has Pods.
pub(crate) struct Peer {
    name: String,
    pod_cidr: IpNet,
    address: IpAddr,
}

/// The other nodes with a podCIDR and an address, by name; the rest are rejected, or left out silently while the
/// manager has not given them a podCIDR.
pub(crate) fn peers(
    snapshot: &Snapshot,
    view: &NodeView<'_>,
    own: IpNet,
    builder: &mut Builder,
) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for (key, node) in snapshot.nodes.iter().filter(|(key, _)| key.name != view.node_name) {
        let pod_cidr = match pod_cidr(node) {
            None => continue,
            Some(Ok(net @ IpNet::V4(_))) if inside_cluster(view.cluster, &net) => net.trunc(),
            Some(Ok(net)) => {
                let message =
                    format!("spec.podCIDR: {net} is not an IPv4 network inside the cluster's networks");
                builder.reject_node(&key.name, "InvalidPodCIDR", message);
                continue;
            }
            Some(Err(text)) => {
                builder.reject_node(
                    &key.name,
                    "InvalidPodCIDR",
                    format!("spec.podCIDR: {text:?} is no network"),
                );
                continue;
            }
        };
        let taken =
            peers.iter().map(|peer| (peer.name.as_str(), peer.pod_cidr)).chain([(view.node_name, own)]);
        if let Some((other, net)) = taken.into_iter().find(|(_, net)| overlaps(net, &pod_cidr)) {
            let message = format!("spec.podCIDR: {pod_cidr} overlaps {net} of node {other:?}");
            builder.reject_node(&key.name, "PodCIDRConflict", message);
            continue;
        }
        // A Node that was just registered has not said its addresses yet; that is no fault.
        if node.status.as_ref().is_none_or(|status| status.addresses.is_none()) {
            continue;
        }
        match internal_ip(node) {
            Ok(address) if address == view.underlay.address => {
                let message =
                    format!("status.addresses: InternalIP {address} is node {:?}'s own", view.node_name);
                builder.reject_node(&key.name, "AddressConflict", message);
            }
            Ok(address) => peers.push(Peer { name: key.name.clone(), pod_cidr, address }),
            Err(message) => builder.reject_node(&key.name, "InvalidAddress", message),
        }
    }
    peers
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first InternalIP of a Node.
///
/// # Errors
/// The text says what is wrong with what it has.
pub fn internal_ip(node: &Node) -> Result<IpAddr, String> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().find(|address| address.type_ == "InternalIP");
    let text = &internal.ok_or("status.addresses: no InternalIP")?.address;
    match text.parse::<IpAddr>() {
        Ok(address) if !usable(address) => {
            Err(format!("status.addresses: InternalIP {address} cannot be a node's address"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!("status.addresses: InternalIP {text:?} is not an IP address")),
    }
}

fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_link_local())
        }
        IpAddr::V6(_) => false,
    }
}

/// Adds what the cluster's overlay needs for these peers. Returns the user-space tunnel, if the overlay is one.
pub(crate) fn overlay(
    view: &NodeView<'_>,
    own: IpNet,
    peers: &[Peer],
    builder: &mut Builder,
) -> Option<Tunnel> {
    match view.cluster.overlay {
        Overlay::Vxlan => vxlan(view, own, peers, builder),
        Overlay::HostGw => host_gw(view, own, peers, builder),
        Overlay::Tun => return Some(tun(view, own, peers, builder)),
    }
    None
}

fn vxlan(view: &NodeView<'_>, own: IpNet, peers: &[Peer], builder: &mut Builder) {
    let underlay = view.underlay;
    let kind = LinkKind::Vxlan {
        mac: vtep_mac(&own),
        vni: VXLAN_VNI,
        port: VXLAN_PORT,
        local: underlay.address,
        underlay: underlay.ifname.clone(),
        // Cards (real and of virtual machines) are known to get inner checksums wrong; a veth has none to compute.
        checksum_offload: !underlay.hardware,
    };
    builder.link(Scope::Host, VXLAN_LINK, kind, pod_mtu_bytes(Overlay::Vxlan, underlay.mtu_bytes));
    for peer in peers {
        let mac = vtep_mac(&peer.pod_cidr);
        // The peer's network address stands for its end point: it is nobody's, so nothing else can resolve to it.
        let gateway = peer.pod_cidr.network();
        builder.links.insert(NetKey::Fdb(VXLAN_LINK.to_owned(), mac), NetSpec::Fdb(peer.address));
        let neighbour = NetKey::Neighbour(Scope::Host, VXLAN_LINK.to_owned(), gateway);
        builder.links.insert(neighbour, NetSpec::Neighbour(mac));
        let route = RouteSpec::Via {
            link: VXLAN_LINK.to_owned(),
            gateway: Some(gateway),
            onlink: true,
            source: Some(node_address(&own)),
        };
        builder.route(Scope::Host, peer.pod_cidr, route);
    }
}

fn host_gw(view: &NodeView<'_>, own: IpNet, peers: &[Peer], builder: &mut Builder) {
    for peer in peers {
        if !view.underlay.on_link(peer.address) {
            let message = format!(
                "overlay host-gw needs nodes on one link: {} is not inside {}/{} on {}",
                peer.address, view.underlay.address, view.underlay.prefix_len, view.underlay.ifname
            );
            builder.reject_node(&peer.name, "NotOnLink", message);
            continue;
        }
        let route = RouteSpec::Via {
            link: view.underlay.ifname.clone(),
            gateway: Some(peer.address),
            onlink: false,
            source: Some(node_address(&own)),
        };
        builder.route(Scope::Host, peer.pod_cidr, route);
    }
}

fn tun(view: &NodeView<'_>, own: IpNet, peers: &[Peer], builder: &mut Builder) -> Tunnel {
    let mtu_bytes = pod_mtu_bytes(Overlay::Tun, view.underlay.mtu_bytes);
    builder.link(Scope::Host, TUN_LINK, LinkKind::Tun, mtu_bytes);
    for peer in peers {
        let route = RouteSpec::Via {
            link: TUN_LINK.to_owned(),
            gateway: None,
            onlink: false,
            source: Some(node_address(&own)),
        };
        builder.route(Scope::Host, peer.pod_cidr, route);
    }
    Tunnel {
        local: SocketAddr::new(view.underlay.address, TUNNEL_PORT),
        mtu_bytes,
        peers: peers.iter().map(|peer| (peer.pod_cidr, SocketAddr::new(peer.address, TUNNEL_PORT))).collect(),
    }
}
