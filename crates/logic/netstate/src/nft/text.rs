//! The table in nft's language: what people read, what goldens hold, what `nft -f` loads.

use super::{
    element::{CLASS_SHIFT, Class, Key, OURS, OURS_STICKY, ServiceTable, Value},
    rules::{Chain, ConnectionState, Jump, Source, Statement, class_chain, constant_chains},
    schema::{AFFINITY_SIZE, Data, Field, Set},
};
use crate::family::{Address, Family};
use std::fmt::Write;

/// Name of our table.
pub const TABLE: &str = "minisvc";

/// The whole table as a file for `nft -f`.
pub fn table_text<A: Address>(table: &ServiceTable<A>) -> String {
    let family = A::FAMILY;
    let mut out = format!("table {} {TABLE} {{\n\tcomment \"owned by minisvc\"\n", word(family));
    for set in Set::ALL {
        let _ = write!(out, "\n{}", set_text(set, table));
    }
    let classes = table.values().filter_map(|value| match value {
        Value::Class(class) => Some(class_chain(class)),
        _ => None,
    });
    for chain in classes.chain(constant_chains()) {
        let _ = write!(out, "\n{}", chain_text(family, &chain));
    }
    out.push_str("}\n");
    out
}

/// One element a line, by map, without the constant parts: what a scenario's golden shows.
pub fn elements_text<A: Address>(table: &ServiceTable<A>) -> String {
    let mut out = String::new();
    for set in Set::ALL {
        let mut elements = elements_of(set, table).peekable();
        if elements.peek().is_some() {
            let _ = writeln!(out, "{}", set.name());
        }
        for element in elements {
            let _ = writeln!(out, "  {element}");
        }
    }
    out
}

fn elements_of<A: Address>(set: Set, table: &ServiceTable<A>) -> impl Iterator<Item = String> {
    table.iter().filter(move |(key, _)| Set::of(key) == set).map(|(key, value)| element_text(key, value))
}

/// An element as nft writes it.
pub fn element_text<A: Address>(key: &Key<A>, value: &Value<A>) -> String {
    let key = match key {
        Key::ClusterNetwork(net) | Key::ServiceNetwork(net) => net.to_string(),
        Key::LocalService(address) | Key::NodeAddress(address) | Key::LoadBalancerAddress(address) => {
            address.to_string()
        }
        Key::Hairpin(address) => format!("{address} . {address}"),
        Key::Class(number) => format!("0x{:08x}", u32::from(*number) << CLASS_SHIFT),
        Key::Endpoint(set, slot) => format!("0x{:08x} . {slot}", OURS | set),
        Key::AffinitySlot(set, index) => format!("0x{:08x} . {index}", OURS_STICKY | set),
        Key::AffinityEndpoint(set, slot) => format!("0x{:08x} . 0x{slot:08x}", OURS_STICKY | set),
        Key::Masqueraded(frontend)
        | Key::InternalFrontend(frontend)
        | Key::ExternalFrontend(frontend)
        | Key::RangedFrontend(frontend)
        | Key::Frontend(frontend) => frontend.to_string(),
        Key::SourceRange(frontend, net) => format!("{net} . {frontend}"),
        Key::NodePort(protocol, port) => format!("{protocol} . {port}"),
    };
    match value {
        Value::Present => key,
        Value::Mark(mark) | Value::Slot(mark) => format!("{key} : 0x{mark:08x}"),
        Value::Endpoint(endpoint) => format!("{key} : {} . {}", endpoint.address, endpoint.port),
        Value::Class(class) => format!("{key} : goto {}", class.chain()),
    }
}

/// The definition of a set or map with its elements.
fn set_text<A: Address>(set: Set, table: &ServiceTable<A>) -> String {
    let family = A::FAMILY;
    let kind = if set.data().is_some() { "map" } else { "set" };
    let data = match set.data() {
        None => String::new(),
        Some(Data::Field(field)) => format!(" : {}", field_text(family, field)),
        Some(Data::Endpoint) => {
            format!(" : {}", fields_text(family, &[Field::DestinationAddress, Field::DestinationPort]))
        }
        Some(Data::Verdict) => " : verdict".to_owned(),
    };
    let key: Vec<_> = set
        .key()
        .iter()
        .map(|field| match field {
            Field::Random(modulus) => format!("numgen inc mod {modulus}"),
            other => field_text(family, *other),
        })
        .collect();
    let mut out = format!("\t{kind} {} {{\n\t\ttypeof {}{data}\n", set.name(), key.join(" . "));
    if set.dynamic() {
        let _ = writeln!(out, "\t\tsize {AFFINITY_SIZE}\n\t\tflags dynamic,timeout");
    }
    if set.interval() {
        out.push_str("\t\tflags interval\n");
    }
    let elements: Vec<_> = elements_of(set, table).collect();
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
    }
    out.push_str("\t}\n");
    out
}

