//! Where a packet goes on from this node.
//!
//! In: the links that [`crate::desired`] wants, and a destination. Out: the link and next hop, as the kernel would
//! choose among our routes: the longest prefix first, the node's own routes only where none of ours fits.

use crate::Underlay;
use ipnet::IpNet;
use minisvc_netstate::link::{NetKey, NetSpec, NetState, RouteSpec, Scope};
use std::net::IpAddr;

/// How a packet goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The address is this node's.
    Here,
    /// By a link.
    Link {
        /// Its name.
        link: String,
        /// Next hop; None: the destination itself is on the link.
        gateway: Option<IpAddr>,
        /// The address that the node itself sends from there.
        source: Option<IpAddr>,
    },
    /// The address is of the Pods' networks, and no Pod or node has it.
    Unreachable,
    /// Out of the cluster, by the node's own routes.
    Outside,
}

/// The way to an address.
pub fn way(links: &NetState, underlay: &Underlay, to: IpAddr) -> Way {
    let own = |key: &NetKey| matches!(key, NetKey::Address(Scope::Host, _, net) if net.addr() == to);
    if underlay.addresses().contains(&to) || links.keys().any(own) {
        return Way::Here;
    }
    let routes = links.iter().filter_map(|(key, spec)| match (key, spec) {
        (NetKey::Route(Scope::Host, net), NetSpec::Route(route)) if net.contains(&to) => Some((net, route)),
        _ => None,
    });
    match routes.max_by_key(|(net, _)| IpNet::prefix_len(net)) {
        Some((_, RouteSpec::Via { link, gateway, source, .. })) => {
            Way::Link { link: link.clone(), gateway: *gateway, source: *source }
        }
        Some((_, RouteSpec::Unreachable)) => Way::Unreachable,
        None if underlay.on_link(to) => {
            let source = underlay.addresses().into_iter().find(|own| own.is_ipv4() == to.is_ipv4());
            Way::Link { link: underlay.ifname.clone(), gateway: None, source }
        }
        None => Way::Outside,
    }
}
