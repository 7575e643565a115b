//! One key with its value in one allocation.
//!
//! Layout (offsets in bytes): a [`Header`] of 16; the expiry time, 8, if the entry has room for one;
//! for numbers the number, 8; for boxed values the pointer, 8, and the bytes accounted for it, 8;
//! then the key; then, for embedded strings, the string. Requests are rounded up to what the
//! allocator's chunk holds anyway, so a string is replaced in place by any other that costs the same.

use crate::evict::Access;
use crate::memory::{allocated, usable};
use crate::table::Keyed;
use crate::value::hash::Hash;
use crate::value::list::List;
use crate::value::set::Set;
use crate::value::stream::Stream;
use crate::value::zset::ZSet;
use crate::value::{Value, ValueMut, ValueRef};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;

/// Strings up to this length are stored in the key's allocation. Above, moving them when the entry
/// is replaced (a first EXPIRE, a RENAME) would cost more than the second allocation.
const EMBED_LEN_MAX: usize = 4096;
/// Longest string whose encoding Redis calls `embstr`.
const EMBSTR_LEN_MAX: usize = 44;
/// Value of the expiry field for "never".
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Int,
    /// A string after the key.
    Embedded,
    /// A boxed [`Raw`].
    Raw,
    List,
    Set,
    ZSet,
    Hash,
    Stream,
}

/// A string of its own allocation, which can grow.
#[derive(Debug)]
struct Raw(Vec<u8>);

#[repr(C)]
struct Header {
    kind: Kind,
    has_expiry: bool,
    /// The number of the checkpoint that has written this entry, see [`Entry::checkpoint`].
    /// A cell, so that the checkpoint can mark entries while it walks over a table.
    checkpoint: Cell<u16>,
    /// For OBJECT IDLETIME, OBJECT FREQ and eviction. Not replicated.
    access: Access,
    key_len: u32,
    /// Length of an embedded string.
    value_len: u32,
}

const HEADER_LEN: usize = size_of::<Header>();
const _: () = assert!(HEADER_LEN == 16);

/// An owned key with its value. One word.
pub(crate) struct Entry(NonNull<Header>);

/// A second pointer to an entry that the keyspace owns; lives in the table of keys with an expiry.
pub(crate) struct EntryRef(NonNull<Header>);

// SAFETY: an entry is the only owner of its allocation and everything in it is Send. A reference is
// only kept beside the table that owns the entry.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Send for EntryRef {}

impl Keyed for Entry {
    #[inline]
    fn key(&self) -> &[u8] {
        // SAFETY: the pointer is live as long as the entry.
        unsafe { key_of(self.0) }
    }
}

impl Keyed for EntryRef {
    #[inline]
    fn key(&self) -> &[u8] {
        // SAFETY: the keyspace removes or replaces the reference before it frees the entry.
        unsafe { key_of(self.0) }
    }
}

impl EntryRef {
    pub(crate) fn expire_at(&self) -> u64 {
        // SAFETY: as in `key`; entries in the expiry table have an expiry field.
        unsafe { expiry_field(self.0).read() }
    }
}

impl Entry {
    /// A string entry; numbers are recognised.
    pub(crate) fn new_string(key: &[u8], bytes: &[u8], expire_at: Option<u64>) -> Self {
        match small_int(bytes) {
            Some(value) => Self::new_int(key, value, expire_at),
            None => Self::new_text(key, bytes, expire_at),
        }
    }

    /// A string entry that is not encoded as a number, even if it reads as one.
    pub(crate) fn new_text(key: &[u8], bytes: &[u8], expire_at: Option<u64>) -> Self {
        if bytes.len() > EMBED_LEN_MAX {
            return Self::new_raw(key, bytes.to_vec(), expire_at);
        }
        let entry = Self::allocate(Kind::Embedded, key, bytes.len(), expire_at);
        entry.write_embedded(bytes);
        entry
    }

