use super::*;
use crate::world::World;
use minisvc_apimachinery::resource::{NODES, PODS, SERVICES};
use proptest::prelude::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn settle(world: &mut World) -> usize {
    for round in 0..5 {
        let planned = plan(&world.snapshot);
        if planned.is_settled() {
            return round;
        }
        world.apply(&planned);
    }
    panic!("does not settle: {:?}", plan(&world.snapshot))
}

/// Addresses of a Service's endpoints with `ready/serving/terminating` and port.
fn shown(world: &World, service: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for (key, slice) in &world.snapshot.endpoint_slices {
        if owner_of(key, slice).is_none_or(|owner| owner.name != service) {
            continue;
        }
        for endpoint in &slice.endpoints {
            let c = endpoint.conditions.clone().unwrap();
            let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
            let flag = |f: Option<bool>, c| if f.unwrap() { c } else { '-' };
            let flags: String =
                [flag(c.ready, 'R'), flag(c.serving, 'S'), flag(c.terminating, 'T')].iter().collect();
            assert!(lines.insert(format!("{} {flags} {ports:?}", endpoint.addresses[0])));
        }
    }
    lines
}

fn change(world: &mut World, pod: &str, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut object = world.get(&PODS, &key(pod)).unwrap();
    edit(&mut object);
    world.add(&PODS, object);
}

#[test]
fn a_node_cannot_lead_callers_out_of_its_pod_network() {
    let mut world = World::default();
    world.service("web", "web");
    world.node("node1", true);
    world.pod("own", "web", Some("node1"), Some("10.42.1.2"));
    world.pod("stolen", "web", Some("node1"), Some("10.42.2.2"));
    world.pod("host", "web", Some("node1"), Some("192.168.9.1"));
    let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
    node["spec"] = json!({"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24"]});
    world.add(&NODES, node);
    settle(&mut world);
    assert_eq!(shown(&world, "web").into_iter().collect::<Vec<_>>(), ["10.42.1.2 RS- [8080]"]);
    // In the node's network they have the node's address, and no other.
    for pod in ["own", "stolen", "host"] {
        change(&mut world, pod, |pod| pod["spec"]["hostNetwork"] = true.into());
    }
    settle(&mut world);
    assert_eq!(shown(&world, "web").into_iter().collect::<Vec<_>>(), ["192.168.9.1 RS- [8080]"]);
    let before = world.snapshot.clone();
    let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
    node["status"]["addresses"][0]["address"] = "192.168.9.7".into();
    world.add(&NODES, node);
    assert_eq!(sources(&before, &world.snapshot), BTreeSet::from([key("web")]));
    settle(&mut world);
    assert_eq!(shown(&world, "web"), BTreeSet::new());
}

/// Gives a Pod an address of the other family too.
fn second(world: &mut World, pod: &str, address: &str) {
    change(world, pod, |pod| {
        pod["status"]["podIPs"].as_array_mut().unwrap().push(json!({ "ip": address }));
    });
}

#[test]
fn each_family_of_a_service_has_slices_of_its_own_as_long_as_it_is_one() {
    let mut world = World::default();
    world.service("web", "web");
    world.node("node1", true);
    let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
    node["spec"] = json!({ "podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"] });
    world.add(&NODES, node);
    world.pod("both", "web", Some("node1"), Some("10.42.1.2"));
    second(&mut world, "both", "fd42:0:0:1:0::2");
    world.pod("stolen", "web", Some("node1"), Some("10.42.1.3"));
    second(&mut world, "stolen", "fd42:0:0:2::3");
    let families = |world: &mut World, families: &[&str]| {
        let mut service = world.get(&SERVICES, &key("web")).unwrap();
        service["spec"]["ipFamilies"] = json!(families);
        world.add(&SERVICES, service);
        let before = world.snapshot.clone();
        let first = plan(&world.snapshot);
        world.apply(&first);
        let gone = before.endpoint_slices.keys().any(|key| !world.snapshot.endpoint_slices.contains_key(key));
        assert!(!gone || first.writes.len() == 1, "nothing is deleted while something is written");
        settle(world);
        let slices = world.snapshot.endpoint_slices.values();
        let shown = slices.map(|slice| {
            let all = slice.endpoints.iter().map(|endpoint| endpoint.addresses.join(","));
            (
                slice.address_type.clone(),
                all.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" "),
            )
        });
        let shown: BTreeSet<(String, String)> = shown.collect();
        shown.into_iter().map(|(family, all)| format!("{family}: {all}")).collect::<Vec<_>>()
    };
    let (v4, v6) = ("IPv4: 10.42.1.2 10.42.1.3", "IPv6: fd42:0:0:1::2");
    assert_eq!(families(&mut world, &["IPv4"]), [v4]);
    assert_eq!(families(&mut world, &["IPv4", "IPv6"]), [v4, v6]);
    assert_eq!(families(&mut world, &["IPv6", "IPv4"]), [v4, v6]);
    assert_eq!(families(&mut world, &["IPv6"]), [v6]);
    for pod in ["both", "stolen"] {
        world.remove(&PODS, &key(pod));
    }
    assert_eq!(
        families(&mut world, &["IPv4", "IPv6"]),
        ["IPv4: ", "IPv6: "],
        "an empty slice of each family"
    );
}

