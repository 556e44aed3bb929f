//! Netlink attributes and messages as bytes, and back.
//!
//! Invariant: a message ends on a 4-byte boundary and its lengths are those of what is in it.

use minisvc_netstate::family::Family;

/// Messages of nfnetlink's nftables subsystem.
pub mod msg {
    pub const NEWTABLE: u16 = 0;
    pub const DELTABLE: u16 = 2;
    pub const GETTABLE: u16 = 1;
    pub const NEWCHAIN: u16 = 3;
    pub const GETCHAIN: u16 = 4;
    pub const DELCHAIN: u16 = 5;
    pub const NEWRULE: u16 = 6;
    pub const GETRULE: u16 = 7;
    pub const DELRULE: u16 = 8;
    pub const NEWSET: u16 = 9;
    pub const GETSET: u16 = 10;
    pub const NEWSETELEM: u16 = 12;
    pub const GETSETELEM: u16 = 13;
    pub const DELSETELEM: u16 = 14;
    pub const NEWGEN: u16 = 15;
    pub const GETGEN: u16 = 16;
}

/// Messages of nfnetlink's connection tracking subsystem.
pub mod ctnetlink {
    pub const GET: u16 = 1;
    pub const DELETE: u16 = 2;
}

/// `NFNL_SUBSYS_CTNETLINK`
const CONNTRACK: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`
pub const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`
pub const BATCH_END: u16 = 0x11;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `NLM_F_ACK`
pub const ACK: u16 = 4;
/// `NLM_F_DUMP`
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`
pub const APPEND: u16 = 0x800;
/// Largest list of elements in one message; an attribute's length has 16 bits.
pub const LIST_MAX: usize = 60_000;

/// Type of an answer of the nftables subsystem.
pub fn answer(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

/// One message being written.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

/// Where a nested attribute began.
pub struct Nest(usize);

impl Message {
    /// A request to the nftables subsystem about a family.
    pub fn new(family: Family, kind: u16, flags: u16) -> Self {
        Self::raw(SUBSYSTEM << 8 | kind, flags, family.number(), 0)
    }

    /// A request to the nftables subsystem about all families.
    pub fn of_any_family(kind: u16) -> Self {
        Self::raw(SUBSYSTEM << 8 | kind, 0, 0, 0)
    }

    /// A request to connection tracking about a family.
    pub fn conntrack(family: Family, kind: u16, flags: u16) -> Self {
        Self::raw(CONNTRACK << 8 | kind, flags, family.number(), 0)
    }

    /// The frame of a batch: [`BATCH_BEGIN`] or [`BATCH_END`].
    pub fn frame(kind: u16) -> Self {
        Self::raw(kind, 0, 0, SUBSYSTEM)
    }

    fn raw(kind: u16, flags: u16, family: u8, resource: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[family, 0]);
        bytes.extend_from_slice(&resource.to_be_bytes());
        Self { bytes }
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&(4 + data.len() as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a string with its end.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.attribute(kind, &data)
    }

    /// Adds a 32-bit number as nftables wants numbers: big-endian.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Begins a nested attribute.
    pub fn begin(&mut self, kind: u16) -> Nest {
        let nest = Nest(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | 0x8000).to_ne_bytes());
        nest
    }

    /// Ends it.
    pub fn end(&mut self, nest: Nest) {
        let length = u16::try_from(self.bytes.len() - nest.0).unwrap_or(u16::MAX);
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds a nested attribute.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let nest = self.begin(kind);
        inside(self);
        self.end(nest);
        self
    }

    /// Length so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the finished message with its sequence number.
    pub fn write(&self, sequence: u32, more_flags: u16, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        out[start..start + 4].copy_from_slice(&(self.bytes.len() as u32).to_ne_bytes());
        let flags = u16::from_ne_bytes([out[start + 6], out[start + 7]]) | more_flags;
        out[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        out[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A message that was read.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// Its sequence number.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages of a datagram; ends at the first malformed one.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let message = datagram.get(..length).filter(|_| length >= 16)?;
        let read = Received {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            payload: &message[16..],
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(read)
    })
}

/// The attributes of a message or nest; ends at the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let data = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// The first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(other, _)| *other == kind).map(|(_, data)| data)
}

/// A string attribute.
pub fn text(bytes: &[u8], kind: u16) -> Option<&str> {
    std::str::from_utf8(attribute(bytes, kind)?.strip_suffix(&[0])?).ok()
}

/// A big-endian number attribute.
pub fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(bytes, kind)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A 32-bit number of the host at an offset.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(Family::Ipv4, msg::NEWSET, CREATE);
        message.text(1, "minisvc").nested(3, |m| {
            m.number(1, 7);
        });
        let mut out = Vec::new();
        message.write(5, ACK, &mut out);
        let read: Vec<_> = messages(&out).collect();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].kind, read[0].sequence), (10 << 8 | 9, 5));
        assert_eq!(read[0].flags, REQUEST | CREATE | ACK);
        let body = &read[0].payload[4..];
        assert_eq!(text(body, 1), Some("minisvc"));
        assert_eq!(attribute(body, 3).and_then(|nest| number(nest, 1)), Some(7));
    }

    #[test]
    fn malformed_bytes_end_the_reading() {
        for length in 0..40 {
            let bytes = vec![3; length];
            assert!(messages(&bytes).count() <= 3);
            assert!(attributes(&bytes).count() <= 10);
        }
    }
}
