//! Events: what happened to an object, for people.
//!
//! The same thing said again only raises the count of the Event that says it, at most every [`REPEAT_AFTER`]; new
//! Events come at most [`PER_SECOND`] a second, with bursts of [`BURST`]; beyond that they are dropped, as Events are
//! no record. An object's Events go to its namespace, those of cluster-scoped kinds to `default`.

use crate::{ApiClient, ClientError, PatchKind};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use minisvc_apimachinery::{ObjectKey, Resource, resource::EVENTS};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Least time between two updates of one Event.
pub const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// New Events a second, in the long run.
pub const PER_SECOND: u32 = 20;
/// New Events at once.
pub const BURST: u32 = 100;
/// How many Events are remembered for counting; the one not heard of for longest is forgotten first.
const REMEMBERED_MAX: usize = 1024;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    /// Kind of the object it happened to: a row's `kind`.
    pub kind: &'static str,
    /// `apiVersion` of the object.
    pub api_version: String,
    /// The object.
    pub object: ObjectKey,
    /// Its UID; empty if unknown.
    pub uid: String,
    /// The field of it that this is about, such as `spec.containers{web}`; empty: all of it.
    pub field: String,
    /// Whether it needs attention.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Occurrence {
    /// Something in order.
    pub fn normal(resource: &Resource, object: ObjectKey, uid: &str, reason: &str, message: String) -> Self {
        Self {
            kind: resource.kind,
            api_version: resource.api_version(),
            object,
            uid: uid.to_owned(),
            field: String::new(),
            warning: false,
            reason: reason.to_owned(),
            message,
        }
    }

    /// Something that needs attention.
    pub fn warning(resource: &Resource, object: ObjectKey, uid: &str, reason: &str, message: String) -> Self {
        Self { warning: true, ..Self::normal(resource, object, uid, reason, message) }
    }
}

#[derive(Clone, Debug)]
struct Said {
    name: String,
    count: i32,
    written: i32,
    last: Timestamp,
    written_at: Timestamp,
}

/// What to send for one occurrence.
#[derive(Debug, PartialEq, Eq)]
enum Send {
    Nothing,
    Create { name: String },
    Count { name: String, count: i32 },
}

/// What was said, and how much more may be.
#[derive(Debug)]
struct Memory {
    said: BTreeMap<Occurrence, Said>,
    tokens: f64,
    refilled: Option<Timestamp>,
    serial: u32,
}

impl Memory {
    fn new() -> Self {
        Self { said: BTreeMap::new(), tokens: f64::from(BURST), refilled: None, serial: 0 }
    }

    fn take(&mut self, now: Timestamp) -> bool {
        let passed = self.refilled.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
        self.refilled = Some(now);
        self.tokens = (self.tokens + passed * f64::from(PER_SECOND)).min(f64::from(BURST));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn occurred(&mut self, what: &Occurrence, now: Timestamp) -> Send {
        if let Some(said) = self.said.get_mut(what) {
            said.count = said.count.saturating_add(1);
            said.last = now;
            let due = now.duration_since(said.written_at).unsigned_abs() >= REPEAT_AFTER;
            if !due || said.count == said.written {
                return Send::Nothing;
            }
            (said.written, said.written_at) = (said.count, now);
            return Send::Count { name: said.name.clone(), count: said.count };
        }
        if !self.take(now) {
            return Send::Nothing;
        }
        if self.said.len() >= REMEMBERED_MAX
            && let Some(oldest) =
                self.said.iter().min_by_key(|(_, said)| said.last).map(|(what, _)| what.clone())
        {
            self.said.remove(&oldest);
        }
        self.serial = self.serial.wrapping_add(1);
        // As client-go names them: the object, then what makes it unique. Names are at most 253 bytes.
        let object: String = what.object.name.chars().take(220).collect();
        let name = format!("{object}.{:x}{:04x}", now.as_microsecond(), self.serial & 0xffff);
        let said = Said { name: name.clone(), count: 1, written: 1, last: now, written_at: now };
        self.said.insert(what.clone(), said);
        Send::Create { name }
    }

    fn forget(&mut self, what: &Occurrence) {
        self.said.remove(what);
    }
}

/// Says what happened, in the name of one component.
#[derive(Debug)]
pub struct Recorder {
    client: ApiClient,
    component: String,
    host: String,
    memory: Mutex<Memory>,
}

impl Recorder {
    /// A recorder for `component` (such as `scheduler`) on `host` (a node's name, or empty).
    pub fn new(client: ApiClient, component: &str, host: &str) -> Self {
        Self {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            memory: Mutex::new(Memory::new()),
        }
    }

