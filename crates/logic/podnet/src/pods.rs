//! A Pod's namespace, link, addresses and routes, on both sides.

use crate::{
    Builder, GATEWAY_ADDRESS, GATEWAY_MAC, LocalPod, NodeView, node_address, pod_mac, pod_mtu_bytes,
};
use ipnet::IpNet;
use minisvc_netstate::link::{
    LINK_PREFIX, LOOPBACK_LINK, LOOPBACK_MTU_BYTES, LinkKind, NetKey, NetSpec, POD_LINK, RouteSpec, Scope,
    Sysctl, TUN_LINK, VXLAN_LINK,
};
use minisvc_reconcile::Rejection;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Bytes of a link's name, without the terminating zero.
const LINK_NAME_BYTES_MAX: usize = 15;

/// Adds every Pod that can be had; the others are rejected. Of two Pods that claim the same thing, the one whose
/// uid sorts first has it.
pub(crate) fn pods(
    view: &NodeView<'_>,
    own: IpNet,
    pods: &BTreeMap<String, LocalPod>,
    builder: &mut Builder,
) {
    let mut addresses = BTreeSet::new();
    let mut names = BTreeSet::new();
    for pod in pods.values() {
        let problem = problem(own, pod).or_else(|| {
            if !addresses.insert(pod.address) {
                Some(("AddressConflict", format!("{} belongs to another Pod", pod.address)))
            } else if !names.insert(pod.ifname.as_str()) || !names.insert(pod.netns.as_str()) {
                Some(("NameConflict", format!("link {:?} or namespace {:?} is taken", pod.ifname, pod.netns)))
            } else {
                None
            }
        });
        match problem {
            Some((reason, message)) => builder.rejected.push(Rejection {
                kind: "Pod",
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                reason,
                message,
            }),
            None => add(view, own, pod, builder),
        }
    }
}

fn problem(own: IpNet, pod: &LocalPod) -> Option<(&'static str, String)> {
    let reserved = pod.address == own.network() || pod.address == node_address(&own);
    if !own.contains(&pod.address) || reserved {
        return Some(("InvalidAddress", format!("{} is no Pod's address in {own}", pod.address)));
    }
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if pod.netns.is_empty() || pod.netns.len() > 255 || pod.netns.starts_with('.') || !plain(&pod.netns) {
        return Some(("InvalidName", format!("{:?} cannot name a network namespace", pod.netns)));
    }
    let name = pod.ifname.as_str();
    let fits = name.len() > LINK_PREFIX.len() && name.len() <= LINK_NAME_BYTES_MAX && plain(name);
    if !fits || !name.starts_with(LINK_PREFIX) || [VXLAN_LINK, TUN_LINK].contains(&name) {
        return Some(("InvalidName", format!("{name:?} cannot name a Pod's link")));
    }
    None
}

fn add(view: &NodeView<'_>, own: IpNet, pod: &LocalPod, builder: &mut Builder) {
    let inside = || Scope::Pod(pod.netns.clone());
    let mtu_bytes = pod_mtu_bytes(view.cluster.overlay, view.underlay.mtu_bytes);
    let mac = pod_mac(pod.address);
    builder.links.insert(NetKey::Namespace(pod.netns.clone()), NetSpec::Namespace);
    builder.sysctls(&inside(), &Sysctl::POD);

    let host_end = LinkKind::Veth { mac: GATEWAY_MAC, peer_namespace: Some(pod.netns.clone()) };
    builder.link(Scope::Host, &pod.ifname, host_end, mtu_bytes);
    neighbour(builder, Scope::Host, &pod.ifname, pod.address, mac);
    let route = RouteSpec::Via {
        link: pod.ifname.clone(),
        gateway: None,
        onlink: false,
        source: Some(node_address(&own)),
    };
    builder.route(Scope::Host, IpNet::from(pod.address), route);

    builder.link(inside(), LOOPBACK_LINK, LinkKind::Loopback, LOOPBACK_MTU_BYTES);
    builder.link(inside(), POD_LINK, LinkKind::VethPeer { mac }, mtu_bytes);
    builder.address(inside(), POD_LINK, pod.address);
    neighbour(builder, inside(), POD_LINK, GATEWAY_ADDRESS, GATEWAY_MAC);
    let default = RouteSpec::Via {
        link: POD_LINK.to_owned(),
        gateway: Some(GATEWAY_ADDRESS),
        onlink: true,
        source: None,
    };
    if let Ok(everywhere) = IpNet::new(IpAddr::from([0, 0, 0, 0]), 0) {
        builder.route(inside(), everywhere, default);
    }
}

fn neighbour(
    builder: &mut Builder,
    scope: Scope,
    link: &str,
    address: IpAddr,
    mac: minisvc_netstate::link::Mac,
) {
    builder.links.insert(NetKey::Neighbour(scope, link.to_owned(), address), NetSpec::Neighbour(mac));
}
