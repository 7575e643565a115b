//! Ziplists: the packed form of small lists, hashes and sorted sets before Redis 7.0. Only read.
//!
//! Header: total bytes u32, offset of the last element u32, element count u16 (65535: not known),
//! little endian. Then elements and the byte 0xFF. An element is the length of the one before it,
//! its encoding and its data.

use super::Error;
use crate::value::packed::Item;

const HEADER_LEN: usize = 10;
const END: u8 = 0xFF;
const COUNT_UNKNOWN: u16 = u16::MAX;

/// A ziplist that was checked from end to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ziplist<'a> {
    body: &'a [u8],
    count: usize,
}

impl<'a> Ziplist<'a> {
    /// Checks every element, the links backwards, and the header.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        const BAD: Error = Error::Corrupt("ziplist");
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(BAD)?;
        let total = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let tail = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let stated = u16::from_le_bytes([header[8], header[9]]);
        let Some((&END, body)) = bytes[HEADER_LEN..].split_last() else { return Err(BAD) };
        if total as usize != bytes.len() {
            return Err(BAD);
        }
        let (mut at, mut last, mut previous_len, mut count) = (0, 0, 0, 0);
        while at < body.len() {
            let (stated_previous, _, len) = element(&body[at..]).ok_or(BAD)?;
            if stated_previous != previous_len {
                return Err(BAD);
            }
            last = at;
            previous_len = len;
            at += len;
            count += 1;
        }
        if tail as usize != HEADER_LEN + last
            || (stated != COUNT_UNKNOWN && usize::from(stated) != count)
        {
            return Err(BAD);
        }
        Ok(Self { body, count })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn iter(&self) -> Iter<'a> {
        Iter { rest: self.body }
    }
}

/// The elements of a [`Ziplist`] from the first to the last.
#[derive(Clone, Debug)]
pub(crate) struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let (_, element, len) = element(self.rest)?;
        self.rest = &self.rest[len..];
        Some(element)
    }
}

/// The element at the front: the stated length of the one before it, its value, its whole length.
fn element(bytes: &[u8]) -> Option<(usize, Item<'_>, usize)> {
    let (previous, rest) = match bytes.split_first()? {
        (&END, _) => return None,
        (&0xFE, rest) => {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            (u32::from_le_bytes(*len) as usize, rest)
        }
        (&len, rest) => (len as usize, rest),
    };
    let (value, after) = value(rest)?;
    Some((previous, value, bytes.len() - after.len()))
}

fn value(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    match first {
        0..0x40 => text(rest, first as usize),
        0x40..0x80 => {
            let (&low, rest) = rest.split_first()?;
            text(rest, (first as usize & 0x3f) << 8 | low as usize)
        }
        0x80 => {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            text(rest, u32::from_be_bytes(*len) as usize)
        }
        0xC0 => int::<2>(rest),
        0xD0 => int::<4>(rest),
        0xE0 => int::<8>(rest),
        0xF0 => int::<3>(rest),
        0xFE => int::<1>(rest),
        0xF1..=0xFD => Some((Item::Int(i64::from(first & 0x0f) - 1), rest)),
        _ => None,
    }
}

fn text(rest: &[u8], len: usize) -> Option<(Item<'_>, &[u8])> {
    let (text, rest) = rest.split_at_checked(len)?;
    Some((Item::Bytes(text), rest))
}

fn int<const N: usize>(rest: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (bytes, rest) = rest.split_first_chunk::<N>()?;
    Some((Item::Int(super::little_endian_int(bytes)), rest))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A ziplist of elements given in their encoded form (without the previous length).
    pub(in super::super) fn build(elements: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        let (mut previous, mut last) = (0usize, 0);
        for encoded in elements {
            last = body.len();
            if previous < 254 {
                body.push(previous as u8);
            } else {
                body.push(0xFE);
                body.extend_from_slice(&(previous as u32).to_le_bytes());
            }
            body.extend_from_slice(encoded);
            previous = body.len() - last;
        }
        let mut out = ((HEADER_LEN + body.len() + 1) as u32).to_le_bytes().to_vec();
        out.extend_from_slice(&((HEADER_LEN + last) as u32).to_le_bytes());
        out.extend_from_slice(&(elements.len() as u16).to_le_bytes());
        out.extend_from_slice(&body);
        out.push(END);
        out
    }

    #[test]
    fn every_form() {
        let mut long = vec![0x41, 0x2c];
        long.extend_from_slice(&[b'x'; 300]);
        let mut huge = vec![0x80, 0, 0, 0x40, 0];
        huge.extend_from_slice(&[b'y'; 16384]);
        let bytes = build(&[
            b"\x03abc",
            &long,
            b"\xf1",
            b"\xfd",
            b"\xfe\xff",
            b"\xc0\xff\x7f",
            b"\xf0\0\0\x80",
            b"\xd0\x01\0\0\0",
            &huge,
            b"\xe0\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\0",
        ]);
        let list = Ziplist::parse(&bytes).unwrap();
        let got: Vec<_> = list.iter().collect();
        assert_eq!(
            got,
            [
                Item::Bytes(b"abc"),
                Item::Bytes(&[b'x'; 300]),
                Item::Int(0),
                Item::Int(12),
                Item::Int(-1),
                Item::Int(32767),
                Item::Int(-(1 << 23)),
                Item::Int(1),
                Item::Bytes(&[b'y'; 16384]),
                Item::Int(i64::MAX),
                Item::Bytes(b""),
            ]
        );
        assert_eq!(list.len(), got.len());
    }

    #[test]
    fn any_single_damage_is_survived() {
        let good = build(&[b"\x03abc", b"\xc0\xff\x7f", b"\xf1", b"\x01z"]);
        for at in 0..good.len() {
            for byte in 0..=255 {
                let mut bad = good.clone();
                bad[at] = byte;
                if let Ok(list) = Ziplist::parse(&bad) {
                    assert_eq!(list.iter().count(), list.len());
                }
                assert!(Ziplist::parse(&bad[..at]).is_err());
            }
        }
    }
}
