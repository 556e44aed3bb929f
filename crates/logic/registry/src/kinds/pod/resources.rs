//! What a container asks of its node and what it may use at most: `resources`; and the class that follows from it.
//!
//! Source: kubernetes `pkg/apis/core/validation` (`ValidateContainerResourceRequirements`), `pkg/apis/core/v1/defaults.go`
//! (`SetDefaults_Pod`), `component-helpers/.../qos` (`ComputePodQOS`). Served are `cpu` and `memory`; a node can neither
//! count nor limit anything else, so all else is refused by name.

use super::validate;
use crate::value::{at, fill, items, items_mut, keep_amount, keep_amounts, text};
use minisvc_apimachinery::{Cause, Quantity};
use serde_json::{Map, Value, json};

const SERVED: [&str; 2] = ["cpu", "memory"];

/// Writes amounts as they are kept.
pub(super) fn default(container: &mut Value) {
    fill(container, "resources", json!({}));
    ["/resources/limits", "/resources/requests"].iter().for_each(|list| keep_amounts(container, list));
}

/// What an environment or a file can say of a container's resources.
const FIELDS: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const CPU_DIVISORS: [&str; 2] = ["1m", "1"];
const MEMORY_DIVISORS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Defaults of a `resourceFieldRef`.
pub(super) fn default_field(field: &mut Value) {
    if field.is_object() {
        fill(field, "divisor", "0");
        field.get_mut("divisor").into_iter().for_each(keep_amount);
    }
}

/// Faults of a `resourceFieldRef`, which stands at `path`; in a volume it names a container.
pub(super) fn check_field(field: &Value, path: &str, in_volume: bool, causes: &mut Vec<Cause>) {
    let empty = Map::new();
    let known = ["containerName", "divisor", "resource"];
    validate::refuse_unsupported(field.as_object().unwrap_or(&empty), path, &known, causes);
    let resource = text(field, "/resource");
    if in_volume && text(field, "/containerName").is_empty() {
        causes.push(Cause::required(format!("{path}.containerName"), ""));
    } else if resource.is_empty() {
        causes.push(Cause::required(format!("{path}.resource"), ""));
    } else if !FIELDS.contains(&resource) {
        causes.push(Cause::not_supported(format!("{path}.resource"), resource, &FIELDS));
    }
    let divisor = text(field, "/divisor");
    let (kind, divisors) = match resource.rsplit_once('.') {
        Some((_, "cpu")) => ("cpu", CPU_DIVISORS.as_slice()),
        _ => ("memory", MEMORY_DIVISORS.as_slice()),
    };
    if !["", "0"].contains(&divisor) && !divisors.contains(&divisor) {
        let all = if kind == "cpu" { divisors.join(" and ") } else { divisors.join(", ") };
        let words = format!("only divisor's values {all} are supported with the {kind} resource");
        causes.push(Cause::invalid(format!("{path}.divisor"), resource, &words));
    }
}

/// Makes limits of a Pod's containers requests where there are none. Templates of Pods stay as they are.
pub(super) fn request_limits(spec: &mut Value) {
    ["/containers", "/initContainers"].into_iter().for_each(|list| items_mut(spec, list).for_each(request));
}

fn request(container: &mut Value) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    for (name, limit) in limits {
        if let Some(requests) = requests.as_object_mut() {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Faults of a container, which stands at `path`.
pub(super) fn check(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(resources) = at(container, "/resources").and_then(Value::as_object) else { return };
    let path = format!("{path}.resources");
    validate::refuse_unsupported(resources, &path, &["limits", "requests"], causes);
    for list in ["limits", "requests"] {
        for (name, amount) in resources.get(list).and_then(Value::as_object).into_iter().flatten() {
            let field = format!("{path}.{list}[{name}]");
            if !SERVED.contains(&name.as_str()) {
                causes.push(Cause::not_supported(&field, name.as_str(), &SERVED));
                continue;
            }
            match read(amount) {
                None => {
                    let words = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                    causes.push(Cause::invalid(&field, amount.clone(), words));
                }
                Some(read) if read < Quantity::ZERO => {
                    causes.push(Cause::invalid(&field, amount.clone(), "must be greater than or equal to 0"));
                }
                Some(_) => {}
            }
        }
    }
    for name in SERVED {
        let said = |list: &str| resources.get(list)?.get(name);
        if let (Some(request), Some(limit)) = (said("requests"), said("limits"))
            && read(request) > read(limit)
        {
            let limit = limit.as_str().unwrap_or_default();
            let words = format!("must be less than or equal to {name} limit of {limit}");
            causes.push(Cause::invalid(format!("{path}.requests"), request.clone(), &words));
        }
    }
}

fn read(amount: &Value) -> Option<Quantity> {
    Quantity::parse(amount.as_str()?)
}

/// `status.qosClass` of a Pod with this spec.
pub(super) fn class(spec: &Value) -> &'static str {
    let all = || items(spec, "/initContainers").iter().chain(items(spec, "/containers"));
    let amount = |container: &Value, list: &str, name: &str| {
        let said = container.get("resources")?.get(list)?.get(name)?;
        read(said).filter(|amount| *amount > Quantity::ZERO)
    };
    let asks = |container: &Value| {
        SERVED
            .iter()
            .any(|name| ["limits", "requests"].iter().any(|list| amount(container, list, name).is_some()))
    };
    let is_sure = |container: &Value| {
        SERVED.iter().all(|name| {
            let limit = amount(container, "limits", name);
            limit.is_some() && amount(container, "requests", name) == limit
        })
    };
    match () {
        () if !all().any(asks) => "BestEffort",
        () if all().all(is_sure) => "Guaranteed",
        () => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(resources: Value) -> Value {
        let mut container = json!({ "name": "c", "resources": resources });
        default(&mut container);
        request(&mut container);
        container
    }

    #[test]
    fn limits_are_requests_and_amounts_are_written_in_one_way() {
        let filled =
            container(json!({ "limits": { "cpu": 1, "memory": "1024Mi" }, "requests": { "cpu": 0.5 } }));
        let expected = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m", "memory": "1Gi" } });
        assert_eq!(filled["resources"], expected);
        assert_eq!(container(json!({}))["resources"], json!({}));
    }

    #[test]
    fn the_class_is_by_the_weakest_container() {
        let sure = || container(json!({ "limits": { "cpu": "1", "memory": "1Gi" } }));
        let some = || container(json!({ "requests": { "cpu": "100m" } }));
        let none = || container(json!({ "requests": { "cpu": "0" } }));
        for (containers, expected) in [
            (vec![none()], "BestEffort"),
            (vec![sure(), sure()], "Guaranteed"),
            (vec![sure(), none()], "Burstable"),
            (vec![some()], "Burstable"),
        ] {
            assert_eq!(class(&json!({ "containers": containers })), expected);
        }
        assert_eq!(class(&json!({ "containers": [sure()], "initContainers": [none()] })), "Burstable");
    }
}
