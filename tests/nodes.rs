//! Nodes that go, come back, are closed and emptied; and what becomes of their Pods and endpoints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{Kubectl, LONG, Lab, eventually, is_there, says};

/// A Deployment whose Pods leave a node that is gone after a second.
const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers: [{name: c, image: echo, ports: [{containerPort: 8080}], readinessProbe: {tcpSocket: {port: 8080}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

/// Pods of a node, one of each policy, and one with a container that has run before another.
const BOUND: &str = "apiVersion: v1
kind: Pod
metadata: {name: always}
spec:
  nodeName: node3
  initContainers: [{name: i, image: host, command: ['true']}]
  containers: [{name: c, image: host, command: [sh, -c, 'ls /keep; touch /keep/there; exec sleep 9999'],
    volumeMounts: [{name: keep, mountPath: /keep}]}]
  volumes: [{name: keep, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec: {nodeName: node3, restartPolicy: Never, containers: [{name: c, image: host, command: [sleep, '9999']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec: {nodeName: node3, restartPolicy: OnFailure, containers: [{name: c, image: host, command: ['true']}]}
";

#[test]
fn nodes_come_and_go() {
    if !is_there("kubectl", "version --client") {
        return;
    }
    let Some(lab) = Lab::up("t-nodes", 3) else { return };
    let kubectl = Kubectl(&lab);
    pods_of_a_lost_node_are_replaced(&lab, &kubectl);
    pods_go_on_after_a_reboot(&lab, &kubectl);
    a_closed_node_gets_none_and_an_emptied_one_has_none(&lab, &kubectl);
    lab.down();
}

/// The columns of `kubectl get pod`, from READY on.
fn shows(kubectl: &Kubectl<'_>, pod: &str, columns: &[&str]) {
    eventually(&format!("{pod} shows {columns:?}"), LONG, || {
        let row = kubectl.run(&format!("get pod {pod} --no-headers"));
        let seen: Vec<&str> = row.out.split_whitespace().skip(1).take(columns.len()).collect();
        if seen == columns { Ok(()) } else { Err(format!("{row:?}")) }
    });
}

/// Names of the nodes that Pods of `web` are on, as often as there are Pods.
fn nodes_of_web(kubectl: &Kubectl<'_>) -> Vec<String> {
    let said = kubectl.run("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}");
    said.out.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn pods_of_a_lost_node_are_replaced(lab: &Lab, kubectl: &Kubectl<'_>) {
    kubectl.of(&["apply", "-f", "-"], WEB).ok();
    kubectl.ok("rollout status deployment/web --timeout=60s");
    assert!(nodes_of_web(kubectl).contains(&"node2".to_owned()), "{:?}", nodes_of_web(kubectl));
    let taints = || kubectl.run("get node node2 -o jsonpath={.spec.taints[*].key}");
    let slices = || {
        let ready = "-o jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
        kubectl.run(&format!("get endpointslices -l kubernetes.io/service-name=web {ready}"))
    };
    lab.lab("kill node2").ok();
    says("node2 is NotReady", &["NotReady"], &[], || kubectl.run("get node node2"));
    says("its endpoints leave", &["node"], &["node2"], slices);
    says("it is tainted", &["node.kubernetes.io/unreachable"], &[], taints);
    eventually("others take its Pods' place", LONG, || {
        let (nodes, ready) = (nodes_of_web(kubectl), kubectl.run("get deployment web --no-headers").out);
        let elsewhere = nodes.iter().filter(|node| *node != "node2").count();
        if elsewhere == 3 && ready.contains("3/3") { Ok(()) } else { Err(format!("{nodes:?} {ready}")) }
    });
    let told = kubectl.ok("get events -A");
    for words in ["NodeNotReady", "TaintManagerEviction"] {
        assert!(told.contains(words), "{words}:\n{told}");
    }
    lab.lab("start node2").ok();
    says("node2 is back", &[" Ready"], &["NotReady"], || kubectl.run("get node node2"));
    says("it is as it was", &[], &["unreachable", "not-ready"], taints);
    eventually("the Pods that were replaced are gone", LONG, || {
        let nodes = nodes_of_web(kubectl);
        if nodes.len() == 3 { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
}

fn pods_go_on_after_a_reboot(lab: &Lab, kubectl: &Kubectl<'_>) {
    kubectl.of(&["apply", "-f", "-"], BOUND).ok();
    shows(kubectl, "always", &["1/1", "Running", "0"]);
    shows(kubectl, "never", &["1/1", "Running", "0"]);
    shows(kubectl, "done", &["0/1", "Completed", "0"]);
    lab.lab("kill node3").ok();
    says("node3 is NotReady", &["NotReady"], &[], || kubectl.run("get node node3"));
    lab.lab("start node3").ok();
    shows(kubectl, "always", &["1/1", "Running", "1"]);
    shows(kubectl, "never", &["0/1", "Unknown", "0"]);
    shows(kubectl, "done", &["0/1", "Completed", "0"]);
    let field = |pod: &str, path: &str| kubectl.ok(&format!("get pod {pod} -o jsonpath={{.status.{path}}}"));
    assert_eq!(field("never", "phase"), "Failed");
    assert_eq!(field("never", "containerStatuses[0].state.terminated.exitCode"), "255");
    assert_eq!(field("always", "containerStatuses[0].lastState.terminated.reason"), "Unknown");
    assert_eq!(field("always", "initContainerStatuses[0].restartCount"), "1");
    eventually("its volume has what it had", LONG, || {
        let said = kubectl.run("logs always").out;
        if said == "there\n" { Ok(()) } else { Err(said) }
    });
    kubectl.ok("delete pod always never done --now");
}

fn a_closed_node_gets_none_and_an_emptied_one_has_none(lab: &Lab, kubectl: &Kubectl<'_>) {
    kubectl.ok("cordon node2");
    kubectl.ok("scale deployment web --replicas=6");
    kubectl.ok("rollout status deployment/web --timeout=60s");
    let before = nodes_of_web(kubectl);
    assert_eq!(before.len(), 6);
    let drained = kubectl.ok("drain node3 --timeout=60s --force");
    assert!(drained.contains("node/node3 drained"), "{drained}");
    eventually("all of them are on node1 then", LONG, || {
        let now = nodes_of_web(kubectl);
        let on = |name: &str| now.iter().filter(|node| *node == name).count();
        let were = before.iter().filter(|node| *node == "node2").count();
        if on("node3") == 0 && on("node2") == were && now.len() == 6 {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    says("closed, and told so", &["SchedulingDisabled"], &[], || lab.minisvc("get node node3"));
    kubectl.ok("uncordon node2 node3");
    kubectl.ok("cordon node1");
    kubectl.ok("rollout restart deployment/web");
    kubectl.ok("rollout status deployment/web --timeout=60s");
    eventually("the others take them", LONG, || {
        let now = nodes_of_web(kubectl);
        let (two, three) = ("node2".to_owned(), "node3".to_owned());
        let spread = now.contains(&two) && now.contains(&three) && !now.contains(&"node1".to_owned());
        if spread { Ok(()) } else { Err(format!("{now:?}")) }
    });
}
