//! The ConfigMaps and Secrets that a Pod names, and its tokens, read when it is started and every few seconds while it runs.
//!
//! Invariants: only what the Pod names is read; an object that is not there is known to be missing, and one that could not
//! be asked for is an error: nothing is started on a guess.

use crate::{
    AgentError,
    tokens::{Tokens, Wish},
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use minisvc_apimachinery::{
    ObjectKey, Resource,
    references::{References, references},
    resource::{CONFIG_MAPS, SECRETS},
};
use minisvc_client::ApiClient;
use minisvc_runtime::PodRecord;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How soon a change is seen.
const AGAIN: Duration = Duration::from_secs(5);
/// How soon, if a container waits for it.
const AGAIN_WAITING: Duration = Duration::from_secs(1);

/// When to look again for what a Pod names.
pub fn again(pod: Option<&PodRecord>) -> Duration {
    let waits = pod.is_some_and(|pod| pod.bundle.all().any(|spec| spec.lacks.is_some()));
    if waits { AGAIN_WAITING } else { AGAIN }
}

/// What a Pod names, by name; what is not in here does not exist.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps of its namespace.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets of its namespace.
    pub secrets: BTreeMap<String, Secret>,
    /// Tokens of its ServiceAccount.
    pub tokens: BTreeMap<Wish, String>,
}

impl Sources {
    /// Reads them.
    ///
    /// # Errors
    /// If the API does not tell.
    pub async fn read(client: &ApiClient, tokens: &Tokens, pod: &Pod) -> Result<Self, AgentError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let References { config_maps, secrets } = references(pod);
        Ok(Self {
            config_maps: objects(client, &CONFIG_MAPS, namespace, config_maps).await?,
            secrets: objects(client, &SECRETS, namespace, secrets).await?,
            tokens: tokens.of(client, pod).await?,
        })
    }
}

async fn objects<T: DeserializeOwned>(
    client: &ApiClient,
    kind: &'static Resource,
    namespace: &str,
    names: BTreeSet<String>,
) -> Result<BTreeMap<String, T>, AgentError> {
    let mut found = BTreeMap::new();
    for name in names {
        let key = ObjectKey::new(namespace, name.as_str());
        let read = client.get_optional(kind, &key).await;
        let object = read.map_err(|source| {
            let object = format!("{} {key}", kind.singular);
            AgentError::Api { operation: "read", object, source }
        })?;
        found.extend(object.map(|object| (name, object)));
    }
    Ok(found)
}

/// Whether a Pod's files or environment may change while it runs.
pub fn may_change(pod: &Pod) -> bool {
    let References { config_maps, secrets } = references(pod);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut kinds = volumes.map(|volume| (volume.downward_api.is_some(), volume.projected.is_some()));
    !config_maps.is_empty() || !secrets.is_empty() || kinds.any(|(fields, parts)| fields || parts)
}
