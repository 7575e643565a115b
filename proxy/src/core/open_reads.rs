//! Which reads of a client are not answered yet, so that no later write overtakes one.
//!
//! A read goes to the primary beside the log; a write that follows it in the same pipeline could be
//! executed first, after a failover even surely, and the read would answer with the future. So a
//! write waits in the proxy for the client's own unanswered reads of its slot. Reads of other slots
//! do not hold it up: a client that alternates between keys is not slowed down.

use holdfast_proto::slot::{SLOT_COUNT, Slot};
use smallvec::SmallVec;

/// Up to so many reads are searched without asking first whether the slot is among them.
const FEW: usize = 32;
const WORDS: usize = SLOT_COUNT as usize / 64;

/// A read of one slot, or of several.
#[derive(Clone, Copy)]
struct OpenRead {
    slot: Option<Slot>,
    /// Its place in the client's reply queue.
    reply: u32,
}

/// Reads that may be unanswered. Answered ones are forgotten when the client has nothing
/// outstanding, and now and then before.
#[derive(Default)]
pub(crate) struct OpenReads {
    reads: SmallVec<[OpenRead; 1]>,
    /// Bits of the slots that are read, once there are many reads.
    slots: Option<Box<[u64; WORDS]>>,
    spanning: bool,
    /// Answered reads are looked for when there are this many.
    prune_at: usize,
}

impl OpenReads {
    pub(crate) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes a read of one slot, or of several (`None`), that is answered at `reply`; all replies
    /// before `first_reply` are given.
    pub(crate) fn add(&mut self, slot: Option<Slot>, reply: u32, first_reply: u32) {
        if self.reads.len() >= self.prune_at.max(FEW) {
            self.prune(first_reply);
        }
        self.reads.push(OpenRead { slot, reply });
        self.mark(slot);
    }

    fn mark(&mut self, slot: Option<Slot>) {
        match (slot, &mut self.slots) {
            (None, _) => self.spanning = true,
            (Some(slot), Some(bits)) => bits[slot.index() / 64] |= 1 << (slot.index() % 64),
            (Some(_), None) => {}
        }
    }

    fn prune(&mut self, first_reply: u32) {
        // Numbers wrap; the queue is far shorter than half of their range.
        self.reads.retain(|read| read.reply.wrapping_sub(first_reply) < u32::MAX / 2);
        self.prune_at = 2 * self.reads.len();
        self.spanning = false;
        self.slots = Some(Box::new([0; WORDS]));
        for at in 0..self.reads.len() {
            self.mark(self.reads[at].slot);
        }
    }

    /// Places of the reads that a write must wait for: those of its slot and those of several; all,
    /// if it may touch several itself.
    pub(crate) fn before_write(&self, slot: Option<Slot>) -> impl Iterator<Item = u32> + '_ {
        let concerned = match (slot, &self.slots) {
            (Some(slot), Some(bits)) => {
                self.spanning || bits[slot.index() / 64] >> (slot.index() % 64) & 1 == 1
            }
            _ => true,
        };
        let reads = if concerned { &self.reads[..] } else { &[] };
        let meets =
            move |read: &&OpenRead| slot.is_none() || read.slot.is_none() || read.slot == slot;
        reads.iter().filter(meets).map(|read| read.reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Option<Slot> {
        Some(Slot::new(number).unwrap())
    }

    fn before(reads: &OpenReads, slot: Option<Slot>) -> Vec<u32> {
        reads.before_write(slot).collect()
    }

    #[test]
    fn a_write_waits_for_the_reads_of_its_slot_and_for_those_of_several() {
        let mut reads = OpenReads::default();
        assert!(reads.is_empty());
        for (at, number) in [(10, 1), (11, 2), (12, 1)] {
            reads.add(slot(number), at, 10);
        }
        assert_eq!(before(&reads, slot(1)), [10, 12]);
        assert_eq!(before(&reads, slot(3)), Vec::<u32>::new());
        reads.add(None, 13, 10);
        assert_eq!(before(&reads, slot(3)), [13]);
        assert_eq!(before(&reads, None), [10, 11, 12, 13]);
        reads.clear();
        assert!(reads.is_empty());
    }

    #[test]
    fn thousands_of_reads_are_told_apart_and_answered_ones_forgotten() {
        let mut reads = OpenReads::default();
        let start = u32::MAX - 5_000;
        for at in 0..10_000u32 {
            let reply = start.wrapping_add(at);
            let first_open = start.wrapping_add(at.saturating_sub(100));
            reads.add(slot((at % 1000) as u16), reply, first_open);
        }
        assert_eq!(before(&reads, slot(999)).last(), Some(&start.wrapping_add(9_999)));
        assert_eq!(before(&reads, slot(1000)), Vec::<u32>::new());
        assert!(reads.reads.len() < 400, "{} are kept", reads.reads.len());
        reads.add(None, 5_000, 5_000);
        assert_eq!(before(&reads, slot(1000)), [5_000]);
    }
}
