//! Statements of a rule as the kernel's expressions.
//!
//! Invariant: a statement loads every register it reads itself, from [`FIRST`] on.

use super::{super::wire::Message, value};
use minisvc_netstate::{
    family::Family,
    nft::{
        Set, Statement,
        rules::{Jump, Source},
        schema::Field,
    },
};

/// Register of the first field, of 32 bits each; the next field follows in as many as the first takes.
const FIRST: u32 = 8;
/// What affinity learns: after the longest key of such a look-up, an IPv6 address and a mark.
const LEARNT: u32 = 16;
/// The verdict register.
const VERDICT: u32 = 0;

pub(super) const GOTO: i32 = -4;
const JUMP: i32 = -3;
const ACCEPT: i32 = 1;
const DROP: i32 = 0;

pub(super) fn verdict(message: &mut Message, code: i32, chain: Option<&str>) {
    message.nested(2, |m| {
        m.number(1, code.cast_unsigned());
        if let Some(chain) = chain {
            m.text(2, chain);
        }
    });
}

fn expression(message: &mut Message, name: &str, inside: impl FnOnce(&mut Message)) {
    message.nested(1, |m| {
        m.text(1, name).nested(2, inside);
    });
}

fn load(message: &mut Message, family: Family, fields: &[Field]) {
    let mut register = FIRST;
    for field in fields {
        load_field(message, family, *field, register);
        register += field.registers(family) as u32;
    }
}

fn load_field(message: &mut Message, family: Family, field: Field, register: u32) {
    // Offsets in the IP header (RFC 791, RFC 8200).
    let (source, destination, original) = match family {
        Family::Ipv4 => (12, 16, CT_DST_IP),
        Family::Ipv6 => (8, 24, CT_DST_IP6),
    };
    let length = family.octets() as u32;
    let payload = |m: &mut Message, base: u32, offset: u32, length: u32| {
        expression(m, "payload", |m| {
            m.number(1, register).number(2, base).number(3, offset).number(4, length);
        });
    };
    let conntrack = |m: &mut Message, key: u32, original: bool| {
        expression(m, "ct", |m| {
            m.number(1, register).number(2, key);
            if original {
                m.attribute(3, &[0]);
            }
        });
    };
    match field {
        Field::SourceAddress => payload(message, 1, source, length),
        Field::DestinationAddress => payload(message, 1, destination, length),
        Field::Protocol => meta(message, META_L4PROTO, register),
        Field::DestinationPort => payload(message, 2, 2, 2),
        Field::Mark => meta(message, META_MARK, register),
        Field::ConntrackMark => conntrack(message, CT_MARK, false),
        Field::Random(modulus) => expression(message, "numgen", |m| {
            m.number(1, register).number(2, u32::from(modulus)).number(3, 1).number(4, 0);
        }),
        Field::OriginalDestination => conntrack(message, original, true),
        Field::OriginalPort => conntrack(message, CT_PROTO_DST, true),
    }
}

const META_MARK: u32 = 3;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
const CT_PROTO_DST: u32 = 12;
const CT_DST_IP: u32 = 20;
const CT_DST_IP6: u32 = 22;
/// `IPS_DST_NAT`
const STATUS_DNAT: u32 = 0x20;
/// `IFNAMSIZ`
const NAME_BYTES: usize = 16;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
/// Number of the loopback link in every network namespace.
const LOOPBACK: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

fn meta(message: &mut Message, key: u32, register: u32) {
    expression(message, "meta", |m| {
        m.number(1, register).number(2, key);
    });
}

fn compare(message: &mut Message, operator: u32, data: &[u8]) {
    expression(message, "cmp", |m| {
        m.number(1, FIRST).number(2, operator);
        value(m, 3, data);
    });
}

fn bitwise(message: &mut Message, mask: u32, xor: u32) {
    expression(message, "bitwise", |m| {
        m.number(1, FIRST).number(2, FIRST).number(3, 4);
        value(m, 4, &mask.to_ne_bytes());
        value(m, 5, &xor.to_ne_bytes());
    });
}

fn lookup(message: &mut Message, set: &str, to: Option<u32>, id: u32, not: bool) {
    expression(message, "lookup", |m| {
        m.text(1, set).number(2, FIRST);
        if let Some(register) = to {
            m.number(3, register);
        }
        if id != 0 {
            m.number(4, id);
        }
        if not {
            m.number(5, 1);
        }
    });
}

/// Leaves a mark in the first register.
fn encode_source(message: &mut Message, family: Family, source: &Source) {
    match source {
        Source::Constant(constant) => expression(message, "immediate", |m| {
            m.number(1, FIRST);
            value(m, 2, &constant.to_ne_bytes());
        }),
        Source::Rewrite { mask, or } => {
            meta(message, META_MARK, FIRST);
            // (mark & mask) | or, as the kernel has it: bits to set are cleared by the mask and flipped after it.
            bitwise(message, mask & !or, *or);
        }
        Source::Map(fields, set) => {
            load(message, family, fields);
            lookup(message, set.name(), Some(FIRST), 0, false);
        }
    }
}

