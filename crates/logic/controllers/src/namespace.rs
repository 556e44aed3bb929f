//! Namespaces that are being deleted: everything in them is deleted, then they are let go.

use crate::plan::{Plan, Write};
use minisvc_apimachinery::{
    Resource, Snapshot,
    resource::{DEPLOYMENTS, PODS, REPLICA_SETS, RESOURCES, SERVICES},
};
use serde_json::json;

/// Plans the emptying of every namespace in phase Terminating (source: kubernetes pkg/controller/namespace/deletion).
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    let mut resources: Vec<&'static Resource> =
        RESOURCES.iter().copied().filter(|r| r.namespaced && r.stored_as.is_none()).collect();
    // Services first, so that no client is led to a Pod that is about to go; what makes Pods before the Pods.
    let first: [&Resource; 4] = [&SERVICES, &DEPLOYMENTS, &REPLICA_SETS, &PODS];
    resources.sort_by_key(|kind| first.iter().position(|other| other == kind).unwrap_or(first.len()));
    for (key, namespace) in &snapshot.namespaces {
        if namespace.metadata.deletion_timestamp.is_none() {
            continue;
        }
        let mut finalizers = namespace.spec.clone().unwrap_or_default().finalizers.unwrap_or_default();
        let held = finalizers.iter().any(|finalizer| finalizer == "kubernetes");
        if !held && !finalizers.is_empty() {
            continue; // emptied; somebody else's finalizer keeps it
        }
        finalizers.retain(|finalizer| finalizer != "kubernetes");
        // The whole object: a replace of `finalize` takes over metadata too.
        let mut finalized = json!(**namespace);
        finalized["spec"]["finalizers"] = json!(finalizers);
        plan.writes.push(Write::Empty { namespace: key.clone(), resources: resources.clone(), finalized });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use minisvc_apimachinery::resource::NAMESPACES;

    #[test]
    fn only_what_is_being_deleted_is_emptied_of_every_kind() {
        let mut world = World::default();
        world.add(
            &NAMESPACES,
            json!({ "metadata": { "name": "kept" }, "spec": { "finalizers": ["kubernetes"] } }),
        );
        world.add(
            &NAMESPACES,
            json!({
                "metadata": { "name": "gone", "deletionTimestamp": "2026-01-01T00:00:00Z" },
                "spec": { "finalizers": ["kubernetes", "mine"] },
            }),
        );
        let planned = plan(&world.snapshot);
        let [Write::Empty { namespace, resources, finalized }] = planned.writes.as_slice() else {
            panic!("{planned:?}")
        };
        assert_eq!(namespace.name, "gone");
        assert_eq!(resources[0], &SERVICES);
        assert!(RESOURCES.iter().all(|r| (r.namespaced && r.stored_as.is_none()) == resources.contains(r)));
        assert_eq!(finalized["spec"]["finalizers"], json!(["mine"]));
    }
}
