//! What holds for `metadata` of every kind.
//!
//! Source: k8s.io/apimachinery `pkg/api/validation/objectmeta.go`, k8s.io/apiserver `registry/rest`.

use crate::{
    Status,
    strategy::Strategy,
    syntax,
    value::{at, items, object_mut, parse, set, strings, text, unset},
};
use minisvc_apimachinery::{Cause, ObjectKey, Resource, convert, resource::NAMESPACES, sent, storage::Read};
use serde_json::Value;
use std::collections::BTreeSet;

const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
const OWNERS_MAX: usize = 64;

/// An object that was sent, as it is stored; with `apiVersion` and `kind` if they were left out.
pub(crate) fn as_stored(r: &Resource, mut object: Value) -> Result<Value, Status> {
    sent::check_kind(r, &mut object)?;
    Ok(convert::to_stored(r, object))
}

/// Checks that an object in its stored form has the types of its kind.
pub(crate) fn check_types(r: &Resource, strategy: &dyn Strategy, object: &mut Value) -> Result<(), Status> {
    strategy.check_types(object).map_err(|why| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            r.kind, r.version, r.kind
        ))
    })?;
    object_mut(object, "metadata");
    Ok(())
}

/// Makes the namespace of the object that of the request, or says why they do not fit.
pub(crate) fn settle_namespace(
    r: &Resource,
    requested: Option<&str>,
    object: &mut Value,
) -> Result<String, Status> {
    if !r.namespaced {
        unset(object, "metadata", "namespace");
        return Ok(String::new());
    }
    let given = text(object, "/metadata/namespace").to_owned();
    let namespace = match requested {
        Some(requested) if given.is_empty() || given == requested => requested.to_owned(),
        None if !given.is_empty() => given,
        None => return Err(Status::bad_request("an empty namespace may not be set during creation")),
        Some(_) => return Err(sent::other_namespace()),
    };
    set(object, "metadata", "namespace", namespace.as_str());
    Ok(namespace)
}

/// A new object needs a namespace that is there and stays.
pub(crate) fn check_namespace(
    view: &dyn Read,
    r: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    if !r.namespaced {
        return Ok(());
    }
    let stored = view
        .get(&NAMESPACES.storage_key(&ObjectKey::cluster(namespace)))
        .ok_or_else(|| Status::not_found(&NAMESPACES, namespace))?;
    let object = parse(&stored);
    if at(&object, "/metadata/deletionTimestamp").is_some() || text(&object, "/status/phase") == "Terminating"
    {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(Status::forbidden(r, name, &why));
    }
    Ok(())
}

/// Removes what nobody says any more.
pub(crate) fn drop_server_fields(object: &mut Value) {
    unset(object, "metadata", "selfLink");
}

/// Takes over what an update may not change.
pub(crate) fn carry_over(new: &mut Value, old: &Value) {
    drop_server_fields(new);
    for field in [
        "name",
        "namespace",
        "uid",
        "generation",
        "generateName",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
    ] {
        match at(old, &format!("/metadata/{field}")) {
            Some(value) => set(new, "metadata", field, value.clone()),
            None => {
                unset(new, "metadata", field);
            }
        }
    }
    if at(new, "/metadata/creationTimestamp").is_none()
        && let Some(time) = at(old, "/metadata/creationTimestamp")
    {
        set(new, "metadata", "creationTimestamp", time.clone());
    }
}

/// Faults of the metadata by itself; the name by the rule of the kind.
pub(crate) fn validate(object: &Value, strategy: &dyn Strategy) -> Vec<Cause> {
    let mut causes = Vec::new();
    let generate = text(object, "/metadata/generateName");
    let name = text(object, "/metadata/name");
    if !generate.is_empty() {
        let stem = generate.strip_suffix('-').unwrap_or(generate);
        for fault in strategy.check_name(stem) {
            causes.push(Cause::invalid("metadata.generateName", generate, &fault));
        }
    }
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else {
        for fault in strategy.check_name(name) {
            causes.push(Cause::invalid("metadata.name", name, &fault));
        }
    }
    labels(object, "/metadata/labels", "metadata.labels", &mut causes);
    annotations(object, &mut causes);
    finalizers(object, &mut causes);
    owners(object, &mut causes);
    causes
}

/// Faults of a map of labels.
pub(crate) fn labels(object: &Value, pointer: &str, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in strings(object, pointer) {
        for fault in syntax::qualified_name(key) {
            causes.push(Cause::invalid(field, key, &fault));
        }
        for fault in syntax::label_value(value) {
            causes.push(Cause::invalid(field, value, &fault));
        }
    }
}

fn annotations(object: &Value, causes: &mut Vec<Cause>) {
    let mut bytes = 0;
    for (key, value) in strings(object, "/metadata/annotations") {
        for fault in syntax::qualified_name(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", key, &fault));
        }
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX));
    }
}

fn finalizers(object: &Value, causes: &mut Vec<Cause>) {
    for finalizer in items(object, "/metadata/finalizers") {
        let name = finalizer.as_str().unwrap_or_default();
        for fault in syntax::qualified_name(name) {
            causes.push(Cause::invalid("metadata.finalizers", name, &fault));
        }
        let standard = ["orphan", "foregroundDeletion", "kubernetes"].contains(&name);
        if !standard && !name.contains('/') {
            let words = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid("metadata.finalizers", name, words));
        }
    }
}

fn owners(object: &Value, causes: &mut Vec<Cause>) {
    let owners = items(object, "/metadata/ownerReferences");
    if owners.len() > OWNERS_MAX {
        causes.push(Cause::too_many("metadata.ownerReferences", owners.len(), OWNERS_MAX));
    }
    let mut controllers = 0;
    for (i, owner) in owners.iter().enumerate().take(OWNERS_MAX) {
        for (field, words) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, &format!("/{field}")).is_empty() {
                causes.push(Cause::invalid(format!("metadata.ownerReferences[{i}].{field}"), "", words));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        let words = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", Value::Array(owners.to_vec()), words));
    }
}

/// Faults of a change of metadata.
pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let time = "/metadata/creationTimestamp";
    if at(old, time).is_some() && at(new, time) != at(old, time) {
        let given = at(new, time).cloned().unwrap_or(Value::Null);
        causes.push(Cause::invalid("metadata.creationTimestamp", given, "field is immutable"));
    }
    if at(old, "/metadata/deletionTimestamp").is_some() {
        let before: BTreeSet<_> =
            items(old, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
        let added: Vec<_> = items(new, "/metadata/finalizers")
            .iter()
            .filter_map(Value::as_str)
            .filter(|finalizer| !before.contains(finalizer))
            .collect();
        if !added.is_empty() {
            let words = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            causes.push(Cause::forbidden("metadata.finalizers", &words));
        }
    }
    causes
}
