//! `minisvc trace` against real connections: what it says of a packet is what a client sees.

use super::site::{CLIENT, agree, apply};
use crate::common::{Lab, field, given};

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
  ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30077}}]
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

/// Compares traces with connections; leaves what it made.
pub fn a_trace_says_what_a_connection_meets(lab: &Lab) {
    apply(lab, &manifest("172.31.77.100/32"));
    let cluster_ip = field(lab, "service traced", ".spec.clusterIP");
    let balancer = given(lab, "service traced", ".status.loadBalancer.ingress[0].ip");
    let empty = field(lab, "service empty", ".spec.clusterIP");
    for (from, to, expected) in [
        ("node2", format!("{cluster_ip}:80"), "traced"),
        ("pod/traced", format!("{cluster_ip}:80"), "traced"),
        ("client", "172.31.77.11:30077".to_owned(), "traced"),
        ("client", "172.31.77.12:30077".to_owned(), "timeout"),
        ("node1", "172.31.77.12:30077".to_owned(), "timeout"),
        ("pod/traced", "172.31.77.12:30077".to_owned(), "timeout"),
        ("node2", "172.31.77.12:30077".to_owned(), "traced"),
        ("node2", format!("{cluster_ip}:81"), "refused"),
        ("pod/traced", format!("{empty}:80"), "refused"),
        ("client", format!("{balancer}:80"), "traced"),
    ] {
        agree(lab, from, &to, &[expected]);
    }
    apply(lab, &manifest("192.0.2.0/24"));
    agree(lab, "client", &format!("{balancer}:80"), &["timeout"]);
    let text = lab.minisvc(&format!("trace --from {CLIENT} {balancer}:80")).ok();
    assert!(text.contains("loadBalancerSourceRanges 192.0.2.0/24\n"), "{text}");
    assert!(text.ends_with("dropped: the client is in none of loadBalancerSourceRanges\n"), "{text}");
    let named = lab.minisvc("trace default/traced:http").ok();
    assert!(named.contains("cluster IP of Service default/traced, port 80 (http)"), "{named}");
    let refused = lab.minisvc("trace --from nobody traced:80").refused();
    assert!(refused.contains("neither a Pod default/nobody nor a Node nobody"), "{refused}");
}
