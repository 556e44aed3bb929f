//! Runtime record → Pod status: a pure function.
//!
//! Invariant: `desired(pod with status s, …) == s` once `s` was written, so that nothing is written twice.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use minisvc_runtime::{ContainerRecord, ContainerState as RuntimeState, PodRecord, Terminated};
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
    let containers: Vec<ContainerStatus> = match record {
        Some(record) => record.containers.iter().map(|c| container_status(c, &record.bundle.uid)).collect(),
        None => waiting(pod),
    };
    let phase = phase(record, pod);
    let finished = matches!(phase, "Succeeded" | "Failed");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = !containers.is_empty() && containers.iter().all(|container| container.ready) && !terminating;
    let reason = finished.then_some("PodCompleted").or((!ready).then_some("ContainersNotReady"));

    let conditions = status.conditions.get_or_insert_default();
    for (kind, holds, reason) in [
        ("PodScheduled", true, None),
        ("Initialized", true, None),
        ("ContainersReady", ready, reason),
        ("Ready", ready, reason),
    ] {
        set_condition(conditions, kind, holds, reason, now);
    }
    status.phase = Some(phase.to_owned());
    let texts = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let of_node = texts(node_addresses);
    status.host_ip = of_node.first().cloned();
    status.host_ips = Some(of_node.into_iter().map(|ip| HostIP { ip }).collect());
    let own = record.map(|record| texts(&record.bundle.addresses)).unwrap_or_default();
    if let Some(primary) = own.first() {
        status.pod_ip = Some(primary.clone());
        status.pod_ips = Some(own.into_iter().map(|ip| PodIP { ip }).collect());
    }
    status.start_time.get_or_insert_with(|| Time(seconds(now)));
    status.container_statuses = Some(containers);
    status.qos_class.get_or_insert_with(|| "BestEffort".to_owned());
    status.reason = None;
    status.message = None;
    status
}

/// Kubernetes' times have whole seconds.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn phase(record: Option<&PodRecord>, pod: &Pod) -> &'static str {
    let Some(record) = record else {
        // A Pod that has run keeps its phase while the runtime is told of it anew.
        return match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Succeeded") => "Succeeded",
            Some("Failed") => "Failed",
            _ => "Pending",
        };
    };
    let ended = |container: &ContainerRecord| match &container.state {
        RuntimeState::Terminated(end) => Some(end.exit_code),
        _ => None,
    };
    if record.is_finished() {
        let failed = record.containers.iter().any(|container| ended(container) != Some(0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    let never_ran = |container: &ContainerRecord| {
        matches!(container.state, RuntimeState::Waiting { .. }) && container.last_termination.is_none()
    };
    if record.containers.iter().any(never_ran) { "Pending" } else { "Running" }
}

fn waiting(pod: &Pod) -> Vec<ContainerStatus> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .map(|container| ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            started: Some(false),
            state: Some(ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some("ContainerCreating".to_owned()),
                    message: None,
                }),
                ..ContainerState::default()
            }),
            ..ContainerStatus::default()
        })
        .collect()
}

fn container_status(container: &ContainerRecord, uid: &str) -> ContainerStatus {
    let id = container_id(uid, container);
    let running = container.is_running();
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: if running { container.image.clone() } else { String::new() },
        container_id: container.process.is_some().then(|| id.clone()),
        ready: running,
        started: Some(running),
        restart_count: i32::try_from(container.restart_count).unwrap_or(i32::MAX),
        state: Some(container_state(&container.state, &id)),
        last_state: container.last_termination.as_ref().map(|end| ContainerState {
            terminated: Some(terminated(end, &id)),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}

fn container_id(uid: &str, container: &ContainerRecord) -> String {
    format!("minisvc://{uid}/{}/{}", container.name, container.restart_count)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn container_state(state: &RuntimeState, id: &str) -> ContainerState {
    match state {
        RuntimeState::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting { reason: some(reason), message: some(message) }),
            ..ContainerState::default()
        },
        RuntimeState::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(seconds(*started_at))) }),
            ..ContainerState::default()
        },
        RuntimeState::Terminated(end) => {
            ContainerState { terminated: Some(terminated(end, id)), ..ContainerState::default() }
        }
    }
}

fn terminated(end: &Terminated, id: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: some(id),
        exit_code: end.exit_code,
        signal: (end.signal != 0).then_some(end.signal),
        reason: some(&end.reason),
        message: some(&end.message),
        started_at: end.started_at.map(seconds).map(Time),
        finished_at: Some(Time(seconds(end.finished_at))),
    }
}

/// Sets a condition; its transition time changes only with its status.
pub fn set_condition(
    conditions: &mut Vec<PodCondition>,
    kind: &str,
    holds: bool,
    reason: Option<&str>,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let reason = reason.filter(|_| !holds).map(str::to_owned);
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(condition) if condition.status == status => {
            condition.reason = reason;
            condition.message = None;
        }
        Some(condition) => {
            condition.status = status.to_owned();
            condition.last_transition_time = Some(Time(seconds(now)));
            condition.reason = reason;
            condition.message = None;
        }
        None => conditions.push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(Time(seconds(now))),
            reason,
            ..PodCondition::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_runtime::{ContainerSpec, PodBundle, PodDns, RestartPolicy};

    fn now() -> Timestamp {
        "2026-01-01T00:00:00.5Z".parse().unwrap()
    }

    fn record(state: RuntimeState) -> PodRecord {
        let spec = ContainerSpec { name: "c".into(), image: "echo".into(), ..ContainerSpec::default() };
        let mut container = ContainerRecord::new(&spec);
        container.state = state;
        let bundle = PodBundle {
            uid: "u".into(),
            namespace: "default".into(),
            name: "web".into(),
            hostname: "web".into(),
            domain: None,
            addresses: vec![IpAddr::from([10, 42, 0, 2])],
            netns: "/n".into(),
            dns: PodDns::default(),
            host_aliases: Vec::new(),
            restart_policy: RestartPolicy::Always,
            containers: vec![spec],
        };
        PodRecord { bundle, created_at: now(), stopping: false, containers: vec![container] }
    }

    fn node() -> [IpAddr; 1] {
        [IpAddr::from([192, 0, 2, 1])]
    }

    #[test]
    fn a_running_pod_is_ready_and_its_status_is_a_fixpoint() {
        let running = record(RuntimeState::Running { started_at: now() });
        let mut pod = Pod::default();
        let status = desired(&pod, Some(&running), &node(), now());
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.pod_ip.as_deref(), Some("10.42.0.2"));
        assert!(status.conditions.iter().flatten().all(|condition| condition.status == "True"));
        let wire = serde_json::to_value(&status).unwrap();
        pod.status = Some(serde_json::from_value(wire).unwrap());
        let later = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(Some(desired(&pod, Some(&running), &node(), later)), pod.status);
    }

    #[test]
    fn a_terminating_pod_is_not_ready_and_an_ended_one_has_its_phase() {
        let mut pod = Pod::default();
        pod.metadata.deletion_timestamp = Some(Time(now()));
        let running = record(RuntimeState::Running { started_at: now() });
        let status = desired(&pod, Some(&running), &node(), now());
        assert!(status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "False"));
        for (exit_code, phase) in [(0, "Succeeded"), (3, "Failed")] {
            let end = Terminated {
                exit_code,
                signal: 0,
                reason: "Completed".into(),
                message: String::new(),
                started_at: Some(now()),
                finished_at: now(),
            };
            let status =
                desired(&Pod::default(), Some(&record(RuntimeState::Terminated(end))), &node(), now());
            assert_eq!(status.phase.as_deref(), Some(phase));
        }
    }
}
