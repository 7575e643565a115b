//! The hash table under keyspaces, sets, hashes and sorted sets.
//!
//! Buckets are one cache line of 64 bytes: a byte of presence bits, seven one-byte tags (the top
//! byte of each hash) and seven entries of one word, chained when they overflow; the design is that
//! of Valkey 8.1's `hashtable.c`. With the load kept between three and six entries per bucket, an
//! entry costs about 14 bytes and a lookup usually touches one line before the entry itself.
//!
//! Growing and shrinking move one bucket per modification. Entries that move between tables keep
//! the order of their *bit-reversed hash*: bucket numbers are the low bits of the hash, so that
//! order does not depend on the size of the table. Scan cursors and random picks are built on it.

use crate::hash;
use crate::random::Rng;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

/// An entry of a table: one word that knows its key.
pub(crate) trait Keyed {
    fn key(&self) -> &[u8];
}

/// Entries per bucket.
const WIDTH: usize = 7;
/// Presence bits of a bucket.
const ALL: u8 = 0x7f;
/// The bucket's last cell is a pointer to the next bucket of the chain, not an entry.
const CHAINED: u8 = 0x80;
/// The table grows above this many entries per bucket.
const GROW_LOAD: usize = 6;
/// It shrinks below one entry per this many buckets.
const SHRINK_LOAD: usize = 1;
/// How many successors of a random point a random pick chooses from: evens out the gaps between
/// hashes, at the price of as many hashes computed.
pub(crate) const PICK_AMONG: usize = 8;

union Cell<E> {
    entry: ManuallyDrop<E>,
    next: *mut Bucket<E>,
}

#[repr(C, align(64))]
struct Bucket<E> {
    /// Bits 0 to 6: which cells hold an entry. Bit 7: [`CHAINED`].
    presence: u8,
    tags: [u8; WIDTH],
    cells: [Cell<E>; WIDTH],
}

/// An array of `1 << bits` buckets, or none.
struct Buckets<E> {
    array: *mut Bucket<E>,
    bits: u8,
    /// Entries in this array and its chains.
    used: usize,
}

/// A set of entries with different keys. See the module's description.
pub(crate) struct Table<E> {
    /// While rehashing, entries move from `tables[0]` to `tables[1]`; otherwise only `tables[0]`
    /// has buckets.
    tables: [Buckets<E>; 2],
    /// Buckets of `tables[0]` below this index are moved; [`NOT_REHASHING`] otherwise.
    rehash_next: usize,
    seed: u64,
    /// Chained buckets of both tables, for [`Table::memory`].
    chained: usize,
    owned: PhantomData<E>,
}

const NOT_REHASHING: usize = usize::MAX;

// SAFETY: a table owns its entries and its buckets; nothing else points at them.
unsafe impl<E: Send> Send for Table<E> {}

impl<E: Keyed> Default for Table<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Keyed> Table<E> {
    /// An empty table without buckets, under the seed of the engine that runs on this thread.
    pub(crate) fn new() -> Self {
        Self::with_seed(hash::current_seed())
    }

