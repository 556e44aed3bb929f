//! What a container may say of its hooks.
//!
//! Source: kubernetes `pkg/apis/core/validation`, `validateLifecycle`.

use super::{probes, validate};
use crate::value::at;
use minisvc_apimachinery::Cause;
use serde_json::{Map, Value};

const HOOKS: [&str; 2] = ["postStart", "preStop"];

/// Fills in the hooks of a container.
pub(super) fn default(container: &mut Value) {
    for name in HOOKS {
        if let Some(hook) = container.pointer_mut(&format!("/lifecycle/{name}")) {
            probes::default_http(hook);
        }
    }
}

/// Faults of the hooks of the container at `path` of a Pod with that much `grace`.
///
/// As in Kubernetes, `tcpSocket` is taken here and fails when its time has come.
pub(super) fn check(container: &Value, path: &str, grace: Option<i64>, causes: &mut Vec<Cause>) {
    let Some(lifecycle) = at(container, "/lifecycle") else { return };
    let path = format!("{path}.lifecycle");
    validate::refuse_unsupported(lifecycle.as_object().unwrap_or(&Map::new()), &path, &HOOKS, causes);
    for name in HOOKS {
        if let Some(hook) = at(lifecycle, &format!("/{name}")) {
            let kinds = ["exec", "httpGet", "tcpSocket", "sleep"];
            probes::handler(hook, &format!("{path}.{name}"), &kinds, grace, causes);
        }
    }
}
