//! UDP clients that keep their port: conntrack remembers them, and they follow the Service all the same, within a second.

use super::{
    site::{Held, NODE2, READY, agree, apply, at, slice},
    types::Pair,
};
use crate::common::{Lab, given};
use minisvc_lab::probe::now_us;
use std::time::Duration;

const PORT: &str = "{port: 5353, protocol: UDP}";
/// What is promised.
const PROMISED: Duration = Duration::from_secs(1);
/// The same where a client is told by an ICMP error, of which the kernel sends about one a second.
const TOLD: Duration = Duration::from_secs(2);

/// From none to one, to another, and to none.
pub fn clients_that_keep_their_port_follow(lab: &Lab, pair: &Pair) {
    apply(
        lab,
        "apiVersion: v1
kind: Service
metadata: {name: dgram}
spec: {type: NodePort, ports: [{port: 53, protocol: UDP, nodePort: 30053}]}
",
    );
    let ip = given(lab, "service dgram", ".spec.clusterIP");
    let (inside, outside) = (format!("{}/udp", at(&ip, 53)), format!("{}/udp", at(NODE2, 30053)));
    agree(lab, "pod/near", &inside, &["refused"]);
    agree(lab, "client", &outside, &["refused"]);
    let held = [Held::new(lab, "node1", &inside), Held::new(lab, "client", &outside)];
    // The kernel sends a client no more than about one such ICMP error a second; the other questions get nothing.
    for held in &held {
        held.until("there is no endpoint", "refused", 0);
    }
    let near = slice("dgram-1", "dgram", PORT, &[(&pair.near, "node1", READY)]);
    let far = slice("dgram-1", "dgram", "{port: 5390, protocol: UDP}", &[(&pair.far, "node2", READY)]);
    let none = slice("dgram-1", "dgram", PORT, &[]);
    let again = near.clone();
    for (slice, who) in [(near, "near"), (far, "far"), (none, "refused"), (again, "near")] {
        apply(lab, &slice);
        let since = now_us();
        for held in &held {
            let took = held.until(who, who, since);
            println!("re-steered to {who} after {took:?}");
            assert!(took < if who == "refused" { TOLD } else { PROMISED }, "{who} after {took:?}");
        }
    }
    agree(lab, "pod/near", &inside, &["near"]);
    agree(lab, "client", &outside, &["near"]);
    lab.minisvc("delete service dgram").ok();
    let since = now_us();
    for held in &held {
        held.until("the Service is gone", "refused", since);
    }
    drop(held);
    agree(lab, "pod/near", &inside, &["refused"]);
}
