//! Strategic merge patches (k8s.io/apimachinery `util/strategicpatch`).
//!
//! Invariant: where the schema says nothing, objects merge and lists are replaced, as in a merge patch.

use crate::schema::{Merging, Schemas, Shape};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const PATCH: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const SET_ORDER: &str = "$setElementOrder/";
pub(super) const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Why a patch makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StrategicError {
    #[error("unknown patch type found: {found}")]
    Directive { found: String },
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey { item: String, key: String },
    #[error("invalid patch format of {directive}: {why}")]
    Format { directive: String, why: &'static str },
}

fn format(directive: &str, why: &'static str) -> StrategicError {
    StrategicError::Format { directive: directive.to_owned(), why }
}

/// The object with the patch merged into it.
pub(super) fn merge(
    schemas: &Schemas,
    shape: &Shape,
    object: &Value,
    patch: &Value,
) -> Result<Value, StrategicError> {
    let empty = Map::new();
    let patch = patch.as_object().unwrap_or(&empty);
    let object = object.as_object().unwrap_or(&empty);
    Ok(Value::Object(Merger { schemas }.maps(shape, object, patch)?))
}

/// Text by which items of a merged list are told apart.
pub(super) fn item_key(item: &Value, keys: &[String], defaults: &BTreeMap<String, Value>) -> Option<String> {
    let mut text = String::new();
    for key in keys {
        let value = item.get(key).filter(|value| !value.is_null()).or_else(|| defaults.get(key))?;
        text.push_str(&value.to_string());
        text.push('\0');
    }
    Some(text)
}

struct Merger<'a> {
    schemas: &'a Schemas,
}

impl Merger<'_> {
    fn maps(
        &self,
        shape: &Shape,
        object: &Map<String, Value>,
        patch: &Map<String, Value>,
    ) -> Result<Map<String, Value>, StrategicError> {
        match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None | Some("merge") => {}
            Some("delete") => return Ok(Map::new()),
            Some("replace") => return Ok(plain_map(patch)),
            Some(found) => return Err(StrategicError::Directive { found: found.to_owned() }),
        }
        let mut result = object.clone();
        retain(&mut result, patch)?;
        let mut lists: BTreeSet<&str> = BTreeSet::new();
        for (name, value) in patch {
            if let Some(list) = name.strip_prefix(SET_ORDER).or_else(|| name.strip_prefix(DELETE_PRIMITIVES))
            {
                lists.insert(list);
            } else if value.is_null() {
                result.remove(name);
            } else if value.is_array() {
                lists.insert(name);
            } else if let (Some(Value::Object(old)), Value::Object(new)) = (result.get(name), value) {
                let child = self.schemas.child(shape, name).map_or(Shape::Any, |field| field.shape);
                let merged = self.maps(&child, old, new)?;
                result.insert(name.clone(), Value::Object(merged));
            } else if !matches!(name.as_str(), PATCH | RETAIN_KEYS) {
                result.insert(name.clone(), plain(value));
            }
        }
        for name in lists.into_iter().filter(|name| *name != RETAIN_KEYS) {
            self.list_field(shape, name, &mut result, patch)?;
        }
        Ok(result)
    }

    /// Merges one list field with all that the patch says about it.
    fn list_field(
        &self,
        shape: &Shape,
        name: &str,
        result: &mut Map<String, Value>,
        patch: &Map<String, Value>,
    ) -> Result<(), StrategicError> {
        let directive = |prefix: &str| -> Result<Option<&Vec<Value>>, StrategicError> {
            let key = format!("{prefix}{name}");
            match patch.get(&key) {
                None => Ok(None),
                Some(Value::Array(list)) => Ok(Some(list)),
                Some(_) => Err(format(&key, "not a list")),
            }
        };
        let (order, deleted) = (directive(SET_ORDER)?, directive(DELETE_PRIMITIVES)?);
        let field = self.schemas.child(shape, name);
        let (item, merging) = match field.map(|field| (field.shape, field.merging)) {
            Some((Shape::List(item), merging)) => (*item, merging),
            _ => (Shape::Any, Merging::default()),
        };
        let old = match result.get(name) {
            Some(Value::Array(list)) => Some(list.clone()),
            _ => None,
        };
        let new = match patch.get(name) {
            Some(Value::Array(list)) => Some(list),
            _ => None,
        };
        let is_new = old.is_none();
        let old = old.unwrap_or_default();
        let mut merged = match (new, merging.merge) {
            // A null or a scalar in the patch has been applied already, and leaves no list to order.
            (None, _) if patch.contains_key(name) || is_new => return Ok(()),
            (None, _) => old.clone(),
            (Some(new), false) => plain_list(new),
            (Some(new), true) if merging.keys.is_empty() => union(&old, new),
            (Some(new), true) => self.keyed(&item, &merging, &old, new)?,
        };
        if let (Some(deleted), true) = (deleted, merging.merge) {
            merged.retain(|value| !deleted.contains(value));
        }
        if let (Some(order), true) = (order, merging.merge) {
            merged = ordered(&merging, &old, merged, new, order, name)?;
        }
        result.insert(name.to_owned(), Value::Array(merged));
        Ok(())
    }

    fn keyed(
        &self,
        shape: &Shape,
        merging: &Merging,
        old: &[Value],
        new: &[Value],
    ) -> Result<Vec<Value>, StrategicError> {
        let first = &merging.keys[..1];
        let key_of = |item: &Value| {
            item_key(item, first, &BTreeMap::new())
                .ok_or_else(|| StrategicError::NoMergeKey { item: item.to_string(), key: first[0].clone() })
        };
        let (mut gone, mut changes, mut replace) = (BTreeSet::new(), Vec::new(), false);
        for item in new {
            match item.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
                Some("replace") => replace = true,
                Some("delete") => {
                    gone.insert(key_of(item)?);
                }
                None | Some("merge") => changes.push(item),
                Some(found) => return Err(StrategicError::Directive { found: found.to_owned() }),
            }
        }
        if replace {
            return Ok(changes.into_iter().map(plain).collect());
        }
        let mut merged = Vec::with_capacity(old.len() + changes.len());
        for item in old {
            // An item that lost its key cannot be meant by any patch; it stays.
            if item_key(item, first, &BTreeMap::new()).is_none_or(|key| !gone.contains(&key)) {
                merged.push(item.clone());
            }
        }
        let mut index = Index::of(merging, &merged);
        for item in changes {
            let key = key_of(item)?;
            match (index.find(merging, item, &key), item) {
                (Some(at), Value::Object(patch)) => {
                    let empty = Map::new();
                    let before = merged[at].as_object().unwrap_or(&empty);
                    merged[at] = Value::Object(self.maps(shape, before, patch)?);
                }
                (Some(at), _) => merged[at] = item.clone(),
                (None, _) => {
                    merged.push(plain(item));
                    index.add(merging, &merged, merged.len() - 1);
                }
            }
        }
        Ok(merged)
    }
}

