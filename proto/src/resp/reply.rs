//! Replies as a client reads them, RESP2 and RESP3.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Deepest nesting of a reply that is read. Redis itself nests at most about seven deep.
pub const NESTING_MAX: usize = 128;
/// Longest single string of a reply, bytes.
pub const REPLY_BULK_LEN_MAX: usize = 512 * 1024 * 1024 + 1024;
/// Longest line (simple string, error, number), bytes.
pub const LINE_LEN_MAX: usize = 1024 * 1024;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+`
    Simple(Bytes),
    /// `-`, or RESP3's `!`; the text begins with its code.
    Error(Bytes),
    /// `:`
    Integer(i64),
    /// `$`
    Bulk(Bytes),
    /// `_`, `$-1`
    Null,
    /// `*-1`
    NullArray,
    /// `*`
    Array(Vec<Self>),
    /// `%`
    Map(Vec<(Self, Self)>),
    /// `~`
    Set(Vec<Self>),
    /// `>`: not an answer to a request.
    Push(Vec<Self>),
    /// `,`
    Double(f64),
    /// `#`
    Boolean(bool),
    /// `(`: decimal digits.
    BigNumber(Bytes),
    /// `=`: format and text.
    Verbatim([u8; 3], Bytes),
    /// `|`: attributes and the value they belong to.
    Attributed(Vec<(Self, Self)>, Box<Self>),
}

impl Value {
    /// The text of a simple or bulk string, an error, a big number or a verbatim string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(bytes)
            | Self::Error(bytes)
            | Self::Bulk(bytes)
            | Self::BigNumber(bytes)
            | Self::Verbatim(_, bytes) => Some(bytes),
            _ => None,
        }
    }

    /// An integer, or a string that holds one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Bulk(bytes) | Self::Simple(bytes) => super::decode::parse_integer(bytes),
            _ => None,
        }
    }

    /// The elements of an array, set or push.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(elements) | Self::Set(elements) | Self::Push(elements) => Some(elements),
            _ => None,
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null | Self::NullArray)
    }

    /// `+OK`?
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text.as_ref() == b"OK")
    }
}

/// Bytes that are no reply; the connection is useless from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("unknown reply type byte {0:#04x}")]
    UnknownType(u8),
    #[error("malformed number in a reply")]
    BadNumber,
    #[error("a reply's string or line is too long")]
    TooLong,
    #[error("a reply is nested too deeply")]
    TooDeep,
    #[error("malformed reply")]
    Malformed,
}

/// Takes one reply off the front of `buf`; `None` when more bytes are needed. Starts afresh each
/// time; a connection that reads large replies keeps a [`ReplyScanner`].
pub fn decode(buf: &mut BytesMut) -> Result<Option<Value>, ReplyError> {
    ReplyScanner::default().decode(buf)
}

/// The one reply that `raw` is.
pub fn parse(raw: &Bytes) -> Result<Value, ReplyError> {
    let end = ReplyScanner::default().scan(raw)?.ok_or(ReplyError::Malformed)?;
    if end != raw.len() {
        return Err(ReplyError::Malformed);
    }
    build(raw, &mut 0)
}

/// Finds where replies end in a growing buffer without building them, and remembers how far it got.
/// Between calls that return `None` the caller only appends to the buffer.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    at: usize,
    /// Per open aggregate: elements still to come. Never holds a zero.
    open: SmallVec<[u64; 8]>,
}

impl ReplyScanner {
    /// Length in bytes of the reply at the front of `buf`; the caller removes that many bytes.
    pub fn scan(&mut self, buf: &[u8]) -> Result<Option<usize>, ReplyError> {
        loop {
            let Some((children, next)) = element(buf, self.at)? else { return Ok(None) };
            self.at = next;
            if children > 0 {
                if self.open.len() == NESTING_MAX {
                    return Err(ReplyError::TooDeep);
                }
                self.open.push(children);
                continue;
            }
            while let Some(left) = self.open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                self.open.pop();
            }
            if self.open.is_empty() {
                return Ok(Some(std::mem::take(&mut self.at)));
            }
        }
    }

    /// Takes one reply off the front of `buf`.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Value>, ReplyError> {
        let Some(len) = self.scan(buf)? else { return Ok(None) };
        let raw = buf.split_to(len).freeze();
        build(&raw, &mut 0).map(Some)
    }

    /// Takes the raw bytes of one reply off the front of `buf`.
    pub fn decode_raw(&mut self, buf: &mut BytesMut) -> Result<Option<Bytes>, ReplyError> {
        let Some(len) = self.scan(buf)? else { return Ok(None) };
        Ok(Some(buf.split_to(len).freeze()))
    }
}

