//! Address and port pools as values.
//!
//! In: a network, a port range or ranges of addresses, and a question "is this one used?". Out: one that is not.
//! A pool remembers nothing; who holds what is read from the stored objects by the caller.
//!
//! - [`AddressPool`]: virtual addresses of Services, with the static band of KEP-3070.
//! - [`PortPool`]: node ports, with the static band of KEP-3668.
//! - [`subnet`], [`next_subnet`]: the Pod network of each node.
//! - [`RangePool`]: addresses for load balancers.
//!
//! Invariant: a pool finds a free member if and only if there is one, and asks about each member at most once.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

mod ranges;
mod slots;
mod subnets;
#[cfg(test)]
mod tests;

pub use ranges::RangePool;
use slots::Slots;
pub use subnets::{next_subnet, subnet};

/// Why a pool could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The ends of an address range are of two families.
    #[error("range {first}-{last}: the ends are of different address families")]
    MixedFamilies {
        /// First address.
        first: IpAddr,
        /// Last address.
        last: IpAddr,
    },
    /// The first address or port comes after the last.
    #[error("range {first}-{last}: the first must not come after the last")]
    Reversed {
        /// First member.
        first: String,
        /// Last member.
        last: String,
    },
}

/// Number of an address within its family.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address of a number, in the family of `like`. None if there is no such address.
fn address(number: u128, like: IpAddr) -> Option<IpAddr> {
    match like {
        IpAddr::V4(_) => Some(IpAddr::V4(Ipv4Addr::from(u32::try_from(number).ok()?))),
        IpAddr::V6(_) => Some(IpAddr::V6(Ipv6Addr::from(number))),
    }
}

/// The virtual addresses of one service network.
///
/// The network's own address and, in IPv4, its broadcast address are no members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    net: IpNet,
    slots: Slots,
}

impl AddressPool {
    /// The pool of a network; host bits of `net` are ignored. A network of one or two addresses has no members.
    ///
    /// The static band has `min(max(16, size / 16), 256)` addresses, none in networks of 16 addresses or fewer.
    /// Source: KEP-3070.
    pub fn new(net: IpNet) -> Self {
        let net = net.trunc();
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let size = 1_u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        let outside = if net.addr().is_ipv4() { 2 } else { 1 };
        let offset = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        let slots = Slots::new(number(net.network()).saturating_add(1), size.saturating_sub(outside), offset);
        Self { net, slots }
    }

    /// The network.
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// Whether the address can be held by a Service at all.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.net.addr().is_ipv4() && self.slots.contains(number(address))
    }

    /// A free address: from the upper band, else from the static one; the search starts where `seed` says.
    pub fn next(&self, is_used: impl Fn(IpAddr) -> bool, seed: u64) -> Option<IpAddr> {
        let like = self.net.addr();
        let free = |n| address(n, like).is_some_and(|ip| !is_used(ip));
        self.slots.next(free, seed).and_then(|n| address(n, like))
    }
}

/// The node ports of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPool {
    slots: Slots,
}

impl PortPool {
    /// The pool of a range of ports, both ends inclusive.
    ///
    /// The static band has `min(max(16, size / 32), 128)` ports, none in ranges of 16 ports or fewer.
    /// Source: KEP-3668.
    ///
    /// # Errors
    /// [`Error::Reversed`] if `first` comes after `last`.
    pub fn new(first: u16, last: u16) -> Result<Self, Error> {
        if first > last {
            return Err(Error::Reversed { first: first.to_string(), last: last.to_string() });
        }
        let size = u128::from(last - first) + 1;
        let offset = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        Ok(Self { slots: Slots::new(u128::from(first), size, offset) })
    }

    /// Whether the port is in the range.
    pub fn contains(&self, port: u16) -> bool {
        self.slots.contains(u128::from(port))
    }

    /// A free port: from the upper band, else from the static one; the search starts where `seed` says.
    pub fn next(&self, is_used: impl Fn(u16) -> bool, seed: u64) -> Option<u16> {
        let free = |n| u16::try_from(n).is_ok_and(|port| !is_used(port));
        self.slots.next(free, seed).and_then(|n| u16::try_from(n).ok())
    }
}
