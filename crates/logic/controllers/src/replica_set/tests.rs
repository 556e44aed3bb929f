//! ReplicaSets in a whole world: Pods made, adopted, let go and deleted, and what is said of them.

use super::*;
use crate::world::World;
use std::collections::BTreeSet;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn set(world: &mut World, replicas: i64) {
    let old = world.get(&REPLICA_SETS, &key("web"));
    let mut object = old.unwrap_or_else(|| {
        json!({ "metadata": { "namespace": "default", "name": "web" }, "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } },
                          "spec": { "containers": [{ "name": "c", "image": "echo" }] } },
        } })
    });
    object["spec"]["replicas"] = replicas.into();
    world.add(&REPLICA_SETS, object);
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn planned(world: &World) -> Plan {
    let mut plans = plan(&world.snapshot, &Standing::default(), now());
    plans.pop().map(|(_, plan)| plan).unwrap_or_default()
}

fn settle(world: &mut World) {
    for _ in 0..5 {
        let plan = planned(world);
        if plan.is_settled() {
            return;
        }
        world.apply(&plan);
    }
    panic!("it does not settle: {:?}", planned(world));
}

fn status(world: &World) -> Value {
    world.get(&REPLICA_SETS, &key("web")).unwrap()["status"].clone()
}

#[test]
fn pods_are_made_from_the_template_and_counted() {
    let mut world = World::default();
    set(&mut world, 3);
    let first = planned(&world);
    assert_eq!(first, planned(&world), "the same version names the same Pods");
    settle(&mut world);
    assert_eq!(world.snapshot.pods.len(), 3);
    let (pod_key, pod) = world.snapshot.pods.iter().next().unwrap();
    let name = pod_key.name.strip_prefix("web-").unwrap();
    assert_eq!(name.len(), 5, "{name}");
    assert_eq!(controller(&pod.metadata).unwrap().kind, "ReplicaSet");
    assert_eq!(status(&world)["replicas"], 3);
    assert_eq!(status(&world).get("readyReplicas"), None);
    let texts: BTreeSet<&str> = first.notices.iter().map(|notice| notice.reason).collect();
    assert_eq!(texts, BTreeSet::from(["SuccessfulCreate"]));
}

#[test]
fn while_writes_are_open_nothing_is_planned() {
    let mut world = World::default();
    set(&mut world, 3);
    let open = Standing { open: [key("web")].into(), ..Standing::default() };
    assert!(plan(&world.snapshot, &open, now()).is_empty());
}

#[test]
fn orphans_are_adopted_strangers_and_those_that_left_are_not() {
    let mut world = World::default();
    set(&mut world, 2);
    world.pod("orphan", "web", None, None);
    world.pod("other", "db", None, None);
    let plan = planned(&world);
    let [Write::Adopt { key: adopted, owner, .. }] = &plan.writes[..1] else { panic!("{plan:?}") };
    assert_eq!((adopted.name.as_str(), owner.key.name.as_str()), ("orphan", "web"));
    settle(&mut world);
    assert_eq!(world.snapshot.pods.len(), 3);
    // A Pod whose label is changed is let go, and another made for it.
    let mut pod = world.get(&PODS, &key("orphan")).unwrap();
    pod["metadata"]["labels"]["app"] = json!("debug");
    world.add(&PODS, pod);
    settle(&mut world);
    assert_eq!(world.snapshot.pods.len(), 4);
    let let_go = &world.snapshot.pods[&key("orphan")];
    assert!(controller(&let_go.metadata).is_none());
}

#[test]
fn the_least_useful_go_first() {
    let mut world = World::default();
    set(&mut world, 4);
    for (name, node, address) in [
        ("ready-a", Some("n1"), Some("10.42.1.1")),
        ("ready-b", Some("n1"), Some("10.42.1.2")),
        ("ready-c", Some("n2"), Some("10.42.2.1")),
        ("starting", Some("n2"), None),
    ] {
        world.pod(name, "web", node, address);
    }
    settle(&mut world);
    let left = |world: &World| world.snapshot.pods.keys().map(|key| key.name.clone()).collect::<Vec<_>>();
    set(&mut world, 3);
    settle(&mut world);
    assert_eq!(left(&world), ["ready-a", "ready-b", "ready-c"]);
    set(&mut world, 2);
    settle(&mut world);
    assert_eq!(left(&world).len(), 2);
    assert!(
        left(&world).contains(&"ready-c".to_owned()),
        "the crowded node gives one up: {:?}",
        left(&world)
    );
    let mut pod = world.get(&PODS, &key("ready-c")).unwrap();
    pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] = json!("-5");
    world.add(&PODS, pod);
    set(&mut world, 1);
    settle(&mut world);
    assert!(!left(&world).contains(&"ready-c".to_owned()), "the cheap one goes");
    set(&mut world, 0);
    settle(&mut world);
    assert_eq!(status(&world)["replicas"], 0);
}

#[test]
fn failed_pods_are_replaced_ever_later_and_few_are_kept() {
    let mut world = World::default();
    set(&mut world, 1);
    let start = now();
    let (mut made, mut waits) = (Vec::new(), Vec::new());
    for second in 0..2000 {
        let now = start + jiff::SignedDuration::from_secs(second);
        let (_, plan) = plan(&world.snapshot, &Standing::default(), now).pop().unwrap();
        let creates = plan.writes.iter().any(|write| matches!(write, Write::Create { .. }));
        world.apply(&plan);
        if creates {
            waits.push(second - made.last().copied().unwrap_or_default());
            made.push(second);
        }
        let fresh: Vec<ObjectKey> =
            world.snapshot.pods.iter().filter(|(_, pod)| counts(pod)).map(|(key, _)| key.clone()).collect();
        for key in fresh {
            let mut pod = world.get(&PODS, &key).unwrap();
            pod["metadata"]["creationTimestamp"] = json!(now.to_string());
            pod["status"]["phase"] = json!("Failed");
            world.add(&PODS, pod);
        }
    }
    assert_eq!(waits[..11], [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(world.snapshot.pods.len(), failed::KEPT_MAX);
}

#[test]
fn a_refusal_is_told_and_tried_one_pod_at_a_time() {
    let mut world = World::default();
    set(&mut world, 5);
    let standing =
        Standing { refused: [(key("web"), "pods is forbidden".to_owned())].into(), ..Standing::default() };
    let (_, plan) = plan(&world.snapshot, &standing, now()).pop().unwrap();
    let creates = plan.writes.iter().filter(|write| matches!(write, Write::Create { .. })).count();
    assert_eq!(creates, 1);
    let Some(Write::Patch { patch, .. }) = plan.writes.last() else { panic!("{plan:?}") };
    let condition = &patch["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("ReplicaFailure"), &json!("FailedCreate"))
    );
    settle(&mut world);
    assert_eq!(status(&world).get("conditions"), None, "it passes with the refusal");
}

#[test]
fn a_pod_is_available_once_it_was_ready_long_enough() {
    let mut world = World::default();
    world.pod("web", "web", Some("n"), Some("10.42.1.1"));
    let mut pod = world.get(&PODS, &key("web")).unwrap();
    pod["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:09:50Z");
    let pod: Pod = serde_json::from_value(pod).unwrap();
    assert!(is_available(&pod, 0, now()) && is_available(&pod, 10, now()) && !is_available(&pod, 11, now()));
}
