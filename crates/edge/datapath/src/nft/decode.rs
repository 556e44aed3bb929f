//! Dumps of our table as typed elements, and whether its structure is what we would build.
//!
//! Invariant: whatever is not exactly what [`super::encode`] writes makes the table [`Found::Broken`]; it is then built
//! anew rather than mended.

use super::{
    encode::{hook_shape, shape},
    userdata,
    wire::{attribute, attributes, number, text, u32_at},
};
use ipnet::Ipv4Net;
use minisvc_netstate::nft::{
    Class, Frontend, Key, Protocol, ServiceTable, Set, Value,
    rules::{class_chain, constant_chains},
    schema::{Data, Field},
    text::rule_text,
    trace,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

/// What is in the kernel.
pub enum Found {
    /// No table of ours.
    Nothing,
    /// A table that is not as we build it.
    Broken,
    /// Our table: its elements, and class chains that nothing leads to.
    Table(ServiceTable, BTreeSet<String>),
}

/// The payloads of the dumps of one table; each without the nfnetlink header.
#[derive(Default)]
pub struct Dumps {
    /// Chains.
    pub chains: Vec<Vec<u8>>,
    /// Rules, in order within each chain.
    pub rules: Vec<Vec<u8>>,
    /// Sets.
    pub sets: Vec<Vec<u8>>,
    /// Lists of elements by set.
    pub elements: Vec<(Set, Vec<u8>)>,
}

type Shape = Option<(u32, i32, String)>;

/// Reads the dumps.
pub fn found(dumps: &Dumps) -> Found {
    let table = structure(dumps).and_then(|classes| {
        let table = elements(dumps)?;
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
fn structure(dumps: &Dumps) -> Option<BTreeMap<Class, bool>> {
    const ANONYMOUS: u32 = 1;
    let mut sets = BTreeMap::new();
    for set in &dumps.sets {
        let flags = number(set, 3).unwrap_or(0);
        if flags & ANONYMOUS == 0 {
            let numbers = [4, 5, 6, 7].map(|kind| number(set, kind).unwrap_or(0));
            sets.insert(text(set, 2)?, [flags, numbers[0], numbers[1], numbers[2], numbers[3]]);
        }
    }
    let wanted: BTreeMap<&str, [u32; 5]> = Set::ALL.into_iter().map(|set| (set.name(), shape(set))).collect();
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
        if chains.remove(wanted.name.as_str()) != Some(shape) || !has_rules(&rules, &wanted) {
            return None;
        }
    }
    let mut classes = BTreeMap::new();
    for (name, hook) in chains {
        let class = Class::from_chain(name).filter(|_| hook.is_none())?;
        classes.insert(class, has_rules(&rules, &class_chain(&class)));
    }
    Some(classes)
}

fn has_rules(rules: &BTreeMap<&str, Vec<&[u8]>>, chain: &minisvc_netstate::nft::Chain) -> bool {
    let found = rules.get(chain.name.as_str()).map(Vec::as_slice).unwrap_or_default();
    found.len() == chain.rules.len()
        && found
            .iter()
            .zip(&chain.rules)
            .all(|(found, rule)| **found == *userdata::fingerprint(&rule_text(rule)))
}

fn elements(dumps: &Dumps) -> Option<ServiceTable> {
    let mut table = ServiceTable::new();
    let mut networks: BTreeMap<Set, (BTreeSet<u32>, BTreeSet<u32>)> = BTreeMap::new();
    for (set, list) in &dumps.elements {
        let list = attribute(list, 3).unwrap_or_default();
        for (_, element) in attributes(list) {
            if set.interval() && set.key().len() == 1 {
                let address = u32::from(address(value(element, 1)?, 0)?);
                let (starts, ends) = networks.entry(*set).or_default();
                let end = number(element, 3).unwrap_or(0) & 1 != 0;
                if end {
                    ends.insert(address)
                } else {
                    starts.insert(address)
                };
                continue;
            }
            let (key, value) = read_element(*set, element)?;
            table.insert(key, value);
        }
    }
    for (set, (starts, ends)) in networks {
        for start in starts {
            let last = ends.range(start.checked_add(1)?..).next().map_or(u32::MAX, |end| end - 1);
            let mut nets = ipnet::Ipv4Subnets::new(Ipv4Addr::from(start), Ipv4Addr::from(last), 0);
            let (net, None) = (nets.next()?, nets.next()) else { return None };
            let key = match set {
                Set::ClusterNetwork => Key::ClusterNetwork(net),
                _ => Key::ServiceNetwork(net),
            };
            table.insert(key, Value::Present);
        }
    }
    Some(table)
}

fn value(element: &[u8], kind: u16) -> Option<&[u8]> {
    attribute(attribute(element, kind)?, 1)
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_element(set: Set, element: &[u8]) -> Option<(Key, Value)> {
    let bytes = value(element, 1)?;
    if set == Set::SourceRanges {
        let (first, last) = (address(bytes, 0)?, address(value(element, 10).unwrap_or(bytes), 0)?);
        let mut nets = ipnet::Ipv4Subnets::new(first, last, 0);
        let (net, None): (Ipv4Net, _) = (nets.next()?, nets.next()) else { return None };
        let protocol = Protocol::from_number(*bytes.get(8)?)?;
        let frontend = Frontend { address: address(bytes, 4)?, protocol, port: port(bytes, 12)? };
        return Some((Key::SourceRange(frontend, net), Value::Present));
    }
    let mut fields = Vec::with_capacity(4);
    for (index, field) in set.key().iter().enumerate() {
        let at = index * 4;
        fields.push(match field {
            Field::Protocol => u32::from(*bytes.get(at)?),
            Field::DestinationPort => u32::from(port(bytes, at)?),
            Field::SourceAddress | Field::DestinationAddress => u32::from(address(bytes, at)?),
            _ => u32_at(bytes, at)?,
        });
    }
    let key = trace::key(set, &fields)?;
    Some((key, read_value(set, element)?))
}

fn read_value(set: Set, element: &[u8]) -> Option<Value> {
    Some(match set.data() {
        None => Value::Present,
        Some(Data::Verdict) => {
            let verdict = attribute(attribute(element, 2)?, 2)?;
            Value::Class(Class::from_chain(text(verdict, 2)?)?)
        }
        Some(Data::Endpoint) => {
            let bytes = value(element, 2)?;
            Value::Endpoint(SocketAddrV4::new(address(bytes, 0)?, port(bytes, 4)?))
        }
        Some(Data::Field(_)) => {
            let mark = u32_at(value(element, 2)?, 0)?;
            if set == Set::AffinitySlots { Value::Slot(mark) } else { Value::Mark(mark) }
        }
    })
}
