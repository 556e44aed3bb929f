//! Pods in their node's network, and Pods with ports of their node, by real connections in a lab: what they see, and who
//! reaches them how.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "services/site.rs"]
mod site;

use common::{LONG, Lab, MINISVC, eventually, field, given, is_there, says};
use minisvc_lab::probe::now_us;
use site::{Held, NODE1, NODE2, agree, apply, at, met};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

const BOTH: &str = "--cluster-cidr 10.42.0.0/16,fd42::/56 --service-cidr 10.43.0.0/16,fd43::/112";
const SIX: [&str; 2] = ["fd77::b", "fd77::c"];

/// A Pod on a node; `spec` are further lines of its spec.
fn pod(name: &str, node: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}, all: web}}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n{spec}"
    )
}

/// In its node's network, on port 8180 of it.
fn shared(name: &str, node: &str) -> String {
    let ports = "[{name: web, containerPort: 8180}, {name: names, containerPort: 8180, protocol: UDP}]";
    let probe = "readinessProbe: {httpGet: {port: web}, periodSeconds: 1}";
    pod(
        name,
        node,
        &format!("  hostNetwork: true\n  containers: [{{name: c, image: echo, ports: {ports}, {probe}}}]\n"),
    )
}

fn service(name: &str, policy: &str, node_port: u16) -> String {
    let ports = format!(
        "[{{name: web, port: 80, targetPort: web, nodePort: {node_port}}}, {{name: names, port: 53, protocol: UDP, targetPort: names, nodePort: {node_port}}}]"
    );
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, ipFamilyPolicy: RequireDualStack, externalTrafficPolicy: {policy}, selector: {{all: web}}, ports: {ports}}}\n"
    )
}

#[test]
fn pods_live_in_their_nodes_network() {
    let Some(lab) = Lab::up_with("t-hostnet", BOTH) else { return };
    let shell = "  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n  containers: [{name: c, image: host, command: [sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.05; done\"]}]\n";
    let objects = [
        shared("near", "node1"),
        shared("far", "node2"),
        pod("inside", "node1", "  containers: [{name: c, image: echo}]\n").replace(", all: web", ""),
        pod("shell", "node1", shell).replace(", all: web", ""),
        service("web", "Cluster", 30050),
        service("local", "Local", 30051),
    ];
    apply(&lab, &objects.concat());
    they_have_their_nodes_addresses(&lab);
    they_see_their_nodes_names(&lab);
    services_lead_to_them(&lab);
    ports_are_forwarded_to_them(&lab);
    ports_of_the_node_lead_to_a_pod(&lab);
    they_are_on_every_address(&lab);
    who_finds_no_place_has_failed(&lab);
    who_comes_late_is_told(&lab);
    a_flow_follows_its_port(&lab);
    an_end_is_seen(&lab);
    lab.down();
}

fn they_have_their_nodes_addresses(lab: &Lab) {
    for (pod, node, own) in [("near", NODE1, SIX[0]), ("far", NODE2, SIX[1])] {
        let pod = format!("pod {pod}");
        assert_eq!(given(lab, &pod, ".status.podIP"), node);
        assert_eq!(field(lab, &pod, ".status.podIPs[*].ip"), format!("{node} {own}"));
        assert_eq!(field(lab, &pod, ".status.hostIP"), node);
        assert_eq!(field(lab, &pod, ".spec.containers[0].ports[*].hostPort"), "8180 8180");
    }
}

