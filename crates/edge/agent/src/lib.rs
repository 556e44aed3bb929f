//! The control loops of a node.
//!
//! ```text
//! follow(API) ─▶ Synced<Snapshot> ─┬─▶ network   podnet::desired → links, routes, overlay
//!                                  ├─▶ services  proxy::Planner  → service table, conntrack
//!                                  ├─▶ pods      one worker a Pod → address, processes, status
//!                                  ├─▶ names     dns::Records, ingress::RouteTable
//!                                  └─▶ node      Node object, heartbeat
//! ```
//! Invariants: every loop acts on whole snapshots, after the first complete one, and repeats what failed; none
//! tears anything down when it ends, so the kernel keeps forwarding while the server is away.

mod bounded;
mod bundle;
mod error;
mod health;
mod health_checks;
mod life;
mod names;
mod network;
mod node;
mod node_ports;
mod pod_dns;
mod pods;
mod services;
mod sources;
mod status;
mod tokens;
mod told;
mod tunnel;

pub use error::AgentError;
use ipnet::IpNet;
use minisvc_apimachinery::{ClusterConfig, Snapshot, Synced};
use minisvc_client::{ApiClient, Follower, Interest, Kind, events::Recorder, follow};
pub use minisvc_podnet::Underlay;
use minisvc_runtime::Runtime;
pub use node_ports::{NodePortAddresses, PortAddresses};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Port of the node's own server (logs, exec), as the kubelet's.
pub const NODE_PORT: u16 = 10250;
/// Port of health and metrics, as kube-proxy's.
pub const HEALTH_PORT: u16 = 10256;

/// The newest complete view of the cluster.
pub type Snapshots = watch::Receiver<Option<Arc<Synced<Snapshot>>>>;

/// Who this node is.
#[derive(Debug)]
pub struct NodeIdentity {
    /// Name of its Node.
    pub name: String,
    /// The link and address by which it reaches the others.
    pub underlay: Underlay,
    /// The facts all nodes share.
    pub cluster: ClusterConfig,
    /// Whether the control plane runs here.
    pub control_plane: bool,
    /// The parts of the cluster's networks that are its own, one a family, the primary one first; empty until the manager
    /// has given it some.
    pub pod_cidrs: watch::Receiver<Vec<IpNet>>,
    /// Its addresses on which node ports, and ports of Pods, answer.
    pub ports_at: watch::Receiver<PortAddresses>,
}

/// What a node is started with.
pub struct AgentConfig {
    /// Name of its Node.
    pub node_name: String,
    /// The link and address by which it reaches the others.
    pub underlay: Underlay,
    /// The facts all nodes share.
    pub cluster: ClusterConfig,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Whether the control plane runs here.
    pub control_plane: bool,
    /// The API, with the node's own certificate.
    pub client: ApiClient,
    /// Pod processes.
    pub runtime: Runtime,
    /// TLS of the node's own server: its certificate, and the CA its clients must have.
    pub tls: Arc<rustls::ServerConfig>,
    /// Whether to answer cluster DNS.
    pub dns: bool,
    /// Whether to answer HTTP for Ingresses.
    pub ingress: bool,
}

/// A node whose ports are bound.
pub struct Agent {
    config: AgentConfig,
    identity: Arc<NodeIdentity>,
    pod_cidrs: watch::Sender<Vec<IpNet>>,
    ports_at: watch::Sender<PortAddresses>,
    nameserver: Option<minisvc_nameserver::Nameserver>,
    ingress: Option<minisvc_ingress_proxy::IngressProxy>,
    node_server: TcpListener,
    health: TcpListener,
}

async fn listen(address: IpAddr, port: u16, purpose: &'static str) -> Result<TcpListener, AgentError> {
    let address = SocketAddr::new(address, port);
    TcpListener::bind(address).await.map_err(|source| AgentError::Listen { address, purpose, source })
}

impl Agent {
    /// Binds everything the node serves, so that a port in use is known before anything is changed.
    ///
    /// # Errors
    /// Naming the address that could not be bound.
    pub async fn bind(config: AgentConfig) -> Result<Self, AgentError> {
        let (pod_cidrs, receiver) = watch::channel(Vec::new());
        let first = node_ports::now(&config.node_port_addresses, &config.underlay, &config.cluster).await;
        let (ports_at, receiver_of_ports) = watch::channel(first);
        let identity = Arc::new(NodeIdentity {
            name: config.node_name.clone(),
            underlay: config.underlay.clone(),
            cluster: config.cluster.clone(),
            control_plane: config.control_plane,
            pod_cidrs: receiver,
            ports_at: receiver_of_ports,
        });
        let address = identity.underlay.address;
        Ok(Self {
            nameserver: if config.dns { names::bind_dns(&identity)? } else { None },
            ingress: if config.ingress { Some(names::bind_ingress(&identity)?) } else { None },
            node_server: listen(address, NODE_PORT, "logs and exec").await?,
            health: listen(address, HEALTH_PORT, "health and metrics").await?,
            config,
            identity,
            pod_cidrs,
            ports_at,
        })
    }

