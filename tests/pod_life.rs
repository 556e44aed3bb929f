//! The life of containers in a lab, as kubectl tells it: who starts before whom, who is asked what, and the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;
#[path = "pod_life/copies.rs"]
mod copies;
#[path = "pod_life/given.rs"]
mod given;
#[path = "pod_life/images.rs"]
mod images;

use common::{Kubectl, LONG, Lab, eventually, is_there};

/// A program that ends when it is told to.
const SERVE: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

#[test]
fn containers_live_as_kubernetes_do() {
    if !is_there("kubectl", "version --client") {
        return;
    }
    let Some(lab) = Lab::up("t-life", 1) else { return };
    let kubectl = Kubectl(&lab);
    the_example_lives_and_goes(&kubectl);
    init_containers_come_first(&kubectl);
    an_init_container_that_fails_is_seen(&kubectl);
    a_sidecar_ends_after_the_job(&kubectl);
    readiness_moves_the_endpoint(&lab, &kubectl);
    what_does_not_live_is_started_again(&kubectl);
    probes_by_name_of_port_tcp_and_http(&kubectl);
    hooks_come_before_signals(&kubectl);
    a_pods_time_is_over(&kubectl);
    gates_are_opened_by_others(&kubectl);
    given::programs_run_as_whom_they_must(&kubectl);
    given::volumes_are_filled_and_follow(&kubectl);
    given::what_a_pod_lacks_is_waited_for(&kubectl);
    given::who_writes_too_much_is_evicted(&kubectl);
    images::come_change_and_go(&lab, &kubectl);
    copies::files_are_copied(&lab, &kubectl);
    last_words_are_shown(&kubectl);
    a_hurry_cuts_the_grace_short(&kubectl);
    the_next_server_goes_on_asking(&lab, &kubectl);
    lab.down();
}

/// A Pod `name` with these lines of its spec; `SERVE` stands for a program that ends when it is told to.
fn apply(kubectl: &Kubectl<'_>, name: &str, spec: &str) {
    let spec = spec.replace("SERVE", SERVE);
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n{spec}"
    );
    kubectl.of(&["apply", "-f", "-"], &pod).ok();
}

/// The STATUS that kubectl shows, once it is this one.
fn shows(kubectl: &Kubectl<'_>, pod: &str, columns: &[&str]) {
    eventually(&format!("{pod} shows {columns:?}"), LONG, || {
        let row = kubectl.run(&format!("get pod {pod} --no-headers"));
        let seen: Vec<&str> = row.out.split_whitespace().skip(1).take(columns.len()).collect();
        if seen == columns { Ok(()) } else { Err(format!("{row:?}")) }
    });
}

/// What Events say of a Pod, once they say all of this.
fn events(kubectl: &Kubectl<'_>, pod: &str, parts: &[&str]) -> String {
    let ask = format!("events --for pod/{pod} --no-headers");
    common::says(&format!("Events of {pod}"), parts, &[], || kubectl.run(&ask))
}

