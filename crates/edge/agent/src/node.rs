//! This node in the API: its Node object, its heartbeat.
//!
//! Invariant: heartbeats go to the Lease, never into the Node, which every agent watches; the Node is written at
//! start, and when its status is not what this node says.

mod pressure;

use crate::{AgentError, NodeIdentity, Snapshots};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
        NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use minisvc_apimachinery::{
    ObjectKey,
    cluster::{FACTS_ANNOTATION, NodeFacts},
    resource::NODES,
};
use minisvc_client::{ApiClient, PatchKind, lease};
use minisvc_runtime::{ImageTable, Runtime, image::Listed};
use pressure::{Pressures, Watch};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often the heartbeat is renewed.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How many images a node tells of (the kubelet's `nodeStatusMaxImages`).
const IMAGES_MAX: usize = 50;
/// How long one heartbeat is good for, in seconds.
pub const HEARTBEAT_LASTS_S: i32 = 4;

/// Registers the node, and from then on keeps its heartbeat and its status.
pub async fn keep(
    identity: Arc<NodeIdentity>,
    client: ApiClient,
    mut snapshots: Snapshots,
    runtime: Runtime,
) {
    let mut watch = Watch::default();
    let mut facts = || (runtime.images().version(), watch.look(runtime.volume_dir()));
    let mut known = facts();
    while let Err(error) = register(&identity, &client, &runtime, known.1).await {
        tracing::warn!(%error, "cannot register this node yet");
        tokio::time::sleep(HEARTBEAT).await;
    }
    tracing::info!(node = identity.name, "registered");
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut ports_at = identity.ports_at.clone();
    loop {
        tokio::select! {
            Ok(()) = ports_at.changed() => {
                if let Err(error) = register(&identity, &client, &runtime, known.1).await {
                    tracing::warn!(%error, "node annotations");
                }
            }
            _ = heartbeat.tick() => {
                let renewed = lease::renew_node(&client, &identity.name, HEARTBEAT_LASTS_S, Timestamp::now()).await;
                if let Err(error) = renewed {
                    tracing::warn!(%error, "heartbeat");
                }
                let now = facts();
                if std::mem::replace(&mut known, now) != now
                    && let Err(error) = register(&identity, &client, &runtime, known.1).await
                {
                    tracing::warn!(%error, "node status");
                }
            }
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let key = ObjectKey::cluster(identity.name.as_str());
                let node = snapshots.borrow_and_update().as_ref().and_then(|s| s.nodes.get(&key).cloned());
                // Someone (the node lifecycle controller) said this node is not ready: it is.
                if node.is_none_or(|node| !says_ready(&node))
                    && let Err(error) = register(&identity, &client, &runtime, known.1).await
                {
                    tracing::warn!(%error, "node status");
                }
            }
        }
    }
}

fn says_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

async fn register(
    identity: &NodeIdentity,
    client: &ApiClient,
    runtime: &Runtime,
    pressures: Pressures,
) -> Result<(), AgentError> {
    let key = ObjectKey::cluster(identity.name.as_str());
    let failed = |operation| {
        let object = identity.name.clone();
        move |source| AgentError::Api { operation, object, source }
    };
    let labels = labels(identity);
    let annotations = annotations(identity);
    let existing: Option<Node> = client.get_optional(&NODES, &key).await.map_err(failed("get node"))?;
    if existing.is_none() {
        let metadata = ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        let node = Node { metadata, ..Node::default() };
        let _: Node = client.create(&NODES, "", &node).await.map_err(failed("create node"))?;
    } else {
        let patch = serde_json::json!({ "metadata": { "labels": labels, "annotations": annotations } });
        let _: Node =
            client.patch(&NODES, &key, None, PatchKind::Merge, &patch).await.map_err(failed("label node"))?;
    }
    let patch = serde_json::json!({ "status": status(identity, (runtime.images(), pressures), existing.as_ref(), Timestamp::now()) });
    let _: Node = client
        .patch(&NODES, &key, Some("status"), PatchKind::Merge, &patch)
        .await
        .map_err(failed("write status of node"))?;
    Ok(())
}

