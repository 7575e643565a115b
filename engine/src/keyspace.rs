//! The data of a shard: databases, slots, keys; and the accounts that every change keeps.
//!
//! [`Keyspace`] is the store. Commands see it through [`Keys`], a view of one database at one time
//! in one mode: in *apply* mode a key whose time has come is deleted when it is looked up, in *read*
//! mode it is only treated as missing.

use crate::blocking::Waiters;
use crate::checkpoint::Checkpoint;
use crate::command::hyperloglog::Cardinalities;
use crate::effect::Effects;
use crate::entry::{Entry, EntryRef};
use crate::error::CommandError;
use crate::evict::{Access, EvictionConfig};
use crate::hash;
use crate::memory::allocated;
use crate::random::Rng;
use crate::script::Scripting;
use crate::table::{Keyed, Table};
use crate::value::hash::Hash;
use crate::value::list::List;
use crate::value::set::Set;
use crate::value::stream::Stream;
use crate::value::zset::ZSet;
use crate::value::{StrRef, Value, ValueMut, ValueRef};
use holdfast_proto::events::EventClasses;
use holdfast_proto::slot::{SLOT_COUNT, Slot};

/// Counters that WATCH compares; see [`Keyspace::version`].
pub(crate) const WATCH_COUNTERS: usize = 65_536;

/// Every key of the shard, and what must change together with the keys.
pub(crate) struct Keyspace {
    pub(crate) dbs: Vec<Db>,
    seed: u64,
    /// Bumped by each modification of a key that hashes there.
    versions: Box<[u64]>,
    /// Commands that wait for keys.
    pub(crate) waiters: Waiters,
    /// Scripts, functions and what runs them.
    pub(crate) scripting: Scripting,
    /// Databases that were flushed and are freed a slot at a time ([`Keyspace::collect_garbage`]).
    garbage: Vec<Db>,
    /// How this replica keeps track of keys' use; not replicated.
    pub(crate) eviction: EvictionConfig,
    /// Looking a key up is no use of it: the client of the present command wants it so.
    pub(crate) no_touch: bool,
    /// Decides which uses count where frequencies are kept; not replicated.
    access_rng: Rng,
    pub(crate) stats: KeyStats,
    /// The checkpoint under way, which has a look at each entry before it changes.
    pub(crate) checkpoint: Option<Box<Checkpoint>>,
    /// Number of the last checkpoint, 0 before the first.
    checkpoint_number: u16,
    /// What others than the client are to be told.
    pub(crate) effects: Effects,
    /// Counts of HyperLogLogs that need not be computed again; not replicated.
    pub(crate) cardinalities: Cardinalities,
}

/// Counters of this replica since it started; not replicated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyStats {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
}

/// One logical database.
#[derive(Default)]
pub(crate) struct Db {
    /// One per slot; empty until the database is first written.
    slots: Vec<Option<Box<SlotKeys>>>,
    /// Bit per slot: has keys.
    occupied: Vec<u64>,
    /// Per slot: no key expires before this time. A hint of this replica, not replicated.
    next_expiry: Vec<u64>,
    keys: u64,
    expires: u64,
    /// Bytes of entries, boxed values and tables.
    memory: usize,
}

/// The keys of one slot of one database.
pub(crate) struct SlotKeys {
    pub(crate) entries: Table<Entry>,
    /// The entries that have an expiry.
    pub(crate) expires: Table<EntryRef>,
}

impl Keyspace {
    pub(crate) fn new(databases: u16, seed: u64, script_budget: u64) -> Self {
        let dbs = (0..databases.max(1)).map(|_| Db::default()).collect();
        let versions = vec![0; WATCH_COUNTERS].into_boxed_slice();
        Self::made_of(dbs, seed, versions, script_budget)
    }

    /// Stands where the data was while it is lent to a script; has no database and costs nothing.
    pub(crate) fn absent() -> Self {
        Self::made_of(Vec::new(), 0, Box::default(), 0)
    }

    fn made_of(dbs: Vec<Db>, seed: u64, versions: Box<[u64]>, script_budget: u64) -> Self {
        Self {
            dbs,
            seed,
            versions,
            waiters: Waiters::default(),
            scripting: Scripting::new(script_budget),
            garbage: Vec::new(),
            eviction: EvictionConfig::default(),
            no_touch: false,
            access_rng: Rng::new(seed, 1, 0),
            stats: KeyStats::default(),
            checkpoint: None,
            checkpoint_number: 0,
            effects: Effects::default(),
            cardinalities: Cardinalities::default(),
        }
    }

