//! Objects that every cluster has from its first start on.

use crate::{ServerError, write};
use minisvc_apimachinery::{ClusterConfig, resource::NAMESPACES};
use minisvc_store::Store;
use serde_json::json;
use std::sync::Arc;

/// Namespaces that Kubernetes clusters have.
const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Makes what is not there; what is there stays as it is, but for what older versions stored otherwise.
pub(crate) async fn make(store: &Store, cluster: &Arc<ClusterConfig>) -> Result<(), ServerError> {
    let upgraded = write::commit(store, cluster, String::new(), false, |context, view| {
        Ok(minisvc_registry::upgrade(context, view))
    });
    upgraded.await.map_err(|status| ServerError::System {
        object: "the store of an older version readable".to_owned(),
        status: Box::new(status),
    })?;
    for name in SYSTEM_NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let made = write::commit(store, cluster, "minisvc".to_owned(), false, move |context, view| {
            minisvc_registry::create(context, view, &NAMESPACES, None, object)
        });
        match made.await {
            Err(status) if status.reason != "AlreadyExists" => {
                let object = format!("namespace {name}");
                return Err(ServerError::System { object, status: Box::new(status) });
            }
            _ => {}
        }
    }
    Ok(())
}
