//! The kernel settings that we need, with the values that do.
//!
//! Invariant: a setting is never put back when it is no longer desired, for others may rely on it by then.

use crate::family::Family;

/// A kernel setting; the order is the order in which they are set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sysctl {
    /// The node forwards IPv4.
    Forwarding,
    /// The link of this name heeds router advertisements, if it does, even though the node forwards. Must come before
    /// [`Self::Forwarding6`], at which the kernel forgets the default routes of links that would no longer heed them.
    AcceptRaThoughForwarding(String),
    /// The node forwards IPv6.
    Forwarding6,
    /// New links ignore router advertisements (CVE-2020-10749).
    DefaultAcceptRa,
    /// New links make no IPv6 address by themselves from advertisements.
    DefaultAutoconf,
    /// New links make no link-local IPv6 address: a Pod needs none, for its gateway is a permanent neighbour.
    DefaultAddrGenMode,
    /// Links ignore router advertisements.
    AllAcceptRa,
}

impl Sysctl {
    /// What a Pod's namespace needs before its link comes.
    pub const POD: [Self; 4] =
        [Self::DefaultAcceptRa, Self::DefaultAutoconf, Self::DefaultAddrGenMode, Self::AllAcceptRa];

    /// What a node needs in its own namespace to route these families; `underlay` is its link to the others.
    pub fn host(families: &[Family], underlay: &str) -> Vec<Self> {
        let of = |family: &Family| match family {
            Family::Ipv4 => vec![Self::Forwarding],
            Family::Ipv6 => vec![Self::AcceptRaThoughForwarding(underlay.to_owned()), Self::Forwarding6],
        };
        families.iter().flat_map(of).collect()
    }

    /// Path below `/proc/sys/`.
    pub fn path(&self) -> String {
        match self {
            Self::Forwarding => "net/ipv4/ip_forward",
            Self::AcceptRaThoughForwarding(link) => return format!("net/ipv6/conf/{link}/accept_ra"),
            Self::Forwarding6 => "net/ipv6/conf/all/forwarding",
            Self::DefaultAcceptRa => "net/ipv6/conf/default/accept_ra",
            Self::DefaultAutoconf => "net/ipv6/conf/default/autoconf",
            Self::DefaultAddrGenMode => "net/ipv6/conf/default/addr_gen_mode",
            Self::AllAcceptRa => "net/ipv6/conf/all/accept_ra",
        }
        .to_owned()
    }

    /// The value to set.
    pub fn wanted(&self) -> i64 {
        match self {
            Self::AcceptRaThoughForwarding(_) => 2,
            Self::Forwarding | Self::Forwarding6 | Self::DefaultAddrGenMode => 1,
            Self::DefaultAcceptRa | Self::DefaultAutoconf | Self::AllAcceptRa => 0,
        }
    }

    /// Whether a value will do: the wanted one, and where advertisements are not heeded at all that stays so.
    pub fn is_met_by(&self, value: i64) -> bool {
        value == self.wanted() || matches!((self, value), (Self::AcceptRaThoughForwarding(_), 0))
    }

    /// Whether a kernel without IPv6 meets it: what keeps Pods from being led astray by IPv6, and nothing else.
    pub fn is_met_without_ipv6(&self) -> bool {
        Self::POD.contains(self)
    }
}
