//! What a packet meets: the statements of [`super::rules`], executed over a [`ServiceTable`].
//!
//! In: the table and the first packet of a connection. Out: the verdict, what affinity learnt, and every rule that
//! matched on the way. Invariant: nothing here knows what a Service is; it does what the kernel does with the rules.

use super::{
    element::{
        CLASS_MASK, CLASS_SHIFT, Class, Frontend, Key, OURS, OURS_STICKY, Protocol, SET_MASK, ServiceTable,
        Value,
    },
    hook::HookPoint,
    rules::{Chain, ConnectionState, Jump, Rule, Source, Statement, class_chain, constant_chains},
    schema::{Field, Set},
    text::rule_text,
};
use crate::family::{Address, Endpoint, Network};
use std::net::Ipv4Addr;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A = Ipv4Addr> {
    /// Where it comes from.
    pub source: A,
    /// Where it is sent to.
    pub destination: A,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Whether the source is an address of this node, so that the packet starts at the output hook.
    pub from_node: bool,
    /// The mark that others gave it; 0 if none did.
    pub mark: u32,
}

/// What chance and memory add to a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The random number of a pick; taken modulo the number of endpoints.
    pub random: u32,
    /// The slot that affinity remembers for this client and endpoint set.
    pub remembered: Option<u32>,
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<A = Ipv4Addr> {
    /// It goes on as it is: not for a Service.
    Pass {
        /// Its source becomes the node's address if it leaves the node.
        masquerade: bool,
    },
    /// It goes to an endpoint.
    Endpoint {
        /// Which one.
        endpoint: Endpoint<A>,
        /// Its source becomes the node's address.
        masquerade: bool,
    },
    /// The client is told that nothing answers there.
    Refuse,
    /// Silence.
    Drop,
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The chain.
    pub chain: String,
    /// The rule as nft writes it.
    pub rule: String,
}

/// The whole walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace<A = Ipv4Addr> {
    /// Rules that matched, in order.
    pub steps: Vec<Step>,
    /// What became of the packet.
    pub verdict: Verdict<A>,
    /// What affinity remembers now.
    pub remembered: Option<u32>,
    /// The packet's mark when it is routed.
    pub mark: u32,
    /// The connection's mark when it is confirmed.
    pub conntrack_mark: u32,
}

/// Walks a packet through the table.
pub fn trace<A: Address>(table: &ServiceTable<A>, packet: &Packet<A>, connection: &Connection) -> Trace<A> {
    walk(table, &constant_chains(), packet, connection)
}

/// As [`trace`], with other constant chains: for tests that break a rule on purpose.
pub fn walk<A: Address>(
    table: &ServiceTable<A>,
    chains: &[Chain],
    packet: &Packet<A>,
    connection: &Connection,
) -> Trace<A> {
    let mut walk = Walk {
        table,
        chains,
        packet,
        random: connection.random,
        remembered: connection.remembered,
        mark: packet.mark,
        conntrack_mark: 0,
        translated: None,
        steps: Vec::new(),
    };
    let first = if packet.from_node { HookPoint::Output } else { HookPoint::Prerouting };
    let mut verdict = None;
    for point in [first, HookPoint::Postrouting] {
        let mut bases: Vec<_> = chains
            .iter()
            .filter_map(|chain| {
                chain.hook.filter(|hook| hook.point == point).map(|hook| (hook.priority, chain))
            })
            .collect();
        bases.sort_by_key(|(priority, _)| *priority);
        for (_, base) in bases {
            match walk.chain(base, CHAINS_DEEP_MAX) {
                Flow::Refuse => verdict = verdict.or(Some(Verdict::Refuse)),
                Flow::Drop => verdict = verdict.or(Some(Verdict::Drop)),
                Flow::Masquerade => verdict = verdict.or(Some(walk.passed(true))),
                Flow::Return | Flow::Accept => {}
            }
        }
    }
    let verdict = verdict.unwrap_or_else(|| walk.passed(false));
    Trace {
        verdict,
        remembered: walk.remembered,
        mark: walk.mark,
        conntrack_mark: walk.conntrack_mark,
        steps: walk.steps,
    }
}

/// Longest path of gotos and jumps, as the kernel limits jumps.
const CHAINS_DEEP_MAX: u32 = 16;

enum Flow {
    Return,
    Accept,
    Drop,
    Refuse,
    Masquerade,
}

/// How a rule went on after a statement.
enum Next {
    Statement,
    Rule,
    Done(Flow),
    Jump(Flow),
}

struct Walk<'a, A: Address> {
    table: &'a ServiceTable<A>,
    chains: &'a [Chain],
    packet: &'a Packet<A>,
    random: u32,
    remembered: Option<u32>,
    mark: u32,
    conntrack_mark: u32,
    translated: Option<Endpoint<A>>,
    steps: Vec<Step>,
}

