//! Bodies of answers.

use crate::accept::Form;
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use minisvc_apimachinery::{Resource, Status, convert, storage::Stored};
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};

/// Bytes of a list that are put together at once: what one client can hold a worker with.
const CHUNK_BYTES: usize = 64 << 10;

pub(crate) fn bytes(status: StatusCode, media: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub(crate) fn json(status: StatusCode, value: &Value) -> Response {
    bytes(status, "application/json", value.to_string())
}

pub(crate) fn text(status: StatusCode, body: String) -> Response {
    bytes(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A `Status`, with the HTTP code that it names.
pub(crate) fn status(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match serde_json::to_vec(status) {
        Ok(body) => bytes(code, "application/json", body),
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    };
    let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A stored object's bytes as its kind is served: the same, unless it is stored as another kind.
pub(crate) fn served(resource: &Resource, stored: &Bytes) -> Bytes {
    if resource.stored_as.is_none() {
        return stored.clone();
    }
    match serde_json::from_slice(stored) {
        Ok(object) => convert::to_served(resource, object).to_string().into(),
        Err(_) => stored.clone(),
    }
}

/// A stored object's metadata, as `PartialObjectMetadata`; the rest is not even read.
pub(crate) fn metadata(version: &str, stored: &Bytes) -> Bytes {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a serde_json::value::RawValue,
    }
    let metadata = match serde_json::from_slice::<Head<'_>>(stored) {
        Ok(head) => head.metadata.get(),
        Err(_) => "{}",
    };
    let head = format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\"");
    format!("{head},\"metadata\":{metadata}}}").into()
}

/// A list of objects as they are served, or of their metadata: chunk by chunk as the client takes them.
pub(crate) fn list(
    resource: &'static Resource,
    form: Form,
    about: &Value,
    items: Vec<Arc<Stored>>,
) -> Response {
    let (kind, version) = match form {
        Form::Metadata(version) => ("PartialObjectMetadata", format!("meta.k8s.io/{version}")),
        Form::Object | Form::Table(_) => (resource.kind, resource.api_version()),
    };
    let (kind, version) = (json!(format!("{kind}List")), json!(version));
    let head = format!("{{\"kind\":{kind},\"apiVersion\":{version},\"metadata\":{about},\"items\":[");
    let mut items = items.into_iter();
    let mut head = Some(head);
    let chunks = stream::iter(std::iter::from_fn(move || {
        let mut chunk = Vec::new();
        let mut first = false;
        if let Some(head) = head.take() {
            chunk.extend_from_slice(head.as_bytes());
            first = true;
        } else if items.len() == 0 {
            return None;
        }
        while chunk.len() < CHUNK_BYTES {
            let Some(item) = items.next() else { break };
            if !std::mem::take(&mut first) {
                chunk.push(b',');
            }
            let item = match form {
                Form::Metadata(version) => metadata(version, &item.value),
                Form::Object | Form::Table(_) => served(resource, &item.value),
            };
            chunk.extend_from_slice(&item);
        }
        if items.len() == 0 {
            chunk.extend_from_slice(b"]}");
        }
        Some(Ok::<_, Infallible>(Bytes::from(chunk)))
    }));
    bytes(StatusCode::OK, "application/json", Body::from_stream(chunks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use minisvc_apimachinery::resource::PODS;

    #[tokio::test]
    async fn lists_of_any_length_are_json() {
        for count in [0, 1, 2, 3000] {
            let item = |n: u64| {
                let value = json!({"metadata": {"name": n, "padding": "x".repeat(100)}}).to_string().into();
                Arc::new(Stored { revision: n, value })
            };
            let metadata = json!({"resourceVersion": "5"});
            let response = list(&PODS, Form::Object, &metadata, (0..count).map(item).collect());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len() as u64, count);
            assert_eq!((&value["kind"], &value["metadata"]), (&json!("PodList"), &metadata));
        }
    }
}
