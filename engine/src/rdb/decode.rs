//! Scalars of the format, read: from a slice or from a stream, with the checksum kept on the way.

use super::{Error, STRING_LEN_MAX, crc64, lzf};
use std::io::Read;

/// Bytes read from the stream at a time, and first size of its buffer. Large enough that calls
/// cost nothing, small enough for the second-level cache.
const READ_LEN: usize = 256 * 1024;

/// Where bytes come from.
pub(crate) trait Source {
    /// The next `len` bytes. Reserves memory only as the bytes arrive, so `len` may be hostile.
    fn take(&mut self, len: usize) -> Result<&[u8], Error>;

    /// Upper bound of the bytes still to come; `None` when it is not known.
    fn remaining(&self) -> Option<usize>;

    /// The next `N` bytes as an array.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.take(N)?;
        Ok(*bytes.first_chunk().expect("take gives what was asked for"))
    }
}

/// A payload that is all in memory.
#[derive(Debug, Clone)]
pub(crate) struct Slice<'a>(pub(crate) &'a [u8]);

impl Source for Slice<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8], Error> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn remaining(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// A file or a connection.
#[derive(Debug)]
pub(crate) struct Stream<R> {
    reader: R,
    /// `buffer[start..end]` is read and not yet taken. `checked <= start`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// `crc` covers everything taken before `buffer[checked]`.
    checked: usize,
    crc: u64,
}

impl<R: Read> Stream<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; READ_LEN], start: 0, end: 0, checked: 0, crc: 0 }
    }

    /// The checksum of everything taken so far.
    pub(crate) fn checksum(&mut self) -> u64 {
        self.crc = crc64::update(self.crc, &self.buffer[self.checked..self.start]);
        self.checked = self.start;
        self.crc
    }

    /// Reads until `len` bytes are there.
    #[cold]
    fn fill(&mut self, len: usize) -> Result<(), Error> {
        self.checksum();
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.checked = 0;
        while self.end < len {
            if self.end == self.buffer.len() {
                // Doubling, but only once the bytes so far have really come.
                let grown = len.min(self.buffer.len() * 2).max(READ_LEN);
                self.buffer.resize(grown, 0);
            }
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Error::Truncated),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl<R: Read> Source for Stream<R> {
    #[inline]
    fn take(&mut self, len: usize) -> Result<&[u8], Error> {
        if self.end - self.start < len {
            self.fill(len)?;
        }
        let from = self.start;
        self.start += len;
        Ok(&self.buffer[from..self.start])
    }

    fn remaining(&self) -> Option<usize> {
        None
    }
}

/// A length, or one of the special forms of a string that share its first byte.
enum Head {
    Length(u64),
    Special(u8),
}

/// Reads scalars; keeps the memory for strings that need decoding.
pub(crate) struct Decoder<S> {
    pub(crate) source: S,
    scratch: Vec<u8>,
    digits: itoa::Buffer,
}

impl<S: Source> Decoder<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, scratch: Vec::new(), digits: itoa::Buffer::new() }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.source.array::<1>()?[0])
    }

    /// A length or count.
    pub(crate) fn length(&mut self) -> Result<u64, Error> {
        match self.head()? {
            Head::Length(value) => Ok(value),
            Head::Special(_) => Err(Error::Corrupt("a string where a length belongs")),
        }
    }

    /// How many elements follow, each of at least `element_len_min` bytes. Never more than can be
    /// there, when that is known.
    pub(crate) fn count(&mut self, element_len_min: usize) -> Result<usize, Error> {
        let count = usize::try_from(self.length()?).map_err(|_| Error::Corrupt("count"))?;
        match self.source.remaining() {
            Some(left) if count > left / element_len_min => Err(Error::Truncated),
            _ => Ok(count),
        }
    }

    /// A string, in whatever form. Valid until the next call.
    pub(crate) fn string(&mut self) -> Result<&[u8], Error> {
        match self.head()? {
            Head::Length(len) => {
                let len = string_len(len)?;
                self.source.take(len)
            }
            Head::Special(0) => {
                let value = i8::from_le_bytes(self.source.array()?);
                Ok(self.digits.format(value).as_bytes())
            }
            Head::Special(1) => {
                let value = i16::from_le_bytes(self.source.array()?);
                Ok(self.digits.format(value).as_bytes())
            }
            Head::Special(2) => {
                let value = i32::from_le_bytes(self.source.array()?);
                Ok(self.digits.format(value).as_bytes())
            }
            Head::Special(3) => self.compressed(),
            Head::Special(_) => Err(Error::Corrupt("unknown form of string")),
        }
    }

    /// A score in text: a length byte and digits, or one of three marks.
    pub(crate) fn text_double(&mut self) -> Result<f64, Error> {
        match self.byte()? {
            253 => Ok(f64::NAN),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            len => parse_double(self.source.take(len as usize)?),
        }
    }

    /// A score in binary.
    pub(crate) fn double(&mut self) -> Result<f64, Error> {
        Ok(f64::from_le_bytes(self.source.array()?))
    }

    fn head(&mut self) -> Result<Head, Error> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Head::Length(u64::from(first)),
            1 => Head::Length(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Head::Length(u32::from_be_bytes(self.source.array()?).into()),
            2 if first == 0x81 => Head::Length(u64::from_be_bytes(self.source.array()?)),
            2 => return Err(Error::Corrupt("unknown form of length")),
            _ => Head::Special(first & 0x3f),
        })
    }

    fn compressed(&mut self) -> Result<&[u8], Error> {
        let packed_len = string_len(self.length()?)?;
        let len = string_len(self.length()?)?;
        self.scratch.clear();
        // One huge string must not pin its memory for the rest of the load.
        self.scratch.shrink_to(READ_LEN);
        let packed = self.source.take(packed_len)?;
        lzf::decompress(packed, len, &mut self.scratch)
            .ok_or(Error::Corrupt("compressed string"))?;
        Ok(&self.scratch)
    }
}

