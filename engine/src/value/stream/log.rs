//! The entries of a stream and what is known about them.

use super::id::StreamId;
use super::node::{Entry, NODE_ENTRIES_MAX, Node};
use crate::digest::Digest;
use crate::memory::allocated;
use std::collections::VecDeque;

/// How an entry's id is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewId {
    /// From the time.
    Auto,
    /// The first free one of these milliseconds.
    Millis(u64),
    Exactly(StreamId),
}

/// How far a stream is shortened from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    pub(crate) until: TrimUntil,
    /// `~`: only whole nodes.
    pub(crate) approximate: bool,
    /// No more entries than this are removed; 0 is no limit.
    pub(crate) limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrimUntil {
    /// No more entries than this are left.
    MaxLen(u64),
    /// No entry below this id is left.
    MinId(StreamId),
}

impl Trim {
    /// The limit of `~` without LIMIT: a hundred nodes.
    pub(crate) const DEFAULT_LIMIT: u64 = 100 * NODE_ENTRIES_MAX;
}

/// The entries. Where one node ends and the next begins decides what approximate trimming removes,
/// so the nodes are part of the logical value: a function of the commands, kept exactly by copies
/// and RDB files, and in the digest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(super) nodes: VecDeque<Node>,
    /// Bytes of the nodes' allocations.
    nodes_memory: usize,
    /// Live entries.
    pub(super) len: u64,
    /// The greatest id ever given: new ones are greater.
    pub(crate) last_id: StreamId,
    /// The id of the first live entry; zero if there is none.
    pub(crate) first_id: StreamId,
    /// The greatest id that XDEL removed.
    pub(crate) max_deleted_id: StreamId,
    /// Entries ever added.
    pub(crate) entries_added: u64,
}

impl Log {
    /// Takes over nodes from outside; `None` if they are out of order or do not hold so many live
    /// entries.
    pub(crate) fn from_nodes(nodes: VecDeque<Node>, len: u64) -> Option<Self> {
        let mut live = 0u64;
        let mut last = None;
        for node in &nodes {
            if last.is_some_and(|last| node.first() <= last) {
                return None;
            }
            last = Some(node.last());
            live = live.checked_add(node.head().live)?;
        }
        let nodes_memory = nodes.iter().map(Node::memory).sum();
        (live == len).then(|| Self { nodes, nodes_memory, len, ..Self::default() })
    }

