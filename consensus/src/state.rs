//! What survives a restart.

use holdfast_proto::ids::{LogIndex, RaftId, Term};
use holdfast_proto::v1;

/// A log entry as the raft crate holds it. Its data are reference counted.
pub use raft::eraftpb::Entry;

/// Term, vote and commit index. Term and vote are synced before any message that depends on them;
/// the commit index may lag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    /// 0: no vote in this term.
    pub vote: RaftId,
    pub commit: LogIndex,
}

/// Index, term and membership of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckpointMeta {
    /// The last entry whose effects are in the checkpoint.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The membership as of that entry.
    pub membership: v1::Membership,
}

/// What a log store holds of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredState {
    pub raft_id: RaftId,
    pub hard_state: HardState,
    /// The newest checkpoint that is durable. Its index is [`StoredState::GENESIS`] in a founding
    /// group without one (the state is empty) and 0 in a replica that has not joined yet.
    /// The executor starts from this very checkpoint.
    pub checkpoint: CheckpointMeta,
    /// Index and term of the last entry that was removed from the front of the log:
    /// `truncated <= checkpoint.index`.
    pub truncated: (LogIndex, Term),
    /// Index and term of the last entry: `last >= truncated`.
    pub last: (LogIndex, Term),
}

impl StoredState {
    /// A founding group starts as if entry 1 had been removed after a checkpoint. So every replica
    /// that joins later is behind the log's start and receives a snapshot, which tells it the
    /// membership.
    pub const GENESIS: LogIndex = LogIndex(1);
    /// The term of that entry, and the first term of a group.
    pub const GENESIS_TERM: Term = Term(1);

    /// The state of a founding member.
    pub fn founding(raft_id: RaftId, voters: &[RaftId]) -> Self {
        let genesis = (Self::GENESIS, Self::GENESIS_TERM);
        Self {
            raft_id,
            hard_state: HardState {
                term: Self::GENESIS_TERM,
                vote: RaftId(0),
                commit: Self::GENESIS,
            },
            checkpoint: CheckpointMeta {
                index: Self::GENESIS,
                term: Self::GENESIS_TERM,
                membership: v1::Membership {
                    voters: voters.iter().map(|id| id.0).collect(),
                    ..Default::default()
                },
            },
            truncated: genesis,
            last: genesis,
        }
    }

    /// The state of a replica that joins an existing group.
    pub fn joining(raft_id: RaftId) -> Self {
        Self {
            raft_id,
            hard_state: HardState::default(),
            checkpoint: CheckpointMeta::default(),
            truncated: Default::default(),
            last: Default::default(),
        }
    }
}
