//! Whether this node runs a Pod that was bound to it, decided once, before anything of it is started.
//!
//! Invariant: of two Pods that cannot both be here the one that was admitted first stays, through any restart: it has
//! a runtime record or says in its status since when it is here.

use super::{Pods, key};
use crate::{AgentError, status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::{ObjectKey, resource::PODS};
use minisvc_client::events::Occurrence;
use minisvc_controllers::scheduler::{Rejection, rejection};
use std::sync::PoisonError;

fn has_started(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

impl Pods {
    /// Gives a Pod its place on this node, or says why it gets none. One that has its place keeps it, and so does one whose
    /// node is not known yet.
    pub(super) fn admit(&self, uid: &str, pod: &Pod) -> Option<Rejection> {
        // Held to the end: two that are in each other's way are looked at one after the other.
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if admitted.contains(uid) || has_started(pod) {
            return None;
        }
        let snapshot = self.snapshots.borrow().clone();
        let node =
            snapshot.as_ref().and_then(|s| s.nodes.get(&ObjectKey::cluster(self.identity.name.as_str())));
        if let (Some(snapshot), Some(node)) = (&snapshot, node) {
            let is_here = |other: &&Pod| {
                let other_uid = other.metadata.uid.as_deref().unwrap_or_default();
                let is_over = other.status.as_ref().is_some_and(status::is_over);
                other_uid != uid
                    && !is_over
                    && (has_started(other)
                        || admitted.contains(other_uid)
                        || self.runtime.pod(other_uid).is_some())
            };
            let others = snapshot.pods.values().map(AsRef::as_ref).filter(is_here);
            if let Some(rejection) = rejection(pod, node, others) {
                return Some(rejection);
            }
        }
        admitted.insert(uid.to_owned());
        None
    }

    /// A Pod has left this node.
    pub(super) fn leave(&self, uid: &str) {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.tokens.forget(uid);
    }

    /// Makes a Pod fail that gets no place.
    pub(super) async fn reject(&self, uid: &str, pod: &Pod, rejection: &Rejection) -> Result<(), AgentError> {
        let Rejection { reason, message } = rejection;
        let what = Occurrence::warning(&PODS, key(pod), uid, reason, message.clone());
        let _nothing_depends_on_it = self.recorder.record(&what, Timestamp::now()).await;
        let mut wanted = status::desired(pod, None, &self.identity.underlay.addresses(), Timestamp::now());
        status::fail(&mut wanted, reason, &format!("Pod was rejected: {message}"));
        // As the kubelet: there is nothing to be said of containers that nobody will make.
        (wanted.container_statuses, wanted.init_container_statuses) = (None, None);
        self.write(uid, pod, wanted).await
    }
}
