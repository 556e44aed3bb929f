//! Text to values: JSON request bodies, and manifests in YAML or JSON.
//!
//! In: bytes from a client or a file. Out: [`serde_json::Value`]s, or an error that names the line.
//!
//! Invariants: the work is bounded before it is done (bytes, depth, documents, aliases); a key that appears
//! twice never passes silently; YAML is read as kubectl reads it (`012` is ten, `yes` is true, keys are text).

mod value;

use crate::resource::{self, Resource};
use crate::status::Cause;
use serde::de::DeserializeSeed;
use serde_json::Value;
use value::{Node, State, Yaml};

/// Bounds of one text.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the text.
    pub bytes_max: usize,
    /// Nesting of objects and lists.
    pub depth_max: usize,
    /// The same of a YAML text: a level takes up to 26 KiB of the stack, and a thread that serves requests has 2 MiB.
    pub yaml_depth_max: usize,
    /// Documents of the text.
    pub documents_max: usize,
    /// Aliases (`*name`) of a YAML text: each stands for as much as its anchor.
    pub aliases_max: usize,
}

impl Limits {
    /// A request to the API: 3 MiB, as Kubernetes has it. Aliases save people work in files, and are for nothing but
    /// bombs in requests (CVE-2019-11253).
    pub const REQUEST: Self =
        Self { bytes_max: 3 << 20, depth_max: 100, yaml_depth_max: 30, documents_max: 1, aliases_max: 0 };
    /// A file of manifests.
    pub const MANIFEST: Self = Self {
        bytes_max: 16 << 20,
        depth_max: 60,
        yaml_depth_max: 60,
        documents_max: 10_000,
        aliases_max: 1_000,
    };
}

/// Why a text could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text is longer than allowed.
    #[error("{length} bytes are more than the {max} allowed")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// More documents than allowed.
    #[error("there are more than {max} documents")]
    TooManyDocuments {
        /// Documents allowed.
        max: usize,
    },
    /// The text is not UTF-8.
    #[error("not UTF-8 after byte {valid}")]
    NotUtf8 {
        /// Bytes that are.
        valid: usize,
    },
    /// The text is no YAML or JSON, or breaks a bound.
    #[error("line {line}, column {column}: {what}")]
    Syntax {
        /// Line, from one.
        line: u64,
        /// Column, from one.
        column: u64,
        /// What is wrong.
        what: String,
    },
    /// A document is no object.
    #[error("document {index} is no object")]
    NotAnObject {
        /// Number of the document, from one.
        index: usize,
    },
    /// A key appears twice in one object.
    #[error("document {index}: duplicate field {field:?}")]
    Duplicate {
        /// Number of the document, from one.
        index: usize,
        /// Path of the key, such as `spec.ports[0].port`.
        field: String,
    },
}

/// A JSON text, with the keys that appeared twice; the last value of such a key counts, as in Go.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The value.
    pub value: Value,
    /// Paths of the keys that appeared twice, at most 100.
    pub duplicates: Vec<String>,
}

/// Reads one JSON text.
///
/// # Errors
/// It is too long, too deep, no JSON, or goes on after its end.
pub fn json(text: &[u8], limits: Limits) -> Result<Decoded, DecodeError> {
    within(text, limits)?;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let decoded = json_document(&mut reader, limits)?;
    reader.end().map_err(json_error)?;
    Ok(decoded)
}

