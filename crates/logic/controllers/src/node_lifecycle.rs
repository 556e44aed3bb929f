//! Nodes that fell silent, their taints, and Pods whose node is gone or will not have them (source: kubernetes
//! pkg/controller/nodelifecycle, tainteviction, podgc).
//!
//! A node is alive while its Lease is renewed. Renewals are timed by when they were *seen*, not by the clocks of the
//! nodes, so [`Observations`] must be told of every snapshot, and that nothing could be seen for a while
//! ([`Observations::blind`]): a node is never declared dead for what we missed.

use crate::{
    objects::{is_over, node_condition, node_of, pod_is_ready, uid},
    plan::{Deletion, Notice, Owner, Plan, Write},
    taints,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod},
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
};
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    resource::{NODES, PODS},
};
use serde_json::json;
use std::collections::BTreeMap;

const NODE_LEASES: &str = "kube-node-lease";

/// When a node is taken for dead, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// Silence after which a node's state is Unknown.
    pub silence: SignedDuration,
    /// How long after its own grace period a terminating Pod of a node that is not Ready is removed by force.
    pub terminating: SignedDuration,
    /// How long a Pod may name a node that does not exist.
    pub orphaned: SignedDuration,
}

impl Default for Grace {
    /// Silence as kube-controller-manager has it (`--node-monitor-grace-period`).
    fn default() -> Self {
        Self {
            silence: SignedDuration::from_secs(40),
            terminating: SignedDuration::from_secs(10),
            orphaned: SignedDuration::from_secs(5),
        }
    }
}

/// When what was seen. Lost at a restart, which costs one grace period.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    renewals: BTreeMap<String, (Option<MicroTime>, Timestamp)>,
    homeless: BTreeMap<ObjectKey, Timestamp>,
}

impl Observations {
    /// Takes note of a snapshot. Bounded by the snapshot: what is gone from it is forgotten.
    pub fn observe(&mut self, snapshot: &Snapshot, now: Timestamp) {
        let mut renewals = BTreeMap::new();
        for key in snapshot.nodes.keys() {
            let lease = snapshot.leases.get(&ObjectKey::new(NODE_LEASES, key.name.as_str()));
            let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
            let seen = match self.renewals.remove(&key.name) {
                Some((before, at)) if before == renewed => at,
                _ => now,
            };
            renewals.insert(key.name.clone(), (renewed, seen));
        }
        self.renewals = renewals;
        let homeless = snapshot.pods.iter().filter(|(_, pod)| {
            node_of(pod).is_some_and(|node| !snapshot.nodes.contains_key(&ObjectKey::cluster(node)))
        });
        self.homeless =
            homeless.map(|(key, _)| (key.clone(), self.homeless.get(key).copied().unwrap_or(now))).collect();
    }

    /// Nothing could be seen until now: every node gets its grace period anew.
    pub fn blind(&mut self, now: Timestamp) {
        self.renewals.values_mut().for_each(|(_, seen)| *seen = now);
        self.homeless.values_mut().for_each(|seen| *seen = now);
    }

    fn silent(&self, node: &str, now: Timestamp, grace: &Grace) -> bool {
        self.renewals.get(node).is_some_and(|(_, seen)| now.duration_since(*seen) >= grace.silence)
    }
}

/// Plans the conditions of silent nodes and of their Pods, and the removal of Pods nobody will end.
pub fn plan(snapshot: &Snapshot, seen: &Observations, grace: &Grace, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for (key, node) in snapshot.nodes.iter().filter(|(key, _)| seen.silent(&key.name, now, grace)) {
        if node_condition(node, "Ready").is_none_or(|condition| condition.status != "Unknown") {
            plan.writes.push(unknown(key, node, now));
            let message = format!("Node {key} status is now: NodeNotReady");
            let notice = Notice::new(&NODES, key, &node.metadata, "NodeNotReady", message);
            plan.notices.push(notice.with(&NODES, key));
        }
    }
    for (key, node) in &snapshot.nodes {
        if let Some(taints) = taints::mended(node, now) {
            let patch = json!({ "spec": { "taints": Some(taints).filter(|taints| !taints.is_empty()) } });
            plan.writes.push(Write::patch(&NODES, key, &node.metadata, None, patch));
        }
    }
    for (key, pod) in &snapshot.pods {
        let Some(node_name) = node_of(pod) else { continue };
        let node_key = ObjectKey::cluster(node_name);
        match snapshot.nodes.get(&node_key) {
            None => plan.writes.extend(homeless(key, pod, node_key, seen, grace, now)),
            Some(node) => {
                let stranded =
                    seen.silent(node_name, now, grace) && stranded(key, pod, node, grace, now, &mut plan);
                if !stranded && is_evicted(pod, node, now) {
                    let message = format!("Marking for deletion Pod {key}");
                    let notice = Notice::new(&PODS, key, &pod.metadata, "TaintManagerEviction", message);
                    plan.notices.push(notice.with(&PODS, key));
                    plan.writes.push(Write::delete(&PODS, key, &pod.metadata));
                }
            }
        }
    }
    plan
}

