//! Which objects are whose: by the controlling owner reference, and by selector for those that have none.
//!
//! Source: kubernetes `pkg/controller/controller_ref_manager.go`. Invariants: an object of another controller is never
//! touched; nothing is adopted by, or for, what is being deleted.

use crate::{
    objects::uid,
    plan::{Owner, Write, guard},
};
use k8s_openapi::{
    Metadata,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use minisvc_apimachinery::{ObjectKey, Resource, selector::LabelSelector, snapshot::Objects};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The owner that controls an object.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_deref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The objects of a kind, by who controls them.
pub(crate) struct Index<'a, T> {
    owned: BTreeMap<&'a str, Vec<(&'a ObjectKey, &'a T)>>,
    /// By namespace.
    orphans: BTreeMap<&'a str, Vec<(&'a ObjectKey, &'a T)>>,
}

impl<'a, T: Metadata<Ty = ObjectMeta>> Index<'a, T> {
    /// Reads every object once.
    pub(crate) fn new(objects: &'a Objects<T>) -> Self {
        let mut index = Self { owned: BTreeMap::new(), orphans: BTreeMap::new() };
        for (key, object) in objects {
            match controller(object.metadata()) {
                Some(owner) => index.owned.entry(&owner.uid).or_default().push((key, object)),
                None => index.orphans.entry(&key.namespace).or_default().push((key, object)),
            }
        }
        index
    }

    /// What the object of this uid controls.
    pub(crate) fn of(&self, uid: &str) -> &[(&'a ObjectKey, &'a T)] {
        self.owned.get(uid).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Who claims objects.
pub(crate) struct Claimer<'a> {
    /// Its kind.
    pub(crate) resource: &'static Resource,
    /// Its name.
    pub(crate) key: &'a ObjectKey,
    /// Its metadata.
    pub(crate) meta: &'a ObjectMeta,
    /// What it selects.
    pub(crate) selector: &'a LabelSelector,
}

impl Claimer<'_> {
    /// The reference that makes an object this one's.
    pub(crate) fn reference(&self) -> Value {
        json!({
            "apiVersion": self.resource.api_version(), "kind": self.resource.kind,
            "name": self.key.name, "uid": uid(self.meta),
            "controller": true, "blockOwnerDeletion": true,
        })
    }

    fn selects(&self, meta: &ObjectMeta) -> bool {
        let none = BTreeMap::new();
        self.selector.matches(meta.labels.as_ref().unwrap_or(&none))
    }

    /// The objects that are this one's, or become so; and the writes that adopt and let go.
    pub(crate) fn claim<'a, T: Metadata<Ty = ObjectMeta>>(
        &self,
        index: &Index<'a, T>,
        kind: &'static Resource,
        counts: impl Fn(&T) -> bool,
    ) -> (Vec<(&'a ObjectKey, &'a T)>, Vec<Write>) {
        let (mut mine, mut writes) = (Vec::new(), Vec::new());
        for (key, object) in index.of(uid(self.meta)).iter().copied().filter(|(_, object)| counts(object)) {
            if self.selects(object.metadata()) {
                mine.push((key, object));
            } else {
                writes.push(self.release(kind, key, object.metadata()));
            }
        }
        if self.meta.deletion_timestamp.is_some() {
            return (mine, writes);
        }
        let orphans = index.orphans.get(self.key.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
        for (key, object) in orphans.iter().copied().filter(|(_, object)| counts(object)) {
            let meta = object.metadata();
            if meta.deletion_timestamp.is_none() && self.selects(meta) {
                writes.push(self.adopt(kind, key, meta));
                mine.push((key, object));
            }
        }
        (mine, writes)
    }

    fn adopt(&self, resource: &'static Resource, key: &ObjectKey, meta: &ObjectMeta) -> Write {
        let mut owners: Vec<Value> =
            meta.owner_references.iter().flatten().map(|owner| json!(owner)).collect();
        owners.push(self.reference());
        let mut patch = json!({ "metadata": { "ownerReferences": owners } });
        guard(meta, &mut patch);
        let uid = uid(self.meta).to_owned();
        let owner = Owner { resource: self.resource, key: self.key.clone(), uid };
        Write::Adopt { resource, key: key.clone(), patch, owner }
    }

    fn release(&self, resource: &'static Resource, key: &ObjectKey, meta: &ObjectMeta) -> Write {
        let owners = meta.owner_references.iter().flatten().filter(|owner| owner.uid != uid(self.meta));
        let owners: Vec<Value> = owners.map(|owner| json!(owner)).collect();
        let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
        Write::patch(resource, key, meta, None, json!({ "metadata": { "ownerReferences": owners } }))
    }
}

/// What is planned for each of several objects of one kind: an object that has writes under way is left out.
pub type Plans = Vec<(ObjectKey, crate::Plan)>;

/// What the planner of one kind must know of earlier writes.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The objects for which writes do not show in the snapshot yet: planning on it would do them twice.
    pub open: BTreeSet<ObjectKey>,
    /// Why the last create for an object was refused.
    pub refused: BTreeMap<ObjectKey, String>,
}
