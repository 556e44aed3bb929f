//! Who owns which field of an object: `metadata.managedFields` kept up to date by every write, and server-side apply.
//!
//! Invariants: fields that the server fills in by itself after validation (addresses, ports) have no owner; a write that
//! would change nothing but the times of entries changes nothing.

use crate::{
    Context, Outcome, Status,
    context::Subject,
    create::create_tracked,
    meta, scale,
    update::replace_patched,
    value::{parse, set, text, time},
};
use minisvc_apimachinery::{
    ObjectKey, Resource, convert,
    managed::{self, Force, Write},
    sent,
    storage::Read,
};
use serde_json::Value;

/// What becomes of the owners with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// The manager of the request gets what it changes.
    Update,
    /// An apply has settled them: the object sent has them.
    Applied,
}

/// Brings the owners of a new version up to date. `sent`: `metadata.managedFields` of what was sent.
pub(crate) fn track(
    ctx: &Context<'_>,
    subject: &Subject<'_>,
    subresource: Option<&str>,
    old: Option<&Value>,
    new: &mut Value,
    sent: Option<Value>,
    tracking: Tracking,
) {
    match (tracking, sent) {
        (Tracking::Applied, Some(entries)) => set(new, "metadata", "managedFields", entries),
        (Tracking::Applied, None) => {
            managed::take(new);
        }
        (Tracking::Update, sent) => {
            let now = time(ctx.now);
            let write = Write {
                resource: subject.resource,
                subresource,
                manager: ctx.manager,
                time: now.as_str().unwrap_or_default(),
            };
            managed::update(&write, old, new, sent.as_ref());
        }
    }
}

/// Whether two versions are alike but for when their fields were last managed.
pub(crate) fn same_but_for_times(new: &Value, old: &Value) -> bool {
    if new == old {
        return true;
    }
    let entries = |object: &Value| object.pointer("/metadata/managedFields").cloned();
    let (mut new_entries, mut old_entries) = (entries(new), entries(old));
    if new_entries == old_entries {
        return false;
    }
    for list in [&mut new_entries, &mut old_entries] {
        for entry in list.iter_mut().filter_map(Value::as_array_mut).flatten() {
            entry.as_object_mut().map(|entry| entry.remove("time"));
        }
    }
    let rest = |object: &Value| {
        let mut object = object.clone();
        managed::take(&mut object);
        object
    };
    new_entries == old_entries && rest(new) == rest(old)
}

/// Applies a configuration to an object, or to its `status`: what it names is merged in, what its manager named
/// before and does not name any more goes, unless somebody else owns it. An object that is not there is made.
///
/// # Errors
/// 400 for what is no configuration of this kind, 404 for a subresource of what is not there, 409 naming each field
/// that another manager owns; and those of [`crate::create`] and [`crate::update`].
pub fn apply(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    key: &ObjectKey,
    patch: &Value,
    force: Force,
    subresource: Option<&str>,
) -> Result<Outcome, Status> {
    if subresource == Some("scale") {
        return scale::apply(ctx, view, r, key, patch, force);
    }
    let now = time(ctx.now);
    let write =
        Write { resource: r, subresource, manager: ctx.manager, time: now.as_str().unwrap_or_default() };
    if let Some(stored) = view.get(&r.storage_key(key)) {
        let old = parse(&stored);
        let object = managed::apply(&write, Some(&convert::served(r, &old)), patch, force)?;
        let object = meta::as_stored(r, object)?;
        let tracking = Tracking::Applied;
        return Ok(replace_patched(ctx, view, r, key, old, object, subresource, tracking)?.served_as(r));
    }
    if subresource.is_some() {
        return Err(Status::not_found(r.stored(), &key.name));
    }
    let object = managed::apply(&write, None, patch, force)?;
    sent::check_name(text(&object, "/metadata/name"), &key.name)?;
    let uid = text(&object, "/metadata/uid");
    if !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(Status::conflict(r, &key.name, &why));
    }
    let namespace = r.namespaced.then_some(key.namespace.as_str());
    let object = meta::as_stored(r, object)?;
    Ok(create_tracked(ctx, view, r, namespace, object, Tracking::Applied)?.served_as(r))
}
