//! Deployments in a whole world with ReplicaSets and Pods: updates within their limits, undone, paused, shared out.

use super::*;
use crate::{replica_set, world::World};
use minisvc_apimachinery::resource::PODS;
use serde_json::Value;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn deployment(world: &mut World, change: impl Fn(&mut Value)) {
    let old = world.get(&DEPLOYMENTS, &key("web"));
    let mut object = old.unwrap_or_else(|| {
        json!({ "metadata": { "namespace": "default", "name": "web" }, "spec": {
            "replicas": 4, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
            "template": { "metadata": { "labels": { "app": "web" } },
                          "spec": { "containers": [{ "name": "c", "image": "echo:1" }] } },
        } })
    });
    change(&mut object);
    world.add(&DEPLOYMENTS, object);
}

fn image(world: &mut World, image: &str) {
    deployment(world, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn status(world: &World) -> Value {
    world.get(&DEPLOYMENTS, &key("web")).unwrap()["status"].clone()
}

fn progress(world: &World) -> (String, String) {
    let status = status(world);
    let found = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Progressing").unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

/// One round of both controllers; then `ready` of the waiting Pods become so. Whether anything happened.
fn round(world: &mut World, second: i64, ready: usize) -> bool {
    let mut moved = false;
    for planner in [plan, replica_set::plan] {
        for (_, plan) in planner(&world.snapshot, &Standing::default(), at(second)) {
            moved |= !plan.is_settled();
            world.apply(&plan);
        }
    }
    let waiting: Vec<ObjectKey> = world
        .snapshot
        .pods
        .iter()
        .filter(|(_, pod)| pod.status.as_ref().is_none_or(|status| status.conditions.is_none()))
        .map(|(key, _)| key.clone())
        .collect();
    for key in waiting.into_iter().take(ready) {
        let mut pod = world.get(&PODS, &key).unwrap();
        pod["spec"]["nodeName"] = json!("n");
        pod["status"] = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
        world.add(&PODS, pod);
        moved = true;
    }
    moved
}

fn ready(world: &World) -> usize {
    world.snapshot.pods.values().filter(|pod| crate::objects::pod_is_ready(pod)).count()
}

/// Rounds until nothing moves; in each, so many Pods there may be and so many must serve.
fn settle(world: &mut World, most: usize, least: usize) {
    for second in 0..200 {
        let moved = round(world, second, 1);
        let (pods, serving) = (world.snapshot.pods.len(), ready(world));
        assert!(pods <= most, "{pods} Pods in round {second}");
        assert!(serving >= least, "{serving} serve in round {second}");
        if !moved {
            return;
        }
    }
    panic!("it does not settle: {}", status(world));
}

fn sizes(world: &World) -> Vec<i32> {
    let mut sets: Vec<(i64, i32)> = world
        .snapshot
        .replica_sets
        .values()
        .map(|set| (revision::of(&set.metadata), set.spec.as_ref().unwrap().replicas.unwrap()))
        .collect();
    sets.sort_unstable();
    sets.into_iter().map(|(_, size)| size).collect()
}

#[test]
fn an_update_keeps_within_its_limits_and_can_be_undone() {
    let mut world = World::default();
    deployment(&mut world, |_| {});
    settle(&mut world, 4, 0);
    assert_eq!(
        (sizes(&world), progress(&world)),
        (vec![4], ("True".into(), "NewReplicaSetAvailable".into()))
    );
    let counts = status(&world);
    assert_eq!((&counts["availableReplicas"], &counts["updatedReplicas"]), (&json!(4), &json!(4)));

    image(&mut world, "echo:2");
    settle(&mut world, 5, 3);
    assert_eq!(sizes(&world), [0, 4]);
    let own = world.get(&DEPLOYMENTS, &key("web")).unwrap();
    assert_eq!(own["metadata"]["annotations"][revision::REVISION], "2");
    let images: Vec<_> = world
        .snapshot
        .pods
        .values()
        .map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap())
        .collect();
    assert_eq!(images, ["echo:2"; 4]);

    image(&mut world, "echo:1");
    settle(&mut world, 5, 3);
    assert_eq!(world.snapshot.replica_sets.len(), 2, "the old ReplicaSet is taken up again");
    assert_eq!(sizes(&world), [0, 4], "as the newest revision");
    let own = world.get(&DEPLOYMENTS, &key("web")).unwrap();
    assert_eq!(own["metadata"]["annotations"][revision::REVISION], "3");
}

#[test]
fn every_old_pod_ends_before_a_new_one_begins_if_so_asked() {
    let mut world = World::default();
    deployment(&mut world, |object| object["spec"]["strategy"] = json!({ "type": "Recreate" }));
    settle(&mut world, 4, 0);
    image(&mut world, "echo:2");
    for second in 0..50 {
        round(&mut world, second, 4);
        let images: std::collections::BTreeSet<_> = world
            .snapshot
            .pods
            .values()
            .map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone())
            .collect();
        assert!(images.len() <= 1, "{images:?}");
    }
    assert_eq!(sizes(&world), [0, 4]);
}

#[test]
fn an_update_that_gets_nowhere_is_told_after_its_deadline() {
    let mut world = World::default();
    deployment(&mut world, |_| {});
    settle(&mut world, 4, 0);
    image(&mut world, "none");
    for second in [0, 1, 2, 3, 4, 5] {
        round(&mut world, second, 0);
    }
    assert_eq!(progress(&world), ("True".into(), "ReplicaSetUpdated".into()));
    assert_eq!((ready(&world), sizes(&world)), (3, vec![3, 2]), "as many old ones as must serve stay");
    round(&mut world, 700, 0);
    assert_eq!(progress(&world), ("False".into(), "ProgressDeadlineExceeded".into()));
    assert_eq!(status(&world)["unavailableReplicas"], 2);
}

#[test]
fn a_new_number_is_shared_out_in_the_middle_of_an_update() {
    let mut world = World::default();
    deployment(&mut world, |object| object["spec"]["replicas"] = json!(10));
    settle(&mut world, 10, 0);
    image(&mut world, "echo:2");
    for second in 0..4 {
        round(&mut world, second, 0);
    }
    let before = sizes(&world);
    assert_eq!(before, [8, 5]);
    deployment(&mut world, |object| object["spec"]["replicas"] = json!(20));
    round(&mut world, 5, 0);
    // 25 Pods at most: 8 and 5 of 13 become 15 and 10.
    assert_eq!(sizes(&world), [15, 10]);
    settle(&mut world, 25, 8);
    assert_eq!(sizes(&world), [0, 20]);
}

#[test]
fn a_paused_update_is_scaled_but_not_rolled() {
    let mut world = World::default();
    deployment(&mut world, |_| {});
    settle(&mut world, 4, 0);
    deployment(&mut world, |object| object["spec"]["paused"] = json!(true));
    image(&mut world, "echo:2");
    deployment(&mut world, |object| object["spec"]["replicas"] = json!(2));
    settle(&mut world, 4, 2);
    assert_eq!((sizes(&world), progress(&world).1), (vec![2], "DeploymentPaused".to_owned()));
    deployment(&mut world, |object| object["spec"]["paused"] = json!(false));
    settle(&mut world, 3, 2);
    assert_eq!(sizes(&world), [0, 2]);
}

#[test]
fn only_so_many_old_revisions_are_kept() {
    let mut world = World::default();
    deployment(&mut world, |object| object["spec"]["revisionHistoryLimit"] = json!(2));
    for n in 1..6 {
        image(&mut world, &format!("echo:{n}"));
        settle(&mut world, 5, 0);
    }
    assert_eq!(sizes(&world), [0, 0, 4]);
}

#[test]
fn a_name_that_is_taken_leads_to_another() {
    let mut world = World::default();
    deployment(&mut world, |_| {});
    let (_, first) = plan(&world.snapshot, &Standing::default(), at(0)).pop().unwrap();
    let (resource, taken) = first.writes[0].target();
    let stranger = json!({ "metadata": { "namespace": "default", "name": taken.name }, "spec": { "selector": { "matchLabels": { "a": "b" } } } });
    world.add(resource, stranger);
    settle(&mut world, 4, 0);
    assert_eq!(status(&world)["collisionCount"], 1);
    assert_eq!(world.snapshot.pods.len(), 4);
}
