//! The typed table as messages.

mod expression;

use super::{
    userdata,
    wire::{APPEND, CREATE, LIST_MAX, Message, msg},
};
use expression::{GOTO, encode_statement, verdict};
use ipnet::Ipv4Net;
use minisvc_netstate::nft::{
    Chain, Class, Frontend, Key, Protocol, Set, Statement, Value,
    element::{CLASS_SHIFT, OURS, OURS_STICKY},
    rules::{HookPoint, Rule, class_chain, constant_chains},
    schema::{AFFINITY_SIZE, Data, Field},
    text::{TABLE, rule_text},
};
use std::net::Ipv4Addr;

/// A message with what it does, for errors.
pub struct Request {
    /// The message.
    pub message: Message,
    /// What it does.
    pub what: What,
}

/// What a message does.
#[derive(Clone, Debug)]
pub enum What {
    /// `add table`, `delete chain` and the like.
    Object(&'static str, String),
    /// Elements of a set.
    Elements(&'static str, Set),
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(verb, name) => write!(f, "{verb} {name}"),
            Self::Elements(verb, set) => write!(f, "{verb} elements of {}", set.name()),
        }
    }
}

/// Type numbers of nft's datatypes; a concatenation is these, 6 bits each.
fn datatype(field: Field) -> u32 {
    match field {
        Field::SourceAddress | Field::DestinationAddress | Field::OriginalDestination => 7,
        Field::Protocol => 12,
        Field::DestinationPort | Field::OriginalPort => 13,
        Field::Mark | Field::ConntrackMark => 19,
        Field::Random(_) => 4,
    }
}

fn datatypes(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | datatype(*field))
}

/// What a set looks like in the kernel: flags, key type and length, data type and length.
pub fn shape(set: Set) -> [u32; 5] {
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const CONCAT: u32 = 0x80;
    let fields = set.key();
    let mut flags = 0;
    if set.data().is_some() {
        flags |= MAP;
    }
    if set.interval() {
        flags |= if fields.len() > 1 { INTERVAL | CONCAT } else { INTERVAL };
    }
    if set.dynamic() {
        flags |= TIMEOUT | EVAL;
    }
    let (data, data_length) = match set.data() {
        None => (0, 0),
        Some(Data::Field(field)) => (datatype(field), 4),
        Some(Data::Endpoint) => (datatypes(&[Field::DestinationAddress, Field::DestinationPort]), 8),
        Some(Data::Verdict) => (0xffff_ff00, 16),
    };
    [flags, datatypes(fields), 4 * fields.len() as u32, data, data_length]
}

/// The requests of a transaction being written.
#[derive(Default)]
pub struct Requests {
    /// In order.
    pub list: Vec<Request>,
    sets: u32,
}

impl Requests {
    fn push(&mut self, verb: &'static str, name: &str, message: Message) {
        self.list.push(Request { message, what: What::Object(verb, name.to_owned()) });
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self) {
        let mut message = Message::new(msg::DELTABLE, 0);
        message.text(1, TABLE);
        self.push("delete table", TABLE, message);
    }

    /// The table, its sets and the constant chains.
    pub fn structure(&mut self) {
        let mut message = Message::new(msg::NEWTABLE, CREATE);
        message.text(1, TABLE).attribute(6, &userdata::comment("owned by minisvc"));
        self.push("add table", TABLE, message);
        for set in Set::ALL {
            self.set(set);
        }
        let chains = constant_chains();
        for chain in &chains {
            self.chain(chain);
        }
        for chain in &chains {
            self.rules(chain);
        }
    }

    fn set(&mut self, set: Set) {
        self.sets += 1;
        let [flags, key_type, key_length, data_type, data_length] = shape(set);
        let mut message = Message::new(msg::NEWSET, CREATE);
        message.text(1, TABLE).text(2, set.name()).number(3, flags);
        message.number(4, key_type).number(5, key_length);
        if set.data().is_some() {
            message.number(6, data_type).number(7, data_length);
        }
        message.number(10, self.sets).attribute(13, &userdata::of_set(set));
        if set.dynamic() {
            message.nested(9, |m| {
                m.number(1, AFFINITY_SIZE);
            });
        } else if set.interval() && set.key().len() > 1 {
            message.nested(9, |m| {
                m.nested(2, |m| {
                    for field in set.key() {
                        m.nested(1, |m| {
                            m.number(1, field_length(*field));
                        });
                    }
                });
            });
        }
        self.push("add set", set.name(), message);
    }

