//! What a ReplicaSet says of its Pods.

use crate::{
    counts::{counted, is_news},
    objects::{pod_condition, pod_is_ready},
    plan::Write,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use minisvc_apimachinery::{ObjectKey, resource::REPLICA_SETS};
use serde_json::{Value, json};

/// Whether a Pod has been ready for so long that it counts as available.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !pod_is_ready(pod) {
        return false;
    }
    let since = pod_condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    min_ready_seconds <= 0
        || since
            .is_some_and(|Time(since)| now.duration_since(*since).as_secs() >= i64::from(min_ready_seconds))
}

/// The status, if it is another than the present one. `refused`: why the last Pod could not be made.
pub(super) fn write(
    key: &ObjectKey,
    set: &ReplicaSet,
    pods: &[(&ObjectKey, &Pod)],
    wanted: usize,
    refused: Option<&str>,
    now: Timestamp,
) -> Option<Write> {
    let spec = set.spec.as_ref()?;
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let labelled = |pod: &Pod| {
        let own = pod.metadata.labels.as_ref();
        labels.is_none_or(|labels| {
            labels.iter().all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
        })
    };
    let count = |holds: &dyn Fn(&Pod) -> bool| {
        counted(i64::try_from(pods.iter().filter(|(_, pod)| holds(pod)).count()).unwrap_or(i64::MAX))
    };
    let present = json!(set.status);
    let condition = refused.filter(|_| pods.len() < wanted).map(|message| failure(&present, message, now));
    let status = json!({
        "replicas": pods.len(),
        "fullyLabeledReplicas": count(&labelled),
        "readyReplicas": count(&pod_is_ready),
        "availableReplicas": count(&|pod| is_available(pod, min_ready, now)),
        "observedGeneration": set.metadata.generation,
        "conditions": condition.map(|condition| vec![condition]),
    });
    is_news(&status, &present).then(|| Write::status(&REPLICA_SETS, key, &set.metadata, status))
}

fn failure(present: &Value, message: &str, now: Timestamp) -> Value {
    let old = present.pointer("/conditions/0/lastTransitionTime").filter(|time| !time.is_null());
    let since = old.cloned().unwrap_or_else(|| json!(Time(now)));
    json!({
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": message, "lastTransitionTime": since,
    })
}