fn dynset(message: &mut Message, family: Family, operation: u32, timeout_s: Option<u32>) {
    load(message, family, Set::Affinity.key());
    load_field(message, family, Field::ConntrackMark, LEARNT);
    expression(message, "dynset", |m| {
        m.text(1, Set::Affinity.name()).number(3, operation).number(4, FIRST).number(5, LEARNT);
        if let Some(seconds) = timeout_s {
            m.attribute(6, &(u64::from(seconds) * 1000).to_be_bytes());
        }
    });
}

fn jump(message: &mut Message, code: i32, chain: Option<&str>) {
    expression(message, "immediate", |m| {
        m.number(1, VERDICT).nested(2, |m| verdict(m, code, chain));
    });
}

pub(super) fn encode_statement(message: &mut Message, family: Family, statement: &Statement, anonymous: u32) {
    match statement {
        Statement::Lookup { fields, set, not } => {
            load(message, family, fields);
            lookup(message, set.name(), None, 0, *not);
        }
        Statement::Transport => {
            meta(message, META_L4PROTO, FIRST);
            lookup(message, "__set%d", None, anonymous, false);
        }
        Statement::Is(protocol) => {
            meta(message, META_L4PROTO, FIRST);
            compare(message, EQUAL, &[protocol.number()]);
        }
        Statement::MarkIs { mask, value } => {
            meta(message, META_MARK, FIRST);
            if *mask != u32::MAX {
                bitwise(message, *mask, 0);
            }
            compare(message, EQUAL, &value.to_ne_bytes());
        }
        Statement::State(state) => encode_conntrack_bits(message, CT_STATE, state.bits()),
        Statement::Translated => encode_conntrack_bits(message, CT_STATUS, STATUS_DNAT),
        Statement::SourceIsLocal => {
            expression(message, "fib", |m| {
                m.number(1, FIRST).number(2, 3).number(3, 1);
            });
            compare(message, EQUAL, &LOCAL.to_ne_bytes());
        }
        Statement::EntersBy(prefix) => {
            meta(message, META_IIFNAME, FIRST);
            compare(message, EQUAL, prefix.as_bytes());
        }
        Statement::EntersNotBy(link) => {
            meta(message, META_IIFNAME, FIRST);
            let mut name = [0; NAME_BYTES];
            name.iter_mut().zip(link.bytes()).for_each(|(to, byte)| *to = byte);
            compare(message, NOT_EQUAL, &name);
        }
        Statement::SourceElsewhere => {
            // Looks the source up, from the link the packet came by, and tells whether there is a way out of that.
            const SADDR_IIF_PRESENT: u32 = 1 | 8 | 0x20;
            expression(message, "fib", |m| {
                m.number(1, FIRST).number(2, 1).number(3, SADDR_IIF_PRESENT);
            });
            compare(message, EQUAL, &0u32.to_ne_bytes());
        }
        Statement::LeavesNode => {
            meta(message, META_OIF, FIRST);
            compare(message, NOT_EQUAL, &LOOPBACK.to_ne_bytes());
        }
        Statement::SetMark(source) => {
            encode_source(message, family, source);
            expression(message, "meta", |m| {
                m.number(2, META_MARK).number(3, FIRST);
            });
        }
        Statement::SetConntrackMark(source) => {
            encode_source(message, family, source);
            expression(message, "ct", |m| {
                m.number(2, CT_MARK).number(4, FIRST);
            });
        }
        Statement::Learn(seconds) => dynset(message, family, 1, Some(*seconds)),
        Statement::Forget => dynset(message, family, 2, None),
        Statement::Dnat(fields, set) => {
            load(message, family, fields);
            lookup(message, set.name(), Some(FIRST), 0, false);
            expression(message, "nat", |m| {
                let port = FIRST + Field::DestinationAddress.registers(family) as u32;
                m.number(1, 1).number(2, u32::from(family.number())).number(3, FIRST).number(5, port);
            });
        }
        Statement::Masquerade => expression(message, "masq", |m| {
            m.number(1, 16);
        }),
        Statement::Reset => reject(message, 1, 0),
        // "Port unreachable" of ICMP (RFC 792) and of ICMPv6 (RFC 4443).
        Statement::Unreachable => reject(message, 0, if family == Family::Ipv4 { 3 } else { 4 }),
        Statement::ToClass => {
            meta(message, META_MARK, FIRST);
            bitwise(message, minisvc_netstate::nft::element::CLASS_MASK, 0);
            lookup(message, Set::Classes.name(), Some(VERDICT), 0, false);
        }
        Statement::To(Jump::Goto(chain)) => jump(message, GOTO, Some(chain)),
        Statement::To(Jump::Jump(chain)) => jump(message, JUMP, Some(chain)),
        Statement::To(Jump::Accept) => jump(message, ACCEPT, None),
        Statement::To(Jump::Drop) => jump(message, DROP, None),
    }
}

fn encode_conntrack_bits(message: &mut Message, key: u32, bits: u32) {
    expression(message, "ct", |m| {
        m.number(1, FIRST).number(2, key);
    });
    bitwise(message, bits, 0);
    compare(message, NOT_EQUAL, &0u32.to_ne_bytes());
}

fn reject(message: &mut Message, kind: u32, code: u8) {
    expression(message, "reject", |m| {
        m.number(1, kind).attribute(2, &[code]);
    });
}
