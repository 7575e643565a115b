//! The x87 80-bit `long double`, for INCRBYFLOAT and HINCRBYFLOAT.
//!
//! Redis adds in `long double` and prints with `%.17Lf`; the digits that clients see (`5.1 + 0.2`
//! is `5.3`, not `5.29999…`) come from its 64-bit mantissa. This emulates reading, adding and
//! printing exactly, so that replies are equal on every machine.

use super::big::Big;

/// A number `mantissa * 2^exponent`, or infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LongDouble {
    negative: bool,
    /// Top bit set, except for zero and subnormal numbers. Meaningless for infinity.
    mantissa: u64,
    exponent: i32,
    infinite: bool,
}

/// Exponent of the largest numbers: 2^16384 is too much.
const EXPONENT_MAX: i32 = 16_383 - 63;
/// Exponent of the subnormal numbers.
const EXPONENT_MIN: i32 = -16_382 - 63;
/// Redis's buffer: longer texts are no numbers (`MAX_LONG_DOUBLE_CHARS` in `string2ld`).
const TEXT_LEN_MAX: usize = 5 * 1024 - 1;

impl LongDouble {
    pub(crate) const ZERO: Self =
        Self { negative: false, mantissa: 0, exponent: EXPONENT_MIN, infinite: false };

    /// Redis's `string2ld`: the whole text as C's `strtold` reads it; no NaN, no leading space, no
    /// overflow and no underflow to zero.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > TEXT_LEN_MAX {
            return None;
        }
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
            return Some(Self { negative, infinite: true, ..Self::ZERO });
        }
        let value = match unsigned {
            [b'0', b'x' | b'X', hex @ ..] => parse_hex(hex)?,
            _ => parse_decimal(unsigned)?,
        };
        (!value.infinite).then_some(Self { negative, ..value })
    }

    pub(crate) fn is_infinite(self) -> bool {
        self.infinite
    }

    /// The sum rounded to nearest, ties to even. `None` for the difference of infinities.
    pub(crate) fn add(self, other: Self) -> Option<Self> {
        match (self.infinite, other.infinite) {
            (true, true) => return (self.negative == other.negative).then_some(self),
            (true, false) => return Some(self),
            (false, true) => return Some(other),
            (false, false) => {}
        }
        let (large, small) = if (self.exponent, self.mantissa) >= (other.exponent, other.mantissa) {
            (self, other)
        } else {
            (other, self)
        };
        // 62 guard bits: enough to round as if the sum were exact once lost bits are jammed into
        // the last one.
        let wide_large = u128::from(large.mantissa) << 62;
        let wide_small = shift_right_jam(
            u128::from(small.mantissa) << 62,
            large.exponent.abs_diff(small.exponent),
        );
        let exponent = large.exponent - 62;
        if large.negative == small.negative {
            return Some(Self::round(large.negative, wide_large + wide_small, exponent, false));
        }
        let difference = wide_large.abs_diff(wide_small);
        let negative = if wide_large >= wide_small { large.negative } else { small.negative };
        let negative = negative && difference != 0;
        Some(Self::round(negative, difference, exponent, false))
    }

    /// The nearest `f64`, or one beside it; never zero for what is not zero.
    pub(crate) fn to_f64(self) -> f64 {
        let magnitude = if self.infinite {
            f64::INFINITY
        } else if self.mantissa == 0 {
            0.0
        } else {
            // In two steps, since 2^exponent alone may be out of range.
            let half = self.exponent / 2;
            let scaled = self.mantissa as f64 * 2f64.powi(half) * 2f64.powi(self.exponent - half);
            scaled.max(f64::from_bits(1))
        };
        if self.negative { -magnitude } else { magnitude }
    }

    /// Redis's `ld2string` in human mode: `%.17Lf` without trailing zeros.
    pub(crate) fn to_text(self) -> String {
        if self.infinite {
            return if self.negative { "-inf" } else { "inf" }.to_owned();
        }
        let text = if self.exponent >= 0 {
            Big::from(self.mantissa).shifted_left(self.exponent as u32).to_decimal()
        } else {
            fixed_point(self.mantissa, self.exponent.unsigned_abs())
        };
        if self.negative && text != "0" { format!("-{text}") } else { text }
    }

    /// The nearest long double to `wide * 2^exponent` (plus a little, if `sticky`).
    fn round(negative: bool, wide: u128, exponent: i32, sticky: bool) -> Self {
        if wide == 0 {
            return Self { negative, ..Self::ZERO };
        }
        let bits = 128 - wide.leading_zeros() as i32;
        // How many low bits go: all but 64, more for subnormal results.
        let mut drop = (bits - 64).max(EXPONENT_MIN - exponent);
        let mut mantissa = if drop <= 0 {
            // Exact; a subnormal mantissa may stay short of its top bit.
            let up = (-drop).min(exponent - EXPONENT_MIN).max(0);
            drop = -up;
            wide << up
        } else {
            round_half_even(wide, drop as u32, sticky)
        };
        let mut exponent = exponent + drop;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            exponent += 1;
        }
        let infinite = exponent > EXPONENT_MAX;
        Self { negative, mantissa: mantissa as u64, exponent, infinite }
    }
}

/// `wide >> drop` rounded to nearest, ties to even; `sticky` stands for bits below `wide`.
fn round_half_even(wide: u128, drop: u32, sticky: bool) -> u128 {
    if drop > 128 {
        return 0;
    }
    let half = 1u128 << (drop - 1);
    let kept = wide.checked_shr(drop).unwrap_or(0);
    let rest = if drop == 128 { wide } else { wide & ((1 << drop) - 1) };
    let up = rest > half || (rest == half && (sticky || kept & 1 != 0));
    kept + u128::from(up)
}

