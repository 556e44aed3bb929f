//! Flows that the kernel's connection tracking remembers.

use std::net::SocketAddrV4;

/// A UDP flow as conntrack remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpFlow {
    /// The client as it sent.
    pub source: SocketAddrV4,
    /// Where the client sent to.
    pub destination: SocketAddrV4,
    /// Who answers it.
    pub reply_source: SocketAddrV4,
    /// Where answers go.
    pub reply_destination: SocketAddrV4,
}
