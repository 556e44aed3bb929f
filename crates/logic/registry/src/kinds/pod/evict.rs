//! Eviction of a Pod. Source: kubernetes `pkg/registry/core/pod/storage/eviction.go`.
//!
//! Invariant: there are no PodDisruptionBudgets here, so an eviction is a delete with the options it carries.

use crate::{Context, DeleteOptions, Outcome, Status, delete, value::text};
use minisvc_apimachinery::{ObjectKey, resource::PODS, storage::Read};
use serde_json::Value;

/// Evicts a Pod: a create of `pods/NAME/eviction`. The answer is a `Status`.
///
/// # Errors
/// 400 for what is no Eviction of this Pod, and as [`delete`].
pub fn evict(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    key: &ObjectKey,
    eviction: &Value,
) -> Result<Outcome, Status> {
    let (version, kind) = (text(eviction, "/apiVersion"), text(eviction, "/kind"));
    if (version, kind) != ("policy/v1", "Eviction") {
        let given = format!("no kind {kind:?} is registered for version {version:?} of this subresource");
        return Err(Status::bad_request(format!("{given}: must be Eviction of policy/v1")));
    }
    if text(eviction, "/metadata/name") != key.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let namespace = text(eviction, "/metadata/namespace");
    if !["", key.namespace.as_str()].contains(&namespace) {
        return Err(Status::bad_request("namespace in URL does not match namespace in Eviction object"));
    }
    let options = eviction.get("deleteOptions").unwrap_or(&Value::Null);
    let options = DeleteOptions::from_value(options)
        .map_err(|why| Status::bad_request(format!("deleteOptions.{why}")))?;
    Ok(delete(ctx, view, &PODS, key, &options)?.told_by_status())
}
