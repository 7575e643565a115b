//! Requests of clients: arrays of bulk strings, and inline commands.
//!
//! On the path of every command. Do not allocate per argument here, and do not look at a byte of an
//! argument's content: lengths are jumped over.

use super::encode;
use super::inline::split_args;
use super::limits::Limits;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Why a client's bytes are not a request. The connection is closed after the error reply, which is
/// `-ERR ` and this text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedDollar(u8),
    #[error("Protocol error: too big mbulk count string")]
    TooBigMultibulkCount,
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkCount,
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// Redis closes without an answer when its query buffer limit is passed.
    #[error("Protocol error: too big request")]
    TooBigRequest,
}

/// What is at the front of a client's bytes.
#[derive(Debug)]
pub enum Decoded {
    /// No whole request yet.
    NeedMore,
    Request(RawRequest),
}

/// One request: its bytes and where its arguments are. There is at least one argument.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// Always a RESP array of bulk strings; inline commands are encoded anew.
    pub raw: Bytes,
    pub args: Args,
}

impl RawRequest {
    /// How many arguments there are, the command's name included.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Never true; here because there is a `len`.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// Argument `index`; 0 is the command's name. Panics when there is none.
    pub fn arg(&self, index: usize) -> &[u8] {
        self.args.get(&self.raw, index)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.args.iter(&self.raw)
    }
}

/// Where the arguments of a request are in its raw bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(SmallVec<[(u32, u32); 8]>);

impl Args {
    /// The arguments of `raw`, which is one whole request.
    pub fn parse(raw: &[u8]) -> Result<Self, ProtocolError> {
        let mut args = Self::default();
        for_each_argument(raw, |start, end| args.push(start, end))?;
        Ok(args)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Argument `index` in the `raw` bytes that this was made from. Panics when there is none.
    pub fn get<'a>(&self, raw: &'a [u8], index: usize) -> &'a [u8] {
        let (start, len) = self.0[index];
        &raw[start as usize..start as usize + len as usize]
    }

    pub fn iter<'a>(&'a self, raw: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.0.iter().map(|&(start, len)| &raw[start as usize..start as usize + len as usize])
    }

    fn push(&mut self, start: usize, end: usize) {
        // Requests are shorter than 4 GiB (`Limits::request_len_max`), so offsets fit.
        self.0.push((start as u32, (end - start) as u32));
    }
}

/// Takes one request off the front of `buf`, starting afresh each time. Costs one look per argument
/// that has arrived; a connection that may receive requests of very many arguments in small pieces
/// keeps a [`Decoder`] instead.
pub fn decode_request(buf: &mut BytesMut, limits: &Limits) -> Result<Decoded, ProtocolError> {
    Decoder::default().decode(buf, limits)
}

/// Reads requests off a growing buffer and remembers how far it got into an unfinished one.
/// Between calls the caller only appends to the buffer.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Of the unfinished request: arguments found so far.
    args: Args,
    /// Of the unfinished request: offset in the buffer up to which it is understood.
    at: usize,
    /// Arguments still to come; `None` when the request's first line is not yet understood.
    remaining: Option<usize>,
    /// The next argument's length is known and its content starts at `at`.
    bulk_len: Option<usize>,
}

