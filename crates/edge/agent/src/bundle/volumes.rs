//! A Pod's volumes and what is in them: a pure function of the Pod and the objects it names.
//!
//! Source: kubernetes pkg/volume/{configmap,secret,downwardapi,projected}, whose words the errors have.

use super::{Given, Missing, env, resources};
use crate::tokens::Wish;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume as Described,
};
use minisvc_apimachinery::quantity::Quantity;
use minisvc_runtime::volumes::{Contents, Mount, Volume, VolumeFile, VolumeKind};
use std::collections::BTreeMap;

const MODE_DEFAULT: i32 = 0o644;

/// The volumes of a Pod.
pub(super) fn volumes(pod: &Pod) -> Vec<Volume> {
    let kind = |volume: &Described| match &volume.empty_dir {
        Some(scratch) => VolumeKind::Scratch {
            memory: scratch.medium.as_deref() == Some("Memory"),
            bytes_max: scratch.size_limit.as_ref().and_then(|limit| {
                let bytes = Quantity::parse(&limit.0).map(Quantity::units);
                bytes.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0)
            }),
        },
        None => VolumeKind::Files,
    };
    let described = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    described.map(|volume| Volume { name: volume.name.clone(), kind: kind(volume) }).collect()
}

/// Where a container sees them.
pub(super) fn mounts(container: &Container, pod: &Pod, variables: &[(String, String)]) -> Vec<Mount> {
    let kinds: BTreeMap<String, VolumeKind> = volumes(pod).into_iter().map(|v| (v.name, v.kind)).collect();
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .map(|mount| Mount {
            volume: mount.name.clone(),
            path: mount.mount_path.trim_end_matches('/').to_owned(),
            sub_path: match &mount.sub_path_expr {
                Some(words) => env::expanded(words, variables),
                None => mount.sub_path.clone().unwrap_or_default(),
            },
            // Files given by the agent are not the container's to change.
            read_only: mount.read_only == Some(true) || kinds.get(&mount.name) == Some(&VolumeKind::Files),
        })
        .collect()
}

/// What is in the volumes of files.
///
/// # Errors
/// What one needs and there is not.
pub(super) fn contents(given: &Given<'_>) -> Result<Contents, Missing> {
    let mut contents = Contents::new();
    for volume in given.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let files =
            files(volume, given).map_err(|message| Missing { volume: volume.name.clone(), message })?;
        if let Some(files) = files {
            contents.insert(volume.name.clone(), files);
        }
    }
    Ok(contents)
}

type Files = Result<Vec<VolumeFile>, String>;

fn files(volume: &Described, given: &Given<'_>) -> Result<Option<Vec<VolumeFile>>, String> {
    let sources = given.sources;
    let mode = |mode: Option<i32>| mode.unwrap_or(MODE_DEFAULT);
    let files = if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        of_config_map(&source.name, sources.config_maps.get(&source.name), optional)?
            .part(source.items.as_deref(), mode(source.default_mode))?
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        of_secret(name, sources.secrets.get(name), source.optional == Some(true))?
            .part(source.items.as_deref(), mode(source.default_mode))?
    } else if let Some(source) = &volume.downward_api {
        of_fields(source.items.as_deref(), given, mode(source.default_mode))?
    } else if let Some(source) = &volume.projected {
        let mode = mode(source.default_mode);
        let mut files = Vec::new();
        for part in source.sources.iter().flatten() {
            if let Some(source) = &part.config_map {
                let optional = source.optional == Some(true);
                let map = of_config_map(&source.name, sources.config_maps.get(&source.name), optional)?;
                files.extend(map.part(source.items.as_deref(), mode)?);
            }
            if let Some(source) = &part.secret {
                let secret = sources.secrets.get(&source.name);
                let secret = of_secret(&source.name, secret, source.optional == Some(true))?;
                files.extend(secret.part(source.items.as_deref(), mode)?);
            }
            if let Some(source) = &part.service_account_token {
                let token = sources.tokens.get(&Wish::of(source)).ok_or("the token is not there")?;
                files.push(file(source.path.clone(), mode, token.clone().into_bytes()));
            }
            if let Some(source) = &part.downward_api {
                files.extend(of_fields(source.items.as_deref(), given, mode)?);
            }
        }
        // Of two sources for one path the later one holds.
        let by_path: BTreeMap<_, _> = files.into_iter().map(|file| (file.path.clone(), file)).collect();
        by_path.into_values().collect()
    } else {
        return Ok(None);
    };
    Ok(Some(files))
}

/// The keys of an object.
struct Keys {
    kind: &'static str,
    data: BTreeMap<String, Vec<u8>>,
    optional: bool,
}

fn of_config_map(name: &str, map: Option<&ConfigMap>, optional: bool) -> Result<Keys, String> {
    let mut data = BTreeMap::new();
    match map {
        Some(map) => {
            data.extend(
                map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes())),
            );
            data.extend(map.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())));
        }
        None if optional => {}
        None => return Err(format!("configmap {name:?} not found")),
    }
    Ok(Keys { kind: "config", data, optional })
}

fn of_secret(name: &str, secret: Option<&Secret>, optional: bool) -> Result<Keys, String> {
    let mut data = BTreeMap::new();
    match secret {
        Some(secret) => {
            data.extend(secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())));
        }
        None if optional => {}
        None => return Err(format!("secret {name:?} not found")),
    }
    Ok(Keys { kind: "secret", data, optional })
}

impl Keys {
    /// The keys that are wanted, as files; all of them if none are named.
    fn part(mut self, items: Option<&[KeyToPath]>, mode: i32) -> Files {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return Ok(self.data.into_iter().map(|(key, data)| file(key, mode, data)).collect());
        };
        let mut files = Vec::new();
        for item in items {
            match self.data.get_mut(&item.key) {
                Some(data) => files.push(file(item.path.clone(), item.mode.unwrap_or(mode), data.clone())),
                None if self.optional => {}
                None => return Err(format!("references non-existent {} key: {}", self.kind, item.key)),
            }
        }
        Ok(files)
    }
}

fn file(path: String, mode: i32, data: Vec<u8>) -> VolumeFile {
    VolumeFile { path, mode: mode.cast_unsigned(), data }
}

fn of_fields(items: Option<&[DownwardAPIVolumeFile]>, given: &Given<'_>, mode: i32) -> Files {
    let text = |item: &DownwardAPIVolumeFile| match (&item.field_ref, &item.resource_field_ref) {
        (Some(wanted), _) => Some(Ok(field(&wanted.field_path, given.pod))),
        (None, Some(wanted)) => Some(resources::field(wanted, None, given)),
        (None, None) => None,
    };
    let file = |item: &DownwardAPIVolumeFile| {
        let text = text(item)?;
        Some(text.map(|text| file(item.path.clone(), item.mode.unwrap_or(mode), text.into_bytes())))
    };
    items.unwrap_or_default().iter().filter_map(file).collect()
}

fn field(field: &str, pod: &Pod) -> String {
    let meta = &pod.metadata;
    // As Go's %q, which for what labels and annotations hold is Rust's.
    let lines = |map: &Option<BTreeMap<String, String>>| {
        let lines = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    match field {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        entry => env::entry(entry, pod).unwrap_or_default(),
    }
}