fn field(kubectl: &Kubectl<'_>, pod: &str, path: &str) -> String {
    kubectl.of(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")], "").ok()
}

fn the_example_lives_and_goes(kubectl: &Kubectl<'_>) {
    kubectl.ok("apply -f examples/pod-lifecycle.yaml");
    kubectl.ok("wait pod/careful --for=condition=Ready --timeout=40s");
    shows(kubectl, "careful", &["2/2", "Running", "0"]);
    assert_eq!(kubectl.ok("exec careful -c web -- cat /tmp/started"), "started\n");
    let told = kubectl.ok("describe pod careful");
    for words in ["Initialized", "Startup:", "tcp-socket :http", "Started container watcher"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    kubectl.ok("delete -f examples/pod-lifecycle.yaml");
}

fn init_containers_come_first(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "ordered",
        r#"
  initContainers:
  - {name: first, image: host, command: [sh, -c, "echo one; sleep 1.5"]}
  - {name: second, image: host, command: [sh, -c, "echo two; sleep 1.5"]}
  containers:
  - {name: main, image: host, command: [sh, -c, "SERVE"]}
"#,
    );
    shows(kubectl, "ordered", &["0/1", "Init:0/2", "0"]);
    let initialized = ".status.conditions[?(@.type==\"Initialized\")].message";
    assert_eq!(field(kubectl, "ordered", initialized), "containers with incomplete status: [first second]");
    assert!(kubectl.ok("exec ordered -c first -- hostname").contains("ordered"));
    shows(kubectl, "ordered", &["0/1", "Init:1/2", "0"]);
    shows(kubectl, "ordered", &["1/1", "Running", "0"]);
    assert_eq!(kubectl.ok("logs ordered -c first"), "one\n");
    assert_eq!(kubectl.ok("logs ordered -c second"), "two\n");
    let parts = ["Created container: first", "Started container second", "Started container main"];
    events(kubectl, "ordered", &parts);
    let reasons = field(kubectl, "ordered", ".status.initContainerStatuses[*].state.terminated.reason");
    assert_eq!(reasons, "Completed Completed");
    kubectl.ok("delete pod ordered");
}

fn an_init_container_that_fails_is_seen(kubectl: &Kubectl<'_>) {
    let spec = r#"
  restartPolicy: POLICY
  initContainers:
  - {name: first, image: host, command: [sh, -c, "exit 3"]}
  containers:
  - {name: main, image: host, command: [sh, -c, "SERVE"]}
"#;
    apply(kubectl, "never", &spec.replace("POLICY", "Never"));
    apply(kubectl, "always", &spec.replace("POLICY", "Always"));
    shows(kubectl, "never", &["0/1", "Init:Error", "0"]);
    assert_eq!(field(kubectl, "never", ".status.phase"), "Failed");
    shows(kubectl, "always", &["0/1", "Init:CrashLoopBackOff"]);
    assert_eq!(field(kubectl, "always", ".status.phase"), "Pending");
    events(kubectl, "always", &["Back-off restarting failed container first in pod always_default("]);
    kubectl.ok("delete pod never always --grace-period=1");
}

fn a_sidecar_ends_after_the_job(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "job",
        r#"
  restartPolicy: Never
  initContainers:
  - {name: side, image: host, restartPolicy: Always, command: [sh, -c, "SERVE"]}
  containers:
  - {name: main, image: host, command: [sh, -c, "sleep 2"]}
"#,
    );
    shows(kubectl, "job", &["2/2", "Running", "0"]);
    shows(kubectl, "job", &["0/2", "Completed", "0"]);
    assert_eq!(field(kubectl, "job", ".status.phase"), "Succeeded");
    events(kubectl, "job", &["Stopping container side"]);
    kubectl.ok("delete pod job");
}

fn readiness_moves_the_endpoint(lab: &Lab, kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "ready",
        r#"
  containers:
  - name: main
    image: echo
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, failureThreshold: 1}
"#,
    );
    kubectl.ok("expose pod ready --port=80 --target-port=web");
    shows(kubectl, "ready", &["0/1", "Running", "0"]);
    let ready = ".status.conditions[?(@.type==\"Ready\")].message";
    assert_eq!(field(kubectl, "ready", ready), "containers with unready status: [main]");
    let slices = "get endpointslices -l kubernetes.io/service-name=ready -o jsonpath={.items[*].endpoints[*].conditions.ready}";
    let endpoint = |is: &str| common::says("the endpoint", &[is], &[], || kubectl.run(slices));
    endpoint("false");
    let address = kubectl.ok("get service ready -o jsonpath={.spec.clusterIP}");
    let url = format!("http://{address}/");
    assert_ne!(lab.probe("node1", &url).code, 0);
    kubectl.ok("exec ready -- touch /tmp/up");
    shows(kubectl, "ready", &["1/1", "Running", "0"]);
    endpoint("true");
    eventually("the Service answers", LONG, || match lab.probe("node1", &url) {
        said if said.code == 0 => Ok(()),
        said => Err(format!("{said:?}")),
    });
    kubectl.ok("exec ready -- rm /tmp/up");
    shows(kubectl, "ready", &["0/1", "Running", "0"]);
    endpoint("false");
    events(kubectl, "ready", &["Unhealthy", "Readiness probe failed:"]);
    kubectl.ok("delete service/ready pod/ready --grace-period=1");
}

