//! The chains: constant ones, and one per class, as typed statements.
//!
//! Invariants: no chain depends on a Service, only on a [`Class`]; no path through gotos returns to a chain it came
//! through; statements are few, so that encoder, text and tracer can each cover all of them.

use super::{
    element::{
        BY_RANGE, BY_SOURCE, CLASS_MASK, Class, DROP, OURS, OURS_MASK, OURS_STICKY, Protocol, REFUSE,
        SET_MASK,
    },
    hook::{Hook, HookKind, HookPoint},
    schema::{Field, Set},
};
use crate::link::{LINK_PREFIX, TUN_LINK, VXLAN_LINK};

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name in the table.
    pub name: String,
    /// Where the kernel calls it; None if only other chains do.
    pub hook: Option<Hook>,
    /// What it does, rule by rule.
    pub rules: Vec<Rule>,
}

/// Statements that run in order until one does not match.
pub type Rule = Vec<Statement>;

/// States of a connection, as the kernel's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's words")]
pub enum ConnectionState {
    Invalid,
    Known,
    New,
}

impl ConnectionState {
    /// The kernel's bits.
    pub fn bits(self) -> u32 {
        match self {
            Self::Invalid => 1,
            Self::Known => 2 | 4,
            Self::New => 8,
        }
    }
}

/// Where a new mark comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A constant.
    Constant(u32),
    /// `meta mark & mask | or`
    Rewrite {
        /// Bits kept.
        mask: u32,
        /// Bits set.
        or: u32,
    },
    /// A map; the rule ends if it has no such key.
    Map(Vec<Field>, Set),
}

