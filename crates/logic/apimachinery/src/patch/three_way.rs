//! What `apply` sends: the difference between what a person wrote last, writes now, and what the server has.
//!
//! In: the manifest of the last apply (the annotation `kubectl.kubernetes.io/last-applied-configuration`), the
//! manifest of this one, the object as the server has it. Out: a strategic merge patch, empty if nothing is to
//! change.
//!
//! Invariant: what neither manifest names is not in the patch.

use super::strategic::{self, DELETE_PRIMITIVES, PATCH, SET_ORDER, item_key};
use crate::{
    resource::Resource,
    schema::{self, Merging, Schemas, Shape},
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The strategic merge patch that makes of `current` what `modified` says, and removes what `original` said
/// and `modified` no longer does. `{}` if nothing is to change.
pub fn three_way(resource: &Resource, original: Option<&Value>, modified: &Value, current: &Value) -> Value {
    let schemas = schema::schemas();
    let root = schemas.of(resource).map_or(Shape::Any, Shape::Struct);
    let empty = Map::new();
    let map = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let current = current.as_object().unwrap_or(&empty);
    Value::Object(Differ { schemas }.maps(&root, &map(original), &map(Some(modified)), current))
}

struct Differ<'a> {
    schemas: &'a Schemas,
}

fn is_set(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

impl Differ<'_> {
    fn maps(
        &self,
        shape: &Shape,
        original: &Map<String, Value>,
        modified: &Map<String, Value>,
        current: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut patch = Map::new();
        let gone = |name: &&String| !is_set(modified.get(*name));
        let nulled = modified.iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name);
        for name in original.keys().filter(gone).chain(nulled) {
            if is_set(current.get(name)) {
                patch.insert(name.clone(), Value::Null);
            }
        }
        for (name, wanted) in modified.iter().filter(|(_, value)| !value.is_null()) {
            let (old, now) = (original.get(name), current.get(name));
            match (wanted, now) {
                (Value::Object(wanted), Some(Value::Object(now))) => {
                    let child = self.schemas.child(shape, name).map_or(Shape::Any, |field| field.shape);
                    let empty = Map::new();
                    let old = old.and_then(Value::as_object).unwrap_or(&empty);
                    let inner = self.maps(&child, old, wanted, now);
                    if !inner.is_empty() {
                        patch.insert(name.clone(), Value::Object(inner));
                    }
                }
                (Value::Array(wanted), Some(Value::Array(now))) => {
                    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                    self.list(shape, name, (old, wanted, now), &mut patch);
                }
                (wanted, now) if now != Some(&strategic::plain(wanted)) => {
                    patch.insert(name.clone(), strategic::plain(wanted));
                }
                _ => {}
            }
        }
        patch
    }

    fn list(
        &self,
        shape: &Shape,
        name: &str,
        lists: (&[Value], &[Value], &[Value]),
        patch: &mut Map<String, Value>,
    ) {
        let (_, wanted, now) = lists;
        let field = self.schemas.child(shape, name).map(|field| (field.shape, field.merging));
        match field {
            Some((Shape::List(item), merging)) if merging.merge && !merging.keys.is_empty() => {
                self.keyed(&item, &merging, name, lists, patch);
            }
            Some((Shape::List(_), merging)) if merging.merge => primitives(name, lists, patch),
            _ => {
                let wanted: Vec<Value> = wanted.iter().map(strategic::plain).collect();
                if wanted != now {
                    patch.insert(name.to_owned(), Value::Array(wanted));
                }
            }
        }
    }

    fn keyed(
        &self,
        shape: &Shape,
        merging: &Merging,
        name: &str,
        lists: (&[Value], &[Value], &[Value]),
        patch: &mut Map<String, Value>,
    ) {
        let (old, wanted, now) = lists;
        let first = merging.keys[..1].to_vec();
        let index = |items: &[Value]| by_key(items, &first, &BTreeMap::new());
        let (Some(old_by), Some(wanted_by), Some(now_by)) = (index(old), index(wanted), index(now)) else {
            return self.ambiguous(shape, merging, name, lists, patch);
        };
        let empty = Map::new();
        let object = |items: &[Value], at: Option<&usize>| {
            at.and_then(|at| items.get(*at)).and_then(Value::as_object).unwrap_or(&empty).clone()
        };
        let mut changes = Vec::new();
        for item in wanted {
            let key = item_key(item, &first, &BTreeMap::new()).unwrap_or_default();
            let Some(at) = now_by.get(&key) else {
                changes.push(strategic::plain(item));
                continue;
            };
            let fields = item.as_object().unwrap_or(&empty);
            let mut change = self.maps(shape, &object(old, old_by.get(&key)), fields, &object(now, Some(at)));
            if !change.is_empty() {
                change.insert(first[0].clone(), item[&first[0]].clone());
                changes.push(Value::Object(change));
            }
        }
        for (key, at) in &old_by {
            if !wanted_by.contains_key(key) && now_by.contains_key(key) {
                changes.push(json!({PATCH: "delete", first[0].as_str(): old[*at][&first[0]]}));
            }
        }
        let kept: Vec<usize> = wanted
            .iter()
            .filter_map(|item| now_by.get(&item_key(item, &first, &BTreeMap::new())?).copied())
            .collect();
        if changes.is_empty() && kept.is_sorted() {
            return;
        }
        let order = wanted.iter().map(|item| json!({first[0].as_str(): item[&first[0]]})).collect();
        patch.insert(format!("{SET_ORDER}{name}"), Value::Array(order));
        if !changes.is_empty() {
            patch.insert(name.to_owned(), Value::Array(changes));
        }
    }

    /// Two items share the merge key (a port for TCP and for UDP), so a patch by that key could hit the wrong
    /// one: compare by all keys, and replace the list if anything differs, keeping what the server filled in.
    fn ambiguous(
        &self,
        shape: &Shape,
        merging: &Merging,
        name: &str,
        lists: (&[Value], &[Value], &[Value]),
        patch: &mut Map<String, Value>,
    ) {
        let (old, wanted, now) = lists;
        let index = |items: &[Value]| by_key(items, &merging.keys, &merging.defaults).unwrap_or_default();
        let (old_by, now_by) = (index(old), index(now));
        let empty = Map::new();
        let mut differs = wanted.len() != now.len();
        let mut items = vec![json!({PATCH: "replace"})];
        for item in wanted {
            let key = item_key(item, &merging.keys, &merging.defaults).unwrap_or_default();
            let object = |items: &[Value], at: Option<&usize>| {
                at.and_then(|at| items.get(*at)).and_then(Value::as_object).unwrap_or(&empty).clone()
            };
            let before = object(now, now_by.get(&key));
            let change =
                self.maps(shape, &object(old, old_by.get(&key)), item.as_object().unwrap_or(&empty), &before);
            differs |= !change.is_empty();
            let merged =
                strategic::merge(self.schemas, shape, &Value::Object(before), &Value::Object(change));
            items.push(merged.unwrap_or_else(|_| strategic::plain(item)));
        }
        if differs {
            patch.insert(name.to_owned(), Value::Array(items));
        }
    }
}

