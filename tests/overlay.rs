//! How Pods of different nodes reach each other: each overlay carries many bytes and single datagrams.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{LONG, Lab, eventually, is_there, says};

/// Enough to fill every buffer on the way, and to be cut and joined by offloads.
const BYTES: usize = 16_000_000;

const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: near}
spec:
  nodeName: node1
  containers: [{name: echo, image: echo, ports: [{containerPort: 8080}, {containerPort: 9090, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: far}
spec:
  nodeName: node2
  containers: [{name: echo, image: echo, ports: [{containerPort: 8080}, {containerPort: 9090, protocol: UDP}]}]
";

fn carries(overlay: &str, mtu: &str) {
    let Some(lab) = Lab::up_with_overlay(overlay) else { return };
    lab.minisvc_of(&["apply", "-f", "-"], PODS).ok();
    eventually("both Pods run", LONG, || {
        let said = lab.minisvc("get pods --no-headers");
        if said.out.matches("Running").count() == 2 { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let far = lab.minisvc("get pod far -o jsonpath={.status.podIP}").ok();
    for target in [format!("http://{far}:8080/"), format!("tcp://{far}:8080"), format!("udp://{far}:9090")] {
        says(&target, &["\"pod\":\"far\""], &[], || lab.probe("node1", &target));
        says(&target, &["\"pod\":\"far\""], &[], || lab.probe_from_pod("near", &target));
    }
    assert_eq!(lab.minisvc("exec near -- cat /sys/class/net/eth0/mtu").ok().trim(), mtu);
    if is_there("curl", "--version") {
        let url = format!("http://{far}:8080/");
        let words = ["exec", "-i", "near", "--", "curl", "-s", "-m", "20", "--data-binary", "@-", &url];
        let said = lab.minisvc_of(&words, &"x".repeat(BYTES)).ok();
        assert!(said.contains(&format!("\"bodyBytes\":{BYTES},")), "{said}");
    }
    lab.down();
}

#[test]
fn vxlan_carries_pods() {
    carries("vxlan", "1450");
}

#[test]
fn host_gw_carries_pods() {
    carries("host-gw", "1500");
}

#[test]
fn tun_carries_pods() {
    carries("tun", "1472");
}