/// Reads the YAML or JSON documents of a manifest; empty documents are left out, lists are taken apart.
///
/// # Errors
/// A bound is broken, a document is malformed or no object, or a key appears twice.
pub fn manifest(text: &[u8], limits: Limits) -> Result<Vec<Value>, DecodeError> {
    within(text, limits)?;
    let text =
        std::str::from_utf8(text).map_err(|error| DecodeError::NotUtf8 { valid: error.valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = if text.trim_start().starts_with('{') {
        match json_stream(text, limits) {
            // What starts like JSON may be YAML in flow style; if it is neither, JSON's error is the one to show.
            Err(error @ DecodeError::Syntax { .. }) => yaml(text, limits).map_err(|_| error)?,
            other => other?,
        }
    } else {
        yaml(text, limits)?
    };
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        if !document.is_object() {
            return Err(DecodeError::NotAnObject { index: index + 1 });
        }
        take_apart(document, &mut objects);
    }
    if objects.len() > limits.documents_max {
        return Err(DecodeError::TooManyDocuments { max: limits.documents_max });
    }
    Ok(objects)
}

/// Finds the kind of a manifest's object, and what must be there before anything is sent.
///
/// # Errors
/// One cause a missing or unknown `apiVersion`, `kind` or name.
pub fn identify(object: &Value) -> Result<&'static Resource, Vec<Cause>> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text(object.get("apiVersion")), text(object.get("kind")));
    let metadata = object.get("metadata");
    let named = |field: &str| !text(metadata.and_then(|metadata| metadata.get(field))).is_empty();
    let mut causes = Vec::new();
    if api_version.is_empty() {
        causes.push(Cause::required("apiVersion", "must not be empty"));
    }
    if kind.is_empty() {
        causes.push(Cause::required("kind", "must not be empty"));
    }
    if !named("name") && !named("generateName") {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    }
    let found = resource::by_kind(&api_version, &kind);
    if found.is_none() && !api_version.is_empty() && !kind.is_empty() {
        let why = format!("no matches for kind {kind:?} in version {api_version:?}");
        causes.push(Cause::invalid("kind", kind, &why));
    }
    match found {
        Some(resource) if causes.is_empty() => Ok(resource),
        _ => Err(causes),
    }
}

/// `v1 List` and `ServiceList` hold objects of their own.
fn take_apart(mut document: Value, into: &mut Vec<Value>) {
    let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match document.get_mut("items") {
        Some(Value::Array(items)) if is_list => into.append(items),
        _ => into.push(document),
    }
}

fn within(text: &[u8], limits: Limits) -> Result<(), DecodeError> {
    if text.len() > limits.bytes_max {
        return Err(DecodeError::TooLong { length: text.len(), max: limits.bytes_max });
    }
    Ok(())
}

fn json_error(error: serde_json::Error) -> DecodeError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text).to_owned();
    DecodeError::Syntax { line: line as u64, column: column as u64, what }
}

fn json_document<'de, R: serde_json::de::Read<'de>>(
    reader: &mut serde_json::Deserializer<R>,
    limits: Limits,
) -> Result<Decoded, DecodeError> {
    let mut state = State::with_depth(limits.depth_max);
    let value = Node(&mut state).deserialize(reader).map_err(json_error)?;
    Ok(Decoded { value, duplicates: state.duplicates })
}

fn json_stream(text: &str, limits: Limits) -> Result<Vec<Value>, DecodeError> {
    let mut documents = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    while reader.end().is_err() {
        if documents.len() == limits.documents_max {
            return Err(DecodeError::TooManyDocuments { max: limits.documents_max });
        }
        let decoded = json_document(&mut reader, limits)?;
        if let Some(field) = decoded.duplicates.into_iter().next() {
            return Err(DecodeError::Duplicate { index: documents.len() + 1, field });
        }
        documents.push(decoded.value);
    }
    Ok(documents)
}

fn yaml(text: &str, limits: Limits) -> Result<Vec<Value>, DecodeError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(limits.bytes_max),
            max_depth: limits.yaml_depth_max,
            max_documents: limits.documents_max,
            max_aliases: limits.aliases_max,
            max_anchors: 1_000,
            max_recorded_anchor_events: 100_000,
            max_recorded_anchor_bytes: 4 << 20,
            max_nodes: 2_000_000,
            max_events: 4_000_000,
            max_merge_keys: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let documents: Vec<Yaml> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let location = error.location();
        let text = error.without_snippet().to_string();
        let what = text.lines().next().unwrap_or("malformed").to_owned();
        // The library's message ends in the position that the error carries already.
        let what = match what.split(" at line ").next().unwrap_or(&what) {
            breach if breach.starts_with("budget breached: Aliases") => {
                format!("more than {} aliases (*name) are not allowed", limits.aliases_max)
            }
            other => other.to_owned(),
        };
        DecodeError::Syntax {
            line: location.map_or(0, |location| location.line()),
            column: location.map_or(0, |location| location.column()),
            what,
        }
    })?;
    Ok(documents.into_iter().map(|Yaml(value)| value).filter(|value| !value.is_null()).collect())
}

#[cfg(test)]
mod tests;
