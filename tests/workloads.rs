//! Deployments and ReplicaSets in a lab, as kubectl drives them: rolled out, undone, scaled, left behind, taken up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{Kubectl, LONG, Lab, eventually, is_there, says};

const PATIENCE: &str = "--timeout=60s";

#[test]
fn deployments_are_rolled_out_by_kubectl() {
    if !is_there("kubectl", "version --client") {
        return;
    }
    let Some(lab) = Lab::up("t-deploy", 2) else { return };
    let kubectl = Kubectl(&lab);
    a_deployment_is_rolled_out(&kubectl);
    it_is_scaled(&kubectl);
    it_is_updated_while_it_serves(&lab, &kubectl);
    it_is_paused_and_undone(&kubectl);
    what_it_leaves_behind_is_taken_up(&kubectl);
    all_of_it_goes(&kubectl);
    what_a_manifest_says_no_longer_is_pruned(&kubectl);
    pods_keep_away_from_each_other(&kubectl);
    lab.down();
}

fn rolled_out(kubectl: &Kubectl<'_>) -> String {
    rolled_out_of(kubectl, "web")
}

fn rolled_out_of(kubectl: &Kubectl<'_>, name: &str) -> String {
    kubectl.ok(&format!("rollout status deployment/{name} {PATIENCE}"))
}

fn names(kubectl: &Kubectl<'_>, kind: &str) -> Vec<String> {
    kubectl.ok(&format!("get {kind} -l app=web -o name")).lines().map(str::to_owned).collect()
}

fn a_deployment_is_rolled_out(kubectl: &Kubectl<'_>) {
    kubectl.ok("create deployment web --image=echo --replicas=3");
    assert!(rolled_out(kubectl).contains("successfully rolled out"));
    let row = kubectl.ok("get deployments --no-headers");
    assert_eq!(row.split_whitespace().take(4).collect::<Vec<_>>(), ["web", "3/3", "3", "3"], "{row}");
    let nodes = kubectl.ok("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}");
    assert!(nodes.contains("node1") && nodes.contains("node2"), "spread: {nodes}");
    let told = kubectl.ok("describe deployment web");
    for words in
        ["MinimumReplicasAvailable", "NewReplicaSetAvailable", "Scaled up replica set web-", "from 0 to 3"]
    {
        assert!(told.contains(words), "{words}:\n{told}");
    }
    assert!(kubectl.run("logs deployment/web").err.contains("Found 3 pods, using pod/web-"));
    assert!(kubectl.ok("explain deployment.spec.strategy").contains("rollingUpdate"));
}