fn unknown(key: &ObjectKey, node: &Node, now: Timestamp) -> Write {
    let mut conditions =
        node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    if !conditions.iter().any(|condition| condition.type_ == "Ready") {
        conditions.push(NodeCondition { type_: "Ready".to_owned(), ..NodeCondition::default() });
    }
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "Unknown".to_owned();
        condition.reason = Some("NodeStatusUnknown".to_owned());
        condition.message = Some("Kubelet stopped posting node status.".to_owned());
        condition.last_transition_time = Some(Time(now));
    }
    Write::status(&NODES, key, &node.metadata, json!({ "conditions": conditions }))
}

fn homeless(
    key: &ObjectKey,
    pod: &Pod,
    node: ObjectKey,
    seen: &Observations,
    grace: &Grace,
    now: Timestamp,
) -> Option<Write> {
    let since = seen.homeless.get(key)?;
    let due = now.duration_since(*since) >= grace.orphaned;
    due.then(|| remove(key, pod, vec![Owner { resource: &NODES, key: node, uid: String::new() }]))
}

fn remove(key: &ObjectKey, pod: &Pod, unless_exists: Vec<Owner>) -> Write {
    let uid = uid(&pod.metadata).to_owned();
    let how = Deletion { uid, grace_seconds: Some(0), unless_exists, ..Deletion::default() };
    Write::Delete { resource: &PODS, key: key.clone(), how }
}

/// A Pod of a silent node: it is not ready, and once it should have gone it is removed. True if that is to be written.
fn stranded(key: &ObjectKey, pod: &Pod, node: &Node, grace: &Grace, now: Timestamp, plan: &mut Plan) -> bool {
    let unknown = node_condition(node, "Ready").is_some_and(|condition| condition.status == "Unknown");
    // A Pod's deletionTimestamp is when its own grace period ends.
    let overdue = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .is_some_and(|Time(at)| now.duration_since(*at) >= grace.terminating);
    let before = plan.writes.len();
    if unknown && overdue {
        plan.writes.push(remove(key, pod, Vec::new()));
    } else if pod_is_ready(pod) {
        plan.writes.extend(not_ready(key, pod, now));
    }
    plan.writes.len() > before
}

/// Whether a Pod must leave its node for a taint (`NoExecute`): one it does not tolerate, or tolerates no longer
/// (`tolerationSeconds`, of several the shortest; source: pkg/controller/tainteviction).
fn is_evicted(pod: &Pod, node: &Node, now: Timestamp) -> bool {
    if pod.metadata.deletion_timestamp.is_some() || is_over(pod) {
        return false;
    }
    taints::standing(node).filter(|taint| taint.effect == taints::NO_EXECUTE).any(|taint| {
        let mut tolerating =
            taints::tolerations(pod).iter().filter(|t| taints::tolerates(t, taint)).peekable();
        if tolerating.peek().is_none() {
            return true;
        }
        let seconds = tolerating.filter_map(|toleration| toleration.toleration_seconds).min();
        let since = taint.time_added.as_ref().map(|Time(since)| now.duration_since(*since).as_secs());
        seconds.zip(since).is_some_and(|(most, passed)| passed >= most)
    })
}

fn not_ready(key: &ObjectKey, pod: &Pod, now: Timestamp) -> Option<Write> {
    let mut conditions = pod.status.as_ref()?.conditions.clone()?;
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "False".to_owned();
        condition.reason = Some("NodeNotReady".to_owned());
        condition.message = Some("The node stopped reporting".to_owned());
        condition.last_transition_time = Some(Time(now));
    }
    Some(Write::status(&PODS, key, &pod.metadata, json!({ "conditions": conditions })))
}

#[cfg(test)]
mod tests;
