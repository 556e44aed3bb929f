//! v1 Namespace: stays until its contents are gone and `spec.finalizers` is empty.
//!
//! Source: kubernetes `pkg/registry/core/namespace`, admission `NamespaceLifecycle`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, items, keep, object_mut, set, text},
};
use k8s_openapi::api::core::v1::Namespace;
use minisvc_apimachinery::{Cause, storage::Read};
use serde_json::{Value, json};

const IMMORTAL: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(crate) struct Namespaces;

impl Strategy for Namespaces {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Namespace>(object)
    }

    fn check_name(&self, name: &str) -> syntax::Faults {
        syntax::label(name)
    }

    fn default(&self, object: &mut Value) {
        let name = text(object, "/metadata/name").to_owned();
        if let Some(metadata) = object.get_mut("metadata")
            && let Some(labels) = object_mut(metadata, "labels")
        {
            labels.insert(NAME_LABEL.to_owned(), json!(name));
        }
        if text(object, "/status/phase").is_empty() {
            set(object, "status", "phase", "Active");
        }
    }

    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        let mut finalizers = items(object, "/spec/finalizers").to_vec();
        if !finalizers.contains(&json!("kubernetes")) {
            finalizers.push(json!("kubernetes"));
        }
        set(object, "spec", "finalizers", finalizers);
        if let Some(map) = object.as_object_mut() {
            map.insert("status".to_owned(), json!({"phase": "Active"}));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _subject: &Subject<'_>) {
        keep(new, old, "status");
        keep(new, old, "spec");
    }

    fn subresource(&self, name: &str, sent: &Value, old: &Value) -> Option<Value> {
        let section = match name {
            "status" => "status",
            "finalize" => "spec",
            _ => return None,
        };
        let mut new = old.clone();
        keep(&mut new, sent, section);
        keep(&mut new, sent, "metadata");
        Some(new)
    }

    fn validate_subresource(&self, name: &str, new: &Value, _old: &Value) -> Vec<Cause> {
        let phase = text(new, "/status/phase");
        let (expected, words) = if at(new, "/metadata/deletionTimestamp").is_none() {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        } else {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        };
        if name == "status" && phase != expected {
            return vec![Cause::invalid("status.phase", phase, words)];
        }
        Vec::new()
    }

    fn undeletable(&self, _object: &Value, _view: &dyn Read, subject: &Subject<'_>) -> Option<String> {
        let immortal = IMMORTAL.contains(&subject.key.name.as_str());
        immortal.then(|| "this namespace may not be deleted".to_owned())
    }

    fn mark_terminating(&self, object: &mut Value) {
        set(object, "status", "phase", "Terminating");
    }

    fn is_held_back(&self, object: &Value) -> bool {
        !items(object, "/spec/finalizers").is_empty()
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("Status", "string"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(object), json!(text(object, "/status/phase")), age(object, now)]
    }
}
