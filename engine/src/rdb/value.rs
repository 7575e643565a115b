//! Values of keys, written and read.

use super::decode::{Decoder, Source};
use super::encode::StringWriter;
use super::{Error, kind};
use crate::config::EncodingLimits;
use crate::value::{Value, ValueRef};

/// The type byte under which a value is written.
pub(crate) fn kind_of(value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Int(_) | ValueRef::Str(_) => kind::STRING,
        ValueRef::List(_) => kind::LIST_QUICKLIST_2,
        ValueRef::Set(_) => kind::SET,
        ValueRef::ZSet(_) => kind::ZSET_2,
        ValueRef::Hash(_) => kind::HASH,
    }
}

/// Writes a value without its type byte.
pub(crate) fn write(value: ValueRef<'_>, strings: &mut StringWriter, out: &mut Vec<u8>) {
    match value {
        ValueRef::Int(value) => strings.int_string(value, out),
        ValueRef::Str(bytes) => strings.string(bytes, out),
        _ => {}
    }
}

/// Reads a value whose type byte was `kind`.
pub(crate) fn read<S: Source>(
    kind: u8,
    input: &mut Decoder<S>,
    _limits: &EncodingLimits,
) -> Result<Value, Error> {
    match kind {
        kind::STRING => Ok(Value::from_bytes(input.string()?)),
        kind::MODULE_PRE_GA | kind::MODULE_2 => Err(Error::NotSupported("modules")),
        kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => {
            Err(Error::NotSupported("streams"))
        }
        _ => Err(Error::Corrupt("unknown type of value")),
    }
}
