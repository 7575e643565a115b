//! Values of keys, written and read.
//!
//! Written are the forms of Redis 7.0: packed collections as they are stored, since both sides use
//! the same packed form, the others element by element. Read is every form since Redis 2.4.

use super::decode::{Decoder, Source, parse_double};
use super::encode::{StringWriter, double, length};
use super::intset::Intset;
use super::stream;
use super::ziplist::Ziplist;
use super::zipmap::Zipmap;
use super::{Error, container, kind};
use crate::config::EncodingLimits;
use crate::value::hash::Hash;
use crate::value::list::{End, List};
use crate::value::packed::{Item, Packed};
use crate::value::set::Set;
use crate::value::zset::{Inserted, ZSet};
use crate::value::{Value, ValueRef};
use std::ops::Range;

/// The type byte under which a value is written.
pub(crate) fn kind_of(value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Int(_) | ValueRef::Str(_) => kind::STRING,
        ValueRef::List(_) => kind::LIST_QUICKLIST_2,
        ValueRef::Set(set) => match set.as_ints() {
            Some(_) => kind::SET_INTSET,
            // The packed form came with version 11.
            None => kind::SET,
        },
        ValueRef::ZSet(zset) => match zset.as_packed() {
            Some(_) => kind::ZSET_LISTPACK,
            None => kind::ZSET_2,
        },
        ValueRef::Hash(hash) => match hash.as_packed() {
            Some(_) => kind::HASH_LISTPACK,
            None => kind::HASH,
        },
        ValueRef::Stream(stream) => stream::kind_of(stream),
    }
}

/// From this many elements on a value that is not packed is written in parts. A part is a few of them.
const LARGE_LEN: usize = 1024;
/// Likewise for lists: nodes.
const LARGE_NODES: usize = 64;
/// Likewise for strings: bytes. Also the size of a part.
const LARGE_BYTES: usize = 64 * 1024;
/// Elements of a sorted set in one part.
const PART_LEN: usize = 64;

/// Whether writing a value at once would take noticeably long.
pub(crate) fn is_large(value: ValueRef<'_>) -> bool {
    match value {
        ValueRef::Int(_) => false,
        ValueRef::Str(bytes) => bytes.len() > LARGE_BYTES,
        ValueRef::List(list) => list.packs(0..usize::MAX).len() > LARGE_NODES,
        ValueRef::Set(set) => kind_of(value) == kind::SET && set.len() > LARGE_LEN,
        ValueRef::ZSet(zset) => kind_of(value) == kind::ZSET_2 && zset.len() > LARGE_LEN,
        ValueRef::Hash(hash) => kind_of(value) == kind::HASH && hash.len() > LARGE_LEN,
        ValueRef::Stream(stream) => stream.log.nodes().len() > LARGE_NODES,
    }
}

/// Writes what stands before the parts of a large value: how many bytes, nodes or elements.
pub(crate) fn write_head(value: ValueRef<'_>, out: &mut Vec<u8>) {
    let len = match value {
        ValueRef::Str(bytes) => bytes.len(),
        ValueRef::List(list) => list.packs(0..usize::MAX).len(),
        ValueRef::Stream(stream) => stream.log.nodes().len(),
        _ => value.aggregate_len().unwrap_or(0),
    };
    length(len as u64, out);
}

/// Writes the parts of a large value from `at` on (0 to begin) until `out` has `len_max` bytes, at
/// least one part. Returns where to go on, `None` at the end. The value must not change in between.
pub(crate) fn write_parts(
    value: ValueRef<'_>,
    mut at: u64,
    len_max: usize,
    strings: &mut StringWriter,
    out: &mut Vec<u8>,
) -> Option<u64> {
    loop {
        at = write_part(value, at, strings, out)?;
        if out.len() >= len_max {
            return Some(at);
        }
    }
}

