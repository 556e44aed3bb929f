//! v1 ConfigMap. Source: kubernetes `pkg/apis/core/validation` (`ValidateConfigMap`).

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::at,
};
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use minisvc_apimachinery::Cause;
use serde::Deserialize as _;
use serde_json::{Value, json};

/// Bytes of all values of a ConfigMap or a Secret together.
pub(super) const DATA_BYTES_MAX: usize = 1 << 20;

pub(crate) struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<ConfigMap>(object)
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let mut bytes = 0;
        for (key, value) in entries(object, "data") {
            check_key("data", key, &mut causes);
            if object.pointer("/binaryData").and_then(|data| data.get(key)).is_some() {
                let words = "duplicate of key present in binaryData";
                causes.push(Cause::invalid(format!("data[{key}]"), key, words));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        for (key, value) in entries(object, "binaryData") {
            check_key("binaryData", key, &mut causes);
            bytes += decoded(value).len();
        }
        if bytes > DATA_BYTES_MAX {
            causes.push(Cause::too_long("", DATA_BYTES_MAX));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        immutable(new, old, &["data", "binaryData"])
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("Data", "integer"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let count = entries(object, "data").count() + entries(object, "binaryData").count();
        vec![name(object), json!(count), age(object, now)]
    }
}

/// The entries of a map.
pub(super) fn entries<'v>(object: &'v Value, field: &str) -> impl Iterator<Item = (&'v str, &'v Value)> {
    let map = object.get(field).and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// The bytes of a base64 text, none if it is not one.
pub(super) fn decoded(value: &Value) -> Vec<u8> {
    ByteString::deserialize(value).map(|bytes| bytes.0).unwrap_or_default()
}

/// Faults of a key.
pub(super) fn check_key(field: &str, key: &str, causes: &mut Vec<Cause>) {
    for fault in syntax::config_key(key) {
        causes.push(Cause::invalid(format!("{field}[{key}]"), key, &fault));
    }
}

/// Faults of changing what says of itself that it is immutable.
pub(super) fn immutable(new: &Value, old: &Value, fields: &[&str]) -> Vec<Cause> {
    if at(old, "/immutable") != Some(&Value::Bool(true)) {
        return Vec::new();
    }
    let words = "field is immutable when `immutable` is set";
    let empty =
        |value: Option<&Value>| value.is_none_or(|v| v.as_object().is_some_and(serde_json::Map::is_empty));
    let mut causes = Vec::new();
    if at(new, "/immutable") != Some(&Value::Bool(true)) {
        causes.push(Cause::forbidden("immutable", words));
    }
    for field in fields {
        let (before, after) = (old.get(field), new.get(field));
        if before != after && !(empty(before) && empty(after)) {
            causes.push(Cause::forbidden(*field, words));
        }
    }
    causes
}
