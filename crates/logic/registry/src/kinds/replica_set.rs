//! apps/v1 ReplicaSet. Source: kubernetes `pkg/apis/apps/validation` (`ValidateReplicaSet`).

use super::{reads_as, workload};
use crate::{
    context::Subject,
    strategy::Strategy,
    table::{Column, age, name},
    value::int,
};
use k8s_openapi::api::apps::v1::ReplicaSet;
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};

pub(crate) struct ReplicaSets;

impl Strategy for ReplicaSets {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<ReplicaSet>(object)
    }

    fn default(&self, object: &mut Value) {
        workload::default(object);
    }

    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        object["status"] = json!({"replicas": 0});
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        workload::validate(object, "replica set")
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        workload::validate_update(new, old)
    }

    fn validate_subresource(&self, name: &str, new: &Value, _old: &Value) -> Vec<Cause> {
        let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::validate_subresource(name, new, &counts)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Desired", "integer"),
                Column::new("Current", "integer"),
                Column::new("Ready", "integer"),
                Column::new("Age", "string"),
                Column::wide("Containers", "string"),
                Column::wide("Images", "string"),
                Column::wide("Selector", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let number = |pointer: &str| json!(int(object, pointer).unwrap_or(0));
        let mut cells = vec![
            name(object),
            number("/spec/replicas"),
            number("/status/replicas"),
            number("/status/readyReplicas"),
            age(object, now),
        ];
        cells.extend(workload::wide_cells(object));
        cells
    }
}
