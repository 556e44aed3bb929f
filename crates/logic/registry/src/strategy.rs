//! What differs from kind to kind, as one trait.

use crate::{Context, Status, context::Subject, syntax, table::Column, value};
use minisvc_apimachinery::{
    Cause,
    storage::{Change, Read},
};
use serde_json::Value;

/// Rules of one kind. The generic part calls, for a create: `default`, `prepare_create`, `mutate`, `validate`,
/// `validate_create`, `admit`, `allocate`; for an update: `default`, `prepare_update`, `validate_update`, `validate` (unless only metadata changed), `admit`, `allocate`.
pub(crate) trait Strategy: Sync {
    /// Whether the object has the kind's types; else why not, in words.
    fn check_types(&self, object: &Value) -> Result<(), String>;

    /// Faults of a name. `name` may be the start of one (`generateName`) with its trailing dash cut off.
    fn check_name(&self, name: &str) -> syntax::Faults {
        syntax::subdomain(name)
    }

    /// Fills in what was left out.
    fn default(&self, _object: &mut Value) {}

    /// Sets what a client may not choose in a new object.
    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
    }

    /// Completes a new object from what else is stored (mutating admission). What it sets has no owner.
    fn mutate(&self, _object: &mut Value, _view: &dyn Read) {}

    /// Takes over from the old version what an update may not change or left out.
    fn prepare_update(&self, new: &mut Value, old: &Value, _subject: &Subject<'_>) {
        value::keep(new, old, "status");
    }

    /// Faults of the object by itself.
    fn validate(&self, _object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// Faults that are no reason to refuse what is stored already.
    fn validate_create(&self, _object: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// Faults of the change.
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// What is well formed and still not wanted here: 403.
    fn admit(
        &self,
        _view: &dyn Read,
        _new: &Value,
        _old: Option<&Value>,
        _subject: &Subject<'_>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Allocates for the new version, frees what only the old one had; none as `new`: the object goes.
    fn allocate(
        &self,
        _ctx: &mut Context<'_>,
        _view: &dyn Read,
        _new: Option<&mut Value>,
        _old: Option<&Value>,
        _subject: &Subject<'_>,
    ) -> Result<Vec<Change>, Status> {
        Ok(Vec::new())
    }

    /// Builds the new version from an update of a subresource, from the old version and what was sent.
    /// None: there is no such subresource.
    fn subresource(&self, name: &str, sent: &Value, old: &Value) -> Option<Value> {
        let mut new = old.clone();
        match name {
            "status" => {
                value::keep(&mut new, sent, "status");
                value::keep(&mut new, sent, "metadata");
            }
            "scale" => {
                let replicas = sent.pointer("/spec/replicas").cloned().unwrap_or_default();
                value::set(&mut new, "spec", "replicas", replicas);
            }
            _ => return None,
        }
        Some(new)
    }

    /// Faults of the change of a subresource.
    fn validate_subresource(&self, _name: &str, _new: &Value, _old: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether an update of an absent object makes it.
    fn may_create_on_update(&self) -> bool {
        false
    }

    /// Whether an update needs no `metadata.resourceVersion`.
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Why the object may not be deleted, by nobody.
    fn undeletable(&self, _object: &Value, _view: &dyn Read, _subject: &Subject<'_>) -> Option<String> {
        None
    }

    /// Seconds the object has between the request to delete it and its end; none: it ends at once.
    fn grace(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Marks an object that is asked to go but is still there.
    fn mark_terminating(&self, _object: &mut Value) {}

    /// Whether something other than `metadata.finalizers` holds the object back.
    fn is_held_back(&self, _object: &Value) -> bool {
        false
    }

    /// The columns of the kind's table.
    fn columns(&self) -> &'static [Column];

    /// The cells of one row, one for each column.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;
}
