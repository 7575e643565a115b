//! A 128-bit digest of logical state, for comparing replicas.

use crate::hash::{hash, mix};

/// Absorbs values in order. Not cryptographic: it finds faults, not forgeries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Digest {
    low: u64,
    high: u64,
}

impl Digest {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn number(&mut self, value: u64) {
        self.low = mix(self.low ^ 0x9e37_79b9_7f4a_7c15, value ^ 0xd1b5_4a32_d192_ed03);
        self.high = mix(self.high ^ 0x8cb9_2ba7_2f3d_8dd7, value ^ 0xaaaa_aaaa_5555_5555)
            .wrapping_add(self.low);
    }

    /// Length and content, so that neighbours cannot trade bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.number(hash(1, bytes));
        self.number(hash(2, bytes));
    }

    /// A double by value: all zeros are one, as they compare equal.
    pub(crate) fn double(&mut self, value: f64) {
        self.number(if value == 0.0 { 0 } else { value.to_bits() });
    }

    /// Adds a collection without order: each element gets a digest of its own and these are summed.
    pub(crate) fn unordered<T>(
        &mut self,
        elements: impl Iterator<Item = T>,
        mut absorb: impl FnMut(&mut Self, T),
    ) {
        let mut sum = (0u64, 0u64, 0u64);
        for element in elements {
            let mut one = Self::new();
            absorb(&mut one, element);
            sum.0 = sum.0.wrapping_add(one.low);
            sum.1 = sum.1.wrapping_add(one.high);
            sum.2 += 1;
        }
        self.number(sum.0);
        self.number(sum.1);
        self.number(sum.2);
    }

    pub(crate) fn finish(mut self) -> [u8; 16] {
        self.number(0);
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.low.to_le_bytes());
        out[8..].copy_from_slice(&self.high.to_le_bytes());
        out
    }
}
