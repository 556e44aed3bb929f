//! What only nft reads: how to print a set's fields, and our own fingerprint of a rule.
//!
//! The numbers are those of libnftnl and nft 1.0: type-length-value with one byte each, values of the host's order.

use minisvc_netstate::{
    family::Family,
    nft::schema::{Data, Field, Set},
};

/// Our own kind of rule userdata; nft skips kinds it does not know.
const FINGERPRINT: u8 = 0x6d;
/// Changes when the same rule text is encoded otherwise.
const ENCODING_VERSION: u64 = 2;

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const HOST_ENDIAN: u32 = 1;
const BIG_ENDIAN: u32 = 2;

fn put(kind: u8, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind, u8::try_from(data.len()).unwrap_or(u8::MAX)]);
    out.extend_from_slice(data);
}

fn number(kind: u8, value: u32, out: &mut Vec<u8>) {
    put(kind, &value.to_ne_bytes(), out);
}

/// An expression: its kind, and what describes it.
fn expression(kind: u32, inside: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    number(0, kind, &mut out);
    put(1, inside, &mut out);
    out
}

fn numbers(values: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in (0..).zip(values) {
        number(kind, *value, &mut out);
    }
    out
}

fn field(family: Family, field: Field) -> Vec<u8> {
    const PAYLOAD: u32 = 7;
    const META: u32 = 9;
    const CT: u32 = 12;
    const NUMGEN: u32 = 23;
    const TH: u32 = 11;
    const L4PROTO: u32 = 16;
    // Header, and its fields of source and destination.
    let (ip, source, destination) = match family {
        Family::Ipv4 => (12, 11, 12),
        Family::Ipv6 => (13, 8, 9),
    };
    match field {
        Field::SourceAddress => expression(PAYLOAD, &numbers(&[ip, source])),
        Field::DestinationAddress | Field::OriginalDestination => {
            expression(PAYLOAD, &numbers(&[ip, destination]))
        }
        Field::Protocol => expression(META, &numbers(&[L4PROTO])),
        Field::DestinationPort | Field::OriginalPort => expression(PAYLOAD, &numbers(&[TH, 2])),
        Field::Mark => expression(META, &numbers(&[3])),
        Field::ConntrackMark => expression(CT, &numbers(&[3, u32::MAX])),
        Field::Random(modulus) => expression(NUMGEN, &numbers(&[0, u32::from(modulus), 0])),
    }
}

fn concatenation(family: Family, fields: &[Field]) -> Vec<u8> {
    const CONCAT: u32 = 13;
    if let [single] = fields {
        return field(family, *single);
    }
    let mut parts = Vec::new();
    for (kind, part) in (0..).zip(fields) {
        put(kind, &field(family, *part), &mut parts);
    }
    expression(CONCAT, &parts)
}

fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [Field::Mark | Field::ConntrackMark | Field::Random(_)] => HOST_ENDIAN,
        [_] => BIG_ENDIAN,
        _ => 0,
    }
}

/// How nft is to print a set or map.
pub fn of_set(family: Family, set: Set) -> Vec<u8> {
    const VERDICT: u32 = 1;
    let mut out = Vec::new();
    number(KEY_BYTE_ORDER, byte_order(set.key()), &mut out);
    if let Some(data) = set.data() {
        let order = match data {
            Data::Field(field) => byte_order(&[field]),
            Data::Endpoint | Data::Verdict => 0,
        };
        number(DATA_BYTE_ORDER, order, &mut out);
    }
    put(KEY_TYPEOF, &concatenation(family, set.key()), &mut out);
    match set.data() {
        None => {}
        Some(Data::Field(data)) => put(DATA_TYPEOF, &field(family, data), &mut out),
        Some(Data::Endpoint) => {
            let endpoint = [Field::DestinationAddress, Field::DestinationPort];
            put(DATA_TYPEOF, &concatenation(family, &endpoint), &mut out);
        }
        Some(Data::Verdict) => put(DATA_TYPEOF, &expression(VERDICT, &[]), &mut out),
    }
    out
}

/// A comment, as tables have it.
pub fn comment(text: &str) -> Vec<u8> {
    let mut data = text.as_bytes().to_vec();
    data.push(0);
    let mut out = Vec::new();
    put(0, &data, &mut out);
    out
}

/// What tells our rules from others': FNV-1a of the rule's text.
pub fn fingerprint(rule: &str) -> Vec<u8> {
    let hash = rule.bytes().fold(0xcbf2_9ce4_8422_2325 ^ ENCODING_VERSION, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut out = Vec::new();
    put(FINGERPRINT, &hash.to_be_bytes(), &mut out);
    out
}
