//! The log as raft sees it: recent entries in memory, older ones through the [`LogReader`].

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_proto::ids::{LogIndex, ShardId, Term};
use raft::eraftpb::{ConfState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::convert::membership_from_wire;
use crate::log::{LogError, LogReader};
use crate::state::{CheckpointMeta, Entry, HardState, StoredState};

/// Distance of the marks by which the size of the log's tail is known.
const MARK_BYTES: u64 = 256 << 10;

/// What an entry costs besides its data: an estimate of its struct and allocation.
const ENTRY_OVERHEAD: u64 = 64;

fn entry_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD
}

pub(crate) struct GroupStorage {
    shard: ShardId,
    reader: Box<dyn LogReader>,
    initial: RaftState,
    /// Index and term of the entry before the first.
    truncated: (u64, u64),
    last: (u64, u64),
    /// The newest entries, without a gap up to `last`. Every entry that is not known to be stored
    /// is here.
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    /// (index, bytes appended up to it), every [`MARK_BYTES`].
    marks: VecDeque<(u64, u64)>,
    appended_bytes: u64,
    checkpoint: CheckpointMeta,
    snapshot_data: Bytes,
    /// Raft asked for a snapshot that the checkpoint cannot serve.
    snapshot_wanted: Cell<bool>,
}

impl GroupStorage {
    pub(crate) fn new(
        shard: ShardId,
        stored: &StoredState,
        hard_state: HardState,
        reader: Box<dyn LogReader>,
    ) -> Self {
        let mut hard = raft::eraftpb::HardState::default();
        hard.term = hard_state.term.0;
        hard.vote = hard_state.vote.0;
        hard.commit = hard_state.commit.0;
        let conf = membership_from_wire(&stored.checkpoint.membership);
        Self {
            shard,
            reader,
            initial: RaftState::new(hard, conf),
            truncated: (stored.truncated.0.0, stored.truncated.1.0),
            last: (stored.last.0.0, stored.last.1.0),
            cache: VecDeque::new(),
            cache_bytes: 0,
            marks: VecDeque::new(),
            appended_bytes: 0,
            checkpoint: stored.checkpoint.clone(),
            snapshot_data: Bytes::new(),
            snapshot_wanted: Cell::new(false),
        }
    }

    pub(crate) fn truncated(&self) -> (LogIndex, Term) {
        (LogIndex(self.truncated.0), Term(self.truncated.1))
    }

    pub(crate) fn checkpoint(&self) -> &CheckpointMeta {
        &self.checkpoint
    }

    pub(crate) fn set_checkpoint(&mut self, checkpoint: CheckpointMeta) {
        self.checkpoint = checkpoint;
    }

    pub(crate) fn set_snapshot_data(&mut self, data: Bytes) {
        self.snapshot_data = data;
    }

