//! Which node runs a Pod.
//!
//! In: Pods without a node. Out: for each a binding, or a condition `PodScheduled=False` in Kubernetes' words.
//!
//! A node fits if it is Ready, schedulable, matches the Pod's nodeSelector and node affinity, has no taint the Pod does not
//! tolerate and room for another Pod. Of those that fit, one that has no taint against it (`PreferNoSchedule`) is taken, then
//! the one the Pod prefers, then the one with the fewest Pods of the same kind (of the Services that select the Pod; else of
//! the same owner; else with the same labels), then the one with the fewest Pods, then the first by name. Pods of one pass
//! count for those after them.

mod fit;
mod node_affinity;
#[cfg(test)]
mod tests;

use crate::{
    objects::{is_over, node_of, pod_condition, selector, selects, uid},
    plan::{Notice, Plan, Write},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use minisvc_apimachinery::{ObjectKey, Snapshot, resource::PODS};
use serde_json::json;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Most Pods of one pass; the rest are placed in the next.
pub const PASS_MAX: usize = 200;

/// What Pods are of the same kind by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Service(ObjectKey),
    Owner(String),
    Labels(String, BTreeMap<String, String>),
}

/// Plans the Pods that have no node, the oldest first.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut pending: Vec<(&ObjectKey, &Pod)> =
        snapshot.pods.iter().map(|(key, pod)| (key, pod.as_ref())).filter(|(_, pod)| waits(pod)).collect();
    let mut plan = Plan::default();
    if pending.is_empty() {
        return plan;
    }
    pending.sort_by(|a, b| {
        (&a.1.metadata.creation_timestamp, a.0).cmp(&(&b.1.metadata.creation_timestamp, b.0))
    });
    // Pods that were refused before wait behind those that are new, so they cannot fill every pass.
    pending.sort_by_key(|(_, pod)| pod_condition(pod, "PodScheduled").is_some());
    let refused_only = pending.iter().all(|(_, pod)| pod_condition(pod, "PodScheduled").is_some());
    if !refused_only {
        pending.truncate(PASS_MAX);
    }
    let mut counts = Counts::new(snapshot, &pending);
    for (key, pod) in pending {
        let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
        let mut fitting: Vec<Fitting<'_>> = Vec::new();
        for (node_key, node) in &snapshot.nodes {
            let pods = counts.of_node.get(node_key.name.as_str()).copied().unwrap_or_default();
            match fit::refusal(pod, node, pods) {
                None => fitting.push(Fitting::new(pod, node, &node_key.name)),
                Some(words) => *refusals.entry(words).or_default() += 1,
            }
        }
        match counts.best(key, &fitting) {
            Some(node) => {
                let node = node.to_owned();
                counts.placed(key, &node);
                let message = format!("Successfully assigned {key} to {node}");
                let notice = Notice::new(&PODS, key, &pod.metadata, "Scheduled", message);
                plan.notices.push(notice.with(&PODS, key));
                plan.writes.push(Write::Bind { pod: key.clone(), uid: uid(&pod.metadata).to_owned(), node });
            }
            None => refuse(key, pod, &fit::message(snapshot.nodes.len(), &refusals), now, &mut plan),
        }
    }
    plan
}

fn waits(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let ours =
        spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == "default-scheduler");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    node_of(pod).is_none() && pod.metadata.deletion_timestamp.is_none() && !is_over(pod) && ours && !gated
}

fn refuse(key: &ObjectKey, pod: &Pod, message: &str, now: Timestamp, plan: &mut Plan) {
    let present = pod_condition(pod, "PodScheduled");
    let same = present.is_some_and(|condition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(message)
    });
    if same {
        return;
    }
    let since = present
        .filter(|condition| condition.status == "False")
        .and_then(|condition| condition.last_transition_time.clone())
        .unwrap_or(Time(now));
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    let mut conditions: Vec<_> = conditions.iter().map(|condition| json!(condition)).collect();
    conditions.push(json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": message, "lastTransitionTime": since,
    }));
    plan.writes.push(Write::status(&PODS, key, &pod.metadata, json!({ "conditions": conditions })));
    let notice = Notice::warning(&PODS, key, &pod.metadata, "FailedScheduling", message.to_owned());
    plan.notices.push(notice.with(&PODS, key));
}

/// A node that takes a Pod.
struct Fitting<'n> {
    name: &'n str,
    /// How much it would rather not.
    reluctance: usize,
    /// How much the Pod would like it.
    preference: i64,
}

