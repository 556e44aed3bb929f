//! Who may answer: traffic policies, the states of endpoints, session affinity, and where node ports are.
//!
//! Endpoints are written by hand, so that each state is there for as long as it is looked at.

use super::{
    site::{DRAINING, End, GONE, Held, NODE1, NODE2, READY, UNREADY, agree, apply, at, met, slice},
    types::Pair,
};
use crate::common::{LONG, Lab, eventually, field, given};
use std::{collections::BTreeSet, time::Duration};

const NODE_PORT: u16 = 30080;

/// The Service of these tests, of type LoadBalancer, without a selector.
fn service(lab: &Lab, spec: &str) {
    apply(
        lab,
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: policy}}\nspec: {{type: LoadBalancer, {spec}ports: [{{port: 80, nodePort: {NODE_PORT}}}]}}\n"
        ),
    );
}

/// Its endpoints: the Pod on node1 in one state, that on node2 in another. The Pods listen on different ports.
fn states(lab: &Lab, pair: &Pair, near: Option<[bool; 3]>, far: Option<[bool; 3]>) {
    let one = |address, node, state: Option<[bool; 3]>| -> Vec<End<'_>> {
        state.map(|state| (address, node, state)).into_iter().collect()
    };
    let near = slice("policy-near", "policy", "{port: 8080}", &one(&pair.near, "node1", near));
    let far = slice("policy-far", "policy", "{port: 8090}", &one(&pair.far, "node2", far));
    apply(lab, &format!("{near}{far}"));
}

fn health(lab: &Lab, node: &str, port: &str) -> u16 {
    let said = lab.probe("client", &format!("http://{node}:{port}/"));
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
    answer["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or_default()
}

/// `externalTrafficPolicy: Local`: endpoints of the node that is asked, the client's address, or nothing.
pub fn external_traffic_stays_local(lab: &Lab, pair: &Pair) {
    service(lab, "externalTrafficPolicy: Local, ");
    states(lab, pair, Some(READY), Some(READY));
    let ip = given(lab, "service policy", ".spec.clusterIP");
    let balancer = given(lab, "service policy", ".status.loadBalancer.ingress[0].ip");
    let check = given(lab, "service policy", ".spec.healthCheckNodePort");
    let (one, two) = (at(NODE1, NODE_PORT), at(NODE2, NODE_PORT));
    let healthy = |node: &str, status: u16| {
        eventually(&format!("{node} tells {status}"), LONG, || match health(lab, node, &check) {
            found if found == status => Ok(()),
            found => Err(found.to_string()),
        });
    };
    agree(lab, "client", &one, &["near"]);
    agree(lab, "client", &two, &["far"]);
    // Who is inside may have any; so may everybody by the cluster IP.
    agree(lab, "node1", &one, &["near", "far"]);
    agree(lab, "pod/near", &one, &["near", "far"]);
    agree(lab, "node2", &at(&ip, 80), &["near", "far"]);
    healthy(NODE1, 200);

    states(lab, pair, None, Some(READY));
    agree(lab, "client", &one, &["timeout"]);
    agree(lab, "client", &two, &["far"]);
    agree(lab, "node1", &one, &["far"]);
    healthy(NODE1, 503);

    // What still serves while it ends is better than nothing here, though others are ready elsewhere. Load balancers
    // are told to go there.
    states(lab, pair, Some(DRAINING), Some(READY));
    agree(lab, "client", &one, &["near"]);
    agree(lab, "node2", &at(&ip, 80), &["far"]);
    healthy(NODE1, 503);
    healthy(NODE2, 200);
    for gone in [GONE, UNREADY] {
        states(lab, pair, Some(gone), Some(READY));
        agree(lab, "client", &one, &["timeout"]);
    }
    states(lab, pair, None, None);
    agree(lab, "client", &one, &["refused"]);
    agree(lab, "client", &at(&balancer, 80), &["refused"]);

    service(lab, "externalTrafficPolicy: Cluster, ");
    states(lab, pair, None, Some(READY));
    agree(lab, "client", &one, &["far"]);
    agree(lab, "client", &at(&balancer, 80), &["far"]);
}

/// `internalTrafficPolicy: Local`: the same for the cluster IP, and for it alone.
pub fn internal_traffic_stays_local(lab: &Lab, pair: &Pair) {
    service(lab, "internalTrafficPolicy: Local, ");
    states(lab, pair, Some(READY), Some(READY));
    let to = at(&given(lab, "service policy", ".spec.clusterIP"), 80);
    for (from, who) in [("pod/near", "near"), ("node1", "near"), ("pod/far", "far"), ("node2", "far")] {
        agree(lab, from, &to, &[who]);
    }
    agree(lab, "client", &at(NODE1, NODE_PORT), &["near", "far"]);
    states(lab, pair, None, Some(READY));
    agree(lab, "node1", &to, &["timeout"]);
    agree(lab, "node2", &to, &["far"]);
    states(lab, pair, Some(DRAINING), Some(READY));
    agree(lab, "node1", &to, &["near"]);
    service(lab, "internalTrafficPolicy: Cluster, ");
    agree(lab, "node1", &to, &["far"]);
}

/// `trafficDistribution`: endpoints of the client's node or zone, where there are.
pub fn traffic_stays_near(lab: &Lab) {
    let distribute = |how: &str, selector: &str| {
        apply(
            lab,
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: nearby}}\nspec: {{type: NodePort, trafficDistribution: {how}, selector: {{{selector}}}, ports: [{{port: 80, targetPort: web, nodePort: 30081}}]}}\n"
            ),
        );
    };
    let zone = |node: &str, zone: &str| {
        apply(
            lab,
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
            ),
        );
    };
    distribute("PreferSameNode", "app: pair");
    let to = at(&given(lab, "service nearby", ".spec.clusterIP"), 80);
    for (from, to, who) in [
        ("node1", &to, "near"),
        ("pod/far", &to, "far"),
        ("client", &at(NODE1, 30081), "near"),
        ("client", &at(NODE2, 30081), "far"),
    ] {
        agree(lab, from, to, &[who]);
    }
    distribute("PreferSameNode", "side: near");
    agree(lab, "node2", &to, &["near"]);
    distribute("PreferSameZone", "app: pair");
    agree(lab, "node2", &to, &["near", "far"]);
    zone("node1", "east");
    zone("node2", "west");
    agree(lab, "node1", &to, &["near"]);
    agree(lab, "pod/far", &to, &["far"]);
    zone("node2", "east");
    agree(lab, "node1", &to, &["near", "far"]);
    lab.minisvc("delete service nearby").ok();
}

