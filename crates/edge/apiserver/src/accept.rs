//! Which form of an answer the client takes (`Accept`), and what form its body has (`Content-Type`).

use http::{HeaderMap, header};
use minisvc_apimachinery::Status;

/// A form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects.
    Object,
    /// Of each object its metadata: `PartialObjectMetadata` of `meta.k8s.io` in this version.
    Metadata(&'static str),
    /// A `meta.k8s.io` Table of this version, `v1` or `v1beta1`.
    Table(&'static str),
}

/// The first form of the `Accept` header that is served.
///
/// # Errors
/// 406 if none is.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, Status> {
    let mut ranges =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if ranges.peek().is_none() {
        return Ok(Form::Object);
    }
    let found = ranges.flat_map(|value| value.split(',')).find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parameters: Vec<&str> = parts.collect();
        let value = |name: &str| parameters.iter().find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        let Some(form) = value("as") else { return Some(Form::Object) };
        let version = match (value("g")?, value("v")?) {
            ("meta.k8s.io", "v1") => "v1",
            ("meta.k8s.io", "v1beta1") => "v1beta1",
            _ => return None,
        };
        match form {
            "Table" => Some(Form::Table(version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Metadata(version)),
            _ => None,
        }
    });
    found.ok_or_else(|| {
        let message = "only the following media types are accepted: application/json";
        Status::failure(406, "NotAcceptable", message)
    })
}

/// The media type of the body, without parameters; `application/json` if nothing is said.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media.is_empty() { "application/json".to_owned() } else { media }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        form(&headers).ok()
    }

    #[test]
    fn the_first_form_that_is_served_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl), Some(Form::Table("v1")));
        assert_eq!(of("application/json;as=Table;g=meta.k8s.io;v=v1beta1"), Some(Form::Table("v1beta1")));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(of(metadata), Some(Form::Metadata("v1")));
        assert_eq!(of("application/vnd.kubernetes.protobuf, application/json"), Some(Form::Object));
        assert_eq!(of("application/json;as=Unknown;v=v1;g=x, */*"), Some(Form::Object));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(form(&HeaderMap::new()), Ok(Form::Object));
    }
}
