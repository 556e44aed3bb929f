//! The elements of the service table: what is Service-specific, and nothing else.
//!
//! Invariant: keys sort so that an element comes after those it leads to; a table loaded in key order, in parts, never
//! sends a packet to an endpoint set that is not there yet, and refuses only after all frontends are known.

use crate::family::{Address, Endpoint};
use minisvc_reconcile::State;
use std::{fmt, net::Ipv4Addr};

/// The table of a family as a sorted map: what should be in the kernel, or what is.
pub type ServiceTable<A = Ipv4Addr> = State<Key<A>, Value<A>>;

/// Bits of a mark that hold the endpoint set.
pub const SET_MASK: u32 = 0x000f_ffff;
/// Bits of a frontend's mark that hold the class.
pub const CLASS_MASK: u32 = 0xfff0_0000;
/// How far the class is shifted in a frontend's mark.
pub const CLASS_SHIFT: u32 = 20;
/// Upper byte of a packet's mark between dispatch and routing; nothing else may use it.
pub const OURS: u32 = 0x6d00_0000;
/// Bits that [`OURS`] is compared with.
pub const OURS_MASK: u32 = 0xff00_0000;
/// A packet's mark while it is dispatched with session affinity, without the set.
pub const OURS_STICKY: u32 = 0x6d10_0000;
/// A frontend's mark: no endpoints, tell the client.
pub const REFUSE: u32 = 0x6dff_0001;
/// A frontend's mark: silently nothing (Local policy without a local endpoint, source not allowed).
pub const DROP: u32 = 0x6dff_0002;
/// A frontend's mark: the source decides between `internal_frontends` and `external_frontends`.
pub const BY_SOURCE: u32 = 0xffe0_0000;
/// A frontend's mark: the source must be in `source_ranges`, then `ranged_frontends` tells.
pub const BY_RANGE: u32 = 0xffd0_0000;
/// Most endpoints of a set: the class number of a plain pick, and below every special mark's class bits.
pub const ENDPOINTS_MAX: u16 = 1023;
/// Class numbers of picks with session affinity.
pub const STICKY_CLASSES: std::ops::RangeInclusive<u16> = 0x800..=0xeff;
/// Most endpoint sets of a node.
pub const SETS_MAX: u32 = SET_MASK;
/// Longest session affinity, in seconds (a day), as Kubernetes has it.
pub const AFFINITY_MAX_S: u32 = 86_400;

/// Transport protocols that Services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol's number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number in an IP header.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// An address and port that a Service answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend<A = Ipv4Addr> {
    /// The virtual address, or the node's.
    pub address: A,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
}

impl<A: Address> fmt::Display for Frontend<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {} . {}", self.address, self.protocol, self.port)
    }
}

/// How an endpoint is picked; one chain for all sets that are picked alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// Number of endpoints, 1 to [`ENDPOINTS_MAX`].
    pub endpoints: u16,
    /// Session affinity by client address, and for how many idle seconds.
    pub affinity_s: Option<u32>,
}

impl Class {
    /// The name of the chain.
    pub fn chain(&self) -> String {
        match self.affinity_s {
            None => format!("pick{}", self.endpoints),
            Some(seconds) => format!("stick{}_{seconds}", self.endpoints),
        }
    }

    /// The class that a chain is for; None for other chains.
    pub fn from_chain(name: &str) -> Option<Self> {
        let class = if let Some(count) = name.strip_prefix("pick") {
            Self { endpoints: count.parse().ok()?, affinity_s: None }
        } else {
            let (count, seconds) = name.strip_prefix("stick")?.split_once('_')?;
            Self { endpoints: count.parse().ok()?, affinity_s: Some(seconds.parse().ok()?) }
        };
        let bounded = (1..=ENDPOINTS_MAX).contains(&class.endpoints)
            && class.affinity_s.is_none_or(|s| (1..=AFFINITY_MAX_S).contains(&s));
        (bounded && class.chain() == name).then_some(class)
    }
}

