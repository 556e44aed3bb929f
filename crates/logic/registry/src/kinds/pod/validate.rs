//! What a Pod may say, and what of it may change.
//!
//! Invariant: a field that minisvc does not carry out is refused by name, never taken and forgotten. What clients
//! fill in of their own accord and changes nothing here (scheduler and account names, …) is taken.

use super::{affinity, env, host, init, lifecycle, names, probes, resources, security, volumes};
use crate::{
    meta, syntax,
    value::{at, int, is_blank, items, text},
};
use minisvc_apimachinery::Cause;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const CONTAINERS_MAX: usize = 100;
pub(super) const UNSUPPORTED: &str = "not supported by minisvc yet";
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Fields of the spec that are carried out, or that are harmless. Any other must say nothing.
const SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostNetwork",
    "hostname",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "preemptionPolicy",
    "readinessGates",
    "restartPolicy",
    "schedulerName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// The same of a container.
const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "restartPolicy",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeMounts",
    "workingDir",
];

/// Faults of a Pod's spec, which stands at `path` of its object.
pub(in crate::kinds) fn spec(spec: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let empty = Map::new();
    refuse_unsupported(spec.as_object().unwrap_or(&empty), path, SPEC, &mut causes);
    let field = |name: &str| format!("{path}.{name}");
    let restart = ["Always", "OnFailure", "Never"];
    choice(spec, "/restartPolicy", &field("restartPolicy"), &restart, &mut causes);
    names::check(spec, path, &mut causes);
    affinity::check(spec, path, &mut causes);
    lifecycle::check_pod(spec, path, &mut causes);
    if let Some(seconds) = int(spec, "/terminationGracePeriodSeconds")
        && seconds < 0
    {
        let words = "must be greater than or equal to 0";
        causes.push(Cause::invalid(field("terminationGracePeriodSeconds"), seconds, words));
    }
    for (name, check) in [
        ("hostname", syntax::label as fn(&str) -> syntax::Faults),
        ("subdomain", syntax::label),
        ("nodeName", syntax::subdomain),
        ("serviceAccountName", syntax::subdomain),
    ] {
        let value = text(spec, &format!("/{name}"));
        for fault in if value.is_empty() { Vec::new() } else { check(value) } {
            causes.push(Cause::invalid(field(name), value, &fault));
        }
    }
    meta::labels(spec, "/nodeSelector", &field("nodeSelector"), &mut causes);
    let volumes = volumes::check(spec, path, &mut causes);
    for list in ["containers", "initContainers"] {
        for (i, container) in items(spec, &format!("/{list}")).iter().enumerate() {
            volumes::mounts(container, &format!("{path}.{list}[{i}]"), &volumes, &mut causes);
        }
    }
    security::of_pod(spec, path, &mut causes);
    security::of_shared_network(spec, path, &mut causes);
    host::check(spec, path, path == "spec", &mut causes);
    containers(spec, path, &mut causes);
    causes
}

pub(super) fn refuse_unsupported(
    map: &Map<String, Value>,
    path: &str,
    known: &[&str],
    causes: &mut Vec<Cause>,
) {
    for (field, value) in map {
        if !known.contains(&field.as_str()) && !is_blank(Some(value)) {
            causes.push(Cause::forbidden(format!("{path}.{field}"), UNSUPPORTED));
        }
    }
}

pub(super) fn choice(
    object: &Value,
    pointer: &str,
    field: &str,
    supported: &[&str],
    causes: &mut Vec<Cause>,
) {
    let value = text(object, pointer);
    if !value.is_empty() && !supported.contains(&value) {
        causes.push(Cause::not_supported(field, value, supported));
    }
}

/// Faults of the containers. Those of all have names of their own.
fn containers(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let field = &format!("{path}.containers");
    let containers = items(spec, "/containers");
    if containers.is_empty() {
        causes.push(Cause::required(field, ""));
    }
    if containers.len() > CONTAINERS_MAX {
        causes.push(Cause::too_many(field, containers.len(), CONTAINERS_MAX));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, each) in containers.iter().enumerate() {
        let path = format!("{field}[{i}]");
        container(each, &path, &mut names, causes);
        if at(each, "/restartPolicy").is_some() {
            let words = "may not be set for non-init containers";
            causes.push(Cause::forbidden(format!("{path}.restartPolicy"), words));
        }
        let grace = int(spec, "/terminationGracePeriodSeconds");
        lifecycle::check(each, &path, grace, causes);
        probes::check(each, &path, causes);
    }
    init::check(spec, path, &mut names, causes);
}

