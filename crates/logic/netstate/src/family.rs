//! IPv4 and IPv6 as types: what the service table is generic over.
//!
//! Invariant: whatever holds addresses of one family ([`Address`]) cannot hold those of the other, so a table, a plan
//! and a packet of different families cannot meet.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use minisvc_apimachinery::Family;
use std::{
    fmt::{self, Debug, Display},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// An address of one family.
pub trait Address:
    Copy + Ord + Hash + Debug + Display + FromStr + Into<IpAddr> + Send + Sync + 'static
{
    /// Which.
    const FAMILY: Family;
    /// Its networks.
    type Net: Network<Self>;

    /// The address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// The network, if it is of this family, without host bits.
    fn net(net: IpNet) -> Option<Self::Net>;

    /// Its bytes, the highest first.
    fn octets(self) -> impl AsRef<[u8]>;

    /// The address at the beginning of bytes.
    fn read(bytes: &[u8]) -> Option<Self>;

    /// As a number.
    fn number(self) -> u128;

    /// The address with this number; None if there is none.
    fn from_number(number: u128) -> Option<Self>;

    /// Whether it means something else to every host than an address that others may have: loopback, unspecified,
    /// link-local, multicast, broadcast, or (IPv6) an IPv4 address in disguise.
    fn is_reserved(self) -> bool;
}

/// A network of one family.
pub trait Network<A>: Copy + Ord + Debug + Display + Send + Sync + 'static {
    /// All addresses of the family.
    fn everything() -> Self;
    /// One address.
    fn single(address: A) -> Self;
    /// First address.
    fn first(&self) -> A;
    /// Last address.
    fn last(&self) -> A;
    /// Whether the address is in it.
    fn holds(&self, address: A) -> bool;
    /// The network of exactly these addresses; None if there is none.
    fn between(first: A, last: A) -> Option<Self>;
    /// The fewest networks that hold the same addresses, sorted.
    fn merged(nets: &[Self]) -> Vec<Self>;
}

macro_rules! network {
    ($net:ty, $address:ty, $subnets:ty) => {
        impl Network<$address> for $net {
            fn everything() -> Self {
                Self::default()
            }

            fn single(address: $address) -> Self {
                Self::from(address)
            }

            fn first(&self) -> $address {
                self.network()
            }

            fn last(&self) -> $address {
                self.broadcast()
            }

            fn holds(&self, address: $address) -> bool {
                self.contains(&address)
            }

            fn between(first: $address, last: $address) -> Option<Self> {
                let mut nets = <$subnets>::new(first, last, 0);
                let net = nets.next()?;
                nets.next().is_none().then_some(net)
            }

            fn merged(nets: &[Self]) -> Vec<Self> {
                Self::aggregate(&nets.to_vec())
            }
        }
    };
}

network!(Ipv4Net, Ipv4Addr, ipnet::Ipv4Subnets);
network!(Ipv6Net, Ipv6Addr, ipnet::Ipv6Subnets);

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::Ipv4;
    type Net = Ipv4Net;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn net(net: IpNet) -> Option<Ipv4Net> {
        match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        }
    }

    fn octets(self) -> impl AsRef<[u8]> {
        Self::octets(&self)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk::<4>().map(|octets| Self::from(*octets))
    }

    fn number(self) -> u128 {
        u128::from(u32::from(self))
    }

    fn from_number(number: u128) -> Option<Self> {
        u32::try_from(number).ok().map(Self::from)
    }

    fn is_reserved(self) -> bool {
        self.is_loopback()
            || self.is_unspecified()
            || self.is_multicast()
            || self.is_broadcast()
            || self.is_link_local()
    }
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::Ipv6;
    type Net = Ipv6Net;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    fn net(net: IpNet) -> Option<Ipv6Net> {
        match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(net.trunc()),
        }
    }

    fn octets(self) -> impl AsRef<[u8]> {
        Self::octets(&self)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk::<16>().map(|octets| Self::from(*octets))
    }

    fn number(self) -> u128 {
        u128::from(self)
    }

    fn from_number(number: u128) -> Option<Self> {
        Some(Self::from(number))
    }

    fn is_reserved(self) -> bool {
        self.is_loopback()
            || self.is_unspecified()
            || self.is_multicast()
            || self.is_unicast_link_local()
            || self.to_ipv4_mapped().is_some()
    }
}

/// Where a connection ends: an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint<A = Ipv4Addr> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: u16,
}

impl<A: Address> From<Endpoint<A>> for SocketAddr {
    fn from(endpoint: Endpoint<A>) -> Self {
        Self::new(endpoint.address.into(), endpoint.port)
    }
}

/// As a URL has it: an IPv6 address in brackets.
impl<A: Address> Display for Endpoint<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&SocketAddr::from(*self), f)
    }
}

/// What is not `ADDRESS:PORT` of the family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an {family} address and port", family = family.name())]
pub struct NotAnEndpoint {
    text: String,
    family: Family,
}

impl<A: Address> FromStr for Endpoint<A> {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        let parsed = text.parse::<SocketAddr>().ok();
        parsed
            .and_then(|parsed| Some(Self { address: A::of(parsed.ip())?, port: parsed.port() }))
            .ok_or_else(|| NotAnEndpoint { text: text.to_owned(), family: A::FAMILY })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_back_from_their_ends() {
        fn check<A: Address>(net: &str) {
            let net = A::net(net.parse().unwrap()).unwrap();
            assert_eq!(A::Net::between(net.first(), net.last()), Some(net));
            let next = net.last().number().checked_add(1).and_then(A::from_number);
            assert!(next.is_none_or(|next| A::Net::between(net.first(), next).is_none()));
        }
        for net in ["10.0.0.0/8", "192.0.2.7/32", "0.0.0.0/0", "255.255.255.255/32"] {
            check::<Ipv4Addr>(net);
        }
        for net in ["fd42::/56", "2001:db8::7/128", "::/0"] {
            check::<Ipv6Addr>(net);
        }
    }

    #[test]
    fn endpoints_are_written_as_in_urls() {
        let text = |text: &str| text.parse::<Endpoint<Ipv6Addr>>().map(|endpoint| endpoint.to_string());
        assert_eq!(text("[fd42:0::2]:80").as_deref(), Ok("[fd42::2]:80"));
        assert!(text("10.0.0.1:80").is_err());
        assert_eq!("10.0.0.1:80".parse::<Endpoint>().unwrap().to_string(), "10.0.0.1:80");
    }
}
