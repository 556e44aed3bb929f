//! The DNS server as a pure function.
//!
//! In: [`Records`] and a [`Question`]. Out: an [`Answer`]. A name is looked up by walking its labels from the
//! right through the records, so no record set is ever materialised.

use crate::{
    Answer, DNS_VERSION, Data, Owner, Question, Record, RecordType, Reply,
    name::labels,
    records::{Endpoint, Entry, Pointer, Port, Records},
    reverse,
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// Aliases followed inside the zone before the answer is given as far as it goes.
const ALIASES_MAX: usize = 8;

/// What a name is.
enum Found<'a> {
    /// The cluster domain itself.
    Apex,
    /// A name that has addresses.
    Addresses(Vec<IpAddr>),
    /// A name that has SRV records.
    Ports { namespace: &'a str, service: &'a str, entry: &'a Entry, ports: Vec<&'a Port> },
    /// An alias.
    Alias(Arc<str>),
    /// The TXT record with the specification's version.
    Version,
    /// The apex of a reverse zone.
    ReverseApex(IpNet),
    /// An address with its names.
    Pointers(&'a [Pointer], IpNet),
    /// Exists only because names below it do.
    Empty(Option<IpNet>),
    /// Does not exist.
    Nothing(Option<IpNet>),
    /// Not in the zone.
    Elsewhere,
}

/// Answers a question from the records.
pub fn answer(records: &Records, question: &Question<'_>) -> Answer {
    if question.kind == RecordType::Transfer {
        return match find(records, question.labels) {
            Found::Elsewhere => Answer::Forward,
            _ => Answer::Refused,
        };
    }
    let mut reply = Reply::default();
    let mut owner = Owner::Question;
    let mut found = find(records, question.labels);
    if matches!(found, Found::Elsewhere) {
        return Answer::Forward;
    }
    for _ in 0..ALIASES_MAX {
        let Found::Alias(target) = &found else { break };
        let target = target.clone();
        reply.answers.push(Record { owner, data: Data::Cname(target.clone()) });
        if matches!(question.kind, RecordType::Cname | RecordType::Any) {
            return Answer::Reply(reply);
        }
        found = find(records, &labels(&target));
        if matches!(found, Found::Elsewhere) {
            reply.forward = Some(target);
            return Answer::Reply(reply);
        }
        owner = Owner::Name(target);
    }
    fill(records, question.kind, &owner, &found, &mut reply);
    Answer::Reply(reply)
}

/// Puts the records of one name into the reply, or the SOA if there are none.
fn fill(records: &Records, kind: RecordType, owner: &Owner, found: &Found<'_>, reply: &mut Reply) {
    let wants = |wanted| kind == wanted || kind == RecordType::Any;
    let before = reply.answers.len();
    let mut zone = None;
    let mut push = |data| reply.answers.push(Record { owner: owner.clone(), data });
    match found {
        Found::Apex | Found::ReverseApex(_) => {
            if let Found::ReverseApex(apex) = found {
                zone = Some(*apex);
            }
            if wants(RecordType::Soa) {
                push(soa(records));
            }
            if wants(RecordType::Ns) {
                let server = name_server(records);
                push(Data::Ns(server.clone()));
                reply.additionals.extend(addresses(&Owner::Name(server), &records.dns_addresses));
            }
        }
        Found::Addresses(all) => {
            all.iter().filter(|a| wants(kind_of(**a))).for_each(|a| push(Data::Address(*a)));
        }
        Found::Ports { namespace, service, entry, ports } if wants(RecordType::Srv) => {
            let zone = &records.zone;
            services(&format!("{service}.{namespace}.svc.{zone}"), entry, ports, owner, reply);
        }
        Found::Version if wants(RecordType::Txt) => push(Data::Txt(DNS_VERSION)),
        Found::Pointers(pointers, apex) => {
            zone = Some(*apex);
            if wants(RecordType::Ptr) {
                pointers.iter().for_each(|p| push(Data::Ptr(pointer_name(records, p))));
            }
        }
        Found::Empty(apex) => zone = *apex,
        Found::Nothing(apex) => {
            zone = *apex;
            reply.no_such_name = true;
        }
        Found::Ports { .. } | Found::Version | Found::Alias(_) | Found::Elsewhere => {}
    }
    if reply.answers.len() == before {
        let name = zone.map_or_else(|| records.zone.clone(), |apex| reverse::name_of(&apex).into());
        reply.authorities.push(Record { owner: Owner::Name(name), data: soa(records) });
    }
}

/// SRV records of one port name of the Service called `service`, with the addresses of their targets.
fn services(service: &str, entry: &Entry, ports: &[&Port], owner: &Owner, reply: &mut Reply) {
    let weight = u16::try_from((100 / ports.len().max(1)).max(1)).unwrap_or(1);
    let mut targets = BTreeSet::new();
    for port in ports {
        let (target, all): (Arc<str>, _) = match entry {
            Entry::Virtual { addresses, .. } => (service.into(), addresses.clone()),
            Entry::Headless { endpoints, .. } => {
                (format!("{}.{service}", port.endpoint).into(), of_endpoint(endpoints, &port.endpoint))
            }
            Entry::External { .. } => continue,
        };
        let data = Data::Srv { weight, port: port.number, target: target.clone() };
        reply.answers.push(Record { owner: owner.clone(), data });
        // Two ports of one name on one endpoint share its addresses.
        if targets.insert(target.clone()) {
            reply.additionals.extend(addresses(&Owner::Name(target), &all));
        }
    }
}

/// Looks a name up.
fn find<'a>(records: &'a Records, labels: &[&[u8]]) -> Found<'a> {
    let Some(below) = below_zone(records, labels) else { return find_reverse(records, labels) };
    let mut texts = [""; 6];
    if below.len() > texts.len() {
        return Found::Nothing(None);
    }
    for (text, label) in texts.iter_mut().zip(below) {
        match std::str::from_utf8(label) {
            Ok(label) => *text = label,
            Err(_) => return Found::Nothing(None),
        }
    }
    match &texts[..below.len()] {
        [] => Found::Apex,
        ["dns-version"] => Found::Version,
        ["dns"] => Found::Empty(None),
        ["ns", "dns"] => Found::Addresses(records.dns_addresses.to_vec()),
        ["svc"] if records.entries.is_empty() => Found::Nothing(None),
        ["svc"] => Found::Empty(None),
        [namespace, "svc"] if records.entries.contains_key(*namespace) => Found::Empty(None),
        [rest @ .., service, namespace, "svc"] => {
            let Some((namespace, names)) = records.entries.get_key_value(*namespace) else {
                return Found::Nothing(None);
            };
            match names.get_key_value(*service) {
                Some((service, entry)) => find_in_service(namespace, service, entry, rest),
                None => Found::Nothing(None),
            }
        }
        _ => Found::Nothing(None),
    }
}

