//! What a Deployment says of its update: counts, and the conditions that `kubectl rollout status` waits for.
//!
//! Source: kubernetes `pkg/controller/deployment/progress.go`, `sync.go` (`calculateStatus`).

use super::{Rollout, revision};
use crate::{
    claim::Claimer,
    counts::{counted, is_news},
    plan::Write,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use minisvc_apimachinery::resource::DEPLOYMENTS;
use serde_json::{Value, json};

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The counts of a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
    unavailable: i32,
}

impl Counts {
    fn now(rollout: &Rollout<'_>) -> Self {
        let available = rollout.all().map(|set| set.available).sum();
        let wanted: i32 = rollout.all().map(|set| set.wanted).sum();
        Self {
            replicas: rollout.all().map(|set| set.present).sum(),
            updated: rollout.new.map_or(0, |new| new.present),
            ready: rollout.all().map(|set| set.ready).sum(),
            available,
            unavailable: (wanted - available).max(0),
        }
    }

    fn before(rollout: &Rollout<'_>) -> Self {
        let Some(status) = &rollout.deployment.status else { return Self::default() };
        Self {
            replicas: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            unavailable: status.unavailable_replicas.unwrap_or(0),
        }
    }

    fn has_progressed_since(self, before: Self) -> bool {
        self.updated > before.updated
            || self.replicas - self.updated < before.replicas - before.updated
            || self.ready > before.ready
            || self.available > before.available
    }
}

/// Whether every Pod is new and serves.
pub(super) fn is_complete(rollout: &Rollout<'_>) -> bool {
    let counts = Counts::now(rollout);
    [counts.updated, counts.replicas, counts.available] == [rollout.replicas; 3]
}

/// The status and the revision, if they are others than the present ones. `collided`: the name of the new ReplicaSet is
/// another's. `refused`: why it could not be made.
pub(super) fn write(rollout: &Rollout<'_>, collided: bool, refused: Option<&str>) -> Option<Write> {
    let counts = Counts::now(rollout);
    let present = json!(rollout.deployment.status);
    let collisions = rollout.deployment.status.as_ref().and_then(|status| status.collision_count);
    let collisions = if collided { Some(collisions.unwrap_or(0) + 1) } else { collisions };
    let mut conditions =
        Conditions { list: present["conditions"].as_array().cloned().unwrap_or_default(), now: rollout.now };
    conditions.settle(rollout, counts, refused);
    let status = json!({
        "observedGeneration": rollout.claimer.meta.generation,
        "replicas": counted(counts.replicas),
        "updatedReplicas": counted(counts.updated),
        "readyReplicas": counted(counts.ready),
        "availableReplicas": counted(counts.available),
        "unavailableReplicas": counted(counts.unavailable),
        "collisionCount": collisions,
        "conditions": conditions.list,
    });
    let revision = rollout.new.map(|new| revision::of(&new.object.metadata)).filter(|revision| *revision > 0);
    let newer = revision.filter(|revision| revision::of(rollout.claimer.meta) != *revision);
    if newer.is_none() && !is_news(&status, &present) {
        return None;
    }
    let mut patch = json!({ "status": status });
    if let Some(revision) = newer {
        patch["metadata"] = json!({ "annotations": { revision::REVISION: revision.to_string() } });
    }
    let Claimer { key, meta, .. } = rollout.claimer;
    Some(Write::patch(&DEPLOYMENTS, key, meta, Some("status"), patch))
}

struct Conditions {
    list: Vec<Value>,
    now: Timestamp,
}

impl Conditions {
    fn of(&self, kind: &str) -> Option<&Value> {
        self.list.iter().find(|condition| condition["type"] == kind)
    }

    fn reason(&self, kind: &str) -> &str {
        self.of(kind).and_then(|condition| condition["reason"].as_str()).unwrap_or_default()
    }

