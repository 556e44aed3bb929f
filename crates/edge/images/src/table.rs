//! What the node's images are.

use crate::{Error, Reference};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// How an image came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A program of the node.
    Exec,
    /// A directory of the node.
    Root,
    /// An imported archive.
    Oci,
}

/// An image: where its files are, and what of it runs how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// How it came to be.
    pub origin: Origin,
    /// Digest of its config, or of what it was defined by.
    pub id: String,
    /// Digest of the manifest, if an archive had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Its root directory; none: the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Who runs it keeps this file locked (shared); nobody else takes the root directory away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<PathBuf>,
    /// What runs if a container names no command.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments to it if a container has neither command nor arguments.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Environment, below the container's own.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Where its program starts, if a container does not say.
    #[serde(default)]
    pub working_dir: String,
    /// `user[:group]`, by name or number; empty: root.
    #[serde(default)]
    pub user: String,
    /// The number of the signal that asks it to end; none: SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// Size of its files, in bytes; 0 for the node's own.
    #[serde(default)]
    pub bytes: u64,
    /// When it was added.
    pub added_at: Timestamp,
}

/// All images of a node by full name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Table(pub BTreeMap<String, Image>);

impl Table {
    /// The image that a container's `image` names; by digest, whatever its tag.
    ///
    /// # Errors
    /// If it is no name at all.
    pub fn find(&self, name: &str) -> Result<Option<&Image>, Error> {
        let wanted: Reference = name.parse()?;
        let Some(digest) = &wanted.digest else { return Ok(self.0.get(&wanted.to_string())) };
        Ok(self.0.iter().find_map(|(name, image)| {
            let repository = name.rsplit_once(':').map_or(name.as_str(), |(repository, _)| repository);
            let pinned = image.manifest.as_ref() == Some(digest) || image.id == *digest;
            (repository == wanted.repository && pinned).then_some(image)
        }))
    }
}
