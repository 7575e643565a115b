//! One replica on the consensus thread: what waits for it, and what its outputs set in motion.

use super::{InternalRecord, Shell, WriteChunk, proposal::Pending};
use crate::clock;
use crate::executor;
use crate::host::HostEvent;
use crate::link_server::answer_chunk;
use crate::links::{Replies, not_primary_payload};
use crate::shared::{Follower, ShardHandle};
use bytes::Bytes;
use holdfast_consensus::faults::{self, Point};
use holdfast_consensus::{
    CampaignError, Committed, EntryKind, ForgetError, MembershipChange, Outputs, PeerProgress,
    ProposeError, Replica, Role, RoleChange, StepError,
};
use holdfast_proto::bugs;
use holdfast_proto::frame::{AnswerStatus, BATCH_HEADER_LEN, Response};
use holdfast_proto::ids::{LogIndex, NodeId, RaftId, ShardId, Term};
use holdfast_proto::v1;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Entries proposed and not yet committed; beyond that writes gather into larger entries. One
/// entry on its way and one being written keep log, network and executor busy; more only make
/// entries smaller and every write dearer.
const IN_FLIGHT_MAX: usize = 2;
/// The same when each entry waits for a sync: a second one would only wait for the first one's.
const IN_FLIGHT_MAX_SYNCED: usize = 1;
/// When each entry waits for a sync, writes gather after a commit for half the time of a sync, but
/// no longer than this, or until most of the writers of the last entry have come again (compare
/// PostgreSQL's `commit_delay`). Otherwise the first writer to be answered would have a sync for
/// itself and all the others would wait for it.
const GATHER_MAX: Duration = Duration::from_micros(500);

/// Entries committed and not yet applied; beyond that nothing is proposed, so that a slow command
/// does not pile up entries in memory (at most this many of about 1 MiB).
const APPLY_LAG_MAX: u64 = 128;

/// A new primary has better things to do than to drop lanes: it starts after 10 s.
const RETIRE_AFTER_TICKS: u32 = 200;
/// The lease is given up after a second without reads.
const LEASE_TICKS: u32 = 20;
/// Half a second.
const FOLLOWERS_EVERY_TICKS: u32 = 10;
/// Workers retired with one tick. Each costs a look at every slot.
const RETIRE_AT_ONCE: usize = 16;

/// What the host opened, for this thread to run.
pub(crate) struct GroupParts {
    pub(crate) replica: Replica,
    pub(crate) handle: ShardHandle,
    pub(crate) seed: u64,
    /// Each entry is synced before it counts as persisted.
    pub(crate) synced: bool,
}

/// An order of a sentinel for one replica.
pub(crate) enum Order {
    ForgetLeader {
        term: Term,
        leader: RaftId,
    },
    Campaign {
        term: Term,
    },
    TransferLeader {
        to: RaftId,
    },
    ChangeMembership(MembershipChange),
    /// This node stops: hand leadership, if it is here, to whoever is most up to date.
    HandOver,
}

/// What came of an order.
pub(crate) enum OrderResult {
    Done { term: Term, status: v1::ReplicaStatus },
    Refused { reason: String, retry_after: Duration, status: v1::ReplicaStatus },
    NoReplica,
}

/// Where the result goes; the asker may have given up.
pub(crate) struct OrderReply(pub(crate) tokio::sync::oneshot::Sender<OrderResult>);

impl OrderReply {
    pub(crate) fn no_replica(self) {
        let _ = self.0.send(OrderResult::NoReplica);
    }
}

/// Workers whose lanes the shards drop.
#[derive(Default)]
pub(crate) struct Retired {
    /// Every worker below this one.
    below: u64,
    workers: BTreeSet<u64>,
}

impl Retired {
    pub(crate) fn new(topology: &v1::Topology) -> Self {
        Self {
            below: topology.retired_workers_below,
            workers: topology.retired_workers.iter().copied().collect(),
        }
    }
}

