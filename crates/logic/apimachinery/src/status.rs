//! `Status`, the only error the API gives (k8s.io/apimachinery `metav1.Status`, `api/errors`, `field.Error`).
//!
//! Messages are Kubernetes' own words, because kubectl and scripts read them.

use crate::resource::Resource;
use serde::{Deserialize, Serialize};

/// Why one field was refused (`field.ErrorType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CauseKind {
    /// A required value is missing.
    #[serde(rename = "FieldValueRequired")]
    Required,
    /// The value is malformed or out of range.
    #[serde(rename = "FieldValueInvalid")]
    Invalid,
    /// The value is none of those supported.
    #[serde(rename = "FieldValueNotSupported")]
    NotSupported,
    /// The value may not be set here.
    #[serde(rename = "FieldValueForbidden")]
    Forbidden,
    /// The value appears twice where it must be unique.
    #[serde(rename = "FieldValueDuplicate")]
    Duplicate,
    /// The value is longer than allowed.
    #[serde(rename = "FieldValueTooLong")]
    TooLong,
    /// There are more values than allowed.
    #[serde(rename = "FieldValueTooMany")]
    TooMany,
    /// The value has the wrong JSON type.
    #[serde(rename = "FieldValueTypeInvalid")]
    TypeInvalid,
    /// Something named does not exist.
    #[serde(rename = "FieldValueNotFound")]
    NotFound,
    /// The server failed.
    #[serde(rename = "InternalError")]
    Internal,
    /// Another manager owns the field that is applied.
    FieldManagerConflict,
}

/// One field's fault (`metav1.StatusCause`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of fault.
    pub reason: CauseKind,
    /// Kubernetes' words, without the field's name.
    pub message: String,
    /// Path of the field, such as `spec.ports[0].port`.
    pub field: String,
}

fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

impl Cause {
    /// `field: Required value: detail`.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let tail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        Self { reason: CauseKind::Required, message: format!("Required value{tail}"), field: field.into() }
    }

    /// `field: Invalid value: value: detail`.
    pub fn invalid(field: impl Into<String>, value: impl Into<serde_json::Value>, detail: &str) -> Self {
        let message = format!("Invalid value: {}: {detail}", shown(&value.into()));
        Self { reason: CauseKind::Invalid, message, field: field.into() }
    }

    /// `field: Unsupported value: value: supported values: "A", "B"`.
    pub fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
        Self { reason: CauseKind::NotSupported, message, field: field.into() }
    }

    /// `field: Forbidden: detail`.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: CauseKind::Forbidden, message: format!("Forbidden: {detail}"), field: field.into() }
    }

    /// `field: Not found: value`.
    pub fn not_found(field: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        let message = format!("Not found: {}", shown(&value.into()));
        Self { reason: CauseKind::NotFound, message, field: field.into() }
    }

    /// `field: Duplicate value: value`.
    pub fn duplicate(field: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        let message = format!("Duplicate value: {}", shown(&value.into()));
        Self { reason: CauseKind::Duplicate, message, field: field.into() }
    }

    /// `field: Too long: may not be more than max bytes`.
    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let message = format!("Too long: may not be more than {max_bytes} bytes");
        Self { reason: CauseKind::TooLong, message, field: field.into() }
    }

    /// `field: Too many: actual: must have at most max items`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let message = format!("Too many: {actual}: must have at most {max} items");
        Self { reason: CauseKind::TooMany, message, field: field.into() }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Which object a [`Status`] is about (`metav1.StatusDetails`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind for `Invalid`, plural otherwise, as Kubernetes has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object, after a delete.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry a faulty field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds to wait before another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// The answer of a request that was not carried out, or a delete that was (`metav1.Status`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `v1`.
    pub api_version: String,
    /// Always `Status`.
    pub kind: String,
    /// Always empty.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Failure` or `Success`.
    pub status: String,
    /// What happened, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What happened, for a program: `NotFound`, `Conflict`, `Invalid`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Which object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code.
    pub code: u16,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with these words.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Status".to_owned(),
            metadata: serde_json::Map::new(),
            status: "Failure".to_owned(),
            message: message.into(),
            reason: reason.to_owned(),
            details: None,
            code,
        }
    }

    /// A success, such as a delete answers.
    pub fn success(details: Details) -> Self {
        Self { status: "Success".to_owned(), details: Some(details), ..Self::failure(200, "", String::new()) }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = Some(Details {
            name: name.to_owned(),
            group: resource.group.to_owned(),
            kind: resource.plural.to_owned(),
            ..Details::default()
        });
        self
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified_plural());
        Self::failure(404, "NotFound", message).about(resource, name)
    }

    /// 404 for a path that is not served.
    pub fn no_such_path() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 for a create of what is there already.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified_plural());
        Self::failure(409, "AlreadyExists", message).about(resource, name)
    }

    /// 409 for a write based on an old version, or whose precondition does not hold.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified_plural());
        Self::failure(409, "Conflict", message).about(resource, name)
    }

    /// 409 in the words of an update with a stale `resourceVersion`.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 422 with one cause a faulty field.
    pub fn invalid(resource: &Resource, name: &str, causes: Vec<Cause>) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let words = match causes.as_slice() {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let mut status = Self::failure(422, "Invalid", format!("{kind} {name:?} is invalid: {words}"))
            .about(resource, name);
        if let Some(details) = &mut status.details {
            details.kind = resource.kind.to_owned();
            details.causes = causes;
        }
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403 for an object or a collection (empty name), with why.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let object = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let message = format!("{}{object} is forbidden: {why}", resource.qualified_plural());
        Self::failure(403, "Forbidden", message).about(resource, name)
    }

    /// 405.
    pub fn method_not_supported(resource: &Resource, verb: &str) -> Self {
        let message =
            format!("{verb} is not supported on resources of kind {:?}", resource.qualified_plural());
        Self::failure(405, "MethodNotAllowed", message).about(resource, "")
    }

    /// 410 for a watch or a continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503: try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{INGRESSES, SERVICES};

    #[test]
    fn words_are_kubernetes_own() {
        let causes =
            vec![Cause::invalid("spec.ports[0].port", 70000, "must be between 1 and 65535, inclusive")];
        let status = Status::invalid(&SERVICES, "web", causes);
        assert_eq!(
            status.message,
            "Service \"web\" is invalid: spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"
        );
        assert_eq!(Status::not_found(&INGRESSES, "x").message, "ingresses.networking.k8s.io \"x\" not found");
    }
}
