use super::*;
use crate::{
    patch::{PatchType, apply},
    resource::{PODS, SERVICES},
};
use proptest::prelude::*;

fn patched(resource: &Resource, current: &Value, patch: &Value) -> Value {
    apply(PatchType::Strategic, resource, current, patch).unwrap()
}

#[test]
fn nothing_to_do_is_an_empty_patch() {
    let manifest = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    let current = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "uid": "1"},
        "spec": {"clusterIP": "10.43.0.2", "selector": {"app": "web"}, "ports":
            [{"port": 80, "protocol": "TCP", "nodePort": 30000, "targetPort": "http"}]}});
    assert_eq!(three_way(&SERVICES, Some(&manifest), &manifest, &current), json!({}));
}

#[test]
fn what_the_manifest_dropped_goes_and_what_others_set_stays() {
    let original = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x/a", "x/b"]},
        "spec": {"ports": [{"port": 80}, {"port": 81}]}});
    let modified = json!({"metadata": {"labels": {"a": "3"}, "finalizers": ["x/b"]}, "spec": {"ports": [{"port": 80, "name": "http"}]}});
    let current = json!({"metadata": {"labels": {"a": "1", "b": "2", "c": "9"}, "finalizers": ["x/a", "x/b", "x/c"]},
        "spec": {"ports": [{"port": 80, "nodePort": 30000}, {"port": 81}], "type": "NodePort"}});
    let patch = three_way(&SERVICES, Some(&original), &modified, &current);
    assert_eq!(
        patched(&SERVICES, &current, &patch),
        json!({"metadata": {"labels": {"a": "3", "c": "9"}, "finalizers": ["x/b", "x/c"]},
            "spec": {"ports": [{"port": 80, "nodePort": 30000, "name": "http"}], "type": "NodePort"}})
    );
}

#[test]
fn two_protocols_on_a_port_keep_what_the_server_gave_them() {
    let manifest = |name: &str| json!({"spec": {"ports": [{"port": 53, "name": "tcp"}, {"port": 53, "protocol": "UDP", "name": name}]}});
    let current = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP", "name": "tcp", "nodePort": 30001},
        {"port": 53, "protocol": "UDP", "name": "udp", "nodePort": 30002}]}});
    let same = three_way(&SERVICES, Some(&manifest("udp")), &manifest("udp"), &current);
    assert_eq!(same, json!({}));
    let patch = three_way(&SERVICES, Some(&manifest("udp")), &manifest("dns"), &current);
    let ports = patched(&SERVICES, &current, &patch)["spec"]["ports"].take();
    assert_eq!(
        ports,
        json!([{"port": 53, "protocol": "TCP", "name": "tcp", "nodePort": 30001},
            {"port": 53, "protocol": "UDP", "name": "dns", "nodePort": 30002}])
    );
}

/// A small Pod manifest: scalars, a map, lists by key inside lists by key, a set, a list without keys.
fn manifest() -> impl Strategy<Value = Value> {
    let word = || prop::sample::select(vec!["a", "b", "c"]);
    let labels = prop::collection::btree_map(word(), word(), 0..3);
    let ports = prop::collection::btree_map(80_u16..84, prop::option::of(word()), 0..3);
    let container = (word(), prop::option::of(word()), prop::collection::vec(word(), 0..3), ports);
    let containers = prop::collection::vec(container, 0..3);
    let finalizers = prop::collection::btree_set(word(), 0..3);
    (labels, containers, finalizers, prop::option::of(word())).prop_map(|(labels, containers, finalizers, node)| {
        let mut names = BTreeSet::new();
        let containers: Vec<Value> = containers
            .into_iter()
            .filter(|container| names.insert(container.0))
            .map(|(name, image, args, ports)| {
                let ports: Vec<Value> = ports
                    .into_iter()
                    .map(|(port, name)| match name {
                        Some(name) => json!({"containerPort": port, "name": name}),
                        None => json!({"containerPort": port}),
                    })
                    .collect();
                let mut container = json!({"name": name, "args": args, "ports": ports});
                if let Some(image) = image {
                    container["image"] = json!(image);
                }
                container
            })
            .collect();
        let mut pod = json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": containers}});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        pod
    })
}

/// Whether `object` has all that `wanted` names; keyed and primitive lists may hold more.
fn covers(object: &Value, wanted: &Value) -> bool {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| object.get(name).is_some_and(|object| covers(object, wanted)))
        }
        (Value::Array(object), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| object.iter().any(|object| covers(object, wanted)))
        }
        _ => object == wanted,
    }
}

proptest! {
    #[test]
    fn apply_gives_what_the_manifest_says_and_is_then_done(
        original in manifest(), modified in manifest(), others in manifest()
    ) {
        let mut current = patched(&PODS, &others, &original);
        current["status"] = json!({"phase": "Running"});
        let patch = three_way(&PODS, Some(&original), &modified, &current);
        let result = patched(&PODS, &current, &patch);
        prop_assert!(covers(&result, &modified), "{patch}\n{result}");
        prop_assert_eq!(&result["status"], &current["status"]);
        // What only others set stays; what only the last manifest set is gone.
        for (name, value) in others["metadata"]["labels"].as_object().unwrap() {
            if original["metadata"]["labels"].get(name).is_none() && modified["metadata"]["labels"].get(name).is_none() {
                prop_assert_eq!(&result["metadata"]["labels"][name], value);
            }
        }
        for name in original["metadata"]["labels"].as_object().unwrap().keys() {
            if modified["metadata"]["labels"].get(name).is_none() {
                prop_assert!(result["metadata"]["labels"].get(name).is_none());
            }
        }
        prop_assert_eq!(three_way(&PODS, Some(&modified), &modified, &result), json!({}));
    }

    #[test]
    fn a_strategic_patch_applied_twice_is_applied_once(object in manifest(), patch in manifest()) {
        let once = patched(&PODS, &object, &patch);
        prop_assert_eq!(patched(&PODS, &once, &patch), once);
    }
}
