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

#[test]
fn probes_and_hooks_get_their_defaults() {
    let mut world = World::new();
    let made = world
        .create(pod(json!({"containers": [{"name": "c", "image": "host",
            "readinessProbe": {"httpGet": {"port": "web"}, "failureThreshold": 0},
            "livenessProbe": {"grpc": {"port": 1}, "periodSeconds": 7},
            "lifecycle": {"preStop": {"httpGet": {"port": 1, "scheme": "HTTPS"}}, "postStart": {"tcpSocket": {"port": 1}}}}]})))
        .unwrap()
        .object;
    let container = &made["spec"]["containers"][0];
    assert_eq!(
        container["readinessProbe"],
        json!({"httpGet": {"port": "web", "path": "/", "scheme": "HTTP"},
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(
        container["livenessProbe"],
        json!({"grpc": {"port": 1, "service": ""},
            "timeoutSeconds": 1, "periodSeconds": 7, "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(
        container["lifecycle"]["preStop"]["httpGet"],
        json!({"port": 1, "path": "/", "scheme": "HTTPS"})
    );
}

#[test]
fn a_deadline_may_be_set_and_come_earlier() {
    let mut world = World::new();
    world.create(pod(json!({}))).unwrap();
    let mut set = |seconds: Value| {
        let change = |pod: &mut Value| pod["spec"]["activeDeadlineSeconds"] = seconds.clone();
        world.change(&PODS, "p", None, change).map(drop).map_err(|status| status.message)
    };
    set(json!(100)).unwrap();
    set(json!(50)).unwrap();
    let says = |result: Result<(), String>, words: &str| super::says(&result.unwrap_err(), words);
    says(
        set(json!(60)),
        "spec.activeDeadlineSeconds: Invalid value: 60: must be less than or equal to previous value",
    );
    says(
        set(Value::Null),
        "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil",
    );
    says(
        set(json!(-1)),
        "spec.activeDeadlineSeconds: Invalid value: -1: must be between 0 and 2147483647, inclusive",
    );
}
