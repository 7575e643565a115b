//! The worker's side of the exactly-once lanes: one counter per hash slot.
//!
//! A lane is (worker id, slot). Its `seq` is given when a write is sent for the first time, never
//! when it is queued: a request that waits for a primary and gives up leaves no hole.

use super::request::List;
use holdfast_proto::ids::WorkerId;
use holdfast_proto::slot::{SLOT_COUNT, Slot};

/// One lane: 16 bytes, so all 16,384 of a worker take 256 KiB.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    /// The seq of the next write.
    pub(crate) next_seq: u64,
    /// Sent writes without an answer, in the order of their seq. Blocked ones are not among them.
    pub(crate) unanswered: List,
}

/// All lanes of the present session.
pub(crate) struct Lanes {
    /// The session: given by the sentinels, replaced when a shard says that it expired.
    pub(crate) worker: WorkerId,
    lanes: Vec<Lane>,
}

impl Lanes {
    pub(crate) fn new(worker: WorkerId) -> Self {
        let lane = Lane { next_seq: 1, unanswered: List::EMPTY };
        Self { worker, lanes: vec![lane; SLOT_COUNT as usize] }
    }

    pub(crate) fn lane(&self, slot: Slot) -> &Lane {
        &self.lanes[slot.index()]
    }

    pub(crate) fn lane_mut(&mut self, slot: Slot) -> &mut Lane {
        &mut self.lanes[slot.index()]
    }

    /// Takes the next seq of a lane.
    pub(crate) fn take_seq(&mut self, slot: Slot) -> u64 {
        let lane = self.lane_mut(slot);
        let seq = lane.next_seq;
        lane.next_seq += 1;
        seq
    }
}
