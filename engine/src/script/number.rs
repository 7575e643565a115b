//! Numbers as C's printf writes them.

use std::fmt::Write;

/// `%.{digits}g`: at most so many significant digits, no zeros at the end.
pub(super) fn general(number: f64, digits: usize) -> String {
    if number.is_nan() {
        return if number.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if number.is_infinite() {
        return if number < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let digits = digits.max(1);
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= digits as i32 {
        let mut text = without_zeros(mantissa).to_owned();
        let sign = if exponent < 0 { '-' } else { '+' };
        // Writing to a String does not fail.
        let _ = write!(text, "e{sign}{:02}", exponent.abs());
        return text;
    }
    let fixed = format!("{number:.*}", (digits as i32 - 1 - exponent) as usize);
    without_zeros(&fixed).to_owned()
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// The number at the beginning of `text` as strtod reads it, and its length.
pub(super) fn parse_prefix(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let rest = &text[sign..];
    let (magnitude, len) = special(rest).or_else(|| hexadecimal(rest)).or_else(|| decimal(rest))?;
    let number = if text.first() == Some(&b'-') { -magnitude } else { magnitude };
    Some((number, sign + len))
}

fn special(text: &[u8]) -> Option<(f64, usize)> {
    let starts =
        |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if starts(b"infinity") {
        return Some((f64::INFINITY, 8));
    }
    if starts(b"inf") {
        return Some((f64::INFINITY, 3));
    }
    starts(b"nan").then_some((f64::NAN, 3))
}

fn hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    let [b'0', b'x' | b'X', digits @ ..] = text else { return None };
    let (mut value, mut exponent, mut len, mut count, mut point) = (0.0, 0i32, 0, 0, false);
    for &byte in digits {
        match char::from(byte).to_digit(16) {
            Some(digit) => {
                value = value * 16.0 + f64::from(digit);
                exponent -= if point { 4 } else { 0 };
                count += 1;
            }
            None if byte == b'.' && !point => point = true,
            None => break,
        }
        len += 1;
    }
    if count == 0 {
        // Only the zero is a number.
        return Some((0.0, 1));
    }
    if let Some(b'p' | b'P') = digits.get(len) {
        let sign = usize::from(matches!(digits.get(len + 1), Some(b'+' | b'-')));
        let start = len + 1 + sign;
        let end = start + digits[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if end > start {
            let power = std::str::from_utf8(&digits[start..end]).ok()?.parse().unwrap_or(i32::MAX);
            let negative = digits.get(len + 1) == Some(&b'-');
            exponent = exponent.saturating_add(if negative { -power } else { power });
            len = end;
        }
    }
    Some((value * 2f64.powi(exponent), 2 + len))
}

fn decimal(text: &[u8]) -> Option<(f64, usize)> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(0);
    let mut len = whole;
    let mut fraction = 0;
    if text.get(len) == Some(&b'.') {
        fraction = digits(len + 1);
        len += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    if let Some(b'e' | b'E') = text.get(len) {
        let sign = usize::from(matches!(text.get(len + 1), Some(b'+' | b'-')));
        let start = len + 1 + sign;
        if text.get(start).is_some_and(u8::is_ascii_digit) {
            len = start + digits(start);
        }
    }
    Some((std::str::from_utf8(&text[..len]).ok()?.parse().ok()?, len))
}

#[cfg(test)]
mod tests {
    use super::{general, parse_prefix};

    #[test]
    fn as_printf_does() {
        for (number, fourteen, seventeen) in [
            (0.0, "0", "0"),
            (-0.0, "-0", "-0"),
            (1.0, "1", "1"),
            (0.1, "0.1", "0.10000000000000001"),
            (1.0 / 3.0, "0.33333333333333", "0.33333333333333331"),
            (1e20, "1e+20", "1e+20"),
            (1e14, "1e+14", "100000000000000"),
            (99999999999999.9, "1e+14", "99999999999999.906"),
            (123456.789, "123456.789", "123456.789"),
            (1e-5, "1e-05", "1.0000000000000001e-05"),
            (0.0001, "0.0001", "0.0001"),
            (1.5e300, "1.5e+300", "1.5000000000000001e+300"),
            (f64::INFINITY, "inf", "inf"),
            (f64::NAN, "nan", "nan"),
        ] {
            assert_eq!(general(number, 14), fourteen);
            assert_eq!(general(number, 17), seventeen);
        }
    }

    #[test]
    fn as_strtod_does() {
        for (text, number, len) in [
            ("1", 1.0, 1),
            ("-1.5e3x", -1500.0, 6),
            ("1e", 1.0, 1),
            ("1.", 1.0, 2),
            (".5", 0.5, 2),
            ("0x1Fz", 31.0, 4),
            ("0x", 0.0, 1),
            ("0x1.8p1", 3.0, 7),
            ("+inf", f64::INFINITY, 4),
            ("-Infinity", f64::NEG_INFINITY, 9),
        ] {
            assert_eq!(parse_prefix(text.as_bytes()), Some((number, len)), "{text}");
        }
        assert!(parse_prefix(b"nan").is_some_and(|(number, len)| number.is_nan() && len == 3));
        for text in ["", "-", ".", "e5", "x"] {
            assert_eq!(parse_prefix(text.as_bytes()), None, "{text}");
        }
    }
}
