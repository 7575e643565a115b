//! What the threads of a node see of each other besides their mailboxes.

use crate::consensus_loop::Input;
use crate::executor;
use crate::executor::checkpoint::CheckpointDisk;
use crate::links::LinkTable;
use crate::mailbox::Mailbox;
use holdfast_consensus::log::writer::LogWriterHandle;
use holdfast_proto::bugs;
use holdfast_proto::ids::{LogIndex, NodeId, RaftId, ShardId, Term};
use holdfast_proto::v1;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of the whole process.
pub(crate) struct NodeShared {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) secret: [u8; 32],
    pub(crate) node: NodeId,
    /// Boot time of this process in microseconds since the epoch; grows with each start.
    pub(crate) incarnation: u64,
    pub(crate) consensus: Mailbox<Input>,
    pub(crate) links: LinkTable,
    pub(crate) shards: Registry,
    pub(crate) log: LogWriterHandle,
    pub(crate) checkpoints: Box<dyn CheckpointDisk>,
    pub(crate) stop: Stop,
}

/// The replicas that this process hosts; other threads keep a copy and look at the version.
#[derive(Default)]
pub(crate) struct Registry {
    version: AtomicUsize,
    shards: Mutex<BTreeMap<ShardId, ShardHandle>>,
}

/// How to reach one replica's executor and what is known of it.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    pub(crate) shared: Arc<ShardShared>,
    pub(crate) executor: Mailbox<executor::Input>,
}

impl Registry {
    pub(crate) fn insert(&self, handle: ShardHandle) {
        lock(&self.shards).insert(handle.shared.shard, handle);
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn remove(&self, shard: ShardId) -> Option<ShardHandle> {
        let removed = lock(&self.shards).remove(&shard);
        self.version.fetch_add(1, Ordering::Release);
        removed
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<ShardHandle> {
        lock(&self.shards).get(&shard).cloned()
    }

    pub(crate) fn all(&self) -> Vec<ShardHandle> {
        lock(&self.shards).values().cloned().collect()
    }

    /// Changes whenever a replica comes or goes.
    pub(crate) fn version(&self) -> usize {
        self.version.load(Ordering::Acquire)
    }
}

/// One replica as the consensus thread and the executor publish it.
pub(crate) struct ShardShared {
    pub(crate) shard: ShardId,
    pub(crate) raft_id: RaftId,
    /// By the consensus thread: this replica is the leader (serving or not yet).
    leader: AtomicBool,
    /// By the consensus thread: leader, and an entry of its own term is applied.
    serving: AtomicBool,
    term: AtomicU64,
    /// Node of the leader that this replica knows; 0: none.
    leader_node: AtomicU64,
    /// The lease is valid while [`crate::clock::monotonic`] is below this; 0: no lease.
    lease_until_us: AtomicU64,
    /// By the executor.
    applied_index: AtomicU64,
    cluster_time_ms: AtomicU64,
    /// [`crate::clock::monotonic`] when the cluster time was published, microseconds.
    cluster_time_at_us: AtomicU64,
    pub(crate) keys: AtomicU64,
    pub(crate) used_memory: AtomicU64,
    pub(crate) checkpoint_index: AtomicU64,
    /// By the executor, for metrics.
    pub(crate) counters: Counters,
    /// Bytes of writes that wait for the consensus thread: the link server stops reading above a
    /// bound.
    pub(crate) queued_bytes: AtomicUsize,
    /// By the executor: reads came since the consensus thread last looked.
    pub(crate) reads_came: AtomicBool,
    /// By the consensus thread: it waits for the executor to catch up.
    pub(crate) wake_when_applied: AtomicBool,
    /// By the executor: commands that need memory are to be refused.
    out_of_memory: AtomicBool,
    status: Mutex<v1::ReplicaStatus>,
    followers: Mutex<Vec<Follower>>,
}

/// What a primary knows of another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) raft_id: RaftId,
    pub(crate) node: NodeId,
    pub(crate) online: bool,
    /// The last entry known to be stored there.
    pub(crate) matched: LogIndex,
    /// For how long it has been behind without storing anything new.
    pub(crate) lag: Duration,
}

/// Counters of one replica since the process started.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) writes: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) expires: AtomicU64,
    pub(crate) slow: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
}

impl ShardShared {
    pub(crate) fn new(shard: ShardId, raft_id: RaftId) -> Self {
        Self {
            shard,
            raft_id,
            leader: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            term: AtomicU64::new(0),
            leader_node: AtomicU64::new(0),
            lease_until_us: AtomicU64::new(0),
            applied_index: AtomicU64::new(0),
            cluster_time_ms: AtomicU64::new(0),
            cluster_time_at_us: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            used_memory: AtomicU64::new(0),
            checkpoint_index: AtomicU64::new(0),
            counters: Counters::default(),
            queued_bytes: AtomicUsize::new(0),
            reads_came: AtomicBool::new(false),
            wake_when_applied: AtomicBool::new(false),
            out_of_memory: AtomicBool::new(false),
            status: Mutex::new(v1::ReplicaStatus::default()),
            followers: Mutex::default(),
        }
    }