    /// Numbers the next checkpoint. After 65,535 numbers they begin anew: by then every entry
    /// has been marked by a later one (each checkpoint that ends has marked them all).
    pub(crate) fn next_checkpoint_number(&mut self) -> u16 {
        self.checkpoint_number = self.checkpoint_number.checked_add(1).unwrap_or(1);
        self.checkpoint_number
    }

    /// Bytes used by data, tables and counters.
    pub(crate) fn memory(&self) -> usize {
        self.dbs.iter().map(|db| db.memory).sum::<usize>() + WATCH_COUNTERS * 8
    }

    /// Which counter a key shares, and its value.
    pub(crate) fn version(&self, db: u16, key: &[u8]) -> (u32, u64) {
        let index = watch_index(db, hash::hash(self.seed, key));
        (index as u32, self.versions[index])
    }

    /// The value of a counter; `None` if there is no such counter.
    pub(crate) fn version_at(&self, index: u32) -> Option<u64> {
        self.versions.get(index as usize).copied()
    }

    pub(crate) fn versions(&self) -> &[u64] {
        &self.versions
    }

    pub(crate) fn versions_mut(&mut self) -> &mut [u64] {
        &mut self.versions
    }

    /// A view of one database. In apply mode `now_ms` is the batch's time.
    pub(crate) fn keys(&mut self, db: u16, clock: Clock) -> Keys<'_> {
        Keys { space: self, db, clock, saw_due: false }
    }

    fn entry_mut(&mut self, db: u16, slot: usize, hash: u64, key: &[u8]) -> Option<&mut Entry> {
        self.dbs[usize::from(db)].slot_mut(slot)?.entries.get_mut_hashed(hash, key)
    }

    /// As [`Keyspace::entry_mut`], for an entry about to be changed in place.
    fn entry_to_change(
        &mut self,
        db: u16,
        slot: usize,
        hash: u64,
        key: &[u8],
    ) -> Option<&mut Entry> {
        let entry = self.dbs[usize::from(db)].slot_mut(slot)?.entries.get_mut_hashed(hash, key)?;
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.preserve(db, entry);
        }
        Some(entry)
    }

    /// Adds an entry read from a file; `false` if its key is there already. If its slot is the one
    /// announced, its first key makes room for as many as were announced.
    pub(crate) fn load_entry(
        &mut self,
        db: u16,
        entry: Entry,
        announced: Option<(Slot, usize)>,
    ) -> bool {
        let slot = Slot::of_key(entry.key());
        let keys = announced.map_or(0, |(named, keys)| if named == slot { keys } else { 0 });
        let slot = slot.index();
        let hash = hash::hash(self.seed, entry.key());
        let data = &mut self.dbs[usize::from(db)];
        let slots = data.slot_or_new(slot, self.seed);
        if slots.entries.is_empty() {
            slots.entries.reserve(keys);
            let tables = slots.entries.memory();
            data.memory += tables;
        } else if slots.entries.get_hashed(hash, entry.key()).is_some() {
            return false;
        }
        self.insert_entry(db, slot, hash, entry);
        true
    }

    /// Adds an entry whose key is not there.
    pub(crate) fn insert_entry(&mut self, db: u16, slot: usize, hash: u64, entry: Entry) {
        if let Some(checkpoint) = &self.checkpoint {
            entry.set_checkpoint(checkpoint.number());
        }
        let db = &mut self.dbs[usize::from(db)];
        let keys = db.slot_or_new(slot, self.seed);
        let before = keys.memory();
        let added = entry.own_memory() + entry.accounted();
        let expire_at = entry.expire_at();
        keys.insert(hash, entry);
        let after = keys.memory();
        db.memory = db.memory + added + after - before;
        db.keys += 1;
        db.note_expiry(slot, expire_at);
        db.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Takes an entry out.
    pub(crate) fn remove_entry(
        &mut self,
        db_number: u16,
        slot: usize,
        hash: u64,
        key: &[u8],
    ) -> Option<Entry> {
        let db = &mut self.dbs[usize::from(db_number)];
        let keys = db.slot_mut(slot)?;
        let before = keys.memory();
        let entry = keys.remove(hash, key)?;
        if !self.waiters.is_empty() {
            self.waiters.key_removed(db_number, key);
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.preserve(db_number, &entry);
        }
        let empty = keys.entries.is_empty();
        let after = if empty { 0 } else { keys.memory() };
        let removed = entry.own_memory() + entry.accounted();
        db.memory = db.memory + after - before - removed;
        db.keys -= 1;
        db.expires -= u64::from(entry.expire_at().is_some());
        if empty {
            db.slots[slot] = None;
            db.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        Some(entry)
    }

    /// Sets or removes the expiry of an entry; `false` if there is no such key.
    pub(crate) fn set_entry_expiry(
        &mut self,
        db_number: u16,
        slot: usize,
        hash: u64,
        key: &[u8],
        at: Option<u64>,
    ) -> bool {
        let db = &mut self.dbs[usize::from(db_number)];
        let Some(keys) = db.slot_mut(slot) else { return false };
        let before = keys.memory();
        let Some(entry) = keys.entries.get_mut_hashed(hash, key) else { return false };
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.preserve(db_number, entry);
        }
        let had_expiry = entry.expire_at().is_some();
        let old_len = entry.own_memory();
        if had_expiry && at.is_none() {
            keys.expires.remove_hashed(hash, key);
        }
        entry.set_expire_at(at);
        let new_len = entry.own_memory();
        if !had_expiry && at.is_some() {
            let reference = entry.reference();
            keys.expires.insert_hashed(hash, reference);
        }
        let after = keys.memory();
        db.memory = db.memory + after + new_len - before - old_len;
        if had_expiry {
            db.expires -= 1;
        }
        db.note_expiry(slot, at);
        true
    }

    /// A key changed: invalidates watches of it and tells who tracks it.
    fn signal(&mut self, db: u16, hash: u64, key: &[u8]) {
        let version = &mut self.versions[watch_index(db, hash)];
        *version = version.wrapping_add(1);
        self.effects.changed(key);
    }

    /// Bumps every counter: FLUSHDB, FLUSHALL and SWAPDB touch every key.
    pub(crate) fn bump_all(&mut self) {
        for version in &mut self.versions {
            *version = version.wrapping_add(1);
        }
        self.effects.all_changed();
    }

    /// Empties a database. Its memory counts as free at once; freeing it takes its time.
    pub(crate) fn flush(&mut self, db: u16) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.settle(&self.dbs);
        }
        self.waiters.database_flushed(db);
        let data = std::mem::take(&mut self.dbs[usize::from(db)]);
        match &mut self.checkpoint {
            Some(checkpoint) => checkpoint.detach(db, data),
            None => self.garbage.push(data),
        }
    }

    /// Frees up to `slots` slots of flushed databases.
    pub(crate) fn collect_garbage(&mut self, slots: usize) {
        for _ in 0..slots {
            let Some(db) = self.garbage.last_mut() else { return };
            match db.next_occupied(0) {
                Some(slot) => db.drop_slot(slot),
                None => drop(self.garbage.pop()),
            }
        }
    }

    /// What counts for one use of a key: the settings and a random number.
    #[inline]
    fn use_of_key(&mut self) -> (EvictionConfig, u64) {
        let random = if self.eviction.policy.is_lfu() { self.access_rng.next() } else { 0 };
        (self.eviction, random)
    }

    /// Two databases trade their contents. Signalling that is the caller's part.
    pub(crate) fn swap(&mut self, a: u16, b: u16) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.settle(&self.dbs);
        }
        self.dbs.swap(a.into(), b.into());
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.swapped(a, b);
        }
    }
}

