//! The end of a Pod: out of the endpoints first, then its processes, its object, its network.

use super::{Pods, changed_record, key};
use crate::AgentError;
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::resource::PODS;
use minisvc_client::DeleteOptions;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Longest wait for a Pod that is to end to leave the endpoints.
const DRAIN_WAIT: Duration = Duration::from_secs(2);
/// How long after that the other nodes may take to change their tables.
const PROGRAMMING_TIME: Duration = Duration::from_millis(50);
/// Grace of Pods whose object is gone already, in seconds.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

fn grace(pod: Option<&Pod>) -> Duration {
    let given = pod.and_then(|pod| pod.metadata.deletion_grace_period_seconds);
    given.map_or(ORPHAN_GRACE, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Waits until a Pod that ends is given less time than when it was `told` to.
pub(super) async fn hurried(pods: &mut watch::Receiver<Option<Arc<Pod>>>, told: Option<&Pod>) {
    let before = grace(told);
    if pods.wait_for(|pod| grace(pod.as_deref()) < before).await.is_err() {
        std::future::pending().await
    }
}

impl Pods {
    /// Ends a Pod: not ready, processes, object, network, in this order.
    pub(super) async fn end(&self, uid: &str, pod: Option<&Pod>) -> Result<(), AgentError> {
        let name = pod.map_or_else(|| uid.to_owned(), |pod| key(pod).to_string());
        let grace = grace(pod);
        if self.runtime.pod(uid).is_some() {
            let drain = DRAIN_WAIT.min(grace);
            let _drained_or_late = tokio::time::timeout(drain, self.out_of_endpoints(uid, true)).await;
            let failed = |operation| {
                let pod = name.clone();
                move |source| AgentError::Runtime { operation, pod, source }
            };
            tokio::select! {
                stopped = self.runtime.stop(uid, grace) => stopped.map_err(failed("stop"))?,
                () = self.follow_status(uid, pod) => {}
            }
            if let Some(pod) = pod {
                let _the_object_goes_anyway = self.write_status(uid, pod).await;
            }
            self.runtime.remove(uid).await.map_err(failed("remove"))?;
        }
        if let Some(pod) = pod {
            self.delete_object(uid, pod).await?;
        }
        let _unnamed_or_late = tokio::time::timeout(DRAIN_WAIT, self.out_of_endpoints(uid, false)).await;
        self.local.send_if_modified(|local| local.remove(uid).is_some());
        Ok(())
    }

    /// Keeps the status of a Pod that ends true. Does not return.
    async fn follow_status(&self, uid: &str, pod: Option<&Pod>) {
        let Some(pod) = pod else { return std::future::pending().await };
        let mut table = self.runtime.subscribe();
        loop {
            let before = table.borrow_and_update().get(uid).cloned();
            if let Err(error) = self.write_status(uid, pod).await {
                tracing::warn!(%uid, %error, "status of a pod that ends");
            }
            changed_record(&mut table, uid, before.as_ref()).await;
        }
    }

    async fn delete_object(&self, uid: &str, pod: &Pod) -> Result<(), AgentError> {
        let options =
            DeleteOptions { grace_seconds: Some(0), uid: Some(uid.to_owned()), ..DeleteOptions::default() };
        match self.client.delete(&PODS, &key(pod), &options).await {
            Err(source) if !source.is_not_found() && !source.is_conflict() => {
                Err(AgentError::Api { operation: "delete pod", object: key(pod).to_string(), source })
            }
            _ => Ok(()),
        }
    }

    /// Waits until no slice names the Pod, or none as ready, and a moment more for the nodes to hear of it: who is
    /// told to end gets no new connections first.
    async fn out_of_endpoints(&self, uid: &str, as_ready: bool) {
        let mut snapshots = self.snapshots.clone();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let named = snapshot.is_some_and(|snapshot| {
                snapshot.endpoint_slices.values().flat_map(|slice| &slice.endpoints).any(|endpoint| {
                    let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
                    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
                    target == Some(uid) && (!as_ready || ready != Some(false))
                })
            });
            if !named {
                return tokio::time::sleep(PROGRAMMING_TIME).await;
            }
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }
}
