//! Runtime record → Pod status: a pure function.
//!
//! Invariant: `desired(pod with status s, …) == s` once `s` was written, so that nothing is written twice.

mod conditions;
mod containers;

use crate::pod_dns;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{HostIP, Pod, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use minisvc_runtime::{
    ContainerRecord, ContainerState, PodRecord,
    order::{self, Outcome},
};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What the status of a Pod on this node must be.
///
/// `record` is None until the runtime was told to start it. Times of conditions that did not change are kept.
pub fn desired(
    pod: &Pod,
    record: Option<&PodRecord>,
    node_addresses: &[IpAddr],
    now: Timestamp,
) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    // One that ran before the node was switched off stays what it was until it is started again, or cannot be.
    if record.is_none() && (is_over(&status) || status.phase.as_deref() == Some("Running")) {
        return status;
    }
    let phase = record.map_or("Pending", phase);
    let (init, main) = match record {
        Some(record) => containers::of_record(record),
        None => containers::of_spec(pod),
    };
    conditions::set_all(status.conditions.get_or_insert_default(), pod, record, phase, now);
    status.phase = Some(phase.to_owned());
    let texts = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let of_node = texts(node_addresses);
    status.host_ip = of_node.first().cloned();
    status.host_ips = Some(of_node.into_iter().map(|ip| HostIP { ip }).collect());
    let own = match record {
        _ if pod_dns::is_in_node_network(pod.spec.as_ref()) => texts(node_addresses),
        Some(record) => texts(&record.bundle.addresses),
        None => Vec::new(),
    };
    if let Some(primary) = own.first() {
        status.pod_ip = Some(primary.clone());
        status.pod_ips = Some(own.into_iter().map(|ip| PodIP { ip }).collect());
    }
    status.start_time.get_or_insert_with(|| Time(seconds(now)));
    status.init_container_statuses = Some(init).filter(|list| !list.is_empty());
    status.container_statuses = Some(main);
    status.qos_class.get_or_insert_with(|| "BestEffort".to_owned());
    let failure = record.and_then(|record| record.failure.as_ref());
    status.reason = failure.map(|failure| failure.reason.clone());
    status.message = failure.map(|failure| failure.message.clone());
    status
}

/// A strategic merge patch that makes a Pod's status `wanted`; the conditions of others are not touched.
pub fn patch(uid: &str, wanted: &PodStatus) -> Result<Value, serde_json::Error> {
    let mut status = serde_json::to_value(wanted)?;
    if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        list.retain(|condition| condition["type"].as_str().is_some_and(conditions::is_ours));
        for condition in list.iter_mut().filter_map(Value::as_object_mut) {
            // Merged by its type, a condition would keep the words that no longer hold.
            for words in ["reason", "message"] {
                condition.entry(words).or_insert(Value::Null);
            }
        }
    }
    Ok(json!({ "metadata": { "uid": uid }, "status": status }))
}

/// Makes it the status of a Pod that has failed before anything of it was started.
pub fn fail(status: &mut PodStatus, reason: &str, message: &str) {
    status.phase = Some("Failed".to_owned());
    (status.reason, status.message) = (Some(reason.to_owned()), Some(message.to_owned()));
}

/// Whether a Pod has run, and will not again.
pub fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Kubernetes' times have whole seconds.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Kubelet `getPhase`. A Pod is over only once all of its containers have ended.
fn phase(record: &PodRecord) -> &'static str {
    match order::outcome(record).filter(|_| record.is_finished()) {
        Some(Outcome::Succeeded) => return "Succeeded",
        Some(Outcome::Failed) => return "Failed",
        None => {}
    }
    let never_ran = |container: &ContainerRecord| {
        matches!(container.state, ContainerState::Waiting { .. }) && container.last_termination.is_none()
    };
    if record.containers.iter().any(never_ran) { "Pending" } else { "Running" }
}

#[cfg(test)]
mod tests;
