//! Statuses of containers, in the kubelet's words.

use super::seconds;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use minisvc_runtime::{
    ContainerRecord, ContainerState as RuntimeState, PodRecord, Terminated, order, spec::ContainerSpec,
};

/// Statuses of init containers, and of the others.
type Both = (Vec<ContainerStatus>, Vec<ContainerStatus>);

/// Of a Pod that the runtime does not know yet.
pub(super) fn of_spec(pod: &Pod) -> Both {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let reason = creating(!init.is_empty());
    let of = |container: &Container| ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        state: Some(waiting(reason, "")),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    };
    (init.iter().map(of).collect(), main.iter().map(of).collect())
}

/// Of one that it knows.
pub(super) fn of_record(record: &PodRecord) -> Both {
    let pairs = |specs, records| std::iter::zip::<&[ContainerSpec], &[ContainerRecord]>(specs, records);
    let init = pairs(&record.bundle.init_containers, &record.init_containers);
    let main = pairs(&record.bundle.containers, &record.containers);
    let of_init = |(spec, container): (&ContainerSpec, &ContainerRecord)| {
        let mut status = status(record, spec, container);
        if !spec.life.sidecar {
            (status.ready, status.started) = (container.is_completed(), Some(false));
        }
        status
    };
    (init.map(of_init).collect(), main.map(|(spec, container)| status(record, spec, container)).collect())
}

/// Why a container waits that nothing holds up but those before it.
fn creating(has_init_containers: bool) -> &'static str {
    if has_init_containers { "PodInitializing" } else { "ContainerCreating" }
}

fn status(pod: &PodRecord, spec: &ContainerSpec, container: &ContainerRecord) -> ContainerStatus {
    let of_run = |run| format!("minisvc://{}/{}/{run}", pod.bundle.uid, container.name);
    let id = of_run(container.restart_count);
    // While it waits for its restart or has ended, the run that ended last is the one that is counted.
    let goes_on = container.is_running() || container.state == RuntimeState::creating();
    let last = of_run(container.restart_count.saturating_sub(u32::from(goes_on)));
    let first = creating(!pod.bundle.init_containers.is_empty());
    let state = match &container.state {
        // As the kubelet has it: it runs once the hook after its start has ended.
        _ if order::is_hook_pending(&spec.life, container) => waiting(first, ""),
        state if *state == RuntimeState::creating() => waiting(first, ""),
        RuntimeState::Waiting { reason, message } => waiting(reason, message),
        RuntimeState::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(seconds(*started_at))) }),
            ..ContainerState::default()
        },
        RuntimeState::Terminated(end) => {
            ContainerState { terminated: Some(terminated(end, &id)), ..ContainerState::default() }
        }
    };
    let is_ran = container.process.is_some() || matches!(container.state, RuntimeState::Terminated(_));
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: container.facts.as_ref().map(|facts| facts.id.clone()).unwrap_or_default(),
        container_id: (is_ran || container.last_termination.is_some()).then(|| id.clone()),
        ready: order::is_ready(&spec.life, container),
        started: Some(order::is_started(&spec.life, container)),
        restart_count: i32::try_from(container.restart_count).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(ContainerState {
            terminated: container.last_termination.as_ref().map(|end| terminated(end, &last)),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: some(reason), message: some(message) }),
        ..ContainerState::default()
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