fn they_see_their_nodes_names(lab: &Lab) {
    let shell = |script: &str| lab.minisvc_of(&["exec", "shell", "--", "sh", "-c", script], "");
    says("the Pod sees its node", &["node1\n", "eth0"], &[], || {
        shell("hostname; cat /etc/hostname; ls /sys/class/net")
    });
    let hosts = shell("cat /etc/hosts").ok();
    assert!(hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{hosts}");
    assert!(shell("cat /etc/resolv.conf").ok().contains("nameserver 10.43.0.10"));
    let of_near = lab.minisvc_of(&["exec", "near", "--", "/proc/1/exe", "--version"], "").ok();
    assert!(of_near.contains("minisvc"), "{of_near}");
    let address = field(lab, "service web", ".spec.clusterIP");
    says("cluster DNS answers", &[&address], &[], || shell("getent ahostsv4 web.default.svc.cluster.local"));
    assert_ne!(shell("ip link add hostile type dummy 2>&1 || exit 1").code, 0, "no such privilege");
}

fn services_lead_to_them(lab: &Lab) {
    let every = ["near", "far"];
    let everyone: BTreeSet<String> = every.iter().map(|&name| name.to_owned()).collect();
    let addresses = field(lab, "service web", ".spec.clusterIPs[*]");
    for ip in addresses.split(' ') {
        for port in ["80", "53/udp"] {
            let to = at(ip, 0).replace(":0", &format!(":{port}"));
            agree(lab, "pod/inside", &to, &every);
            agree(lab, "node1", &to, &every);
            agree(lab, "node2", &to, &every);
            eventually(&format!("near meets itself and far at {to}"), LONG, || {
                let seen = met(lab, "pod/near", &to, 12);
                if seen == everyone { Ok(()) } else { Err(format!("{seen:?}")) }
            });
        }
    }
    for (node, own) in [(NODE1, "near"), (NODE2, "far"), (SIX[0], "near"), (SIX[1], "far")] {
        for suffix in ["", "/udp"] {
            let to = |port| format!("{}{suffix}", at(node, port));
            if !node.contains(':') {
                agree(lab, "client", &to(30050), &every);
                agree(lab, "client", &to(30051), &[own]);
                assert_eq!(met(lab, "client", &to(8180), 1), [own.to_owned()].into());
            }
            agree(lab, "pod/inside", &to(30050), &every);
            agree(lab, "node1", &to(30050), &every);
        }
    }
}

fn ports_are_forwarded_to_them(lab: &Lab) {
    let words = ["port-forward", "--address=127.0.0.1", "pod/far", ":8180"];
    let mut child = lab.command(MINISVC, &words).stdout(Stdio::piped()).spawn().unwrap();
    let first = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let local = first.strip_prefix("Forwarding from ").and_then(|rest| rest.strip_suffix(" -> 8180"));
    let mut stream = std::net::TcpStream::connect(local.unwrap_or_else(|| panic!("{first}"))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let text = std::io::read_to_string(&mut stream).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(text.contains("\"pod\":\"far\""), "{text}");
}

fn an_end_is_seen(lab: &Lab) {
    lab.minisvc("delete pod near").ok();
    let ip = field(lab, "service web", ".spec.clusterIP");
    agree(lab, "pod/inside", &format!("{ip}:80"), &["far"]);
    agree(lab, "client", &at(NODE1, 30050), &["far"]);
    agree(lab, "client", &at(NODE1, 30051), &["timeout"]);
    assert_eq!(met(lab, "client", &at(NODE1, 8180), 1), refused());
}

/// A Pod on node1 with ports 30060, of both protocols, and 30061 at one address only.
fn with_ports(name: &str) -> String {
    let ports = format!(
        "[{{containerPort: 8080, hostPort: 30060}}, {{containerPort: 5353, hostPort: 30060, protocol: UDP}}, {{containerPort: 8081, hostPort: 30061, hostIP: {NODE1}}}]"
    );
    pod(name, "node1", &format!("  containers: [{{name: c, image: echo, ports: {ports}}}]\n"))
        .replace(", all: web", "")
}

fn refused() -> BTreeSet<String> {
    ["refused".to_owned()].into()
}

fn ports_of_the_node_lead_to_a_pod(lab: &Lab) {
    apply(lab, &with_ports("ports"));
    for suffix in ["", "/udp"] {
        for node in [NODE1, SIX[0]] {
            let to = format!("{}{suffix}", at(node, 30060));
            for from in ["node1", "node2", "pod/inside", "pod/ports"] {
                agree(lab, from, &to, &["ports"]);
            }
        }
        agree(lab, "client", &format!("{NODE1}:30060{suffix}"), &["ports"]);
        // From another node's network.
        assert_eq!(met(lab, "pod/far", &format!("{NODE1}:30060{suffix}"), 1), ["ports".to_owned()].into());
        assert_eq!(met(lab, "node1", &format!("127.0.0.1:30060{suffix}"), 1), refused());
        assert_eq!(met(lab, "client", &format!("{NODE2}:30060{suffix}"), 1), refused());
    }
    agree(lab, "client", &at(NODE1, 30061), &["ports"]);
    assert_eq!(met(lab, "node2", &at(SIX[0], 30061), 1), refused());
    let described = lab.minisvc("describe pod ports").ok();
    assert!(described.contains("30060/TCP, 30060/UDP, 30061/TCP"), "{described}");
    let text = lab.minisvc(&format!("trace --from {} {NODE1}:30060", site::CLIENT)).ok();
    assert!(text.contains("host port 30060 of Pod default/ports, port 8080"), "{text}");
}

/// Those of other links, and those that come later.
fn they_are_on_every_address(lab: &Lab) {
    if !is_there("ip", "-V") {
        return;
    }
    let other = "172.31.77.77";
    lab.lab(&format!("exec node1 -- ip addr add {other}/24 dev eth0")).ok();
    agree(lab, "client", &at(other, 30060), &["ports"]);
    lab.lab(&format!("exec node1 -- ip addr del {other}/24 dev eth0")).ok();
}

/// Nobody but the node looks at a Pod that names its node.
fn who_finds_no_place_has_failed(lab: &Lab) {
    let large = "  containers: [{name: c, image: echo, resources: {requests: {cpu: 1000}}}]\n";
    let elsewhere = "  nodeSelector: {disk: tape}\n  containers: [{name: c, image: echo}]\n";
    let objects = [with_ports("second"), pod("large", "node1", large), pod("elsewhere", "node1", elsewhere)];
    apply(lab, &objects.concat().replace(", all: web", ""));
    for (name, reason, words) in [
        ("second", "NodePorts", "node(s) didn't have free ports for the requested pod ports"),
        (
            "large",
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 1000000, used: 0, capacity: ",
        ),
        ("elsewhere", "NodeAffinity", "node(s) didn't match Pod's node affinity/selector"),
    ] {
        let rejected =
            format!("Pod was rejected: {}", if reason == "OutOfcpu" { "Node" } else { "Predicate" });
        says(name, &["Failed", reason, &rejected, words], &["SandboxChanged"], || {
            lab.minisvc(&format!("describe pod {name}"))
        });
        let row = lab.minisvc(&format!("get pod {name} --no-headers")).ok();
        assert_eq!(row.split_whitespace().nth(2), Some(reason), "{row}");
    }
    agree(lab, "client", &at(NODE1, 30060), &["ports"]);
    lab.minisvc("delete pod second large elsewhere").ok();

    // Two of which one finds no place are not two without end.
    let template = "{metadata: {labels: {app: two}}, spec: {nodeName: node2, containers: [{name: c, image: echo, ports: [{containerPort: 8080, hostPort: 30062}]}]}}";
    apply(
        lab,
        &format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: two}}\nspec: {{replicas: 2, selector: {{matchLabels: {{app: two}}}}, template: {template}}}\n"
        ),
    );
    says("one of two is there", &["two", "1/2"], &[], || lab.minisvc("get deployments"));
    says("and a second try", &["Running", "NodePorts"], &["Pending"], || lab.minisvc("get pods -l app=two"));
    std::thread::sleep(std::time::Duration::from_secs(4));
    let pods = lab.minisvc("get pods -l app=two --no-headers").ok();
    assert!((2..8).contains(&pods.lines().count()), "{pods}");
    lab.minisvc("delete deployment two").ok();
}

