//! The networks and addresses that flags name, and whether a cluster can be made of them.
//!
//! Invariant: what passes has, for each family it has at all, exactly one network of Pods and one of Services, in the
//! same order, apart from each other, from the nodes and from the load balancers' pool.

use anyhow::{Context, bail};
use ipnet::IpNet;
use minisvc_apimachinery::{
    ClusterConfig, Family,
    cluster::{AddressRange, node_prefix_len},
};
use std::{net::IpAddr, str::FromStr};

const PODS: &str = "--cluster-cidr";
const SERVICES: &str = "--service-cidr";
const POOL: &str = "--load-balancer-pool";
/// A cluster network has at most 2^16 parts for nodes, as kube-controller-manager's.
const NODE_BITS_MAX: u8 = 16;

/// What `--node-ip` says: an address, or one of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIps {
    first: IpAddr,
    second: Option<IpAddr>,
}

impl NodeIps {
    /// The addresses in their order.
    pub fn addresses(self) -> Vec<IpAddr> {
        std::iter::once(self.first).chain(self.second).collect()
    }
}

impl FromStr for NodeIps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut addresses = text.split(',').map(|part| {
            let address: IpAddr = part.trim().parse().map_err(|_| format!("{part:?} is no IP address"))?;
            if is_of_this_host_only(address) {
                return Err(format!("{address} means another host to every other node"));
            }
            Ok(address)
        });
        let first = addresses.next().ok_or_else(|| "expected an IP address".to_owned())??;
        let second = addresses.next().transpose()?;
        if addresses.next().is_some() {
            return Err("expected at most two addresses, one of each family".to_owned());
        }
        if let Some(second) = second.filter(|second| Family::of(*second) == Family::of(first)) {
            let family = Family::of(first);
            return Err(format!("{first} and {second} are both {family}: expected one of each family"));
        }
        Ok(Self { first, second })
    }
}

