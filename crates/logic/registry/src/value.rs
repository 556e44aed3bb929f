//! Reading and writing JSON without trusting its shape: a wrong type reads as absent.

use minisvc_apimachinery::{Quantity, storage::Stored};
use serde_json::{Map, Value, json};

/// The value at a JSON pointer; null reads as absent.
pub(crate) fn at<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    value.pointer(pointer).filter(|found| !found.is_null())
}

/// The text at a JSON pointer, empty if there is none.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a JSON pointer.
pub(crate) fn int(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The items of a list at a JSON pointer, none if there is no list.
pub(crate) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The same, to change them.
pub(crate) fn items_mut<'v>(value: &'v mut Value, pointer: &str) -> impl Iterator<Item = &'v mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The entries of a map of strings at a JSON pointer.
pub(crate) fn strings<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = (&'v str, &'v str)> {
    let map = value.pointer(pointer).and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// Writes an amount in the form it is kept in; what is none stays, for validation to refuse.
pub(crate) fn keep_amount(amount: &mut Value) {
    let said = match amount {
        Value::String(text) => Quantity::canonical(text),
        Value::Number(number) => Quantity::canonical(&number.to_string()),
        _ => None,
    };
    if let Some(said) = said {
        *amount = said.into();
    }
}

/// The same for each amount of the map at a JSON pointer.
pub(crate) fn keep_amounts(value: &mut Value, pointer: &str) {
    let amounts = value.pointer_mut(pointer).and_then(Value::as_object_mut);
    amounts.into_iter().flat_map(Map::values_mut).for_each(keep_amount);
}

/// The object under a key, made if it is absent or null. None if `value` or what is there is no object.
pub(crate) fn object_mut<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    let slot = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}

/// Sets `value[section][field]`.
pub(crate) fn set(value: &mut Value, section: &str, field: &str, to: impl Into<Value>) {
    if let Some(section) = object_mut(value, section) {
        section.insert(field.to_owned(), to.into());
    }
}

/// Removes `value[section][field]` and returns what was there.
pub(crate) fn unset(value: &mut Value, section: &str, field: &str) -> Option<Value> {
    value.get_mut(section)?.as_object_mut()?.remove(field)
}

/// Sets a field of an object if it is absent, null or an empty string.
pub(crate) fn fill(object: &mut Value, field: &str, with: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        let missing = map.get(field).is_none_or(|old| old.is_null() || old == "");
        if missing {
            map.insert(field.to_owned(), with.into());
        }
    }
}

/// Takes a section over from an old version of the object, or removes it if the old one has none.
pub(crate) fn keep(new: &mut Value, old: &Value, section: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(section) {
        Some(value) => map.insert(section.to_owned(), value.clone()),
        None => map.remove(section),
    };
}

/// A stored object. An unreadable value reads as null, which every check refuses.
pub(crate) fn parse(stored: &Stored) -> Value {
    serde_json::from_slice(&stored.value).unwrap_or(Value::Null)
}

/// A time as Kubernetes writes it: RFC 3339, whole seconds.
pub(crate) fn time(now: jiff::Timestamp) -> Value {
    let whole = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    json!(whole.to_string())
}

/// Whether a value says nothing: absent, null, empty, false or zero.
pub(crate) fn is_blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.values().all(|value| is_blank(Some(value))),
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        Some(Value::Bool(true)) => false,
    }
}
