//! Types of Services and their ports: what appears with each, and what goes with it at once.

use super::site::{NODE1, NODE2, READY, agree, apply, at, met, slice};
use crate::common::{LONG, Lab, eventually, field, given};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ExternalName,
    ClusterIp,
    NodePort,
    LoadBalancer,
}

use Kind::{ClusterIp as C, ExternalName as E, LoadBalancer as L, NodePort as N};

/// Every change from one type to another, once.
const WALK: [Kind; 13] = [C, E, N, L, C, N, E, L, N, C, L, E, C];

impl Kind {
    fn spec(self) -> &'static str {
        match self {
            E => "type: ExternalName, externalName: near.example",
            C => "type: ClusterIP, selector: {side: near}, ports: [{port: 80, targetPort: 8080}]",
            N => "type: NodePort, selector: {side: near}, ports: [{port: 80, targetPort: 8080}]",
            L => "type: LoadBalancer, selector: {side: near}, ports: [{port: 80, targetPort: 8080}]",
        }
    }
}

/// What the Service has of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holdings {
    address: Option<String>,
    node_port: Option<u16>,
    balancer: Option<String>,
}

fn holdings(lab: &Lab, kind: Kind) -> Holdings {
    let ask = |path: &str| given(lab, "service shift", path);
    let there = |there: bool, path: &str| {
        if there {
            return Some(ask(path));
        }
        eventually(&format!("{kind:?} has no {path}"), LONG, || match field(lab, "service shift", path) {
            found if found.is_empty() => Ok(None),
            found => Err(found),
        })
    };
    Holdings {
        address: there(kind != E, ".spec.clusterIP"),
        node_port: there(kind == N || kind == L, ".spec.ports[0].nodePort").map(|port| port.parse().unwrap()),
        balancer: there(kind == L, ".status.loadBalancer.ingress[0].ip"),
    }
}

/// One Service through every change of its type: what a type brings is there and stays while it may, what it does not
/// have is refused at once.
pub fn types_change(lab: &Lab) {
    let mut had = Holdings::default();
    let gone = |what: &str, to: &str| {
        eventually(&format!("{what} {to} leads nowhere"), LONG, || match met(lab, "client", to, 1) {
            found if found.contains("near") => Err(format!("{found:?}")),
            found => Ok(found),
        })
    };
    for (step, kind) in WALK.into_iter().enumerate() {
        println!("the Service is a {kind:?}");
        apply(lab, &service("shift", kind.spec()));
        let has = holdings(lab, kind);
        if had.address.is_some() && has.address.is_some() {
            assert_eq!(has.address, had.address);
        }
        if had.node_port.is_some() && has.node_port.is_some() {
            assert_eq!(has.node_port, had.node_port);
        }
        match (&has.address, &had.address) {
            // From another Pod, which is seen as itself, or from the Pod itself, which is not.
            (Some(address), _) => {
                let from = if step % 2 == 0 { "pod/near" } else { "pod/far" };
                agree(lab, from, &at(address, 80), &["near"]);
            }
            (None, Some(before)) => agree(lab, "node2", &at(before, 80), &["refused"]),
            (None, None) => {}
        }
        let node = if step % 2 == 0 { NODE1 } else { NODE2 };
        match (has.node_port, had.node_port) {
            (Some(port), _) => agree(lab, "client", &at(node, port), &["near"]),
            (None, Some(before)) => {
                let found = gone("the node port", &at(node, before));
                assert_eq!(found, ["refused".to_owned()].into());
            }
            (None, None) => {}
        }
        match (&has.balancer, &had.balancer) {
            (Some(address), _) => agree(lab, "client", &at(address, 80), &["near"]),
            (None, Some(before)) => drop(gone("the load balancer's address", &at(before, 80))),
            (None, None) => {}
        }
        let alias = || {
            let said = lab.lab("exec node1 -- minisvc lab-probe dns:shift.default.svc.cluster.local/CNAME");
            said.out.contains("CNAME near.example")
        };
        let right = || if alias() == (kind == E) { Ok(()) } else { Err(String::new()) };
        eventually("the name is an alias, or is none", LONG, right);
        had = has;
    }
    what_is_released_is_free(lab, &had);
}

/// Another Service may have at once what one gives up.
fn what_is_released_is_free(lab: &Lab, had: &Holdings) {
    let address = had.address.as_deref().unwrap();
    let ports = "selector: {app: pair}, ports: [{port: 80, targetPort: web, nodePort: 30082}]";
    let heir = |spec: &str| service("heir", &format!("type: NodePort, {spec}{ports}"));
    apply(
        lab,
        &service(
            "shift",
            "type: NodePort, selector: {side: near}, ports: [{port: 80, targetPort: 8080, nodePort: 30082}]",
        ),
    );
    agree(lab, "client", &at(NODE2, 30082), &["near"]);
    let refused = lab.minisvc_of(&["apply", "-f", "-"], &heir("")).refused();
    assert!(refused.contains("spec.ports[0].nodePort"), "{refused}");
    apply(lab, &service("shift", E.spec()));
    apply(lab, &heir(&format!("clusterIP: '{address}', ")));
    agree(lab, "client", &at(NODE2, 30082), &["near", "far"]);
    agree(lab, "node1", &at(address, 80), &["near", "far"]);
    lab.minisvc("delete service shift heir").ok();
    agree(lab, "node1", &at(address, 80), &["refused"]);
}
