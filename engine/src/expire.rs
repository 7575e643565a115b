//! The search for keys whose time has come.
//!
//! Only the primary searches; it proposes what it finds, and every replica deletes it when that
//! record is applied. Each slot knows a lower bound of its expiry times, so slots with nothing due
//! cost one comparison, and a visit of a slot makes its bound exact again.

use crate::keyspace::Keyspace;
use crate::table::Keyed;
use holdfast_proto::slot::Slot;

/// Found keys are found again after this time if nobody deleted them: the record may have been
/// lost with a change of the primary.
const RETRY_MS: u64 = 1000;

/// Where the search is.
#[derive(Debug, Default)]
pub(crate) struct ExpiryCycle {
    db: usize,
    slot: usize,
    cursor: u64,
    /// The earliest expiry met so far in this slot.
    earliest: Option<u64>,
}

impl ExpiryCycle {
    pub(crate) fn run(
        &mut self,
        space: &mut Keyspace,
        now_ms: u64,
        budget: usize,
        due: &mut Vec<(u16, Slot, Vec<u8>)>,
    ) -> bool {
        let mut left = budget;
        // One pass over the databases at most, from where the last call stopped.
        for _ in 0..=space.dbs.len() {
            while let Some(slot) = space.dbs[self.db].next_due_slot(self.slot, now_ms) {
                if slot != self.slot {
                    (self.slot, self.cursor, self.earliest) = (slot, 0, None);
                }
                if left == 0 {
                    return true;
                }
                left = left.saturating_sub(self.step(space, now_ms, due));
            }
            self.db = (self.db + 1) % space.dbs.len();
            (self.slot, self.cursor, self.earliest) = (0, 0, None);
        }
        false
    }

    /// Visits one bucket of the slot's expiries; returns how many keys it looked at.
    fn step(
        &mut self,
        space: &mut Keyspace,
        now_ms: u64,
        due: &mut Vec<(u16, Slot, Vec<u8>)>,
    ) -> usize {
        let db = &mut space.dbs[self.db];
        let name = Slot::new(self.slot as u16).expect("the search stays inside the slots");
        let mut seen = 0;
        let mut earliest = self.earliest.unwrap_or(u64::MAX);
        if let Some(keys) = db.slot(self.slot) {
            self.cursor = keys.expires.scan(self.cursor, |entry| {
                seen += 1;
                let at = entry.expire_at();
                if at <= now_ms {
                    due.push((self.db as u16, name, entry.key().to_vec()));
                    earliest = earliest.min(now_ms + RETRY_MS);
                } else {
                    earliest = earliest.min(at);
                }
            });
        }
        self.earliest = Some(earliest);
        if self.cursor == 0 {
            db.set_next_expiry(self.slot, earliest);
            self.earliest = None;
            // `next_due_slot` starts here again and finds the slot done, or due again by then.
        }
        seen.max(1)
    }
}
