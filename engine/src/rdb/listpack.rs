//! Listpacks: the packed form of small lists, hashes and sorted sets since Redis 7.0.
//!
//! Header: total bytes u32, element count u16 (65535: not known), little endian. Then elements and
//! the byte 0xFF. An element is its encoding, its data, and its length again for walking backwards.

use super::{Element, Error, canonical_int};

const HEADER_LEN: usize = 6;
const END: u8 = 0xFF;
const COUNT_UNKNOWN: u16 = u16::MAX;

/// A listpack that was checked from end to end.
#[derive(Clone, Copy, Debug)]
pub struct Listpack<'a> {
    /// The elements without header and end mark.
    body: &'a [u8],
    count: usize,
}

impl<'a> Listpack<'a> {
    /// Checks every element, both lengths of each, and the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        const BAD: Error = Error::Corrupt("listpack");
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(BAD)?;
        let total = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let stated = u16::from_le_bytes([header[4], header[5]]);
        let Some((&END, body)) = bytes[HEADER_LEN..].split_last() else { return Err(BAD) };
        if total as usize != bytes.len() {
            return Err(BAD);
        }
        let mut rest = body;
        let mut count = 0;
        while !rest.is_empty() {
            let (_, len) = element(rest).ok_or(BAD)?;
            let back_len = back_len_width(len);
            let (back, after) = rest[len..].split_at_checked(back_len).ok_or(BAD)?;
            if !back_len_is(back, len) {
                return Err(BAD);
            }
            rest = after;
            count += 1;
        }
        if stated != COUNT_UNKNOWN && usize::from(stated) != count {
            return Err(BAD);
        }
        Ok(Self { body, count })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> Iter<'a> {
        Iter { rest: self.body }
    }
}

/// The elements of a [`Listpack`] from the first to the last.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (element, len) = element(self.rest)?;
        self.rest = self.rest.get(len + back_len_width(len)..).unwrap_or_default();
        Some(element)
    }
}

/// The element at the front and its bytes without the trailing length. `None` if it is cut off, or
/// at the end mark.
fn element(bytes: &[u8]) -> Option<(Element<'_>, usize)> {
    let (&first, rest) = bytes.split_first()?;
    match first {
        0..0x80 => Some((Element::Int(first.into()), 1)),
        0x80..0xC0 => text(rest, 1, (first & 0x3f) as usize),
        0xC0..0xE0 => {
            let value = i64::from(first & 0x1f) << 8 | i64::from(*rest.first()?);
            // 13 bits, two's complement.
            Some((Element::Int(if value >= 1 << 12 { value - (1 << 13) } else { value }), 2))
        }
        0xE0..0xF0 => {
            let (&low, rest) = rest.split_first()?;
            text(rest, 2, (first as usize & 0x0f) << 8 | low as usize)
        }
        0xF0 => {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            text(rest, 5, u32::from_le_bytes(*len) as usize)
        }
        0xF1 => int::<2>(rest),
        0xF2 => int::<3>(rest),
        0xF3 => int::<4>(rest),
        0xF4 => int::<8>(rest),
        _ => None,
    }
}

fn text(rest: &[u8], head_len: usize, len: usize) -> Option<(Element<'_>, usize)> {
    Some((Element::Bytes(rest.get(..len)?), head_len + len))
}

fn int<const N: usize>(rest: &[u8]) -> Option<(Element<'_>, usize)> {
    Some((Element::Int(super::little_endian_int(rest.first_chunk::<N>()?)), 1 + N))
}

