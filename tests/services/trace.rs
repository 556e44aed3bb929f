//! `minisvc trace` against real connections: what it says of a packet is what a client sees.

use crate::common::{LONG, Lab, eventually};
use serde_json::Value;

const CLIENT: &str = "172.31.77.100";

fn manifest(ranges: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: traced}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [{ranges}]
  selector: {{app: traced}}
  ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30777}}]
---
apiVersion: v1
kind: Service
metadata: {{name: empty}}
spec: {{selector: {{app: nobody}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: traced, labels: {{app: traced}}}}
spec:
  nodeName: node1
  containers: [{{name: c, image: echo}}]
"
    )
}

/// What a client sees: who answers, or `refused`, or `timeout`.
fn seen(lab: &Lab, from: &str, to: &str) -> (String, String) {
    let said = match from {
        "traced" => lab.probe_from_pod("traced", &format!("http://{to}/")),
        member => lab.probe(member, &format!("http://{to}/")),
    };
    let answer: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
    let end = if answer["pod"].is_string() { text("pod") } else { text("error") };
    (end, text("client"))
}

/// What the trace says of the same, in the probe's words, and whether the client's address is hidden from the endpoint.
fn said(lab: &Lab, from: &str, to: &str) -> (String, bool) {
    let from = if from == "client" { CLIENT } else { from };
    let out = lab.minisvc(&format!("trace --from {from} -o json {to}")).ok();
    let walk: Value = serde_json::from_str(&out).unwrap();
    let last = walk["hops"].as_array().unwrap().last().cloned().unwrap_or_default();
    let endpoint = &last["endpoints"][0];
    let end = match walk["verdict"].as_str().unwrap() {
        "Endpoint" => endpoint["pod"].as_str().unwrap().trim_start_matches("default/").to_owned(),
        "Refused" => "refused".to_owned(),
        "Dropped" => "timeout".to_owned(),
        other => other.to_owned(),
    };
    (end, endpoint["masquerade"] == true)
}

fn agree(lab: &Lab, from: &str, to: &str, expected: &str) {
    let what = format!("{from} to {to} ends in {expected:?}");
    let client = eventually(&what, LONG, || match seen(lab, from, to) {
        (end, client) if end == expected => Ok(client),
        other => Err(format!("{other:?}")),
    });
    let (end, masquerade) = said(lab, from, to);
    assert_eq!(end, expected, "the trace of {from} to {to}");
    if from == "client" && end == "traced" {
        assert_eq!(client.starts_with(CLIENT), !masquerade, "{from} to {to}: {client}");
    }
}

/// Compares traces with connections; leaves what it made.
pub fn a_trace_says_what_a_connection_meets(lab: &Lab) {
    lab.minisvc_of(&["apply", "-f", "-"], &manifest("172.31.77.100/32")).ok();
    let ask = |path: &str| lab.minisvc(&format!("get service traced -o jsonpath={{{path}}}")).ok();
    let cluster_ip = ask(".spec.clusterIP");
    let balancer = eventually("the Service has a load balancer's address", LONG, || {
        Some(ask(".status.loadBalancer.ingress[0].ip")).filter(|ip| !ip.is_empty()).ok_or_else(String::new)
    });
    let empty = lab.minisvc("get service empty -o jsonpath={.spec.clusterIP}").ok();
    for (from, to, expected) in [
        ("node2", format!("{cluster_ip}:80"), "traced"),
        ("traced", format!("{cluster_ip}:80"), "traced"),
        ("client", "172.31.77.11:30777".to_owned(), "traced"),
        ("client", "172.31.77.12:30777".to_owned(), "timeout"),
        ("node1", "172.31.77.12:30777".to_owned(), "timeout"),
        ("traced", "172.31.77.12:30777".to_owned(), "timeout"),
        ("node2", "172.31.77.12:30777".to_owned(), "traced"),
        ("node2", format!("{cluster_ip}:81"), "refused"),
        ("traced", format!("{empty}:80"), "refused"),
        ("client", format!("{balancer}:80"), "traced"),
    ] {
        agree(lab, from, &to, expected);
    }
    lab.minisvc_of(&["apply", "-f", "-"], &manifest("192.0.2.0/24")).ok();
    agree(lab, "client", &format!("{balancer}:80"), "timeout");
    let text = lab.minisvc(&format!("trace --from {CLIENT} {balancer}:80")).ok();
    assert!(text.contains("loadBalancerSourceRanges 192.0.2.0/24\n"), "{text}");
    assert!(text.ends_with("dropped: the client is in none of loadBalancerSourceRanges\n"), "{text}");
    let named = lab.minisvc("trace default/traced:http").ok();
    assert!(named.contains("cluster IP of Service default/traced, port 80 (http)"), "{named}");
    let refused = lab.minisvc("trace --from nobody traced:80").refused();
    assert!(refused.contains("neither a Pod default/nobody nor a Node nobody"), "{refused}");
}
