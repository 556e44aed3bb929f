//! From a cluster's objects to the service table of one node.
//!
//! In: a [`minisvc_apimachinery::Snapshot`] and a [`NodeView`]. Out: a [`minisvc_netstate::nft::ServiceTable`], and
//! the objects that were left out with the reason.
//!
//! - [`service`]: a Service's spec as typed values. [`endpoints`]: who may answer, by traffic policy.
//! - [`plan`]: what one Service wants, without numbers. [`host_port`]: what a Pod with ports of the node does.
//!   [`elements`]: that as elements of the table. [`owner`]: whose that is.
//! - [`planner`]: all Services together, recomputing only those that a change touched.
//! - [`holder`]: which node answers for a load balancer's address.
//! - [`health_check`]: what load balancers ask of each Service.
//! - [`conntrack`]: which remembered UDP flows are stale.
//! - [`explain`]: what becomes of a packet, in the words of Services.
//!
//! Invariants: the same snapshot and the same previous table give the same table; an endpoint set keeps its number as
//! long as one of its frontends lives; one bad object is rejected and stops nobody else.

pub mod conntrack;
pub mod elements;
pub mod endpoints;
pub mod explain;
pub mod health_check;
pub mod holder;
pub mod host_port;
pub mod numbers;
pub mod owner;
pub mod plan;
pub mod planner;
pub mod service;
pub mod sorted;

pub use conntrack::udp_flow_is_stale;
pub use health_check::{HealthCheck, HealthChecks};
pub use holder::{Held, lb_holder, load_balancer_addresses_of};
pub use minisvc_netstate::flow::UdpFlow;
pub use minisvc_netstate::nft::trace::trace;
pub use owner::Owner;
pub use plan::NodeView;
pub use planner::{Delta, Planner, desired};