fn who_comes_late_is_told(lab: &Lab) {
    let ports = "[{containerPort: 8080, hostPort: 30050}, {containerPort: 8080, hostPort: 10250}]";
    let late = pod("late", "node1", &format!("  containers: [{{name: c, image: echo, ports: {ports}}}]\n"));
    apply(lab, &late.replace(", all: web", ""));
    let parts = [
        &format!("{NODE1} . tcp . 30050 belongs to Service default/web"),
        "hostPort 10250/tcp is the node's own",
    ];
    says("Events of the Pod", &parts, &[], || lab.minisvc("describe pod late"));
    agree(lab, "client", &at(NODE1, 30050), &["near", "far"]);
    lab.minisvc("delete pod late").ok();
}

/// A client that keeps its port is led on to the Pod that has the node's port next.
fn a_flow_follows_its_port(lab: &Lab) {
    let flow = Held::new(lab, "client", &format!("{NODE1}:30060/udp"));
    flow.until("the flow begins", "ports", 0);
    lab.minisvc("delete pod ports").ok();
    flow.until("nobody has the port", "refused", now_us());
    apply(lab, &with_ports("next"));
    flow.until("the next Pod has it", "next", now_us());
    flow.goes_on("it stays there", "next", 3);
    agree(lab, "client", &at(NODE1, 30060), &["next"]);
    lab.minisvc("delete pod next").ok();
    agree_refused(lab, &at(NODE1, 30060));
}

fn agree_refused(lab: &Lab, to: &str) {
    eventually("the port is free", LONG, || {
        let seen = met(lab, "client", to, 1);
        if seen == refused() { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}
