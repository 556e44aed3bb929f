//! What `kubectl get pods` says of a Pod. Source: kubernetes `pkg/printers/internalversion`, `printPod`.

use crate::{
    table::since,
    value::{at, int, items, text},
};
use jiff::Timestamp;
use serde_json::Value;

/// The columns that are counted and weighed.
pub(super) struct Row {
    /// Containers that are ready, of how many.
    ready: (usize, usize),
    /// The most telling reason.
    pub(super) status: String,
    /// How often containers were started again, and when the last one had ended before.
    restarts: (i64, Option<Timestamp>),
}

impl Row {
    /// The READY column.
    pub(super) fn ready(&self) -> String {
        format!("{}/{}", self.ready.0, self.ready.1)
    }

    /// The RESTARTS column: how often, and how long ago the last time.
    pub(super) fn restarts(&self, now: Timestamp) -> String {
        match self.restarts {
            (count, Some(last)) if count > 0 => {
                let last = Value::from(last.to_string());
                format!("{count} ({} ago)", since(Some(&last), now).as_str().unwrap_or_default())
            }
            (count, _) => count.to_string(),
        }
    }

    fn count(&mut self, status: &Value) {
        self.restarts.0 += int(status, "/restartCount").unwrap_or(0);
        let ended = text(status, "/lastState/terminated/finishedAt").parse().ok();
        self.restarts.1 = self.restarts.1.max(ended);
    }
}

/// READY, STATUS and RESTARTS of a Pod.
pub(super) fn row(pod: &Value) -> Row {
    let init = items(pod, "/spec/initContainers");
    let is_sidecar = |name: &str| {
        init.iter().any(|spec| text(spec, "/name") == name && text(spec, "/restartPolicy") == "Always")
    };
    let sidecars = init.iter().filter(|spec| text(spec, "/restartPolicy") == "Always").count();
    let reason = ["/status/reason", "/status/phase"].map(|pointer| text(pod, pointer));
    let mut row = Row {
        ready: (0, items(pod, "/spec/containers").len() + sidecars),
        status: reason.into_iter().find(|reason| !reason.is_empty()).unwrap_or_default().to_owned(),
        restarts: (0, None),
    };
    let statuses = items(pod, "/status/initContainerStatuses");
    let mut initializing = None;
    for (i, status) in statuses.iter().enumerate() {
        row.count(status);
        if initializing.is_some() || int(status, "/state/terminated/exitCode") == Some(0) {
            continue;
        }
        let is_up = is_sidecar(text(status, "/name")) && status.get("started") == Some(&Value::Bool(true));
        if is_up {
            row.ready.0 += usize::from(status.get("ready") == Some(&Value::Bool(true)));
        } else {
            initializing = Some(held_up(status, i, init.len()));
        }
    }
    if let Some(reason) = initializing.clone() {
        row.status = reason;
    }
    if initializing.is_none() || holds(pod, "Initialized") {
        row.restarts = (0, None);
        for status in statuses.iter().filter(|status| is_sidecar(text(status, "/name"))) {
            row.count(status);
        }
        containers(pod, &mut row);
    }
    let over = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    if at(pod, "/metadata/deletionTimestamp").is_some() {
        if text(pod, "/status/reason") == "NodeLost" {
            row.status = "Unknown".to_owned();
        } else if !over {
            row.status = "Terminating".to_owned();
        }
    }
    if row.status.is_empty() {
        row.status = "Unknown".to_owned();
    }
    row
}

fn containers(pod: &Value, row: &mut Row) {
    let mut running = false;
    for status in items(pod, "/status/containerStatuses").iter().rev() {
        row.count(status);
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            row.status = waiting.to_owned();
        } else if let Some(terminated) = at(status, "/state/terminated") {
            row.status = ended(terminated);
        } else if status.get("ready") == Some(&Value::Bool(true)) && at(status, "/state/running").is_some() {
            running = true;
            row.ready.0 += 1;
        }
    }
    if row.status == "Completed" && running {
        row.status = if holds(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

/// Why init container `i` of `all` holds the Pod up.
fn held_up(status: &Value, i: usize, all: usize) -> String {
    if let Some(terminated) = at(status, "/state/terminated") {
        return format!("Init:{}", ended(terminated));
    }
    match text(status, "/state/waiting/reason") {
        "" | "PodInitializing" => format!("Init:{i}/{all}"),
        reason => format!("Init:{reason}"),
    }
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, "/reason"), int(terminated, "/signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "/exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn holds(pod: &Value, kind: &str) -> bool {
    let conditions = items(pod, "/status/conditions");
    conditions.iter().any(|of| text(of, "/type") == kind && text(of, "/status") == "True")
}

/// The READINESS GATES column: how many are open.
pub(super) fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| holds(pod, text(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}
