//! Deployments and ReplicaSets: what is filled in, what may change, and their `scale`.

use super::{World, key, says};
use crate::{apply, scale, update};
use minisvc_apimachinery::{
    managed::Force,
    resource::{DEPLOYMENTS, PODS, REPLICA_SETS},
};
use serde_json::{Value, json};

fn workload(kind: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "echo"}]}},
    }})
}

#[test]
fn a_deployment_gets_kubernetes_defaults() {
    let mut world = World::new();
    let made = world.create(workload("Deployment")).unwrap().object;
    let (spec, template) = (&made["spec"], &made["spec"]["template"]["spec"]);
    assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
    assert_eq!(spec["strategy"], strategy);
    assert_eq!(
        (&template["restartPolicy"], &template["dnsPolicy"]),
        (&json!("Always"), &json!("ClusterFirst"))
    );
    assert_eq!(template["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(made["metadata"]["generation"], 1);
}

#[test]
fn the_selector_is_for_ever_and_a_template_is_a_new_generation() {
    let mut world = World::new();
    for (r, kind) in [(&DEPLOYMENTS, "Deployment"), (&REPLICA_SETS, "ReplicaSet")] {
        world.create(workload(kind)).unwrap();
        let select = |object: &mut Value| {
            object["spec"]["selector"]["matchLabels"]["a"] = json!("b");
            object["spec"]["template"]["metadata"]["labels"]["a"] = json!("b");
        };
        says(&world.change(r, "web", None, select).unwrap_err().message, "spec.selector: Invalid value: ");
        let image =
            |object: &mut Value| object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("x");
        assert_eq!(world.change(r, "web", None, image).unwrap().object["metadata"]["generation"], 2);
        let status = |object: &mut Value| object["status"]["replicas"] = json!(1);
        assert_eq!(
            world.change(r, "web", Some("status"), status).unwrap().object["metadata"]["generation"],
            2
        );
        let ready = |object: &mut Value| object["status"]["readyReplicas"] = json!(2);
        let refused = world.change(r, "web", Some("status"), ready).unwrap_err();
        says(
            &refused.message,
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        );
    }
}

#[test]
fn scale_reads_and_writes_the_number_and_nothing_else() {
    let mut world = World::new();
    world.create(workload("Deployment")).unwrap();
    let before = world.get(&DEPLOYMENTS, "web").unwrap();
    let seen = scale(&before);
    assert_eq!(seen["spec"], json!({"replicas": 1}));
    assert_eq!(seen["status"], json!({"replicas": 0, "selector": "app=web"}));
    assert_eq!(seen["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);

    let four = |scale: &mut Value| scale["spec"]["replicas"] = json!(4);
    let outcome = world.change(&DEPLOYMENTS, "web", Some("scale"), four).unwrap();
    assert_eq!((&outcome.object["kind"], &outcome.object["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    let after = world.get(&DEPLOYMENTS, "web").unwrap();
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(4), &json!(2)));
    assert_eq!(after["spec"]["template"], before["spec"]["template"]);

    let put = |world: &mut World, sent: &Value| {
        let key = key(&DEPLOYMENTS, "web");
        world.run(|ctx, view| update(ctx, view, &DEPLOYMENTS, &key, sent.clone(), Some("scale")))
    };
    let stale = put(&mut world, &seen).unwrap_err();
    assert_eq!(stale.code, 409, "{stale}");
    let mut odd = scale(&after);
    odd["spec"]["replicas"] = json!(-1);
    let refused = put(&mut world, &odd).unwrap_err();
    says(
        &refused.message,
        "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater",
    );
    assert_eq!(put(&mut world, &after).unwrap_err().code, 400, "a Deployment is no Scale");
    let none = world.change(&PODS, "web", Some("scale"), |_| {}).unwrap_err();
    assert_eq!(none.code, 404);
}

#[test]
fn an_applied_scale_owns_the_number() {
    let mut world = World::new();
    world.create(workload("Deployment")).unwrap();
    let said = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let key = key(&DEPLOYMENTS, "web");
    world.manager = "scaler";
    let mut say = |force| {
        let outcome =
            world.run(|ctx, view| apply(ctx, view, &DEPLOYMENTS, &key, &said, force, Some("scale")))?;
        world.store.commit(&outcome.changes);
        Ok::<_, crate::Status>(outcome.object)
    };
    let conflict = say(Force::No).unwrap_err();
    says(&conflict.message, "conflict with \"test\" using apps/v1: .spec.replicas");
    for force in [Force::Yes, Force::No] {
        assert_eq!(say(force).unwrap()["spec"]["replicas"], 3);
    }
    let stored = world.get(&DEPLOYMENTS, "web").unwrap();
    let entries = stored["metadata"]["managedFields"].as_array().unwrap();
    let ours = entries.iter().find(|entry| entry["subresource"] == "scale").unwrap();
    assert_eq!(ours["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
}
