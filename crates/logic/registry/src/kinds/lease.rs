//! coordination.k8s.io/v1 Lease. Source: kubernetes `pkg/apis/coordination/validation`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    table::{Column, age, name},
    value::{int, text},
};
use k8s_openapi::api::coordination::v1::Lease;
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};

pub(crate) struct Leases;

impl Strategy for Leases {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Lease>(object)
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        if let Some(seconds) = int(object, "/spec/leaseDurationSeconds")
            && seconds <= 0
        {
            causes.push(Cause::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
        }
        if let Some(count) = int(object, "/spec/leaseTransitions")
            && count < 0
        {
            let words = "must be greater than or equal to 0";
            causes.push(Cause::invalid("spec.leaseTransitions", count, words));
        }
        causes
    }

    fn may_create_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("Holder", "string"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(object), json!(text(object, "/spec/holderIdentity")), age(object, now)]
    }
}
