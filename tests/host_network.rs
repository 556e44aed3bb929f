//! Pods in their node's network, by real connections in a lab: what they see, and who reaches them by Services.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;
#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "services/site.rs"]
mod site;

use common::{LONG, Lab, MINISVC, eventually, field, given, says};
use site::{NODE1, NODE2, agree, apply, at, met};
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
    assert_eq!(met(lab, "client", &at(NODE1, 8180), 1), ["refused".to_owned()].into());
}
