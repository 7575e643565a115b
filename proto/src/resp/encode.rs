//! Writers of replies (RESP2 and RESP3) and of requests.
//!
//! Functions append to any [`BufMut`] (a `Vec<u8>` or a `BytesMut`). Those that take `resp3` write
//! what the client's protocol version has for the meaning; the others are the same in both.

use bytes::BufMut;
use std::io::Write;

/// `+OK\r\n`
pub const OK: &[u8] = b"+OK\r\n";

/// A request: an array of bulk strings.
pub fn command<'a>(out: &mut impl BufMut, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    array(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

/// `+text`. The text must have no CR or LF.
pub fn simple(out: &mut impl BufMut, text: &str) {
    out.put_u8(b'+');
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

/// `+OK`
pub fn ok(out: &mut impl BufMut) {
    out.put_slice(OK);
}

/// `-text`, where the text begins with its code (`ERR `, `WRONGTYPE ` …). Line breaks, which user
/// input may have brought into a message, become blanks.
pub fn error(out: &mut impl BufMut, text: &str) {
    out.put_u8(b'-');
    if memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_none() {
        out.put_slice(text.as_bytes());
    } else {
        for &c in text.as_bytes() {
            out.put_u8(if matches!(c, b'\r' | b'\n') { b' ' } else { c });
        }
    }
    out.put_slice(b"\r\n");
}

/// `:number`
pub fn integer(out: &mut impl BufMut, number: i64) {
    number_line(out, b':', number);
}

/// `$len` and the bytes.
pub fn bulk(out: &mut impl BufMut, bytes: &[u8]) {
    number_line(out, b'$', bytes.len() as i64);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// A number as a bulk string.
pub fn bulk_integer(out: &mut impl BufMut, number: i64) {
    bulk(out, itoa::Buffer::new().format(number).as_bytes());
}

/// No value where a string would be: `$-1` or `_`.
pub fn null(out: &mut impl BufMut, resp3: bool) {
    out.put_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// No value where an array would be: `*-1` or `_`.
pub fn null_array(out: &mut impl BufMut, resp3: bool) {
    out.put_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" });
}

/// Head of an array of `len` elements.
pub fn array(out: &mut impl BufMut, len: usize) {
    number_line(out, b'*', len as i64);
}

/// Head of a map of `len` pairs; in RESP2 an array of twice as many elements.
pub fn map(out: &mut impl BufMut, len: usize, resp3: bool) {
    if resp3 {
        number_line(out, b'%', len as i64);
    } else {
        array(out, len * 2);
    }
}

/// Head of a set of `len` elements; in RESP2 an array.
pub fn set(out: &mut impl BufMut, len: usize, resp3: bool) {
    number_line(out, if resp3 { b'~' } else { b'*' }, len as i64);
}

/// Head of an out-of-band message of `len` elements; in RESP2 an array.
pub fn push(out: &mut impl BufMut, len: usize, resp3: bool) {
    number_line(out, if resp3 { b'>' } else { b'*' }, len as i64);
}

/// `,number`, in RESP2 a bulk string; digits as Redis 7.2 writes them ([`format_double`]).
pub fn double(out: &mut impl BufMut, number: f64, resp3: bool) {
    let mut buffer = DoubleBuffer::default();
    let text = format_double(number, &mut buffer);
    if resp3 {
        out.put_u8(b',');
        out.put_slice(text);
        out.put_slice(b"\r\n");
    } else {
        bulk(out, text);
    }
}

/// `#t` or `#f`, in RESP2 `:1` or `:0`.
pub fn boolean(out: &mut impl BufMut, value: bool, resp3: bool) {
    out.put_slice(match (resp3, value) {
        (true, true) => b"#t\r\n",
        (true, false) => b"#f\r\n",
        (false, true) => b":1\r\n",
        (false, false) => b":0\r\n",
    });
}

/// Text with a three-letter format (`txt`, `mkd`); in RESP2 a bulk string.
pub fn verbatim(out: &mut impl BufMut, format: &[u8; 3], text: &[u8], resp3: bool) {
    if !resp3 {
        return bulk(out, text);
    }
    number_line(out, b'=', text.len() as i64 + 4);
    out.put_slice(format);
    out.put_u8(b':');
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

/// An integer of any size, given as its decimal digits; in RESP2 a bulk string.
pub fn big_number(out: &mut impl BufMut, digits: &[u8], resp3: bool) {
    if !resp3 {
        return bulk(out, digits);
    }
    out.put_u8(b'(');
    out.put_slice(digits);
    out.put_slice(b"\r\n");
}

fn number_line(out: &mut impl BufMut, kind: u8, number: i64) {
    if let Ok(digit @ 0..=9) = u8::try_from(number) {
        // The most frequent case by far, in one piece.
        out.put_slice(&[kind, b'0' + digit, b'\r', b'\n']);
        return;
    }
    let mut line = [0u8; 24];
    line[0] = kind;
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number).as_bytes();
    line[1..=digits.len()].copy_from_slice(digits);
    line[digits.len() + 1] = b'\r';
    line[digits.len() + 2] = b'\n';
    out.put_slice(&line[..digits.len() + 3]);
}

/// Room for any formatted double: 17 digits, sign, point, `e-308`, or up to 7 more zeros.
pub struct DoubleBuffer {
    bytes: [u8; 40],
    len: usize,
}

impl Default for DoubleBuffer {
    fn default() -> Self {
        Self { bytes: [0; 40], len: 0 }
    }
}

impl DoubleBuffer {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn zeros(&mut self, count: usize) {
        for _ in 0..count {
            self.put(b"0");
        }
    }
}

/// The text of a double as Redis 7.2 writes it (`d2string`): integers up to 2^62 in full, otherwise
/// the shortest digits that read back as the same number, in the layout of `fpconv_dtoa`.
pub fn format_double(number: f64, buffer: &mut DoubleBuffer) -> &[u8] {
    buffer.len = 0;
    // Half of i64::MAX: Redis's bound for taking the integer path.
    const INTEGER_MAX: f64 = (i64::MAX / 2) as f64;
    if number.is_nan() {
        buffer.put(b"nan");
    } else if number.is_infinite() {
        buffer.put(if number > 0.0 { b"inf" } else { b"-inf" });
    } else if number == 0.0 {
        buffer.put(if number.is_sign_negative() { b"-0" } else { b"0" });
    } else if number.abs() <= INTEGER_MAX && number.trunc() == number {
        buffer.put(itoa::Buffer::new().format(number as i64).as_bytes());
    } else {
        format_fraction(number, buffer);
    }
    &buffer.bytes[..buffer.len]
}

/// Lays out the shortest digits as `emit_digits` of fpconv does.
fn format_fraction(number: f64, buffer: &mut DoubleBuffer) {
    let mut text = [0u8; 32];
    let mut cursor = &mut text[..];
    // Rust's `{:e}` is `d.ddde-x` with the shortest digits that round-trip: at most 25 bytes.
    write!(cursor, "{:e}", number.abs()).expect("32 bytes hold any double");
    let unused = cursor.len();
    let len = text.len() - unused;
    let split = memchr::memchr(b'e', &text[..len]).expect("`{:e}` writes an exponent");
    let exponent = super::decode::parse_integer(&text[split + 1..len])
        .expect("`{:e}` writes a plain exponent") as i32;
    let mut digits = [0u8; 20];
    let mut count = 0;
    for &c in text[..split].iter().filter(|c| c.is_ascii_digit()) {
        digits[count] = c;
        count += 1;
    }
    let digits = &digits[..count];
    if number < 0.0 {
        buffer.put(b"-");
    }
    // The number is digits × 10^scale.
    let scale = exponent - (count as i32 - 1);
    if scale >= 0 && exponent < count as i32 + 7 {
        buffer.put(digits);
        buffer.zeros(scale as usize);
    } else if scale < 0 && (scale > -7 || exponent.abs() < 4) {
        let whole = count as i32 + scale;
        if whole <= 0 {
            buffer.put(b"0.");
            buffer.zeros(-whole as usize);
            buffer.put(digits);
        } else {
            buffer.put(&digits[..whole as usize]);
            buffer.put(b".");
            buffer.put(&digits[whole as usize..]);
        }
    } else {
        buffer.put(&digits[..1]);
        if count > 1 {
            buffer.put(b".");
            buffer.put(&digits[1..]);
        }
        buffer.put(if exponent < 0 { b"e-" } else { b"e+" });
        buffer.put(itoa::Buffer::new().format(exponent.unsigned_abs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn shapes_of_both_versions() {
        assert_eq!(written(|o| integer(o, i64::MIN)), ":-9223372036854775808\r\n");
        assert_eq!(written(|o| integer(o, -1)), ":-1\r\n");
        assert_eq!(written(|o| bulk(o, b"")), "$0\r\n\r\n");
        assert_eq!(written(|o| bulk(o, b"hello world!")), "$12\r\nhello world!\r\n");
        assert_eq!(written(|o| map(o, 2, false)), "*4\r\n");
        assert_eq!(written(|o| map(o, 2, true)), "%2\r\n");
        assert_eq!(written(|o| set(o, 10, true)), "~10\r\n");
        assert_eq!(written(|o| null(o, false)), "$-1\r\n");
        assert_eq!(written(|o| null_array(o, false)), "*-1\r\n");
        assert_eq!(written(|o| null_array(o, true)), "_\r\n");
        assert_eq!(written(|o| double(o, 0.5, true)), ",0.5\r\n");
        assert_eq!(written(|o| double(o, 0.5, false)), "$3\r\n0.5\r\n");
        assert_eq!(written(|o| verbatim(o, b"txt", b"hi", true)), "=6\r\ntxt:hi\r\n");
        assert_eq!(written(|o| error(o, "ERR a\r\nb")), "-ERR a  b\r\n");
        assert_eq!(
            written(|o| command(o, [&b"GET"[..], b"k"].into_iter())),
            "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
        );
    }

    #[test]
    fn doubles_as_redis_7_2() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (1e-5, "0.00001"),
            (1.25e-7, "1.25e-7"),
            (0.000123, "0.000123"),
            (0.001, "0.001"),
            (3.0e-6, "0.000003"),
            (1e17, "100000000000000000"),
            (4e18, "4000000000000000000"),
            (1e20, "1e+20"),
            (1.2345678901234567e19, "12345678901234567000"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (123456.789, "123456.789"),
        ] {
            let mut buffer = DoubleBuffer::default();
            let got = std::str::from_utf8(format_double(number, &mut buffer)).unwrap();
            assert_eq!(got, text);
        }
    }
}
