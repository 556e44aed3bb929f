//! What a Pod may say of the containers that run before the others, and of those among them that go on: sidecars.
//!
//! Source: kubernetes `pkg/apis/core/validation`, `validateInitContainers`, `validateInitContainerRestartPolicy`.

use super::{lifecycle, probes, validate};
use crate::value::{at, items, text};
use minisvc_apimachinery::Cause;
use serde_json::Value;
use std::collections::BTreeSet;

/// What an init container has only if it is a sidecar.
const OF_SIDECARS: [&str; 4] = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];
const CONTAINERS_MAX: usize = 100;

/// Faults of `initContainers` of the spec at `path`; `names` are those of the other containers.
pub(super) fn check<'s>(spec: &'s Value, path: &str, names: &mut BTreeSet<&'s str>, causes: &mut Vec<Cause>) {
    let list = items(spec, "/initContainers");
    let field = format!("{path}.initContainers");
    if list.len() > CONTAINERS_MAX {
        causes.push(Cause::too_many(field, list.len(), CONTAINERS_MAX));
        return;
    }
    for (i, container) in list.iter().enumerate() {
        let path = format!("{field}[{i}]");
        validate::container(container, &path, names, causes);
        let policy = text(container, "/restartPolicy");
        validate::choice(container, "/restartPolicy", &format!("{path}.restartPolicy"), &["Always"], causes);
        if policy == "Always" {
            let grace = crate::value::int(spec, "/terminationGracePeriodSeconds");
            probes::check(container, &path, causes);
            lifecycle::check(container, &path, grace, causes);
            continue;
        }
        for field in OF_SIDECARS.iter().filter(|field| at(container, &format!("/{field}")).is_some()) {
            let words = "may not be set for init containers without restartPolicy=Always";
            causes.push(Cause::forbidden(format!("{path}.{field}"), words));
        }
    }
}
