//! Pods: defaults, refusals, binding, status, graceful end.

use super::{World, key, says};
use crate::{DeleteOptions, bind, evict};
use minisvc_apimachinery::{resource::PODS, storage::Change};
use serde_json::{Value, json};

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn one(container: Value) -> Value {
    let mut all = json!({"name": "c", "image": "echo"});
    all.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({"containers": [all]})
}

fn bound(world: &mut World) -> Value {
    world.create(pod(one(json!({})))).unwrap();
    let outcome = world
        .run(|ctx, view| {
            bind(ctx, view, &key(&PODS, "p"), &json!({"target": {"kind": "Node", "name": "node1"}}))
        })
        .unwrap();
    world.store.commit(&outcome.changes);
    outcome.object
}

#[test]
fn a_pod_gets_its_defaults() {
    let mut world = World::new();
    let object = world
        .create(pod(one(json!({"ports": [{"containerPort": 80}], "image": "reg:5000/echo:1",
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}))))
        .unwrap()
        .object;
    let expected = json!({
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "securityContext": {},
        "serviceAccountName": "default", "serviceAccount": "default",
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "containers": [{"name": "c", "image": "reg:5000/echo:1", "imagePullPolicy": "IfNotPresent",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {},
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}]}],
    });
    assert_eq!(object["spec"], expected);
    assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(object["metadata"]["generation"], 1);
}

#[test]
fn a_pod_runs_as_an_account_that_is_there() {
    let mut world = World::new();
    let named = |field: &str, account: &str| {
        let mut pod = pod(one(json!({})));
        pod["spec"][field] = account.into();
        pod
    };
    let refused = world.refused(named("serviceAccountName", "robot"));
    let words = r#"pods "p" is forbidden: error looking up service account default/robot: serviceaccount "robot" not found"#;
    assert_eq!(refused, words);
    world.refused(named("serviceAccount", "robot"));
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"},
        "secrets": [{"name": "a", "namespace": "b", "kind": "Secret"}]});
    let account = world.create(account).unwrap().object;
    assert_eq!(account["secrets"], json!([{"name": "a"}]));
    let pod = world.create(named("serviceAccount", "robot")).unwrap().object;
    assert_eq!(
        (&pod["spec"]["serviceAccountName"], &pod["spec"]["serviceAccount"]),
        (&json!("robot"), &json!("robot"))
    );
    let change = |spec: &mut Value| spec["spec"]["serviceAccountName"] = "default".into();
    says(&world.change(&PODS, "p", None, change).unwrap_err().message, "spec.serviceAccountName");
    // One of before there were accounts stays as it is.
    let storage_key = PODS.storage_key(&key(&PODS, "p"));
    let mut old = pod.clone();
    for field in ["serviceAccount", "serviceAccountName"] {
        old["spec"].as_object_mut().unwrap().remove(field);
    }
    world.store.commit(&[Change::PutObject { key: storage_key, value: old }]);
    let labelled =
        world.change(&PODS, "p", None, |pod| pod["metadata"]["labels"] = json!({"a": "b"})).unwrap();
    assert!(labelled.object["spec"].get("serviceAccountName").is_none());
}

#[test]
fn what_kubectl_run_sends_is_taken() {
    let mut world = World::new();
    let sent = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": null, "labels": {"run": "p"}, "name": "p"},
        "spec": {"containers": [{"image": "echo", "name": "p", "resources": {}, "stdin": true, "stdinOnce": true, "tty": true}], "dnsPolicy": "ClusterFirst",
                 "restartPolicy": "Always", "hostNetwork": false, "tolerations": [{"operator": "Exists"}]}, "status": {}});
    world.create(sent).unwrap();
}

#[test]
fn a_pod_is_bound_once() {
    let mut world = World::new();
    let answer = bound(&mut world);
    assert_eq!(answer["status"], "Success");
    let object = world.get(&PODS, "p").unwrap();
    assert_eq!(object["spec"]["nodeName"], "node1");
    assert_eq!(object["status"]["conditions"][0]["type"], "PodScheduled");
    let again = json!({"target": {"kind": "Node", "name": "node2"}});
    let refused = world.run(|ctx, view| bind(ctx, view, &key(&PODS, "p"), &again)).unwrap_err();
    assert_eq!(refused.code, 409);
    says(&refused.message, "pod p is already assigned to node \"node1\"");
    let faulty = json!({"target": {"kind": "Pod"}});
    let refused = world.run(|ctx, view| bind(ctx, view, &key(&PODS, "p"), &faulty)).unwrap_err();
    says(
        &refused.message,
        "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
    );
    says(&refused.message, "target.name: Required value");
    let absent = world.run(|ctx, view| bind(ctx, view, &key(&PODS, "q"), &again)).unwrap_err();
    assert_eq!(absent.code, 404);
}

#[test]
fn a_pod_on_a_node_ends_gracefully() {
    let mut world = World::new();
    bound(&mut world);
    let outcome = world.delete(&PODS, "p", &DeleteOptions::default()).unwrap();
    let metadata = &outcome.object["metadata"];
    assert!(!outcome.deleted);
    assert_eq!(metadata["deletionGracePeriodSeconds"], 30);
    assert_eq!(metadata["deletionTimestamp"], "2026-01-02T03:04:35Z");
    let longer = DeleteOptions { grace_period_seconds: Some(60), ..DeleteOptions::default() };
    assert!(world.delete(&PODS, "p", &longer).unwrap().changes.is_empty());
    let shorter = DeleteOptions { grace_period_seconds: Some(10), ..DeleteOptions::default() };
    let outcome = world.delete(&PODS, "p", &shorter).unwrap();
    assert_eq!(outcome.object["metadata"]["deletionTimestamp"], "2026-01-02T03:04:15Z");
    let status =
        world.change(&PODS, "p", Some("status"), |pod| pod["status"]["phase"] = json!("Running")).unwrap();
    assert!(!status.deleted, "a status update does not end it");
    let confirmed = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    assert!(world.delete(&PODS, "p", &confirmed).unwrap().deleted);
    assert!(world.get(&PODS, "p").is_none());
}

