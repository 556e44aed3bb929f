//! The addresses of this node's Pods: parts of its podCIDRs, each a Pod's own as long as that is here.

use super::{Pods, WIRE_WAIT, key};
use crate::{AgentError, NodeIdentity, Snapshots};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::ObjectKey;
use minisvc_podnet::{LocalPod, allocate, pod_cidrs};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, PoisonError},
};
use tokio::sync::watch;

impl Pods {
    /// Gives a Pod a network of its own.
    pub(super) async fn wire(&self, uid: &str, pod: &Pod, name: &str) -> Result<LocalPod, AgentError> {
        let cidrs = self.pod_cidrs(name).await?;
        let local = self.give_addresses(uid, pod, &cidrs)?;
        let mut wired = self.wired.clone();
        let made = async { wired.wait_for(|wired| wired.contains(uid)).await.is_ok() };
        if !tokio::time::timeout(WIRE_WAIT, made).await.unwrap_or(false) {
            return Err(AgentError::NotWired { pod: name.to_owned(), seconds: WIRE_WAIT.as_secs() });
        }
        Ok(local)
    }

    /// This node's podCIDRs, one of each family; a node that has just been registered gets them soon.
    async fn pod_cidrs(&self, pod: &str) -> Result<Vec<IpNet>, AgentError> {
        let mut receiver = self.identity.pod_cidrs.clone();
        let families = self.identity.cluster.families().len();
        let known = async {
            receiver.wait_for(|cidrs| cidrs.len() >= families).await.ok().map(|cidrs| cidrs.clone())
        };
        let known = tokio::time::timeout(WIRE_WAIT, known).await.ok().flatten();
        known.ok_or_else(|| AgentError::NoPodCidr { pod: pod.to_owned(), seconds: WIRE_WAIT.as_secs() })
    }

    fn give_addresses(&self, uid: &str, pod: &Pod, cidrs: &[IpNet]) -> Result<LocalPod, AgentError> {
        let key = key(pod);
        if let Some(local) = self.local.borrow().get(uid) {
            return Ok(local.clone());
        }
        let mut last = self.last_addresses.lock().unwrap_or_else(PoisonError::into_inner);
        // The lock is held until the addresses are taken: two workers never get the same one.
        let used: BTreeSet<IpAddr> =
            self.local.borrow().values().flat_map(|local| local.addresses.iter().copied()).collect();
        let given =
            |cidr: &IpNet| allocate(cidr, &used, last.iter().copied().find(|last| cidr.contains(last)));
        let addresses: Vec<IpAddr> = cidrs
            .iter()
            .map(given)
            .collect::<Result<_, _>>()
            .map_err(|source| AgentError::Address { pod: key.to_string(), source })?;
        last.clone_from(&addresses);
        let local = LocalPod::new(uid, &key.namespace, &key.name, addresses);
        self.local.send_modify(|pods| {
            pods.insert(uid.to_owned(), local.clone());
        });
        Ok(local)
    }
}

/// Publishes this node's podCIDRs as soon as its Node has them.
pub async fn follow_pod_cidrs(
    identity: Arc<NodeIdentity>,
    mut snapshots: Snapshots,
    sender: watch::Sender<Vec<IpNet>>,
) {
    loop {
        let cidrs = snapshots.borrow_and_update().as_ref().and_then(|snapshot| {
            let node = snapshot.nodes.get(&ObjectKey::cluster(identity.name.as_str()))?;
            pod_cidrs(node).ok().filter(|cidrs| !cidrs.is_empty())
        });
        if let Some(cidrs) = cidrs {
            sender.send_if_modified(|known| {
                let changed = *known != cidrs;
                *known = cidrs;
                changed
            });
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}