impl<A: Address> Walk<'_, A> {
    fn passed(&self, masquerade: bool) -> Verdict<A> {
        match self.translated {
            Some(endpoint) => Verdict::Endpoint { endpoint, masquerade },
            None => Verdict::Pass { masquerade },
        }
    }

    fn named(&mut self, name: &str, deep: u32) -> Flow {
        let Some(deep) = deep.checked_sub(1) else { return Flow::Drop };
        match self.chains.iter().find(|chain| chain.name == name) {
            Some(chain) => self.chain(chain, deep),
            None => Flow::Return,
        }
    }

    fn chain(&mut self, chain: &Chain, deep: u32) -> Flow {
        for rule in &chain.rules {
            match self.rule(&chain.name, rule, deep) {
                Next::Done(flow) => return flow,
                Next::Jump(Flow::Return) | Next::Rule | Next::Statement => {}
                Next::Jump(flow) => return flow,
            }
        }
        Flow::Return
    }

    fn rule(&mut self, chain: &str, rule: &Rule, deep: u32) -> Next {
        let place = self.steps.len();
        for statement in rule {
            match self.statement(statement, deep) {
                Next::Statement => {}
                Next::Rule => return Next::Rule,
                end => {
                    self.record(place, chain, rule);
                    return end;
                }
            }
        }
        self.record(place, chain, rule);
        Next::Statement
    }

    fn record(&mut self, place: usize, chain: &str, rule: &Rule) {
        self.steps.insert(place, Step { chain: chain.to_owned(), rule: rule_text(A::FAMILY, rule) });
    }

    fn statement(&mut self, statement: &Statement, deep: u32) -> Next {
        let matched = match statement {
            Statement::Lookup { fields, set, not } => self.contains(fields, *set) != *not,
            Statement::Transport => true,
            Statement::Is(protocol) => self.packet.protocol == *protocol,
            Statement::MarkIs { mask, value } => self.mark & mask == *value,
            Statement::State(state) => *state == ConnectionState::New,
            Statement::Translated => self.translated.is_some(),
            Statement::SourceIsLocal => self.packet.from_node,
            // A packet that is traced carries its sender's own address.
            Statement::EntersBy(_) | Statement::EntersNotBy(_) | Statement::SourceElsewhere => false,
            Statement::LeavesNode => !self.stays_on_node(),
            Statement::SetMark(source) => self.source(source).map(|mark| self.mark = mark).is_some(),
            Statement::SetConntrackMark(source) => {
                self.source(source).map(|mark| self.conntrack_mark = mark).is_some()
            }
            Statement::Learn(_) => {
                self.remembered = Some(self.conntrack_mark);
                true
            }
            Statement::Forget => {
                self.remembered = None;
                true
            }
            Statement::Dnat(fields, set) => match self.map(fields, *set) {
                Some(Value::Endpoint(endpoint)) => {
                    self.translated = Some(endpoint);
                    return Next::Done(Flow::Accept);
                }
                _ => false,
            },
            Statement::Masquerade => return Next::Done(Flow::Masquerade),
            Statement::Reset | Statement::Unreachable => return Next::Done(Flow::Refuse),
            Statement::ToClass => {
                let class = u16::try_from((self.mark & CLASS_MASK) >> CLASS_SHIFT).unwrap_or(u16::MAX);
                match self.table.get(&Key::Class(class)) {
                    Some(Value::Class(class)) => return Next::Done(self.class(class, deep)),
                    _ => false,
                }
            }
            Statement::To(Jump::Goto(name)) => return Next::Done(self.named(name, deep)),
            Statement::To(Jump::Jump(name)) => return Next::Jump(self.named(name, deep)),
            Statement::To(Jump::Accept) => return Next::Done(Flow::Accept),
            Statement::To(Jump::Drop) => return Next::Done(Flow::Drop),
        };
        if matched { Next::Statement } else { Next::Rule }
    }

    fn class(&mut self, class: &Class, deep: u32) -> Flow {
        self.chain(&class_chain(class), deep)
    }

    fn stays_on_node(&self) -> bool {
        let destination = self.destination();
        self.table.contains_key(&Key::NodeAddress(destination))
            || self.table.contains_key(&Key::LocalService(destination))
    }

    fn destination(&self) -> A {
        self.translated.map_or(self.packet.destination, |endpoint| endpoint.address)
    }

    fn source(&self, source: &Source) -> Option<u32> {
        match source {
            Source::Constant(value) => Some(*value),
            Source::Rewrite { mask, or } => Some(self.mark & mask | or),
            Source::Map(fields, set) => match self.map(fields, *set)? {
                Value::Mark(value) | Value::Slot(value) => Some(value),
                _ => None,
            },
        }
    }

    /// The fields' values; a set's key is compared with them field by field.
    fn values(&self, fields: &[Field]) -> Vec<Word<A>> {
        fields
            .iter()
            .map(|field| match field {
                Field::SourceAddress => Word::Address(self.packet.source),
                Field::DestinationAddress => Word::Address(self.destination()),
                Field::Protocol => Word::Number(u32::from(self.packet.protocol.number())),
                Field::DestinationPort => {
                    let port = self.translated.map_or(self.packet.port, |endpoint| endpoint.port);
                    Word::Number(u32::from(port))
                }
                Field::Mark => Word::Number(self.mark),
                Field::ConntrackMark => Word::Number(self.conntrack_mark),
                Field::Random(modulus) => Word::Number(self.random % u32::from(*modulus).max(1)),
                Field::OriginalDestination => Word::Address(self.packet.destination),
                Field::OriginalPort => Word::Number(u32::from(self.packet.port)),
            })
            .collect()
    }

    fn contains(&self, fields: &[Field], set: Set) -> bool {
        let values = self.values(fields);
        match (set, values.as_slice()) {
            (Set::ClusterNetwork, [Word::Address(address)]) => {
                self.table.keys().any(|key| matches!(key, Key::ClusterNetwork(net) if net.holds(*address)))
            }
            (Set::ServiceNetwork, [Word::Address(address)]) => self
                .table
                .keys()
                .rev()
                .any(|key| matches!(key, Key::ServiceNetwork(net) if net.holds(*address))),
            (Set::SourceRanges, [Word::Address(source), rest @ ..]) => {
                let Some(frontend) = frontend(rest) else { return false };
                let first = Key::SourceRange(frontend, A::Net::everything());
                self.table
                    .range(first..)
                    .map_while(|(key, _)| match key {
                        Key::SourceRange(other, net) if *other == frontend => Some(net),
                        _ => None,
                    })
                    .any(|net| net.holds(*source))
            }
            _ => key(set, &values).is_some_and(|key| self.table.contains_key(&key)),
        }
    }

    fn map(&self, fields: &[Field], set: Set) -> Option<Value<A>> {
        let values = self.values(fields);
        if set == Set::Affinity {
            return self.remembered.map(Value::Slot);
        }
        self.table.get(&key(set, &values)?).copied()
    }
}

