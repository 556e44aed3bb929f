//! What `kubectl get pods` says of a Pod. Source: kubernetes `printPod`.

use crate::{
    table::since,
    value::{at, int, items, text},
};
use serde_json::Value;

/// The STATUS column: the most telling reason.
pub(super) fn state(pod: &Value) -> String {
    let mut reason = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    let mut running = false;
    for status in items(pod, "/status/containerStatuses").iter().rev() {
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if let Some(terminated) = at(status, "/state/terminated") {
            reason = match text(terminated, "/reason") {
                "" => match int(terminated, "/signal").unwrap_or(0) {
                    0 => format!("ExitCode:{}", int(terminated, "/exitCode").unwrap_or(0)),
                    signal => format!("Signal:{signal}"),
                },
                reason => reason.to_owned(),
            };
        } else if status.get("ready") == Some(&Value::Bool(true)) && at(status, "/state/running").is_some() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = items(pod, "/status/conditions")
            .iter()
            .any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True");
        reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    if at(pod, "/metadata/deletionTimestamp").is_some() {
        reason = if text(pod, "/status/reason") == "NodeLost" { "Unknown" } else { "Terminating" }.to_owned();
    }
    if reason.is_empty() { "Unknown".to_owned() } else { reason }
}

/// The RESTARTS column: how often, and how long ago the last time.
pub(super) fn restarts(pod: &Value, now: jiff::Timestamp) -> String {
    let statuses = items(pod, "/status/containerStatuses");
    let count: i64 = statuses.iter().filter_map(|status| int(status, "/restartCount")).sum();
    let last = statuses
        .iter()
        .filter_map(|s| at(s, "/lastState/terminated/finishedAt"))
        .max_by_key(|time| time.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()));
    match last {
        Some(_) if count > 0 => format!("{count} ({} ago)", since(last, now).as_str().unwrap_or_default()),
        _ => count.to_string(),
    }
}