/// Where a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's words")]
pub enum Jump {
    Goto(&'static str),
    Jump(&'static str),
    Accept,
    Drop,
}

/// A test or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Goes on if the fields are in the set (or are not).
    Lookup {
        /// Key, field by field.
        fields: Vec<Field>,
        /// Where to look.
        set: Set,
        /// Goes on if they are not in it.
        not: bool,
    },
    /// Goes on if it is TCP, UDP or SCTP. Also what nft needs before it lets a rule speak of ports.
    Transport,
    /// Goes on if it is this protocol.
    Is(Protocol),
    /// Goes on if `meta mark & mask` is the value.
    MarkIs {
        /// Bits compared; all of them for an exact comparison.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// Goes on if the connection is in one of these states.
    State(ConnectionState),
    /// Goes on if the connection's destination was translated.
    Translated,
    /// Goes on if the source is an address of this node.
    SourceIsLocal,
    /// Goes on if the packet came by a link whose name begins like this.
    EntersBy(&'static str),
    /// Goes on if it came by another link than this.
    EntersNotBy(&'static str),
    /// Goes on if no route to the source leads out of the link that the packet came by.
    SourceElsewhere,
    /// Goes on if the packet leaves by another link than the loopback.
    LeavesNode,
    /// Sets the packet's mark.
    SetMark(Source),
    /// Sets the connection's mark.
    SetConntrackMark(Source),
    /// Remembers the connection's mark for source address and mark, for so many seconds.
    Learn(u32),
    /// Forgets it.
    Forget,
    /// Translates the destination to what the map gives; ends the hook. The rule ends if the map has no such key.
    Dnat(Vec<Field>, Set),
    /// Translates the source to the node's; ends the hook.
    Masquerade,
    /// Answers with a TCP reset; ends the packet.
    Reset,
    /// Answers with ICMP port unreachable; ends the packet.
    Unreachable,
    /// Goes to the chain that the `classes` map gives for the mark's class bits.
    ToClass,
    /// Goes on elsewhere.
    To(Jump),
}

use Statement as S;

const FRONTEND: [Field; 3] = [Field::DestinationAddress, Field::Protocol, Field::DestinationPort];

fn within(field: Field, set: Set) -> Statement {
    S::Lookup { fields: vec![field], set, not: false }
}

fn outside(field: Field, set: Set) -> Statement {
    S::Lookup { fields: vec![field], set, not: true }
}

fn mark_from(set: Set) -> Statement {
    S::SetMark(Source::Map(FRONTEND.to_vec(), set))
}

fn mark_is(value: u32) -> Statement {
    S::MarkIs { mask: u32::MAX, value }
}

fn chain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook: None, rules }
}

fn base(name: &str, kind: HookKind, point: HookPoint, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook: Some(Hook { kind, point, priority }), rules }
}

/// Priority before connections are tracked.
const RAW: i32 = -300;
/// Priority of the translation of destinations.
const DSTNAT: i32 = -100;
/// Priority of the translation of sources.
const SRCNAT: i32 = 100;

/// The chains that every table has, those first that others lead to.
pub fn constant_chains() -> Vec<Chain> {
    let mut chains = dispatch_chains();
    chains.extend(refusal_chains());
    let services = || vec![vec![S::To(Jump::Goto("services"))]];
    let after = || vec![vec![S::To(Jump::Goto("after"))]];
    chains.extend([
        base("from_pods", HookKind::Filter, HookPoint::Prerouting, RAW, source_rules()),
        base("prerouting", HookKind::Nat, HookPoint::Prerouting, DSTNAT, services()),
        base("output", HookKind::Nat, HookPoint::Output, DSTNAT, services()),
        base("prerouting_after", HookKind::Filter, HookPoint::Prerouting, DSTNAT + 1, after()),
        // Of type route: the kernel routes the packet again when the mark changes back.
        base("output_after", HookKind::Route, HookPoint::Output, DSTNAT + 1, after()),
        base("postrouting", HookKind::Nat, HookPoint::Postrouting, SRCNAT, masquerade_rules()),
    ]);
    chains
}

/// From a packet's destination to the chain of its class.
fn dispatch_chains() -> Vec<Chain> {
    vec![
        chain("pick", vec![vec![S::ToClass]]),
        chain(
            "by_source",
            vec![
                vec![
                    within(Field::SourceAddress, Set::ClusterNetwork),
                    mark_from(Set::InternalFrontends),
                    S::To(Jump::Goto("pick")),
                ],
                vec![S::SourceIsLocal, mark_from(Set::InternalFrontends), S::To(Jump::Goto("pick"))],
                vec![mark_from(Set::ExternalFrontends), S::To(Jump::Goto("pick"))],
            ],
        ),
        chain("allowed", vec![vec![S::ToClass], vec![mark_is(BY_SOURCE), S::To(Jump::Goto("by_source"))]]),
        chain(
            "by_range",
            vec![
                vec![
                    S::Lookup {
                        fields: Set::SourceRanges.key().to_vec(),
                        set: Set::SourceRanges,
                        not: false,
                    },
                    mark_from(Set::RangedFrontends),
                    S::To(Jump::Goto("allowed")),
                ],
                vec![S::SetMark(Source::Constant(DROP))],
            ],
        ),
        chain(
            "dispatch",
            vec![
                vec![S::ToClass],
                vec![mark_is(BY_SOURCE), S::To(Jump::Goto("by_source"))],
                vec![mark_is(BY_RANGE), S::To(Jump::Goto("by_range"))],
            ],
        ),
        chain(
            "services",
            vec![
                vec![mark_from(Set::Frontends), S::To(Jump::Goto("dispatch"))],
                vec![
                    within(Field::DestinationAddress, Set::NodeAddresses),
                    S::SetMark(Source::Map(vec![Field::Protocol, Field::DestinationPort], Set::NodePorts)),
                    S::To(Jump::Goto("dispatch")),
                ],
            ],
        ),
    ]
}

/// Between translation and routing: marks put back, refusals.
fn refusal_chains() -> Vec<Chain> {
    vec![
        chain("refuse", vec![vec![S::Is(Protocol::Tcp), S::Reset], vec![S::Unreachable]]),
        chain(
            "settle",
            vec![
                vec![mark_is(DROP), S::To(Jump::Drop)],
                vec![mark_is(REFUSE), S::To(Jump::Goto("refuse"))],
                vec![
                    S::MarkIs { mask: CLASS_MASK, value: OURS_STICKY },
                    S::SetConntrackMark(Source::Constant(0)),
                ],
                vec![S::SetMark(Source::Constant(0))],
            ],
        ),
        chain(
            "new",
            vec![
                vec![S::MarkIs { mask: OURS_MASK, value: OURS }, S::To(Jump::Jump("settle"))],
                vec![
                    within(Field::DestinationAddress, Set::ServiceNetwork),
                    outside(Field::DestinationAddress, Set::LocalServices),
                    S::To(Jump::Goto("refuse")),
                ],
                vec![
                    within(Field::DestinationAddress, Set::LoadBalancerAddresses),
                    S::Transport,
                    S::To(Jump::Goto("refuse")),
                ],
            ],
        ),
        chain(
            "after",
            vec![
                vec![S::State(ConnectionState::Known), S::To(Jump::Accept)],
                vec![S::State(ConnectionState::New), S::To(Jump::Goto("new"))],
                // Untranslated, these would make the receiver reset a healthy connection. TCP only: the ICMP errors by
                // which this node itself refuses UDP have no known connection either.
                vec![
                    S::State(ConnectionState::Invalid),
                    S::Is(Protocol::Tcp),
                    within(Field::SourceAddress, Set::ClusterNetwork),
                    S::To(Jump::Drop),
                ],
                vec![
                    S::State(ConnectionState::Invalid),
                    S::Is(Protocol::Tcp),
                    within(Field::DestinationAddress, Set::ServiceNetwork),
                    S::To(Jump::Drop),
                ],
            ],
        ),
    ]
}

/// A Pod speaks for itself only: what comes from its link with a source that is not routed there is dropped. What other
/// nodes sent comes by the overlay's links.
fn source_rules() -> Vec<Rule> {
    vec![vec![
        S::EntersBy(LINK_PREFIX),
        S::EntersNotBy(VXLAN_LINK),
        S::EntersNotBy(TUN_LINK),
        S::SourceElsewhere,
        S::To(Jump::Drop),
    ]]
}

/// Whose source becomes the node's: a Pod that reached itself, clients from outside unless a Local policy keeps them,
/// and Pods that leave the cluster.
fn masquerade_rules() -> Vec<Rule> {
    let hairpin = Set::Hairpin.key().to_vec();
    let original = vec![Field::OriginalDestination, Field::Protocol, Field::OriginalPort];
    vec![
        vec![S::Translated, S::Lookup { fields: hairpin, set: Set::Hairpin, not: false }, S::Masquerade],
        vec![
            S::Translated,
            outside(Field::SourceAddress, Set::ClusterNetwork),
            within(Field::OriginalDestination, Set::ServiceNetwork),
            S::Masquerade,
        ],
        vec![
            S::Translated,
            outside(Field::SourceAddress, Set::ClusterNetwork),
            S::Transport,
            S::Lookup { fields: original, set: Set::Masqueraded, not: false },
            S::Masquerade,
        ],
        vec![
            within(Field::SourceAddress, Set::ClusterNetwork),
            outside(Field::DestinationAddress, Set::ClusterNetwork),
            S::LeavesNode,
            S::Masquerade,
        ],
    ]
}

/// The chain of a class.
pub fn class_chain(class: &Class) -> Chain {
    let random = [Field::Mark, Field::Random(class.endpoints)];
    let Some(seconds) = class.affinity_s else {
        return chain(
            &class.chain(),
            vec![
                vec![S::SetMark(Source::Rewrite { mask: SET_MASK, or: OURS })],
                vec![S::Transport, S::Dnat(random.to_vec(), Set::Endpoints)],
            ],
        );
    };
    let go = || S::Dnat(Set::AffinityEndpoints.key().to_vec(), Set::AffinityEndpoints);
    chain(
        &class.chain(),
        vec![
            vec![S::SetMark(Source::Rewrite { mask: SET_MASK, or: OURS_STICKY })],
            vec![
                S::SetConntrackMark(Source::Map(Set::Affinity.key().to_vec(), Set::Affinity)),
                S::Learn(seconds),
                S::Transport,
                go(),
            ],
            // Reached if nothing was remembered or the endpoint is gone: an update alone would keep the old slot.
            vec![S::Forget],
            vec![
                S::SetConntrackMark(Source::Map(random.to_vec(), Set::AffinitySlots)),
                S::Learn(seconds),
                S::Transport,
                go(),
            ],
        ],
    )
}
