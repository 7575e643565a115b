//! Checkpoints: the whole state at one moment, serialised a slice at a time between commands.
//!
//! The result is an RDB file that stock Redis loads; what Redis has no place for (lanes, waiters,
//! watch counters) stands in auxiliary fields, which it skips (see [`sections`]).
//!
//! # Point in time
//!
//! Each checkpoint has a number, and each entry remembers the number of the last checkpoint that it
//! is done with. The writer walks over all slots, writes every entry whose number differs, and sets
//! it. Whoever is about to change or remove an entry calls [`Checkpoint::preserve`], which does the
//! same for that entry at once; entries made during the checkpoint begin with its number and are
//! never written. So each entry that existed at the beginning is written once, with the value that
//! it had then, in whatever order. A database that is flushed is kept aside until it is written; of
//! databases that are swapped, the numbers at the beginning are remembered.
//!
//! A large value is written in parts, so that no step takes long. If it is about to change while it is
//! *open*, the rest is written first; what else is preserved meanwhile waits *aside*, for it would
//! stand in the middle of the value.
//!
//! Lanes are preserved in the same way, a slot at a time ([`lanes::LaneRecorder`]). Waiters and watch
//! counters are written when the checkpoint begins: they are small.

pub(crate) mod lanes;
mod load;
mod sections;

#[cfg(test)]
mod tests;

pub use load::LoadError;

use crate::engine::Engine;
use crate::entry::Entry;
use crate::hash;
use crate::keyspace::{Db, Keyspace};
use crate::lane::Lanes;
use crate::rdb::encode::{self, StringWriter};
use crate::rdb::{self, crc64, opcode};
use crate::table::Keyed;
use holdfast_proto::slot::Slot;
use sections::Totals;

/// Keys of a slot are counted in advance, for the loader to size its tables, from this many on.
const COUNTED_KEYS_MIN: usize = 16;

/// Whether a checkpoint goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointStep {
    /// Call [`Engine::checkpoint_step`] again.
    More,
    /// The bytes handed out so far are the whole file.
    Done,
}

/// A checkpoint under way.
pub(crate) struct Checkpoint {
    /// What marks the entries that this checkpoint is done with; never 0.
    number: u16,
    /// Serialised and not yet handed out.
    pending: Vec<u8>,
    /// Covers everything handed out.
    crc: u64,
    strings: StringWriter,
    /// The database that the last SELECTDB named.
    selected: Option<u16>,
    /// What is database `i` now was database `origins[i]` at the beginning.
    origins: Vec<u16>,
    /// Databases flushed since the beginning, with their number then.
    detached: Vec<(u16, Db, Position)>,
    position: Position,
    /// Large values found in the bucket that was visited last.
    large: Vec<Large>,
    /// The large value that is being written, and how far it is.
    open: Option<(Large, u64)>,
    /// What was preserved while a value is open.
    aside: Vec<u8>,
    totals: Totals,
}

/// How far the walk over databases has come.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    slot: usize,
    db: usize,
    /// Scan cursor inside the table of (slot, db).
    cursor: u64,
}

/// Where a large value is at this moment.
struct Large {
    db: usize,
    slot: usize,
    key: Box<[u8]>,
}

impl Large {
    fn find<'a>(&self, dbs: &'a [Db]) -> Option<&'a Entry> {
        dbs.get(self.db)?.slot(self.slot)?.entries.get(&self.key)
    }
}

const OPEN_IS_THERE: &str = "an open value is written out before its entry goes";

impl Engine {
    /// Begins a checkpoint of the state as it is now; one that is under way is aborted.
    ///
    /// The state holds no log index: the caller knows which entry was applied last, and keeps that
    /// beside the file.
    pub fn checkpoint_begin(&mut self) {
        self.checkpoint_abort();
        let number = self.space.next_checkpoint_number();
        let mut checkpoint = Checkpoint::new(number, self.space.dbs.len());
        sections::write_head(self, &mut checkpoint.pending);
        self.space.checkpoint = Some(Box::new(checkpoint));
        self.lanes.recorder = Some(Box::default());
    }