impl<'n> Fitting<'n> {
    fn new(pod: &Pod, node: &Node, name: &'n str) -> Self {
        let preference = node_affinity::preference(pod, node);
        Self { name, reluctance: fit::reluctance(pod, node), preference }
    }
}

/// How many Pods are where.
struct Counts<'a> {
    of_node: BTreeMap<String, usize>,
    of_group: BTreeMap<(Group, String), usize>,
    groups: BTreeMap<&'a ObjectKey, Vec<Group>>,
}

impl<'a> Counts<'a> {
    fn new(snapshot: &Snapshot, pending: &[(&'a ObjectKey, &'a Pod)]) -> Self {
        let groups: BTreeMap<&ObjectKey, Vec<Group>> =
            pending.iter().map(|(key, pod)| (*key, groups_of(snapshot, key, pod))).collect();
        let mut counts = Self { of_node: BTreeMap::new(), of_group: BTreeMap::new(), groups };
        let wanted: BTreeSet<Group> = counts.groups.values().flatten().cloned().collect();
        for (key, pod) in &snapshot.pods {
            let Some(node) = node_of(pod).filter(|_| !is_over(pod)) else { continue };
            *counts.of_node.entry(node.to_owned()).or_default() += 1;
            if pod.metadata.deletion_timestamp.is_some() {
                continue; // takes room, but will not serve
            }
            for group in wanted.iter().filter(|group| belongs(snapshot, key, pod, group)) {
                *counts.of_group.entry((group.clone(), node.to_owned())).or_default() += 1;
            }
        }
        counts
    }

    fn best<'n>(&self, pod: &ObjectKey, fitting: &[Fitting<'n>]) -> Option<&'n str> {
        let groups = self.groups.get(pod).map(Vec::as_slice).unwrap_or_default();
        let best = fitting.iter().min_by_key(|fitting| {
            let node = fitting.name;
            let alike: usize =
                groups.iter().filter_map(|group| self.of_group.get(&(group.clone(), node.to_owned()))).sum();
            let pods = self.of_node.get(node).copied().unwrap_or_default();
            (fitting.reluctance, Reverse(fitting.preference), alike, pods, node)
        });
        best.map(|fitting| fitting.name)
    }

    fn placed(&mut self, pod: &ObjectKey, node: &str) {
        *self.of_node.entry(node.to_owned()).or_default() += 1;
        for group in self.groups.get(pod).into_iter().flatten() {
            *self.of_group.entry((group.clone(), node.to_owned())).or_default() += 1;
        }
    }
}

fn controller_of(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.as_deref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// What a Pod is like: the Services that select it; without any, its owner; without one, its app label or all labels.
fn groups_of(snapshot: &Snapshot, key: &ObjectKey, pod: &Pod) -> Vec<Group> {
    let namespace = key.namespace.as_str();
    let services = snapshot
        .services
        .range(ObjectKey::new(namespace, "")..)
        .take_while(|(key, _)| key.namespace == namespace);
    let selecting: Vec<Group> = services
        .filter(|(_, service)| selector(service).is_some_and(|selector| selects(selector, &pod.metadata)))
        .map(|(key, _)| Group::Service(key.clone()))
        .collect();
    if !selecting.is_empty() {
        return selecting;
    }
    if let Some(owner) = controller_of(pod) {
        return vec![Group::Owner(owner.to_owned())];
    }
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let app =
        ["app.kubernetes.io/name", "app", "k8s-app"].into_iter().find_map(|name| labels.get_key_value(name));
    let labels = match app {
        Some((name, value)) => [(name.clone(), value.clone())].into(),
        None => labels,
    };
    if labels.is_empty() { Vec::new() } else { vec![Group::Labels(namespace.to_owned(), labels)] }
}

fn belongs(snapshot: &Snapshot, key: &ObjectKey, pod: &Pod, group: &Group) -> bool {
    match group {
        Group::Service(service) => {
            service.namespace == key.namespace
                && snapshot
                    .services
                    .get(service)
                    .and_then(|service| selector(service))
                    .is_some_and(|selector| selects(selector, &pod.metadata))
        }
        Group::Owner(uid) => controller_of(pod) == Some(uid),
        Group::Labels(namespace, labels) => *namespace == key.namespace && selects(labels, &pod.metadata),
    }
}

/// Number of Pods a node takes, if it says.
fn room(node: &Node) -> Option<usize> {
    node.status.as_ref()?.allocatable.as_ref()?.get("pods")?.0.parse().ok()
}
