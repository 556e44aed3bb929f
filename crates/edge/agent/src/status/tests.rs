use super::*;
use k8s_openapi::api::core::v1::PodCondition;
use minisvc_runtime::{
    Terminated,
    life::{Action, Life, LifeRecord, Probe},
    spec::{ContainerSpec, PodBundle, RestartPolicy},
};
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-01T00:00:00.5Z".parse().unwrap()
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: now() }
}

fn waiting(reason: &str) -> ContainerState {
    ContainerState::Waiting { reason: reason.into(), message: String::new() }
}

fn over(exit_code: i32) -> ContainerState {
    ContainerState::Terminated(Terminated {
        exit_code,
        signal: 0,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
        message: String::new(),
        started_at: Some(now()),
        finished_at: now(),
    })
}

fn probe() -> Probe {
    let action = Action::Sleep { seconds: 0 };
    let (initial_delay_s, timeout_s, period_s) = (0, 1, 10);
    let (success_threshold, failure_threshold, grace_s) = (1, 3, None);
    Probe { action, initial_delay_s, timeout_s, period_s, success_threshold, failure_threshold, grace_s }
}

type Given<'a> = (&'a str, Life, LifeRecord, ContainerState);

fn pod_of(init: Vec<Given<'_>>, main: Vec<Given<'_>>) -> PodRecord {
    let spec = |(name, life, ..): &Given<'_>| ContainerSpec {
        name: (*name).into(),
        image: "echo".into(),
        life: life.clone(),
        ..ContainerSpec::default()
    };
    let bundle = PodBundle {
        uid: "u".into(),
        namespace: "default".into(),
        name: "web".into(),
        addresses: vec![IpAddr::from([10, 42, 0, 2])],
        restart_policy: RestartPolicy::Always,
        init_containers: init.iter().map(spec).collect(),
        containers: main.iter().map(spec).collect(),
        ..PodBundle::default()
    };
    let mut pod = PodRecord::new(bundle, now());
    for (record, (_, _, life, state)) in pod.all_mut().zip(init.into_iter().chain(main)) {
        (record.life, record.state) = (LifeRecord { begun: true, ..life }, state);
    }
    pod
}

fn plain(name: &str, state: ContainerState) -> Given<'_> {
    (name, Life::default(), LifeRecord::default(), state)
}

fn record(state: ContainerState) -> PodRecord {
    pod_of(Vec::new(), vec![plain("c", state)])
}

fn node() -> [IpAddr; 1] {
    [IpAddr::from([192, 0, 2, 1])]
}

fn of(pod: &Pod, record: &PodRecord) -> PodStatus {
    desired(pod, Some(record), &node(), now())
}

fn condition<'s>(status: &'s PodStatus, kind: &str) -> &'s PodCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap()
}

/// A condition's status, reason and message.
fn says(status: &PodStatus, kind: &str) -> (String, String, String) {
    let PodCondition { status, reason, message, .. } = condition(status, kind).clone();
    (status, reason.unwrap_or_default(), message.unwrap_or_default())
}

fn texts(status: &str, reason: &str, message: &str) -> (String, String, String) {
    (status.into(), reason.into(), message.into())
}

#[test]
fn a_running_pod_is_ready_and_its_status_is_a_fixpoint() {
    let running = record(running());
    let mut pod = Pod::default();
    let status = of(&pod, &running);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.42.0.2"));
    assert!(status.conditions.iter().flatten().all(|condition| condition.status == "True"));
    let wire = serde_json::to_value(&status).unwrap();
    pod.status = Some(serde_json::from_value(wire).unwrap());
    let later = "2026-01-01T00:01:00Z".parse().unwrap();
    assert_eq!(Some(desired(&pod, Some(&running), &node(), later)), pod.status);
}

#[test]
fn an_ended_pod_has_its_phase_and_keeps_it_when_the_runtime_has_forgotten() {
    for (exit_code, phase, reason) in [(0, "Succeeded", "PodCompleted"), (3, "Failed", "PodFailed")] {
        let status = of(&Pod::default(), &record(over(exit_code)));
        assert_eq!(status.phase.as_deref(), Some(phase));
        assert_eq!(says(&status, "Ready"), texts("False", reason, ""));
        let pod = Pod { status: Some(status.clone()), ..Pod::default() };
        assert_eq!(desired(&pod, None, &node(), now()), status);
    }
}