/// A double in text, as scores are kept in packed forms.
pub(crate) fn parse_double(text: &[u8]) -> Result<f64, Error> {
    let text = std::str::from_utf8(text).ok().filter(|text| !text.is_empty());
    text.and_then(|text| text.parse().ok()).ok_or(Error::Corrupt("not a number"))
}

fn string_len(len: u64) -> Result<usize, Error> {
    usize::try_from(len)
        .ok()
        .filter(|&len| len <= STRING_LEN_MAX)
        .ok_or(Error::Corrupt("string is too long"))
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_take_their_narrowest_form() {
        for (value, width) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (16383, 2),
            (16384, 5),
            (u64::from(u32::MAX), 5),
            (u64::from(u32::MAX) + 1, 9),
            (u64::MAX, 9),
        ] {
            let mut out = Vec::new();
            encode::length(value, &mut out);
            assert_eq!(out.len(), width, "{value}");
            assert_eq!(Decoder::new(Slice(&out)).length().unwrap(), value);
        }
    }

    #[test]
    fn a_claimed_length_reserves_nothing() {
        let mut bytes = vec![0x80];
        bytes.extend_from_slice(&(STRING_LEN_MAX as u32).to_be_bytes());
        bytes.extend_from_slice(b"short");
        let mut decoder = Decoder::new(Stream::new(&bytes[..]));
        assert!(matches!(decoder.string(), Err(Error::Truncated)));
        assert!(decoder.source.buffer.len() <= READ_LEN);
        let mut decoder = Decoder::new(Slice(&bytes));
        assert!(matches!(decoder.string(), Err(Error::Truncated)));
    }

    #[test]
    fn streams_check_what_they_give_across_refills() {
        let long = vec![7u8; READ_LEN * 3 + 5];
        let mut bytes = b"abc".to_vec();
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(b"tail");
        let mut stream = Stream::new(&bytes[..]);
        assert_eq!(stream.take(3).unwrap(), b"abc");
        assert_eq!(stream.take(long.len()).unwrap(), long);
        assert_eq!(stream.checksum(), crc64::update(0, &bytes[..3 + long.len()]));
        assert_eq!(stream.take(4).unwrap(), b"tail");
        assert_eq!(stream.checksum(), crc64::update(0, &bytes));
        assert!(matches!(stream.take(1), Err(Error::Truncated)));
    }

    proptest! {
        #[test]
        fn strings_round_trip(strings in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            prop::collection::vec(0u8..2, 0..5000),
            any::<i64>().prop_map(|value| value.to_string().into_bytes()),
            any::<i16>().prop_map(|value| value.to_string().into_bytes()),
        ], 1..8)) {
            let mut plain = Vec::new();
            let mut packed = Vec::new();
            let mut compressing = encode::StringWriter::compressing();
            for string in &strings {
                encode::StringWriter::plain().string(string, &mut plain);
                compressing.string(string, &mut packed);
            }
            for bytes in [&plain, &packed] {
                let mut from_slice = Decoder::new(Slice(bytes));
                let mut from_stream = Decoder::new(Stream::new(&bytes[..]));
                for string in &strings {
                    prop_assert_eq!(from_slice.string().unwrap(), &string[..]);
                    prop_assert_eq!(from_stream.string().unwrap(), &string[..]);
                }
                prop_assert!(from_slice.byte().is_err());
            }
        }
    }
}
