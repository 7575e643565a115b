//! A log store in memory with an explicit model of durability, for tests and simulation: what was
//! written survives the death of the process, what was synced survives the death of the machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};

use super::{LogError, LogReader, LogStore, LogWrite};
use crate::state::{CheckpointMeta, Entry, HardState, StoredState};

/// Shared by its clones, as a disk is by the processes that open it one after another.
#[derive(Clone, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    written: BTreeMap<ShardId, Group>,
    /// Writes since the last sync, oldest first.
    unsynced: Vec<LogWrite>,
    /// The state at the last sync.
    synced: BTreeMap<ShardId, Group>,
    syncs: u64,
}

#[derive(Clone, Default)]
struct Group {
    raft_id: RaftId,
    hard_state: HardState,
    checkpoint: CheckpointMeta,
    truncated: (LogIndex, Term),
    entries: BTreeMap<u64, Entry>,
}

impl Group {
    fn apply(&mut self, write: &LogWrite) {
        self.raft_id = write.raft_id;
        if let Some(meta) = &write.reset {
            self.entries.clear();
            self.truncated = (meta.index, meta.term);
            self.checkpoint = meta.clone();
        }
        if let Some(first) = write.entries.first() {
            self.entries.split_off(&first.index);
            for entry in &write.entries {
                self.entries.insert(entry.index, entry.clone());
            }
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(checkpoint) = &write.checkpoint {
            self.checkpoint = checkpoint.clone();
        }
        if let Some(truncated) = write.truncate {
            self.entries = self.entries.split_off(&(truncated.0.0 + 1));
            self.truncated = truncated;
        }
    }

    fn state(&self) -> StoredState {
        let last = self.entries.values().next_back();
        StoredState {
            raft_id: self.raft_id,
            hard_state: self.hard_state,
            checkpoint: self.checkpoint.clone(),
            truncated: self.truncated,
            last: last.map_or(self.truncated, |e| (LogIndex(e.index), Term(e.term))),
        }
    }
}

impl MemoryStore {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no panic while locked")
    }

    /// The machine dies: of the writes since the last sync only the first `kept` survive.
    pub fn crash(&self, kept: usize) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        for write in disk.unsynced.drain(..).take(kept) {
            disk.synced.entry(write.shard).or_default().apply(&write);
        }
        disk.written = disk.synced.clone();
    }

    /// How many writes a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.disk().unsynced.len()
    }

    /// How often a sync happened.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Makes everything written durable.
    pub fn sync(&self) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        for write in disk.unsynced.drain(..) {
            disk.synced.entry(write.shard).or_default().apply(&write);
        }
        disk.syncs += 1;
    }

    /// A record is damaged: reading stops there, so the entries of a group from `from` on are gone,
    /// and with them the votes and commit indexes that were recorded later.
    pub fn lose_tail(&self, shard: ShardId, from: LogIndex) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        disk.unsynced.retain(|write| write.shard != shard);
        let Some(group) = disk.written.get_mut(&shard) else { return };
        group.entries.split_off(&from.0);
        let (last, term) = group.state().last;
        let commit = group.hard_state.commit.min(last);
        group.hard_state = HardState { term, vote: RaftId(0), commit };
        let group = group.clone();
        disk.synced.insert(shard, group);
    }

    /// A copy of the whole log of a group as written: index to entry.
    pub fn entries(&self, shard: ShardId) -> BTreeMap<u64, Entry> {
        self.disk().written.get(&shard).map(|g| g.entries.clone()).unwrap_or_default()
    }
}

impl LogStore for MemoryStore {
    fn load(&mut self, shard: ShardId) -> Result<Option<StoredState>, LogError> {
        Ok(self.disk().written.get(&shard).map(Group::state))
    }

    fn shards(&mut self) -> Vec<ShardId> {
        self.disk().written.keys().copied().collect()
    }

    fn write(&mut self, batch: &[LogWrite], sync: bool) -> Result<(), LogError> {
        let sync = sync || batch.iter().any(|w| w.sync);
        {
            let mut disk = self.disk();
            for write in batch {
                disk.written.entry(write.shard).or_default().apply(write);
                disk.unsynced.push(write.clone());
            }
        }
        if sync {
            self.sync();
        }
        Ok(())
    }

    fn destroy(&mut self, shard: ShardId) -> Result<(), LogError> {
        let mut disk = self.disk();
        disk.written.remove(&shard);
        disk.synced.remove(&shard);
        disk.unsynced.retain(|w| w.shard != shard);
        Ok(())
    }

    fn reader(&self) -> Box<dyn LogReader> {
        Box::new(self.clone())
    }
}

impl LogReader for MemoryStore {
    fn entries(
        &self,
        shard: ShardId,
        low: LogIndex,
        high: LogIndex,
        max_bytes: u64,
        out: &mut Vec<Entry>,
    ) -> Result<(), LogError> {
        let missing = || LogError::Missing { shard, low, high };
        let disk = self.disk();
        let group = disk.written.get(&shard).ok_or_else(missing)?;
        let mut bytes = 0;
        for index in low.0..high.0 {
            let entry = group.entries.get(&index).ok_or_else(missing)?;
            bytes += entry.data.len() as u64;
            if bytes > max_bytes && index > low.0 {
                break;
            }
            out.push(entry.clone());
        }
        Ok(())
    }
}
