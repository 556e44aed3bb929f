//! What the service table costs: `cargo run --release -p minisvc-datapath --example service_table`, as root of a network
//! namespace of its own (`unshare -rn`). Prints a table; times are of this machine, ratios are what to compare.
#![allow(clippy::print_stdout, clippy::expect_used)]

use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot};
use minisvc_datapath::nft::ServiceTableTarget;
use minisvc_proxy::{NodeView, Planner};
use minisvc_reconcile::Target;
use serde_json::json;
use std::{sync::Arc, time::Instant};

const ENDPOINTS: usize = 10;
const ROUNDS: usize = 200;

fn slice(service: usize, shift: usize) -> (ObjectKey, Arc<k8s_openapi::api::discovery::v1::EndpointSlice>) {
    let name = format!("s{service:05}");
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|n| {
            let number = service * ENDPOINTS + n + if n == 0 { shift * 131_072 } else { 0 };
            let address = std::net::Ipv4Addr::from(0x0a2a_0002 + (number as u32 & 0xf_ffff));
            json!({"addresses": [address], "nodeName": "n2", "conditions": {"ready": true}})
        })
        .collect();
    let object = json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    });
    (ObjectKey::new("default", name), Arc::new(serde_json::from_value(object).expect("EndpointSlice")))
}

fn world(services: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for number in 0..services {
        let name = format!("s{number:05}");
        let address = std::net::Ipv4Addr::from(0x0a2b_0100 + number as u32);
        let object = json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": address, "ports": [{"port": 80}]},
        });
        let service = serde_json::from_value(object).expect("Service");
        snapshot.services.insert(ObjectKey::new("default", name), Arc::new(service));
        let (key, slice) = slice(number, 0);
        snapshot.endpoint_slices.insert(key, slice);
    }
    snapshot
}

fn main() {
    let node = NodeView {
        zone: None,
        name: "n1".to_owned(),
        addresses: vec![[192, 168, 9, 1].into()],
        cluster: ClusterConfig::default(),
    };
    println!("services  endpoints  plan ms  kernel ms  read back ms  change p50 ms  p99 ms (plan p50)");
    for services in [10, 10_000] {
        let mut snapshot = world(services);
        let mut target = ServiceTableTarget::open().expect("open nftables");
        let actual = target.observe().expect("observe");
        let start = Instant::now();
        let mut planner = Planner::new(node.clone(), &actual);
        let delta = planner.update(&snapshot);
        let plan = start.elapsed();
        let start = Instant::now();
        target.apply(&delta.ops).expect("apply");
        let kernel = start.elapsed();
        let start = Instant::now();
        assert_eq!(&target.observe().expect("observe"), planner.table());
        let read = start.elapsed();
        let (mut changes, mut plans) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let (key, slice) = slice(round % services, round % 7 + 1);
            snapshot.endpoint_slices.insert(key, slice);
            let start = Instant::now();
            let delta = planner.update(&snapshot);
            plans.push(start.elapsed());
            target.apply(&delta.ops).expect("apply a change");
            changes.push(start.elapsed());
        }
        changes.sort();
        plans.sort();
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{services:8}  {:9}  {:7.1}  {:9.1}  {:12.1}  {:13.3}  {:6.3} ({:.3})",
            services * ENDPOINTS,
            ms(plan),
            ms(kernel),
            ms(read),
            ms(changes[ROUNDS / 2]),
            ms(changes[ROUNDS * 99 / 100]),
            ms(plans[ROUNDS / 2]),
        );
        target.remove().expect("remove");
    }
}
