//! Which Pods a ReplicaSet can do without, when it has too many.
//!
//! Source: kubernetes `pkg/controller/controller_utils.go` (`ActivePodsWithRanks`).

use crate::objects::{node_of, pod_condition, pod_is_ready};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::ObjectKey;
use std::{cmp::Reverse, collections::BTreeMap};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` Pods to go first: not placed, not running, not ready, cheap by annotation, many of a kind on their node,
/// ready for the shortest time, restarted most often, youngest.
pub(super) fn least_useful<'a>(
    pods: &[(&'a ObjectKey, &'a Pod)],
    relatives: &[&Pod],
    count: usize,
) -> Vec<(&'a ObjectKey, &'a Pod)> {
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in relatives {
        *on_node.entry(node_of(pod).unwrap_or_default()).or_default() += 1;
    }
    let mut pods = pods.to_vec();
    pods.sort_by_cached_key(|(key, pod)| {
        let neighbours = on_node.get(node_of(pod).unwrap_or_default()).copied().unwrap_or_default();
        (
            (node_of(pod).is_some(), phase(pod), pod_is_ready(pod), cost(pod)),
            (Reverse(neighbours), Reverse(ready_since(pod)), Reverse(restarts(pod)), Reverse(created(pod))),
            (*key).clone(),
        )
    });
    pods.truncate(count);
    pods
}

fn phase(pod: &Pod) -> u8 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    }
}

fn cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|map| map.get(DELETION_COST)?.parse().ok()).unwrap_or(0)
}

/// None is before every time: a Pod that is not ready has none.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    pod_condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}