    pub(crate) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// Makes entries readable that are about to be written.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(
            self.truncated.0 < first.index && first.index <= self.last.0 + 1,
            "append at {} to a log of ({}, {}]",
            first.index,
            self.truncated.0,
            self.last.0
        );
        while self.cache.back().is_some_and(|e| e.index >= first.index) {
            let old = self.cache.pop_back().expect("checked to be there");
            self.cache_bytes -= entry_bytes(&old);
        }
        while self.marks.back().is_some_and(|m| m.0 >= first.index) {
            self.marks.pop_back();
        }
        for entry in entries {
            let bytes = entry_bytes(entry);
            self.cache_bytes += bytes;
            self.appended_bytes += bytes;
            let mark = self.marks.back().map_or(0, |m| m.1);
            if self.appended_bytes >= mark + MARK_BYTES {
                self.marks.push_back((entry.index, self.appended_bytes));
            }
            self.cache.push_back(entry.clone());
        }
        let last = entries.last().expect("not empty");
        self.last = (last.index, last.term);
    }

    /// Starts over after an installed snapshot.
    pub(crate) fn reset(&mut self, checkpoint: CheckpointMeta) {
        self.cache.clear();
        self.cache_bytes = 0;
        self.marks.clear();
        self.truncated = (checkpoint.index.0, checkpoint.term.0);
        self.last = self.truncated;
        self.checkpoint = checkpoint;
    }

    /// Drops cached entries beyond `limit_bytes` that are stored and handed over.
    pub(crate) fn evict(&mut self, stored_and_applied: u64, limit_bytes: u64) {
        while self.cache_bytes > limit_bytes
            && self.cache.front().is_some_and(|e| e.index <= stored_and_applied)
        {
            let old = self.cache.pop_front().expect("checked to be there");
            self.cache_bytes -= entry_bytes(&old);
        }
    }

    /// The first index of a tail of about `bytes`: everything before may go.
    pub(crate) fn tail_start(&self, bytes: u64) -> u64 {
        let beyond = self.appended_bytes.saturating_sub(bytes);
        let place = self.marks.partition_point(|m| m.1 <= beyond);
        match place.checked_sub(1) {
            Some(place) => self.marks[place].0,
            None => self.truncated.0,
        }
    }

    /// Forgets entries up to and including `index`.
    pub(crate) fn truncate(&mut self, index: u64) -> Result<(LogIndex, Term), raft::Error> {
        assert!(
            self.truncated.0 <= index && index <= self.checkpoint.index.0,
            "truncate to {index}, beyond the checkpoint at {}",
            self.checkpoint.index
        );
        self.truncated = (index, Storage::term(self, index)?);
        while self.cache.front().is_some_and(|e| e.index <= index) {
            let old = self.cache.pop_front().expect("checked to be there");
            self.cache_bytes -= entry_bytes(&old);
        }
        while self.marks.front().is_some_and(|m| m.0 <= index) {
            self.marks.pop_front();
        }
        Ok(self.truncated())
    }

    fn cache_first(&self) -> u64 {
        self.cache.front().map_or(self.last.0 + 1, |e| e.index)
    }

    fn read_stored(
        &self,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<Entry>,
    ) -> raft::Result<()> {
        self.reader
            .entries(self.shard, LogIndex(low), LogIndex(high), max_bytes, out)
            .map_err(storage_error)
    }
}

fn storage_error(error: LogError) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

impl Storage for GroupStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last.0 + 1, "entries beyond the log's end");
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let mut out = Vec::new();
        let cached = self.cache_first();
        if low < cached {
            let stored_high = high.min(cached);
            self.read_stored(low, stored_high, max_bytes, &mut out)?;
            if (out.len() as u64) < stored_high - low {
                return Ok(out);
            }
        }
        let mut total: u64 = out.iter().map(entry_bytes).sum();
        let start = low.max(cached);
        if start < high {
            let (from, to) = ((start - cached) as usize, (high - cached) as usize);
            for entry in self.cache.range(from..to) {
                total = total.saturating_add(entry_bytes(entry));
                if total > max_bytes && !out.is_empty() {
                    break;
                }
                out.push(entry.clone());
            }
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.last.0 {
            return Ok(self.last.1);
        }
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last.0 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let cached = self.cache_first();
        if index >= cached {
            return Ok(self.cache[(index - cached) as usize].term);
        }
        if index == self.checkpoint.index.0 {
            return Ok(self.checkpoint.term.0);
        }
        let mut out = Vec::with_capacity(1);
        self.read_stored(index, index + 1, u64::MAX, &mut out)?;
        out.first().map(|e| e.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let meta = &self.checkpoint;
        let members = &meta.membership;
        let usable = meta.index > StoredState::GENESIS
            && meta.index.0 >= request_index
            && meta.index.0 >= self.truncated.0
            // A receiver refuses a snapshot whose membership does not name it.
            && [&members.voters, &members.learners, &members.voters_outgoing]
                .iter()
                .any(|list| list.contains(&to));
        if !usable {
            self.snapshot_wanted.set(true);
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.data = self.snapshot_data.clone();
        let metadata = snapshot.mut_metadata();
        metadata.index = meta.index.0;
        metadata.term = meta.term.0;
        let state: ConfState = membership_from_wire(members);
        metadata.set_conf_state(state);
        Ok(snapshot)
    }
}
