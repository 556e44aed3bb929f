//! ReplicaSets: as many Pods as they say.
//!
//! Source: kubernetes `pkg/controller/replicaset`. Invariants: while a write for a ReplicaSet does not show in the
//! snapshot nothing more is planned for it; a new Pod's name follows from the ReplicaSet's version and a number, so a
//! plan made twice on the same version names the same Pods and the second create fails. Pods that failed stay to be
//! looked at, the newest [`failed::KEPT_MAX`]; the more of them, the later comes the next: a node that rejects what it is
//! given must not make Pods without end.

mod failed;
mod rank;
mod status;
#[cfg(test)]
mod tests;

use crate::{
    claim::{Claimer, Index, Plans, Standing, controller},
    objects::{hash, is_over, uid},
    plan::{Notice, Plan, Write},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, PodTemplateSpec},
};
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    letters::letters,
    resource::{PODS, REPLICA_SETS},
    selector::LabelSelector,
};
use serde_json::{Value, json};

pub use status::is_available;

/// Most Pods that are made or deleted for one ReplicaSet at a time.
const BURST: usize = 500;
/// Bytes of a ReplicaSet's name that its Pods' names begin with, as generated names do.
const STEM_BYTES_MAX: usize = 58;

/// Plans the Pods and the status of every ReplicaSet that has no writes under way.
pub fn plan(snapshot: &Snapshot, standing: &Standing, now: Timestamp) -> Plans {
    if snapshot.replica_sets.is_empty() {
        return Plans::new();
    }
    let pods = Index::new(&snapshot.pods);
    let sets = snapshot.replica_sets.iter().filter(|(key, _)| !standing.open.contains(*key));
    sets.map(|(key, set)| {
        let refused = standing.refused.get(key).map(String::as_str);
        (key.clone(), plan_one(snapshot, &pods, key, set, refused, now))
    })
    .collect()
}

/// A Pod that a ReplicaSet counts.
fn counts(pod: &Pod) -> bool {
    !is_over(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn plan_one(
    snapshot: &Snapshot,
    pods: &Index<'_, Pod>,
    key: &ObjectKey,
    set: &ReplicaSet,
    refused: Option<&str>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let Ok(selector) = LabelSelector::from_selector(&spec.selector) else { return plan };
    if selector.is_empty() {
        return plan;
    }
    let claimer = Claimer { resource: &REPLICA_SETS, key, meta: &set.metadata, selector: &selector };
    let (mine, claims) = claimer.claim(pods, &PODS, counts);
    plan.writes = claims;
    let failed = failed::of(pods, set);
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_none() && plan.writes.is_empty() {
        if let Some(missing) = wanted.checked_sub(mine.len()).filter(|missing| *missing > 0) {
            // After a refusal one Pod at a time, until one is taken.
            let count = if refused.is_some() { 1 } else { missing.min(BURST) };
            let count = if failed::must_wait(&failed, now) { 0 } else { count };
            make(snapshot, &claimer, spec.template.as_ref(), count, &mut plan);
        } else if mine.len() > wanted {
            let relatives = relatives(snapshot, pods, set);
            let doomed = rank::least_useful(&mine, &relatives, mine.len() - wanted);
            doomed.into_iter().take(BURST).for_each(|(pod, object)| remove(&claimer, pod, object, &mut plan));
        }
        for (pod, object) in failed.iter().skip(failed::KEPT_MAX).take(BURST) {
            plan.writes.push(Write::delete(&PODS, pod, &object.metadata));
        }
    }
    plan.writes.extend(status::write(key, set, &mine, wanted, refused, now));
    plan
}

fn make(
    snapshot: &Snapshot,
    claimer: &Claimer<'_>,
    template: Option<&PodTemplateSpec>,
    count: usize,
    plan: &mut Plan,
) {
    let Some(template) = template else { return };
    let (namespace, set) = (&claimer.key.namespace, &claimer.key.name);
    let stem = set.get(..STEM_BYTES_MAX).unwrap_or(set).trim_end_matches(['-', '.']);
    let version = claimer.meta.resource_version.as_deref().unwrap_or_default();
    let names = (0_usize..).map(|number| {
        let seed = hash(&[uid(claimer.meta), version, &number.to_string()]);
        ObjectKey::new(namespace.as_str(), format!("{stem}-{}", letters(seed, 5)))
    });
    let mut taken = std::collections::BTreeSet::new();
    let free = names.filter(|key| !snapshot.pods.contains_key(key) && taken.insert(key.clone()));
    for key in free.take(count) {
        let object = pod(claimer, template, &key.name);
        notice(claimer, "SuccessfulCreate", format!("Created pod: {}", key.name), &key, plan);
        plan.writes.push(Write::Create { resource: &PODS, key, object });
    }
}

fn pod(claimer: &Claimer<'_>, template: &PodTemplateSpec, name: &str) -> Value {
    let given = template.metadata.clone().unwrap_or_default();
    let mut meta = json!({
        "name": name, "namespace": claimer.key.namespace, "generateName": format!("{}-", claimer.key.name),
        "ownerReferences": [claimer.reference()],
    });
    for (field, value) in [
        ("labels", json!(given.labels)),
        ("annotations", json!(given.annotations)),
        ("finalizers", json!(given.finalizers)),
    ] {
        if !value.is_null() {
            meta[field] = value;
        }
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template.spec })
}

fn remove(claimer: &Claimer<'_>, key: &ObjectKey, pod: &Pod, plan: &mut Plan) {
    notice(claimer, "SuccessfulDelete", format!("Deleted pod: {}", key.name), key, plan);
    plan.writes.push(Write::delete(&PODS, key, &pod.metadata));
}

fn notice(claimer: &Claimer<'_>, reason: &'static str, message: String, pod: &ObjectKey, plan: &mut Plan) {
    let notice = Notice::new(claimer.resource, claimer.key, claimer.meta, reason, message);
    plan.notices.push(notice.with(&PODS, pod));
}

/// The Pods of every ReplicaSet of the same owner: of an update under way, the old and the new.
fn relatives<'a>(snapshot: &'a Snapshot, pods: &Index<'a, Pod>, set: &ReplicaSet) -> Vec<&'a Pod> {
    let Some(owner) = controller(&set.metadata) else {
        return pods.of(uid(&set.metadata)).iter().map(|(_, pod)| *pod).filter(|pod| counts(pod)).collect();
    };
    let same = |set: &ReplicaSet| controller(&set.metadata).is_some_and(|other| other.uid == owner.uid);
    let sets = snapshot.replica_sets.values().filter(|set| same(set));
    sets.flat_map(|set| pods.of(uid(&set.metadata))).map(|(_, pod)| *pod).filter(|pod| counts(pod)).collect()
}
