//! Short sequences of strings and integers in one allocation: Redis's *listpack* format, byte for
//! byte (`listpack.md` in antirez/listpack; `listpack.c` in Redis 7), so that an RDB file takes and
//! gives them as they are.
//!
//! Layout: total length (u32), count (u16), entries, `0xFF`. An entry is its encoding with the
//! data, then the length of those in a form that reads backwards.

use super::blob::Blob;
use crate::num::parse_i64;

/// Length and count at the front.
const HEADER: usize = 6;
/// The last byte.
const END: u8 = 0xff;
/// The count of listpacks that have more entries than a u16 says; they must be counted.
const COUNT_UNKNOWN: usize = 0xffff;
/// No integer has more digits than this (`-9223372036854775808`).
const INT_TEXT_MAX: usize = 20;

/// A packed sequence. Positions are byte offsets of entries; they stay valid until the sequence is
/// changed in front of them.
#[derive(Clone)]
pub(crate) struct Packed(Blob);

/// One element as it is stored: text that is a canonical integer is stored as the integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

/// Room for the text of an integer ([`Item::bytes`]).
pub(crate) type IntText = itoa::Buffer;

impl<'a> Item<'a> {
    /// How `bytes` would be stored.
    #[inline]
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        if bytes.len() <= INT_TEXT_MAX
            && let Some(value) = parse_i64(bytes)
        {
            Self::Int(value)
        } else {
            Self::Bytes(bytes)
        }
    }

    /// The element as text.
    #[inline]
    pub(crate) fn bytes<'b>(&self, text: &'b mut IntText) -> &'b [u8]
    where
        'a: 'b,
    {
        match *self {
            Self::Int(value) => text.format(value).as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(crate) fn to_vec(self) -> Vec<u8> {
        self.bytes(&mut IntText::new()).to_vec()
    }

    /// Length of the text.
    pub(crate) fn text_len(&self) -> usize {
        match self {
            Self::Int(value) => itoa::Buffer::new().format(*value).len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

impl Packed {
    pub(crate) fn new() -> Self {
        let mut empty = [0; HEADER + 1];
        empty[HEADER] = END;
        Self(Blob::new(&empty))
    }

    /// Takes over a listpack from outside (an RDB file) after checking every entry of it.
    pub(crate) fn from_listpack(bytes: &[u8]) -> Option<Self> {
        let total = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        if total != bytes.len() || total < HEADER + 1 || bytes[total - 1] != END {
            return None;
        }
        let mut at = HEADER;
        let mut count = 0;
        while at < total - 1 {
            let len = checked_entry_len(&bytes[at..total - 1])?;
            let mut backwards = [0; 5];
            let back = encode_back_len(len, &mut backwards);
            if bytes.get(at + len..at + len + back)? != &backwards[..back] {
                return None;
            }
            at += len + back;
            count += 1;
        }
        let stored = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
        let consistent = stored == COUNT_UNKNOWN || stored == count;
        (at == total - 1 && consistent).then(|| Self(Blob::new(bytes)))
    }

    /// The listpack itself.
    pub(crate) fn as_listpack(&self) -> &[u8] {
        &self.0
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        let stored = usize::from(u16::from_le_bytes([self.0[4], self.0[5]]));
        if stored == COUNT_UNKNOWN { self.count() } else { stored }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() == HEADER + 1
    }

    /// Bytes of the listpack.
    pub(crate) fn byte_len(&self) -> usize {
        self.0.len()
    }

    /// Bytes that the allocation takes.
    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }

    /// Position after the last element: where [`Packed::insert`] appends.
    pub(crate) fn end(&self) -> usize {
        self.0.len() - 1
    }

    pub(crate) fn first(&self) -> Option<usize> {
        (!self.is_empty()).then_some(HEADER)
    }

    pub(crate) fn last(&self) -> Option<usize> {
        self.prev(self.end())
    }

    /// The position after `at`, which is an element's.
    #[inline]
    pub(crate) fn next(&self, at: usize) -> Option<usize> {
        let next = self.skip(at);
        (next < self.end()).then_some(next)
    }

    /// The position after the element at `at`, be it the end.
    pub(crate) fn after(&self, at: usize) -> usize {
        self.skip(at)
    }

    /// The position before `at`, which is an element's or [`Packed::end`].
    pub(crate) fn prev(&self, at: usize) -> Option<usize> {
        (at > HEADER).then(|| self.before(at))
    }

    /// Position of the element with this index; a negative one counts from the end.
    pub(crate) fn seek(&self, index: i64) -> Option<usize> {
        let len = self.len() as i64;
        let from_front = if index < 0 { index + len } else { index };
        if from_front < 0 || from_front >= len {
            return None;
        }
        if from_front <= len / 2 {
            let mut at = HEADER;
            for _ in 0..from_front {
                at = self.skip(at);
            }
            Some(at)
        } else {
            let mut at = self.end();
            for _ in from_front..len {
                at = self.before(at);
            }
            Some(at)
        }
    }

    /// The element at a position.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> Item<'_> {
        decode(&self.0[at..])
    }

    pub(crate) fn push_back(&mut self, bytes: &[u8]) {
        self.insert(self.end(), bytes);
    }

    pub(crate) fn push_front(&mut self, bytes: &[u8]) {
        self.insert(HEADER, bytes);
    }

    /// Inserts in front of the element at `at`, or at the end.
    pub(crate) fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.splice(at, 0, Item::of(bytes), 1);
    }

    pub(crate) fn replace(&mut self, at: usize, bytes: &[u8]) {
        let removed = self.skip(at) - at;
        self.splice(at, removed, Item::of(bytes), 0);
    }

    /// Appends an integer.
    pub(crate) fn push_int(&mut self, value: i64) {
        self.splice(self.end(), 0, Item::Int(value), 1);
    }

    pub(crate) fn replace_int(&mut self, at: usize, value: i64) {
        let removed = self.skip(at) - at;
        self.splice(at, removed, Item::Int(value), 0);
    }

    /// Removes one element; the position is then that of the next one, or the end.
    pub(crate) fn remove(&mut self, at: usize) {
        self.remove_run(at, 1);
    }

    /// Removes `count` elements from `at` on (fewer if there are not as many).
    pub(crate) fn remove_run(&mut self, at: usize, count: usize) {
        let mut until = at;
        let mut removed = 0;
        while removed < count && until < self.end() {
            until = self.skip(until);
            removed += 1;
        }
        self.0.splice(at, until - at, 0);
        self.add_to_count(-(removed as i64));
    }

    /// Moves all elements from `at` on into a new sequence.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let mut tail = Self::new();
        let moved = self.end() - at;
        tail.0.splice(HEADER, 0, moved);
        tail.0[HEADER..HEADER + moved].copy_from_slice(&self.0[at..at + moved]);
        let count = tail.count();
        tail.set_count(count);
        let old_count = self.len();
        self.0.splice(at, moved, 0);
        self.set_count(old_count - count);
        tail
    }

    /// Appends all elements of `other`.
    pub(crate) fn append(&mut self, other: &Self) {
        let count = self.len() + other.len();
        let moved = other.end() - HEADER;
        let at = self.end();
        self.0.splice(at, 0, moved);
        self.0[at..at + moved].copy_from_slice(&other.0[HEADER..HEADER + moved]);
        self.set_count(count);
    }

    /// The first position from `from` on, in steps of `stride` elements, whose element is `item`
    /// (as [`Item::of`] gives it).
    pub(crate) fn find(&self, from: usize, item: Item<'_>, stride: usize) -> Option<usize> {
        let end = self.end();
        let mut at = from;
        while at < end {
            if self.get(at) == item {
                return Some(at);
            }
            for _ in 0..stride {
                if at < end {
                    at = self.skip(at);
                }
            }
        }
        None
    }

    pub(crate) fn iter(&self) -> Iter<'_> {
        Iter { packed: self, front: HEADER, back: self.end() }
    }

    /// Elements from position `at` on.
    pub(crate) fn iter_from(&self, at: usize) -> Iter<'_> {
        Iter { packed: self, front: at, back: self.end() }
    }

    /// Elements in front of position `at`.
    pub(crate) fn iter_until(&self, at: usize) -> Iter<'_> {
        Iter { packed: self, front: HEADER, back: at }
    }

    /// Elements two by two.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
        let mut items = self.iter();
        std::iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    /// Bytes that an element with this text would add.
    pub(crate) fn cost(bytes: &[u8]) -> usize {
        let len = encoded_len(Item::of(bytes));
        len + encode_back_len(len, &mut [0; 5])
    }

    fn splice(&mut self, at: usize, removed: usize, item: Item<'_>, count_change: i64) {
        let mut back = [0; 5];
        let len = encoded_len(item);
        let back_len = encode_back_len(len, &mut back);
        self.0.splice(at, removed, len + back_len);
        encode(item, &mut self.0[at..at + len]);
        self.0[at + len..at + len + back_len].copy_from_slice(&back[..back_len]);
        self.add_to_count(count_change);
    }

    /// Offset after the entry at `at`.
    #[inline]
    fn skip(&self, at: usize) -> usize {
        let len = entry_len(&self.0[at..]);
        at + len + back_len_size(len)
    }

    /// Offset of the entry that ends at `at`.
    fn before(&self, at: usize) -> usize {
        let mut len = 0;
        let mut size = 0;
        loop {
            let byte = self.0[at - 1 - size];
            len |= usize::from(byte & 0x7f) << (7 * size);
            size += 1;
            if byte & 0x80 == 0 {
                return at - size - len;
            }
        }
    }

    fn count(&self) -> usize {
        let mut at = HEADER;
        let mut count = 0;
        while at < self.end() {
            at = self.skip(at);
            count += 1;
        }
        count
    }

    fn add_to_count(&mut self, change: i64) {
        if change == 0 {
            return;
        }
        let stored = usize::from(u16::from_le_bytes([self.0[4], self.0[5]]));
        // An unknown count stays unknown until the entries fit again, as in Redis.
        let count =
            if stored == COUNT_UNKNOWN { self.count() } else { (stored as i64 + change) as usize };
        self.set_count(count);
    }

    fn set_count(&mut self, count: usize) {
        let stored = count.min(COUNT_UNKNOWN) as u16;
        self.0[4..HEADER].copy_from_slice(&stored.to_le_bytes());
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Elements of a packed sequence, from either end.
#[derive(Clone, Debug)]
pub(crate) struct Iter<'a> {
    packed: &'a Packed,
    front: usize,
    back: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Item<'a>;

    #[inline]
    fn next(&mut self) -> Option<Item<'a>> {
        if self.front >= self.back {
            return None;
        }
        let item = self.packed.get(self.front);
        self.front = self.packed.skip(self.front);
        Some(item)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.back = self.packed.before(self.back);
        Some(self.packed.get(self.back))
    }
}

