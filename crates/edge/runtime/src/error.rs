//! What can go wrong between the node agent and its Pods' processes.

use std::{io, path::PathBuf};

/// A failed operation of the runtime, with what it was done to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory of the runtime could not be made.
    #[error("create directory {}: {source}", path.display())]
    CreateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record or generated file could not be written.
    #[error("write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record or log could not be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record is not what this version writes.
    #[error("parse {}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// What was left of a Pod could not be deleted.
    #[error("remove {}: {source}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The binary that becomes the shims could not be opened.
    #[error("open the executable for Pod shims: {source}")]
    OpenExecutable {
        /// Why.
        source: io::Error,
    },
    /// A name cannot be a part of a path.
    #[error(
        "{field}: invalid value {value:?}: must be 1 to 253 of letters, digits, '-', '.' and not start with '.'"
    )]
    InvalidName {
        /// The field of the bundle.
        field: &'static str,
        /// What it was.
        value: String,
    },
    /// A bundle without containers, or with the same one twice.
    #[error("spec.containers: {problem} in pod {namespace}/{name}")]
    InvalidContainers {
        /// The Pod's namespace.
        namespace: String,
        /// The Pod's name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A second start of the same Pod.
    #[error("pod with uid {uid} has already been started")]
    PodExists {
        /// The Pod's uid.
        uid: String,
    },
    /// No such Pod on this node.
    #[error("pod with uid {uid} is not known to this node")]
    PodNotFound {
        /// The Pod's uid.
        uid: String,
    },
    /// The Pod has processes and cannot be removed yet.
    #[error("pod with uid {uid} still runs; stop it first")]
    PodRunning {
        /// The Pod's uid.
        uid: String,
    },
    /// A Pod's volume.
    #[error("{operation} volume {volume:?}: {source}")]
    Volume {
        /// What was tried.
        operation: &'static str,
        /// Its name.
        volume: String,
        /// Why not.
        source: io::Error,
    },
    /// Processes that outlived SIGKILL.
    #[error("pod with uid {uid}: containers {containers:?} did not end after SIGKILL")]
    WouldNotEnd {
        /// The Pod's uid.
        uid: String,
        /// Which ones.
        containers: Vec<String>,
    },
    /// The runtime already has all the Pods it will hold.
    #[error("too many pods on this node: the limit is {limit}")]
    TooManyPods {
        /// How many are allowed.
        limit: usize,
    },
    /// The node server's TLS settings are unusable.
    #[error("node server: TLS configuration: {source}")]
    Tls {
        /// Why.
        source: rustls::Error,
    },
    /// The node server's list of client authorities is unusable.
    #[error("node server: client certificate authority: {source}")]
    ClientAuthority {
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}