    /// Runs the node until `shutdown`. Pods and the kernel's state stay as they are.
    ///
    /// # Errors
    /// If the records of Pods that run already cannot be read.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let Self { config, identity, pod_cidrs, ports_at, nameserver, ingress, node_server, health } = self;
        let client = config.client.clone();
        let follower: Follower = follow(&client, &interest(&identity.name, ingress.is_some()));
        let snapshots = follower.snapshots();
        let recorder = Arc::new(Recorder::new(client.clone(), "minisvc", &identity.name));

        let (local, local_pods) = watch::channel(network::LocalPods::new());
        let (wired, wired_pods) = watch::channel(network::Wired::default());
        let (held, held_addresses) = watch::channel(Vec::new());
        let (synced, last_sync) = watch::channel(None);
        let pods = Arc::new(pods::Pods {
            identity: identity.clone(),
            client: client.clone(),
            recorder: recorder.clone(),
            runtime: config.runtime.clone(),
            snapshots: snapshots.clone(),
            local,
            wired: wired_pods,
            last_addresses: Mutex::default(),
            admitted: Mutex::default(),
            tokens: tokens::Tokens::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(told::say_all(config.runtime.listen(), recorder.clone()));
        let adopted = pods.adopt().await?;
        tracing::info!(node = identity.name, adopted, "node starts");

        tasks.spawn(node::keep(identity.clone(), client, snapshots.clone(), pods.runtime.clone()));
        tasks.spawn(node_ports::follow(
            config.node_port_addresses,
            identity.clone(),
            snapshots.clone(),
            ports_at,
        ));
        tasks.spawn(pods::follow_pod_cidrs(identity.clone(), snapshots.clone(), pod_cidrs));
        tasks.spawn(Arc::clone(&pods).evict());
        tasks.spawn(pods.run());
        let network = network::NetworkLoop {
            identity: identity.clone(),
            snapshots: snapshots.clone(),
            pods: local_pods,
            held: held_addresses,
            wired,
            said: std::collections::BTreeSet::new(),
        };
        tasks.spawn(network.run());
        let services = services::ServiceLoop {
            identity: identity.clone(),
            snapshots: snapshots.clone(),
            recorder: recorder.clone(),
            held,
            synced,
        };
        tasks.spawn(services.run());
        let checks = health_checks::HealthChecks {
            identity: identity.clone(),
            snapshots: snapshots.clone(),
            recorder: recorder.clone(),
            last_sync: last_sync.clone(),
        };
        tasks.spawn(checks.run());
        let mut numbers = health::Numbers {
            identity: identity.clone(),
            snapshots: snapshots.clone(),
            contact: follower.contact(),
            last_sync,
            dns: None,
            ingress: None,
        };
        if let Some(nameserver) = nameserver {
            numbers.dns = Some(nameserver.handle());
            tasks.spawn(names::keep_records(identity.clone(), nameserver.handle(), snapshots.clone()));
            tasks.spawn(nameserver.serve(std::future::pending()));
        }
        if let Some(ingress) = ingress {
            numbers.ingress = Some(ingress.handle());
            tasks.spawn(names::keep_routes(ingress.handle(), recorder, snapshots));
            tasks.spawn(ingress.serve(std::future::pending()));
        }
        tasks.spawn(health::serve(health, numbers));
        tasks.spawn(minisvc_runtime::node::serve(
            node_server,
            config.tls,
            minisvc_apimachinery::join::API_SERVER_CLIENT,
            minisvc_runtime::node::router(config.runtime),
            std::future::pending(),
        ));
        until(shutdown, tasks).await;
        Ok(())
    }
}

/// Waits for the end, or for a loop that ends before its time.
async fn until(shutdown: CancellationToken, mut tasks: JoinSet<()>) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = tasks.join_next() => {
            if let Err(error) = ended {
                tracing::error!(%error, "a control loop ended");
            }
        }
    }
}

/// What of the cluster a node reads.
fn interest(node: &str, ingress: bool) -> Interest {
    let mut kinds = vec![Kind::Nodes, Kind::Pods, Kind::Services, Kind::ServiceCidrs, Kind::EndpointSlices];
    if ingress {
        kinds.extend([Kind::Ingresses, Kind::IngressClasses, Kind::Secrets]);
    }
    Interest::new(kinds)
        .pods_of_node(node)
        .targets_of_node(node)
        .with_fields(Kind::Secrets, "type=kubernetes.io/tls")
}
