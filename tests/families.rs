//! Clusters of both families, and of IPv6 alone, by real connections: Pods, Services, names, and the trace beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{LONG, Lab, eventually, field, given};
use serde_json::Value;

const BOTH: &str = "--cluster-cidr 10.42.0.0/16,fd42::/56 --service-cidr 10.43.0.0/16,fd43::/112";
const SIX: &str = "--cluster-cidr fd42::/56 --service-cidr fd43::/112";
/// The nodes' and the client's IPv6 addresses in a lab.
const NODE1: &str = "fd77::b";
const NODE2: &str = "fd77::c";
const CLIENT: &str = "fd77::64";

/// A Service that is reached in every way, with a Pod on each node; an Ingress, and one Pod behind a Local policy.
fn objects(policy: &str) -> String {
    let pod = |name: &str, node: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: echo}}]\n"
        )
    };
    let (one, two) = (pod("one", "node1"), pod("two", "node2"));
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: {policy}
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: six}}
spec:
  ipFamilies: [IPv6]
  externalTrafficPolicy: Local
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: 30085}}]
---
apiVersion: v1
kind: Service
metadata: {{name: empty}}
spec: {{ipFamilies: [IPv6], selector: {{app: nobody}}, ports: [{{port: 80}}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web}}
spec: {{defaultBackend: {{service: {{name: web, port: {{name: http}}}}}}}}
{one}{two}"
    )
}

/// Who answers, and as whom they see the caller; or why nobody does.
fn seen(lab: &Lab, from: &str, to: &str) -> (String, String) {
    let target = format!("http://{to}/");
    let said = match from {
        "one" | "two" => lab.probe_from_pod(from, &target),
        member => lab.probe(member, &target),
    };
    let answer: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
    if answer["pod"].is_string() { (text("pod"), text("client")) } else { (text("error"), said.err) }
}

#[track_caller]
fn meets(lab: &Lab, from: &str, to: &str, whom: &[&str]) {
    let mut left: Vec<&str> = whom.to_vec();
    eventually(&format!("{from} meets {whom:?} at {to}"), LONG, || {
        let (found, client) = seen(lab, from, to);
        assert!(!client.contains("::ffff:"), "{client}");
        left.retain(|name| *name != found);
        if left.is_empty() { Ok(()) } else { Err(format!("{found} {client}, {left:?} left")) }
    });
}

fn addresses(lab: &Lab, of: &str, path: &str, count: usize) -> Vec<String> {
    eventually(&format!("{of} has {count} of {path}"), LONG, || {
        let all: Vec<String> = field(lab, of, path).split_whitespace().map(str::to_owned).collect();
        if all.len() == count { Ok(all) } else { Err(format!("{all:?}")) }
    })
}

#[test]
fn a_cluster_of_both_families() {
    let Some(lab) = Lab::up_with("t-both", BOTH) else { return };
    lab.minisvc_of(&["apply", "-f", "-"], &objects("RequireDualStack")).ok();
    let pods = addresses(&lab, "pod two", ".status.podIPs[*].ip", 2);
    assert!(pods[0].starts_with("10.42.") && pods[1].starts_with("fd42:"), "{pods:?}");
    assert_eq!(field(&lab, "pod two", ".status.podIP"), pods[0], "the primary one");
    let cluster_ips = addresses(&lab, "service web", ".spec.clusterIPs[*]", 2);
    let balancers = addresses(&lab, "service web", ".status.loadBalancer.ingress[*].ip", 2);
    assert!(cluster_ips[1].starts_with("fd43::") && balancers[1].starts_with("fd77::"), "{balancers:?}");

    let both = ["one", "two"];
    for (v4, v6) in
        [(cluster_ips[0].clone(), cluster_ips[1].clone()), (balancers[0].clone(), balancers[1].clone())]
    {
        for from in ["one", "two", "node1", "node2"] {
            meets(&lab, from, &format!("{v4}:80"), &both);
            meets(&lab, from, &format!("[{v6}]:80"), &both);
        }
    }
    meets(&lab, "one", &format!("[{}]:8080", pods[1]), &["two"]);
    meets(&lab, "client", &format!("[{}]:80", balancers[1]), &both);
    for node in [NODE1, NODE2] {
        meets(&lab, "client", &format!("[{node}]:30080"), &both);
        // An Ingress is at the nodes' addresses of both families.
        meets(&lab, "client", &format!("[{node}]:80"), &both);
    }
    local_policies_and_refusals(&lab);
    names(&lab, &cluster_ips[1]);
    a_service_gains_and_loses_a_family(&lab);
    lab.down();
}