fn write_part(
    value: ValueRef<'_>,
    at: u64,
    strings: &mut StringWriter,
    out: &mut Vec<u8>,
) -> Option<u64> {
    let from = at as usize;
    match value {
        ValueRef::Int(_) => None,
        ValueRef::Str(bytes) => {
            let to = bytes.len().min(from + LARGE_BYTES);
            out.extend_from_slice(&bytes[from..to]);
            (to < bytes.len()).then_some(to as u64)
        }
        ValueRef::List(list) => {
            for packed in list.packs(from..from + 1) {
                write_node(packed, strings, out);
            }
            (from + 1 < list.packs(0..usize::MAX).len()).then_some(at + 1)
        }
        ValueRef::ZSet(zset) => {
            let to = zset.len().min(from + PART_LEN);
            write_scored(zset, from..to, strings, out);
            (to < zset.len()).then_some(to as u64)
        }
        // Scans of a table that does not change visit everything exactly once.
        ValueRef::Set(set) => {
            let next = set.scan(at, |member| write_item(member, strings, out));
            (next != 0).then_some(next)
        }
        ValueRef::Hash(hash) => {
            let next = hash.scan(at, |field, value| {
                write_item(field, strings, out);
                write_item(value, strings, out);
            });
            (next != 0).then_some(next)
        }
        ValueRef::Stream(stream) => match stream.log.nodes().get(from) {
            Some(node) => {
                stream::write_node(node, strings, out);
                Some(at + 1)
            }
            None => {
                stream::write_tail(stream, strings, out);
                None
            }
        },
    }
}

/// Writes a value without its type byte.
pub(crate) fn write(value: ValueRef<'_>, strings: &mut StringWriter, out: &mut Vec<u8>) {
    match value {
        ValueRef::Int(value) => strings.int_string(value, out),
        ValueRef::Str(bytes) => strings.string(bytes, out),
        ValueRef::List(list) => write_list(list, strings, out),
        ValueRef::Set(set) => write_set(set, strings, out),
        ValueRef::ZSet(zset) => write_zset(zset, strings, out),
        ValueRef::Hash(hash) => write_hash(hash, strings, out),
        ValueRef::Stream(stream) => stream::write(stream, strings, out),
    }
}

fn write_list(list: &List, strings: &mut StringWriter, out: &mut Vec<u8>) {
    let packs = list.packs(0..usize::MAX);
    length(packs.len() as u64, out);
    for packed in packs {
        write_node(packed, strings, out);
    }
}

fn write_node(packed: &Packed, strings: &mut StringWriter, out: &mut Vec<u8>) {
    length(container::PACKED, out);
    strings.string(packed.as_listpack(), out);
}

fn write_set(set: &Set, strings: &mut StringWriter, out: &mut Vec<u8>) {
    if let Some(ints) = set.as_ints() {
        let mut blob = Vec::with_capacity(8 + ints.raw().len());
        blob.extend_from_slice(&(ints.width() as u32).to_le_bytes());
        blob.extend_from_slice(&(ints.len() as u32).to_le_bytes());
        blob.extend_from_slice(ints.raw());
        return strings.string(&blob, out);
    }
    length(set.len() as u64, out);
    for member in set.iter() {
        write_item(member, strings, out);
    }
}

fn write_zset(zset: &ZSet, strings: &mut StringWriter, out: &mut Vec<u8>) {
    if let Some(packed) = zset.as_packed() {
        return strings.string(packed.as_listpack(), out);
    }
    length(zset.len() as u64, out);
    write_scored(zset, 0..zset.len(), strings, out);
}

fn write_scored(zset: &ZSet, ranks: Range<usize>, strings: &mut StringWriter, out: &mut Vec<u8>) {
    zset.visit(ranks, false, |member, score| {
        write_item(member, strings, out);
        double(score, out);
    });
}

fn write_hash(hash: &Hash, strings: &mut StringWriter, out: &mut Vec<u8>) {
    if let Some(packed) = hash.as_packed() {
        return strings.string(packed.as_listpack(), out);
    }
    length(hash.len() as u64, out);
    for (field, value) in hash.iter() {
        write_item(field, strings, out);
        write_item(value, strings, out);
    }
}

fn write_item(item: Item<'_>, strings: &mut StringWriter, out: &mut Vec<u8>) {
    match item {
        Item::Int(value) => strings.int_string(value, out),
        Item::Bytes(bytes) => strings.string(bytes, out),
    }
}

