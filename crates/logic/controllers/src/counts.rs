//! Statuses of workloads: counts as Kubernetes writes them, and only if something is news.

use serde_json::{Value, json};

/// Zero is left out, as in Kubernetes.
pub(crate) fn counted<N: Into<i64>>(count: N) -> Value {
    match count.into() {
        0 => Value::Null,
        count => json!(count),
    }
}

/// Whether a status says something else than the present one, of the fields that it names.
pub(crate) fn is_news(status: &Value, present: &Value) -> bool {
    let differs = |(field, value): (&String, &Value)| present.get(field).unwrap_or(&Value::Null) != value;
    status.as_object().is_some_and(|fields| fields.iter().any(differs))
}
