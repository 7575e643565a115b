//! The executor: one thread that owns the engine of one replica.
//!
//! It applies committed batches in order, answers the proxies, serves reads, and while this replica
//! is the primary proposes what time demands (expiry, ends of waits). Everything it is told comes
//! through one mailbox; answers leave once per turn.

pub(crate) mod checkpoint;
mod duties;
mod info;
mod memory;
mod publish;
mod reads;
mod slowlog;
mod tracking;

use crate::checkpoint_files::CheckpointFile;
use crate::clock;
use crate::consensus_loop;
use crate::links::Replies;
use crate::mailbox::Mailbox;
use crate::shared::{NodeShared, ShardShared};
use bytes::Bytes;
use checkpoint::CheckpointJob;
use duties::Duties;
use holdfast_consensus::faults::{self, Point};
use holdfast_consensus::{Committed, EntryKind};
use holdfast_engine::{Engine, Outcomes, Watched};
use holdfast_proto::bugs;
use holdfast_proto::events::EventClasses;
use holdfast_proto::frame::RECORD_HEADER_LEN;
use holdfast_proto::frame::{BATCH_HEADER_LEN, BatchHeader, ReadHeader, RecordHeader, RecordOp};
use holdfast_proto::ids::{LogIndex, WorkerId};
use holdfast_proto::v1;
use memory::MemoryLimit;
use reads::Reads;
use slowlog::Slowlog;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracking::Tracked;

/// How often a primary looks for due keys and waits, and parked reads are looked through.
pub(crate) const DUTY_PERIOD: Duration = Duration::from_millis(100);
/// The same without anything that could fall due.
const IDLE_DUTY_PERIOD: Duration = Duration::from_secs(1);

/// What the executor is told.
pub(crate) enum Input {
    /// Entries to apply, following on the last ones.
    Committed(Vec<Committed>),
    Reads(ReadBatch),
    /// Reads parked under this token may be served once `index` is applied.
    ReadPoint {
        token: u64,
        index: LogIndex,
    },
    /// The replica became or ceased to be the primary; the shared state says which.
    RoleChanged,
    /// A checkpoint is wanted for log compaction, a lagging replica or an operator. The answer,
    /// if wanted, comes when the file is durable.
    Checkpoint(Option<tokio::sync::oneshot::Sender<LogIndex>>),
    CheckpointEnded(Result<CheckpointFile, String>),
    /// The file of this checkpoint is not what was written: another one must take its place.
    CheckpointDamaged(LogIndex),
    /// These read tokens get no point: the leadership went.
    ReadsFailed(Vec<u64>),
    /// A checkpoint that was pulled from the leader takes the place of the state.
    Restore(LogIndex),
    /// Cluster-wide settings (Redis parameter names).
    Settings(Arc<v1::ClusterSpec>),
    /// Digest and the index that it belongs to.
    Digest(tokio::sync::oneshot::Sender<(Vec<u8>, LogIndex)>),
    Stop,
}

/// Reads that came in one turn on one link.
pub(crate) struct ReadBatch {
    pub(crate) worker: WorkerId,
    /// What was received; `body` ranges lie in it.
    pub(crate) frames: Bytes,
    pub(crate) items: Vec<ReadItem>,
}

#[derive(Clone, Debug)]
pub(crate) struct ReadItem {
    pub(crate) header: ReadHeader,
    pub(crate) body: Range<u32>,
}

/// What an executor starts with.
pub(crate) struct Start {
    pub(crate) node: Arc<NodeShared>,
    pub(crate) shared: Arc<ShardShared>,
    pub(crate) inbox: Mailbox<Input>,
    pub(crate) engine: Engine,
    /// The index of the state in `engine`.
    pub(crate) applied: LogIndex,
    pub(crate) folder: PathBuf,
    pub(crate) spec: Arc<v1::ClusterSpec>,
}

pub(crate) struct Executor {
    node: Arc<NodeShared>,
    shared: Arc<ShardShared>,
    inbox: Mailbox<Input>,
    engine: Engine,
    applied: LogIndex,
    /// Whether answers go out: the role as of the last [`Input::RoleChanged`] or batch.
    primary: bool,
    replies: Replies,
    outcomes: Outcomes,
    reads: Reads,
    duties: Duties,
    memory: MemoryLimit,
    slowlog: Slowlog,
    checkpoint: CheckpointJob,
    /// `notify-keyspace-events`.
    events: EventClasses,
    /// Who read what, for client tracking.
    tracked: Tracked,
    /// Whether the engine reports changed keys.
    watching_keys: bool,
    stopped: bool,
}

