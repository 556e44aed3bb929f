//! One line per entry, for goldens and people.

use super::{AddressScope, LinkKind, LinkSpec, NetKey, NetSpec, NetState, RouteSpec, Scope};
use std::fmt::{self, Write};

/// The state as text, one line per entry in creation order.
pub fn render(state: &NetState) -> String {
    let mut text = String::new();
    for (key, spec) in state {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key} {spec}");
    }
    text
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Pod(name) => write!(f, "pod/{name}"),
        }
    }
}

impl fmt::Display for NetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Sysctl(scope, sysctl) => write!(f, "{scope} sysctl {}", sysctl.path()),
            Self::Link(scope, name) => write!(f, "{scope} link {name}"),
            Self::Address(scope, link, address) => write!(f, "{scope} address {address} dev {link}"),
            Self::Neighbour(scope, link, address) => write!(f, "{scope} neighbour {address} dev {link}"),
            Self::Fdb(link, mac) => write!(f, "host fdb {mac} dev {link}"),
            Self::Route(scope, destination) => write!(f, "{scope} route {destination}"),
        }
    }
}

impl fmt::Display for NetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => f.write_str("present"),
            Self::Address(AddressScope::Global) => f.write_str("scope global"),
            Self::Address(AddressScope::Host) => f.write_str("scope host"),
            Self::Address(AddressScope::Other(number)) => write!(f, "scope {number}"),
            Self::Sysctl(value) => write!(f, "= {value}"),
            Self::Link(link) => link.fmt(f),
            Self::Neighbour(mac) => write!(f, "lladdr {mac} permanent"),
            Self::Fdb(destination) => write!(f, "dst {destination}"),
            Self::Route(route) => route.fmt(f),
        }
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            LinkKind::Loopback => f.write_str("loopback")?,
            LinkKind::Veth { mac, peer_namespace } => {
                write!(f, "veth address {mac} peer {}", peer_namespace.as_deref().unwrap_or("unknown"))?;
            }
            LinkKind::VethPeer { mac } => write!(f, "veth-peer address {mac}")?,
            LinkKind::Vxlan { mac, vni, port, local, underlay, checksum_offload } => write!(
                f,
                "vxlan id {vni} dstport {port} local {local} dev {underlay} address {mac} checksum-offload {}",
                if *checksum_offload { "on" } else { "off" }
            )?,
            LinkKind::Tun => f.write_str("tun")?,
            LinkKind::Other(kind) => write!(f, "other {kind}")?,
        }
        write!(f, " mtu {} {}", self.mtu_bytes, if self.up { "up" } else { "down" })
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::Via { link, gateway, onlink, source } => {
                if let Some(gateway) = gateway {
                    write!(f, "via {gateway} ")?;
                }
                write!(f, "dev {link}")?;
                if *onlink {
                    f.write_str(" onlink")?;
                }
                source.map_or(Ok(()), |source| write!(f, " src {source}"))
            }
        }
    }
}