/// The element at `at`: how many elements it contains (0 for anything but a non-empty aggregate) and
/// where the next one starts.
fn element(buf: &[u8], at: usize) -> Result<Option<(u64, usize)>, ReplyError> {
    let Some((line, next)) = line(buf, at)? else { return Ok(None) };
    let children = match line[0] {
        b'+' | b'-' | b'(' | b',' => 0,
        b':' => number(line).map(|_| 0)?,
        b'_' if line.len() == 1 => 0,
        b'#' if matches!(line, b"#t" | b"#f") => 0,
        b'$' | b'=' | b'!' => {
            let Some(len) = length(line)? else { return Ok(Some((0, next))) };
            if len > REPLY_BULK_LEN_MAX as u64 {
                return Err(ReplyError::TooLong);
            }
            if line[0] == b'=' && len < 4 {
                return Err(ReplyError::Malformed);
            }
            let end = next + len as usize;
            if buf.len() < end + 2 {
                return Ok(None);
            }
            if &buf[end..end + 2] != b"\r\n" {
                return Err(ReplyError::Malformed);
            }
            return Ok(Some((0, end + 2)));
        }
        b'*' | b'~' | b'>' => length(line)?.unwrap_or(0),
        b'%' => length(line)?.unwrap_or(0).checked_mul(2).ok_or(ReplyError::BadNumber)?,
        b'|' => {
            let pairs = length(line)?.unwrap_or(0);
            pairs.checked_mul(2).and_then(|n| n.checked_add(1)).ok_or(ReplyError::BadNumber)?
        }
        b'_' | b'#' => return Err(ReplyError::Malformed),
        other => return Err(ReplyError::UnknownType(other)),
    };
    Ok(Some((children, next)))
}

/// The line at `at` without its CRLF (never empty), and where the next one starts.
fn line(buf: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, ReplyError> {
    let Some(rest) = buf.get(at..) else { return Ok(None) };
    let window = &rest[..rest.len().min(LINE_LEN_MAX + 2)];
    let Some(len) = memchr::memchr(b'\r', window) else {
        return if rest.len() > LINE_LEN_MAX { Err(ReplyError::TooLong) } else { Ok(None) };
    };
    match rest.get(len + 1) {
        None => Ok(None),
        Some(b'\n') if len > 0 => Ok(Some((&rest[..len], at + len + 2))),
        Some(_) => Err(ReplyError::Malformed),
    }
}

fn number(line: &[u8]) -> Result<i64, ReplyError> {
    super::decode::parse_integer(&line[1..]).ok_or(ReplyError::BadNumber)
}

/// A length; `None` is RESP2's null.
fn length(line: &[u8]) -> Result<Option<u64>, ReplyError> {
    match number(line)? {
        -1 if matches!(line[0], b'$' | b'*') => Ok(None),
        len => u64::try_from(len).map(Some).map_err(|_| ReplyError::BadNumber),
    }
}

/// Builds the value at `at`. The bytes have passed the scanner, so they are complete and the
/// recursion is at most [`NESTING_MAX`] deep.
fn build(raw: &Bytes, at: &mut usize) -> Result<Value, ReplyError> {
    let (line, next) = line(raw, *at)?.ok_or(ReplyError::Malformed)?;
    let text = || raw.slice(*at + 1..next - 2);
    let kind = line[0];
    let value = match kind {
        b'+' => Value::Simple(text()),
        b'-' => Value::Error(text()),
        b'(' => Value::BigNumber(text()),
        b':' => Value::Integer(number(line)?),
        b'_' => Value::Null,
        b'#' => Value::Boolean(line == b"#t"),
        b',' => Value::Double(double(&line[1..])?),
        b'$' | b'=' | b'!' => {
            let len = length(line)?;
            *at = next;
            let Some(len) = len else { return Ok(Value::Null) };
            let end = next + len as usize;
            let content = raw.slice(next..end);
            *at = end + 2;
            return Ok(match kind {
                b'$' => Value::Bulk(content),
                b'!' => Value::Error(content),
                _ => Value::Verbatim([content[0], content[1], content[2]], content.slice(4..)),
            });
        }
        b'*' | b'~' | b'>' => {
            let len = length(line)?;
            *at = next;
            let Some(len) = len else { return Ok(Value::NullArray) };
            let elements = (0..len).map(|_| build(raw, at)).collect::<Result<_, _>>()?;
            return Ok(match kind {
                b'*' => Value::Array(elements),
                b'~' => Value::Set(elements),
                _ => Value::Push(elements),
            });
        }
        b'%' | b'|' => {
            let len = length(line)?.unwrap_or(0);
            *at = next;
            let pairs = (0..len)
                .map(|_| Ok((build(raw, at)?, build(raw, at)?)))
                .collect::<Result<_, ReplyError>>()?;
            return Ok(match kind {
                b'%' => Value::Map(pairs),
                _ => Value::Attributed(pairs, Box::new(build(raw, at)?)),
            });
        }
        other => return Err(ReplyError::UnknownType(other)),
    };
    *at = next;
    Ok(value)
}

fn double(text: &[u8]) -> Result<f64, ReplyError> {
    // Rust's parser knows `inf`, `-inf` and `nan` as RESP3 writes them.
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or(ReplyError::BadNumber)
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
