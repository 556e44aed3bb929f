//! Pod processes: shims, logs, exec, the built-in echo server, and the node's HTTPS server.
//!
//! In: bundles from the node agent (a Pod's containers and its network namespace, made elsewhere). Out: running
//! processes, their records, and changes of state. The agent decides what runs; this crate decides nothing but
//! when a container that ended is started again ([`restart::decide`], a pure function).
//!
//! Invariant: containers belong to shims, not to the server ([`shim`]), so they survive its death.

mod attach;
mod dial;
mod error;
mod exe;
mod exec;
mod files;
mod logs;
mod runtime;
mod spdy;
mod sys;
mod terminal;

pub mod echo;
pub mod hidden;
pub mod image;
pub mod node;
pub mod record;
pub mod restart;
pub mod shim;

pub use error::Error;
pub use exe::Executable;
pub use image::{ImageTable, MappedImage};
pub use logs::LogOptions;
pub use record::{
    ContainerPort, ContainerRecord, ContainerSpec, ContainerState, PodBundle, PodDns, PodRecord, PodTable,
    ProcessId, RestartDelays, RestartPolicy, Terminated,
};
pub use runtime::{Runtime, RuntimeConfig};
