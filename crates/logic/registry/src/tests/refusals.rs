//! Refusals of every kind: one line a rule, `what is sent => what is said`, in `refusals/KIND.txt`.

use super::{World, says};
use serde_json::{Value, json};

/// Sends each line of a file, merged into `base` at `section`; each must be refused and change nothing.
fn all_are_refused(lines: &str, base: &Value, section: &str) {
    let mut world = World::new();
    for line in lines.lines() {
        let (sent, expected) = line.split_once(" => ").unwrap();
        let sent: Value = serde_json::from_str(sent).unwrap();
        let mut object = base.clone();
        object["metadata"] = json!({"name": if base["kind"] == "IPAddress" { "192.0.2.7" } else { "web" }});
        let target = object.pointer_mut(section).unwrap().as_object_mut().unwrap();
        target.extend(sent.as_object().unwrap().clone());
        says(&world.refused(object), expected);
    }
}

fn base(api_version: &str, kind: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "spec": {}})
}

#[test]
fn pods() {
    all_are_refused(include_str!("refusals/pods.txt"), &base("v1", "Pod"), "/spec");
}

#[test]
fn lives_of_pods() {
    let mut base = base("v1", "Pod");
    base["spec"]["containers"] = json!([{"name": "c", "image": "echo"}]);
    all_are_refused(include_str!("refusals/pods_life.txt"), &base, "/spec");
    all_are_refused(include_str!("refusals/pods_host.txt"), &base, "/spec");
    all_are_refused(include_str!("refusals/pods_security.txt"), &base, "/spec");
    all_are_refused(include_str!("refusals/pods_volumes.txt"), &base, "/spec");
}

#[test]
fn where_pods_may_run() {
    let mut base = base("v1", "Pod");
    base["spec"] = json!({"containers": [{"name": "c", "image": "echo"}]});
    all_are_refused(include_str!("refusals/pods_placement.txt"), &base, "/spec");
}

#[test]
fn workloads() {
    for (kind, lines) in [
        ("Deployment", include_str!("refusals/deployments.txt")),
        ("ReplicaSet", include_str!("refusals/replicasets.txt")),
    ] {
        let mut base = base("apps/v1", kind);
        let labels = json!({"app": "web"});
        let pod = json!({"containers": [{"name": "c", "image": "echo"}]});
        base["spec"] = json!({"selector": {"matchLabels": labels},
                              "template": {"metadata": {"labels": labels}, "spec": pod}});
        all_are_refused(lines, &base, "/spec");
    }
}

#[test]
fn nodes() {
    all_are_refused(include_str!("refusals/nodes.txt"), &base("v1", "Node"), "/spec");
}

#[test]
fn leases() {
    all_are_refused(include_str!("refusals/leases.txt"), &base("coordination.k8s.io/v1", "Lease"), "/spec");
}

#[test]
fn ingresses() {
    let base = base("networking.k8s.io/v1", "Ingress");
    all_are_refused(include_str!("refusals/ingresses.txt"), &base, "/spec");
}

#[test]
fn ingress_classes() {
    let base = base("networking.k8s.io/v1", "IngressClass");
    all_are_refused(include_str!("refusals/ingressclasses.txt"), &base, "/spec");
}

#[test]
fn service_cidrs() {
    let base = base("networking.k8s.io/v1", "ServiceCIDR");
    all_are_refused(include_str!("refusals/servicecidrs.txt"), &base, "/spec");
}

#[test]
fn ip_addresses() {
    let mut base = base("networking.k8s.io/v1", "IPAddress");
    base["spec"] = json!({"parentRef": {"resource": "gateways", "name": "g"}});
    all_are_refused(include_str!("refusals/ipaddresses.txt"), &base, "");
}

#[test]
fn events() {
    all_are_refused(include_str!("refusals/events.txt"), &base("v1", "Event"), "");
}

#[test]
fn events_of_the_newer_api() {
    let base = base("events.k8s.io/v1", "Event");
    all_are_refused(include_str!("refusals/events.k8s.io.txt"), &base, "");
}

#[test]
fn secrets() {
    all_are_refused(include_str!("refusals/secrets.txt"), &base("v1", "Secret"), "");
}

#[test]
fn service_accounts() {
    all_are_refused(include_str!("refusals/serviceaccounts.txt"), &base("v1", "ServiceAccount"), "");
}

#[test]
fn config_maps() {
    all_are_refused(include_str!("refusals/configmaps.txt"), &base("v1", "ConfigMap"), "");
}

#[test]
fn endpoints() {
    all_are_refused(include_str!("refusals/endpoints.txt"), &base("v1", "Endpoints"), "");
}

#[test]
fn endpoint_slices() {
    let mut base = base("discovery.k8s.io/v1", "EndpointSlice");
    base["addressType"] = json!("IPv4");
    base["endpoints"] = json!([{"addresses": ["10.42.0.5"]}]);
    all_are_refused(include_str!("refusals/endpointslices.txt"), &base, "");
}

#[test]
fn too_much_of_anything() {
    let big = "x".repeat((1 << 20) + 1);
    let many = |count: usize, item: Value| Value::Array(vec![item; count]);
    let slice = |endpoints: Value, ports: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"},
               "addressType": "IPv4", "endpoints": endpoints, "ports": ports})
    };
    let endpoint = json!({"addresses": ["10.42.0.5"]});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": big}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": big}});
    let mut world = World::new();
    for (object, expected) in [
        (slice(many(1001, endpoint), json!([])), "endpoints: Too many: 1001: must have at most 1000 items"),
        (
            slice(json!([]), many(101, json!({"port": 1}))),
            "ports: Too many: 101: must have at most 100 items",
        ),
        (secret, "data: Too long: may not be more than 1048576 bytes"),
        (map, "Too long: may not be more than 1048576 bytes"),
    ] {
        says(&world.refused(object), expected);
    }
}
