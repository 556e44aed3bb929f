//! Flows that the kernel's connection tracking remembers.

use crate::family::Endpoint;
use std::net::Ipv4Addr;

/// A UDP flow as conntrack remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpFlow<A = Ipv4Addr> {
    /// The client as it sent.
    pub source: Endpoint<A>,
    /// Where the client sent to.
    pub destination: Endpoint<A>,
    /// Who answers it.
    pub reply_source: Endpoint<A>,
    /// Where answers go.
    pub reply_destination: Endpoint<A>,
}
