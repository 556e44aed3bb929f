//! Update and patch: a new version of an object, or of one of its subresources.

use crate::{
    Context, Outcome, Status,
    context::Subject,
    create::create_tracked,
    delete::remove,
    kinds, meta,
    owners::{Tracking, same_but_for_times, track},
    scale,
    strategy::Strategy,
    value::{at, int, items, parse, set, text},
};
use minisvc_apimachinery::{Cause, ObjectKey, Resource, convert, managed, sent, storage::Read};
use serde_json::Value;

/// Replaces an object, or its subresource (`status`, `scale`, `finalize`).
///
/// An object that is not there is made where Kubernetes does so (Services, Leases, Events, …). An update that changes nothing
/// answers with what is stored and has no changes.
///
/// # Errors
/// 400 for what is no object of this kind or has another name than the path, 404 if it is not there, 409 if it has
/// changed since the `resourceVersion` sent or has another uid, 422 naming every faulty field.
pub fn update(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    key: &ObjectKey,
    object: Value,
    subresource: Option<&str>,
) -> Result<Outcome, Status> {
    if subresource == Some("scale") {
        return scale::write(ctx, view, r, key, &|_| Ok(object.clone()));
    }
    let object = meta::as_stored(r, object)?;
    Ok(update_stored(ctx, view, r, key, object, subresource)?.served_as(r))
}

fn update_stored(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    asked: &'static Resource,
    key: &ObjectKey,
    mut object: Value,
    subresource: Option<&str>,
) -> Result<Outcome, Status> {
    let (strategy, r) = (kinds::strategy(asked)?, asked.stored());
    meta::check_types(r, strategy, &mut object)?;
    let namespace = r.namespaced.then_some(key.namespace.as_str());
    meta::settle_namespace(r, namespace, &mut object)?;
    sent::check_name(text(&object, "/metadata/name"), &key.name)?;
    let unconditional = ["", "0"].contains(&text(&object, "/metadata/resourceVersion"));
    let Some(stored) = view.get(&r.storage_key(key)) else {
        if subresource.is_none() && strategy.may_create_on_update() && unconditional {
            return create_tracked(ctx, view, asked, namespace, object, Tracking::Update);
        }
        return Err(Status::not_found(r, &key.name));
    };
    if unconditional && !strategy.allows_unconditional_update() {
        let cause = Cause::invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(Status::invalid(r, &key.name, vec![cause]));
    }
    replace(ctx, view, asked, key, parse(&stored), object, subresource, Tracking::Update)
}

/// Changes an object, or its subresource, by a function of what is stored.
///
/// `apply` is called once, inside the writer, with the object as it is served; its error is answered as it is.
///
/// # Errors
/// As [`update`], and 404 if the object is not there: a patch never makes one.
pub fn patch(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    key: &ObjectKey,
    apply: &dyn Fn(&Value) -> Result<Value, Status>,
    subresource: Option<&str>,
) -> Result<Outcome, Status> {
    if subresource == Some("scale") {
        return scale::write(ctx, view, r, key, apply);
    }
    let stored = view.get(&r.storage_key(key)).ok_or_else(|| Status::not_found(r.stored(), &key.name))?;
    let old = parse(&stored);
    let object = meta::as_stored(r, apply(&convert::served(r, &old))?)?;
    Ok(replace_patched(ctx, view, r, key, old, object, subresource, Tracking::Update)?.served_as(r))
}

/// Replaces an object by what a patch made of it; all in the stored form.
#[allow(clippy::too_many_arguments)] // The parts of one request.
pub(crate) fn replace_patched(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    asked: &'static Resource,
    key: &ObjectKey,
    old: Value,
    mut object: Value,
    subresource: Option<&str>,
    tracking: Tracking,
) -> Result<Outcome, Status> {
    let r = asked.stored();
    meta::check_types(r, kinds::strategy(asked)?, &mut object)?;
    for field in ["name", "namespace"] {
        let pointer = format!("/metadata/{field}");
        if text(&object, &pointer) != text(&old, &pointer) {
            let given = text(&object, &pointer);
            let cause = Cause::invalid(format!("metadata.{field}"), given, "field is immutable");
            return Err(Status::invalid(r, &key.name, vec![cause]));
        }
    }
    replace(ctx, view, asked, key, old, object, subresource, tracking)
}