/// Shifts right; if ones were lost, the lowest bit is set.
fn shift_right_jam(wide: u128, by: u32) -> u128 {
    if by >= 128 {
        return u128::from(wide != 0);
    }
    let kept = wide >> by;
    kept | u128::from(kept << by != wide)
}

/// `mantissa / 2^shift` with 17 decimals, rounded half to even, without trailing zeros.
fn fixed_point(mantissa: u64, shift: u32) -> String {
    const SCALE: u128 = 100_000_000_000_000_000;
    // Below 2^64 * 2^57.
    let scaled = u128::from(mantissa) * SCALE;
    let scaled = if shift == 0 { scaled } else { round_half_even(scaled, shift, false) };
    let (whole, fraction) = (scaled / SCALE, scaled % SCALE);
    if fraction == 0 {
        return whole.to_string();
    }
    let text = format!("{whole}.{fraction:017}");
    text.trim_end_matches('0').to_owned()
}

fn parse_hex(text: &[u8]) -> Option<LongDouble> {
    let (digits, exponent) = split_exponent(text, b'p');
    let mut number = Big::from(0);
    let mut scale = exponent?;
    let mut any = false;
    let mut after_point = false;
    for &byte in digits {
        if byte == b'.' && !after_point {
            after_point = true;
            continue;
        }
        let digit = char::from(byte).to_digit(16)?;
        any = true;
        number.multiply_add(16, digit);
        scale -= i64::from(after_point) * 4;
    }
    if !any {
        return None;
    }
    let (wide, dropped, sticky) = number.top_bits();
    let scale = i32::try_from(scale.clamp(-100_000, 100_000)).ok()? + dropped as i32;
    let value = LongDouble::round(false, wide, scale, sticky);
    (value.mantissa != 0 || number.is_zero()).then_some(value)
}

fn parse_decimal(text: &[u8]) -> Option<LongDouble> {
    let (digits, exponent) = split_exponent(text, b'e');
    let mut number = Big::from(0);
    let mut scale = exponent?;
    let mut any = false;
    let mut after_point = false;
    for &byte in digits {
        match byte {
            b'.' if !after_point => after_point = true,
            b'0'..=b'9' => {
                any = true;
                number.multiply_add(10, u32::from(byte - b'0'));
                scale -= i64::from(after_point);
            }
            _ => return None,
        }
    }
    if !any {
        return None;
    }
    if number.is_zero() {
        return Some(LongDouble::ZERO);
    }
    // At most 5,119 digits: beyond these the result is infinite or zero (below 10^-4951), which are
    // refused.
    if !(-10_100..=5_000).contains(&scale) {
        return None;
    }
    let value = if scale >= 0 {
        number.multiply_power_of_ten(scale as u32);
        let (wide, dropped, sticky) = number.top_bits();
        LongDouble::round(false, wide, dropped as i32, sticky)
    } else {
        let mut divisor = Big::from(1);
        divisor.multiply_power_of_ten(scale.unsigned_abs() as u32);
        let (quotient, exponent, sticky) = number.divide(divisor);
        LongDouble::round(false, quotient, exponent, sticky)
    };
    (value.mantissa != 0 || value.infinite).then_some(value)
}

/// Splits at the exponent letter; the exponent is `None` if it is not a number.
fn split_exponent(text: &[u8], letter: u8) -> (&[u8], Option<i64>) {
    let Some(at) = text.iter().position(|byte| byte.to_ascii_lowercase() == letter) else {
        return (text, Some(0));
    };
    let exponent = std::str::from_utf8(&text[at + 1..]).ok().and_then(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        const HUGE: i64 = i32::MAX as i64;
        let value: i64 = digits.parse().unwrap_or(HUGE).min(HUGE);
        Some(if exponent.starts_with('-') { -value } else { value })
    });
    (&text[..at], exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: &str, b: &str) -> String {
        let a = LongDouble::parse(a.as_bytes()).unwrap();
        let b = LongDouble::parse(b.as_bytes()).unwrap();
        a.add(b).unwrap().to_text()
    }

    #[test]
    fn sums_are_those_of_redis() {
        // Replies of a stock Redis 7.0 on x86-64 to INCRBYFLOAT.
        for (a, b, text) in [
            ("5.1", "0.2", "5.3"),
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1", "0"),
            ("3", "-1.1", "1.9"),
            ("1e-17", "0", "0.00000000000000001"),
            ("1e-18", "0", "0"),
            ("-1e-18", "0", "0"),
            ("17179869184", "1", "17179869185"),
            ("0x10", "0x1p-1", "16.5"),
        ] {
            assert_eq!(sum(a, b), text, "{a} + {b}");
        }
    }

    #[test]
    fn refuses_what_strtold_refuses() {
        for text in ["", " 1", "1 ", "abc", "1e", "1e5000", "1e-5000", "nan", ".", "0x", "1.2.3"] {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text:?}");
        }
        assert!(LongDouble::parse(b"-inf").unwrap().is_infinite());
    }

    #[test]
    fn mantissas_have_64_bits() {
        assert_eq!(sum("18446744073709551615", "0"), "18446744073709551615");
        assert_eq!(sum("18446744073709551615", "0.25"), "18446744073709551615");
        assert_eq!(sum("18446744073709551615", "0.5"), "18446744073709551616");
        assert_eq!(sum("18446744073709551614", "0.5"), "18446744073709551614");
        assert_eq!(sum("1e30", "1"), "1000000000000000000024696061952");
    }
}
