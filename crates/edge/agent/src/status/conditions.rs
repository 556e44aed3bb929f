//! Conditions of a Pod: what holds, and in the kubelet's words what does not.
//!
//! Source: kubelet `pkg/kubelet/status/generate.go`.

use super::seconds;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use minisvc_runtime::{ContainerRecord, PodRecord, order, spec::ContainerSpec};

/// Whether something holds, and if not why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { holds: true, ..Self::default() }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// The conditions that the node decides.
const OURS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Whether the node decides a condition of this type.
pub(super) fn is_ours(kind: &str) -> bool {
    OURS.contains(&kind)
}

/// Sets the conditions that the node decides; those of others stay.
pub(super) fn set_all(
    conditions: &mut Vec<PodCondition>,
    pod: &Pod,
    record: Option<&PodRecord>,
    phase: &str,
    now: Timestamp,
) {
    let over = matches!(phase, "Succeeded" | "Failed");
    let containers = containers_ready(pod, record, phase);
    let ready = if containers.holds { gates(pod, conditions) } else { containers.clone() };
    let connected = record.is_some() && !over;
    let connected = Verdict { holds: connected, ..Verdict::default() };
    let verdicts = [connected, initialized(pod, record, phase), ready, containers, Verdict::yes()];
    for (kind, verdict) in OURS.into_iter().zip(verdicts) {
        set(conditions, kind, verdict, now);
    }
}

/// The containers that hold the Pod up, and in which way.
fn verdict(reason: &'static str, words: &str, names: &[&str]) -> Verdict {
    if names.is_empty() {
        return Verdict::yes();
    }
    Verdict::no(reason, format!("containers with {words} status: [{}]", names.join(" ")))
}

fn initialized(pod: &Pod, record: Option<&PodRecord>, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { holds: true, reason: "PodCompleted", message: String::new() };
    }
    let names: Vec<&str> = match record {
        // Once initialized, a Pod stays so, also while a sidecar is started again.
        Some(record) if record.containers.iter().any(|container| container.life.begun) => Vec::new(),
        Some(record) => {
            let all = record.bundle.init_containers.iter().zip(&record.init_containers);
            let missing = all.filter(|(spec, container)| !order::is_initialized(spec, container));
            missing.map(|(spec, _)| spec.name.as_str()).collect()
        }
        None => {
            let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
            init.map(|container| container.name.as_str()).collect()
        }
    };
    verdict("ContainersNotInitialized", "incomplete", &names)
}

fn containers_ready(pod: &Pod, record: Option<&PodRecord>, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", String::new()),
        "Failed" => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let names: Vec<&str> = match record {
        Some(record) => {
            let unready = |(spec, container): &(&ContainerSpec, &ContainerRecord)| {
                !order::is_ready(&spec.life, container)
            };
            let init = record.bundle.init_containers.iter().zip(&record.init_containers);
            let main = record.bundle.containers.iter().zip(&record.containers);
            let sidecars = init.filter(|(spec, _)| spec.life.sidecar);
            sidecars.chain(main).filter(unready).map(|(spec, _)| spec.name.as_str()).collect()
        }
        None => pod.spec.iter().flat_map(|spec| &spec.containers).map(|c| c.name.as_str()).collect(),
    };
    verdict("ContainersNotReady", "unready", &names)
}

/// What others must say of the Pod before it is ready.
fn gates(pod: &Pod, conditions: &[PodCondition]) -> Verdict {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let closed: Vec<String> = gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *kind) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
                }
                Some(condition) if condition.status != "True" => {
                    let status = &condition.status;
                    Some(format!("the status of pod readiness gate {kind:?} is not \"True\", but {status}"))
                }
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", closed.join(", ")) }
}

/// Sets a condition; its transition time changes only with its status.
fn set(conditions: &mut Vec<PodCondition>, kind: &str, verdict: Verdict, now: Timestamp) {
    let status = if verdict.holds { "True" } else { "False" };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let new = PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        last_transition_time: Some(Time(seconds(now))),
        reason: some(verdict.reason),
        message: some(&verdict.message),
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(condition) => {
            let since = condition.last_transition_time.take().filter(|_| condition.status == status);
            let last_probe_time = condition.last_probe_time.take();
            let observed_generation = condition.observed_generation.take();
            *condition = PodCondition { last_probe_time, observed_generation, ..new };
            if since.is_some() {
                condition.last_transition_time = since;
            }
        }
        None => conditions.push(new),
    }
}
