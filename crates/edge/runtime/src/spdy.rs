//! The framing of SPDY/3.1, as far as Kubernetes' port forwarding speaks it.
//!
//! In: bytes of a connection, in any pieces. Out: [`Frame`]s; and back. Source: the SPDY/3.1 draft, section 2, and
//! moby/spdystream, which is the other end. Invariants: what is kept is one control frame of bounded length at most;
//! data is handed on in the pieces it arrived in, never collected; no bytes make it panic. As spdystream,
//! it has no flow control of its own: windows are neither announced nor waited for.

mod headers;
#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use headers::{Deflate, Inflate};

/// Longest control frame that is taken, in bytes; Kubernetes' are below 200.
const CONTROL_BYTES_MAX: usize = 16 << 10;
/// Longest data frame that is sent, and longest piece that is handed on, in bytes.
pub(crate) const DATA_BYTES_MAX: usize = 32 << 10;
/// The control bit and version 3.
const VERSION: u16 = 0x8003;
const HEAD_BYTES: usize = 8;
/// The flag of a stream's last frame of a side.
const FIN: u8 = 1;
/// Stream ids have 31 bits.
const ID_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream is reset: it is not what this side serves.
pub(crate) const REFUSED_STREAM: u32 = 3;

/// Names and values of a stream, in the order they came; names are in lower case.
pub(crate) type Headers = Vec<(String, String)>;

/// What a peer can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A stream begins.
    SynStream {
        /// The new stream, odd from clients.
        stream: u32,
        /// What for.
        headers: Headers,
    },
    /// A part of a stream's data.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes, maybe none.
        bytes: Bytes,
        /// Nothing more comes from this side.
        fin: bool,
    },
    /// A stream is broken off.
    Reset {
        /// The stream.
        stream: u32,
    },
    /// To be sent back as it is by the side that has not made up its number.
    Ping(u32),
    /// The peer opens no more streams.
    GoAway,
    /// Anything that changes nothing here.
    Other,
}

/// Bytes that are no SPDY/3.1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Another protocol, or another version of it.
    #[error("not SPDY/3: a control frame begins with {0:#06x}")]
    Version(u16),
    /// A control frame that is too long to be kept.
    #[error("a control frame of {0} bytes; the limit is {CONTROL_BYTES_MAX}")]
    TooLong(usize),
    /// A control frame that is too short for its type.
    #[error("a control frame of type {0} that is too short")]
    TooShort(u16),
    /// A header block that cannot be read.
    #[error("a header block: {0}")]
    Headers(&'static str),
}

/// The rest of a data frame whose head has been read.
struct Rest {
    stream: u32,
    bytes: usize,
    fin: bool,
}

/// Reads frames from bytes.
pub(crate) struct Decoder {
    buffer: BytesMut,
    rest: Option<Rest>,
    inflate: Inflate,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { buffer: BytesMut::new(), rest: None, inflate: Inflate::new() }
    }

    /// Takes bytes; the caller bounds them, and takes all frames out before it gives the next.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame or piece of one; none until more bytes come.
    ///
    /// # Errors
    /// What is no SPDY/3.1; the connection cannot go on.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Fault> {
        if let Some(rest) = &mut self.rest {
            let length = rest.bytes.min(self.buffer.len()).min(DATA_BYTES_MAX);
            if length == 0 && rest.bytes > 0 {
                return Ok(None);
            }
            rest.bytes -= length;
            let (stream, last) = (rest.stream, rest.bytes == 0);
            let frame =
                Frame::Data { stream, bytes: self.buffer.split_to(length).freeze(), fin: last && rest.fin };
            if last {
                self.rest = None;
            }
            return Ok(Some(frame));
        }
        if self.buffer.len() < HEAD_BYTES {
            return Ok(None);
        }
        let mut head = &self.buffer[..HEAD_BYTES];
        let first = head.get_u32();
        let flags_and_length = head.get_u32();
        let flags = (flags_and_length >> 24) as u8;
        let length = (flags_and_length & 0x00ff_ffff) as usize;
        if first >> 31 == 0 {
            self.buffer.advance(HEAD_BYTES);
            self.rest = Some(Rest { stream: first, bytes: length, fin: flags & FIN != 0 });
            return self.next();
        }
        let version = (first >> 16) as u16;
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(Fault::TooLong(length));
        }
        if self.buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        let body = self.buffer.split_to(length).freeze();
        self.control(first as u16, body).map(Some)
    }

    fn control(&mut self, kind: u16, mut body: Bytes) -> Result<Frame, Fault> {
        let number =
            |body: &mut Bytes| body.try_get_u32().map(|n| n & ID_MASK).map_err(|_| Fault::TooShort(kind));
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut body)?;
                let _associated = number(&mut body)?;
                let _priority_and_slot = body.try_get_u16().map_err(|_| Fault::TooShort(kind))?;
                Frame::SynStream { stream, headers: self.inflate.headers(&body)? }
            }
            SYN_REPLY | HEADERS => {
                number(&mut body)?;
                // Read although nobody asks: the blocks of a connection are one compressed text.
                self.inflate.headers(&body)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { stream: number(&mut body)? },
            PING => Frame::Ping(body.try_get_u32().map_err(|_| Fault::TooShort(kind))?),
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

/// Writes frames.
pub(crate) struct Encoder {
    deflate: Deflate,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { deflate: Deflate::new() }
    }

    /// The start of a stream.
    #[cfg(test)]
    pub(crate) fn syn_stream(&mut self, stream: u32, headers: &Headers) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_u32(0);
        body.put_u16(0);
        body.put_slice(&self.deflate.headers(headers));
        control(SYN_STREAM, &body)
    }

    /// The answer to a stream's start, without headers.
    pub(crate) fn syn_reply(&mut self, stream: u32) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_slice(&self.deflate.headers(&Headers::new()));
        control(SYN_REPLY, &body)
    }
}

/// Breaks a stream off.
pub(crate) fn reset(stream: u32, why: u32) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u32(stream);
    body.put_u32(why);
    control(RST_STREAM, &body)
}

/// Asks for an answer, or gives it.
pub(crate) fn ping(number: u32) -> Bytes {
    control(PING, &number.to_be_bytes())
}

/// The end of the connection; `last` is the last stream that was served.
pub(crate) fn go_away(last: u32) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u32(last);
    body.put_u32(0);
    control(GOAWAY, &body)
}

/// Data of at most [`DATA_BYTES_MAX`] bytes; `fin`: the last of this side.
pub(crate) fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    debug_assert!(bytes.len() <= DATA_BYTES_MAX);
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + bytes.len());
    frame.put_u32(stream & ID_MASK);
    frame.put_u32(u32::from(fin) << 24 | bytes.len() as u32);
    frame.put_slice(bytes);
    frame.freeze()
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + body.len());
    frame.put_u16(VERSION);
    frame.put_u16(kind);
    frame.put_u32(body.len() as u32);
    frame.put_slice(body);
    frame.freeze()
}
