//! The wire format of protocol buffers: bytes to field numbers and values.
//!
//! Invariant: every step takes at least one byte, so reading ends.

/// A value as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// Reads one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field; None at the end.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or("a field number out of range")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (taken, rest) = self.rest.split_at_checked(length).ok_or("unexpected EOF")?;
                self.rest = rest;
                Wire::Bytes(taken)
            }
            // Fixed widths and groups: no type of the API has them.
            _ => return Err("a wire type that no type of the API has"),
        };
        Ok(Some((number, wire)))
    }

    /// A number of at most ten bytes, the lowest seven bits first.
    pub(super) fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or("unexpected EOF")?;
            self.rest = rest;
            if shift == 63 && *byte > 1 {
                return Err("integer overflow");
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("integer overflow")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_of_any_length_up_to_ten_bytes() {
        let read = |bytes: &[u8]| Reader::new(bytes).varint();
        assert_eq!(read(&[0]), Ok(0));
        assert_eq!(read(&[0xac, 0x02]), Ok(300));
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&minus_one), Ok(u64::MAX));
        assert_eq!(read(&[0xff; 11]), Err("integer overflow"));
        assert_eq!(read(&[0x80]), Err("unexpected EOF"));
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(Reader::new(&[0x0a, 5, 1]).next(), Err("unexpected EOF"));
        assert_eq!(Reader::new(&[0x0a, 1, 7]).next(), Ok(Some((1, Wire::Bytes(&[7])))));
        assert_eq!(Reader::new(&[0x00, 1]).next(), Err("a field number out of range"));
        assert!(Reader::new(&[0x0d, 1, 2, 3, 4]).next().is_err());
    }
}
