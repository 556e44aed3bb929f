//! The ConfigMaps and Secrets that a Pod names: what its node may read, and has to.

use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;

/// Names of objects in a Pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

/// What the environments and the volumes of a Pod name.
pub fn references(pod: &Pod) -> References {
    let References { mut config_maps, mut secrets } = References::default();
    let spec = pod.spec.iter();
    for container in
        spec.clone().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
    {
        for list in container.env_from.iter().flatten() {
            config_maps.extend(list.config_map_ref.iter().map(|source| source.name.clone()));
            secrets.extend(list.secret_ref.iter().map(|source| source.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            config_maps.extend(from.config_map_key_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|source| source.name.clone()));
        }
    }
    for volume in spec.flat_map(|spec| spec.volumes.iter().flatten()) {
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for part in volume.projected.iter().flat_map(|source| source.sources.iter().flatten()) {
            config_maps.extend(part.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(part.secret.iter().map(|source| source.name.clone()));
        }
    }
    References { config_maps, secrets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_of_a_spec_is_looked_at() {
        let pod: Pod = serde_json::from_value(json!({ "spec": {
            "initContainers": [{ "name": "i", "envFrom": [{ "secretRef": { "name": "s1" } }, { "configMapRef": { "name": "c1" } }] }],
            "containers": [{ "name": "c", "env": [
                { "name": "A", "valueFrom": { "secretKeyRef": { "name": "s2", "key": "k" } } },
                { "name": "B", "valueFrom": { "configMapKeyRef": { "name": "c2", "key": "k" } } },
                { "name": "C", "value": "s9" }] }],
            "volumes": [
                { "name": "v1", "secret": { "secretName": "s3" } }, { "name": "v2", "configMap": { "name": "c3" } },
                { "name": "v3", "projected": { "sources": [{ "secret": { "name": "s4" } }, { "configMap": { "name": "c4" } }] } }],
        } }))
        .unwrap();
        let names = |stem: char| (1..=4).map(|number| format!("{stem}{number}")).collect();
        assert_eq!(references(&pod), References { config_maps: names('c'), secrets: names('s') });
    }
}
