//! Consumer groups: who was given which entries and has not confirmed them.

use super::id::StreamId;
use super::log::{Log, digest_id};
use crate::digest::Digest;
use crate::memory::allocated;
use crate::value::ordered::Ordered;

/// An entry that was delivered and not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) id: StreamId,
    /// When it was last delivered, milliseconds since the Unix epoch.
    pub(crate) delivered_ms: u64,
    /// How often it was delivered.
    pub(crate) deliveries: u64,
    /// To whom: an index into the group's consumers.
    pub(crate) consumer: u32,
}

/// One member of a group.
pub(crate) struct Consumer {
    pub(crate) name: Box<[u8]>,
    /// When it last asked for something.
    pub(crate) seen_ms: u64,
    /// When it last got something.
    pub(crate) active_ms: Option<u64>,
    /// What is pending for it.
    pending: Ordered<StreamId>,
}

/// A consumer group.
pub(crate) struct Group {
    pub(crate) name: Box<[u8]>,
    /// The last entry delivered to anyone.
    pub(crate) last_id: StreamId,
    /// How many entries were delivered; `None` if that is not known.
    pub(crate) entries_read: Option<u64>,
    pending: Ordered<Pending>,
    /// Indexes stay as long as their consumers.
    consumers: Vec<Option<Consumer>>,
    /// Indexes of the consumers in the order of their names.
    by_name: Vec<u32>,
    /// Bytes of the consumers' names and pending entries.
    consumers_memory: usize,
}

impl Consumer {
    fn memory(&self) -> usize {
        allocated(self.name.len()) + self.pending.memory()
    }

    pub(crate) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Ids of pending entries from `start` on, at most `count`.
    pub(crate) fn pending_from(&self, start: StreamId, count: usize) -> Vec<StreamId> {
        let from = self.pending.partition_point(|id| *id < start);
        let mut found = Vec::new();
        self.pending.visit(from, from.saturating_add(count), |id| {
            found.push(id);
            true
        });
        found
    }
}

impl Group {
    pub(crate) fn new(name: &[u8], last_id: StreamId, entries_read: Option<u64>) -> Self {
        Self {
            name: name.into(),
            last_id,
            entries_read,
            pending: Ordered::new(),
            consumers: Vec::new(),
            by_name: Vec::new(),
            consumers_memory: 0,
        }
    }

    pub(crate) fn memory(&self) -> usize {
        allocated(self.name.len())
            + self.pending.memory()
            + allocated(self.consumers.capacity() * size_of::<Option<Consumer>>())
            + allocated(self.by_name.capacity() * size_of::<u32>())
            + self.consumers_memory
    }

    // ---- consumers -----------------------------------------------------------------------------

    pub(crate) fn consumer_count(&self) -> usize {
        self.by_name.len()
    }

    /// In the order of their names.
    pub(crate) fn consumers(&self) -> impl Iterator<Item = &Consumer> {
        self.by_name.iter().map(|&index| self.consumer(index))
    }

    pub(crate) fn consumer(&self, index: u32) -> &Consumer {
        self.consumers[index as usize].as_ref().expect("an index names a consumer")
    }

    /// For its times; what is pending changes through the group.
    pub(crate) fn consumer_mut(&mut self, index: u32) -> &mut Consumer {
        self.consumers[index as usize].as_mut().expect("an index names a consumer")
    }

    pub(crate) fn find_consumer(&self, name: &[u8]) -> Option<u32> {
        self.place_of(name).ok().map(|at| self.by_name[at])
    }

    fn place_of(&self, name: &[u8]) -> Result<usize, usize> {
        self.by_name.binary_search_by(|&index| (*self.consumer(index).name).cmp(name))
    }

    /// Makes a consumer; `None` if the name is taken.
    pub(crate) fn create_consumer(&mut self, name: &[u8], seen_ms: u64) -> Option<u32> {
        let Err(place) = self.place_of(name) else { return None };
        let consumer =
            Consumer { name: name.into(), seen_ms, active_ms: None, pending: Ordered::new() };
        self.consumers_memory += consumer.memory();
        let free = self.consumers.iter().position(Option::is_none).unwrap_or_else(|| {
            self.consumers.push(None);
            self.consumers.len() - 1
        });
        self.consumers[free] = Some(consumer);
        self.by_name.insert(place, free as u32);
        Some(free as u32)
    }

