//! Delete: at once, after a grace period, or when the last finalizer is gone.

use crate::{
    Context, DeleteOptions, Outcome, Propagation, Status,
    context::Subject,
    kinds,
    value::{at, int, items, parse, set, text, time},
};
use minisvc_apimachinery::{
    ObjectKey, Resource,
    resource::RESOURCES,
    storage::{Change, Read},
};
use serde_json::Value;

/// Finalizers of the garbage collector.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Deletes an object, or begins to.
///
/// An object that has a grace period (a Pod on a node) or finalizers stays, with `metadata.deletionTimestamp` set;
/// a second delete can only shorten the period. [`Outcome::object`] is the object as it was last.
///
/// # Errors
/// 404 if it is not there, 403 for what may not be deleted, 409 if a precondition does not hold.
pub fn delete(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    key: &ObjectKey,
    options: &DeleteOptions,
) -> Result<Outcome, Status> {
    let (asked, r) = (r, r.stored());
    let strategy = kinds::strategy(r)?;
    let stored = view.get(&r.storage_key(key)).ok_or_else(|| Status::not_found(r, &key.name))?;
    let old = parse(&stored);
    check_preconditions(r, key, options, &old)?;
    let subject = Subject { resource: r, key, cluster: ctx.cluster };
    if let Some(why) = strategy.undeletable(&old, view, &subject) {
        return Err(Status::forbidden(r, &key.name, &why));
    }
    let dry_run = ctx.dry_run || options.dry_run;
    let grace = strategy.grace(&old, options.grace_period_seconds);
    let (propagation, finalizers) = settle(&old, options.propagation);
    let held = !finalizers.is_empty() || strategy.is_held_back(&old);
    let released = if propagation == Propagation::Orphan { orphan(view, &old) } else { Vec::new() };
    if grace.unwrap_or(0) == 0 && !held {
        let mut outcome = remove(ctx, view, &subject, old.clone(), &old, released)?;
        if dry_run {
            outcome.changes.clear();
        }
        return Ok(outcome.served_as(asked));
    }
    let mut new = old.clone();
    if finalizers != items(&old, "/metadata/finalizers") {
        set(&mut new, "metadata", "finalizers", finalizers);
    }
    if at(&old, "/metadata/deletionTimestamp").is_none() {
        begin(ctx.now, &mut new, grace);
        strategy.mark_terminating(&mut new);
    } else if !shorten(&mut new, grace) && new == old {
        return Ok(Outcome::unchanged(old).served_as(asked));
    }
    Ok(Outcome::put(r.storage_key(key), new, released, dry_run).served_as(asked))
}

/// What becomes of owned objects, and the finalizers that go with it. What is asked for now counts, else what the
/// object's finalizers say. Owned objects lose their owner in the commit of the delete itself, so `orphan` is never kept.
fn settle(old: &Value, asked: Option<Propagation>) -> (Propagation, Vec<Value>) {
    let before = items(old, "/metadata/finalizers");
    let has = |finalizer: &str| before.iter().any(|other| other == finalizer);
    let propagation = match asked {
        Some(asked) => asked,
        None if has(ORPHAN) => Propagation::Orphan,
        None if has(FOREGROUND) => Propagation::Foreground,
        None => Propagation::Background,
    };
    let mut after = before.to_vec();
    after.retain(|finalizer| finalizer != ORPHAN);
    match propagation {
        Propagation::Foreground if !has(FOREGROUND) => after.push(FOREGROUND.into()),
        Propagation::Foreground => {}
        Propagation::Background | Propagation::Orphan => after.retain(|finalizer| finalizer != FOREGROUND),
    }
    (propagation, after)
}

fn check_preconditions(
    r: &Resource,
    key: &ObjectKey,
    options: &DeleteOptions,
    old: &Value,
) -> Result<(), Status> {
    let wanted = &options.preconditions;
    for (words, in_meta, wanted, field) in [
        ("UID", "UID", &wanted.uid, "/metadata/uid"),
        ("resourceVersion", "ResourceVersion", &wanted.resource_version, "/metadata/resourceVersion"),
    ] {
        let stored = text(old, field);
        if let Some(wanted) = wanted
            && wanted != stored
        {
            let why = format!(
                "Precondition failed: {words} in precondition: {wanted}, {in_meta} in object meta: {stored}"
            );
            return Err(Status::conflict(r, &key.name, &why));
        }
    }
    Ok(())
}

fn begin(now: jiff::Timestamp, object: &mut Value, grace: Option<i64>) {
    let seconds = grace.unwrap_or(0);
    let end = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    set(object, "metadata", "deletionTimestamp", time(end));
    if grace.is_some() || !items(object, "/metadata/finalizers").is_empty() {
        set(object, "metadata", "deletionGracePeriodSeconds", seconds);
    }
    if let Some(generation) = int(object, "/metadata/generation") {
        set(object, "metadata", "generation", generation + 1);
    }
}

/// Shortens the time an object has left. False if nothing changes.
fn shorten(object: &mut Value, grace: Option<i64>) -> bool {
    let Some(current) = int(object, "/metadata/deletionGracePeriodSeconds") else { return false };
    let seconds = grace.unwrap_or(0);
    if seconds >= current {
        return false;
    }
    if let Ok(end) = text(object, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>()
        && let Ok(end) = end.checked_sub(jiff::SignedDuration::from_secs(current - seconds))
    {
        set(object, "metadata", "deletionTimestamp", time(end));
    }
    set(object, "metadata", "deletionGracePeriodSeconds", seconds);
    true
}

/// The object goes: its key and whatever was allocated for it.
pub(crate) fn remove(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    subject: &Subject<'_>,
    last: Value,
    old: &Value,
    mut others: Vec<Change>,
) -> Result<Outcome, Status> {
    let (r, key) = (subject.resource, subject.key);
    let strategy = kinds::strategy(r)?;
    others.extend(strategy.allocate(ctx, view, None, Some(old), subject)?);
    Ok(Outcome::removed(r.storage_key(key), last, others, ctx.dry_run))
}

/// Takes the reference to this owner out of every object that has one.
fn orphan(view: &dyn Read, owner: &Value) -> Vec<Change> {
    let uid = text(owner, "/metadata/uid");
    let mut changes = Vec::new();
    for r in RESOURCES.iter().filter(|r| r.stored_as.is_none()) {
        view.scan(&r.storage_prefix(None), None, &mut |key, stored| {
            let mut object = parse(stored);
            let owners = items(&object, "/metadata/ownerReferences");
            let kept: Vec<Value> = owners.iter().filter(|o| text(o, "/uid") != uid).cloned().collect();
            if kept.len() != owners.len() {
                set(&mut object, "metadata", "ownerReferences", kept);
                changes.push(Change::PutObject { key: key.to_owned(), value: object });
            }
            true
        });
    }
    changes
}
