//! The log store on disk: raft-engine, one append-only stream for all groups.
//!
//! Recycling of files is off (it leaks them after each SIGKILL, tikv/raft-engine#407), files are
//! 64 MiB, and space is given back by [`LogStore::purge`] from outside. A damaged tail is cut at
//! open; whether acknowledged entries were in it is for [`super::side_record`] to find out. A failed
//! write or sync ends the process (see [`crate::durable`]).
//!
//! Each installed snapshot moves a group to a new *generation*, a group of its own for raft-engine.
//! So no entry of a longer, divergent log can survive behind the snapshot.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use holdfast_proto::v1;
use prost::Message as _;
use raft_engine::{Command, Config, LogBatch, MessageExt, ReadableSize, RecoveryMode};

use super::files::LogFiles;
use super::{LogError, LogReader, LogStore, LogSyncer, LogWrite};
use crate::durable;
use crate::faults::{self, Point};
use crate::state::{CheckpointMeta, Entry, HardState, StoredState};

type Engine = raft_engine::Engine<LogFiles>;

/// Key of [`HardRecord`].
const HARD: &[u8] = b"h";
/// Key of [`BaseRecord`].
const BASE: &[u8] = b"b";
/// A group of raft-engine that only exists to write something when there is nothing to write:
/// raft-engine does not sync an empty batch. No shard has this number.
const SYNC_GROUP: u64 = u64::MAX;

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HardRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    vote: u64,
    #[prost(uint64, tag = "3")]
    commit: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BaseRecord {
    #[prost(uint64, tag = "1")]
    raft_id: u64,
    #[prost(uint64, tag = "2")]
    checkpoint_index: u64,
    #[prost(uint64, tag = "3")]
    checkpoint_term: u64,
    #[prost(message, optional, tag = "4")]
    membership: Option<v1::Membership>,
    #[prost(uint64, tag = "5")]
    truncated_index: u64,
    #[prost(uint64, tag = "6")]
    truncated_term: u64,
}

type Groups = Arc<Mutex<BTreeMap<ShardId, Group>>>;

#[derive(Clone)]
struct Group {
    generation: u32,
    base: BaseRecord,
}

impl Group {
    /// False for the mark that [`LogStore::destroy`] leaves.
    fn in_use(&self) -> bool {
        self.base.raft_id != 0
    }
}

/// Space and recovery options. [`RaftEngineOptions::default`] is what nodes run with.
#[derive(Clone, Debug)]
pub struct RaftEngineOptions {
    /// Target size of one file, bytes; default 64 MiB.
    pub file_bytes: u64,
    /// Size of the log from which [`LogStore::purge`] rewrites and deletes; default 512 MiB.
    pub purge_bytes: u64,
}

impl Default for RaftEngineOptions {
    fn default() -> Self {
        Self { file_bytes: 64 << 20, purge_bytes: 512 << 20 }
    }
}

/// Logs of all groups of one process in one directory.
pub struct RaftEngineStore {
    dir: PathBuf,
    engine: Arc<Engine>,
    groups: Groups,
}

