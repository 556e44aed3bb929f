//! Objects as the schema sees them: which of their fields have owners, and how two of them differ
//! (sigs.k8s.io/structured-merge-diff `typed`).
//!
//! Invariants: what the schema does not know merges by field, and its lists are atomic; a list whose items cannot be
//! told apart counts as atomic, so no object is too odd to be tracked. Recursion goes no deeper than the value.

use super::{
    path::{PathElement, Scalar},
    set::{Branch, Set},
};
use crate::schema::{Schemas, Shape, Topology};
use serde_json::{Map, Value};

static ANY: Shape = Shape::Any;
static GRANULAR: Topology = Topology::Granular;

/// The schema of a value.
#[derive(Clone, Copy)]
pub(super) struct Typed<'s> {
    schemas: &'s Schemas,
    shape: &'s Shape,
    topology: &'s Topology,
}

/// How a value, or two of one schema, fall into parts.
pub(super) enum Form<'v> {
    /// By field or entry.
    Map(&'v Map<String, Value>, &'v Map<String, Value>),
    /// By item.
    List(Items<'v>, Items<'v>),
    /// Not at all.
    Leaf,
}

/// Items of a list with what tells them apart, in their order.
pub(super) type Items<'v> = Vec<(PathElement, &'v Value)>;

/// How two values differ; no field is in two of the sets.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) removed: Branch,
    pub(super) modified: Branch,
    pub(super) added: Branch,
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    fn put(&mut self, element: &PathElement, below: Self) {
        for (into, branch) in [
            (&mut self.removed, below.removed),
            (&mut self.modified, below.modified),
            (&mut self.added, below.added),
        ] {
            if !branch.is_empty() {
                into.children.put(element.clone(), branch);
            }
        }
    }
}

fn empty() -> &'static Map<String, Value> {
    static EMPTY: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    EMPTY.get_or_init(Map::new)
}

impl<'s> Typed<'s> {
    pub(super) fn root(schemas: &'s Schemas, shape: &'s Shape) -> Self {
        Self { schemas, shape, topology: &GRANULAR }
    }

    /// The schema of a field or an entry.
    pub(super) fn field(self, name: &str) -> Self {
        let (shape, topology) = match self.shape {
            Shape::Struct(_) => self.named(name).unwrap_or((&ANY, &GRANULAR)),
            Shape::Map(values) => (&**values, &GRANULAR),
            _ => (&ANY, &GRANULAR),
        };
        Self { shape, topology, ..self }
    }

    /// The schema of the items of a list.
    pub(super) fn item(self) -> Self {
        let shape = if let Shape::List(item) = self.shape { item } else { &ANY };
        Self { shape, topology: &GRANULAR, ..self }
    }

    fn named(self, name: &str) -> Option<(&'s Shape, &'s Topology)> {
        let Shape::Struct(id) = self.shape else { return None };
        let field = self.schemas.types.get(*id)?.fields.get(name)?;
        Some((&field.shape, &field.topology))
    }

    /// Whether the schema is a struct that has the field.
    pub(super) fn has_field(self, name: &str) -> bool {
        self.named(name).is_some()
    }

    fn is_atomic(self) -> bool {
        let of_type = match self.shape {
            Shape::Struct(id) => self.schemas.types.get(*id).is_some_and(|found| found.atomic),
            _ => false,
        };
        of_type || *self.topology == Topology::Atomic
    }

    /// How two values fall apart; an absent one takes the form of the other.
    pub(super) fn form<'v>(self, left: Option<&'v Value>, right: Option<&'v Value>) -> Form<'v> {
        let present = || [left, right].into_iter().flatten();
        let maps = || present().all(|value| value.is_object() || value.is_null());
        let is_map = match self.shape {
            Shape::Struct(_) | Shape::Map(_) => !self.is_atomic() && maps(),
            Shape::Any => maps() && present().any(Value::is_object),
            _ => false,
        };
        if is_map {
            let map = |value: Option<&'v Value>| value.and_then(Value::as_object).unwrap_or(empty());
            return Form::Map(map(left), map(right));
        }
        if !matches!(self.shape, Shape::List(_))
            || !present().all(|value| value.is_array() || value.is_null())
        {
            return Form::Leaf;
        }
        match (self.items(left), self.items(right)) {
            (Ok(left), Ok(right)) => Form::List(left, right),
            _ => Form::Leaf,
        }
    }

