//! One object, two APIs: what is stored in the form of another kind, and the way there and back.
//!
//! In: an object of a kind with [`Resource::stored_as`], as it is served or as it is stored. Out: the other form.
//!
//! Invariants: nothing is lost but names that the form does not have; other kinds come out as they went in; an entry of
//! `metadata.managedFields` speaks the form it is shown in.

use crate::resource::{EVENTS_K8S_IO, Resource};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Fields of events.k8s.io/v1 Event, and what v1 Event calls them (kubernetes `pkg/apis/events/v1/conversion.go`).
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

fn renamed(resource: &Resource) -> &'static [(&'static str, &'static str)] {
    if *resource == EVENTS_K8S_IO { EVENT_FIELDS } else { &[] }
}

/// The object as it is stored.
pub fn to_stored(resource: &Resource, mut object: Value) -> Value {
    let Some(stored) = resource.stored_as else { return object };
    let pairs: Vec<(&str, &str)> = renamed(resource).to_vec();
    convert(&mut object, (resource, stored), &pairs);
    if let Some(map) = object.as_object_mut() {
        // The older form cannot go without.
        map.entry("involvedObject").or_insert_with(|| Value::Object(Map::new()));
    }
    object
}

/// The object as it is served.
pub fn to_served(resource: &Resource, mut object: Value) -> Value {
    let Some(stored) = resource.stored_as else { return object };
    let pairs: Vec<(&str, &str)> =
        renamed(resource).iter().map(|(served, stored)| (*stored, *served)).collect();
    convert(&mut object, (stored, resource), &pairs);
    object
}

/// A stored object as it is served; borrowed where that is the same.
pub fn served<'v>(resource: &Resource, stored: &'v Value) -> Cow<'v, Value> {
    match resource.stored_as {
        None => Cow::Borrowed(stored),
        Some(_) => Cow::Owned(to_served(resource, stored.clone())),
    }
}

/// The path of a field in the stored form, such as `involvedObject.name`, of its path in the served one.
pub fn stored_path<'a>(resource: &Resource, path: &'a str) -> Cow<'a, str> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (renamed(resource).iter().find(|(served, _)| *served == first), rest) {
        (Some((_, stored)), Some(rest)) => format!("{stored}.{rest}").into(),
        (Some((_, stored)), None) => (*stored).into(),
        (None, _) => path.into(),
    }
}

fn convert(object: &mut Value, (from, to): (&Resource, &Resource), pairs: &[(&str, &str)]) {
    let Some(map) = object.as_object_mut() else { return };
    rename(map, "", pairs);
    let (before, after) = (from.api_version(), to.api_version());
    let entries = map.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields"));
    for entry in entries.and_then(Value::as_array_mut).into_iter().flatten() {
        if entry.get("apiVersion").and_then(Value::as_str) != Some(&before) {
            continue;
        }
        entry["apiVersion"] = after.as_str().into();
        if let Some(fields) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) {
            rename(fields, "f:", pairs);
        }
    }
    if let Some(version) = map.get_mut("apiVersion").filter(|version| **version == before) {
        *version = after.into();
    }
}

/// Renames keys; what has one of the new names already is no field of the old form, and goes.
fn rename(map: &mut Map<String, Value>, prefix: &str, pairs: &[(&str, &str)]) {
    for (_, new) in pairs {
        map.remove(&format!("{prefix}{new}"));
    }
    for (old, new) in pairs {
        if let Some(value) = map.remove(&format!("{prefix}{old}")) {
            map.insert(format!("{prefix}{new}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{EVENTS, SERVICES};
    use serde_json::json;

    #[test]
    fn events_go_there_and_back() {
        let served = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "a", "managedFields": [
                {"apiVersion": "events.k8s.io/v1", "fieldsV1": {"f:note": {}, "f:regarding": {"f:kind": {}}}},
                {"apiVersion": "other/v1", "fieldsV1": {"f:note": {}}}]},
            "eventTime": "2026-01-01T00:00:00.000000Z", "series": {"count": 2}, "reason": "R", "action": "A",
            "note": "n", "regarding": {"kind": "Pod"}, "related": {"kind": "Node"}, "type": "Normal",
            "reportingController": "c", "reportingInstance": "i", "deprecatedSource": {"component": "c"},
            "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null, "deprecatedCount": 3, "mine": 1});
        let stored = to_stored(&EVENTS_K8S_IO, served.clone());
        assert_eq!(
            stored,
            json!({"apiVersion": "v1", "kind": "Event",
                "metadata": {"name": "a", "managedFields": [
                    {"apiVersion": "v1", "fieldsV1": {"f:message": {}, "f:involvedObject": {"f:kind": {}}}},
                    {"apiVersion": "other/v1", "fieldsV1": {"f:note": {}}}]},
                "eventTime": "2026-01-01T00:00:00.000000Z", "series": {"count": 2}, "reason": "R", "action": "A",
                "message": "n", "involvedObject": {"kind": "Pod"}, "related": {"kind": "Node"}, "type": "Normal",
                "reportingComponent": "c", "reportingInstance": "i", "source": {"component": "c"},
                "firstTimestamp": null, "lastTimestamp": null, "count": 3, "mine": 1})
        );
        assert_eq!(to_served(&EVENTS_K8S_IO, stored.clone()), served);
        assert_eq!(to_stored(&EVENTS, stored.clone()), stored, "what is stored as it is served is let be");
    }

    #[test]
    fn names_of_the_other_form_are_no_fields() {
        let stored = to_stored(&EVENTS_K8S_IO, json!({"message": "old", "note": "new"}));
        assert_eq!(stored, json!({"message": "new", "involvedObject": {}}));
        assert_eq!(to_stored(&EVENTS_K8S_IO, json!({"message": "old"})), json!({"involvedObject": {}}));
        assert_eq!(to_served(&EVENTS_K8S_IO, json!({"note": "odd"})), json!({}));
        assert_eq!(to_stored(&EVENTS_K8S_IO, json!(null)), json!(null));
    }

    #[test]
    fn paths_are_found_in_the_stored_form() {
        assert_eq!(stored_path(&EVENTS_K8S_IO, "regarding.kind"), "involvedObject.kind");
        assert_eq!(stored_path(&EVENTS_K8S_IO, "note"), "message");
        assert_eq!(stored_path(&EVENTS_K8S_IO, "reason"), "reason");
        assert_eq!(stored_path(&SERVICES, "note.x"), "note.x");
    }
}