pub(crate) struct Group {
    pub(crate) replica: Replica,
    handle: ShardHandle,
    pending: Pending,
    /// Entries of ours that are not committed yet, oldest first. Their writers are told when the
    /// leadership goes before that.
    in_flight: VecDeque<(LogIndex, Bytes)>,
    /// An entry that the replica could not take yet.
    stuck: Option<Bytes>,
    term: Term,
    leads: bool,
    serves: bool,
    /// Time stamp of our latest entry.
    last_time_ms: u64,
    seeds: Seeds,
    ticks_serving: u32,
    /// Workers whose retirement was proposed since we lead: all below the first, and the others.
    retire_next: u64,
    retiring: BTreeSet<u64>,
    /// The last entry that the executor was given.
    handed_over: LogIndex,
    synced: bool,
    /// Records in our latest entry.
    last_count: u32,
    /// Writes gather until then; `None`: they do not.
    gather_until: Option<Duration>,
    /// How far the others were, and since when.
    followers: BTreeMap<RaftId, (LogIndex, Duration)>,
    ticks_without_reads: u32,
    /// Ticks until the others' progress is published again.
    followers_in: u32,
    /// Orders that are done when something happens.
    awaited: Vec<(Awaited, OrderReply)>,
}

/// What ends an order.
enum Awaited {
    /// The entry of a membership change is committed, and the joint state that it may lead through
    /// is left: before that the old majority is still needed.
    Change { term: Term, index: LogIndex, committed: bool },
    /// Another replica leads. `asked_in`: the term of the hand-over.
    Transfer { asked_in: Term, ticks_left: u32 },
}

/// A hand-over that has not happened after this many ticks (1 s) was aborted by the replica.
const TRANSFER_TICKS: u32 = 20;

/// Seeds of batches: splitmix64 over a random start; any sequence would do.
struct Seeds(u64);

