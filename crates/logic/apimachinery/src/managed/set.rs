//! Sets of fields: the value behind `fieldsV1` (sigs.k8s.io/structured-merge-diff `fieldpath.Set`).
//!
//! Invariants: nodes are sorted and unique; each is a member or has members below it. That a field is a member says
//! nothing about its parents or children.

use super::path::PathElement;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// A set of paths to fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(Vec<Node>);

/// One step of the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: PathElement,
    pub(super) branch: Branch,
}

/// What a set says of one field: whether it is a member, and what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) member: bool,
    pub(super) children: Set,
}

impl Branch {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub(super) fn leaf() -> Self {
        Self { member: true, children: Set::default() }
    }
}

impl Set {
    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A set of paths, each a list of names of fields.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path);
        }
        set
    }

    fn insert(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let branch = self.branch_mut(PathElement::Field((*first).to_owned()));
        if rest.is_empty() {
            branch.member = true;
        } else {
            branch.children.insert(rest);
        }
    }

    /// The branch of an element, made if there is none; the caller makes it a member or gives it members.
    fn branch_mut(&mut self, element: PathElement) -> &mut Branch {
        let at = match self.0.last().map(|last| last.element.cmp(&element)) {
            None | Some(Ordering::Less) => Err(self.0.len()),
            _ => self.0.binary_search_by(|node| node.element.cmp(&element)),
        };
        let at = at.unwrap_or_else(|at| {
            self.0.insert(at, Node { element, branch: Branch::default() });
            at
        });
        &mut self.0[at].branch
    }

    /// Adds what a walk found below an element; nothing if the branch is empty.
    pub(super) fn put(&mut self, element: PathElement, branch: Branch) {
        if branch.is_empty() {
            return;
        }
        let into = self.branch_mut(element);
        if into.is_empty() {
            *into = branch;
        } else {
            into.member |= branch.member;
            into.children = into.children.union(&branch.children);
        }
    }

    /// Makes named fields no members where they have members below.
    pub(super) fn disown_fields_with_children(&mut self, names: &[&str]) {
        for node in &mut self.0 {
            let named = matches!(&node.element, PathElement::Field(name) if names.contains(&name.as_str()));
            node.branch.member &= !named || node.branch.children.is_empty();
        }
    }

    pub(super) fn branch(&self, element: &PathElement) -> Option<&Branch> {
        let at = self.0.binary_search_by(|node| node.element.cmp(element)).ok()?;
        Some(&self.0[at].branch)
    }

    pub(super) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.0.iter_mut()
    }

    /// Whether a path is a member.
    pub fn has(&self, path: &[PathElement]) -> bool {
        let [first, rest @ ..] = path else { return false };
        self.branch(first)
            .is_some_and(|branch| if rest.is_empty() { branch.member } else { branch.children.has(rest) })
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, true, true, |a, b| Branch {
            member: a.member || b.member,
            children: a.children.union(&b.children),
        })
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, false, false, |a, b| Branch {
            member: a.member && b.member,
            children: a.children.intersection(&b.children),
        })
    }

    /// What is in this one only; a parent in the other does not take its children along.
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, true, false, |a, b| Branch {
            member: a.member && !b.member,
            children: a.children.difference(&b.children),
        })
    }

    /// What is in this one only and below no member of the other.
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, true, false, |a, b| match b.member {
            true => Branch::default(),
            false => Branch { member: a.member, children: a.children.without(&b.children) },
        })
    }

    fn combine(
        &self,
        other: &Self,
        keep_left: bool,
        keep_right: bool,
        both: impl Fn(&Branch, &Branch) -> Branch,
    ) -> Self {
        let mut result = Vec::with_capacity(self.0.len());
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Self(result),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.element.cmp(&b.element),
            };
            match order {
                Ordering::Less => result.extend(left.next().filter(|_| keep_left).cloned()),
                Ordering::Greater => result.extend(right.next().filter(|_| keep_right).cloned()),
                Ordering::Equal => {
                    if let (Some(a), Some(b)) = (left.next(), right.next()) {
                        let branch = both(&a.branch, &b.branch);
                        if !branch.is_empty() {
                            result.push(Node { element: a.element.clone(), branch });
                        }
                    }
                }
            }
        }
    }

    /// Every member, parents' siblings first, as Kubernetes lists them.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut found);
        found
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, found: &mut Vec<Vec<PathElement>>) {
        for node in self.0.iter().filter(|node| node.branch.member) {
            found.push(prefix.iter().chain([&node.element]).cloned().collect());
        }
        for node in &self.0 {
            prefix.push(node.element.clone());
            node.branch.children.collect(prefix, found);
            prefix.pop();
        }
    }

    /// As `fieldsV1`.
    pub fn to_value(&self) -> Value {
        self.emit(false)
    }

    fn emit(&self, with_self: bool) -> Value {
        let mut map = Map::new();
        if with_self && !self.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for node in &self.0 {
            map.insert(node.element.to_text(), node.branch.children.emit(node.branch.member));
        }
        Value::Object(map)
    }

    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// Words for what is malformed.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        Ok(read(value)?.children)
    }
}

fn read(value: &Value) -> Result<Branch, String> {
    let map = value.as_object().ok_or_else(|| format!("{value} is no set of fields"))?;
    let mut branch = Branch::default();
    for (name, below) in map {
        if name == "." {
            branch.member = true;
        } else if let Some(element) = PathElement::parse(name)? {
            branch.children.put(element, read(below)?);
        }
    }
    branch.member |= branch.children.is_empty();
    Ok(branch)
}
