//! Where a lab keeps its files, and what it is made of.
//!
//! Invariant: everything a lab writes on the host is below one directory of mode 0700, so that removing the
//! directory removes every trace.

use crate::LabError;
use ipnet::IpNet;
use minisvc_apimachinery::{ClusterConfig, Family};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Most nodes a lab can have: their addresses are .11 to .60 of the underlay, fd77::b to fd77::3c.
pub const NODES_MAX: usize = 50;
/// Length of the underlay's network prefixes, 172.31.77.0/24 and fd77::/64.
pub const fn underlay_prefix_len(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 24,
        Family::Ipv6 => 64,
    }
}
/// First and last address for load balancers.
pub const fn load_balancer_pool(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "172.31.77.200-172.31.77.239",
        Family::Ipv6 => "fd77::c8-fd77::ef",
    }
}
/// The namespace outside the cluster.
pub const CLIENT: &str = "client";

/// Name of the lab where none is said.
pub const DEFAULT_NAME: &str = "lab";

/// What a lab is asked to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    /// Number of nodes.
    pub nodes: usize,
    /// Networks of the Pods; those of the cluster's default if empty.
    #[serde(default)]
    pub cluster_cidrs: Vec<IpNet>,
    /// Networks of the Services' virtual addresses; those of the cluster's default if empty.
    #[serde(default)]
    pub service_cidrs: Vec<IpNet>,
    /// Flags for the first `minisvc server` beside those the lab gives itself.
    pub server_flags: Vec<String>,
}

impl LabOptions {
    /// The facts of the cluster that the lab decides.
    pub fn cluster(&self) -> ClusterConfig {
        let mut config = ClusterConfig::default();
        for (given, nets) in [
            (&self.cluster_cidrs, &mut config.cluster_cidrs),
            (&self.service_cidrs, &mut config.service_cidrs),
        ] {
            if !given.is_empty() {
                nets.clone_from(given);
            }
        }
        config
    }

    /// The addresses for load balancers, as `--load-balancer-pool` has them.
    pub fn load_balancer_pool(&self) -> String {
        let pools: Vec<_> = self.cluster().families().into_iter().map(load_balancer_pool).collect();
        pools.join(",")
    }
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

    /// The options it was started with, as it was told them.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn options(&self) -> Result<LabOptions, LabError> {
        let failed = |source| LabError::File { operation: "read", path: self.options_file(), source };
        let text = std::fs::read(self.options_file()).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
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
            create(&dir).map_err(|source| LabError::File { operation: "create", path: dir, source })?;
        }
        let base = self.dir.parent().unwrap_or(&self.dir).to_owned();
        check_owner(&base).map_err(|source| LabError::File { operation: "use", path: base, source })
    }
}

/// Makes a directory and those above it. The last lab that ends takes the directory of all labs along, maybe just now.
fn create(dir: &Path) -> std::io::Result<()> {
    for _ in 0..10 {
        match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
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
    /// Its address of the other family.
    pub address_v6: Ipv6Addr,
    /// Whether a server runs on it.
    pub is_node: bool,
}

impl Member {
    fn numbered(name: String, last: u8, is_node: bool) -> Self {
        Self {
            name,
            address: Ipv4Addr::new(172, 31, 77, last),
            address_v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into()),
            is_node,
        }
    }

    /// Its address of this family.
    pub fn address_of(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => self.address.into(),
            Family::Ipv6 => self.address_v6.into(),
        }
    }
}

/// The members of a lab with this many nodes: the nodes, then the client.
pub fn members(nodes: usize) -> Vec<Member> {
    let node = |i: usize| Member::numbered(format!("node{i}"), 10 + u8::try_from(i).unwrap_or(0), true);
    let client = Member::numbered(CLIENT.to_owned(), 100, false);
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
        let v6 = |at: usize| members[at].address_of(Family::Ipv6).to_string();
        assert_eq!((v6(0), v6(NODES_MAX)), ("fd77::b".to_owned(), "fd77::64".to_owned()));
    }

    #[test]
    fn each_family_of_the_cluster_has_a_pool() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let pool = |pods: &[&str], services: &[&str]| {
            let (cluster_cidrs, service_cidrs) = (nets(pods), nets(services));
            LabOptions { nodes: 1, cluster_cidrs, service_cidrs, server_flags: Vec::new() }
                .load_balancer_pool()
        };
        assert_eq!(pool(&[], &[]), "172.31.77.200-172.31.77.239");
        assert_eq!(
            pool(&["fd42::/56", "10.42.0.0/16"], &["fd43::/112", "10.43.0.0/16"]),
            "fd77::c8-fd77::ef,172.31.77.200-172.31.77.239"
        );
    }
}
