//! Shared values as bytes: a schema byte, then varints. Decoding is total: any bytes give a value or `None`.
//!
//! The code is written by hand for three reasons. The bytes must be small, because each read copies them under a process-wide
//! lock. A build with another schema may have written them. A value that cannot be decoded must be noticed, never read as zero.

use crate::shared::names::SCHEMA;

/// A value that says "dropped": shared data has no deletion.
pub const TOMBSTONE: &[u8] = &[0];

/// The result of reading a key.
pub enum Found<T> {
    /// Never written, or dropped.
    Nothing,
    /// A value.
    Value(T),
    /// Bytes that this build cannot read.
    Undecodable,
}

impl<T> Found<T> {
    /// Reads a value that may be missing or dropped.
    pub fn read(bytes: Option<&[u8]>, decode: impl FnOnce(&[u8]) -> Option<T>) -> Found<T> {
        match bytes {
            None | Some(TOMBSTONE) => Found::Nothing,
            Some(bytes) => decode(bytes).map_or(Found::Undecodable, Found::Value),
        }
    }
}

/// Capacity that a value begins with, in bytes. Most values need no more, and growing to it would take six allocations.
const ROOM: usize = 256;

/// Builds a value.
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins with the schema byte.
    pub fn new() -> Writer {
        Writer::of(SCHEMA)
    }

    /// Begins with a schema byte of the value's own.
    pub fn of(schema: u8) -> Writer {
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.push(schema);
        Writer(bytes)
    }

    /// Appends an unsigned number, LEB128: seven bits a byte, lowest first.
    pub fn number(&mut self, mut value: u64) {
        loop {
            let low = u8::try_from(value & 0x7f).unwrap_or(0);
            value >>= 7;
            if value == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    /// Appends a text with its length.
    pub fn text(&mut self, text: &str) {
        self.number(u64::try_from(text.len()).unwrap_or(0));
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Returns the bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

impl Default for Writer {
    fn default() -> Writer {
        Writer::new()
    }
}

/// Reads a value. Every method returns `None` at the first thing that is not as written.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks the schema byte.
    pub fn new(bytes: &'a [u8]) -> Option<Reader<'a>> {
        Reader::of(SCHEMA, bytes)
    }

    /// Checks a schema byte of the value's own.
    pub fn of(schema: u8, bytes: &'a [u8]) -> Option<Reader<'a>> {
        let (first, rest) = bytes.split_first()?;
        (*first == schema).then_some(Reader(rest))
    }

    /// Reads an unsigned number of at most ten bytes.
    pub fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in 0..10u32 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            let moved = bits.checked_shl(shift.saturating_mul(7))?;
            if moved >> shift.saturating_mul(7) != bits {
                return None;
            }
            value |= moved;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a number that fits the type.
    pub fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// Reads a flag.
    pub fn flag(&mut self) -> Option<bool> {
        match self.number()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Reads the number of entries that follow, at most `limit`: no value makes a reader allocate without bound.
    pub fn count(&mut self, limit: usize) -> Option<usize> {
        let count = self.small::<usize>()?;
        (count <= limit).then_some(count)
    }

    /// Returns whether nothing is left. Fields that only newer builds write come last.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a text of at most `limit` bytes.
    pub fn text(&mut self, limit: usize) -> Option<String> {
        let length = self.count(limit)?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(head).ok().map(str::to_owned)
    }

    /// Returns `Some` if all bytes were read.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_at_every_length() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let mut w = Writer::new();
                w.number(value);
                let bytes = w.finish();
                let mut r = Reader::new(&bytes).unwrap();
                assert_eq!(r.number(), Some(value));
                assert!(r.end().is_some());
            }
        }
    }

    #[test]
    fn an_overlong_number_is_undecodable() {
        let bytes = [SCHEMA, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(Reader::new(&bytes).unwrap().number(), None);
        assert_eq!(Reader::new(&[SCHEMA, 0x80]).unwrap().number(), None);
    }

    #[test]
    fn another_schema_is_undecodable() {
        assert!(Reader::new(&[SCHEMA + 1, 0]).is_none());
        assert!(Reader::new(TOMBSTONE).is_none());
        assert!(Reader::new(&[]).is_none());
    }

    #[test]
    fn a_text_longer_than_its_bytes_is_undecodable() {
        assert_eq!(Reader::new(&[SCHEMA, 3, b'a']).unwrap().text(9), None);
        assert_eq!(Reader::new(&[SCHEMA, 3, b'a', b'b', b'c']).unwrap().text(2), None);
    }
}
