//! Pod processes: shims, logs, exec, the built-in echo server, and the node's HTTPS server.
//!
//! In: bundles from the node agent (a Pod's containers and its network namespace, made elsewhere). Out: running
//! processes, their records, and changes of state. The agent decides what runs; this crate decides nothing but
//! when a container that ended is started again ([`restart::decide`], a pure function).
//!
//! Invariant: containers belong to shims, not to the server ([`shim`]), so they survive its death.

mod ask;
mod attach;
mod before;
pub mod cgroup;
mod dial;
mod error;
mod exe;
mod exec;
mod files;
mod last_words;
mod logs;
mod mountinfo;
mod runtime;
mod spdy;
mod sys;
mod terminal;
mod usage;

pub mod echo;
pub mod hidden;
pub mod image;
pub mod life;
pub mod node;
pub mod order;
pub mod record;
pub mod restart;
pub mod security;
pub mod shim;
pub mod spec;
pub mod volumes;

pub use before::Before;
pub use error::Error;
pub use exe::Executable;
pub use image::{ImageFacts, ImageTable};
pub use logs::LogOptions;
pub use record::{
    ContainerRecord, ContainerState, Failure, PodRecord, PodTable, ProcessId, RestartDelays, Terminated,
};
pub use runtime::{Runtime, RuntimeConfig, Told};
pub use spec::{ContainerPort, ContainerSpec, PodBundle, PodDns, RestartPolicy};
