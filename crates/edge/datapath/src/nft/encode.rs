//! The typed table as messages.

mod expression;

use super::{
    userdata,
    wire::{APPEND, CREATE, LIST_MAX, Message, msg},
};
use expression::{GOTO, encode_statement, verdict};
use minisvc_netstate::{
    family::{Address, Endpoint, Family, Network},
    nft::{
        Chain, Class, Frontend, Key, Protocol, Set, Statement, Value,
        element::{CLASS_SHIFT, OURS, OURS_STICKY},
        hook::HookPoint,
        rules::{Rule, class_chain, constant_chains},
        schema::{AFFINITY_SIZE, Data, Field},
        text::{TABLE, rule_text},
    },
};

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
fn datatype(family: Family, field: Field) -> u32 {
    match field {
        Field::SourceAddress | Field::DestinationAddress | Field::OriginalDestination => match family {
            Family::Ipv4 => 7,
            Family::Ipv6 => 8,
        },
        Field::Protocol => 12,
        Field::DestinationPort | Field::OriginalPort => 13,
        Field::Mark | Field::ConntrackMark => 19,
        Field::Random(_) => 4,
    }
}

fn datatypes(family: Family, fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | datatype(family, *field))
}

/// Length of fields one after the other, each padded to whole registers, in bytes.
fn padded(family: Family, fields: &[Field]) -> u32 {
    fields.iter().map(|field| 4 * field.registers(family) as u32).sum()
}

/// What a set looks like in the kernel: flags, key type and length, data type and length.
pub fn shape(family: Family, set: Set) -> [u32; 5] {
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
        Some(Data::Field(field)) => (datatype(family, field), padded(family, &[field])),
        Some(Data::Endpoint) => (datatypes(family, &ENDPOINT), padded(family, &ENDPOINT)),
        Some(Data::Verdict) => (0xffff_ff00, 16),
    };
    [flags, datatypes(family, fields), padded(family, fields), data, data_length]
}

/// What a map of endpoints gives.
const ENDPOINT: [Field; 2] = [Field::DestinationAddress, Field::DestinationPort];

/// The requests of a transaction being written, all about one family's table.
pub struct Requests {
    /// In order.
    pub list: Vec<Request>,
    family: Family,
    sets: u32,
}

impl Requests {
    /// None yet.
    pub fn new(family: Family) -> Self {
        Self { list: Vec::new(), family, sets: 0 }
    }

    fn push(&mut self, verb: &'static str, name: &str, message: Message) {
        self.list.push(Request { message, what: What::Object(verb, name.to_owned()) });
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self) {
        let mut message = Message::new(self.family, msg::DELTABLE, 0);
        message.text(1, TABLE);
        self.push("delete table", TABLE, message);
    }

    /// The table, its sets and the constant chains.
    pub fn structure(&mut self) {
        let mut message = Message::new(self.family, msg::NEWTABLE, CREATE);
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
        let family = self.family;
        let [flags, key_type, key_length, data_type, data_length] = shape(self.family, set);
        let mut message = Message::new(self.family, msg::NEWSET, CREATE);
        message.text(1, TABLE).text(2, set.name()).number(3, flags);
        message.number(4, key_type).number(5, key_length);
        if set.data().is_some() {
            message.number(6, data_type).number(7, data_length);
        }
        message.number(10, self.sets).attribute(13, &userdata::of_set(self.family, set));
        if set.dynamic() {
            message.nested(9, |m| {
                m.number(1, AFFINITY_SIZE);
            });
        } else if set.interval() && set.key().len() > 1 {
            message.nested(9, |m| {
                m.nested(2, |m| {
                    for field in set.key() {
                        m.nested(1, |m| {
                            m.number(1, field.octets(family) as u32);
                        });
                    }
                });
            });
        }
        self.push("add set", set.name(), message);
    }

    fn chain(&mut self, chain: &Chain) {
        let mut message = Message::new(self.family, msg::NEWCHAIN, CREATE);
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
        let mut message = Message::new(self.family, msg::DELRULE, 0);
        message.text(1, TABLE).text(2, name);
        self.push("flush chain", name, message);
    }

    /// Removes an empty chain.
    pub fn delete_chain(&mut self, name: &str) {
        let mut message = Message::new(self.family, msg::DELCHAIN, 0);
        message.text(1, TABLE).text(3, name);
        self.push("delete chain", name, message);
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        // A rule has at most one anonymous set; its number joins set, elements and look-up within the transaction.
        let family = self.family;
        let anonymous = rule.contains(&Statement::Transport).then(|| self.transports());
        let mut message = Message::new(self.family, msg::NEWRULE, CREATE | APPEND);
        message.text(1, TABLE).text(2, chain);
        message.nested(4, |m| {
            for statement in rule {
                encode_statement(m, family, statement, anonymous.unwrap_or_default());
            }
        });
        let text = rule_text(family, rule);
        message.attribute(7, &userdata::fingerprint(&text));
        self.push("add rule", &format!("{chain} {text}"), message);
    }

