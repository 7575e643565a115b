//! The lanes of a checkpoint under way: those of a slot are written before they first change.

use super::sections;
use crate::lane::Lane;
use holdfast_proto::slot::{SLOT_COUNT, Slot};

/// Which slots' lanes are written, and what is not yet handed out.
pub(crate) struct LaneRecorder {
    /// A bit per slot.
    done: Box<[u64; SLOT_COUNT as usize / 64]>,
    pending: Vec<u8>,
    /// Lanes in `pending`.
    count: u64,
}

impl Default for LaneRecorder {
    fn default() -> Self {
        Self { done: Box::new([0; SLOT_COUNT as usize / 64]), pending: Vec::new(), count: 0 }
    }
}

impl LaneRecorder {
    /// To be called before the lanes of a slot change, and once for each slot.
    #[inline]
    pub(crate) fn preserve(&mut self, slot: Slot, lanes: &[Lane]) {
        let (word, bit) = (slot.index() / 64, 1 << (slot.index() % 64));
        if self.done[word] & bit == 0 {
            self.done[word] |= bit;
            if !lanes.is_empty() {
                sections::write_lanes(slot, lanes, &mut self.pending);
                self.count += lanes.len() as u64;
            }
        }
    }

    /// Appends the sections written so far; returns how many lanes are in them.
    pub(super) fn hand_out(&mut self, out: &mut Vec<u8>) -> u64 {
        if holdfast_proto::bugs::active(holdfast_proto::bugs::Bug::LanesNotInCheckpoint) {
            self.pending.clear();
            self.count = 0;
        }
        out.append(&mut self.pending);
        std::mem::take(&mut self.count)
    }
}
