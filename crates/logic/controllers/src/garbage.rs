//! Objects whose owners are all gone are deleted (source: kubernetes pkg/controller/garbagecollector).
//!
//! An owner of a kind that is not in the snapshot may exist elsewhere, so its objects are left alone. The snapshot's
//! kinds are not equally new: each deletion is made only if the server has none of the owners either.

use crate::{
    objects::uid,
    plan::{Deletion, Owner, Plan, Write},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use minisvc_apimachinery::{
    ObjectKey, Resource, Snapshot,
    resource::{
        self, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, INGRESSES, LEASES, NAMESPACES, NODES, PODS,
        REPLICA_SETS, SERVICE_ACCOUNTS, SERVICES,
    },
};

/// Kinds of which the snapshot holds every object: what is not there does not exist.
pub const FOLLOWED: [&Resource; 11] = [
    &DEPLOYMENTS,
    &ENDPOINTS,
    &NAMESPACES,
    &NODES,
    &PODS,
    &REPLICA_SETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &LEASES,
    &ENDPOINT_SLICES,
    &INGRESSES,
];

/// Plans the deletion of everything whose owners are all gone.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    snapshot.each_meta(|resource, key, meta| {
        plan.writes.extend(orphan(snapshot, resource, key, meta));
    });
    plan
}

fn orphan(
    snapshot: &Snapshot,
    resource: &'static Resource,
    key: &ObjectKey,
    meta: &ObjectMeta,
) -> Option<Write> {
    let references = meta.owner_references.as_deref().filter(|references| !references.is_empty())?;
    if meta.deletion_timestamp.is_some() {
        return None;
    }
    let owners: Vec<Owner> =
        references.iter().map(|reference| gone(snapshot, key, reference)).collect::<Option<_>>()?;
    let how = Deletion {
        uid: uid(meta).to_owned(),
        // An owner that left it behind on purpose took the reference out: what was decided on it does not hold then.
        version: meta.resource_version.clone(),
        unless_exists: owners,
        ..Deletion::default()
    };
    Some(Write::Delete { resource, key: key.clone(), how })
}

/// The owner, if the snapshot should hold it and does not.
fn gone(snapshot: &Snapshot, child: &ObjectKey, reference: &OwnerReference) -> Option<Owner> {
    let resource = resource::by_kind(&reference.api_version, &reference.kind)?;
    let key = if resource.namespaced {
        ObjectKey::new(child.namespace.as_str(), reference.name.as_str())
    } else {
        ObjectKey::cluster(reference.name.as_str())
    };
    if !FOLLOWED.contains(&resource) {
        return None;
    }
    let there = snapshot.meta(resource, &key).is_some_and(|meta| uid(meta) == reference.uid);
    (!there).then(|| Owner { resource, key, uid: reference.uid.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn what_lost_all_its_owners_goes_and_unknown_owners_protect() {
        let mut world = World::default();
        let owned = |name: &str, owners: serde_json::Value| json!({ "metadata": { "namespace": "default", "name": name, "ownerReferences": owners }, "spec": { "containers": [] } });
        world.add(&SERVICES, json!({ "metadata": { "namespace": "default", "name": "web", "uid": "s1" } }));
        let service = |uid: &str| json!({ "apiVersion": "v1", "kind": "Service", "name": "web", "uid": uid });
        let unknown = json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "d" });
        world.add(&PODS, owned("kept", json!([service("s1")])));
        world.add(&PODS, owned("other-owner-lives", json!([service("s0"), service("s1")])));
        world.add(&PODS, owned("unknown", json!([service("s0"), unknown])));
        world.add(&PODS, owned("gone", json!([service("s0")])));
        let planned = plan(&world.snapshot);
        let [Write::Delete { key, how, .. }] = planned.writes.as_slice() else { panic!("{planned:?}") };
        assert_eq!((key.name.as_str(), how.unless_exists[0].uid.as_str()), ("gone", "s0"));
        assert_eq!(how.version, world.snapshot.pods[key].metadata.resource_version);
    }
}