    pub(crate) fn set_out_of_memory(&self, out: bool) {
        self.out_of_memory.store(out, Ordering::Relaxed);
    }

    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.out_of_memory.load(Ordering::Relaxed)
    }

    pub(crate) fn publish_role(&self, leader: bool, term: Term, leader_node: NodeId) {
        self.term.store(term.0, Ordering::Release);
        self.leader_node.store(leader_node.0, Ordering::Release);
        self.leader.store(leader, Ordering::Release);
    }

    pub(crate) fn publish_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    pub(crate) fn publish_lease(&self, until: Option<Duration>) {
        let micros = until.map_or(0, |until| until.as_micros() as u64);
        self.lease_until_us.store(micros, Ordering::Release);
    }

    pub(crate) fn publish_applied(&self, index: LogIndex, cluster_time_ms: u64) {
        if cluster_time_ms > self.cluster_time_ms.load(Ordering::Relaxed) {
            let at_us = crate::clock::monotonic().as_micros() as u64;
            self.cluster_time_at_us.store(at_us, Ordering::Release);
            self.cluster_time_ms.store(cluster_time_ms, Ordering::Release);
        }
        // Sequentially consistent with `wake_when_applied`.
        self.applied_index.store(index.0, Ordering::SeqCst);
    }

    pub(crate) fn publish_status(&self, status: v1::ReplicaStatus) {
        *lock(&self.status) = status;
    }

    pub(crate) fn publish_followers(&self, followers: Vec<Follower>) {
        *lock(&self.followers) = followers;
    }

    /// The other replicas, half a second old at most; none unless this one leads.
    pub(crate) fn followers(&self) -> Vec<Follower> {
        lock(&self.followers).clone()
    }

    /// As of the last tick, with the executor's figures as of now.
    pub(crate) fn status(&self) -> v1::ReplicaStatus {
        let mut status = lock(&self.status).clone();
        status.shard = self.shard.0;
        status.raft_id = self.raft_id.0;
        status.applied_index = self.applied_index().0;
        status.checkpoint_index = self.checkpoint_index.load(Ordering::Relaxed);
        status.keys = self.keys.load(Ordering::Relaxed);
        status.used_memory = self.used_memory.load(Ordering::Relaxed);
        status
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader.load(Ordering::Acquire)
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    pub(crate) fn term(&self) -> Term {
        Term(self.term.load(Ordering::Acquire))
    }

    pub(crate) fn leader_node(&self) -> NodeId {
        NodeId(self.leader_node.load(Ordering::Acquire))
    }

    pub(crate) fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied_index.load(Ordering::SeqCst))
    }

    pub(crate) fn cluster_time_ms(&self) -> u64 {
        self.cluster_time_ms.load(Ordering::Acquire)
    }

    /// What the cluster time is to be now: the wall clock, unless that is behind the time of the
    /// newest entry. Then time goes on from there at the pace of the monotonic clock: a wall clock
    /// that was set back, or is behind the last primary's, must not make expiry and the time-outs of
    /// blocked commands stand still.
    pub(crate) fn now_ms(&self) -> u64 {
        let published = self.cluster_time_ms.load(Ordering::Acquire);
        if published == 0 {
            return crate::clock::wall_ms();
        }
        let at_us = self.cluster_time_at_us.load(Ordering::Acquire);
        let now_us = crate::clock::monotonic().as_micros() as u64;
        crate::clock::wall_ms().max(published + now_us.saturating_sub(at_us) / 1000)
    }

    /// Whether a read may be served on the lease at `now`: a valid lease of a serving leader. The
    /// state that the executor holds then contains every write acknowledged before `now`.
    pub(crate) fn lease_holds(&self, now: Duration) -> bool {
        let until = self.lease_until_us.load(Ordering::Acquire);
        let forever = until > 0 && bugs::active(bugs::Bug::LeaseNotChecked);
        self.is_serving() && ((now.as_micros() as u64) < until || forever)
    }
}

/// Ends the process: by a signal, or for a reason that must be in the log.
#[derive(Clone)]
pub(crate) struct Stop(tokio::sync::watch::Sender<Option<StopReason>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Asked for: a clean end.
    Asked,
    /// Going on would break a promise (a failed fsync, a full disk): exit code 1.
    Fatal(String),
}

impl Stop {
    pub(crate) fn new() -> Self {
        Self(tokio::sync::watch::Sender::new(None))
    }

    /// The first reason counts.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    pub(crate) fn fatal(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, "this node stops");
        self.stop(StopReason::Fatal(reason));
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.0.borrow().clone()
    }

    pub(crate) async fn stopped(&self) {
        // An error would mean that the sender is gone; it is in `self`.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulation seed 43: with a wall clock behind the newest entry's time, a BLPOP with a timeout
    /// of one second waited until the clock had caught up.
    #[test]
    fn cluster_time_goes_on_when_the_wall_clock_is_set_back() {
        let shared = ShardShared::new(ShardId(1), RaftId(1));
        let at = |s: u64, wall_s: u64| {
            crate::clock::set_virtual(Duration::from_secs(s), wall_s * 1_000_000);
        };
        at(10, 100);
        assert_eq!(shared.now_ms(), 100_000, "nothing is applied: the wall clock");
        shared.publish_applied(LogIndex(1), 150_000);
        at(12, 101);
        assert_eq!(shared.now_ms(), 152_000);
        // The same time again: it does not begin anew.
        shared.publish_applied(LogIndex(2), 150_000);
        at(13, 30);
        assert_eq!(shared.now_ms(), 153_000);
        at(14, 200);
        assert_eq!(shared.now_ms(), 200_000);
    }
}
