//! The amnesia rule: may this replica run on what is on disk, or may it have lost entries that it
//! acknowledged?
//!
//! A small file beside the log records the boot id of the machine, whether the process ended
//! cleanly, the sync policy, and for each group the last entry known to be synced. A replica that
//! may have lost something must not run under its old raft id again: it could vote a leader in that
//! lacks an acknowledged entry. (A log store that cuts a damaged tail does so without a word, so a
//! shorter log than recorded is found here.)

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use serde::{Deserialize, Serialize};

use super::LogError;
use super::writer::SyncPolicy;
use crate::durable;
use crate::state::StoredState;

const FILE: &str = "durable.json";

/// The last entry of a group that is known to be synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncedTo {
    pub raft_id: RaftId,
    pub index: LogIndex,
    pub term: Term,
}

/// What to do with a replica found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run on what is stored.
    Run,
    /// Nothing was ever stored here under this raft id: a founding or a joining replica.
    Fresh,
    /// It must not run; the reason, for people.
    Amnesiac(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    boot_id: String,
    clean: bool,
    /// Entries were acknowledged before they were synced.
    unsynced_acks: bool,
    groups: BTreeMap<u32, GroupRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupRecord {
    raft_id: u64,
    index: u64,
    term: u64,
    /// Acknowledged entries may be lost: the machine went down while some were not synced, or the
    /// leader knew of some that are not there. Stays until the group is forgotten, also across
    /// further restarts.
    lost: bool,
}

/// The record of one data directory.
#[derive(Debug)]
pub struct SideRecord {
    path: PathBuf,
    record: Record,
    /// There was no record although logs may exist.
    missing: bool,
}

impl SideRecord {
    /// Reads the record of `dir` and notes that a process runs under `policy` from now on.
    /// `boot_id` is [`boot_id`].
    pub fn open(dir: &Path, boot_id: &str, policy: SyncPolicy) -> Result<Self, LogError> {
        fs::create_dir_all(dir)?;
        let path = dir.join(FILE);
        let (mut record, missing) = match fs::read(&path) {
            Ok(bytes) => {
                let record: Record = serde_json::from_slice(&bytes)
                    .map_err(|e| LogError::Corrupt(format!("{}: {e}", path.display())))?;
                (record, false)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Record::default(), true),
            Err(error) => return Err(error.into()),
        };
        if !missing && !record.clean && record.unsynced_acks && record.boot_id != boot_id {
            for group in record.groups.values_mut() {
                group.lost = true;
            }
        }
        record.boot_id = boot_id.to_owned();
        record.clean = false;
        record.unsynced_acks = policy != SyncPolicy::Always;
        let side = Self { path, record, missing };
        side.save()?;
        Ok(side)
    }

    /// Whether the replica `raft_id` of `shard` may run on `stored`.
    pub fn decide(
        &self,
        shard: ShardId,
        raft_id: RaftId,
        stored: Option<&StoredState>,
    ) -> Decision {
        let known = self.record.groups.get(&shard.0);
        let known = known.filter(|group| group.raft_id == raft_id.0);
        let stored = stored.filter(|stored| stored.raft_id == raft_id);
        let amnesiac = |why: &str| Decision::Amnesiac(why.to_owned());
        match (known, stored) {
            (None, None) => Decision::Fresh,
            (None, Some(_)) if self.missing => amnesiac("the record of synced entries is gone"),
            (None, Some(_)) => Decision::Run,
            (Some(_), None) => amnesiac("the log is gone"),
            (Some(known), Some(_)) if known.lost => amnesiac(
                "acknowledged entries were lost, or the machine went down before they were synced",
            ),
            (Some(known), Some(stored)) => {
                let last = (stored.last.1.0, stored.last.0.0);
                if last < (known.term, known.index) {
                    Decision::Amnesiac(format!(
                        "the log ends at {} of {}, entry {} of {} was synced",
                        stored.last.0,
                        stored.last.1,
                        LogIndex(known.index),
                        Term(known.term),
                    ))
                } else {
                    Decision::Run
                }
            }
        }
    }

    /// Records what is synced by now. Writes the file only if something changed.
    pub fn update(&mut self, groups: &BTreeMap<ShardId, SyncedTo>) -> Result<(), LogError> {
        let mut changed = false;
        for (shard, synced) in groups {
            let old = self.record.groups.get(&shard.0).copied();
            let same_id = old.filter(|old| old.raft_id == synced.raft_id.0);
            let new = GroupRecord {
                raft_id: synced.raft_id.0,
                index: synced.index.0,
                term: synced.term.0,
                lost: same_id.is_some_and(|old| old.lost),
            };
            if old != Some(new) {
                self.record.groups.insert(shard.0, new);
                changed = true;
            }
        }
        if changed { self.save() } else { Ok(()) }
    }

    /// Notes that a replica has lost entries that it acknowledged, for good.
    pub fn condemn(&mut self, shard: ShardId) -> Result<(), LogError> {
        match self.record.groups.get_mut(&shard.0) {
            Some(group) => group.lost = true,
            None => return Ok(()),
        }
        self.save()
    }

    /// Forgets a group: its replica was removed for good.
    pub fn forget(&mut self, shard: ShardId) -> Result<(), LogError> {
        match self.record.groups.remove(&shard.0) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    /// The process ends and everything is synced.
    pub fn close(mut self) -> Result<(), LogError> {
        self.record.clean = true;
        self.save()
    }

    fn save(&self) -> Result<(), LogError> {
        let bytes = serde_json::to_vec(&self.record)
            .map_err(|e| LogError::Corrupt(format!("record of synced entries: {e}")))?;
        durable::replace(&self.path, &bytes)?;
        Ok(())
    }
}

/// Changes with each boot of the machine.
pub fn boot_id() -> Result<String, LogError> {
    match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) => Ok(id.trim().to_owned()),
        // Without one (not Linux) every restart counts as one of the machine: never unsafe.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(format!("unknown-{}", std::process::id()))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn stored(index: u64, term: u64) -> StoredState {
        StoredState {
            last: (LogIndex(index), Term(term)),
            ..StoredState::founding(RaftId(7), &[RaftId(7)])
        }
    }

    fn synced(index: u64, term: u64) -> BTreeMap<ShardId, SyncedTo> {
        BTreeMap::from([(
            SHARD,
            SyncedTo { raft_id: RaftId(7), index: LogIndex(index), term: Term(term) },
        )])
    }

    fn is_amnesiac(side: &SideRecord, stored: Option<&StoredState>) -> bool {
        matches!(side.decide(SHARD, RaftId(7), stored), Decision::Amnesiac(_))
    }

    #[test]
    fn a_shorter_log_than_recorded_is_amnesia() {
        let dir = tempfile::tempdir().unwrap();
        let mut side = SideRecord::open(dir.path(), "a", SyncPolicy::Always).unwrap();
        assert_eq!(side.decide(SHARD, RaftId(7), None), Decision::Fresh);
        side.update(&synced(10, 3)).unwrap();
        drop(side);
        let side = SideRecord::open(dir.path(), "b", SyncPolicy::Always).unwrap();
        let run = |index, term| side.decide(SHARD, RaftId(7), Some(&stored(index, term)));
        assert_eq!(run(10, 3), Decision::Run);
        assert_eq!(run(5, 4), Decision::Run, "overwritten by a later leader");
        assert!(is_amnesiac(&side, Some(&stored(9, 3))));
        assert!(is_amnesiac(&side, None), "an emptied directory");
        // The replacement of that replica has another id.
        assert_eq!(side.decide(SHARD, RaftId(8), None), Decision::Fresh);
    }

    #[test]
    fn death_of_the_machine_is_amnesia_only_with_unsynced_acknowledgements() {
        let dir = tempfile::tempdir().unwrap();
        let policy = SyncPolicy::EverySecond;
        let mut side = SideRecord::open(dir.path(), "a", policy).unwrap();
        side.update(&synced(10, 3)).unwrap();
        drop(side);
        let side = SideRecord::open(dir.path(), "a", policy).unwrap();
        assert!(!is_amnesiac(&side, Some(&stored(12, 3))), "process died");
        side.close().unwrap();
        let side = SideRecord::open(dir.path(), "b", policy).unwrap();
        assert!(!is_amnesiac(&side, Some(&stored(12, 3))), "clean stop");
        drop(side);
        let side = SideRecord::open(dir.path(), "c", policy).unwrap();
        assert!(is_amnesiac(&side, Some(&stored(12, 3))), "power loss");
        drop(side);
        let mut side = SideRecord::open(dir.path(), "c", policy).unwrap();
        assert!(is_amnesiac(&side, Some(&stored(12, 3))), "and it stays");
        side.forget(SHARD).unwrap();
        assert!(!is_amnesiac(&side, Some(&stored(12, 3))));
        side.update(&synced(12, 3)).unwrap();
        side.condemn(SHARD).unwrap();
        assert!(is_amnesiac(&side, Some(&stored(12, 3))), "the leader knew");
    }
}
