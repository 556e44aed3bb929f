//! Whether a node takes a Pod, and Kubernetes' words if not.

use super::{
    node_affinity,
    places::Place,
    requests::{CPU, MEMORY, PODS, Wanted},
};
use crate::taints;
use k8s_openapi::api::core::v1::{Node, Pod};
use minisvc_apimachinery::Quantity;
use std::collections::BTreeMap;

pub(super) const NO_AFFINITY: &str = "node(s) didn't match Pod's node affinity/selector";
pub(super) const NO_PORTS: &str = "node(s) didn't have free ports for the requested pod ports";

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
        return vec![NO_AFFINITY.to_owned()];
    }
    if is_port_taken(wanted, place) {
        return vec![NO_PORTS.to_owned()];
    }
    let words = |short: Shortage| match short.name.as_str() {
        PODS => "Too many pods".to_owned(),
        name => format!("Insufficient {name}"),
    };
    shortages(wanted, place).into_iter().map(words).collect()
}

/// Whether another Pod of the node has a port of the host that `wanted` wants.
pub(super) fn is_port_taken(wanted: &Wanted, place: &Place<'_>) -> bool {
    let taken = |port| place.ports.iter().any(|other| other.is_in_the_way_of(port));
    wanted.ports.iter().any(taken)
}

/// Something of which a node has too little for one Pod more.
pub(super) struct Shortage {
    pub(super) name: String,
    pub(super) wanted: Quantity,
    pub(super) used: Quantity,
    pub(super) has: Quantity,
}

/// All that is short; the number of Pods first.
pub(super) fn shortages(wanted: &Wanted, place: &Place<'_>) -> Vec<Shortage> {
    let count = |pods: usize| Quantity::from_units(i64::try_from(pods).unwrap_or(i64::MAX));
    let full = place.room.filter(|room| place.pods >= *room).map(|room| Shortage {
        name: PODS.to_owned(),
        wanted: count(1),
        used: count(place.pods),
        has: count(room),
    });
    let of_amount = |(name, amount): (&String, &Quantity)| {
        let held = |amounts: &BTreeMap<String, Quantity>| amounts.get(name).copied();
        // A node that does not say how much it has of the usual ones has enough; of others it has none.
        let has =
            held(&place.allocatable).or_else(|| (name != CPU && name != MEMORY).then_some(Quantity::ZERO))?;
        let used = held(&place.used).unwrap_or_default();
        let is_short = *amount > Quantity::ZERO && used + *amount > has;
        is_short.then(|| Shortage { name: name.clone(), wanted: *amount, used, has })
    };
    full.into_iter().chain(wanted.amounts.iter().filter_map(of_amount)).collect()
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