fn what_does_not_live_is_started_again(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "dead",
        r#"
  containers:
  - name: main
    image: host
    command: [sh, -c, "touch /tmp/alive; sleep 1; rm /tmp/alive; SERVE"]
    livenessProbe: {exec: {command: [cat, /tmp/alive]}, periodSeconds: 1, failureThreshold: 2}
"#,
    );
    let restarted = "the container was started again";
    eventually(restarted, LONG, || {
        match field(kubectl, "dead", ".status.containerStatuses[0].restartCount").as_str() {
            "" | "0" => Err(String::new()),
            _ => Ok(()),
        }
    });
    let parts = [
        "Liveness probe failed: cat: /tmp/alive: No such file or directory",
        "Container main failed liveness probe, will be restarted",
    ];
    events(kubectl, "dead", &parts);
    kubectl.ok("delete pod dead --grace-period=1");
}

fn probes_by_name_of_port_tcp_and_http(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "asked",
        r#"
  containers:
  - name: main
    image: echo
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: web}}
    livenessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
    readinessProbe: {httpGet: {port: web, path: /, httpHeaders: [{name: X-A, value: b}]}}
  - name: closed
    image: host
    command: [sh, -c, "SERVE"]
    readinessProbe: {tcpSocket: {port: 9999}, periodSeconds: 1}
"#,
    );
    shows(kubectl, "asked", &["1/2", "Running", "0"]);
    let started = field(kubectl, "asked", ".status.containerStatuses[*].started");
    assert_eq!(started, "true true");
    let address = field(kubectl, "asked", ".status.podIP");
    let refused = format!("Readiness probe failed: dial tcp {address}:9999: connect: connection refused");
    events(kubectl, "asked", &[&refused]);
    kubectl.ok("delete pod asked --grace-period=1");
}

fn hooks_come_before_signals(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "hooked",
        r#"
  containers:
  - name: main
    image: host
    command: [sh, -c, "trap 'echo told; exit 0' TERM; while :; do sleep 0.05; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "sleep 1; echo started > /proc/1/fd/1"]}}
      preStop: {exec: {command: [sh, -c, "echo ending > /proc/1/fd/1; sleep 1"]}}
"#,
    );
    shows(kubectl, "hooked", &["0/1", "ContainerCreating", "0"]);
    shows(kubectl, "hooked", &["1/1", "Running", "0"]);
    let mut logs = kubectl.0.command("kubectl", &["logs", "-f", "hooked"]);
    let logs = logs.stdout(std::process::Stdio::piped()).spawn().unwrap();
    kubectl.ok("delete pod hooked");
    let said = String::from_utf8(logs.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said, "started\nending\ntold\n");
    apply(
        kubectl,
        "unhooked",
        r#"
  containers:
  - name: main
    image: host
    command: [sh, -c, "SERVE"]
    lifecycle: {postStart: {exec: {command: ["false"]}}}
"#,
    );
    shows(kubectl, "unhooked", &["0/1", "CrashLoopBackOff"]);
    events(kubectl, "unhooked", &["FailedPostStartHook", "PostStartHook failed"]);
    kubectl.ok("delete pod unhooked --grace-period=1");
}

