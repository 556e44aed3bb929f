//! Whatever is done to Services: the records are what a naive scan of the stored Services says.

use super::{World, key};
use crate::{DeleteOptions, patch};
use minisvc_apimachinery::resource::{IP_ADDRESSES, SERVICES};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Create(u8, Value),
    Update(u8, Value),
    Patch(u8, Value),
    Delete(u8),
    Keep(u8),
    Release(u8),
}

fn port() -> impl Strategy<Value = Value> {
    let number = prop_oneof![Just(Value::Null), (29_998..30_008).prop_map(Value::from)];
    (1..3, prop::bool::ANY, number, 0..3).prop_map(|(port, udp, node_port, name)| {
        let mut object =
            json!({"name": format!("p{name}"), "port": port, "protocol": if udp { "UDP" } else { "TCP" }});
        if !node_port.is_null() {
            object["nodePort"] = node_port;
        }
        object
    })
}

fn spec() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let ip = prop_oneof![
        4 => Just(Value::Null),
        1 => Just(json!("None")),
        3 => (0..20_u8).prop_map(|n| json!(format!("10.43.0.{n}"))),
    ];
    let health = prop_oneof![2 => Just(Value::Null), 1 => (30_000..30_008).prop_map(Value::from)];
    (kind, ip, prop::collection::vec(port(), 0..3), prop::bool::ANY, health, prop::bool::ANY).prop_map(
        |(kind, ip, ports, local, health, allocate)| {
            let mut spec = json!({"type": kind, "ports": ports});
            if !ip.is_null() {
                spec["clusterIP"] = ip;
            }
            if kind == "ExternalName" {
                spec["externalName"] = json!("example.com");
            }
            if local && kind != "ClusterIP" {
                spec["externalTrafficPolicy"] = json!("Local");
            }
            if kind == "LoadBalancer" {
                spec["allocateLoadBalancerNodePorts"] = json!(allocate);
                if local && !health.is_null() {
                    spec["healthCheckNodePort"] = health;
                }
            }
            spec
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..5_u8, spec()).prop_map(|(name, spec)| Step::Create(name, spec)),
        3 => (0..5_u8, spec()).prop_map(|(name, spec)| Step::Update(name, spec)),
        3 => (0..5_u8, spec()).prop_map(|(name, spec)| Step::Patch(name, spec)),
        1 => (0..5_u8).prop_map(Step::Delete),
        1 => (0..20_u8).prop_map(Step::Keep),
        1 => (0..20_u8).prop_map(Step::Release),
    ]
}

/// What the stored Services hold, read from them in the plainest way; a conflict is a panic.
fn scanned(world: &World) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (key, stored) in world.store.entries.iter().filter(|(key, _)| key.starts_with("services/")) {
        let object: Value = serde_json::from_slice(&stored.value).unwrap();
        let spec = &object["spec"];
        let kind = spec["type"].as_str().unwrap();
        let mut mine = Vec::new();
        for ip in spec["clusterIPs"].as_array().into_iter().flatten().filter(|ip| **ip != "None") {
            mine.push(crate::kinds::ip_address::key(ip.as_str().unwrap().parse().unwrap()));
        }
        // An ExternalName may carry node ports, as in Kubernetes, and has none of them.
        for port in spec["ports"].as_array().into_iter().flatten().filter(|_| kind != "ExternalName") {
            if let Some(number) = port["nodePort"].as_i64() {
                mine.push(format!("_nodeports/{number}"));
            }
        }
        mine.sort();
        mine.dedup();
        if let Some(number) = spec["healthCheckNodePort"].as_i64() {
            mine.push(format!("_nodeports/{number}"));
        }
        let wants_ip = kind != "ExternalName" && spec["clusterIP"] != "None";
        assert_eq!(wants_ip, mine.iter().any(|record| record.starts_with("ipaddresses")), "{object}");
        for record in mine {
            let other = all.insert(record.clone(), key.clone());
            assert_eq!(other, None, "{record} is held twice");
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn records_are_what_the_services_hold(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        world.cluster.service_cidrs = vec!["10.43.0.0/28".parse().unwrap()];
        (world.cluster.node_port_first, world.cluster.node_port_last) = (30000, 30007);
        for step in steps {
            let object = |name: u8, spec: Value| json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("s{name}"), "namespace": "default"}, "spec": spec});
            let before = world.store.entries.clone();
            let refused = match step.clone() {
                Step::Create(name, spec) => world.create(object(name, spec)).is_err(),
                Step::Update(name, spec) => world.update(object(name, spec), None).is_err(),
                Step::Patch(name, spec) => {
                    let apply = |old: &Value| {
                        let mut new = old.clone();
                        new["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
                        Ok(new)
                    };
                    let key = key(&SERVICES, &format!("s{name}"));
                    let outcome = world.run(|ctx, view| patch(ctx, view, &SERVICES, &key, &apply, None));
                    outcome.map(|outcome| world.store.commit(&outcome.changes)).is_err()
                }
                Step::Keep(n) => world.create(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                    "metadata": {"name": format!("10.43.0.{n}")}, "spec": {"parentRef": {"resource": "kept", "name": "k"}}})).is_err(),
                Step::Release(n) => world.delete(&IP_ADDRESSES, &format!("10.43.0.{n}"), &DeleteOptions::default()).is_err(),
                Step::Delete(name) => world.delete(&SERVICES, &format!("s{name}"), &DeleteOptions::default()).is_err(),
            };
            if refused {
                prop_assert_eq!(&world.store.entries, &before);
            }
            let records: BTreeMap<String, String> = world.store.entries.iter()
                .filter(|(key, _)| key.starts_with('_') || key.starts_with("ipaddresses"))
                .filter(|(key, _)| key.rsplit('/').next().and_then(|name| world.holder(name)).is_none_or(|holder| holder != "kept//k"))
                .map(|(key, stored)| (key.clone(), key.rsplit_once('/').and_then(|(_, name)| world.holder(name))
                    .unwrap_or_else(|| String::from_utf8(stored.value.to_vec()).unwrap())))
                .collect();
            prop_assert_eq!(records, scanned(&world), "after {:?}", step);
        }
    }
}
