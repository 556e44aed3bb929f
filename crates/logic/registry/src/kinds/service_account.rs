//! v1 ServiceAccount: who a Pod is to the API.
//!
//! Source: kubernetes `pkg/registry/core/serviceaccount/strategy.go`, `pkg/apis/core/validation`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    table::{Column, age, name},
    value::{items, items_mut},
};
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};

/// The account of Pods that name none; every namespace has it.
pub(super) const DEFAULT: &str = "default";

pub(crate) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<ServiceAccount>(object)
    }

    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        clean_secrets(object);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _subject: &Subject<'_>) {
        clean_secrets(new);
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("Secrets", "string"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(object), json!(items(object, "/secrets").len()), age(object, now)]
    }
}

/// Of a reference to a Secret only its name counts: it is always one of the same namespace.
fn clean_secrets(object: &mut Value) {
    for secret in items_mut(object, "/secrets") {
        if let Some(reference) = secret.as_object_mut() {
            reference.retain(|field, _| field == "name");
        }
    }
}