    pub(crate) fn with_seed(seed: u64) -> Self {
        const { assert!(size_of::<E>() == size_of::<usize>()) };
        const { assert!(size_of::<Bucket<E>>() == 64) };
        Self {
            tables: [Buckets::none(), Buckets::none()],
            rehash_next: NOT_REHASHING,
            seed,
            chained: 0,
            owned: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.tables[0].used + self.tables[1].used
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated for buckets (not for what entries point at).
    pub(crate) fn memory(&self) -> usize {
        (self.tables[0].count() + self.tables[1].count() + self.chained) * 64
    }

    /// The hash of `key` in this table.
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        hash::hash(self.seed, key)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&E> {
        self.get_hashed(self.hash(key), key)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    #[inline]
    pub(crate) fn get_hashed(&self, hash: u64, key: &[u8]) -> Option<&E> {
        let (bucket, at) = self.find(hash, key)?;
        // SAFETY: `find` returns a live bucket of this table and a cell that holds an entry.
        Some(unsafe { &(*bucket.as_ptr()).cells[at].entry })
    }

    /// The entry with this key. Its key must not be changed through the reference; replacing the
    /// entry by another one with the same key is fine.
    #[inline]
    pub(crate) fn get_mut_hashed(&mut self, hash: u64, key: &[u8]) -> Option<&mut E> {
        self.step();
        let (bucket, at) = self.find(hash, key)?;
        // SAFETY: as in `get_hashed`; `self` is borrowed mutably.
        Some(unsafe { &mut (*bucket.as_ptr()).cells[at].entry })
    }

    /// Adds an entry whose key is not in the table.
    pub(crate) fn insert(&mut self, entry: E) {
        let hash = self.hash(entry.key());
        self.insert_hashed(hash, entry);
    }

    pub(crate) fn insert_hashed(&mut self, hash: u64, entry: E) {
        debug_assert!(self.find(hash, entry.key()).is_none());
        self.step();
        self.grow_if_needed();
        let target = usize::from(self.is_rehashing());
        self.chained += self.tables[target].insert(hash, entry);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<E> {
        let hash = self.hash(key);
        self.remove_hashed(hash, key)
    }

    pub(crate) fn remove_hashed(&mut self, hash: u64, key: &[u8]) -> Option<E> {
        self.step();
        for table in 0..2 {
            let Some((bucket, at)) = self.tables[table].find(hash, key) else { continue };
            let home = self.tables[table].home(hash);
            // SAFETY: `bucket` is in the chain of `home`, its cell `at` holds an entry.
            let (entry, freed) = unsafe { take(home, bucket, at) };
            self.tables[table].used -= 1;
            self.chained -= freed;
            self.shrink_if_needed();
            return Some(entry);
        }
        None
    }

    /// Makes room for `additional` entries at once: for loading, when the size is known.
    pub(crate) fn reserve(&mut self, additional: usize) {
        if self.is_empty() && self.tables[0].array.is_null() && additional > 0 {
            self.tables[0] = Buckets::with_bits(bits_for(additional));
        }
    }

    pub(crate) fn iter(&self) -> Iter<'_, E> {
        Iter { table: self, index: 0, which: 0, bucket: ptr::null(), at: 0 }
    }

    /// Visits the entries of one bucket and returns the cursor of the next; 0 begins, and 0 is
    /// returned at the end. Every entry that is in the table from the first to the last call is
    /// visited at least once, whatever is inserted, removed or rehashed in between. (Pieter
    /// Noordhuis's reverse-binary cursor, see Redis's `dictScan`.)
    pub(crate) fn scan<'t>(&'t self, cursor: u64, mut visit: impl FnMut(&'t E)) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let (small, large) = self.small_and_large();
        let mut cursor = cursor;
        let Some(large) = large else {
            small.visit(cursor as usize & small.mask(), &mut visit);
            return next_cursor(cursor, small.mask());
        };
        small.visit(cursor as usize & small.mask(), &mut visit);
        loop {
            large.visit(cursor as usize & large.mask(), &mut visit);
            cursor = next_cursor(cursor, large.mask());
            // Until the bits that only the larger table has are all used up.
            if cursor & (small.mask() ^ large.mask()) as u64 == 0 {
                return cursor;
            }
        }
    }

    /// Calls `visit` with up to `count` entries that follow `point` in the order of (bit-reversed
    /// hash, key), wrapping around. The same entries in the same order for any layout.
    pub(crate) fn successors<'t>(&'t self, point: u64, count: usize, mut visit: impl FnMut(&'t E)) {
        let mut wanted = count.min(self.len());
        if wanted == 0 {
            return;
        }
        let (small, large) = self.small_and_large();
        let mut group: Vec<(u64, &E)> = Vec::with_capacity(2 * WIDTH);
        let mut index = (point.reverse_bits() as usize) & small.mask();
        let first = index;
        // The first bucket is split by `point`: its lower part comes last, after the wrap.
        let mut floor = point;
        let mut wrapped = false;
        while wanted > 0 {
            self.sorted_group(small, large, index, &mut group);
            for &(order, entry) in &group {
                let in_turn =
                    if wrapped && index == first { order < point } else { order >= floor };
                if in_turn && wanted > 0 {
                    visit(entry);
                    wanted -= 1;
                }
            }
            if wrapped && index == first {
                return;
            }
            floor = 0;
            index = next_cursor(index as u64, small.mask()) as usize;
            wrapped |= index == first || index == 0;
        }
    }

    /// A uniformly random entry, the same for any layout.
    pub(crate) fn random(&self, rng: &mut Rng) -> Option<&E> {
        if self.is_empty() {
            return None;
        }
        let point = rng.next();
        let mut chosen = rng.below(self.len().min(PICK_AMONG));
        let mut found = None;
        self.successors(point, PICK_AMONG, |entry| {
            if chosen == 0 && found.is_none() {
                found = Some(entry);
            }
            chosen = chosen.wrapping_sub(1);
        });
        found
    }

    fn sorted_group<'t>(
        &'t self,
        small: &'t Buckets<E>,
        large: Option<&'t Buckets<E>>,
        index: usize,
        group: &mut Vec<(u64, &'t E)>,
    ) {
        group.clear();
        let mut add = |entry: &'t E| group.push((self.hash(entry.key()).reverse_bits(), entry));
        small.visit(index, &mut add);
        if let Some(large) = large {
            let step = small.mask() + 1;
            let mut wide = index;
            while wide <= large.mask() {
                large.visit(wide, &mut add);
                wide += step;
            }
        }
        group.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.key().cmp(b.1.key())));
    }

    fn small_and_large(&self) -> (&Buckets<E>, Option<&Buckets<E>>) {
        let [first, second] = &self.tables;
        if !self.is_rehashing() {
            (first, None)
        } else if first.bits <= second.bits {
            (first, Some(second))
        } else {
            (second, Some(first))
        }
    }

    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Option<(NonNull<Bucket<E>>, usize)> {
        self.tables[0]
            .find(hash, key)
            .or_else(|| if self.is_rehashing() { self.tables[1].find(hash, key) } else { None })
    }

    #[inline]
    fn is_rehashing(&self) -> bool {
        self.rehash_next != NOT_REHASHING
    }

    /// Moves one bucket of an unfinished rehash.
    #[inline]
    fn step(&mut self) {
        if self.is_rehashing() {
            self.move_bucket();
        }
    }

    fn move_bucket(&mut self) {
        let [from, to] = &mut self.tables;
        let index = self.rehash_next;
        // SAFETY: `index` is below the count of buckets; the chain is emptied exactly once because
        // `rehash_next` only grows.
        let freed = unsafe {
            from.drain(index, |entry| {
                let hash = hash::hash(self.seed, entry.key());
                self.chained += to.insert(hash, entry);
            })
        };
        self.chained -= freed;
        self.rehash_next += 1;
        if self.rehash_next == self.tables[0].count() {
            debug_assert_eq!(self.tables[0].used, 0);
            self.tables.swap(0, 1);
            self.tables[1] = Buckets::none();
            self.rehash_next = NOT_REHASHING;
        }
    }

    fn grow_if_needed(&mut self) {
        if self.is_rehashing() {
            return;
        }
        let table = &self.tables[0];
        if table.array.is_null() {
            self.tables[0] = Buckets::with_bits(0);
        } else if table.used >= table.count() * GROW_LOAD {
            self.start_rehash(table.bits + 1);
        }
    }

    fn shrink_if_needed(&mut self) {
        if self.is_rehashing() {
            return;
        }
        let table = &self.tables[0];
        if table.used == 0 {
            self.tables[0] = Buckets::none();
        } else if table.bits > 0 && table.used < table.count() * SHRINK_LOAD {
            self.start_rehash(bits_for(table.used));
        }
    }

    fn start_rehash(&mut self, bits: u8) {
        self.tables[1] = Buckets::with_bits(bits);
        self.rehash_next = 0;
        self.step();
    }
}

impl<E> Buckets<E> {
    const fn none() -> Self {
        Self { array: ptr::null_mut(), bits: 0, used: 0 }
    }

