//! Kubernetes YAML in, service table out: `tests/scenarios/proxy-*.txt`. `BLESS=1` rewrites what comes out.
//!
//! A file is YAML documents, then a line `=== service table`, then the table of node `n1` (192.168.9.1). If the file is
//! called `proxy-dual-…`, the node's IPv6 table follows (fd00::c0a8:901). Before the table may be a line `=== packets`
//! and packets that the node sees, `SOURCE > ADDRESS:PORT/PROTOCOL`; what the tracer says of each is the end of the file.
#![allow(missing_docs, clippy::expect_used)]

mod world;

use minisvc_apimachinery::{ObjectKey, Snapshot};
use minisvc_netstate::{
    family::Address,
    nft::{Packet, Protocol, ServiceTable, text::elements_text},
};
use minisvc_proxy::{
    Planner, desired,
    explain::{Outcome, explain},
};
use serde_json::Value;
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

const TABLE: &str = "=== service table\n";
const TABLE_V6: &str = "=== service table of IPv6\n";
const PACKETS: &str = "=== packets\n";
const TRACES: &str = "=== traces\n";

fn snapshot(yaml: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for document in yaml.split("\n---\n").filter(|document| !document.trim().is_empty()) {
        let object: Value = serde_saphyr::from_str(document).expect("YAML");
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let namespace = Some(text("/metadata/namespace")).filter(|n| !n.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let key = ObjectKey::new(namespace.clone(), text("/metadata/name"));
        let mut object = object.clone();
        object["metadata"]["namespace"] = namespace.into();
        match text("/kind").as_str() {
            "Service" => {
                let service = serde_json::from_value(object).expect("Service");
                snapshot.services.insert(key, Arc::new(service));
            }
            "EndpointSlice" => {
                let slice = serde_json::from_value(object).expect("EndpointSlice");
                snapshot.endpoint_slices.insert(key, Arc::new(slice));
            }
            "Pod" => {
                let pod = serde_json::from_value(object).expect("Pod");
                snapshot.pods.insert(key, Arc::new(pod));
            }
            kind => panic!("a scenario of the proxy has no {kind}"),
        }
    }
    snapshot
}

fn table<A: Address>(snapshot: &Snapshot) -> String {
    let planned = desired(snapshot, &world::node_view(), ServiceTable::<A>::new());
    let mut found = elements_text(&planned.desired);
    for rejection in planned.rejected {
        let object = format!("{} {}/{}", rejection.kind, rejection.namespace, rejection.name);
        writeln!(found, "rejected {object}: {}: {}", rejection.reason, rejection.message).expect("text");
    }
    found
}

/// What becomes of the packets of one family, a line each.
fn traces<A: Address>(snapshot: &Snapshot, packets: &str) -> String {
    let node = world::node_view();
    let mut planner = Planner::<A>::new(node.clone(), ServiceTable::new());
    planner.update(snapshot);
    let mut text = String::new();
    for line in packets.lines() {
        let (source, to) = line.split_once(" > ").expect("SOURCE > ADDRESS:PORT/PROTOCOL");
        let (to, protocol) = to.split_once('/').expect("a protocol");
        let (source, to): (IpAddr, SocketAddr) =
            (source.parse().expect("source"), to.parse().expect("destination"));
        let (Some(from), Some(destination)) = (A::of(source), A::of(to.ip())) else { continue };
        let protocol = Protocol::ALL.into_iter().find(|known| known.to_string() == protocol).expect("known");
        let from_node = node.addresses.contains(&source);
        let packet = Packet { source: from, destination, protocol, port: to.port(), from_node, mark: 0 };
        let said = explain(&planner, snapshot, &packet);
        write!(text, "{line}: ").expect("text");
        if let Some(matched) = said.matched {
            let policy = if matched.local { ", Local" } else { "" };
            write!(text, "{:?} of {}{policy}: ", matched.entry, matched.owner.key().name).expect("text");
            if let Some(seconds) = matched.affinity_s {
                write!(text, "kept for {seconds} s: ").expect("text");
            }
        }
        match said.outcome {
            Outcome::Endpoints { choices, picks } => {
                let choices = choices.iter().map(|choice| {
                    let masqueraded = if choice.masquerade { " masqueraded" } else { "" };
                    format!("{}/{picks} to {}{masqueraded}", choice.picks, choice.endpoint)
                });
                writeln!(text, "{}", choices.collect::<Vec<_>>().join(", ")).expect("text");
            }
            other => writeln!(text, "{other:?}").expect("text"),
        }
    }
    text
}

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("tests/scenarios") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if !name.starts_with("proxy-") {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).expect("scenario");
        let (yaml, golden) = text.split_once(TABLE).unwrap_or((text.as_str(), ""));
        let (objects, packets) = yaml.split_once(PACKETS).unwrap_or((yaml, ""));
        let snapshot = snapshot(objects);
        let mut found = table::<Ipv4Addr>(&snapshot);
        if name.starts_with("proxy-dual-") {
            found.push_str(TABLE_V6);
            found.push_str(&table::<Ipv6Addr>(&snapshot));
        }
        if !packets.is_empty() {
            found.push_str(TRACES);
            found.push_str(&traces::<Ipv4Addr>(&snapshot, packets));
            found.push_str(&traces::<Ipv6Addr>(&snapshot, packets));
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, format!("{}\n{TABLE}{found}", yaml.trim_end())).expect("bless");
        } else {
            assert_eq!(found, golden, "{name}: BLESS=1 rewrites it");
        }
    }
    assert!(seen > 0, "no scenario found");
}
