//! The only way anybody but the API server sees or changes the cluster: a thin layer over kube-rs.
//!
//! - [`ApiClient`] – one connection pool to one API server; requests by [`minisvc_apimachinery::Resource`] row, with typed errors,
//!   a time limit and bounded bodies. Nothing is retried here: every caller is level-triggered.
//! - [`follow`] – list and watch of the kinds of an [`Interest`], folded into `Synced<Snapshot>`.
//! - [`events`] – Events, deduplicated and rate-limited.
//! - [`lease`] – heartbeats.
//! - [`join`] – how a new node gets its certificate.
//!
//! Invariant: redirects are never followed, and a secret is said only to a server whose certificate was verified.

mod connect;
mod error;
pub mod events;
mod fold;
pub mod follow;
pub mod join;
pub mod lease;
mod requests;

pub use connect::{ApiClient, Credentials};
pub use error::ClientError;
pub use follow::{Contact, Follower, Interest, Kind, follow};
pub use join::{JoinError, join};
pub use requests::{DeleteOptions, PatchKind};
