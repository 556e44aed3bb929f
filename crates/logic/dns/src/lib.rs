//! Cluster DNS as values: a snapshot's Services and EndpointSlices in, answers out.
//!
//! [`Records`] is what the snapshot says, indexed for lookup; [`answer`] is the DNS server as a pure function of
//! the records and a [`Question`]. The zone is the cluster domain and the reverse zones of the Services' and the
//! Pods' networks; every other name is [`Answer::Forward`].
//!
//! Invariants: a name in the zone is never forwarded; a name that exists, or below which one exists, is never
//! NXDOMAIN; cloning [`Records`] is O(1), and an update visits only the Services that changed.
//!
//! Source: Kubernetes DNS-Based Service Discovery 1.1.0; RFC 1034, 2308, 2782, 8482.

mod answer;
mod name;
mod records;
mod reverse;

pub use answer::answer;
pub use records::Records;
use std::{net::IpAddr, sync::Arc};

/// Time to live of every record, in seconds; also how long a negative answer may be kept.
pub const TTL_SECONDS: u32 = 5;
/// What TXT `dns-version.<zone>` says: the version of the specification that is followed.
pub const DNS_VERSION: &str = "1.1.0";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// Labels of the name from left to right, lower-cased, without the root.
    pub labels: &'a [&'a [u8]],
    /// Type of the records asked for.
    pub kind: RecordType,
}

/// Record types that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias.
    Cname,
    /// Name server of a zone.
    Ns,
    /// Name of an address.
    Ptr,
    /// Start of a zone.
    Soa,
    /// Host and port of a service.
    Srv,
    /// Text.
    Txt,
    /// Whatever there is.
    Any,
    /// AXFR or IXFR: zone transfers, which are refused.
    Transfer,
    /// A type of which no record exists here.
    Other,
}

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name asked for, in the case in which it was asked.
    Question,
    /// Another name, without the dot at the end.
    Name(Arc<str>),
}

/// One record. Its time to live is [`TTL_SECONDS`], its class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose record it is.
    pub owner: Owner,
    /// What it says.
    pub data: Data,
}

/// What a record says. Names are without the dot at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// CNAME.
    Cname(Arc<str>),
    /// NS.
    Ns(Arc<str>),
    /// PTR.
    Ptr(Arc<str>),
    /// SRV with priority 0.
    Srv {
        /// Relative weight.
        weight: u16,
        /// Port of the Service, or of the endpoint if headless.
        port: u16,
        /// Name that has the addresses.
        target: Arc<str>,
    },
    /// TXT of one string.
    Txt(&'static str),
    /// SOA; all its times but the minimum are customary.
    Soa {
        /// Primary name server.
        primary: Arc<str>,
        /// Mailbox of the person in charge, as a name.
        mailbox: Arc<str>,
        /// Rises with each change of the records.
        serial: u32,
    },
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answer with authority.
    Reply(Reply),
    /// The name is not in the zone: ask the node's resolvers.
    Forward,
    /// Zone transfers are not given.
    Refused,
}

/// An authoritative answer. Neither answers nor `no_such_name`: the name exists without such records (NODATA).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// NXDOMAIN: neither the name (after aliases) nor one below it exists.
    pub no_such_name: bool,
    /// The records asked for, aliases first.
    pub answers: Vec<Record>,
    /// The SOA of the zone if there is nothing to answer with.
    pub authorities: Vec<Record>,
    /// Addresses of SRV targets and name servers.
    pub additionals: Vec<Record>,
    /// An alias led out of the zone: the node's resolvers know how it goes on.
    pub forward: Option<Arc<str>>,
}

#[cfg(test)]
mod tests;