/// Faults of what all containers have.
pub(super) fn container<'s>(
    container: &'s Value,
    path: &str,
    names: &mut BTreeSet<&'s str>,
    causes: &mut Vec<Cause>,
) {
    let empty = Map::new();
    let map = container.as_object().unwrap_or(&empty);
    refuse_unsupported(map, path, CONTAINER, causes);
    let name = text(container, "/name");
    if name.is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    } else {
        for fault in syntax::label(name) {
            causes.push(Cause::invalid(format!("{path}.name"), name, &fault));
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), name));
        }
    }
    security::of_container(container, path, causes);
    let image = text(container, "/image");
    if image.is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let words = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(format!("{path}.image"), image, words));
    }
    for (field, supported) in [
        ("imagePullPolicy", ["Always", "IfNotPresent", "Never"].as_slice()),
        ("terminationMessagePolicy", &["FallbackToLogsOnError", "File"]),
    ] {
        choice(container, &format!("/{field}"), &format!("{path}.{field}"), supported, causes);
    }
    container_ports(container, path, causes);
    resources::check(container, path, causes);
    env::check(container, path, causes);
}

fn container_ports(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut names = BTreeSet::new();
    for (i, port) in items(container, "/ports").iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            for fault in syntax::port_name(name) {
                causes.push(Cause::invalid(format!("{path}.name"), name, &fault));
            }
            if !names.insert(name) {
                causes.push(Cause::duplicate(format!("{path}.name"), name));
            }
        }
        match int(port, "/containerPort").unwrap_or(0) {
            0 => causes.push(Cause::required(format!("{path}.containerPort"), "")),
            number => {
                for fault in syntax::port_number(number) {
                    causes.push(Cause::invalid(format!("{path}.containerPort"), number, &fault));
                }
            }
        }
        choice(port, "/protocol", &format!("{path}.protocol"), &PROTOCOLS, causes);
    }
}

/// Faults of a change of the spec: almost everything is fixed.
pub(super) fn update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for list in ["containers", "initContainers"] {
        let length = |object: &Value| items(object, &format!("/spec/{list}")).len();
        if length(new) != length(old) {
            let words = "pod updates may not add or remove containers";
            return vec![Cause::forbidden(format!("spec.{list}"), words)];
        }
    }
    let (was, is) = (items(old, "/spec/tolerations"), items(new, "/spec/tolerations"));
    let but_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().map(|map| map.remove("tolerationSeconds"));
        toleration
    };
    let kept: Vec<Value> = is.iter().map(but_seconds).collect();
    if !was.iter().all(|toleration| kept.contains(&but_seconds(toleration))) {
        let words = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(Cause::forbidden("spec.tolerations", words));
    }
    lifecycle::update_deadline(new, old, &mut causes);
    let changed = changed_fields(new, old);
    if !changed.is_empty() {
        let words = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)\nchanged: {}",
            changed.join(", ")
        );
        causes.push(Cause::forbidden("spec", &words));
    }
    causes
}

fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let fields = |object: &Value| object.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let (before, after) = (fields(old), fields(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|name| match name.as_str() {
            "tolerations" | "activeDeadlineSeconds" => false,
            "containers" | "initContainers" => {
                let plain = |list: Option<&Value>| -> Vec<Value> {
                    let list = list.and_then(Value::as_array).cloned().unwrap_or_default();
                    list.into_iter().map(without_image).collect()
                };
                plain(before.get(*name)) != plain(after.get(*name))
            }
            name => {
                before.get(name) != after.get(name)
                    && !(is_blank(before.get(name)) && is_blank(after.get(name)))
            }
        })
        .map(|name| format!("spec.{name}"))
        .collect()
}

fn without_image(mut container: Value) -> Value {
    if let Some(map) = container.as_object_mut() {
        map.remove("image");
    }
    container
}
