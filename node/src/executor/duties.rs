//! What the primary puts into the log by itself: ends of waits, expired keys, the passing of time.

use super::Executor;
use crate::clock;
use crate::consensus_loop::{Input as ToConsensus, InternalRecord};
use crate::shared::{NodeShared, ShardShared};
use holdfast_proto::frame::{RecordHeader, RecordOp};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::slot::Slot;
use std::time::{Duration, Instant};

/// Waits ended by one proposal.
const UNBLOCKS_MAX: usize = 1024;
/// Keys looked at by one turn of the expiry cycle; with ten turns per second a shard keeps up with
/// 200,000 keys falling due per second.
const EXPIRE_BUDGET: usize = 20_000;
/// A proposal that is not applied by then was lost with a leadership: propose again.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Which of the primary's own records are under way. None is proposed twice at a time.
#[derive(Default)]
pub(crate) struct Duties {
    tick: Option<Instant>,
    unblock: Option<Instant>,
    expire: Option<Instant>,
}

impl Duties {
    /// A record of [`WorkerId::SHARD`] was applied.
    pub(crate) fn applied(&mut self, header: &RecordHeader) {
        match header.op {
            RecordOp::Tick => self.tick = None,
            RecordOp::Unblock => self.unblock = None,
            RecordOp::Expire => self.expire = None,
            _ => {}
        }
    }

    pub(crate) fn want_tick(
        &mut self,
        node: &NodeShared,
        shared: &ShardShared,
        tick: InternalRecord,
    ) {
        if may_propose(self.tick) {
            self.tick = Some(clock::instant());
            node.consensus.send(ToConsensus::Internal { shard: shared.shard, records: vec![tick] });
        }
    }
}

pub(super) fn may_propose(under_way: Option<Instant>) -> bool {
    under_way.is_none_or(|since| clock::since(since) > PROPOSAL_TIMEOUT)
}

impl Executor {
    pub(super) fn unblock_is_due(&self) -> bool {
        self.primary
            && may_propose(self.duties.unblock)
            && self.engine.next_unblock_at().is_some_and(|at| at <= self.shared.now_ms())
    }

    pub(super) fn do_duties(&mut self) {
        self.publish_figures();
        self.give_up_old_reads();
        if !self.shared.is_serving() {
            return;
        }
        let now_ms = self.shared.now_ms().max(self.engine.time_ms());
        let mut records = Vec::new();
        if may_propose(self.duties.unblock) {
            self.collect_unblocks(now_ms, &mut records);
        }
        if may_propose(self.duties.expire) {
            self.collect_expired(now_ms, &mut records);
        }
        if !records.is_empty() {
            let shard = self.shared.shard;
            self.node.consensus.send(ToConsensus::Internal { shard, records });
        }
    }

    fn collect_unblocks(&mut self, now_ms: u64, records: &mut Vec<InternalRecord>) {
        let mut due: Vec<(WorkerId, Slot, u64)> = Vec::new();
        self.engine.due_unblocks(now_ms, UNBLOCKS_MAX, &mut due);
        if !due.is_empty() {
            self.duties.unblock = Some(clock::instant());
        }
        records.extend(due.into_iter().map(|(w, slot, seq)| InternalRecord::unblock(w, slot, seq)));
    }

    fn collect_expired(&mut self, now_ms: u64, records: &mut Vec<InternalRecord>) {
        let mut due: Vec<(u16, Slot, Vec<u8>)> = Vec::new();
        self.engine.due_expired(now_ms, EXPIRE_BUDGET, &mut due);
        if due.is_empty() {
            return;
        }
        self.duties.expire = Some(clock::instant());
        // One record per run of keys of the same database and slot: a record has one of each.
        due.sort_unstable_by_key(|due| (due.0, due.1));
        let groups = due.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
        records.extend(groups.map(|group| {
            InternalRecord::expire(group[0].0, group[0].1, group.iter().map(|(_, _, key)| &key[..]))
        }));
    }
}
