//! The facts all nodes of a cluster share: chosen at the first server's first start, handed to those that join.

use crate::Family;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// How Pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// Kernel VXLAN without learning, UDP port 8472.
    #[default]
    Vxlan,
    /// Plain routes; the nodes share a link.
    HostGw,
    /// One TUN device a node, user space, UDP port 51820.
    Tun,
}

/// A range of addresses, both ends inclusive, for load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressRange {
    /// First address.
    pub first: IpAddr,
    /// Last address.
    pub last: IpAddr,
}

/// What every node of a cluster must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfig {
    /// Networks of the Pods, at most one of each family, the primary one first; each node gets a part of each.
    pub cluster_cidrs: Vec<IpNet>,
    /// Networks of the Services' virtual addresses: of the same families, in the same order.
    pub service_cidrs: Vec<IpNet>,
    /// First node port.
    pub node_port_first: u16,
    /// Last node port.
    pub node_port_last: u16,
    /// DNS zone, such as `cluster.local`.
    pub cluster_domain: String,
    /// How Pods of different nodes reach each other.
    pub overlay: Overlay,
    /// Addresses for Services of type LoadBalancer; empty: none are given.
    pub load_balancer_pool: Vec<AddressRange>,
    /// Networks of which `spec.externalIPs` may be; empty: none are allowed, for they let whoever writes a Service take
    /// an address (CVE-2020-8554).
    #[serde(default)]
    pub external_ip_cidrs: Vec<IpNet>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        let v4 = |a, b, c, d, len| {
            IpNet::new(IpAddr::from([a, b, c, d]), len)
                .unwrap_or_else(|_| IpNet::from(IpAddr::from([a, b, c, d])))
        };
        Self {
            cluster_cidrs: vec![v4(10, 42, 0, 0, 16)],
            service_cidrs: vec![v4(10, 43, 0, 0, 16)],
            node_port_first: 30000,
            node_port_last: 32767,
            cluster_domain: "cluster.local".to_owned(),
            overlay: Overlay::default(),
            load_balancer_pool: Vec::new(),
            external_ip_cidrs: Vec::new(),
        }
    }
}

impl ClusterConfig {
    /// The API server as Pods name it: who makes the tokens of ServiceAccounts, and for whom they are.
    pub fn issuer(&self) -> String {
        format!("https://kubernetes.default.svc.{}", self.cluster_domain)
    }

    /// The families the cluster has, the primary one first.
    pub fn families(&self) -> Vec<Family> {
        self.cluster_cidrs.iter().map(|net| Family::of_net(*net)).collect()
    }

    /// The family of what is of one family only and does not say which.
    pub fn primary_family(&self) -> Family {
        self.families().first().copied().unwrap_or(Family::Ipv4)
    }

    /// The Pods' network of a family, if the cluster has the family.
    pub fn cluster_cidr(&self, family: Family) -> Option<IpNet> {
        self.cluster_cidrs.iter().copied().find(|net| Family::of_net(*net) == family)
    }

    /// The address of cluster DNS: the tenth of the first service network. None if the network is smaller.
    pub fn dns_address(&self) -> Option<IpAddr> {
        nth(self.service_cidrs.first()?, 10)
    }

    /// The addresses of cluster DNS: the tenth of the first service network of each family.
    pub fn dns_addresses(&self) -> Vec<IpAddr> {
        self.of_each_family(10)
    }

    /// One address of the first service network of each family: networks that were added later have none of their own.
    fn of_each_family(&self, number: u32) -> Vec<IpAddr> {
        let first = |net: &&IpNet| {
            let same = |other: &&IpNet| other.addr().is_ipv4() == net.addr().is_ipv4();
            self.service_cidrs.iter().find(same) == Some(*net)
        };
        self.service_cidrs.iter().filter(first).filter_map(|net| nth(net, number)).collect()
    }

    /// Whether a Service may have an address as one of its `spec.externalIPs`.
    pub fn allows_external_ip(&self, address: IpAddr) -> bool {
        self.external_ip_cidrs.iter().any(|net| net.contains(&address))
    }

