//! What holds for every kind: names, metadata, versions, finalizers, namespaces.

use super::{World, key, says};
use crate::{DeleteOptions, Preconditions, Propagation, update};
use minisvc_apimachinery::resource::{CONFIG_MAPS, LEASES, NAMESPACES, RESOURCES, SERVICES};
use serde_json::{Value, json};

fn config_map(metadata: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}})
}

#[test]
fn every_served_kind_has_rules() {
    for r in RESOURCES {
        assert!(crate::kinds::strategy(r).is_ok(), "{}", r.kind);
    }
}

#[test]
fn the_server_says_uid_time_and_generation() {
    let mut world = World::new();
    let object = world
        .create(config_map(json!({"name": "a", "uid": "mine", "creationTimestamp": null, "generation": 7,
            "managedFields": [{}], "deletionTimestamp": "2020-01-01T00:00:00Z"})))
        .unwrap()
        .object;
    let metadata = object["metadata"].as_object().unwrap();
    assert!(metadata["uid"].as_str().unwrap().starts_with("uid-"));
    assert_eq!(metadata["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(metadata["namespace"], "default");
    for gone in ["generation", "deletionTimestamp", "resourceVersion"] {
        assert!(!metadata.contains_key(gone), "{gone}");
    }
}

#[test]
fn names_are_generated_until_one_is_free() {
    let mut world = World::new();
    let stem = "a".repeat(80);
    for _ in 0..20 {
        let object = world.create(config_map(json!({"generateName": stem}))).unwrap().object;
        let name = object["metadata"]["name"].as_str().unwrap();
        assert_eq!(name.len(), 63, "{name}");
        assert!(name[58..].bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte)));
    }
}

#[test]
fn faulty_metadata_is_refused_by_field() {
    let long = "a".repeat(254);
    let big = "x".repeat(262_145);
    let label = "metadata.labels: Invalid value: ";
    let table: Vec<(Value, String)> = vec![
        (json!({}), "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required".into()),
        (json!({"name": "A"}), "ConfigMap \"A\" is invalid: metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of".into()),
        (json!({"name": long}), "must be no more than 253 bytes".into()),
        (json!({"generateName": "A-"}), "metadata.generateName: Invalid value: \"A-\"".into()),
        (json!({"name": "a", "labels": {"a b": "c"}}), format!("{label}\"a b\": name part must consist of")),
        (json!({"name": "a", "labels": {"/a": "c"}}), format!("{label}\"/a\": prefix part must be non-empty")),
        (json!({"name": "a", "labels": {"A_/a": "c"}}), format!("{label}\"A_/a\": prefix part a lowercase RFC 1123 subdomain")),
        (json!({"name": "a", "labels": {"a/b/c": "c"}}), format!("{label}\"a/b/c\": a qualified name must consist of")),
        (json!({"name": "a", "labels": {"a/": "c"}}), format!("[{label}\"a/\": name part must be non-empty")),
        (json!({"name": "a", "labels": {"a": "-"}}), format!("{label}\"-\": a valid label must be")),
        (json!({"name": "a", "annotations": {"a b": "c"}}), "metadata.annotations: Invalid value: \"a b\"".into()),
        (json!({"name": "a", "annotations": {"a": big}}), "metadata.annotations: Too long: may not be more than 262144 bytes".into()),
        (json!({"name": "a", "finalizers": ["mine"]}), "metadata.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified".into()),
        (json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}), "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty".into()),
        (json!({"name": "a", "namespace": "nowhere"}), "namespaces \"nowhere\" not found".into()),
        (json!({"name": "a", "resourceVersion": "1"}), "resourceVersion should not be set on objects to be created".into()),
        (json!({"name": "a", "labels": {"a": 1}}), "ConfigMap in version \"v1\" cannot be handled as a ConfigMap".into()),
    ];
    let mut world = World::new();
    for (metadata, expected) in table {
        says(&world.refused(config_map(metadata)), &expected);
    }
    let twice = config_map(json!({"name": "a"}));
    world.create(twice.clone()).unwrap();
    assert_eq!(world.refused(twice), "configmaps \"a\" already exists");
    let kinds = [
        (
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}}),
            "a DNS-1035 label must",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}}),
            "a lowercase RFC 1123 label must",
        ),
    ];
    for (object, expected) in kinds {
        says(&world.refused(object), expected);
    }
}

