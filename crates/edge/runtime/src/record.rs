//! What a Pod is to this node: the bundle it was started from, and what became of its containers.
//!
//! Invariant: everything a restarted server needs to take a Pod over is in these records, on disk
//! before the process they tell of is started.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

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
}

/// A Pod as the agent wants it run, its network namespace already made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// File of the network namespace.
    pub netns: PathBuf,
    /// Name resolution.
    pub dns: PodDns,
    /// Lines of `/etc/hosts` beside localhost and the Pod's own: address and names.
    #[serde(default)]
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// When containers are started again.
    pub restart_policy: RestartPolicy,
    /// The containers, in the order of the spec.
    pub containers: Vec<ContainerSpec>,
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
    /// The primary address.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    /// The text of `/etc/hosts`, as the kubelet words it.
    pub fn hosts(&self) -> String {
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
        if !self.host_aliases.is_empty() {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        for (address, names) in &self.host_aliases {
            text.push_str(&format!("{address}\t{}\n", names.join("\t")));
        }
        text
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// Exit code; 128 + signal if a signal ended it, 128 if it never started.
    pub exit_code: i32,
    /// The signal that ended it, 0 for none.
    pub signal: i32,
    /// `Completed`, `Error`, `StartError` or `ContainerStatusUnknown`.
    pub reason: String,
    /// Details, such as why it could not be started.
    pub message: String,
    /// When it was started, if it was.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// A container's state, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ContainerState {
    /// Not running, and expected to.
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, `ErrImageNeverPull`, `CreateContainerError`.
        reason: String,
        /// For people.
        message: String,
    },
    /// Running.
    Running {
        /// Since when.
        #[serde(rename = "startedAt")]
        started_at: Timestamp,
    },
    /// Ended, and not to be started again.
    Terminated(Terminated),
}

impl ContainerState {
    /// The state between the decision to start a container and its first instruction.
    pub fn creating() -> Self {
        Self::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() }
    }
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Process id as this node's server sees it.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_time: u64,
}

/// A container and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// Name, unique in the Pod.
    pub name: String,
    /// The image as the spec has it.
    pub image: String,
    /// What it is doing.
    pub state: ContainerState,
    /// How the run before this one ended.
    pub last_termination: Option<Terminated>,
    /// How often it was started again.
    pub restart_count: u32,
    /// Runs in a row that ended soon; decides the next delay.
    pub crashes: u32,
    /// When it is started again, while in `CrashLoopBackOff`.
    pub restart_at: Option<Timestamp>,
    /// Process 1 of the container, while it runs.
    pub process: Option<ProcessId>,
    /// Its shim, while it runs.
    pub shim: Option<ProcessId>,
}

impl ContainerRecord {
    /// A container nobody has started yet.
    pub fn new(spec: &ContainerSpec) -> Self {
        Self {
            name: spec.name.clone(),
            image: spec.image.clone(),
            state: ContainerState::creating(),
            last_termination: None,
            restart_count: 0,
            crashes: 0,
            restart_at: None,
            process: None,
            shim: None,
        }
    }

    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
}

/// A Pod on this node: what it was started from, and its containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// What it was started from.
    pub bundle: PodBundle,
    /// When that was.
    pub created_at: Timestamp,
    /// Set once the Pod is being stopped: nothing is started any more.
    pub stopping: bool,
    /// The containers, in the order of the bundle.
    pub containers: Vec<ContainerRecord>,
}

impl PodRecord {
    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Whether every container has ended for good.
    pub fn is_finished(&self) -> bool {
        self.containers.iter().all(|c| matches!(c.state, ContainerState::Terminated(_)))
    }
}

/// All Pods of this node by uid.
pub type PodTable = BTreeMap<String, std::sync::Arc<PodRecord>>;

/// How soon containers that end are started again.
#[derive(Clone, Copy, Debug)]
pub struct RestartDelays {
    /// Before the second restart; doubles with each further one.
    pub first: Duration,
    /// Longest.
    pub max: Duration,
    /// A run of this length starts the count over.
    pub reset_after: Duration,
}

impl Default for RestartDelays {
    /// The kubelet's: 10 s doubling to 5 min, forgotten after 10 min.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
        }
    }
}
