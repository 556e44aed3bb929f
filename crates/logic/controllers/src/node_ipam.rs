//! Each node's part of the Pod network: a /24 of the cluster network, given once and never to two nodes.

use crate::plan::{Notice, Plan, Write};
use ipnet::IpNet;
use minisvc_allocator::next_subnet;
use minisvc_apimachinery::{ClusterConfig, Snapshot, resource::NODES};
use serde_json::json;

/// Prefix length of a node's network.
pub const NODE_PREFIX: u8 = 24;

/// Gives a network to every Node that has none, the oldest Node first. Must not run again before its writes show
/// in the snapshot.
pub fn plan(snapshot: &Snapshot, cluster: &ClusterConfig) -> Plan {
    let mut plan = Plan::default();
    let Some(pool) = cluster.cluster_cidrs.iter().find(|net| net.addr().is_ipv4()).copied() else {
        return plan;
    };
    let mut used: Vec<IpNet> = Vec::new();
    let mut lacking = Vec::new();
    for (key, node) in &snapshot.nodes {
        let spec = node.spec.as_ref();
        let one = spec.and_then(|spec| spec.pod_cidr.as_deref());
        let all = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
        let texts: Vec<&str> =
            one.into_iter().chain(all.iter().map(String::as_str)).filter(|t| !t.is_empty()).collect();
        if texts.is_empty() && node.metadata.deletion_timestamp.is_none() {
            lacking.push((node.metadata.creation_timestamp.clone(), key, node));
        }
        used.extend(texts.iter().filter_map(|text| text.parse::<IpNet>().ok()));
    }
    lacking.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    for (_, key, node) in lacking {
        let overlaps = |net: IpNet| used.iter().any(|other| other.contains(&net) || net.contains(other));
        let Some(net) = next_subnet(pool, NODE_PREFIX, overlaps) else {
            let message = format!(
                "no /{NODE_PREFIX} of the cluster network {pool} is free: delete Nodes that are gone"
            );
            plan.notices.push(Notice::warning(&NODES, key, &node.metadata, "CIDRNotAvailable", message));
            continue;
        };
        used.push(net);
        let patch = json!({ "spec": { "podCIDR": net.to_string(), "podCIDRs": [net.to_string()] } });
        plan.writes.push(Write::patch(&NODES, key, &node.metadata, None, patch));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn no_network_is_given_twice(prefix in 20_u8..=24, steps in prop::collection::vec((0_u8..12, any::<bool>()), 1..40)) {
            let net = format!("10.42.0.0/{prefix}").parse().unwrap();
            let config = ClusterConfig { cluster_cidrs: vec![net], ..ClusterConfig::default() };
            let mut world = World::default();
            for (n, add) in steps {
                let name = format!("node{n}");
                if add { world.node(&name, true) } else { world.remove_node(&name) }
                let planned = plan(&world.snapshot, &config);
                world.apply(&planned);
                prop_assert!(plan(&world.snapshot, &config).is_settled());
                let given: Vec<String> = world.snapshot.nodes.values()
                    .filter_map(|node| node.spec.as_ref()?.pod_cidr.clone()).collect();
                prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
                let room = 1_usize << (24 - prefix);
                prop_assert_eq!(given.len(), world.snapshot.nodes.len().min(room));
            }
        }
    }
}
