//! The decisions of the control plane: a snapshot in, the writes that bring the cluster closer to what it should be out.
//!
//! - [`bootstrap`]: the namespaces and Services every cluster has.
//! - [`endpoint_slice`]: which Pods answer for which Service.
//! - [`endpoints`]: the same as Endpoints objects, for older clients.
//! - [`endpoint_slice_mirroring`]: Endpoints that people wrote, as slices.
//! - [`deployment`]: a ReplicaSet for each template, and Pods moved from one to the next.
//! - [`replica_set`]: as many Pods as a ReplicaSet says.
//! - [`scheduler`]: which node runs a Pod.
//! - [`node_ipam`]: each node's part of the Pod network.
//! - [`node_lifecycle`]: nodes that fell silent, Pods whose node is gone.
//! - [`service_account`]: the default account and the CA's certificates in each namespace.
//! - [`service_cidr`]: networks of Services' addresses that come and go.
//! - [`service_lb`]: addresses of Services of type LoadBalancer.
//! - [`ingress_status`]: the addresses at which an Ingress is reached.
//! - [`namespace`]: emptying what is being deleted.
//! - [`garbage`]: objects whose owner is gone.
//!
//! Invariants: level-triggered, so a plan that was carried out and shown in the snapshot plans nothing more; one bad
//! object is reported and left out, never in the way of others; writes carry the version or the UID they were decided on.

pub mod bootstrap;
mod claim;
mod counts;
pub mod deployment;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod garbage;
pub mod ingress_status;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
mod objects;
pub mod plan;
pub mod replica_set;
pub mod scheduler;
pub mod service_account;
pub mod service_cidr;
pub mod service_lb;
mod taints;
#[cfg(test)]
mod world;

pub use claim::{Plans, Standing};
pub use plan::{Deletion, Notice, Owner, Plan, Write};
