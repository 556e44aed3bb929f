//! What Services promise, by real connections in a lab: types and ports, policies and states of endpoints, UDP clients
//! that keep their port, health checks of load balancers, endpoints kept for nodes and zones; and that a trace says what
//! a connection meets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;
#[path = "services/policies.rs"]
mod policies;
#[path = "services/site.rs"]
mod site;
#[path = "services/trace.rs"]
mod trace;
#[path = "services/types.rs"]
mod types;
#[path = "services/udp.rs"]
mod udp;

use common::{LONG, Lab, eventually, field, is_there};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const OBJECTS: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

fn pod(name: &str, node: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: echo}}]\n"
    )
}

#[test]
fn services_keep_what_they_promise() {
    let Some(lab) = Lab::up("t-services", 2) else { return };
    let objects = format!("{OBJECTS}{}{}", pod("one", "node1"), pod("two", "node2"));
    lab.minisvc_of(&["apply", "-f", "-"], &objects).ok();
    load_balancers_are_told_where_endpoints_are(&lab);
    a_table_that_somebody_takes_away_comes_back(&lab);
    trace::a_trace_says_what_a_connection_meets(&lab);
    let pair = types::Pair::new(&lab);
    types::ports_are_told_apart(&lab);
    types::endpoints_are_written_by_hand(&lab, &pair);
    types::types_change(&lab);
    policies::external_traffic_stays_local(&lab, &pair);
    policies::internal_traffic_stays_local(&lab, &pair);
    policies::traffic_stays_near(&lab);
    policies::endpoints_come_and_go(&lab, &pair);
    policies::clients_keep_their_endpoint(&lab, &pair);
    policies::node_ports_are_where_they_must(&lab, &pair);
    policies::pods_drain_and_are_published(&lab);
    udp::clients_that_keep_their_port_follow(&lab, &pair);
    lab.down();
}

fn health(lab: &Lab, node: &str, port: &str) -> String {
    let address = field(lab, &format!("node {node}"), ".status.addresses[0].address");
    let said = lab.probe("client", &format!("http://{address}:{port}/"));
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
    answer["status"].to_string()
}

fn until(lab: &Lab, what: &str, node: &str, port: &str, status: &str) {
    eventually(what, LONG, || match health(lab, node, port) {
        found if found == status => Ok(()),
        found => Err(found),
    });
}

fn load_balancers_are_told_where_endpoints_are(lab: &Lab) {
    let port = field(lab, "service web", ".spec.healthCheckNodePort");
    until(lab, "node1 has an endpoint", "node1", &port, "200");
    until(lab, "node2 has one", "node2", &port, "200");
    lab.minisvc("delete pod one").ok();
    until(lab, "node1 has none left", "node1", &port, "503");
    until(lab, "node2 has its own", "node2", &port, "200");
    lab.minisvc_of(&["apply", "-f", "-"], &pod("one", "node1")).ok();
    until(lab, "node1 has one again", "node1", &port, "200");
    let manifest = OBJECTS.replace("externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster");
    lab.minisvc_of(&["apply", "-f", "-"], &manifest).ok();
    until(lab, "nothing listens when all endpoints count", "node1", &port, "null");
}

/// Which Pods answer node1 at the Service's address.
fn answering(lab: &Lab, address: &str) -> BTreeSet<String> {
    (0..12)
        .map(|_| {
            let said = lab.probe("node1", &format!("http://{address}/"));
            let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
            answer["pod"].as_str().unwrap_or("nobody").to_owned()
        })
        .collect()
}

