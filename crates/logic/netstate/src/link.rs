//! A node's links, addresses, neighbours, FDB entries and routes as typed values.
//!
//! Invariants:
//! - [`NetKey`] orders what must exist first before what needs it: namespace, sysctl, link, address, neighbour,
//!   FDB entry, route; so puts in key order and deletes in reverse order never miss a prerequisite.
//! - Everything of ours is recognizable in the kernel without private memory: links by [`LINK_PREFIX`], routes by
//!   [`ROUTE_PROTOCOL`], addresses by [`Owned`], namespaces by their directory, the rest by the link it is on.
//! - A [`NetSpec`] holds only what the kernel reports back, so what was applied is read back equal.

mod facts;
mod render;
mod sysctl;

pub use facts::{Interface, InterfaceRoute};
pub use render::render;
pub use sysctl::Sysctl;

use ipnet::IpNet;
use minisvc_reconcile::State;
use std::fmt;
use std::net::IpAddr;

/// Names of our links on the host begin with this.
pub const LINK_PREFIX: &str = "msv";
/// Name of the VXLAN link.
pub const VXLAN_LINK: &str = "msvvx";
/// Name of the TUN link.
pub const TUN_LINK: &str = "msvtun";
/// The loopback link, in every namespace.
pub const LOOPBACK_LINK: &str = "lo";
/// Name of a Pod's link inside its namespace.
pub const POD_LINK: &str = "eth0";
/// Protocol number (`RTPROT_*`) of our routes.
pub const ROUTE_PROTOCOL: u8 = 117;
/// MTU of the loopback link, in bytes: the kernel's default.
pub const LOOPBACK_MTU_BYTES: u32 = 65536;

/// A node's network state: what exists, by key, in creation order.
pub type NetState = State<NetKey, NetSpec>;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The network namespace that something is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The namespace of the node itself.
    Host,
    /// A Pod's namespace, by its file's name.
    Pod(String),
}

/// Names one thing; the order is the order of creation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetKey {
    /// A Pod's network namespace, by its file's name.
    Namespace(String),
    /// A kernel setting.
    Sysctl(Scope, Sysctl),
    /// A link by name.
    Link(Scope, String),
    /// An address on a link.
    Address(Scope, String, IpNet),
    /// A permanent neighbour on a link.
    Neighbour(Scope, String, IpAddr),
    /// An entry of a VXLAN link's forwarding database, by Ethernet address. Host only.
    Fdb(String, Mac),
    /// A route of the main table by destination.
    Route(Scope, IpNet),
}

impl NetKey {
    /// The Pod namespace this lies in, if it does.
    pub fn pod_namespace(&self) -> Option<&str> {
        match self {
            Self::Sysctl(scope, _)
            | Self::Link(scope, _)
            | Self::Address(scope, ..)
            | Self::Neighbour(scope, ..)
            | Self::Route(scope, _) => match scope {
                Scope::Pod(name) => Some(name),
                Scope::Host => None,
            },
            Self::Namespace(_) | Self::Fdb(..) => None,
        }
    }
}

/// How one thing must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetSpec {
    /// A namespace exists.
    Namespace,
    /// A setting has this value.
    Sysctl(i64),
    /// A link is like this.
    Link(LinkSpec),
    /// An address exists, valid as far as this.
    Address(AddressScope),
    /// A neighbour has this Ethernet address.
    Neighbour(Mac),
    /// Frames to the Ethernet address go to this node.
    Fdb(IpAddr),
    /// A route is like this.
    Route(RouteSpec),
}

/// How far an address is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressScope {
    /// Everywhere: the kernel may choose it as a source, for masqueraded packets too.
    Global,
    /// It answers, but the kernel does not choose it as a source for others. IPv4: the scope `host`. IPv6 has no such
    /// scope: an address whose preferred lifetime is over.
    Host,
    /// Another scope by number; never desired, so it is replaced.
    Other(u8),
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// What it is.
    pub kind: LinkKind,
    /// Largest IP packet it takes, in bytes.
    pub mtu_bytes: u32,
    /// Administratively up. Always true in a desired state.
    pub up: bool,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// `lo`, which every namespace has.
    Loopback,
    /// One end of a pair; the other is [`POD_LINK`] in a Pod's namespace.
    Veth {
        /// Ethernet address of this end.
        mac: Mac,
        /// The Pod's namespace. Observed as None if the other end is not where it belongs.
        peer_namespace: Option<String>,
    },
    /// A Pod's end of a pair; made together with the host's end.
    VethPeer {
        /// Ethernet address of this end.
        mac: Mac,
    },
    /// VXLAN without learning.
    Vxlan {
        /// Ethernet address of this node's tunnel end point.
        mac: Mac,
        /// Network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
        /// This node's address.
        local: IpAddr,
        /// Link the packets leave by.
        underlay: String,
        /// Whether checksums of inner packets may be left to the underlay's hardware.
        checksum_offload: bool,
    },
    /// A persistent multi-queue TUN link with offloads, served by the user-space tunnel.
    Tun,
    /// Something else that has our name; never desired, so it is replaced.
    Other(String),
}

/// Where packets to a destination go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteSpec {
    /// Out of a link.
    Via {
        /// The link.
        link: String,
        /// Next hop, if the destination is not on the link itself.
        gateway: Option<IpAddr>,
        /// The next hop is on the link whatever the addresses say.
        onlink: bool,
        /// Source address for the node's own packets.
        source: Option<IpAddr>,
    },
    /// Nowhere: the sender is told so at once.
    Unreachable,
}

/// Which addresses on links that are not ours, and which settings, belong to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Host addresses inside these networks on `lo` are ours.
    pub networks: Vec<IpNet>,
    /// Host addresses within these ranges (both ends inclusive) on any link are ours.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// The settings of the node that we need.
    pub sysctls: Vec<Sysctl>,
}

impl Owned {
    /// Whether the address on the link is ours. The kernel gives every link a link-local IPv6 address itself.
    pub fn address(&self, link: &str, address: &IpNet) -> bool {
        if matches!(address, IpNet::V6(net) if net.addr().is_unicast_link_local()) {
            return false;
        }
        if link.starts_with(LINK_PREFIX) {
            return true;
        }
        let ip = address.addr();
        let single = address.prefix_len() == address.max_prefix_len();
        let in_network = link == LOOPBACK_LINK && self.networks.iter().any(|net| net.contains(&ip));
        single && (in_network || self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&ip)))
    }
}

#[cfg(test)]
mod tests;
