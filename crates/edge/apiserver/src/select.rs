//! Which stored objects a list or a watch is about.

use crate::path::Parameters;
use minisvc_apimachinery::{
    Resource, Status,
    selector::{FieldSelector, LabelSelector},
    storage::Stored,
};
use serde_json::Value;

/// A label selector and a field selector.
pub(crate) struct Filter {
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

impl Filter {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 in Kubernetes' words.
    pub(crate) fn of(resource: &Resource, parameters: &Parameters) -> Result<Self, Status> {
        let labels = parameters.get("labelSelector").map(LabelSelector::parse).transpose();
        let labels = labels.map_err(|error| Status::bad_request(error.to_string()))?;
        let fields =
            parameters.get("fieldSelector").map(|text| FieldSelector::parse(text, resource)).transpose();
        let fields = fields.map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self { labels: labels.filter(|l| !l.is_empty()), fields: fields.filter(|f| !f.is_empty()) })
    }

    /// Whether every object matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// The one name that matches, if there is only one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.as_ref()?.exact("metadata.name")
    }

    /// Whether a stored object matches. Parses it only if its key does not say enough.
    pub(crate) fn matches(&self, key: &str, stored: &Stored) -> bool {
        if self.is_everything() {
            return true;
        }
        if self.name().is_some_and(|name| key.rsplit('/').next() != Some(name)) {
            return false;
        }
        let Ok(object) = serde_json::from_slice::<Value>(&stored.value) else { return false };
        self.labels.as_ref().is_none_or(|labels| labels.matches_object(&object))
            && self.fields.as_ref().is_none_or(|fields| fields.matches(&object))
    }
}
