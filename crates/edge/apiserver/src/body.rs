//! Reading a request's body: bounded, decoded, checked against the schema.

use crate::{
    accept::media_type,
    path::{Parameters, invalid},
};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use minisvc_apimachinery::{
    Resource, Status, decode, protobuf,
    schema::{self, Fault, FieldProblem},
};
use serde_json::Value;
use std::time::Duration;

/// Longest time a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Warnings in one answer, and bytes of one.
const WARNINGS_MAX: usize = 20;
const WARNING_BYTES_MAX: usize = 256;

/// The whole body.
///
/// # Errors
/// 413 if it is too long, 408 if it takes too long, 400 if it breaks off.
pub(crate) async fn read(body: Body) -> Result<Bytes, Status> {
    let max = decode::Limits::REQUEST.bytes_max;
    let whole = tokio::time::timeout(BODY_WITHIN, Limited::new(body, max).collect());
    match whole.await {
        Err(_) => Err(Status::failure(408, "Timeout", "the request's body did not arrive in time")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Status::too_large(format!("Request entity too large: limit is {max} bytes")))
        }
        Ok(Err(error)) => Err(Status::bad_request(format!("reading the request's body: {error}"))),
    }
}

/// The object in a body.
///
/// # Errors
/// 415 for a form that is not taken, 400 for what cannot be read.
pub(crate) fn decode(headers: &HeaderMap, body: &[u8]) -> Result<decode::Decoded, Status> {
    let failed = |error: decode::DecodeError| Status::bad_request(format!("the request's body: {error}"));
    match media_type(headers).as_str() {
        "application/json" => decode::json(body, decode::Limits::REQUEST).map_err(failed),
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let mut objects = decode::manifest(body, decode::Limits::REQUEST).map_err(failed)?;
            match (objects.pop(), objects.is_empty()) {
                (Some(value), true) => Ok(decode::Decoded { value, duplicates: Vec::new() }),
                _ => Err(Status::bad_request("the request's body: exactly one object is expected")),
            }
        }
        // What `kubectl create namespace NAME` and its like send: unlike apply, they cannot be told otherwise.
        protobuf::MEDIA_TYPE => protobuf::decode(body, decode::Limits::REQUEST.bytes_max)
            .map(|value| decode::Decoded { value, duplicates: Vec::new() })
            .map_err(|error| Status::bad_request(format!("the request's body: {error}"))),
        other => {
            Err(unsupported(other, &format!("application/json, application/yaml, {}", protobuf::MEDIA_TYPE)))
        }
    }
}

/// 415, with what is taken instead.
pub(crate) fn unsupported(media: &str, taken: &str) -> Status {
    Status::unsupported_media_type(format!(
        "the body of the request was in an unknown format ({media}) - accepted media types include: {taken}"
    ))
}

/// What becomes of fields that the schema does not have (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validation {
    Ignore,
    Warn,
    Strict,
}

impl Validation {
    pub(crate) fn of(parameters: &Parameters) -> Result<Self, Status> {
        match parameters.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some("Ignore") => Ok(Self::Ignore),
            Some(other) => {
                let why = "supported values: \"Ignore\", \"Warn\", \"Strict\"";
                Err(invalid("fieldValidation", other, why))
            }
        }
    }

    /// Checks an object against its schema; returns what to warn of.
    ///
    /// # Errors
    /// 400 naming each field of a wrong type; with `Strict`, each unknown or doubled one too.
    pub(crate) fn check(
        self,
        resource: &Resource,
        object: &Value,
        duplicates: &[String],
    ) -> Result<Vec<String>, Status> {
        let doubled =
            duplicates.iter().map(|field| FieldProblem { field: field.clone(), fault: Fault::Duplicate });
        let mut problems: Vec<FieldProblem> = doubled.collect();
        problems.extend(schema::validate(resource, object));
        let refused = |problem: &FieldProblem| self == Self::Strict || !problem.is_strict_only();
        if problems.iter().any(refused) {
            problems.retain(refused);
            return Err(schema::refusal(resource, &problems));
        }
        match self {
            Self::Warn => Ok(problems.iter().map(ToString::to_string).collect()),
            Self::Ignore | Self::Strict => Ok(Vec::new()),
        }
    }
}

/// Adds `Warning` headers, which kubectl prints.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings.iter().take(WARNINGS_MAX) {
        let text: String =
            warning.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        // Cut after escaping; a lone backslash at the end would escape the closing quote.
        let text = text.get(..WARNING_BYTES_MAX).unwrap_or(&text).trim_end_matches('\\');
        if let Ok(value) = HeaderValue::try_from(format!("299 - \"{text}\"")) {
            headers.append(http::header::WARNING, value);
        }
    }
}

/// Whether nothing may be changed (`dryRun`).
pub(crate) fn dry_run(parameters: &Parameters) -> Result<bool, Status> {
    let mut dry = false;
    for value in parameters.all("dryRun").filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(invalid("dryRun", value, "supported values: \"All\""));
        }
        dry = true;
    }
    Ok(dry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::resource::SERVICES;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_refused_warned_of_or_let_be() {
        let object =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"x\"y": 1}});
        let refused = Validation::Strict.check(&SERVICES, &object, &["spec.ports".to_owned()]).unwrap_err();
        assert_eq!(refused.code, 400);
        assert!(
            refused.message.contains("strict decoding error: duplicate field \"spec.ports\", unknown field"),
            "{refused}"
        );
        let warnings = Validation::Warn.check(&SERVICES, &object, &[]).unwrap();
        let mut headers = HeaderMap::new();
        warn(&mut headers, &warnings);
        let text = headers[http::header::WARNING].to_str().unwrap();
        assert!(text.starts_with("299 - \"unknown field \\\"spec.x"), "{text}");
        assert_eq!(Validation::Ignore.check(&SERVICES, &object, &[]), Ok(Vec::new()));
        let wrong = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": "x"}]}});
        assert_eq!(Validation::Ignore.check(&SERVICES, &wrong, &[]).unwrap_err().code, 400);
    }
}
