//! Services: what an update takes over, allocates, frees and refuses.

use super::{World, says, services::service};
use minisvc_apimachinery::resource::SERVICES;
use serde_json::{Value, json};

fn records(world: &World) -> Vec<String> {
    world
        .store
        .entries
        .keys()
        .filter(|key| key.starts_with('_') || key.starts_with("ipaddresses"))
        .cloned()
        .collect()
}

#[test]
fn an_update_that_leaves_allocated_values_out_keeps_them() {
    let mut world = World::new();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"a": "1"},
                      "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
    let before = world.create(service(spec.clone())).unwrap().object;
    let (held, mut spec) = (records(&world), spec);
    spec["selector"] = json!({"a": "2"});
    spec["ports"][0]["targetPort"] = json!("web");
    let after = world.update(service(spec), None).unwrap().object;
    for pointer in [
        "/spec/clusterIP",
        "/spec/clusterIPs",
        "/spec/ports/0/nodePort",
        "/spec/ports/1/nodePort",
        "/spec/healthCheckNodePort",
        "/metadata/uid",
        "/metadata/creationTimestamp",
    ] {
        assert_eq!(before.pointer(pointer), after.pointer(pointer), "{pointer}");
    }
    assert_eq!(after["spec"]["selector"], json!({"a": "2"}));
    assert_eq!(records(&world), held);
}

#[test]
fn changes_of_type_allocate_and_release() {
    let mut world = World::new();
    world.create(service(json!({"type": "ExternalName", "externalName": "example.com"}))).unwrap();
    assert_eq!(records(&world).len(), 0);
    let to = |world: &mut World, change: &dyn Fn(&mut Value)| {
        world.change(&SERVICES, "web", None, |object| change(&mut object["spec"])).unwrap().object
    };
    let object = to(&mut world, &|spec| {
        spec["type"] = json!("NodePort");
        spec["ports"] = json!([{"port": 80}]);
    });
    let (ip, port) = (object["spec"]["clusterIP"].clone(), object["spec"]["ports"][0]["nodePort"].clone());
    assert_eq!(records(&world).len(), 2);
    let object = to(&mut world, &|spec| spec["type"] = json!("LoadBalancer"));
    assert_eq!((&object["spec"]["clusterIP"], &object["spec"]["ports"][0]["nodePort"]), (&ip, &port));
    let object = to(&mut world, &|spec| spec["type"] = json!("ClusterIP"));
    assert_eq!(records(&world), [format!("ipaddresses.networking.k8s.io/{}", ip.as_str().unwrap())]);
    assert!(object["spec"]["ports"][0].get("nodePort").is_none());
    assert!(object["spec"].get("allocateLoadBalancerNodePorts").is_none());
    assert!(object["spec"].get("externalTrafficPolicy").is_none());
    let object = to(&mut world, &|spec| spec["type"] = json!("ExternalName"));
    assert!(object["spec"].get("clusterIP").is_none() && object["spec"].get("ipFamilies").is_none());
    assert_eq!(records(&world).len(), 0);
}

#[test]
fn a_load_balancer_that_stops_being_one_loses_its_address() {
    let mut world = World::new();
    world.create(service(json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))).unwrap();
    let given = world
        .change(&SERVICES, "web", Some("status"), |object| {
            object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
            object["spec"]["type"] = json!("NodePort");
        })
        .unwrap()
        .object;
    assert_eq!(given["spec"]["type"], "LoadBalancer", "a status update changes the status only");
    assert_eq!(given["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.7", "ipMode": "VIP"}]));
    let kept = world
        .change(&SERVICES, "web", None, |object| {
            object["status"] = json!({});
            object["metadata"]["labels"] = json!({"a": "b"});
        })
        .unwrap();
    assert_eq!(kept.object["status"], given["status"], "a plain update does not change the status");
    let after =
        world.change(&SERVICES, "web", None, |object| object["spec"]["type"] = json!("NodePort")).unwrap();
    assert_eq!(after.object["status"], json!({"loadBalancer": {}}));
    let refused = world
        .change(&SERVICES, "web", Some("status"), |object| {
            object["status"]["loadBalancer"] = json!({"ingress": [{"ip": "192.0.2.7"}]});
        })
        .unwrap_err();
    says(&refused.message, "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is");
}

#[test]
fn a_node_port_can_be_changed_and_the_old_one_is_free_again() {
    let mut world = World::new();
    world.create(service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}))).unwrap();
    world
        .change(&SERVICES, "web", None, |object| object["spec"]["ports"][0]["nodePort"] = json!(30002))
        .unwrap();
    assert!(world.record("_nodeports/30001").is_none());
    assert_eq!(world.record("_nodeports/30002").as_deref(), Some("services/default/web"));
}

#[test]
fn what_may_not_change_is_refused() {
    type Change = fn(&mut Value);
    let table: [(Value, Change, &str); 7] = [
        (
            json!({}),
            |s| {
                s["clusterIP"] = json!("10.43.0.9");
                s["clusterIPs"] = json!(["10.43.0.9"])
            },
            "spec.clusterIPs[0]: Invalid value: [\"10.43.0.9\"]: may not change once set",
        ),
        (json!({}), |s| s["clusterIP"] = json!("None"), "may not change once set"),
        (
            json!({}),
            |s| s["ipFamilies"] = json!(["IPv6"]),
            "expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerClass": "a/b"}),
            |s| s["loadBalancerClass"] = json!("a/c"),
            "spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set",
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
            |s| s["healthCheckNodePort"] = json!(30009),
            "spec.healthCheckNodePort: Forbidden: field is immutable",
        ),
        (json!({}), |s| s["externalIPs"] = json!(["192.0.2.1"]), "Use of external IPs is denied"),
        (
            json!({}),
            |s| s["ports"][0]["nodePort"] = json!(30009),
            "may not be used when `type` is 'ClusterIP'",
        ),
    ];
    for (more, change, expected) in table {
        let mut world = World::new();
        let mut spec = json!({"ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.create(service(spec)).unwrap();
        let before = world.store.entries.clone();
        let status = world.change(&SERVICES, "web", None, |object| change(&mut object["spec"])).unwrap_err();
        says(&status.message, expected);
        assert_eq!(world.store.entries, before);
    }
}

#[test]
fn an_update_of_an_absent_service_makes_it() {
    let mut world = World::new();
    let outcome = world.update(service(json!({"ports": [{"port": 80}]})), None).unwrap();
    assert!(outcome.created);
    let again = world.change(&SERVICES, "web", None, |_| {}).unwrap();
    assert!(again.changes.is_empty() && !again.written, "no change, no write");
    assert_eq!(again.object, world.get(&SERVICES, "web").unwrap(), "with the resourceVersion it has");
}

#[test]
fn a_dual_stack_cluster_gives_two_addresses() {
    let mut world = World::new();
    world.cluster.service_cidrs.push("fd00:43::/112".parse().unwrap());
    let object = world
        .create(service(json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]})))
        .unwrap()
        .object;
    assert_eq!(object["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(object["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(records(&world).len(), 2);
    let single = world
        .change(&SERVICES, "web", None, |object| object["spec"]["ipFamilyPolicy"] = json!("SingleStack"))
        .unwrap()
        .object;
    assert_eq!(single["spec"]["clusterIPs"], json!([object["spec"]["clusterIP"]]));
    assert_eq!(records(&world).len(), 1);
}