impl Db {
    pub(crate) fn key_count(&self) -> u64 {
        self.keys
    }

    pub(crate) fn expires_count(&self) -> u64 {
        self.expires
    }

    pub(crate) fn slot(&self, slot: usize) -> Option<&SlotKeys> {
        self.slots.get(slot)?.as_deref()
    }

    pub(crate) fn slot_mut(&mut self, slot: usize) -> Option<&mut SlotKeys> {
        self.slots.get_mut(slot)?.as_deref_mut()
    }

    /// The first slot at or after `from` that has keys.
    pub(crate) fn next_occupied(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut bits = *self.occupied.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.occupied.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    /// Drops the keys of a slot without accounting, for a database that is out of use.
    pub(crate) fn drop_slot(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.occupied[slot / 64] &= !(1 << (slot % 64));
    }

    /// A random key, the same for any layout; it may be expired.
    pub(crate) fn random_key(&self, rng: &mut crate::random::Rng) -> Option<Vec<u8>> {
        if self.keys == 0 {
            return None;
        }
        let mut skip = rng.below(self.keys as usize);
        let mut from = 0;
        while let Some(slot) = self.next_occupied(from) {
            let entries = &self.slot(slot)?.entries;
            if skip < entries.len() {
                return entries.random(rng).map(|entry| entry.key().to_vec());
            }
            skip -= entries.len();
            from = slot + 1;
        }
        None
    }

    /// Every entry with its slot, in no meaningful order inside a slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.slots.iter().enumerate().flat_map(|(slot, keys)| {
            keys.iter().flat_map(move |keys| keys.entries.iter().map(move |entry| (slot, entry)))
        })
    }

    fn note_expiry(&mut self, slot: usize, at: Option<u64>) {
        if let Some(at) = at {
            self.expires += 1;
            self.next_expiry[slot] = self.next_expiry[slot].min(at);
        }
    }

    /// The first slot at or after `from` with a key that may be due.
    pub(crate) fn next_due_slot(&self, from: usize, now_ms: u64) -> Option<usize> {
        if self.expires == 0 {
            return None;
        }
        let rest = self.next_expiry.get(from..)?;
        rest.iter().position(|&at| at <= now_ms).map(|after| from + after)
    }

    pub(crate) fn set_next_expiry(&mut self, slot: usize, at: u64) {
        self.next_expiry[slot] = at;
    }

    fn slot_or_new(&mut self, slot: usize, seed: u64) -> &mut SlotKeys {
        if self.slots.is_empty() {
            self.slots.resize_with(usize::from(SLOT_COUNT), || None);
            self.occupied = vec![0; usize::from(SLOT_COUNT) / 64];
            self.next_expiry = vec![u64::MAX; usize::from(SLOT_COUNT)];
        }
        self.slots[slot].get_or_insert_with(|| Box::new(SlotKeys::new(seed)))
    }
}

