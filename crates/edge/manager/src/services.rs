//! The controllers that plan Service by Service: EndpointSlices, Endpoints, mirrored slices.
//!
//! Invariants: only Services whose sources or results changed are planned; at most [`SERVICES_MAX`] of them in one
//! round; Endpoints and mirrored slices are planned after the slices that traffic follows, and never for more than a
//! fraction of the time.

use crate::{ledger::Controller, rounds::REST};
use minisvc_apimachinery::{ObjectKey, Snapshot, Synced};
use minisvc_controllers::{Plan, endpoint_slice, endpoint_slice_mirroring, endpoints};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

/// Most Services that one controller plans in one round.
const SERVICES_MAX: usize = 256;
/// The controllers, in the order in which they plan.
pub(crate) const BY_SERVICE: [Controller; 3] =
    [Controller::EndpointSlice, Controller::Endpoints, Controller::Mirroring];

/// The Services one controller has to plan.
#[derive(Default)]
struct Desk {
    dirty: BTreeSet<ObjectKey>,
    /// The dirty Service looked at last, so that those that must wait do not keep others waiting.
    cursor: ObjectKey,
    not_before: Option<Instant>,
}

/// Which Services are to be planned by whom.
#[derive(Default)]
pub(crate) struct Services {
    seen: Option<Arc<Synced<Snapshot>>>,
    desks: BTreeMap<Controller, Desk>,
    /// Deleted Services whose Endpoints are still there.
    vanished: BTreeSet<ObjectKey>,
}

impl Services {
    /// Notes what changed since the last snapshot.
    pub(crate) fn see(&mut self, snapshot: &Arc<Synced<Snapshot>>) {
        let last = self.seen.replace(Arc::clone(snapshot));
        if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, snapshot)) {
            return;
        }
        let nothing = Snapshot::default();
        let old: &Snapshot = last.as_ref().map_or(&nothing, |last| last);
        let sources = endpoint_slice::sources(old, snapshot);
        let gone = endpoints::vanished(old, snapshot);
        self.vanished.extend(gone.filter(|key| snapshot.endpoints.contains_key(key)));
        self.vanished
            .retain(|key| snapshot.endpoints.contains_key(key) && !snapshot.services.contains_key(key));
        self.desk(Controller::EndpointSlice).dirty.extend(endpoint_slice::dirty(&sources, old, snapshot));
        self.desk(Controller::Mirroring).dirty.extend(endpoint_slice_mirroring::dirty(old, snapshot));
        self.desk(Controller::Endpoints).dirty.extend(endpoints::dirty(&sources, old, snapshot));
    }

    fn desk(&mut self, controller: Controller) -> &mut Desk {
        self.desks.entry(controller).or_default()
    }

    /// A Service is to be planned again.
    pub(crate) fn again(&mut self, controller: Controller, service: ObjectKey) {
        self.desk(controller).dirty.insert(service);
    }

    /// What a controller was to plan has been handed on.
    pub(crate) fn done(&mut self, controller: Controller, service: &ObjectKey) {
        self.desk(controller).dirty.remove(service);
    }

    /// Plans a part of what a controller has to plan.
    pub(crate) fn plan(
        &mut self,
        controller: Controller,
        snapshot: &Snapshot,
        now: Instant,
    ) -> BTreeMap<ObjectKey, Plan> {
        let desk = self.desks.entry(controller).or_default();
        if desk.dirty.is_empty() || desk.not_before.is_some_and(|not_before| now < not_before) {
            return BTreeMap::new();
        }
        let after = desk.dirty.range((Bound::Excluded(&desk.cursor), Bound::Unbounded));
        let before = desk.dirty.range(..=&desk.cursor);
        let part: Vec<ObjectKey> = after.chain(before).take(SERVICES_MAX).cloned().collect();
        if let Some(last) = part.last() {
            desk.cursor = last.clone();
        }
        let started = Instant::now();
        let writes = |(key, writes)| (key, Plan { writes, notices: Vec::new() });
        let plans = match controller {
            Controller::Endpoints => {
                let one = |key: &ObjectKey| endpoints::plan_one(snapshot, key, self.vanished.contains(key));
                part.iter().map(|key| writes((key.clone(), one(key)))).collect()
            }
            Controller::Mirroring => endpoint_slice_mirroring::plan_each(snapshot, part.iter()),
            _ => endpoint_slice::plan_each(snapshot, part.iter()).into_iter().map(writes).collect(),
        };
        if controller != Controller::EndpointSlice {
            let ended = Instant::now();
            desk.not_before = Some(ended + ended.duration_since(started).min(Duration::from_secs(1)) * REST);
        }
        plans
    }
}
