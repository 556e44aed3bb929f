//! What a Pod is to this node: the bundle it was started from, and what became of its containers.
//!
//! Invariant: everything a restarted server needs to take a Pod over is in these records, on disk
//! before the process they tell of is started.

use crate::{
    cgroup::Group,
    image::ImageFacts,
    life::LifeRecord,
    order,
    spec::{ContainerSpec, PodBundle},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

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
    /// How far it is.
    #[serde(default = "LifeRecord::of_before")]
    pub life: LifeRecord,
    /// What the image of its newest run says; none: nothing was run yet.
    #[serde(default)]
    pub facts: Option<ImageFacts>,
    /// The control groups of its newest run.
    #[serde(default)]
    pub(crate) group: Group,
    /// It is ended to be started again with another image, whatever its Pod's policy.
    #[serde(default)]
    pub renewed: bool,
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
            life: LifeRecord::default(),
            facts: None,
            group: Group::default(),
            renewed: false,
        }
    }

    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    /// Whether there is a process, or will be one in a moment.
    pub fn is_active(&self) -> bool {
        let starting = self.life.begun && self.state == ContainerState::creating();
        self.shim.is_some() || self.is_running() || starting
    }

    /// Whether it has ended well, and for good.
    pub fn is_completed(&self) -> bool {
        matches!(&self.state, ContainerState::Terminated(end) if end.exit_code == 0)
    }
}

/// Why a Pod was ended before its time, in the words of its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One word, such as `DeadlineExceeded`.
    pub reason: String,
    /// A sentence.
    pub message: String,
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
    /// Why it was ended, if the node has ended it.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// The containers that run first, in the order of the bundle.
    #[serde(default)]
    pub init_containers: Vec<ContainerRecord>,
    /// The containers, in the order of the bundle.
    pub containers: Vec<ContainerRecord>,
}

impl PodRecord {
    /// A Pod of which nothing was started yet.
    pub fn new(bundle: PodBundle, now: Timestamp) -> Self {
        Self {
            created_at: now,
            stopping: false,
            failure: None,
            init_containers: bundle.init_containers.iter().map(ContainerRecord::new).collect(),
            containers: bundle.containers.iter().map(ContainerRecord::new).collect(),
            bundle,
        }
    }

    /// All containers, in the order in which they are started.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &ContainerRecord> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The same, to change them.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut ContainerRecord> {
        self.init_containers.iter_mut().chain(&mut self.containers)
    }

    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&ContainerRecord> {
        self.all().find(|c| c.name == name)
    }

    /// Whether every container has ended for good.
    pub fn is_finished(&self) -> bool {
        order::outcome(self).is_some() && !self.all().any(ContainerRecord::is_active)
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
