//! The smaller kinds: what is filled in, kept and fixed.

use super::{World, key, says};
use crate::apply;
use minisvc_apimachinery::{
    managed::Force,
    resource::{CONFIG_MAPS, ENDPOINT_SLICES, INGRESS_CLASSES, INGRESSES, NODES, SECRETS},
};
use serde_json::{Value, json};

fn object(api_version: &str, kind: &str, rest: Value) -> Value {
    let mut all = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
    all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    all
}

fn slice(rest: Value) -> Value {
    let mut all = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.42.0.5"]}], "ports": []});
    all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object("discovery.k8s.io/v1", "EndpointSlice", all)
}

fn path(path: &str, kind: &str, backend: Value) -> Value {
    let spec =
        json!({"rules": [{"http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}]});
    object("networking.k8s.io/v1", "Ingress", json!({"spec": spec}))
}

fn backend() -> Value {
    json!({"service": {"name": "web", "port": {"number": 80}}})
}

#[test]
fn endpoint_slices() {
    let mut world = World::new();
    let mut good = slice(json!({"ports": [{"port": 80}]}));
    good["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
    let made = world.create(good).unwrap().object;
    assert_eq!(made["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    assert_eq!(made["metadata"]["labels"], json!({"kubernetes.io/service-name": "web"}));
    let changed = world.change(&ENDPOINT_SLICES, "x", None, |object| {
        object["addressType"] = json!("IPv6");
        object["endpoints"] = json!([]);
    });
    says(&changed.unwrap_err().message, "addressType: Invalid value: \"IPv6\": field is immutable");
    let grown = world.change(&ENDPOINT_SLICES, "x", None, |object| {
        object["endpoints"][0]["conditions"] = json!({"ready": true});
    });
    assert_eq!(grown.unwrap().object["metadata"]["generation"], 2);
}

#[test]
fn ingresses() {
    let mut world = World::new();
    world.create(path("/", "Prefix", backend())).unwrap();
    let status = world.change(&INGRESSES, "x", Some("status"), |object| {
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "nope"}]}});
    });
    says(
        &status.unwrap_err().message,
        "status.loadBalancer.ingress[0].ip: Invalid value: \"nope\": must be a valid IP address",
    );
}

fn class(name: &str, default: bool) -> Value {
    let mut class = object("networking.k8s.io/v1", "IngressClass", json!({"spec": {"controller": "a.b/c"}}));
    class["metadata"] = json!({"name": name, "annotations": {}});
    if default {
        class["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] = json!("true");
    }
    class
}

#[test]
fn a_new_ingress_without_a_class_gets_the_default_one() {
    let mut world = World::new();
    let made = |world: &mut World, name: &str, change: &dyn Fn(&mut Value)| {
        let mut ingress = path("/", "Prefix", backend());
        ingress["metadata"] = json!({"name": name, "annotations": {}});
        change(&mut ingress);
        let made = world.create(ingress).unwrap().object;
        let owned = made.pointer("/metadata/managedFields/0/fieldsV1/f:spec/f:ingressClassName").is_some();
        (made["spec"]["ingressClassName"].clone(), owned)
    };
    world.create(class("plain", false)).unwrap();
    assert_eq!(made(&mut world, "none", &|_| ()), (Value::Null, false));
    world.create(class("a", true)).unwrap();
    assert_eq!(made(&mut world, "first", &|_| ()), (json!("a"), false), "nobody's field");
    world.now = "2026-01-02T04:00:00Z".parse().unwrap();
    world.create(class("c", true)).unwrap();
    world.create(class("b", true)).unwrap();
    assert_eq!(made(&mut world, "newest", &|_| ()).0, "b", "the newest, then the first by name");
    let named = |ingress: &mut Value| ingress["spec"]["ingressClassName"] = json!("plain");
    assert_eq!(made(&mut world, "named", &named), (json!("plain"), true));
    let annotated = |ingress: &mut Value| {
        ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"] = json!("plain");
    };
    assert_eq!(made(&mut world, "annotated", &annotated).0, Value::Null);
    let mut applied = path("/", "Prefix", backend());
    applied["metadata"]["name"] = json!("applied");
    let outcome = world.run(|ctx, view| {
        apply(ctx, view, &INGRESSES, &key(&INGRESSES, "applied"), &applied, Force::No, None)
    });
    assert_eq!(outcome.unwrap().object["spec"]["ingressClassName"], "b", "applied ones too");
    // An update takes the class away for good.
    let changed = world.change(&INGRESSES, "first", None, |object| {
        object["spec"].as_object_mut().unwrap().remove("ingressClassName");
    });
    assert_eq!(changed.unwrap().object["spec"].get("ingressClassName"), None);
}

#[test]
fn a_class_annotation_must_agree_in_a_new_ingress_only() {
    let mut world = World::new();
    let mut ingress = path("/", "Prefix", backend());
    ingress["spec"]["ingressClassName"] = json!("a");
    world.create(ingress.clone()).unwrap();
    let annotations = json!({"kubernetes.io/ingress.class": "b"});
    let changed = world.change(&INGRESSES, "x", None, |object| {
        object["metadata"]["annotations"] = annotations.clone();
        object["spec"]["ingressClassName"] = json!("c");
    });
    changed.unwrap();
    ingress["metadata"] = json!({"name": "y", "annotations": annotations});
    says(
        &world.refused(ingress),
        "annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match `ingressClassName` when both are specified",
    );
}

#[test]
fn ingress_classes() {
    let mut world = World::new();
    let mut made = class("x", false);
    made["spec"]["parameters"] = json!({"kind": "K", "name": "p"});
    let made = world.create(made).unwrap().object;
    assert_eq!(made["spec"]["parameters"]["scope"], "Cluster");
    assert_eq!(made["metadata"]["generation"], 1);
    let mut change = |pointer: &str, to: &str| {
        world.change(&INGRESS_CLASSES, "x", None, |object| *object.pointer_mut(pointer).unwrap() = json!(to))
    };
    assert_eq!(change("/spec/parameters/name", "q").unwrap().object["metadata"]["generation"], 2);
    let refused = change("/spec/controller", "a.b/d").unwrap_err();
    assert_eq!(
        refused.message,
        "IngressClass.networking.k8s.io \"x\" is invalid: spec.controller: Invalid value: \"a.b/d\": field is immutable"
    );
}

#[test]
fn secrets_and_config_maps() {
    let secret = |rest: Value| object("v1", "Secret", rest);
    let map = |rest: Value| object("v1", "ConfigMap", rest);
    let mut world = World::new();
    let made = world
        .create(secret(json!({"stringData": {"a": "hello", "b": "2"}, "data": {"a": "b2xk", "c": "Mw=="}, "immutable": true})))
        .unwrap()
        .object;
    assert_eq!(made["data"], json!({"a": "aGVsbG8=", "b": "Mg==", "c": "Mw=="}));
    assert_eq!(made["type"], "Opaque");
    assert!(made.get("stringData").is_none());
    let changed = world.change(&SECRETS, "x", None, |object| {
        object["data"]["a"] = json!("");
        object["type"] = json!("other");
        object["immutable"] = json!(false);
    });
    let message = changed.unwrap_err().message;
    for expected in [
        "immutable: Forbidden: field is immutable when `immutable` is set",
        "data: Forbidden: field is immutable when `immutable` is set",
        "type: Invalid value: \"other\": field is immutable",
    ] {
        says(&message, expected);
    }
    world.create(map(json!({"data": {"a": "1"}, "immutable": true}))).unwrap();
    let changed = world.change(&CONFIG_MAPS, "x", None, |object| object["binaryData"] = json!({"b": ""}));
    says(&changed.unwrap_err().message, "binaryData: Forbidden: field is immutable when `immutable` is set");
}

#[test]
fn events_and_nodes() {
    let event =
        |about: &str| object("v1", "Event", json!({"involvedObject": {"kind": "Pod", "namespace": about}}));
    let node = |spec: Value| object("v1", "Node", json!({"spec": spec}));
    let mut world = World::new();
    world.create(event("")).unwrap();
    let mut new = node(json!({}));
    new["status"] = json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
    let made = world.create(new).unwrap().object;
    assert_eq!(made["status"]["addresses"][0]["address"], "192.0.2.1", "a node registers with its addresses");
    let set = |cidr: &'static str| move |object: &mut Value| object["spec"] = json!({"podCIDR": cidr});
    let given = world.change(&NODES, "x", None, set("10.42.3.0/24")).unwrap().object;
    assert_eq!(given["spec"]["podCIDRs"], json!(["10.42.3.0/24"]));
    says(
        &world.change(&NODES, "x", None, set("10.42.4.0/24")).unwrap_err().message,
        "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
    );
    let twice = world.change(&NODES, "x", Some("status"), |object| {
        let address = json!({"type": "InternalIP", "address": "192.0.2.1"});
        object["status"]["addresses"] = json!([address, address]);
    });
    says(&twice.unwrap_err().message, "status.addresses[1]: Duplicate value: ");
}