#[test]
fn an_eviction_is_a_delete_that_names_its_pod() {
    let mut world = World::new();
    bound(&mut world);
    let eviction = |name: &str, options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options});
    let mut run = |sent: Value| world.run(|ctx, view| evict(ctx, view, &key(&PODS, "p"), &sent));
    for (sent, words) in [
        (eviction("q", json!({})), "name in URL does not match name in Eviction object"),
        (eviction("p", json!({"gracePeriodSeconds": "x"})), "deleteOptions.gracePeriodSeconds: "),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}),
            "must be Eviction of policy/v1",
        ),
    ] {
        let refused = run(sent).unwrap_err();
        assert_eq!(refused.code, 400);
        says(&refused.message, words);
    }
    let stale = run(eviction("p", json!({"preconditions": {"uid": "other"}}))).unwrap_err();
    assert_eq!(stale.code, 409);
    let dry = run(eviction("p", json!({"dryRun": ["All"]}))).unwrap();
    assert!(dry.changes.is_empty());
    let outcome = run(eviction("p", json!({"gracePeriodSeconds": 5}))).unwrap();
    assert_eq!((&outcome.object["status"], outcome.created), (&json!("Success"), true));
    world.store.commit(&outcome.changes);
    let pod = world.get(&PODS, "p").unwrap();
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 5, "it ends as any Pod does");
}

#[test]
fn a_pod_without_node_goes_at_once() {
    let mut world = World::new();
    world.create(pod(one(json!({})))).unwrap();
    assert!(world.delete(&PODS, "p", &DeleteOptions::default()).unwrap().deleted);
}

#[test]
fn the_spec_is_fixed_and_the_status_is_apart() {
    let mut world = World::new();
    bound(&mut world);
    type Change = fn(&mut Value);
    let refused: [(Change, &str); 4] = [
        (|spec| spec["nodeName"] = json!("node2"), "changed: spec.nodeName"),
        (|spec| spec["containers"][0]["args"] = json!(["x"]), "changed: spec.containers"),
        (|spec| spec["restartPolicy"] = json!("Never"), "pod updates may not change fields other than"),
        (
            |spec| spec["containers"] = json!([]),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ),
    ];
    for (change, expected) in refused {
        let status = world.change(&PODS, "p", None, |pod| change(&mut pod["spec"])).unwrap_err();
        says(&status.message, expected);
    }
    let outcome = world
        .change(&PODS, "p", None, |pod| {
            pod["spec"]["containers"][0]["image"] = json!("echo:2");
            pod["status"] = json!({"phase": "Failed"});
        })
        .unwrap();
    assert_eq!(outcome.object["metadata"]["generation"], 3);
    assert_eq!(outcome.object["status"]["phase"], "Pending");
    let outcome = world
        .change(&PODS, "p", Some("status"), |pod| {
            pod["status"] = json!({"phase": "Running", "podIP": "10.42.0.5"});
            pod["spec"]["nodeName"] = json!("node9");
            pod["metadata"]["labels"] = json!({"app": "bank"});
        })
        .unwrap();
    assert_eq!(outcome.object["metadata"].get("labels"), None, "a node cannot put its Pod behind a Service");
    assert_eq!(outcome.object["status"]["podIP"], "10.42.0.5");
    assert_eq!(outcome.object["spec"]["nodeName"], "node1");
    assert_eq!(outcome.object["metadata"]["generation"], 3);
    let none = world.change(&PODS, "p", Some("scale"), |_| {}).unwrap_err();
    assert_eq!(none.code, 404);
}

#[test]
fn a_pod_tolerates_a_lost_node_for_a_while_unless_it_says_otherwise() {
    let mut world = World::new();
    let made = |world: &mut World, name: &str, tolerations: Value| {
        let spec = json!({"containers": [{"name": "c", "image": "echo"}], "tolerations": tolerations});
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        world.create(object).unwrap().object["spec"]["tolerations"].clone()
    };
    let usual = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let (absent, silent) = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable");
    assert_eq!(made(&mut world, "a", json!([])), json!([usual(absent), usual(silent)]));
    let own = json!({"key": silent, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2});
    assert_eq!(made(&mut world, "b", json!([own])), json!([own, usual(absent)]));
    let all = json!([{"operator": "Exists"}]);
    assert_eq!(made(&mut world, "c", all.clone()), all);
    // For how long may change later, and tolerations may be added, but none is lost.
    let change = |world: &mut World, tolerations: Value| {
        world.change(&PODS, "b", None, |pod| pod["spec"]["tolerations"] = tolerations.clone())
    };
    let longer = json!({"key": silent, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9});
    change(&mut world, json!([longer, usual(absent), {"key": "a", "operator": "Exists"}])).unwrap();
    let refused = change(&mut world, json!([longer, usual(absent)])).unwrap_err();
    says(&refused.message, "existing toleration can not be modified except its tolerationSeconds");
}
