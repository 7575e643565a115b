//! Numbers in text, read and written exactly as Redis does.

mod big;
mod long_double;

pub(crate) use long_double::LongDouble;

use crate::error::CommandError;

/// Redis's `string2ll`: an optional `-`, no leading zeros, no spaces, no `+`.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // 19 digits cannot overflow u64 (10^19 - 1 < 2^64).
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative {
        (value <= i64::MIN.unsigned_abs()).then(|| (value as i64).wrapping_neg())
    } else {
        i64::try_from(value).ok()
    }
}

/// [`parse_i64`] with Redis's error.
pub(crate) fn int_arg(text: &[u8]) -> Result<i64, CommandError> {
    parse_i64(text).ok_or(CommandError::NotInteger)
}

/// Redis's `string2d`: the whole text as a C double; no NaN, no spaces, no overflow and no
/// underflow to zero.
pub(crate) fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.contains(['x', 'X']) {
        // Hexadecimal; more than 53 bits may be rounded twice.
        return LongDouble::parse(text.as_bytes())
            .map(LongDouble::to_f64)
            .filter(|v| v.is_finite());
    }
    let value: f64 = text.parse().ok()?;
    let unsigned = text.trim_start_matches(['+', '-']);
    let spelled_out = unsigned.starts_with(['i', 'I']);
    if value.is_nan() || (value.is_infinite() && !spelled_out) {
        return None;
    }
    let mantissa = unsigned.split(['e', 'E']).next().unwrap_or_default();
    if value == 0.0 && mantissa.bytes().any(|byte| byte.is_ascii_digit() && byte != b'0') {
        return None;
    }
    Some(value)
}

/// [`parse_f64`] with Redis's error.
pub(crate) fn float_arg(text: &[u8]) -> Result<f64, CommandError> {
    parse_f64(text).ok_or(CommandError::NotFloat)
}

/// INCRBYFLOAT and HINCRBYFLOAT: `value` plus the argument, as the text that is stored and replied.
pub(crate) fn add_long_double(value: LongDouble, by: &[u8]) -> Result<String, CommandError> {
    let by = LongDouble::parse(by).ok_or(CommandError::NotFloat)?;
    match value.add(by) {
        Some(sum) if !sum.is_infinite() => Ok(sum.to_text()),
        _ => Err(CommandError::Text("ERR increment would produce NaN or Infinity")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_strict() {
        for (text, value) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn floats_are_those_of_strtod() {
        for (text, value) in [
            ("1.5", Some(1.5)),
            ("+inf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("1e400", None),
            ("1e-400", None),
            ("0e-400", Some(0.0)),
            ("nan", None),
            (" 1", None),
            ("", None),
        ] {
            assert_eq!(parse_f64(text.as_bytes()), value, "{text:?}");
        }
    }
}
