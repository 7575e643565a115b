//! What a replica asks of its shell, and in which order.

use bytes::Bytes;
use holdfast_proto::ids::{LogIndex, RaftId, Term};
use holdfast_proto::v1;

use crate::log::LogWrite;
use crate::state::CheckpointMeta;

/// Everything a replica wants done, gathered by [`crate::Replica::ready`]. The caller passes the
/// buffer and drains it; a field left undrained keeps its content and is appended to.
///
/// Order of duties, within one `Outputs` and from one to the next:
/// - `messages` may leave at once, in order for each receiver. (Those that promise durability, as
///   votes and append acknowledgements, appear here only after [`crate::Replica::persisted`].)
/// - `writes` go to the log in order; then `persisted(number)` of the last one.
/// - `restored` comes before `committed`: the executor replaces its state, then goes on.
/// - `committed` is applied in order; then `applied(index)`.
/// - `reads`: serve each once its index is applied.
/// - `role` and `serving` are the newest values if they changed.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Send now. A leader's appends are among them: they overlap its own log write.
    pub messages: Vec<v1::RaftMessage>,
    /// Write to the log, in order.
    pub writes: Vec<LogWrite>,
    /// A snapshot was installed: load the checkpoint of this index in place of the current state,
    /// then report `applied` of its index.
    pub restored: Option<CheckpointMeta>,
    /// Committed entries for the executor, each index exactly once, without gaps.
    pub committed: Vec<Committed>,
    /// Read tokens with the index that must be applied before the read is served.
    pub reads: Vec<(u64, LogIndex)>,
    /// Read tokens that will not be answered: leadership was lost. The reads did not happen.
    pub reads_failed: Vec<u64>,
    /// Role, term or known leader changed.
    pub role: Option<RoleChange>,
    /// True from when this leader has an entry of its own term applied until it leads no more.
    pub serving: Option<bool>,
    /// Pull this checkpoint from the leader (see `data`), make it durable on disk, then call
    /// `install_snapshot`, or `install_failed`.
    pub install: Option<SnapshotToInstall>,
    /// A follower needs a snapshot and there is none new enough: take a checkpoint now.
    pub checkpoint_wanted: bool,
    /// The log records this checkpoint: older checkpoint files may be deleted.
    pub checkpoint_recorded: Option<LogIndex>,
    /// A membership took effect.
    pub membership: Option<(LogIndex, v1::Membership)>,
}

impl Outputs {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.writes.is_empty()
            && self.restored.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.role.is_none()
            && self.serving.is_none()
            && self.install.is_none()
            && !self.checkpoint_wanted
            && self.checkpoint_recorded.is_none()
            && self.membership.is_none()
    }

    /// Moves everything to the end of `to`.
    pub(crate) fn move_to(&mut self, to: &mut Self) {
        to.messages.append(&mut self.messages);
        to.writes.append(&mut self.writes);
        to.committed.append(&mut self.committed);
        to.reads.append(&mut self.reads);
        to.reads_failed.append(&mut self.reads_failed);
        take_newer(&mut self.restored, &mut to.restored);
        take_newer(&mut self.role, &mut to.role);
        take_newer(&mut self.serving, &mut to.serving);
        take_newer(&mut self.install, &mut to.install);
        take_newer(&mut self.checkpoint_recorded, &mut to.checkpoint_recorded);
        take_newer(&mut self.membership, &mut to.membership);
        to.checkpoint_wanted |= std::mem::take(&mut self.checkpoint_wanted);
    }
}

fn take_newer<T>(from: &mut Option<T>, to: &mut Option<T>) {
    if from.is_some() {
        *to = from.take();
    }
}

/// What a committed entry is to the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// `data` is what was proposed.
    Normal,
    /// A term's first entry: no data, nothing to execute.
    Empty,
    /// A membership change, handled by the replica: nothing to execute. If a change was proposed at
    /// this index in this term, it took effect.
    Membership,
}

/// One committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub index: LogIndex,
    pub term: Term,
    pub kind: EntryKind,
    pub data: Bytes,
}

/// A replica's role in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    #[default]
    Follower,
    /// Campaigning, pre-vote included.
    Candidate,
    Leader,
    /// Receives the log and does not vote, or not (yet) a member.
    Learner,
}

impl From<Role> for v1::RaftRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Follower => Self::Follower,
            Role::Candidate => Self::Candidate,
            Role::Leader => Self::Leader,
            Role::Learner => Self::Learner,
        }
    }
}

/// Role, term and known leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RoleChange {
    pub role: Role,
    pub term: Term,
    /// 0: not known.
    pub leader: RaftId,
}

/// A checkpoint that the leader offers because the log alone cannot bring this replica up to date.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotToInstall {
    /// Index, term and membership of the checkpoint.
    pub meta: CheckpointMeta,
    /// Who offers it.
    pub from: RaftId,
    /// What the leader's shell passed to `set_snapshot_data`: where to pull from.
    pub data: Bytes,
}
