//! Faults of what says where a Pod may run: `affinity`, `tolerations`.
//!
//! Source: kubernetes `pkg/apis/core/validation` (`validateAffinity` and its neighbours). The scheduler carries out all of it.

use super::{
    requirements::{NODE_OPERATORS, bounded, label_name, requirement},
    topology,
};
use crate::{
    syntax,
    value::{at, int, items, text},
};
use minisvc_apimachinery::Cause;
use serde_json::Value;

pub(super) const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
pub(super) const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Faults of a Pod's spec, which stands at `path` of its object.
pub(super) fn check(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    affinity(spec, path, causes);
    topology::spread(spec, path, causes);
    tolerations(spec, path, causes);
}

fn affinity(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(affinity) = at(spec, "/affinity") else { return };
    if let Some(node) = at(affinity, "/nodeAffinity") {
        of_nodes(node, &format!("{path}.affinity.nodeAffinity"), causes);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        if let Some(said) = at(affinity, &format!("/{kind}")) {
            topology::affinity(said, &format!("{path}.affinity.{kind}"), causes);
        }
    }
}

fn of_nodes(affinity: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(required) = at(affinity, &format!("/{REQUIRED}")) {
        let field = format!("{path}.{REQUIRED}.nodeSelectorTerms");
        if items(required, "/nodeSelectorTerms").is_empty() {
            causes.push(Cause::required(&field, "must have at least one node selector term"));
        }
        for (field, term) in bounded(required, "/nodeSelectorTerms", &field, causes) {
            node_term(term, &field, causes);
        }
    }
    for (field, term) in bounded(affinity, &format!("/{PREFERRED}"), &format!("{path}.{PREFERRED}"), causes) {
        weight(term, &field, causes);
        node_term(term.get("preference").unwrap_or(&Value::Null), &format!("{field}.preference"), causes);
    }
}

fn node_term(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (field, expression) in bounded(term, "/matchExpressions", &format!("{path}.matchExpressions"), causes)
    {
        requirement(expression, &field, NODE_OPERATORS, causes);
    }
    for (field, wanted) in bounded(term, "/matchFields", &format!("{path}.matchFields"), causes) {
        node_field(wanted, &field, causes);
    }
}

fn node_field(wanted: &Value, path: &str, causes: &mut Vec<Cause>) {
    let values = items(wanted, "/values");
    match text(wanted, "/operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let words = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            causes.push(Cause::required(format!("{path}.values"), words));
        }
        "In" | "NotIn" => {}
        other => {
            causes.push(Cause::invalid(format!("{path}.operator"), other, "not a valid selector operator"))
        }
    }
    let key = text(wanted, "/key");
    if key != "metadata.name" {
        causes.push(Cause::invalid(format!("{path}.key"), key, "not a valid field selector key"));
        return;
    }
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        for fault in syntax::subdomain(value) {
            causes.push(Cause::invalid(format!("{path}.values[{i}]"), value, &fault));
        }
    }
}

pub(super) fn weight(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    let weight = int(term, "/weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        causes.push(Cause::invalid(format!("{path}.weight"), weight, "must be in the range 1-100"));
    }
}

/// `ValidateTolerations`.
fn tolerations(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (path, toleration) in bounded(spec, "/tolerations", &format!("{path}.tolerations"), causes) {
        let (key, operator) = (text(toleration, "/key"), text(toleration, "/operator"));
        let (value, effect) = (text(toleration, "/value"), text(toleration, "/effect"));
        let operator_field = format!("{path}.operator");
        if !key.is_empty() {
            label_name(key, &format!("{path}.key"), causes);
        } else if operator != "Exists" {
            let words =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.push(Cause::invalid(&operator_field, operator, words));
        }
        if at(toleration, "/tolerationSeconds").is_some() && effect != "NoExecute" {
            let words = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.push(Cause::invalid(format!("{path}.effect"), effect, words));
        }
        match operator {
            "" | "Equal" => {
                let faults = syntax::label_value(value);
                if !faults.is_empty() {
                    causes.push(Cause::invalid(operator_field, value, &faults.join(";")));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let words = "value must be empty when `operator` is 'Exists'";
                causes.push(Cause::invalid(operator_field, toleration.clone(), words));
            }
            other => causes.push(Cause::not_supported(operator_field, other, &["Equal", "Exists"])),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            causes.push(Cause::not_supported(format!("{path}.effect"), effect, &effects));
        }
    }
}