    fn with_bits(bits: u8) -> Self {
        let layout = Self::layout(bits);
        // SAFETY: the layout is not of size zero. All zero bytes are an empty bucket.
        let array = unsafe { alloc_zeroed(layout) }.cast::<Bucket<E>>();
        if array.is_null() {
            handle_alloc_error(layout);
        }
        Self { array, bits, used: 0 }
    }

    fn layout(bits: u8) -> Layout {
        Layout::array::<Bucket<E>>(1 << bits).expect("a table fits the address space")
    }

    fn count(&self) -> usize {
        if self.array.is_null() { 0 } else { 1 << self.bits }
    }

    fn mask(&self) -> usize {
        (1 << self.bits) - 1
    }

    /// The first bucket of the chain of `hash`.
    fn home(&self, hash: u64) -> NonNull<Bucket<E>> {
        debug_assert!(!self.array.is_null());
        // SAFETY: the index is masked to the array, which is allocated.
        unsafe { NonNull::new_unchecked(self.array.add(hash as usize & self.mask())) }
    }

    /// Adds an entry; returns how many buckets were chained for it (0 or 1).
    fn insert(&mut self, hash: u64, entry: E) -> usize {
        self.used += 1;
        let mut bucket = self.home(hash);
        let mut chained = 0;
        // SAFETY: every bucket of a chain is allocated and only reachable through this table.
        unsafe {
            while (*bucket.as_ptr()).presence & CHAINED != 0 {
                bucket = NonNull::new_unchecked((*bucket.as_ptr()).cells[WIDTH - 1].next);
            }
            if (*bucket.as_ptr()).presence == ALL {
                bucket = chain(bucket);
                chained = 1;
            }
            let bucket = &mut *bucket.as_ptr();
            let at = (!bucket.presence).trailing_zeros() as usize;
            bucket.tags[at] = tag(hash);
            bucket.cells[at].entry = ManuallyDrop::new(entry);
            bucket.presence |= 1 << at;
        }
        chained
    }

