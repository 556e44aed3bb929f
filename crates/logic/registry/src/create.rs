//! Create: a new object, by name or by `generateName`.

use crate::{
    Context, Outcome, Status,
    context::Subject,
    kinds, meta,
    owners::{Tracking, track},
    value::{at, set, text, time, unset},
};
use minisvc_apimachinery::{ObjectKey, Resource, letters::letters, managed, storage::Read};
use serde_json::Value;

const GENERATED_LETTERS: usize = 5;
const GENERATED_STEM_BYTES_MAX: usize = 63 - GENERATED_LETTERS;
const GENERATE_TRIES_MAX: usize = 8;

/// Makes a new object of a kind.
///
/// `namespace` is that of the request's path; without one the object's own is taken.
///
/// # Errors
/// 400 for what is no object of this kind, 404 without the namespace, 403 in one that is going, 409 for a name that
/// is taken, 422 naming every faulty field, 500 when no address or port is left.
pub fn create(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    namespace: Option<&str>,
    object: Value,
) -> Result<Outcome, Status> {
    let object = meta::as_stored(r, object)?;
    Ok(create_tracked(ctx, view, r, namespace, object, Tracking::Update)?.served_as(r))
}

/// The same, of an object in its stored form whose owners may be known; answered in that form.
pub(crate) fn create_tracked(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    namespace: Option<&str>,
    mut object: Value,
    tracking: Tracking,
) -> Result<Outcome, Status> {
    let (strategy, r) = (kinds::strategy(r)?, r.stored());
    meta::check_types(r, strategy, &mut object)?;
    let sent = managed::take(&mut object);
    let namespace = meta::settle_namespace(r, namespace, &mut object)?;
    if !["", "0"].contains(&text(&object, "/metadata/resourceVersion")) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    meta::check_namespace(view, r, &namespace, text(&object, "/metadata/name"))?;
    begin(ctx, &mut object, strategy.has_generation());
    let key = name(ctx, view, r, namespace, &mut object)?;
    let subject = Subject { resource: r, key: &key, cluster: ctx.cluster };
    strategy.default(&mut object);
    strategy.prepare_create(&mut object, &subject);
    track(ctx, &subject, None, None, &mut object, sent, tracking);
    strategy.mutate(&mut object, view);
    let mut causes = meta::validate(&object, strategy);
    causes.extend(strategy.validate(&object, &subject));
    causes.extend(strategy.validate_create(&object));
    if !causes.is_empty() {
        return Err(Status::invalid(r, &key.name, causes));
    }
    strategy.admit(view, &object, None, &subject)?;
    let storage_key = r.storage_key(&key);
    if view.get(&storage_key).is_some() {
        return Err(Status::already_exists(r, &key.name));
    }
    let allocated = strategy.allocate(ctx, view, Some(&mut object), None, &subject)?;
    Ok(Outcome { created: true, ..Outcome::put(storage_key, object, allocated, ctx.dry_run) })
}

fn begin(ctx: &mut Context<'_>, object: &mut Value, has_generation: bool) {
    meta::drop_server_fields(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"] {
        unset(object, "metadata", field);
    }
    set(object, "metadata", "uid", (ctx.uid)());
    set(object, "metadata", "creationTimestamp", time(ctx.now));
    if has_generation {
        set(object, "metadata", "generation", 1);
    }
}

/// The key of the new object, with a generated name if it has none.
fn name(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    r: &'static Resource,
    namespace: String,
    object: &mut Value,
) -> Result<ObjectKey, Status> {
    let given = text(object, "/metadata/name");
    let Some(stem) = at(object, "/metadata/generateName").and_then(Value::as_str) else {
        return Ok(ObjectKey::new(namespace, given));
    };
    if !given.is_empty() || stem.is_empty() {
        return Ok(ObjectKey::new(namespace, given));
    }
    let mut cut = stem.len().min(GENERATED_STEM_BYTES_MAX);
    while !stem.is_char_boundary(cut) {
        cut -= 1;
    }
    let stem = stem[..cut].to_owned();
    for _ in 0..GENERATE_TRIES_MAX {
        let key = ObjectKey::new(
            namespace.as_str(),
            format!("{stem}{}", letters((ctx.random)(), GENERATED_LETTERS)),
        );
        if view.get(&r.storage_key(&key)).is_none() {
            set(object, "metadata", "name", key.name.as_str());
            return Ok(key);
        }
    }
    let mut status = Status::already_exists(r, &stem);
    status.message = format!("{}, the server was not able to generate a unique name", status.message);
    Err(status)
}
