//! Header blocks: names and values, compressed with SPDY's own dictionary as one text a connection.
//!
//! `dictionary.bin` is the table of the SPDY/3 draft, section 2.6.10.1 (1423 bytes, Adler-32 e3c6a7c2).

use super::{Fault, Headers};
use bytes::{Buf, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// Longest block when decompressed, in bytes.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Most names in a block.
const NAMES_MAX: u32 = 100;

/// Reads the blocks of one side of a connection, in order.
pub(super) struct Inflate(Decompress);

impl Inflate {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The names and values of the next block.
    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Headers, Fault> {
        parse(self.inflate(block)?.into())
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(block, &mut buffer, FlushDecompress::Sync);
            let consumed = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            block = block.get(consumed..).unwrap_or_default();
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.0.set_dictionary(DICTIONARY);
                    known.map_err(|_| Fault::Headers("compressed with another dictionary than SPDY's"))?;
                    continue;
                }
                Err(_) => return Err(Fault::Headers("not what zlib writes")),
                Ok(flate2::Status::StreamEnd) => return Err(Fault::Headers("the compressed text has ended")),
                Ok(_) => {}
            }
            let produced = usize::try_from(self.0.total_out() - written).unwrap_or(usize::MAX);
            out.extend_from_slice(buffer.get(..produced).unwrap_or_default());
            if out.len() > BLOCK_BYTES_MAX {
                return Err(Fault::Headers("too long"));
            }
            // A full buffer may have more behind it; without progress there is no more.
            if block.is_empty() && produced < buffer.len() || consumed == 0 && produced == 0 {
                return Ok(out);
            }
        }
    }
}

fn parse(mut block: Bytes) -> Result<Headers, Fault> {
    const SHORT: Fault = Fault::Headers("it ends too soon");
    let count = block.try_get_u32().map_err(|_| SHORT)?;
    if count > NAMES_MAX {
        return Err(Fault::Headers("too many names"));
    }
    let mut text = || {
        let length = block.try_get_u32().map_err(|_| SHORT)? as usize;
        if length > block.len() {
            return Err(SHORT);
        }
        String::from_utf8(block.split_to(length).into()).map_err(|_| Fault::Headers("no UTF-8"))
    };
    let mut headers = Headers::new();
    for _ in 0..count {
        headers.push((text()?, text()?));
    }
    Ok(headers)
}

/// Writes the blocks of one side of a connection, in order.
pub(super) struct Deflate(Compress);

impl Deflate {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        // Only a stream that has begun refuses; this one has not.
        let set = compress.set_dictionary(DICTIONARY);
        debug_assert!(set.is_ok());
        Self(compress)
    }

    /// The next block.
    pub(super) fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        let mut out = Vec::new();
        let mut rest = block.as_slice();
        loop {
            // The vector is grown by us: `compress_vec` fills what is there.
            out.reserve(256);
            let read = self.0.total_in();
            let result = self.0.compress_vec(rest, &mut out, FlushCompress::Sync);
            let consumed = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            rest = rest.get(consumed..).unwrap_or_default();
            if result.is_err() || rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
        }
    }
}
