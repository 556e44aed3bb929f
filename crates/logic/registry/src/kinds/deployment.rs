//! apps/v1 Deployment. Source: kubernetes `pkg/apis/apps/validation` (`ValidateDeployment`), `pkg/apis/apps/v1/defaults.go`.

use super::{reads_as, workload};
use crate::{
    context::Subject,
    strategy::Strategy,
    table::{Column, age, name},
    value::{at, int, text},
};
use k8s_openapi::api::apps::v1::Deployment;
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const UPDATE: &str = "spec.strategy.rollingUpdate";

pub(crate) struct Deployments;

impl Strategy for Deployments {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Deployment>(object)
    }

    fn default(&self, object: &mut Value) {
        workload::default(object);
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for (field, value) in [
            ("progressDeadlineSeconds", json!(600)),
            ("revisionHistoryLimit", json!(10)),
            ("strategy", json!({})),
        ] {
            let slot = spec.entry(field).or_insert(Value::Null);
            if slot.is_null() {
                *slot = value;
            }
        }
        let Some(strategy) = spec.get_mut("strategy").and_then(Value::as_object_mut) else { return };
        let kind = strategy.entry("type").or_insert(Value::Null);
        if kind.is_null() || *kind == "" {
            *kind = json!("RollingUpdate");
        }
        if *kind != "RollingUpdate" {
            return;
        }
        let update = strategy.entry("rollingUpdate").or_insert(Value::Null);
        if update.is_null() {
            *update = json!({});
        }
        let Some(update) = update.as_object_mut() else { return };
        for field in ["maxUnavailable", "maxSurge"] {
            let slot = update.entry(field).or_insert(Value::Null);
            if slot.is_null() {
                *slot = json!("25%");
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        object["status"] = json!({});
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = workload::validate(object, "deployment");
        strategy(object, &mut causes);
        workload::not_negative(object, "/spec/revisionHistoryLimit", &mut causes);
        workload::not_negative(object, "/spec/progressDeadlineSeconds", &mut causes);
        if let Some(deadline) = int(object, "/spec/progressDeadlineSeconds")
            && deadline <= int(object, "/spec/minReadySeconds").unwrap_or(0)
        {
            let words = "must be greater than minReadySeconds";
            causes.push(Cause::invalid("spec.progressDeadlineSeconds", deadline, words));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        workload::validate_update(new, old)
    }

    fn validate_subresource(&self, name: &str, new: &Value, _old: &Value) -> Vec<Cause> {
        let counts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        workload::validate_subresource(name, new, &counts)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Ready", "string"),
                Column::new("Up-to-date", "integer"),
                Column::new("Available", "integer"),
                Column::new("Age", "string"),
                Column::wide("Containers", "string"),
                Column::wide("Images", "string"),
                Column::wide("Selector", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let number = |pointer: &str| int(object, pointer).unwrap_or(0);
        let ready = format!("{}/{}", number("/status/readyReplicas"), number("/spec/replicas"));
        let mut cells = vec![
            name(object),
            json!(ready),
            json!(number("/status/updatedReplicas")),
            json!(number("/status/availableReplicas")),
            age(object, now),
        ];
        cells.extend(workload::wide_cells(object));
        cells
    }
}

fn strategy(object: &Value, causes: &mut Vec<Cause>) {
    let update = at(object, "/spec/strategy/rollingUpdate");
    match text(object, "/spec/strategy/type") {
        "Recreate" => {
            if update.is_some() {
                let words = "may not be specified when strategy `type` is 'Recreate'";
                causes.push(Cause::forbidden(UPDATE, words));
            }
        }
        "RollingUpdate" => {
            let update = update.unwrap_or(&Value::Null);
            let before = causes.len();
            for field in ["maxUnavailable", "maxSurge"] {
                amount(update.get(field).unwrap_or(&Value::Null), &format!("{UPDATE}.{field}"), causes);
            }
            if causes.len() > before {
                return;
            }
            let none = |field: &str| update.get(field).is_some_and(|v| *v == 0 || *v == "0%");
            if none("maxUnavailable") && none("maxSurge") {
                let given = update.get("maxUnavailable").cloned().unwrap_or_default();
                let words = "may not be 0 when `maxSurge` is 0";
                causes.push(Cause::invalid(format!("{UPDATE}.maxUnavailable"), given, words));
            }
            let percent =
                text(update, "/maxUnavailable").strip_suffix('%').and_then(|n| n.parse::<u64>().ok());
            if percent.is_some_and(|percent| percent > 100) {
                let given = text(update, "/maxUnavailable");
                let words = "must not be greater than 100%";
                causes.push(Cause::invalid(format!("{UPDATE}.maxUnavailable"), given, words));
            }
        }
        other => {
            causes.push(Cause::not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]))
        }
    }
}

/// A number of Pods, or a share of all of them.
fn amount(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Number(number) if number.as_i64().is_none_or(|number| number < 0) => {
            causes.push(Cause::invalid(field, value.clone(), "must be greater than or equal to 0"));
        }
        Value::String(share) => {
            // Nine digits are more Pods than can be, and fit a number of 32 bits.
            let digits = share.strip_suffix('%').unwrap_or_default();
            if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                causes.push(Cause::invalid(field, share.as_str(), PERCENT));
            }
        }
        _ => {}
    }
}
