//! The ConfigMaps and Secrets that a Pod names, read when it is started and every few seconds while it runs.
//!
//! Invariants: only what the Pod names is read; an object that is not there is known to be missing, and one that could not
//! be asked for is an error: nothing is started on a guess.

use crate::AgentError;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, Secret};
use minisvc_apimachinery::{
    ObjectKey, Resource,
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
}

impl Sources {
    /// Reads them.
    ///
    /// # Errors
    /// If the API does not tell.
    pub async fn read(client: &ApiClient, pod: &Pod) -> Result<Self, AgentError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (config_maps, secrets) = named(pod);
        Ok(Self {
            config_maps: objects(client, &CONFIG_MAPS, namespace, config_maps).await?,
            secrets: objects(client, &SECRETS, namespace, secrets).await?,
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
    let (config_maps, secrets) = named(pod);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut kinds = volumes.map(|volume| (volume.downward_api.is_some(), volume.projected.is_some()));
    !config_maps.is_empty() || !secrets.is_empty() || kinds.any(|(fields, parts)| fields || parts)
}

/// All containers of a spec.
pub fn containers(spec: Option<&PodSpec>) -> impl Iterator<Item = &Container> {
    spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// The names of the ConfigMaps and of the Secrets that a Pod names.
fn named(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for container in containers(pod.spec.as_ref()) {
        for list in container.env_from.iter().flatten() {
            config_maps.extend(list.config_map_ref.iter().map(|source| source.name.clone()));
            secrets.extend(list.secret_ref.iter().map(|source| source.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            config_maps.extend(from.config_map_key_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|source| source.name.clone()));
        }
    }
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for part in volume.projected.iter().flat_map(|source| source.sources.iter().flatten()) {
            config_maps.extend(part.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(part.secret.iter().map(|source| source.name.clone()));
        }
    }
    (config_maps, secrets)
}
