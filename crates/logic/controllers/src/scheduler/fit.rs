//! Whether a node takes a Pod, and Kubernetes' words if not.

use super::{node_affinity, room};
use crate::objects::node_condition;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use std::collections::BTreeMap;

/// Why `node`, which runs `pods` Pods, does not take `pod`; none if it does.
pub(super) fn refusal(pod: &Pod, node: &Node, pods: usize) -> Option<String> {
    let spec = node.spec.as_ref();
    if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        return Some("node(s) were unschedulable".to_owned());
    }
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let ready = node_condition(node, "Ready").map(|condition| condition.status.as_str());
    match ready {
        Some("True") if node.metadata.deletion_timestamp.is_none() => {}
        Some("Unknown") => return Some(untolerated("node.kubernetes.io/unreachable", None)),
        _ => return Some(untolerated("node.kubernetes.io/not-ready", None)),
    }
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let refusing = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    if let Some(taint) = taints.iter().find(refusing) {
        return Some(untolerated(&taint.key, taint.value.as_deref()));
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
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let soft = taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint))).count()
}

fn untolerated(key: &str, value: Option<&str>) -> String {
    format!("node(s) had untolerated taint {{{key}: {}}}", value.unwrap_or_default())
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let says = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if says(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    match says(&toleration.key) {
        None => exists,
        Some(key) if key != taint.key => false,
        Some(_) => exists || says(&toleration.value) == says(&taint.value),
    }
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
