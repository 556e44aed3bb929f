//! The controllers that plan object by object and make others for each: Deployments, ReplicaSets.
//!
//! Invariant: nothing is planned for an object while a write for it does not show in the snapshot. Bounded by the objects
//! that are there.

use crate::ledger::{Controller, Outcome};
use jiff::Timestamp;
use minisvc_apimachinery::{
    ObjectKey, Resource, Snapshot,
    resource::{DEPLOYMENTS, REPLICA_SETS},
};
use minisvc_controllers::{Notice, Plans, Standing, deployment, replica_set};
use std::collections::{BTreeMap, BTreeSet};

/// Why the last create for an object was refused.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    refused: BTreeMap<(Controller, ObjectKey), String>,
}

fn kind(controller: Controller) -> Option<&'static Resource> {
    match controller {
        Controller::Deployment => Some(&DEPLOYMENTS),
        Controller::ReplicaSet => Some(&REPLICA_SETS),
        _ => None,
    }
}

impl Workloads {
    /// Takes note of how a create for an object ended. Out: what people should hear of it.
    pub(crate) fn created(
        &mut self,
        controller: Controller,
        object: &ObjectKey,
        outcome: &Outcome,
        snapshot: &Snapshot,
    ) -> Option<Notice> {
        let resource = kind(controller)?;
        let meta = snapshot.meta(resource, object)?;
        match outcome {
            Outcome::Refused(why) => {
                self.refused.insert((controller, object.clone()), why.clone());
                let (reason, what) = match controller {
                    Controller::Deployment => ("ReplicaSetCreateError", "Failed to create new replica set"),
                    _ => ("FailedCreate", "Error creating"),
                };
                Some(Notice::warning(resource, object, meta, reason, format!("{what}: {why}")))
            }
            Outcome::Landed { .. } => {
                self.refused.remove(&(controller, object.clone()));
                None
            }
            Outcome::Failed | Outcome::Gone => None,
        }
    }

    /// Plans every object of a controller but those that have writes `open`.
    pub(crate) fn plan(
        &mut self,
        controller: Controller,
        snapshot: &Snapshot,
        open: BTreeSet<ObjectKey>,
        now: Timestamp,
    ) -> Plans {
        self.refused.retain(|(of, key), _| kind(*of).is_some_and(|kind| snapshot.meta(kind, key).is_some()));
        let mine = self.refused.iter().filter(|((of, _), _)| *of == controller);
        let refused = mine.map(|((_, key), why)| (key.clone(), why.clone())).collect();
        let standing = Standing { open, refused };
        match controller {
            Controller::Deployment => deployment::plan(snapshot, &standing, now),
            Controller::ReplicaSet => replica_set::plan(snapshot, &standing, now),
            _ => Plans::new(),
        }
    }
}
