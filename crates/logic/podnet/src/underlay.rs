//! Which of a node's links and addresses the other nodes reach it by.
//!
//! Invariant: an ambiguous answer is refused with what to do, never guessed. Vagrant gives every machine the same
//! address 10.0.2.15 behind a NAT on its first card; a cluster on that address is broken in ways hard to see.

use ipnet::IpNet;
use minisvc_apimachinery::Family;
use minisvc_netstate::link::{Interface, InterfaceRoute, LINK_PREFIX};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Its address of the other family, if the cluster has both and the node one of each, with its prefix on the link.
    pub second: Option<IpNet>,
    /// Largest IP packet of the link, in bytes.
    pub mtu_bytes: u32,
    /// Whether checksum offloads may end up in a card, real or virtual: anything but a veth.
    pub hardware: bool,
}

impl Underlay {
    /// The node's addresses, the primary one first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(self.address).chain(self.second.map(|net| net.addr())).collect()
    }

    /// The same with their prefixes on the link.
    pub fn nets(&self) -> Vec<IpNet> {
        IpNet::new(self.address, self.prefix_len).into_iter().chain(self.second).collect()
    }

    /// Whether the address can be reached on the link without a router.
    pub fn on_link(&self, address: IpAddr) -> bool {
        self.nets().iter().any(|net| net.contains(&address))
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
    #[error("this node has no {0} address on a link that is up; give it one")]
    NoAddress(Family),
    /// Two addresses that are not on one link.
    #[error("--node-ip {second}: not on link {ifname:?}, which has {first}; it can be one of: {}", list(.candidates))]
    OnAnotherLink {
        /// The first address.
        first: IpAddr,
        /// Its link.
        ifname: String,
        /// The second.
        second: IpAddr,
        /// What there is of its family on that link.
        candidates: Vec<IpAddr>,
    },
}

fn list(candidates: &[IpAddr]) -> String {
    if candidates.is_empty() {
        return "(no other address here)".to_owned();
    }
    candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `--node-ip`: none, the primary address, or one of each family.
    pub node_ips: &'a [IpAddr],
    /// Address of the first server, for a node that joins it.
    pub join: Option<IpAddr>,
    /// The family of the primary address, if no address says it.
    pub primary: Family,
}

/// Chooses the primary address, in this order: the first of `node_ips`; the address used on the way to `join` (the first
/// server); the only address; the only address besides Vagrant's NAT; the default route's address. Then the second of
/// `node_ips`, or else the first address of the other family on the same link, if there is one.
///
/// # Errors
/// If the choice is not certain; the text lists the addresses to choose from.
pub fn choose_underlay(
    interfaces: &[Interface],
    routes: &[InterfaceRoute],
    asked: Asked<'_>,
) -> Result<Underlay, UnderlayError> {
    let Asked { node_ips, join, primary } = asked;
    let said = node_ips.first().copied().or(join);
    let family = said.map_or(primary, Family::of);
    let (link, net) = primary_address(&usable(interfaces, family), routes, node_ips, join, family)?;
    let others: Vec<IpNet> = usable(interfaces, family.other())
        .iter()
        .filter(|(on, _)| on.name == link.name)
        .map(|(_, net)| *net)
        .collect();
    let second = match node_ips.get(1) {
        None => others.first().copied(),
        Some(second) => Some(others.iter().copied().find(|net| net.addr() == *second).ok_or_else(|| {
            UnderlayError::OnAnotherLink {
                first: net.addr(),
                ifname: link.name.clone(),
                second: *second,
                candidates: others.iter().map(|net| net.addr()).collect(),
            }
        })?),
    };
    Ok(Underlay {
        ifname: link.name.clone(),
        address: net.addr(),
        prefix_len: on_link(link, net, routes).prefix_len(),
        second: second.map(|net| on_link(link, net, routes)),
        mtu_bytes: link.mtu_bytes,
        hardware: link.hardware,
    })
}

/// Addresses of a family by which other nodes may reach this one. Single IPv6 addresses come last: such are those of load
/// balancers that an earlier run has left.
fn usable(interfaces: &[Interface], family: Family) -> Vec<Candidate<'_>> {
    let reaches = |net: &IpNet| match net {
        IpNet::V4(net) => !net.addr().is_link_local() && !net.addr().is_loopback(),
        IpNet::V6(net) => !net.addr().is_unicast_link_local() && !net.addr().is_loopback(),
    };
    let mut usable: Vec<Candidate<'_>> = interfaces
        .iter()
        .filter(|link| link.up && !link.loopback && !link.name.starts_with(LINK_PREFIX))
        .flat_map(|link| link.addresses.iter().map(move |address| (link, *address)))
        .filter(|(_, net)| Family::of_net(*net) == family && reaches(net))
        .collect();
    usable.sort_by_key(|(_, net)| net.prefix_len() == 128);
    usable
}

/// An address with the prefix that is on its link: by DHCPv6 it has none itself, and a route says it.
fn on_link(link: &Interface, address: IpNet, routes: &[InterfaceRoute]) -> IpNet {
    if address.prefix_len() < address.max_prefix_len() {
        return address;
    }
    let connected = routes.iter().filter(|route| {
        route.ifname == link.name && route.gateway.is_none() && route.destination.contains(&address.addr())
    });
    let longest = connected.map(|route| route.destination.prefix_len()).max();
    longest.and_then(|length| IpNet::new(address.addr(), length).ok()).unwrap_or(address)
}

fn primary_address<'a>(
    usable: &[Candidate<'a>],
    routes: &[InterfaceRoute],
    node_ips: &[IpAddr],
    join: Option<IpAddr>,
    family: Family,
) -> Result<Candidate<'a>, UnderlayError> {
    let candidates = || usable.iter().map(|(_, net)| net.addr()).collect::<Vec<_>>();
    if let Some(address) = node_ips.first().copied() {
        let found = usable.iter().find(|(_, net)| net.addr() == address);
        return found.copied().ok_or_else(|| UnderlayError::NotOurs { address, candidates: candidates() });
    }
    let chosen = match join {
        Some(join) => by_route(usable, routes, join)
            .ok_or_else(|| UnderlayError::NoRoute { join, candidates: candidates() })?,
        None => first_server(usable, routes, family)?,
    };
    if chosen.1.addr() == VAGRANT_NAT {
        let candidates = candidates().into_iter().filter(|address| *address != VAGRANT_NAT).collect();
        return Err(UnderlayError::VagrantNat { candidates });
    }
    Ok(chosen)
}

type Candidate<'a> = (&'a Interface, IpNet);

fn first_server<'a>(
    usable: &[Candidate<'a>],
    routes: &[InterfaceRoute],
    family: Family,
) -> Result<Candidate<'a>, UnderlayError> {
    // A public address stands for "anywhere": only the default route leads there.
    let anywhere: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let candidates = || usable.iter().map(|(_, net)| net.addr()).collect();
    match usable {
        [] => return Err(UnderlayError::NoAddress(family)),
        [only] => return Ok(*only),
        _ => {}
    }
    let others: Vec<_> = usable.iter().filter(|(_, net)| net.addr() != VAGRANT_NAT).collect();
    match others.as_slice() {
        [only] => Ok(**only),
        _ if others.len() < usable.len() => Err(UnderlayError::Ambiguous { candidates: candidates() }),
        _ => by_route(usable, routes, anywhere)
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
