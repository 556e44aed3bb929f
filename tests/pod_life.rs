//! The life of containers in a lab, as kubectl tells it: who starts before whom, who is asked what, and the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

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
    init_containers_come_first(&kubectl);
    an_init_container_that_fails_is_seen(&kubectl);
    a_sidecar_ends_after_the_job(&kubectl);
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
