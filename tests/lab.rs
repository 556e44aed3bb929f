//! `minisvc lab` and the API verbs as a person at the host uses them, as root or as an ordinary user.
//!
//! One cluster of three nodes goes through the tests' steps in turn; only what needs a lab of its own has one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{LONG, Lab, MINISVC, Said, eventually, run, says};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

/// A Pod of the echo server on a given node.
fn echo(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: pinned}}}}\nspec:\n  nodeName: {node}\n  \
         containers:\n  - {{name: echo, image: echo, ports: [{{name: http, containerPort: 8080}}]}}\n---\n"
    )
}

const PINNED: &str = "apiVersion: v1
kind: Service
metadata: {name: pinned}
spec:
  clusterIP: 10.43.0.77
  selector: {app: pinned}
  ports: [{port: 80, targetPort: http}]
---
";

const TALKER: &str = "apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  nodeName: node2
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - {name: talker, image: host, command: [sh, -c, 'echo first line; echo second line; exec sleep 1000']}
";

#[test]
fn a_cluster_from_the_host() {
    let Some(lab) = Lab::up("t-lab", 3) else { return };
    assert_eq!(lab.lab("kubeconfig").ok(), format!("{}\n", lab.dir().join("kubeconfig").display()));
    objects_are_applied_and_shown(&lab);
    programs_run_inside(&lab);
    bad_manifests_are_refused(&lab);
    a_node_dies_and_comes_back(&lab);
    another_lab_is_another_world(&lab);
    deleted_objects_are_gone(&lab);
    lab.down();
}