#[test]
fn a_podcidr_that_comes_later_makes_its_services_dirty() {
    let mut world = World::default();
    world.service("web", "web");
    world.node("node1", true);
    world.pod("a", "web", Some("node1"), Some("10.42.2.2"));
    settle(&mut world);
    let before = world.snapshot.clone();
    let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
    node["spec"] = json!({ "podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24"] });
    world.add(&NODES, node);
    let dirty = dirty(&sources(&before, &world.snapshot), &before, &world.snapshot);
    assert_eq!(dirty, BTreeSet::from([key("web")]));
}

#[test]
fn conditions_are_kubernetes_own() {
    let mut world = World::default();
    world.service("web", "web");
    for (pod, address) in [("a", "10.42.0.2"), ("b", "10.42.0.3"), ("c", "10.42.0.4"), ("d", "10.42.0.5")] {
        world.pod(pod, "web", Some("node1"), Some(address));
    }
    world.pod("waiting", "web", Some("node1"), None);
    world.pod("other", "db", Some("node1"), Some("10.42.0.9"));
    change(&mut world, "b", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    change(&mut world, "c", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    change(&mut world, "d", |pod| pod["status"]["phase"] = json!("Failed"));
    assert_eq!(settle(&mut world), 1);
    let lines = |world: &World| shown(world, "web").into_iter().collect::<Vec<_>>();
    assert_eq!(lines(&world), ["10.42.0.2 RS- [8080]", "10.42.0.3 --- [8080]", "10.42.0.4 -ST [8080]"]);

    let mut service = world.get(&SERVICES, &key("web")).unwrap();
    service["spec"]["publishNotReadyAddresses"] = json!(true);
    world.add(&SERVICES, service);
    settle(&mut world);
    assert_eq!(lines(&world), ["10.42.0.2 RS- [8080]", "10.42.0.3 R-- [8080]", "10.42.0.4 RST [8080]"]);
}

#[test]
fn slices_are_labelled_owned_and_go_with_the_service() {
    let mut world = World::default();
    world.service("web", "web");
    world.add(
        &ENDPOINT_SLICES,
        json!({
            "metadata": { "namespace": "default", "name": "mine", "labels": { SERVICE_NAME: "web" } },
            "addressType": "IPv4", "endpoints": [], "ports": [],
        }),
    );
    settle(&mut world);
    let (slice_key, slice) =
        world.snapshot.endpoint_slices.iter().find(|(key, slice)| owner_of(key, slice).is_some()).unwrap();
    assert!(slice_key.name.starts_with("web-") && slice_key.name.len() == 9);
    assert!(slice.endpoints.is_empty(), "a Service without Pods shows an empty slice");
    assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].controller, Some(true));
    world.remove(&SERVICES, &key("web"));
    settle(&mut world);
    assert_eq!(world.snapshot.endpoint_slices.keys().collect::<Vec<_>>(), [&key("mine")]);
}

#[test]
fn services_without_selector_keep_their_hand_made_slices() {
    let mut world = World::default();
    world.add(
        &SERVICES,
        json!({ "metadata": { "namespace": "default", "name": "db" }, "spec": { "ports": [] } }),
    );
    world.pod("a", "db", Some("node1"), Some("10.42.0.2"));
    assert!(plan(&world.snapshot).is_settled());
}

