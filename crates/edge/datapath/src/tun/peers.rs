//! Which peer has which Pods.

use ipnet::{IpNet, Ipv4Net};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

/// Peers by podCIDR, looked up by the longest that holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// By prefix length, longest first, then by network: nodes' networks mostly have one length.
    lengths: BTreeMap<Reverse<u8>, BTreeMap<Ipv4Addr, SocketAddr>>,
}

impl Peers {
    /// A table of these peers. IPv6 networks are left out.
    pub fn new<'a>(peers: impl IntoIterator<Item = (&'a IpNet, &'a SocketAddr)>) -> Self {
        let mut table = Self::default();
        for (net, address) in peers {
            if let IpNet::V4(net) = net {
                table.lengths.entry(Reverse(net.prefix_len())).or_default().insert(net.network(), *address);
            }
        }
        table
    }

    /// The peer whose podCIDR holds the address.
    pub fn find(&self, address: Ipv4Addr) -> Option<SocketAddr> {
        self.lengths.iter().find_map(|(Reverse(length), nets)| {
            let net = Ipv4Net::new(address, *length).ok()?.network();
            nets.get(&net).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_network_that_holds_an_address_decides() {
        let peers: BTreeMap<IpNet, SocketAddr> = [
            ("10.42.0.0/16", "192.0.2.1:1"),
            ("10.42.7.0/24", "192.0.2.2:1"),
            ("10.42.8.0/24", "192.0.2.3:1"),
            ("fd00::/64", "192.0.2.4:1"),
        ]
        .map(|(net, address)| (net.parse().unwrap(), address.parse().unwrap()))
        .into();
        let table = Peers::new(&peers);
        let find = |address: [u8; 4]| table.find(address.into()).map(|peer| peer.ip().to_string());
        assert_eq!(find([10, 42, 7, 255]).as_deref(), Some("192.0.2.2"));
        assert_eq!(find([10, 42, 8, 0]).as_deref(), Some("192.0.2.3"));
        assert_eq!(find([10, 42, 9, 1]).as_deref(), Some("192.0.2.1"));
        assert_eq!(find([10, 43, 0, 1]), None);
    }
}
