//! Manifests, configs and what they point to, as far as a container needs them.
//!
//! Source: OCI image-spec v1.1 `manifest.md`, `image-index.md`, `config.md`; Docker's image specification v1.2 for
//! `manifest.json`. Unknown fields are let pass, as the specification asks.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The name of an image in an index, as containerd and skopeo write it.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// `index.json`, and indexes that it points to.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

/// Points to a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether it points to another index.
    pub(crate) fn is_index(&self) -> bool {
        self.media_type.ends_with("image.index.v1+json") || self.media_type.ends_with("manifest.list.v2+json")
    }

    /// The names that the image has in the archive, as written there.
    pub(crate) fn names(&self) -> Vec<String> {
        NAME_ANNOTATIONS.iter().filter_map(|key| self.annotations.get(*key).cloned()).collect()
    }

    /// Whether it can be run here; without a platform it may be.
    pub(crate) fn runs_here(&self) -> bool {
        self.platform.as_ref().is_none_or(Platform::is_here)
    }
}

/// What an image is made for.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
}

/// This machine's architecture, as in images.
pub(crate) const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

impl Platform {
    fn is_here(&self) -> bool {
        self.os == "linux" && self.architecture == ARCHITECTURE
    }
}

/// An image manifest.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

/// One image of `manifest.json`: paths in the archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) layers: Vec<String>,
}

/// The config of an image.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) config: Option<Runs>,
    pub(crate) rootfs: RootFs,
}

impl Config {
    /// What it is made for, if that is not this machine.
    pub(crate) fn foreign(&self) -> Option<String> {
        let here = |said: &str, own: &str| said.is_empty() || said == own;
        (!here(&self.os, "linux") || !here(&self.architecture, ARCHITECTURE))
            .then(|| format!("{}/{}", self.os, self.architecture))
    }
}

/// How the image runs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Runs {
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) env: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) working_dir: Option<String>,
    #[serde(default)]
    pub(crate) stop_signal: Option<String>,
}

/// What its layers are when unpacked.
#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

/// The number of a signal as images say it: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`. None: there is no such signal.
pub(crate) fn signal(text: &str) -> Option<i32> {
    let (first_rt, last) = (nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX());
    if let Ok(number) = text.parse() {
        return (1..=last).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let more = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        return (0..=last - first_rt).contains(&more).then(|| first_rt + more);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("0", None),
            ("SIGX", None),
            ("RTMIN+99", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }
}
