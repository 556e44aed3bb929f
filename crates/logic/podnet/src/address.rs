//! Addresses and names that follow from API data alone.

use ipnet::IpNet;
use minisvc_apimachinery::Family;
use minisvc_netstate::link::{LINK_PREFIX, Mac};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Next hop of every Pod: link-local, on no link, answered by a permanent neighbour entry.
pub fn gateway_address(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(169, 254, 1, 1).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Ethernet address of the host's end of every Pod's link. Each pair is a segment of its own, so one does for all.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x6d, 0x73, 0x76, 0x00, 0x01]);

/// A node's address among the Pods: the first after its podCIDR's network address.
pub fn node_address(pod_cidr: &IpNet) -> IpAddr {
    numbered(Family::of_net(*pod_cidr), number(pod_cidr.network()).saturating_add(1))
}

/// Ethernet address of the VXLAN end point of the node with this podCIDR: distinct for distinct IPv4 networks.
pub fn vtep_mac(pod_cidr: &IpNet) -> Mac {
    let [a, b, c, d] = four_bytes(pod_cidr.network());
    Mac([0x0e, pod_cidr.prefix_len(), a, b, c, d])
}

/// Ethernet address of the Pod with this address: distinct for distinct IPv4 addresses.
pub fn pod_mac(address: IpAddr) -> Mac {
    let [a, b, c, d] = four_bytes(address);
    Mac([0x0a, 0x6d, a, b, c, d])
}

/// Name of the host's end of a Pod's link: the prefix and 48 bits of a hash of the Pod's uid, 15 characters in all.
pub fn link_name(uid: &str) -> String {
    format!("{LINK_PREFIX}{:012x}", fnv1a(uid.as_bytes()) & 0xffff_ffff_ffff)
}

/// No address can be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Every address is in use.
    #[error("no free address in podCIDR {0}: all {1} are in use")]
    Full(IpNet, u128),
}

/// The next free Pod address of a podCIDR after `last` (the address given last), turning round at the end, so that
/// an address just freed is given again as late as possible. The network address, the node's own address and the
/// broadcast address are never given.
///
/// # Errors
/// If the network is full.
pub fn allocate(
    pod_cidr: &IpNet,
    used: &BTreeSet<IpAddr>,
    last: Option<IpAddr>,
) -> Result<IpAddr, AllocateError> {
    let first = number(pod_cidr.network()).saturating_add(2);
    let end = number(pod_cidr.broadcast());
    let count = end.saturating_sub(first);
    let last = last.filter(|last| Family::of(*last) == Family::of_net(*pod_cidr)).map(number);
    let start = last.filter(|last| (first..end).contains(last)).map_or(0, |last| last - first + 1);
    // At most used.len() + 1 steps find a free one, or there is none.
    (0..count)
        .take(used.len().saturating_add(1))
        .map(|step| numbered(Family::of_net(*pod_cidr), first + (start + step) % count))
        .find(|address| !used.contains(address))
        .ok_or(AllocateError::Full(*pod_cidr, count))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn numbered(family: Family, number: u128) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::Ipv6 => Ipv6Addr::from(number).into(),
    }
}

fn four_bytes(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let hash = fnv1a(&v6.octets());
            ((hash ^ (hash >> 32)) as u32).to_be_bytes()
        }
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn reserved_addresses_are_never_given_and_a_full_network_says_so() {
        let cidr = net("10.42.7.0/29");
        let mut used = BTreeSet::new();
        let mut last = None;
        for n in 2..7u8 {
            let given = allocate(&cidr, &used, last).unwrap();
            assert_eq!(given, IpAddr::from([10, 42, 7, n]));
            used.insert(given);
            last = Some(given);
        }
        assert_eq!(allocate(&cidr, &used, last), Err(AllocateError::Full(cidr, 5)));
        used.remove(&IpAddr::from([10, 42, 7, 4]));
        assert_eq!(allocate(&cidr, &used, last), Ok(IpAddr::from([10, 42, 7, 4])));
        for tiny in ["10.42.7.0/30", "10.42.7.0/31", "10.42.7.0/32", "255.255.255.255/32"] {
            let result = allocate(&net(tiny), &BTreeSet::new(), None);
            assert_eq!(result.is_ok(), tiny.ends_with("/30"), "{tiny}: {result:?}");
        }
    }

    #[test]
    fn a_large_network_is_filled_from_its_beginning_too() {
        let cidr = net("fd42:0:0:7::/64");
        let given = allocate(&cidr, &BTreeSet::new(), None).unwrap();
        assert_eq!(given.to_string(), "fd42:0:0:7::2");
        assert_eq!(allocate(&cidr, &BTreeSet::new(), Some(given)).unwrap().to_string(), "fd42:0:0:7::3");
        assert_eq!(node_address(&cidr).to_string(), "fd42:0:0:7::1");
    }

    #[test]
    fn names_and_ethernet_addresses_are_stable_unicast_and_short() {
        assert_eq!(node_address(&net("10.42.7.0/24")), IpAddr::from([10, 42, 7, 1]));
        assert_eq!(vtep_mac(&net("10.42.7.0/24")).to_string(), "0e:18:0a:2a:07:00");
        assert_eq!(pod_mac(IpAddr::from([10, 42, 7, 2])).to_string(), "0a:6d:0a:2a:07:02");
        let name = link_name("0d9f2b8e-0000-4000-8000-000000000001");
        assert_eq!(name.len(), 15);
        for Mac([first, ..]) in
            [GATEWAY_MAC, vtep_mac(&net("fd00::/64")), pod_mac(gateway_address(Family::Ipv6))]
        {
            assert_eq!(first & 0b11, 0b10, "locally administered unicast");
        }
    }

    proptest! {
        #[test]
        fn a_given_address_is_free_and_inside(
            used in proptest::collection::btree_set(0u8..64, 0..64), last in proptest::option::of(0u8..64),
        ) {
            let cidr = net("10.42.7.0/26");
            let address = |n: u8| IpAddr::from([10, 42, 7, n]);
            let taken: BTreeSet<IpAddr> = used.iter().copied().map(address).collect();
            let free = (2u8..63).any(|n| !used.contains(&n));
            match allocate(&cidr, &taken, last.map(address)) {
                Ok(given) => {
                    prop_assert!(!taken.contains(&given));
                    prop_assert!((2..63).map(address).any(|a| a == given));
                }
                Err(_) => prop_assert!(!free),
            }
        }
    }
}
