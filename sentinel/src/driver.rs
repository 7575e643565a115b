//! The metadata group's thread: one loop owns the replica, its log and the applied state.
//!
//! Changes are rare and the state is small, so the thread writes its log itself, and a snapshot
//! travels whole inside the message that offers it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use holdfast_consensus::state::CheckpointMeta;
use holdfast_consensus::{
    Committed, EntryKind, LogStore, Outputs, ProposeError as RaftProposeError, Replica,
    ReplicaConfig, Role, StoredState,
};
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use holdfast_proto::v1;
use prost::Message;
use tokio::sync::{oneshot, watch};

use crate::core::metadata::{LogRecord, Metadata};
use crate::group::{Input, Proposal, ProposeError, ProposeResult, Published};
use crate::snapshots::Snapshots;
use holdfast_consensus::{clock, durable};

/// The log is cut after this many entries: weeks of an ordinary cluster.
const SNAPSHOT_EVERY: u64 = 1024;
/// Inputs taken at once; more wait for the next turn.
const INPUTS_PER_TURN: usize = 256;
/// Half as often as in a shard: nothing here needs a lease, and a group that idles should be cheap.
const TICK: Duration = Duration::from_millis(100);
/// 200 ms.
const HEARTBEAT_TICKS: usize = 2;
/// 0.7 to 1.4 s without a leader: sentinels hold no data that a false election could delay, and a
/// failover of a shard may be waiting.
const ELECTION_TICKS: usize = 7;
/// Reads are not served from leases here; the rounds that renew them would cost as much as all the
/// rest.
const LEASE_RENEWAL: Duration = Duration::from_secs(3600);
/// The first member of a new group does not wait for its election timer: it tries this often.
const FIRST_CAMPAIGN_EVERY: Duration = Duration::from_millis(150);

/// Of the log in memory and behind a snapshot: a few hundred changes, so that a sentinel that was
/// away shortly needs no snapshot.
const LOG_CACHE_BYTES: usize = 256 << 10;
const LOG_TAIL_BYTES: u64 = 1 << 20;
/// A sentinel that ends waits this long for another one to lead.
const HAND_OVER_MAX: Duration = Duration::from_millis(300);
/// How often the log may give space back.
const PURGE_EVERY: Duration = Duration::from_secs(30);

pub(crate) type SendMessages = Box<dyn FnMut(Vec<v1::RaftMessage>) + Send>;

pub(crate) struct Driver<S> {
    replica: Replica,
    store: S,
    snapshots: Snapshots,
    send: SendMessages,
    metadata: Metadata,
    applied: LogIndex,
    snapshot_index: LogIndex,
    /// Proposals by the index of their entry, with its term.
    waiting: BTreeMap<LogIndex, (Term, oneshot::Sender<ProposeResult>)>,
    published: watch::Sender<Published>,
    role: Role,
    term: Term,
    leader: RaftId,
    serving: bool,
    /// When the first member of a new group campaigns next; `None` once there was a leader.
    campaign_at: Option<Duration>,
    purge_at: Duration,
    outputs: Outputs,
}

/// Who this sentinel is in the group.
pub(crate) struct Membership {
    pub(crate) own: u64,
    pub(crate) members: Vec<u64>,
}

impl<S: LogStore> Driver<S> {
    /// Loads what is stored, or founds the group.
    pub(crate) fn open(
        membership: &Membership,
        mut store: S,
        snapshots: Snapshots,
        send: SendMessages,
        published: watch::Sender<Published>,
    ) -> anyhow::Result<Self> {
        let now = clock::monotonic();
        let own = RaftId(membership.own);
        let mut config = ReplicaConfig::new(ShardId::METADATA, own, now, clock::wall_us());
        config.founding_voters = membership.members.iter().map(|id| RaftId(*id)).collect();
        config.tick = TICK;
        config.heartbeat_ticks = HEARTBEAT_TICKS;
        config.election_ticks = ELECTION_TICKS;
        config.lease_renewal = LEASE_RENEWAL;
        config.cache_bytes = LOG_CACHE_BYTES;
        config.log_tail_bytes = LOG_TAIL_BYTES;
        let stored = store.load(ShardId::METADATA).context("load the metadata log")?;
        let is_new = stored.is_none();
        let genesis = StoredState::GENESIS;
        let snapshot_index = stored.as_ref().map_or(genesis, |s| s.checkpoint.index);
        let metadata = if snapshot_index > genesis {
            snapshots.load(snapshot_index).context("load the metadata snapshot")?
        } else {
            Metadata::default()
        };
        let first = membership.members.iter().min() == Some(&membership.own);
        let campaign_at = (is_new && first).then(|| now + config.vote_refusal());
        let mut replica =
            Replica::new(config, stored, store.reader()).context("open the metadata group")?;
        if snapshot_index > genesis {
            replica.set_snapshot_data(metadata.encode_snapshot());
        }
        Ok(Self {
            replica,
            store,
            snapshots,
            send,
            metadata,
            applied: snapshot_index,
            snapshot_index,
            waiting: BTreeMap::new(),
            published,
            role: Role::default(),
            term: Term(0),
            leader: RaftId(0),
            serving: false,
            campaign_at,
            purge_at: now + PURGE_EVERY,
            outputs: Outputs::default(),
        })
    }

