//! What a container is asked and told while it runs: probes, hooks, last words; and what became of that.
//!
//! The words of these types are those of a container's spec; the agent has resolved names of ports and checked nothing
//! else. Invariant: what is said of one run ([`LifeRecord`]) is forgotten when the next one starts.

use serde::{Deserialize, Serialize};

/// Something to do to a container from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Run a program in it.
    Exec {
        /// Command and arguments.
        command: Vec<String>,
    },
    /// Ask it by HTTP.
    #[serde(rename_all = "camelCase")]
    HttpGet {
        /// Another host than the Pod's address.
        host: Option<String>,
        /// Port.
        port: u16,
        /// Path, and query if there is one.
        path: String,
        /// Whether by TLS; certificates are not verified.
        tls: bool,
        /// Further headers, in order.
        headers: Vec<(String, String)>,
    },
    /// Connect to it.
    TcpSocket {
        /// Another host than the Pod's address.
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// Ask it by the gRPC health protocol.
    Grpc {
        /// Port.
        port: u16,
        /// Which of its services.
        service: String,
    },
    /// Wait.
    Sleep {
        /// How long.
        seconds: u64,
    },
    /// What cannot be done, such as connecting to a port whose name nobody has.
    Impossible {
        /// Why.
        why: String,
    },
}

/// Something asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What.
    pub action: Action,
    /// Seconds from the container's start to the first time.
    pub initial_delay_s: u32,
    /// Seconds an answer may take.
    pub timeout_s: u32,
    /// Seconds from one time to the next.
    pub period_s: u32,
    /// So many good answers in a row are a success.
    pub success_threshold: u32,
    /// So many bad answers in a row are a failure.
    pub failure_threshold: u32,
    /// Seconds that the container then has to end; none: the Pod's.
    pub grace_s: Option<u64>,
}

/// Where a container leaves its last words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastWords {
    /// A file in the container; empty: nowhere.
    pub path: String,
    /// Whether the end of the log stands in for them if the container failed.
    pub or_log: bool,
}

/// What a container is asked and told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Life {
    /// Of an init container: that it goes on beside the others, and is always started again.
    pub sidecar: bool,
    /// Whether it has started; no other probe before that.
    pub startup: Option<Probe>,
    /// Whether it takes requests.
    pub readiness: Option<Probe>,
    /// Whether it lives; if not it is ended, and started again.
    pub liveness: Option<Probe>,
    /// Done after its start; until then it has not started.
    pub post_start: Option<Action>,
    /// Done before it is told to end.
    pub pre_stop: Option<Action>,
    /// What it says at its end.
    pub last_words: LastWords,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LifeRecord {
    /// Its turn has come: it was started, or somebody tried.
    pub begun: bool,
    /// The hook after this run's start has ended well.
    pub hooked: bool,
    /// This run's startup probe has succeeded.
    pub started: bool,
    /// What this run's readiness probe said last.
    pub ready: bool,
    /// This run is being ended.
    pub ending: bool,
    /// The hook before its end has been done with.
    pub unhooked: bool,
}

impl LifeRecord {
    /// What records say that were written when there were no init containers: everything was started at once.
    pub(crate) fn of_before() -> Self {
        Self { begun: true, ..Self::default() }
    }

    /// That of the next run.
    pub(crate) fn of_next_run(self) -> Self {
        Self { begun: self.begun, ..Self::default() }
    }
}
