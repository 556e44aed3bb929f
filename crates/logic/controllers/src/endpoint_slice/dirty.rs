//! Which Services' slices may have to change between two snapshots.

use super::{desired::ZONE, owner_of};
use crate::objects::{node_addresses, pod_cidrs, selector, selects};
use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1::{Node, Pod};
use minisvc_apimachinery::{ObjectKey, Snapshot, snapshot::Objects};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// Keys that differ, with the old and the new object.
pub(crate) fn changed<'a, T: PartialEq>(
    old: &'a Objects<T>,
    new: &'a Objects<T>,
) -> impl Iterator<Item = (&'a ObjectKey, Option<&'a Arc<T>>, Option<&'a Arc<T>>)> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, object) => (key, None, Some(object)),
        DiffItem::Remove(key, object) => (key, Some(object), None),
        DiffItem::Update { old: (_, old), new: (key, new) } => (key, Some(old), Some(new)),
    })
}

/// The Services to plan again, of those whose sources changed or whose slices did.
pub fn dirty(sources: &BTreeSet<ObjectKey>, old: &Snapshot, new: &Snapshot) -> BTreeSet<ObjectKey> {
    let mut dirty = sources.clone();
    for (key, before, after) in changed(&old.endpoint_slices, &new.endpoint_slices) {
        dirty.extend([before, after].into_iter().flatten().filter_map(|slice| owner_of(key, slice)));
    }
    dirty
}

/// The Services whose endpoints may differ: those that changed, whose Pods changed, whose Pods' nodes
/// changed zone, podCIDRs or addresses. Costs as much as the difference, times the Services of the namespaces it is in.
pub fn sources(old: &Snapshot, new: &Snapshot) -> BTreeSet<ObjectKey> {
    let mut dirty: BTreeSet<ObjectKey> =
        changed(&old.services, &new.services).map(|(key, ..)| key.clone()).collect();
    let mut pods: Vec<&Pod> = Vec::new();
    for (_, before, after) in changed(&old.pods, &new.pods) {
        pods.extend([before, after].into_iter().flatten().map(Arc::as_ref));
    }
    let says = |node: &Node| {
        let labels = node.metadata.labels.as_ref();
        let addresses: Vec<IpAddr> = node_addresses(node).collect();
        (labels.and_then(|labels| labels.get(ZONE).cloned()), pod_cidrs(node), addresses)
    };
    let moved: BTreeSet<&str> = changed(&old.nodes, &new.nodes)
        .filter(|(_, before, after)| before.map(|n| says(n)) != after.map(|n| says(n)))
        .map(|(key, ..)| key.name.as_str())
        .collect();
    if !moved.is_empty() {
        pods.extend(
            new.pods
                .values()
                .map(Arc::as_ref)
                .filter(|pod| crate::objects::node_of(pod).is_some_and(|node| moved.contains(node))),
        );
    }
    for pod in pods {
        let Some(namespace) = pod.metadata.namespace.as_deref() else { continue };
        let services = new
            .services
            .range(ObjectKey::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace);
        for (key, service) in services {
            if selector(service).is_some_and(|selector| selects(selector, &pod.metadata)) {
                dirty.insert(key.clone());
            }
        }
    }
    dirty
}