#[test]
fn pods_that_differ_in_a_named_port_are_in_separate_slices() {
    let mut world = World::default();
    world.service("web", "web");
    world.pod("a", "web", Some("node1"), Some("10.42.0.2"));
    world.pod("b", "web", Some("node1"), Some("10.42.0.3"));
    change(&mut world, "b", |pod| pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090));
    settle(&mut world);
    let lines: Vec<_> = shown(&world, "web").into_iter().collect();
    assert_eq!(lines, ["10.42.0.2 RS- [8080]", "10.42.0.3 RS- [9090]"]);
    assert_eq!(world.snapshot.endpoint_slices.len(), 2);
}

#[test]
fn a_change_of_one_pod_writes_one_slice_and_moves_nobody() {
    let mut world = World::default();
    world.service("web", "web");
    for n in 0..250 {
        world.pod(&format!("p{n}"), "web", Some("node1"), Some(&format!("10.42.0.{n}")));
    }
    settle(&mut world);
    assert_eq!(world.snapshot.endpoint_slices.len(), 3);
    change(&mut world, "p7", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    assert!(matches!(plan(&world.snapshot).writes.as_slice(), [Write::Replace { .. }]));
    settle(&mut world);
    world.remove(&PODS, &key("p9"));
    let planned = plan(&world.snapshot);
    assert!(matches!(planned.writes.as_slice(), [Write::Replace { .. }]));
    world.apply(&planned);
    world.pod("new", "web", Some("node1"), Some("10.42.1.1"));
    assert!(matches!(plan(&world.snapshot).writes.as_slice(), [Write::Replace { .. }]), "there is room");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_slices_are_what_the_pods_say_and_only_dirty_services_need_planning(
        steps in prop::collection::vec((0_u8..30, 0_u8..6), 1..30)
    ) {
        let mut world = World::default();
        world.service("web", "web");
        world.service("db", "db");
        settle(&mut world);
        for (n, what) in steps {
            let before = world.snapshot.clone();
            let (name, app) = (format!("p{n}"), if n % 3 == 0 { "db" } else { "web" });
            let address = format!("10.42.0.{n}");
            match what {
                0 => world.remove(&PODS, &key(&name)),
                1 => world.pod(&name, app, Some("node1"), None),
                2 => { world.remove(&SERVICES, &key("db")); }
                3 => { world.service("db", "db"); }
                _ => {
                    world.pod(&name, app, Some("node1"), Some(&address));
                    change(&mut world, &name, |pod| {
                        pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(8000 + i32::from(n % 4));
                    });
                }
            }
            let dirty = dirty(&sources(&before, &world.snapshot), &before, &world.snapshot);
            prop_assert_eq!(plan_services(&world.snapshot, dirty.iter()), plan(&world.snapshot));
            settle(&mut world);
            for app in ["web", "db"] {
                let there = world.snapshot.services.contains_key(&key(app));
                let expected: BTreeSet<String> = world.snapshot.pods.values()
                    .filter(|pod| there && pod.metadata.labels.as_ref().unwrap()["app"] == app)
                    .filter_map(|pod| pod.status.as_ref()?.pod_ip.clone()).collect();
                let have: BTreeSet<String> =
                    shown(&world, app).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
                prop_assert_eq!(have, expected);
            }
        }
    }
}

#[test]
fn traffic_distribution_keeps_ready_endpoints_for_those_near_them() {
    let mut world = World::default();
    world.service("web", "web");
    world.node("node1", true);
    let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("east");
    world.add(&NODES, node);
    world.pod("ready", "web", Some("node1"), Some("10.42.1.2"));
    world.pod("starting", "web", Some("node1"), Some("10.42.1.3"));
    change(&mut world, "starting", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    let mut hints = |distribution: Option<&str>| {
        let mut service = world.get(&SERVICES, &key("web")).unwrap();
        service["spec"]["trafficDistribution"] = json!(distribution);
        world.add(&SERVICES, service);
        settle(&mut world);
        let slice = world.snapshot.endpoint_slices.values().next().unwrap();
        slice.endpoints.iter().map(|endpoint| json!(endpoint.hints)).collect::<Vec<_>>()
    };
    assert_eq!(hints(None), [json!(null), json!(null)]);
    let zone = json!({ "forZones": [{ "name": "east" }] });
    for distribution in ["PreferClose", "PreferSameZone"] {
        assert_eq!(hints(Some(distribution)), [zone.clone(), json!(null)], "{distribution}");
    }
    let node = json!({ "forNodes": [{ "name": "node1" }], "forZones": [{ "name": "east" }] });
    assert_eq!(hints(Some("PreferSameNode")), [node, json!(null)]);
    assert_eq!(hints(None), [json!(null), json!(null)], "and no longer");
}
