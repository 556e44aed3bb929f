//! Which Services a newer snapshot changes, by themselves or by one of their EndpointSlices.
//!
//! In: snapshots, one after the other. Out: keys of Services. Invariant: it costs as much as the two snapshots differ,
//! not as much as they hold, so whoever follows few Services pays nothing for the many.

use crate::endpoint_slices::EndpointSlice;
use crate::{ObjectKey, Snapshot, snapshot::Objects};
use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1::Service;
use std::collections::BTreeSet;

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service whose endpoints a slice holds.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// The Services and EndpointSlices seen last.
#[derive(Clone, Debug, Default)]
pub struct ServiceChanges {
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
}

impl ServiceChanges {
    /// Takes in a snapshot: the Services that differ from the last one, or one of whose EndpointSlices does. At first
    /// those are all.
    pub fn take_in(&mut self, snapshot: &Snapshot) -> BTreeSet<ObjectKey> {
        let mut touched = BTreeSet::new();
        for item in self.services.diff(&snapshot.services) {
            let (DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. }) =
                item;
            touched.insert(key.clone());
        }
        for item in self.slices.diff(&snapshot.endpoint_slices) {
            match item {
                DiffItem::Add(_, slice) | DiffItem::Remove(_, slice) => touched.extend(service_of(slice)),
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    touched.extend(service_of(old).into_iter().chain(service_of(new)));
                }
            }
        }
        self.services = snapshot.services.clone();
        self.slices = snapshot.endpoint_slices.clone();
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{ENDPOINT_SLICES, SERVICES};
    use serde_json::json;

    #[test]
    fn a_service_is_touched_by_itself_and_by_slices_that_come_go_or_change_hands() {
        let mut snapshot = Snapshot::default();
        let mut changes = ServiceChanges::default();
        let mut after = |kind, name: &str, object: Option<serde_json::Value>| {
            snapshot.set(kind, ObjectKey::new("ns", name), object).unwrap();
            changes.take_in(&snapshot).into_iter().map(|key| key.name).collect::<Vec<_>>()
        };
        let slice = |service: &str| {
            let meta = json!({ "namespace": "ns", "labels": { SERVICE_NAME: service } });
            Some(json!({ "metadata": meta, "addressType": "IPv4", "endpoints": [] }))
        };
        assert_eq!(after(&SERVICES, "a", Some(json!({}))), ["a"]);
        assert_eq!(after(&ENDPOINT_SLICES, "x", slice("a")), ["a"]);
        assert_eq!(after(&ENDPOINT_SLICES, "x", slice("b")), ["a", "b"]);
        assert_eq!(after(&ENDPOINT_SLICES, "x", None), ["b"]);
        assert_eq!(after(&ENDPOINT_SLICES, "x", None), [""; 0]);
        assert_eq!(after(&SERVICES, "a", None), ["a"]);
    }
}
