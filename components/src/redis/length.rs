//! Lengths in an RDB file: of one to nine bytes, or a word on how a text is written instead.
//!
//! Source: "Length Encoding" and "String Encoding" of the RDB file format at rdb.fnordig.de; `rdbLoadLenByRef` of the servers' `rdb.c`.

use super::summary::RdbError;

/// What stands where a length is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes, or the number itself.
    Plain(u64),
    /// A text that is a number, in so many bytes.
    Integer(usize),
    /// A text, compressed to so many bytes.
    Compressed(u64),
}

/// The beginning of something that must be there as a whole: at most nineteen bytes.
#[derive(Debug, Default)]
pub struct Carry(Vec<u8>);

impl Carry {
    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// It was read.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes what is missing; false where so many bytes are not there yet.
    pub fn need(&mut self, bytes: usize, rest: &mut &[u8]) -> bool {
        let missing = bytes.saturating_sub(self.0.len()).min(rest.len());
        let (now, behind) = rest.split_at_checked(missing).unwrap_or((&[], rest));
        self.0.extend_from_slice(now);
        *rest = behind;
        self.0.len() >= bytes
    }

    /// Reads a length; none where it is not there yet.
    pub fn length(&mut self, rest: &mut &[u8]) -> Result<Option<Length>, RdbError> {
        let length = self.peek_length(rest)?;
        if length.is_some() {
            self.clear();
        }
        Ok(length.map(|(length, _)| length))
    }

    /// A length, and how many bytes of what is there it takes.
    pub fn peek_length(&mut self, rest: &mut &[u8]) -> Result<Option<(Length, usize)>, RdbError> {
        if !self.need(1, rest) {
            return Ok(None);
        }
        let integer = |bytes| Ok(Some((Length::Integer(bytes), 1)));
        match self.0.first() {
            Some(0xc0) => integer(1),
            Some(0xc1) => integer(2),
            Some(0xc2) => integer(4),
            // Compressed length, plain length.
            Some(0xc3) => {
                let Some((compressed, end)) = self.plain(1, rest)? else {
                    return Ok(None);
                };
                let plain = self.plain(end, rest)?;
                Ok(plain.map(|(_, end)| (Length::Compressed(compressed), end)))
            }
            _ => Ok(self.plain(0, rest)?.map(|(length, end)| (Length::Plain(length), end))),
        }
    }

    /// A plain length that begins at a place, and where it ends.
    fn plain(&mut self, at: usize, rest: &mut &[u8]) -> Result<Option<(u64, usize)>, RdbError> {
        if !self.need(at + 1, rest) {
            return Ok(None);
        }
        let first = self.0.get(at).copied().unwrap_or(0);
        let (of_first, more) = match first {
            0..=0x3f => (first, 0),
            0x40..=0x7f => (first & 0x3f, 1),
            0x80 => (0, 4),
            0x81 => (0, 8),
            _ => return Err(RdbError::BadLength),
        };
        let end = at + 1 + more;
        if !self.need(end, rest) {
            return Ok(None);
        }
        let behind = self.0.get(at + 1..end).unwrap_or_default();
        let fold = |sum, byte: &u8| (sum << 8) | u64::from(*byte);
        Ok(Some((behind.iter().fold(u64::from(of_first), fold), end)))
    }
}