/// Reads a value whose type byte was `kind`. Unless it is a stream, it has at least one element.
pub(crate) fn read<S: Source>(
    kind: u8,
    input: &mut Decoder<S>,
    limits: &EncodingLimits,
) -> Result<Value, Error> {
    let value = match kind {
        kind::STRING => return Ok(Value::from_bytes(input.string()?)),
        kind::LIST | kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => {
            Value::List(Box::new(read_list(kind, input, limits)?))
        }
        kind::SET | kind::SET_INTSET | kind::SET_LISTPACK => {
            Value::Set(Box::new(read_set(kind, input, limits)?))
        }
        kind::ZSET | kind::ZSET_2 | kind::ZSET_ZIPLIST | kind::ZSET_LISTPACK => {
            Value::ZSet(Box::new(read_zset(kind, input, limits)?))
        }
        kind::HASH | kind::HASH_ZIPMAP | kind::HASH_ZIPLIST | kind::HASH_LISTPACK => {
            Value::Hash(Box::new(read_hash(kind, input, limits)?))
        }
        kind::MODULE_PRE_GA | kind::MODULE_2 => return Err(Error::NotSupported("modules")),
        kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => {
            return Ok(Value::Stream(Box::new(stream::read(kind, input)?)));
        }
        _ => return Err(Error::Corrupt("unknown type of value")),
    };
    let len = match &value {
        Value::List(list) => list.len(),
        Value::Set(set) => set.len(),
        Value::ZSet(zset) => zset.len(),
        Value::Hash(hash) => hash.len(),
        Value::Int(_) | Value::Str(_) | Value::Stream(_) => 1,
    };
    if len == 0 { Err(Error::Corrupt("empty collection")) } else { Ok(value) }
}

fn read_list<S: Source>(
    kind: u8,
    input: &mut Decoder<S>,
    limits: &EncodingLimits,
) -> Result<List, Error> {
    let mut list = List::new();
    match kind {
        kind::LIST => {
            for _ in 0..input.count(1)? {
                list.push(End::Back, input.string()?, limits);
            }
        }
        kind::LIST_ZIPLIST => push_ziplist(&mut list, input.string()?, limits)?,
        kind::LIST_QUICKLIST => {
            for _ in 0..input.count(1)? {
                push_ziplist(&mut list, input.string()?, limits)?;
            }
        }
        _ => {
            for _ in 0..input.count(2)? {
                match input.length()? {
                    container::PLAIN => list.push(End::Back, input.string()?, limits),
                    container::PACKED => list.append_packed(packed(input.string()?)?),
                    _ => return Err(Error::Corrupt("unknown container of a list")),
                }
            }
        }
    }
    Ok(list)
}

fn push_ziplist(list: &mut List, bytes: &[u8], limits: &EncodingLimits) -> Result<(), Error> {
    for element in Ziplist::parse(bytes)?.iter() {
        list.push(End::Back, element.bytes(&mut itoa::Buffer::new()), limits);
    }
    Ok(())
}

fn read_set<S: Source>(
    kind: u8,
    input: &mut Decoder<S>,
    limits: &EncodingLimits,
) -> Result<Set, Error> {
    let mut set = Set::new();
    let mut digits = itoa::Buffer::new();
    match kind {
        kind::SET => {
            for _ in 0..input.count(1)? {
                add(&mut set, input.string()?, limits)?;
            }
        }
        kind::SET_INTSET => {
            for value in Intset::parse(input.string()?)?.iter() {
                add(&mut set, digits.format(value).as_bytes(), limits)?;
            }
        }
        _ => {
            for member in packed(input.string()?)?.iter() {
                add(&mut set, member.bytes(&mut digits), limits)?;
            }
        }
    }
    Ok(set)
}

fn add(set: &mut Set, member: &[u8], limits: &EncodingLimits) -> Result<(), Error> {
    if set.add(member, limits) { Ok(()) } else { Err(TWICE) }
}

const TWICE: Error = Error::Corrupt("an element stands twice");

