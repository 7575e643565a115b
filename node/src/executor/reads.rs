//! Reads: served on the lease, or after a round that confirms the leadership; parked while they
//! must wait for something.
//!
//! A read whose point in time is confirmed once (lease valid, or a ReadIndex round begun after it
//! came) may be served from any later applied state: everything acknowledged before that point is
//! in it. So a parked read is never confirmed a second time.

use super::{Executor, ReadBatch};
use crate::clock;
use crate::consensus_loop::{Input as ToConsensus, InternalRecord};
use crate::links::{abandon_answer, begin_answer, finish_answer};
use bytes::Bytes;
use holdfast_engine::{Engine, ReadOutcome};
use holdfast_proto::bugs;
use holdfast_proto::events::EventClasses;
use holdfast_proto::frame::{AnswerStatus, ReadHeader, ReadOp, flags};
use holdfast_proto::ids::{LogIndex, WorkerId};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A parked read that nothing releases for this long is answered Busy: the proxy sends it again.
/// The write that it depends on was then refused or lost.
const PARKED_MAX: Duration = Duration::from_secs(5);

/// Reads that wait.
#[derive(Default)]
pub(crate) struct Reads {
    next_token: u64,
    /// For the answer of a round, by token (ascending).
    rounds: VecDeque<(u64, Vec<Parked>)>,
    /// For an index to be applied, for a write of their client, or for the cluster time.
    waiting: Vec<(Condition, Parked)>,
}

struct Parked {
    worker: WorkerId,
    header: ReadHeader,
    body: Bytes,
    since: Instant,
}

#[derive(Clone, Copy)]
enum Condition {
    Applied(LogIndex),
    /// The lane of the read's `depends_on_slot` is past `depends_on_seq`.
    Written,
    /// The cluster time is at least this: a key is due that no entry has made expired yet.
    Time(u64),
}

enum Served {
    Yes,
    Later(Condition),
}

impl Reads {
    fn holds_message(&self) -> bool {
        let parked = self.rounds.iter().flat_map(|(_, reads)| reads);
        let mut all = parked.chain(self.waiting.iter().map(|(_, read)| read));
        all.any(|read| read.header.op == ReadOp::Publish)
    }

    pub(crate) fn parked(&self) -> usize {
        self.waiting.len() + self.rounds.iter().map(|(_, reads)| reads.len()).sum::<usize>()
    }
}

impl Executor {
    pub(super) fn take_reads(&mut self, batch: ReadBatch) {
        if !self.shared.is_leader() {
            let (term, leader) = (self.shared.term(), self.shared.leader_node());
            for item in &batch.items {
                self.replies.not_primary(batch.worker, item.header.tag, term, leader);
            }
            return;
        }
        self.shared.reads_came.store(true, Ordering::Relaxed);
        self.shared.counters.reads.fetch_add(batch.items.len() as u64, Ordering::Relaxed);
        // A message must not overtake one that waits: whoever reads a channel sees an order.
        let publishes = |item: &super::ReadItem| item.header.op == ReadOp::Publish;
        let in_order = !batch.items.iter().any(publishes) || !self.reads.holds_message();
        if !in_order || !self.shared.lease_holds(clock::monotonic()) {
            return self.park_for_round(batch);
        }
        let now_ms = self.engine.time_ms().max(self.shared.now_ms());
        let mut clock = clock::instant();
        for item in batch.items {
            let body = &batch.frames[item.body.start as usize..item.body.end as usize];
            if let Served::Later(condition) = self.serve(batch.worker, &item.header, body, now_ms) {
                let body = batch.frames.slice_ref(body);
                let parked =
                    Parked { worker: batch.worker, header: item.header, body, since: clock };
                self.park(condition, parked);
                continue;
            }
            clock = self.slowlog.observe(clock, body);
        }
        self.replies.flush();
    }

    fn park_for_round(&mut self, batch: ReadBatch) {
        let since = clock::instant();
        let park = |item: super::ReadItem| Parked {
            worker: batch.worker,
            header: item.header,
            body: batch.frames.slice(item.body.start as usize..item.body.end as usize),
            since,
        };
        self.reads.next_token += 1;
        let token = self.reads.next_token;
        self.reads.rounds.push_back((token, batch.items.into_iter().map(park).collect()));
        self.node.consensus.send(ToConsensus::ReadIndex { shard: self.shared.shard, token });
    }

    pub(super) fn take_read_point(&mut self, token: u64, index: LogIndex) {
        let Some(at) = self.reads.rounds.iter().position(|(t, _)| *t == token) else { return };
        let Some((_, reads)) = self.reads.rounds.remove(at) else { return };
        let condition = Condition::Applied(index);
        self.reads.waiting.extend(reads.into_iter().map(|read| (condition, read)));
        self.serve_ready_reads();
    }

