//! What owners leave to be done (source: kubernetes pkg/controller/garbagecollector): objects whose owners are all gone
//! are deleted; an owner that is deleted in the foreground waits until what blocks it is deleted.
//!
//! An owner of a kind that is not in the snapshots may exist elsewhere, so its objects are left alone. The snapshots'
//! kinds are not equally new: each write is made only to the version of the object that was decided on, and an orphan is
//! deleted only if the server has none of the owners either.

use crate::{
    objects::uid,
    plan::{Deletion, Owner, Plan, Write},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use minisvc_apimachinery::{
    ObjectKey, Resource, Snapshot,
    resource::{
        self, CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, INGRESS_CLASSES, INGRESSES, IP_ADDRESSES,
        LEASES, NAMESPACES, NODES, PODS, REPLICA_SETS, SECRETS, SERVICE_ACCOUNTS, SERVICE_CIDRS, SERVICES,
    },
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Kinds of which `main` holds every object: what is not there does not exist.
pub const FOLLOWED: [&Resource; 13] = [
    &DEPLOYMENTS,
    &ENDPOINTS,
    &INGRESS_CLASSES,
    &NAMESPACES,
    &NODES,
    &PODS,
    &REPLICA_SETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &SERVICE_CIDRS,
    &LEASES,
    &ENDPOINT_SLICES,
    &INGRESSES,
];
/// Kinds of which `rest` holds every object's metadata, for this alone.
pub const METADATA_ONLY: [&Resource; 3] = [&CONFIG_MAPS, &IP_ADDRESSES, &SECRETS];

const FOREGROUND: &str = "foregroundDeletion";

/// The objects there are, in two snapshots.
struct Objects<'a> {
    main: &'a Snapshot,
    rest: &'a Snapshot,
}

impl<'a> Objects<'a> {
    /// Metadata of an object; none as well for a kind of which we do not know every object.
    fn meta(&self, kind: &Resource, key: &ObjectKey) -> Option<&'a ObjectMeta> {
        let snapshot = if METADATA_ONLY.contains(&kind) { self.rest } else { self.main };
        snapshot.meta(kind, key)
    }

    fn each(&self, mut visit: impl FnMut(&'static Resource, &'a ObjectKey, &'a ObjectMeta)) {
        self.main.each_meta(|kind, key, meta| {
            if FOLLOWED.contains(&kind) {
                visit(kind, key, meta);
            }
        });
        self.rest.each_meta(|kind, key, meta| {
            if METADATA_ONLY.contains(&kind) {
                visit(kind, key, meta);
            }
        });
    }

    /// The owner that a reference of an object names, if we would know of it: its name, and its metadata if it is there.
    fn owner(
        &self,
        child: &ObjectKey,
        reference: &OwnerReference,
    ) -> Option<(Owner, Option<&'a ObjectMeta>)> {
        let resource = resource::by_kind(&reference.api_version, &reference.kind)?;
        if !FOLLOWED.contains(&resource) && !METADATA_ONLY.contains(&resource) {
            return None;
        }
        let key = if resource.namespaced {
            ObjectKey::new(child.namespace.as_str(), reference.name.as_str())
        } else {
            ObjectKey::cluster(reference.name.as_str())
        };
        let meta = self.meta(resource, &key).filter(|meta| uid(meta) == reference.uid);
        Some((Owner { resource, key, uid: reference.uid.clone() }, meta))
    }
}

/// An object that others own.
#[derive(Clone, Copy)]
struct Dependent<'a> {
    resource: &'static Resource,
    key: &'a ObjectKey,
    meta: &'a ObjectMeta,
    blocks: bool,
}

/// Plans the deletion of everything whose owners are all gone, and what owners in the foreground wait for.
pub fn plan(main: &Snapshot, rest: &Snapshot) -> Plan {
    let objects = Objects { main, rest };
    let mut plan = Plan::default();
    let mut waiting = Vec::new();
    objects.each(|resource, key, meta| {
        plan.writes.extend(orphan(&objects, resource, key, meta));
        if waits(meta) {
            waiting.push((resource, key, meta));
        }
    });
    if waiting.is_empty() {
        return plan;
    }
    let dependents = dependents(&objects);
    for (resource, key, meta) in waiting {
        let mine = dependents.get(uid(meta)).map(Vec::as_slice).unwrap_or_default();
        if !mine.iter().any(|dependent| dependent.blocks) {
            plan.writes.push(Write::lift(resource, key, meta, FOREGROUND));
            continue;
        }
        for dependent in mine.iter().filter(|dependent| dependent.meta.deletion_timestamp.is_none()) {
            plan.writes.push(dispose(&objects, &dependents, dependent));
        }
    }
    plan
}

