//! Field selectors: `metadata.name=web,spec.nodeName!=node1`.

use super::{REQUIREMENTS_MAX, SelectorError};
use crate::{convert::stored_path, resource::Resource};
use serde_json::Value;
use std::borrow::Cow;

/// Fields beside `metadata.name` and `metadata.namespace` by which a kind's objects can be selected
/// (Kubernetes' `GetAttrs` of each kind).
fn supported(resource: &Resource) -> &'static [&'static str] {
    match (resource.group, resource.kind) {
        ("", "Pod") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "Node") => &["spec.unschedulable"],
        ("", "Namespace") => &["status.phase"],
        ("", "Secret") => &["type"],
        ("", "Service") => &["spec.clusterIP", "spec.type"],
        ("", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "Event") => &[
            "reason",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reportingController",
            "type",
        ],
        ("apps", "ReplicaSet") => &["status.replicas"],
        _ => &[],
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

/// A predicate on an object's fields; all of its terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Reads a selector for objects of a kind. `=`, `==` and `!=`; a backslash before a comma, an equals sign
    /// or a backslash takes it as it is.
    ///
    /// # Errors
    /// A part is no comparison, or the kind cannot be selected by its field.
    pub fn parse(text: &str, resource: &Resource) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split(text).into_iter().filter(|part| !part.is_empty()) {
            if terms.len() == REQUIREMENTS_MAX {
                return Err(SelectorError::TooMany);
            }
            let unclear = || SelectorError::FieldGrammar { selector: text.to_owned(), part: part.to_owned() };
            let (field, equal, value) = compare(part).ok_or_else(unclear)?;
            let value = unescape(value).ok_or_else(unclear)?;
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || supported(resource).contains(&field);
            if !known {
                return Err(SelectorError::FieldNotSupported { field: field.to_owned() });
            }
            terms.push(Term { field: stored_path(resource, field).into_owned(), value, equal });
        }
        Ok(Self { terms })
    }

    /// Whether there is no term.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one value a field must have, if the selector says so; lets a reader go to the object directly.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether this object, as it is stored, matches.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| (value_of(object, &term.field) == term.value) == term.equal)
    }
}

/// The text of a field; absent ones are empty, absent booleans false.
fn value_of<'a>(object: &'a Value, field: &str) -> Cow<'a, str> {
    if field == "source" {
        let component = value_of(object, "source.component");
        return if component.is_empty() { value_of(object, "reportingComponent") } else { component };
    }
    let value = field.split('.').try_fold(object, |value, step| value.get(step));
    match value {
        Some(Value::String(text)) => text.as_str().into(),
        Some(Value::Null) | None if matches!(field, "spec.unschedulable" | "spec.hostNetwork") => {
            "false".into()
        }
        Some(Value::Null) | None => "".into(),
        Some(other) => other.to_string().into(),
    }
}

fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn compare(part: &str) -> Option<(&str, bool, &str)> {
    (0..part.len()).filter(|at| part.is_char_boundary(*at)).find_map(|at| {
        let (field, rest) = part.split_at(at);
        let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
            (false, value)
        } else if let Some(value) = rest.strip_prefix("==") {
            (true, value)
        } else {
            (true, rest.strip_prefix('=')?)
        };
        Some((field, equal, value))
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}
