//! What a controller decides: writes to the API, and what to tell people.

use crate::objects::uid;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minisvc_apimachinery::{ObjectKey, Resource};
use serde_json::{Value, json};

/// An object as another names it: by kind, name and UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Kind.
    pub resource: &'static Resource,
    /// Name.
    pub key: ObjectKey,
    /// UID; empty: any object of that name.
    pub uid: String,
}

/// How an object is deleted, and what must still hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Its UID.
    pub uid: String,
    /// The version it must still have, if the decision was on more than that the object is there.
    pub version: Option<String>,
    /// Seconds a Pod gets to end; none: as it asks for itself.
    pub grace_seconds: Option<i64>,
    /// Whether what it owns goes before it.
    pub foreground: bool,
    /// Not if the server still has one of these: a snapshot's kinds are not all equally new.
    pub unless_exists: Vec<Owner>,
}

/// One write. None changes an object in another version than the one it was decided on.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Creates an object.
    Create {
        /// Kind.
        resource: &'static Resource,
        /// Its key, for telling writes apart.
        key: ObjectKey,
        /// The object.
        object: Value,
    },
    /// Replaces an object that is wholly ours; `object` names the version it replaces.
    Replace {
        /// Kind.
        resource: &'static Resource,
        /// Which object.
        key: ObjectKey,
        /// The new object.
        object: Value,
    },
    /// Merge patch; `patch` names the version it was made for.
    Patch {
        /// Kind.
        resource: &'static Resource,
        /// Which object.
        key: ObjectKey,
        /// Such as `status`.
        subresource: Option<&'static str>,
        /// RFC 7386.
        patch: Value,
    },
    /// Makes an object another's, by a merge patch; not if that owner is gone or going, whatever the snapshot says:
    /// what an owner left behind on purpose must not become its own again.
    Adopt {
        /// Kind.
        resource: &'static Resource,
        /// Which object.
        key: ObjectKey,
        /// RFC 7386; names the version it was made for.
        patch: Value,
        /// The new owner.
        owner: Owner,
    },
    /// Gives a Pod its node.
    Bind {
        /// The Pod.
        pod: ObjectKey,
        /// Its UID.
        uid: String,
        /// The node.
        node: String,
    },
    /// Deletes an object.
    Delete {
        /// Kind.
        resource: &'static Resource,
        /// Which object.
        key: ObjectKey,
        /// How, and on what conditions.
        how: Deletion,
    },
    /// Deletes everything of these kinds in a namespace that is being deleted; once nothing is left, lets it go.
    Empty {
        /// The namespace.
        namespace: ObjectKey,
        /// Kinds, in the order in which they are deleted.
        resources: Vec<&'static Resource>,
        /// Body for the namespace's `finalize`.
        finalized: Value,
    },
}

/// Makes a merge patch fit only the version that was decided on.
pub(crate) fn guard(meta: &ObjectMeta, patch: &mut Value) {
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    patch["metadata"]["uid"] = json!(meta.uid);
}

impl Write {
    /// Deletes an object of this metadata, whatever becomes of it meanwhile.
    pub(crate) fn delete(resource: &'static Resource, key: &ObjectKey, meta: &ObjectMeta) -> Self {
        let how = Deletion { uid: uid(meta).to_owned(), ..Deletion::default() };
        Self::Delete { resource, key: key.clone(), how }
    }

    /// Changes an object of this metadata by a merge patch, in this version and no other.
    pub(crate) fn patch(
        resource: &'static Resource,
        key: &ObjectKey,
        meta: &ObjectMeta,
        subresource: Option<&'static str>,
        mut patch: Value,
    ) -> Self {
        guard(meta, &mut patch);
        Self::Patch { resource, key: key.clone(), subresource, patch }
    }

    /// The same of its status.
    pub(crate) fn status(
        resource: &'static Resource,
        key: &ObjectKey,
        meta: &ObjectMeta,
        status: Value,
    ) -> Self {
        Self::patch(resource, key, meta, Some("status"), json!({ "status": status }))
    }

    /// Takes a finalizer away that we have kept the object by.
    pub(crate) fn lift(
        resource: &'static Resource,
        key: &ObjectKey,
        meta: &ObjectMeta,
        finalizer: &str,
    ) -> Self {
        let kept: Vec<&String> =
            meta.finalizers.iter().flatten().filter(|other| *other != finalizer).collect();
        Self::patch(resource, key, meta, None, json!({ "metadata": { "finalizers": kept } }))
    }

    /// What it writes to: at most one write to an object is under way at a time.
    pub fn target(&self) -> (&'static Resource, &ObjectKey) {
        match self {
            Self::Create { resource, key, .. }
            | Self::Replace { resource, key, .. }
            | Self::Patch { resource, key, .. }
            | Self::Adopt { resource, key, .. }
            | Self::Delete { resource, key, .. } => (resource, key),
            Self::Bind { pod, .. } => (&minisvc_apimachinery::resource::PODS, pod),
            Self::Empty { namespace, .. } => (&minisvc_apimachinery::resource::NAMESPACES, namespace),
        }
    }
}

/// Something people should hear of: becomes an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Kind of the object it is about.
    pub resource: &'static Resource,
    /// The object.
    pub key: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// Whether it needs attention.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// The write in this plan, by what it writes to, with which it comes true; none: it is true already.
    pub with_write: Option<(&'static Resource, ObjectKey)>,
}

impl Notice {
    /// Something about the object of this metadata that is true already and as it should be.
    pub(crate) fn new(
        resource: &'static Resource,
        key: &ObjectKey,
        meta: &ObjectMeta,
        reason: &'static str,
        message: String,
    ) -> Self {
        let uid = uid(meta).to_owned();
        Self { resource, key: key.clone(), uid, warning: false, reason, message, with_write: None }
    }

    /// The same, which needs attention.
    pub fn warning(
        resource: &'static Resource,
        key: &ObjectKey,
        meta: &ObjectMeta,
        reason: &'static str,
        message: String,
    ) -> Self {
        Self { warning: true, ..Self::new(resource, key, meta, reason, message) }
    }

    /// The same, once the write to this object is done.
    pub(crate) fn with(self, resource: &'static Resource, key: &ObjectKey) -> Self {
        Self { with_write: Some((resource, key.clone())), ..self }
    }
}

/// What to do, and what to tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Writes to different objects; their order does not matter.
    pub writes: Vec<Write>,
    /// What to tell.
    pub notices: Vec<Notice>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_settled(&self) -> bool {
        self.writes.is_empty()
    }

    /// Adds another plan.
    pub fn extend(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.notices.extend(other.notices);
    }
}