/// A Local policy keeps the client's address; what has no endpoint is refused; the trace says the same.
fn local_policies_and_refusals(lab: &Lab) {
    for (node, pod) in [(NODE1, "one"), (NODE2, "two")] {
        meets(lab, "client", &format!("[{node}]:30085"), &[pod]);
        let (found, client) = seen(lab, "client", &format!("[{node}]:30085"));
        assert_eq!((found.as_str(), client.starts_with(&format!("[{CLIENT}]:"))), (pod, true), "{client}");
        let trace = lab.minisvc(&format!("trace --from {CLIENT} [{node}]:30085")).ok();
        assert!(trace.contains("externalTrafficPolicy Local: endpoints of this node"), "{trace}");
        assert!(
            trace.contains(&format!("to Pod default/{pod} here")) && trace.contains("source is kept"),
            "{trace}"
        );
    }
    let empty = field(lab, "service empty", ".spec.clusterIP");
    for from in ["one", "node1"] {
        meets(lab, from, &format!("[{empty}]:80"), &["refused"]);
        meets(lab, from, &format!("[{empty}]:81"), &["refused"]);
        let trace = lab.minisvc(&format!("trace --from {from} [{empty}]:80")).ok();
        assert!(trace.ends_with("refused (TCP reset): the Service has no ready endpoint\n"), "{trace}");
    }
}

/// Names give both families, or the one that there is; and back.
fn names(lab: &Lab, cluster_ip: &str) {
    let ask = |question: &str| lab.probe_from_pod("one", &format!("dns:{question}")).out;
    let web = "web.default.svc.cluster.local";
    assert!(ask(&format!("{web}/AAAA")).contains(cluster_ip), "{}", ask(&format!("{web}/AAAA")));
    assert!(ask(&format!("{web}/A")).contains("10.43."));
    let none = ask("six.default.svc.cluster.local/A");
    assert!(
        !none.contains("10.43.") && !none.to_lowercase().contains("nxdomain"),
        "no records, but a name: {none}"
    );
    // The same by the other address of cluster DNS.
    let other = lab.probe_from_pod("two", &format!("dns:{web}/AAAA@fd43::a")).out;
    assert!(other.contains(cluster_ip), "{other}");
}

fn a_service_gains_and_loses_a_family(lab: &Lab) {
    let patch = |spec: &str| {
        let spec = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: turn}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}], {spec}}}\n"
        );
        lab.minisvc_of(&["apply", "-f", "-"], &spec).ok();
    };
    patch("ipFamilyPolicy: SingleStack");
    let first = addresses(lab, "service turn", ".spec.clusterIPs[*]", 1);
    patch("ipFamilyPolicy: PreferDualStack");
    let both = addresses(lab, "service turn", ".spec.clusterIPs[*]", 2);
    assert_eq!(both[0], first[0], "the address it had");
    meets(lab, "node2", &format!("[{}]:80", both[1]), &["one", "two"]);
    patch("ipFamilyPolicy: SingleStack");
    addresses(lab, "service turn", ".spec.clusterIPs[*]", 1);
    meets(lab, "node2", &format!("[{}]:80", both[1]), &["refused"]);
    meets(lab, "node2", &format!("{}:80", both[0]), &["one", "two"]);
}

#[test]
fn a_cluster_of_ipv6_alone() {
    let Some(lab) = Lab::up_with("t-six", SIX) else { return };
    lab.minisvc_of(&["apply", "-f", "-"], &objects("SingleStack")).ok();
    let pod = given(&lab, "pod two", ".status.podIP");
    assert!(pod.starts_with("fd42:"), "{pod}");
    let cluster_ip = field(&lab, "service web", ".spec.clusterIP");
    let balancer = given(&lab, "service web", ".status.loadBalancer.ingress[0].ip");
    for from in ["one", "node2"] {
        meets(&lab, from, &format!("[{cluster_ip}]:80"), &["one", "two"]);
    }
    for to in [format!("[{balancer}]:80"), format!("[{NODE2}]:30080")] {
        meets(&lab, "client", &to, &["one", "two"]);
    }
    let asked = lab.probe_from_pod("one", "dns:web.default.svc.cluster.local/AAAA").out;
    assert!(asked.contains(&cluster_ip), "{asked}");
    let said = lab.minisvc("exec two -- /proc/1/exe --version").ok();
    assert!(said.contains("minisvc"), "{said}");
    lab.down();
}

#[test]
fn every_overlay_carries_both_families() {
    for overlay in ["host-gw", "tun"] {
        let Some(lab) = Lab::up_with(&format!("t-both-{overlay}"), &format!("--overlay {overlay} {BOTH}"))
        else {
            continue;
        };
        lab.minisvc_of(&["apply", "-f", "-"], &objects("PreferDualStack")).ok();
        let pods = addresses(&lab, "pod two", ".status.podIPs[*].ip", 2);
        meets(&lab, "one", &format!("{}:8080", pods[0]), &["two"]);
        meets(&lab, "one", &format!("[{}]:8080", pods[1]), &["two"]);
        lab.down();
    }
}
