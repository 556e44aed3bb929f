//! The other nodes, and how each overlay reaches their Pods.

use crate::{
    Builder, NodeView, TUNNEL_PORT, Tunnel, VXLAN_PORT, VXLAN_VNI, inside_cluster, pod_cidrs, pod_mtu_bytes,
    source, vtep_mac,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use minisvc_apimachinery::{Family, Overlay, Snapshot};
use minisvc_netstate::{
    family::Address,
    link::{LinkKind, Mac, NetKey, NetSpec, RouteSpec, Scope, TUN_LINK, VXLAN_LINK},
};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Another node that has Pods.
pub(crate) struct Peer {
    name: String,
    /// Networks of its Pods, the primary family's first.
    pod_cidrs: Vec<IpNet>,
    /// One of each family it has.
    addresses: Vec<IpAddr>,
    /// Of those the one of the same family as our own primary address.
    outer: IpAddr,
}

/// The other nodes with a podCIDR and an address, by name; the rest are rejected, or left out silently while the
/// manager has not given them a podCIDR.
pub(crate) fn peers(
    snapshot: &Snapshot,
    view: &NodeView<'_>,
    own: &[IpNet],
    builder: &mut Builder,
) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for (key, node) in snapshot.nodes.iter().filter(|(key, _)| key.name != view.node_name) {
        let pod_cidrs = match usable_pod_cidrs(node, view) {
            Ok(nets) if nets.is_empty() => continue,
            Ok(nets) => nets,
            Err(message) => {
                builder.reject_node(&key.name, "InvalidPodCIDR", message);
                continue;
            }
        };
        let theirs =
            peers.iter().flat_map(|peer| peer.pod_cidrs.iter().map(|net| (peer.name.as_str(), *net)));
        let taken = theirs.chain(own.iter().map(|net| (view.node_name, *net)));
        let conflict = taken.into_iter().find_map(|(other, net)| {
            let pod_cidr = pod_cidrs.iter().find(|pod_cidr| overlaps(&net, pod_cidr))?;
            Some(format!("spec.podCIDRs: {pod_cidr} overlaps {net} of node {other:?}"))
        });
        if let Some(message) = conflict {
            builder.reject_node(&key.name, "PodCIDRConflict", message);
            continue;
        }
        // A Node that was just registered has not said its addresses yet; that is no fault.
        if node.status.as_ref().is_none_or(|status| status.addresses.is_none()) {
            continue;
        }
        match internal_ips(node).and_then(|addresses| Ok((outer(view, &addresses)?, addresses))) {
            Ok((outer, addresses)) if outer != view.underlay.address => {
                peers.push(Peer { name: key.name.clone(), pod_cidrs, addresses, outer });
            }
            Ok((outer, _)) => {
                let message =
                    format!("status.addresses: InternalIP {outer} is node {:?}'s own", view.node_name);
                builder.reject_node(&key.name, "AddressConflict", message);
            }
            Err(message) => builder.reject_node(&key.name, "InvalidAddress", message),
        }
    }
    peers
}

fn usable_pod_cidrs(node: &Node, view: &NodeView<'_>) -> Result<Vec<IpNet>, String> {
    let nets = pod_cidrs(node).map_err(|text| format!("spec.podCIDRs: {text:?} is no network"))?;
    match nets.iter().find(|net| !inside_cluster(view.cluster, net)) {
        Some(net) => Err(format!("spec.podCIDRs: {net} is not inside the cluster's networks")),
        None => Ok(nets),
    }
}

/// The address by which this node reaches another: nodes talk to each other by one family.
fn outer(view: &NodeView<'_>, addresses: &[IpAddr]) -> Result<IpAddr, String> {
    let family = Family::of(view.underlay.address);
    let found = addresses.iter().find(|address| Family::of(**address) == family);
    found.copied().ok_or_else(|| format!("status.addresses: no InternalIP of {family}"))
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The InternalIPs of a Node: the first of each family, in the Node's order. Never empty.
///
/// # Errors
/// The text says what is wrong with what it has.
pub fn internal_ips(node: &Node) -> Result<Vec<IpAddr>, String> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    let mut found: Vec<IpAddr> = Vec::new();
    for text in internal.map(|address| &address.address) {
        let address: IpAddr = text
            .parse()
            .map_err(|_| format!("status.addresses: InternalIP {text:?} is not an IP address"))?;
        if is_reserved(address) {
            return Err(format!("status.addresses: InternalIP {address} cannot be a node's address"));
        }
        if found.iter().all(|known| Family::of(*known) != Family::of(address)) {
            found.push(address);
        }
    }
    if found.is_empty() { Err("status.addresses: no InternalIP".to_owned()) } else { Ok(found) }
}

fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_reserved(),
        IpAddr::V6(address) => Address::is_reserved(address),
    }
}

/// Adds what the cluster's overlay needs for these peers. Returns the user-space tunnel, if the overlay is one.
pub(crate) fn overlay(
    view: &NodeView<'_>,
    own: &[IpNet],
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

fn vxlan(view: &NodeView<'_>, own: &[IpNet], peers: &[Peer], builder: &mut Builder) {
    let underlay = view.underlay;
    let Some(primary) = own.first() else { return };
    let kind = LinkKind::Vxlan {
        mac: vtep_mac(primary),
        vni: VXLAN_VNI,
        port: VXLAN_PORT,
        local: underlay.address,
        underlay: underlay.ifname.clone(),
        // Cards (real and of virtual machines) are known to get inner checksums wrong; a veth has none to compute.
        checksum_offload: !underlay.hardware,
    };
    builder.link(Scope::Host, VXLAN_LINK, kind, pod_mtu_bytes(Overlay::Vxlan, underlay));
    for peer in peers {
        let Some(primary) = peer.pod_cidrs.first() else { continue };
        let mac = vtep_mac(primary);
        builder.links.insert(NetKey::Fdb(VXLAN_LINK.to_owned(), mac), NetSpec::Fdb(peer.outer));
        for pod_cidr in &peer.pod_cidrs {
            let gateway = end_point(pod_cidr, mac);
            let neighbour = NetKey::Neighbour(Scope::Host, VXLAN_LINK.to_owned(), gateway);
            builder.links.insert(neighbour, NetSpec::Neighbour(mac));
            via(builder, own, *pod_cidr, VXLAN_LINK, Some(gateway), true);
        }
    }
}

/// The next hop that stands for a peer's end point: nobody's address, so nothing else can resolve to it. IPv4: the
/// network address of its podCIDR. IPv6: the link-local address that follows from its Ethernet address (RFC 4291
/// appendix A), for a route by another address would have to be on the link first.
fn end_point(pod_cidr: &IpNet, Mac([a, b, c, d, e, f]): Mac) -> IpAddr {
    match pod_cidr {
        IpNet::V4(net) => net.network().into(),
        IpNet::V6(_) => {
            let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
            Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)).into()
        }
    }
}

fn host_gw(view: &NodeView<'_>, own: &[IpNet], peers: &[Peer], builder: &mut Builder) {
    for peer in peers {
        for pod_cidr in &peer.pod_cidrs {
            let family = Family::of_net(*pod_cidr);
            let gateway = peer.addresses.iter().copied().find(|address| Family::of(*address) == family);
            let Some(gateway) = gateway else {
                let message = format!("overlay host-gw: no InternalIP of {family} to reach {pod_cidr} by");
                builder.reject_node(&peer.name, "NoAddress", message);
                continue;
            };
            if !view.underlay.on_link(gateway) {
                let own: Vec<String> = view.underlay.nets().iter().map(ToString::to_string).collect();
                let message = format!(
                    "overlay host-gw needs nodes on one link: {gateway} is not inside {} on {}",
                    own.join(" or "),
                    view.underlay.ifname
                );
                builder.reject_node(&peer.name, "NotOnLink", message);
                continue;
            }
            via(builder, own, *pod_cidr, &view.underlay.ifname, Some(gateway), false);
        }
    }
}

fn tun(view: &NodeView<'_>, own: &[IpNet], peers: &[Peer], builder: &mut Builder) -> Tunnel {
    let mtu_bytes = pod_mtu_bytes(Overlay::Tun, view.underlay);
    builder.link(Scope::Host, TUN_LINK, LinkKind::Tun, mtu_bytes);
    let ends = || {
        let of = |peer: &Peer| SocketAddr::new(peer.outer, TUNNEL_PORT);
        peers.iter().flat_map(move |peer| peer.pod_cidrs.iter().map(move |pod_cidr| (*pod_cidr, of(peer))))
    };
    for (pod_cidr, _) in ends() {
        via(builder, own, pod_cidr, TUN_LINK, None, false);
    }
    let local = SocketAddr::new(view.underlay.address, TUNNEL_PORT);
    Tunnel { local, mtu_bytes, peers: ends().collect() }
}

/// A route to another node's Pods, for this node's own packets from its address among the Pods.
fn via(
    builder: &mut Builder,
    own: &[IpNet],
    pod_cidr: IpNet,
    link: &str,
    gateway: Option<IpAddr>,
    onlink: bool,
) {
    let link = link.to_owned();
    let source = source(own, Family::of_net(pod_cidr));
    builder.route(Scope::Host, pod_cidr, RouteSpec::Via { link, gateway, onlink, source });
}