    /// Live entries.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn nodes(&self) -> &VecDeque<Node> {
        &self.nodes
    }

    pub(crate) fn memory(&self) -> usize {
        self.nodes_memory + allocated(self.nodes.capacity() * size_of::<Node>())
    }

    /// The id that a new entry gets; `None` if there is none greater than the last.
    pub(crate) fn next_id(&self, new: NewId, now_ms: u64) -> Option<StreamId> {
        let id = match new {
            NewId::Exactly(id) => id,
            NewId::Millis(ms) if ms == self.last_id.ms => {
                StreamId { ms, seq: self.last_id.seq.checked_add(1)? }
            }
            NewId::Millis(ms) => StreamId { ms, seq: 0 },
            NewId::Auto if now_ms > self.last_id.ms => StreamId { ms: now_ms, seq: 0 },
            NewId::Auto => self.last_id.next()?,
        };
        (id > self.last_id).then_some(id)
    }

    /// Appends an entry of alternating fields and values, with an id from [`Log::next_id`].
    pub(crate) fn append(&mut self, id: StreamId, pairs: &[&[u8]]) {
        let bytes = pairs.iter().map(|text| text.len()).sum();
        match self.nodes.back_mut().filter(|node| !node.is_full_for(bytes)) {
            Some(node) => {
                self.nodes_memory -= node.memory();
                node.append(id, pairs);
                self.nodes_memory += node.memory();
            }
            None => {
                let node = Node::new(id, pairs);
                self.nodes_memory += node.memory();
                if self.nodes.is_empty() {
                    // Most streams are small: room for four nodes would cost as much as an entry.
                    self.nodes.reserve_exact(1);
                }
                self.nodes.push_back(node);
            }
        }
        self.len += 1;
        self.entries_added = self.entries_added.wrapping_add(1);
        self.last_id = id;
        if self.len == 1 {
            self.first_id = id;
        }
    }

    /// Removes entries by id; returns how many there were (XDEL).
    pub(crate) fn delete(&mut self, ids: &[StreamId]) -> u64 {
        let mut deleted = 0;
        let mut first_gone = false;
        for &id in ids {
            if self.delete_one(id) {
                first_gone |= id == self.first_id;
                self.max_deleted_id = self.max_deleted_id.max(id);
                deleted += 1;
            }
        }
        if first_gone || self.len == 0 {
            self.find_first_id();
        }
        deleted
    }

    fn delete_one(&mut self, id: StreamId) -> bool {
        let Some(at) = self.node_of(id) else { return false };
        let node = &mut self.nodes[at];
        if node.head().live == 1 {
            if !node.entries().any(|entry| entry.id == id && !entry.is_deleted()) {
                return false;
            }
            self.nodes_memory -= node.memory();
            self.nodes.remove(at);
        } else {
            self.nodes_memory -= node.memory();
            let deleted = node.delete(id);
            self.nodes_memory += node.memory();
            if !deleted {
                return false;
            }
        }
        self.len -= 1;
        true
    }

    /// Shortens the stream from the front; returns how many entries went.
    pub(crate) fn trim(&mut self, trim: Trim) -> u64 {
        let mut removed = 0;
        while let Some(node) = self.nodes.front_mut() {
            if let TrimUntil::MaxLen(max) = trim.until
                && self.len <= max
            {
                break;
            }
            let live = node.head().live;
            if trim.limit > 0 && removed + live > trim.limit {
                break;
            }
            let whole = match trim.until {
                TrimUntil::MaxLen(max) => self.len - live >= max,
                TrimUntil::MinId(min) => node.last() < min,
            };
            if whole {
                self.nodes_memory -= node.memory();
                self.nodes.pop_front();
                self.len -= live;
                removed += live;
                continue;
            }
            if !trim.approximate {
                self.nodes_memory -= node.memory();
                let len = self.len;
                let gone = node.delete_front(|id, gone| match trim.until {
                    TrimUntil::MaxLen(max) => len - gone > max,
                    TrimUntil::MinId(min) => id < min,
                });
                self.nodes_memory += node.memory();
                self.len -= gone;
                removed += gone;
            }
            break;
        }
        if self.nodes.capacity() > 2 * self.nodes.len() + 64 {
            self.nodes.shrink_to(self.nodes.len() + self.nodes.len() / 4);
        }
        if removed > 0 || self.len == 0 {
            self.find_first_id();
        }
        removed
    }

    pub(crate) fn find_first_id(&mut self) {
        let first = self.range(StreamId::MIN, StreamId::MAX).next();
        self.first_id = first.map_or(StreamId::MIN, |entry| entry.id);
    }

    /// The id of the last live entry.
    pub(crate) fn last_live_id(&self) -> Option<StreamId> {
        self.range_back(StreamId::MIN, StreamId::MAX).next().map(|entry| entry.id)
    }

    /// The live entry with an id.
    pub(crate) fn get(&self, id: StreamId) -> Option<Entry<'_>> {
        self.range(id, id).next()
    }

    pub(crate) fn contains(&self, id: StreamId) -> bool {
        self.get(id).is_some()
    }

    /// Live entries with ids between two, inclusive.
    pub(crate) fn range(
        &self,
        start: StreamId,
        end: StreamId,
    ) -> impl Iterator<Item = Entry<'_>> + '_ {
        let from = self.node_of(start).unwrap_or(0);
        self.nodes
            .range(from..)
            .take_while(move |node| node.first() <= end)
            .flat_map(Node::entries)
            .skip_while(move |entry| entry.id < start)
            .take_while(move |entry| entry.id <= end)
            .filter(|entry| !entry.is_deleted())
    }

    /// As [`Log::range`], from the last to the first.
    pub(crate) fn range_back(
        &self,
        start: StreamId,
        end: StreamId,
    ) -> impl Iterator<Item = Entry<'_>> + '_ {
        let until = self.node_of(end).map_or(0, |at| at + 1);
        self.nodes
            .range(..until)
            .rev()
            .flat_map(Node::entries_back)
            .skip_while(move |entry| entry.id > end)
            .take_while(move |entry| entry.id >= start)
            .filter(|entry| !entry.is_deleted())
    }

    /// Index of the node that an entry with this id would be in.
    fn node_of(&self, id: StreamId) -> Option<usize> {
        self.nodes.partition_point(|node| node.first() <= id).checked_sub(1)
    }

    /// Whether an entry at or after `start` may have been removed by XDEL.
    pub(crate) fn has_gap_from(&self, start: StreamId) -> bool {
        self.len > 0 && !self.max_deleted_id.is_zero() && start <= self.max_deleted_id
    }

    /// How many entries were added up to and including `id`, if that can be told.
    pub(crate) fn count_until(&self, id: StreamId) -> Option<u64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        if (self.len == 0 && id <= self.last_id) || id == self.last_id {
            return Some(self.entries_added);
        }
        if id > self.last_id || (!id.is_zero() && id < self.max_deleted_id) {
            return None;
        }
        let whole = self.max_deleted_id.is_zero() || self.max_deleted_id < self.first_id;
        let before = self.entries_added.wrapping_sub(self.len);
        match id.cmp(&self.first_id) {
            std::cmp::Ordering::Less if whole => Some(before),
            std::cmp::Ordering::Equal if whole => Some(before.wrapping_add(1)),
            _ => None,
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        for id in [self.last_id, self.first_id, self.max_deleted_id] {
            digest_id(digest, id);
        }
        digest.number(self.len);
        digest.number(self.entries_added);
        digest.number(self.nodes.len() as u64);
        for node in &self.nodes {
            digest_id(digest, node.first());
            digest.bytes(node.packed().as_listpack());
        }
    }
}

pub(super) fn digest_id(digest: &mut Digest, id: StreamId) {
    digest.number(id.ms);
    digest.number(id.seq);
}