    /// The thread's life.
    pub(crate) fn run(mut self, inputs: &Receiver<Input>) {
        let mut due = clock::monotonic();
        loop {
            self.turn();
            let pause = due.saturating_sub(clock::monotonic());
            match inputs.recv_timeout(pause) {
                Ok(input) => {
                    if self.take(input, inputs) {
                        return self.hand_over(inputs);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = clock::monotonic();
            if now >= due {
                self.replica.tick(now);
                self.first_campaign(now);
                self.purge(now);
                // After a pause one tick is enough: what was sent meanwhile is still to be read.
                due = if now >= due + TICK { now + TICK } else { due + TICK };
            }
        }
    }

    /// True when told to stop.
    fn take(&mut self, first: Input, more: &Receiver<Input>) -> bool {
        for input in std::iter::once(first).chain(more.try_iter()).take(INPUTS_PER_TURN) {
            let now = clock::monotonic();
            match input {
                Input::Stop => return true,
                Input::Propose(proposal) => self.propose(now, proposal),
                Input::Unreachable(peer) => self.replica.report_unreachable(RaftId(peer)),
                Input::Message(message) => {
                    if let Err(error) = self.replica.step(now, message) {
                        tracing::debug!(%error, "message dropped");
                    }
                }
            }
        }
        false
    }

    /// Ends leadership before the thread ends, so that the others need no election timeout.
    fn hand_over(&mut self, inputs: &Receiver<Input>) {
        let own = self.replica.config().raft_id;
        let others = self.replica.progress().into_iter().filter(|p| p.raft_id != own);
        let Some(best) = others.max_by_key(|p| (p.active, p.matched)) else { return };
        let now = clock::monotonic();
        if let Err(error) = self.replica.transfer_leader(now, best.raft_id) {
            return tracing::debug!(%error, "leadership is not handed over");
        }
        let until = now + HAND_OVER_MAX;
        while self.role == Role::Leader && clock::monotonic() < until {
            self.turn();
            if let Ok(input) = inputs.recv_timeout(Duration::from_millis(10)) {
                self.take(input, inputs);
            }
        }
        // Whoever leads now learns of the vote that it got.
        self.turn();
    }

    fn propose(&mut self, now: Duration, proposal: Proposal) {
        let record = LogRecord { time_ms: clock::wall_ms(), command: Some(proposal.command) };
        match self.replica.propose(now, record.encode_to_vec().into()) {
            Ok((term, index)) => {
                self.waiting.insert(index, (term, proposal.reply));
            }
            Err(error) => {
                let error = match error {
                    RaftProposeError::Busy => ProposeError::Busy,
                    _ => ProposeError::NotLeader,
                };
                // Whoever asked may have gone away.
                let _ = proposal.reply.send(Err(error));
            }
        }
    }

    fn first_campaign(&mut self, now: Duration) {
        let Some(at) = self.campaign_at else { return };
        if self.leader != RaftId(0) {
            self.campaign_at = None;
        } else if now >= at {
            self.campaign_at = Some(now + FIRST_CAMPAIGN_EVERY);
            let campaign = self.replica.campaign(now);
            tracing::debug!(?campaign, "first campaign of the group");
        }
    }

    fn purge(&mut self, now: Duration) {
        if now >= self.purge_at {
            self.purge_at = now + PURGE_EVERY;
            let purged = self.store.purge();
            self.must(purged, "give space of the metadata log back");
        }
    }

    fn turn(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let mut changed = false;
        loop {
            self.replica.ready(clock::monotonic(), &mut outputs);
            if outputs.is_empty() {
                break;
            }
            changed |= self.perform(&mut outputs);
        }
        self.outputs = outputs;
        if changed {
            self.publish();
        }
    }

    /// Carries out everything, in the order that [`Outputs`] asks for. True if anything that is
    /// published changed.
    fn perform(&mut self, outputs: &mut Outputs) -> bool {
        let mut changed = false;
        if !outputs.messages.is_empty() {
            (self.send)(std::mem::take(&mut outputs.messages));
        }
        if let Some(last) = outputs.writes.last() {
            let number = last.number;
            let written = self.store.write(&outputs.writes, true);
            self.must(written, "write the metadata log");
            outputs.writes.clear();
            self.replica.persisted(clock::monotonic(), number);
        }
        if let Some(meta) = outputs.restored.take() {
            let loaded = self.snapshots.load(meta.index);
            self.metadata = self.must(loaded, "load an installed snapshot");
            self.applied = meta.index;
            self.snapshot_index = meta.index;
            self.replica.set_snapshot_data(self.metadata.encode_snapshot());
            self.replica.applied(clock::monotonic(), meta.index);
            changed = true;
        }
        if !outputs.committed.is_empty() {
            for committed in outputs.committed.drain(..) {
                self.apply(committed);
            }
            self.replica.applied(clock::monotonic(), self.applied);
            changed = true;
        }
        if let Some(role) = outputs.role.take() {
            if self.role == Role::Leader && role.role != Role::Leader {
                for (_, (_, reply)) in std::mem::take(&mut self.waiting) {
                    let _ = reply.send(Err(ProposeError::Unknown));
                }
            }
            (self.role, self.term, self.leader) = (role.role, role.term, role.leader);
            tracing::info!(?role, "metadata group");
            changed = true;
        }
        if let Some(serving) = outputs.serving.take() {
            self.serving = serving;
            changed = true;
        }
        if let Some(install) = outputs.install.take() {
            self.install(&install.meta, &install.data);
        }
        if let Some(index) = outputs.checkpoint_recorded.take() {
            let kept = self.snapshots.keep_only(index);
            if let Err(error) = kept {
                tracing::warn!(%error, "old snapshots stay");
            }
        }
        // Read indexes are not used: changes are validated when they are applied.
        outputs.reads.clear();
        outputs.reads_failed.clear();
        outputs.membership = None;
        let wanted = std::mem::take(&mut outputs.checkpoint_wanted);
        if self.applied.0 >= self.snapshot_index.0 + SNAPSHOT_EVERY
            || (wanted && self.applied > self.snapshot_index)
        {
            self.take_snapshot();
        }
        changed
    }

    fn apply(&mut self, committed: Committed) {
        self.applied = committed.index;
        let outcome = match committed.kind {
            EntryKind::Empty | EntryKind::Membership => None,
            EntryKind::Normal => match LogRecord::decode(committed.data) {
                Ok(record) => {
                    let applied = self.metadata.apply(&record);
                    tracing::debug!(index = %committed.index, ?applied, "applied");
                    Some(applied)
                }
                // Written by a newer version: ignoring it on one sentinel only would split them.
                Err(error) => {
                    let failed: Result<(), _> = Err(error);
                    self.must(failed, "read an entry of the metadata log");
                    None
                }
            },
        };
        if let Some((term, reply)) = self.waiting.remove(&committed.index) {
            let result = match outcome {
                Some(applied) if term == committed.term => applied.map_err(ProposeError::from),
                _ => Err(ProposeError::Unknown),
            };
            let _ = reply.send(result);
        }
    }

    fn take_snapshot(&mut self) {
        let state = self.metadata.encode_snapshot();
        let saved = self.snapshots.save(self.applied, &state);
        self.must(saved, "save a snapshot");
        self.snapshot_index = self.applied;
        self.replica.set_snapshot_data(state);
        let taken = self.replica.checkpoint_taken(clock::monotonic(), self.applied);
        self.must(taken, "record a snapshot");
    }

    /// The message brought the state itself.
    fn install(&mut self, meta: &CheckpointMeta, state: &[u8]) {
        let now = clock::monotonic();
        if let Err(error) = Metadata::decode_snapshot(state) {
            tracing::error!(%error, "a snapshot cannot be read");
            self.replica.install_failed(now, meta.index);
            return;
        }
        let saved = self.snapshots.save(meta.index, state);
        self.must(saved, "save a snapshot");
        if let Err(error) = self.replica.install_snapshot(now, meta.index) {
            tracing::debug!(%error, "snapshot came too late");
        }
    }

    fn publish(&self) {
        let leader = (self.leader != RaftId(0)).then_some(self.leader.0);
        self.published.send_modify(|published| {
            if published.applied_index != self.applied.0 {
                published.applied_index = self.applied.0;
                published.metadata = Arc::new(self.metadata.clone());
            }
            if published.topology.version != self.metadata.version() {
                let topology = self.metadata.topology().cloned().unwrap_or_default();
                published.topology = Arc::new(topology);
            }
            published.leader = leader;
            published.leads = self.serving;
            published.term = self.term.0;
        });
    }

    /// A failed write leaves unknown things on the disk: the process ends and starts from what is
    /// there.
    fn must<T, E: std::fmt::Display>(&self, result: Result<T, E>, what: &str) -> T {
        match result {
            Ok(value) => value,
            Err(error) => durable::fail(what, error),
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