impl Seeds {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Group {
    pub(crate) fn new(parts: GroupParts) -> Self {
        Self {
            replica: parts.replica,
            handle: parts.handle,
            pending: Pending::default(),
            in_flight: VecDeque::new(),
            stuck: None,
            term: Term(0),
            leads: false,
            serves: false,
            last_time_ms: 0,
            seeds: Seeds(parts.seed),
            ticks_serving: 0,
            retire_next: 1,
            retiring: BTreeSet::new(),
            handed_over: LogIndex(0),
            synced: parts.synced,
            last_count: 0,
            gather_until: None,
            followers: BTreeMap::new(),
            ticks_without_reads: 0,
            followers_in: 0,
            awaited: Vec::new(),
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.handle.shared.shard
    }

    /// Writes of a link. A leader that does not serve yet keeps them: it will in a moment.
    pub(crate) fn take_writes(&mut self, shell: &mut Shell, chunk: WriteChunk) {
        self.handle.shared.queued_bytes.fetch_sub(chunk.data.len(), Ordering::Relaxed);
        if self.leads {
            self.pending.push(chunk);
        } else {
            let payload = self.not_primary();
            answer_chunk(&mut shell.replies, chunk.records(), AnswerStatus::NotPrimary, &payload);
        }
    }

    pub(crate) fn take_internal(&mut self, records: &[InternalRecord]) {
        // The executor asks again if the leadership went in between.
        if self.serves {
            self.pending.push_internal(self.handle.shared.shard, records);
        }
    }

    /// One message of another replica.
    pub(crate) fn step(&mut self, now: Duration, shell: &Shell, message: v1::RaftMessage) {
        let shard = self.shard();
        match self.replica.step(now, message) {
            Ok(()) => {}
            Err(error @ StepError::Amnesia { .. }) => {
                shell.log.condemn(shard);
                shell.event(HostEvent::Amnesia { shard, reason: error.to_string() });
            }
            Err(error) => tracing::debug!(%shard, %error, "message refused"),
        }
    }

    pub(crate) fn tick(&mut self, now: Duration, shell: &Shell, retired: &Retired) {
        self.replica.tick(now);
        if self.leads {
            self.look_at_followers(now, shell);
            self.look_at_reads();
        }
        if self.serves {
            self.retire(retired);
        }
        self.publish_status();
        self.tick_awaited();
    }

    /// The lease is kept while reads come, and for a second after.
    fn look_at_reads(&mut self) {
        if self.handle.shared.reads_came.swap(false, Ordering::Relaxed) {
            self.ticks_without_reads = 0;
        } else {
            self.ticks_without_reads = self.ticks_without_reads.saturating_add(1);
        }
        self.replica.want_lease(self.ticks_without_reads < LEASE_TICKS);
    }

    /// Publishes how far the others are, for INFO and metrics.
    fn look_at_followers(&mut self, now: Duration, shell: &Shell) {
        if self.followers_in > 0 {
            self.followers_in -= 1;
            return;
        }
        self.followers_in = FOLLOWERS_EVERY_TICKS - 1;
        let shared = &self.handle.shared;
        let last = LogIndex(self.replica.status().last_index);
        let others = self.replica.progress();
        let others = others.iter().filter(|peer| peer.raft_id != shared.raft_id);
        let former = std::mem::take(&mut self.followers);
        let mut published = Vec::new();
        for peer in others {
            let since = match former.get(&peer.raft_id) {
                Some((matched, since)) if *matched == peer.matched && peer.matched < last => *since,
                _ => now,
            };
            self.followers.insert(peer.raft_id, (peer.matched, since));
            published.push(Follower {
                raft_id: peer.raft_id,
                node: shell.node_of(shared.shard, peer.raft_id),
                online: peer.active && !peer.snapshot,
                matched: peer.matched,
                lag: now.saturating_sub(since),
            });
        }
        shared.publish_followers(published);
    }

    /// Every primary proposes all retirements anew: they do nothing the second time.
    fn retire(&mut self, retired: &Retired) {
        self.ticks_serving = self.ticks_serving.saturating_add(1);
        if self.ticks_serving < RETIRE_AFTER_TICKS {
            return;
        }
        let mut ids: Vec<u64> = (self.retire_next..retired.below).take(RETIRE_AT_ONCE).collect();
        self.retire_next += ids.len() as u64;
        let listed = retired.workers.difference(&self.retiring).take(RETIRE_AT_ONCE);
        let listed: Vec<u64> = listed.copied().collect();
        ids.extend(&listed);
        self.retiring.extend(listed);
        if !ids.is_empty() {
            let records: Vec<_> = ids.into_iter().map(InternalRecord::retire).collect();
            self.take_internal(&records);
        }
    }

    /// Proposes what waits and carries out what the replica wants.
    pub(crate) fn finish_turn(&mut self, now: Duration, shell: &mut Shell, out: &mut Outputs) {
        self.propose(now, shell);
        loop {
            self.replica.ready(now, out);
            if out.is_empty() {
                break;
            }
            let was_in_flight = !self.in_flight.is_empty();
            self.carry_out(shell, out);
            if self.synced && was_in_flight && self.in_flight.is_empty() {
                let sync = Duration::from_micros(shell.node.log.stats().last_write_us());
                self.gather_until = Some(now + (sync / 2).min(GATHER_MAX));
            }
            self.propose(now, shell);
        }
        self.handle.shared.publish_lease(self.replica.lease_until());
        if !self.awaited.is_empty() {
            self.end_changes();
        }
    }

    fn propose(&mut self, now: Duration, shell: &mut Shell) {
        let max = if self.synced { IN_FLIGHT_MAX_SYNCED } else { IN_FLIGHT_MAX };
        while self.serves && self.in_flight.len() < max && !self.executor_lags() {
            if self.gathers(now) {
                return;
            }
            let Some(entry) = self.next_entry() else { return };
            faults::reach(Point::BeforePropose);
            match self.replica.propose(now, entry.clone()) {
                Ok((_, index)) => {
                    if bugs::active(bugs::Bug::ReplyBeforeCommit) {
                        let records = &entry[BATCH_HEADER_LEN..];
                        let reply = AnswerStatus::Reply;
                        answer_chunk(&mut shell.replies, records, reply, b":1\r\n");
                    }
                    self.in_flight.push_back((index, entry));
                }
                Err(ProposeError::Busy | ProposeError::Transferring { .. }) => {
                    self.stuck = Some(entry);
                    return;
                }
                Err(ProposeError::NotLeader { .. }) => {
                    // The role change that says so is on its way in the outputs.
                    let payload = self.not_primary();
                    let records = &entry[BATCH_HEADER_LEN..];
                    answer_chunk(&mut shell.replies, records, AnswerStatus::NotPrimary, &payload);
                    return;
                }
            }
        }
    }

    /// When this group wants another turn, if nothing else happens.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        self.gather_until.filter(|_| self.serves && !self.pending.is_empty())
    }

