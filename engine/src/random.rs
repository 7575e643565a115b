//! Random numbers of commands: a small generator seeded from the log, never from the machine.

use crate::hash::mix;

/// wyrand: one folded multiplication per number.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Generator of command number `position` of record `index` of the batch with this `seed`.
    pub(crate) fn new(seed: u64, index: u32, position: u32) -> Self {
        let place = u64::from(index) << 32 | u64::from(position);
        Self(mix(seed ^ 0xa076_1d64_78bd_642f, place ^ 0xe703_7ed1_a0b4_28db) ^ seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        mix(self.0, self.0 ^ 0xe703_7ed1_a0b4_28db)
    }

    /// A number below `bound`, which is not 0. The bias is below 2^-32 for any real bound.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        debug_assert!(bound > 0);
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}
