//! `sizeLimit` of an `emptyDir` on disk: whoever writes more is evicted, within [`EVERY`] and the time the walks take.
//!
//! Source: kubelet `pkg/kubelet/eviction/eviction_manager.go` (`emptyDirLimitEviction`). Volumes in memory need no eviction: the kernel
//! gives them no more.

use super::{Pods, key};
use crate::AgentError;
use k8s_openapi::api::core::v1::Pod;
use minisvc_runtime::{PodRecord, volumes::VolumeKind};
use std::{sync::Arc, time::Duration};

/// How often volumes are measured, as in the kubelet.
const EVERY: Duration = Duration::from_secs(10);
const REASON: &str = "Evicted";

fn is_limited(record: &PodRecord) -> bool {
    let mut kinds = record.bundle.volumes.iter().map(|volume| volume.kind);
    kinds.any(|kind| matches!(kind, VolumeKind::Scratch { memory: false, bytes_max: Some(_) }))
}

impl Pods {
    /// Measures the volumes of one Pod after the other, for ever.
    pub async fn evict(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let table = self.runtime.subscribe().borrow().clone();
            for (uid, _) in table.iter().filter(|(_, record)| is_limited(record)) {
                if let Err(error) = self.evict_overfull(uid).await {
                    tracing::warn!(%uid, %error, "pod");
                }
            }
        }
    }

    async fn evict_overfull(&self, uid: &str) -> Result<(), AgentError> {
        let (runtime, of) = (self.runtime.clone(), uid.to_owned());
        let Ok(Some(volume)) = tokio::task::spawn_blocking(move || runtime.overfull(&of)).await else {
            return Ok(());
        };
        let snapshot = self.snapshots.borrow().clone();
        let pods = snapshot.as_ref().map(|snapshot| snapshot.pods.values());
        let Some(pod) = pods.and_then(|mut pods| pods.find(|pod| pod.metadata.uid.as_deref() == Some(uid)))
        else {
            return Ok(());
        };
        let message =
            format!("Usage of EmptyDir volume {volume:?} exceeds the limit {:?}. ", limit(pod, &volume));
        self.runtime.fail(uid, REASON, &message).map_err(|source| AgentError::Runtime {
            operation: "evict",
            pod: key(pod).to_string(),
            source,
        })?;
        self.say(pod, REASON, &message).await;
        Ok(())
    }
}

/// The limit of a volume as the Pod says it.
fn limit(pod: &Pod, volume: &str) -> String {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let found =
        volumes.filter(|other| other.name == volume).find_map(|v| v.empty_dir.as_ref()?.size_limit.clone());
    found.map(|limit| limit.0).unwrap_or_default()
}