/// Bytes of the encoding and the data of an entry.
fn encoded_len(item: Item<'_>) -> usize {
    match item {
        Item::Int(0..=127) => 1,
        Item::Int(-4096..=4095) => 2,
        Item::Int(value) => match significant_bytes(value) {
            0..=2 => 3,
            3 => 4,
            4 => 5,
            _ => 9,
        },
        Item::Bytes(bytes) => match bytes.len() {
            len @ 0..=63 => 1 + len,
            len @ 64..=4095 => 2 + len,
            len => 5 + len,
        },
    }
}

fn encode(item: Item<'_>, out: &mut [u8]) {
    match item {
        Item::Int(value @ 0..=127) => out[0] = value as u8,
        Item::Int(value @ -4096..=4095) => {
            let bits = value as u16 & 0x1fff;
            out[0] = 0xc0 | (bits >> 8) as u8;
            out[1] = bits as u8;
        }
        Item::Int(value) => {
            out[0] = match out.len() {
                3 => 0xf1,
                4 => 0xf2,
                5 => 0xf3,
                _ => 0xf4,
            };
            let width = out.len() - 1;
            out[1..].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        Item::Bytes(bytes) => {
            let len = bytes.len();
            let start = out.len() - len;
            match start {
                1 => out[0] = 0x80 | len as u8,
                2 => {
                    out[0] = 0xe0 | (len >> 8) as u8;
                    out[1] = len as u8;
                }
                _ => {
                    out[0] = 0xf0;
                    out[1..5].copy_from_slice(&(len as u32).to_le_bytes());
                }
            }
            out[start..].copy_from_slice(bytes);
        }
    }
}

/// How many little-endian bytes hold `value` with its sign.
fn significant_bytes(value: i64) -> usize {
    let magnitude = if value < 0 { !value } else { value };
    (64 - magnitude.leading_zeros() as usize + 1).div_ceil(8)
}

/// Bytes of the encoding and the data of the entry at the front of `entry`.
#[inline]
fn entry_len(entry: &[u8]) -> usize {
    match entry[0] {
        0x00..=0x7f => 1,
        byte @ 0x80..=0xbf => 1 + usize::from(byte & 0x3f),
        0xc0..=0xdf => 2,
        byte @ 0xe0..=0xef => 2 + (usize::from(byte & 0x0f) << 8 | usize::from(entry[1])),
        0xf0 => 5 + u32::from_le_bytes([entry[1], entry[2], entry[3], entry[4]]) as usize,
        0xf1 => 3,
        0xf2 => 4,
        0xf3 => 5,
        _ => 9,
    }
}

/// [`entry_len`] of bytes that nobody checked.
fn checked_entry_len(entry: &[u8]) -> Option<usize> {
    let header = match *entry.first()? {
        0xe0..=0xef => 2,
        0xf0 => 5,
        0xf5..=0xff => return None,
        _ => 1,
    };
    if entry.len() < header {
        return None;
    }
    let len = entry_len(entry);
    (len <= entry.len()).then_some(len)
}

#[inline]
fn decode(entry: &[u8]) -> Item<'_> {
    match entry[0] {
        byte @ 0x00..=0x7f => Item::Int(i64::from(byte)),
        byte @ 0x80..=0xbf => Item::Bytes(&entry[1..1 + usize::from(byte & 0x3f)]),
        byte @ 0xc0..=0xdf => {
            let bits = u16::from(byte & 0x1f) << 8 | u16::from(entry[1]);
            // Extends the sign of 13 bits.
            Item::Int(i64::from((bits << 3) as i16 >> 3))
        }
        0xe0..=0xef => Item::Bytes(&entry[2..entry_len(entry)]),
        0xf0 => Item::Bytes(&entry[5..entry_len(entry)]),
        _ => {
            let data = &entry[1..entry_len(entry)];
            let mut bytes = [0; 8];
            bytes[..data.len()].copy_from_slice(data);
            let unused = 64 - 8 * data.len() as u32;
            Item::Int(i64::from_le_bytes(bytes) << unused >> unused)
        }
    }
}

