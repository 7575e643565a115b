//! Scalars of the format, written: lengths, strings, doubles. Everything appends to a `Vec<u8>`.

use super::lzf;
use crate::num::parse_i64;

/// Strings shorter than this are not worth a try at compression, as in Redis.
const COMPRESS_LEN_MIN: usize = 21;

/// How strings are written, and what is needed for it.
#[derive(Debug, Default)]
pub(crate) struct StringWriter {
    compress: bool,
    /// Made when first needed.
    compressor: Option<lzf::Compressor>,
}

impl StringWriter {
    /// Compresses strings of more than 20 bytes when that saves at least 4, as Redis does with
    /// `rdbcompression yes`.
    pub(crate) fn compressing() -> Self {
        Self { compress: true, compressor: None }
    }

    /// Writes strings as they are (integers still become binary): less CPU, more bytes.
    pub(crate) fn plain() -> Self {
        Self { compress: false, compressor: None }
    }

    /// Writes a string in the shortest of its forms: integer, compressed, plain.
    pub(crate) fn string(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.len() <= 11
            && let Some(value) = parse_i64(bytes)
            && let Ok(value) = i32::try_from(value)
        {
            return int(value, out);
        }
        if !self.compress || bytes.len() < COMPRESS_LEN_MIN || !self.compressed(bytes, out) {
            plain_string(bytes, out);
        }
    }

    /// Writes an integer as a string.
    pub(crate) fn int_string(&mut self, value: i64, out: &mut Vec<u8>) {
        match i32::try_from(value) {
            Ok(value) => int(value, out),
            Err(_) => plain_string(itoa::Buffer::new().format(value).as_bytes(), out),
        }
    }

    fn compressed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let compressor = self.compressor.get_or_insert_default();
        // The compressed length comes first and its width depends on it: room for the widest form is
        // left, and closed afterwards.
        const ROOM: usize = 1 + 9 + 9;
        let start = out.len();
        out.resize(start + ROOM, 0);
        if !compressor.compress(bytes, bytes.len() - 4, out) {
            out.truncate(start);
            return false;
        }
        let packed_len = out.len() - start - ROOM;
        let mut head = Vec::with_capacity(ROOM);
        head.push(0xC3);
        length(packed_len as u64, &mut head);
        length(bytes.len() as u64, &mut head);
        out[start..start + head.len()].copy_from_slice(&head);
        out.copy_within(start + ROOM.., start + head.len());
        out.truncate(start + head.len() + packed_len);
        true
    }
}

/// Writes a length: 1, 2, 5 or 9 bytes.
pub(crate) fn length(value: u64, out: &mut Vec<u8>) {
    if value < 1 << 6 {
        out.push(value as u8);
    } else if value < 1 << 14 {
        out.extend_from_slice(&(0x4000 | value as u16).to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(0x80);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(0x81);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Writes a string as it is.
pub(crate) fn plain_string(bytes: &[u8], out: &mut Vec<u8>) {
    length(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes a string that is a small integer.
fn int(value: i32, out: &mut Vec<u8>) {
    if let Ok(value) = i8::try_from(value) {
        out.extend_from_slice(&[0xC0, value as u8]);
    } else if let Ok(value) = i16::try_from(value) {
        out.push(0xC1);
        out.extend_from_slice(&value.to_le_bytes());
    } else {
        out.push(0xC2);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Writes a score of [`super::kind::ZSET_2`].
pub(crate) fn double(value: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes an auxiliary field; readers ignore the names they do not know.
pub(crate) fn aux(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(super::opcode::AUX);
    plain_string(name, out);
    plain_string(value, out);
}
