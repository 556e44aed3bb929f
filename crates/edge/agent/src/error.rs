//! What can go wrong on a node.

use std::io;

/// What can go wrong on a node.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The API refused or is away.
    #[error("{operation} {object}: {source}")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// Why not.
        source: minisvc_client::ClientError,
    },
    /// The kernel's links could not be read or changed.
    #[error("{operation}: {source}")]
    Links {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: minisvc_datapath::link::LinkError,
    },
    /// A Pod's processes.
    #[error("{operation} pod {pod}: {source}")]
    Runtime {
        /// What was tried.
        operation: &'static str,
        /// Namespace and name.
        pod: String,
        /// Why not.
        source: minisvc_runtime::Error,
    },
    /// A Pod needs what there is not.
    #[error("{source}")]
    Missing {
        /// What.
        source: crate::bundle::Missing,
    },
    /// A Pod's status cannot be written as JSON.
    #[error("write status of pod: {source}")]
    Status {
        /// Why not.
        source: serde_json::Error,
    },
    /// The tunnel between the nodes.
    #[error("tunnel: {why}")]
    Tunnel {
        /// What its process says.
        why: String,
    },
    /// The tunnel's process.
    #[error("{source}")]
    TunnelProcess {
        /// Why not.
        source: minisvc_datapath::tun::control::ControlError,
    },
    /// The thread that speaks with it.
    #[error("speak with the tunnel's process: {source}")]
    TunnelTask {
        /// Why not.
        source: tokio::task::JoinError,
    },
    /// Cluster DNS.
    #[error("{source}; `--disable dns` runs the node without")]
    Nameserver {
        /// Why not.
        source: minisvc_nameserver::NameserverError,
    },
    /// HTTP ingress.
    #[error("{source}; `--disable ingress` runs the node without")]
    Ingress {
        /// Why not.
        source: minisvc_ingress_proxy::IngressProxyError,
    },
    /// The Pods' runtime.
    #[error("set up the runtime of pods: {source}")]
    RuntimeSetup {
        /// Why not.
        source: minisvc_runtime::Error,
    },
    /// TLS of the node's own server.
    #[error("TLS of the node's server: {source}")]
    Tls {
        /// Why not.
        source: rustls::Error,
    },
    /// A port could not be opened.
    #[error("listen on {address} for {purpose}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What for.
        purpose: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A Pod's network was not made in time.
    #[error("the network of pod {pod} was not ready within {seconds} s")]
    NotWired {
        /// Namespace and name.
        pod: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The manager has given this node no part of the cluster's network.
    #[error(
        "pod {pod} waits for an address: this node got no podCIDR within {seconds} s; does the control plane run?"
    )]
    NoPodCidr {
        /// Namespace and name.
        pod: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A Pod got no address.
    #[error("address for pod {pod}: {source}")]
    Address {
        /// Namespace and name.
        pod: String,
        /// Why not.
        source: minisvc_podnet::AllocateError,
    },
}