/// `nft flush ruleset` of a firewall script takes ours along, or somebody empties one of our maps: it is back within
/// seconds. Theirs is let be, whatever happens to ours.
fn a_table_that_somebody_takes_away_comes_back(lab: &Lab) {
    if !is_there("nft", "--version") {
        return;
    }
    let address = field(lab, "service web", ".spec.clusterIP");
    let nft = |words: &str| {
        let words: Vec<&str> = ["lab", "exec", "node1", "--", "nft", words].to_vec();
        lab.minisvc_of(&words, "").ok()
    };
    nft("flush ruleset");
    // A table of our name in another family, and hooks before and after ours.
    nft("add table inet minisvc; add chain inet minisvc c { type nat hook prerouting priority -101; }; \
         add rule inet minisvc c ip daddr 192.0.2.7 dnat ip to 192.0.2.8; add table ip theirs; \
         add set ip theirs s { type ipv4_addr; elements = { 192.0.2.1 }; }; \
         add chain ip theirs c { type filter hook forward priority 0; }; \
         add rule ip theirs c ip saddr @s mark set 0x6d000001 accept");
    let theirs = || nft("list table inet minisvc") + &nft("list table ip theirs");
    let before = theirs();
    let back = |what: &str| {
        let gone = Instant::now();
        eventually("the Service answers again", LONG, || match answering(lab, &address) {
            found if found.contains("nobody") => Err(format!("{found:?}")),
            _ => Ok(()),
        });
        assert!(gone.elapsed() < Duration::from_secs(10), "{:?}", gone.elapsed());
        println!("{what} was back after {:?}", gone.elapsed());
        assert_eq!(theirs(), before);
    };
    back("the table");
    for what in
        ["flush map ip minisvc frontends", "flush chain ip minisvc services", "delete table ip minisvc"]
    {
        nft(what);
        back(what);
    }
    nft("delete table inet minisvc; delete table ip theirs");
}

const TOLD: [(&str, &str); 2] = [
    ("MINISVC_NODEPORT_ADDRESSES", "172.31.77.0/24,198.18.5.0/24,127.0.0.0/8"),
    ("MINISVC_ALLOWED_EXTERNAL_IPS", "198.18.6.0/24"),
];

/// Node ports answer on the addresses that were chosen, as they come; external IPs are those of the allowed networks.
#[test]
fn addresses_are_those_that_were_chosen() {
    if !is_there("ip", "-V") {
        return;
    }
    let Some(lab) = Lab::up_told("t-chosen", &TOLD) else { return };
    let service = |external: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: chosen}}\nspec: {{type: NodePort, externalIPs: [{external}], selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080, nodePort: 30082}}]}}\n"
        )
    };
    lab.minisvc_of(&["apply", "-f", "-"], &format!("{}{}", service("198.18.6.7"), pod("one", "node1"))).ok();
    let refused = lab.minisvc_of(&["apply", "-f", "-"], &service("198.18.7.7")).refused();
    assert!(refused.contains("198.18.7.7 is in none of the networks that this cluster allows"), "{refused}");
    let reached = |from: &str, to: &str| {
        eventually(&format!("{from} reaches {to}"), LONG, || {
            let said = lab.probe(from, &format!("http://{to}/"));
            if said.out.contains("\"pod\":\"one\"") { Ok(()) } else { Err(format!("{said:?}")) }
        });
    };
    reached("client", "172.31.77.11:30082");
    let link = lab.lab("exec node1 -- ip -o -4 route get 172.31.77.100").ok();
    let link = link.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
    lab.lab(&format!("exec node1 -- ip addr add 198.18.5.1/32 dev {link}")).ok();
    lab.lab("exec client -- ip route add 198.18.4.0/22 via 172.31.77.11").ok();
    reached("client", "198.18.5.1:30082");
    let trace = lab.minisvc("trace --from 172.31.77.100 198.18.5.1:30082 --via node1").ok();
    assert!(trace.contains("node port 30082 of Service default/chosen"), "{trace}");
    reached("client", "198.18.6.7:80");
    let trace = lab.minisvc("trace --from 172.31.77.100 198.18.6.7:80 --via node1").ok();
    assert!(trace.contains("external IP of Service default/chosen"), "{trace}");
    let localhost = lab.probe("node1", "http://127.0.0.1:30082/");
    assert!(localhost.out.contains("refused"), "never on localhost: {localhost:?}");
    lab.down();
}
