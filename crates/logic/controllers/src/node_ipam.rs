//! Each node's part of the Pod networks: one of each family the cluster has, given once and never to two nodes.

use crate::{
    objects::pod_cidrs,
    plan::{Notice, Plan, Write},
};
use ipnet::IpNet;
use minisvc_allocator::next_subnet;
use minisvc_apimachinery::{ClusterConfig, Family, Snapshot, cluster::node_prefix_len, resource::NODES};
use serde_json::json;

/// Gives its networks to every Node that lacks some, the oldest Node first; all that it lacks or none. Must not run
/// again before its writes show in the snapshot.
pub fn plan(snapshot: &Snapshot, cluster: &ClusterConfig) -> Plan {
    let mut plan = Plan::default();
    let mut used: Vec<IpNet> = Vec::new();
    let mut lacking = Vec::new();
    for (key, node) in &snapshot.nodes {
        let has = pod_cidrs(node);
        used.extend(&has);
        let lacks = |pool: &&IpNet| has.iter().all(|net| Family::of_net(*net) != Family::of_net(**pool));
        let pools: Vec<IpNet> = cluster.cluster_cidrs.iter().filter(lacks).copied().collect();
        if !pools.is_empty() && node.metadata.deletion_timestamp.is_none() {
            lacking.push((node.metadata.creation_timestamp.clone(), key, node, has, pools));
        }
    }
    lacking.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    for (_, key, node, mut nets, pools) in lacking {
        let given: Result<Vec<IpNet>, String> = pools.iter().map(|pool| part(*pool, &used)).collect();
        match given {
            Ok(given) => {
                used.extend(&given);
                nets.extend(given);
                let patch = json!({ "spec": { "podCIDR": nets.first(), "podCIDRs": nets } });
                plan.writes.push(Write::patch(&NODES, key, &node.metadata, None, patch));
            }
            Err(message) => {
                let reason = "CIDRNotAvailable";
                plan.notices.push(Notice::warning(&NODES, key, &node.metadata, reason, message));
            }
        }
    }
    plan
}

fn part(pool: IpNet, used: &[IpNet]) -> Result<IpNet, String> {
    let len = node_prefix_len(Family::of_net(pool));
    let overlaps = |net: IpNet| used.iter().any(|other| other.contains(&net) || net.contains(other));
    next_subnet(pool, len, overlaps)
        .ok_or_else(|| format!("no /{len} of the cluster network {pool} is free: delete Nodes that are gone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use minisvc_apimachinery::ObjectKey;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn config(nets: &[&str]) -> ClusterConfig {
        let cluster_cidrs = nets.iter().map(|net| net.parse().unwrap()).collect();
        ClusterConfig { cluster_cidrs, ..ClusterConfig::default() }
    }

    fn given(world: &World, name: &str) -> (Option<String>, Vec<String>) {
        let spec = world.snapshot.nodes[&ObjectKey::cluster(name)].spec.clone().unwrap_or_default();
        (spec.pod_cidr, spec.pod_cidrs.unwrap_or_default())
    }

    #[test]
    fn a_node_has_a_network_of_each_family_and_one_that_lacks_one_is_given_it() {
        let mut world = World::default();
        for name in ["node1", "node2"] {
            world.node(name, true);
        }
        let mut node = world.get(&NODES, &ObjectKey::cluster("node2")).unwrap();
        node["spec"] = json!({ "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"] });
        world.add(&NODES, node);
        let config = config(&["fd42::/56", "10.42.0.0/16"]);
        world.apply(&plan(&world.snapshot, &config));
        assert!(plan(&world.snapshot, &config).is_settled());
        let all = |nets: [&str; 2]| (Some(nets[0].to_owned()), nets.map(str::to_owned).to_vec());
        assert_eq!(given(&world, "node1"), all(["fd42::/64", "10.42.1.0/24"]));
        assert_eq!(given(&world, "node2"), all(["10.42.0.0/24", "fd42:0:0:1::/64"]));
    }

    #[test]
    fn a_node_gets_networks_of_all_families_or_none() {
        let mut world = World::default();
        for name in ["node1", "node2", "node3"] {
            world.node(name, true);
        }
        let planned = plan(&world.snapshot, &config(&["10.42.0.0/16", "fd42::/63"]));
        assert_eq!((planned.writes.len(), planned.notices.len()), (2, 1));
        assert!(planned.notices[0].message.contains("no /64 of the cluster network fd42::/63"));
        world.apply(&planned);
        assert_eq!(given(&world, "node3"), (None, Vec::new()));
    }

    proptest! {
        #[test]
        fn no_network_is_given_twice(prefix in 20_u8..=24, steps in prop::collection::vec((0_u8..12, any::<bool>()), 1..40)) {
            let config = config(&[&format!("10.42.0.0/{prefix}"), "fd42::/56"]);
            let mut world = World::default();
            for (n, add) in steps {
                let name = format!("node{n}");
                if add { world.node(&name, true) } else { world.remove_node(&name) }
                let planned = plan(&world.snapshot, &config);
                world.apply(&planned);
                prop_assert!(plan(&world.snapshot, &config).is_settled());
                let given: Vec<String> = world.snapshot.nodes.values()
                    .flat_map(|node| node.spec.clone()?.pod_cidrs).flatten().collect();
                prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
                let room = 1_usize << (24 - prefix);
                prop_assert_eq!(given.len(), 2 * world.snapshot.nodes.len().min(room));
            }
        }
    }
}
