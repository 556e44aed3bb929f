//! Faults of requirements on labels, of nodes and of other objects.
//!
//! Source: kubernetes `ValidateNodeSelectorRequirement`, `ValidateLabelSelectorRequirement`.

use crate::{
    syntax,
    value::{items, text},
};
use minisvc_apimachinery::Cause;
use serde_json::Value;

/// Most terms or tolerations of one list: the scheduler tries each on every node.
const ITEMS_MAX: usize = 100;

/// The items of a list in `value` with their paths; none, and a cause, if there are too many.
pub(super) fn bounded<'v>(
    value: &'v Value,
    pointer: &str,
    field: &str,
    causes: &mut Vec<Cause>,
) -> Vec<(String, &'v Value)> {
    let list = items(value, pointer);
    if list.len() > ITEMS_MAX {
        causes.push(Cause::too_many(field, list.len(), ITEMS_MAX));
        return Vec::new();
    }
    list.iter().enumerate().map(|(i, item)| (format!("{field}[{i}]"), item)).collect()
}

/// What labels may be compared by.
pub(super) const OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist"];
/// The same for labels of nodes.
pub(super) const NODE_OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

/// Faults of one requirement on labels, which is by one of these operators.
pub(super) fn requirement(requirement: &Value, field: &str, operators: &[&str], causes: &mut Vec<Cause>) {
    let values = items(requirement, "/values");
    let values_field = format!("{field}.values");
    match text(requirement, "/operator") {
        other if !operators.contains(&other) => {
            causes.push(Cause::invalid(format!("{field}.operator"), other, "not a valid selector operator"));
        }
        "In" | "NotIn" if values.is_empty() => {
            let words = "must be specified when `operator` is 'In' or 'NotIn'";
            causes.push(Cause::required(&values_field, words));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let words = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.push(Cause::forbidden(&values_field, words));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let words = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            causes.push(Cause::required(&values_field, words));
        }
        _ => {}
    }
    label_name(text(requirement, "/key"), &format!("{field}.key"), causes);
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        for fault in syntax::label_value(value) {
            causes.push(Cause::invalid(format!("{values_field}[{i}]"), value, &fault));
        }
    }
}

/// Faults of a label's key.
pub(super) fn label_name(name: &str, field: &str, causes: &mut Vec<Cause>) {
    for fault in syntax::qualified_name(name) {
        causes.push(Cause::invalid(field, name, &fault));
    }
}
