//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch.
//!
//! In: an object, a patch, and the kind whose schema says how lists merge. Out: the patched object, or the
//! `Status` of a patch that does not fit. The result is not checked against the schema here.
//!
//! Invariants: the object is untouched if the patch fails; the work and the size of the result are bounded by
//! the size of the patch and the object, whatever the patch says.

// A `Status` is large, but made once a request.
#![allow(clippy::result_large_err)]

mod strategic;
mod three_way;

pub use three_way::three_way;

use crate::{resource::Resource, schema, status::Status};
use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

/// Operations of one JSON patch, as in Kubernetes.
pub const OPERATIONS_MAX: usize = 10_000;
/// Bytes that the `copy` and `move` operations of one patch may carry together.
const CARRIED_BYTES_MAX: usize = 8 << 20;
/// Nesting that a JSON patch may build.
const DEPTH_MAX: usize = 100;

/// The media types of patches that are served. The last is no [`PatchType`], see [`crate::managed`].
pub const MEDIA_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own: lists are merged by key.
    Strategic,
}

impl PatchType {
    /// Reads a `Content-Type`.
    ///
    /// # Errors
    /// 415 for anything else.
    pub fn from_content_type(text: &str) -> Result<Self, Status> {
        match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            _ => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                MEDIA_TYPES.join(", ")
            ))),
        }
    }
}

/// The object with the patch applied.
///
/// # Errors
/// 400 if the patch is malformed, 413 if it is too large, 422 if it does not fit the object.
pub fn apply(kind: PatchType, resource: &Resource, object: &Value, patch: &Value) -> Result<Value, Status> {
    match kind {
        PatchType::Json => json(object, patch),
        PatchType::Merge if patch.is_object() => {
            let mut object = object.clone();
            json_patch::merge(&mut object, patch);
            Ok(object)
        }
        PatchType::Strategic if patch.is_object() => {
            let schemas = schema::schemas();
            let root = schemas.of(resource).map_or(schema::Shape::Any, schema::Shape::Struct);
            strategic::merge(schemas, &root, object, patch)
                .map_err(|error| Status::bad_request(error.to_string()))
        }
        PatchType::Merge | PatchType::Strategic => {
            Err(Status::bad_request("a merge patch must be an object"))
        }
    }
}

fn unfit(words: impl Into<String>) -> Status {
    Status::failure(422, "Invalid", words)
}

fn json(object: &Value, patch: &Value) -> Result<Value, Status> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut object = object.clone();
    let mut carried = 0;
    for (index, operation) in patch.0.iter().enumerate() {
        check(&object, operation, index, &mut carried)?;
        // The object is our own copy, so half an applied patch is never seen.
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(operation)).map_err(|error| {
            let missing = matches!(error.kind, PatchErrorKind::TestFailed);
            let why = if missing { "testing value failed".to_owned() } else { error.kind.to_string() };
            unfit(format!("operation {index} at {:?}: {why}", operation.path().as_str()))
        })?;
    }
    Ok(object)
}

/// Refuses an operation that would make the object too deep or, by copying, too large.
fn check(
    object: &Value,
    operation: &PatchOperation,
    index: usize,
    carried: &mut usize,
) -> Result<(), Status> {
    let steps = operation.path().tokens().count();
    let value = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Copy(copy) => carry(object, &copy.from, carried)?,
        PatchOperation::Move(take) => carry(object, &take.from, carried)?,
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    if value.is_some_and(|value| steps + measure(value).1 > DEPTH_MAX) {
        return Err(unfit(format!("operation {index}: the result is nested more than {DEPTH_MAX} levels")));
    }
    Ok(())
}

fn carry<'a>(
    object: &'a Value,
    from: &json_patch::jsonptr::PointerBuf,
    carried: &mut usize,
) -> Result<Option<&'a Value>, Status> {
    let value = object.pointer(from.as_str());
    *carried += value.map_or(0, |value| measure(value).0);
    if *carried > CARRIED_BYTES_MAX {
        return Err(Status::too_large(format!(
            "the copy and move operations of a JSON patch may carry at most {CARRIED_BYTES_MAX} bytes"
        )));
    }
    Ok(value)
}

/// Roughly the bytes of a value as JSON, and its depth.
fn measure(value: &Value) -> (usize, usize) {
    let fold = |(size, depth): (usize, usize), (s, d): (usize, usize)| (size + s + 1, depth.max(d));
    match value {
        Value::String(text) => (text.len() + 2, 0),
        Value::Array(items) => {
            let (size, depth) = items.iter().map(measure).fold((2, 0), fold);
            (size, depth + 1)
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| {
                let (size, depth) = measure(value);
                (key.len() + 3 + size, depth)
            });
            let (size, depth) = entries.fold((2, 0), fold);
            (size, depth + 1)
        }
        _ => (8, 0),
    }
}

#[cfg(test)]
mod tests;