    pub(crate) fn new_int(key: &[u8], value: i64, expire_at: Option<u64>) -> Self {
        let entry = Self::allocate(Kind::Int, key, 0, expire_at);
        // SAFETY: a number's payload is 8 aligned bytes.
        unsafe { entry.payload().cast::<i64>().write(value) };
        entry
    }

    /// A string in an allocation of its own.
    pub(crate) fn new_raw(key: &[u8], bytes: Vec<u8>, expire_at: Option<u64>) -> Self {
        Self::boxed(Kind::Raw, key, Box::into_raw(Box::new(Raw(bytes))).cast(), expire_at)
    }

    pub(crate) fn new(key: &[u8], value: Value, expire_at: Option<u64>) -> Self {
        match value {
            Value::Int(value) => Self::new_int(key, value, expire_at),
            Value::Str(bytes) if bytes.len() > EMBED_LEN_MAX => {
                Self::new_raw(key, bytes, expire_at)
            }
            Value::Str(bytes) => Self::new_string(key, &bytes, expire_at),
            Value::List(list) => {
                Self::boxed(Kind::List, key, Box::into_raw(list).cast(), expire_at)
            }
            Value::Set(set) => Self::boxed(Kind::Set, key, Box::into_raw(set).cast(), expire_at),
            Value::ZSet(zset) => {
                Self::boxed(Kind::ZSet, key, Box::into_raw(zset).cast(), expire_at)
            }
            Value::Hash(hash) => {
                Self::boxed(Kind::Hash, key, Box::into_raw(hash).cast(), expire_at)
            }
            Value::Stream(stream) => {
                Self::boxed(Kind::Stream, key, Box::into_raw(stream).cast(), expire_at)
            }
        }
    }

    /// Takes the value out and frees the rest.
    pub(crate) fn into_value(self) -> Value {
        let entry = ManuallyDrop::new(self);
        let value = match entry.header().kind {
            Kind::Int | Kind::Embedded => entry.value().to_value(),
            // SAFETY: the payload is the box made in `new`; the allocation is freed below without
            // dropping it again.
            kind => unsafe {
                let pointer = entry.pointer();
                match kind {
                    Kind::Raw => Value::Str(Box::from_raw(pointer.cast::<Raw>()).0),
                    Kind::List => Value::List(Box::from_raw(pointer.cast())),
                    Kind::Set => Value::Set(Box::from_raw(pointer.cast())),
                    Kind::ZSet => Value::ZSet(Box::from_raw(pointer.cast())),
                    Kind::Stream => Value::Stream(Box::from_raw(pointer.cast())),
                    _ => Value::Hash(Box::from_raw(pointer.cast())),
                }
            },
        };
        // SAFETY: allocated with this layout; `entry` is not dropped.
        unsafe { dealloc(entry.0.as_ptr().cast(), entry.layout()) };
        value
    }

