//! Just enough arithmetic on big natural numbers to read and print long doubles exactly.

/// A natural number, least significant limb first, without leading zero limbs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Big(Vec<u32>);

impl From<u64> for Big {
    fn from(value: u64) -> Self {
        let mut big = Self(vec![value as u32, (value >> 32) as u32]);
        big.trim();
        big
    }
}

impl Big {
    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.0 {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    pub(super) fn multiply_power_of_ten(&mut self, mut power: u32) {
        while power >= 9 {
            self.multiply_add(1_000_000_000, 0);
            power -= 9;
        }
        self.multiply_add(10u32.pow(power), 0);
    }

    pub(super) fn shifted_left(mut self, by: u32) -> Self {
        let bits = by % 32;
        if bits != 0 {
            self.multiply_add(1 << bits, 0);
        }
        if !self.is_zero() {
            self.0.splice(0..0, std::iter::repeat_n(0, (by / 32) as usize));
        }
        self
    }

    pub(super) fn bits(&self) -> u32 {
        match self.0.last() {
            None => 0,
            Some(top) => self.0.len() as u32 * 32 - top.leading_zeros(),
        }
    }

    /// The top 96 to 128 bits, how many bits are below them, and whether any of those is set.
    pub(super) fn top_bits(&self) -> (u128, u32, bool) {
        let skip = self.0.len().saturating_sub(4);
        let (low, high) = self.0.split_at(skip);
        let top = high.iter().rev().fold(0u128, |top, &limb| top << 32 | u128::from(limb));
        (top, skip as u32 * 32, low.iter().any(|&limb| limb != 0))
    }

    /// `self / divisor` as (quotient of 66 or 67 bits, exponent of two, inexact).
    pub(super) fn divide(self, divisor: Self) -> (u128, i32, bool) {
        const QUOTIENT_BITS: i32 = 66;
        let shift = QUOTIENT_BITS + divisor.bits() as i32 - self.bits() as i32;
        let (mut rest, divisor) = if shift >= 0 {
            (self.shifted_left(shift as u32), divisor)
        } else {
            (self, divisor.shifted_left(shift.unsigned_abs()))
        };
        let mut quotient = 0u128;
        for bit in (0..=QUOTIENT_BITS as u32).rev() {
            let step = divisor.clone().shifted_left(bit);
            if rest.at_least(&step) {
                rest.subtract(&step);
                quotient |= 1 << bit;
            }
        }
        (quotient, -shift, !rest.is_zero())
    }

    pub(super) fn to_decimal(&self) -> String {
        if self.is_zero() {
            return "0".to_owned();
        }
        let mut rest = self.clone();
        let mut parts = Vec::new();
        while !rest.is_zero() {
            parts.push(rest.divide_small(1_000_000_000));
        }
        let mut text = parts.pop().unwrap_or(0).to_string();
        for part in parts.iter().rev() {
            text.push_str(&format!("{part:09}"));
        }
        text
    }

    fn divide_small(&mut self, divisor: u32) -> u32 {
        let mut rest = 0u64;
        for limb in self.0.iter_mut().rev() {
            let wide = rest << 32 | u64::from(*limb);
            *limb = (wide / u64::from(divisor)) as u32;
            rest = wide % u64::from(divisor);
        }
        self.trim();
        rest as u32
    }

    fn at_least(&self, other: &Self) -> bool {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
            != std::cmp::Ordering::Less
    }

    /// Subtracts a number that is not greater.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (at, limb) in self.0.iter_mut().enumerate() {
            let subtrahend = other.0.get(at).copied().unwrap_or(0);
            let (value, first) = limb.overflowing_sub(subtrahend);
            let (value, second) = value.overflowing_sub(u32::from(borrow));
            *limb = value;
            borrow = first || second;
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}
