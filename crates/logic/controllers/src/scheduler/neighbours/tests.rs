//! Where Pods go because of other Pods, by whole passes of the scheduler.

use crate::{
    objects::{node_of, pod_condition},
    scheduler::plan,
    world::World,
};
use jiff::Timestamp;
use minisvc_apimachinery::{
    ObjectKey,
    resource::{NAMESPACES, NODES, PODS},
};
use serde_json::{Value, json};

/// Three nodes in zone a, one in zone b, one without a zone.
fn world() -> World {
    let mut world = World::default();
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("none", "")] {
        world.node(name, true);
        let mut node = world.get(&NODES, &ObjectKey::cluster(name)).unwrap();
        node["metadata"]["labels"] = json!({ "host": name });
        if !zone.is_empty() {
            node["metadata"]["labels"]["zone"] = json!(zone);
        }
        world.add(&NODES, node);
    }
    world
}

fn pod_in(world: &mut World, namespace: &str, name: &str, app: &str, spec: Value) {
    let mut object = json!({
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": app } },
        "spec": { "containers": [{ "name": "c", "image": "echo" }] },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    world.add(&PODS, object);
}

fn pod(world: &mut World, name: &str, app: &str, spec: Value) {
    pod_in(world, "default", name, app, spec);
}

fn on(node: &str) -> Value {
    json!({ "nodeName": node })
}

fn term(app: &str, key: &str) -> Value {
    json!({ "topologyKey": key, "labelSelector": { "matchLabels": { "app": app } } })
}

fn must(kind: &str, term: Value) -> Value {
    json!({ "affinity": { kind: { "requiredDuringSchedulingIgnoredDuringExecution": [term] } } })
}

/// The node that a Pod is given, or why none.
fn place(world: &mut World, name: &str) -> String {
    world.apply(&plan(&world.snapshot, Timestamp::UNIX_EPOCH));
    let pod = &world.snapshot.pods[&ObjectKey::new("default", name)];
    let condition = pod_condition(pod, "PodScheduled").and_then(|condition| condition.message.clone());
    node_of(pod).map(str::to_owned).or(condition).unwrap_or_default()
}

#[test]
fn a_pod_goes_where_those_are_that_it_must_be_near_to() {
    let mut world = world();
    pod(&mut world, "web", "web", must("podAffinity", term("db", "zone")));
    assert_eq!(
        place(&mut world, "web"),
        "0/5 nodes are available: 5 node(s) didn't match pod affinity rules."
    );
    pod(&mut world, "db", "db", on("b1"));
    assert_eq!(place(&mut world, "web"), "b1");
    // The first of a group is near to itself, on any node that has the label.
    pod(&mut world, "one", "group", must("podAffinity", term("group", "zone")));
    let first = place(&mut world, "one");
    assert!(first.starts_with(['a', 'b']), "{first}");
    pod(&mut world, "two", "group", must("podAffinity", term("group", "host")));
    assert_eq!(place(&mut world, "two"), first);
}

#[test]
fn pods_of_one_pass_keep_away_from_each_other_and_from_who_comes_later() {
    let mut world = world();
    for n in 0..6 {
        pod(&mut world, &format!("p{n}"), "lone", must("podAntiAffinity", term("lone", "host")));
    }
    let last = place(&mut world, "p5");
    assert_eq!(last, "0/5 nodes are available: 5 node(s) didn't match pod anti-affinity rules.");
    // It says nothing itself, but the others do.
    pod(&mut world, "late", "lone", json!({}));
    assert_eq!(
        place(&mut world, "late"),
        "0/5 nodes are available: 5 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    pod_in(&mut world, "other", "late", "lone", json!({}));
    world.apply(&plan(&world.snapshot, Timestamp::UNIX_EPOCH));
    assert!(
        node_of(&world.snapshot.pods[&ObjectKey::new("other", "late")]).is_some(),
        "of another namespace"
    );
    // A node without the label is in no domain.
    pod(&mut world, "zoned", "lone", must("podAntiAffinity", term("web", "zone")));
    pod(&mut world, "free", "x", must("podAntiAffinity", term("lone", "zone")));
    assert_eq!(place(&mut world, "free"), "none");
}

#[test]
fn terms_reach_into_the_namespaces_that_they_name_or_select() {
    let mut world = world();
    for (name, team) in [("default", "x"), ("shop", "y"), ("mail", "z")] {
        world.add(&NAMESPACES, json!({ "metadata": { "name": name, "labels": { "team": team } } }));
    }
    pod_in(&mut world, "shop", "db", "db", on("b1"));
    pod_in(&mut world, "mail", "db", "db", on("a2"));
    for (name, field, value, expected) in [
        (
            "own",
            "namespaces",
            json!([]),
            "0/5 nodes are available: 5 node(s) didn't match pod affinity rules.",
        ),
        ("named", "namespaces", json!(["shop"]), "b1"),
        ("selected", "namespaceSelector", json!({ "matchLabels": { "team": "z" } }), "a2"),
    ] {
        let mut near = term("db", "host");
        near[field] = value;
        pod(&mut world, name, "web", must("podAffinity", near));
        assert_eq!(place(&mut world, name), expected, "{name}");
    }
    let mut near = term("db", "host");
    near["namespaceSelector"] = json!({});
    pod(&mut world, "any", "web", must("podAffinity", near));
    assert!(
        ["b1", "a2"].contains(&place(&mut world, "any").as_str()),
        "an empty selector is every namespace"
    );
    let nobody = json!({ "topologyKey": "host" });
    pod(&mut world, "nobody", "web", must("podAntiAffinity", nobody));
    assert!(!place(&mut world, "nobody").starts_with('0'), "no selector means nobody");
}

#[test]
fn wishes_weigh_and_work_both_ways() {
    let mut world = world();
    pod(&mut world, "cache", "cache", on("a2"));
    pod(&mut world, "loud", "loud", on("a1"));
    let wish = |kind: &str, weight: i64, term: Value| json!({ kind: { "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": weight, "podAffinityTerm": term }] } });
    pod(&mut world, "web", "web", json!({ "affinity": wish("podAffinity", 10, term("cache", "host")) }));
    assert_eq!(place(&mut world, "web"), "a2");
    let mut both = wish("podAffinity", 10, term("loud", "zone"));
    both["podAntiAffinity"] = wish("podAntiAffinity", 5, term("loud", "host"))["podAntiAffinity"].clone();
    both["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "weight": 5, "podAffinityTerm": term("cache", "host") }));
    pod(&mut world, "shy", "shy", json!({ "affinity": both }));
    assert_eq!(place(&mut world, "shy"), "a3");
    // Who is there may like or dislike who comes.
    pod(&mut world, "host", "host", {
        let mut spec = on("b1");
        spec["affinity"] = wish("podAffinity", 1, term("guest", "host"));
        spec
    });
    pod(&mut world, "guest", "guest", json!({}));
    assert_eq!(place(&mut world, "guest"), "b1");
}

fn spread(key: &str, unsatisfiable: &str, more: Value) -> Value {
    let mut constraint = json!({ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": unsatisfiable,
        "labelSelector": { "matchLabels": { "app": "web" } } });
    for (field, value) in more.as_object().unwrap() {
        constraint[field] = value.clone();
    }
    json!({ "topologySpreadConstraints": [constraint] })
}

#[test]
fn domains_differ_by_no_more_than_the_skew() {
    let mut world = world();
    for n in 0..4 {
        pod(&mut world, &format!("p{n}"), "web", spread("zone", "DoNotSchedule", json!({})));
    }
    place(&mut world, "p0");
    let zones = |world: &World, zone: char| {
        let nodes = world.snapshot.pods.values().filter_map(|pod| node_of(pod));
        nodes.filter(|node| node.starts_with(zone)).count()
    };
    assert_eq!((zones(&world, 'a'), zones(&world, 'b')), (2, 2));
    // Zone b takes no more for another reason: the skew holds, and each node has its own word.
    let mut node = world.get(&NODES, &ObjectKey::cluster("b1")).unwrap();
    node["spec"]["unschedulable"] = json!(true);
    world.add(&NODES, node);
    pod(&mut world, "p4", "web", spread("zone", "DoNotSchedule", json!({})));
    assert!(place(&mut world, "p4").starts_with('a'));
    pod(&mut world, "p5", "web", spread("zone", "DoNotSchedule", json!({})));
    assert_eq!(
        place(&mut world, "p5"),
        "0/5 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
         1 node(s) were unschedulable, 3 node(s) didn't match pod topology spread constraints."
    );
    // Nodes whose taints are honoured count only if they could be used.
    let honoured = spread("zone", "DoNotSchedule", json!({ "nodeTaintsPolicy": "Honor" }));
    pod(&mut world, "p6", "web", honoured);
    assert!(place(&mut world, "p6").starts_with('a'));
}

#[test]
fn few_domains_count_as_empty_and_wishes_refuse_nobody() {
    let mut world = world();
    pod(&mut world, "p0", "web", on("a1"));
    pod(&mut world, "p1", "web", on("b1"));
    pod(&mut world, "p2", "web", spread("zone", "DoNotSchedule", json!({ "minDomains": 3 })));
    let why = place(&mut world, "p2");
    assert!(why.ends_with("4 node(s) didn't match pod topology spread constraints."), "{why}");
    pod(&mut world, "p3", "web", spread("host", "ScheduleAnyway", json!({})));
    assert!(!["a1", "b1"].contains(&place(&mut world, "p3").as_str()));
    pod(&mut world, "p4", "web", spread("zone", "ScheduleAnyway", json!({ "maxSkew": 1 })));
    let placed = place(&mut world, "p4");
    assert!(placed.starts_with(['a', 'b']), "{placed}: not where there is no zone");
}

#[test]
fn a_rollout_is_spread_by_its_own_pods() {
    let mut world = world();
    for (name, hash) in [("old1", "1"), ("old2", "1"), ("new", "2")] {
        let mut spec = spread("zone", "DoNotSchedule", json!({ "matchLabelKeys": ["hash"] }));
        if hash == "1" {
            spec["nodeName"] = json!("a1");
        }
        pod(&mut world, name, "web", spec);
        let mut object = world.get(&PODS, &ObjectKey::new("default", name)).unwrap();
        object["metadata"]["labels"]["hash"] = json!(hash);
        world.add(&PODS, object);
    }
    let placed = place(&mut world, "new");
    assert!(placed.starts_with(['a', 'b']), "{placed}: the old ones do not count");
}
