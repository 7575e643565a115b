//! The handle on the metadata group: propose a change, read what is applied.

use std::sync::Arc;

use holdfast_proto::v1;
use tokio::sync::{oneshot, watch};

use crate::core::metadata::{Command, Metadata, Outcome, Rejection};

/// What this sentinel has applied and what it knows of the group.
#[derive(Clone, Default)]
pub(crate) struct Published {
    pub(crate) metadata: Arc<Metadata>,
    /// Of the metadata; empty with version 0 until the cluster is founded.
    pub(crate) topology: Arc<v1::Topology>,
    /// The sentinel that leads the group, as far as this one knows.
    pub(crate) leader: Option<u64>,
    /// This sentinel leads and has applied an entry of its own term.
    pub(crate) leads: bool,
    pub(crate) term: u64,
    pub(crate) applied_index: u64,
}

/// Why a proposal gave no outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProposeError {
    #[error("this sentinel does not lead")]
    NotLeader,
    #[error("too many changes are waiting")]
    Busy,
    /// Leadership was lost on the way: the change may or may not have been made.
    #[error("the outcome is not known: leadership was lost")]
    Unknown,
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

pub(crate) type ProposeResult = Result<Outcome, ProposeError>;

/// A command on its way to the log.
pub(crate) struct Proposal {
    pub(crate) command: Command,
    pub(crate) reply: oneshot::Sender<ProposeResult>,
}

/// What the group's thread is fed with.
pub(crate) enum Input {
    Propose(Proposal),
    Message(v1::RaftMessage),
    Unreachable(u64),
    Stop,
}

/// Proposals and messages that may wait for the group's thread. Changes of metadata are rare;
/// raft repeats lost messages.
pub(crate) const INPUTS_MAX: usize = 1024;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct MetadataGroup {
    inputs: crossbeam_channel::Sender<Input>,
    published: watch::Receiver<Published>,
}

impl MetadataGroup {
    pub(crate) fn new(
        inputs: crossbeam_channel::Sender<Input>,
        published: watch::Receiver<Published>,
    ) -> Self {
        Self { inputs, published }
    }

    /// Puts a command into the log and waits until it is applied here.
    pub(crate) async fn propose(&self, command: Command) -> ProposeResult {
        let (reply, outcome) = oneshot::channel();
        let proposal = Input::Propose(Proposal { command, reply });
        self.inputs.try_send(proposal).map_err(|_| ProposeError::Busy)?;
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }

    pub(crate) fn published(&self) -> Published {
        self.published.borrow().clone()
    }

    pub(crate) fn leads(&self) -> bool {
        self.published.borrow().leads
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }
}
