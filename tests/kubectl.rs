//! kubectl, where it is installed, against a lab: what a person types every day, in kubectl's own words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "kubectl/accounts.rs"]
mod accounts;
mod common;
#[path = "kubectl/interactive.rs"]
mod interactive;
#[path = "kubectl/networks.rs"]
mod networks;

use common::{Kubectl, LONG, Lab, eventually, is_there, says};
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  containers:
  - {name: echo, image: echo, ports: [{name: http, containerPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: talker, image: host, command: [sh, -c, 'echo one; echo two; exec sleep 1000']}
";

const WEB: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {app: web}
spec:
  type: NodePort
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: http}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {a: b}
";

#[test]
fn kubectl_is_at_home() {
    if !is_there("kubectl", "version --client") {
        return;
    }
    let Some(lab) = Lab::up("t-kubectl", 1) else { return };
    let kubectl = Kubectl(&lab);
    the_cluster_is_discovered(&kubectl);
    objects_are_applied(&kubectl);
    objects_are_shown(&kubectl);
    objects_are_changed(&kubectl);
    accounts::namespaces_have_accounts(&kubectl);
    networks::ingresses_have_classes(&kubectl);
    networks::services_get_addresses_of_further_networks(&kubectl);
    pods_are_entered(&kubectl);
    pods_are_attached_to(&kubectl);
    interactive::containers_are_talked_to(&kubectl);
    ports_are_forwarded(&kubectl);
    requests_are_proxied(&kubectl);
    a_watch_tells_each_change(&kubectl);
    what_is_not_served_is_refused(&kubectl);
    let deleted = kubectl.of(&["delete", "-f", "-"], &format!("{PODS}---\n{WEB}")).ok();
    assert_eq!(deleted.lines().filter(|line| line.contains("deleted")).count(), 6, "{deleted}");
    assert_eq!(kubectl.ok("get pods,ingresses,configmaps,secrets -o name"), "configmap/kube-root-ca.crt\n");
    a_node_is_drained(&kubectl);
    lab.down();
}

fn a_node_is_drained(kubectl: &Kubectl) {
    kubectl.ok("run drained --image=echo");
    kubectl.ok("wait --for=condition=Ready pod/drained --timeout=30s");
    let drained = kubectl.ok("drain node1 --force --grace-period=1 --timeout=30s");
    assert!(drained.contains("evicting pod default/drained"), "{drained}");
    assert_eq!(kubectl.ok("get pods -o name"), "");
    assert!(kubectl.ok("get nodes --no-headers").contains("Ready,SchedulingDisabled"));
    assert!(kubectl.ok("uncordon node1").contains("uncordoned"));
}

fn the_cluster_is_discovered(kubectl: &Kubectl) {
    assert!(kubectl.ok("version").contains("+minisvc-"));
    assert!(kubectl.ok("cluster-info").contains("is running at"));
    let resources = kubectl.ok("api-resources --no-headers");
    for line in [
        "configmaps cm v1 true ConfigMap",
        "endpoints ep v1 true Endpoints",
        "events ev v1 true Event",
        "events ev events.k8s.io/v1 true Event",
        "namespaces ns v1 false Namespace",
        "nodes no v1 false Node",
        "pods po v1 true Pod",
        "secrets v1 true Secret",
        "serviceaccounts sa v1 true ServiceAccount",
        "services svc v1 true Service",
        "deployments deploy apps/v1 true Deployment",
        "replicasets rs apps/v1 true ReplicaSet",
        "leases coordination.k8s.io/v1 true Lease",
        "endpointslices discovery.k8s.io/v1 true EndpointSlice",
        "ingressclasses networking.k8s.io/v1 false IngressClass",
        "ingresses ing networking.k8s.io/v1 true Ingress",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(resources.lines().any(|found| words(found) == line), "{line}:\n{resources}");
    }
    let explained = kubectl.ok("explain service.spec.clusterIP");
    assert!(
        explained.contains("FIELD: clusterIP <string>") && explained.contains("allocated"),
        "{explained}"
    );
    for kind in [
        "pod.spec.containers",
        "ingress.spec.rules",
        "ingressclass.spec.parameters",
        "event.note --api-version=events.k8s.io/v1",
        "endpointslice.endpoints",
    ] {
        assert!(kubectl.ok(&format!("explain {kind}")).contains("FIELD"), "{kind}");
    }
    for path in ["/healthz", "/readyz", "/livez"] {
        assert_eq!(kubectl.ok(&format!("get --raw {path}")).trim(), "ok", "{path}");
    }
}

fn objects_are_applied(kubectl: &Kubectl) {
    let all = format!("{PODS}---\n{WEB}");
    let apply = |text: &str| kubectl.of(&["apply", "-f", "-"], text).ok();
    let lines = |how: &str| {
        let names = [
            "pod/echo",
            "pod/talker",
            "service/web",
            "ingress.networking.k8s.io/web",
            "configmap/settings",
            "secret/password",
        ];
        names.map(|name| format!("{name} {how}\n")).concat()
    };
    assert_eq!(
        kubectl.of(&["apply", "--dry-run=server", "-f", "-"], &all).ok(),
        lines("created (server dry run)")
    );
    assert_eq!(kubectl.ok("get pods -o name"), "", "a dry run stores nothing");
    assert_eq!(apply(&all), lines("created"));
    // A stringData is written into data, so its manifest always differs from what is stored; as in Kubernetes.
    assert_eq!(apply(&all).replace("password configured", "password unchanged"), lines("unchanged"));
    assert!(apply(&WEB.replace("port: 80,", "port: 81,")).starts_with("service/web configured\n"));
    assert_eq!(kubectl.ok("get svc web -o jsonpath={.spec.ports[*].port}"), "81", "merged by its key");
    let difference = kubectl.of(&["diff", "-f", "-"], WEB);
    assert!(
        difference.code == 1
            && difference.out.contains("\n+  - name: http\n") | difference.out.contains("port: 80"),
        "{difference:?}"
    );
    apply(WEB);
    assert_eq!(kubectl.ok("wait --for=condition=Ready pod/echo pod/talker --timeout=30s").lines().count(), 2);
}

fn objects_are_shown(kubectl: &Kubectl) {
    for (words, columns, parts) in [
        ("get nodes", "NAME STATUS ROLES AGE VERSION", ["node1", "Ready", "control-plane"]),
        (
            "get pods -o wide",
            "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
            ["echo", "1/1", "10.42.0."],
        ),
        ("get svc", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE", ["web", "NodePort", "80:3"]),
        ("get ingress", "NAME CLASS HOSTS ADDRESS PORTS AGE", ["web", "web.example", "172.31.77.11"]),
        ("get ingressclass", "NAME CONTROLLER PARAMETERS AGE", ["minisvc", "minisvc.io/ingress", "<none>"]),
        ("get endpointslices", "NAME ADDRESSTYPE PORTS ENDPOINTS AGE", ["web-", "8080", "10.42.0."]),
        ("get ep", "NAME ENDPOINTS AGE", ["kubernetes", "172.31.77.11:6443", "10.42.0."]),
        ("get configmaps", "NAME DATA AGE", ["settings", "1", "s"]),
        ("get secrets", "NAME TYPE DATA AGE", ["password", "Opaque", "1"]),
        ("get leases -n kube-node-lease", "NAME HOLDER AGE", ["node1", "node1", "s"]),
        ("get namespaces", "NAME STATUS AGE", ["kube-node-lease", "Active", "default"]),
        (
            "get events",
            "LAST SEEN TYPE REASON OBJECT MESSAGE",
            ["Scheduled", "pod/echo", "Successfully assigned"],
        ),
        (
            "get events.events.k8s.io",
            "LAST SEEN TYPE REASON OBJECT MESSAGE",
            ["Scheduled", "pod/echo", "Successfully assigned"],
        ),
        (
            "events --for pod/echo",
            "LAST SEEN TYPE REASON OBJECT MESSAGE",
            ["Scheduled", "Pod/echo", "Successfully assigned"],
        ),
    ] {
        let table = says(words, &parts, &[], || kubectl.run(words));
        let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(header.join(" "), columns, "{words}");
    }
    assert!(kubectl.ok("get svc web -o yaml").contains("clusterIP: 10.43."));
    assert!(kubectl.ok("get svc web -o json").contains("\"clusterIPs\": ["));
    assert_eq!(kubectl.ok("get svc -l app=web -o name"), "service/web\n");
    assert_eq!(kubectl.ok("get pods --field-selector metadata.name=echo -o name"), "pod/echo\n");
    assert!(kubectl.ok("get all -A").contains("service/kube-dns"));
    for (what, part) in [
        ("node node1", "PodCIDR:"),
        ("pod echo", "Successfully assigned default/echo to node1"),
        ("svc web", "Endpoints:                10.42.0."),
        ("ingress web", "web:http (10.42.0."),
        ("ingressclass minisvc", "minisvc.io/ingress"),
        ("endpointslice", "TargetRef:  Pod/echo"),
        ("configmap settings", "settings"),
        ("secret password", "Opaque"),
        ("namespace default", "Active"),
        ("lease node1 -n kube-node-lease", "node1"),
        ("events", "Scheduled"),
        ("events.events.k8s.io", "Scheduled"),
    ] {
        says(what, &[part], &[], || kubectl.run(&format!("describe {what}")));
    }
}

fn objects_are_changed(kubectl: &Kubectl) {
    assert_eq!(kubectl.ok("label svc web tier=front"), "service/web labeled\n");
    assert_eq!(kubectl.ok("annotate svc web note=seen"), "service/web annotated\n");
    for (how, patch) in [
        ("strategic", r#"{"spec":{"ports":[{"port":80,"name":"http","targetPort":8080}]}}"#),
        ("merge", r#"{"metadata":{"labels":{"tier":"merge"}}}"#),
        ("json", r#"[{"op":"replace","path":"/metadata/labels/tier","value":"json"}]"#),
    ] {
        assert_eq!(
            kubectl.of(&["patch", "svc", "web", "--type", how, "-p", patch], "").ok(),
            "service/web patched\n"
        );
    }
    let web = "get svc web -o jsonpath={.metadata.labels.tier},{.metadata.annotations.note},{.spec.ports[0].targetPort}";
    assert_eq!(kubectl.ok(web), "json,seen,8080");
    // Who read before the last change may not replace it.
    let stale = kubectl.ok("get svc web -o yaml");
    kubectl.ok("label svc web tier-");
    let refused = kubectl.of(&["replace", "-f", "-"], &stale).refused();
    assert!(refused.contains("(Conflict)") && refused.contains("the object has been modified"), "{refused}");
    let fresh = kubectl.ok("get svc web -o yaml");
    assert_eq!(kubectl.of(&["replace", "-f", "-"], &fresh).ok(), "service/web replaced\n");
    let refused = kubectl.of(&["apply", "-f", "-"], &WEB.replace("port: 80,", "port: 70000,")).refused();
    assert!(refused.contains("spec.ports[0].port: Invalid value: 70000"), "{refused}");
    let refused = kubectl.of(&["apply", "-f", "-"], &WEB.replace("targetPort", "tragetPort")).refused();
    assert!(
        refused.contains("strict decoding error: unknown field \"spec.ports[0].tragetPort\""),
        "{refused}"
    );
}

fn pods_are_entered(kubectl: &Kubectl) {
    let said = kubectl.of(&["exec", "talker", "--", "sh", "-c", "hostname; exit 7"], "");
    assert_eq!((said.code, said.out.as_str()), (7, "talker\n"), "{}", said.err);
    let said = kubectl.of(&["exec", "-i", "talker", "--", "cat"], "typed\n");
    assert_eq!((said.code, said.out.as_str()), (0, "typed\n"), "{}", said.err);
    let refused = kubectl.run("exec nobody -- true").refused();
    assert!(refused.contains("pods \"nobody\" not found"), "{refused}");
    says("logs", &["one\ntwo\n"], &[], || kubectl.run("logs talker"));
    assert_eq!(kubectl.ok("logs talker --tail=1"), "two\n");
    assert!(
        kubectl
            .ok("logs talker --timestamps")
            .lines()
            .all(|line| line.starts_with("20") && line.contains('Z'))
    );
    assert!(kubectl.run("logs talker -c nothing").refused().contains("nothing"));
}

fn pods_are_attached_to(kubectl: &Kubectl) {
    let ticker = "apiVersion: v1
kind: Pod
metadata: {name: ticker}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - {name: ticker, image: host, command: [sh, -c, 'for i in $(seq 40); do echo tick; sleep 0.1; done; echo over >&2']}
";
    kubectl.of(&["apply", "-f", "-"], ticker).ok();
    kubectl.ok("wait --for=condition=Ready pod/ticker --timeout=30s");
    let said = kubectl.run("attach ticker");
    assert_eq!(said.code, 0, "{said:?}");
    let ticks = said.out.lines().filter(|line| *line == "tick").count();
    assert!((1..40).contains(&ticks), "from now on: {said:?}");
    assert!(said.err.ends_with("over\n"), "{said:?}");
    kubectl.ok("delete pod ticker");
    // Files go both ways, by tar.
    let (there, back) = (kubectl.0.dir().join("there"), kubectl.0.dir().join("back"));
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    std::fs::write(&there, &bytes).unwrap();
    kubectl.ok(&format!("cp {} talker:/tmp/copied", there.display()));
    kubectl.ok(&format!("cp talker:/tmp/copied {}", back.display()));
    assert!(std::fs::read(&back).unwrap() == bytes, "what comes back is what went there");
}

fn ports_are_forwarded(kubectl: &Kubectl) {
    for target in ["pod/echo :8080", "svc/web :80"] {
        let words: Vec<&str> =
            ["port-forward", "--address=127.0.0.1"].into_iter().chain(target.split(' ')).collect();
        let mut child = kubectl.0.command("kubectl", &words).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let local = first.strip_prefix("Forwarding from ").and_then(|rest| rest.strip_suffix(" -> 8080"));
        let local = local.unwrap_or_else(|| panic!("{first}"));
        // Many at a time, each with its own bytes.
        std::thread::scope(|scope| {
            for number in 0..16 {
                scope.spawn(move || {
                    let mut stream = std::net::TcpStream::connect(local).unwrap();
                    let body = "x".repeat(10_000 * number);
                    let head = format!("POST /n{number} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
                    std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).unwrap();
                    let text = std::io::read_to_string(&mut stream).unwrap();
                    assert!(text.contains(&format!("\"path\":\"/n{number}\"")), "{text}");
                    assert!(text.contains(&format!("\"bodyBytes\":{},", body.len())), "{text}");
                });
            }
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn requests_are_proxied(kubectl: &Kubectl) {
    let raw = |path: &str| kubectl.run(&format!("get --raw /api/v1/namespaces/default/{path}"));
    for path in [
        "pods/echo:8080/proxy/there",
        "pods/echo/proxy/there",
        "services/web:http/proxy/there",
        "services/http:web:80/proxy/there",
    ] {
        let said = raw(path).ok();
        assert!(said.contains("\"path\":\"/there\"") && said.contains("\"pod\":\"echo\""), "{path}: {said}");
    }
    let refused = raw("services/web:nothing/proxy/").refused();
    assert!(refused.contains("no endpoints available for service \"web\""), "{refused}");
    let refused = raw("pods/echo:9/proxy/").refused();
    assert!(refused.contains("error trying to reach service: dial tcp 10.42."), "{refused}");
    assert_eq!(kubectl.ok("get --raw /api/v1/nodes/node1/proxy/healthz"), "ok");
    let refused =
        kubectl.run("get --raw /api/v1/nodes/node1/proxy/exec/default/echo/echo?command=sh").refused();
    assert!(refused.contains("nodes/proxy serves GET of /healthz only"), "{refused}");
}

fn a_watch_tells_each_change(kubectl: &Kubectl) {
    let words = ["get", "configmaps", "-w", "--output-watch-events", "-l", "watched=yes"];
    let mut child = kubectl.0.command("kubectl", &words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: seen, labels: {watched: 'yes'}}\n";
    let mut told = Vec::new();
    let mut next = || lines.next().unwrap().unwrap().split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    kubectl.of(&["apply", "-f", "-"], map).ok();
    told.extend([next(), next()]);
    kubectl.ok("annotate configmap seen note=x");
    told.push(next());
    kubectl.ok("delete configmap seen");
    told.push(next());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(told, ["EVENT NAME", "ADDED seen", "MODIFIED seen", "DELETED seen"]);
}

/// What this version leaves out says so, and does nothing.
fn what_is_not_served_is_refused(kubectl: &Kubectl) {
    let refused = kubectl.run("get daemonsets").refused();
    assert!(refused.contains("doesn't have a resource type \"daemonsets\""), "{refused}");
    let pod = PODS
        .replace("image: host", "image: host, volumeDevices: [{name: disk, devicePath: /dev/disk}]")
        .replace("talker", "probed");
    let refused = kubectl.of(&["create", "-f", "-"], pod.split("---").nth(1).unwrap()).refused();
    assert!(refused.contains("volumeDevices: Forbidden"), "{refused}");
    eventually("nothing of it is there", LONG, || {
        let found = kubectl.ok("get configmaps,pods -o name");
        if found.contains("probed") { Err(found) } else { Ok(()) }
    });
}
