//! What a Pod's status says of containers that this node has no record of: they ran before it was switched off.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use minisvc_runtime::{Before, Terminated};

/// The containers that were started before.
pub fn before(pod: &Pod) -> Vec<Before> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter(|container| container.container_id.is_some()).map(one).collect()
}

fn one(container: &ContainerStatus) -> Before {
    let now = container.state.as_ref();
    let running = now.and_then(|state| state.running.as_ref());
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let end = now.and_then(|state| state.terminated.as_ref()).or(last.filter(|_| running.is_none()));
    Before {
        container: container.name.clone(),
        restart_count: u32::try_from(container.restart_count).unwrap_or_default(),
        started_at: running.and_then(|running| running.started_at.as_ref()).map(|time| time.0),
        end: end.map(terminated),
    }
}

fn terminated(end: &ContainerStateTerminated) -> Terminated {
    Terminated {
        exit_code: end.exit_code,
        signal: end.signal.unwrap_or_default(),
        reason: end.reason.clone().unwrap_or_default(),
        message: end.message.clone().unwrap_or_default(),
        started_at: end.started_at.as_ref().map(|time| time.0),
        finished_at: end.finished_at.as_ref().map_or_else(jiff::Timestamp::now, |time| time.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_started_counts() {
        let status = |name: &str, state: serde_json::Value, last: serde_json::Value| {
            json!({"name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 3, "containerID": "minisvc://u/c/3",
                "state": state, "lastState": last})
        };
        let end = |code: i32| json!({"terminated": {"exitCode": code, "reason": "Error"}});
        let mut list = vec![
            status("runs", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}), end(1)),
            status("ended", end(2), json!({})),
            status("waits", json!({"waiting": {"reason": "CrashLoopBackOff"}}), end(3)),
            status("never", json!({"waiting": {"reason": "ContainerCreating"}}), json!({})),
        ];
        list[3].as_object_mut().unwrap().remove("containerID");
        let pod: Pod = serde_json::from_value(json!({"status": {"containerStatuses": list}})).unwrap();
        let found = before(&pod);
        let ends: Vec<_> = found.iter().map(|one| one.end.as_ref().map(|end| end.exit_code)).collect();
        assert_eq!(ends, [None, Some(2), Some(3)]);
        assert!(found[0].started_at.is_some() && found.iter().all(|one| one.restart_count == 3));
        assert!(before(&Pod::default()).is_empty());
    }
}