    /// The items of a list, or why they cannot be told apart.
    fn items<'v>(self, list: Option<&'v Value>) -> Result<Items<'v>, String> {
        if matches!(self.topology, Topology::Granular | Topology::Atomic) {
            return Err(String::new());
        }
        let items = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let named = items.iter().enumerate().map(|(index, item)| match self.element(item) {
            Ok(element) => Ok((element, item)),
            Err(why) => Err(format!("element {index}: {why}")),
        });
        named.collect()
    }

    fn element(self, item: &Value) -> Result<PathElement, String> {
        let Topology::Keyed(keys) = self.topology else {
            return match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".into())
                }
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null".into())
                }
                value => Ok(PathElement::Value(Scalar(value.clone()))),
            };
        };
        let item = match item {
            Value::Object(item) => item,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let mut found: Vec<(String, Scalar)> = keys
            .iter()
            .filter_map(|(key, default)| {
                Some((key.clone(), Scalar(item.get(key).or(default.as_ref())?.clone())))
            })
            .collect();
        if found.is_empty() {
            let keys: Vec<String> = keys.iter().map(|(key, _)| format!("{key:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any key fields)",
                keys.join(" ")
            ));
        }
        found.sort();
        Ok(PathElement::Key(found))
    }

    /// What is wrong with an object to be applied: the path of the first fault, and words.
    pub(super) fn fault(self, value: &Value) -> Option<(String, String)> {
        let below = |element: PathElement, found: Option<(String, String)>| {
            found.map(|(path, why)| (format!("{element}{path}"), why))
        };
        if self.topology != &Topology::Granular
            && self.topology != &Topology::Atomic
            && let Err(why) = self.items(Some(value))
        {
            return Some((String::new(), why));
        }
        let is_struct = matches!(self.shape, Shape::Struct(_));
        match (value, self.shape) {
            (Value::Object(map), Shape::Struct(_) | Shape::Map(_)) => map.iter().find_map(|(name, value)| {
                let element = PathElement::Field(name.clone());
                if is_struct && !self.has_field(name) {
                    return Some((element.to_string(), "field not declared in schema".to_owned()));
                }
                below(element, self.field(name).fault(value))
            }),
            (Value::Array(list), Shape::List(_)) => {
                let elements = self.items(Some(value)).unwrap_or_default();
                let mut seen = std::collections::BTreeSet::new();
                if let Some((twice, _)) = elements.iter().find(|(element, _)| !seen.insert(element)) {
                    return Some((String::new(), format!("duplicate entries for key {twice}")));
                }
                list.iter().enumerate().find_map(|(index, item)| {
                    let element = elements.get(index).map(|(element, _)| element.clone());
                    below(element.unwrap_or(PathElement::Index(index as i64)), self.item().fault(item))
                })
            }
            _ => None,
        }
    }

    /// The fields of a value.
    pub(super) fn fields(self, value: &Value) -> Branch {
        match self.form(Some(value), None) {
            Form::Leaf => Branch::leaf(),
            Form::Map(map, _) => {
                let mut children = Set::default();
                for (name, value) in map {
                    let mut branch = self.field(name).fields(value);
                    let blank = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    branch.member |= blank || !self.has_field(name);
                    children.put(PathElement::Field(name.clone()), branch);
                }
                Branch { member: false, children }
            }
            Form::List(items, _) => {
                let mut children = Set::default();
                for (element, values) in group(items) {
                    let branch = match values.as_slice() {
                        [one] => Branch { member: true, ..self.item().fields(one) },
                        _ => Branch::leaf(),
                    };
                    children.put(element, branch);
                }
                Branch { member: false, children }
            }
        }
    }

    /// How `right` differs from `left`; at most one of them is absent.
    pub(super) fn compare(self, left: Option<&Value>, right: Option<&Value>) -> Difference {
        if left == right {
            return Difference::default();
        }
        let mut difference = Difference::default();
        match self.form(left, right) {
            Form::Map(old, new) if !(old.is_empty() && new.is_empty()) => {
                for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
                    let below = self.field(name).compare(old.get(name), new.get(name));
                    if !below.is_empty() {
                        difference.put(&PathElement::Field(name.clone()), below);
                    }
                }
            }
            Form::List(old, new) if !(old.is_empty() && new.is_empty()) => {
                self.compare_items(old, new, &mut difference);
            }
            _ => match (left, right) {
                (Some(_), Some(_)) => difference.modified.member = true,
                (None, _) => difference.added.member = true,
                (_, None) => difference.removed.member = true,
            },
        }
        difference.added.member |= left.is_none();
        difference.removed.member |= right.is_none();
        difference
    }

    fn compare_items(self, old: Items<'_>, new: Items<'_>, difference: &mut Difference) {
        let mut new = group(new);
        let one = |left: Option<&&Value>, right: Option<&&Value>| {
            self.item().compare(left.copied(), right.copied())
        };
        for (element, left) in group(old) {
            let right = new
                .binary_search_by(|(other, _)| other.cmp(&element))
                .map(|at| std::mem::take(&mut new[at].1))
                .unwrap_or_default();
            let below = match (left.len(), right.len()) {
                (..=1, ..=1) => one(left.first(), right.first()),
                (2.., 2..) => {
                    let mut below = Difference::default();
                    below.modified.member = left != right;
                    below
                }
                // Doubled items have their owners together, a single one has them by field.
                (2.., _) => {
                    let mut below = right.first().map(|_| one(None, right.first())).unwrap_or_default();
                    below.removed.member = true;
                    below
                }
                _ => {
                    let mut below = one(left.first(), None);
                    below.added.member = true;
                    below
                }
            };
            difference.put(&element, below);
        }
        for (element, right) in new {
            let below = match right.as_slice() {
                [] => continue,
                [one] => self.item().compare(None, Some(one)),
                _ => {
                    let mut below = Difference::default();
                    below.added.member = true;
                    below
                }
            };
            difference.put(&element, below);
        }
    }
}

/// Items by element, sorted; those that appear twice together, in their order.
fn group(items: Items<'_>) -> Vec<(PathElement, Vec<&Value>)> {
    let mut items = items;
    items.sort_by(|a, b| a.0.cmp(&b.0));
    let mut groups: Vec<(PathElement, Vec<&Value>)> = Vec::with_capacity(items.len());
    for (element, item) in items {
        match groups.last_mut() {
            Some((last, group)) if *last == element => group.push(item),
            _ => groups.push((element, vec![item])),
        }
    }
    groups
}
