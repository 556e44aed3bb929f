//! A patch as it was sent.

use crate::accept::media_type;
use http::HeaderMap;
use minisvc_apimachinery::{
    Resource, Status, decode,
    patch::{self, PatchType},
};
use serde_json::Value;

/// A patch, read but not applied.
pub(crate) struct Patch {
    kind: PatchType,
    decoded: decode::Decoded,
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// 415 for a kind of patch that is not served, 400 if it is no JSON.
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Status> {
        let media = media_type(headers);
        if media.starts_with("application/apply-patch+") {
            return Err(Status::unsupported_media_type(format!(
                "server-side apply ({media}) is not served by minisvc yet: use kubectl apply without --server-side, \
                 or one of {}",
                patch::MEDIA_TYPES.join(", ")
            )));
        }
        let kind = PatchType::from_content_type(&media)?;
        let decoded = decode::json(body, decode::Limits::REQUEST)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { kind, decoded })
    }

    /// The object with the patch applied.
    pub(crate) fn apply(&self, resource: &Resource, object: &Value) -> Result<Value, Status> {
        patch::apply(self.kind, resource, object, &self.decoded.value)
    }

    /// Keys of the patch that appear twice.
    pub(crate) fn duplicates(&self) -> &[String] {
        &self.decoded.duplicates
    }
}