fn read_zset<S: Source>(
    kind: u8,
    input: &mut Decoder<S>,
    limits: &EncodingLimits,
) -> Result<ZSet, Error> {
    let mut zset = ZSet::new();
    let mut member = Vec::new();
    match kind {
        kind::ZSET | kind::ZSET_2 => {
            for _ in 0..input.count(2)? {
                member.clear();
                member.extend_from_slice(input.string()?);
                let score =
                    if kind == kind::ZSET { input.text_double()? } else { input.double()? };
                add_scored(&mut zset, &member, score, limits)?;
            }
        }
        kind::ZSET_ZIPLIST => {
            let list = Ziplist::parse(input.string()?)?;
            for (member, score) in pairs(list.iter(), list.len())? {
                let score = score_of(score)?;
                add_scored(&mut zset, member.bytes(&mut itoa::Buffer::new()), score, limits)?;
            }
        }
        _ => {
            let bytes = input.string()?;
            if let Some(zset) = ZSet::from_packed(packed(bytes)?, limits) {
                return Ok(zset);
            }
            // Damaged, or too large for this engine's limits: the slow way tells.
            let packed = packed(bytes)?;
            for (member, score) in pairs(packed.iter(), packed.len())? {
                let score = score_of(score)?;
                add_scored(&mut zset, member.bytes(&mut itoa::Buffer::new()), score, limits)?;
            }
        }
    }
    Ok(zset)
}

fn add_scored(
    zset: &mut ZSet,
    member: &[u8],
    score: f64,
    limits: &EncodingLimits,
) -> Result<(), Error> {
    if score.is_nan() {
        return Err(Error::Corrupt("a score is not a number"));
    }
    match zset.insert(member, score, limits) {
        Inserted::Added => Ok(()),
        Inserted::Moved | Inserted::Same => Err(TWICE),
    }
}

fn score_of(element: Item<'_>) -> Result<f64, Error> {
    match element {
        Item::Int(value) => Ok(value as f64),
        Item::Bytes(text) => parse_double(text),
    }
}

fn read_hash<S: Source>(
    kind: u8,
    input: &mut Decoder<S>,
    limits: &EncodingLimits,
) -> Result<Hash, Error> {
    let mut hash = Hash::new();
    match kind {
        kind::HASH => {
            let mut field = Vec::new();
            for _ in 0..input.count(2)? {
                field.clear();
                field.extend_from_slice(input.string()?);
                set_field(&mut hash, &field, input.string()?, limits)?;
            }
        }
        kind::HASH_ZIPMAP => {
            for (field, value) in Zipmap::parse(input.string()?)?.iter() {
                set_field(&mut hash, field, value, limits)?;
            }
        }
        kind::HASH_ZIPLIST => {
            let list = Ziplist::parse(input.string()?)?;
            set_pairs(&mut hash, pairs(list.iter(), list.len())?, limits)?;
        }
        _ => {
            let bytes = input.string()?;
            if let Some(hash) = Hash::from_packed(packed(bytes)?, limits) {
                return Ok(hash);
            }
            // Damaged, or too large for this engine's limits: the slow way tells.
            let packed = packed(bytes)?;
            let elements = packed.iter();
            set_pairs(&mut hash, pairs(elements, packed.len())?, limits)?;
        }
    }
    Ok(hash)
}

fn set_pairs<'a>(
    hash: &mut Hash,
    pairs: impl Iterator<Item = (Item<'a>, Item<'a>)>,
    limits: &EncodingLimits,
) -> Result<(), Error> {
    let (mut field_digits, mut value_digits) = (itoa::Buffer::new(), itoa::Buffer::new());
    for (field, value) in pairs {
        let (field, value) = (field.bytes(&mut field_digits), value.bytes(&mut value_digits));
        set_field(hash, field, value, limits)?;
    }
    Ok(())
}

fn set_field(
    hash: &mut Hash,
    field: &[u8],
    value: &[u8],
    limits: &EncodingLimits,
) -> Result<(), Error> {
    if hash.set(field, value, limits) { Ok(()) } else { Err(TWICE) }
}

fn pairs<'a>(
    mut elements: impl Iterator<Item = Item<'a>>,
    len: usize,
) -> Result<impl Iterator<Item = (Item<'a>, Item<'a>)>, Error> {
    if !len.is_multiple_of(2) {
        return Err(Error::Corrupt("a key without value"));
    }
    Ok(std::iter::from_fn(move || Some((elements.next()?, elements.next()?))))
}

fn packed(bytes: &[u8]) -> Result<Packed, Error> {
    Packed::from_listpack(bytes).ok_or(Error::Corrupt("listpack"))
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
