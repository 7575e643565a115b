//! Clocks, and the machine that a node runs on: its disk with a log that knows what is synced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::LogWrite;
use holdfast_consensus::log::LogStore;
use holdfast_consensus::log::memory::MemoryStore;
use holdfast_consensus::testing::Rng;
use holdfast_node::sim::{Part, SimCheckpoints, SimNode};
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use holdfast_proto::v1;

/// The wall clock at the beginning of every run: 2026-01-01, in microseconds.
const WALL_ORIGIN_US: i64 = 1_767_225_600_000_000;

/// A machine's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// True time of the last change of speed, and the monotonic clock then.
    since: Duration,
    base: Duration,
    pub(crate) per_mille: u64,
    wall_us: i64,
}

impl Clock {
    pub(crate) fn new(rng: &mut Rng, per_mille: u64) -> Self {
        Self {
            since: Duration::ZERO,
            base: Duration::from_millis(1_000 + rng.below(1_000_000)),
            per_mille,
            wall_us: WALL_ORIGIN_US + rng.below(2_000_000) as i64 - 1_000_000,
        }
    }

    pub(crate) fn monotonic(&self, now: Duration) -> Duration {
        let passed = (now - self.since).as_nanos() as u64;
        self.base + Duration::from_nanos(passed / 1000 * self.per_mille + passed % 1000)
    }

    pub(crate) fn wall_us(&self, now: Duration) -> u64 {
        let local = (self.monotonic(now) - self.base).as_micros() as i64;
        (self.wall_us + self.since.as_micros() as i64 + local) as u64
    }

    /// How long `span` of this clock truly takes, rounded up.
    pub(crate) fn truly(&self, span: Duration) -> Duration {
        Duration::from_nanos((span.as_nanos() as u64).div_ceil(self.per_mille) * 1000)
    }

    pub(crate) fn set_rate(&mut self, now: Duration, per_mille: u64) {
        let (base, wall) = (self.monotonic(now), self.wall_us(now));
        self.base = base;
        self.wall_us = wall as i64 - now.as_micros() as i64;
        self.since = now;
        self.per_mille = per_mille;
    }

    pub(crate) fn set_wall(&mut self, by_s: i64) {
        self.wall_us += by_s * 1_000_000;
    }
}

/// A machine with a node process on it, or without.
pub(crate) struct Machine {
    pub(crate) process: Option<SimNode>,
    /// Of the process; changes when it ends, so that nothing reaches its successor by mistake.
    pub(crate) incarnation: u64,
    pub(crate) paused: bool,
    /// Orders that it has not answered yet.
    pub(crate) orders: super::orders::Orders,
    pub(crate) clock: Clock,
    pub(crate) store: MemoryStore,
    pub(crate) checkpoints: SimCheckpoints,
    /// When each part takes its next turn, and the number of that appointment.
    pub(crate) turns: BTreeMap<Part, (Duration, u64)>,
    pub(crate) queued: VecDeque<LogWrite>,
    pub(crate) writing: Vec<LogWrite>,
    pub(crate) write_began: Duration,
    pub(crate) checkpoint_work_due: bool,
    pub(crate) stalled_until: Duration,
    pub(crate) full_until: Duration,
    pub(crate) sync_fails: bool,
    /// A message of some leader came then.
    pub(crate) heard_leader_at: Duration,
    /// The last pause ended then; `rested`: a leader had been heard just before it, and nobody has
    /// ordered a campaign since.
    pub(crate) resumed_at: Duration,
    pub(crate) rested: bool,
    /// Faults that keep it from starting.
    pub(crate) down: u32,
    /// The side record: what is synced of each group, and replicas that must not run again.
    synced: BTreeMap<ShardId, (RaftId, Term, LogIndex)>,
    pub(crate) condemned: BTreeSet<RaftId>,
    /// Something happened to its disk that may cost a replica what it had promised.
    pub(crate) may_forget: bool,
    /// What its process was last told; kept in the data directory.
    pub(crate) topology: Arc<v1::Topology>,
}

