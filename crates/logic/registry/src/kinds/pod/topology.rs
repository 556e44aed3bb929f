//! Faults of what says which other Pods a Pod is to be near to or far from: `podAffinity`, `podAntiAffinity`,
//! `topologySpreadConstraints`.
//!
//! Source: kubernetes `pkg/apis/core/validation` (`validatePodAffinity`, `validateTopologySpreadConstraints`). The scheduler carries out
//! all of it but `matchLabelKeys` of affinities, which are refused by name.

use super::{
    affinity::{PREFERRED, REQUIRED, weight},
    requirements::{OPERATORS, bounded, label_name, requirement},
    validate::{choice, refuse_unsupported},
};
use crate::{
    meta, syntax,
    value::{at, int, items, text},
};
use minisvc_apimachinery::Cause;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const TERM: [&str; 4] = ["labelSelector", "namespaceSelector", "namespaces", "topologyKey"];
const POLICIES: [&str; 2] = ["Honor", "Ignore"];
const HARD: &str = "DoNotSchedule";
const UNSATISFIABLE: [&str; 2] = [HARD, "ScheduleAnyway"];

/// Faults of a `podAffinity` or a `podAntiAffinity`, which stands at `path`.
pub(super) fn affinity(affinity: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (field, item) in bounded(affinity, &format!("/{REQUIRED}"), &format!("{path}.{REQUIRED}"), causes) {
        term(item, &field, causes);
    }
    for (field, item) in bounded(affinity, &format!("/{PREFERRED}"), &format!("{path}.{PREFERRED}"), causes) {
        weight(item, &field, causes);
        let inner = item.get("podAffinityTerm").unwrap_or(&Value::Null);
        term(inner, &format!("{field}.podAffinityTerm"), causes);
    }
}

fn term(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    let empty = Map::new();
    refuse_unsupported(term.as_object().unwrap_or(&empty), path, &TERM, causes);
    for field in ["labelSelector", "namespaceSelector"] {
        selector(term, field, path, causes);
    }
    for (field, name) in bounded(term, "/namespaces", &format!("{path}.namespaces"), causes) {
        let name = name.as_str().unwrap_or_default();
        for fault in syntax::label(name) {
            causes.push(Cause::invalid(&field, name, &fault));
        }
    }
    topology_key(term, path, causes);
}

fn topology_key(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    let field = format!("{path}.topologyKey");
    match text(object, "/topologyKey") {
        "" => causes.push(Cause::required(field, "can not be empty")),
        key => label_name(key, &field, causes),
    }
}

fn selector(object: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    let Some(selector) = at(object, &format!("/{field}")) else { return };
    let path = format!("{path}.{field}");
    meta::labels(selector, "/matchLabels", &format!("{path}.matchLabels"), causes);
    let list = format!("{path}.matchExpressions");
    for (field, expression) in bounded(selector, "/matchExpressions", &list, causes) {
        requirement(expression, &field, OPERATORS, causes);
    }
}

/// Faults of the constraints of a spec, which stands at `path`.
pub(super) fn spread(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    let list = format!("{path}.topologySpreadConstraints");
    for (path, constraint) in bounded(spec, "/topologySpreadConstraints", &list, causes) {
        let number = |name: &str| int(constraint, &format!("/{name}"));
        let said = number("maxSkew").unwrap_or(0);
        if said <= 0 {
            causes.push(Cause::invalid(format!("{path}.maxSkew"), said, "must be greater than zero"));
        }
        topology_key(constraint, &path, causes);
        let (key, action) = (text(constraint, "/topologyKey"), text(constraint, "/whenUnsatisfiable"));
        if !UNSATISFIABLE.contains(&action) {
            causes.push(Cause::not_supported(format!("{path}.whenUnsatisfiable"), action, &UNSATISFIABLE));
        }
        if !seen.insert((key, action)) {
            let field = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
            causes.push(Cause::duplicate(field, format!("{{{key}, {action}}}")));
        }
        let field = format!("{path}.minDomains");
        match number("minDomains") {
            Some(said) if said <= 0 => causes.push(Cause::invalid(field, said, "must be greater than zero")),
            Some(said) if action != HARD => {
                let words = format!("can only use minDomains if whenUnsatisfiable={HARD}, not {action}");
                causes.push(Cause::invalid(field, said, &words));
            }
            _ => {}
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            choice(constraint, &format!("/{policy}"), &format!("{path}.{policy}"), &POLICIES, causes);
        }
        selector(constraint, "labelSelector", &path, causes);
        match_label_keys(constraint, &path, causes);
    }
}

fn match_label_keys(constraint: &Value, path: &str, causes: &mut Vec<Cause>) {
    let list = format!("{path}.matchLabelKeys");
    let keys = bounded(constraint, "/matchLabelKeys", &list, causes);
    if !keys.is_empty() && at(constraint, "/labelSelector").is_none() {
        causes.push(Cause::forbidden(list, "must not be specified when labelSelector is not set"));
        return;
    }
    let expressions = items(constraint, "/labelSelector/matchExpressions");
    let expressed: BTreeSet<&str> = expressions.iter().map(|expression| text(expression, "/key")).collect();
    let labels = at(constraint, "/labelSelector/matchLabels").and_then(Value::as_object);
    for (field, key) in keys {
        let key = key.as_str().unwrap_or_default();
        label_name(key, &field, causes);
        if expressed.contains(key) || labels.is_some_and(|labels| labels.contains_key(key)) {
            causes.push(Cause::invalid(
                &field,
                json!(key),
                "exists in both matchLabelKeys and labelSelector",
            ));
        }
    }
}
