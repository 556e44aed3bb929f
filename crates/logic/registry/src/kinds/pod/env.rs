//! What a container may say of its environment.
//!
//! Source: kubernetes `pkg/apis/core/validation`, `ValidateEnv`, `validateEnvFrom`.

use super::{resources, validate::refuse_unsupported};
use crate::{
    syntax,
    value::{at, items, text},
};
use minisvc_apimachinery::Cause;
use serde_json::{Map, Value};

/// What `valueFrom.fieldRef` can name, beside one label or annotation.
const FIELD_REFS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const SOURCES: [&str; 4] = ["configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef"];
const LISTS: [&str; 2] = ["configMapRef", "secretRef"];

/// Faults of `env` and `envFrom` of the container at `path`.
pub(super) fn check(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (i, variable) in items(container, "/env").iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        let name = text(variable, "/name");
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        } else {
            named(name, &format!("{path}.name"), causes);
        }
        if let Some(from) = at(variable, "/valueFrom").and_then(Value::as_object) {
            let path = format!("{path}.valueFrom");
            if !text(variable, "/value").is_empty() {
                let words = "may not be specified when `value` is not empty";
                causes.push(Cause::invalid(path.as_str(), "", words));
            }
            value_from(from, &path, causes);
        }
    }
    for (i, source) in items(container, "/envFrom").iter().enumerate() {
        let path = format!("{path}.envFrom[{i}]");
        let prefix = text(source, "/prefix");
        if !prefix.is_empty() {
            named(prefix, &format!("{path}.prefix"), causes);
        }
        match one_of(source, &LISTS) {
            [] => {
                let words = "must specify one of: `configMapRef` or `secretRef`";
                causes.push(Cause::invalid(path, "", words));
            }
            [list] => object_named(source, list, &path, causes),
            _ => causes.push(Cause::invalid(path, "", ONE_ONLY)),
        }
    }
}

const ONE_ONLY: &str = "may not have more than one field specified at a time";

fn named(name: &str, path: &str, causes: &mut Vec<Cause>) {
    causes.extend(syntax::env_name(name).iter().map(|fault| Cause::invalid(path, name, fault)));
}

/// Which of these an object has.
fn one_of<'n>(object: &Value, names: &'n [&'n str]) -> &'n [&'n str] {
    let has = |name: &&str| object.get(*name).is_some_and(|value| !value.is_null());
    let first = names.iter().position(has);
    let last = names.iter().rposition(has);
    match (first, last) {
        (Some(first), Some(last)) => &names[first..=last],
        _ => &[],
    }
}

fn value_from(from: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    refuse_unsupported(from, path, &SOURCES, causes);
    let from = &Value::Object(from.clone());
    match one_of(from, &SOURCES) {
        [] => {
            if from.as_object().is_some_and(Map::is_empty) {
                let words = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
                causes.push(Cause::invalid(path, "", words));
            }
        }
        ["fieldRef"] => field_ref(text(from, "/fieldRef/fieldPath"), &format!("{path}.fieldRef"), causes),
        ["resourceFieldRef"] => {
            resources::check_field(
                &from["resourceFieldRef"],
                &format!("{path}.resourceFieldRef"),
                false,
                causes,
            );
        }
        [source] => {
            object_named(from, source, path, causes);
            let key = text(from, &format!("/{source}/key"));
            let path = format!("{path}.{source}.key");
            match key {
                "" => causes.push(Cause::required(path, "")),
                key => causes.extend(
                    syntax::config_key(key).iter().map(|fault| Cause::invalid(path.as_str(), key, fault)),
                ),
            }
        }
        _ => causes.push(Cause::invalid(path, "", ONE_ONLY)),
    }
}

/// A field of the Pod, for its environment.
fn field_ref(field: &str, path: &str, causes: &mut Vec<Cause>) {
    let path = format!("{path}.fieldPath");
    if field.is_empty() {
        causes.push(Cause::required(path, ""));
    } else if !FIELD_REFS.contains(&field) && !is_entry(field) {
        causes.push(Cause::not_supported(path, field, &FIELD_REFS));
    }
}

/// One label or annotation: `metadata.labels['KEY']`.
pub(super) fn is_entry(field: &str) -> bool {
    let key = ["metadata.labels['", "metadata.annotations['"].iter().find_map(|map| field.strip_prefix(map));
    key.and_then(|rest| rest.strip_suffix("']")).is_some_and(|key| syntax::qualified_name(key).is_empty())
}

/// Faults of the name of the ConfigMap or Secret that `source` of an object means.
fn object_named(object: &Value, source: &str, path: &str, causes: &mut Vec<Cause>) {
    let path = format!("{path}.{source}.name");
    match text(object, &format!("/{source}/name")) {
        "" => causes.push(Cause::required(path, "")),
        name => {
            causes.extend(
                syntax::subdomain(name).iter().map(|fault| Cause::invalid(path.as_str(), name, fault)),
            );
        }
    }
}
