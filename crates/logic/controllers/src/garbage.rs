//! Objects whose owners are all gone are deleted (source: kubernetes pkg/controller/garbagecollector).
//!
//! An owner of a kind that is not in the snapshot may exist elsewhere, so its objects are left alone. The snapshot's
//! kinds are not equally new: each deletion is made only if the server has none of the owners either.

use crate::{
    objects::uid,
    plan::{Owner, Plan, Write},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use minisvc_apimachinery::{
    ObjectKey, Resource, Snapshot,
    resource::{self, ENDPOINT_SLICES, ENDPOINTS, INGRESSES, LEASES, NAMESPACES, NODES, PODS, SERVICES},
};

/// Plans the deletion of everything whose owners are all gone.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    let mut visit = |resource, key: &ObjectKey, meta: &ObjectMeta| {
        plan.writes.extend(orphan(snapshot, resource, key, meta))
    };
    snapshot.pods.iter().for_each(|(key, o)| visit(&PODS, key, &o.metadata));
    snapshot.services.iter().for_each(|(key, o)| visit(&SERVICES, key, &o.metadata));
    snapshot.endpoints.iter().for_each(|(key, o)| visit(&ENDPOINTS, key, &o.metadata));
    snapshot.endpoint_slices.iter().for_each(|(key, o)| visit(&ENDPOINT_SLICES, key, &o.metadata));
    snapshot.ingresses.iter().for_each(|(key, o)| visit(&INGRESSES, key, &o.metadata));
    snapshot.leases.iter().for_each(|(key, o)| visit(&LEASES, key, &o.metadata));
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
    Some(Write::Delete {
        resource,
        key: key.clone(),
        uid: uid(meta).to_owned(),
        grace_seconds: None,
        unless_exists: owners,
    })
}

/// The owner, if the snapshot should hold it and does not.
fn gone(snapshot: &Snapshot, child: &ObjectKey, reference: &OwnerReference) -> Option<Owner> {
    let resource = resource::by_kind(&reference.api_version, &reference.kind)?;
    let key = if resource.namespaced {
        ObjectKey::new(child.namespace.as_str(), reference.name.as_str())
    } else {
        ObjectKey::cluster(reference.name.as_str())
    };
    let meta = [&PODS, &SERVICES, &NODES, &NAMESPACES, &INGRESSES, &ENDPOINTS, &ENDPOINT_SLICES, &LEASES]
        .contains(&resource)
        .then(|| meta_of(snapshot, resource, &key))?;
    let there = meta.is_some_and(|meta| uid(meta) == reference.uid);
    (!there).then(|| Owner { resource, key, uid: reference.uid.clone() })
}

/// Metadata of an object of a kind that snapshots hold.
pub fn meta_of<'a>(snapshot: &'a Snapshot, resource: &Resource, key: &ObjectKey) -> Option<&'a ObjectMeta> {
    match resource.plural {
        "pods" => snapshot.pods.get(key).map(|o| &o.metadata),
        "services" => snapshot.services.get(key).map(|o| &o.metadata),
        "nodes" => snapshot.nodes.get(key).map(|o| &o.metadata),
        "namespaces" => snapshot.namespaces.get(key).map(|o| &o.metadata),
        "ingresses" => snapshot.ingresses.get(key).map(|o| &o.metadata),
        "endpoints" => snapshot.endpoints.get(key).map(|o| &o.metadata),
        "endpointslices" => snapshot.endpoint_slices.get(key).map(|o| &o.metadata),
        "leases" => snapshot.leases.get(key).map(|o| &o.metadata),
        _ => None,
    }
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
        let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d" });
        world.add(&PODS, owned("kept", json!([service("s1")])));
        world.add(&PODS, owned("other-owner-lives", json!([service("s0"), service("s1")])));
        world.add(&PODS, owned("unknown", json!([service("s0"), deployment])));
        world.add(&PODS, owned("gone", json!([service("s0")])));
        let planned = plan(&world.snapshot);
        let [Write::Delete { key, unless_exists, .. }] = planned.writes.as_slice() else {
            panic!("{planned:?}")
        };
        assert_eq!((key.name.as_str(), unless_exists[0].uid.as_str()), ("gone", "s0"));
    }
}