impl RaftEngineStore {
    /// Opens or creates the log in `dir`, which no other process may have open.
    pub fn open(dir: &Path, options: &RaftEngineOptions) -> Result<Self, LogError> {
        let text = dir
            .to_str()
            .ok_or_else(|| LogError::Corrupt(format!("{} is not UTF-8", dir.display())))?;
        std::fs::create_dir_all(dir)?;
        let config = Config {
            dir: text.to_owned(),
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            // Parallel recovery had false alarms (tikv/raft-engine#250).
            recovery_threads: 1,
            enable_log_recycle: false,
            target_file_size: ReadableSize(options.file_bytes),
            purge_threshold: ReadableSize(options.purge_bytes.max(options.file_bytes)),
            // Values are the users' own: compressing them again costs more than it saves.
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        let engine = Engine::open_with_file_system(config, Arc::new(LogFiles));
        let engine = Arc::new(engine.map_err(engine_error)?);
        let groups = load_groups(&engine)?;
        Ok(Self { dir: dir.to_owned(), engine, groups: Arc::new(Mutex::new(groups)) })
    }

    /// Bytes on disk.
    pub fn used_bytes(&self) -> u64 {
        self.engine.get_used_size() as u64
    }

    fn add(&self, batch: &mut LogBatch, write: &LogWrite) -> Result<(), LogError> {
        let mut groups = lock(&self.groups);
        let group = groups
            .entry(write.shard)
            .or_insert_with(|| Group { generation: 0, base: BaseRecord::default() });
        let mut base_changed = false;
        if let Some(meta) = &write.reset {
            if group.generation > 0 {
                batch.add_command(group_id(write.shard, group.generation), Command::Clean);
            }
            group.generation += 1;
            group.base = BaseRecord {
                raft_id: write.raft_id.0,
                truncated_index: meta.index.0,
                truncated_term: meta.term.0,
                ..Default::default()
            };
            set_checkpoint(&mut group.base, meta);
            base_changed = true;
        }
        if group.generation == 0 {
            return Err(LogError::Corrupt(format!(
                "the first write of {} is not its start",
                write.shard
            )));
        }
        let id = group_id(write.shard, group.generation);
        if !write.entries.is_empty() {
            batch.add_entries::<Entries>(id, &write.entries).map_err(engine_error)?;
        }
        if let Some(hs) = write.hard_state {
            let record = HardRecord { term: hs.term.0, vote: hs.vote.0, commit: hs.commit.0 };
            put(batch, id, HARD, record.encode_to_vec())?;
        }
        if let Some(meta) = &write.checkpoint {
            set_checkpoint(&mut group.base, meta);
            base_changed = true;
        }
        if let Some((index, term)) = write.truncate {
            group.base.truncated_index = index.0;
            group.base.truncated_term = term.0;
            base_changed = true;
            // raft-engine keeps `index` and later.
            batch.add_command(id, Command::Compact { index: index.0 + 1 });
        }
        if base_changed {
            put(batch, id, BASE, group.base.encode_to_vec())?;
        }
        Ok(())
    }
}

impl LogStore for RaftEngineStore {
    fn load(&mut self, shard: ShardId) -> Result<Option<StoredState>, LogError> {
        let group = lock(&self.groups).get(&shard).cloned();
        let Some(group) = group.filter(Group::in_use) else {
            return Ok(None);
        };
        let id = group_id(shard, group.generation);
        let hard = match self.engine.get(id, HARD) {
            Some(bytes) => HardRecord::decode(&*bytes)
                .map_err(|e| LogError::Corrupt(format!("hard state of {shard}: {e}")))?,
            None => HardRecord::default(),
        };
        let base = &group.base;
        let truncated = (LogIndex(base.truncated_index), Term(base.truncated_term));
        let last = match self.engine.last_index(id) {
            Some(last) if last > truncated.0.0 => {
                let entry = self
                    .engine
                    .get_entry::<Entries>(id, last)
                    .map_err(engine_error)?
                    .ok_or_else(|| LogError::Corrupt(format!("last entry of {shard}")))?;
                (LogIndex(entry.index), Term(entry.term))
            }
            _ => truncated,
        };
        if let Some(first) = self.engine.first_index(id)
            && last.0 > truncated.0
            && first > truncated.0.0 + 1
        {
            return Err(LogError::Corrupt(format!(
                "the log of {shard} starts at {first}, expected {}",
                truncated.0.0 + 1
            )));
        }
        Ok(Some(StoredState {
            raft_id: RaftId(base.raft_id),
            hard_state: HardState {
                term: Term(hard.term),
                vote: RaftId(hard.vote),
                commit: LogIndex(hard.commit),
            },
            checkpoint: CheckpointMeta {
                index: LogIndex(base.checkpoint_index),
                term: Term(base.checkpoint_term),
                membership: base.membership.clone().unwrap_or_default(),
            },
            truncated,
            last,
        }))
    }

    fn shards(&mut self) -> Vec<ShardId> {
        let groups = lock(&self.groups);
        let in_use = groups.iter().filter(|(_, group)| group.in_use());
        in_use.map(|(shard, _)| *shard).collect()
    }

    fn write(&mut self, batch: &[LogWrite], sync: bool) -> Result<(), LogError> {
        let sync = sync || batch.iter().any(|w| w.sync);
        let mut out = LogBatch::with_capacity(batch.len() * 2);
        for write in batch {
            self.add(&mut out, write)?;
        }
        if out.is_empty() {
            if !sync {
                return Ok(());
            }
            put(&mut out, SYNC_GROUP, b"s", vec![0])?;
        }
        self.engine.write(&mut out, sync).map_err(engine_error)?;
        Ok(())
    }

    fn destroy(&mut self, shard: ShardId) -> Result<(), LogError> {
        let mut batch = LogBatch::default();
        {
            let mut groups = lock(&self.groups);
            let Some(group) = groups.get_mut(&shard).filter(|group| group.in_use()) else {
                return Ok(());
            };
            batch.add_command(group_id(shard, group.generation), Command::Clean);
            // The number of a cleaned group is not used again: an empty base record marks the next
            // generation as taken.
            group.generation += 1;
            group.base = BaseRecord::default();
            let next = group_id(shard, group.generation);
            put(&mut batch, next, BASE, group.base.encode_to_vec())?;
        }
        self.engine.write(&mut batch, true).map_err(engine_error)?;
        Ok(())
    }