    /// The consumer of this name, seen now, and whether it had to be made.
    pub(crate) fn see_consumer(&mut self, name: &[u8], now_ms: u64) -> (u32, bool) {
        match self.find_consumer(name) {
            Some(index) => {
                self.consumer_mut(index).seen_ms = now_ms;
                (index, false)
            }
            None => (self.create_consumer(name, now_ms).expect("the name is free"), true),
        }
    }

    /// Removes a consumer and what is pending for it; returns how many entries that was, `None` if
    /// there is no such consumer.
    pub(crate) fn delete_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let place = self.place_of(name).ok()?;
        let index = self.by_name.remove(place);
        let consumer = self.consumers[index as usize].take()?;
        self.consumers_memory -= consumer.memory();
        consumer.pending.visit(0, usize::MAX, |id| {
            if let Some(rank) = self.rank_of(id) {
                self.pending.remove_at(rank);
            }
            true
        });
        Some(consumer.pending_len())
    }

    // ---- pending entries -----------------------------------------------------------------------

    pub(crate) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    fn rank_of(&self, id: StreamId) -> Option<usize> {
        let rank = self.pending.partition_point(|pending| pending.id < id);
        self.pending.get(rank).filter(|pending| pending.id == id).map(|_| rank)
    }

    pub(crate) fn pending(&self, id: StreamId) -> Option<Pending> {
        self.rank_of(id).and_then(|rank| self.pending.get(rank))
    }

    pub(crate) fn first_pending(&self) -> Option<Pending> {
        self.pending.get(0)
    }

    pub(crate) fn last_pending(&self) -> Option<Pending> {
        self.pending.get(self.pending.len().checked_sub(1)?)
    }

    /// Calls `visit` with the pending entries from `start` on until it returns false.
    pub(crate) fn visit_pending(&self, start: StreamId, visit: impl FnMut(Pending) -> bool) {
        let from = self.pending.partition_point(|pending| pending.id < start);
        self.pending.visit(from, usize::MAX, visit);
    }

    /// The first pending entry at or after `start`.
    pub(crate) fn next_pending(&self, start: StreamId) -> Option<Pending> {
        self.pending.get(self.pending.partition_point(|pending| pending.id < start))
    }

    /// Makes an entry pending, or changes what is known about it, its consumer included.
    pub(crate) fn set_pending(&mut self, new: Pending) {
        let rank = self.pending.partition_point(|pending| pending.id < new.id);
        let old = self.pending.get(rank).filter(|pending| pending.id == new.id);
        match old {
            Some(_) => self.pending.replace_at(rank, new),
            None => self.pending.insert_at(rank, new),
        }
        if old.is_some_and(|old| old.consumer == new.consumer) {
            return;
        }
        if let Some(old) = old {
            self.unlink(old.consumer, new.id);
        }
        let consumer =
            self.consumers[new.consumer as usize].as_mut().expect("an index names a consumer");
        self.consumers_memory -= consumer.pending.memory();
        let rank = consumer.pending.partition_point(|id| *id < new.id);
        consumer.pending.insert_at(rank, new.id);
        self.consumers_memory += consumer.pending.memory();
    }

    /// Confirms an entry; `false` if it was not pending.
    pub(crate) fn remove_pending(&mut self, id: StreamId) -> bool {
        let Some(rank) = self.rank_of(id) else { return false };
        let pending = self.pending.remove_at(rank);
        self.unlink(pending.consumer, id);
        true
    }

    fn unlink(&mut self, consumer: u32, id: StreamId) {
        let consumer =
            self.consumers[consumer as usize].as_mut().expect("an index names a consumer");
        self.consumers_memory -= consumer.pending.memory();
        let rank = consumer.pending.partition_point(|other| *other < id);
        if consumer.pending.get(rank) == Some(id) {
            consumer.pending.remove_at(rank);
        }
        self.consumers_memory += consumer.pending.memory();
    }

    // ---- progress ------------------------------------------------------------------------------

    /// Notes that an entry was delivered. The counter goes on by one if it is known and nothing is
    /// missing between the last entry delivered and this one.
    pub(crate) fn advance(&mut self, log: &Log, id: StreamId) {
        if id <= self.last_id {
            return;
        }
        match self.entries_read {
            Some(count) if self.last_id >= log.first_id && !log.has_gap_from(self.last_id) => {
                // A file may claim any count; the last number is the one that says "not known".
                self.entries_read = count.checked_add(1).filter(|&count| count != u64::MAX);
            }
            _ if log.entries_added > 0 => self.entries_read = log.count_until(id),
            _ => {}
        }
        self.last_id = id;
    }

    /// How many entries are still to be delivered, if that can be told. As since Redis 7.2.7: before,
    /// entries that were deleted or trimmed away unread went on counting.
    pub(crate) fn lag(&self, log: &Log) -> Option<i64> {
        if log.entries_added == 0 || log.len() == 0 {
            return Some(0);
        }
        if self.last_id.max(log.max_deleted_id) < log.first_id {
            return Some(log.len() as i64);
        }
        // Clients may claim any counts, so the difference may wrap around.
        let read = match self.entries_read {
            Some(count) if !log.has_gap_from(self.last_id) => count,
            _ => log.count_until(self.last_id)?,
        };
        Some(log.entries_added.wrapping_sub(read) as i64)
    }

    fn digest(&self, digest: &mut Digest) {
        digest.bytes(&self.name);
        digest_id(digest, self.last_id);
        digest.number(self.entries_read.unwrap_or(u64::MAX));
        digest.number(self.pending.len() as u64);
        self.pending.visit(0, usize::MAX, |pending| {
            digest_id(digest, pending.id);
            digest.number(pending.delivered_ms);
            digest.number(pending.deliveries);
            digest.bytes(&self.consumer(pending.consumer).name);
            true
        });
        digest.number(self.by_name.len() as u64);
        for consumer in self.consumers() {
            digest.bytes(&consumer.name);
            digest.number(consumer.seen_ms);
            digest.number(consumer.active_ms.unwrap_or(u64::MAX));
        }
    }
}

