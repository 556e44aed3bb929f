//! Ingress as values: a snapshot's Ingresses in, a route table out.
//!
//! [`desired`] plans the table, [`Follower`] does so change by change, [`RouteTable::route`] says which endpoints serve a host and path,
//! [`RouteTable::certificate`] which certificate a TLS client is shown.
//!
//! Invariants: one bad Ingress, path or Secret is rejected with a reason and changes nothing for the others; where
//! two Ingresses claim the same host and path the older one has it; the order of the snapshot does not matter.
//!
//! Source: networking.k8s.io/v1 Ingress.

mod backend;
mod plan;
mod table;

pub use plan::{Follower, desired};
pub use table::{Backend, Certificate, PathType, Route, RouteTable};

#[cfg(test)]
mod tests;