    /// Sets a condition. One that says the same for the same reason stays as it is, unless it is to be `renewed`.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String, renewed: bool) {
        let now = json!(Time(self.now));
        let old = self.of(kind);
        let same_status = old.filter(|old| old["status"] == status);
        if !renewed && same_status.is_some_and(|old| old["reason"] == reason) {
            return;
        }
        let since = same_status.map_or_else(|| now.clone(), |old| old["lastTransitionTime"].clone());
        let condition = json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastUpdateTime": now, "lastTransitionTime": since,
        });
        match self.list.iter_mut().find(|old| old["type"] == kind) {
            Some(old) => *old = condition,
            None => self.list.push(condition),
        }
    }

    fn settle(&mut self, rollout: &Rollout<'_>, counts: Counts, refused: Option<&str>) {
        if counts.available >= rollout.replicas - rollout.limits.unavailable {
            let message = "Deployment has minimum availability.".to_owned();
            self.set("Available", "True", "MinimumReplicasAvailable", message, false);
        } else {
            let message = "Deployment does not have minimum availability.".to_owned();
            self.set("Available", "False", "MinimumReplicasUnavailable", message, false);
        }
        if rollout.spec.progress_deadline_seconds.is_some() {
            self.progress(rollout, counts, refused);
        }
        self.failure(rollout);
    }

    fn progress(&mut self, rollout: &Rollout<'_>, counts: Counts, refused: Option<&str>) {
        const KIND: &str = "Progressing";
        let what = match rollout.new {
            Some(new) => format!("ReplicaSet {:?}", new.key.name),
            None => format!("Deployment {:?}", rollout.claimer.key.name),
        };
        if rollout.spec.paused == Some(true) {
            if self.reason(KIND) != TIMED_OUT {
                self.set(KIND, "Unknown", PAUSED, "Deployment is paused".to_owned(), false);
            }
            return;
        }
        if self.reason(KIND) == PAUSED {
            self.set(KIND, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), false);
            return;
        }
        if let Some(why) = refused.filter(|_| rollout.new.is_none()) {
            self.set(
                KIND,
                "False",
                "ReplicaSetCreateError",
                format!("Failed to create new replica set: {why}"),
                false,
            );
            return;
        }
        if self.of(KIND).is_none()
            && let Some(new) = rollout.new
        {
            let (reason, message) =
                ("NewReplicaSetCreated", format!("Created new replica set {:?}", new.key.name));
            self.set(KIND, "True", reason, message, false);
        }
        if counts.replicas == counts.updated && self.reason(KIND) == COMPLETE {
            return;
        }
        if is_complete(rollout) {
            self.set(KIND, "True", COMPLETE, format!("{what} has successfully progressed."), false);
        } else if counts.has_progressed_since(Counts::before(rollout)) {
            self.set(KIND, "True", "ReplicaSetUpdated", format!("{what} is progressing."), true);
        } else if self.is_overdue(rollout) {
            self.set(KIND, "False", TIMED_OUT, format!("{what} has timed out progressing."), false);
        }
    }

    fn is_overdue(&self, rollout: &Rollout<'_>) -> bool {
        let Some(condition) = self.of("Progressing") else { return false };
        if self.reason("Progressing") == COMPLETE {
            return false;
        }
        let Some(deadline) = rollout.spec.progress_deadline_seconds else { return false };
        let since = condition["lastUpdateTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        since.is_some_and(|since| self.now.duration_since(since).as_secs() >= i64::from(deadline))
    }

    /// What a ReplicaSet says of Pods it cannot make is the Deployment's trouble too; the new one's first.
    fn failure(&mut self, rollout: &Rollout<'_>) {
        const KIND: &str = "ReplicaFailure";
        let found = rollout.new.iter().chain(&rollout.old).find_map(|set| {
            let conditions = set.object.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_ == KIND)
        });
        match found {
            Some(found) => {
                let (reason, message) = (found.reason.clone(), found.message.clone());
                self.set(
                    KIND,
                    &found.status,
                    &reason.unwrap_or_default(),
                    message.unwrap_or_default(),
                    false,
                );
            }
            None => self.list.retain(|condition| condition["type"] != KIND),
        }
    }
}