/// Ready endpoints, else those that still serve while they end; and a connection outlives all of that.
pub fn endpoints_come_and_go(lab: &Lab, pair: &Pair) {
    states(lab, pair, Some(READY), Some(UNREADY));
    let to = at(&given(lab, "service policy", ".spec.clusterIP"), 80);
    agree(lab, "node1", &to, &["near"]);
    let held = Held::new(lab, "node2", &to);
    held.goes_on("a connection to the ready one", "near", 3);
    for (near, far, answering) in [
        (DRAINING, READY, &["far"][..]),
        (GONE, READY, &["far"]),
        (DRAINING, DRAINING, &["near", "far"]),
        (UNREADY, DRAINING, &["far"]),
        (UNREADY, GONE, &["refused"]),
    ] {
        states(lab, pair, Some(near), Some(far));
        agree(lab, "node2", &to, answering);
    }
    held.goes_on("the connection lives", "near", 5);
}

/// Real Pods: one that is never ready is published if the Service says so, and one that ends finishes what it has.
pub fn pods_drain_and_are_published(lab: &Lab) {
    let manifest = |publish: bool| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: early}}
spec: {{publishNotReadyAddresses: {publish}, selector: {{app: early}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: early, labels: {{app: early}}}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 15
  containers: [{{name: c, image: echo}}, {{name: never, image: host, command: [/does/not/exist]}}]
"
        )
    };
    apply(lab, &manifest(true));
    let to = at(&given(lab, "service early", ".spec.clusterIP"), 80);
    agree(lab, "node2", &to, &["early"]);
    assert_eq!(field(lab, "pod early", ".status.conditions[?(@.type=='Ready')].status"), "False");
    let held = Held::new(lab, "node2", &to);
    held.goes_on("a connection to a Pod that is not ready", "early", 3);
    apply(lab, &manifest(false));
    agree(lab, "node2", &to, &["refused"]);
    lab.minisvc("delete pod early --wait=false").ok();
    given(lab, "pod early", ".metadata.deletionTimestamp");
    held.goes_on("a Pod that ends finishes what it has", "early", 20);
    drop(held);
    lab.minisvc("delete service early").ok();
}

