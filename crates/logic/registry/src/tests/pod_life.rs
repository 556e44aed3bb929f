//! The life of a Pod's containers: what is filled in, what may change, what kubectl shows.

use super::{World, says};
use crate::kinds::strategy;
use minisvc_apimachinery::resource::PODS;
use serde_json::{Value, json};

fn pod(mut spec: Value) -> Value {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "image": "echo"}]);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn init_containers_get_the_defaults_of_containers_and_only_their_image_changes() {
    let mut world = World::new();
    let init = json!([{"name": "i", "image": "host", "ports": [{"containerPort": 1}]}]);
    let made = world.create(pod(json!({"initContainers": init}))).unwrap().object;
    assert_eq!(
        made["spec"]["initContainers"][0],
        json!({"name": "i", "image": "host", "imagePullPolicy": "Always", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 1, "protocol": "TCP"}]})
    );
    world.change(&PODS, "p", None, |pod| pod["spec"]["initContainers"][0]["image"] = "echo".into()).unwrap();
    let refused = |world: &mut World, change: &dyn Fn(&mut Value)| {
        world.change(&PODS, "p", None, change).unwrap_err().message
    };
    let more = |pod: &mut Value| {
        pod["spec"]["initContainers"].as_array_mut().unwrap().push(json!({"name": "j", "image": "echo"}));
    };
    says(
        &refused(&mut world, &more),
        "spec.initContainers: Forbidden: pod updates may not add or remove containers",
    );
    let other = |pod: &mut Value| pod["spec"]["initContainers"][0]["command"] = json!(["x"]);
    says(&refused(&mut world, &other), "changed: spec.initContainers");
}

/// READY, STATUS and RESTARTS.
fn row(spec: Value, status: Value) -> String {
    let now = "2026-01-01T00:05:00Z".parse().unwrap();
    let pod = json!({"metadata": {"name": "x"}, "spec": spec, "status": status});
    let cells = strategy(&PODS).unwrap().cells(&pod, now);
    let text = |at: usize| cells[at].as_str().unwrap_or_default();
    [1, 2, 3].map(text).join(" ")
}

#[test]
fn rows_tell_how_far_a_pod_is() {
    let spec = |sidecar: bool| {
        let policy = if sidecar { json!("Always") } else { Value::Null };
        json!({"initContainers": [{"name": "a", "restartPolicy": policy}, {"name": "b"}], "containers": [{"name": "c"}]})
    };
    let of = |name: &str, state: Value, started: bool| json!({"name": name, "state": state, "started": started, "ready": started, "restartCount": 1});
    let done = || json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let failed = || json!({"terminated": {"exitCode": 3, "reason": "Error"}});
    let waits = |reason: &str| json!({"waiting": {"reason": reason}});
    let runs = || json!({"running": {}});
    let rows = [
        (false, [of("a", runs(), false), of("b", waits("PodInitializing"), false)], "0/1 Init:0/2 2"),
        (false, [of("a", done(), false), of("b", runs(), false)], "0/1 Init:1/2 2"),
        (false, [of("a", done(), false), of("b", failed(), false)], "0/1 Init:Error 2"),
        (
            false,
            [of("a", waits("CrashLoopBackOff"), false), of("b", runs(), false)],
            "0/1 Init:CrashLoopBackOff 2",
        ),
        (
            false,
            [of("a", done(), false), of("b", json!({"terminated": {"exitCode": 3}}), false)],
            "0/1 Init:ExitCode:3 2",
        ),
        (false, [of("a", done(), false), of("b", done(), false)], "0/1 PodInitializing 1"),
        (true, [of("a", runs(), true), of("b", runs(), false)], "1/2 Init:1/2 2"),
        (true, [of("a", runs(), true), of("b", done(), false)], "1/2 PodInitializing 2"),
    ];
    for (sidecar, init, expected) in rows {
        let status = json!({"phase": "Pending", "initContainerStatuses": init,
            "containerStatuses": [of("c", waits("PodInitializing"), false)]});
        assert_eq!(row(spec(sidecar), status), expected);
    }
    // A sidecar that is started again does not make the Pod initialize again.
    let status = json!({"phase": "Running", "conditions": [{"type": "Initialized", "status": "True"}],
        "initContainerStatuses": [of("a", waits("CrashLoopBackOff"), false), of("b", done(), false)],
        "containerStatuses": [of("c", runs(), true)]});
    assert_eq!(row(spec(true), status), "1/2 Init:CrashLoopBackOff 2");
}
