//! Strict decoding: which fields of an object no type has, and which have the wrong type.
//!
//! Words and order follow sigs.k8s.io/json and the API server (`strict decoding error: unknown field "spec.x"`).
//! `null` counts as absent everywhere, as in Go.

use super::{Schemas, Shape, schemas};
use crate::{quantity::Quantity, resource::Resource, status::Status};
use serde_json::Value;
use std::fmt;

/// Problems reported for one object; the rest is counted as more of the same.
pub const PROBLEMS_MAX: usize = 100;
/// Nesting of an object; deeper values are refused where they begin.
const DEPTH_MAX: usize = 100;

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No type has this field.
    Unknown,
    /// The field appears twice in its object.
    Duplicate,
    /// The JSON type is wrong.
    Type {
        /// JSON type found, such as `string` or `number 1.5`.
        found: String,
        /// Go's struct and the path of fields, such as `ServicePort.spec.ports.port`.
        go_field: String,
        /// Go's type, such as `int32`.
        wanted: String,
    },
    /// The JSON type is right, the text is not; why.
    Malformed(String),
}

/// One faulty field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// Path, such as `spec.ports[0].port`; empty for the object itself.
    pub field: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl FieldProblem {
    /// Whether only `fieldValidation=Strict` refuses this; anything else cannot be decoded at all.
    pub fn is_strict_only(&self) -> bool {
        matches!(self.fault, Fault::Unknown | Fault::Duplicate)
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::Unknown => write!(f, "unknown field {:?}", self.field),
            Fault::Duplicate => write!(f, "duplicate field {:?}", self.field),
            Fault::Type { found, go_field, wanted } if go_field.contains('.') => {
                write!(f, "json: cannot unmarshal {found} into Go struct field {go_field} of type {wanted}")
            }
            Fault::Type { found, wanted, .. } => {
                write!(f, "json: cannot unmarshal {found} into Go value of type {wanted}")
            }
            Fault::Malformed(why) => f.write_str(why),
        }
    }
}

/// Every problem of an object of a kind, in the order of its fields; empty if it decodes strictly.
pub fn validate(resource: &Resource, object: &Value) -> Vec<FieldProblem> {
    let schemas = schemas();
    run(schemas, schemas.of(resource), object)
}

/// As [`validate`], for a type that is no kind, such as `io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions`.
pub fn validate_named(name: &str, object: &Value) -> Vec<FieldProblem> {
    let schemas = schemas();
    run(schemas, schemas.named(name), object)
}

fn run(schemas: &Schemas, root: Option<usize>, object: &Value) -> Vec<FieldProblem> {
    let Some(root) = root else {
        let fault = Fault::Malformed("no schema is known for this kind".to_owned());
        return vec![FieldProblem { field: String::new(), fault }];
    };
    let mut walk = Walk { schemas, problems: Vec::new(), fields: Vec::new(), path: String::new() };
    walk.value(&Shape::Struct(root), object, "", 0);
    walk.problems
}

/// 400 in the API server's words; problems that are no reason to refuse are to be left out by the caller.
pub fn refusal(resource: &Resource, problems: &[FieldProblem]) -> Status {
    let decoding: Vec<&FieldProblem> = problems.iter().filter(|problem| !problem.is_strict_only()).collect();
    let words = match decoding.first() {
        Some(first) => first.to_string(),
        None => {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            format!("strict decoding error: {}", all.join(", "))
        }
    };
    let Resource { kind, .. } = resource;
    let version = resource.api_version();
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {words}"))
}

struct Walk<'a> {
    schemas: &'a Schemas,
    problems: Vec<FieldProblem>,
    /// Names of the struct fields down to here, as Go prints them: no indices, no map keys.
    fields: Vec<String>,
    /// Path down to here, as people write it.
    path: String,
}