/// What others need to know to follow a packet through this node.
fn annotations(identity: &NodeIdentity) -> BTreeMap<String, String> {
    let ports_at = identity.ports_at.borrow().clone();
    let facts = NodeFacts {
        cluster: identity.cluster.clone(),
        link: identity.underlay.ifname.clone(),
        prefix_len: identity.underlay.prefix_len,
        second: identity.underlay.second,
        node_ports_at: Some(ports_at.node_ports),
        addresses: ports_at.host_ports,
    };
    let text = serde_json::to_string(&facts).ok();
    text.into_iter().map(|text| (FACTS_ANNOTATION.to_owned(), text)).collect()
}

fn labels(identity: &NodeIdentity) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from(
        [
            ("kubernetes.io/hostname", identity.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    if identity.control_plane {
        labels.insert("node-role.kubernetes.io/control-plane".to_owned(), "true".to_owned());
        // Load-balancer addresses go to nodes whose loss does not take the control plane along.
        labels.insert(minisvc_proxy::holder::EXCLUDE_LABEL.to_owned(), "true".to_owned());
    }
    labels
}

/// The largest images of the node.
fn container_images(images: &ImageTable) -> Vec<ContainerImage> {
    let mut all = images.list();
    all.sort_by_key(|image| std::cmp::Reverse(image.bytes));
    let one = |image: Listed| ContainerImage {
        names: Some(vec![image.name]),
        size_bytes: i64::try_from(image.bytes).ok(),
    };
    all.into_iter().take(IMAGES_MAX).map(one).collect()
}

fn status(
    identity: &NodeIdentity,
    (images, pressures): (&ImageTable, Pressures),
    before: Option<&Node>,
    now: Timestamp,
) -> NodeStatus {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let known = before.and_then(|node| node.status.as_ref()?.conditions.as_deref()).unwrap_or_default();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let same = known.iter().find(|known| known.type_ == kind && known.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: same.and_then(|same| same.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let ready = ("Ready", true, "KubeletReady", "minisvc agent is posting ready status");
    let conditions = pressures.conditions().into_iter().chain([ready]);
    let own = identity.underlay.addresses();
    let internal = own.iter().map(|own| address("InternalIP", own.to_string()));
    let machine = Machine::read();
    let amounts = BTreeMap::from(
        [
            ("cpu", machine.cpus.to_string()),
            ("memory", format!("{}Ki", machine.memory_kib)),
            ("pods", crate::pods::PODS_MAX.to_string()),
        ]
        .map(|(key, amount)| (key.to_owned(), Quantity(amount))),
    );
    NodeStatus {
        addresses: Some(
            internal.chain(std::iter::once(address("Hostname", identity.name.clone()))).collect(),
        ),
        capacity: Some(amounts.clone()),
        allocatable: Some(amounts),
        conditions: Some(
            conditions
                .map(|(kind, holds, reason, message)| condition(kind, holds, reason, message))
                .collect(),
        ),
        images: Some(container_images(images)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(crate::NODE_PORT) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned(),
            operating_system: "linux".to_owned(),
            kernel_version: machine.kernel,
            os_image: machine.os,
            machine_id: machine.id,
            boot_id: machine.boot_id,
            container_runtime_version: concat!("minisvc://", env!("CARGO_PKG_VERSION")).to_owned(),
            kubelet_version: concat!("v1.33.0+minisvc-", env!("CARGO_PKG_VERSION")).to_owned(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// What the kernel says of the machine; empty where it says nothing.
struct Machine {
    cpus: usize,
    memory_kib: u64,
    kernel: String,
    os: String,
    id: String,
    boot_id: String,
}

impl Machine {
    fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let memory = text("/proc/meminfo");
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let os = text("/etc/os-release");
        let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_kib: total
                .and_then(|total| total.split_whitespace().next()?.parse().ok())
                .unwrap_or_default(),
            kernel: text("/proc/sys/kernel/osrelease"),
            os: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
            id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        }
    }
}
