//! A container's `resources` as limits of the kernel's: a pure function.

use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::api::resource};
use minisvc_apimachinery::Quantity;
use minisvc_runtime::cgroup::Limits;
use std::collections::BTreeMap;

/// What a container may use at most, and its share.
pub(super) fn limits(container: &Container) -> Limits {
    let resources = container.resources.clone().unwrap_or_default();
    let amount = |list: &Option<BTreeMap<String, resource::Quantity>>, name: &str| {
        Quantity::parse(&list.as_ref()?.get(name)?.0)
    };
    let positive = |amount: i64| u64::try_from(amount).ok().filter(|amount| *amount > 0);
    Limits {
        cpu_millis: amount(&resources.limits, "cpu").map(Quantity::millis).and_then(positive),
        cpu_request_millis: amount(&resources.requests, "cpu").map(Quantity::millis).and_then(positive),
        memory_bytes: amount(&resources.limits, "memory").map(Quantity::units).and_then(positive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        let container = json!({ "name": "c", "resources":
            { "limits": { "cpu": "1.5", "memory": "64Mi" }, "requests": { "cpu": "250m", "memory": "1" } } });
        let expected =
            Limits { cpu_millis: Some(1500), cpu_request_millis: Some(250), memory_bytes: Some(64 << 20) };
        assert_eq!(limits(&serde_json::from_value(container).unwrap()), expected);
        assert_eq!(limits(&Container::default()), Limits::default());
    }
}
