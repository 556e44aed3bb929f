//! Kubernetes' binary form of an object to JSON: what `kubectl create namespace` and its like send.
//!
//! In: `k8s\0` and a `runtime.Unknown` in protocol buffers. Out: the JSON that the same Go client would have sent.
//!
//! - [`table`]: which messages there are, read from `messages.txt`. `wire`: bytes to field numbers and values.
//!
//! Invariants: no bytes make it panic; the work is bounded (bytes, depth, values); nothing is dropped: a field that
//! the table does not have is an error that names it.

mod table;
mod wire;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use table::{Field, Kind, Shape, Table, Type};
use wire::{Reader, Wire};

/// Media type of the binary form.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every binary object begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Nesting of messages; no type of the table is nearly as deep.
const DEPTH_MAX: usize = 40;
/// Values of one object.
const VALUES_MAX: usize = 500_000;

/// Why a binary object could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The object is longer than allowed.
    #[error("{length} bytes are more than the {max} allowed")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The body does not begin with Kubernetes' magic number.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The bytes are no protocol buffer.
    #[error("{place}: {what}")]
    Malformed {
        /// Message that was being read.
        place: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The object is of a kind that has no binary form here.
    #[error(
        "no kind {kind:?} is registered for version {api_version:?} in protobuf; send it as application/json"
    )]
    UnknownKind {
        /// `apiVersion` of the object.
        api_version: String,
        /// `kind` of the object.
        kind: String,
    },
    /// A field that the table does not have: what it says would be lost.
    #[error("unknown field number {number} of {message}; send the object as application/json")]
    UnknownField {
        /// Message, such as `PodSpec`.
        message: String,
        /// Its number.
        number: u32,
    },
    /// A field that can be there once is there twice.
    #[error("field {field:?} of {message} appears twice")]
    Twice {
        /// Message, such as `PodSpec`.
        message: String,
        /// JSON name of the field, or the key of a map.
        field: String,
    },
    /// The object is compressed or encoded in a way that is not served.
    #[error("contentEncoding: {encoding:?} is not supported")]
    Encoded {
        /// `contentEncoding` of the envelope.
        encoding: String,
    },
}

/// Reads one binary object.
///
/// # Errors
/// It is too long, malformed, of a kind or with a field that the table does not have.
pub fn decode(body: &[u8], bytes_max: usize) -> Result<Value, ProtobufError> {
    if body.len() > bytes_max {
        return Err(ProtobufError::TooLong { length: body.len(), max: bytes_max });
    }
    let unknown = Unknown::read(body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?)?;
    let table = table::table();
    let Some(kind) = table.kind(&unknown.api_version, &unknown.kind) else {
        return Err(ProtobufError::UnknownKind { api_version: unknown.api_version, kind: unknown.kind });
    };
    let mut decoder = Decoder { table, values: 0 };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), unknown.api_version.into());
    object.insert("kind".to_owned(), unknown.kind.into());
    decoder.message(kind, unknown.raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

fn malformed(place: &str, what: &'static str) -> ProtobufError {
    ProtobufError::Malformed { place: place.to_owned(), what }
}

fn text(place: &str, bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed(place, "text that is not UTF-8"))
}

/// `runtime.Unknown`: the envelope.
#[derive(Default)]
struct Unknown<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ProtobufError> {
        const PLACE: &str = "Unknown";
        let mut found = Self::default();
        let mut reader = Reader::new(body);
        while let Some((number, wire)) = reader.next().map_err(|what| malformed(PLACE, what))? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => found.type_meta(bytes)?,
                (2, Wire::Bytes(bytes)) => found.raw = bytes,
                (3, Wire::Bytes(b"")) => {}
                (3, Wire::Bytes(bytes)) => {
                    return Err(ProtobufError::Encoded { encoding: text(PLACE, bytes)? });
                }
                // What the raw bytes are; only one form has the magic number in front.
                (4, Wire::Bytes(_)) => {}
                _ => return Err(ProtobufError::UnknownField { message: PLACE.to_owned(), number }),
            }
        }
        Ok(found)
    }

    fn type_meta(&mut self, bytes: &[u8]) -> Result<(), ProtobufError> {
        const PLACE: &str = "TypeMeta";
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next().map_err(|what| malformed(PLACE, what))? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => self.api_version = text(PLACE, bytes)?,
                (2, Wire::Bytes(bytes)) => self.kind = text(PLACE, bytes)?,
                _ => return Err(ProtobufError::UnknownField { message: PLACE.to_owned(), number }),
            }
        }
        Ok(())
    }
}