    fn chain(&mut self, chain: &Chain) {
        let mut message = Message::new(msg::NEWCHAIN, CREATE);
        message.text(1, TABLE).text(3, &chain.name);
        if let Some(hook) = chain.hook {
            message.nested(4, |m| {
                m.number(1, hook.point.number()).number(2, hook.priority.cast_unsigned());
            });
            message.number(5, 1).text(7, hook.kind.name());
        }
        self.push("add chain", &chain.name, message);
    }

    fn rules(&mut self, chain: &Chain) {
        for rule in &chain.rules {
            self.rule(&chain.name, rule);
        }
    }

    /// A class's chain, with rules.
    pub fn class_chain(&mut self, class: &Class) {
        let chain = class_chain(class);
        self.chain(&chain);
        self.rules(&chain);
    }

    /// Takes the rules out of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        let mut message = Message::new(msg::DELRULE, 0);
        message.text(1, TABLE).text(2, name);
        self.push("flush chain", name, message);
    }

    /// Removes an empty chain.
    pub fn delete_chain(&mut self, name: &str) {
        let mut message = Message::new(msg::DELCHAIN, 0);
        message.text(1, TABLE).text(3, name);
        self.push("delete chain", name, message);
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        // A rule has at most one anonymous set; its number joins set, elements and look-up within the transaction.
        let anonymous = rule.contains(&Statement::Transport).then(|| self.transports());
        let mut message = Message::new(msg::NEWRULE, CREATE | APPEND);
        message.text(1, TABLE).text(2, chain);
        message.nested(4, |m| {
            for statement in rule {
                encode_statement(m, statement, anonymous.unwrap_or_default());
            }
        });
        let text = rule_text(rule);
        message.attribute(7, &userdata::fingerprint(&text));
        self.push("add rule", &format!("{chain} {text}"), message);
    }

    /// The anonymous set `{ tcp, udp, sctp }`.
    fn transports(&mut self) -> u32 {
        const ANONYMOUS_CONSTANT: u32 = 3;
        self.sets += 1;
        let mut set = Message::new(msg::NEWSET, CREATE);
        set.text(1, TABLE).text(2, "__set%d").number(3, ANONYMOUS_CONSTANT);
        set.number(4, datatype(Field::Protocol)).number(5, 1).number(10, self.sets);
        set.nested(9, |m| {
            m.number(1, Protocol::ALL.len() as u32);
        });
        self.push("add set", "of protocols", set);
        let mut elements = Message::new(msg::NEWSETELEM, CREATE);
        elements.text(1, TABLE).text(2, "__set%d").number(4, self.sets);
        elements.nested(3, |m| {
            for protocol in Protocol::ALL {
                m.nested(1, |m| value(m, 1, &[protocol.number()]));
            }
        });
        self.push("add elements", "of protocols", elements);
        self.sets
    }

    /// Adds elements of a set.
    pub fn add_elements<'a>(&mut self, set: Set, elements: impl IntoIterator<Item = (&'a Key, &'a Value)>) {
        self.elements("add", msg::NEWSETELEM, CREATE, set, elements.into_iter().map(|(k, v)| (k, Some(v))));
    }

    /// Deletes elements of a set.
    pub fn delete_elements<'a>(&mut self, set: Set, keys: impl IntoIterator<Item = &'a Key>) {
        self.elements("delete", msg::DELSETELEM, 0, set, keys.into_iter().map(|key| (key, None)));
    }

    fn elements<'a>(
        &mut self,
        verb: &'static str,
        kind: u16,
        flags: u16,
        set: Set,
        elements: impl Iterator<Item = (&'a Key, Option<&'a Value>)>,
    ) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let mut message = Message::new(kind, flags);
            message.text(1, TABLE).text(2, set.name());
            let list = message.begin(3);
            while message.len() < LIST_MAX
                && let Some((key, value)) = elements.next()
            {
                element(&mut message, key, value);
            }
            message.end(list);
            self.list.push(Request { message, what: What::Elements(verb, set) });
        }
    }
}

fn field_length(field: Field) -> u32 {
    match field {
        Field::Protocol => 1,
        Field::DestinationPort | Field::OriginalPort => 2,
        _ => 4,
    }
}