/// Bytes of the trailing length of an element of `len` bytes. The bounds are Redis's, who leaves
/// the last value of each width unused.
fn back_len_width(len: usize) -> usize {
    match len {
        0..=127 => 1,
        128..16383 => 2,
        16383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

fn back_len_is(back: &[u8], len: usize) -> bool {
    let width = back.len();
    back.iter().enumerate().all(|(i, &byte)| byte == back_len_byte(len, width, i))
}

/// Seven bits per byte, highest first; every byte but the first has its top bit set.
fn back_len_byte(len: usize, width: usize, i: usize) -> u8 {
    let bits = (len >> (7 * (width - 1 - i)) & 0x7f) as u8;
    if i == 0 { bits } else { bits | 0x80 }
}

/// Builds a listpack at the end of a buffer.
#[derive(Debug)]
pub struct Builder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    count: usize,
}

impl<'a> Builder<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        Self { out, start, count: 0 }
    }

    /// Bytes so far, with the header.
    pub fn len_bytes(&self) -> usize {
        self.out.len() - self.start
    }

    /// Appends an element; what looks like an integer is stored as one.
    pub fn push(&mut self, bytes: &[u8]) {
        match canonical_int(bytes) {
            Some(value) => self.push_int(value),
            None => self.push_text(bytes),
        }
    }

    pub fn push_int(&mut self, value: i64) {
        let start = self.out.len();
        let le = value.to_le_bytes();
        match value {
            0..=127 => self.out.push(value as u8),
            -4096..=4095 => {
                let bits = (value & 0x1fff) as u16;
                self.out.extend_from_slice(&(0xC000 | bits).to_be_bytes());
            }
            -0x8000..=0x7fff => self.push_int_bytes(0xF1, &le[..2]),
            -0x80_0000..=0x7f_ffff => self.push_int_bytes(0xF2, &le[..3]),
            -0x8000_0000..=0x7fff_ffff => self.push_int_bytes(0xF3, &le[..4]),
            _ => self.push_int_bytes(0xF4, &le),
        }
        self.finish_element(start);
    }

    fn push_int_bytes(&mut self, code: u8, bytes: &[u8]) {
        self.out.push(code);
        self.out.extend_from_slice(bytes);
    }

    fn push_text(&mut self, bytes: &[u8]) {
        let start = self.out.len();
        match bytes.len() {
            len @ 0..64 => self.out.push(0x80 | len as u8),
            len @ 64..4096 => self.out.extend_from_slice(&(0xE000 | len as u16).to_be_bytes()),
            len => {
                self.out.push(0xF0);
                self.out.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        self.out.extend_from_slice(bytes);
        self.finish_element(start);
    }

    fn finish_element(&mut self, start: usize) {
        let len = self.out.len() - start;
        let width = back_len_width(len);
        for i in 0..width {
            self.out.push(back_len_byte(len, width, i));
        }
        self.count += 1;
    }

    /// Writes the end mark and the header. The whole must be below 4 GiB: callers bound it.
    pub fn finish(self) {
        self.out.push(END);
        let total = (self.out.len() - self.start) as u32;
        let count = u16::try_from(self.count).unwrap_or(COUNT_UNKNOWN);
        self.out[self.start..self.start + 4].copy_from_slice(&total.to_le_bytes());
        self.out[self.start + 4..self.start + 6].copy_from_slice(&count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(items: &[Vec<u8>]) -> Vec<u8> {
        let mut out = b"prefix".to_vec();
        let mut builder = Builder::new(&mut out);
        for item in items {
            builder.push(item);
        }
        builder.finish();
        out.split_off(6)
    }

    fn list(bytes: &[u8]) -> Vec<Vec<u8>> {
        let pack = Listpack::parse(bytes).unwrap();
        let items: Vec<_> =
            pack.iter().map(|item| item.bytes(&mut itoa::Buffer::new()).to_vec()).collect();
        assert_eq!(items.len(), pack.len());
        items
    }

    #[test]
    fn every_width() {
        let mut items: Vec<Vec<u8>> = Vec::new();
        for shift in 0..63 {
            for value in
                [1i64 << shift, (1i64 << shift) - 1, -(1i64 << shift), -(1i64 << shift) - 1]
            {
                items.push(value.to_string().into_bytes());
            }
        }
        for len in
            [0, 1, 63, 64, 126, 127, 128, 4095, 4096, 16379, 16380, 16381, 16382, 16383, 2_097_150]
        {
            items.push(vec![b'x'; len]);
        }
        assert_eq!(list(&build(&items)), items);
    }

    #[test]
    fn as_redis_writes_it() {
        // `DEBUG LISTPACK`-style bytes of a hash {a: 1, b: hello}, from redis-server 7.0's DUMP.
        let items = [b"a".to_vec(), b"1".to_vec(), b"b".to_vec(), b"hello".to_vec()];
        let expected = b"\x16\0\0\0\x04\0\x81a\x02\x01\x01\x81b\x02\x85hello\x06\xff";
        assert_eq!(build(&items), expected);
    }

    #[test]
    fn more_elements_than_the_header_counts() {
        let items = vec![b"1".to_vec(); 70_000];
        let bytes = build(&items);
        assert_eq!(bytes[4..6], [0xff, 0xff]);
        assert_eq!(list(&bytes).len(), 70_000);
    }

    proptest! {
        #[test]
        fn round_trip(items in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            any::<i64>().prop_map(|value| value.to_string().into_bytes()),
        ], 0..30)) {
            prop_assert_eq!(list(&build(&items)), items);
        }

        #[test]
        fn damage_never_panics(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..10),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = build(&items);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(pack) = Listpack::parse(&bytes) {
                prop_assert_eq!(pack.iter().count(), pack.len());
            }
        }
    }
}
