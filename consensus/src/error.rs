//! Errors, one enum per surface.

use std::time::Duration;

use holdfast_proto::ids::{LogIndex, RaftId, Term};

use crate::log::LogError;

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Acknowledged entries or a vote may be lost: this raft id must never run again. The sentinel
    /// replaces it by a new id.
    #[error("the log may have lost acknowledged entries: {0}")]
    Amnesia(String),
    /// The stored state belongs to another replica.
    #[error("the stored state is of replica {stored}, not {configured}")]
    WrongReplica { stored: RaftId, configured: RaftId },
    #[error("invalid options: {0}")]
    Config(&'static str),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("raft refused the stored state: {0}")]
    Raft(#[from] raft::Error),
}

/// Why a message was not processed. Only `Amnesia` needs an action.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StepError {
    /// The leader knows of entries that this replica acknowledged and no longer has. The replica
    /// has stopped for good; see [`OpenError::Amnesia`].
    #[error("the leader has commit {commit} acknowledged by us, our log ends at {last}")]
    Amnesia { commit: LogIndex, last: LogIndex },
    /// The replica has stopped after such an error.
    #[error("the replica has stopped")]
    Stopped,
    /// Not a valid message for this replica: dropped.
    #[error("invalid message: {0}")]
    Invalid(&'static str),
    /// A message of a replica that is not in the membership: dropped.
    #[error("unknown peer {0}")]
    UnknownPeer(RaftId),
}

/// Why a proposal was not taken: it surely did not enter the log.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProposeError {
    #[error("not the leader (term {term}, leader {leader})")]
    NotLeader {
        term: Term,
        /// 0: not known.
        leader: RaftId,
    },
    /// Too much is uncommitted: try again after some of it was committed.
    #[error("too much is uncommitted")]
    Busy,
    /// Leadership is being handed over: try again shortly, most likely elsewhere.
    #[error("leadership is being handed to {to}")]
    Transferring { to: RaftId },
}

/// Why an order to forget the leader was not obeyed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ForgetError {
    #[error("this replica leads")]
    Leading,
    #[error("at term {term} with leader {leader}")]
    Mismatch { term: Term, leader: RaftId },
    /// The leader may still hold a lease that this replica confirmed.
    #[error("the leader was heard too recently")]
    Veto { retry_after: Duration },
}

/// Why an order to campaign was not obeyed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CampaignError {
    #[error("this replica leads already")]
    Leading,
    #[error("this replica may not vote")]
    NotVoter,
    /// This replica's own vote is subject to the refusal window as well.
    #[error("the leader was heard too recently")]
    Veto { retry_after: Duration },
    /// Log writes are outstanding; try again when they are done.
    #[error("log writes are outstanding")]
    WritesOutstanding,
    /// Raft refused: a committed membership change is not applied yet.
    #[error("a committed membership change is not applied yet")]
    MembershipPending,
    #[error("the replica has stopped")]
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TransferError {
    #[error("not the leader")]
    NotLeader,
    #[error("the target is the leader")]
    Itself,
    #[error("{0} is not a voter")]
    NotVoter(RaftId),
    /// Too far behind, not heard recently, or in need of a snapshot.
    #[error("{to} is not ready: {why}")]
    NotReady { to: RaftId, why: &'static str },
    #[error("a hand-over is in progress")]
    InProgress,
    #[error("a membership change is pending")]
    MembershipPending,
}

/// Why a membership change was not proposed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChangeError {
    #[error("not the leader (term {term}, leader {leader})")]
    NotLeader { term: Term, leader: RaftId },
    #[error("a membership change is pending")]
    Pending,
    #[error("in a joint state: it is being left")]
    Joint,
    /// Hand leadership over first: a removed leader does not step down by itself.
    #[error("the change would remove or demote the leader")]
    RemovesLeader,
    #[error("the change changes nothing")]
    Nothing,
    #[error("leadership is being handed over or too much is uncommitted")]
    Busy,
    #[error("the change is invalid: {0}")]
    Invalid(&'static str),
}

/// Why a checkpoint was not recorded or installed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InstallError {
    /// Not the snapshot that was asked for (any more).
    #[error("no snapshot at {0} is awaited")]
    NotAwaited(LogIndex),
    /// Beyond what was applied, or before the last one.
    #[error("no checkpoint can be at {0}")]
    OutOfRange(LogIndex),
}