/// A value within its two nests.
fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nested(kind, |m| {
        m.attribute(1, bytes);
    });
}

/// Up to four fields of 32 bits.
#[derive(Clone, Copy, Default)]
struct Bytes {
    bytes: [u8; 16],
    length: usize,
}

impl Bytes {
    fn of(parts: &[[u8; 4]]) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.bytes[all.length..all.length + 4].copy_from_slice(part);
            all.length += 4;
        }
        all
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn frontend_parts(frontend: &Frontend) -> [[u8; 4]; 3] {
    [frontend.address.octets(), protocol_part(frontend.protocol), port_part(frontend.port)]
}

fn protocol_part(protocol: Protocol) -> [u8; 4] {
    [protocol.number(), 0, 0, 0]
}

fn port_part(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The key of an element, and the end of its range if it is one.
fn key_bytes(key: &Key) -> (Bytes, Option<Bytes>) {
    let marked =
        |tag: u32, set: u32, other: u32| Bytes::of(&[(tag | set).to_ne_bytes(), other.to_ne_bytes()]);
    let bytes = match key {
        Key::ClusterNetwork(net) | Key::ServiceNetwork(net) => Bytes::of(&[net.network().octets()]),
        Key::LocalService(address) | Key::NodeAddress(address) | Key::LoadBalancerAddress(address) => {
            Bytes::of(&[address.octets()])
        }
        Key::Hairpin(address) => Bytes::of(&[address.octets(), address.octets()]),
        Key::Class(number) => Bytes::of(&[(u32::from(*number) << CLASS_SHIFT).to_ne_bytes()]),
        Key::Endpoint(set, slot) => marked(OURS, *set, *slot),
        Key::AffinitySlot(set, index) => marked(OURS_STICKY, *set, *index),
        Key::AffinityEndpoint(set, slot) => marked(OURS_STICKY, *set, *slot),
        Key::Masqueraded(frontend)
        | Key::InternalFrontend(frontend)
        | Key::ExternalFrontend(frontend)
        | Key::RangedFrontend(frontend)
        | Key::Frontend(frontend) => Bytes::of(&frontend_parts(frontend)),
        Key::NodePort(protocol, port) => Bytes::of(&[protocol_part(*protocol), port_part(*port)]),
        Key::SourceRange(frontend, net) => {
            let [address, protocol, port] = frontend_parts(frontend);
            let with = |source: Ipv4Addr| Bytes::of(&[source.octets(), address, protocol, port]);
            return (with(net.network()), Some(with(net.broadcast())));
        }
    };
    (bytes, None)
}

fn element(message: &mut Message, key: &Key, data: Option<&Value>) {
    const INTERVAL_END: u32 = 1;
    let (start, end) = key_bytes(key);
    message.nested(1, |m| {
        value(m, 1, start.get());
        if let Some(data) = data {
            element_data(m, data);
        }
        if let Some(end) = end {
            value(m, 10, end.get());
        }
    });
    // In sets of one field a range is two elements: its start, and what follows its end.
    if let Key::ClusterNetwork(net) | Key::ServiceNetwork(net) = key
        && let Some(next) = after(net)
    {
        message.nested(1, |m| {
            m.number(3, INTERVAL_END);
            value(m, 1, &next.octets());
        });
    }
}

/// The address that follows a network; None after the last.
fn after(net: &Ipv4Net) -> Option<Ipv4Addr> {
    u32::from(net.broadcast()).checked_add(1).map(Ipv4Addr::from)
}

fn element_data(message: &mut Message, data: &Value) {
    match data {
        Value::Present => {}
        Value::Mark(mark) | Value::Slot(mark) => value(message, 2, &mark.to_ne_bytes()),
        Value::Endpoint(endpoint) => {
            let bytes = Bytes::of(&[endpoint.ip().octets(), port_part(endpoint.port())]);
            value(message, 2, bytes.get());
        }
        Value::Class(class) => {
            message.nested(2, |m| verdict(m, GOTO, Some(&class.chain())));
        }
    }
}

/// The kernel's number of a hook, type and priority: what a dump tells of a base chain.
pub fn hook_shape(chain: &Chain) -> Option<(u32, i32, &'static str)> {
    chain.hook.map(|hook| (HookPoint::number(hook.point), hook.priority, hook.kind.name()))
}