fn it_is_scaled(kubectl: &Kubectl<'_>) {
    kubectl.ok("scale deployment web --replicas=5");
    rolled_out(kubectl);
    assert_eq!(names(kubectl, "pods").len(), 5);
    let refused = kubectl.run("scale deployment web --current-replicas=2 --replicas=1").refused();
    assert!(refused.contains("Expected replicas to be 2, was 5"), "{refused}");
    let patch = "patch deployment web --subresource=scale --type=merge -p";
    let words: Vec<&str> = patch.split(' ').chain([r#"{"spec":{"replicas":4}}"#]).collect();
    kubectl.of(&words, "").ok();
    let row = kubectl.ok("get deployment web --subresource=scale --no-headers");
    assert_eq!(row.split_whitespace().take(2).collect::<Vec<_>>(), ["web", "4"], "{row}");
    let scale = kubectl.ok("get --raw /apis/apps/v1/namespaces/default/deployments/web/scale");
    assert!(scale.contains(r#""kind":"Scale""#) && scale.contains(r#""replicas":4"#), "{scale}");
    rolled_out(kubectl);
}

/// An update under requests: none is lost, for an old Pod ends only when a new one serves.
fn it_is_updated_while_it_serves(lab: &Lab, kubectl: &Kubectl<'_>) {
    kubectl.ok("expose deployment web --port=80 --target-port=8080");
    let address = kubectl.ok("get service web -o jsonpath={.spec.clusterIP}");
    let ask = || lab.probe("node1", &format!("http://{address}/"));
    eventually("the first answer", LONG, || match ask() {
        said if said.code == 0 => Ok(()),
        said => Err(said.err),
    });
    kubectl.ok("set env deployment/web VERSION=2");
    let mut answers = 0;
    while kubectl.run("rollout status deployment/web --watch=false").out.contains("Waiting") {
        let said = ask();
        assert_eq!(said.code, 0, "in the middle of the update, after {answers} answers: {}", said.err);
        answers += 1;
        assert!(answers < 10_000, "the update does not end");
    }
    println!("{answers} answers during the update");
    assert_eq!(names(kubectl, "replicasets").len(), 2);
    assert!(kubectl.ok("exec deployment/web -- env").contains("VERSION=2"));
}

fn it_is_paused_and_undone(kubectl: &Kubectl<'_>) {
    kubectl.ok("rollout pause deployment/web");
    kubectl.ok("set image deployment/web echo=nosuch");
    kubectl.ok("rollout resume deployment/web");
    let stuck = kubectl.run("rollout status deployment/web --timeout=2s").refused();
    assert!(stuck.contains("timed out"), "{stuck}");
    assert!(
        kubectl.ok("get deployment web -o jsonpath={.status.availableReplicas}").parse::<u32>().unwrap() >= 3
    );
    kubectl.ok("rollout undo deployment/web");
    rolled_out(kubectl);
    assert!(kubectl.ok("exec deployment/web -- env").contains("VERSION=2"));
    let history = kubectl.ok("rollout history deployment/web");
    assert!(history.contains('4') && !history.contains("\n2 "), "revision 2 became 4:\n{history}");
    kubectl.ok("rollout restart deployment/web");
    rolled_out(kubectl);
}

/// `--cascade=orphan` leaves ReplicaSets and Pods as they are; a Deployment with the same template takes them up.
fn what_it_leaves_behind_is_taken_up(kubectl: &Kubectl<'_>) {
    let manifest = kubectl.ok("get deployment web -o yaml");
    let (sets, pods) = (names(kubectl, "replicasets"), names(kubectl, "pods"));
    kubectl.ok("delete deployment web --cascade=orphan");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!((names(kubectl, "replicasets"), names(kubectl, "pods")), (sets.clone(), pods.clone()));
    let bare: Vec<&str> = manifest
        .lines()
        .filter(|line| !["  uid:", "  resourceVersion:"].iter().any(|cut| line.starts_with(cut)))
        .collect();
    kubectl.of(&["create", "-f", "-"], &bare.join("\n")).ok();
    rolled_out(kubectl);
    assert_eq!(
        (names(kubectl, "replicasets"), names(kubectl, "pods")),
        (sets, pods),
        "nothing was made anew"
    );
}

/// `--cascade=foreground` returns when everything is gone, and not before.
fn all_of_it_goes(kubectl: &Kubectl<'_>) {
    kubectl.ok("delete deployment web --cascade=foreground --timeout=60s");
    assert_eq!([names(kubectl, "replicasets"), names(kubectl, "pods")].concat(), Vec::<String>::new());
    // What a ConfigMap owns goes after it, of any kind.
    kubectl.ok("create configmap owner");
    let uid = kubectl.ok("get configmap owner -o jsonpath={.metadata.uid}");
    let owned = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: owned\n  ownerReferences:\n  - {{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}\n"
    );
    kubectl.of(&["create", "-f", "-"], &owned).ok();
    kubectl.ok("delete configmap owner");
    kubectl.ok("wait --for=delete secret/owned --timeout=30s");
}

/// `kubectl apply --prune`. Without a list it asks for kinds that only a whole Kubernetes has, such as Jobs.
fn what_a_manifest_says_no_longer_is_pruned(kubectl: &Kubectl<'_>) {
    let map = |name: &str| {
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: pruned}}}}\n")
    };
    let apply = |input: &str| {
        let words = "apply -f - --prune -l set=pruned --prune-allowlist=core/v1/ConfigMap";
        kubectl.of(&words.split(' ').collect::<Vec<_>>(), input).ok()
    };
    apply(&format!("{}{}", map("one"), map("two")));
    let said = apply(&map("one"));
    assert!(said.contains("configmap/two pruned"), "{said}");
    assert_eq!(kubectl.ok("get configmaps -l set=pruned -o name").trim(), "configmap/one");
}

const APART: &str = r#"{apiVersion: apps/v1, kind: Deployment, metadata: {name: apart}, spec: {replicas: 3, selector: {matchLabels: {app: apart}},
  template: {metadata: {labels: {app: apart}}, spec: {containers: [{name: c, image: echo}], affinity: {podAntiAffinity: {
    requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: apart}}}]}}}}}}"#;

/// One on each of the two nodes; the third has to wait until one is free.
fn pods_keep_away_from_each_other(kubectl: &Kubectl<'_>) {
    kubectl.of(&["apply", "-f", "-"], APART).ok();
    eventually("two of three are there", LONG, || {
        let row = kubectl.run("get deployment apart --no-headers");
        if row.out.contains("2/3") { Ok(()) } else { Err(format!("{row:?}")) }
    });
    let words = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
    says("why the third waits", &["Pending", words, "FailedScheduling"], &[], || {
        kubectl.run("describe pods -l app=apart")
    });
    kubectl.ok("scale deployment apart --replicas=2");
    rolled_out_of(kubectl, "apart");
    let nodes = kubectl.ok("get pods -l app=apart -o jsonpath={.items[*].spec.nodeName}");
    assert!(nodes.contains("node1") && nodes.contains("node2"), "{nodes}");
    kubectl.ok("delete deployment apart");
}