    /// Takes every entry out of one chain; returns how many chained buckets were freed.
    ///
    /// # Safety
    /// `index` is below [`Buckets::count`].
    unsafe fn drain(&mut self, index: usize, mut moved: impl FnMut(E)) -> usize {
        let mut freed = 0;
        // SAFETY: the caller's promise; each cell marked present holds an entry, and presence is
        // cleared before the bucket can be seen again.
        unsafe {
            let first = self.array.add(index);
            let mut bucket = first;
            loop {
                let presence = (*bucket).presence;
                for at in Bits(presence & ALL & !chain_bit(presence)) {
                    moved(ManuallyDrop::take(&mut (*bucket).cells[at].entry));
                    self.used -= 1;
                }
                let next = if presence & CHAINED != 0 {
                    (*bucket).cells[WIDTH - 1].next
                } else {
                    ptr::null_mut()
                };
                if bucket == first {
                    (*bucket).presence = 0;
                } else {
                    dealloc(bucket.cast(), Layout::new::<Bucket<E>>());
                    freed += 1;
                }
                if next.is_null() {
                    return freed;
                }
                bucket = next;
            }
        }
    }

    fn visit<'t>(&'t self, index: usize, visit: &mut impl FnMut(&'t E)) {
        if self.array.is_null() {
            return;
        }
        // SAFETY: callers mask `index`; chains end where CHAINED is not set.
        unsafe {
            let mut bucket = self.array.add(index);
            loop {
                let presence = (*bucket).presence;
                for at in Bits(presence & ALL & !chain_bit(presence)) {
                    visit(&(*bucket).cells[at].entry);
                }
                if presence & CHAINED == 0 {
                    return;
                }
                bucket = (*bucket).cells[WIDTH - 1].next;
            }
        }
    }
}

impl<E: Keyed> Buckets<E> {
    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Option<(NonNull<Bucket<E>>, usize)> {
        if self.used == 0 {
            return None;
        }
        let mut bucket = self.home(hash);
        loop {
            // SAFETY: chains consist of live buckets; a set presence bit means a live entry.
            unsafe {
                let current = &*bucket.as_ptr();
                let presence = current.presence;
                for at in Bits(current.matches(tag(hash)) & !chain_bit(presence)) {
                    if current.cells[at].entry.key() == key {
                        return Some((bucket, at));
                    }
                }
                if presence & CHAINED == 0 {
                    return None;
                }
                bucket = NonNull::new_unchecked(current.cells[WIDTH - 1].next);
            }
        }
    }
}

impl<E> Drop for Buckets<E> {
    fn drop(&mut self) {
        for index in 0..self.count() {
            // SAFETY: `index` is in range, and the table is never used again.
            unsafe { self.drain(index, drop) };
        }
        if !self.array.is_null() {
            // SAFETY: allocated by `with_bits` with the same layout.
            unsafe { dealloc(self.array.cast(), Self::layout(self.bits)) };
        }
    }
}

impl<E> Bucket<E> {
    /// Present cells whose tag is `tag`, and possibly a few more (the arithmetic below lets a byte
    /// above a match through); the caller compares keys anyway.
    #[inline]
    fn matches(&self, tag: u8) -> u8 {
        const ONES: u64 = 0x0101_0101_0101_0101;
        let [a, b, c, d, e, f, g] = self.tags;
        let differences = u64::from_le_bytes([a, b, c, d, e, f, g, !tag]) ^ (u64::from(tag) * ONES);
        let zeros = differences.wrapping_sub(ONES) & !differences & (ONES << 7);
        // Gathers the top bits of the eight bytes into one byte.
        let gathered = ((zeros >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
        gathered & self.presence & ALL
    }
}

/// The last cell's bit when it holds a pointer instead of an entry.
#[inline]
const fn chain_bit(presence: u8) -> u8 {
    (presence & CHAINED) >> 1
}

#[inline]
const fn tag(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// Appends a bucket to a full one, whose last entry moves into it.
///
/// # Safety
/// `bucket` is a live, full, unchained bucket.
unsafe fn chain<E>(bucket: NonNull<Bucket<E>>) -> NonNull<Bucket<E>> {
    let layout = Layout::new::<Bucket<E>>();
    // SAFETY: the layout has a size; zeroed memory is an empty bucket; the moved cell is read once
    // and then overwritten by the pointer.
    unsafe {
        let Some(next) = NonNull::new(alloc_zeroed(layout).cast::<Bucket<E>>()) else {
            handle_alloc_error(layout);
        };
        let full = &mut *bucket.as_ptr();
        let new = &mut *next.as_ptr();
        new.tags[0] = full.tags[WIDTH - 1];
        new.cells[0] = ptr::read(&raw const full.cells[WIDTH - 1]);
        new.presence = 1;
        full.cells[WIDTH - 1].next = next.as_ptr();
        full.presence |= CHAINED;
        next
    }
}

/// Takes the entry out of cell `at` of `bucket`, fills the hole from the end of the chain and frees
/// the last bucket when that empties it. Returns the entry and how many buckets were freed.
///
/// # Safety
/// `bucket` is in the chain that begins with `home`; its cell `at` holds an entry.
unsafe fn take<E>(home: NonNull<Bucket<E>>, bucket: NonNull<Bucket<E>>, at: usize) -> (E, usize) {
    // SAFETY: the caller's promise; pointers of a chain are live until freed here.
    unsafe {
        let entry = ManuallyDrop::take(&mut (*bucket.as_ptr()).cells[at].entry);
        let mut parent: *mut Bucket<E> = ptr::null_mut();
        let mut last = home.as_ptr();
        while (*last).presence & CHAINED != 0 {
            parent = last;
            last = (*last).cells[WIDTH - 1].next;
        }
        if last == bucket.as_ptr() {
            (*last).presence &= !(1 << at);
        } else {
            let from = (*last).presence.trailing_zeros() as usize;
            (*bucket.as_ptr()).tags[at] = (*last).tags[from];
            (*bucket.as_ptr()).cells[at] = ptr::read(&raw const (*last).cells[from]);
            (*last).presence &= !(1 << from);
        }
        if (*last).presence == 0 && !parent.is_null() {
            (*parent).presence &= !(CHAINED | 1 << (WIDTH - 1));
            dealloc(last.cast(), Layout::new::<Bucket<E>>());
            return (entry, 1);
        }
        (entry, 0)
    }
}

/// The smallest table that holds `entries` at two thirds of the load at which it would grow.
fn bits_for(entries: usize) -> u8 {
    entries.div_ceil(GROW_LOAD - 2).next_power_of_two().trailing_zeros() as u8
}

/// Adds one to the reversed bits of `cursor` under `mask`.
fn next_cursor(cursor: u64, mask: usize) -> u64 {
    let cursor = (cursor | !(mask as u64)).reverse_bits();
    cursor.wrapping_add(1).reverse_bits()
}

/// The set bits of a byte, lowest first.
struct Bits(u8);

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let at = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(at)
    }
}

/// All entries, in no meaningful order.
pub(crate) struct Iter<'t, E> {
    table: &'t Table<E>,
    which: usize,
    /// The next bucket of the array `which`.
    index: usize,
    /// The bucket being visited, null before the first.
    bucket: *const Bucket<E>,
    at: usize,
}

impl<'t, E: Keyed> Iterator for Iter<'t, E> {
    type Item = &'t E;

    fn next(&mut self) -> Option<&'t E> {
        loop {
            if self.bucket.is_null() {
                let buckets = &self.table.tables[self.which];
                if self.index < buckets.count() {
                    // SAFETY: the index is in range.
                    self.bucket = unsafe { buckets.array.add(self.index) };
                    self.index += 1;
                    self.at = 0;
                } else if self.which == 0 {
                    self.which = 1;
                    self.index = 0;
                    continue;
                } else {
                    return None;
                }
            }
            // SAFETY: the table is borrowed, so its buckets stay; presence bits mark live entries.
            unsafe {
                let bucket = &*self.bucket;
                let live = bucket.presence & ALL & !chain_bit(bucket.presence);
                while self.at < WIDTH {
                    let at = self.at;
                    self.at += 1;
                    if live >> at & 1 != 0 {
                        return Some(&bucket.cells[at].entry);
                    }
                }
                self.bucket = if bucket.presence & CHAINED != 0 {
                    bucket.cells[WIDTH - 1].next
                } else {
                    ptr::null()
                };
                self.at = 0;
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.table.len()))
    }
}

impl<E> std::fmt::Debug for Table<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} entries)", self.tables[0].used + self.tables[1].used)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
