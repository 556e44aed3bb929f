use super::*;
use crate::world::World;
use minisvc_apimachinery::resource::SERVICES;
use serde_json::Value;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn service(world: &mut World, selector: Value) {
    world.add(
        &SERVICES,
        json!({ "metadata": { "namespace": "default", "name": "db" }, "spec": { "selector": selector, "ports": [] } }),
    );
}

fn endpoints(world: &mut World, labels: Value, subsets: Value) {
    let uid = json!("e1");
    world.add(
        &ENDPOINTS,
        json!({ "metadata": { "namespace": "default", "name": "db", "uid": uid, "labels": labels }, "subsets": subsets }),
    );
}

fn settle(world: &mut World) -> usize {
    for round in 0..4 {
        let keys = [key("db")];
        let plan = plan_each(&world.snapshot, keys.iter()).remove(&key("db")).unwrap();
        if plan.is_settled() {
            return round;
        }
        world.apply(&plan);
    }
    panic!("does not settle");
}

fn shown(world: &World) -> Vec<String> {
    let slices = world.snapshot.endpoint_slices.values().map(|slice| {
        let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
        let list: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| format!("{}={}", e.addresses[0], e.conditions.as_ref().unwrap().ready.unwrap()))
            .collect();
        format!("{} {ports:?} {}", slice.address_type, list.join(" "))
    });
    let mut all: Vec<_> = slices.collect();
    all.sort();
    all
}

#[test]
fn each_family_and_set_of_ports_is_a_slice() {
    let mut world = World::default();
    service(&mut world, Value::Null);
    let two = json!([
        { "addresses": [{ "ip": "192.0.2.2" }, { "ip": "2001:db8::1" }], "notReadyAddresses": [{ "ip": "192.0.2.1", "hostname": "h" }], "ports": [{ "port": 80, "protocol": "TCP" }] },
        { "addresses": [{ "ip": "192.0.2.2" }], "ports": [{ "name": "x", "port": 81, "protocol": "UDP" }] },
    ]);
    endpoints(&mut world, json!({ "a": "1" }), two);
    settle(&mut world);
    let all = [
        "IPv4 [80] 192.0.2.1=false 192.0.2.2=true",
        "IPv4 [81] 192.0.2.2=true",
        "IPv6 [80] 2001:db8::1=true",
    ];
    assert_eq!(shown(&world), all);
    let meta = &world.snapshot.endpoint_slices.values().next().unwrap().metadata;
    assert_eq!(json!(meta.labels), json!({ "a": "1", SERVICE_NAME: "db", MANAGED_BY: MANAGER }));
    let owner = &meta.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Endpoints", "e1", Some(true)));

    // A changed port reuses the slice; what is no longer said goes.
    endpoints(
        &mut world,
        json!({}),
        json!([{ "addresses": [{ "ip": "192.0.2.3" }], "ports": [{ "port": 82, "protocol": "TCP" }] }]),
    );
    settle(&mut world);
    assert_eq!(shown(&world), ["IPv4 [82] 192.0.2.3=true"]);
}

#[test]
fn what_is_not_to_be_mirrored_loses_its_slices() {
    let subsets = json!([{ "addresses": [{ "ip": "192.0.2.2" }] }]);
    let spoil: [fn(&mut World); 4] = [
        |world| {
            endpoints(
                world,
                json!({ SKIP_MIRROR: "true" }),
                json!([{ "addresses": [{ "ip": "192.0.2.2" }] }]),
            )
        },
        |world| service(world, json!({ "app": "db" })),
        |world| world.remove(&ENDPOINTS, &key("db")),
        |world| world.remove(&SERVICES, &key("db")),
    ];
    for (n, spoil) in spoil.into_iter().enumerate() {
        let mut world = World::default();
        service(&mut world, Value::Null);
        endpoints(&mut world, json!({ SKIP_MIRROR: "no" }), subsets.clone());
        settle(&mut world);
        assert_eq!(shown(&world).len(), 1);
        let before = world.snapshot.clone();
        spoil(&mut world);
        assert!(dirty(&before, &world.snapshot).contains(&key("db")), "{n}");
        settle(&mut world);
        assert_eq!(shown(&world).len(), 0, "{n}");
    }
}

#[test]
fn too_many_addresses_are_told() {
    let mut world = World::default();
    service(&mut world, Value::Null);
    let many: Vec<Value> =
        (0..1003).map(|n| json!({ "ip": format!("192.0.{}.{}", n / 250, n % 250) })).collect();
    endpoints(&mut world, json!({}), json!([{ "addresses": many }]));
    let plan = plan_each(&world.snapshot, [key("db")].iter()).remove(&key("db")).unwrap();
    assert!(plan.notices[0].message.ends_with("3 addresses were skipped"), "{:?}", plan.notices);
    world.apply(&plan);
    assert_eq!(world.snapshot.endpoint_slices.values().next().unwrap().endpoints.len(), 1000);
}