fn is_of_this_host_only(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

/// Reads a comma-separated list of networks.
///
/// # Errors
/// Naming the flag.
pub fn networks(flag: &str, text: &str) -> anyhow::Result<Vec<IpNet>> {
    text.split(',')
        .map(|part| {
            let part = part.trim();
            let net: IpNet = part.parse().ok().with_context(|| {
                format!("{flag} {part:?}: expected a network such as 10.42.0.0/16 or fd42::/56")
            })?;
            if net.addr() != net.network() {
                bail!("{flag} {net}: has host bits set; the network is {}", net.trunc());
            }
            Ok(net)
        })
        .collect()
}

/// The same, of at most one network of each family.
///
/// # Errors
/// Naming the flag.
pub fn one_of_each(flag: &str, text: &str) -> anyhow::Result<Vec<IpNet>> {
    let nets = networks(flag, text)?;
    for family in Family::ALL {
        let of: Vec<&IpNet> = nets.iter().filter(|net| Family::of_net(**net) == family).collect();
        if let [first, second, ..] = of.as_slice() {
            bail!(
                "{flag} {text}: {first} and {second} are both {family}; expected at most one of each family"
            );
        }
    }
    Ok(nets)
}

/// Reads one range of the load balancers' pool.
///
/// # Errors
/// Naming the flag.
pub fn address_range(text: &str) -> anyhow::Result<AddressRange> {
    let wrong = || format!("{POOL} {text:?}: expected CIDR or FROM-TO");
    if let Some((first, last)) = text.split_once('-') {
        let first: IpAddr = first.trim().parse().ok().with_context(wrong)?;
        let last: IpAddr = last.trim().parse().ok().with_context(wrong)?;
        if Family::of(first) != Family::of(last) {
            bail!("{POOL} {text:?}: FROM and TO are of different families");
        }
        if first > last {
            bail!("{POOL} {text:?}: FROM is after TO");
        }
        return Ok(AddressRange { first, last });
    }
    let net: IpNet = text.trim().parse().ok().with_context(wrong)?;
    Ok(AddressRange { first: net.network(), last: net.broadcast() })
}

/// Whether the cluster's networks fit each other and leave the nodes alone.
///
/// # Errors
/// Naming the flag, and what it does not fit.
pub fn check(config: &ClusterConfig, nodes: &[IpAddr]) -> anyhow::Result<()> {
    same_families(config)?;
    if let (2.., [only]) = (nodes.len(), config.families().as_slice()) {
        bail!("--node-ip: two addresses need networks of both families, and the cluster has {only} only");
    }
    let named = |flag, nets: &[IpNet]| nets.iter().map(|net| (flag, *net)).collect::<Vec<_>>();
    let mut all = named(PODS, &config.cluster_cidrs);
    all.extend(named(SERVICES, &config.service_cidrs));
    for (at, (flag, net)) in all.iter().enumerate() {
        for (other_flag, other) in &all[at + 1..] {
            if net.contains(other) || other.contains(net) {
                bail!("{flag} {net} overlaps {other_flag} {other}: choose networks apart from each other");
            }
        }
        if let Some(node) = nodes.iter().find(|node| net.contains(*node)) {
            bail!("{flag} {net} contains this node's own address {node}: choose another network");
        }
        for range in &config.load_balancer_pool {
            let same = Family::of(range.first) == Family::of_net(*net);
            if same && range.first <= net.broadcast() && net.network() <= range.last {
                let (first, last) = (range.first, range.last);
                bail!("{POOL} {first}-{last} lies in {flag} {net}: choose addresses of the nodes' network");
            }
        }
    }
    pool_families(config)?;
    sizes(config)
}

fn same_families(config: &ClusterConfig) -> anyhow::Result<()> {
    let families = |nets: &[IpNet]| nets.iter().map(|net| Family::of_net(*net)).collect::<Vec<_>>();
    if families(&config.cluster_cidrs) == families(&config.service_cidrs) {
        return Ok(());
    }
    let show = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    bail!(
        "{PODS} {} and {SERVICES} {}: both need networks of the same families, in the same order",
        show(&config.cluster_cidrs),
        show(&config.service_cidrs)
    )
}

fn pool_families(config: &ClusterConfig) -> anyhow::Result<()> {
    for AddressRange { first, last } in &config.load_balancer_pool {
        let family = Family::of(*first);
        if !config.families().contains(&family) {
            bail!(
                "{POOL} {first}-{last}: the cluster has no {family} network; give {PODS} and {SERVICES} one"
            );
        }
    }
    Ok(())
}

fn sizes(config: &ClusterConfig) -> anyhow::Result<()> {
    for net in &config.cluster_cidrs {
        let node = node_prefix_len(Family::of_net(*net));
        let (largest, smallest) = (node - NODE_BITS_MAX, node - 1);
        if net.prefix_len() > smallest {
            bail!("{PODS} {net}: too small, each node takes a /{node}: at least a /{smallest} is needed");
        }
        if net.prefix_len() < largest {
            bail!("{PODS} {net}: too large, each node takes a /{node}: at most a /{largest} can be used");
        }
    }
    for net in &config.service_cidrs {
        let (largest, smallest) = match Family::of_net(*net) {
            Family::Ipv4 => (0, 27),
            Family::Ipv6 => (64, 123),
        };
        if net.prefix_len() > smallest {
            bail!("{SERVICES} {net}: too small, at least a /{smallest} is needed");
        }
        if net.prefix_len() < largest {
            bail!("{SERVICES} {net}: too large, at most a /{largest} can be used");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn checked(pods: &str, services: &str, pool: &[&str]) -> Result<Vec<Family>, String> {
        let config = || {
            let config = ClusterConfig {
                cluster_cidrs: one_of_each(PODS, pods)?,
                service_cidrs: one_of_each(SERVICES, services)?,
                load_balancer_pool: pool.iter().map(|text| address_range(text)).collect::<Result<_, _>>()?,
                ..ClusterConfig::default()
            };
            check(&config, &[NODE])?;
            Ok::<_, anyhow::Error>(config.families())
        };
        config().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn one_family_or_both_in_either_order() {
        use Family::{Ipv4, Ipv6};
        assert_eq!(checked("10.42.0.0/16", "10.43.0.0/16", &["192.0.2.8/29"]), Ok(vec![Ipv4]));
        assert_eq!(checked("fd42::/56", "fd43::/112", &["2001:db8::5-2001:db8::9"]), Ok(vec![Ipv6]));
        let pool = ["192.0.2.8/29", "2001:db8::/120"];
        assert_eq!(
            checked("10.42.0.0/16, fd42::/56", "10.43.0.0/16,fd43::/112", &pool),
            Ok(vec![Ipv4, Ipv6])
        );
        assert_eq!(checked("fd42::/48,10.42.0.0/16", "fd43::/64,10.43.0.0/16", &pool), Ok(vec![Ipv6, Ipv4]));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_the_name_of_its_flag() {
        let v4 = ("10.42.0.0/16", "10.43.0.0/16");
        for (pods, services, pool, expected) in [
            (
                "10.42.0.1/16",
                v4.1,
                "",
                "--cluster-cidr 10.42.0.1/16: has host bits set; the network is 10.42.0.0/16",
            ),
            ("10.42.0.0/33", v4.1, "", "--cluster-cidr \"10.42.0.0/33\": expected a network"),
            ("10.42.0.0/16,10.44.0.0/16", v4.1, "", "are both IPv4; expected at most one of each family"),
            (
                v4.0,
                "10.42.128.0/20",
                "",
                "--cluster-cidr 10.42.0.0/16 overlaps --service-cidr 10.42.128.0/20",
            ),
            ("fd42::/56", "fd42::/112", "", "--cluster-cidr fd42::/56 overlaps --service-cidr fd42::/112"),
            (v4.0, "192.0.2.0/24", "", "contains this node's own address 192.0.2.1"),
            ("fd42::/56", v4.1, "", "--cluster-cidr fd42::/56 and --service-cidr 10.43.0.0/16: both need"),
            ("fd42::/56,10.42.0.0/16", "10.43.0.0/16,fd43::/112", "", "in the same order"),
            ("10.42.0.0/24", v4.1, "", "--cluster-cidr 10.42.0.0/24: too small, each node takes a /24"),
            ("fd42::/64", "fd43::/112", "", "--cluster-cidr fd42::/64: too small, each node takes a /64"),
            ("fd42::/47", "fd43::/112", "", "--cluster-cidr fd42::/47: too large"),
            ("fd42::/56", "fd43::/63", "", "--service-cidr fd43::/63: too large, at most a /64"),
            ("fd42::/56", "fd43::/124", "", "--service-cidr fd43::/124: too small, at least a /123"),
            (v4.0, "10.43.0.0/28", "", "--service-cidr 10.43.0.0/28: too small, at least a /27"),
            (
                v4.0,
                v4.1,
                "2001:db8::/120",
                "--load-balancer-pool 2001:db8::-2001:db8::ff: the cluster has no IPv6",
            ),
            (v4.0, v4.1, "10.0.0.0-10.255.0.0", "lies in --cluster-cidr"),
            (v4.0, v4.1, "192.0.2.9-2001:db8::1", "FROM and TO are of different families"),
            (v4.0, v4.1, "192.0.2.9-192.0.2.1", "FROM is after TO"),
        ] {
            let pool: Vec<&str> = Some(pool).filter(|pool| !pool.is_empty()).into_iter().collect();
            let error = checked(pods, services, &pool).unwrap_err();
            assert!(error.contains(expected), "{pods} {services} {pool:?}: {error}");
        }
    }

    #[test]
    fn a_node_has_one_address_of_each_family() {
        let parse = |text: &str| text.parse::<NodeIps>().map(NodeIps::addresses);
        let of = |texts: &[&str]| Ok(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>());
        assert_eq!(parse("192.0.2.1"), of(&["192.0.2.1"]));
        assert_eq!(parse("2001:db8::1, 192.0.2.1"), of(&["2001:db8::1", "192.0.2.1"]));
        for text in
            ["", "x", "192.0.2.1,", "192.0.2.1,192.0.2.2", "192.0.2.1,2001:db8::1,x", "::1", "fe80::1", "::"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        let both = parse("192.0.2.1,2001:db8::1").unwrap();
        let error = check(&ClusterConfig::default(), &both).unwrap_err().to_string();
        assert!(error.starts_with("--node-ip: two addresses"), "{error}");
    }
}