    fn gathers(&mut self, now: Duration) -> bool {
        let enough = self.pending.count() >= self.last_count - self.last_count / 4;
        if enough || self.gather_until.is_some_and(|until| now >= until) {
            self.gather_until = None;
        }
        self.gather_until.is_some()
    }

    /// If so, the executor wakes this thread when it has applied more.
    fn executor_lags(&self) -> bool {
        let shared = &self.handle.shared;
        let lags = || self.handed_over.0.saturating_sub(shared.applied_index().0) > APPLY_LAG_MAX;
        if !lags() {
            return false;
        }
        shared.wake_when_applied.store(true, Ordering::SeqCst);
        // It may have applied everything just before it could see the wish.
        lags()
    }

    fn next_entry(&mut self) -> Option<Bytes> {
        if let Some(stuck) = self.stuck.take() {
            return Some(stuck);
        }
        if self.pending.is_empty() {
            return None;
        }
        self.last_time_ms = if bugs::active(bugs::Bug::TimeGoesBack) {
            clock::wall_ms()
        } else {
            self.handle.shared.now_ms().max(self.last_time_ms + 1)
        };
        let entry = self.pending.next_entry(self.last_time_ms, self.seeds.next())?;
        self.last_count = entry.count;
        Some(entry.data)
    }

    /// Carries out the replica's outputs in their order of duties.
    fn carry_out(&mut self, shell: &mut Shell, out: &mut Outputs) {
        let shard = self.shard();
        // What others wait for goes first: the followers' work overlaps our own log write.
        shell.send(shard, &mut out.messages);
        if !out.writes.is_empty() {
            shell.log.write(std::mem::take(&mut out.writes));
        }
        if let Some(role) = out.role.take() {
            self.take_role(shell, role);
        }
        if let Some(meta) = out.restored.take() {
            self.handle.executor.send(executor::Input::Restore(meta.index));
        }
        if !out.committed.is_empty() {
            self.hand_over_committed(std::mem::take(&mut out.committed));
        }
        if let Some(serving) = out.serving.take() {
            self.take_serving(shell, serving);
        }
        for (token, index) in out.reads.drain(..) {
            self.handle.executor.send(executor::Input::ReadPoint { token, index });
        }
        if !out.reads_failed.is_empty() {
            let failed = std::mem::take(&mut out.reads_failed);
            self.handle.executor.send(executor::Input::ReadsFailed(failed));
        }
        if let Some(install) = out.install.take() {
            let leader = shell.node_of(shard, install.from);
            let (index, term) = (install.meta.index, install.meta.term);
            shell.event(HostEvent::Install { shard, leader, index, term });
        }
        if std::mem::take(&mut out.checkpoint_wanted) {
            self.handle.executor.send(executor::Input::Checkpoint(None));
        }
        if let Some(index) = out.checkpoint_recorded.take() {
            shell.event(HostEvent::CheckpointRecorded { shard, index });
        }
        out.membership = None;
    }

    fn hand_over_committed(&mut self, committed: Vec<Committed>) {
        let last = committed.last().map_or(LogIndex(0), |entry| entry.index);
        if !self.awaited.is_empty() {
            for entry in &committed {
                self.note_committed(entry);
            }
        }
        while self.in_flight.front().is_some_and(|(index, _)| *index <= last) {
            self.in_flight.pop_front();
        }
        self.handed_over = last;
        faults::reach(Point::AfterCommit);
        self.handle.executor.send(executor::Input::Committed(committed));
    }

    fn take_role(&mut self, shell: &mut Shell, role: RoleChange) {
        let shard = self.shard();
        let leader = shell.node_of(shard, role.leader);
        let leads = role.role == Role::Leader;
        // Also when it went and came back within one turn.
        let lost = self.leads && (!leads || role.term != self.term);
        self.term = role.term;
        self.handle.shared.publish_role(leads, role.term, leader);
        if lost {
            self.lose_leadership(shell);
        }
        if leads != self.leads {
            tracing::info!(%shard, term = %role.term, leads, "role changed");
        }
        self.leads = leads;
        self.publish_status();
        if role.leader != RaftId(0) && !leads {
            self.end_awaited(|awaited| match awaited {
                Awaited::Transfer { asked_in, .. } if *asked_in < role.term => Some(Ok(())),
                _ => None,
            });
        }
        self.handle.executor.send(executor::Input::RoleChanged);
    }