/// Looks up what is left of a Service's name.
fn find_in_service<'a>(namespace: &'a str, service: &'a str, entry: &'a Entry, rest: &[&str]) -> Found<'a> {
    let ports = match entry {
        Entry::External { target } if rest.is_empty() => return Found::Alias(target.clone()),
        Entry::External { .. } => return Found::Nothing(None),
        Entry::Virtual { ports, .. } | Entry::Headless { ports, .. } => ports,
    };
    match (rest, entry) {
        ([], Entry::Virtual { addresses, .. }) => Found::Addresses(addresses.clone()),
        ([], Entry::Headless { endpoints, .. }) => {
            let mut all: Vec<_> = endpoints.iter().map(|e| e.address).collect();
            all.sort();
            all.dedup();
            Found::Addresses(all)
        }
        ([label], _) if label.starts_with('_') => {
            let protocol = &label[1..];
            if ports.iter().any(|p| p.protocol == protocol) {
                Found::Empty(None)
            } else {
                Found::Nothing(None)
            }
        }
        ([host], Entry::Headless { endpoints, .. }) => match of_endpoint(endpoints, host) {
            all if all.is_empty() => Found::Nothing(None),
            all => Found::Addresses(all),
        },
        ([port, protocol], _) if port.starts_with('_') && protocol.starts_with('_') => {
            let (port, protocol) = (&port[1..], &protocol[1..]);
            let named = |p: &&Port| p.protocol == protocol && &*p.name == port;
            match ports.iter().filter(named).collect::<Vec<_>>() {
                none if none.is_empty() => Found::Nothing(None),
                ports => Found::Ports { namespace, service, entry, ports },
            }
        }
        _ => Found::Nothing(None),
    }
}

/// Looks up the name of an address.
fn find_reverse<'a>(records: &'a Records, labels: &[&[u8]]) -> Found<'a> {
    let Some(reverse) = reverse::parse(labels) else { return Found::Elsewhere };
    let net = reverse.net;
    let Some(cidr) = records.reverse_zones.iter().find(|cidr| cidr.contains(&net)) else {
        return Found::Elsewhere;
    };
    let apex = reverse::apex(cidr, &net);
    if reverse.surplus {
        return Found::Nothing(Some(apex));
    }
    if net.prefix_len() == net.max_prefix_len() {
        return match records.pointers.get(&net.addr()) {
            Some(pointers) => Found::Pointers(pointers, apex),
            None => Found::Nothing(Some(apex)),
        };
    }
    if net == apex {
        return Found::ReverseApex(apex);
    }
    match records.pointers.range(net.network()..=net.broadcast()).next() {
        Some(_) => Found::Empty(Some(apex)),
        None => Found::Nothing(Some(apex)),
    }
}

/// The labels left of the cluster domain; None: the name is not in it.
fn below_zone<'l, 'n>(records: &Records, labels: &'l [&'n [u8]]) -> Option<&'l [&'n [u8]]> {
    let mut below = labels;
    for label in records.zone.rsplit('.') {
        let (last, rest) = below.split_last()?;
        if *last != label.as_bytes() {
            return None;
        }
        below = rest;
    }
    Some(below)
}

fn of_endpoint(endpoints: &[Endpoint], name: &str) -> Vec<IpAddr> {
    let first = endpoints.partition_point(|e| &*e.name < name);
    endpoints[first..].iter().take_while(|e| &*e.name == name).map(|e| e.address).collect()
}

fn addresses(owner: &Owner, all: &[IpAddr]) -> Vec<Record> {
    all.iter().map(|a| Record { owner: owner.clone(), data: Data::Address(*a) }).collect()
}

fn pointer_name(records: &Records, pointer: &Pointer) -> Arc<str> {
    let Pointer { namespace, service, endpoint } = pointer;
    match endpoint {
        Some(endpoint) => format!("{endpoint}.{service}.{namespace}.svc.{}", records.zone).into(),
        None => format!("{service}.{namespace}.svc.{}", records.zone).into(),
    }
}

fn kind_of(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::Aaaa }
}

fn name_server(records: &Records) -> Arc<str> {
    format!("ns.dns.{}", records.zone).into()
}

fn soa(records: &Records) -> Data {
    Data::Soa {
        primary: name_server(records),
        mailbox: format!("hostmaster.{}", records.zone).into(),
        serial: records.serial,
    }
}
