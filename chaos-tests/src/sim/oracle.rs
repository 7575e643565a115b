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

/// A committed entry.
struct Known {
    /// Of the entry.
    term: u64,
    /// In which it was committed, or a later one: that of the first replica that applied it. An entry
    /// of an earlier term is committed by the first one of the leader's own.
    committed_in: u64,
    data: Bytes,
}

/// The truth about one shard.
#[derive(Default)]
struct Shard {
    /// Leader of each term.
    leaders: BTreeMap<u64, RaftId>,
    committed: BTreeMap<u64, Known>,
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

    /// A replica leads: nobody else did in this term, and its log has all that was committed in
    /// earlier terms. (One that wins late, when a later term has its leader already, need not have
    /// what that one committed.) `log` is read only for a term that is new.
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
        let missing = known.committed.range(start..).find(|(index, entry)| {
            entry.committed_in < term && log.get(index).is_none_or(|own| own.term != entry.term)
        });
        if let Some((index, entry)) = missing {
            let text = format!(
                "{shard}: replica {id} leads term {term} without entry {index}, committed in {}",
                entry.committed_in
            );
            self.report("leader completeness", text);
        }
    }

    /// An executor got an entry: committed entries never change, and come in order. `current` is the
    /// replica's term.
    pub fn applied(&mut self, shard: ShardId, id: RaftId, current: u64, entry: &Committed) {
        let known = self.shards.entry(shard).or_default();
        let before = known.applied.insert(id, entry.index.0);
        if before.is_some_and(|before| entry.index.0 != before + 1) {
            let text = format!("{shard}: replica {id} applies {} after {before:?}", entry.index);
            return self.report("applied in order", text);
        }
        match known.committed.get(&entry.index.0) {
            Some(Known { term, data, .. }) => {
                if *term != entry.term.0 || *data != entry.data {
                    let text = format!(
                        "{shard}: replica {id} applies another entry at {} (term {}, before {term})",
                        entry.index, entry.term
                    );
                    self.report("state machine safety", text);
                }
            }
            None => {
                let (term, data) = (entry.term.0, entry.data.clone());
                known.committed.insert(entry.index.0, Known { term, committed_in: current, data });
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

#[cfg(test)]
mod tests {
    use holdfast_proto::ids::Term;

    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn committed(index: u64, term: u64) -> Committed {
        let (term, index) = (Term(term), LogIndex(index));
        Committed { term, index, kind: EntryKind::Membership, data: Bytes::from_static(b"x") }
    }

    fn log(entries: &[(u64, u64)]) -> BTreeMap<u64, Entry> {
        let entry = |(index, term): &(u64, u64)| {
            (*index, Entry { index: *index, term: *term, ..Entry::default() })
        };
        entries.iter().map(entry).collect()
    }

    fn broken(oracle: &Oracle) -> Option<&'static str> {
        oracle.violation().map(|violation| violation.invariant)
    }

    #[test]
    fn a_leader_has_what_earlier_terms_committed() {
        let mut oracle = Oracle::default();
        oracle.applied(SHARD, RaftId(1), 3, &committed(7, 3));
        oracle.leads(SHARD, RaftId(2), 4, || log(&[(6, 2), (7, 3)]));
        assert_eq!(broken(&oracle), None);
        oracle.leads(SHARD, RaftId(3), 5, || log(&[(6, 2)]));
        assert_eq!(broken(&oracle), Some("leader completeness"));
    }

    /// Seed 109046: an entry of term 3 was committed by the leader of term 5; then the votes of term 4
    /// arrived, which a cut had held back.
    #[test]
    fn who_wins_an_old_term_late_need_not_have_what_a_later_one_committed() {
        let mut oracle = Oracle::default();
        oracle.leads(SHARD, RaftId(3), 5, || log(&[(6, 2), (7, 3), (8, 5)]));
        oracle.applied(SHARD, RaftId(3), 5, &committed(7, 3));
        oracle.leads(SHARD, RaftId(2), 4, || log(&[(6, 2)]));
        assert_eq!(broken(&oracle), None);
    }

    #[test]
    fn a_term_has_one_leader() {
        let mut oracle = Oracle::default();
        oracle.leads(SHARD, RaftId(1), 2, BTreeMap::new);
        oracle.leads(SHARD, RaftId(2), 2, BTreeMap::new);
        assert_eq!(broken(&oracle), Some("election safety"));
    }
}
