//! `activeDeadlineSeconds`: how long a Pod may be active on its node.
//!
//! Source: kubelet `pkg/kubelet/active_deadline.go`.

use super::{Pods, key};
use crate::AgentError;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::resource::PODS;
use minisvc_client::events::Occurrence;
use std::time::Duration;

const REASON: &str = "DeadlineExceeded";
const MESSAGE: &str = "Pod was active on the node longer than the specified deadline";
/// The clock is looked at again at least so often: it may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long the Pod may still be active; none: for ever.
pub(super) fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let since = pod.status.as_ref()?.start_time.as_ref()?.0;
    let end = since.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

/// Waits for the end of a Pod's time, or a while; for ever if its time has no end, or is over.
pub(super) async fn reached(pod: Option<&Pod>) {
    match pod.and_then(|pod| left(pod, Timestamp::now())) {
        Some(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK_EVERY)).await,
        _ => std::future::pending().await,
    }
}

impl Pods {
    /// Ends a Pod whose time is over.
    pub(super) async fn give_up(&self, uid: &str, pod: &Pod) -> Result<(), AgentError> {
        let Some(record) = self.runtime.pod(uid) else { return Ok(()) };
        if record.failure.is_some() || record.is_finished() {
            return Ok(());
        }
        self.runtime.fail(uid, REASON, MESSAGE).map_err(|source| AgentError::Runtime {
            operation: "end",
            pod: key(pod).to_string(),
            source,
        })?;
        let what = Occurrence::normal(&PODS, key(pod), uid, REASON, MESSAGE.to_owned());
        let _nothing_depends_on_it = self.recorder.record(&what, Timestamp::now()).await;
        Ok(())
    }
}

/// What a Pod has failed of whose time was over before anything of it was started.
pub(super) fn never_started(pod: &Pod, now: Timestamp) -> Option<(&'static str, &'static str)> {
    (left(pod, now) == Some(Duration::ZERO)).then_some((REASON, MESSAGE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pods_time_runs_from_its_start() {
        let pod = |deadline: Option<i64>| -> Pod {
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [], "activeDeadlineSeconds": deadline},
                "status": {"startTime": "2026-01-01T00:00:00Z"}}),
            )
            .unwrap()
        };
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(left(&pod(None), at("2026-01-01T00:00:10Z")), None);
        assert_eq!(left(&pod(Some(30)), at("2026-01-01T00:00:10Z")), Some(Duration::from_secs(20)));
        assert_eq!(left(&pod(Some(30)), at("2026-01-01T01:00:10Z")), Some(Duration::ZERO));
        assert_eq!(
            left(&pod(Some(i64::MAX)), at("2026-01-01T00:00:10Z")).map(|left| left.is_zero()),
            Some(false)
        );
    }
}
