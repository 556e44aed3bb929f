//! Which objects have a write under way, unseen, or in a pause after a failure.
//!
//! Invariant: an object with an entry is not written; entries end when the write shows in a snapshot, when the object is
//! found unchanged, or when the pause is over. Bounded by the writes admitted.

use minisvc_apimachinery::{ObjectKey, Resource, Snapshot};
use minisvc_controllers::Write;
use minisvc_reconcile::Backoff;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// A created object that never shows was deleted at once: it may be planned again after this long.
const UNSEEN_MAX: Duration = Duration::from_secs(2);
/// A pause that ended this long ago is forgotten, and with it how often the write failed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// An object as the ledger knows it.
pub(crate) type Target = (&'static Resource, ObjectKey);

/// Who planned a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Bootstrap,
    Deployment,
    ReplicaSet,
    EndpointSlice,
    Endpoints,
    Mirroring,
    NodeLifecycle,
    Scheduler,
    NodeIpam,
    ServiceLb,
    ServiceCidr,
    IngressStatus,
    Namespace,
    ServiceAccount,
    RootCa,
    Garbage,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The object has this version now; none if the server did not say.
    Landed { revision: Option<u64> },
    /// The object is gone.
    Gone,
    /// Nothing was written, or not all: try again after a pause.
    Failed,
    /// The server will not have it, and said why: try again after a pause.
    Refused(String),
}

impl Outcome {
    /// Whether nothing came of the write.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed | Self::Refused(_))
    }
}

#[derive(Debug)]
enum State {
    Flying,
    Landed { revision: Option<u64>, gone: bool, since: Instant },
    Pausing { until: Instant },
}

#[derive(Debug)]
struct Entry {
    controller: Controller,
    /// The object for which the write was planned, if it was planned for one.
    subject: Option<ObjectKey>,
    state: State,
    backoff: Backoff,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<Target, Entry>,
}

pub(crate) fn target(write: &Write) -> Target {
    let (resource, key) = write.target();
    (resource, key.clone())
}

impl Ledger {
    /// Takes a write in, unless its object has one under way.
    pub(crate) fn admit(
        &mut self,
        controller: Controller,
        subject: Option<&ObjectKey>,
        write: &Write,
        now: Instant,
    ) -> bool {
        let target = target(write);
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        if let Some(entry) = self.entries.get(&target) {
            match entry.state {
                State::Pausing { until } if until <= now => backoff = entry.backoff,
                _ => return false,
            }
        }
        let subject = subject.cloned();
        self.entries.insert(target, Entry { controller, subject, state: State::Flying, backoff });
        true
    }

    pub(crate) fn ended(&mut self, target: &Target, outcome: &Outcome, now: Instant) {
        let Some(entry) = self.entries.get_mut(target) else { return };
        entry.state = match outcome {
            Outcome::Landed { revision } => State::Landed { revision: *revision, gone: false, since: now },
            Outcome::Gone => State::Landed { revision: None, gone: true, since: now },
            Outcome::Failed | Outcome::Refused(_) => State::Pausing { until: now + entry.backoff.failed() },
        };
    }

    /// Forgets what the snapshot shows, and what is over.
    pub(crate) fn seen(&mut self, snapshot: &Snapshot, now: Instant) {
        self.entries.retain(|(kind, key), entry| match &entry.state {
            State::Flying => true,
            State::Pausing { until } => now.saturating_duration_since(*until) < FORGOTTEN_AFTER,
            State::Landed { revision, gone, since } => {
                let meta = snapshot.meta(kind, key);
                let shown = match meta {
                    None => *gone,
                    Some(_) if *gone => false,
                    Some(meta) => {
                        let present =
                            meta.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
                        match (revision, present) {
                            (Some(written), Some(present)) => present >= *written,
                            _ => false,
                        }
                    }
                };
                // A deleted object may stay for its finalizers or its grace period; one that was written may be gone.
                let settled = (*gone || meta.is_none() || revision.is_none())
                    && now.saturating_duration_since(*since) >= UNSEEN_MAX;
                !(shown || settled)
            }
        });
    }

    fn open(&self, controller: Controller) -> impl Iterator<Item = &Entry> {
        let open = |entry: &&Entry| !matches!(entry.state, State::Pausing { .. });
        self.entries.values().filter(move |entry| entry.controller == controller).filter(open)
    }

    /// Whether a controller has writes that do not show yet.
    pub(crate) fn is_busy(&self, controller: Controller) -> bool {
        self.open(controller).next().is_some()
    }

    /// The objects for which a controller has writes that do not show yet.
    pub(crate) fn busy_for(&self, controller: Controller) -> BTreeSet<ObjectKey> {
        self.open(controller).filter_map(|entry| entry.subject.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::resource::SERVICES;
    use std::sync::Arc;

    fn write() -> Write {
        let key = ObjectKey::new("default", "web");
        Write::Patch { resource: &SERVICES, key, subresource: None, patch: serde_json::json!({}) }
    }

    fn snapshot(version: &str) -> Snapshot {
        let mut service = k8s_openapi_service();
        service["metadata"]["resourceVersion"] = version.into();
        let mut snapshot = Snapshot::default();
        let service = serde_json::from_value(service).unwrap();
        snapshot.services.insert(ObjectKey::new("default", "web"), Arc::new(service));
        snapshot
    }

    fn k8s_openapi_service() -> serde_json::Value {
        serde_json::json!({ "metadata": { "namespace": "default", "name": "web" } })
    }

    #[test]
    fn an_object_is_not_written_again_before_the_last_write_shows() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert!(ledger.admit(Controller::ServiceLb, None, &write(), now));
        assert!(!ledger.admit(Controller::Garbage, None, &write(), now));
        ledger.ended(&target(&write()), &Outcome::Landed { revision: Some(7) }, now);
        ledger.seen(&snapshot("6"), now + UNSEEN_MAX * 10);
        assert!(ledger.is_busy(Controller::ServiceLb), "an old snapshot proves nothing, however late");
        ledger.seen(&snapshot("7"), now);
        assert!(!ledger.is_busy(Controller::ServiceLb));
        assert!(ledger.admit(Controller::Garbage, None, &write(), now));
    }

    #[test]
    fn failures_pause_longer_and_longer() {
        let (mut ledger, mut now) = (Ledger::default(), Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..5 {
            assert!(ledger.admit(Controller::Scheduler, None, &write(), now));
            ledger.ended(&target(&write()), &Outcome::Failed, now);
            assert!(!ledger.admit(Controller::Scheduler, None, &write(), now));
            let mut waited = Duration::ZERO;
            while !ledger.admit(Controller::Scheduler, None, &write(), now + waited) {
                waited += Duration::from_millis(10);
            }
            assert!(waited > last);
            (last, now) = (waited, now + waited);
            ledger.ended(&target(&write()), &Outcome::Failed, now);
            now += PAUSE.1;
        }
    }
}
