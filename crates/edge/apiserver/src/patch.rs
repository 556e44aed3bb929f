//! A patch as it was sent.

use crate::{accept::media_type, body::Validation};
use http::HeaderMap;
use minisvc_apimachinery::{Resource, Status, decode, patch::PatchType};

/// What server-side apply is sent as.
const APPLY_YAML: &str = "application/apply-patch+yaml";
const APPLY_JSON: &str = "application/apply-patch+json";

/// A patch, read but not applied.
pub(crate) enum Patch {
    /// A change of the stored object.
    Change { kind: PatchType, decoded: decode::Decoded },
    /// A configuration, for server-side apply.
    Apply { decoded: decode::Decoded },
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// 415 for a kind of patch that is not served, 400 if it is no JSON, or no YAML for an apply.
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Status> {
        let media = media_type(headers);
        let text = std::str::from_utf8(body).unwrap_or_default();
        let is_json = text.trim_start().starts_with('{');
        if media == APPLY_JSON || (media == APPLY_YAML && is_json) {
            return match decode::json(body, decode::Limits::REQUEST) {
                Ok(decoded) => Ok(Self::Apply { decoded }),
                // YAML in flow style looks like JSON.
                Err(_) if media == APPLY_YAML => yaml(body),
                Err(error) => Err(Status::bad_request(format!("error decoding YAML: {error}"))),
            };
        }
        if media == APPLY_YAML {
            return yaml(body);
        }
        let kind = PatchType::from_content_type(&media)?;
        let decoded = decode::json(body, decode::Limits::REQUEST)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self::Change { kind, decoded })
    }
}

fn yaml(body: &[u8]) -> Result<Patch, Status> {
    let mut objects = decode::manifest(body, decode::Limits::REQUEST)
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    match (objects.pop(), objects.is_empty()) {
        (Some(value), true) => {
            Ok(Patch::Apply { decoded: decode::Decoded { value, duplicates: Vec::new() } })
        }
        _ => Err(Status::bad_request("error decoding YAML: exactly one object is expected")),
    }
}

/// Checks a configuration before it is applied: types of fields, and keys that appear twice.
///
/// # Errors
/// 400 naming each field of a wrong type; with `Strict`, each doubled key.
pub(crate) fn check_apply(
    validation: Validation,
    resource: &Resource,
    decoded: &decode::Decoded,
) -> Result<Vec<String>, Status> {
    if !decoded.value.is_object() {
        return Err(Status::bad_request("error decoding YAML: the configuration must be an object"));
    }
    // Unknown fields are refused whatever the request says: nobody could own them.
    Validation::Ignore.check(resource, &decoded.value, &[])?;
    let doubled: Vec<String> =
        decoded.duplicates.iter().map(|field| format!("duplicate field {field:?}")).collect();
    match validation {
        Validation::Strict if !doubled.is_empty() => {
            Err(Status::bad_request(format!("error strict decoding YAML: {}", doubled.join(", "))))
        }
        Validation::Warn => Ok(doubled),
        _ => Ok(Vec::new()),
    }
}
