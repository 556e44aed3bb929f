//! What a request brings along, and what it comes to.

use minisvc_apimachinery::{ClusterConfig, ObjectKey, Resource, convert, storage::Change};
use serde_json::{Value, json};

/// Everything a request may need that is not in the store.
pub struct Context<'a> {
    /// The time of the request.
    pub now: jiff::Timestamp,
    /// Makes a new uid.
    pub uid: &'a mut dyn FnMut() -> String,
    /// Makes a random number: for generated names, and for where the search for a free address starts.
    pub random: &'a mut dyn FnMut() -> u64,
    /// The networks and ports of the cluster.
    pub cluster: &'a ClusterConfig,
    /// Whether the outcome must have no changes.
    pub dry_run: bool,
    /// Who the fields that the request changes are of (`fieldManager`).
    pub manager: &'a str,
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// To be committed at once; empty for a dry run and for an update that changes nothing.
    pub changes: Vec<Change>,
    /// To be answered: the object, or a `Status` for a binding or an eviction. When [`Outcome::written`] is set, its
    /// `metadata.resourceVersion` is to be replaced by the revision of the commit; else it is right as it is
    /// (absent for the dry run of a create).
    pub object: Value,
    /// Whether the object is new: 201 rather than 200.
    pub created: bool,
    /// Whether `object` itself is among the changes as a put.
    pub written: bool,
    /// Whether the object is gone with this commit.
    pub deleted: bool,
}

impl Outcome {
    /// An outcome without changes.
    pub(crate) fn unchanged(object: Value) -> Self {
        Self { changes: Vec::new(), object, created: false, written: false, deleted: false }
    }

    /// The same outcome, answered in the form of the kind that was asked for.
    pub(crate) fn served_as(mut self, r: &Resource) -> Self {
        self.object = convert::to_served(r, self.object);
        self
    }

    /// The object is put, together with other changes.
    pub(crate) fn put(key: String, object: Value, mut others: Vec<Change>, dry_run: bool) -> Self {
        if dry_run {
            return Self::unchanged(object);
        }
        others.push(Change::PutObject { key, value: object.clone() });
        Self { changes: others, object, created: false, written: true, deleted: false }
    }

    /// The same changes, answered by a `Status` that something was created (201) rather than by the object.
    pub(crate) fn told_by_status(self) -> Self {
        let object =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Self { object, created: true, written: false, ..self }
    }

    /// The object is deleted, together with other changes.
    pub(crate) fn removed(key: String, object: Value, mut others: Vec<Change>, dry_run: bool) -> Self {
        if dry_run {
            return Self { deleted: true, ..Self::unchanged(object) };
        }
        others.push(Change::Delete { key });
        Self { changes: others, object, created: false, written: false, deleted: true }
    }
}

/// What the object must still be, for a delete to happen (`metav1.Preconditions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
}

/// What becomes of the objects that an object owns (`metav1.DeletionPropagation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector deletes them afterwards.
    #[default]
    Background,
    /// The garbage collector deletes them first: the object stays until those that block it are gone.
    Foreground,
    /// They lose the reference to their owner, in the same commit.
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds a Pod has to end; none: what the Pod says; 0: at once.
    pub grace_period_seconds: Option<i64>,
    /// What must hold.
    pub preconditions: Preconditions,
    /// What becomes of owned objects; none: what the object's finalizers say.
    pub propagation: Option<Propagation>,
    /// Whether nothing may be changed.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the body of a DELETE request; fields it does not know are ignored.
    ///
    /// # Errors
    /// Words for a 400 answer, naming the field.
    pub fn from_value(body: &Value) -> Result<Self, String> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let grace_period_seconds = match body.get("gracePeriodSeconds") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_i64().ok_or("gracePeriodSeconds: must be an integer")?),
        };
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        let propagation = match (text("/propagationPolicy").as_deref(), orphan) {
            (Some(_), Some(_)) => {
                return Err("orphanDependents and propagationPolicy: only one of them may be set".to_owned());
            }
            (None, None) => None,
            (None, Some(true)) | (Some("Orphan"), None) => Some(Propagation::Orphan),
            (None, Some(false)) | (Some("Background"), None) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some(other), None) => {
                return Err(format!(
                    "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
                ));
            }
        };
        Ok(Self {
            grace_period_seconds,
            preconditions: Preconditions {
                uid: text("/preconditions/uid"),
                resource_version: text("/preconditions/resourceVersion"),
            },
            propagation,
            dry_run: body.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
        })
    }
}

/// Which object a step is about, and what it may read: handed to the strategies.
pub(crate) struct Subject<'a> {
    pub(crate) resource: &'static Resource,
    pub(crate) key: &'a ObjectKey,
    pub(crate) cluster: &'a ClusterConfig,
}