    /// Serves the parked reads whose condition holds now. Called after each apply.
    pub(super) fn serve_ready_reads(&mut self) {
        if self.reads.waiting.is_empty() {
            return;
        }
        let wall_ms = self.shared.now_ms();
        for (condition, parked) in std::mem::take(&mut self.reads.waiting) {
            let now_ms = match condition {
                Condition::Applied(index) if index > self.applied => None,
                Condition::Time(at) if at > self.engine.time_ms() => None,
                // As of the applied time nothing can be due and not expired: no second wait.
                Condition::Time(_) => Some(self.engine.time_ms()),
                Condition::Applied(_) | Condition::Written => {
                    Some(wall_ms.max(self.engine.time_ms()))
                }
            };
            let Some(now_ms) = now_ms else {
                self.reads.waiting.push((condition, parked));
                continue;
            };
            if let Served::Later(condition) =
                self.serve(parked.worker, &parked.header, &parked.body, now_ms)
            {
                self.park(condition, parked);
            }
        }
    }

    fn park(&mut self, condition: Condition, parked: Parked) {
        if let Condition::Time(_) = condition {
            self.duties.want_tick(&self.node, &self.shared, InternalRecord::tick());
        }
        self.reads.waiting.push((condition, parked));
    }

    /// Answers one read, unless it must wait.
    fn serve(&mut self, worker: WorkerId, read: &ReadHeader, body: &[u8], now_ms: u64) -> Served {
        let waits = read.depends_on_seq > 0 && !bugs::active(bugs::Bug::ReadBeforeOwnWrite);
        if waits && !is_written(&self.engine, worker, read) {
            return Served::Later(Condition::Written);
        }
        if read.op == ReadOp::Publish {
            self.publish_message(worker, read, body);
            return Served::Yes;
        }
        if read.op == ReadOp::Command
            && let Some(command) = super::info::NodeCommand::parse(body)
        {
            self.answer_node_command(worker, read, &command);
            return Served::Yes;
        }
        let Some(out) = self.replies.output(worker) else { return Served::Yes };
        let start = begin_answer(out, read.tag);
        let resp3 = read.flags & flags::RESP3 != 0;
        self.engine.heed_flags(read.flags, read.slot);
        match self.engine.read(now_ms, read.db, resp3, read.op, body, out) {
            ReadOutcome::Expired => {
                abandon_answer(out, start);
                return Served::Later(Condition::Time(now_ms));
            }
            ReadOutcome::NotReadOnly => {
                out.extend_from_slice(b"-ERR a write was sent as a read\r\n");
                finish_answer(out, start, AnswerStatus::Reply);
            }
            ReadOutcome::Done => {
                let status = match read.op {
                    ReadOp::Command | ReadOp::Publish => AnswerStatus::Reply,
                    ReadOp::WatchVersions => AnswerStatus::WatchVersions,
                };
                finish_answer(out, start, status);
                if read.flags & flags::TRACK != 0 {
                    self.remember_reader(worker, body);
                }
                if self.events.intersects(EventClasses::KEY_MISS) {
                    self.deliver_read_effects();
                }
            }
        }
        Served::Yes
    }

    /// The rounds of these tokens have no answer.
    pub(super) fn refuse_rounds(&mut self, tokens: &[u64]) {
        let (term, leader) = (self.shared.term(), self.shared.leader_node());
        let rounds = std::mem::take(&mut self.reads.rounds);
        let (failed, kept) = rounds.into_iter().partition(|(token, _)| tokens.contains(token));
        self.reads.rounds = kept;
        let failed: VecDeque<(u64, Vec<Parked>)> = failed;
        for read in failed.into_iter().flat_map(|(_, reads)| reads) {
            self.replies.not_primary(read.worker, read.header.tag, term, leader);
        }
    }

    /// Leadership is gone: whatever waits goes to the new primary.
    pub(super) fn refuse_parked(&mut self) {
        let (term, leader) = (self.shared.term(), self.shared.leader_node());
        let rounds = std::mem::take(&mut self.reads.rounds);
        let waiting = std::mem::take(&mut self.reads.waiting);
        let parked = rounds.into_iter().flat_map(|(_, reads)| reads);
        for read in parked.chain(waiting.into_iter().map(|(_, read)| read)) {
            self.replies.not_primary(read.worker, read.header.tag, term, leader);
        }
    }

    pub(super) fn give_up_old_reads(&mut self) {
        let replies = &mut self.replies;
        let mut keep = |read: &Parked| {
            let keep = clock::since(read.since) < PARKED_MAX;
            if !keep {
                replies.answer(read.worker, read.header.tag, AnswerStatus::Busy, &[]);
            }
            keep
        };
        self.reads.waiting.retain(|(_, read)| keep(read));
        self.reads.rounds.retain_mut(|(_, reads)| {
            reads.retain(&mut keep);
            !reads.is_empty()
        });
    }
}

fn is_written(engine: &Engine, worker: WorkerId, read: &ReadHeader) -> bool {
    engine.lane_next(read.depends_on_slot, worker).is_some_and(|next| next > read.depends_on_seq)
}