/// A chain with its rules.
pub fn chain_text(family: Family, chain: &Chain) -> String {
    let mut out = format!("\tchain {} {{\n", chain.name);
    if let Some(hook) = chain.hook {
        let (kind, point) = (hook.kind.name(), hook.point.name());
        let _ = writeln!(out, "\t\ttype {kind} hook {point} priority {}; policy accept;", hook.priority);
    }
    for rule in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule_text(family, rule));
    }
    out.push_str("\t}\n");
    out
}

/// A rule on one line.
pub fn rule_text(family: Family, rule: &[Statement]) -> String {
    rule.iter().map(|statement| statement_text(family, statement)).collect::<Vec<_>>().join(" ")
}

/// nft's word for a family.
fn word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

fn field_text(family: Family, field: Field) -> String {
    let ip = word(family);
    match field {
        Field::SourceAddress => format!("{ip} saddr"),
        Field::DestinationAddress => format!("{ip} daddr"),
        Field::Protocol => "meta l4proto".to_owned(),
        Field::DestinationPort => "th dport".to_owned(),
        Field::Mark => "meta mark".to_owned(),
        Field::ConntrackMark => "ct mark".to_owned(),
        Field::Random(modulus) => format!("numgen random mod {modulus}"),
        Field::OriginalDestination => format!("ct original {ip} daddr"),
        Field::OriginalPort => "ct original proto-dst".to_owned(),
    }
}

fn fields_text(family: Family, fields: &[Field]) -> String {
    fields.iter().map(|field| field_text(family, *field)).collect::<Vec<_>>().join(" . ")
}

fn source_text(family: Family, source: &Source) -> String {
    match source {
        Source::Constant(value) => format!("0x{value:08x}"),
        Source::Rewrite { mask, or } => format!("meta mark & 0x{mask:08x} | 0x{or:08x}"),
        Source::Map(fields, set) => format!("{} map @{}", fields_text(family, fields), set.name()),
    }
}

fn statement_text(family: Family, statement: &Statement) -> String {
    let ip = word(family);
    match statement {
        Statement::Lookup { fields, set, not } => {
            format!("{} {}@{}", fields_text(family, fields), if *not { "!= " } else { "" }, set.name())
        }
        Statement::Transport => "meta l4proto { tcp, udp, sctp }".to_owned(),
        Statement::Is(protocol) => format!("meta l4proto {protocol}"),
        Statement::MarkIs { mask: u32::MAX, value } => format!("meta mark 0x{value:08x}"),
        Statement::MarkIs { mask, value } => format!("meta mark & 0x{mask:08x} == 0x{value:08x}"),
        Statement::State(ConnectionState::Known) => "ct state established,related".to_owned(),
        Statement::State(ConnectionState::New) => "ct state new".to_owned(),
        Statement::State(ConnectionState::Invalid) => "ct state invalid".to_owned(),
        Statement::Translated => "ct status dnat".to_owned(),
        Statement::SourceIsLocal => "fib saddr type local".to_owned(),
        Statement::EntersBy(prefix) => format!("iifname \"{prefix}*\""),
        Statement::EntersNotBy(link) => format!("iifname != \"{link}\""),
        Statement::SourceElsewhere => "fib saddr . iif oif missing".to_owned(),
        Statement::LeavesNode => "oif != \"lo\"".to_owned(),
        Statement::SetMark(source) => format!("meta mark set {}", source_text(family, source)),
        Statement::SetConntrackMark(source) => format!("ct mark set {}", source_text(family, source)),
        Statement::Learn(seconds) => {
            format!("update @affinity {{ {ip} saddr . meta mark timeout {seconds}s : ct mark }}")
        }
        Statement::Forget => format!("delete @affinity {{ {ip} saddr . meta mark : ct mark }}"),
        Statement::Dnat(fields, set) => {
            format!("dnat {ip} addr . port to {} map @{}", fields_text(family, fields), set.name())
        }
        Statement::Masquerade => "masquerade fully-random".to_owned(),
        Statement::Reset => "reject with tcp reset".to_owned(),
        Statement::Unreachable => match family {
            Family::Ipv4 => "reject with icmp type port-unreachable".to_owned(),
            Family::Ipv6 => "reject with icmpv6 type port-unreachable".to_owned(),
        },
        Statement::ToClass => "meta mark & 0xfff00000 vmap @classes".to_owned(),
        Statement::To(Jump::Goto(chain)) => format!("goto {chain}"),
        Statement::To(Jump::Jump(chain)) => format!("jump {chain}"),
        Statement::To(Jump::Accept) => "accept".to_owned(),
        Statement::To(Jump::Drop) => "drop".to_owned(),
    }
}

/// The class chains of a table, in order of their numbers.
pub fn classes<A: Address>(table: &ServiceTable<A>) -> impl Iterator<Item = (u16, Class)> + '_ {
    table.iter().filter_map(|(key, value)| match (key, value) {
        (Key::Class(number), Value::Class(class)) => Some((*number, *class)),
        _ => None,
    })
}
