//! Deployments: a ReplicaSet for each template, and as many Pods moved from the old to the new at a time as may be.
//!
//! Source: kubernetes `pkg/controller/deployment`. Invariants: one step at a time, planned on a snapshot that shows the
//! step before; a ReplicaSet's name follows from its template, so a plan made twice makes no second one; what
//! `kubectl rollout` reads (revisions, conditions, counts) is Kubernetes' own.

mod limits;
mod proportion;
mod revision;
mod status;
#[cfg(test)]
mod tests;

use crate::{
    claim::{Claimer, Index, Plans, Standing},
    objects::{is_over, uid},
    plan::{Notice, Plan, Write},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
    core::v1::Pod,
};
use limits::Limits;
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    resource::{DEPLOYMENTS, REPLICA_SETS},
    selector::LabelSelector,
};
use serde_json::json;
use std::collections::BTreeMap;

/// A ReplicaSet of the Deployment: what it is to have, and what it has.
#[derive(Clone, Copy)]
struct Set<'a> {
    key: &'a ObjectKey,
    object: &'a ReplicaSet,
    /// `spec.replicas`.
    wanted: i32,
    /// `status.replicas`.
    present: i32,
    ready: i32,
    available: i32,
}

impl<'a> Set<'a> {
    fn new(key: &'a ObjectKey, object: &'a ReplicaSet) -> Self {
        let status = object.status.as_ref();
        Self {
            key,
            object,
            wanted: object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            present: status.map_or(0, |status| status.replicas),
            ready: status.and_then(|status| status.ready_replicas).unwrap_or(0),
            available: status.and_then(|status| status.available_replicas).unwrap_or(0),
        }
    }
}

/// One Deployment with its ReplicaSets, the oldest first.
struct Rollout<'a> {
    claimer: Claimer<'a>,
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    replicas: i32,
    limits: Limits,
    new: Option<Set<'a>>,
    old: Vec<Set<'a>>,
    now: Timestamp,
    plan: Plan,
}

/// Plans the ReplicaSets and the status of every Deployment that has no writes under way.
pub fn plan(snapshot: &Snapshot, standing: &Standing, now: Timestamp) -> Plans {
    if snapshot.deployments.is_empty() {
        return Plans::new();
    }
    let sets = Index::new(&snapshot.replica_sets);
    let pods = Index::new(&snapshot.pods);
    let deployments = snapshot.deployments.iter().filter(|(key, _)| !standing.open.contains(*key));
    deployments
        .map(|(key, deployment)| {
            let refused = standing.refused.get(key).map(String::as_str);
            (key.clone(), plan_one(snapshot, (&sets, &pods), key, deployment, refused, now))
        })
        .collect()
}

fn plan_one(
    snapshot: &Snapshot,
    (sets, pods): (&Index<'_, ReplicaSet>, &Index<'_, Pod>),
    key: &ObjectKey,
    deployment: &Deployment,
    refused: Option<&str>,
    now: Timestamp,
) -> Plan {
    let Some(spec) = &deployment.spec else { return Plan::default() };
    let Ok(selector) = LabelSelector::from_selector(&spec.selector) else { return Plan::default() };
    if selector.is_empty() {
        return Plan::default();
    }
    let claimer = Claimer { resource: &DEPLOYMENTS, key, meta: &deployment.metadata, selector: &selector };
    let (mine, claims) = claimer.claim(sets, &REPLICA_SETS, |_| true);
    if !claims.is_empty() {
        return Plan { writes: claims, notices: Vec::new() };
    }
    let mut mine: Vec<Set<'_>> = mine.into_iter().map(|(key, set)| Set::new(key, set)).collect();
    mine.sort_by_key(|set| (set.object.metadata.creation_timestamp.clone(), set.key.clone()));
    let new = mine.iter().copied().find(|set| revision::is_of(set.object, &spec.template));
    mine.retain(|set| new.is_none_or(|new| new.key != set.key));
    let replicas = spec.replicas.unwrap_or(1);
    let limits = Limits::of(spec, replicas);
    let rollout =
        Rollout { claimer, deployment, spec, replicas, limits, new, old: mine, now, plan: Plan::default() };
    rollout.step(snapshot, pods, refused)
}