impl Clone for Group {
    fn clone(&self) -> Self {
        let mut copy = Self::new(&self.name, self.last_id, self.entries_read);
        for consumer in self.consumers() {
            let (index, _) = copy.see_consumer(&consumer.name, consumer.seen_ms);
            copy.consumer_mut(index).active_ms = consumer.active_ms;
        }
        self.pending.visit(0, usize::MAX, |pending| {
            let name = &self.consumer(pending.consumer).name;
            let consumer = copy.find_consumer(name).expect("copied above");
            copy.set_pending(Pending { consumer, ..pending });
            true
        });
        copy
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({:?}, {} pending)", self.name.escape_ascii(), self.pending.len())
    }
}

/// The groups of a stream in the order of their names, and their memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    list: Vec<Group>,
    /// Bytes of the groups beyond the list.
    memory: usize,
}

impl Groups {
    pub(crate) fn memory(&self) -> usize {
        self.memory + allocated(self.list.capacity() * size_of::<Group>())
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.list.iter()
    }

    fn place_of(&self, name: &[u8]) -> Result<usize, usize> {
        self.list.binary_search_by(|group| (*group.name).cmp(name))
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Group> {
        self.place_of(name).ok().map(|at| &self.list[at])
    }

    pub(crate) fn get_mut(&mut self, name: &[u8]) -> Option<GroupMut<'_>> {
        let at = self.place_of(name).ok()?;
        let group = &mut self.list[at];
        Some(GroupMut { before: group.memory(), group, total: &mut self.memory })
    }

    /// Adds a group; `false` if the name is taken.
    pub(crate) fn insert(&mut self, group: Group) -> bool {
        let Err(at) = self.place_of(&group.name) else { return false };
        self.memory += group.memory();
        self.list.insert(at, group);
        true
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> bool {
        let Ok(at) = self.place_of(name) else { return false };
        self.memory -= self.list.remove(at).memory();
        true
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        digest.number(self.list.len() as u64);
        self.list.iter().for_each(|group| group.digest(digest));
    }
}

/// A group to be changed, whose memory is accounted when that is done.
pub(crate) struct GroupMut<'a> {
    group: &'a mut Group,
    total: &'a mut usize,
    before: usize,
}

impl std::ops::Deref for GroupMut<'_> {
    type Target = Group;

    fn deref(&self) -> &Group {
        self.group
    }
}

impl std::ops::DerefMut for GroupMut<'_> {
    fn deref_mut(&mut self) -> &mut Group {
        self.group
    }
}

impl Drop for GroupMut<'_> {
    fn drop(&mut self) {
        *self.total = *self.total + self.group.memory() - self.before;
    }
}