impl Decoder {
    /// Takes one request off the front of `buf`. After an error the buffer is in an unspecified
    /// state; the connection is to be closed.
    pub fn decode(
        &mut self,
        buf: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Decoded, ProtocolError> {
        loop {
            if self.remaining.is_none() {
                match buf.first() {
                    None => return Ok(Decoded::NeedMore),
                    Some(b'*') => {}
                    Some(_) => match decode_inline(buf, limits)? {
                        Inline::NeedMore => return Ok(Decoded::NeedMore),
                        Inline::Empty => continue,
                        Inline::Request(request) => return Ok(Decoded::Request(request)),
                    },
                }
                let Some((count, next)) = multibulk_count(buf, limits)? else {
                    return Ok(Decoded::NeedMore);
                };
                if count == 0 {
                    // `*0` and `*-1` are no request and get no answer.
                    let _ = buf.split_to(next);
                    continue;
                }
                self.at = next;
                self.remaining = Some(count);
            }
            return Ok(if self.arguments(buf, limits)? {
                let raw = buf.split_to(self.at).freeze();
                let args = std::mem::take(&mut self.args);
                *self = Self::default();
                Decoded::Request(RawRequest { raw, args })
            } else {
                Decoded::NeedMore
            });
        }
    }

    /// Goes on with the arguments of the unfinished request; true when all are there.
    fn arguments(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<bool, ProtocolError> {
        let mut remaining = self.remaining.unwrap_or(0);
        while remaining > 0 {
            let len = match self.bulk_len.take() {
                Some(len) => len,
                None => {
                    let Some((len, next)) = bulk_len(buf, self.at, limits)? else {
                        self.remaining = Some(remaining);
                        return Ok(false);
                    };
                    self.at = next;
                    len
                }
            };
            let end = self.at + len;
            if end + 2 > limits.request_len_max {
                return Err(ProtocolError::TooBigRequest);
            }
            if buf.len() < end + 2 {
                self.bulk_len = Some(len);
                self.remaining = Some(remaining);
                reserve_for(buf, end + 2);
                return Ok(false);
            }
            self.args.push(self.at, end);
            self.at = end + 2;
            remaining -= 1;
        }
        Ok(true)
    }
}

/// Room for the rest of a big argument, so that it is not moved again and again as it arrives.
/// A stranger's announcement alone must not cost memory: beyond 1 MiB the buffer only doubles.
fn reserve_for(buf: &mut BytesMut, wanted: usize) {
    const EAGER: usize = 1024 * 1024;
    let step = (wanted - buf.len()).min(buf.len().max(EAGER));
    buf.reserve(step);
}

/// The number of arguments announced by the line at the front, and where the next line starts;
/// zero for a null or empty array.
fn multibulk_count(buf: &[u8], limits: &Limits) -> Result<Option<(usize, usize)>, ProtocolError> {
    let line = match length_line(buf, 0) {
        Line::Number(number, next) => return check_count(number, next, limits).map(Some),
        other => other,
    };
    match line {
        Line::Incomplete if buf.len() > limits.inline_len_max => {
            Err(ProtocolError::TooBigMultibulkCount)
        }
        Line::Incomplete => Ok(None),
        // However the bytes were cut into pieces: what Redis says when it sees the first of them.
        _ if line_len(buf) > limits.inline_len_max => Err(ProtocolError::TooBigMultibulkCount),
        _ => Err(ProtocolError::InvalidMultibulkLength),
    }
}

fn check_count(number: i64, next: usize, limits: &Limits) -> Result<(usize, usize), ProtocolError> {
    let count = usize::try_from(number).unwrap_or(0);
    if count > i32::MAX as usize {
        return Err(ProtocolError::InvalidMultibulkLength);
    }
    if count > limits.args_max {
        return Err(if limits.unauthenticated {
            ProtocolError::UnauthenticatedMultibulkLength
        } else {
            ProtocolError::InvalidMultibulkLength
        });
    }
    Ok((count, next))
}

/// The length announced by the `$` line at `at`, and where the content starts.
fn bulk_len(
    buf: &[u8],
    at: usize,
    limits: &Limits,
) -> Result<Option<(usize, usize)>, ProtocolError> {
    let line = length_line(buf, at);
    if let Line::Incomplete = line {
        if buf.len() - at > limits.inline_len_max {
            return Err(ProtocolError::TooBigBulkCount);
        }
        return Ok(None);
    }
    if buf[at] != b'$' {
        return Err(ProtocolError::ExpectedDollar(buf[at]));
    }
    let Line::Number(number, next) = line else {
        return Err(if line_len(&buf[at..]) > limits.inline_len_max {
            ProtocolError::TooBigBulkCount
        } else {
            ProtocolError::InvalidBulkLength
        });
    };
    let len = usize::try_from(number).map_err(|_| ProtocolError::InvalidBulkLength)?;
    if len > limits.bulk_len_max {
        let known = len <= Limits::AUTHENTICATED.bulk_len_max;
        return Err(if limits.unauthenticated && known {
            ProtocolError::UnauthenticatedBulkLength
        } else {
            ProtocolError::InvalidBulkLength
        });
    }
    Ok(Some((len, next)))
}

fn line_len(buf: &[u8]) -> usize {
    memchr::memchr(b'\r', buf).unwrap_or(buf.len())
}

enum Line {
    /// Its end is not there yet.
    Incomplete,
    /// Not a number as Redis writes numbers.
    Invalid,
    /// The number, and where the next line starts.
    Number(i64, usize),
}

/// Reads `<any byte><number>\r<any byte>` at `at`. That the last byte is not looked at is Redis's
/// leniency; every parser of this module must agree on it.
fn length_line(buf: &[u8], at: usize) -> Line {
    // Almost all lengths have a digit to five; anything unusual takes the slow way.
    let mut number: i64 = 0;
    for (i, &c) in buf.iter().enumerate().skip(at + 1).take(10) {
        let digit = c.wrapping_sub(b'0');
        if digit < 10 {
            number = number * 10 + i64::from(digit);
        } else if c == b'\r' && i > at + 1 && (buf[at + 1] != b'0' || i == at + 2) {
            return if i + 1 < buf.len() { Line::Number(number, i + 2) } else { Line::Incomplete };
        } else {
            break;
        }
    }
    unusual_length_line(buf, at)
}

#[cold]
fn unusual_length_line(buf: &[u8], at: usize) -> Line {
    let Some(len) = buf.get(at..).and_then(|rest| memchr::memchr(b'\r', rest)) else {
        return Line::Incomplete;
    };
    let end = at + len;
    if end + 1 >= buf.len() {
        return Line::Incomplete;
    }
    if len == 0 {
        return Line::Invalid;
    }
    parse_integer(&buf[at + 1..end]).map_or(Line::Invalid, |number| Line::Number(number, end + 2))
}

/// A signed 64-bit decimal in canonical form: no plus sign, no leading zeros, no blanks, no `-0`
/// (`string2ll` in Redis).
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut magnitude: u64 = 0;
    for &c in digits {
        let digit = c.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // 19 digits are below 10^19 < 2^64.
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

enum Inline {
    NeedMore,
    /// A blank line, which is ignored.
    Empty,
    Request(RawRequest),
}

#[cold]
fn decode_inline(buf: &mut BytesMut, limits: &Limits) -> Result<Inline, ProtocolError> {
    let Some(newline) = memchr::memchr(b'\n', buf) else {
        return if buf.len() > limits.inline_len_max {
            Err(ProtocolError::TooBigInline)
        } else {
            Ok(Inline::NeedMore)
        };
    };
    if newline > limits.inline_len_max {
        return Err(ProtocolError::TooBigInline);
    }
    let line = buf.split_to(newline + 1);
    let line = &line[..newline];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let args = split_args(line).ok_or(ProtocolError::UnbalancedQuotes)?;
    if args.is_empty() {
        return Ok(Inline::Empty);
    }
    let mut raw = BytesMut::with_capacity(line.len() + 16 * args.len());
    encode::command(&mut raw, args.iter().map(Vec::as_slice));
    let raw = raw.freeze();
    let args = Args::parse(&raw)?;
    Ok(Inline::Request(RawRequest { raw, args }))
}

/// Reads one complete array of bulk strings at the front of `raw` and puts its elements into `out`
/// (which is cleared first). Returns how many bytes it took. For bytes of our own making: records of
/// the log, bodies of frames. Never panics, whatever the bytes; bytes that end early or are no such
/// array are an error.
pub fn parse_array<'a>(
    raw: &'a [u8],
    out: &mut SmallVec<[&'a [u8]; 8]>,
) -> Result<usize, ProtocolError> {
    out.clear();
    for_each_argument(raw, |start, end| out.push(&raw[start..end]))
}

/// Calls `found` with the bounds of each argument of the array at the front of `raw`; returns where
/// the array ends.
fn for_each_argument(
    raw: &[u8],
    mut found: impl FnMut(usize, usize),
) -> Result<usize, ProtocolError> {
    if raw.first() != Some(&b'*') {
        return Err(ProtocolError::InvalidMultibulkLength);
    }
    let Line::Number(count, mut at) = length_line(raw, 0) else {
        return Err(ProtocolError::InvalidMultibulkLength);
    };
    for _ in 0..count {
        let Line::Number(len, start) = length_line(raw, at) else {
            return Err(ProtocolError::InvalidBulkLength);
        };
        if raw[at] != b'$' {
            return Err(ProtocolError::ExpectedDollar(raw[at]));
        }
        let len = usize::try_from(len).map_err(|_| ProtocolError::InvalidBulkLength)?;
        let end = start.checked_add(len).ok_or(ProtocolError::InvalidBulkLength)?;
        if end.checked_add(2).is_none_or(|end| end > raw.len()) {
            return Err(ProtocolError::InvalidBulkLength);
        }
        found(start, end);
        at = end + 2;
    }
    Ok(at)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