/// Whether a plan on a newer snapshot would be the same as far as `main` goes. Costs as much as the two differ; most
/// changes, such as those of endpoints, are not of what this goes by.
pub fn is_same(old: &Snapshot, new: &Snapshot) -> bool {
    // Leases are renewed all the time, and what owns them stays the same.
    let kinds = FOLLOWED.iter().filter(|kind| **kind != &LEASES);
    let same = kinds.into_iter().all(|kind| {
        let mut same = true;
        if !old.is_same(new, kind) {
            old.each_changed_meta(new, kind, |old, new| same &= is_alike(old, new));
        }
        same
    });
    same && old.leases.len() == new.leases.len()
}

/// Whether an object's change gives nothing to do: a new one that neither is owned nor waits, or the same in all that
/// is gone by. One that is gone may have been an owner.
fn is_alike(old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) -> bool {
    let Some(new) = new else { return false };
    let Some(old) = old else {
        return new.owner_references.as_deref().unwrap_or_default().is_empty() && !waits(new);
    };
    let is_going = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
    (uid(old), is_going(old), &old.owner_references, &old.finalizers)
        == (uid(new), is_going(new), &new.owner_references, &new.finalizers)
}

/// Whether an object that is being deleted waits for what it owns.
fn waits(meta: &ObjectMeta) -> bool {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    meta.deletion_timestamp.is_some() && finalizers.iter().any(|finalizer| finalizer == FOREGROUND)
}

/// Every object that is owned, by the UID of the owner.
fn dependents<'a>(objects: &Objects<'a>) -> BTreeMap<&'a str, Vec<Dependent<'a>>> {
    let mut dependents: BTreeMap<&str, Vec<Dependent<'_>>> = BTreeMap::new();
    objects.each(|resource, key, meta| {
        for reference in meta.owner_references.iter().flatten() {
            let blocks = reference.block_owner_deletion == Some(true);
            dependents.entry(&reference.uid).or_default().push(Dependent { resource, key, meta, blocks });
        }
    });
    dependents
}

/// Deletes what a waiting owner waits for: before it, what it owns itself. One that has another owner is only taken
/// from those that wait.
fn dispose(
    objects: &Objects<'_>,
    dependents: &BTreeMap<&str, Vec<Dependent<'_>>>,
    dependent: &Dependent<'_>,
) -> Write {
    let Dependent { resource, key, meta, .. } = *dependent;
    // An owner that we cannot know of counts as one that stays.
    let stays = |reference: &&OwnerReference| match objects.owner(key, reference) {
        None => true,
        Some((_, owner)) => owner.is_some_and(|owner| !waits(owner)),
    };
    let kept: Vec<Value> = meta.owner_references.iter().flatten().filter(stays).map(|r| json!(r)).collect();
    if !kept.is_empty() {
        let patch = json!({ "metadata": { "ownerReferences": kept } });
        return Write::patch(resource, key, meta, None, patch);
    }
    let how = Deletion {
        uid: uid(meta).to_owned(),
        version: meta.resource_version.clone(),
        foreground: dependents.contains_key(uid(meta)),
        ..Deletion::default()
    };
    Write::Delete { resource, key: key.clone(), how }
}

