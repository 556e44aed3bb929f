//! `metadata.managedFields`: who owns what, as a list of entries (k8s.io/apimachinery `util/managedfields`).
//!
//! Invariant: an entry has a set that is not empty; no two entries have the same identity.

use super::set::Set;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// Entries of updates that are kept apart; older ones are folded together.
const UPDATERS_MAX: usize = 10;
/// Entries that one object may be given, by applies or by hand: each is looked at with every write.
pub(super) const ENTRIES_MAX: usize = 1000;
/// The manager of what was folded together.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who an entry is of. Those of apply are the same whatever version was applied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) manager: String,
    pub(super) operation: Operation,
    /// Empty for apply.
    pub(super) version: String,
    pub(super) subresource: String,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    pub(super) api_version: String,
    pub(super) time: Option<Value>,
    pub(super) set: Set,
    /// `fieldsV1` as it was read, while the set is still that.
    encoded: Option<Value>,
}

impl Entry {
    pub(super) fn new(identity: Identity, api_version: &str, set: Set) -> Self {
        Self { identity, api_version: api_version.to_owned(), time: None, set, encoded: None }
    }

    fn decode(value: &Value) -> Result<Self, String> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        if text("fieldsType") != "FieldsV1" {
            return Err(format!("invalid fieldsType {:?} in managed fields entry", text("fieldsType")));
        }
        let fields = value.get("fieldsV1").filter(|fields| !fields.is_null());
        let set = fields.map_or_else(|| Ok(Set::default()), Set::from_value)?;
        let version = if operation == Operation::Apply { String::new() } else { api_version.clone() };
        let identity =
            Identity { manager: text("manager"), operation, version, subresource: text("subresource") };
        let time = value.get("time").filter(|time| !time.is_null()).cloned();
        Ok(Self { identity, api_version, time, set, encoded: fields.cloned() })
    }

    fn encode(self) -> Value {
        let mut map = Map::new();
        let operation = if self.identity.operation == Operation::Apply { "Apply" } else { "Update" };
        map.insert("apiVersion".to_owned(), self.api_version.into());
        map.insert("fieldsType".to_owned(), "FieldsV1".into());
        map.insert("fieldsV1".to_owned(), self.encoded.unwrap_or_else(|| self.set.to_value()));
        map.insert("manager".to_owned(), self.identity.manager.into());
        map.insert("operation".to_owned(), operation.into());
        if !self.identity.subresource.is_empty() {
            map.insert("subresource".to_owned(), self.identity.subresource.into());
        }
        if let Some(time) = self.time {
            map.insert("time".to_owned(), time);
        }
        Value::Object(map)
    }

    /// Gives the entry another set; one that is the same costs no writing.
    pub(super) fn replace(&mut self, set: Set) {
        if set != self.set {
            self.set = set;
            self.encoded = None;
        }
    }

    /// Adds to the set of the entry.
    pub(super) fn add(&mut self, set: Set) {
        let before = self.encoded.as_ref().map(|_| self.set.clone());
        self.set = std::mem::take(&mut self.set).union(set);
        if before.is_none_or(|before| before != self.set) {
            self.encoded = None;
        }
    }

    fn seconds(&self) -> i64 {
        let time = self.time.as_ref().and_then(Value::as_str);
        time.and_then(|text| text.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_second)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(pub(super) Vec<Entry>);

impl Entries {
    /// Reads `metadata.managedFields`; null is none.
    ///
    /// # Errors
    /// Words for what is malformed.
    pub(super) fn decode(value: Option<&Value>) -> Result<Self, String> {
        let mut entries = Self::default();
        let list = match value {
            None | Some(Value::Null) => return Ok(entries),
            Some(value) => value.as_array().ok_or("managedFields must be a list")?,
        };
        let mut decoded = list.iter().map(Entry::decode).collect::<Result<Vec<Entry>, String>>()?;
        // Of two with one identity the later counts.
        decoded.reverse();
        decoded.sort_by(|a, b| a.identity.cmp(&b.identity));
        decoded.dedup_by(|a, b| a.identity == b.identity);
        entries.0 = decoded;
        Ok(entries)
    }

    /// As `metadata.managedFields`; none if there are no entries.
    pub(super) fn encode(mut self) -> Option<Value> {
        self.0.retain(|entry| !entry.set.is_empty());
        self.0
            .sort_by_cached_key(|entry| (entry.identity.operation, entry.seconds(), entry.identity.clone()));
        (!self.0.is_empty()).then(|| Value::Array(self.0.into_iter().map(Entry::encode).collect()))
    }

    pub(super) fn get(&self, identity: &Identity) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.identity == *identity)
    }

    pub(super) fn get_mut(&mut self, identity: &Identity) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.identity == *identity)
    }

    /// The entry of an identity, made if there is none.
    pub(super) fn entry(&mut self, identity: &Identity, api_version: &str) -> &mut Entry {
        let at = self.0.iter().position(|entry| entry.identity == *identity).unwrap_or_else(|| {
            self.0.push(Entry::new(identity.clone(), api_version, Set::default()));
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Folds the oldest entries of updates together until there are few enough.
    pub(super) fn cap(&mut self) {
        let is_update = |entry: &Entry| entry.identity.operation == Operation::Update;
        let mut count = self.0.iter().filter(|entry| is_update(entry) && !entry.set.is_empty()).count();
        if count <= UPDATERS_MAX {
            return;
        }
        self.0.retain(|entry| !entry.set.is_empty());
        self.0.sort_by_cached_key(|entry| (!is_update(entry), entry.seconds(), entry.identity.clone()));
        let mut at = 0;
        while count > UPDATERS_MAX && at < self.0.len() && is_update(&self.0[at]) {
            let bucket = Identity {
                manager: ANCIENT.to_owned(),
                operation: Operation::Update,
                version: self.0[at].api_version.clone(),
                subresource: String::new(),
            };
            // Without a bucket yet, the oldest of the version becomes it.
            let oldest = || self.0[..at].iter().position(|entry| entry.api_version == bucket.version);
            let into = self.0.iter().position(|entry| entry.identity == bucket).or_else(oldest);
            let Some(into) = into.filter(|into| *into != at) else {
                at += 1;
                continue;
            };
            let folded = self.0[at].clone();
            let entry = &mut self.0[into];
            entry.add(folded.set);
            entry.time = folded.time;
            entry.identity = bucket;
            self.0.remove(at);
            count -= 1;
        }
    }
}