fn objects_are_applied_and_shown(lab: &Lab) {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let applied = lab.minisvc_of(&["apply", "-f", examples], "").ok();
    assert!(
        applied.lines().all(|line| line.ends_with(" created")) && applied.lines().count() > 10,
        "{applied}"
    );
    let again = lab.minisvc_of(&["apply", "-f", examples], "").ok();
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");

    eventually("one echo Pod runs on each node", LONG, || {
        let said = lab.minisvc("get pods -l app=echo --no-headers -o wide");
        let on = |node: &str| {
            said.out.lines().filter(|line| line.contains("Running") && line.contains(node)).count()
        };
        if ["node1", "node2", "node3"].iter().all(|node| on(node) == 1) {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
    says(
        "every kind is shown",
        &[
            "node/node3",
            "pod/echo-1",
            "service/echo-given",
            "10.43.0.50",
            "172.31.77.2",
            "80:30080/TCP",
            "ingress.networking.k8s.io/web",
            "shop.example,blog.example",
            "172.31.77.11",
            "kube-system",
        ],
        &["<pending>"],
        || lab.minisvc("get nodes,pods,services,endpointslices,ingresses -A"),
    );
    for (what, parts) in [
        ("node node2", ["InternalIP", "172.31.77.12"]),
        ("pod echo-1", ["echo", "Successfully assigned default/echo-1 to node"]),
        ("service echo-public", ["LoadBalancer Ingress", "172.31.77.2"]),
        ("ingress web", ["shop.example", "coming-soon"]),
        ("endpointslice -l kubernetes.io/service-name=echo", ["10.42.", "http"]),
    ] {
        says(what, &parts, &[], || lab.minisvc(&format!("describe {what}")));
    }
    let refused = lab.minisvc("get pods nobody").refused();
    assert_eq!(refused, "Error from server (NotFound): pods \"nobody\" not found\n");
}

fn attached(lab: &Lab) {
    let counter = TALKER.replace("talker", "counter").replace(
        "echo first line; echo second line; exec sleep 1000",
        "for i in $(seq 40); do echo tick; sleep 0.1; done; exit 5",
    );
    lab.minisvc_of(&["apply", "-f", "-"], &counter).ok();
    says("the counter counts", &["tick"], &[], || lab.minisvc("logs counter"));
    let said = lab.minisvc("attach counter");
    assert_eq!(said.code, 0, "{said:?}");
    assert!((1..40).contains(&said.out.lines().count()), "from now on: {said:?}");
    assert!(lab.minisvc("attach counter").refused().contains("is not running"));
    lab.minisvc("delete pod counter").ok();
}

/// From outside of every network of the lab, through the API alone.
fn ports_are_forwarded(lab: &Lab) {
    let words = ["port-forward", "--address=127.0.0.1", "svc/echo", ":80"];
    let mut child = lab.command(MINISVC, &words).stdout(Stdio::piped()).spawn().unwrap();
    let first = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let local = first.strip_prefix("Forwarding from ").and_then(|rest| rest.strip_suffix(" -> 8080"));
    let local = local.unwrap_or_else(|| panic!("{first}"));
    for path in ["/a", "/b"] {
        let mut stream = std::net::TcpStream::connect(local).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let text = std::io::read_to_string(&mut stream).unwrap();
        assert!(text.contains("\"pod\":\"echo-") && text.contains(path), "{text}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let refused = lab.minisvc("port-forward svc/echo 99").refused();
    assert_eq!(refused, "error: Service echo does not have a service port 99\n");
}

fn programs_run_inside(lab: &Lab) {
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        for (machine, address) in
            [("node2", "fd77000000000000000000000000000c"), ("client", "fd770000000000000000000000000064")]
        {
            let said = lab
                .lab(&format!(
                    "exec {machine} -- cat /proc/net/if_inet6 /proc/sys/net/ipv6/conf/all/forwarding"
                ))
                .ok();
            // Index, /64, global, permanent and not looked for.
            let found = said.lines().find(|line| line.starts_with(address) && line.ends_with("eth0"));
            assert!(found.is_some_and(|line| line.contains(" 40 00 82 ")), "{machine}: {said}");
            assert!(machine == "node2" || said.ends_with("\n0\n"), "{said}");
        }
    }
    lab.minisvc_of(&["apply", "-f", "-"], TALKER).ok();
    says("logs", &["first line\nsecond line\n"], &[], || lab.minisvc("logs talker"));
    assert_eq!(lab.minisvc("logs talker --tail 1").ok(), "second line\n");
    assert_eq!(lab.minisvc("logs talker --limit-bytes 5").ok(), "first");
    assert_eq!(lab.minisvc("logs talker --since 1h --tail 1").ok(), "second line\n");
    assert_eq!(lab.minisvc("logs talker --since-time 2999-01-01T00:00:00Z").ok(), "");
    assert!(lab.minisvc("logs talker --timestamps").ok().lines().all(|line| line.contains("Z ")));
    let refused = lab.minisvc("logs talker --previous").refused();
    assert!(refused.contains("previous terminated container \"talker\""), "{refused}");
    attached(lab);
    let said = lab.minisvc_of(&["exec", "talker", "--", "sh", "-c", "hostname; cat; exit 7"], "");
    assert_eq!((said.code, said.out.as_str()), (7, "talker\n"), "{}", said.err);
    let said = lab.minisvc_of(&["exec", "-i", "talker", "--", "cat"], "typed\n");
    assert_eq!((said.code, said.out.as_str()), (0, "typed\n"), "{}", said.err);

    ports_are_forwarded(lab);
    let said = lab.minisvc_of(&["lab", "exec", "node2", "--", "sh", "-c", "hostname; exit 9"], "");
    assert_eq!((said.code, said.out.as_str()), (9, "node2\n"), "{}", said.err);
    let refused = lab.lab("exec node2 -- no-such-program").refused();
    // A user whose PATH has closed directories is told of those instead; once, in either case.
    assert!(refused.starts_with("minisvc: run no-such-program: "), "{refused}");
    assert_eq!(refused.matches("os error").count(), 1, "{refused}");
    let refused = lab.lab("exec node9 -- true").refused();
    assert!(refused.contains("\"node9\" is not on") && refused.contains("lab status"), "{refused}");
    for (from, target) in [
        ("node2", "http://10.43.0.50:8000/"),
        ("node3", "http://172.31.77.12:30080/"),
        ("client", "http://172.31.77.13:30080/"),
        ("client", "--host shop.example http://172.31.77.12/blog"),
        ("node1", "udp://10.43.0.50:9000"),
    ] {
        says(target, &["\"pod\":\"echo-"], &[], || lab.probe(from, target));
    }
    says("a name, from a Pod", &["\"pod\":\"echo-"], &[], || lab.probe_from_pod("echo-1", "http://echo/"));
}

/// One line for each problem, naming file, object and field; nothing of a bad object is stored.
fn bad_manifests_are_refused(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let before = lab.minisvc("get svc,pods,ingresses -A -o name").ok();
    let service =
        |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {spec}\n");
    // What only the schema tells.
    let cases = [
        (
            "unknown.yaml",
            service("{ports: [{port: 80, tragetPort: 1}]}"),
            "Service \"bad\": unknown field \"spec.ports[0].tragetPort\"",
        ),
        ("type.yaml", service("{ports: [{port: eighty}]}"), "Service \"bad\": spec.ports[0].port: "),
        ("twice.yaml", service("{ports: [{port: 80, port: 81}]}"), "twice.yaml"),
        ("kind.yaml", "apiVersion: v1\nkind: Sorvice\nmetadata: {name: bad}\n".to_owned(), "Sorvice"),
        ("broken.yaml", "apiVersion: v1\nkind: [\n".to_owned(), "broken.yaml"),
    ];
    let mut words = vec!["apply".to_owned()];
    for (file, text, _) in &cases {
        std::fs::write(dir.path().join(file), text).unwrap();
        words.extend(["-f".to_owned(), dir.path().join(file).to_string_lossy().into_owned()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = lab.minisvc_of(&words, "").refused();
    assert_eq!(said.lines().count(), cases.len(), "one line for each problem:\n{said}");
    for (file, _, part) in &cases {
        assert!(
            said.lines().any(|line| line.contains(file) && line.contains(part)),
            "{file}: {part}:\n{said}"
        );
    }
    // What the cluster knows.
    for (text, parts) in [
        (
            service("{ports: [{port: 70000, targetPort: 1}]}"),
            "Service \"bad\": spec.ports[0].port: Invalid value: 70000: ",
        ),
        (service("{ports: [{port: 80}], clusterIP: 10.43.0.50}"), "Service \"bad\": spec.clusterIP"),
        (service("{ports: [{port: 80}], clusterIP: 192.0.2.1}"), "Service \"bad\": spec.clusterIP"),
        (
            service("{ports: [{port: 80, nodePort: 30080}], type: NodePort}"),
            "Service \"bad\": spec.ports[0].nodePort",
        ),
        (service("{ports: [{port: 80}], selector: {a: 'b c'}}"), "Service \"bad\": spec.selector"),
        (
            service("{ports: [{port: 80}]}").replace("bad", "Bad_Name"),
            "Service \"Bad_Name\": metadata.name: ",
        ),
        (
            service("{ports: [{port: 80}]}").replace("name: bad", "name: bad, labels: {'-x': y}"),
            "Service \"bad\": metadata.labels",
        ),
        (
            echo("bad", "node1")
                .replace("image: echo", "image: echo, volumeDevices: [{name: v, devicePath: /dev/v}]"),
            "Pod \"bad\": spec.containers[0].volumeDevices",
        ),
    ] {
        let said = lab.minisvc_of(&["apply", "-f", "-"], &text).refused();
        assert!(said.starts_with("standard input: ") && said.contains(parts), "{parts}:\n{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(lab.minisvc("get svc,pods,ingresses -A -o name").ok(), before, "something was stored");
}

fn a_node_dies_and_comes_back(lab: &Lab) {
    let manifest = format!("{}{}{PINNED}", echo("pinned-2", "node2"), echo("pinned-3", "node3"));
    lab.minisvc_of(&["apply", "-f", "-"], &manifest).ok();
    let slices = || {
        let ready = "-ojsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
        lab.minisvc(&format!("get endpointslices -l kubernetes.io/service-name=pinned {ready}"))
    };
    says("both Pods are endpoints", &["node2", "node3"], &[], slices);
    let refused = lab.lab("kill node9").refused();
    assert!(refused.contains("\"node9\" is not on"), "{refused}");

    lab.lab("kill node2").ok();
    let off = |said: &str| said.lines().any(|line| line.starts_with("node2") && line.contains(" off "));
    let status = lab.lab("status").ok();
    assert!(off(&status), "{status}");
    assert!(lab.lab("exec node2 -- true").refused().contains("is not on"));
    says("node2 is NotReady", &["NotReady"], &[], || lab.minisvc("get node node2"));
    says("its endpoints leave", &["node3"], &["node2"], slices);
    says("who is left", &["pinned-3"], &[], || lab.probe("node1", "http://10.43.0.77/"));
    lab.lab("start node2").ok();
    lab.wait_for_nodes(3);
    says("its endpoints are back", &["node2", "node3"], &[], slices);

    // `kill -9` of the server alone: the machine and its Pods stay.
    lab.lab("kill node2 --server-only").ok();
    says("node2's server has ended", &["ended (SIGKILL)"], &[], || lab.lab("status"));
    lab.lab("start node2").ok();
    says("node2's server runs again", &[], &["ended"], || lab.lab("status"));
    lab.wait_for_nodes(3);
}

fn another_lab_is_another_world(lab: &Lab) {
    let Some(second) = Lab::up("t-lab2", 1) else { panic!("the first one came up") };
    assert_eq!(second.minisvc("get nodes -o name").ok(), "node/node1\n");
    assert_eq!(second.minisvc("get pods").err, "No resources found in default namespace.\n");
    assert_eq!(lab.minisvc("get nodes -o name").ok().lines().count(), 3);
    let refused = second.lab("up").refused();
    assert!(refused.contains("is up already; `minisvc lab down --name"), "{refused}");

    // A supervisor that is killed takes everything along but its files, which the next `lab up` replaces.
    let before = second.processes();
    let supervisor = second.supervisor().expect("the lab has a first process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    eventually("the killed lab is not up", LONG, || match second.lab("status") {
        Said { code: 1, err, .. } if err.contains("is not up; `minisvc lab up --name") => Ok(()),
        said => Err(format!("{said:?}")),
    });
    eventually("its processes are gone", LONG, || match common::left(&before) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    assert!(second.dir().exists());
    second.lab("up --nodes 1").ok();
    second.wait_for_nodes(1);
    second.down();
}

fn deleted_objects_are_gone(lab: &Lab) {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let deleted = lab.minisvc_of(&["delete", "-f", examples], "").ok();
    assert!(deleted.lines().all(|line| line.ends_with(" deleted")), "{deleted}");
    let again = lab.minisvc_of(&["delete", "--ignore-not-found", "-f", examples], "").ok();
    assert_eq!(again, "");
    lab.minisvc("delete pods pinned-2 pinned-3 talker").ok();
    says("no Pod is left", &[], &["pod/"], || lab.minisvc("get pods -o name"));
    let names = lab.minisvc("get svc -o name").ok();
    assert_eq!(names, "service/kubernetes\nservice/pinned\n");
}

#[test]
fn what_cannot_be_a_lab_is_refused() {
    let minisvc = |words: &str| run(Command::new(MINISVC).args(words.split(' ')), "");
    for (words, part) in [
        ("lab up --name Bad_Name", "lab name \"Bad_Name\": must be a DNS label of at most 30 characters"),
        ("lab up --name ../../etc", "must be a DNS label"),
        ("lab up --name t-none --nodes 0", "--nodes 0: must be between 1 and 50"),
        ("lab up --name t-none --nodes 51", "--nodes 51: must be between 1 and 50"),
        ("lab up --name t-none --cluster-cidr x", "--cluster-cidr \"x\": expected a network"),
        (
            "lab up --name t-none --cluster-cidr fd42::/56",
            "--cluster-cidr fd42::/56 and --service-cidr 10.43.0.0/16",
        ),
        (
            "lab up --name t-none --cluster-cidr fd77::/56 --service-cidr fd43::/112",
            "--cluster-cidr fd77::/56 contains this node's own address fd77::b",
        ),
        (
            "lab demo --service-cidr 172.31.77.128/25",
            "--load-balancer-pool 172.31.77.200-172.31.77.239 lies in",
        ),
        ("lab down --name t-none", "lab \"t-none\" is not up; `minisvc lab up --name t-none` starts it"),
        ("lab status --name t-none", "is not up"),
        ("lab kubeconfig --name t-none", "is not up"),
        ("lab exec --name t-none node1 -- true", "is not up"),
        ("lab kill --name t-none node1", "is not up"),
        ("lab start --name t-none node1", "is not up"),
    ] {
        let said = minisvc(words);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{words}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{words}: {}", said.err);
        assert!(said.err.starts_with("minisvc: ") && said.err.contains(part), "{words}: {}", said.err);
    }
    let said = minisvc("lab up --name t-none --nodes three");
    assert!(said.code == 2 && said.err.contains("--nodes"), "{}", said.err);
}

/// As root, the same as a user without any right; whoever runs the tests as a user has seen it above.
#[test]
fn an_ordinary_user_needs_no_right() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    use std::os::unix::process::CommandExt;
    let mut probe = Command::new(MINISVC);
    if probe.arg("--version").uid(NOBODY).gid(NOBODY).stdout(std::process::Stdio::null()).status().is_err() {
        println!("skipped: an_ordinary_user_needs_no_right: this directory is closed to other users");
        return;
    }
    let Some(lab) = Lab::up_as("t-user", 2, Some(NOBODY)) else { return };
    let manifest = format!("{}{}{PINNED}", echo("one", "node1"), echo("two", "node2"));
    lab.minisvc_of(&["apply", "-f", "-"], &manifest).ok();
    for (from, pod) in [("node1", "two"), ("node2", "one")] {
        says("a Pod of the other node", &[&format!("\"pod\":\"{pod}\"")], &[], || {
            lab.probe(from, "http://10.43.0.77/")
        });
    }
    lab.down();
}