    fn reader(&self) -> Box<dyn LogReader> {
        Box::new(Reader { engine: Arc::clone(&self.engine), groups: Arc::clone(&self.groups) })
    }

    fn syncer(&self) -> Option<Box<dyn LogSyncer>> {
        Some(Box::new(Syncer { dir: self.dir.clone(), synced_to: None }))
    }

    fn purge(&mut self) -> Result<(), LogError> {
        // The groups that hold old files back are not reported further: checkpoints are taken on a
        // schedule that bounds every log.
        self.engine.purge_expired_files().map_err(engine_error)?;
        Ok(())
    }
}

struct Reader {
    engine: Arc<Engine>,
    groups: Groups,
}

impl LogReader for Reader {
    fn entries(
        &self,
        shard: ShardId,
        low: LogIndex,
        high: LogIndex,
        max_bytes: u64,
        out: &mut Vec<Entry>,
    ) -> Result<(), LogError> {
        let missing = || LogError::Missing { shard, low, high };
        let generation =
            lock(&self.groups).get(&shard).map(|g| g.generation).ok_or_else(missing)?;
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let before = out.len();
        self.engine
            .fetch_entries_to::<Entries>(group_id(shard, generation), low.0, high.0, Some(max), out)
            .map_err(|error| match error {
                raft_engine::Error::EntryCompacted | raft_engine::Error::EntryNotFound => missing(),
                other => engine_error(other),
            })?;
        if out.len() == before && low < high {
            return Err(missing());
        }
        Ok(())
    }
}

/// Syncs through file handles of its own: a write is never queued behind it, as it would be behind
/// raft-engine's own sync.
struct Syncer {
    dir: PathBuf,
    /// The file that was the newest at the last sync; older ones were synced when they were closed.
    synced_to: Option<PathBuf>,
}

impl LogSyncer for Syncer {
    fn sync(&mut self) -> Result<(), LogError> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            // Names are fixed width sequence numbers, so they sort by age.
            if path.extension().is_some_and(|e| e == "raftlog") {
                files.push(path);
            }
        }
        files.sort();
        for path in &files {
            if self.synced_to.as_ref().is_some_and(|old| path < old) {
                continue;
            }
            match File::open(path) {
                Ok(file) => sync_data(&file),
                // Purged meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.synced_to = files.pop();
        faults::reach(Point::AfterFsync);
        Ok(())
    }
}

fn sync_data(file: &File) {
    if let Err(error) = faults::before_sync().and_then(|()| file.sync_data()) {
        durable::fail("sync the log", error);
    }
}

fn load_groups(engine: &Engine) -> Result<BTreeMap<ShardId, Group>, LogError> {
    let mut newest: BTreeMap<ShardId, u32> = BTreeMap::new();
    for id in engine.raft_groups() {
        if id == SYNC_GROUP {
            continue;
        }
        let (shard, generation) = (ShardId((id >> 32) as u32), id as u32);
        let newest = newest.entry(shard).or_default();
        *newest = generation.max(*newest);
    }
    let mut groups = BTreeMap::new();
    for (shard, generation) in newest {
        let Some(bytes) = engine.get(group_id(shard, generation), BASE) else {
            return Err(LogError::Corrupt(format!("{shard} has no base record")));
        };
        let base = BaseRecord::decode(&*bytes)
            .map_err(|e| LogError::Corrupt(format!("base record of {shard}: {e}")))?;
        groups.insert(shard, Group { generation, base });
    }
    Ok(groups)
}

fn group_id(shard: ShardId, generation: u32) -> u64 {
    u64::from(shard.0) << 32 | u64::from(generation)
}

fn set_checkpoint(base: &mut BaseRecord, meta: &CheckpointMeta) {
    base.checkpoint_index = meta.index.0;
    base.checkpoint_term = meta.term.0;
    base.membership = Some(meta.membership.clone());
}

fn put(batch: &mut LogBatch, id: u64, key: &[u8], value: Vec<u8>) -> Result<(), LogError> {
    batch.put(id, key.to_vec(), value).map_err(engine_error)
}

fn lock(groups: &Groups) -> MutexGuard<'_, BTreeMap<ShardId, Group>> {
    groups.lock().expect("no panic while locked")
}

fn engine_error(error: raft_engine::Error) -> LogError {
    match error {
        raft_engine::Error::Io(error) => LogError::Io(error),
        other => LogError::Corrupt(other.to_string()),
    }
}
