//! Who owns which field: `metadata.managedFields`, and server-side apply
//! (sigs.k8s.io/structured-merge-diff `merge`, k8s.io/apimachinery `util/managedfields`).
//!
//! In: the stored object, the new one or the configuration to apply, and who writes. Out: the object with its entries
//! brought up to date, or the 409 that names each field another manager owns.
//!
//! Invariants: pure; an object that is no object, or entries that cannot be read, are no reason to fail an update, as
//! in Kubernetes; work is linear in the objects and their entries, and an entry that keeps its fields is not written
//! anew.

// A `Status` is large, but made once a request.
#![allow(clippy::result_large_err)]

mod apply;
mod entries;
mod last_applied;
mod merge;
mod path;
mod set;
#[cfg(test)]
mod tests;
mod typed;

pub use apply::{Force, apply};
pub use path::{PathElement, Scalar};
pub use set::Set;

use crate::{
    resource::Resource,
    schema::{self, Shape},
};
use entries::{ENTRIES_MAX, Entries, Identity, Operation};
use serde_json::{Value, json};
use std::sync::OnceLock;
use typed::Typed;

/// Bytes of a manager's name.
pub const MANAGER_BYTES_MAX: usize = 128;
/// The manager of those that have no name.
const UNKNOWN: &str = "unknown";
/// The manager of what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// A write, as far as ownership is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The kind.
    pub resource: &'a Resource,
    /// The subresource, none for the object itself.
    pub subresource: Option<&'a str>,
    /// Who writes; empty: unknown.
    pub manager: &'a str,
    /// When, as RFC 3339.
    pub time: &'a str,
}

impl Write<'_> {
    fn identity(&self, manager: &str, operation: Operation) -> Identity {
        let version = if operation == Operation::Apply { String::new() } else { self.resource.api_version() };
        Identity {
            manager: if manager.is_empty() { UNKNOWN } else { manager }.to_owned(),
            operation,
            version,
            subresource: self.subresource.unwrap_or_default().to_owned(),
        }
    }

    /// The fields that this write leaves as they are, whatever it says of them (`GetResetFields`).
    fn reset(&self) -> Set {
        let paths: &[&[&str]] = match (self.subresource, self.resource.kind) {
            (None | Some("finalize"), _) if self.resource.subresources.contains(&"status") => &[&["status"]],
            (Some("status"), "Pod") => {
                &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
            }
            (Some("status"), "Deployment") => &[&["spec"], &["metadata", "labels"]],
            (Some("status"), _) => &[&["spec"]],
            _ => &[],
        };
        Set::of_fields(paths)
    }
}

/// Fields that nobody owns.
fn stripped() -> &'static Set {
    static STRIPPED: OnceLock<Set> = OnceLock::new();
    STRIPPED.get_or_init(|| Set::of_fields(STRIPPED_FIELDS))
}

const STRIPPED_FIELDS: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// The schema of a kind; without one everything merges by field.
fn shape(resource: &Resource) -> Shape {
    schema::schemas().of(resource).map_or(Shape::Any, Shape::Struct)
}

/// `metadata.managedFields`, if they are there.
fn managed_fields(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/managedFields")
}

fn set_managed_fields(object: &mut Value, entries: Entries) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match entries.encode() {
        Some(list) => metadata.insert("managedFields".to_owned(), list),
        None => metadata.remove("managedFields"),
    };
}

/// Takes `metadata.managedFields` out of an object.
pub fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// An object of a kind with nothing in it: what a new one is compared with.
fn nothing(resource: &Resource) -> Value {
    let mut object = json!({"metadata": {}});
    let shape = shape(resource);
    let root = Typed::root(schema::schemas(), &shape);
    for field in ["spec", "status"].into_iter().filter(|field| root.has_field(field)) {
        object[field] = json!({});
    }
    object
}

/// Brings `metadata.managedFields` of a new version up to date after a create, an update or a patch.
///
/// `sent` are the `managedFields` of the request's object: a valid list replaces the stored one first, an empty one
/// forgets it, and anything else is as if it had not been sent. `old` is the stored object, none for a create; one
/// whose fields have no owners stays so.
pub fn update(write: &Write<'_>, old: Option<&Value>, new: &mut Value, sent: Option<&Value>) {
    take(new);
    let stored = || Entries::decode(old.and_then(managed_fields)).unwrap_or_default();
    let sent = sent.filter(|_| write.subresource.is_none() || old.is_none());
    let mut entries = match sent {
        None | Some(Value::Null) => stored(),
        Some(list) if is_reset(list) => Entries::default(),
        Some(list) => Entries::decode(Some(list))
            .ok()
            .filter(|list| (1..=ENTRIES_MAX).contains(&list.0.len()))
            .unwrap_or_else(stored),
    };
    if entries.0.is_empty() && old.is_some() {
        return;
    }
    let empty;
    let live = match old {
        Some(old) => old,
        None => {
            empty = nothing(write.resource);
            &empty
        }
    };
    record(write, live, new, &mut entries, write.manager);
    entries.cap();
    set_managed_fields(new, entries);
}

/// Whether a list says that nobody owns anything any more.
fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(one)]) => one.is_empty(),
        _ => false,
    }
}

/// Gives the fields that a new version changes to a manager, and takes them from all others.
fn record(write: &Write<'_>, live: &Value, new: &Value, entries: &mut Entries, manager: &str) {
    let shape = shape(write.resource);
    let (removed, taken) = changes(write, Typed::root(schema::schemas(), &shape), live, new);
    let identity = write.identity(manager, Operation::Update);
    lose(write, entries, &removed, &taken, &identity);
    if let Some(entry) = entries.get_mut(&identity) {
        let left = entry.set.clone().difference(&removed);
        entry.replace(left);
    }
    let own = taken.difference(stripped());
    if !own.is_empty() {
        let entry = entries.entry(&identity, &write.resource.api_version());
        entry.add(own);
        entry.time = Some(write.time.into());
    }
}

/// What a new version has not any more, and what it has otherwise or in addition.
fn changes(write: &Write<'_>, typed: Typed<'_>, live: &Value, new: &Value) -> (Set, Set) {
    let difference = typed.compare(Some(live), Some(new));
    let reset = write.reset();
    let of = |set: Set| {
        let mut set = set.without(&reset);
        // The sections of an object are always there, in Go's types.
        set.disown_fields_with_children(&["metadata", "spec", "status"]);
        set
    };
    let taken = difference.modified.children.union(difference.added.children);
    (of(difference.removed.children), of(taken))
}

/// Takes fields from every manager but one.
fn lose(write: &Write<'_>, entries: &mut Entries, removed: &Set, taken: &Set, but: &Identity) {
    let api_version = write.resource.api_version();
    for entry in &mut entries.0 {
        if entry.identity != *but && entry.api_version == api_version {
            let left = entry.set.clone().difference(removed).difference(taken);
            entry.replace(left);
        }
    }
}
