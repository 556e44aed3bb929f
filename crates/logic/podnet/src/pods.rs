//! A Pod's namespace, link, addresses and routes, on both sides.

use crate::{
    Builder, GATEWAY_MAC, LocalPod, NodeView, gateway_address, net_of, node_address, pod_mac, pod_mtu_bytes,
    source,
};
use ipnet::IpNet;
use minisvc_apimachinery::Family;
use minisvc_netstate::link::{
    AddressScope, LINK_PREFIX, LOOPBACK_LINK, LOOPBACK_MTU_BYTES, LinkKind, NetKey, NetSpec, POD_LINK,
    RouteSpec, Scope, Sysctl, TUN_LINK, VXLAN_LINK,
};
use minisvc_reconcile::Rejection;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a link's name, without the terminating zero.
const LINK_NAME_BYTES_MAX: usize = 15;

/// Adds every Pod that can be had; the others are rejected. Of two Pods that claim the same thing, the one whose
/// uid sorts first has it.
pub(crate) fn pods(
    view: &NodeView<'_>,
    own: &[IpNet],
    pods: &BTreeMap<String, LocalPod>,
    builder: &mut Builder,
) {
    let mut addresses = BTreeSet::new();
    let mut names = BTreeSet::new();
    for pod in pods.values() {
        let problem = problem(own, pod).or_else(|| {
            if let Some(address) = pod.addresses.iter().find(|address| !addresses.insert(**address)) {
                Some(("AddressConflict", format!("{address} belongs to another Pod")))
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

fn problem(own: &[IpNet], pod: &LocalPod) -> Option<(&'static str, String)> {
    let fits = |address: &&IpAddr| {
        net_of(own, Family::of(**address)).is_some_and(|net| {
            net.contains(*address) && **address != net.network() && **address != node_address(&net)
        })
    };
    let bad = pod.addresses.iter().find(|address| !fits(address));
    if bad.is_some() || pod.addresses.is_empty() {
        let nets: Vec<String> = own.iter().map(ToString::to_string).collect();
        let what = bad.map_or("nothing".to_owned(), ToString::to_string);
        return Some(("InvalidAddress", format!("{what} is no Pod's address in {}", nets.join(" or "))));
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

fn add(view: &NodeView<'_>, own: &[IpNet], pod: &LocalPod, builder: &mut Builder) {
    let Some(primary) = pod.addresses.first() else { return };
    let inside = || Scope::Pod(pod.netns.clone());
    let mtu_bytes = pod_mtu_bytes(view.cluster.overlay, view.underlay);
    let mac = pod_mac(*primary);
    builder.links.insert(NetKey::Namespace(pod.netns.clone()), NetSpec::Namespace);
    builder.sysctls(&inside(), &Sysctl::POD);

    let host_end = LinkKind::Veth { mac: GATEWAY_MAC, peer_namespace: Some(pod.netns.clone()) };
    builder.link(Scope::Host, &pod.ifname, host_end, mtu_bytes);
    builder.link(inside(), LOOPBACK_LINK, LinkKind::Loopback, LOOPBACK_MTU_BYTES);
    builder.link(inside(), POD_LINK, LinkKind::VethPeer { mac }, mtu_bytes);
    for address in &pod.addresses {
        let family = Family::of(*address);
        neighbour(builder, Scope::Host, &pod.ifname, *address, mac);
        let link = pod.ifname.clone();
        let route = RouteSpec::Via { link, gateway: None, onlink: false, source: source(own, family) };
        builder.route(Scope::Host, IpNet::from(*address), route);

        builder.address(inside(), POD_LINK, *address, AddressScope::Global);
        let gateway = gateway_address(family);
        neighbour(builder, inside(), POD_LINK, gateway, GATEWAY_MAC);
        let link = POD_LINK.to_owned();
        let default = RouteSpec::Via { link, gateway: Some(gateway), onlink: true, source: None };
        builder.route(inside(), everywhere(family), default);
    }
}

/// The destination of a default route.
fn everywhere(family: Family) -> IpNet {
    let address = match family {
        Family::Ipv4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    IpNet::new_assert(address, 0)
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