    #[inline]
    pub(crate) fn value(&self) -> ValueRef<'_> {
        // SAFETY: the payload matches the kind since `new`; the box lives as long as the entry.
        unsafe {
            match self.header().kind {
                Kind::Int => ValueRef::Int(self.payload().cast::<i64>().read()),
                Kind::Embedded => ValueRef::Str(self.embedded()),
                Kind::Raw => ValueRef::Str(&(*self.pointer().cast::<Raw>()).0),
                Kind::List => ValueRef::List(&*self.pointer().cast::<List>()),
                Kind::Set => ValueRef::Set(&*self.pointer().cast::<Set>()),
                Kind::ZSet => ValueRef::ZSet(&*self.pointer().cast::<ZSet>()),
                Kind::Hash => ValueRef::Hash(&*self.pointer().cast::<Hash>()),
                Kind::Stream => ValueRef::Stream(&*self.pointer().cast::<Stream>()),
            }
        }
    }

    pub(crate) fn value_mut(&mut self) -> ValueMut<'_> {
        // SAFETY: as in `value`; the entry is borrowed mutably.
        unsafe {
            match self.header().kind {
                Kind::Int | Kind::Embedded | Kind::Raw => ValueMut::Str,
                Kind::List => ValueMut::List(&mut *self.pointer().cast::<List>()),
                Kind::Set => ValueMut::Set(&mut *self.pointer().cast::<Set>()),
                Kind::ZSet => ValueMut::ZSet(&mut *self.pointer().cast::<ZSet>()),
                Kind::Hash => ValueMut::Hash(&mut *self.pointer().cast::<Hash>()),
                Kind::Stream => ValueMut::Stream(&mut *self.pointer().cast::<Stream>()),
            }
        }
    }

    /// The growing string of a raw entry.
    pub(crate) fn raw_mut(&mut self) -> Option<&mut Vec<u8>> {
        if self.header().kind != Kind::Raw {
            return None;
        }
        // SAFETY: as in `value_mut`.
        Some(unsafe { &mut (*self.pointer().cast::<Raw>()).0 })
    }

    /// Whether the value is an aggregate, whose memory is accounted apart.
    pub(crate) fn is_boxed(&self) -> bool {
        !matches!(self.header().kind, Kind::Int | Kind::Embedded)
    }

    /// The name that OBJECT ENCODING shows.
    pub(crate) fn encoding(&self) -> &'static str {
        use crate::value::Aggregate;
        match (self.header().kind, self.value()) {
            (Kind::Embedded, ValueRef::Str(bytes)) if bytes.len() <= EMBSTR_LEN_MAX => "embstr",
            (_, ValueRef::Int(_)) => "int",
            (_, ValueRef::Str(_)) => "raw",
            (_, ValueRef::List(list)) => list.encoding(),
            (_, ValueRef::Set(set)) => set.encoding(),
            (_, ValueRef::ZSet(zset)) => zset.encoding(),
            (_, ValueRef::Hash(hash)) => hash.encoding(),
            (_, ValueRef::Stream(stream)) => stream.encoding(),
        }
    }

    /// Milliseconds since the Unix epoch at which the key is gone.
    #[inline]
    pub(crate) fn expire_at(&self) -> Option<u64> {
        if !self.header().has_expiry {
            return None;
        }
        // SAFETY: the flag says that the field is there.
        let at = unsafe { expiry_field(self.0).read() };
        (at != NEVER).then_some(at)
    }

    /// Sets or removes the expiry. The first one moves the entry to a new allocation.
    pub(crate) fn set_expire_at(&mut self, at: Option<u64>) {
        if self.header().has_expiry {
            // SAFETY: as in `expire_at`.
            unsafe { expiry_field(self.0).write(at.unwrap_or(NEVER)) };
        } else if let Some(at) = at {
            self.relocate(at);
        }
    }

    /// Replaces a string or number by another string in the same allocation, if it fits.
    pub(crate) fn try_overwrite(&mut self, bytes: &[u8]) -> bool {
        match self.header().kind {
            Kind::Int => {
                let Some(value) = small_int(bytes) else { return false };
                self.set_int(value);
                true
            }
            Kind::Embedded => {
                let header = self.header();
                let len = |value_len| {
                    layout_len(Kind::Embedded, header.has_expiry, self.key().len(), value_len)
                };
                if bytes.len() > EMBED_LEN_MAX
                    || len(bytes.len()) != len(header.value_len as usize)
                    || small_int(bytes).is_some()
                {
                    return false;
                }
                self.header_mut().value_len = bytes.len() as u32;
                self.write_embedded(bytes);
                true
            }
            _ => false,
        }
    }

    /// Changes the number of an entry whose value is [`ValueRef::Int`].
    pub(crate) fn set_int(&mut self, value: i64) {
        debug_assert_eq!(self.header().kind, Kind::Int);
        // SAFETY: a number's payload is 8 aligned bytes.
        unsafe { self.payload().cast::<i64>().write(value) };
    }

    /// Bytes of this entry's own allocation.
    #[inline]
    pub(crate) fn own_memory(&self) -> usize {
        allocated(self.layout().size())
    }

    /// What was last accounted for a boxed value; 0 for others.
    pub(crate) fn accounted(&self) -> usize {
        if !self.is_boxed() {
            return 0;
        }
        // SAFETY: boxed payloads are two words.
        unsafe { self.payload().add(8).cast::<usize>().read() }
    }

    /// Bytes of a boxed value now, also remembered as [`Entry::accounted`].
    pub(crate) fn account(&mut self) -> usize {
        let bytes = self.boxed_memory();
        if self.is_boxed() {
            // SAFETY: boxed payloads are two words.
            unsafe { self.payload().add(8).cast::<usize>().write(bytes) };
        }
        bytes
    }

    /// Number of the checkpoint that has already written this entry (or that must not write it,
    /// because the entry is younger than the checkpoint). Not part of the logical value.
    pub(crate) fn checkpoint(&self) -> u16 {
        self.header().checkpoint.get()
    }

    pub(crate) fn set_checkpoint(&self, number: u16) {
        self.header().checkpoint.set(number);
    }

    pub(crate) fn access(&self) -> Access {
        self.header().access
    }

    #[inline]
    pub(crate) fn set_access(&mut self, access: Access) {
        self.header_mut().access = access;
    }

    /// A second pointer to this entry. It must be gone before the entry is freed or moved.
    pub(crate) fn reference(&self) -> EntryRef {
        EntryRef(self.0)
    }

    fn boxed_memory(&self) -> usize {
        match (self.header().kind, self.value()) {
            (Kind::Raw, _) => {
                // SAFETY: as in `value`.
                let raw = unsafe { &(*self.pointer().cast::<Raw>()).0 };
                allocated(size_of::<Raw>()) + allocated(raw.capacity())
            }
            (_, value) => value.aggregate_memory(),
        }
    }

    /// Moves everything to a new allocation that has an expiry.
    fn relocate(&mut self, expire_at: u64) {
        let header = self.header();
        let value_len = header.value_len as usize;
        let mut new = Self::allocate(header.kind, self.key(), value_len, Some(expire_at));
        new.set_checkpoint(self.checkpoint());
        new.header_mut().access = header.access;
        // SAFETY: both entries have the same kind and lengths. The box behind a payload now belongs
        // to the new entry: the old allocation is freed without dropping it.
        unsafe {
            self.payload().copy_to_nonoverlapping(new.payload(), payload_len(header.kind));
            self.value_start().copy_to_nonoverlapping(new.value_start(), value_len);
            let old = ManuallyDrop::new(std::mem::replace(self, new));
            dealloc(old.0.as_ptr().cast(), old.layout());
        }
    }

    fn boxed(kind: Kind, key: &[u8], pointer: *mut u8, expire_at: Option<u64>) -> Self {
        let mut entry = Self::allocate(kind, key, 0, expire_at);
        // SAFETY: boxed payloads are two words.
        unsafe { entry.payload().cast::<*mut u8>().write(pointer) };
        entry.account();
        entry
    }

    fn allocate(kind: Kind, key: &[u8], value_len: usize, expire_at: Option<u64>) -> Self {
        let has_expiry = expire_at.is_some();
        let key_len = u32::try_from(key.len()).expect("keys are below the bulk length limit");
        let layout = layout_of(kind, has_expiry, key.len(), value_len);
        // SAFETY: the layout has a size; the header and the key are inside it.
        unsafe {
            let Some(start) = NonNull::new(alloc(layout).cast::<Header>()) else {
                handle_alloc_error(layout);
            };
            start.write(Header {
                kind,
                has_expiry,
                checkpoint: Cell::new(0),
                access: Access::NEW,
                key_len,
                value_len: value_len as u32,
            });
            let entry = Self(start);
            if let Some(at) = expire_at {
                expiry_field(start).write(at);
            }
            let key_start = start.cast::<u8>().as_ptr().add(key_offset(kind, has_expiry));
            key_start.copy_from_nonoverlapping(key.as_ptr(), key.len());
            entry
        }
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: the header lives as long as the entry.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }

    fn layout(&self) -> Layout {
        let header = self.header();
        layout_of(
            header.kind,
            header.has_expiry,
            header.key_len as usize,
            header.value_len as usize,
        )
    }

    /// Where number or pointer stand.
    fn payload(&self) -> *mut u8 {
        // SAFETY: inside the allocation.
        unsafe { self.0.cast::<u8>().as_ptr().add(payload_offset(self.header().has_expiry)) }
    }

    fn pointer(&self) -> *mut u8 {
        // SAFETY: only called for boxed kinds, whose payload starts with the pointer.
        unsafe { self.payload().cast::<*mut u8>().read() }
    }

    fn value_start(&self) -> *mut u8 {
        let header = self.header();
        let offset = key_offset(header.kind, header.has_expiry) + header.key_len as usize;
        // SAFETY: the embedded string follows the key.
        unsafe { self.0.cast::<u8>().as_ptr().add(offset) }
    }

    fn embedded(&self) -> &[u8] {
        // SAFETY: `value_len` bytes follow the key.
        unsafe { slice::from_raw_parts(self.value_start(), self.header().value_len as usize) }
    }

    fn write_embedded(&self, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), self.header().value_len as usize);
        // SAFETY: room for `value_len` bytes; `bytes` comes from outside this entry.
        unsafe { self.value_start().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: the boxes were made in `new`; the allocation has this layout.
        unsafe {
            match self.header().kind {
                Kind::Int | Kind::Embedded => {}
                Kind::Raw => drop(Box::from_raw(self.pointer().cast::<Raw>())),
                Kind::List => drop(Box::from_raw(self.pointer().cast::<List>())),
                Kind::Set => drop(Box::from_raw(self.pointer().cast::<Set>())),
                Kind::ZSet => drop(Box::from_raw(self.pointer().cast::<ZSet>())),
                Kind::Hash => drop(Box::from_raw(self.pointer().cast::<Hash>())),
                Kind::Stream => drop(Box::from_raw(self.pointer().cast::<Stream>())),
            }
            dealloc(self.0.as_ptr().cast(), self.layout());
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({} bytes of key, {:?})", self.key().len(), self.header().kind)
    }
}