    /// Says it, or counts it, or drops it if too much is said.
    ///
    /// # Errors
    /// If the server refuses the Event or cannot be reached; nothing depends on it.
    pub async fn record(&self, what: &Occurrence, now: Timestamp) -> Result<(), ClientError> {
        let send = self.memory.lock().unwrap_or_else(PoisonError::into_inner).occurred(what, now);
        let namespace = if what.object.namespace.is_empty() { "default" } else { &what.object.namespace };
        let result = match send {
            Send::Nothing => return Ok(()),
            Send::Create { name } => {
                let event = self.event(what, namespace, name, now);
                self.client.create::<Event>(&EVENTS, namespace, &event).await
            }
            Send::Count { name, count } => {
                let patch = json!({ "count": count, "lastTimestamp": Time(now) });
                let key = ObjectKey::new(namespace, name);
                self.client.patch::<Event>(&EVENTS, &key, None, PatchKind::Merge, &patch).await
            }
        };
        if result.is_err() {
            // It was not said, or is gone: the next time says it anew.
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).forget(what);
        }
        result.map(|_| ())
    }

    fn event(&self, what: &Occurrence, namespace: &str, name: String, now: Timestamp) -> Event {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Event {
            metadata: ObjectMeta { namespace: some(namespace), name: Some(name), ..ObjectMeta::default() },
            involved_object: ObjectReference {
                kind: some(what.kind),
                api_version: some(&what.api_version),
                namespace: some(&what.object.namespace),
                name: some(&what.object.name),
                uid: some(&what.uid),
                field_path: some(&what.field),
                ..ObjectReference::default()
            },
            type_: Some(if what.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(what.reason.clone()),
            // Kubernetes refuses longer messages.
            message: Some(what.message.chars().take(1024).collect()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: some(&self.component), host: some(&self.host) }),
            reporting_component: some(&self.component),
            reporting_instance: some(&self.host),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use minisvc_apimachinery::resource::SERVICES;

    fn what(name: &str) -> Occurrence {
        Occurrence::warning(&SERVICES, ObjectKey::new("default", name), "u", "Failed", "because".to_owned())
    }

    #[test]
    fn repeats_are_counted_and_written_now_and_then() {
        let (mut memory, start) = (Memory::new(), Timestamp::UNIX_EPOCH);
        let Send::Create { name } = memory.occurred(&what("a"), start) else { panic!("not created") };
        for second in 1..10 {
            let now = start + SignedDuration::from_secs(second);
            assert_eq!(memory.occurred(&what("a"), now), Send::Nothing);
        }
        let now = start + SignedDuration::from_secs(10);
        assert_eq!(memory.occurred(&what("a"), now), Send::Count { name, count: 11 });
    }

    #[test]
    fn floods_are_dropped_and_memory_is_bounded() {
        let (mut memory, start) = (Memory::new(), Timestamp::UNIX_EPOCH);
        let created =
            (0..1000).filter(|n| memory.occurred(&what(&n.to_string()), start) != Send::Nothing).count();
        assert_eq!(created, BURST as usize);
        for n in 0..5000_i64 {
            memory.occurred(&what(&format!("later{n}")), start + SignedDuration::from_secs(n));
        }
        assert!(memory.said.len() <= REMEMBERED_MAX);
    }
}
