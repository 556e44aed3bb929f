//! Whether a node takes a Pod, and Kubernetes' words if not.

use super::{
    node_affinity,
    places::Place,
    requests::{CPU, MEMORY, Wanted},
};
use crate::taints;
use k8s_openapi::api::core::v1::{Node, Pod};
use minisvc_apimachinery::Quantity;
use std::collections::BTreeMap;

/// Why a node does not take `pod`, which wants `wanted`; empty if it does. Kubernetes' plugins in their order: the first that
/// refuses has the word, and of amounts all that are short.
pub(super) fn refusals(pod: &Pod, wanted: &Wanted, place: &Place<'_>) -> Vec<String> {
    if let Some(taint) = taints::untolerated(pod, &place.taints, &[taints::NO_SCHEDULE, taints::NO_EXECUTE]) {
        return vec![match taint.key.as_str() {
            taints::UNSCHEDULABLE => "node(s) were unschedulable".to_owned(),
            key => {
                let value = taint.value.as_deref().unwrap_or_default();
                format!("node(s) had untolerated taint {{{key}: {value}}}")
            }
        }];
    }
    if !node_affinity::allows(pod, place.node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let taken = |port| place.ports.iter().any(|other| other.is_in_the_way_of(port));
    if wanted.ports.iter().any(taken) {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    let mut short = Vec::new();
    if place.room.is_some_and(|room| place.pods >= room) {
        short.push("Too many pods".to_owned());
    }
    for (name, amount) in &wanted.amounts {
        let held = |amounts: &BTreeMap<String, Quantity>| amounts.get(name).copied();
        // A node that does not say how much it has of the usual ones has enough; of others it has none.
        let Some(has) =
            held(&place.allocatable).or_else(|| (name != CPU && name != MEMORY).then_some(Quantity::ZERO))
        else {
            continue;
        };
        if *amount > Quantity::ZERO && held(&place.used).unwrap_or_default() + *amount > has {
            short.push(format!("Insufficient {name}"));
        }
    }
    short
}

/// How many taints by which a node would rather not have the Pod it does not tolerate.
pub(super) fn reluctance(pod: &Pod, node: &Node) -> usize {
    let soft = taints::written(node).iter().filter(|taint| taint.effect == taints::PREFER_NO_SCHEDULE);
    let tolerations = taints::tolerations(pod);
    soft.filter(|taint| !tolerations.iter().any(|toleration| taints::tolerates(toleration, taint))).count()
}

/// `0/3 nodes are available: 1 node(s) were unschedulable, 2 Too many pods.`
pub(super) fn message(nodes: usize, refusals: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut words: Vec<String> = refusals.iter().map(|(words, count)| format!("{count} {words}")).collect();
    words.sort();
    format!("0/{nodes} nodes are available: {}.", words.join(", "))
}
