//! What a Pod's containers do next, and what came of them: pure functions of its record.
//!
//! Source: kubelet `computeInitContainerActions`, `getPhase`, `newTerminationOrdering`; concepts/workloads/pods:
//! init-containers, sidecar-containers.

use crate::{
    life::Life,
    record::{ContainerRecord, ContainerState, PodRecord},
    spec::{ContainerSpec, PodBundle, RestartPolicy},
};

/// What a Pod came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All containers have ended well.
    Succeeded,
    /// One has not, or the node has ended the Pod.
    Failed,
}

/// What is to be done for a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Start this container for the first time.
    Start(&'a str),
    /// End what still runs: it has nobody to run for.
    End,
    /// Nothing now.
    Wait,
}

/// What a Pod came to, as soon as that is certain; none: it goes on. Sidecars have no say.
pub fn outcome(pod: &PodRecord) -> Option<Outcome> {
    if pod.failure.is_some() {
        return Some(Outcome::Failed);
    }
    let ended = |record: &ContainerRecord| matches!(record.state, ContainerState::Terminated(_));
    let mut first = pod.bundle.init_containers.iter().zip(&pod.init_containers);
    if first.any(|(spec, record)| !spec.life.sidecar && ended(record) && !record.is_completed()) {
        return Some(Outcome::Failed);
    }
    if !pod.containers.iter().all(ended) {
        return None;
    }
    let well = pod.containers.iter().all(ContainerRecord::is_completed);
    Some(if well { Outcome::Succeeded } else { Outcome::Failed })
}

/// What is to be done now.
pub(crate) fn next(pod: &PodRecord) -> Next<'_> {
    if outcome(pod).is_some() {
        return if pod.all().any(ContainerRecord::is_active) { Next::End } else { Next::Wait };
    }
    if pod.stopping {
        return Next::Wait;
    }
    let has_begun = pod.containers.iter().any(|record| record.life.begun);
    // After the node was off, a container may have ended for good, and those before it begin again for the others.
    if !has_begun || pod.init_containers.iter().any(|record| !record.life.begun) {
        // Those before the last one begun may have ended again: sidecars do not hold up what comes after them twice.
        let begun = pod.init_containers.iter().rposition(|record| record.life.begun);
        let last =
            begun.and_then(|at| Some((pod.bundle.init_containers.get(at)?, pod.init_containers.get(at)?)));
        if last.is_some_and(|(spec, record)| !is_initialized(spec, record)) {
            return Next::Wait;
        }
        if let Some(record) = pod.init_containers.get(begun.map_or(0, |at| at + 1)) {
            return Next::Start(&record.name);
        }
    }
    for (spec, record) in pod.bundle.containers.iter().zip(&pod.containers) {
        if !record.life.begun {
            return Next::Start(&record.name);
        }
        if is_hook_pending(&spec.life, record) || record.state == ContainerState::creating() {
            return Next::Wait;
        }
    }
    Next::Wait
}

/// Whether the next container may be started as far as this one, an init container, is concerned.
pub fn is_initialized(spec: &ContainerSpec, record: &ContainerRecord) -> bool {
    if spec.life.sidecar { is_started(&spec.life, record) } else { record.is_completed() }
}

/// Whether a container runs whose hook after the start has not ended well yet.
pub fn is_hook_pending(life: &Life, record: &ContainerRecord) -> bool {
    life.post_start.is_some() && record.is_running() && !record.life.hooked
}

/// Whether a container runs and has come up.
pub fn is_started(life: &Life, record: &ContainerRecord) -> bool {
    record.is_running() && !is_hook_pending(life, record) && (life.startup.is_none() || record.life.started)
}

/// Whether a container takes requests.
pub fn is_ready(life: &Life, record: &ContainerRecord) -> bool {
    is_started(life, record) && (life.readiness.is_none() || record.life.ready)
}

/// When a container that ended is started again.
pub(crate) fn restart_policy(bundle: &PodBundle, container: &str) -> RestartPolicy {
    match bundle.init_containers.iter().find(|spec| spec.name == container) {
        Some(spec) if spec.life.sidecar => RestartPolicy::Always,
        // One that has ended well has done its work.
        Some(_) if bundle.restart_policy == RestartPolicy::Always => RestartPolicy::OnFailure,
        _ => bundle.restart_policy,
    }
}

/// Whether a container of a Pod that ends may be told to end: sidecars serve until the others have ended, and
/// those that were started after them.
pub(crate) fn may_end(pod: &PodRecord, container: &str) -> bool {
    let Some(at) = pod.bundle.init_containers.iter().position(|spec| spec.name == container) else {
        return true;
    };
    if !pod.bundle.init_containers[at].life.sidecar {
        return true;
    }
    !pod.all().skip(at + 1).any(ContainerRecord::is_active)
}

#[cfg(test)]
mod tests;
