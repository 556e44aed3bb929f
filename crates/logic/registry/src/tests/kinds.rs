//! The smaller kinds: what is filled in, kept and fixed.

use super::{World, says};
use minisvc_apimachinery::resource::{CONFIG_MAPS, ENDPOINT_SLICES, NODES, SECRETS};
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
    let status = world.change(&minisvc_apimachinery::resource::INGRESSES, "x", Some("status"), |object| {
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "nope"}]}});
    });
    says(
        &status.unwrap_err().message,
        "status.loadBalancer.ingress[0].ip: Invalid value: \"nope\": must be a valid IP address",
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