    /// The anonymous set `{ tcp, udp, sctp }`.
    fn transports(&mut self) -> u32 {
        const ANONYMOUS_CONSTANT: u32 = 3;
        self.sets += 1;
        let mut set = Message::new(self.family, msg::NEWSET, CREATE);
        set.text(1, TABLE).text(2, "__set%d").number(3, ANONYMOUS_CONSTANT);
        set.number(4, datatype(self.family, Field::Protocol)).number(5, 1).number(10, self.sets);
        set.nested(9, |m| {
            m.number(1, Protocol::ALL.len() as u32);
        });
        self.push("add set", "of protocols", set);
        let mut elements = Message::new(self.family, msg::NEWSETELEM, CREATE);
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
    pub fn add_elements<'a, A: Address>(
        &mut self,
        set: Set,
        elements: impl IntoIterator<Item = (&'a Key<A>, &'a Value<A>)>,
    ) {
        self.elements("add", msg::NEWSETELEM, CREATE, set, elements.into_iter().map(|(k, v)| (k, Some(v))));
    }

    /// Deletes elements of a set.
    pub fn delete_elements<'a, A: Address>(&mut self, set: Set, keys: impl IntoIterator<Item = &'a Key<A>>) {
        self.elements("delete", msg::DELSETELEM, 0, set, keys.into_iter().map(|key| (key, None)));
    }

    fn elements<'a, A: Address>(
        &mut self,
        verb: &'static str,
        kind: u16,
        flags: u16,
        set: Set,
        elements: impl Iterator<Item = (&'a Key<A>, Option<&'a Value<A>>)>,
    ) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let mut message = Message::new(self.family, kind, flags);
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

/// A value within its two nests.
fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nested(kind, |m| {
        m.attribute(1, bytes);
    });
}

/// Longest key in bytes: two addresses, protocol and port.
const KEY_MAX: usize = 16 + 16 + 4 + 4;

/// The bytes of a key or of data, each field padded to whole registers.
#[derive(Clone, Copy)]
struct Bytes {
    bytes: [u8; KEY_MAX],
    length: usize,
}

impl Bytes {
    const NONE: Self = Self { bytes: [0; KEY_MAX], length: 0 };

    fn and(mut self, field: &[u8]) -> Self {
        self.bytes[self.length..self.length + field.len()].copy_from_slice(field);
        self.length += field.len().next_multiple_of(4);
        self
    }

    fn address<A: Address>(self, address: A) -> Self {
        let octets = address.octets();
        self.and(octets.as_ref())
    }

    /// A number of the host.
    fn number(self, number: u32) -> Self {
        self.and(&number.to_ne_bytes())
    }

    fn place(self, protocol: Protocol, port: u16) -> Self {
        self.and(&[protocol.number()]).and(&port.to_be_bytes())
    }

    fn frontend<A: Address>(self, frontend: &Frontend<A>) -> Self {
        self.address(frontend.address).place(frontend.protocol, frontend.port)
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The key of an element, and the end of its range if it is one.
fn key_bytes<A: Address>(key: &Key<A>) -> (Bytes, Option<Bytes>) {
    let none = Bytes::NONE;
    let bytes = match key {
        Key::ClusterNetwork(net) | Key::ServiceNetwork(net) => none.address(net.first()),
        Key::LocalService(address) | Key::NodeAddress(address) | Key::LoadBalancerAddress(address) => {
            none.address(*address)
        }
        Key::Hairpin(address) => none.address(*address).address(*address),
        Key::Class(number) => none.number(u32::from(*number) << CLASS_SHIFT),
        Key::Endpoint(set, slot) => none.number(OURS | set).number(*slot),
        Key::AffinitySlot(set, other) | Key::AffinityEndpoint(set, other) => {
            none.number(OURS_STICKY | set).number(*other)
        }
        Key::Masqueraded(frontend)
        | Key::InternalFrontend(frontend)
        | Key::ExternalFrontend(frontend)
        | Key::RangedFrontend(frontend)
        | Key::Frontend(frontend) => none.frontend(frontend),
        Key::NodePort(protocol, port) => none.place(*protocol, *port),
        Key::SourceRange(frontend, net) => {
            let with = |source: A| none.address(source).frontend(frontend);
            return (with(net.first()), Some(with(net.last())));
        }
    };
    (bytes, None)
}

fn element<A: Address>(message: &mut Message, key: &Key<A>, data: Option<&Value<A>>) {
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
        && let Some(next) = net.last().number().checked_add(1).and_then(A::from_number)
    {
        message.nested(1, |m| {
            m.number(3, INTERVAL_END);
            value(m, 1, Bytes::NONE.address(next).get());
        });
    }
}

fn element_data<A: Address>(message: &mut Message, data: &Value<A>) {
    match data {
        Value::Present => {}
        Value::Mark(mark) | Value::Slot(mark) => value(message, 2, &mark.to_ne_bytes()),
        Value::Endpoint(Endpoint { address, port }) => {
            value(message, 2, Bytes::NONE.address(*address).and(&port.to_be_bytes()).get());
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