/// The number of a short text, which is worth storing as one.
#[inline]
fn small_int(bytes: &[u8]) -> Option<i64> {
    if bytes.len() > 20 { None } else { crate::num::parse_i64(bytes) }
}

#[inline]
unsafe fn key_of<'a>(start: NonNull<Header>) -> &'a [u8] {
    // SAFETY: the caller's entry is live; the key is at its offset.
    unsafe {
        let header = start.as_ref();
        let offset = key_offset(header.kind, header.has_expiry);
        slice::from_raw_parts(start.cast::<u8>().as_ptr().add(offset), header.key_len as usize)
    }
}

#[inline]
unsafe fn expiry_field(start: NonNull<Header>) -> *mut u64 {
    // SAFETY: the caller knows that the entry has the field, which follows the header.
    unsafe { start.cast::<u8>().as_ptr().add(HEADER_LEN).cast() }
}

#[inline]
const fn payload_offset(has_expiry: bool) -> usize {
    HEADER_LEN + if has_expiry { 8 } else { 0 }
}

#[inline]
const fn payload_len(kind: Kind) -> usize {
    match kind {
        Kind::Embedded => 0,
        Kind::Int => 8,
        _ => 16,
    }
}

#[inline]
const fn key_offset(kind: Kind, has_expiry: bool) -> usize {
    payload_offset(has_expiry) + payload_len(kind)
}

#[inline]
const fn layout_len(kind: Kind, has_expiry: bool, key_len: usize, value_len: usize) -> usize {
    usable(key_offset(kind, has_expiry) + key_len + value_len)
}

#[inline]
fn layout_of(kind: Kind, has_expiry: bool, key_len: usize, value_len: usize) -> Layout {
    let len = layout_len(kind, has_expiry, key_len, value_len);
    Layout::from_size_align(len, 8).expect("entries are below the address space")
}