#[test]
fn init_containers_in_the_kubelets_words() {
    let sidecar = || Life { sidecar: true, startup: Some(probe()), ..Life::default() };
    let started = LifeRecord { started: true, ..LifeRecord::default() };
    let main = || vec![plain("web", ContainerState::creating())];
    let mut pod = pod_of(
        vec![
            plain("a", over(0)),
            ("side", sidecar(), LifeRecord::default(), running()),
            plain("b", ContainerState::creating()),
        ],
        main(),
    );
    pod.containers[0].life.begun = false;
    let status = of(&Pod::default(), &pod);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let words = "containers with incomplete status: [side b]";
    assert_eq!(says(&status, "Initialized"), texts("False", "ContainersNotInitialized", words));
    let words = "containers with unready status: [side web]";
    assert_eq!(says(&status, "ContainersReady"), texts("False", "ContainersNotReady", words));
    let wire: Value = serde_json::to_value(&status).unwrap();
    let flags = |list: &str| -> Vec<Value> {
        let list = wire[list].as_array().unwrap();
        list.iter()
            .map(|c| json!([c["name"], c["ready"], c["started"], c["state"]["waiting"]["reason"]]))
            .collect()
    };
    assert_eq!(
        flags("initContainerStatuses"),
        [
            json!(["a", true, false, null]),
            json!(["side", false, false, null]),
            json!(["b", false, false, "PodInitializing"])
        ]
    );
    assert_eq!(flags("containerStatuses"), [json!(["web", false, false, "PodInitializing"])]);

    let pod = pod_of(
        vec![plain("a", over(0)), ("side", sidecar(), started, running())],
        vec![plain("web", running())],
    );
    let status = of(&Pod::default(), &pod);
    assert!(status.conditions.iter().flatten().all(|condition| condition.status == "True"), "{status:?}");
    // Initialized it stays, when its sidecar is started again.
    let pod = pod_of(
        vec![("side", sidecar(), LifeRecord::default(), waiting("CrashLoopBackOff"))],
        vec![plain("web", running())],
    );
    let status = of(&Pod::default(), &pod);
    assert_eq!(says(&status, "Initialized"), texts("True", "", ""));
    assert_eq!(says(&status, "Ready").2, "containers with unready status: [side]");
}

#[test]
fn before_the_runtime_knows_it_a_pod_with_init_containers_initializes() {
    let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
        "initContainers": [{"name": "a"}], "containers": [{"name": "web"}]}}))
    .unwrap();
    let status = desired(&pod, None, &node(), now());
    assert_eq!(says(&status, "Initialized").2, "containers with incomplete status: [a]");
    assert_eq!(says(&status, "PodReadyToStartContainers").0, "False");
    let wire: Value = serde_json::to_value(&status).unwrap();
    assert_eq!(wire["initContainerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn a_failed_init_container_fails_the_pod_once_its_sidecars_have_ended() {
    let sidecar = || Life { sidecar: true, ..Life::default() };
    let mut pod = pod_of(
        vec![("side", sidecar(), LifeRecord::default(), running()), plain("a", over(1))],
        vec![plain("web", ContainerState::creating())],
    );
    pod.containers[0].life.begun = false;
    assert_eq!(of(&Pod::default(), &pod).phase.as_deref(), Some("Pending"));
    pod.init_containers[0].state = over(0);
    assert_eq!(of(&Pod::default(), &pod).phase.as_deref(), Some("Failed"));
}

#[test]
fn probes_and_hooks_hold_a_container_back() {
    let with = |life: Life, record: LifeRecord| {
        let status = of(&Pod::default(), &pod_of(Vec::new(), vec![("c", life, record, running())]));
        let container = status.container_statuses.unwrap().remove(0);
        (container.started.unwrap(), container.ready, container.state.unwrap().running.is_some())
    };
    let startup = || Life { startup: Some(probe()), ..Life::default() };
    let readiness = || Life { readiness: Some(probe()), ..Life::default() };
    let hook = || Life { post_start: Some(Action::Sleep { seconds: 1 }), ..Life::default() };
    let none = LifeRecord::default();
    assert_eq!(with(startup(), none), (false, false, true));
    assert_eq!(with(startup(), LifeRecord { started: true, ..none }), (true, true, true));
    assert_eq!(with(readiness(), none), (true, false, true));
    assert_eq!(with(readiness(), LifeRecord { ready: true, ..none }), (true, true, true));
    assert_eq!(with(hook(), none), (false, false, false));
    assert_eq!(with(hook(), LifeRecord { hooked: true, ..none }), (true, true, true));
}

#[test]
fn gates_are_counted_in_ready_and_conditions_of_others_stay() {
    let mut pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
        "readinessGates": [{"conditionType": "example.com/in"}], "containers": []}}))
    .unwrap();
    let running = record(running());
    let status = of(&pod, &running);
    let words = "corresponding condition of pod readiness gate \"example.com/in\" does not exist.";
    assert_eq!(says(&status, "Ready"), texts("False", "ReadinessGatesNotReady", words));
    assert_eq!(says(&status, "ContainersReady").0, "True");
    let gate = |status: &str| PodCondition {
        type_: "example.com/in".into(),
        status: status.into(),
        ..PodCondition::default()
    };
    pod.status = Some(PodStatus { conditions: Some(vec![gate("False")]), ..PodStatus::default() });
    let words = "the status of pod readiness gate \"example.com/in\" is not \"True\", but False";
    assert_eq!(says(&of(&pod, &running), "Ready").2, words);
    pod.status = Some(PodStatus { conditions: Some(vec![gate("True")]), ..PodStatus::default() });
    let status = of(&pod, &running);
    assert_eq!(says(&status, "Ready").0, "True");
    assert_eq!(condition(&status, "example.com/in"), &gate("True"));
    // Whoever decides the gate may have said otherwise meanwhile.
    let patch = patch("u", &status).unwrap();
    let sent = patch["status"]["conditions"].as_array().unwrap();
    assert_eq!(sent.len(), 5);
    assert!(
        sent.iter().all(|c| c["type"] != "example.com/in" && c.get("reason") == Some(&Value::Null)),
        "{patch}"
    );
}

#[test]
fn a_pod_that_the_node_ended_says_why() {
    let mut record = record(over(143));
    record.failure = Some(minisvc_runtime::Failure {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
    });
    let status = of(&Pod::default(), &record);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}