    fn take_serving(&mut self, shell: &mut Shell, serving: bool) {
        self.serves = serving;
        if serving {
            // Everything older is applied: our stamps go on from its time.
            self.last_time_ms = self.last_time_ms.max(self.handle.shared.cluster_time_ms());
            self.retiring.clear();
            (self.retire_next, self.ticks_serving) = (1, 0);
        }
        self.handle.shared.publish_lease(self.replica.lease_until());
        self.handle.shared.publish_serving(serving);
        self.publish_status();
        self.handle.executor.send(executor::Input::RoleChanged);
        if serving {
            let (shard, term) = (self.shard(), self.term);
            let node = shell.node.node;
            shell.node.links.broadcast(&Response::PrimaryIs { shard, term, node });
            shell.event(HostEvent::Serving { shard, term });
            tracing::info!(%shard, %term, "serving as primary");
        }
    }

    /// Tells every writer that waits to turn to the new primary; what was proposed may still be
    /// committed, and is then found as done by its lane and seq.
    fn lose_leadership(&mut self, shell: &mut Shell) {
        self.serves = false;
        self.followers.clear();
        self.handle.shared.publish_followers(Vec::new());
        self.handle.shared.publish_serving(false);
        self.handle.shared.publish_lease(None);
        let payload = self.not_primary();
        let status = AnswerStatus::NotPrimary;
        let proposed = self.in_flight.drain(..).map(|(_, entry)| entry).chain(self.stuck.take());
        for entry in proposed {
            answer_chunk(&mut shell.replies, &entry[BATCH_HEADER_LEN..], status, &payload);
        }
        for chunk in self.pending.drain() {
            answer_chunk(&mut shell.replies, chunk.records(), status, &payload);
        }
    }

    /// The replica leaves this thread.
    pub(crate) fn close(&mut self, shell: &mut Shell) {
        self.lose_leadership(shell);
        self.handle.shared.publish_role(false, self.term, NodeId(0));
        self.handle.executor.send(executor::Input::RoleChanged);
        self.handle.executor.send(executor::Input::Stop);
    }

    pub(crate) fn checkpoint_taken(&mut self, now: Duration, index: LogIndex) {
        if let Err(error) = self.replica.checkpoint_taken(now, index) {
            tracing::debug!(shard = %self.shard(), %index, %error, "checkpoint not recorded");
        }
    }

    /// The checkpoint that the replica awaited is durable here.
    pub(crate) fn fetched(&mut self, now: Duration, index: LogIndex) {
        if let Err(error) = self.replica.install_snapshot(now, index) {
            tracing::info!(shard = %self.shard(), %index, %error, "checkpoint not installed");
        }
    }

    pub(crate) fn order(&mut self, now: Duration, order: Order, reply: OrderReply) {
        let result = match order {
            Order::ForgetLeader { term, leader } => {
                self.replica.forget_leader(now, term, leader).map_err(|error| {
                    let retry = match error {
                        ForgetError::Veto { retry_after } => retry_after,
                        _ => Duration::ZERO,
                    };
                    (error.to_string(), retry)
                })
            }
            Order::Campaign { term } if self.replica.status().term == term.0 => {
                self.replica.campaign(now).map_err(|error| {
                    let retry = match error {
                        CampaignError::Veto { retry_after } => retry_after,
                        _ => Duration::ZERO,
                    };
                    (error.to_string(), retry)
                })
            }
            Order::Campaign { .. } => Err(("at another term".to_owned(), Duration::ZERO)),
            Order::TransferLeader { to } => match self.replica.transfer_leader(now, to) {
                Ok(()) => return self.await_transfer(to, reply),
                Err(error) => Err((error.to_string(), Duration::ZERO)),
            },
            Order::HandOver => match self.best_successor() {
                None => Ok(()),
                Some(to) => match self.replica.transfer_leader(now, to) {
                    Ok(()) => return self.await_transfer(to, reply),
                    Err(error) => Err((error.to_string(), Duration::ZERO)),
                },
            },
            Order::ChangeMembership(change) => match self.replica.change_membership(now, &change) {
                Ok((term, index)) => return self.await_change(term, index, reply),
                Err(error) => Err((error.to_string(), Duration::ZERO)),
            },
        };
        let status = self.status();
        let result = match result {
            Ok(()) => OrderResult::Done { term: Term(status.term), status },
            Err((reason, retry_after)) => OrderResult::Refused { reason, retry_after, status },
        };
        // The asker may have given up.
        let _ = reply.0.send(result);
    }

