use super::*;
use crate::world::World;
use minisvc_apimachinery::resource::{PODS, SERVICES};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn settle(world: &mut World, name: &str, vanished: bool) {
    let writes = plan_one(&world.snapshot, &key(name), vanished);
    world.apply(&crate::Plan { writes, notices: Vec::new() });
    assert_eq!(plan_one(&world.snapshot, &key(name), vanished), [], "settles in one step");
}

fn shown(world: &World, name: &str) -> Vec<String> {
    let ips = |list: &Option<Vec<EndpointAddress>>| {
        list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>().join(",")
    };
    let subsets = world.snapshot.endpoints[&key(name)].subsets.clone().unwrap_or_default();
    let ports = |subset: &EndpointSubset| {
        subset.ports.iter().flatten().map(|port| port.port.to_string()).collect::<Vec<_>>().join(",")
    };
    subsets
        .iter()
        .map(|s| format!("{}|{}|{}", ips(&s.addresses), ips(&s.not_ready_addresses), ports(s)))
        .collect()
}

fn change(world: &mut World, pod: &str, edit: impl FnOnce(&mut Value)) {
    let mut object = world.get(&PODS, &key(pod)).unwrap();
    edit(&mut object);
    world.add(&PODS, object);
}

#[test]
fn ready_and_waiting_pods_are_sorted_and_ending_ones_left_out() {
    let mut world = World::default();
    world.service("web", "web");
    settle(&mut world, "web", false);
    assert_eq!(shown(&world, "web"), Vec::<String>::new(), "a Service without Pods has an empty object");
    for (pod, ip) in
        [("a", "10.42.0.10"), ("b", "10.42.0.9"), ("c", "10.42.0.3"), ("d", "10.42.0.4"), ("e", "10.42.0.5")]
    {
        world.pod(pod, "web", Some("node1"), Some(ip));
    }
    change(&mut world, "c", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    change(&mut world, "d", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    change(&mut world, "e", |pod| pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090));
    settle(&mut world, "web", false);
    assert_eq!(shown(&world, "web"), ["10.42.0.9,10.42.0.10|10.42.0.3|8080", "10.42.0.5||9090"]);
    let first = world.snapshot.endpoints[&key("web")].subsets.clone().unwrap()[0].addresses.clone().unwrap()
        [0]
    .clone();
    assert_eq!(
        (first.node_name.as_deref(), first.target_ref.unwrap().name.as_deref()),
        (Some("node1"), Some("b"))
    );

    let mut service = world.get(&SERVICES, &key("web")).unwrap();
    service["spec"]["publishNotReadyAddresses"] = json!(true);
    world.add(&SERVICES, service);
    settle(&mut world, "web", false);
    assert_eq!(shown(&world, "web"), ["10.42.0.3,10.42.0.4,10.42.0.9,10.42.0.10||8080", "10.42.0.5||9090"]);
}

#[test]
fn labels_are_the_services_and_say_who_wrote_it() {
    let mut world = World::default();
    world.service("web", "web");
    let edit = |world: &mut World, ip: &str, labels: Value| {
        let mut service = world.get(&SERVICES, &key("web")).unwrap();
        service["spec"]["clusterIP"] = json!(ip);
        service["metadata"]["labels"] = labels;
        world.add(&SERVICES, service);
        settle(world, "web", false);
        json!(world.snapshot.endpoints[&key("web")].metadata.labels)
    };
    let ours = json!({ "a": "1", MANAGED_BY: MANAGER, HEADLESS: "" });
    assert_eq!(edit(&mut world, "None", json!({ "a": "1" })), ours);
    assert_eq!(edit(&mut world, "10.43.0.9", json!({ HEADLESS: "x" })), json!({ MANAGED_BY: MANAGER }));
}

#[test]
fn at_most_a_thousand_addresses_ready_ones_first() {
    let mut world = World::default();
    world.service("web", "web");
    let add = |world: &mut World, n: usize, ready: bool| {
        world.pod(&format!("p{n}"), "web", Some("node1"), Some(&format!("10.42.{}.{}", n / 250, n % 250)));
        change(world, &format!("p{n}"), |pod| {
            pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(8000 + n % 2);
            pod["status"]["conditions"][0]["status"] = json!(if ready { "True" } else { "False" });
        });
    };
    (0..990).for_each(|n| add(&mut world, n, true));
    (990..1030).for_each(|n| add(&mut world, n, false));
    settle(&mut world, "web", false);
    let count = |world: &World| {
        let subsets = world.snapshot.endpoints[&key("web")].subsets.clone().unwrap();
        let len = |list: Option<Vec<EndpointAddress>>| list.map_or(0, |list| list.len());
        subsets.into_iter().map(|s| (len(s.addresses), len(s.not_ready_addresses))).collect::<Vec<_>>()
    };
    let mark = |world: &World| {
        world.snapshot.endpoints[&key("web")].metadata.annotations.as_ref()?.get(OVER_CAPACITY).cloned()
    };
    assert_eq!((count(&world), mark(&world).as_deref()), (vec![(495, 5), (495, 5)], Some("truncated")));
    (990..1030).for_each(|n| add(&mut world, n, true));
    settle(&mut world, "web", false);
    assert_eq!(count(&world), [(500, 0), (500, 0)]);
    (900..1030).for_each(|n| world.remove(&PODS, &key(&format!("p{n}"))));
    settle(&mut world, "web", false);
    assert_eq!((count(&world), mark(&world)), (vec![(450, 0), (450, 0)], None));
}

#[test]
fn the_addresses_are_those_of_the_primary_family() {
    let mut world = World::default();
    world.service("web", "web");
    world.pod("p", "web", Some("node1"), Some("10.42.0.2"));
    change(&mut world, "p", |pod| {
        pod["status"]["podIPs"].as_array_mut().unwrap().push(json!({ "ip": "fd42::2" }));
    });
    for (families, expected) in [(["IPv4", "IPv6"], "10.42.0.2"), (["IPv6", "IPv4"], "fd42::2")] {
        let mut service = world.get(&SERVICES, &key("web")).unwrap();
        service["spec"]["ipFamilies"] = json!(families);
        world.add(&SERVICES, service);
        settle(&mut world, "web", false);
        let subsets = world.snapshot.endpoints[&key("web")].subsets.clone().unwrap();
        let addresses = subsets.into_iter().flat_map(|subset| subset.addresses).flatten();
        assert_eq!(addresses.map(|address| address.ip).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn what_people_wrote_stays_until_its_service_goes() {
    let hand = |name: &str, annotations: Value| {
        json!({
            "metadata": { "namespace": "default", "name": name, "annotations": annotations },
            "subsets": [{ "addresses": [{ "ip": "192.0.2.1" }] }],
        })
    };
    let mut world = World::default();
    world.add(
        &SERVICES,
        json!({ "metadata": { "namespace": "default", "name": "db" }, "spec": { "ports": [] } }),
    );
    world.add(&ENDPOINTS, hand("db", json!({})));
    world.add(&ENDPOINTS, hand("lock", json!({ LEADER: "x" })));
    for (name, vanished) in [("db", false), ("lock", true), ("nothing", true)] {
        assert_eq!(plan_one(&world.snapshot, &key(name), vanished), [], "{name}");
    }
    let before = world.snapshot.clone();
    world.remove(&SERVICES, &key("db"));
    assert_eq!(plan_one(&world.snapshot, &key("db"), false), [], "nobody saw its Service");
    assert_eq!(vanished(&before, &world.snapshot).collect::<Vec<_>>(), [key("db")]);
    assert!(matches!(plan_one(&world.snapshot, &key("db"), true)[..], [Write::Delete { .. }]));

    world.service("web", "web");
    settle(&mut world, "web", false);
    world.remove(&SERVICES, &key("web"));
    assert!(matches!(plan_one(&world.snapshot, &key("web"), false)[..], [Write::Delete { .. }]));
}