fn a_pods_time_is_over(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "late",
        r#"
  activeDeadlineSeconds: 3
  containers:
  - {name: main, image: host, command: [sh, -c, "SERVE"]}
"#,
    );
    shows(kubectl, "late", &["1/1", "Running", "0"]);
    eventually("it has failed", LONG, || match field(kubectl, "late", ".status.phase").as_str() {
        "Failed" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(field(kubectl, "late", ".status.reason"), "DeadlineExceeded");
    let words = "Pod was active on the node longer than the specified deadline";
    assert_eq!(field(kubectl, "late", ".status.message"), words);
    events(kubectl, "late", &["DeadlineExceeded", "Stopping container main"]);
    kubectl.ok("delete pod late");
}

fn gates_are_opened_by_others(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "gated",
        r#"
  readinessGates: [{conditionType: example.com/balanced}]
  containers:
  - {name: main, image: echo}
"#,
    );
    shows(kubectl, "gated", &["1/1", "Running", "0"]);
    let reason =
        |of: &str| field(kubectl, "gated", &format!(".status.conditions[?(@.type==\"Ready\")].{of}"));
    assert_eq!(reason("reason"), "ReadinessGatesNotReady");
    assert!(kubectl.ok("get pod gated -o wide --no-headers").trim_end().ends_with("0/1"));
    let patch = r#"{"status":{"conditions":[{"type":"example.com/balanced","status":"True"}]}}"#;
    kubectl.of(&["patch", "pod", "gated", "--subresource=status", "-p", patch], "").ok();
    eventually("the gate counts", LONG, || match reason("status").as_str() {
        "True" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert!(kubectl.ok("get pod gated -o wide --no-headers").trim_end().ends_with("1/1"));
    kubectl.ok("delete pod gated --grace-period=1");
}

fn last_words_are_shown(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "words",
        r#"
  restartPolicy: Never
  containers:
  - {name: main, image: host, command: [sh, -c, "echo goodbye > /dev/termination-log; exit 3"]}
"#,
    );
    shows(kubectl, "words", &["0/1", "Error", "0"]);
    let end = |of: &str| field(kubectl, "words", &format!(".status.containerStatuses[0].{of}"));
    assert_eq!(end("state.terminated.message"), "goodbye\n");
    assert_eq!((end("state.terminated.exitCode").as_str(), end("lastState").as_str()), ("3", "{}"));
    kubectl.ok("delete pod words");
}

fn a_hurry_cuts_the_grace_short(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "deaf",
        r#"
  terminationGracePeriodSeconds: 600
  containers:
  - {name: main, image: host, command: [sh, -c, "trap '' TERM; while :; do sleep 0.05; done"]}
"#,
    );
    shows(kubectl, "deaf", &["1/1", "Running", "0"]);
    kubectl.ok("delete pod deaf --wait=false");
    shows(kubectl, "deaf", &["1/1", "Terminating", "0"]);
    kubectl.ok("delete pod deaf --grace-period=1 --timeout=40s");
}

fn the_next_server_goes_on_asking(lab: &Lab, kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "stays",
        r#"
  containers:
  - name: main
    image: echo
    readinessProbe: {exec: {command: [test, "!", -e, /tmp/down]}, periodSeconds: 1, failureThreshold: 1}
"#,
    );
    shows(kubectl, "stays", &["1/1", "Running", "0"]);
    let since = field(kubectl, "stays", ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime");
    lab.lab("kill node1 --server-only").ok();
    common::says("the server has ended", &["ended (SIGKILL)"], &[], || lab.lab("status"));
    lab.lab("start node1").ok();
    lab.wait_for_nodes(1);
    shows(kubectl, "stays", &["1/1", "Running", "0"]);
    assert_eq!(field(kubectl, "stays", ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"), since);
    kubectl.ok("exec stays -- touch /tmp/down");
    shows(kubectl, "stays", &["0/1", "Running", "0"]);
    kubectl.ok("delete pod stays --grace-period=1");
}
