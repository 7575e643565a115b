//! The types of values.
//!
//! A key's value is one of [`Value`]'s variants. Strings are stored inside the key's own
//! allocation (see `entry`); the other types are one boxed structure each, in their own module,
//! and all have the methods of [`Aggregate`].
//!
//! Tables inside values are made with `Table::new()`, which takes the hash seed of the engine that
//! is running; nothing needs to hand it down.

pub(crate) mod blob;
pub mod hash;
pub(crate) mod intset;
pub mod list;
pub(crate) mod ordered;
pub(crate) mod packed;
pub(crate) mod pick;
pub(crate) mod record;
pub mod set;
pub mod stream;
pub mod zset;

#[cfg(test)]
mod memory_tests;

use crate::digest::Digest;
use hash::Hash;
use list::List;
use set::Set;
use stream::Stream;
use zset::ZSet;

/// What every type other than string has. All must be cheap except `clone` and `digest`.
pub(crate) trait Aggregate: Clone {
    /// Elements (fields, members); a key is deleted when this is 0 after a command.
    fn len(&self) -> usize;

    /// Bytes allocated by this value including `size_of::<Self>()`, in constant time: it is asked
    /// after every change. Use `crate::memory::allocated` for what an allocation costs.
    fn memory(&self) -> usize;

    /// The name OBJECT ENCODING shows.
    fn encoding(&self) -> &'static str;

    /// Adds the logical value, independent of encoding and of the order in which an unordered
    /// type happens to be stored (use `Digest::unordered`).
    fn digest(&self, digest: &mut Digest);
}

/// A value outside the keyspace: loaded, about to be inserted, or taken out.
#[derive(Clone, Debug)]
pub enum Value {
    Int(i64),
    Str(Vec<u8>),
    List(Box<List>),
    Set(Box<Set>),
    ZSet(Box<ZSet>),
    Hash(Box<Hash>),
    Stream(Box<Stream>),
}

/// A value in the keyspace, to be read.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// A string that is the decimal form of this number.
    Int(i64),
    Str(&'a [u8]),
    List(&'a List),
    Set(&'a Set),
    ZSet(&'a ZSet),
    Hash(&'a Hash),
    Stream(&'a Stream),
}

/// A value in the keyspace, to be changed.
#[derive(Debug)]
pub(crate) enum ValueMut<'a> {
    /// Strings are changed by replacing them or through [`crate::keyspace::Keys::string_mut`].
    Str,
    List(&'a mut List),
    Set(&'a mut Set),
    ZSet(&'a mut ZSet),
    Hash(&'a mut Hash),
    Stream(&'a mut Stream),
}

/// A string value that may be stored as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrRef<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl<'a> StrRef<'a> {
    /// The string's bytes; a number is written into `buffer`.
    pub(crate) fn bytes(self, buffer: &'a mut itoa::Buffer) -> &'a [u8] {
        match self {
            Self::Int(value) => buffer.format(value).as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(crate) fn len(self) -> usize {
        self.bytes(&mut itoa::Buffer::new()).len()
    }
}

impl ValueRef<'_> {
    /// The name that TYPE shows.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Int(_) | Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::ZSet(_) => "zset",
            Self::Hash(_) => "hash",
            Self::Stream(_) => "stream",
        }
    }

    /// A copy of the value.
    pub fn to_value(self) -> Value {
        match self {
            Self::Int(value) => Value::Int(value),
            Self::Str(bytes) => Value::Str(bytes.to_vec()),
            Self::List(list) => Value::List(Box::new(list.clone())),
            Self::Set(set) => Value::Set(Box::new(set.clone())),
            Self::ZSet(zset) => Value::ZSet(Box::new(zset.clone())),
            Self::Hash(hash) => Value::Hash(Box::new(hash.clone())),
            Self::Stream(stream) => Value::Stream(Box::new(stream.clone())),
        }
    }

    /// Elements of an aggregate; `None` for strings, and for streams, which may be empty.
    pub(crate) fn aggregate_len(&self) -> Option<usize> {
        Some(match self {
            Self::Int(_) | Self::Str(_) | Self::Stream(_) => return None,
            Self::List(list) => Aggregate::len(*list),
            Self::Set(set) => Aggregate::len(*set),
            Self::ZSet(zset) => Aggregate::len(*zset),
            Self::Hash(hash) => Aggregate::len(*hash),
        })
    }

    /// Bytes of the value outside the key's own allocation, aggregates only.
    pub(crate) fn aggregate_memory(&self) -> usize {
        match self {
            Self::Int(_) | Self::Str(_) => 0,
            Self::List(list) => list.memory(),
            Self::Set(set) => set.memory(),
            Self::ZSet(zset) => zset.memory(),
            Self::Hash(hash) => hash.memory(),
            Self::Stream(stream) => stream.memory(),
        }
    }

    /// Adds type and logical value to a digest.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        match self {
            Self::Int(value) => {
                digest.number(0);
                digest.bytes(itoa::Buffer::new().format(*value).as_bytes());
            }
            Self::Str(bytes) => {
                digest.number(0);
                digest.bytes(bytes);
            }
            Self::List(list) => {
                digest.number(1);
                list.digest(digest);
            }
            Self::Set(set) => {
                digest.number(2);
                set.digest(digest);
            }
            Self::ZSet(zset) => {
                digest.number(3);
                zset.digest(digest);
            }
            Self::Hash(hash) => {
                digest.number(4);
                hash.digest(digest);
            }
            Self::Stream(stream) => {
                digest.number(5);
                stream.digest(digest);
            }
        }
    }
}

impl Value {
    /// A string, as a number where its text is the canonical form of one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match crate::num::parse_i64(bytes) {
            Some(value) => Self::Int(value),
            None => Self::Str(bytes.to_vec()),
        }
    }
}
