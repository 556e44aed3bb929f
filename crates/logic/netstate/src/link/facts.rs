//! What a node has besides ours.

use ipnet::IpNet;
use std::net::IpAddr;

/// A link of the node as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// The loopback link.
    pub loopback: bool,
    /// Whether checksum offloads may end up in a card, real or virtual: anything but a veth.
    pub hardware: bool,
    /// Largest IP packet, in bytes.
    pub mtu_bytes: u32,
    /// Its addresses in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// A route of the node's main table as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceRoute {
    /// Where to; the default route is `0.0.0.0/0`.
    pub destination: IpNet,
    /// Name of the link it leaves by.
    pub ifname: String,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Smaller is preferred.
    pub metric: u32,
}
