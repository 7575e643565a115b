//! The log stores against each other, across restarts, and behind the writer thread.

#![allow(clippy::unwrap_used, clippy::field_reassign_with_default)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_consensus::log::engine::{RaftEngineOptions, RaftEngineStore};
use holdfast_consensus::log::memory::MemoryStore;
use holdfast_consensus::log::side_record::{Decision, SideRecord};
use holdfast_consensus::log::writer::{LogWriter, LogWriterConfig, SyncPolicy};
use holdfast_consensus::testing::Rng;
use holdfast_consensus::{
    CheckpointMeta, Entry, HardState, LogReader, LogStore, LogWrite, StoredState,
};
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use holdfast_proto::v1;

const SMALL: RaftEngineOptions = RaftEngineOptions { file_bytes: 64 << 10, purge_bytes: 256 << 10 };

fn open(dir: &Path) -> RaftEngineStore {
    RaftEngineStore::open(dir, &SMALL).unwrap()
}

fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    entry.data = Bytes::from(data);
    entry
}

fn meta(index: u64, term: u64) -> CheckpointMeta {
    CheckpointMeta {
        index: LogIndex(index),
        term: Term(term),
        membership: v1::Membership { voters: vec![1, 2, index], ..Default::default() },
    }
}

fn start(shard: ShardId, raft_id: u64) -> LogWrite {
    let founding = StoredState::founding(RaftId(raft_id), &[RaftId(raft_id)]);
    LogWrite {
        shard,
        raft_id: RaftId(raft_id),
        number: 1,
        reset: Some(founding.checkpoint),
        hard_state: Some(founding.hard_state),
        sync: true,
        ..Default::default()
    }
}

fn read(reader: &dyn LogReader, shard: ShardId, low: u64, high: u64, max: u64) -> Vec<Entry> {
    let mut out = Vec::new();
    reader.entries(shard, LogIndex(low), LogIndex(high), max, &mut out).unwrap();
    out
}

/// A legal next write of a group.
fn next_write(rng: &mut Rng, raft_id: u64, state: &StoredState) -> LogWrite {
    let mut write = LogWrite { shard: ShardId(0), raft_id: RaftId(raft_id), ..Default::default() };
    let (last, term) = (state.last.0.0, state.hard_state.term.0);
    let mut commit = state.hard_state.commit.0;
    match rng.below(12) {
        0 => {
            let index = last + 1 + rng.below(50);
            write.reset = Some(meta(index, term));
            commit = index;
        }
        1 if commit > state.checkpoint.index.0 => {
            // Also checkpoints of terms that do not matter here.
            write.checkpoint = Some(meta(commit, term));
            let span = commit - state.truncated.0.0;
            let to = state.truncated.0.0 + rng.below(span + 1);
            if to > state.truncated.0.0 {
                write.truncate = Some((LogIndex(to), Term(term)));
            }
        }
        2..=3 if last > commit => {
            // A new leader replaces what is not committed.
            let from = commit + 1 + rng.below(last - commit);
            let count = rng.below(5) + 1;
            write.entries =
                (from..from + count).map(|index| entry(index, term + 1, vec![1; 300])).collect();
        }
        _ => {
            let count = rng.below(20) + 1;
            write.entries = (last + 1..=last + count)
                .map(|index| entry(index, term, vec![2; rng.below(2000) as usize]))
                .collect();
        }
    }
    let new_last = write.entries.last().map_or_else(|| last.max(commit), |e| e.index);
    let new_term = write.entries.last().map_or(term, |e| e.term);
    commit += rng.below(new_last.max(commit) - commit + 1);
    write.hard_state = Some(HardState {
        term: Term(new_term),
        vote: RaftId(rng.below(4)),
        commit: LogIndex(commit),
    });
    write
}

#[test]
fn raft_engine_holds_what_the_model_holds_across_restarts_and_purges() {
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Rng(seed);
        let mut model = MemoryStore::new();
        let mut store = open(dir.path());
        let shards = [ShardId(0), ShardId(1), ShardId(7)];
        for (shard, raft_id) in shards.into_iter().zip(1..) {
            let write = start(shard, raft_id);
            model.write(std::slice::from_ref(&write), true).unwrap();
            store.write(&[write], true).unwrap();
        }
        for step in 0..600 {
            let raft_id = rng.below(3) + 1;
            let shard = shards[raft_id as usize - 1];
            let state = model.load(shard).unwrap().unwrap();
            let mut write = next_write(&mut rng, raft_id, &state);
            write.shard = shard;
            model.write(std::slice::from_ref(&write), false).unwrap();
            store.write(&[write], rng.chance(10)).unwrap();
            if rng.chance(3) {
                store.purge().unwrap();
            }
            if rng.chance(3) {
                drop(store);
                store = open(dir.path());
            }
            compare(&mut model, &mut store, shard, &format!("{seed}/{step}"));
        }
        for shard in shards {
            compare(&mut model, &mut store, shard, "end");
        }
    }
}

fn compare(model: &mut MemoryStore, store: &mut RaftEngineStore, shard: ShardId, at: &str) {
    let expected = model.load(shard).unwrap().unwrap();
    assert_eq!(store.load(shard).unwrap(), Some(expected.clone()), "{at}");
    let (low, high) = (expected.truncated.0.0 + 1, expected.last.0.0 + 1);
    if low < high {
        let ours = read(&*LogStore::reader(store), shard, low, high, u64::MAX);
        let theirs = read(&*LogStore::reader(model), shard, low, high, u64::MAX);
        assert_eq!(ours, theirs, "{at}");
    }
}

