//! The reply of a command, written straight into the answer buffer in RESP2 or RESP3.

use crate::value::StrRef;
use holdfast_proto::resp::encode;

/// Writes one command's reply. Every method appends one RESP value (or the header of one whose
/// elements the caller appends next).
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    resp3: bool,
    start: usize,
}

/// Where a collection of yet unknown length begins ([`Reply::deferred`]).
#[derive(Debug)]
pub(crate) struct Deferred(usize);

impl<'a> Reply<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, resp3: bool) -> Self {
        let start = out.len();
        Self { out, resp3, start }
    }

    pub(crate) fn is_resp3(&self) -> bool {
        self.resp3
    }

    /// Drops what the command has replied so far.
    pub(crate) fn reset(&mut self) {
        self.out.truncate(self.start);
    }

    /// A whole reply that is encoded already.
    pub(crate) fn raw(&mut self, reply: &[u8]) {
        self.out.extend_from_slice(reply);
    }

    pub(crate) fn ok(&mut self) {
        encode::ok(self.out);
    }

    pub(crate) fn simple(&mut self, text: &str) {
        encode::simple(self.out, text);
    }

    /// `text` starts with the error's code.
    pub(crate) fn error(&mut self, text: &str) {
        encode::error(self.out, text);
    }

    pub(crate) fn int(&mut self, value: i64) {
        encode::integer(self.out, value);
    }

    /// A length or count.
    pub(crate) fn count(&mut self, value: usize) {
        self.int(value as i64);
    }

    /// Most commands answer yes and no with 1 and 0, in RESP3 too.
    pub(crate) fn flag(&mut self, value: bool) {
        self.int(i64::from(value));
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        encode::bulk(self.out, bytes);
    }

    /// An integer as a bulk string.
    pub(crate) fn bulk_int(&mut self, value: i64) {
        encode::bulk_integer(self.out, value);
    }

    /// A cursor as a bulk string.
    pub(crate) fn bulk_unsigned(&mut self, value: u64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A double as a bulk string, in RESP3 too.
    pub(crate) fn bulk_double(&mut self, value: f64) {
        encode::double(self.out, value, false);
    }

    /// A coordinate: a double in RESP3, a bulk string in RESP2, with up to 17 decimals.
    pub(crate) fn human_double(&mut self, value: f64) {
        let text = format!("{value:.17}");
        let text = match text.trim_end_matches('0').trim_end_matches('.') {
            "-0" => "0",
            text => text,
        };
        if self.resp3 {
            self.out.push(b',');
            self.out.extend_from_slice(text.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// A bulk string or null.
    pub(crate) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// A string value as it is stored.
    pub(crate) fn string(&mut self, value: StrRef<'_>) {
        match value {
            StrRef::Int(value) => self.bulk_int(value),
            StrRef::Bytes(bytes) => self.bulk(bytes),
        }
    }

    /// `$-1` or `_`.
    pub(crate) fn null(&mut self) {
        encode::null(self.out, self.resp3);
    }

    /// `*-1` or `_`.
    pub(crate) fn null_array(&mut self) {
        encode::null_array(self.out, self.resp3);
    }

    pub(crate) fn array(&mut self, len: usize) {
        encode::array(self.out, len);
    }

    /// Header of `len` pairs: a map, or in RESP2 an array of twice the length.
    pub(crate) fn map(&mut self, len: usize) {
        encode::map(self.out, len, self.resp3);
    }

    /// Header of a set, in RESP2 of an array.
    pub(crate) fn set(&mut self, len: usize) {
        encode::set(self.out, len, self.resp3);
    }

    /// A collection whose length is known only after its elements were written: write them, then
    /// call one of the `finish_*`.
    pub(crate) fn deferred(&mut self) -> Deferred {
        Deferred(self.out.len())
    }

    pub(crate) fn finish_array(&mut self, start: Deferred, len: usize) {
        self.finish(start, |reply| reply.array(len));
    }

    /// What XREAD returns: in RESP3 a map of `len` pairs, in RESP2 an array of `len` arrays of two.
    pub(crate) fn finish_map_or_array(&mut self, start: Deferred, len: usize) {
        self.finish(start, |reply| if reply.resp3 { reply.map(len) } else { reply.array(len) });
    }

    fn finish(&mut self, start: Deferred, header: impl FnOnce(&mut Self)) {
        let end = self.out.len();
        header(self);
        let header_len = self.out.len() - end;
        self.out[start.0..].rotate_right(header_len);
    }

    /// A double: a RESP3 double, or a bulk string with the same digits.
    pub(crate) fn double(&mut self, value: f64) {
        encode::double(self.out, value, self.resp3);
    }
}