/// Bytes that [`encode_back_len`] takes.
#[inline]
fn back_len_size(len: usize) -> usize {
    // The limits are Redis's, which are one short of what the bits could hold.
    match len {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// Seven bits per byte, most significant first; all but the first byte have the top bit set.
fn encode_back_len(len: usize, out: &mut [u8; 5]) -> usize {
    let size = back_len_size(len);
    for (at, byte) in out[..size].iter_mut().enumerate() {
        let bits = (len >> (7 * (size - 1 - at))) as u8 & 0x7f;
        *byte = if at == 0 { bits } else { bits | 0x80 };
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(packed: &Packed) -> Vec<Vec<u8>> {
        packed.iter().map(Item::to_vec).collect()
    }

    fn element() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<i64>().prop_map(|value| value.to_string().into_bytes()),
            (-5000i64..5000).prop_map(|value| value.to_string().into_bytes()),
            (-40_000_000i64..40_000_000).prop_map(|value| value.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..70),
            prop::collection::vec(any::<u8>(), 4090..4100),
        ]
    }

    #[derive(Clone, Debug)]
    enum Op {
        Front(Vec<u8>),
        Back(Vec<u8>),
        Insert(usize, Vec<u8>),
        Replace(usize, Vec<u8>),
        Remove(usize, usize),
        Split(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            element().prop_map(Op::Front),
            element().prop_map(Op::Back),
            (any::<usize>(), element()).prop_map(|(at, bytes)| Op::Insert(at, bytes)),
            (any::<usize>(), element()).prop_map(|(at, bytes)| Op::Replace(at, bytes)),
            (any::<usize>(), 1usize..4).prop_map(|(at, count)| Op::Remove(at, count)),
            any::<usize>().prop_map(Op::Split),
        ]
    }

    fn apply(packed: &mut Packed, model: &mut Vec<Vec<u8>>, op: Op) {
        let len = model.len();
        let position = |packed: &Packed, at: usize| packed.seek(at as i64).expect("in range");
        match op {
            Op::Front(bytes) => {
                packed.push_front(&bytes);
                model.insert(0, bytes);
            }
            Op::Back(bytes) => {
                packed.push_back(&bytes);
                model.push(bytes);
            }
            Op::Insert(at, bytes) if len > 0 => {
                packed.insert(position(packed, at % len), &bytes);
                model.insert(at % len, bytes);
            }
            Op::Replace(at, bytes) if len > 0 => {
                packed.replace(position(packed, at % len), &bytes);
                model[at % len] = bytes;
            }
            Op::Remove(at, count) if len > 0 => {
                packed.remove_run(position(packed, at % len), count);
                model.drain(at % len..(at % len + count).min(len));
            }
            Op::Split(at) if len > 0 => {
                let tail = packed.split_off(position(packed, at % len));
                assert_eq!(texts(&tail), model[at % len..]);
                assert_eq!(tail.len(), len - at % len);
                assert_eq!(texts(packed), model[..at % len]);
                packed.append(&tail);
            }
            _ => {}
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn equals_a_vector(ops in prop::collection::vec(op(), 0..80)) {
            let mut packed = Packed::new();
            let mut model = Vec::new();
            for op in ops {
                apply(&mut packed, &mut model, op);
                prop_assert_eq!(packed.len(), model.len());
            }
            prop_assert_eq!(&texts(&packed), &model);
            let backwards: Vec<_> = packed.iter().rev().map(Item::to_vec).collect();
            prop_assert!(backwards.iter().eq(model.iter().rev()));
            for (index, bytes) in model.iter().enumerate() {
                let at = packed.seek(index as i64).expect("in range");
                prop_assert_eq!(&packed.get(at).to_vec(), bytes);
                prop_assert_eq!(packed.seek(index as i64 - model.len() as i64), Some(at));
                let found = packed.find(HEADER, Item::of(bytes), 1).expect("present");
                prop_assert!(found <= at);
            }
            let copy = Packed::from_listpack(packed.as_listpack()).expect("valid");
            prop_assert_eq!(copy.as_listpack(), packed.as_listpack());
        }

        #[test]
        fn hostile_bytes_are_refused_or_safe(mut bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let len = bytes.len() as u32;
            if len >= 7 {
                bytes[..4].copy_from_slice(&len.to_le_bytes());
                bytes[4..6].copy_from_slice(&[0xff, 0xff]);
                bytes[len as usize - 1] = END;
            }
            if let Some(packed) = Packed::from_listpack(&bytes) {
                prop_assert_eq!(texts(&packed).len(), packed.len());
                prop_assert_eq!(packed.iter().rev().count(), packed.len());
            }
        }
    }

    #[test]
    fn bytes_are_those_of_redis() {
        let mut packed = Packed::new();
        for element in ["a", "1", "-1", "4095", "300000", "hello"] {
            packed.push_back(element.as_bytes());
        }
        let expected: Vec<u8> = [
            &[37, 0, 0, 0, 6, 0][..],
            &[0x81, b'a', 2],
            &[1, 1],
            &[0xdf, 0xff, 2],
            &[0xcf, 0xff, 2],
            &[0xf2, 0xe0, 0x93, 0x04, 4],
            b"\x85hello\x06",
            &[0xff],
        ]
        .concat();
        let mut expected = expected;
        expected[0] = expected.len() as u8;
        assert_eq!(packed.as_listpack(), expected);
    }
}
