//! Types of Services and their ports: what appears with each, and what goes with it at once.

use super::site::{NODE1, NODE2, READY, agree, apply, at, field, given, met, slice};
use crate::common::{LONG, Lab, eventually};

/// Two Pods that call the ports of the same names differently.
pub const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: pair, side: near}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: echo
    ports:
    - {name: web, containerPort: 8080}
    - {name: names, containerPort: 5353, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: pair}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: echo
    ports:
    - {name: web, containerPort: 8090}
    - {name: names, containerPort: 5390, protocol: UDP}
---
";

/// Addresses of the two Pods.
pub struct Pair {
    pub near: String,
    pub far: String,
}

impl Pair {
    pub fn new(lab: &Lab) -> Self {
        apply(lab, PODS);
        let address = |pod: &str| given(lab, &format!("pod {pod}"), ".status.podIP");
        Self { near: address("near"), far: address("far") }
    }
}

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn cluster_ip(lab: &Lab, name: &str) -> String {
    given(lab, &format!("service {name}"), ".spec.clusterIP")
}

/// Several ports; one number under two protocols; named target ports that differ between Pods.
pub fn ports_are_told_apart(lab: &Lab) {
    const TCP: &str = "{name: web, port: 80, targetPort: web}, {name: t, port: 53, targetPort: web}";
    const UDP: &str = "{name: u, port: 53, protocol: UDP, targetPort: names}";
    apply(lab, &service("ports", &format!("selector: {{app: pair}}, ports: [{TCP}, {UDP}]")));
    let ip = cluster_ip(lab, "ports");
    for from in ["pod/near", "pod/far", "node1"] {
        for port in ["80", "53", "53/udp"] {
            agree(lab, from, &format!("{ip}:{port}"), &["near", "far"]);
        }
        for port in ["54", "80/udp"] {
            agree(lab, from, &format!("{ip}:{port}"), &["refused"]);
        }
    }
    apply(lab, &service("ports", &format!("selector: {{app: pair}}, ports: [{TCP}]")));
    agree(lab, "pod/near", &format!("{ip}:53/udp"), &["refused"]);
    agree(lab, "node2", &format!("{ip}:53/udp"), &["refused"]);
    agree(lab, "pod/near", &format!("{ip}:53"), &["near", "far"]);
    lab.minisvc("delete service ports").ok();
    assert_eq!(met(lab, "node1", &format!("{ip}:80"), 1), ["refused".to_owned()].into());
}

/// Services without a selector: slices that people write, each with its own port; Endpoints, which are mirrored.
pub fn endpoints_are_written_by_hand(lab: &Lab, pair: &Pair) {
    apply(lab, &service("written", "ports: [{name: web, port: 80}]"));
    let ip = cluster_ip(lab, "written");
    let to = at(&ip, 80);
    agree(lab, "node1", &to, &["refused"]);
    let one = slice("written-a", "written", "{name: web, port: 8080}", &[(&pair.near, "node1", READY)]);
    let two = slice("written-b", "written", "{name: web, port: 8090}", &[(&pair.far, "node2", READY)]);
    // A slice of another port of that name serves nobody.
    let other = slice("written-c", "written", "{name: other, port: 8080}", &[("10.42.0.99", "node1", READY)]);
    apply(lab, &format!("{one}{two}{other}"));
    agree(lab, "pod/far", &to, &["near", "far"]);
    agree(lab, "node1", &to, &["near", "far"]);
    lab.minisvc("delete endpointslice written-a").ok();
    agree(lab, "pod/near", &to, &["far"]);
    lab.minisvc("delete endpointslice written-b").ok();
    agree(lab, "pod/near", &to, &["refused"]);

    apply(lab, &service("mirrored", "ports: [{name: web, port: 80}]"));
    let near = &pair.near;
    apply(
        lab,
        &format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: mirrored}}\nsubsets: [{{addresses: [{{ip: {near}}}], ports: [{{name: web, port: 8080}}]}}]\n"
        ),
    );
    let to = at(&cluster_ip(lab, "mirrored"), 80);
    agree(lab, "node2", &to, &["near"]);
    lab.minisvc("delete endpoints mirrored").ok();
    agree(lab, "node2", &to, &["refused"]);
    lab.minisvc("delete service written mirrored").ok();
}

