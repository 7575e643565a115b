//! The payload of DUMP and RESTORE: one value, the version, and the checksum of both.

use super::decode::{Decoder, Slice};
use super::encode::StringWriter;
use super::{DUMP_FOOTER_LEN, Error, VERSION, VERSION_READ_MAX, crc64, value};
use crate::config::EncodingLimits;
use crate::value::{Value, ValueRef};

/// The payload of a value.
pub(crate) fn write(value: ValueRef<'_>) -> Vec<u8> {
    let mut out = vec![value::kind_of(value)];
    value::write(value, &mut StringWriter::compressing(), &mut out);
    out.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc64::update(0, &out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The value of a payload. [`Error::Version`] or [`Error::Checksum`] if the footer does not fit.
pub(crate) fn read(payload: &[u8], limits: &EncodingLimits) -> Result<Value, Error> {
    let body_len = payload.len().checked_sub(DUMP_FOOTER_LEN).ok_or(Error::Checksum)?;
    let (checked, crc) = payload.split_last_chunk::<8>().ok_or(Error::Checksum)?;
    let (body, version) = checked.split_at(body_len);
    let version = u16::from_le_bytes([version[0], version[1]]);
    if version > VERSION_READ_MAX {
        return Err(Error::Version(version.into()));
    }
    if crc64::update(0, checked) != u64::from_le_bytes(*crc) {
        return Err(Error::Checksum);
    }
    // Bytes after the value are ignored, as Redis does.
    let mut input = Decoder::new(Slice(body));
    let kind = input.byte()?;
    value::read(kind, &mut input, limits)
}