/// `sessionAffinity: ClientIP`, switched on and off, by cluster IP and by node port; forgotten after its timeout.
pub fn clients_keep_their_endpoint(lab: &Lab, pair: &Pair) {
    const STICKY: &str = "sessionAffinity: ClientIP, ";
    let brief = format!("{STICKY}sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 1}}}}, ");
    service(lab, "");
    states(lab, pair, Some(READY), Some(READY));
    let ways = [
        ("pod/near", at(&given(lab, "service policy", ".spec.clusterIP"), 80)),
        ("node1", at(&given(lab, "service policy", ".spec.clusterIP"), 80)),
        ("client", at(NODE1, NODE_PORT)),
        ("client", at(&given(lab, "service policy", ".status.loadBalancer.ingress[0].ip"), 80)),
    ];
    let one = |from: &str, to: &str| -> BTreeSet<String> {
        eventually(&format!("{from} to {to} meets one"), LONG, || match met(lab, from, to, 16) {
            found if found.len() == 1 => Ok(found),
            found => Err(format!("{found:?}")),
        })
    };
    for spec in ["", STICKY, "", STICKY] {
        service(lab, spec);
        for (from, to) in &ways {
            if spec.is_empty() {
                agree(lab, from, to, &["near", "far"]);
            } else {
                let first = one(from, to);
                assert_eq!(met(lab, from, to, 16), first, "{from} to {to} stays");
            }
        }
    }
    let told = lab.minisvc(&format!("trace --from near {}", ways[0].1)).ok();
    assert!(told.contains("sessionAffinity ClientIP: this client keeps its endpoint for 10800 s"), "{told}");
    service(lab, &brief);
    let (from, to) = &ways[2];
    let first = one(from, to);
    eventually("a client that rests longer than the timeout is given another", LONG, || {
        // The rest is what is tested; after it each of the two is as likely.
        std::thread::sleep(Duration::from_millis(1300));
        let found = met(lab, from, to, 16);
        assert_eq!(found.len(), 1, "who does not rest stays: {found:?}");
        if found == first { Err(format!("{found:?}")) } else { Ok(()) }
    });
    service(lab, "");
}

/// Node ports are on the node's primary address only; a load balancer's Service may have none.
pub fn node_ports_are_where_they_must(lab: &Lab, pair: &Pair) {
    service(lab, "");
    states(lab, pair, Some(READY), None);
    agree(lab, "client", &at(NODE1, NODE_PORT), &["near"]);
    agree(lab, "node1", &at(NODE1, NODE_PORT), &["near"]);
    let refused: BTreeSet<String> = ["refused".to_owned()].into();
    assert_eq!(met(lab, "node1", &at("127.0.0.1", NODE_PORT), 1), refused);
    let balancer = given(lab, "service policy", ".status.loadBalancer.ingress[0].ip");
    assert_eq!(met(lab, "client", &at(&balancer, NODE_PORT), 1), refused);
    let all = "cat /proc/sys/net/ipv4/conf/*/route_localnet";
    let said = lab.minisvc_of(&["lab", "exec", "node1", "--", "sh", "-c", all], "").ok();
    assert!(said.lines().count() > 3 && said.lines().all(|line| line == "0"), "{said}");
    lab.minisvc("delete service policy").ok();
    apply(
        lab,
        "apiVersion: v1
kind: Service
metadata: {name: policy}
spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}
",
    );
    states(lab, pair, Some(READY), None);
    let balancer = given(lab, "service policy", ".status.loadBalancer.ingress[0].ip");
    agree(lab, "client", &at(&balancer, 80), &["near"]);
    assert_eq!(field(lab, "service policy", ".spec.ports[0].nodePort"), "");
    lab.minisvc("delete service policy").ok();
    assert_eq!(met(lab, "client", &at(NODE1, NODE_PORT), 1), refused);
}