impl Walk<'_> {
    fn report(&mut self, fault: Fault) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(FieldProblem { field: self.path.clone(), fault });
        }
    }

    fn within(&mut self, step: &str, visit: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !step.starts_with('[') && length > 0 {
            self.path.push('.');
        }
        self.path.push_str(step);
        visit(self);
        self.path.truncate(length);
    }

    fn mismatch(&mut self, shape: &Shape, value: &Value, owner: &str) {
        let mut go_field = owner.to_owned();
        for field in &self.fields {
            go_field.push('.');
            go_field.push_str(field);
        }
        let wanted = self.go_type(shape);
        self.report(Fault::Type { found: found(shape, value), go_field, wanted });
    }

    fn go_type(&self, shape: &Shape) -> String {
        match shape {
            Shape::Struct(id) => {
                self.schemas.types.get(*id).map_or_else(String::new, |t| format!("{}.{}", t.package, t.name))
            }
            Shape::Map(value) => format!("map[string]{}", self.go_type(value)),
            Shape::List(item) => format!("[]{}", self.go_type(item)),
            Shape::Text => "string".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Number => "float64".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::Any => "interface {}".to_owned(),
        }
    }

    fn value(&mut self, shape: &Shape, value: &Value, owner: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return self.report(Fault::Malformed("exceeded max depth".to_owned()));
        }
        match (shape, value) {
            (_, Value::Null) | (Shape::Any, _) => {}
            (Shape::Struct(id), Value::Object(fields)) => {
                let Some(kind) = self.schemas.types.get(*id) else { return };
                for (name, value) in fields {
                    self.within(name, |walk| match kind.fields.get(name) {
                        Some(field) => {
                            walk.fields.push(name.clone());
                            walk.value(&field.shape, value, &kind.name, depth + 1);
                            walk.fields.pop();
                        }
                        None => walk.report(Fault::Unknown),
                    });
                }
            }
            (Shape::Map(inner), Value::Object(entries)) => {
                for (key, value) in entries {
                    self.within(key, |walk| walk.value(inner, value, owner, depth + 1));
                }
            }
            (Shape::List(inner), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.within(&format!("[{index}]"), |walk| walk.value(inner, item, owner, depth + 1));
                }
            }
            _ => self.scalar(shape, value, owner),
        }
    }

    fn scalar(&mut self, shape: &Shape, value: &Value, owner: &str) {
        let malformed = match (shape, value) {
            (Shape::Text | Shape::IntOrString, Value::String(_))
            | (Shape::Bool, Value::Bool(_))
            | (Shape::Number, Value::Number(_)) => None,
            (Shape::Int32 | Shape::IntOrString, Value::Number(number))
                if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) =>
            {
                None
            }
            (Shape::Int64, Value::Number(number)) if number.is_i64() => None,
            (Shape::Bytes, Value::String(text)) => {
                base64_fault(text).map(|at| format!("illegal base64 data at input byte {at}"))
            }
            (Shape::Time, Value::String(text)) if !is_rfc3339(text) => Some(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as RFC 3339"
            )),
            (Shape::Time, Value::String(_)) => None,
            (Shape::Quantity, Value::String(text)) => quantity_fault(text),
            (Shape::Quantity, Value::Number(number)) => quantity_fault(&number.to_string()),
            _ => return self.mismatch(shape, value, owner),
        };
        if let Some(why) = malformed {
            self.report(Fault::Malformed(why));
        }
    }
}

fn found(shape: &Shape, value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        // Go names the number only where a number was wanted.
        Value::Number(number) if matches!(shape, Shape::Int32 | Shape::Int64 | Shape::IntOrString) => {
            format!("number {number}")
        }
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Index of the first byte that standard base64 with padding does not allow (Go's `StdEncoding`).
fn base64_fault(text: &str) -> Option<usize> {
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n')).collect();
    let padding = bytes.iter().rev().take_while(|(_, byte)| *byte == b'=').count();
    let data = bytes.len() - padding;
    let bad = bytes[..data].iter().find(|(_, b)| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')));
    match bad {
        Some((at, _)) => Some(*at),
        None if bytes.len().is_multiple_of(4) && padding <= 2 => None,
        None => Some(if padding > 2 { bytes.get(data).map_or(0, |(at, _)| *at) } else { text.len() }),
    }
}

fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let zoned = text.ends_with('Z')
        || (bytes.len() > 6
            && matches!(bytes[bytes.len() - 6], b'+' | b'-')
            && bytes[bytes.len() - 3] == b':');
    bytes.len() >= 20 && bytes[10] == b'T' && zoned && text.parse::<jiff::Timestamp>().is_ok()
}

fn quantity_fault(text: &str) -> Option<String> {
    if Quantity::parse(text).is_some() {
        return None;
    }
    let words = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    Some(words.to_owned())
}
