//! Exactly-once: what each proxy worker has had executed in each slot.
//!
//! A *lane* is (slot, worker). Its records are numbered 1, 2, 3… and executed in that order, each
//! once: a record that comes again gets the reply that was kept, one that comes too early is
//! refused. Lanes are replicated state.

use crate::checkpoint::lanes::LaneRecorder;
use holdfast_proto::bugs::{self, Bug};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::slot::{SLOT_COUNT, Slot};
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// A reply kept for the case that its record is sent again. The common ones take no memory of
/// their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Ok,
    Int(i64),
    /// Any other reply, encoded. (Doubly boxed: lanes have many of these and most are `Ok`.)
    Bytes(Box<Payload>),
    /// The command blocked; its state is in [`Lane::blocked`].
    Blocked,
}

/// An encoded reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Box<[u8]>);

impl Kept {
    pub(crate) fn from_bytes(reply: &[u8]) -> Self {
        if reply == b"+OK\r\n" {
            return Self::Ok;
        }
        let int = reply.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n"));
        match int.and_then(crate::num::parse_i64) {
            Some(value) => Self::Int(value),
            None => Self::Bytes(Box::new(Payload(reply.into()))),
        }
    }

    /// Appends the reply in RESP.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok => out.extend_from_slice(b"+OK\r\n"),
            Self::Int(value) => {
                out.push(b':');
                out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Bytes(payload) => out.extend_from_slice(&payload.0),
            Self::Blocked => {}
        }
    }

    pub(crate) fn memory(&self) -> usize {
        let payload = match self {
            Self::Bytes(payload) => payload.0.len() + size_of::<Payload>() + 16,
            _ => 0,
        };
        size_of::<Self>() + payload
    }
}

/// Replies of consecutive records. Most lanes have one record under way or none, and need no memory
/// beside their own.
pub(crate) type Replies = SmallVec<[Kept; 1]>;

/// A command that blocked and whose end the worker has not confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockedCommand {
    pub(crate) seq: u64,
    /// `None` while it waits.
    pub(crate) reply: Option<Kept>,
}

/// The record of one worker in one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) worker: WorkerId,
    /// The seq to be executed next.
    pub(crate) next: u64,
    /// Replies of `next - replies.len() .. next`.
    pub(crate) replies: Replies,
    pub(crate) blocked: Vec<BlockedCommand>,
}

/// What a record with some seq means to its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Execute it, then call [`Lanes::keep`].
    Execute,
    /// It was executed; answer this.
    Kept(Kept),
    /// It was executed, blocked, and still waits.
    StillBlocked,
    /// It was executed and the worker has confirmed the answer: nothing is known any more.
    Forgotten,
    /// A record before it is missing; `next` is the one expected.
    Gap { next: u64 },
    /// The lane is unknown or the worker is retired.
    SessionExpired,
}

/// Deliberate bugs: executes what is not next. Never in a product.
fn deviates(seq: u64, next: u64) -> bool {
    (seq > next && bugs::active(Bug::GapIgnored))
        || (seq < next && bugs::active(Bug::DuplicateExecutes))
}

/// All lanes of the shard.
#[derive(Default)]
pub(crate) struct Lanes {
    /// One list per slot, ordered by worker; empty until the first lane is made.
    slots: Vec<Vec<Lane>>,
    /// Workers that may not come back.
    retired: BTreeSet<WorkerId>,
    count: usize,
    /// Bytes of kept replies.
    kept: usize,
    /// Of the checkpoint under way.
    pub(crate) recorder: Option<Box<LaneRecorder>>,
}

impl Lanes {
    /// Decides what to do with record `seq`, and forgets replies that the worker has confirmed.
    pub(crate) fn admit(
        &mut self,
        slot: Slot,
        worker: WorkerId,
        seq: u64,
        first_unacked: u64,
    ) -> Admission {
        self.preserve(slot);
        if !self.exists_or_new(slot, worker, seq) {
            return Admission::SessionExpired;
        }
        let lane = self.lane_mut(slot, worker).expect("the lane exists");
        let freed = lane.confirm(first_unacked);
        if deviates(seq, lane.next) {
            lane.next = seq;
            self.kept -= freed;
            return Admission::Execute;
        }
        let admission = match seq.cmp(&lane.next) {
            std::cmp::Ordering::Equal => Admission::Execute,
            std::cmp::Ordering::Greater => Admission::Gap { next: lane.next },
            std::cmp::Ordering::Less => lane.repeated(seq),
        };
        self.kept -= freed;
        admission
    }

    /// Keeps the reply of the record that was just executed.
    pub(crate) fn keep(&mut self, slot: Slot, worker: WorkerId, reply: Kept) {
        let memory = reply.memory();
        let lane = self.lane_mut(slot, worker).expect("the record was admitted to its lane");
        if reply == Kept::Blocked {
            lane.blocked.push(BlockedCommand { seq: lane.next, reply: None });
        }
        lane.next += 1;
        lane.replies.push(reply);
        self.kept += memory;
    }

    /// Keeps the final reply of a command that had blocked.
    pub(crate) fn unblocked(&mut self, slot: Slot, worker: WorkerId, seq: u64, reply: Kept) {
        self.preserve(slot);
        let memory = reply.memory();
        let Some(lane) = self.lane_mut(slot, worker) else { return };
        if let Some(blocked) = lane.blocked.iter_mut().find(|blocked| blocked.seq == seq) {
            blocked.reply = Some(reply);
            self.kept += memory;
        }
    }

