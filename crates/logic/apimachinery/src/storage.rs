//! The store as the registry sees it: a consistent view to read, a list of changes to commit.
//!
//! A request is a function `view → changes`. The store runs it inside its one writer, on the view that
//! includes every change before it, so a check and the write that follows from it cannot be torn apart.

use bytes::Bytes;
use std::sync::Arc;

/// Number of a commit; Kubernetes' `resourceVersion`. The first commit of a new store has revision 1.
pub type Revision = u64;

/// A stored value with the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Revision of the commit that wrote this value.
    pub revision: Revision,
    /// For an object: its JSON, with `metadata.resourceVersion` set to `revision`.
    pub value: Bytes,
}

/// A consistent view of the whole store at one revision.
pub trait Read {
    /// Revision of the newest commit in this view.
    fn revision(&self) -> Revision;
    /// The value of a key.
    fn get(&self, key: &str) -> Option<Arc<Stored>>;
    /// Calls `visit` with each key that starts with `prefix` and is greater than `after`, in order, until it
    /// returns false.
    fn scan(&self, prefix: &str, after: Option<&str>, visit: &mut dyn FnMut(&str, &Arc<Stored>) -> bool);
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Writes an object. The store sets `metadata.resourceVersion` to the commit's revision.
    PutObject {
        /// Storage key, see [`crate::Resource::storage_key`].
        key: String,
        /// The object.
        value: serde_json::Value,
    },
    /// Writes a record that is no object (an allocation, say), as it is.
    PutRecord {
        /// Storage key; record keys start with `_`.
        key: String,
        /// The bytes.
        value: Bytes,
    },
    /// Deletes a key; deleting what is absent is no error and no event.
    Delete {
        /// Storage key.
        key: String,
    },
}
