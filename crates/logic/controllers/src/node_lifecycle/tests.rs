use super::*;
use crate::{objects::pod_is_ready, world::World};
use minisvc_apimachinery::resource::LEASES;

fn four_seconds() -> Grace {
    Grace { silence: SignedDuration::from_secs(4), ..Grace::default() }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000 + seconds)
}

fn renew(world: &mut World, node: &str, seconds: i64) {
    world.add(
        &LEASES,
        json!({
            "metadata": { "namespace": NODE_LEASES, "name": node },
            // The node's clock is an hour off: it must not matter.
            "spec": { "renewTime": MicroTime(at(seconds - 3600)) },
        }),
    );
}

fn status(world: &World, node: &str) -> String {
    node_condition(&world.snapshot.nodes[&ObjectKey::cluster(node)], "Ready").unwrap().status.clone()
}

#[test]
fn a_silent_node_is_unknown_and_its_pods_not_ready_and_nobody_else() {
    let mut world = World::default();
    let (mut seen, grace) = (Observations::default(), four_seconds());
    for node in ["node1", "node2"] {
        world.node(node, true);
        renew(&mut world, node, 0);
    }
    world.pod("a", "web", Some("node1"), Some("10.42.0.2"));
    world.pod("b", "web", Some("node2"), Some("10.42.1.2"));
    for second in 0..4 {
        renew(&mut world, "node2", second);
        seen.observe(&world.snapshot, at(second));
        assert!(plan(&world.snapshot, &seen, &grace, at(second)).is_settled(), "{second}");
    }
    renew(&mut world, "node2", 4);
    seen.observe(&world.snapshot, at(4));
    let planned = plan(&world.snapshot, &seen, &grace, at(4));
    world.apply(&planned);
    assert_eq!((status(&world, "node1"), status(&world, "node2")), ("Unknown".to_owned(), "True".to_owned()));
    let ready =
        |world: &World, pod: &str| pod_is_ready(&world.snapshot.pods[&ObjectKey::new("default", pod)]);
    assert!(!ready(&world, "a") && ready(&world, "b"));
    let taints = |world: &World, node: &str| -> Vec<String> {
        let taints = taints::written(&world.snapshot.nodes[&ObjectKey::cluster(node)]);
        taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    };
    world.apply(&plan(&world.snapshot, &seen, &grace, at(4)));
    let silent = "node.kubernetes.io/unreachable";
    assert_eq!(taints(&world, "node1"), [format!("{silent}:NoSchedule"), format!("{silent}:NoExecute")]);
    assert_eq!(taints(&world, "node2"), Vec::<String>::new());
    assert!(plan(&world.snapshot, &seen, &grace, at(4)).is_settled());

    // It comes back: its agent says so, we leave that alone and take the taints away.
    let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
    node["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
    world.add(&NODES, node);
    renew(&mut world, "node1", 9);
    seen.observe(&world.snapshot, at(9));
    world.apply(&plan(&world.snapshot, &seen, &grace, at(9)));
    assert_eq!((status(&world, "node1"), taints(&world, "node1").len()), ("True".to_owned(), 0));
}

#[test]
fn what_we_could_not_see_is_nobodys_death() {
    let mut world = World::default();
    let (mut seen, grace) = (Observations::default(), four_seconds());
    world.node("node1", true);
    renew(&mut world, "node1", 0);
    seen.observe(&world.snapshot, at(0));
    seen.observe(&world.snapshot, at(60));
    seen.blind(at(60));
    assert!(plan(&world.snapshot, &seen, &grace, at(61)).is_settled());
    assert!(!plan(&world.snapshot, &seen, &grace, at(64)).is_settled());
}

#[test]
fn pods_nobody_will_end_are_removed_in_time() {
    let mut world = World::default();
    let (mut seen, grace) = (Observations::default(), four_seconds());
    world.node("node1", true);
    world.pod("orphan", "web", Some("node7"), Some("10.42.7.2"));
    world.pod("ending", "web", Some("node1"), None);
    let key = ObjectKey::new("default", "ending");
    let mut ending = world.get(&PODS, &key).unwrap();
    ending["metadata"]["deletionTimestamp"] = json!(Time(at(0)));
    world.add(&PODS, ending);
    seen.observe(&world.snapshot, at(0));
    for second in 0..30 {
        seen.observe(&world.snapshot, at(second));
        let planned = plan(&world.snapshot, &seen, &grace, at(second));
        for write in &planned.writes {
            let expected = match write {
                Write::Delete { key, how, .. } => {
                    assert_eq!(how.grace_seconds, Some(0));
                    assert_eq!(how.unless_exists.len(), usize::from(key.name == "orphan"));
                    if key.name == "orphan" { 5 } else { 10 }
                }
                Write::Patch { subresource: None, .. } => 5, // taints
                _ => 4,
            };
            assert_eq!(second, expected, "{write:?}");
        }
        world.apply(&planned);
    }
    assert!(world.snapshot.pods.is_empty());
}

#[test]
fn pods_of_a_silent_node_go_when_they_tolerate_it_no_longer() {
    let mut world = World::default();
    let (mut seen, grace) = (Observations::default(), four_seconds());
    world.node("node1", true);
    world.pod("stays", "web", Some("node1"), None);
    world.pod("patient", "web", Some("node1"), None);
    world.pod("none", "web", Some("node1"), None);
    let mut tolerate = |name: &str, tolerations: serde_json::Value| {
        let mut pod = world.get(&PODS, &ObjectKey::new("default", name)).unwrap();
        pod["spec"]["tolerations"] = tolerations;
        world.add(&PODS, pod);
    };
    tolerate("none", json!([{ "key": "other", "operator": "Exists" }]));
    tolerate(
        "patient",
        json!([{ "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20 }]),
    );
    seen.observe(&world.snapshot, at(0));
    let mut gone = Vec::new();
    for second in 0..60 {
        seen.observe(&world.snapshot, at(second));
        let planned = plan(&world.snapshot, &seen, &grace, at(second));
        for write in planned.writes.iter().filter(|write| matches!(write, Write::Delete { .. })) {
            gone.push((second, write.target().1.name.clone()));
        }
        world.apply(&planned);
    }
    // The node is given up after 4 seconds, and has its taints a round later.
    assert_eq!(gone, [(6, "none".to_owned()), (25, "patient".to_owned())]);
}

#[test]
fn pods_leave_a_node_for_a_taint_somebody_put_there() {
    let mut world = World::default();
    let (mut seen, grace) = (Observations::default(), four_seconds());
    world.node("node1", true);
    renew(&mut world, "node1", 0);
    for (name, seconds) in [("goes", None), ("waits", Some(json!(3))), ("stays", Some(json!(null)))] {
        world.pod(name, "web", Some("node1"), None);
        let mut pod = world.get(&PODS, &ObjectKey::new("default", name)).unwrap();
        if let Some(seconds) = seconds {
            let toleration = json!({ "key": "repair", "operator": "Exists", "tolerationSeconds": seconds });
            pod["spec"]["tolerations"] = json!([toleration]);
        }
        world.add(&PODS, pod);
    }
    let mut node = world.get(&NODES, &ObjectKey::cluster("node1")).unwrap();
    node["spec"]["taints"] = json!([{ "key": "repair", "effect": "NoExecute" }]);
    world.add(&NODES, node);
    let mut gone = Vec::new();
    for second in 0..9 {
        renew(&mut world, "node1", second);
        seen.observe(&world.snapshot, at(second));
        let planned = plan(&world.snapshot, &seen, &grace, at(second));
        for write in planned.writes.iter().filter(|write| matches!(write, Write::Delete { .. })) {
            gone.push((second, write.target().1.name.clone()));
        }
        world.apply(&planned);
    }
    assert_eq!(gone, [(0, "goes".to_owned()), (3, "waits".to_owned())]);
    let node = &world.snapshot.nodes[&ObjectKey::cluster("node1")];
    assert!(taints::written(node)[0].time_added.is_some(), "{node:?}");
}
