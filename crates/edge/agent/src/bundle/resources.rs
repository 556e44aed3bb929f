//! A container's `resources`, as limits of the kernel's and as numbers that programs are told: pure functions.

use super::Given;
use k8s_openapi::{
    api::core::v1::{Container, ResourceFieldSelector},
    apimachinery::pkg::api::resource,
};
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

/// A `resourceFieldRef` of a container (`own`), or of a volume; what has no limit may use what the node has.
///
/// Source: kubernetes `pkg/api/v1/resource/helpers.go` (`ExtractContainerResourceValue`, `MergeContainerResourceLimits`).
///
/// # Errors
/// If it names a container that there is not.
pub(super) fn field(
    wanted: &ResourceFieldSelector,
    own: Option<&Container>,
    given: &Given<'_>,
) -> Result<String, String> {
    let spec = given.pod.spec.iter();
    let mut all = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let container = match wanted.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own,
        Some(name) => all.find(|container| container.name == name),
    };
    let named = || wanted.container_name.as_deref().unwrap_or_default();
    let container = container.ok_or_else(|| format!("container {} not found", named()))?;
    let (list, name) = wanted.resource.split_once('.').unwrap_or_default();
    let resources = container.resources.as_ref();
    let is_limit = list == "limits";
    let said = resources.and_then(|r| if is_limit { r.limits.as_ref() } else { r.requests.as_ref() });
    let read = |amount: &resource::Quantity| Quantity::parse(&amount.0).filter(|a| *a > Quantity::ZERO);
    let said = said.and_then(|list| list.get(name)).and_then(read);
    let amount = said.or_else(|| given.facts.allocatable.get(name).and_then(read).filter(|_| is_limit));
    let in_units =
        |amount: Quantity| i128::from(if name == "cpu" { amount.millis() } else { amount.units() });
    let divisor = wanted.divisor.as_ref().and_then(read).unwrap_or(Quantity::from_units(1));
    let (amount, divisor) = (in_units(amount.unwrap_or_default()), in_units(divisor).max(1));
    Ok((amount / divisor + i128::from(amount % divisor != 0)).to_string())
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
