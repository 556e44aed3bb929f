//! Kubernetes YAML in; DNS answers, service table and links of node `n1` out: `tests/scenarios/node-*.txt`.
//!
//! A file is YAML documents, `=== ask` with one question a line (`A web.default.svc.cluster.local`), then what comes
//! out. `BLESS=1` rewrites that; reviewing the difference is the review. Pods of node `n1` get their network from
//! their `status.podIP`.
#![allow(missing_docs, clippy::unwrap_used)]

use minisvc_apimachinery::{ClusterConfig, ObjectKey, Overlay, Snapshot, Synced};
use minisvc_dns::{Answer, Question, RecordType, Records, answer};
use minisvc_netstate::{
    link::render,
    nft::{ServiceTable, text::elements_text},
};
use minisvc_podnet::{LocalPod, Underlay};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

const NODE: &str = "n1";
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 9, 1));

fn snapshot(yaml: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for document in yaml.split("\n---\n").filter(|document| !document.trim().is_empty()) {
        let mut object: Value = serde_saphyr::from_str(document).unwrap();
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let namespace = if kind == "Node" { "" } else { "default" };
        let key = ObjectKey::new(namespace, name);
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        match kind.as_str() {
            "Node" => drop(snapshot.nodes.insert(key, Arc::new(serde_json::from_value(object).unwrap()))),
            "Pod" => drop(snapshot.pods.insert(key, Arc::new(serde_json::from_value(object).unwrap()))),
            "Service" => {
                drop(snapshot.services.insert(key, Arc::new(serde_json::from_value(object).unwrap())))
            }
            "EndpointSlice" => {
                drop(snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(object).unwrap())));
            }
            other => panic!("a scenario has no {other}"),
        }
    }
    snapshot
}

fn local_pods(snapshot: &Snapshot) -> BTreeMap<String, LocalPod> {
    let here = snapshot.pods.iter().filter_map(|(key, pod)| {
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        let addresses = vec![pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?];
        let uid = pod.metadata.uid.clone()?;
        (node == NODE).then(|| (uid.clone(), LocalPod::new(&uid, &key.namespace, &key.name, addresses)))
    });
    here.collect()
}

fn answers(records: &Records, questions: &str) -> String {
    let mut text = String::new();
    for line in questions.lines().filter(|line| !line.trim().is_empty()) {
        let (kind, name) = line.split_once(' ').unwrap();
        let kind = match kind {
            "A" => RecordType::A,
            "AAAA" => RecordType::Aaaa,
            "SRV" => RecordType::Srv,
            "PTR" => RecordType::Ptr,
            "CNAME" => RecordType::Cname,
            other => panic!("a scenario asks for no {other}"),
        };
        let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
        let said = match answer(records, &Question { labels: &labels, kind }) {
            Answer::Forward => "ask the node's resolvers".to_owned(),
            Answer::Refused => "refused".to_owned(),
            Answer::Reply(reply) if reply.no_such_name => "NXDOMAIN".to_owned(),
            Answer::Reply(reply) if reply.answers.is_empty() => "no such records".to_owned(),
            Answer::Reply(reply) => {
                let all: Vec<String> =
                    reply.answers.iter().map(|record| format!("{:?}", record.data)).collect();
                all.join(", ")
            }
        };
        writeln!(text, "{line}: {said}").unwrap();
    }
    text
}

fn outcome(yaml: &str, questions: &str, overlay: Overlay) -> String {
    let cluster = ClusterConfig { overlay, ..ClusterConfig::default() };
    let snapshot = snapshot(yaml);
    let pods = local_pods(&snapshot);
    let underlay = Underlay {
        ifname: "eth1".to_owned(),
        address: ADDRESS,
        prefix_len: 24,
        second: None,
        mtu_bytes: 1500,
        hardware: false,
    };
    let synced = Synced::after_all_lists(snapshot.clone());
    let records = Records::new(&cluster, &synced);
    let node = minisvc_proxy::NodeView {
        name: NODE.to_owned(),
        addresses: vec![ADDRESS],
        cluster: cluster.clone(),
        ..minisvc_proxy::NodeView::default()
    };
    let table = minisvc_proxy::desired(&snapshot, &node, ServiceTable::<Ipv4Addr>::new());
    let view = minisvc_podnet::NodeView {
        node_name: NODE,
        cluster: &cluster,
        underlay: &underlay,
        lb_addresses: &[],
    };
    let network = minisvc_podnet::desired(&snapshot, &view, &pods).unwrap();
    let mut text = format!(
        "=== records\n{}=== service table\n{}=== links\n{}",
        answers(&records, questions),
        elements_text(&table.desired),
        render(&network.desired.links)
    );
    for rejection in table.rejected.iter().chain(&network.rejected) {
        writeln!(text, "rejected {} {}: {}", rejection.kind, rejection.name, rejection.message).unwrap();
    }
    text
}

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("node-") {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let (yaml, rest) = text.split_once("=== ask\n").unwrap();
        let (questions, golden) = rest.split_once("=== records\n").unwrap_or((rest, ""));
        let overlay = if name.contains("host-gw") { Overlay::HostGw } else { Overlay::Vxlan };
        let found = outcome(yaml, questions, overlay);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, format!("{yaml}=== ask\n{questions}{found}")).unwrap();
        } else {
            assert_eq!(found, format!("=== records\n{golden}"), "{name}: BLESS=1 rewrites it");
        }
    }
    assert!(seen > 0, "no scenario found");
}