/// Where each item is; None if two share a key, or one lacks it.
fn by_key(
    items: &[Value],
    keys: &[String],
    defaults: &BTreeMap<String, Value>,
) -> Option<BTreeMap<String, usize>> {
    let mut index = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        if index.insert(item_key(item, keys, defaults)?, at).is_some() {
            return None;
        }
    }
    Some(index)
}

fn primitives(name: &str, lists: (&[Value], &[Value], &[Value]), patch: &mut Map<String, Value>) {
    let (old, wanted, now) = lists;
    let set = |items: &[Value]| -> BTreeSet<String> { items.iter().map(ToString::to_string).collect() };
    let (wanted_set, now_set) = (set(wanted), set(now));
    let added: Vec<Value> =
        wanted.iter().filter(|item| !now_set.contains(&item.to_string())).cloned().collect();
    let removed: Vec<Value> = old
        .iter()
        .filter(|item| !wanted_set.contains(&item.to_string()) && now_set.contains(&item.to_string()))
        .cloned()
        .collect();
    if !removed.is_empty() {
        patch.insert(format!("{DELETE_PRIMITIVES}{name}"), Value::Array(removed));
    }
    if !added.is_empty() {
        patch.insert(format!("{SET_ORDER}{name}"), Value::Array(wanted.to_vec()));
        patch.insert(name.to_owned(), Value::Array(added));
    }
}

#[cfg(test)]
mod tests;
