//! Which objects a person or a controller means: label selectors and field selectors.
//!
//! In: the text of `labelSelector=` and `fieldSelector=`, or a selector of an object. Out: a predicate.
//! Words and grammar are those of k8s.io/apimachinery `labels` and `fields`.

mod fields;
mod parse;

pub use fields::FieldSelector;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Requirements of one selector.
pub const REQUIREMENTS_MAX: usize = 1_000;

/// Why a selector could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text does not follow the grammar.
    #[error("unable to parse requirement: {why}")]
    Grammar {
        /// What was expected, what was found.
        why: String,
    },
    /// A key or a value is no label.
    #[error("{field}: Invalid value: {value:?}: {why}")]
    Label {
        /// `key` or `values`.
        field: &'static str,
        /// What was found.
        value: String,
        /// Kubernetes' words.
        why: &'static str,
    },
    /// A `matchExpressions` operator that does not exist.
    #[error("{operator:?} is not a valid label selector operator")]
    Operator {
        /// What was found.
        operator: String,
    },
    /// An operator that needs values has none, or one that takes none has some.
    #[error("values: Invalid value: {values:?}: {why}")]
    Values {
        /// What was found.
        values: Vec<String>,
        /// Kubernetes' words.
        why: &'static str,
    },
    /// A part of a field selector is no `field=value`.
    #[error("invalid selector: {selector:?}; can't understand {part:?}")]
    FieldGrammar {
        /// The whole selector.
        selector: String,
        /// The part.
        part: String,
    },
    /// Objects of this kind cannot be selected by this field.
    #[error("field label not supported: {field}")]
    FieldNotSupported {
        /// The field.
        field: String,
    },
    /// There are more requirements than allowed.
    #[error("a selector may have at most {REQUIREMENTS_MAX} requirements")]
    TooMany,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    key: String,
    operator: Operator,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// A predicate on labels; all of its requirements must hold, none of them: everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Reads `app=web,tier!=db,zone in (a,b),!old`.
    ///
    /// # Errors
    /// The text does not follow the grammar, or a key or value is no label.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::label_selector(text)
    }

    /// The selector of a Service: every label must be there. An empty one selects everything; whether an
    /// empty selector means that is the caller's matter.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In(BTreeSet::from([value.clone()])),
        };
        Self { requirements: labels.iter().map(equal).collect() }
    }

    /// `metav1.LabelSelector`: `matchLabels` and `matchExpressions`.
    ///
    /// # Errors
    /// An expression has an unknown operator, or values that do not fit it.
    pub fn from_selector(selector: &meta::LabelSelector) -> Result<Self, SelectorError> {
        let mut requirements =
            selector.match_labels.as_ref().map(Self::from_map).unwrap_or_default().requirements;
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = parse::operator(&expression.operator, values)?;
            requirements.push(Requirement { key: expression.key.clone(), operator });
        }
        Ok(Self { requirements })
    }

    /// Whether there is no requirement.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether these labels match.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }

    /// Whether the labels of this object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
}

#[cfg(test)]
mod tests;