impl SlotKeys {
    fn new(seed: u64) -> Self {
        Self { entries: Table::with_seed(seed), expires: Table::with_seed(seed) }
    }

    /// Bytes of the tables. 0 while there are no keys, so that the first insertion accounts for
    /// the structure itself.
    fn memory(&self) -> usize {
        let tables = self.entries.memory() + self.expires.memory();
        if self.entries.is_empty() { tables } else { tables + allocated(size_of::<Self>()) }
    }

    fn insert(&mut self, hash: u64, entry: Entry) {
        if entry.expire_at().is_some() {
            self.expires.insert_hashed(hash, entry.reference());
        }
        self.entries.insert_hashed(hash, entry);
    }

    fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Entry> {
        if !self.expires.is_empty() {
            self.expires.remove_hashed(hash, key);
        }
        self.entries.remove_hashed(hash, key)
    }
}

/// Which time a view of the keys has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Keys that expire at or before this are missing.
    pub(crate) now_ms: u64,
    /// Time of the last applied batch.
    pub(crate) applied_ms: u64,
    /// Apply mode: expired keys are deleted.
    pub(crate) apply: bool,
}

/// One database as a command sees it.
pub(crate) struct Keys<'a> {
    space: &'a mut Keyspace,
    db: u16,
    clock: Clock,
    /// A read saw a key that is due by the clock but not by the applied time.
    saw_due: bool,
}

