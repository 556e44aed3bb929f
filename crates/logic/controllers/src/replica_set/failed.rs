//! Pods of a ReplicaSet that have failed for good, such as those that their node rejected.
//!
//! Kubernetes replaces them at once and keeps 12,500 of them (`--terminated-pod-gc-threshold`); the wait is that of its DaemonSets
//! (`failedPodsBackoff`).

use crate::{claim::Index, objects::uid};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use minisvc_apimachinery::ObjectKey;
use std::cmp::Reverse;

/// So many are kept to be looked at.
pub(super) const KEPT_MAX: usize = 10;
/// What is waited after the first, in seconds; after each further one twice as long.
const WAIT_SECONDS: i64 = 1;
/// Longest wait, in seconds.
const WAIT_SECONDS_MAX: i64 = 300;

/// The Pods of a ReplicaSet that have failed, the newest first.
pub(super) fn of<'a>(pods: &Index<'a, Pod>, set: &ReplicaSet) -> Vec<(&'a ObjectKey, &'a Pod)> {
    let is_failed = |pod: &Pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed")
    };
    let mut failed: Vec<_> =
        pods.of(uid(&set.metadata)).iter().copied().filter(|(_, pod)| is_failed(pod)).collect();
    failed.sort_by_key(|(key, pod)| (Reverse(created(pod)), *key));
    failed
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Whether it is too early for another after these.
pub(super) fn must_wait(failed: &[(&ObjectKey, &Pod)], now: Timestamp) -> bool {
    let Some(newest) = failed.first().and_then(|(_, pod)| created(pod)) else { return false };
    let doublings = failed.len().clamp(1, KEPT_MAX) - 1;
    let seconds = (WAIT_SECONDS << doublings).min(WAIT_SECONDS_MAX);
    now.duration_since(newest) < SignedDuration::from_secs(seconds)
}