/// One Service through all types and back: what each brings is there, and what went refuses, or is free, at once.
pub fn types_change(lab: &Lab) {
    const PORTS: &str = "selector: {side: near}, ports: [{port: 80, targetPort: 8080}]";
    let become_ = |spec: &str| apply(lab, &service("shift", spec));
    let alias = || {
        let said = lab.lab("exec node1 -- minisvc lab-probe dns:shift.default.svc.cluster.local/CNAME");
        said.out.contains("CNAME near.example")
    };
    become_(&format!("type: ClusterIP, {PORTS}"));
    let first = cluster_ip(lab, "shift");
    agree(lab, "node2", &at(&first, 80), &["near"]);
    // Reached from itself, a Pod sees another address than its own; from another it sees that one's.
    agree(lab, "pod/near", &at(&first, 80), &["near"]);
    agree(lab, "pod/far", &at(&first, 80), &["near"]);
    assert!(!alias());

    become_("type: ExternalName, externalName: near.example");
    agree(lab, "node2", &at(&first, 80), &["refused"]);
    assert_eq!(field(lab, "service shift", ".spec.clusterIP"), "");
    eventually("the name is an alias", LONG, || if alias() { Ok(()) } else { Err(String::new()) });
    // The address is free: another may have it.
    apply(lab, &service("heir", &format!("clusterIP: '{first}', {PORTS}")));
    agree(lab, "node2", &at(&first, 80), &["near"]);

    become_(&format!("type: NodePort, {PORTS}"));
    let second = cluster_ip(lab, "shift");
    assert_ne!(first, second);
    let port: u16 = given(lab, "service shift", ".spec.ports[0].nodePort").parse().unwrap();
    agree(lab, "node2", &at(&second, 80), &["near"]);
    for node in [NODE1, NODE2] {
        agree(lab, "client", &at(node, port), &["near"]);
    }
    eventually("the name is no alias", LONG, || if alias() { Err(String::new()) } else { Ok(()) });

    become_(&format!("type: LoadBalancer, {PORTS}"));
    let balancer = given(lab, "service shift", ".status.loadBalancer.ingress[0].ip");
    agree(lab, "client", &at(&balancer, 80), &["near"]);
    agree(lab, "client", &at(&balancer, 81), &["refused"]);
    agree(lab, "client", &at(NODE2, port), &["near"]);
    assert_eq!(cluster_ip(lab, "shift"), second);

    become_(&format!("type: NodePort, {PORTS}"));
    eventually("the load balancer's address is nobody's", LONG, || {
        let found = met(lab, "client", &at(&balancer, 80), 1);
        if found.contains("near") { Err(format!("{found:?}")) } else { Ok(()) }
    });
    assert_eq!(field(lab, "service shift", ".status.loadBalancer.ingress"), "");
    agree(lab, "client", &at(NODE1, port), &["near"]);

    become_(&format!("type: ClusterIP, {PORTS}"));
    for node in [NODE1, NODE2] {
        eventually("the node port refuses", LONG, || {
            let found = met(lab, "client", &at(node, port), 1);
            if found.contains("refused") { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
    agree(lab, "node2", &at(&second, 80), &["near"]);
    let ports = format!("selector: {{app: pair}}, ports: [{{port: 80, targetPort: web, nodePort: {port}}}]");
    apply(lab, &service("heir", &format!("type: NodePort, clusterIP: '{first}', {ports}")));
    agree(lab, "client", &at(NODE2, port), &["near", "far"]);

    become_("type: ExternalName, externalName: near.example");
    agree(lab, "node2", &at(&second, 80), &["refused"]);
    lab.minisvc("delete service shift heir").ok();
    agree(lab, "node1", &at(&first, 80), &["refused"]);
}
