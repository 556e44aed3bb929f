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
            into.children.absorb(branch.children);
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
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        self.absorb(other);
        self
    }

    /// Takes in all of another set.
    fn absorb(&mut self, other: Self) {
        if self.is_empty() || other.is_empty() {
            if self.is_empty() {
                *self = other;
            }
            return;
        }
        let mut result = Vec::with_capacity(self.0.len().max(other.0.len()));
        let mut left = std::mem::take(&mut self.0).into_iter().peekable();
        let mut right = other.0.into_iter().peekable();
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.element.cmp(&b.element),
            };
            match order {
                Ordering::Less => result.extend(left.next()),
                Ordering::Greater => result.extend(right.next()),
                Ordering::Equal => {
                    if let (Some(mut node), Some(other)) = (left.next(), right.next()) {
                        node.branch.member |= other.branch.member;
                        node.branch.children.absorb(other.branch.children);
                        result.push(node);
                    }
                }
            }
        }
        self.0 = result;
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(mut self, other: &Self) -> Self {
        self.retain(|node| {
            let Some(branch) = other.branch(&node.element) else { return Branch::default() };
            Branch {
                member: node.branch.member && branch.member,
                children: std::mem::take(&mut node.branch.children).intersection(&branch.children),
            }
        });
        self
    }

    /// What is in this one only; a parent in the other does not take its children along.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other, false);
        self
    }

    /// What is in this one only and below no member of the other.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.subtract(other, true);
        self
    }

    fn subtract(&mut self, other: &Self, with_children: bool) {
        if other.is_empty() {
            return;
        }
        self.retain(|node| {
            let mut left = std::mem::take(&mut node.branch);
            match other.branch(&node.element) {
                None => left,
                Some(branch) if branch.member && with_children => Branch::default(),
                Some(branch) => {
                    left.member &= !branch.member;
                    left.children.subtract(&branch.children, with_children);
                    left
                }
            }
        });
    }

    /// Keeps of each node what `keep` says; the branch of the node is free to be taken.
    fn retain(&mut self, mut keep: impl FnMut(&mut Node) -> Branch) {
        self.0.retain_mut(|node| {
            node.branch = keep(node);
            !node.branch.is_empty()
        });
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
