//! Names of addresses: `4.3.2.1.in-addr.arpa` and the nibbles below `ip6.arpa`.
//!
//! In: labels of a name. Out: the prefix it stands for, if it is a name of an address or of a network on an octet
//! (IPv6: nibble) boundary.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What a name below a reverse domain stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The network that the rightmost labels name.
    pub(crate) net: IpNet,
    /// Whether there are more labels left of it, which name nothing.
    pub(crate) surplus: bool,
}

/// Reads a name below `in-addr.arpa` or `ip6.arpa`; None: it is none, or the reverse domain itself.
pub(crate) fn parse(labels: &[&[u8]]) -> Option<Reverse> {
    let (rest, family) = match labels {
        [rest @ .., b"in-addr", b"arpa"] => (rest, 4),
        [rest @ .., b"ip6", b"arpa"] => (rest, 6),
        _ => return None,
    };
    let (radix, digits_max, bits, parts_max) = if family == 4 { (10, 3, 8, 4) } else { (16, 1, 4, 32) };
    let mut value = 0u128;
    let mut parts = 0u8;
    for label in rest.iter().rev().take(parts_max) {
        let Some(part) = number(label, radix, digits_max) else { break };
        value = value << bits | u128::from(part);
        parts += 1;
    }
    if parts == 0 {
        return None;
    }
    let surplus = rest.len() > usize::from(parts);
    let len = parts * bits;
    let net = if family == 4 {
        let address = (value as u32).checked_shl(u32::from(32 - len)).unwrap_or(0);
        IpNet::V4(Ipv4Net::new(Ipv4Addr::from(address), len).ok()?)
    } else {
        let address = value.checked_shl(u32::from(128 - len)).unwrap_or(0);
        IpNet::V6(Ipv6Net::new(Ipv6Addr::from(address), len).ok()?)
    };
    Some(Reverse { net, surplus })
}

/// One label as a number; leading zeros name nothing.
fn number(label: &[u8], radix: u32, digits_max: usize) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let plain = text.len() <= digits_max
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && (text.len() == 1 || !text.starts_with('0'));
    if plain { u8::from_str_radix(text, radix).ok() } else { None }
}

/// The name of an address.
#[cfg(test)]
pub(crate) fn name(address: IpAddr) -> String {
    name_of(&IpNet::from(address))
}

/// The name of a network, whose length is on an octet (IPv6: nibble) boundary.
pub(crate) fn name_of(net: &IpNet) -> String {
    let mut out = String::with_capacity(74);
    match net.network() {
        IpAddr::V4(address) => {
            for octet in address.octets()[..usize::from(net.prefix_len() / 8)].iter().rev() {
                let _ = write!(out, "{octet}.");
            }
            out.push_str("in-addr.arpa");
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            for nibble in (0..u32::from(net.prefix_len() / 4)).rev() {
                let _ = write!(out, "{:x}.", bits >> (124 - 4 * nibble) & 0xf);
            }
            out.push_str("ip6.arpa");
        }
    }
    out
}

/// The reverse zone of `cidr` that holds `net`: its shortest name inside the CIDR.
pub(crate) fn apex(cidr: &IpNet, net: &IpNet) -> IpNet {
    let step = if net.addr().is_ipv4() { 8 } else { 4 };
    let len = cidr.prefix_len().div_ceil(step).max(1) * step;
    IpNet::new(net.addr(), len).map_or(*net, |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::labels;
    use proptest::prelude::*;

    #[test]
    fn names_of_networks_are_read_and_others_are_not() {
        let net = |name: &str| parse(&labels(name)).map(|r| (r.net.to_string(), r.surplus));
        assert_eq!(net("4.3.2.1.in-addr.arpa"), Some(("1.2.3.4/32".into(), false)));
        assert_eq!(net("43.10.in-addr.arpa"), Some(("10.43.0.0/16".into(), false)));
        assert_eq!(net("x.43.10.in-addr.arpa"), Some(("10.43.0.0/16".into(), true)));
        assert_eq!(net("5.4.3.2.1.in-addr.arpa"), Some(("1.2.3.4/32".into(), true)));
        assert_eq!(net("010.in-addr.arpa"), None);
        assert_eq!(net("256.in-addr.arpa"), None);
        assert_eq!(net("in-addr.arpa"), None);
        assert_eq!(net("d.f.ip6.arpa"), Some(("fd00::/8".into(), false)));
        assert_eq!(net("example.com"), None);
    }

    #[test]
    fn a_network_off_the_boundary_has_several_zones() {
        let cidr: IpNet = "10.43.16.0/20".parse().unwrap();
        let apex = |net: &str| apex(&cidr, &net.parse().unwrap()).to_string();
        assert_eq!(apex("10.43.17.3/32"), "10.43.17.0/24");
        assert_eq!(apex("10.43.31.0/24"), "10.43.31.0/24");
    }

    proptest! {
        #[test]
        fn every_address_has_the_name_that_names_it(address: IpAddr) {
            let reverse = parse(&labels(&name(address))).unwrap();
            prop_assert_eq!(reverse, Reverse { net: address.into(), surplus: false });
        }
    }
}
