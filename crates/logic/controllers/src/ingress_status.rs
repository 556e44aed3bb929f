//! The addresses at which an Ingress is reached: those of all ready nodes, as each runs the ingress proxy.

use crate::{
    objects::{node_addresses, node_is_ready},
    plan::{Plan, Write},
};
use minisvc_apimachinery::{Snapshot, ingress_class::is_ours, resource::INGRESSES};
use serde_json::json;
use std::{collections::BTreeSet, net::IpAddr};

/// Plans the status of every Ingress of ours.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let ready = snapshot.nodes.values().filter(|node| node_is_ready(node));
    let addresses: BTreeSet<IpAddr> = ready.flat_map(|node| node_addresses(node)).collect();
    let wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut plan = Plan::default();
    let classes = &snapshot.ingress_classes;
    for (key, ingress) in snapshot.ingresses.iter().filter(|(_, ingress)| is_ours(ingress, classes)) {
        let status = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let present = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
        let same = present.len() == wanted.len()
            && present.iter().zip(&wanted).all(|(a, b)| a.ip.as_ref() == Some(b) && a.hostname.is_none());
        if same || ingress.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let ingress_points: Vec<_> = wanted.iter().map(|ip| json!({ "ip": ip })).collect();
        let status = json!({ "loadBalancer": { "ingress": ingress_points } });
        plan.writes.push(Write::status(&INGRESSES, key, &ingress.metadata, status));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use minisvc_apimachinery::{ObjectKey, resource::NODES};

    #[test]
    fn ready_nodes_addresses_are_listed_for_our_class_only() {
        let mut world = World::default();
        world.node("node1", true);
        world.node("node2", false);
        world.add(&INGRESSES, json!({ "metadata": { "namespace": "default", "name": "a" }, "spec": {} }));
        world.add(
            &INGRESSES,
            json!({
                "metadata": { "namespace": "default", "name": "b" }, "spec": { "ingressClassName": "nginx" }
            }),
        );
        world.apply(&plan(&world.snapshot));
        assert!(plan(&world.snapshot).is_settled());
        let shown = |world: &World, name: &str| {
            let status = world.snapshot.ingresses[&ObjectKey::new("default", name)].status.clone();
            let points = status.and_then(|s| s.load_balancer).and_then(|s| s.ingress).unwrap_or_default();
            points.into_iter().filter_map(|point| point.ip).collect::<Vec<_>>()
        };
        assert_eq!(shown(&world, "a"), ["192.168.9.1"]);
        assert!(shown(&world, "b").is_empty());
        let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
        let second = json!({ "type": "InternalIP", "address": "2001:db8::1" });
        node["status"]["addresses"].as_array_mut().unwrap().push(second);
        world.add(&NODES, node);
        world.apply(&plan(&world.snapshot));
        assert_eq!(shown(&world, "a"), ["192.168.9.1", "2001:db8::1"]);
    }
}
