//! Which of a node's links and addresses the other nodes reach it by.
//!
//! Invariant: an ambiguous answer is refused with what to do, never guessed. Vagrant gives every machine the same
//! address 10.0.2.15 behind a NAT on its first card; a cluster on that address is broken in ways hard to see.

use ipnet::IpNet;
use minisvc_netstate::link::{Interface, InterfaceRoute, LINK_PREFIX};
use std::net::{IpAddr, Ipv4Addr};

/// The address that VirtualBox's NAT gives to every machine.
const VAGRANT_NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15));

/// The link and address by which a node reaches the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Name of the link.
    pub ifname: String,
    /// The node's address.
    pub address: IpAddr,
    /// Length of the network prefix that is on the link.
    pub prefix_len: u8,
    /// Largest IP packet of the link, in bytes.
    pub mtu_bytes: u32,
    /// Whether checksum offloads may end up in a card, real or virtual: anything but a veth.
    pub hardware: bool,
}

impl Underlay {
    /// Whether the address can be reached on the link without a router.
    pub fn on_link(&self, address: IpAddr) -> bool {
        IpNet::new(self.address, self.prefix_len).is_ok_and(|net| net.contains(&address))
    }
}

/// No address can be chosen. Every text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnderlayError {
    /// `--node-ip` is nobody's.
    #[error("--node-ip {address}: no link that is up has this address; it can be one of: {}", list(.candidates))]
    NotOurs {
        /// What was asked for.
        address: IpAddr,
        /// What there is.
        candidates: Vec<IpAddr>,
    },
    /// The first server's address cannot be reached.
    #[error("no route to the server {join}; give this node a route to it, or choose the address by --node-ip: {}", list(.candidates))]
    NoRoute {
        /// The server's address.
        join: IpAddr,
        /// What there is.
        candidates: Vec<IpAddr>,
    },
    /// Several would do.
    #[error("this node has several addresses; choose the one the other nodes reach by --node-ip: {}", list(.candidates))]
    Ambiguous {
        /// What there is.
        candidates: Vec<IpAddr>,
    },
    /// The choice would be the address that every Vagrant machine has.
    #[error(
        "the address would be 10.0.2.15, which Vagrant gives to every machine, so other nodes cannot reach it; \
         choose another by --node-ip: {} (--node-ip 10.0.2.15 for a cluster of this one node)", list(.candidates)
    )]
    VagrantNat {
        /// What else there is.
        candidates: Vec<IpAddr>,
    },
    /// There is none.
    #[error("this node has no IPv4 address on a link that is up; give it one")]
    NoAddress,
}

fn list(candidates: &[IpAddr]) -> String {
    if candidates.is_empty() {
        return "(no other address here)".to_owned();
    }
    candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Chooses, in this order: `node_ip`; the address used on the way to `join` (the first server); the only address;
/// the only address besides Vagrant's NAT; the default route's address.
///
/// # Errors
/// If the choice is not certain; the text lists the addresses to choose from.
pub fn choose_underlay(
    interfaces: &[Interface],
    routes: &[InterfaceRoute],
    node_ip: Option<IpAddr>,
    join: Option<IpAddr>,
) -> Result<Underlay, UnderlayError> {
    let usable: Vec<(&Interface, IpNet)> = interfaces
        .iter()
        .filter(|link| link.up && !link.loopback && !link.name.starts_with(LINK_PREFIX))
        .flat_map(|link| link.addresses.iter().map(move |address| (link, *address)))
        .filter(
            |(_, net)| matches!(net, IpNet::V4(v4) if !v4.addr().is_link_local() && !v4.addr().is_loopback()),
        )
        .collect();
    let candidates = || usable.iter().map(|(_, net)| net.addr()).collect::<Vec<_>>();
    if let Some(address) = node_ip {
        let found = usable.iter().find(|(_, net)| net.addr() == address);
        return found
            .map(|(link, net)| underlay(link, *net))
            .ok_or_else(|| UnderlayError::NotOurs { address, candidates: candidates() });
    }
    let chosen = match join {
        Some(join) => by_route(&usable, routes, join)
            .ok_or_else(|| UnderlayError::NoRoute { join, candidates: candidates() })?,
        None => first_server(&usable, routes)?,
    };
    if chosen.1.addr() == VAGRANT_NAT {
        let candidates = candidates().into_iter().filter(|address| *address != VAGRANT_NAT).collect();
        return Err(UnderlayError::VagrantNat { candidates });
    }
    Ok(underlay(chosen.0, chosen.1))
}

fn underlay(link: &Interface, address: IpNet) -> Underlay {
    Underlay {
        ifname: link.name.clone(),
        address: address.addr(),
        prefix_len: address.prefix_len(),
        mtu_bytes: link.mtu_bytes,
        hardware: link.hardware,
    }
}

type Candidate<'a> = (&'a Interface, IpNet);

fn first_server<'a>(
    usable: &[Candidate<'a>],
    routes: &[InterfaceRoute],
) -> Result<Candidate<'a>, UnderlayError> {
    let candidates = || usable.iter().map(|(_, net)| net.addr()).collect();
    match usable {
        [] => return Err(UnderlayError::NoAddress),
        [only] => return Ok(*only),
        _ => {}
    }
    let others: Vec<_> = usable.iter().filter(|(_, net)| net.addr() != VAGRANT_NAT).collect();
    match others.as_slice() {
        [only] => Ok(**only),
        _ if others.len() < usable.len() => Err(UnderlayError::Ambiguous { candidates: candidates() }),
        // A public address stands for "anywhere": only the default route leads there.
        _ => by_route(usable, routes, IpAddr::from([192, 0, 2, 1]))
            .ok_or_else(|| UnderlayError::Ambiguous { candidates: candidates() }),
    }
}

/// The address the kernel would use towards `target`.
fn by_route<'a>(
    usable: &[Candidate<'a>],
    routes: &[InterfaceRoute],
    target: IpAddr,
) -> Option<Candidate<'a>> {
    // The first server joined from its own machine: the address is on a link here.
    if let Some(own) = usable.iter().find(|(_, net)| net.addr() == target) {
        return Some(*own);
    }
    let route = routes
        .iter()
        .filter(|route| route.destination.contains(&target))
        .min_by_key(|route| (u8::MAX - route.destination.prefix_len(), route.metric))?;
    let on_link: Vec<_> = usable.iter().filter(|(link, _)| link.name == route.ifname).collect();
    let next_hop = route.gateway.unwrap_or(target);
    let by_source = on_link.iter().find(|(_, net)| Some(net.addr()) == route.source);
    let by_network = || on_link.iter().find(|(_, net)| net.contains(&next_hop));
    by_source.or_else(by_network).or_else(|| on_link.first()).map(|found| **found)
}

#[cfg(test)]
mod tests;