    /// Appends about `budget_bytes` more of the checkpoint to `out`: more if a single value is
    /// larger, or if much was changed since the last step. [`CheckpointStep::Done`] if no checkpoint
    /// is under way.
    pub fn checkpoint_step(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> CheckpointStep {
        let Some(mut checkpoint) = self.space.checkpoint.take() else {
            return CheckpointStep::Done;
        };
        hash::enter(self.cfg.hash_seed);
        let done = checkpoint.walk(&mut self.space, &mut self.lanes, budget_bytes);
        checkpoint.hand_out(done, out);
        if done {
            self.lanes.recorder = None;
            return CheckpointStep::Done;
        }
        self.space.checkpoint = Some(checkpoint);
        CheckpointStep::More
    }

    /// Ends a checkpoint that is under way; what it has handed out is worth nothing.
    pub fn checkpoint_abort(&mut self) {
        self.space.checkpoint = None;
        self.lanes.recorder = None;
    }
}

impl Checkpoint {
    fn new(number: u16, databases: usize) -> Self {
        Self {
            number,
            pending: Vec::new(),
            crc: 0,
            strings: StringWriter::plain(),
            selected: None,
            origins: (0..databases as u16).collect(),
            detached: Vec::new(),
            position: Position::default(),
            large: Vec::new(),
            open: None,
            aside: Vec::new(),
            totals: Totals::default(),
        }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// To be called before an entry of database `db` is changed, or with one that was just removed.
    #[inline]
    pub(crate) fn preserve(&mut self, db: u16, entry: &Entry) {
        if entry.checkpoint() != self.number {
            self.preserve_now(db.into(), entry);
        }
    }

    #[cold]
    fn preserve_now(&mut self, db: usize, entry: &Entry) {
        match &self.open {
            Some((open, at)) if open.db == db && *open.key == *entry.key() => {
                let at = *at;
                self.write_open(entry, at, usize::MAX);
            }
            _ => self.write_entry(self.origins[db], entry),
        }
    }

    /// To be called before databases are flushed or swapped: nothing stays open.
    pub(crate) fn settle(&mut self, dbs: &[Db]) {
        if let Some((open, at)) = &self.open {
            let (entry, at) = (open.find(dbs).expect(OPEN_IS_THERE), *at);
            self.write_open(entry, at, usize::MAX);
        }
    }

    /// Two databases have traded their numbers.
    pub(crate) fn swapped(&mut self, a: u16, b: u16) {
        self.origins.swap(a.into(), b.into());
        // The slot that is being walked begins anew; what is written stays so.
        (self.position.db, self.position.cursor) = (0, 0);
        self.large.clear();
    }

    /// Takes a database that is being flushed, if it may have entries that are not written.
    pub(crate) fn detach(&mut self, db: u16, data: Db) {
        self.detached.push((self.origins[usize::from(db)], data, Position::default()));
    }

    /// Serialises until `budget` bytes are pending; `true` if nothing is left.
    fn walk(&mut self, space: &mut Keyspace, lanes: &mut Lanes, budget: usize) -> bool {
        while self.pending.len() < budget {
            if let Some((open, at)) = &self.open {
                let (entry, at) = (open.find(&space.dbs).expect(OPEN_IS_THERE), *at);
                self.write_open(entry, at, budget);
                continue;
            }
            if let Some(large) = self.large.pop() {
                self.begin_large(large, &space.dbs);
                continue;
            }
            if let Some((origin, mut data, position)) = self.detached.pop() {
                self.walk_detached(origin, &mut data, position);
                continue;
            }
            let slot = self.position.slot;
            let Some(name) = u16::try_from(slot).ok().and_then(Slot::new) else {
                sections::write_end(&self.totals, &mut self.pending);
                return true;
            };
            if self.position.db == 0 && self.position.cursor == 0 {
                self.begin_slot(name, space, lanes);
            }
            self.walk_slot(&space.dbs);
        }
        false
    }

    fn begin_slot(&mut self, slot: Slot, space: &Keyspace, lanes: &mut Lanes) {
        lanes.preserve(slot);
        if let Some(recorder) = &mut lanes.recorder {
            self.totals.lanes += recorder.hand_out(&mut self.pending);
        }
        for (db, data) in space.dbs.iter().enumerate() {
            let keys = data.slot(slot.index()).map_or(0, |keys| keys.entries.len());
            if keys >= COUNTED_KEYS_MIN {
                let origin = self.origins[db];
                sections::write_slot_size(slot, origin, keys, &mut self.pending);
            }
        }
    }

    /// One bucket of the present slot, or on to the next database or slot.
    fn walk_slot(&mut self, dbs: &[Db]) {
        let Position { slot, db, cursor } = self.position;
        let Some(data) = dbs.get(db) else {
            self.position = Position { slot: slot + 1, db: 0, cursor: 0 };
            return;
        };
        let mut large = std::mem::take(&mut self.large);
        let origin = self.origins[db];
        self.position.cursor = match data.slot(slot) {
            None => 0,
            Some(keys) => keys.entries.scan(cursor, |entry| {
                if entry.checkpoint() == self.number {
                    return;
                }
                if rdb::value::is_large(entry.value()) {
                    large.push(Large { db, slot, key: entry.key().into() });
                } else {
                    self.write_entry(origin, entry);
                }
            }),
        };
        self.large = large;
        if self.position.cursor == 0 {
            self.position.db += 1;
        }
    }

    /// One bucket of a flushed database. Slots are freed as they are done.
    fn walk_detached(&mut self, origin: u16, data: &mut Db, mut position: Position) {
        let Some(slot) = data.next_occupied(position.slot) else { return };
        position.slot = slot;
        if let Some(keys) = data.slot(slot) {
            position.cursor = keys.entries.scan(position.cursor, |entry| {
                if entry.checkpoint() != self.number {
                    self.write_entry(origin, entry);
                }
            });
        }
        if position.cursor == 0 {
            data.drop_slot(slot);
            position.slot += 1;
        }
        self.detached.push((origin, std::mem::take(data), position));
    }

    fn write_entry(&mut self, origin: u16, entry: &Entry) {
        let value = entry.value();
        self.write_key(origin, entry);
        let out = if self.open.is_some() { &mut self.aside } else { &mut self.pending };
        rdb::value::write(value, &mut self.strings, out);
        self.done_with(entry);
    }

    /// Everything of an entry that stands before its value.
    fn write_key(&mut self, origin: u16, entry: &Entry) {
        let out = if self.open.is_some() { &mut self.aside } else { &mut self.pending };
        if self.selected != Some(origin) {
            out.push(opcode::SELECTDB);
            encode::length(origin.into(), out);
            self.selected = Some(origin);
        }
        if let Some(at) = entry.expire_at() {
            out.push(opcode::EXPIRETIME_MS);
            out.extend_from_slice(&at.to_le_bytes());
        }
        out.push(rdb::value::kind_of(entry.value()));
        self.strings.string(entry.key(), out);
    }

    fn done_with(&mut self, entry: &Entry) {
        entry.set_checkpoint(self.number);
        self.totals.keys += 1;
    }

    /// Opens a large value, unless it was changed (and thus written) since it was found.
    fn begin_large(&mut self, large: Large, dbs: &[Db]) {
        let Some(entry) = large.find(dbs) else { return };
        if entry.checkpoint() == self.number {
            return;
        }
        self.write_key(self.origins[large.db], entry);
        rdb::value::write_head(entry.value(), &mut self.pending);
        self.open = Some((large, 0));
        // What goes aside names its database anew.
        self.selected = None;
    }

    /// Writes on the open value, whose entry this is, until `budget` bytes are pending.
    fn write_open(&mut self, entry: &Entry, at: u64, budget: usize) {
        let value = entry.value();
        let next = rdb::value::write_parts(value, at, budget, &mut self.strings, &mut self.pending);
        if let (Some(next), Some((_, at))) = (next, &mut self.open) {
            *at = next;
            return;
        }
        self.open = None;
        self.done_with(entry);
        self.pending.append(&mut self.aside);
    }

    fn hand_out(&mut self, done: bool, out: &mut Vec<u8>) {
        self.crc = crc64::update(self.crc, &self.pending);
        if done {
            self.pending.extend_from_slice(&self.crc.to_le_bytes());
        }
        out.append(&mut self.pending);
    }
}
