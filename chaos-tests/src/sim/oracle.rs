//! What must hold after every step, checked from outside of the replicas.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_consensus::state::Entry;
use holdfast_consensus::{Committed, EntryKind};
use holdfast_proto::frame::{BATCH_HEADER_LEN, BatchHeader, RECORD_HEADER_LEN, RecordHeader};
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, WorkerId};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub text: String,
}

/// The truth about one shard.
#[derive(Default)]
struct Shard {
    /// Leader of each term.
    leaders: BTreeMap<u64, RaftId>,
    committed: BTreeMap<u64, (u64, Bytes)>,
    /// State digests by the index of the state.
    digests: BTreeMap<u64, (RaftId, [u8; 16])>,
    /// The greatest batch time.
    time_ms: u64,
    /// Where each replica's executor stands.
    applied: BTreeMap<RaftId, u64>,
}

/// Sees what every replica does.
#[derive(Default)]
pub struct Oracle {
    shards: BTreeMap<ShardId, Shard>,
    /// Records that are committed: (worker, tag), which no worker uses twice.
    records: BTreeSet<(WorkerId, u64)>,
    violation: Option<Violation>,
    pub elections: u64,
}

impl Oracle {
    /// The first broken promise.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Notes a broken promise.
    pub fn report(&mut self, invariant: &'static str, text: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, text: text.into() });
        }
    }

    /// A replica leads: nobody else did in this term, and its log has all that is committed.
    /// `log` is read only for a term that is new.
    pub fn leads(
        &mut self,
        shard: ShardId,
        id: RaftId,
        term: u64,
        log: impl FnOnce() -> BTreeMap<u64, Entry>,
    ) {
        let known = self.shards.entry(shard).or_default();
        match known.leaders.get(&term) {
            Some(first) if *first == id => return,
            Some(first) => {
                let text = format!("{shard}: replicas {first} and {id} lead in term {term}");
                return self.report("election safety", text);
            }
            None => {}
        }
        known.leaders.insert(term, id);
        self.elections += 1;
        let log = log();
        let Some(start) = log.keys().next().copied() else { return };
        let missing = known.committed.range(start..).find(|(index, (of_term, _))| {
            *of_term < term && log.get(index).is_none_or(|entry| entry.term != *of_term)
        });
        if let Some((index, (of_term, _))) = missing {
            let text = format!(
                "{shard}: replica {id} leads term {term} without entry {index}, committed in {of_term}"
            );
            self.report("leader completeness", text);
        }
    }

    /// An executor got an entry: committed entries never change, and come in order.
    pub fn applied(&mut self, shard: ShardId, id: RaftId, entry: &Committed) {
        let known = self.shards.entry(shard).or_default();
        let before = known.applied.insert(id, entry.index.0);
        if before.is_some_and(|before| entry.index.0 != before + 1) {
            let text = format!("{shard}: replica {id} applies {} after {before:?}", entry.index);
            return self.report("applied in order", text);
        }
        match known.committed.get(&entry.index.0) {
            Some((term, data)) => {
                if *term != entry.term.0 || *data != entry.data {
                    let text = format!(
                        "{shard}: replica {id} applies another entry at {} (term {}, before {term})",
                        entry.index, entry.term
                    );
                    self.report("state machine safety", text);
                }
            }
            None => {
                known.committed.insert(entry.index.0, (entry.term.0, entry.data.clone()));
                if entry.kind == EntryKind::Normal {
                    self.note_records(shard, entry);
                }
            }
        }
    }

    fn note_records(&mut self, shard: ShardId, entry: &Committed) {
        let Ok(batch) = BatchHeader::decode(&entry.data) else {
            return self.report("log format", format!("{shard}: entry {}", entry.index));
        };
        let known = self.shards.entry(shard).or_default();
        if batch.time_ms < known.time_ms {
            let text = format!("{shard}: {} after {}", batch.time_ms, known.time_ms);
            self.report("cluster time is monotone", text);
        } else {
            known.time_ms = batch.time_ms;
        }
        let mut records = &entry.data[BATCH_HEADER_LEN..];
        while let Ok(header) = RecordHeader::decode(records) {
            self.records.insert((header.worker, header.tag));
            let len = RECORD_HEADER_LEN + header.body_len as usize;
            records = &records[len.min(records.len())..];
        }
    }

    /// An executor was given a state to load, which only ever holds what is committed.
    pub fn restored(&mut self, shard: ShardId, id: RaftId, index: LogIndex) {
        let known = self.shards.entry(shard).or_default();
        // A state without a checkpoint is the empty one, whose index is 1.
        known.applied.insert(id, index.0.max(1));
        let newest = known.committed.keys().next_back().copied().unwrap_or(0);
        if index.0 > newest.max(1) {
            let text = format!("{shard}: replica {id} loads {index}, committed is {newest}");
            self.report("a checkpoint holds what is committed", text);
        }
    }

    /// A replica's process ended; it will begin anew.
    pub fn forget(&mut self, id: RaftId) {
        for shard in self.shards.values_mut() {
            shard.applied.remove(&id);
        }
    }

    /// A replica's state after `index`.
    pub fn digest(&mut self, shard: ShardId, id: RaftId, index: LogIndex, digest: [u8; 16]) {
        let known = self.shards.entry(shard).or_default();
        let first = *known.digests.entry(index.0).or_insert((id, digest));
        if first.1 != digest {
            let text = format!("{shard}: replicas {} and {id} differ after entry {index}", first.0);
            self.report("equal states at equal index", text);
        }
    }

    /// A node answers a write with its result.
    pub fn replied(&mut self, worker: WorkerId, tag: u64) {
        if !self.records.contains(&(worker, tag)) {
            let text = format!("{worker} got an answer for {tag:#x}, which nobody committed");
            self.report("no reply without commit", text);
        }
    }

    /// Committed entries of a shard.
    pub fn committed(&self, shard: ShardId) -> u64 {
        self.shards
            .get(&shard)
            .map_or(0, |shard| shard.committed.keys().next_back().copied().unwrap_or(0))
    }
}
