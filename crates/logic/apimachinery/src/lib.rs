//! What every other crate says: Kubernetes' wire words as values.
//!
//! - [`resource`]: the table of kinds that minisvc serves, and their paths and storage keys.
//! - [`status`]: the `Status` error of the API, with causes that name fields.
//! - [`storage`]: the shape of the store as the registry sees it: a consistent view and a list of changes.
//! - [`snapshot`]: a cluster's objects folded from list and watch, and [`snapshot::Synced`], the proof that
//!   every list was complete.
//! - [`ingress_class`]: which Ingresses are served here.
//! - [`service_changes`]: which Services a newer snapshot changes.
//! - [`service_cidr`]: networks of Services' virtual addresses.
//! - [`cluster`]: the facts all nodes of a cluster share.
//! - [`convert`]: objects that are served by two APIs.
//! - [`decode`]: text to values, bounded.
//! - [`protobuf`]: Kubernetes' binary form to values, bounded.
//! - [`quantity`]: amounts such as `100m` and `1Gi`.
//! - [`selector`]: label and field selectors.
//! - [`patch`]: JSON, merge and strategic merge patches; what `apply` sends.
//! - [`managed`]: who owns which field, and server-side apply.
//! - [`schema`]: the served OpenAPI documents and what they say: strict decoding, how lists merge.
//! - [`join`], [`token`]: what a joining node shows, asks and gets.
//!
//! Invariant: nothing here reads a clock, a file, a socket or a random source.

pub mod cluster;
pub mod containers;
pub mod convert;
pub mod decode;
pub mod endpoint_slices;
mod family;
pub mod ingress_class;
pub mod join;
pub mod letters;
pub mod managed;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod references;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod sent;
pub mod service_changes;
pub mod service_cidr;
pub mod snapshot;
pub mod status;
pub mod storage;
pub mod token;

pub use cluster::{ClusterConfig, Overlay};
pub use family::Family;
pub use quantity::Quantity;
pub use resource::{ObjectKey, Resource};
pub use snapshot::{Snapshot, Synced};
pub use status::{Cause, CauseKind, Status};
