//! Storage of logs: the contract, and its implementations.

use std::fmt;

use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};

use crate::state::{CheckpointMeta, Entry, HardState, StoredState};

pub mod engine;
mod files;
pub mod memory;
pub mod side_record;
pub mod writer;

/// Why a log could not be read or written. A failed *write* or *sync* is never retried: the process
/// ends, because what is on disk is then unknown.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log I/O: {0}")]
    Io(#[from] std::io::Error),
    #[error("damaged log: {0}")]
    Corrupt(String),
    /// The entries asked for are not (or no longer) there.
    #[error("entries {low} to {high} of {shard} are not stored")]
    Missing { shard: ShardId, low: LogIndex, high: LogIndex },
}

/// One atomic change of one group's log.
#[derive(Clone, Default)]
pub struct LogWrite {
    pub shard: ShardId,
    pub raft_id: RaftId,
    /// Grows by one with each write of a replica; `persisted(number)` covers all smaller ones.
    pub number: u64,
    /// First of all, forget the whole log and start after this checkpoint (an installed snapshot,
    /// or the first write of a replica).
    pub reset: Option<CheckpointMeta>,
    /// Replace everything from `entries[0].index` on.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// A newer checkpoint is durable.
    pub checkpoint: Option<CheckpointMeta>,
    /// Forget entries up to and including this one (with its term).
    pub truncate: Option<(LogIndex, Term)>,
    /// Sync before `persisted`, whatever the persistence mode: term or vote, membership, or a reset.
    pub sync: bool,
}

impl fmt::Debug for LogWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.entries.first().zip(self.entries.last());
        f.debug_struct("LogWrite")
            .field("shard", &self.shard)
            .field("number", &self.number)
            .field("reset", &self.reset.as_ref().map(|c| c.index))
            .field("entries", &span.map(|(a, b)| (a.index, b.index)))
            .field("hard_state", &self.hard_state)
            .field("checkpoint", &self.checkpoint.as_ref().map(|c| c.index))
            .field("truncate", &self.truncate)
            .field("sync", &self.sync)
            .finish()
    }
}

/// Reads stored entries, for followers that lag behind the memory of the leader, and for replay
/// after a restart. Used from the consensus thread while a writer thread writes.
pub trait LogReader: Send {
    /// Appends entries `low..high` (exclusive) to `out`, stopping early once `max_bytes` of data are
    /// there, but at least one.
    fn entries(
        &self,
        shard: ShardId,
        low: LogIndex,
        high: LogIndex,
        max_bytes: u64,
        out: &mut Vec<Entry>,
    ) -> Result<(), LogError>;
}

/// Flushes what was written, from another thread than the writer's.
pub trait LogSyncer: Send {
    /// Everything written before this call is durable when it returns.
    fn sync(&mut self) -> Result<(), LogError>;
}

/// Stores the logs of all groups of a process.
pub trait LogStore: Send {
    /// What is stored of a group; `None`: nothing.
    fn load(&mut self, shard: ShardId) -> Result<Option<StoredState>, LogError>;
    /// The groups that have something stored.
    fn shards(&mut self) -> Vec<ShardId>;
    /// Writes all of `batch`, in order, each element atomically. Durable on return if `sync` or if
    /// any element says so; otherwise safe from the death of the process only.
    fn write(&mut self, batch: &[LogWrite], sync: bool) -> Result<(), LogError>;
    /// Forgets a group: its replica was removed for good. Durable on return.
    fn destroy(&mut self, shard: ShardId) -> Result<(), LogError>;
    fn reader(&self) -> Box<dyn LogReader>;
    /// A handle that syncs without blocking writes; `None`: `write(.., true)` is all there is.
    fn syncer(&self) -> Option<Box<dyn LogSyncer>> {
        None
    }
    /// Gives space back. Called every few seconds on the thread that writes.
    fn purge(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}

impl LogStore for Box<dyn LogStore> {
    fn load(&mut self, shard: ShardId) -> Result<Option<StoredState>, LogError> {
        (**self).load(shard)
    }
    fn shards(&mut self) -> Vec<ShardId> {
        (**self).shards()
    }
    fn write(&mut self, batch: &[LogWrite], sync: bool) -> Result<(), LogError> {
        (**self).write(batch, sync)
    }
    fn destroy(&mut self, shard: ShardId) -> Result<(), LogError> {
        (**self).destroy(shard)
    }
    fn reader(&self) -> Box<dyn LogReader> {
        (**self).reader()
    }
    fn syncer(&self) -> Option<Box<dyn LogSyncer>> {
        (**self).syncer()
    }
    fn purge(&mut self) -> Result<(), LogError> {
        (**self).purge()
    }
}
