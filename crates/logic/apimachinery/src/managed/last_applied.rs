//! The way from client-side to server-side apply: the annotation in which `kubectl apply` keeps what it sent.
//!
//! Only the manager `kubectl` takes it, as in Kubernetes: its first server-side apply may take over what its
//! client-side applies set, and later ones keep the annotation up to date, so that one can go back.

use super::{Write, apply::Conflict, set::Set, shape, typed::Typed};
use crate::schema;
use serde_json::Value;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "kubectl";
/// Bytes of all annotations of an object.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

fn annotation(object: &Value) -> Option<&str> {
    let text = object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The conflicts that remain when the fields that were last applied by the client are the manager's own.
pub(super) fn remaining(write: &Write<'_>, live: &Value, conflicts: Vec<Conflict>) -> Vec<Conflict> {
    if write.manager != MANAGER {
        return conflicts;
    }
    let Some(own) = own(write, live) else { return conflicts };
    conflicts.into_iter().filter(|conflict| !own.has(&conflict.path)).collect()
}

/// The fields that were last applied by the client and are still as they were then.
fn own(write: &Write<'_>, live: &Value) -> Option<Set> {
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last.get("apiVersion").and_then(Value::as_str) != Some(write.resource.api_version().as_str()) {
        return None;
    }
    let shape = shape(write.resource);
    let typed = Typed::root(schema::schemas(), &shape);
    let difference = typed.compare(Some(&last), Some(live));
    let own = typed.fields(&last).children.difference(&difference.modified.children);
    Some(own.difference(&difference.added.children).difference(&difference.removed.children))
}

/// Sets the annotation, where there is one, to what was applied now.
pub(super) fn keep_up(write: &Write<'_>, object: &mut Value, patch: &Value) {
    if write.manager != MANAGER || annotation(object).is_none() {
        return;
    }
    let mut applied = patch.clone();
    if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    let annotations = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    let Some(annotations) = annotations.and_then(Value::as_object_mut) else { return };
    annotations.insert(ANNOTATION.to_owned(), format!("{applied}\n").into());
    let bytes: usize =
        annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        annotations.remove(ANNOTATION);
    }
}
