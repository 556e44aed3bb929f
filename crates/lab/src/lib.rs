//! Clusters from network namespaces: the lab, and the ground on which tests of the real kernel stand.
//!
//! ```text
//! host ── lab-supervisor (pid 1 of the lab; bridge `underlay`)
//!           ├── lab-member node1 (pid 1 of the machine; eth0) ── minisvc server ── Pods
//!           ├── lab-member node2 …
//!           └── lab-member client
//! ```
//! Everything runs inside one set of namespaces with a process of ours as pid 1: when that process ends, however
//! it ends, the kernel ends every other process and takes every link, mount, table and namespace with it. That is
//! why nothing can be left behind, not even by `kill -9`.

pub mod control;
pub mod demo;
pub mod enter;
pub mod layout;
mod links;
pub mod member;
pub mod namespaces;
pub mod probe;
pub mod supervisor;
pub mod testing;
pub mod up;

use std::{io, path::PathBuf};

/// What can go wrong in a lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The name is no DNS label.
    #[error("lab name {name:?}: must be a DNS label of at most 30 characters")]
    Name {
        /// As given.
        name: String,
    },
    /// A number of nodes that no lab can have.
    #[error("--nodes {nodes}: must be between 1 and {max}", max = layout::NODES_MAX)]
    Nodes {
        /// As given.
        nodes: usize,
    },
    /// There is one of this name.
    #[error("lab {name:?} is up already; `minisvc lab down --name {name}` ends it")]
    Exists {
        /// Its name.
        name: String,
    },
    /// There is none of this name.
    #[error("lab {name:?} is not up; `minisvc lab up --name {name}` starts it")]
    Absent {
        /// Its name.
        name: String,
    },
    /// No such machine, or it is switched off.
    #[error("{member:?} is not on in this lab; `minisvc lab status` lists its machines")]
    MemberOff {
        /// As given.
        member: String,
    },
    /// A file or a socket.
    #[error("{operation} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel made no namespaces.
    #[error(
        "start the lab in namespaces of its own: {source}; an ordinary user needs \
         kernel.unprivileged_userns_clone=1 and user.max_user_namespaces > 0, or run as root"
    )]
    Namespaces {
        /// Why not.
        source: io::Error,
    },
    /// A link of the lab's own.
    #[error("{operation} link {name}: {source}")]
    Link {
        /// What was tried.
        operation: &'static str,
        /// On what.
        name: String,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// A process of the lab does not answer.
    #[error("ask the lab at {path}: {source}", path = path.display())]
    Control {
        /// Its socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A process of the lab answered that it could not.
    #[error("{why}")]
    Refused {
        /// In its own words.
        why: String,
    },
}