    /// Forgets a command that had blocked; `true` if it was known.
    pub(crate) fn forget_blocked(&mut self, slot: Slot, worker: WorkerId, seq: u64) -> bool {
        self.preserve(slot);
        let Some(lane) = self.lane_mut(slot, worker) else { return false };
        let Some(at) = lane.blocked.iter().position(|blocked| blocked.seq == seq) else {
            return false;
        };
        let memory = lane.blocked.remove(at).reply.map_or(0, |reply| reply.memory());
        self.kept -= memory;
        true
    }

    /// The next seq of a lane, `None` if there is no such lane.
    pub(crate) fn next(&self, slot: Slot, worker: WorkerId) -> Option<u64> {
        self.lane(slot, worker).map(|lane| lane.next)
    }

    /// Drops every lane of a worker and refuses it from now on.
    pub(crate) fn retire(&mut self, worker: WorkerId) {
        self.retired.insert(worker);
        for (slot, lanes) in self.slots.iter_mut().enumerate() {
            if let Ok(at) = lanes.binary_search_by_key(&worker, |lane| lane.worker) {
                if let Some(recorder) = &mut self.recorder {
                    let slot = Slot::new(slot as u16).expect("there are as many lists as slots");
                    recorder.preserve(slot, lanes);
                }
                let lane = lanes.remove(at);
                self.count -= 1;
                self.kept -= lane.kept_memory();
            }
        }
    }

    /// Every lane with its slot, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Lane)> {
        self.slots.iter().enumerate().flat_map(|(slot, lanes)| {
            let slot = Slot::new(slot as u16).expect("there are as many lists as slots");
            lanes.iter().map(move |lane| (slot, lane))
        })
    }

    pub(crate) fn retired(&self) -> impl Iterator<Item = WorkerId> {
        self.retired.iter().copied()
    }

    /// Puts back a lane from a checkpoint.
    pub(crate) fn restore(&mut self, slot: Slot, lane: Lane) {
        let kept = lane.kept_memory();
        let lanes = self.slot_mut(slot);
        if let Err(at) = lanes.binary_search_by_key(&lane.worker, |lane| lane.worker) {
            lanes.reserve_exact(1);
            lanes.insert(at, lane);
            self.count += 1;
            self.kept += kept;
        }
    }

    /// Lets the checkpoint under way have the lanes of a slot as they are, before they change.
    #[inline]
    pub(crate) fn preserve(&mut self, slot: Slot) {
        if let Some(recorder) = &mut self.recorder {
            let lanes = self.slots.get(slot.index()).map_or(&[][..], Vec::as_slice);
            recorder.preserve(slot, lanes);
        }
    }

    /// Approximate bytes.
    pub(crate) fn memory(&self) -> usize {
        self.slots.len() * size_of::<Vec<Lane>>()
            + self.count * (size_of::<Lane>() + 16)
            + self.kept
    }

    fn lane(&self, slot: Slot, worker: WorkerId) -> Option<&Lane> {
        let lanes = self.slots.get(slot.index())?;
        let at = lanes.binary_search_by_key(&worker, |lane| lane.worker).ok()?;
        Some(&lanes[at])
    }

    fn lane_mut(&mut self, slot: Slot, worker: WorkerId) -> Option<&mut Lane> {
        let lanes = self.slots.get_mut(slot.index())?;
        let at = lanes.binary_search_by_key(&worker, |lane| lane.worker).ok()?;
        Some(&mut lanes[at])
    }

    /// Makes a lane that begins; `false` if there is none and none may begin.
    fn exists_or_new(&mut self, slot: Slot, worker: WorkerId, seq: u64) -> bool {
        if self.lane(slot, worker).is_none() {
            if seq != 1 || self.retired.contains(&worker) {
                return false;
            }
            let lane = Lane { worker, next: 1, replies: Replies::new(), blocked: Vec::new() };
            self.restore(slot, lane);
        }
        true
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut Vec<Lane> {
        if self.slots.is_empty() {
            self.slots.resize_with(usize::from(SLOT_COUNT), Vec::new);
        }
        &mut self.slots[slot.index()]
    }
}

impl Lane {
    /// Forgets the replies below `first_unacked`; returns their bytes. While less than half of a
    /// long row is confirmed it stays, so that moving the rest costs constant time on average.
    fn confirm(&mut self, first_unacked: u64) -> usize {
        let first = self.next - self.replies.len() as u64;
        let confirmed = first_unacked.saturating_sub(first).min(self.replies.len() as u64) as usize;
        if confirmed * 2 < self.replies.len() || confirmed == 0 {
            return 0;
        }
        self.replies.drain(..confirmed).map(|reply| reply.memory()).sum()
    }

    fn repeated(&self, seq: u64) -> Admission {
        if let Some(blocked) = self.blocked.iter().find(|blocked| blocked.seq == seq) {
            return blocked.reply.clone().map_or(Admission::StillBlocked, Admission::Kept);
        }
        let first = self.next - self.replies.len() as u64;
        match seq.checked_sub(first).and_then(|at| self.replies.get(at as usize)) {
            None | Some(Kept::Blocked) => Admission::Forgotten,
            Some(reply) => Admission::Kept(reply.clone()),
        }
    }

    fn kept_memory(&self) -> usize {
        let blocked = self.blocked.iter().filter_map(|blocked| blocked.reply.as_ref());
        self.replies.iter().chain(blocked).map(Kept::memory).sum()
    }
}
