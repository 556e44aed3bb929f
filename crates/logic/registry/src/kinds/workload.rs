//! What Deployments and ReplicaSets have in common: a number of Pods, a selector, a template.
//!
//! Source: kubernetes `pkg/apis/apps/validation`, `pkg/apis/core/validation` (`ValidatePodTemplateSpec`).

use super::{pod, reads_as};
use crate::{
    meta,
    strategy::Strategy,
    table::{Column, age, name},
    value::{at, int, items, object_mut, strings, text},
};
use k8s_openapi::{api::autoscaling::v1::Scale, apimachinery::pkg::apis::meta::v1 as api};
use minisvc_apimachinery::{Cause, selector::LabelSelector};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// autoscaling/v1 Scale: only shown; `crate::scale` reads and writes it.
pub(crate) struct Scales;

impl Strategy for Scales {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Scale>(object)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Desired", "integer"),
                Column::new("Available", "integer"),
                Column::new("Age", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let number = |pointer: &str| int(object, pointer).unwrap_or(0).into();
        vec![name(object), number("/spec/replicas"), number("/status/replicas"), age(object, now)]
    }
}

/// Fills in one replica and the template's defaults.
pub(super) fn default(object: &mut Value) {
    let Some(spec) = object_mut(object, "spec") else { return };
    let replicas = spec.entry("replicas").or_insert(Value::Null);
    if replicas.is_null() {
        *replicas = 1.into();
    }
    if let Some(spec) = object.pointer_mut("/spec/template/spec").filter(|spec| spec.is_object()) {
        pod::default_spec(spec);
    }
}

/// A number that must not be negative.
pub(super) fn not_negative(object: &Value, pointer: &str, causes: &mut Vec<Cause>) {
    if let Some(number) = int(object, pointer)
        && number < 0
    {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        causes.push(Cause::invalid(field, number, "must be greater than or equal to 0"));
    }
}

/// Faults of replicas, selector and template. `kind` as Kubernetes says it, such as `replica set`.
pub(super) fn validate(object: &Value, kind: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    not_negative(object, "/spec/replicas", &mut causes);
    not_negative(object, "/spec/minReadySeconds", &mut causes);
    let given = at(object, "/spec/selector");
    let selector = match given {
        None => {
            causes.push(Cause::required("spec.selector", ""));
            None
        }
        Some(given) => match read_selector(given) {
            None => {
                causes.push(Cause::invalid("spec.selector", given.clone(), "invalid label selector"));
                None
            }
            Some(selector) if selector.is_empty() => {
                let words = format!("empty selector is invalid for {kind}");
                causes.push(Cause::invalid("spec.selector", given.clone(), &words));
                None
            }
            selector => selector,
        },
    };
    let template = at(object, "/spec/template").unwrap_or(&Value::Null);
    if template.is_null() {
        causes.push(Cause::required("spec.template", ""));
        return causes;
    }
    let labels: BTreeMap<String, String> =
        strings(template, "/metadata/labels").map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    if selector.is_some_and(|selector| !selector.matches(&labels)) {
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let words = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", labels, words));
    }
    meta::labels(template, "/metadata/labels", "spec.template.labels", &mut causes);
    let spec = template.get("spec").unwrap_or(&Value::Null);
    causes.extend(pod::validate::spec(spec, "spec.template.spec"));
    let restart = text(spec, "/restartPolicy");
    if !["", "Always"].contains(&restart) {
        causes.push(Cause::not_supported("spec.template.spec.restartPolicy", restart, &["Always"]));
    }
    if at(spec, "/activeDeadlineSeconds").is_some() {
        let words = "activeDeadlineSeconds in ReplicaSet is not Supported";
        causes.push(Cause::forbidden("spec.template.spec.activeDeadlineSeconds", words));
    }
    causes
}

/// The selector cannot change: Pods would be left behind, or fought over.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let selector = |object: &Value| object.pointer("/spec/selector").cloned().unwrap_or_default();
    let (given, before) = (selector(new), selector(old));
    if given == before {
        return Vec::new();
    }
    vec![Cause::invalid("spec.selector", given, "field is immutable")]
}

/// Faults of a new version of a subresource: of its status the counts, none of which can be more than `replicas`.
pub(super) fn validate_subresource(name: &str, object: &Value, counts: &[&str]) -> Vec<Cause> {
    let mut causes = Vec::new();
    if name != "status" {
        return causes;
    }
    let all = int(object, "/status/replicas").unwrap_or(0);
    not_negative(object, "/status/replicas", &mut causes);
    not_negative(object, "/status/observedGeneration", &mut causes);
    for field in counts {
        let pointer = format!("/status/{field}");
        not_negative(object, &pointer, &mut causes);
        let count = int(object, &pointer).unwrap_or(0);
        if count > all {
            let words = "cannot be greater than status.replicas";
            causes.push(Cause::invalid(format!("status.{field}"), count, words));
        }
    }
    let available = int(object, "/status/availableReplicas").unwrap_or(0);
    if available > int(object, "/status/readyReplicas").unwrap_or(0) {
        let words = "cannot be greater than readyReplicas";
        causes.push(Cause::invalid("status.availableReplicas", available, words));
    }
    causes
}

fn read_selector(selector: &Value) -> Option<LabelSelector> {
    let selector = api::LabelSelector::deserialize(selector).ok()?;
    LabelSelector::from_selector(&selector).ok()
}

/// A selector as one text: `app=web,tier in (a,b)` (source: apimachinery `FormatLabelSelector`).
pub(crate) fn selector_text(object: &Value) -> String {
    let mut parts: Vec<(&str, String)> = strings(object, "/spec/selector/matchLabels")
        .map(|(key, value)| (key, format!("{key}={value}")))
        .collect();
    for expression in items(object, "/spec/selector/matchExpressions") {
        let key = text(expression, "/key");
        let mut values: Vec<&str> = items(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key, part));
    }
    parts.sort_unstable();
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

/// The last cells of `-o wide`: containers, images, selector.
pub(super) fn wide_cells(object: &Value) -> [Value; 3] {
    let containers = items(object, "/spec/template/spec/containers");
    let all = |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    let selector = match selector_text(object) {
        text if text.is_empty() => "<none>".to_owned(),
        text => text,
    };
    [all("/name").into(), all("/image").into(), selector.into()]
}