#[test]
fn what_is_sent_must_fit_the_path() {
    let mut world = World::new();
    world.create(config_map(json!({"name": "a"}))).unwrap();
    let send = |world: &mut World, object: Value| {
        let key = key(&CONFIG_MAPS, "a");
        world.run(|ctx, view| update(ctx, view, &CONFIG_MAPS, &key, object, None)).unwrap_err().message
    };
    says(
        &send(&mut world, config_map(json!({"name": "b"}))),
        "the name of the object (b) does not match the name on the URL (a)",
    );
    says(
        &send(&mut world, config_map(json!({"name": "a", "namespace": "x"}))),
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    says(&send(&mut world, json!({"kind": "Secret"})), "the kind in the data (Secret) does not match");
    says(
        &send(&mut world, json!({"apiVersion": "v2"})),
        "the API version in the data (v2) does not match the expected API version (v1)",
    );
    says(&send(&mut world, json!([1])), "must be a ConfigMap object");
}

#[test]
fn updates_need_the_newest_version_and_the_same_object() {
    let mut world = World::new();
    world.create(config_map(json!({"name": "a"}))).unwrap();
    let old = world.get(&CONFIG_MAPS, "a").unwrap();
    let mut new = old.clone();
    new["data"]["b"] = json!("2");
    world.update(new.clone(), None).unwrap();
    let stale = world.update(new.clone(), None).unwrap_err();
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    says(&stale.message, "the object has been modified; please apply your changes to the latest version");
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    new["metadata"].as_object_mut().unwrap().remove("managedFields");
    let same = world.update(new.clone(), None).unwrap();
    assert!(same.changes.is_empty(), "no change, no write");
    assert_eq!(same.object, world.get(&CONFIG_MAPS, "a").unwrap());
    new["metadata"]["uid"] = json!("another");
    says(
        &world.update(new, None).unwrap_err().message,
        "Precondition failed: UID in precondition: another, UID in object meta: ",
    );
    let renamed = world.change(&CONFIG_MAPS, "a", None, |object| object["metadata"]["name"] = json!("b"));
    says(&renamed.unwrap_err().message, "metadata.name: Invalid value: \"b\": field is immutable");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l", "namespace": "default"}, "spec": {"leaseDurationSeconds": 4}});
    assert!(world.update(lease.clone(), None).unwrap().created);
    says(
        &world.update(lease, None).unwrap_err().message,
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    );
    assert!(world.get(&LEASES, "l").is_some());
}

#[test]
fn a_finalizer_holds_an_object_until_it_is_gone() {
    let mut world = World::new();
    world.create(config_map(json!({"name": "a", "finalizers": ["example.com/x"]}))).unwrap();
    let outcome = world.delete(&CONFIG_MAPS, "a", &DeleteOptions::default()).unwrap();
    assert!(!outcome.deleted && outcome.object["metadata"]["deletionTimestamp"].is_string());
    let again = world.delete(&CONFIG_MAPS, "a", &DeleteOptions::default()).unwrap();
    assert!(again.changes.is_empty());
    let more = world.change(&CONFIG_MAPS, "a", None, |object| {
        object["metadata"]["finalizers"] = json!(["example.com/x", "example.com/y"]);
    });
    says(&more.unwrap_err().message, "no new finalizers can be added if the object is being deleted");
    let gone = world
        .change(&CONFIG_MAPS, "a", None, |object| {
            object["metadata"].as_object_mut().unwrap().remove("finalizers");
        })
        .unwrap();
    assert!(gone.deleted && world.get(&CONFIG_MAPS, "a").is_none());
}

#[test]
fn a_service_held_by_a_finalizer_keeps_its_address_until_the_end() {
    let mut world = World::new();
    let object = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "finalizers": ["example.com/x"]},
        "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 1}]}});
    world.create(object).unwrap();
    world.delete(&SERVICES, "web", &DeleteOptions::default()).unwrap();
    assert!(world.holder("10.43.0.7").is_some());
    world.change(&SERVICES, "web", None, |object| object["metadata"]["finalizers"] = json!([])).unwrap();
    assert!(world.holder("10.43.0.7").is_none() && world.get(&SERVICES, "web").is_none());
}

#[test]
fn deletes_check_their_preconditions() {
    let mut world = World::new();
    world.create(config_map(json!({"name": "a"}))).unwrap();
    let with = |uid: Option<&str>, version: Option<&str>| DeleteOptions {
        preconditions: Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: version.map(str::to_owned),
        },
        ..DeleteOptions::default()
    };
    let refused = world.delete(&CONFIG_MAPS, "a", &with(Some("x"), None)).unwrap_err();
    assert_eq!(refused.code, 409);
    says(
        &refused.message,
        "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: x",
    );
    let refused = world.delete(&CONFIG_MAPS, "a", &with(None, Some("99"))).unwrap_err();
    says(&refused.message, "resourceVersion in precondition: 99, ResourceVersion in object meta: 3");
    let dry = DeleteOptions { dry_run: true, ..with(None, Some("3")) };
    assert!(world.delete(&CONFIG_MAPS, "a", &dry).unwrap().changes.is_empty());
    let done = world.delete(&CONFIG_MAPS, "a", &with(None, Some("3"))).unwrap();
    assert!(done.deleted && !done.written);
    assert_eq!(done.object["data"]["a"], "1", "the object as it was last");
    says(
        &world.delete(&CONFIG_MAPS, "a", &with(None, None)).unwrap_err().message,
        "configmaps \"a\" not found",
    );
}