impl<'a> Rollout<'a> {
    fn step(mut self, snapshot: &Snapshot, pods: &Index<'_, Pod>, refused: Option<&str>) -> Plan {
        let mut collided = false;
        if self.deployment.metadata.deletion_timestamp.is_none() && !self.new_is_kept_up() {
            if self.spec.paused == Some(true) || self.is_scaled() {
                self.scale();
                if self.spec.paused == Some(true) {
                    self.forget_old();
                }
            } else if self.limits.recreate {
                collided = self.recreate(snapshot, pods);
            } else {
                collided = self.roll(snapshot);
            }
        }
        self.plan.writes.extend(status::write(&self, collided, refused));
        self.plan
    }

    fn all(&self) -> impl Iterator<Item = Set<'a>> {
        self.old.iter().copied().chain(self.new)
    }

    /// Brings the annotations of the new ReplicaSet up to date; whether there was something to do.
    fn new_is_kept_up(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let annotations = revision::annotations(self.deployment, new.object, &self.old);
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let same_min_ready =
            new.object.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0) == min_ready;
        if annotations.is_empty() && same_min_ready {
            return false;
        }
        let spec = json!({ "minReadySeconds": min_ready });
        let patch = json!({ "metadata": { "annotations": annotations }, "spec": spec });
        self.plan.writes.push(Write::patch(&REPLICA_SETS, new.key, &new.object.metadata, None, patch));
        true
    }

    /// Whether `spec.replicas` changed since the ReplicaSets got theirs.
    fn is_scaled(&self) -> bool {
        let scaled = |set: Set<'_>| {
            revision::desired(set.object).is_some_and(|desired| set.wanted > 0 && desired != self.replicas)
        };
        self.all().any(scaled)
    }

    /// Shares a new number of Pods out among the ReplicaSets as they are, without moving Pods between them.
    fn scale(&mut self) {
        let active: Vec<Set<'a>> = self.all().filter(|set| set.wanted > 0).collect();
        let one = match active.as_slice() {
            [] => self.new.or(self.old.last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(one) = one {
            self.scale_to(one, self.replicas);
            return;
        }
        let saturated = self.new.is_some_and(|new| {
            new.wanted == self.replicas
                && revision::desired(new.object) == Some(self.replicas)
                && new.available == self.replicas
        });
        if saturated {
            for old in self.old.clone() {
                self.scale_to(old, 0);
            }
        } else if !self.limits.recreate {
            for (set, size) in proportion::shares(&active, self) {
                self.scale_to(set, size);
            }
        }
    }

    /// Gives a ReplicaSet a number of Pods, and notes for what number of the Deployment's; whether that is news.
    fn scale_to(&mut self, set: Set<'a>, size: i32) -> bool {
        let noted = revision::sizes(self.replicas, self.limits.surge);
        let annotations = set.object.metadata.annotations.as_ref();
        let same = noted.iter().all(|(key, value)| annotations.and_then(|map| map.get(*key)) == Some(value));
        // One that has no Pods and gets none need not know.
        if set.wanted == size && (same || size == 0) {
            return false;
        }
        let patch = json!({ "metadata": { "annotations": noted }, "spec": { "replicas": size } });
        if set.wanted != size {
            self.tell_scaled(set.key, set.wanted, size);
        }
        self.plan.writes.push(Write::patch(&REPLICA_SETS, set.key, &set.object.metadata, None, patch));
        true
    }

    fn tell_scaled(&mut self, set: &ObjectKey, from: i32, to: i32) {
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {} from {from} to {to}", set.name);
        let (key, meta) = (self.claimer.key, self.claimer.meta);
        let notice = Notice::new(&DEPLOYMENTS, key, meta, "ScalingReplicaSet", message);
        self.plan.notices.push(notice.with(&REPLICA_SETS, set));
    }

    /// Makes the new ReplicaSet; whether its name was taken by another's.
    fn make_new(&mut self, snapshot: &Snapshot, size: i32) -> bool {
        let (key, object) = revision::new_set(self, size);
        if snapshot.replica_sets.contains_key(&key) {
            return true;
        }
        if size > 0 {
            self.tell_scaled(&key, 0, size);
        }
        self.plan.writes.push(Write::Create { resource: &REPLICA_SETS, key, object });
        false
    }

    /// Every old Pod ends before a new one begins.
    fn recreate(&mut self, snapshot: &Snapshot, pods: &Index<'_, Pod>) -> bool {
        let mut scaled = false;
        for old in self.old.clone() {
            scaled |= old.wanted > 0 && self.scale_to(old, 0);
        }
        let running = |set: &Set<'_>| pods.of(uid(&set.object.metadata)).iter().any(|(_, pod)| !is_over(pod));
        if scaled || self.old.iter().any(running) {
            return false;
        }
        let Some(new) = self.new else { return self.make_new(snapshot, self.replicas) };
        if !self.scale_to(new, self.replicas) && status::is_complete(self) {
            self.forget_old();
        }
        false
    }

    /// Some new Pods begin, then as many old ones end as the new that are ready allow.
    fn roll(&mut self, snapshot: &Snapshot) -> bool {
        let total: i32 = self.all().map(|set| set.wanted).sum();
        let room = (self.replicas + self.limits.surge - total).max(0);
        let Some(new) = self.new else {
            return self.make_new(snapshot, room.min(self.replicas));
        };
        let size = new.wanted + room.min(self.replicas - new.wanted);
        if self.scale_to(new, size) {
            return false;
        }
        let sizes = self.fewer_old(new, total);
        let mut scaled = false;
        for old in self.old.clone() {
            scaled |= sizes.get(old.key).is_some_and(|size| self.scale_to(old, *size));
        }
        if !scaled && status::is_complete(self) {
            self.forget_old();
        }
        false
    }

    /// The old ReplicaSets that can have fewer Pods, and how many: first Pods that do not serve, then those the new
    /// ones have made up for.
    fn fewer_old(&self, new: Set<'_>, total: i32) -> BTreeMap<ObjectKey, i32> {
        let mut sizes = BTreeMap::new();
        let least = self.replicas - self.limits.unavailable;
        let mut spare = total - least - (new.wanted - new.available);
        if spare <= 0 {
            return sizes;
        }
        for old in self.old.iter().filter(|old| old.wanted > old.available) {
            let fewer = spare.min(old.wanted - old.available);
            spare -= fewer;
            if fewer > 0 {
                sizes.insert(old.key.clone(), old.wanted - fewer);
            }
        }
        let available: i32 = self.all().map(|set| set.available).sum();
        let mut spare = available - least;
        for old in &self.old {
            let wanted = sizes.get(old.key).copied().unwrap_or(old.wanted);
            let fewer = spare.min(wanted);
            if fewer > 0 {
                spare -= fewer;
                sizes.insert(old.key.clone(), wanted - fewer);
            }
        }
        sizes
    }

    /// Deletes the oldest of more empty ReplicaSets than `revisionHistoryLimit`.
    fn forget_old(&mut self) {
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut old: Vec<Set<'a>> = self.old.iter().copied().filter(|set| is_empty(*set)).collect();
        let surplus = self.old.len().saturating_sub(limit);
        old.sort_by_key(|set| revision::of(&set.object.metadata));
        for set in old.into_iter().take(surplus) {
            let doomed = Write::delete(&REPLICA_SETS, set.key, &set.object.metadata);
            self.plan.writes.push(doomed);
        }
    }
}

/// Whether a ReplicaSet has no Pods, wants none, and knows it.
fn is_empty(set: Set<'_>) -> bool {
    let meta = &set.object.metadata;
    let observed = set.object.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    set.wanted == 0
        && set.present == 0
        && meta.deletion_timestamp.is_none()
        && observed >= meta.generation.unwrap_or(0)
}