impl Keys<'_> {
    pub(crate) fn db(&self) -> u16 {
        self.db
    }

    /// Switches the view to another database, which exists.
    pub(crate) fn set_db(&mut self, db: u16) {
        debug_assert!(usize::from(db) < self.space.dbs.len());
        self.db = db;
    }

    pub(crate) fn database_count(&self) -> usize {
        self.space.dbs.len()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms
    }

    pub(crate) fn saw_due(&self) -> bool {
        self.saw_due
    }

    pub(crate) fn note_due(&mut self) {
        self.saw_due = true;
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// The whole store, for commands about databases.
    pub(crate) fn space(&mut self) -> &mut Keyspace {
        self.space
    }

    // ---- looking up ----------------------------------------------------------------------------

    /// Where a key lives: its slot and its hash.
    #[inline]
    fn place(&self, key: &[u8]) -> (usize, u64) {
        (Slot::of_key(key).index(), hash::hash(self.space.seed, key))
    }

    /// The entry of a live key, which counts as a use of it (unless the client has it otherwise).
    fn find(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let now_s = (self.clock.now_ms / 1000) as u32;
        let (config, random) = self.space.use_of_key();
        let no_touch = self.space.no_touch;
        let entry = self.find_unused(key)?;
        if !no_touch {
            entry.set_access(entry.access().touched(now_s, &config, random));
        }
        Some(entry)
    }

    /// As [`Keys::find`], but does not count as a use.
    fn find_unused(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let (slot, hash) = self.place(key);
        let entry: *mut Entry = self.space.entry_mut(self.db, slot, hash, key)?;
        // SAFETY: `entry` points into the keyspace, which `self` borrows mutably and which is not
        // touched before the reference is returned. (The borrow checker rejects a conditional
        // return of a borrow that the other branch must give up.)
        let expire_at = unsafe { (*entry).expire_at() };
        if expire_at.is_some_and(|at| at <= self.clock.now_ms) {
            self.expired(slot, hash, key, expire_at.unwrap_or(0));
            return None;
        }
        // SAFETY: as above; nothing was changed since.
        Some(unsafe { &mut *entry })
    }

    /// As [`Keys::find`], for an entry about to be changed in place.
    fn find_to_change(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let entry: *mut Entry = self.find(key)?;
        // SAFETY: as in `find`; the checkpoint is apart from the entries, and only reads this one.
        unsafe {
            if let Some(checkpoint) = &mut self.space.checkpoint {
                checkpoint.preserve(self.db, &*entry);
            }
            Some(&mut *entry)
        }
    }

    fn expired(&mut self, slot: usize, hash: u64, key: &[u8], at: u64) {
        if self.clock.apply {
            self.space.remove_entry(self.db, slot, hash, key);
            self.space.signal(self.db, hash, key);
            self.space.stats.expired += 1;
            self.notify(EventClasses::EXPIRED, "expired", key);
        } else if at > self.clock.applied_ms {
            self.saw_due = true;
        }
    }

    /// A key's value, counted as a hit or a miss (Redis's `lookupKeyRead`).
    pub(crate) fn get(&mut self, key: &[u8]) -> Option<ValueRef<'_>> {
        let Some(entry) = self.find(key) else {
            self.space.stats.misses += 1;
            self.notify(EventClasses::KEY_MISS, "keymiss", key);
            return None;
        };
        let entry: *const Entry = entry;
        self.space.stats.hits += 1;
        // SAFETY: as in `find`: only a counter was touched since.
        Some(unsafe { &*entry }.value())
    }

    /// A key's value to change in place. After the change, call [`Keys::modified`].
    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<ValueMut<'_>> {
        debug_assert!(self.clock.apply, "reads must not change data");
        self.find_to_change(key).map(Entry::value_mut)
    }

    /// Whether a key exists, counted as a hit or a miss, without touching its access time (Redis's
    /// `lookupKeyRead` with `LOOKUP_NOTOUCH`: TYPE, TTL).
    pub(crate) fn look(&mut self, key: &[u8]) -> bool {
        let found = self.find_unused(key).is_some();
        if found {
            self.space.stats.hits += 1;
        } else {
            self.space.stats.misses += 1;
            self.notify(EventClasses::KEY_MISS, "keymiss", key);
        }
        found
    }

    /// A key's value without counting (OBJECT and internal checks).
    pub(crate) fn peek(&mut self, key: &[u8]) -> Option<ValueRef<'_>> {
        self.find_unused(key).map(|entry| entry.value())
    }

    /// The whole entry, without counting and without touching its access time.
    pub(crate) fn peek_entry(&mut self, key: &[u8]) -> Option<&Entry> {
        self.peek(key)?;
        let slot = Slot::of_key(key).index();
        self.space.dbs[usize::from(self.db)].slot(slot)?.entries.get(key)
    }

    pub(crate) fn exists(&mut self, key: &[u8]) -> bool {
        self.find_unused(key).is_some()
    }

    /// `None`: no such key. `Some(None)`: a key without expiry.
    pub(crate) fn expire_at(&mut self, key: &[u8]) -> Option<Option<u64>> {
        self.find_unused(key).map(|entry| entry.expire_at())
    }

    pub(crate) fn string(&mut self, key: &[u8]) -> Result<Option<StrRef<'_>>, CommandError> {
        match self.get(key) {
            None => Ok(None),
            Some(ValueRef::Int(value)) => Ok(Some(StrRef::Int(value))),
            Some(ValueRef::Str(bytes)) => Ok(Some(StrRef::Bytes(bytes))),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    // ---- changing ------------------------------------------------------------------------------

    /// To be called after a value obtained from a `*_mut` method was changed: accounts its memory,
    /// deletes the key if the value became empty, invalidates watches of the key and wakes commands
    /// that wait for it (Redis's `signalModifiedKey`). Cheap, but not free: once per key and command.
    /// `true` if the key was deleted.
    pub(crate) fn modified(&mut self, key: &[u8]) -> bool {
        let (slot, hash) = self.place(key);
        self.space.signal(self.db, hash, key);
        let Some(entry) = self.space.entry_mut(self.db, slot, hash, key) else { return false };
        if entry.value().aggregate_len() == Some(0) {
            self.space.remove_entry(self.db, slot, hash, key);
            return true;
        }
        if entry.is_boxed() {
            let before = entry.accounted();
            let after = entry.account();
            let data = &mut self.space.dbs[usize::from(self.db)];
            data.memory = data.memory + after - before;
        }
        self.wake(key);
        false
    }

    /// [`Keys::modified`], and the events of it: what was done, and `del` if that left the value
    /// empty and so deleted the key.
    pub(crate) fn changed_by(&mut self, key: &[u8], class: EventClasses, event: &'static str) {
        let deleted = self.modified(key);
        self.notify(class, event, key);
        if deleted {
            self.notify(EventClasses::GENERIC, "del", key);
        }
    }

    /// [`Keys::insert`], where Redis deletes the old value first: the key counts as new.
    pub(crate) fn replace(&mut self, key: &[u8], value: Value, expire_at: Option<u64>) {
        self.insert_quietly(key, value, expire_at);
        self.notify(EventClasses::NEW, "new", key);
    }

    /// The expiry of what is there before a key is set, for [`Keys::notify_added`]. Looks only if
    /// somebody wants to know, and changes nothing.
    fn before_adding(&mut self, key: &[u8]) -> Option<Option<u64>> {
        let watched = self.space.effects.watched.events;
        if !watched.intersects(EventClasses::NEW.with(EventClasses::EXPIRED)) {
            return Some(None);
        }
        let (slot, hash) = self.place(key);
        self.space.entry_mut(self.db, slot, hash, key).map(|entry| entry.expire_at())
    }

    /// Emits `new` for a key that was set, unless it was there.
    fn notify_added(&mut self, key: &[u8], before: Option<Option<u64>>) {
        match before {
            Some(at) if at.is_none_or(|at| at > self.clock.now_ms) => return,
            Some(_) => self.notify(EventClasses::EXPIRED, "expired", key),
            None => {}
        }
        self.notify(EventClasses::NEW, "new", key);
    }

    /// As [`Keys::modified`], for changes that nobody waits for: wakes nobody.
    pub(crate) fn modified_quietly(&mut self, key: &[u8]) {
        let (slot, hash) = self.place(key);
        self.space.signal(self.db, hash, key);
        self.account_hashed(slot, hash, key);
    }

    /// To be called after a change that does not count as a modification of the key (consumer groups):
    /// only accounts its memory.
    pub(crate) fn account(&mut self, key: &[u8]) {
        let (slot, hash) = self.place(key);
        self.account_hashed(slot, hash, key);
    }

    /// Has the commands look again that wait for a key.
    pub(crate) fn wake(&mut self, key: &[u8]) {
        if !self.space.waiters.is_empty() {
            self.space.waiters.key_changed(self.db, key);
        }
    }

    fn account_hashed(&mut self, slot: usize, hash: u64, key: &[u8]) {
        let Some(entry) = self.space.entry_mut(self.db, slot, hash, key) else { return };
        if entry.is_boxed() {
            let before = entry.accounted();
            let after = entry.account();
            let data = &mut self.space.dbs[usize::from(self.db)];
            data.memory = data.memory + after - before;
        }
    }

    /// Sets a key to a value, whatever it was. Signals the modification.
    pub(crate) fn insert(&mut self, key: &[u8], value: Value, expire_at: Option<u64>) {
        let before = self.before_adding(key);
        self.insert_quietly(key, value, expire_at);
        self.notify_added(key, before);
    }

    fn insert_quietly(&mut self, key: &[u8], value: Value, expire_at: Option<u64>) {
        let access = self.remove_quietly(key);
        let mut entry = Entry::new(key, value, expire_at);
        entry.set_access(access);
        self.insert_new(entry);
    }

    /// Sets a key to a string, whatever it was; replaces in place where possible. Signals the
    /// modification.
    pub(crate) fn insert_string(&mut self, key: &[u8], bytes: &[u8], expire: NewExpiry) {
        let before = self.before_adding(key);
        self.insert_string_quietly(key, bytes, expire);
        self.notify_added(key, before);
    }

    fn insert_string_quietly(&mut self, key: &[u8], bytes: &[u8], expire: NewExpiry) {
        let (slot, hash) = self.place(key);
        let now_ms = self.clock.now_ms;
        let (config, random) = self.space.use_of_key();
        let Some(entry) = self.space.entry_to_change(self.db, slot, hash, key) else {
            let expire_at = if let NewExpiry::At(at) = expire { Some(at) } else { None };
            return self.insert_new_hashed(slot, hash, Entry::new_string(key, bytes, expire_at));
        };
        let old = entry.expire_at();
        let expire_at = match expire {
            NewExpiry::Keep => old.filter(|&at| at > now_ms),
            NewExpiry::Never => None,
            NewExpiry::At(at) => Some(at),
        };
        if entry.try_overwrite(bytes) {
            entry.set_access(entry.access().touched((now_ms / 1000) as u32, &config, random));
            if old != expire_at {
                self.space.set_entry_expiry(self.db, slot, hash, key, expire_at);
            }
            self.space.signal(self.db, hash, key);
            return;
        }
        let access = entry.access().touched((now_ms / 1000) as u32, &config, random);
        self.space.remove_entry(self.db, slot, hash, key);
        let mut entry = Entry::new_string(key, bytes, expire_at);
        entry.set_access(access);
        self.insert_new_hashed(slot, hash, entry);
    }

    /// Sets a key to a string that is not encoded as a number, keeping the expiry: OBJECT ENCODING
    /// shows what INCRBYFLOAT stores as text. Signals the modification.
    pub(crate) fn insert_text(&mut self, key: &[u8], bytes: &[u8]) {
        let expire_at = self.expire_at(key).flatten();
        let before = self.before_adding(key);
        let access = self.remove_quietly(key);
        let mut entry = Entry::new_text(key, bytes, expire_at);
        entry.set_access(access);
        self.insert_new(entry);
        self.notify_added(key, before);
    }

    /// A string value as a growable buffer, created empty if the key is missing. After the change,
    /// call [`Keys::modified`].
    pub(crate) fn string_mut(&mut self, key: &[u8]) -> Result<&mut Vec<u8>, CommandError> {
        if let Some(raw) = self.find_to_change(key).and_then(Entry::raw_mut) {
            let raw: *mut Vec<u8> = raw;
            // SAFETY: as in `find`: nothing was touched since.
            return Ok(unsafe { &mut *raw });
        }
        let (bytes, expire_at) = match self.peek(key) {
            None => (Vec::new(), None),
            Some(ValueRef::Int(value)) => {
                let text = itoa::Buffer::new().format(value).as_bytes().to_vec();
                (text, self.expire_at(key).flatten())
            }
            Some(ValueRef::Str(bytes)) => (bytes.to_vec(), self.expire_at(key).flatten()),
            Some(_) => return Err(CommandError::WrongType),
        };
        let before = self.before_adding(key);
        let access = self.remove_quietly(key);
        let (slot, hash) = self.place(key);
        let mut entry = Entry::new_raw(key, bytes, expire_at);
        entry.set_access(access);
        self.space.insert_entry(self.db, slot, hash, entry);
        self.notify_added(key, before);
        let entry = self.find_to_change(key).expect("the key was just inserted");
        Ok(entry.raw_mut().expect("the entry is raw"))
    }

    /// Sets what is known about a key's use.
    pub(crate) fn restore_access(
        &mut self,
        key: &[u8],
        idle_s: Option<u32>,
        frequency: Option<u8>,
    ) {
        let now_s = (self.clock.now_ms / 1000) as u32;
        if let Some(entry) = self.find_unused(key) {
            entry.set_access(Access::restored(now_s, idle_s, frequency));
        }
    }

    /// Changes the number of a key whose value is [`ValueRef::Int`], keeping its expiry. Signals
    /// the modification.
    pub(crate) fn set_int(&mut self, key: &[u8], value: i64) {
        if let Some(entry) = self.find_to_change(key) {
            entry.set_int(value);
        }
        let (_, hash) = self.place(key);
        self.space.signal(self.db, hash, key);
    }

    /// Deletes a key; `true` if it was there. Signals the modification.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        self.take(key).is_some()
    }

    /// [`Keys::remove`], and the event `del` of it.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let removed = self.remove(key);
        if removed {
            self.notify(EventClasses::GENERIC, "del", key);
        }
        removed
    }

    /// Takes a key out: its value and expiry. Signals the modification.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<(Value, Option<u64>)> {
        self.find(key)?;
        let (slot, hash) = self.place(key);
        let entry = self.space.remove_entry(self.db, slot, hash, key)?;
        self.space.signal(self.db, hash, key);
        let expire_at = entry.expire_at();
        Some((entry.into_value(), expire_at))
    }

    /// Sets or removes the expiry of a key; `false` if there is no such key. Signals the
    /// modification.
    pub(crate) fn set_expire_at(&mut self, key: &[u8], at: Option<u64>) -> bool {
        if self.find(key).is_none() {
            return false;
        }
        let (slot, hash) = self.place(key);
        self.space.signal(self.db, hash, key);
        self.space.set_entry_expiry(self.db, slot, hash, key, at)
    }

    /// Emits a keyspace event (Redis's `notifyKeyspaceEvent`), to be called where Redis does. Costs
    /// one comparison while nobody wants events of the class.
    #[inline]
    pub(crate) fn notify(&mut self, class: EventClasses, event: &'static str, key: &[u8]) {
        self.space.effects.event(class, event, self.db, key);
    }

    /// Publishes a message from inside the log (transactions, scripts): the primary delivers it
    /// once the record is applied. How many receive it is not known to the state machine.
    pub(crate) fn publish(&mut self, channel: &[u8], message: &[u8], sharded: bool) {
        self.space.effects.published(channel, message, sharded);
    }

    /// Removes what is in the way of a new entry; returns what is known about the key's use.
    fn remove_quietly(&mut self, key: &[u8]) -> Access {
        let (slot, hash) = self.place(key);
        let old = self.space.remove_entry(self.db, slot, hash, key);
        let now_s = (self.clock.now_ms / 1000) as u32;
        old.map_or_else(|| Access::NEW.at(now_s), |entry| entry.access())
    }

    fn insert_new(&mut self, entry: Entry) {
        let (slot, hash) = self.place(entry.key());
        self.insert_new_hashed(slot, hash, entry);
    }

    fn insert_new_hashed(&mut self, slot: usize, hash: u64, mut entry: Entry) {
        entry.set_access(entry.access().at((self.clock.now_ms / 1000) as u32));
        if !self.space.waiters.is_empty() {
            self.space.waiters.key_changed(self.db, entry.key());
        }
        self.space.signal(self.db, hash, entry.key());
        self.space.insert_entry(self.db, slot, hash, entry);
    }
}