/// What a field of a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<A> {
    /// An address.
    Address(A),
    /// A protocol, port, mark or number.
    Number(u32),
}

fn frontend<A: Address>(words: &[Word<A>]) -> Option<Frontend<A>> {
    let [Word::Address(address), Word::Number(protocol), Word::Number(port)] = *words else { return None };
    Some(Frontend {
        address,
        protocol: Protocol::from_number(u8::try_from(protocol).ok()?)?,
        port: u16::try_from(port).ok()?,
    })
}

/// The element that field values name; None if there is no such element in any table.
pub fn key<A: Address>(set: Set, values: &[Word<A>]) -> Option<Key<A>> {
    use Word::{Address, Number};
    let ours = |mark: u32, tag: u32| (mark & !SET_MASK == tag).then_some(mark & SET_MASK);
    Some(match (set, values) {
        (Set::LocalServices, [Address(address)]) => Key::LocalService(*address),
        (Set::NodeAddresses, [Address(address)]) => Key::NodeAddress(*address),
        (Set::LoadBalancerAddresses, [Address(address)]) => Key::LoadBalancerAddress(*address),
        (Set::Hairpin, [Address(source), Address(destination)]) if source == destination => {
            Key::Hairpin(*source)
        }
        (Set::Classes, [Number(mark)]) if mark & !CLASS_MASK == 0 => {
            Key::Class(u16::try_from(mark >> CLASS_SHIFT).ok()?)
        }
        (Set::Endpoints, [Number(mark), Number(slot)]) => Key::Endpoint(ours(*mark, OURS)?, *slot),
        (Set::AffinitySlots, [Number(mark), Number(index)]) => {
            Key::AffinitySlot(ours(*mark, OURS_STICKY)?, *index)
        }
        (Set::AffinityEndpoints, [Number(mark), Number(slot)]) => {
            Key::AffinityEndpoint(ours(*mark, OURS_STICKY)?, *slot)
        }
        (Set::NodePorts, [Number(protocol), Number(port)]) => {
            Key::NodePort(Protocol::from_number(u8::try_from(*protocol).ok()?)?, u16::try_from(*port).ok()?)
        }
        (Set::Masqueraded, place) => Key::Masqueraded(frontend(place)?),
        (Set::InternalFrontends, place) => Key::InternalFrontend(frontend(place)?),
        (Set::ExternalFrontends, place) => Key::ExternalFrontend(frontend(place)?),
        (Set::RangedFrontends, place) => Key::RangedFrontend(frontend(place)?),
        (Set::Frontends, place) => Key::Frontend(frontend(place)?),
        _ => return None,
    })
}
