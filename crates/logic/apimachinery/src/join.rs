//! What a joining node and the first server say to each other, and the certificate names they go by.

use crate::cluster::ClusterConfig;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Path of the CA certificate (PEM); served without authentication, see [`crate::token`].
pub const CA_PATH: &str = "/cacerts";
/// Path that takes a [`JoinRequest`].
pub const JOIN_PATH: &str = "/minisvc/v1/join";

/// Group of all who may do everything (certificate organisation).
pub const MASTERS: &str = "system:masters";
/// Group of all who have proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of all who may read everything but Secrets (certificate organisation).
pub const VIEWERS: &str = "minisvc:viewers";
/// Group of the nodes (certificate organisation).
pub const NODES: &str = "system:nodes";
/// Group of who shows the join secret.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// User name (certificate common name) of the API server when it calls a node's server.
pub const API_SERVER_CLIENT: &str = "kube-apiserver-kubelet-client";
/// User name of the controllers.
pub const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// User name of the administrator's kubeconfig.
pub const ADMIN: &str = "system:admin";

/// User name of the kubeconfig of who may only read.
pub const VIEWER: &str = "minisvc:viewer";

/// User name of a node's certificate.
pub fn node_user(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// Body of a join: `POST /minisvc/v1/join` with the token's secret as bearer token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// Name of the node.
    pub node_name: String,
    /// Address at which the other nodes reach it.
    pub node_address: IpAddr,
    /// Certificate signing request, PEM. Only its public key is used: names come from the fields above.
    pub csr: String,
}

/// Answer to a join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinResponse {
    /// The node's certificate, PEM: for clients as [`node_user`] and for its server at the node address.
    pub certificate: String,
    /// The cluster's CA certificate, PEM.
    pub ca: String,
    /// What all nodes share.
    pub cluster: ClusterConfig,
}
