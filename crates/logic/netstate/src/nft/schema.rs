//! The named sets and maps of the table, and the fields their keys and data are made of.

use super::element::Key;
use crate::family::{Address, Family};

/// A value of a packet, its connection or the moment, as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `ip saddr`, `ip6 saddr`
    SourceAddress,
    /// `ip daddr`, `ip6 daddr`
    DestinationAddress,
    /// `meta l4proto`
    Protocol,
    /// `th dport`
    DestinationPort,
    /// `meta mark`
    Mark,
    /// `ct mark`
    ConntrackMark,
    /// `numgen random mod N`; N is of no importance for the type of a set
    Random(u16),
    /// `ct original ip daddr`, `ct original ip6 daddr`
    OriginalDestination,
    /// `ct original proto-dst`
    OriginalPort,
}

impl Field {
    /// Its length in bytes.
    pub fn octets(self, family: Family) -> usize {
        match self {
            Self::SourceAddress | Self::DestinationAddress | Self::OriginalDestination => family.octets(),
            Self::Protocol => 1,
            Self::DestinationPort | Self::OriginalPort => 2,
            Self::Mark | Self::ConntrackMark | Self::Random(_) => 4,
        }
    }

    /// How many of the kernel's 32-bit registers it takes.
    pub fn registers(self, family: Family) -> usize {
        self.octets(family).div_ceil(4)
    }
}

/// What a map's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// One field.
    Field(Field),
    /// `ip daddr . th dport`
    Endpoint,
    /// A verdict.
    Verdict,
}

/// A named set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "described by the Key variants of the same names")]
pub enum Set {
    ClusterNetwork,
    LocalServices,
    Hairpin,
    Classes,
    Endpoints,
    AffinitySlots,
    AffinityEndpoints,
    Masqueraded,
    SourceRanges,
    InternalFrontends,
    ExternalFrontends,
    RangedFrontends,
    NodePorts,
    Frontends,
    NodeAddresses,
    LoadBalancerAddresses,
    ServiceNetwork,
    /// What clients with session affinity were given: written by packets, never by us.
    Affinity,
}

/// Most clients remembered for session affinity on a node.
pub const AFFINITY_SIZE: u32 = 65_536;

const FRONTEND: &[Field] = &[Field::DestinationAddress, Field::Protocol, Field::DestinationPort];

impl Set {
    /// All, in the order in which elements are loaded.
    pub const ALL: [Self; 18] = [
        Self::ClusterNetwork,
        Self::LocalServices,
        Self::Hairpin,
        Self::Classes,
        Self::Endpoints,
        Self::AffinitySlots,
        Self::AffinityEndpoints,
        Self::Masqueraded,
        Self::SourceRanges,
        Self::InternalFrontends,
        Self::ExternalFrontends,
        Self::RangedFrontends,
        Self::NodePorts,
        Self::Frontends,
        Self::NodeAddresses,
        Self::LoadBalancerAddresses,
        Self::ServiceNetwork,
        Self::Affinity,
    ];

    /// The name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterNetwork => "cluster_network",
            Self::LocalServices => "local_services",
            Self::Hairpin => "hairpin",
            Self::Classes => "classes",
            Self::Endpoints => "endpoints",
            Self::AffinitySlots => "affinity_slots",
            Self::AffinityEndpoints => "affinity_endpoints",
            Self::Masqueraded => "masqueraded",
            Self::SourceRanges => "source_ranges",
            Self::InternalFrontends => "internal_frontends",
            Self::ExternalFrontends => "external_frontends",
            Self::RangedFrontends => "ranged_frontends",
            Self::NodePorts => "node_ports",
            Self::Frontends => "frontends",
            Self::NodeAddresses => "node_addresses",
            Self::LoadBalancerAddresses => "load_balancer_addresses",
            Self::ServiceNetwork => "service_network",
            Self::Affinity => "affinity",
        }
    }

    /// What its keys are made of.
    pub fn key(self) -> &'static [Field] {
        match self {
            Self::ClusterNetwork
            | Self::LocalServices
            | Self::NodeAddresses
            | Self::LoadBalancerAddresses
            | Self::ServiceNetwork => &[Field::DestinationAddress],
            Self::Hairpin => &[Field::SourceAddress, Field::DestinationAddress],
            Self::Classes => &[Field::Mark],
            Self::Endpoints | Self::AffinitySlots => &[Field::Mark, Field::Random(2)],
            Self::AffinityEndpoints => &[Field::Mark, Field::ConntrackMark],
            Self::Affinity => &[Field::SourceAddress, Field::Mark],
            Self::SourceRanges => {
                &[Field::SourceAddress, Field::DestinationAddress, Field::Protocol, Field::DestinationPort]
            }
            Self::NodePorts => &[Field::Protocol, Field::DestinationPort],
            Self::Masqueraded
            | Self::InternalFrontends
            | Self::ExternalFrontends
            | Self::RangedFrontends
            | Self::Frontends => FRONTEND,
        }
    }

    /// What a map gives; None for a set.
    pub fn data(self) -> Option<Data> {
        match self {
            Self::Classes => Some(Data::Verdict),
            Self::Endpoints | Self::AffinityEndpoints => Some(Data::Endpoint),
            Self::AffinitySlots | Self::Affinity => Some(Data::Field(Field::ConntrackMark)),
            Self::InternalFrontends
            | Self::ExternalFrontends
            | Self::RangedFrontends
            | Self::NodePorts
            | Self::Frontends => Some(Data::Field(Field::Mark)),
            _ => None,
        }
    }

    /// Whether its elements are ranges of addresses.
    pub fn interval(self) -> bool {
        matches!(self, Self::ClusterNetwork | Self::ServiceNetwork | Self::SourceRanges)
    }

    /// Whether packets write it, with a timeout per element.
    pub fn dynamic(self) -> bool {
        self == Self::Affinity
    }

    /// The set or map that an element lives in.
    pub fn of<A: Address>(key: &Key<A>) -> Self {
        match key {
            Key::ClusterNetwork(_) => Self::ClusterNetwork,
            Key::LocalService(_) => Self::LocalServices,
            Key::Hairpin(_) => Self::Hairpin,
            Key::Class(_) => Self::Classes,
            Key::Endpoint(..) => Self::Endpoints,
            Key::AffinitySlot(..) => Self::AffinitySlots,
            Key::AffinityEndpoint(..) => Self::AffinityEndpoints,
            Key::Masqueraded(_) => Self::Masqueraded,
            Key::SourceRange(..) => Self::SourceRanges,
            Key::InternalFrontend(_) => Self::InternalFrontends,
            Key::ExternalFrontend(_) => Self::ExternalFrontends,
            Key::RangedFrontend(_) => Self::RangedFrontends,
            Key::NodePort(..) => Self::NodePorts,
            Key::Frontend(_) => Self::Frontends,
            Key::NodeAddress(_) => Self::NodeAddresses,
            Key::LoadBalancerAddress(_) => Self::LoadBalancerAddresses,
            Key::ServiceNetwork(_) => Self::ServiceNetwork,
        }
    }
}