    /// The live voter that has most of the log; `None` unless this replica leads others.
    fn best_successor(&self) -> Option<RaftId> {
        let own = self.handle.shared.raft_id;
        let peers = self.replica.progress();
        let fit = |peer: &&PeerProgress| {
            peer.raft_id != own && peer.voter && peer.active && !peer.snapshot
        };
        peers.iter().filter(fit).max_by_key(|peer| peer.matched).map(|peer| peer.raft_id)
    }

    fn await_transfer(&mut self, to: RaftId, reply: OrderReply) {
        tracing::info!(shard = %self.shard(), %to, "handing leadership over");
        let awaited = Awaited::Transfer { asked_in: self.term, ticks_left: TRANSFER_TICKS };
        self.awaited.push((awaited, reply));
    }

    fn await_change(&mut self, term: Term, index: LogIndex, reply: OrderReply) {
        self.awaited.push((Awaited::Change { term, index, committed: false }, reply));
    }

    /// Ends the orders for which `verdict` has one: done, or why not.
    fn end_awaited(&mut self, mut verdict: impl FnMut(&mut Awaited) -> Option<Result<(), String>>) {
        let mut at = 0;
        while at < self.awaited.len() {
            let Some(result) = verdict(&mut self.awaited[at].0) else {
                at += 1;
                continue;
            };
            let (_, reply) = self.awaited.swap_remove(at);
            let status = self.status();
            let result = match result {
                Ok(()) => OrderResult::Done { term: Term(status.term), status },
                Err(reason) => OrderResult::Refused { reason, retry_after: Duration::ZERO, status },
            };
            // The asker may have given up.
            let _ = reply.0.send(result);
        }
    }

    fn tick_awaited(&mut self) {
        self.end_awaited(|awaited| match awaited {
            Awaited::Transfer { ticks_left: 0, .. } => {
                Some(Err("the target did not take over in time".to_owned()))
            }
            Awaited::Transfer { ticks_left, .. } => {
                *ticks_left -= 1;
                None
            }
            Awaited::Change { .. } => None,
        });
    }

    fn note_committed(&mut self, entry: &Committed) {
        self.end_awaited(|awaited| match awaited {
            Awaited::Change { term, index, committed } if *index == entry.index => {
                *committed = *term == entry.term && entry.kind == EntryKind::Membership;
                let lost = || Err("another primary came in between".to_owned());
                (!*committed).then(lost)
            }
            _ => None,
        });
    }

    fn end_changes(&mut self) {
        let joint = !self.replica.membership().voters_outgoing.is_empty();
        let leads = self.leads;
        self.end_awaited(|awaited| match awaited {
            Awaited::Change { committed: true, .. } if !joint => Some(Ok(())),
            Awaited::Change { .. } if !leads => Some(Err("leadership was lost".to_owned())),
            _ => None,
        });
    }

    fn status(&self) -> v1::ReplicaStatus {
        self.publish_status();
        self.handle.shared.status()
    }

    fn publish_status(&self) {
        self.handle.shared.publish_status(self.replica.status());
    }

    fn not_primary(&self) -> [u8; 16] {
        not_primary_payload(self.handle.shared.term(), self.handle.shared.leader_node())
    }
}

pub(crate) fn refuse_chunk(replies: &mut Replies, chunk: &WriteChunk) {
    let payload = not_primary_payload(Term(0), NodeId(0));
    answer_chunk(replies, chunk.records(), AnswerStatus::NotPrimary, &payload);
}
