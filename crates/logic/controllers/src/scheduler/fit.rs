//! Whether a node takes a Pod, and Kubernetes' words if not.

use super::{node_affinity, room};
use crate::taints;
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::BTreeMap;

/// Why `node`, which runs `pods` Pods, does not take `pod`; none if it does.
pub(super) fn refusal(pod: &Pod, node: &Node, pods: usize) -> Option<String> {
    let taints = taints::effective(node);
    if let Some(taint) = taints::untolerated(pod, &taints, &[taints::NO_SCHEDULE, taints::NO_EXECUTE]) {
        return Some(match taint.key.as_str() {
            taints::UNSCHEDULABLE => "node(s) were unschedulable".to_owned(),
            key => {
                let value = taint.value.as_deref().unwrap_or_default();
                format!("node(s) had untolerated taint {{{key}: {value}}}")
            }
        });
    }
    if !node_affinity::allows(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if room(node).is_some_and(|room| pods >= room) {
        return Some("Too many pods".to_owned());
    }
    None
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
