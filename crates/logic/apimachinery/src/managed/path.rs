//! One step of a path to a field, as `fieldsV1` writes it (sigs.k8s.io/structured-merge-diff `fieldpath`).
//!
//! Invariant: the order is Kubernetes' own: fields, keys, values, indices; numbers before texts.

use serde_json::{Map, Value};
use std::{cmp::Ordering, fmt};

/// A value that tells items of a list apart. Numbers are equal by their size, whatever their form.
#[derive(Clone, Debug)]
pub struct Scalar(pub Value);

impl Scalar {
    fn rank(&self) -> u8 {
        match self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
            },
            (a, b) => self.rank().cmp(&other.rank()).then_with(|| a.to_string().cmp(&b.to_string())),
        }
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scalar {}

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathElement {
    /// `f:name`: a field of a struct or an entry of a map.
    Field(String),
    /// `k:{"name":value}`: the item of a list with these keys, sorted by name.
    Key(Vec<(String, Scalar)>),
    /// `v:value`: the item of a set.
    Value(Scalar),
    /// `i:index`: an item by its place.
    Index(i64),
}

impl PathElement {
    /// As `fieldsV1` names it.
    pub fn to_text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let keys: Map<String, Value> =
                    keys.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
                format!("k:{}", escape(&Value::Object(keys).to_string()))
            }
            Self::Value(value) => format!("v:{}", escape(&value.0.to_string())),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// Reads a name of `fieldsV1`. `Ok(None)`: of a kind that is not known, to be left out.
    ///
    /// # Errors
    /// Words for what is malformed.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let bad = |why: &dyn fmt::Display| format!("{text:?} is no path element: {why}");
        let (kind, rest) = text.split_once(':').ok_or_else(|| bad(&"missing colon"))?;
        let json = || serde_json::from_str::<Value>(rest).map_err(|error| bad(&error));
        match kind {
            "f" => Ok(Some(Self::Field(rest.to_owned()))),
            "v" => Ok(Some(Self::Value(Scalar(json()?)))),
            "i" => rest.parse().map(|index| Some(Self::Index(index))).map_err(|error| bad(&error)),
            "k" => match json()? {
                // The map is sorted by name.
                Value::Object(keys) => {
                    Ok(Some(Self::Key(keys.into_iter().map(|(name, value)| (name, Scalar(value))).collect())))
                }
                _ => Err(bad(&"the keys are no object")),
            },
            kind if kind.len() == 1 => Ok(None),
            _ => Err(bad(&"missing colon")),
        }
    }
}

/// As in messages: `.spec`, `[name="web"]`, `[="a"]`, `[0]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Vec<String> =
                    keys.iter().map(|(name, value)| format!("{name}={}", value.0)).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", value.0),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// Go's JSON writer escapes what could end a script in a page.
fn escape(json: &str) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json.to_owned();
    }
    let mut text = String::with_capacity(json.len() + 16);
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => text.push(letter),
        }
    }
    text
}
