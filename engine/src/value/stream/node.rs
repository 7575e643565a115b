//! A run of consecutive stream entries in one packed sequence: Redis's *macro node*, byte for byte,
//! so that RDB files take and give nodes as they are.
//!
//! Layout (elements of the sequence): a head of `live, deleted, number of fields, field…, 0`; then
//! per entry `flags, ms, seq`, the two as differences from the node's first id; then the values in
//! the order of the head's fields if the flags say that the entry has just these, else
//! `number of fields, (field, value)…`; then how many elements the entry has before this one, for
//! walking backwards. Deleted entries stay and are flagged.

use super::id::StreamId;
use crate::value::packed::{Item, Packed};

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// A node that holds at least this many bytes with the next entry's strings is full, as Redis's
/// `stream-node-max-bytes`.
pub(crate) const NODE_BYTES_MAX: usize = 4096;
/// Likewise entries, deleted ones included: `stream-node-max-entries`.
pub(crate) const NODE_ENTRIES_MAX: u64 = 100;

/// Entries from one id up to the next node's.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    first: StreamId,
    packed: Packed,
}

/// The front of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) live: u64,
    pub(crate) deleted: u64,
    fields: usize,
    /// Position of the first field.
    fields_at: usize,
    /// Position of the first entry.
    entries_at: usize,
}

/// One entry, be it deleted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) id: StreamId,
    packed: &'a Packed,
    /// Position of the flags.
    at: usize,
    flags: i64,
    fields: usize,
    /// Position of the head's fields if the entry shares them.
    shared_fields_at: Option<usize>,
    /// Position of the first value, or of the first field if they are not shared.
    content_at: usize,
}

impl Node {
    /// A node of one entry.
    pub(crate) fn new(id: StreamId, pairs: &[&[u8]]) -> Self {
        let mut packed = Packed::new();
        packed.push_int(1);
        packed.push_int(0);
        packed.push_int((pairs.len() / 2) as i64);
        for field in pairs.iter().step_by(2) {
            packed.push_back(field);
        }
        packed.push_int(0);
        let mut node = Self { first: id, packed };
        node.push_entry(id, true, pairs);
        node
    }

    /// The id of the first entry that the node ever had.
    pub(crate) fn first(&self) -> StreamId {
        self.first
    }

    pub(crate) fn packed(&self) -> &Packed {
        &self.packed
    }

    /// Bytes that the node's allocation takes.
    pub(crate) fn memory(&self) -> usize {
        self.packed.memory()
    }

    pub(crate) fn head(&self) -> Head {
        let mut at = self.packed.first().expect("a node has a head");
        let mut number = || {
            let Item::Int(value) = self.packed.get(at) else {
                unreachable!("heads begin with numbers")
            };
            at = self.packed.after(at);
            value
        };
        let (live, deleted, fields) = (number(), number(), number());
        let fields_at = at;
        // The fields and the 0 after them.
        for _ in 0..=fields {
            at = self.packed.after(at);
        }
        Head {
            live: live as u64,
            deleted: deleted as u64,
            fields: fields as usize,
            fields_at,
            entries_at: at,
        }
    }

    /// Whether an entry of so many bytes goes to a new node.
    pub(crate) fn is_full_for(&self, bytes: usize) -> bool {
        let head = self.head();
        self.packed.byte_len() + bytes >= NODE_BYTES_MAX
            || head.live + head.deleted >= NODE_ENTRIES_MAX
    }

    /// Appends an entry, whose id is greater than all before.
    pub(crate) fn append(&mut self, id: StreamId, pairs: &[&[u8]]) {
        let head = self.head();
        let mut fields = self.packed.iter_from(head.fields_at);
        let same = pairs.len() / 2 == head.fields
            && pairs.iter().step_by(2).all(|field| fields.next() == Some(Item::of(field)));
        self.push_entry(id, same, pairs);
        self.set_counts(head.live + 1, head.deleted);
    }

    fn push_entry(&mut self, id: StreamId, same: bool, pairs: &[&[u8]]) {
        let packed = &mut self.packed;
        packed.push_int(if same { SAME_FIELDS } else { 0 });
        packed.push_int(id.ms.wrapping_sub(self.first.ms) as i64);
        packed.push_int(id.seq.wrapping_sub(self.first.seq) as i64);
        let fields = pairs.len() / 2;
        if same {
            for value in pairs.iter().skip(1).step_by(2) {
                packed.push_back(value);
            }
            packed.push_int(fields as i64 + 3);
        } else {
            packed.push_int(fields as i64);
            for text in pairs {
                packed.push_back(text);
            }
            packed.push_int(2 * fields as i64 + 4);
        }
    }

    /// Flags the live entry with this id as deleted; `false` if there is none.
    pub(crate) fn delete(&mut self, id: StreamId) -> bool {
        let head = self.head();
        let Some(entry) = self.entries().find(|entry| entry.id >= id) else { return false };
        if entry.id != id || entry.is_deleted() {
            return false;
        }
        let (at, flags) = (entry.at, entry.flags);
        self.packed.replace_int(at, flags | DELETED);
        self.set_counts(head.live - 1, head.deleted + 1);
        true
    }

    /// Flags entries as deleted, from the first on, while `remove` holds for a live one's id and
    /// the number of those flagged before. Returns how many.
    pub(crate) fn delete_front(&mut self, mut remove: impl FnMut(StreamId, u64) -> bool) -> u64 {
        let head = self.head();
        let mut flagged = Vec::new();
        for entry in self.entries() {
            if !remove(entry.id, flagged.len() as u64) {
                break;
            }
            if !entry.is_deleted() {
                flagged.push((entry.at, entry.flags));
            }
        }
        // All flags are one byte, so positions stay.
        for &(at, flags) in &flagged {
            self.packed.replace_int(at, flags | DELETED);
        }
        let removed = flagged.len() as u64;
        self.set_counts(head.live - removed, head.deleted + removed);
        removed
    }

