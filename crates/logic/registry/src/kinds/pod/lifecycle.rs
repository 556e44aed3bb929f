//! What a container may say of its hooks, and a Pod of how long it is active and what makes it ready.
//!
//! Source: kubernetes `pkg/apis/core/validation`, `validateLifecycle`, `ValidatePodSpec`, `ValidatePodUpdate`,
//! `validateReadinessGates`.

use super::{probes, validate};
use crate::{
    syntax,
    value::{at, int, items, text},
};
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

/// Faults of the deadline and of the readiness gates of the spec at `path`.
pub(super) fn check_pod(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(seconds) = int(spec, "/activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let field = format!("{path}.activeDeadlineSeconds");
        causes.push(Cause::invalid(field, seconds, "must be between 1 and 2147483647, inclusive"));
    }
    for (i, gate) in items(spec, "/readinessGates").iter().enumerate() {
        let kind = text(gate, "/conditionType");
        let field = format!("{path}.readinessGates[{i}].conditionType");
        causes.extend(syntax::qualified_name(kind).iter().map(|fault| Cause::invalid(&field, kind, fault)));
    }
}

/// Faults of a change of the deadline: it may be set, and come earlier.
pub(super) fn update_deadline(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let pointer = "/spec/activeDeadlineSeconds";
    let words = match (int(old, pointer), int(new, pointer)) {
        (_, Some(new)) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            "must be between 0 and 2147483647, inclusive"
        }
        (Some(old), Some(new)) if old < new => "must be less than or equal to previous value",
        (Some(_), None) => "must not update from a positive integer to nil value",
        _ => return,
    };
    let given = new.pointer(pointer).cloned().unwrap_or(Value::Null);
    causes.push(Cause::invalid("spec.activeDeadlineSeconds", given, words));
}