struct Decoder<'t> {
    table: &'t Table,
    values: usize,
}

impl<'t> Decoder<'t> {
    /// Reads the fields of a message into an object.
    fn message(
        &mut self,
        of: &'t Type,
        bytes: &[u8],
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        let message = of.name;
        if depth > DEPTH_MAX {
            return Err(malformed(message, "the object is nested too deeply"));
        }
        let mut once = BTreeSet::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next().map_err(|what| malformed(message, what))? {
            let Some(field) = of.field(number) else {
                return Err(ProtobufError::UnknownField { message: message.to_owned(), number });
            };
            let single = matches!(field.shape, Shape::One | Shape::Inline);
            if single && !once.insert(number) {
                let field = field.name.to_owned();
                return Err(ProtobufError::Twice { message: message.to_owned(), field });
            }
            self.field(message, field, wire, into, depth)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        message: &str,
        field: &'t Field,
        wire: Wire<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        match (field.shape, field.kind, wire) {
            (Shape::Inline, Kind::Message(inner), Wire::Bytes(bytes)) => {
                self.message(self.table.at(inner), bytes, into, depth + 1)
            }
            (Shape::Map, kind, Wire::Bytes(bytes)) => {
                let (key, value) = self.entry(message, kind, bytes, depth)?;
                let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                match map.as_object_mut().map(|map| (map.contains_key(&key), map)) {
                    Some((false, map)) => map.insert(key, value),
                    _ => return Err(ProtobufError::Twice { message: message.to_owned(), field: key }),
                };
                Ok(())
            }
            (Shape::List, kind, wire) => {
                let mut found = Vec::new();
                match (kind, wire) {
                    // Numbers may be packed into one run of bytes.
                    (Kind::Int, Wire::Bytes(bytes)) => {
                        let mut reader = Reader::new(bytes);
                        while !reader.is_empty() {
                            let number = reader.varint().map_err(|what| malformed(message, what))?;
                            found.extend(self.value(message, kind, Wire::Varint(number), depth)?);
                        }
                    }
                    // In a list, a value that says nothing still has its place.
                    (kind, wire) => {
                        found.push(self.value(message, kind, wire, depth)?.unwrap_or(Value::Null))
                    }
                }
                let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.append(&mut found);
                }
                Ok(())
            }
            (_, kind, wire) => {
                let zero = matches!(wire, Wire::Varint(0) | Wire::Bytes(b""));
                if !(field.omit_zero && zero)
                    && let Some(value) = self.value(message, kind, wire, depth)?
                {
                    into.insert(field.name.to_owned(), value);
                }
                Ok(())
            }
        }
    }