    fn set_counts(&mut self, live: u64, deleted: u64) {
        let at = self.packed.first().expect("a node has a head");
        self.packed.replace_int(at, live as i64);
        let at = self.packed.after(at);
        if self.packed.get(at) != Item::Int(deleted as i64) {
            self.packed.replace_int(at, deleted as i64);
        }
    }

    /// Every entry, deleted ones too.
    pub(crate) fn entries(&self) -> Entries<'_> {
        let head = self.head();
        Entries { node: self, head, front: head.entries_at }
    }

    /// Every entry from the last to the first, deleted ones too.
    pub(crate) fn entries_back(&self) -> EntriesBack<'_> {
        EntriesBack { node: self, head: self.head(), back: self.packed.end() }
    }

    /// The id of the last entry, be it deleted.
    pub(crate) fn last(&self) -> StreamId {
        self.entries_back().next().map_or(self.first, |entry| entry.id)
    }

    fn entry(&self, head: &Head, at: usize) -> Entry<'_> {
        let packed = &self.packed;
        let mut next = at;
        let mut number = || {
            let Item::Int(value) = packed.get(next) else {
                unreachable!("an entry begins with numbers")
            };
            next = packed.after(next);
            value
        };
        let (flags, ms, seq) = (number(), number(), number());
        let same = flags & SAME_FIELDS != 0;
        let fields = if same { head.fields } else { number() as usize };
        Entry {
            id: self.id_at(ms, seq),
            packed,
            at,
            flags,
            fields,
            shared_fields_at: same.then_some(head.fields_at),
            content_at: next,
        }
    }

    fn id_at(&self, ms: i64, seq: i64) -> StreamId {
        StreamId {
            ms: self.first.ms.wrapping_add(ms as u64),
            seq: self.first.seq.wrapping_add(seq as u64),
        }
    }

    /// Takes over a packed sequence from outside after checking that it is a node whose ids ascend
    /// from `first` on, and that its counts are right.
    pub(crate) fn checked(first: StreamId, packed: Packed) -> Option<Self> {
        let mut items = packed.iter();
        let number = |items: &mut crate::value::packed::Iter<'_>| match items.next()? {
            Item::Int(value) => Some(value),
            Item::Bytes(_) => None,
        };
        let (live, deleted) = (number(&mut items)?, number(&mut items)?);
        let fields = usize::try_from(number(&mut items)?).ok()?;
        if live < 0 || deleted < 0 || fields > packed.len() {
            return None;
        }
        items.by_ref().take(fields).count();
        if number(&mut items)? != 0 {
            return None;
        }
        let mut counts = (0i64, 0i64);
        let mut last = None;
        while let Some(flags) = items.next() {
            let Item::Int(flags @ 0..=3) = flags else { return None };
            let (ms, seq) = (number(&mut items)?, number(&mut items)?);
            let id = StreamId {
                ms: first.ms.wrapping_add(ms as u64),
                seq: first.seq.wrapping_add(seq as u64),
            };
            if id < first || last.is_some_and(|last| id <= last) {
                return None;
            }
            last = Some(id);
            let (content, own) = if flags & SAME_FIELDS != 0 {
                (fields, 3)
            } else {
                let fields = usize::try_from(number(&mut items)?).ok()?;
                (fields.checked_mul(2)?, 4)
            };
            if items.by_ref().take(content).count() != content
                || usize::try_from(number(&mut items)?).ok()? != content + own
            {
                return None;
            }
            if flags & DELETED != 0 { counts.1 += 1 } else { counts.0 += 1 }
        }
        let right = counts == (live, deleted) && last.is_some();
        right.then_some(Self { first, packed })
    }
}

impl<'a> Entry<'a> {
    pub(crate) fn is_deleted(&self) -> bool {
        self.flags & DELETED != 0
    }

    /// Number of fields.
    pub(crate) fn len(&self) -> usize {
        self.fields
    }

    /// Fields with their values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (Item<'a>, Item<'a>)> + use<'a> {
        let mut content = self.packed.iter_from(self.content_at);
        let mut shared = self.shared_fields_at.map(|at| self.packed.iter_from(at));
        let mut left = self.fields;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let field = match &mut shared {
                Some(fields) => fields.next()?,
                None => content.next()?,
            };
            Some((field, content.next()?))
        })
    }

    /// Position after the entry.
    fn end(&self) -> usize {
        let elements = if self.shared_fields_at.is_some() { self.fields } else { 2 * self.fields };
        // With the number of elements at the end.
        (0..=elements).fold(self.content_at, |at, _| self.packed.after(at))
    }
}

/// Entries of a node in order.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    node: &'a Node,
    head: Head,
    front: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.front >= self.node.packed.end() {
            return None;
        }
        let entry = self.node.entry(&self.head, self.front);
        self.front = entry.end();
        Some(entry)
    }
}

/// Entries of a node from the last to the first.
#[derive(Clone, Debug)]
pub(crate) struct EntriesBack<'a> {
    node: &'a Node,
    head: Head,
    back: usize,
}

impl<'a> Iterator for EntriesBack<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.back <= self.head.entries_at {
            return None;
        }
        let packed = &self.node.packed;
        let mut at = packed.prev(self.back)?;
        let Item::Int(elements) = packed.get(at) else {
            unreachable!("an entry ends with a number")
        };
        for _ in 0..elements {
            at = packed.prev(at)?;
        }
        self.back = at;
        Some(self.node.entry(&self.head, at))
    }
}
