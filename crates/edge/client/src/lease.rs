//! Heartbeats: Leases that are renewed.

use crate::{ApiClient, ClientError, PatchKind};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use minisvc_apimachinery::{ObjectKey, resource::LEASES};
use serde_json::json;

/// Namespace of the nodes' Leases.
pub const NODE_LEASES: &str = "kube-node-lease";

/// Renews (or creates) the Lease `namespace/name` in the name of `holder`, to last `seconds` from `now`.
///
/// # Errors
/// If the server refuses it or cannot be reached.
pub async fn renew(
    client: &ApiClient,
    key: &ObjectKey,
    holder: &str,
    seconds: i32,
    now: Timestamp,
) -> Result<Lease, ClientError> {
    let spec = LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    };
    let patch = json!({ "spec": spec });
    match client.patch(&LEASES, key, None, PatchKind::Merge, &patch).await {
        Err(error) if error.is_not_found() => {}
        result => return result,
    }
    let lease = Lease {
        metadata: ObjectMeta {
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec { acquire_time: Some(MicroTime(now)), ..spec }),
    };
    client.create(&LEASES, &key.namespace, &lease).await
}

/// Renews a node's Lease: `kube-node-lease/<node>`.
///
/// # Errors
/// If the server refuses it or cannot be reached.
pub async fn renew_node(
    client: &ApiClient,
    node: &str,
    seconds: i32,
    now: Timestamp,
) -> Result<Lease, ClientError> {
    renew(client, &ObjectKey::new(NODE_LEASES, node), node, seconds, now).await
}