    /// Key and value of a map's entry; what is left out is zero.
    fn entry(
        &mut self,
        message: &str,
        kind: Kind,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next().map_err(|what| malformed(message, what))? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => key = text(message, bytes)?,
                (2, wire) => value = self.value(message, kind, wire, depth)?,
                _ => return Err(malformed(message, "an entry of a map with more than key and value")),
            }
        }
        let value = match value {
            Some(value) => value,
            None => self.value(message, kind, Wire::Bytes(b""), depth)?.unwrap_or(Value::Null),
        };
        Ok((key, value))
    }

    /// One value; None: it says nothing (a time that is not set).
    fn value(
        &mut self,
        message: &str,
        kind: Kind,
        wire: Wire<'_>,
        depth: usize,
    ) -> Result<Option<Value>, ProtobufError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(malformed(message, "the object has too many values"));
        }
        let inner = |bytes| Parts::read(message, bytes);
        Ok(Some(match (kind, wire) {
            // Two's complement on the wire, whatever the width.
            (Kind::Int, Wire::Varint(value)) => value.cast_signed().into(),
            (Kind::Bool, Wire::Varint(value)) => (value != 0).into(),
            (Kind::Text, Wire::Bytes(bytes)) => text(message, bytes)?.into(),
            (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Kind::Time | Kind::MicroTime, Wire::Bytes(b"")) => return Ok(None),
            (Kind::Time, Wire::Bytes(bytes)) => time(message, &inner(bytes)?, "%Y-%m-%dT%H:%M:%SZ")?,
            (Kind::MicroTime, Wire::Bytes(bytes)) => time(message, &inner(bytes)?, "%Y-%m-%dT%H:%M:%S.%6fZ")?,
            (Kind::Quantity, Wire::Bytes(bytes)) => match text(message, inner(bytes)?.bytes(1))? {
                // Go's zero.
                quantity if quantity.is_empty() => "0".into(),
                quantity => quantity.into(),
            },
            (Kind::IntOrString, Wire::Bytes(bytes)) => {
                let parts = inner(bytes)?;
                match parts.number(1) {
                    0 => parts.number(2).into(),
                    _ => text(message, parts.bytes(3))?.into(),
                }
            }
            (Kind::Json, Wire::Bytes(bytes)) => serde_json::from_slice(inner(bytes)?.bytes(1))
                .map_err(|_| malformed(message, "JSON is expected in a field"))?,
            (Kind::Items, Wire::Bytes(bytes)) => {
                let mut items = Vec::new();
                let mut reader = Reader::new(bytes);
                while let Some((number, wire)) = reader.next().map_err(|what| malformed(message, what))? {
                    let (1, Wire::Bytes(item)) = (number, wire) else {
                        return Err(ProtobufError::UnknownField { message: message.to_owned(), number });
                    };
                    self.values += 1;
                    items.push(text(message, item)?.into());
                }
                Value::Array(items)
            }
            (Kind::Message(index), Wire::Bytes(bytes)) => {
                let mut object = Map::new();
                self.message(self.table.at(index), bytes, &mut object, depth + 1)?;
                Value::Object(object)
            }
            _ => return Err(malformed(message, "a field has another wire type than its type")),
        }))
    }
}

/// The fields 1 to 3 of the little messages that JSON has as one value.
#[derive(Default)]
struct Parts<'a> {
    numbers: [i64; 3],
    bytes: [&'a [u8]; 3],
}

impl<'a> Parts<'a> {
    fn read(message: &str, bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut parts = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next().map_err(|what| malformed(message, what))? {
            let index = usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1);
            match (wire, parts.numbers.get_mut(index), parts.bytes.get_mut(index)) {
                (Wire::Varint(value), Some(place), _) => *place = value.cast_signed(),
                (Wire::Bytes(value), _, Some(place)) => *place = value,
                _ => return Err(ProtobufError::UnknownField { message: message.to_owned(), number }),
            }
        }
        Ok(parts)
    }

    fn number(&self, field: usize) -> i64 {
        self.numbers.get(field - 1).copied().unwrap_or_default()
    }

    fn bytes(&self, field: usize) -> &'a [u8] {
        self.bytes.get(field - 1).copied().unwrap_or_default()
    }
}

fn time(message: &str, parts: &Parts<'_>, format: &str) -> Result<Value, ProtobufError> {
    let nanoseconds = i32::try_from(parts.number(2)).unwrap_or(i32::MAX);
    Timestamp::new(parts.number(1), nanoseconds)
        .map(|time| time.strftime(format).to_string().into())
        .map_err(|_| malformed(message, "a time out of range"))
}

#[cfg(test)]
mod tests;
