//! The addresses of this node on which node ports answer, and all those on which ports of Pods (`hostPort`) do.
//!
//! Invariant: never one of the loopback, of a Pod or of a load balancer, whatever networks are named
//! (kube-proxy's `--nodeport-addresses`, KEP-3866).

use crate::{NodeIdentity, Snapshots};
use ipnet::IpNet;
use minisvc_apimachinery::ClusterConfig;
use minisvc_datapath::link::underlay_facts;
use minisvc_netstate::link::{Interface, LINK_PREFIX};
use minisvc_podnet::Underlay;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// How often the node's addresses are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Which they are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Those by which the other nodes reach this one.
    #[default]
    Primary,
    /// All of the node's in these networks, as they come and go.
    Within(Vec<IpNet>),
}

/// The node's addresses by what answers on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortAddresses {
    /// Node ports.
    pub node_ports: Vec<IpAddr>,
    /// Ports of Pods.
    pub host_ports: Vec<IpAddr>,
}

/// The addresses as they are now. Those of the underlay are known even if the kernel cannot be asked.
pub async fn now(choice: &NodePortAddresses, underlay: &Underlay, cluster: &ClusterConfig) -> PortAddresses {
    let interfaces = match underlay_facts().await {
        Ok((interfaces, _)) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the node's addresses cannot be read: ports answer on the underlay's only");
            Vec::new()
        }
    };
    let everywhere =
        [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].map(|any| IpNet::new_assert(any, 0));
    PortAddresses {
        node_ports: match choice {
            NodePortAddresses::Primary => underlay.addresses(),
            NodePortAddresses::Within(networks) => chosen(&interfaces, networks, underlay, cluster),
        },
        host_ports: chosen(&interfaces, &everywhere, underlay, cluster),
    }
}

/// Keeps the addresses up to date, while there is somebody whom they concern.
pub async fn follow(
    choice: NodePortAddresses,
    identity: Arc<NodeIdentity>,
    snapshots: Snapshots,
    sender: watch::Sender<PortAddresses>,
) {
    loop {
        tokio::time::sleep(LOOK).await;
        let concerned = choice != NodePortAddresses::Primary
            || snapshots.borrow().as_ref().is_some_and(|snapshot| {
                snapshot.pods.values().any(|pod| minisvc_proxy::host_port::wants_ports(pod, &identity.name))
            });
        if !concerned {
            continue;
        }
        let chosen = now(&choice, &identity.underlay, &identity.cluster).await;
        sender.send_if_modified(|known| {
            let changed = *known != chosen;
            if changed {
                tracing::info!(?chosen, "addresses of the node's ports");
                *known = chosen;
            }
            changed
        });
    }
}

/// The node's own addresses in the networks, those of the underlay first.
fn chosen(
    interfaces: &[Interface],
    networks: &[IpNet],
    underlay: &Underlay,
    cluster: &ClusterConfig,
) -> Vec<IpAddr> {
    let balanced =
        |ip: &IpAddr| cluster.load_balancer_pool.iter().any(|range| (range.first..=range.last).contains(ip));
    let of_links = interfaces
        .iter()
        .filter(|link| link.up && !link.loopback && !link.name.starts_with(LINK_PREFIX))
        .flat_map(|link| link.addresses.iter().map(IpNet::addr));
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in underlay.addresses().into_iter().chain(of_links) {
        let wanted = networks.iter().any(|net| net.contains(&ip)) && !balanced(&ip);
        if wanted && !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::cluster::AddressRange;

    #[test]
    fn they_are_the_nodes_own_in_the_networks() {
        let link = |name: &str, addresses: &[&str]| Interface {
            name: name.to_owned(),
            up: true,
            loopback: name == "lo",
            hardware: false,
            mtu_bytes: 1500,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let interfaces = [
            link("lo", &["127.0.0.1/8", "10.43.0.10/32"]),
            link("eth0", &["192.0.2.1/24", "192.0.2.200/32", "2001:db8::1/64"]),
            link("eth1", &["198.51.100.1/24"]),
            link("msvvx", &["198.51.100.9/32"]),
        ];
        let underlay = Underlay {
            ifname: "eth0".to_owned(),
            address: "192.0.2.1".parse().unwrap(),
            prefix_len: 24,
            second: None,
            mtu_bytes: 1500,
            hardware: false,
        };
        let last = "192.0.2.200".parse().unwrap();
        let cluster = ClusterConfig {
            load_balancer_pool: vec![AddressRange { first: last, last }],
            ..ClusterConfig::default()
        };
        let of = |nets: &[&str]| {
            let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
            let found = chosen(&interfaces, &nets, &underlay, &cluster);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&["0.0.0.0/0"]), ["192.0.2.1", "198.51.100.1"]);
        assert_eq!(of(&["198.51.100.0/24", "::/0"]), ["2001:db8::1", "198.51.100.1"]);
        assert_eq!(of(&["127.0.0.0/8"]), Vec::<String>::new(), "never on localhost");
    }
}
