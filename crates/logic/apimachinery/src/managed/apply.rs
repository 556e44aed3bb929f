//! Server-side apply of one configuration.

use super::{
    BEFORE_FIRST_APPLY, Write, changes,
    entries::{ENTRIES_MAX, Entries, Identity, Operation},
    last_applied, lose, managed_fields,
    merge::drop_nulls,
    nothing, record,
    set::Set,
    set_managed_fields, shape, stripped, take,
    typed::Typed,
};
use crate::{
    schema,
    status::{Cause, CauseKind, Details, Status},
};
use serde_json::Value;

/// Whether fields of other managers are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// They are conflicts.
    No,
    /// They are taken.
    Yes,
}

/// A field that another manager owns.
#[derive(Clone, Debug)]
pub(super) struct Conflict {
    owner: Identity,
    pub(super) path: Vec<super::PathElement>,
}

/// The object with a configuration applied: what it names is merged in, and what its manager named before and does
/// not name any more goes, unless somebody else owns it. `live` is none for an object that is not there yet.
///
/// # Errors
/// 400 for a configuration of another kind or version, with fields that the schema does not have, with items that
/// cannot be told apart, or with `managedFields`; 409 with one cause for each field that another manager owns.
pub fn apply(write: &Write<'_>, live: Option<&Value>, patch: &Value, force: Force) -> Result<Value, Status> {
    check(write, patch)?;
    let mut entries = Entries::decode(live.and_then(managed_fields))
        .map_err(|why| Status::bad_request(format!("failed to decode managed fields: {why}")))?;
    let empty = nothing(write.resource);
    if let Some(live) = live
        && entries.0.is_empty()
    {
        let mut bare = live.clone();
        take(&mut bare);
        record(write, &empty, &bare, &mut entries, BEFORE_FIRST_APPLY);
    }
    let mut bare = live.unwrap_or(&empty).clone();
    take(&mut bare);
    let mut applied = one(write, &bare, patch, entries.clone(), force);
    if let Err(conflicts) = applied {
        let left = last_applied::remaining(write, &bare, conflicts);
        if !left.is_empty() {
            return Err(refusal(&left));
        }
        applied = one(write, &bare, patch, entries, Force::Yes);
    }
    let (mut object, entries) = applied.map_err(|conflicts| refusal(&conflicts))?;
    let count = entries.0.len();
    if count > ENTRIES_MAX {
        let name = patch.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let cause = Cause::too_many("metadata.managedFields", count, ENTRIES_MAX);
        return Err(Status::invalid(write.resource, name, vec![cause]));
    }
    last_applied::keep_up(write, &mut object, patch);
    set_managed_fields(&mut object, entries);
    Ok(object)
}

/// Refuses what is no configuration of this kind.
fn check(write: &Write<'_>, patch: &Value) -> Result<(), Status> {
    let text = |pointer: &str| patch.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    let named = format!("{group}/{number}, Kind={kind}");
    if version != write.resource.api_version() || kind != write.resource.kind {
        return Err(Status::bad_request(format!("invalid object type: {named}")));
    }
    if managed_fields(patch).is_some_and(|list| !list.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let shape = shape(write.resource);
    if let Some((path, why)) = Typed::root(schema::schemas(), &shape).fault(patch) {
        let unless = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        return Err(Status::bad_request(format!(
            "failed to create typed patch object ({}/{}; {named}): {path}: {why}",
            unless(text("/metadata/namespace")),
            unless(text("/metadata/name")),
        )));
    }
    Ok(())
}

/// Merges, prunes and takes over, in one go.
fn one(
    write: &Write<'_>,
    live: &Value,
    patch: &Value,
    mut entries: Entries,
    force: Force,
) -> Result<(Value, Entries), Vec<Conflict>> {
    let shape = shape(write.resource);
    let typed = Typed::root(schema::schemas(), &shape);
    let api_version = write.resource.api_version();
    let identity = write.identity(write.manager, Operation::Apply);
    let merged = typed.merge(live, patch);
    let last = entries.get(&identity).map(|entry| entry.set.clone()).unwrap_or_default();
    let entry = entries.entry(&identity, &api_version);
    entry.replace(typed.fields(patch).children.without(&write.reset()));
    entry.api_version.clone_from(&api_version);
    let mut object = prune(typed, merged, &entries, &last, &api_version);
    let (removed, taken) = changes(write, typed, live, &object);
    if force == Force::No {
        let conflicts = conflicts(&entries, &taken, &identity, &api_version);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    lose(write, &mut entries, &removed, &taken, &identity);
    if let Some(entry) = entries.get_mut(&identity) {
        let left = entry.set.clone().difference(stripped());
        entry.replace(left);
        entry.time = Some(write.time.into());
    }
    drop_nulls(&mut object, Some(live));
    Ok((object, entries))
}

/// Takes away what the manager named before and nobody names any more.
fn prune(typed: Typed<'_>, merged: Value, entries: &Entries, last: &Set, api_version: &str) -> Value {
    if last.is_empty() {
        return merged;
    }
    let last = typed.with_parents(last.clone());
    let all = typed.with_parents(typed.fields(&merged).children);
    let fields = |value: &Value| typed.with_parents(typed.fields(value).children);
    let pruned = typed.remove(&merged, &last);
    let owned = entries
        .0
        .iter()
        .filter(|entry| entry.api_version == api_version)
        .fold(Set::default(), |owned, entry| owned.union(entry.set.clone()));
    let kept = fields(&pruned).union(typed.with_parents(owned));
    let pruned = typed.remove(&merged, &all.clone().difference(&kept));
    // What went along with a parent, but was not the manager's, comes back.
    typed.remove(&merged, &all.difference(&fields(&pruned)).intersection(&last))
}

fn conflicts(entries: &Entries, taken: &Set, own: &Identity, api_version: &str) -> Vec<Conflict> {
    let mut others: Vec<_> =
        entries.0.iter().filter(|entry| entry.identity != *own && entry.api_version == api_version).collect();
    others.sort_by(|a, b| a.identity.cmp(&b.identity));
    let found = others.into_iter().flat_map(|entry| {
        let paths = entry.set.clone().intersection(taken).paths();
        paths.into_iter().map(|path| Conflict { owner: entry.identity.clone(), path })
    });
    found.collect()
}

fn shown(path: &[super::PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// The owner in Kubernetes' words.
fn owner(identity: &Identity) -> String {
    let mut text = format!("{:?}", identity.manager);
    if !identity.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", identity.subresource));
    }
    if identity.operation == Operation::Update {
        text.push_str(&format!(" using {}", identity.version));
    }
    text
}

/// 409 with one cause a field.
fn refusal(conflicts: &[Conflict]) -> Status {
    let message = if let [only] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {}: {}", owner(&only.owner), shown(&only.path))
    } else {
        let mut lines = Vec::new();
        let mut last = None;
        for conflict in conflicts {
            if last != Some(&conflict.owner) {
                lines.push(format!("conflicts with {}:", owner(&conflict.owner)));
                last = Some(&conflict.owner);
            }
            lines.push(format!("- {}", shown(&conflict.path)));
        }
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    };
    let causes = conflicts.iter().map(|conflict| Cause {
        reason: CauseKind::FieldManagerConflict,
        message: format!("conflict with {}", owner(&conflict.owner)),
        field: shown(&conflict.path),
    });
    let mut status = Status::failure(409, "Conflict", message);
    status.details = Some(Details { causes: causes.collect(), ..Details::default() });
    status
}
