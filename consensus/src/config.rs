//! Options of one replica.

use std::time::Duration;

use holdfast_proto::bugs;
use holdfast_proto::ids::{RaftId, ShardId};

/// Ways to break a replica, to prove that the tests would notice. Only with the feature
/// `deliberate-bugs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Votes, campaigns and forgets although the leader may hold a lease.
    NoVoteRefusal,
    /// Answers reads without a round.
    ReadWithoutRound,
    /// Sends votes and acknowledgements before what they promise is stored.
    PromiseBeforePersisted,
    /// Goes on leading after its removal.
    LeadAfterRemoval,
    /// Tells raft of a snapshot before the checkpoint is on disk.
    SnapshotBeforeDisk,
    /// Calls a checkpoint durable before the log records it.
    CheckpointBeforeRecord,
}

/// Options of one replica. [`ReplicaConfig::new`] has the defaults that the project runs with.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The group this replica belongs to; only a label here.
    pub shard: ShardId,
    /// This replica's own id, never reused.
    pub raft_id: RaftId,
    /// Voters of a founding group, used only when nothing is stored yet. Empty: a replica that
    /// joins an existing group and learns the membership from a snapshot.
    pub founding_voters: Vec<RaftId>,
    /// How often the shell calls `tick`; default 50 ms.
    pub tick: Duration,
    /// Ticks between plain heartbeats of a leader; default 4 (200 ms). The rounds that renew the lease
    /// are heartbeats too, and come more often.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader after which a voter campaigns: drawn from [n, 2n); default 20
    /// (1 to 2 s). Only the backstop: sentinels start failovers much earlier.
    pub election_ticks: usize,
    /// A confirmed ReadIndex round allows local reads for this long after it was sent; default
    /// 250 ms. Longer: fewer reads wait after a lost heartbeat, but a failover after silence has to
    /// wait it out.
    pub lease: Duration,
    /// How often a leader starts a ReadIndex round to renew its lease; default 100 ms.
    pub lease_renewal: Duration,
    /// Added by voters to the lease before they grant votes: covers clocks that run at different
    /// speeds; default 25 ms (10 % of the lease; real clocks differ by under 0.1 %).
    pub drift_margin: Duration,
    /// Largest payload of one append message; default 1 MiB.
    pub max_size_per_msg: u64,
    /// Append messages in flight to one follower; default 128.
    pub max_inflight_msgs: usize,
    /// Uncommitted payload of a leader beyond which proposals are refused as busy; default 64 MiB.
    pub max_uncommitted_size: u64,
    /// Committed payload handed over in one step; default 16 MiB.
    pub max_committed_size_per_ready: u64,
    /// Entries kept in memory although they are stored and applied, for followers that lag a
    /// little; default 16 MiB.
    pub cache_bytes: usize,
    /// Log kept behind a checkpoint so that a short absence does not need a snapshot; default
    /// 64 MiB.
    pub log_tail_bytes: u64,
    /// A planned hand-over that has not happened by then is aborted; default 500 ms. The leader
    /// refuses proposals meanwhile.
    pub transfer_timeout: Duration,
    /// A follower that was sent a snapshot and did not report is sent one again; default 10 s.
    pub snapshot_retry: Duration,
    /// A leader whose oldest log write has been outstanding for this long hands leadership over;
    /// default 1 s.
    pub disk_stall: Duration,
    /// Election priority; 0, and -1 for a witness. Never raise it: a replica with a higher priority
    /// that cannot campaign blocks others with equal logs.
    pub priority: i64,
    /// The monotonic clock at start. For lease + drift margin from here no vote is granted: the
    /// previous incarnation may have confirmed a lease just before it died.
    pub start: Duration,
    /// Seed of the election timeouts.
    pub seed: u64,
    #[cfg(feature = "deliberate-bugs")]
    pub bug: Option<Bug>,
}

impl ReplicaConfig {
    /// The defaults, for a replica that joins an existing group.
    pub fn new(shard: ShardId, raft_id: RaftId, start: Duration, seed: u64) -> Self {
        Self {
            shard,
            raft_id,
            founding_voters: Vec::new(),
            tick: Duration::from_millis(50),
            heartbeat_ticks: 4,
            election_ticks: 20,
            lease: Duration::from_millis(250),
            lease_renewal: Duration::from_millis(100),
            drift_margin: Duration::from_millis(25),
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 128,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 16 << 20,
            cache_bytes: 16 << 20,
            log_tail_bytes: 64 << 20,
            transfer_timeout: Duration::from_millis(500),
            snapshot_retry: Duration::from_secs(10),
            disk_stall: Duration::from_secs(1),
            priority: 0,
            start,
            seed,
            #[cfg(feature = "deliberate-bugs")]
            bug: None,
        }
    }

    /// Always false in a product.
    #[cfg_attr(not(feature = "deliberate-bugs"), expect(clippy::unused_self))]
    pub(crate) fn has(&self, bug: Bug) -> bool {
        let of_process = match bug {
            Bug::NoVoteRefusal => bugs::Bug::NoVoteRefusal,
            Bug::ReadWithoutRound => bugs::Bug::ReadWithoutRound,
            Bug::PromiseBeforePersisted => bugs::Bug::PromiseBeforePersisted,
            Bug::LeadAfterRemoval => bugs::Bug::LeadAfterRemoval,
            Bug::SnapshotBeforeDisk => bugs::Bug::SnapshotBeforeDisk,
            Bug::CheckpointBeforeRecord => bugs::Bug::CheckpointBeforeRecord,
        };
        #[cfg(feature = "deliberate-bugs")]
        if self.bug == Some(bug) {
            return true;
        }
        bugs::active(of_process)
    }

    /// How long a voter refuses votes after it heard a leader, or started.
    pub fn vote_refusal(&self) -> Duration {
        self.lease + self.drift_margin
    }

    pub(crate) fn raft_config(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.raft_id.0,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            max_size_per_msg: self.max_size_per_msg,
            max_inflight_msgs: self.max_inflight_msgs,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: 0,
            max_election_tick: 0,
            read_only_option: raft::ReadOnlyOption::Safe,
            // Followers hear of a commit with the next entries or the next heartbeat (100 ms), not
            // by messages of its own: those were half of all messages under load, and a takeover
            // replays what little is missing.
            skip_bcast_commit: true,
            batch_append: true,
            priority: self.priority,
            max_uncommitted_size: self.max_uncommitted_size,
            max_committed_size_per_ready: self.max_committed_size_per_ready,
        }
    }
}