#[test]
fn reads_are_bounded_and_missing_entries_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let shard = ShardId(3);
    store.write(&[start(shard, 1)], true).unwrap();
    let entries = (2..=11).map(|i| entry(i, 1, vec![0; 100])).collect();
    let write = LogWrite { shard, raft_id: RaftId(1), number: 2, entries, ..Default::default() };
    store.write(&[write], false).unwrap();
    let reader = LogStore::reader(&store);
    assert_eq!(read(&*reader, shard, 2, 12, 1).len(), 1, "at least one");
    assert!(read(&*reader, shard, 2, 12, 500).len() < 6);
    assert_eq!(read(&*reader, shard, 2, 12, u64::MAX).len(), 10);
    for (low, high) in [(1, 3), (11, 14), (20, 21)] {
        let mut out = Vec::new();
        let result = reader.entries(shard, LogIndex(low), LogIndex(high), u64::MAX, &mut out);
        assert!(result.is_err(), "{low} to {high}");
    }
}

#[test]
fn a_destroyed_group_leaves_nothing_and_its_shard_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let shard = ShardId(3);
    for raft_id in 1..4 {
        store.write(&[start(shard, raft_id)], true).unwrap();
        let write = LogWrite {
            shard,
            raft_id: RaftId(raft_id),
            entries: vec![entry(2, 1, vec![raft_id as u8])],
            ..Default::default()
        };
        store.write(&[write], true).unwrap();
        drop(store);
        store = open(dir.path());
        let stored = store.load(shard).unwrap().unwrap();
        assert_eq!(stored.raft_id, RaftId(raft_id));
        assert_eq!(stored.last.0, LogIndex(2));
        let entries = read(&*LogStore::reader(&store), shard, 2, 3, u64::MAX);
        assert_eq!(entries[0].data, vec![raft_id as u8]);
        store.destroy(shard).unwrap();
        assert_eq!(store.load(shard).unwrap(), None);
        drop(store);
        store = open(dir.path());
        assert_eq!(store.load(shard).unwrap(), None);
        assert!(store.shards().is_empty());
    }
}

type Done = Arc<Mutex<Vec<(ShardId, u64)>>>;

fn wait_for(done: &Done, shard: ShardId, number: u64) {
    let start = Instant::now();
    while !done.lock().unwrap().contains(&(shard, number)) {
        assert!(start.elapsed() < Duration::from_secs(10), "not persisted");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_writer_persists_in_order_and_records_what_is_synced() {
    for policy in [SyncPolicy::Always, SyncPolicy::EverySecond] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let side = SideRecord::open(dir.path(), "boot", policy).unwrap();
        let done = Done::default();
        let report = Arc::clone(&done);
        let cfg = LogWriterConfig {
            sync_interval: Duration::from_millis(50),
            ..LogWriterConfig::new(policy)
        };
        let writer = LogWriter::start(Box::new(open(&log)), Some(side), cfg, move |persisted| {
            report.lock().unwrap().extend_from_slice(persisted);
        })
        .unwrap();
        let handle = writer.handle();
        let shards = [ShardId(1), ShardId(2)];
        for shard in shards {
            handle.write(vec![start(shard, 5)]);
        }
        for number in 2..=200 {
            for shard in shards {
                handle.write(vec![LogWrite {
                    shard,
                    raft_id: RaftId(5),
                    number,
                    entries: vec![entry(number, 1, vec![7; 100])],
                    ..Default::default()
                }]);
            }
        }
        for shard in shards {
            wait_for(&done, shard, 200);
        }
        {
            let done = done.lock().unwrap();
            for shard in shards {
                let numbers: Vec<_> = done.iter().filter(|d| d.0 == shard).collect();
                assert!(numbers.is_sorted_by_key(|d| d.1));
            }
        }
        assert_eq!(handle.stats().bytes(), 199 * 2 * 100);
        let (stored, _) = handle.load(ShardId(1)).unwrap().unwrap();
        assert_eq!(stored.unwrap().last.0, LogIndex(200));
        writer.close();

        let side = SideRecord::open(dir.path(), "other boot", policy).unwrap();
        let mut store = open(&log);
        for shard in shards {
            let stored = store.load(shard).unwrap();
            let decision = side.decide(shard, RaftId(5), stored.as_ref());
            assert_eq!(decision, Decision::Run, "closed cleanly");
            let mut short = stored.unwrap();
            short.last.0 = LogIndex(199);
            assert!(matches!(side.decide(shard, RaftId(5), Some(&short)), Decision::Amnesiac(_)));
        }
    }
}

#[test]
fn a_group_is_in_the_side_record_before_anything_of_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let policy = SyncPolicy::EverySecond;
    let side = SideRecord::open(dir.path(), "boot", policy).unwrap();
    let done = Done::default();
    let report = Arc::clone(&done);
    let store = MemoryStore::new();
    let cfg = LogWriterConfig::new(policy);
    let writer = LogWriter::start(Box::new(store.clone()), Some(side), cfg, move |persisted| {
        report.lock().unwrap().extend_from_slice(persisted);
    })
    .unwrap();
    writer.handle().write(vec![start(ShardId(1), 5)]);
    wait_for(&done, ShardId(1), 1);
    // The machine dies before the first periodic sync.
    let side = SideRecord::open(dir.path(), "other boot", policy).unwrap();
    let mut store = store;
    let stored = store.load(ShardId(1)).unwrap();
    let decision = side.decide(ShardId(1), RaftId(5), stored.as_ref());
    assert!(matches!(decision, Decision::Amnesiac(_)));
}