impl Executor {
    pub(crate) fn new(start: Start) -> Self {
        let Start { node, shared, inbox, engine, applied, folder, spec } = start;
        let mut executor = Self {
            checkpoint: CheckpointJob::new(folder, applied),
            node,
            shared,
            inbox,
            engine,
            applied,
            primary: false,
            replies: Replies::default(),
            outcomes: Outcomes::new(),
            reads: Reads::default(),
            duties: Duties::default(),
            memory: MemoryLimit::default(),
            slowlog: Slowlog::default(),
            events: EventClasses::default(),
            tracked: Tracked::default(),
            watching_keys: false,
            stopped: false,
        };
        executor.take_settings(&spec);
        executor.publish();
        executor
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut inputs = Vec::new();
        let mut next_duty = clock::instant() + DUTY_PERIOD;
        while !self.stopped {
            let deadline = self.deadline(next_duty);
            self.inbox.receive(Some(deadline), &mut inputs);
            self.turn(&mut inputs, &mut next_duty);
        }
        self.checkpoint.abort(&mut self.engine);
    }

    /// Handles what came, then does what time demands.
    pub(crate) fn turn(&mut self, inputs: &mut Vec<Input>, next_duty: &mut Instant) {
        self.replies.refresh(&self.node.links);
        let told = !inputs.is_empty();
        for input in inputs.drain(..) {
            self.handle(input);
        }
        let now = clock::instant();
        if told {
            *next_duty = (*next_duty).min(now + DUTY_PERIOD);
        }
        if now >= *next_duty || self.unblock_is_due() {
            self.do_duties();
            *next_duty = now + if self.is_idle() { IDLE_DUTY_PERIOD } else { DUTY_PERIOD };
        }
        self.keep_within_memory();
        self.step_checkpoint();
        self.replies.flush();
    }

    /// Nothing falls due with time alone.
    fn is_idle(&self) -> bool {
        let expires = self.shared.counters.expires.load(Ordering::Relaxed);
        self.reads.parked() == 0 && !(self.primary && expires > 0)
    }

    /// When the next turn is due if nothing comes before.
    pub(crate) fn deadline(&self, next_duty: Instant) -> Instant {
        let now = clock::instant();
        if let Some(wait) = self.checkpoint.wait() {
            return now + wait;
        }
        if self.primary
            && let Some(at_ms) = self.engine.next_unblock_at()
        {
            let wait = Duration::from_millis(at_ms.saturating_sub(self.shared.now_ms()).max(1));
            return next_duty.min(now + wait);
        }
        next_duty
    }