impl Machine {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            process: None,
            incarnation: 0,
            paused: false,
            orders: Vec::new(),
            clock,
            store: MemoryStore::new(),
            checkpoints: SimCheckpoints::default(),
            turns: BTreeMap::new(),
            queued: VecDeque::new(),
            writing: Vec::new(),
            write_began: Duration::ZERO,
            checkpoint_work_due: false,
            stalled_until: Duration::ZERO,
            full_until: Duration::ZERO,
            sync_fails: false,
            heard_leader_at: Duration::ZERO,
            resumed_at: Duration::ZERO,
            rested: false,
            down: 0,
            synced: BTreeMap::new(),
            condemned: BTreeSet::new(),
            may_forget: false,
            topology: Arc::default(),
        }
    }

    /// Sets the clocks of the node code to this machine's.
    pub(crate) fn set_clock(&self, now: Duration) {
        holdfast_node::sim::set_clock(self.clock.monotonic(now), self.clock.wall_us(now));
    }

    /// Notes what is synced now, as the side record does.
    pub(crate) fn note_synced(&mut self) {
        for shard in self.store.shards() {
            if let Ok(Some(stored)) = self.store.load(shard) {
                let (index, term) = stored.last;
                self.synced.insert(shard, (stored.raft_id, term, index));
            }
        }
    }

    /// The process ends. Of the log write under way the first parts may have been done.
    pub(crate) fn end_process(&mut self, rng: &mut Rng) -> Option<SimNode> {
        self.incarnation += 1;
        self.paused = false;
        self.turns.clear();
        self.orders.clear();
        self.rested = false;
        self.queued.clear();
        self.checkpoints.abandon_jobs();
        self.checkpoint_work_due = false;
        let done = rng.below(self.writing.len() as u64 + 1) as usize;
        let mut partly: Vec<LogWrite> = self.writing.drain(..).take(done).collect();
        for write in &mut partly {
            write.sync = false;
        }
        self.store.write(&partly, false).expect("memory does not fail");
        self.process.take()
    }

    /// The machine dies: of the writes that are not synced only the first few survive. With
    /// acknowledgements before the sync every replica is condemned by the side record.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng, synced: bool) {
        let kept = rng.below(self.store.unsynced() as u64 + 1) as usize;
        self.store.crash(kept);
        if !synced {
            self.may_forget = true;
            self.condemn_all();
        }
        self.check_side_record();
    }

    fn condemn_all(&mut self) {
        for shard in self.store.shards() {
            if let Ok(Some(stored)) = self.store.load(shard) {
                self.condemned.insert(stored.raft_id);
            }
        }
    }

    /// A record of a log is damaged, some entries from its end: reading stops there. It is one that
    /// was synced, as damage of media is not a matter of the last second.
    pub(crate) fn damage_log(&mut self, back: u64) {
        self.may_forget = true;
        for shard in self.store.shards() {
            if let Ok(Some(stored)) = self.store.load(shard) {
                let synced = self.synced.get(&shard).map_or(0, |(_, _, index)| index.0);
                let from = stored.last.0.0.saturating_sub(back).min(synced);
                self.store.lose_tail(shard, LogIndex(from));
            }
        }
        self.check_side_record();
    }

    /// A log that ends before what was synced belongs to a replica that must not run again.
    fn check_side_record(&mut self) {
        if holdfast_proto::bugs::active(holdfast_proto::bugs::Bug::AmnesiacRejoins) {
            self.condemned.clear();
            return;
        }
        for (shard, (raft_id, term, index)) in &self.synced {
            let Ok(Some(stored)) = self.store.load(*shard) else { continue };
            if stored.raft_id == *raft_id && (stored.last.1, stored.last.0) < (*term, *index) {
                self.condemned.insert(*raft_id);
            }
        }
    }
}