#[test]
fn what_is_deleted_in_the_foreground_stays_for_the_garbage_collector() {
    let mut world = World::new();
    let with = |propagation| DeleteOptions { propagation, ..DeleteOptions::default() };
    let finalizers = |world: &World| world.get(&CONFIG_MAPS, "a").unwrap()["metadata"]["finalizers"].clone();
    world.create(config_map(json!({"name": "a", "finalizers": ["x/y", "orphan"]}))).unwrap();
    let outcome = world.delete(&CONFIG_MAPS, "a", &with(Some(Propagation::Foreground))).unwrap();
    assert!(!outcome.deleted && outcome.object["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(finalizers(&world), json!(["x/y", "foregroundDeletion"]));
    assert!(
        world.delete(&CONFIG_MAPS, "a", &with(None)).unwrap().changes.is_empty(),
        "what was asked for stays so"
    );
    // Whoever asks for another way gets it.
    world.delete(&CONFIG_MAPS, "a", &with(Some(Propagation::Background))).unwrap();
    assert_eq!(finalizers(&world), json!(["x/y"]));
    world.delete(&CONFIG_MAPS, "a", &with(Some(Propagation::Foreground))).unwrap();
    let lift =
        |finalizers: Value| move |object: &mut Value| object["metadata"]["finalizers"] = finalizers.clone();
    world.change(&CONFIG_MAPS, "a", None, lift(json!(["foregroundDeletion"]))).unwrap();
    assert!(world.change(&CONFIG_MAPS, "a", None, lift(json!([]))).unwrap().deleted);
}

#[test]
fn orphaned_objects_lose_their_owner() {
    let mut world = World::new();
    world.create(config_map(json!({"name": "owner"}))).unwrap();
    let uid = world.get(&CONFIG_MAPS, "owner").unwrap()["metadata"]["uid"].clone();
    let owners = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    world.create(config_map(json!({"name": "owned", "ownerReferences": owners}))).unwrap();
    let options = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
    world.delete(&CONFIG_MAPS, "owner", &options).unwrap();
    assert_eq!(world.get(&CONFIG_MAPS, "owned").unwrap()["metadata"]["ownerReferences"], json!([]));
}

#[test]
fn delete_options_are_read_as_kubectl_sends_them() {
    let options =
        DeleteOptions::from_value(&json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"}, "dryRun": ["All"]}))
        .unwrap();
    assert_eq!((options.grace_period_seconds, options.dry_run), (Some(0), true));
    assert_eq!(options.preconditions.uid.as_deref(), Some("u"));
    for (body, expected) in [
        (json!({"propagationPolicy": "Sideways"}), "propagationPolicy: Unsupported value: \"Sideways\""),
        (json!({"gracePeriodSeconds": "1"}), "gracePeriodSeconds: must be an integer"),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), "only one of them"),
    ] {
        says(&DeleteOptions::from_value(&body).unwrap_err(), expected);
    }
}

#[test]
fn a_namespace_goes_when_its_finalizer_does() {
    let mut world = World::new();
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "namespace": "x"}});
    let object = world.create(namespace).unwrap().object;
    assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(object["status"], json!({"phase": "Active"}));
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    assert!(object["metadata"].get("namespace").is_none());
    let outcome = world.delete(&NAMESPACES, "shop", &DeleteOptions::default()).unwrap();
    assert_eq!(outcome.object["status"]["phase"], "Terminating");
    let mut late = config_map(json!({"name": "late"}));
    late["metadata"]["namespace"] = json!("shop");
    assert_eq!(
        world.refused(late),
        "configmaps \"late\" is forbidden: unable to create new content in namespace shop because it is being terminated"
    );
    let plain =
        world.change(&NAMESPACES, "shop", None, |object| object["spec"]["finalizers"] = json!([])).unwrap();
    assert_eq!(plain.object["spec"]["finalizers"], json!(["kubernetes"]), "only finalize may change them");
    let gone = world
        .change(&NAMESPACES, "shop", Some("finalize"), |object| object["spec"]["finalizers"] = json!([]))
        .unwrap();
    assert!(gone.deleted && world.get(&NAMESPACES, "shop").is_none());
    for name in ["default", "kube-system"] {
        let refused = world.delete(&NAMESPACES, name, &DeleteOptions::default()).unwrap_err();
        assert_eq!(refused.code, 403);
        says(&refused.message, "is forbidden: this namespace may not be deleted");
    }
}
