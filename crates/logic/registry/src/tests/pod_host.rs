//! Pods in their node's network, and ports of nodes: defaults and refusals.

use super::World;
use serde_json::{Value, json};

fn spec(ports: Value) -> Value {
    let init = json!([{"name": "i", "image": "echo", "ports": [{"containerPort": 82}]}]);
    let containers = json!([{"name": "c", "image": "echo", "ports": ports}]);
    json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet", "containers": containers, "initContainers": init})
}

#[test]
fn the_nodes_ports_are_the_containers_in_its_network() {
    let mut world = World::new();
    let ports = json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 81, "hostIP": "192.0.2.1"}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec(ports)});
    let made = world.create(pod).unwrap().object;
    let numbers = |list: &str| -> Vec<Value> {
        let ports = made["spec"][list][0]["ports"].as_array().unwrap();
        ports.iter().map(|port| port["hostPort"].clone()).collect()
    };
    assert_eq!(numbers("containers"), [80, 81]);
    assert_eq!(numbers("initContainers"), [82]);
}

#[test]
fn other_pods_have_the_nodes_ports_they_say() {
    let mut world = World::new();
    let ports = json!([{"containerPort": 80}, {"containerPort": 80, "hostPort": 8080, "protocol": "UDP"},
        {"containerPort": 81, "hostPort": 8080, "hostIP": "192.0.2.1"}, {"containerPort": 82, "hostPort": 8080, "hostIP": "::"}]);
    let mut spec = spec(ports);
    spec["hostNetwork"] = false.into();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
    let made = world.create(pod).unwrap().object;
    let ports = made["spec"]["containers"][0]["ports"].as_array().unwrap();
    let numbers: Vec<_> = ports.iter().map(|port| port["hostPort"].as_i64().unwrap_or(0)).collect();
    assert_eq!(numbers, [0, 8080, 8080, 8080]);
}

#[test]
fn templates_leave_them_open() {
    let mut world = World::new();
    let labels = json!({"app": "web"});
    let deployment = |ports: Value| {
        let template = json!({"metadata": {"labels": labels}, "spec": spec(ports)});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
               "spec": {"selector": {"matchLabels": labels}, "template": template}})
    };
    let refused = world.refused(deployment(json!([{"containerPort": 80, "hostPort": 81}])));
    let field = "spec.template.spec.containers[0].ports[0].hostPort: Invalid value: 81";
    assert!(refused.contains(field), "{refused}");
    let made = world.create(deployment(json!([{"containerPort": 80}]))).unwrap().object;
    let port = &made["spec"]["template"]["spec"]["containers"][0]["ports"][0];
    assert_eq!(*port, json!({"containerPort": 80, "protocol": "TCP"}));
}
