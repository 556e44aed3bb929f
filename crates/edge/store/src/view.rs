//! Immutable versions of the whole state.

use bytes::Bytes;
use imbl::OrdMap;
use minisvc_apimachinery::storage::{Change, Read, Revision, Stored};
use std::{collections::HashMap, ops::Bound, sync::Arc};

/// One version: what every key holds at a revision. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) entries: OrdMap<Arc<str>, Arc<Stored>>,
}

/// A consistent, unchanging view of the store at one revision. Cloning is O(1).
#[derive(Clone, Debug)]
pub struct View(Arc<State>);

impl View {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self(state)
    }

    /// Keys in the view, records included.
    pub fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }
}

impl Read for View {
    fn revision(&self) -> Revision {
        self.0.revision()
    }
    fn get(&self, key: &str) -> Option<Arc<Stored>> {
        self.0.get(key)
    }
    fn scan(&self, prefix: &str, after: Option<&str>, visit: &mut dyn FnMut(&str, &Arc<Stored>) -> bool) {
        self.0.scan(prefix, after, visit);
    }
}

impl Read for State {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn get(&self, key: &str) -> Option<Arc<Stored>> {
        self.entries.get(key).cloned()
    }

    fn scan(&self, prefix: &str, after: Option<&str>, visit: &mut dyn FnMut(&str, &Arc<Stored>) -> bool) {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        for (key, stored) in self.entries.range::<_, str>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) || !visit(key, stored) {
                return;
            }
        }
    }
}

/// One key before and after a commit.
pub(crate) struct Write {
    pub(crate) key: Arc<str>,
    pub(crate) old: Option<Arc<Stored>>,
    pub(crate) new: Option<Arc<Stored>>,
}

/// A change that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("change of {key:?} cannot be stored: {what}")]
pub struct BadChange {
    /// Storage key.
    pub key: String,
    /// What is wrong.
    pub what: &'static str,
}

/// The state with these changes as its next revision, and what they did, keys in the order of the changes.
///
/// Without an effect (nothing listed, or only deletes of what is absent) the state stays as it is.
pub(crate) fn apply(state: &State, changes: Vec<Change>) -> Result<(State, Vec<Write>), BadChange> {
    let revision = state.revision + 1;
    let mut next = state.clone();
    let mut writes: Vec<Write> = Vec::with_capacity(changes.len());
    let mut places: HashMap<Arc<str>, usize> = HashMap::with_capacity(changes.len());
    for change in changes {
        let (key, new) = encode(change, revision)?;
        let key: Arc<str> = key.into();
        let old = match &new {
            Some(stored) => next.entries.insert(key.clone(), stored.clone()),
            None => next.entries.remove(&*key),
        };
        // A key that a commit changes twice is one write: watchers must see one event a key and revision.
        match places.get(&key).and_then(|place| writes.get_mut(*place)) {
            Some(write) => write.new = new,
            None => {
                places.insert(key.clone(), writes.len());
                writes.push(Write { key, old, new });
            }
        }
    }
    writes.retain(|write| write.old.is_some() || write.new.is_some());
    if writes.is_empty() {
        return Ok((state.clone(), writes));
    }
    next.revision = revision;
    Ok((next, writes))
}

fn encode(change: Change, revision: Revision) -> Result<(String, Option<Arc<Stored>>), BadChange> {
    match change {
        Change::PutObject { key, mut value } => {
            let bad = |key: &str, what| BadChange { key: key.to_owned(), what };
            if key.is_empty() || key.starts_with('_') {
                return Err(bad(&key, "an object's key is not empty and does not start with an underscore"));
            }
            let Some(object) = value.as_object_mut() else {
                return Err(bad(&key, "an object is a JSON object"));
            };
            let metadata = object.entry("metadata").or_insert_with(|| serde_json::json!({}));
            let Some(metadata) = metadata.as_object_mut() else {
                return Err(bad(&key, "metadata is a JSON object"));
            };
            metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
            let bytes = serde_json::to_vec(&value).map_err(|_| bad(&key, "it is not JSON"))?;
            Ok((key, Some(Arc::new(Stored { revision, value: Bytes::from(bytes) }))))
        }
        Change::PutRecord { key, value } => {
            if !key.starts_with('_') {
                let what = "a record's key starts with an underscore";
                return Err(BadChange { key, what });
            }
            Ok((key, Some(Arc::new(Stored { revision, value }))))
        }
        Change::Delete { key } => Ok((key, None)),
    }
}