/// Where the items of a list are. Two ports may share the merge key and differ in protocol, so an item that
/// names all of its keys is sought by all of them first.
struct Index {
    full: BTreeMap<String, usize>,
    first: BTreeMap<String, usize>,
}

impl Index {
    fn of(merging: &Merging, items: &[Value]) -> Self {
        let mut index = Self { full: BTreeMap::new(), first: BTreeMap::new() };
        for at in 0..items.len() {
            index.add(merging, items, at);
        }
        index
    }

    fn add(&mut self, merging: &Merging, items: &[Value], at: usize) {
        if let Some(key) = item_key(&items[at], &merging.keys, &merging.defaults) {
            self.full.entry(key).or_insert(at);
        }
        if let Some(key) = item_key(&items[at], &merging.keys[..1], &merging.defaults) {
            self.first.entry(key).or_insert(at);
        }
    }

    fn find(&self, merging: &Merging, item: &Value, first: &str) -> Option<usize> {
        let full = item_key(item, &merging.keys, &BTreeMap::new()).and_then(|key| self.full.get(&key));
        full.or_else(|| self.first.get(first)).copied()
    }
}

fn retain(result: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), StrategicError> {
    let Some(keep) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keep = keep.as_array().ok_or_else(|| format(RETAIN_KEYS, "not a list"))?;
    let keep: BTreeSet<&str> = keep.iter().filter_map(Value::as_str).collect();
    let named = |name: &String| name.starts_with('$') || keep.contains(name.as_str());
    if patch.iter().any(|(name, value)| !value.is_null() && !named(name)) {
        return Err(format(RETAIN_KEYS, "the patch sets a field that the list does not name"));
    }
    result.retain(|name, _| keep.contains(name.as_str()));
    Ok(())
}

fn union(old: &[Value], new: &[Value]) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    old.iter().chain(new).filter(|value| seen.insert(value.to_string())).cloned().collect()
}

/// Orders a merged list: what the patch's owner named in its order, everything else where it was.
fn ordered(
    merging: &Merging,
    old: &[Value],
    merged: Vec<Value>,
    new: Option<&Vec<Value>>,
    order: &[Value],
    name: &str,
) -> Result<Vec<Value>, StrategicError> {
    let first = merging.keys.get(..1).unwrap_or_default();
    let key = |item: &Value| -> Option<String> {
        if first.is_empty() { Some(item.to_string()) } else { item_key(item, first, &merging.defaults) }
    };
    let ranks = |items: &[Value]| -> BTreeMap<String, usize> {
        let mut ranks = BTreeMap::new();
        for (rank, item) in items.iter().enumerate() {
            if let Some(key) = key(item) {
                ranks.entry(key).or_insert(rank);
            }
        }
        ranks
    };
    let (wanted, before) = (ranks(order), ranks(old));
    let rank = |of: &BTreeMap<String, usize>, item: &Value| key(item).and_then(|key| of.get(&key).copied());
    let unnamed = |item: &&Value| item.get(PATCH).is_none() && rank(&wanted, item).is_none();
    if new.into_iter().flatten().any(|item| unnamed(&item)) {
        return Err(format(
            &format!("{SET_ORDER}{name}"),
            "the patch has an item that the order does not name",
        ));
    }
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| rank(&wanted, item).is_some());
    named.sort_by_key(|item| rank(&wanted, item));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        let place = rank(&before, &other);
        // It goes before the first named item that stood behind it.
        while let Some(next) = named.peek() {
            if place.is_some() && rank(&before, next) > place {
                break;
            }
            result.extend(named.next());
        }
        result.push(other);
    }
    result.extend(named);
    Ok(result)
}

/// A patch's value where nothing was: without nulls and directives.
pub(super) fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(items) => Value::Array(plain_list(items)),
        other => other.clone(),
    }
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    let directive = |name: &str| {
        matches!(name, PATCH | RETAIN_KEYS)
            || name.starts_with(SET_ORDER)
            || name.starts_with(DELETE_PRIMITIVES)
    };
    map.iter()
        .filter(|(name, value)| !value.is_null() && !directive(name))
        .map(|(name, value)| (name.clone(), plain(value)))
        .collect()
}

fn plain_list(items: &[Value]) -> Vec<Value> {
    let special =
        |item: &&Value| matches!(item.get(PATCH).and_then(Value::as_str), Some("delete" | "replace"));
    items.iter().filter(|item| !special(item)).map(plain).collect()
}
