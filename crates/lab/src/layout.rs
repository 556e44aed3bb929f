//! Where a lab keeps its files, and what it is made of.
//!
//! Invariant: everything a lab writes on the host is below one directory of mode 0700, so that removing the
//! directory removes every trace.

use crate::LabError;
use serde::{Deserialize, Serialize};
use std::{
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Most nodes a lab can have: their addresses are .11 to .60 of the underlay.
pub const NODES_MAX: usize = 50;
/// Length of the underlay's network prefix.
pub const UNDERLAY_PREFIX_LEN: u8 = 24;
/// First and last address for load balancers.
pub const LOAD_BALANCER_POOL: &str = "172.31.77.200-172.31.77.239";
/// The namespace outside the cluster.
pub const CLIENT: &str = "client";

/// Name of the lab where none is said.
pub const DEFAULT_NAME: &str = "lab";

/// What a lab is asked to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    /// Number of nodes.
    pub nodes: usize,
    /// Flags for the first `minisvc server` beside those the lab gives itself.
    pub server_flags: Vec<String>,
}

/// A lab by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lab {
    name: String,
    dir: PathBuf,
}

impl Lab {
    /// Names a lab of this user. Nothing is made yet.
    ///
    /// # Errors
    /// If the name is no DNS label.
    pub fn named(name: &str) -> Result<Self, LabError> {
        let valid = !name.is_empty()
            && name.len() <= 30
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !valid {
            return Err(LabError::Name { name: name.to_owned() });
        }
        Ok(Self { name: name.to_owned(), dir: base_dir().join(name) })
    }

    /// The labs of this user that have a directory, by name.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(base_dir()) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut labs: Vec<Self> = names.filter_map(|name| Self::named(&name).ok()).collect();
        labs.sort_by(|a, b| a.name.cmp(&b.name));
        labs
    }

    /// The labs a command may mean that names none itself, best first: the one named for all commands; else the one
    /// of the default name, then the only one there is.
    pub fn meant(named: Option<&str>, all: Vec<Self>) -> Vec<Self> {
        let mut labs: Vec<Self> = Self::named(named.unwrap_or(DEFAULT_NAME)).into_iter().collect();
        if named.is_none() && all.len() == 1 && all != labs {
            labs.extend(all);
        }
        labs
    }

    /// The lab whose directory this is.
    pub fn at(dir: &Path) -> Self {
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, dir: dir.to_owned() }
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of all its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kubeconfig for use on the host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Socket of the supervisor.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Output of the supervisor and the node processes.
    pub fn log(&self) -> PathBuf {
        self.dir.join("lab.log")
    }

    /// The options it was started with.
    pub fn options_file(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    /// Files of one member.
    pub fn member(&self, name: &str) -> MemberFiles {
        MemberFiles { dir: self.dir.join("members").join(name) }
    }

    /// Makes the directory, for this user only.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create_dirs(&self, members: &[Member]) -> Result<(), LabError> {
        let dirs = members.iter().map(|member| self.member(&member.name).data());
        for dir in std::iter::once(self.dir.clone()).chain(dirs) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|source| LabError::File { operation: "create", path: dir, source })?;
        }
        let base = self.dir.parent().unwrap_or(&self.dir).to_owned();
        check_owner(&base).map_err(|source| LabError::File { operation: "use", path: base, source })
    }
}

/// Paths of one member of a lab.
#[derive(Clone, Debug)]
pub struct MemberFiles {
    dir: PathBuf,
}

impl MemberFiles {
    /// `--data-dir` of its server; survives a power-off.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Socket of its first process.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("init.sock")
    }

    /// Output of its server.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Its name servers.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    /// The kubeconfig its server writes (first node only).
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }
}

/// A machine of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `node1`, …, or `client`.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Whether a server runs on it.
    pub is_node: bool,
}

/// The members of a lab with this many nodes: the nodes, then the client.
pub fn members(nodes: usize) -> Vec<Member> {
    let node = |i: usize| Member {
        name: format!("node{i}"),
        address: Ipv4Addr::new(172, 31, 77, 10 + u8::try_from(i).unwrap_or(0)),
        is_node: true,
    };
    let client = Member { name: CLIENT.to_owned(), address: Ipv4Addr::new(172, 31, 77, 100), is_node: false };
    (1..=nodes.min(NODES_MAX)).map(node).chain(std::iter::once(client)).collect()
}

/// Not below `/run`: every machine of the lab has an empty one of its own.
fn base_dir() -> PathBuf {
    std::env::temp_dir().join(format!("minisvc-lab-{}", nix::unistd::geteuid()))
}

/// Whoever made the directory of our labs before us must have been us.
fn check_owner(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(dir)?;
    if found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(std::io::Error::other("exists, but is no private directory of this user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        assert!(Lab::named("lab").is_ok());
        for bad in ["", "-a", "a/b", "A", &"x".repeat(31)] {
            assert!(Lab::named(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_only_lab_is_meant_by_those_who_name_none() {
        let lab = |name: &str| Lab::named(name).unwrap();
        let meant = |named, all: &[&str]| -> Vec<String> {
            let labs = Lab::meant(named, all.iter().map(|name| lab(name)).collect());
            labs.iter().map(|lab| lab.name().to_owned()).collect()
        };
        assert_eq!(meant(None, &["lab"]), ["lab"]);
        assert_eq!(meant(None, &["mine"]), ["lab", "mine"]);
        assert_eq!(meant(None, &["mine", "yours"]), ["lab"]);
        assert_eq!(meant(Some("yours"), &["mine"]), ["yours"]);
    }

    #[test]
    fn members_have_distinct_addresses() {
        let members = members(NODES_MAX);
        let addresses: std::collections::BTreeSet<_> = members.iter().map(|m| m.address).collect();
        assert_eq!(addresses.len(), NODES_MAX + 1);
        assert_eq!(members[0].address, Ipv4Addr::new(172, 31, 77, 11));
    }
}
