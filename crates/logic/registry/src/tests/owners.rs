//! Who owns what the registry writes.

use super::{World, key};
use crate::{apply, bind};
use minisvc_apimachinery::{
    managed::Force,
    resource::{CONFIG_MAPS, PODS, SERVICES},
};
use serde_json::{Value, json};

/// The fields of each manager, by its name.
fn owners(object: &Value) -> Value {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    list.iter().map(|e| (e["manager"].as_str().unwrap().to_owned(), e["fieldsV1"].clone())).collect()
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

#[test]
fn what_the_server_fills_in_is_nobodys() {
    let mut world = World::new();
    let service = world
        .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "w"},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]}}))
        .unwrap()
        .object;
    let owned = &owners(&service)["test"];
    assert_eq!(owned["f:spec"]["f:type"], json!({}));
    assert_eq!(owned["f:spec"]["f:sessionAffinity"], json!({}), "defaults are the manager's");
    for (pointer, why) in [
        ("/f:spec/f:clusterIP", "an allocated address"),
        ("/f:spec/f:ports/k:{\"port\":80,\"protocol\":\"TCP\"}/f:nodePort", "an allocated port"),
        ("/f:metadata/f:uid", "the uid"),
        ("/f:status", "the status"),
    ] {
        assert_eq!(owned.pointer(pointer), None, "{why}");
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "echo"}]}});
    world.create(pod).unwrap();
    let before = owners(&world.get(&PODS, "p").unwrap());
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    let bound = world.run(|ctx, view| bind(ctx, view, &key(&PODS, "p"), &binding)).unwrap();
    world.store.commit(&bound.changes);
    assert_eq!(owners(&world.get(&PODS, "p").unwrap()), before);
}

#[test]
fn a_write_without_a_change_renews_no_time() {
    let mut world = World::new();
    world.create(config_map(json!({"k": "1"}))).unwrap();
    world.now = "2026-01-02T04:00:00Z".parse().unwrap();
    let same = world.change(&CONFIG_MAPS, "a", None, |object| object["data"]["k"] = "1".into()).unwrap();
    assert!(same.changes.is_empty());
    // A status that the object's own update may not change is no change either.
    world
        .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "w"}, "spec": {"ports": [{"port": 1}]}}))
        .unwrap();
    world.now = "2026-01-02T05:00:00Z".parse().unwrap();
    let status = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
    let same = world.change(&SERVICES, "w", None, |object| object["status"] = status.clone()).unwrap();
    assert!(same.changes.is_empty());
}

#[test]
fn an_apply_settles_the_owners_by_itself() {
    let mut world = World::new();
    let send = |world: &mut World, data: Value, force| {
        world.manager = "me";
        let outcome = world.run(|ctx, view| {
            apply(ctx, view, &CONFIG_MAPS, &key(&CONFIG_MAPS, "a"), &config_map(data), force, None)
        });
        outcome.inspect(|outcome| world.store.commit(&outcome.changes))
    };
    let made = send(&mut world, json!({"k": "1", "l": "1"}), Force::No).unwrap();
    assert!(made.created);
    world.manager = "you";
    world.change(&CONFIG_MAPS, "a", None, |object| object["data"]["k"] = "2".into()).unwrap();
    assert_eq!(
        owners(&world.get(&CONFIG_MAPS, "a").unwrap()),
        json!({"me": {"f:data": {"f:l": {}}}, "you": {"f:data": {"f:k": {}}}})
    );
    assert_eq!(send(&mut world, json!({"k": "3"}), Force::No).unwrap_err().code, 409);
    let forced = send(&mut world, json!({"k": "3"}), Force::Yes).unwrap();
    assert!(!forced.created);
    assert_eq!(forced.object["data"], json!({"k": "3"}));
    assert_eq!(owners(&forced.object), json!({"me": {"f:data": {"f:k": {}}}}));
    assert!(send(&mut world, json!({"k": "3"}), Force::No).unwrap().changes.is_empty());
}
