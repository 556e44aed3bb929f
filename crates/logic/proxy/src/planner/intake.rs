//! What a snapshot changes for a node: whose plans are to be made again, and what these are.

use super::Planner;
use crate::{
    host_port,
    owner::Owner,
    plan::{ServicePlan, plan},
    sorted,
};
use imbl::ordmap::DiffItem;
use minisvc_apimachinery::{
    ObjectKey, Snapshot, endpoint_slices::EndpointSlice, service_changes::service_of, snapshot::Objects,
};
use minisvc_netstate::family::Address;
use std::{collections::BTreeSet, sync::Arc};

/// Keys that differ, with the old and the new object.
fn changed<'a, T: PartialEq>(
    old: &'a Objects<T>,
    new: &'a Objects<T>,
) -> impl Iterator<Item = (&'a ObjectKey, [Option<&'a Arc<T>>; 2])> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, object) => (key, [None, Some(object)]),
        DiffItem::Remove(key, object) => (key, [Some(object), None]),
        DiffItem::Update { old: (_, old), new: (key, new) } => (key, [Some(old), Some(new)]),
    })
}

impl<A: Address> Planner<A> {
    /// Notes the snapshot's objects; the owners whose plans may differ from the last ones.
    pub(super) fn take_in(&mut self, snapshot: &Snapshot) -> BTreeSet<Owner> {
        let mut touched = BTreeSet::new();
        for (key, _) in changed(&self.services, &snapshot.services) {
            touched.insert(Owner::Service(key.clone()));
        }
        for (key, [old, new]) in changed(&self.slices, &snapshot.endpoint_slices) {
            if let Some(service) = old.and_then(|slice| service_of(slice)) {
                if let Some(slices) = self.slices_of.get_mut(&service) {
                    sorted::remove(slices, key);
                    if slices.is_empty() {
                        self.slices_of.remove(&service);
                    }
                }
                touched.insert(Owner::Service(service));
            }
            if let Some(service) = new.and_then(|slice| service_of(slice)) {
                sorted::insert(self.slices_of.entry(service.clone()).or_default(), key.clone());
                touched.insert(Owner::Service(service));
            }
        }
        for (key, sides) in changed(&self.pods, &snapshot.pods) {
            if sides.into_iter().flatten().any(|pod| host_port::wants_ports(pod, &self.node.name)) {
                touched.insert(Owner::Pod(key.clone()));
            }
        }
        self.services = snapshot.services.clone();
        self.slices = snapshot.endpoint_slices.clone();
        self.pods = snapshot.pods.clone();
        touched
    }

    /// What an owner wants now; None if it is gone.
    pub(super) fn wanted(&self, owner: &Owner) -> Option<ServicePlan<A>> {
        match owner {
            Owner::Service(key) => {
                let service = self.services.get(key)?;
                let slices: Vec<&EndpointSlice> = self
                    .slices_of
                    .get(key)
                    .into_iter()
                    .flatten()
                    .filter_map(|slice| self.slices.get(slice))
                    .map(|slice| &**slice)
                    .collect();
                Some(plan(service, &slices, &self.node))
            }
            Owner::Pod(key) => {
                let pod = self.pods.get(key).filter(|pod| host_port::wants_ports(pod, &self.node.name))?;
                Some(host_port::plan(key, pod, &self.node))
            }
        }
    }
}