/// The mark of a frontend whose packets go to an endpoint set.
pub fn mark(class: u16, set: u32) -> u32 {
    u32::from(class) << CLASS_SHIFT | set & SET_MASK
}

/// The class number and set of a frontend's mark; None for [`REFUSE`], [`DROP`], [`BY_SOURCE`] and [`BY_RANGE`].
pub fn class_and_set(mark: u32) -> Option<(u16, u32)> {
    let class = u16::try_from(mark >> CLASS_SHIFT).ok()?;
    let plain = (1..=ENDPOINTS_MAX).contains(&class);
    (plain || STICKY_CLASSES.contains(&class)).then_some((class, mark & SET_MASK))
}

/// Names an element. The order is the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key<A: Address = Ipv4Addr> {
    /// A network of the cluster's Pods: sources in it are not masqueraded.
    ClusterNetwork(A::Net),
    /// An address of the service network that this node answers itself (cluster DNS): left alone.
    LocalService(A),
    /// A Pod address that, reached from itself through a Service, needs a masqueraded source.
    Hairpin(A),
    /// A class by number: its chain and the way there. Value: [`Value::Class`].
    Class(u16),
    /// Endpoint set and slot, 0 to count - 1. Value: [`Value::Endpoint`].
    Endpoint(u32, u32),
    /// With affinity: endpoint set and index, 0 to count - 1. Value: [`Value::Slot`].
    AffinitySlot(u32, u32),
    /// With affinity: endpoint set and slot, which stays while others come and go. Value: [`Value::Endpoint`].
    AffinityEndpoint(u32, u32),
    /// A frontend outside the service network whose off-cluster clients get the node's address as source.
    Masqueraded(Frontend<A>),
    /// Clients that may use a frontend with [`BY_RANGE`].
    SourceRange(Frontend<A>, A::Net),
    /// With [`BY_SOURCE`]: where Pods and nodes go. Value: [`Value::Mark`].
    InternalFrontend(Frontend<A>),
    /// With [`BY_SOURCE`]: where everybody else goes. Value: [`Value::Mark`].
    ExternalFrontend(Frontend<A>),
    /// With [`BY_RANGE`]: where allowed clients go. Value: [`Value::Mark`].
    RangedFrontend(Frontend<A>),
    /// A node port. Value: [`Value::Mark`].
    NodePort(Protocol, u16),
    /// A frontend. Value: [`Value::Mark`].
    Frontend(Frontend<A>),
    /// An address of this node on which node ports answer.
    NodeAddress(A),
    /// A load balancer's address: other ports of it are refused.
    LoadBalancerAddress(A),
    /// A network of virtual addresses: what is no frontend in it is refused.
    ServiceNetwork(A::Net),
}

/// What an element holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<A = Ipv4Addr> {
    /// A member of a set.
    Present,
    /// An endpoint set with its class, or a special mark.
    Mark(u32),
    /// An endpoint's address and port.
    Endpoint(Endpoint<A>),
    /// An affinity slot, never 0.
    Slot(u32),
    /// How to pick.
    Class(Class),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_tell_the_class() {
        for class in
            [Class { endpoints: 3, affinity_s: None }, Class { endpoints: 12, affinity_s: Some(10_800) }]
        {
            assert_eq!(Class::from_chain(&class.chain()), Some(class));
        }
        for other in ["pick", "pick0", "pick03", "pick1024", "stick3", "stick3_0", "services", "stick3_x"] {
            assert_eq!(Class::from_chain(other), None, "{other}");
        }
    }

    #[test]
    fn special_marks_are_no_classes() {
        for special in [REFUSE, DROP, BY_SOURCE, BY_RANGE] {
            assert_eq!(class_and_set(special), None);
        }
        assert_eq!(class_and_set(mark(3, 7)), Some((3, 7)));
        assert_eq!(class_and_set(mark(0x800, 1)), Some((0x800, 1)));
    }
}
