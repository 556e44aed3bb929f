//! What the agent wants run: a Pod's bundle.
//!
//! Bundles are kept in the Pods' records, so each field that is added has a default for those of before it.

use crate::{
    cgroup::Limits,
    life::Life,
    security::Security,
    volumes::{Mount, Volume},
};
use serde::{Deserialize, Deserializer, Serialize};
use std::{net::IpAddr, path::PathBuf};

/// Whether a container that has ended is started again (`spec.restartPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Always.
    #[default]
    Always,
    /// If its exit code was not 0.
    OnFailure,
    /// Never.
    Never,
}

/// The name resolution a Pod's processes see in `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDns {
    /// `nameserver` lines, in order.
    pub nameservers: Vec<IpAddr>,
    /// The `search` list, in order.
    pub searches: Vec<String>,
    /// `options`, such as `ndots:5`.
    pub options: Vec<String>,
}

impl PodDns {
    /// The text of `/etc/resolv.conf`, in the order the kubelet writes it.
    pub fn resolv_conf(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// A port that a container says it listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// The port number.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
}

/// A container as the agent wants it run: environment already resolved to plain values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// Name, unique in the Pod.
    pub name: String,
    /// An entry of the node's image table.
    pub image: String,
    /// Overrides the image's entry point.
    #[serde(default)]
    pub command: Vec<String>,
    /// Arguments to the command.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment, in the order of the spec; the last of a name wins.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Directory to start in, `/` if none is given.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Declared ports; `echo` listens on them.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    /// Standard input that clients which attach write to; without it there is none.
    #[serde(default)]
    pub stdin: bool,
    /// Standard input ends with the first client that has written to it; a terminal's does not.
    #[serde(default)]
    pub stdin_once: bool,
    /// A terminal for its standard streams.
    #[serde(default)]
    pub tty: bool,
    /// What it is asked and told while it runs.
    #[serde(default)]
    pub life: Life,
    /// As whom it runs, and what it may.
    #[serde(default)]
    pub security: Security,
    /// Where it sees the Pod's volumes.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// What it may use at most.
    #[serde(default)]
    pub limits: Limits,
    /// What its environment lacks; it is not started before that is there.
    #[serde(default)]
    pub lacks: Option<String>,
}

/// A Pod as the agent wants it run; a network namespace of its own is already made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodBundle {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The host name its processes see.
    pub hostname: String,
    /// The domain that this name is in, if it is in one.
    #[serde(default)]
    pub domain: Option<String>,
    /// Addresses of the Pod, the primary one first. Records of before there were several have one, or none.
    #[serde(default, alias = "address", deserialize_with = "one_or_many")]
    pub addresses: Vec<IpAddr>,
    /// File of the network namespace; none: the node's own network.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Name resolution.
    pub dns: PodDns,
    /// Lines of `/etc/hosts` beside localhost and the Pod's own: address and names.
    #[serde(default)]
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// When containers are started again.
    pub restart_policy: RestartPolicy,
    /// Those that run before the containers, one after the other, and their sidecars.
    #[serde(default)]
    pub init_containers: Vec<ContainerSpec>,
    /// The containers, in the order of the spec.
    pub containers: Vec<ContainerSpec>,
    /// Volumes.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// The group that volumes are given to (`fsGroup`).
    #[serde(default)]
    pub volume_group: Option<u32>,
    /// How long containers have to end when nobody says otherwise, in seconds.
    #[serde(default = "grace_s_default")]
    pub grace_s: u64,
}

/// Kubernetes' `terminationGracePeriodSeconds`.
fn grace_s_default() -> u64 {
    30
}

/// A list, a single value, or nothing.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Held {
        Many(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Held::deserialize(from)? {
        Held::Many(addresses) => addresses,
        Held::One(address) => address.into_iter().collect(),
    })
}

impl PodBundle {
    /// All containers, in the order in which they are started.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &ContainerSpec> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The container of that name.
    pub fn spec(&self, name: &str) -> Option<&ContainerSpec> {
        self.all().find(|spec| spec.name == name)
    }

    /// The primary address.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    /// The text of `/etc/hosts`, as the kubelet words it. `of_node`: the node's, which Pods in its network see.
    pub fn hosts(&self, of_node: &str) -> String {
        let mut text = if self.netns.is_some() {
            self.own_hosts()
        } else {
            format!("# Kubernetes-managed hosts file (host network).\n{of_node}")
        };
        if !self.host_aliases.is_empty() {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        for (address, names) in &self.host_aliases {
            text.push_str(&format!("{address}\t{}\n", names.join("\t")));
        }
        text
    }

    fn own_hosts(&self) -> String {
        let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                        fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned();
        for address in &self.addresses {
            let hostname = &self.hostname;
            match &self.domain {
                Some(domain) => text.push_str(&format!("{address}\t{hostname}.{domain}\t{hostname}\n")),
                None => text.push_str(&format!("{address}\t{hostname}\n")),
            }
        }
        text
    }
}
