//! Dumps of our table as typed elements, and whether its structure is what we would build.
//!
//! Invariant: whatever is not exactly what [`super::encode`] writes makes the table [`Found::Broken`]; it is then built
//! anew rather than mended.

use super::{
    encode::{hook_shape, shape},
    userdata,
    wire::{attribute, attributes, number, text, u32_at},
};
use minisvc_netstate::{
    family::{Address, Endpoint, Family, Network},
    nft::{
        Chain, Class, Key, ServiceTable, Set, Value,
        rules::{class_chain, constant_chains},
        schema::{Data, Field},
        text::rule_text,
        trace::{self, Word},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// What is in the kernel.
pub enum Found<A: Address> {
    /// No table of ours.
    Nothing,
    /// A table that is not as we build it.
    Broken,
    /// Our table: its elements, and class chains that nothing leads to.
    Table(ServiceTable<A>, BTreeSet<String>),
}

/// The payloads of the dumps of a table's structure; each without the nfnetlink header.
#[derive(Default)]
pub struct Dumps {
    /// Chains.
    pub chains: Vec<Vec<u8>>,
    /// Rules, in order within each chain.
    pub rules: Vec<Vec<u8>>,
    /// Sets.
    pub sets: Vec<Vec<u8>>,
}

type Shape = Option<(u32, i32, String)>;

/// Reads the dumps; `table` has the elements, or is None if they could not be read.
pub fn found<A: Address>(dumps: &Dumps, table: Option<ServiceTable<A>>) -> Found<A> {
    let table = structure(dumps, A::FAMILY).zip(table).and_then(|(classes, table)| {
        let used: BTreeSet<Class> = table
            .values()
            .filter_map(|value| match value {
                Value::Class(class) => Some(*class),
                _ => None,
            })
            .collect();
        let unused = classes.iter().filter(|(class, _)| !used.contains(class));
        let whole = used.iter().all(|class| classes.get(class) == Some(&true));
        whole.then(|| (unused.map(|(class, _)| class.chain()).collect(), table))
    });
    match table {
        Some((unused, table)) => Found::Table(table, unused),
        None => Found::Broken,
    }
}

/// Checks sets, constant chains and rules; the class chains, and whether each has its rules.
fn structure(dumps: &Dumps, family: Family) -> Option<BTreeMap<Class, bool>> {
    const ANONYMOUS: u32 = 1;
    let mut sets = BTreeMap::new();
    for set in &dumps.sets {
        let flags = number(set, 3).unwrap_or(0);
        if flags & ANONYMOUS == 0 {
            let numbers = [4, 5, 6, 7].map(|kind| number(set, kind).unwrap_or(0));
            sets.insert(text(set, 2)?, [flags, numbers[0], numbers[1], numbers[2], numbers[3]]);
        }
    }
    let wanted: BTreeMap<&str, [u32; 5]> =
        Set::ALL.into_iter().map(|set| (set.name(), shape(family, set))).collect();
    if sets != wanted {
        return None;
    }
    let mut rules: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for rule in &dumps.rules {
        rules.entry(text(rule, 2)?).or_default().push(attribute(rule, 7).unwrap_or_default());
    }
    let mut chains: BTreeMap<&str, Shape> = BTreeMap::new();
    for chain in &dumps.chains {
        let hook = attribute(chain, 4).and_then(|hook| {
            let priority = number(hook, 2)?.cast_signed();
            Some((number(hook, 1)?, priority, text(chain, 7)?.to_owned()))
        });
        chains.insert(text(chain, 3)?, hook);
    }
    for wanted in constant_chains() {
        let shape = hook_shape(&wanted).map(|(point, priority, kind)| (point, priority, kind.to_owned()));
        if chains.remove(wanted.name.as_str()) != Some(shape) || !has_rules(&rules, family, &wanted) {
            return None;
        }
    }
    let mut classes = BTreeMap::new();
    for (name, hook) in chains {
        let class = Class::from_chain(name).filter(|_| hook.is_none())?;
        classes.insert(class, has_rules(&rules, family, &class_chain(&class)));
    }
    Some(classes)
}

fn has_rules(rules: &BTreeMap<&str, Vec<&[u8]>>, family: Family, chain: &Chain) -> bool {
    let found = rules.get(chain.name.as_str()).map(Vec::as_slice).unwrap_or_default();
    found.len() == chain.rules.len()
        && found
            .iter()
            .zip(&chain.rules)
            .all(|(found, rule)| **found == *userdata::fingerprint(&rule_text(family, rule)))
}

/// The elements of one set, list by list.
pub struct Elements<A: Address> {
    set: Set,
    table: ServiceTable<A>,
    /// Of a set of networks: where they start, and what follows them.
    starts: BTreeSet<A>,
    ends: BTreeSet<A>,
    /// Whether one came twice.
    twice: bool,
    /// Whether all could be read.
    readable: bool,
}

impl<A: Address> Elements<A> {
    /// None read yet.
    pub fn new(set: Set) -> Self {
        let (starts, ends) = (BTreeSet::new(), BTreeSet::new());
        Self { set, table: ServiceTable::new(), starts, ends, twice: false, readable: true }
    }

    /// Reads one payload of a dump, without the nfnetlink header.
    pub fn read(&mut self, payload: &[u8]) {
        let list = attribute(payload, 3).unwrap_or_default();
        for (_, element) in attributes(list) {
            let read = match self.set.interval() && self.set.key().len() == 1 {
                true => self.read_bound(element),
                false => read_element(self.set, element)
                    .map(|(key, value)| self.twice |= self.table.insert(key, value).is_some()),
            };
            self.readable &= read.is_some();
        }
    }

    fn read_bound(&mut self, element: &[u8]) -> Option<()> {
        const END: u32 = 1;
        let address = A::read(value(element, 1)?)?;
        let is_end = number(element, 3).unwrap_or(0) & END != 0;
        if is_end {
            self.ends.insert(address)
        } else {
            self.starts.insert(address)
        };
        Some(())
    }

    /// Whether an element came twice: the kernel moved its elements while it listed them, and as many were left out.
    pub fn moved(&self) -> bool {
        self.twice
    }

    /// What was read; None if something is not as we write it.
    pub fn finish(mut self) -> Option<ServiceTable<A>> {
        for start in self.starts {
            // A network that reaches to the last address has no end.
            let end = self.ends.range(start..).find(|end| **end != start);
            let last =
                end.map_or(Some(A::Net::everything().last()), |end| A::from_number(end.number() - 1))?;
            let net = A::Net::between(start, last)?;
            let key = match self.set {
                Set::ClusterNetwork => Key::ClusterNetwork(net),
                _ => Key::ServiceNetwork(net),
            };
            self.table.insert(key, Value::Present);
        }
        self.readable.then_some(self.table)
    }
}

fn value(element: &[u8], kind: u16) -> Option<&[u8]> {
    attribute(attribute(element, kind)?, 1)
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

/// The fields that a key's bytes hold.
fn words<A: Address>(fields: &[Field], mut bytes: &[u8]) -> Option<Vec<Word<A>>> {
    let mut words = Vec::with_capacity(fields.len());
    for field in fields {
        words.push(match field {
            Field::Protocol => Word::Number(u32::from(*bytes.first()?)),
            Field::DestinationPort | Field::OriginalPort => Word::Number(u32::from(port(bytes)?)),
            Field::SourceAddress | Field::DestinationAddress | Field::OriginalDestination => {
                Word::Address(A::read(bytes)?)
            }
            Field::Mark | Field::ConntrackMark | Field::Random(_) => Word::Number(u32_at(bytes, 0)?),
        });
        bytes = bytes.get(4 * field.registers(A::FAMILY)..)?;
    }
    Some(words)
}

fn read_element<A: Address>(set: Set, element: &[u8]) -> Option<(Key<A>, Value<A>)> {
    let bytes = value(element, 1)?;
    let words = words(set.key(), bytes)?;
    if set == Set::SourceRanges {
        let [Word::Address(first), place @ ..] = words.as_slice() else { return None };
        let Key::Frontend(frontend) = trace::key(Set::Frontends, place)? else { return None };
        let net = A::Net::between(*first, A::read(value(element, 10).unwrap_or(bytes))?)?;
        return Some((Key::SourceRange(frontend, net), Value::Present));
    }
    Some((trace::key(set, &words)?, read_value(set, element)?))
}

fn read_value<A: Address>(set: Set, element: &[u8]) -> Option<Value<A>> {
    Some(match set.data() {
        None => Value::Present,
        Some(Data::Verdict) => {
            let verdict = attribute(attribute(element, 2)?, 2)?;
            Value::Class(Class::from_chain(text(verdict, 2)?)?)
        }
        Some(Data::Endpoint) => {
            let bytes = value(element, 2)?;
            let port = port(bytes.get(A::FAMILY.octets()..)?)?;
            Value::Endpoint(Endpoint { address: A::read(bytes)?, port })
        }
        Some(Data::Field(_)) => {
            let mark = u32_at(value(element, 2)?, 0)?;
            if set == Set::AffinitySlots { Value::Slot(mark) } else { Value::Mark(mark) }
        }
    })
}
