//! What must hold in every run, whatever happens.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_proto::ids::{LogIndex, RaftId, Term};

use crate::output::Committed;
use crate::state::Entry;

/// Sees what every replica does and panics at the first broken invariant.
#[derive(Default)]
pub struct Oracle {
    leaders: BTreeMap<Term, RaftId>,
    committed: BTreeMap<LogIndex, (Term, Bytes)>,
    /// The term of the first replica that applied each: that in which it was committed, or later.
    committed_in: BTreeMap<LogIndex, Term>,
    /// The last entry that a leader has applied, so may have acknowledged.
    acknowledged: LogIndex,
    /// Where each machine's executor stands.
    applied: BTreeMap<RaftId, LogIndex>,
    reads: BTreeMap<u64, LogIndex>,
    /// Reads answered.
    pub reads_answered: u64,
}

impl Oracle {
    /// Election safety and leader completeness: the log has all that was committed in earlier terms.
    pub fn elected(&mut self, id: RaftId, term: Term, log: &BTreeMap<u64, Entry>) {
        let first = *self.leaders.entry(term).or_insert(id);
        assert_eq!(first, id, "two leaders in {term}");
        let Some(start) = log.keys().next() else {
            return;
        };
        for (index, (of_term, _)) in self.committed.range(LogIndex(*start)..) {
            let committed_in = self.committed_in[index];
            if committed_in >= term {
                continue;
            }
            let entry = log.get(&index.0);
            assert_eq!(
                entry.map(|e| e.term),
                Some(of_term.0),
                "leader {id} of {term} lacks {index}, committed in {committed_in}"
            );
        }
    }

    /// Committed entries never change, and each replica gets them all in order. `current` is the
    /// replica's term.
    pub fn handed_over(&mut self, id: RaftId, current: Term, entry: &Committed, leads: bool) {
        let place = (entry.term, entry.data.clone());
        let known = self.committed.entry(entry.index).or_insert_with(|| place.clone());
        assert_eq!(*known, place, "{id} has another entry at {}", entry.index);
        self.committed_in.entry(entry.index).or_insert(current);
        self.applied.insert(id, entry.index);
        if leads {
            self.acknowledged = self.acknowledged.max(entry.index);
        }
    }

    /// A snapshot only ever contains what was committed.
    pub fn restored(&mut self, id: RaftId, index: LogIndex) {
        let newest = self.committed.keys().next_back().copied();
        assert!(
            newest.is_some_and(|newest| index <= newest),
            "{id} installed a snapshot of something uncommitted"
        );
        self.applied.insert(id, index);
    }

    /// A read is asked for now.
    pub fn read_asked(&mut self, token: u64) {
        self.reads.insert(token, self.acknowledged);
    }

    /// Its answer must include everything acknowledged before it was asked for.
    pub fn read_answered(&mut self, token: u64, index: LogIndex) {
        let least = self.reads.remove(&token).expect("asked for once");
        assert!(index >= least, "stale read: {index}, acknowledged {least}");
        self.reads_answered += 1;
    }

    /// A local read under a lease happens now.
    pub fn local_read(&self, id: RaftId, applied: LogIndex) {
        assert!(
            applied >= self.acknowledged,
            "stale local read on {id}: applied {applied}, acknowledged {}",
            self.acknowledged
        );
    }

    /// Everything a leader has applied so far.
    pub fn acknowledged(&self) -> LogIndex {
        self.acknowledged
    }

    /// How many terms had a leader.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }
}

/// If two logs hold an entry of the same term at an index, they are equal up to there (Raft, section
/// 5.3).
pub fn check_log_matching(logs: &[BTreeMap<u64, Entry>]) {
    for (at, a) in logs.iter().enumerate() {
        for b in &logs[at + 1..] {
            let mut matched = false;
            for (index, entry) in a.iter().rev() {
                let Some(other) = b.get(index) else { continue };
                matched |= entry.term == other.term;
                if matched {
                    assert_eq!(entry, other, "logs differ below a common entry");
                }
            }
        }
    }
}
