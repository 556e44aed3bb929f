//! Which peer has which Pods.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// By prefix length, longest first, then by network: nodes' networks mostly have one length.
type Table<Address> = BTreeMap<Reverse<u8>, BTreeMap<Address, SocketAddr>>;

/// Peers by podCIDR, looked up by the longest that holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    v4: Table<Ipv4Addr>,
    v6: Table<Ipv6Addr>,
}

impl Peers {
    /// A table of these peers.
    pub fn new<'a>(peers: impl IntoIterator<Item = (&'a IpNet, &'a SocketAddr)>) -> Self {
        let mut table = Self::default();
        for (net, address) in peers {
            let length = Reverse(net.prefix_len());
            match net.network() {
                IpAddr::V4(network) => table.v4.entry(length).or_default().insert(network, *address),
                IpAddr::V6(network) => table.v6.entry(length).or_default().insert(network, *address),
            };
        }
        table
    }

    /// The peer whose podCIDR holds the address.
    pub fn find(&self, address: IpAddr) -> Option<SocketAddr> {
        match address {
            IpAddr::V4(address) => self.v4.iter().find_map(|(Reverse(length), nets)| {
                nets.get(&Ipv4Net::new(address, *length).ok()?.network()).copied()
            }),
            IpAddr::V6(address) => self.v6.iter().find_map(|(Reverse(length), nets)| {
                nets.get(&Ipv6Net::new(address, *length).ok()?.network()).copied()
            }),
        }
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
            ("fd42::/56", "192.0.2.1:1"),
            ("fd42:0:0:7::/64", "[2001:db8::2]:1"),
        ]
        .map(|(net, address)| (net.parse().unwrap(), address.parse().unwrap()))
        .into();
        let table = Peers::new(&peers);
        let find = |address: &str| table.find(address.parse().unwrap()).map(|peer| peer.ip().to_string());
        assert_eq!(find("10.42.7.255").as_deref(), Some("192.0.2.2"));
        assert_eq!(find("10.42.8.0").as_deref(), Some("192.0.2.3"));
        assert_eq!(find("10.42.9.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(find("10.43.0.1"), None);
        assert_eq!(find("fd42:0:0:7:ffff::1").as_deref(), Some("2001:db8::2"));
        assert_eq!(find("fd42:0:0:8::1").as_deref(), Some("192.0.2.1"));
        assert_eq!(find("fd42:0:0:100::1"), None);
        assert_eq!(find("::ffff:10.42.7.1"), None);
    }
}
