//! The ReplicaSet of a template: its name, its revision, its annotations.
//!
//! Source: kubernetes `pkg/controller/deployment/util/deployment_util.go`.

use super::{Rollout, Set};
use crate::objects::hash;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use minisvc_apimachinery::{ObjectKey, letters::ALPHABET};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The label that tells the Pods of one template from those of another.
pub(super) const HASH: &str = "pod-template-hash";
/// Which version of a Deployment this is.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The revisions a ReplicaSet had before it was taken up again.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Most bytes of a history.
const HISTORY_BYTES_MAX: usize = 2000;
/// Annotations of a Deployment that are its own.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The revision in the annotations; 0 without one.
pub(super) fn of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// For which number of Pods of the Deployment a ReplicaSet got its own.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, DESIRED)?.parse().ok()
}

/// The most Pods the Deployment could have then.
pub(super) fn max(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, MAX)?.parse().ok()
}

/// The annotations that note both.
pub(super) fn sizes(replicas: i32, surge: i32) -> BTreeMap<&'static str, String> {
    [(DESIRED, replicas.to_string()), (MAX, (replicas.saturating_add(surge)).to_string())].into()
}

/// Whether a ReplicaSet is the one of this template.
pub(super) fn is_of(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    let bare = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        meta.labels.get_or_insert_default().remove(HASH);
        (meta.labels, meta.annotations.unwrap_or_default(), meta.finalizers.unwrap_or_default())
    };
    own.spec == template.spec && bare(own) == bare(template)
}

/// The hash of a template, written as Kubernetes writes it. `collisions`: how often a name was another's already.
fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let text = json!(template).to_string();
    let number = hash(&[&text, &collisions.to_string()]);
    let folded = (number ^ (number >> 32)) & 0xffff_ffff;
    let letter = |digit: u8| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]);
    folded.to_string().bytes().map(letter).collect()
}

/// What the Deployment hands on to its new ReplicaSet and that has not got it yet; with the next revision, if another
/// has a later one.
pub(super) fn annotations(
    deployment: &Deployment,
    set: &ReplicaSet,
    old: &[Set<'_>],
) -> BTreeMap<String, String> {
    let mut wanted = copied(deployment);
    let (own, next) = (of(&set.metadata), next(old));
    if own < next {
        wanted.insert(REVISION.to_owned(), next.to_string());
        if own > 0 {
            let mut history = annotation(&set.metadata, HISTORY).unwrap_or_default().to_owned();
            while history.len() > HISTORY_BYTES_MAX {
                history = history.split_once(',').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
            }
            let separator = if history.is_empty() { "" } else { "," };
            wanted.insert(HISTORY.to_owned(), format!("{history}{separator}{own}"));
        }
    }
    wanted.retain(|name, value| annotation(&set.metadata, name) != Some(value));
    wanted
}

fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
    annotations
}

fn next(old: &[Set<'_>]) -> i64 {
    old.iter().map(|set| of(&set.object.metadata)).max().unwrap_or(0) + 1
}

/// The new ReplicaSet, to begin with so many Pods.
pub(super) fn new_set(rollout: &Rollout<'_>, size: i32) -> (ObjectKey, Value) {
    let spec = rollout.spec;
    let collisions =
        rollout.deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let owner = rollout.claimer.key;
    let key = ObjectKey::new(owner.namespace.as_str(), format!("{}-{hash}", owner.name));
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash);
    let mut annotations = copied(rollout.deployment);
    annotations.insert(REVISION.to_owned(), next(&rollout.old).to_string());
    let sizes = sizes(rollout.replicas, rollout.limits.surge);
    annotations.extend(sizes.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": key.name, "namespace": key.namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": [rollout.claimer.reference()],
        },
        "spec": {
            "replicas": size, "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
            "selector": selector, "template": template,
        },
    });
    (key, object)
}