    /// The address of the Service `default/kubernetes`: the first of the first service network.
    pub fn api_address(&self) -> Option<IpAddr> {
        nth(self.service_cidrs.first()?, 1)
    }

    /// The first address of the first service network of each family.
    pub fn api_addresses(&self) -> Vec<IpAddr> {
        self.of_each_family(1)
    }
}

/// Prefix length of a node's part of the cluster network of a family, as kube-controller-manager's.
pub fn node_prefix_len(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 24,
        Family::Ipv6 => 64,
    }
}

/// The annotation by which a Node says what its network follows from: [`NodeFacts`] as JSON.
pub const FACTS_ANNOTATION: &str = "minisvc.io/network";

/// What a node's network follows from, beside the API's objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// What it holds for the facts of the cluster.
    pub cluster: ClusterConfig,
    /// Name of the link by which it reaches the other nodes.
    pub link: String,
    /// Length of the network prefix that is on that link.
    pub prefix_len: u8,
    /// Its address of the other family, if the cluster has both and it one of each, with its prefix on the link.
    #[serde(default)]
    pub second: Option<IpNet>,
    /// Its addresses on which node ports answer; an older node does not say.
    #[serde(default)]
    pub node_ports_at: Option<Vec<IpAddr>>,
    /// Its addresses on all its links, where ports of Pods answer too.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

impl NodeFacts {
    /// What a Node says of itself; None if it says nothing, or nothing that can be read.
    pub fn of(node: &Node) -> Option<Self> {
        serde_json::from_str(node.metadata.annotations.as_ref()?.get(FACTS_ANNOTATION)?).ok()
    }
}

fn nth(net: &IpNet, n: u32) -> Option<IpAddr> {
    let address = match net.network() {
        IpAddr::V4(base) => IpAddr::from((u32::from(base).checked_add(n)?).to_be_bytes()),
        IpAddr::V6(base) => IpAddr::from((u128::from(base).checked_add(u128::from(n))?).to_be_bytes()),
    };
    net.contains(&address).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_addresses_are_counted_from_the_network() {
        let config = ClusterConfig::default();
        assert_eq!(config.dns_address(), Some(IpAddr::from([10, 43, 0, 10])));
        assert_eq!(config.api_address(), Some(IpAddr::from([10, 43, 0, 1])));
        let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        let config = ClusterConfig {
            cluster_cidrs: nets(["fd42::/56", "10.42.0.0/16"]),
            service_cidrs: nets(["fd43::/112", "10.43.0.0/16"]),
            ..config
        };
        let addresses = |texts: [&str; 2]| texts.map(|text| text.parse::<IpAddr>().unwrap()).to_vec();
        assert_eq!(config.families(), [Family::Ipv6, Family::Ipv4]);
        assert_eq!(config.primary_family(), Family::Ipv6);
        assert_eq!(config.dns_addresses(), addresses(["fd43::a", "10.43.0.10"]));
        assert_eq!(config.api_addresses(), addresses(["fd43::1", "10.43.0.1"]));
        // A network that was added later is for Services alone.
        let mut more = config.clone();
        more.service_cidrs.push("10.77.0.0/24".parse().unwrap());
        assert_eq!(more.dns_addresses(), config.dns_addresses());
        assert_eq!(more.api_addresses(), config.api_addresses());
    }

    #[test]
    fn a_node_says_its_facts_or_nothing() {
        let facts = NodeFacts {
            cluster: ClusterConfig::default(),
            link: "eth0".to_owned(),
            prefix_len: 24,
            second: None,
            node_ports_at: None,
            addresses: Vec::new(),
        };
        let mut node = Node::default();
        assert_eq!(NodeFacts::of(&node), None);
        let annotations = node.metadata.annotations.get_or_insert_default();
        annotations.insert(FACTS_ANNOTATION.to_owned(), serde_json::to_string(&facts).unwrap());
        assert_eq!(NodeFacts::of(&node), Some(facts));
        node.metadata.annotations.get_or_insert_default().insert(FACTS_ANNOTATION.to_owned(), "{".to_owned());
        assert_eq!(NodeFacts::of(&node), None);
    }
}
