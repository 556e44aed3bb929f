//! What applying does to an object: merge, and take away (sigs.k8s.io/structured-merge-diff `typed`).
//!
//! Invariant: neither changes a part that the applied object or the set does not name.

use super::{
    path::PathElement,
    set::{Node, Set},
    typed::{Form, Items, Typed},
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

impl Typed<'_> {
    /// The live value with the applied one merged into it.
    pub(super) fn merge(self, live: &Value, applied: &Value) -> Value {
        match self.form(Some(live), Some(applied)) {
            Form::Map(old, new) if !(old.is_empty() && new.is_empty()) => {
                let mut merged = old.clone();
                for (name, value) in new {
                    let value = match old.get(name) {
                        Some(live) => self.field(name).merge(live, value),
                        None => value.clone(),
                    };
                    merged.insert(name.clone(), value);
                }
                Value::Object(merged)
            }
            Form::List(old, new) if !(old.is_empty() && new.is_empty()) => {
                Value::Array(self.merge_items(&old, &new))
            }
            _ => applied.clone(),
        }
    }

    /// Merges the items of a list: in the applied order, and what only the live list has where it stood.
    fn merge_items(self, old: &Items<'_>, new: &Items<'_>) -> Vec<Value> {
        // None: it appears twice, and is replaced rather than merged.
        let mut live: BTreeMap<&PathElement, Option<&Value>> = BTreeMap::new();
        for (element, item) in old {
            live.entry(element).and_modify(|found| *found = None).or_insert(Some(item));
        }
        let wanted: BTreeSet<&PathElement> = new.iter().map(|(element, _)| element).collect();
        let mut shared = new.iter().map(|(element, _)| element).filter(|element| live.contains_key(element));
        let merged = |(element, item): &(PathElement, &Value)| match live.get(element) {
            Some(Some(live)) => self.item().merge(live, item),
            _ => (*item).clone(),
        };
        let (mut result, mut done) = (Vec::with_capacity(old.len().max(new.len())), BTreeSet::new());
        let mut next_shared = shared.next();
        let (mut left, mut right) = (0, 0);
        while left < old.len() || right < new.len() {
            if let (Some((element, _)), Some(applied)) = (old.get(left), new.get(right)) {
                if *element == applied.0 {
                    done.insert(element);
                    result.push(merged(applied));
                    (left, right) = (left + 1, right + 1);
                    next_shared = shared.next();
                    continue;
                }
                if wanted.contains(element) && next_shared.is_some_and(|next| next != element) {
                    // It is applied further down or has been already.
                    left += 1;
                    continue;
                }
            }
            if let Some((element, item)) = old.get(left) {
                if !wanted.contains(element) {
                    result.push((*item).clone());
                    left += 1;
                    continue;
                }
                if done.contains(element) {
                    left += 1;
                }
            }
            if let Some(applied) = new.get(right) {
                done.insert(&applied.0);
                result.push(merged(applied));
                right += 1;
                if next_shared == Some(&applied.0) {
                    next_shared = shared.next();
                }
            }
        }
        result
    }

    /// The value without the members of a set. What loses its last part becomes null.
    pub(super) fn remove(self, value: &Value, set: &Set) -> Value {
        let kept = |element: &PathElement, value: &Value, typed: Self| match set.branch(element) {
            Some(branch) if branch.member => None,
            Some(branch) => Some(typed.remove(value, &branch.children)),
            None => Some(value.clone()),
        };
        match self.form(Some(value), None) {
            Form::Map(map, _) => {
                let left: Map<String, Value> = map
                    .iter()
                    .filter_map(|(name, value)| {
                        let element = PathElement::Field(name.clone());
                        Some((name.clone(), kept(&element, value, self.field(name))?))
                    })
                    .collect();
                if left.is_empty() { Value::Null } else { Value::Object(left) }
            }
            Form::List(items, _) => {
                let left: Vec<Value> =
                    items.iter().filter_map(|(element, item)| kept(element, item, self.item())).collect();
                if left.is_empty() { Value::Null } else { Value::Array(left) }
            }
            Form::Leaf => value.clone(),
        }
    }

    /// The set with every field of a struct that has members below it as a member itself.
    pub(super) fn with_parents(self, mut set: Set) -> Set {
        for Node { element, branch } in set.nodes_mut() {
            let typed = match element {
                PathElement::Field(name) => {
                    branch.member |= !branch.children.is_empty() && self.has_field(name);
                    self.field(name)
                }
                _ => self.item(),
            };
            branch.children = typed.with_parents(std::mem::take(&mut branch.children));
        }
        set
    }
}

/// Removes nulls from objects, as Go's types do; what the live object has as null stays so.
pub(super) fn drop_nulls(value: &mut Value, live: Option<&Value>) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                !value.is_null() || live.and_then(|live| live.get(name)).is_some_and(Value::is_null)
            });
            for (name, value) in map {
                drop_nulls(value, live.and_then(|live| live.get(name)));
            }
        }
        Value::Array(items) => {
            let before = live.and_then(Value::as_array).into_iter().flatten();
            let before: BTreeSet<String> =
                before.filter(|item| has_null(item)).map(ToString::to_string).collect();
            for item in items.iter_mut().filter(|item| has_null(item)) {
                // Items may have moved; one that is as it was stays so.
                if !before.contains(&item.to_string()) {
                    drop_nulls(item, None);
                }
            }
        }
        _ => {}
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().any(has_null),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}
