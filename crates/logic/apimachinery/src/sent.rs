//! Whether an object that was sent is what its path names: kind, name and namespace, in Kubernetes' words.

use crate::{resource::Resource, status::Status};
use serde_json::{Value, json};

/// Checks that an object says that it is of this kind; sets `apiVersion` and `kind` if they were left out.
///
/// # Errors
/// 400.
pub fn check_kind(kind: &Resource, object: &mut Value) -> Result<(), Status> {
    let version = kind.api_version();
    let Some(map) = object.as_object_mut() else {
        return Err(Status::bad_request(format!("the body of the request must be a {} object", kind.kind)));
    };
    for (field, expected, words) in
        [("apiVersion", version.as_str(), "API version"), ("kind", kind.kind, "kind")]
    {
        let given = map.entry(field).or_insert_with(|| json!(expected));
        if given != expected {
            let given = given.as_str().unwrap_or_default();
            return Err(Status::bad_request(format!(
                "the {words} in the data ({given}) does not match the expected {words} ({expected})"
            )));
        }
    }
    Ok(())
}

/// Checks that an object has the name that its path has.
///
/// # Errors
/// 400.
pub fn check_name(given: &str, wanted: &str) -> Result<(), Status> {
    if given == wanted {
        return Ok(());
    }
    let words = format!("the name of the object ({given}) does not match the name on the URL ({wanted})");
    Err(Status::bad_request(words))
}

/// 400 for an object that says another namespace than its path.
pub fn other_namespace() -> Status {
    let words = "the namespace of the provided object does not match the namespace sent on the request";
    Status::bad_request(words)
}