/// What setting a string does to the key's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewExpiry {
    Never,
    Keep,
    At(u64),
}

/// The three accessors of an aggregate type.
macro_rules! typed {
    ($Type:ident, $read:ident, $write:ident, $create:ident) => {
        impl Keys<'_> {
            /// The value to read, counted as a hit or a miss; WRONGTYPE for another type.
            pub(crate) fn $read(&mut self, key: &[u8]) -> Result<Option<&$Type>, CommandError> {
                match self.get(key) {
                    None => Ok(None),
                    Some(ValueRef::$Type(value)) => Ok(Some(value)),
                    Some(_) => Err(CommandError::WrongType),
                }
            }

            /// The value to change; call [`Keys::modified`] after a change.
            pub(crate) fn $write(
                &mut self,
                key: &[u8],
            ) -> Result<Option<&mut $Type>, CommandError> {
                match self.get_mut(key) {
                    None => Ok(None),
                    Some(ValueMut::$Type(value)) => Ok(Some(value)),
                    Some(_) => Err(CommandError::WrongType),
                }
            }

            /// The value to change, created if missing; call [`Keys::modified`] after a change
            /// (it also deletes a value that was created but stayed empty).
            pub(crate) fn $create(&mut self, key: &[u8]) -> Result<&mut $Type, CommandError> {
                if self.get_mut(key).is_none() {
                    let entry = Entry::new(key, Value::$Type(Box::default()), None);
                    self.insert_new(entry);
                    self.notify(EventClasses::NEW, "new", key);
                }
                Ok(self.$write(key)?.expect("the key was just inserted"))
            }
        }
    };
}

typed!(List, list, list_mut, list_or_new);
typed!(Set, set, set_mut, set_or_new);
typed!(ZSet, zset, zset_mut, zset_or_new);
typed!(Hash, hash, hash_mut, hash_or_new);
typed!(Stream, stream, stream_mut, stream_or_new);

fn watch_index(db: u16, hash: u64) -> usize {
    let mixed = (hash >> 24) ^ u64::from(db).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed as usize % WATCH_COUNTERS
}