    /// The state and the index that it belongs to.
    #[cfg(feature = "simulation")]
    pub(crate) fn state(&self) -> (&Engine, LogIndex) {
        (&self.engine, self.applied)
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Committed(entries) => self.apply(entries),
            Input::Reads(batch) => self.take_reads(batch),
            Input::ReadPoint { token, index } => self.take_read_point(token, index),
            Input::RoleChanged => self.take_role(),
            Input::Checkpoint(answer) => self.checkpoint.want(answer),
            Input::CheckpointEnded(result) => self.end_checkpoint(result),
            Input::CheckpointDamaged(index) => self.checkpoint.damaged(index),
            Input::ReadsFailed(tokens) => self.refuse_rounds(&tokens),
            Input::Restore(index) => self.restore(index),
            Input::Settings(spec) => self.take_settings(&spec),
            Input::Digest(answer) => {
                // The asker may have given up.
                let _ = answer.send((self.engine.digest().to_vec(), self.applied));
            }
            Input::Stop => self.stopped = true,
        }
    }

    fn apply(&mut self, entries: Vec<Committed>) {
        self.note_role();
        if self.primary {
            self.watch_keys();
        }
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        for entry in entries {
            if entry.index <= self.applied {
                continue;
            }
            self.apply_entry(&entry);
            self.applied = entry.index;
        }
        self.publish();
        self.serve_ready_reads();
        faults::reach(Point::AfterApply);
        // Answers do not wait for what else is in this turn.
        self.replies.flush();
        // The consensus thread need not know at once, except before it can serve.
        let shard = self.shared.shard;
        let applied = consensus_loop::Input::Applied { shard, index: last };
        let awaited = self.shared.wake_when_applied.swap(false, Ordering::SeqCst);
        if awaited || (self.primary && !self.shared.is_serving()) {
            self.node.consensus.send(applied);
        } else {
            self.node.consensus.send_quietly(applied);
        }
    }

    fn apply_entry(&mut self, entry: &Committed) {
        if entry.kind != EntryKind::Normal {
            return;
        }
        let Ok(mut batch) = BatchHeader::decode(&entry.data) else {
            // Written by a primary that this build does not understand: executing something else
            // than the other replicas would be worse than stopping.
            return self.stop_on_damage(entry.index, "batch header");
        };
        if bugs::active(bugs::Bug::ExpiryByLocalClock) {
            batch.time_ms = clock::wall_ms();
        }
        let mut at = BATCH_HEADER_LEN;
        let mut ordinal = 0;
        let mut clock = clock::instant();
        for position in 0..batch.count {
            let Ok(header) = RecordHeader::decode(&entry.data[at..]) else {
                return self.stop_on_damage(entry.index, "record header");
            };
            at += RECORD_HEADER_LEN;
            let end = at + header.body_len as usize;
            let Some(body) = entry.data.get(at..end) else {
                return self.stop_on_damage(entry.index, "record body");
            };
            at = end;
            self.engine.apply(&batch, position, &header, body, &mut self.outcomes);
            if !self.outcomes.effects.is_empty() {
                self.deliver_effects(entry.index, &mut ordinal, &header);
            }
            if header.worker == WorkerId::SHARD {
                self.duties.applied(&header);
                if header.op == RecordOp::Evict {
                    self.memory.applied();
                }
            } else if header.op == RecordOp::Command {
                clock = self.slowlog.observe(clock, body);
            }
        }
        self.answer_outcomes();
        let counters = &self.shared.counters;
        counters.writes.fetch_add(u64::from(batch.count), Ordering::Relaxed);
        counters.batches.fetch_add(1, Ordering::Relaxed);
        self.checkpoint.count(u64::from(batch.count), entry.data.len() as u64);
    }

    fn answer_outcomes(&mut self) {
        if self.primary {
            for (completion, payload) in self.outcomes.iter() {
                self.replies.answer(completion.worker, completion.tag, completion.status, payload);
            }
        }
        self.outcomes.clear();
    }

    fn stop_on_damage(&mut self, index: LogIndex, what: &str) {
        let shard = self.shared.shard;
        self.node.stop.fatal(format!("{shard}: the {what} of log entry {index} is not understood"));
        self.stopped = true;
    }

    fn note_role(&mut self) {
        let primary = self.shared.is_leader();
        if primary != self.primary {
            self.primary = primary;
            self.watch();
        }
    }

    /// Tells the engine what to gather: nothing on a replica that does not answer.
    fn watch(&mut self) {
        if !self.primary {
            self.tracked.clear();
        }
        let keys = !self.tracked.is_empty() || self.node.links.subscribers.any_prefix();
        self.watching_keys = keys && self.primary;
        let watched = Watched { events: self.events, keys, publications: true };
        self.engine.watch(if self.primary { watched } else { Watched::default() });
    }

    fn take_role(&mut self) {
        self.note_role();
        if !self.primary {
            self.refuse_parked();
            self.duties = Duties::default();
        }
    }

    /// Loads the checkpoint that took the place of the log. Nobody waits for this replica
    /// meanwhile: it is far behind.
    fn restore(&mut self, index: LogIndex) {
        self.checkpoint.abort(&mut self.engine);
        let config = self.engine.config().clone();
        match self.node.checkpoints.load(self.checkpoint.folder(), self.shared.shard, index, config)
        {
            Ok(engine) => {
                self.engine = engine;
                self.reconfigure_engine();
            }
            Err(error) => {
                self.stopped = true;
                return self.node.stop.fatal(format!("{error:#}"));
            }
        }
        self.applied = index;
        self.watch();
        self.checkpoint.restored(index);
        self.publish();
        let shard = self.shared.shard;
        self.node.consensus.send(consensus_loop::Input::Applied { shard, index });
    }

    fn take_settings(&mut self, spec: &v1::ClusterSpec) {
        self.slowlog.configure(&spec.settings);
        self.checkpoint.configure(spec);
        self.configure_memory(spec);
        let events = spec.settings.get("notify-keyspace-events");
        let events = events.and_then(|letters| EventClasses::parse(letters));
        self.events = events.unwrap_or_default().effective();
        self.watch();
    }

    /// Publishes what others read without asking.
    fn publish(&mut self) {
        self.shared.publish_applied(self.applied, self.engine.time_ms());
    }

    fn publish_figures(&mut self) {
        let databases = 0..self.engine.config().databases;
        let shared = &self.shared;
        let keys = databases.clone().map(|db| self.engine.key_count(db)).sum();
        shared.keys.store(keys, Ordering::Relaxed);
        let expires = databases.map(|db| self.engine.expires_count(db)).sum();
        shared.counters.expires.store(expires, Ordering::Relaxed);
        shared.used_memory.store(self.engine.memory_used() as u64, Ordering::Relaxed);
        let stats = self.engine.stats();
        shared.counters.hits.store(stats.keyspace_hits, Ordering::Relaxed);
        shared.counters.misses.store(stats.keyspace_misses, Ordering::Relaxed);
        shared.counters.expired.store(stats.expired_keys, Ordering::Relaxed);
        shared.counters.evicted.store(stats.evicted_keys, Ordering::Relaxed);
        shared.counters.slow.store(self.slowlog.total(), Ordering::Relaxed);
        shared.counters.parked.store(self.reads.parked() as u64, Ordering::Relaxed);
    }
}
