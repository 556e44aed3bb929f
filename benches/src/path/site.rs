//! A node with two Pods, linked as minisvc links them, and with its service table; in network namespaces.
//!
//! Invariant: everything is in the mount and network namespaces of this process, and ends with it.

use crate::table;
use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Overlay, Snapshot};
use minisvc_datapath::{link::LinkTarget, netns::NetnsDir, nft::ServiceTableTarget};
use minisvc_podnet::{LocalPod, NodeView, Underlay, desired, owned};
use minisvc_reconcile::Target;
use rtnetlink::LinkVeth;
use serde_json::json;
use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

/// The Pods of every site: the one that asks, the one that answers.
const PODS: [(&str, Ipv4Addr); 2] =
    [("client", Ipv4Addr::new(10, 255, 0, 2)), ("server", Ipv4Addr::new(10, 255, 0, 3))];
/// The part of the Pods' network that is the node's.
const POD_CIDR: &str = "10.255.0.0/24";
/// The address of the Service that leads to the Pod that answers.
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 200);
/// The node's own address and link.
const NODE: (&str, Ipv4Addr) = ("eth0", Ipv4Addr::new(192, 168, 9, 1));

/// See the module.
pub struct Site {
    pods: NetnsDir,
}

fn block_on<T>(body: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(body)
}

impl Site {
    /// A node of this name whose table has so many Services, one of which leads to the Pod that answers on `ports`.
    pub fn new(name: &str, services: u32, endpoints: u32, ports: &[u16]) -> anyhow::Result<Self> {
        let nodes = NetnsDir::new("/run/bench-nodes");
        let pods = NetnsDir::new(format!("/run/bench-pods-{name}"));
        nodes.create(name)?;
        let snapshot = snapshot(services, endpoints, ports)?;
        let theirs = pods.clone();
        nodes.run(name, move || -> anyhow::Result<()> {
            block_on(wire(theirs))?;
            let mut target = ServiceTableTarget::open()?;
            let mut planner = table::planner(target.observe()?)?;
            target.apply(&planner.update(&snapshot).ops)?;
            ensure!(planner.rejected().is_empty(), "rejected: {:?}", planner.rejected());
            Ok(())
        })??;
        Ok(Self { pods })
    }

    /// The network namespace of the Pod that asks.
    pub fn client(&self) -> PathBuf {
        self.pods.path(PODS[0].0)
    }

    /// The network namespace of the Pod that answers.
    pub fn server(&self) -> PathBuf {
        self.pods.path(PODS[1].0)
    }

    /// Where the Pod answers, by its own address or by its Service's.
    pub fn address(port: u16, by_service: bool) -> SocketAddr {
        let address = if by_service { VIRTUAL } else { PODS[1].1 };
        SocketAddr::from((address, port))
    }
}

/// Makes the node's own link, then what minisvc makes of two Pods.
async fn wire(pods: NetnsDir) -> anyhow::Result<()> {
    use futures::TryStreamExt;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    handle.link().add(LinkVeth::new(NODE.0, "uplink").up().build()).execute().await?;
    let link = handle.link().get().match_name(NODE.0.to_owned()).execute().try_next().await?;
    let index = link.context("no link of the node")?.header.index;
    handle.address().add(index, IpAddr::V4(NODE.1), 24).execute().await?;

    let cluster = ClusterConfig { overlay: Overlay::HostGw, ..table::cluster_config()? };
    let node = Node {
        spec: Some(NodeSpec { pod_cidr: Some(POD_CIDR.to_owned()), ..NodeSpec::default() }),
        status: Some(NodeStatus::default()),
        ..Node::default()
    };
    let mut snapshot = Snapshot::default();
    snapshot.nodes.insert(ObjectKey::cluster("n1"), Arc::new(node));
    let underlay = Underlay {
        ifname: NODE.0.to_owned(),
        address: NODE.1.into(),
        prefix_len: 24,
        second: None,
        mtu_bytes: 1500,
        hardware: false,
    };
    let view = NodeView { node_name: "n1", cluster: &cluster, underlay: &underlay, lb_addresses: &[] };
    let local: BTreeMap<String, LocalPod> = PODS
        .iter()
        .map(|(name, address)| {
            ((*name).to_owned(), LocalPod::new(name, "default", name, vec![IpAddr::V4(*address)]))
        })
        .collect();
    let planned = desired(&snapshot, &view, &local)?;
    ensure!(planned.rejected.is_empty(), "rejected: {:?}", planned.rejected);
    LinkTarget::new(owned(&cluster, &underlay), pods).converge(&planned.desired.links).await?;
    Ok(())
}

fn snapshot(services: u32, endpoints: u32, ports: &[u16]) -> anyhow::Result<Snapshot> {
    let mut snapshot = table::cluster(services.saturating_sub(1), endpoints)?;
    let key = ObjectKey::new("default", "answers");
    let named = |port: &u16| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"});
    let ports: Vec<_> = ports.iter().map(named).collect();
    let service = json!({
        "metadata": {"namespace": key.namespace, "name": key.name},
        "spec": {"clusterIP": VIRTUAL, "ports": ports},
    });
    let slice = json!({
        "metadata": {"namespace": key.namespace, "name": key.name,
                     "labels": {"kubernetes.io/service-name": key.name}},
        "addressType": "IPv4", "ports": ports,
        "endpoints": [{"addresses": [PODS[1].1], "nodeName": "n1", "conditions": {"ready": true}}],
    });
    snapshot.services.insert(key.clone(), Arc::new(serde_json::from_value(service)?));
    snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice)?));
    Ok(snapshot)
}