fn orphan(
    objects: &Objects<'_>,
    resource: &'static Resource,
    key: &ObjectKey,
    meta: &ObjectMeta,
) -> Option<Write> {
    let references = meta.owner_references.as_deref().filter(|references| !references.is_empty())?;
    if meta.deletion_timestamp.is_some() {
        return None;
    }
    let gone =
        |reference| objects.owner(key, reference).filter(|(_, meta)| meta.is_none()).map(|(owner, _)| owner);
    let owners: Vec<Owner> = references.iter().map(gone).collect::<Option<_>>()?;
    let how = Deletion {
        uid: uid(meta).to_owned(),
        // An owner that left it behind on purpose took the reference out: what was decided on it does not hold then.
        version: meta.resource_version.clone(),
        unless_exists: owners,
        ..Deletion::default()
    };
    Some(Write::Delete { resource, key: key.clone(), how })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use minisvc_apimachinery::resource::{EVENTS, RESOURCES};

    fn plan(world: &World) -> Plan {
        super::plan(&world.snapshot, &world.snapshot)
    }

    fn reference(kind: &str, name: &str, uid: &str) -> Value {
        let version = if kind == "ReplicaSet" || kind == "DaemonSet" { "apps/v1" } else { "v1" };
        json!({ "apiVersion": version, "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": true })
    }

    fn owned(name: &str, owners: Value) -> Value {
        json!({ "metadata": { "namespace": "default", "name": name, "uid": name, "ownerReferences": owners } })
    }

    #[test]
    fn every_kind_but_events_is_looked_at() {
        for kind in RESOURCES.iter().filter(|kind| kind.stored() != &EVENTS) {
            assert!(FOLLOWED.contains(kind) || METADATA_ONLY.contains(kind), "{}", kind.kind);
        }
    }

    #[test]
    fn what_lost_all_its_owners_goes_and_unknown_owners_protect() {
        let mut world = World::default();
        world.add(&SERVICES, json!({ "metadata": { "namespace": "default", "name": "web", "uid": "s1" } }));
        let service = |uid: &str| reference("Service", "web", uid);
        world.add(&CONFIG_MAPS, owned("kept", json!([service("s1")])));
        world.add(&CONFIG_MAPS, owned("other-owner-lives", json!([service("s0"), service("s1")])));
        let unknown = reference("DaemonSet", "web", "d");
        world.add(&CONFIG_MAPS, owned("unknown", json!([service("s0"), unknown])));
        world.add(&CONFIG_MAPS, owned("gone", json!([service("s0")])));
        let planned = plan(&world);
        let [Write::Delete { key, how, .. }] = planned.writes.as_slice() else { panic!("{planned:?}") };
        assert_eq!((key.name.as_str(), how.unless_exists[0].uid.as_str()), ("gone", "s0"));
        assert_eq!(how.version, world.snapshot.config_maps[key].metadata.resource_version);
    }

    #[test]
    fn an_owner_in_the_foreground_waits_for_what_blocks_it() {
        let mut world = World::default();
        let mut set = owned("set", Value::Null);
        set["metadata"]["finalizers"] = json!([FOREGROUND, "x/y"]);
        set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        set["spec"] = json!({ "selector": {} });
        world.add(&REPLICA_SETS, set);
        world.add(&SERVICES, json!({ "metadata": { "namespace": "default", "name": "web", "uid": "s1" } }));
        let set = reference("ReplicaSet", "set", "set");
        let pod = |owners: Value| {
            let mut pod = owned("pod", owners);
            pod["spec"] = json!({ "containers": [] });
            pod
        };
        world.add(&PODS, pod(json!([set])));
        world.add(&CONFIG_MAPS, owned("of-pod", json!([reference("Pod", "pod", "pod")])));
        world.add(&SECRETS, owned("shared", json!([set, reference("Service", "web", "s1")])));
        let planned = plan(&world);
        let [Write::Delete { how, .. }, Write::Patch { key, patch, .. }] = planned.writes.as_slice() else {
            panic!("{planned:?}")
        };
        assert!(how.foreground, "it owns something itself");
        assert_eq!(key.name, "shared");
        assert_eq!(
            patch["metadata"]["ownerReferences"].as_array().unwrap().len(),
            1,
            "its other owner stays"
        );

        world.remove(&PODS, &ObjectKey::new("default", "pod"));
        world.remove(&SECRETS, &ObjectKey::new("default", "shared"));
        world.remove(&CONFIG_MAPS, &ObjectKey::new("default", "of-pod"));
        let planned = plan(&world);
        let [Write::Patch { patch, .. }] = planned.writes.as_slice() else { panic!("{planned:?}") };
        assert_eq!(patch["metadata"]["finalizers"], json!(["x/y"]));
    }

    #[test]
    fn only_changes_of_what_a_plan_goes_by_ask_for_another() {
        let mut world = World::default();
        let web = || json!({ "metadata": { "namespace": "default", "name": "web", "uid": "s1" } });
        let slice = |owner: &str, address: &str| {
            let mut slice = owned("web-1", json!([reference("Service", "web", owner)]));
            slice["addressType"] = json!("IPv4");
            slice["endpoints"] = json!([{ "addresses": [address] }]);
            slice
        };
        world.add(&SERVICES, web());
        world.add(&ENDPOINT_SLICES, slice("s1", "10.42.0.1"));
        let mut after = |change: &dyn Fn(&mut World)| {
            let before = world.snapshot.clone();
            change(&mut world);
            is_same(&before, &world.snapshot)
        };
        assert!(after(&|world| world.add(&ENDPOINT_SLICES, slice("s1", "10.42.0.2"))), "other endpoints");
        assert!(after(&|world| world.add(&CONFIG_MAPS, owned("c", Value::Null))), "not followed here");
        assert!(after(&|world| world.add(&SERVICES, owned("new", Value::Null))), "owned by nobody");
        assert!(!after(&|world| world.add(&ENDPOINT_SLICES, slice("s0", "10.42.0.2"))), "another owner");
        assert!(!after(&|world| world.add(&SERVICES, owned("new", json!([reference("Pod", "p", "p")])))));
        let mut going = web();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!after(&|world| world.add(&SERVICES, going.clone())), "is being deleted");
        assert!(
            !after(&|world| world.remove(&SERVICES, &ObjectKey::new("default", "web"))),
            "may be an owner"
        );
    }
}
