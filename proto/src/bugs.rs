//! Deliberate bugs, to prove that the simulation notices them. Without the feature
//! `deliberate-bugs`, which no product enables, none of them exists: [`active`] is then a constant.

/// One way to break a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Bug {
    /// Appends and votes are acknowledged before they are stored.
    PromiseBeforePersisted = 1,
    /// The vote is not part of what is stored.
    VoteNotStored = 2,
    /// Every ReadIndex round of a term has the same context.
    ReadContextReused = 3,
    /// A read is served because a lease was once held.
    LeaseNotChecked = 4,
    /// A write whose predecessors in its lane are missing executes.
    GapIgnored = 5,
    /// Checkpoints do not contain the lanes.
    LanesNotInCheckpoint = 6,
    /// A write is answered when it is proposed.
    ReplyBeforeCommit = 7,
    /// A replica forgets its leader and votes although the leader may hold a lease.
    NoVoteRefusal = 8,
    /// A replica that lost synced entries runs on under its id.
    AmnesiacRejoins = 9,
    /// After a pause all missed ticks run at once.
    TickBurst = 10,
    /// A write whose seq was executed executes again.
    DuplicateExecutes = 11,
    /// A read does not wait for its client's own unanswered write.
    ReadBeforeOwnWrite = 12,
    /// Reads are answered without a round that confirms the leadership.
    ReadWithoutRound = 13,
    /// A new leader serves before an entry of its own term is applied.
    ServeBeforeOwnEntry = 14,
    /// Hand-over does not end the lease.
    LeaseKeptInHandOver = 15,
    /// Raft hears of a snapshot before its checkpoint is on disk.
    SnapshotBeforeDisk = 16,
    /// A write that is sent again after a failover gets a new seq.
    NewSeqOnResend = 17,
    /// Answers go to clients as they come, not in the order of the requests.
    RepliesOutOfOrder = 18,
    /// Expiry is decided by each replica's own clock.
    ExpiryByLocalClock = 19,
    /// The time of entries is the primary's wall clock, even if that goes back.
    TimeGoesBack = 20,
    /// A write that was sent is reported as surely not executed when its time is over.
    UnknownCalledFailed = 21,
    /// A removed leader goes on leading.
    LeadAfterRemoval = 22,
    /// A checkpoint counts as recorded before the log says so.
    CheckpointBeforeRecord = 23,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::PromiseBeforePersisted,
        Self::VoteNotStored,
        Self::ReadContextReused,
        Self::LeaseNotChecked,
        Self::GapIgnored,
        Self::LanesNotInCheckpoint,
        Self::ReplyBeforeCommit,
        Self::NoVoteRefusal,
        Self::AmnesiacRejoins,
        Self::TickBurst,
        Self::DuplicateExecutes,
        Self::ReadBeforeOwnWrite,
        Self::ReadWithoutRound,
        Self::ServeBeforeOwnEntry,
        Self::LeaseKeptInHandOver,
        Self::SnapshotBeforeDisk,
        Self::NewSeqOnResend,
        Self::RepliesOutOfOrder,
        Self::ExpiryByLocalClock,
        Self::TimeGoesBack,
        Self::UnknownCalledFailed,
        Self::LeadAfterRemoval,
        Self::CheckpointBeforeRecord,
    ];
}

#[cfg(feature = "deliberate-bugs")]
static ACTIVE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Whether the process has this bug.
#[cfg(feature = "deliberate-bugs")]
#[inline]
pub fn active(bug: Bug) -> bool {
    ACTIVE.load(std::sync::atomic::Ordering::Relaxed) == bug as u32
}

/// Whether the process has this bug: never in a product.
#[cfg(not(feature = "deliberate-bugs"))]
#[inline(always)]
pub const fn active(_bug: Bug) -> bool {
    false
}

/// Gives the process one bug, or none.
#[cfg(feature = "deliberate-bugs")]
pub fn set(bug: Option<Bug>) {
    ACTIVE.store(bug.map_or(0, |bug| bug as u32), std::sync::atomic::Ordering::Relaxed);
}
