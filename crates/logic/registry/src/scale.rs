//! The subresource `scale`: a workload seen as autoscaling/v1 Scale, a number of replicas and nothing else.
//!
//! Source: kubernetes `pkg/registry/apps/deployment/storage`, `pkg/apis/autoscaling/validation`.
//!
//! Invariant: what is written through it is `spec.replicas`; the workload keeps everything else.

use crate::{
    Context, Outcome, Status,
    kinds::workload::selector_text,
    owners::Tracking,
    update::replace,
    value::{int, parse, set, text},
};
use minisvc_apimachinery::{
    Cause, ObjectKey, Resource,
    managed::{self, Force, Write},
    resource::SCALE,
    sent,
    storage::Read,
};
use serde_json::{Value, json};

/// The Scale of a workload.
pub fn scale(object: &Value) -> Value {
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            meta[field] = value.clone();
        }
    }
    json!({
        "kind": SCALE.kind, "apiVersion": SCALE.api_version(), "metadata": meta,
        "spec": {"replicas": int(object, "/spec/replicas").unwrap_or(0)},
        "status": {
            "replicas": int(object, "/status/replicas").unwrap_or(0),
            "selector": selector_text(object),
        },
    })
}

/// The workload, if its kind can be scaled.
fn find(view: &dyn Read, r: &'static Resource, key: &ObjectKey) -> Result<Value, Status> {
    if !r.subresources.contains(&"scale") {
        return Err(Status::no_such_path());
    }
    view.get(&r.storage_key(key)).map(|stored| parse(&stored)).ok_or_else(|| Status::not_found(r, &key.name))
}

/// Writes what a function makes of a workload's Scale.
///
/// # Errors
/// 400 for what is no Scale of this workload, 404 without the workload, 409 if it has changed since the
/// `resourceVersion` sent, 422 for a number that is none.
pub(crate) fn write(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    key: &ObjectKey,
    make: &dyn Fn(&Value) -> Result<Value, Status>,
) -> Result<Outcome, Status> {
    let old = find(view, r, key)?;
    let sent = make(&scale(&old))?;
    check(&sent, key)?;
    let mut new = old.clone();
    for field in ["uid", "resourceVersion"] {
        let given = text(&sent, &format!("/metadata/{field}"));
        if !given.is_empty() {
            set(&mut new, "metadata", field, given);
        }
    }
    set(&mut new, "spec", "replicas", int(&sent, "/spec/replicas").unwrap_or(0));
    replace(ctx, view, r, key, old, new, Some("scale"), Tracking::Update).map(told_as_scale)
}

/// Applies a Scale: the replicas become the manager's, and another's only by force.
pub(crate) fn apply(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    key: &ObjectKey,
    patch: &Value,
    force: Force,
) -> Result<Outcome, Status> {
    let old = find(view, r, key)?;
    check(patch, key)?;
    let mut said = json!({
        "apiVersion": r.api_version(), "kind": r.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
    });
    if let Some(replicas) = int(patch, "/spec/replicas") {
        said["spec"] = json!({"replicas": replicas});
    }
    let now = crate::value::time(ctx.now);
    let time = now.as_str().unwrap_or_default();
    let write = Write { resource: r, subresource: Some("scale"), manager: ctx.manager, time };
    let mut new = managed::apply(&write, Some(&old), &said, force)?;
    if int(&new, "/spec/replicas").is_none() {
        // Nobody says a number any more: it stays.
        set(&mut new, "spec", "replicas", int(&old, "/spec/replicas").unwrap_or(0));
    }
    replace(ctx, view, r, key, old, new, Some("scale"), Tracking::Applied).map(told_as_scale)
}

fn check(scale: &Value, key: &ObjectKey) -> Result<(), Status> {
    let (version, kind) = (SCALE.api_version(), SCALE.kind);
    if (text(scale, "/apiVersion"), text(scale, "/kind")) != (version.as_str(), kind) {
        let words = format!("the body of the request must be a {kind} of {version}");
        return Err(Status::bad_request(words));
    }
    let (name, namespace) = (text(scale, "/metadata/name"), text(scale, "/metadata/namespace"));
    if !name.is_empty() {
        sent::check_name(name, &key.name)?;
    }
    if !["", key.namespace.as_str()].contains(&namespace) {
        return Err(sent::other_namespace());
    }
    match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => Ok(()),
        Some(replicas) if replicas.as_i64().is_some_and(|n| (0..=i64::from(i32::MAX)).contains(&n)) => Ok(()),
        Some(replicas) => {
            let cause =
                Cause::invalid("spec.replicas", replicas.clone(), "must be greater than or equal to 0");
            Err(Status::invalid(&SCALE, &key.name, vec![cause]))
        }
    }
}

fn told_as_scale(outcome: Outcome) -> Outcome {
    Outcome { object: scale(&outcome.object), ..outcome }
}
