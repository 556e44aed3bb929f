//! `meta.k8s.io/v1` Table: what `kubectl get` prints.
//!
//! Source: kubernetes `pkg/printers/internalversion/printers.go`, k8s.io/apimachinery `util/duration`.

use crate::{
    kinds,
    value::{at, text},
};
use minisvc_apimachinery::{Resource, convert};
use serde_json::{Value, json};

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    priority: u8,
}

impl Column {
    /// The object's name, by which kubectl finds the row.
    pub(crate) const fn name() -> Self {
        Self { name: "Name", kind: "string", format: "name", priority: 0 }
    }

    /// The object's name where it is shown only when asked for more.
    pub(crate) const fn wide_name() -> Self {
        Self { name: "Name", kind: "string", format: "name", priority: 1 }
    }

    /// A column that is always shown.
    pub(crate) const fn new(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, format: "", priority: 0 }
    }

    /// A column of `-o wide`.
    pub(crate) const fn wide(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, format: "", priority: 1 }
    }
}

/// What a row carries of its object (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// The table of some objects of a kind, as they are stored. `metadata` is empty: the caller knows the list's `resourceVersion` and
/// `continue`, a watch sends the object's own.
pub fn table(r: &Resource, objects: &[&Value], now: jiff::Timestamp, include: IncludeObject) -> Value {
    let strategy = kinds::strategy(r).ok();
    let plain = const { &[Column::name(), Column::new("Age", "string")] };
    let columns: Vec<Value> = strategy
        .map_or(plain.as_slice(), |strategy| strategy.columns())
        .iter()
        .map(|column| {
            json!({"name": column.name, "type": column.kind, "format": column.format,
                   "description": description(column.name), "priority": column.priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells = match strategy {
                Some(strategy) => strategy.cells(object, now),
                None => vec![name(object), age(object, now)],
            };
            let mut row = json!({"cells": cells});
            let carried = match include {
                IncludeObject::None => None,
                IncludeObject::Metadata => Some(json!({"kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1", "metadata": convert::served(r, object).get("metadata")})),
                IncludeObject::Object => Some(convert::served(r, object).into_owned()),
            };
            if let (Some(carried), Some(row)) = (carried, row.as_object_mut()) {
                row.insert("object".to_owned(), carried);
            }
            row
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows})
}

fn description(name: &str) -> &'static str {
    match name {
        "Name" => "Name must be unique within a namespace.",
        "Age" => "Time since the object was made.",
        _ => "",
    }
}

/// The cell of the object's name.
pub(crate) fn name(object: &Value) -> Value {
    json!(text(object, "/metadata/name"))
}

/// The cell of the object's age.
pub(crate) fn age(object: &Value, now: jiff::Timestamp) -> Value {
    since(at(object, "/metadata/creationTimestamp"), now)
}

/// The time since a time, as kubectl prints it.
pub(crate) fn since(time: Option<&Value>, now: jiff::Timestamp) -> Value {
    let time = time.and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match time {
        Some(time) => json!(human(now.as_second() - time.as_second())),
        None => json!("<unknown>"),
    }
}

/// A time span of so many seconds: the fewer units the longer it is.
fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if hours < 3 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, words) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600 + 300, "3h5m"),
            (8 * 3600 + 300, "8h"),
            (49 * 3600, "2d1h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(human(seconds), words);
        }
    }
}