/// Replaces an object by a new version of it or of its subresource: rules, owners, what is allocated for it.
#[allow(clippy::too_many_arguments)] // The parts of one request.
pub(crate) fn replace(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    asked: &'static Resource,
    key: &ObjectKey,
    old: Value,
    mut new: Value,
    subresource: Option<&str>,
    tracking: Tracking,
) -> Result<Outcome, Status> {
    let (strategy, r) = (kinds::strategy(asked)?, asked.stored());
    let sent = managed::take(&mut new);
    check_still_the_same(r, key, &new, &old)?;
    meta::carry_over(&mut new, &old);
    let subject = Subject { resource: r, key, cluster: ctx.cluster };
    let mut causes;
    match subresource {
        None => {
            strategy.default(&mut new);
            strategy.prepare_update(&mut new, &old, &subject);
            causes = meta::validate(&new, strategy);
            causes.extend(meta::validate_update(&new, &old));
            causes.extend(strategy.validate_update(&new, &old));
            // What was valid when it was stored stays so: an object must be able to lose its finalizers.
            if !same_spec(&new, &old) {
                causes.extend(strategy.validate(&new, &subject));
            }
        }
        Some(name) if !r.subresources.contains(&name) => return Err(Status::no_such_path()),
        Some(name) => {
            strategy.default(&mut new);
            new = strategy.subresource(name, &new, &old).ok_or_else(Status::no_such_path)?;
            causes = meta::validate(&new, strategy);
            causes.extend(meta::validate_update(&new, &old));
            causes.extend(strategy.validate_subresource(name, &new, &old));
        }
    }
    if !causes.is_empty() {
        return Err(Status::invalid(r, &key.name, causes));
    }
    track(ctx, &subject, subresource, Some(&old), &mut new, sent, tracking);
    let mut allocated = Vec::new();
    if subresource.is_none() {
        strategy.admit(view, &new, Some(&old), &subject)?;
        allocated = strategy.allocate(ctx, view, Some(&mut new), Some(&old), &subject)?;
    }
    if may_go_now(strategy, &new, &old) {
        return remove(ctx, view, &subject, new, &old, Vec::new());
    }
    if same_but_for_times(&new, &old) {
        return Ok(Outcome::unchanged(old));
    }
    if strategy.has_generation() && !same_spec(&new, &old) {
        let generation = int(&old, "/metadata/generation").unwrap_or(0);
        set(&mut new, "metadata", "generation", generation + 1);
    }
    Ok(Outcome::put(r.storage_key(key), new, allocated, ctx.dry_run))
}

fn check_still_the_same(r: &Resource, key: &ObjectKey, new: &Value, old: &Value) -> Result<(), Status> {
    let version = text(new, "/metadata/resourceVersion");
    // "0" is what clients send that do not care.
    if !["", "0"].contains(&version) && version != text(old, "/metadata/resourceVersion") {
        return Err(Status::modified(r, &key.name));
    }
    let (uid, stored) = (text(new, "/metadata/uid"), text(old, "/metadata/uid"));
    if !uid.is_empty() && uid != stored {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
        return Err(Status::conflict(r, &key.name, &why));
    }
    Ok(())
}

/// Whether all but metadata and status is alike.
fn same_spec(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.as_object().cloned().unwrap_or_default();
        object.remove("metadata");
        object.remove("status");
        object
    };
    rest(new) == rest(old)
}

/// Whether this update took away the last thing that held back an object asked to go.
fn may_go_now(strategy: &dyn Strategy, new: &Value, old: &Value) -> bool {
    let held =
        |object: &Value| !items(object, "/metadata/finalizers").is_empty() || strategy.is_held_back(object);
    at(old, "/metadata/deletionTimestamp").is_some()
        && int(old, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0
        && held(old)
        && !held(new)
}
