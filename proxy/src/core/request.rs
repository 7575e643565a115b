//! Every request that is not answered yet, and the two orders it stands in.
//!
//! A request lives from the moment it is routed until its final answer. It is linked into the list
//! of its shard (the order in which requests are sent, and sent again after a failover) and, if it
//! is a write that was sent, into the list of its lane (the order of `seq`). Window and hold queue
//! are the same list: holding means nothing but marking its requests as not sent.
//!
//! Hot path: entries are reused, nothing here allocates once the slab has grown.

use super::lane::Lanes;
use bytes::Bytes;
use holdfast_proto::frame::{ReadOp, RecordOp};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::slot::Slot;

/// "No entry" in the links of the lists.
pub(crate) const NONE: u32 = u32::MAX;

/// A reference that notices when the entry has been reused for another request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handle {
    pub(crate) index: u32,
    birth: u32,
}

impl Handle {
    /// Refers to no request.
    pub(crate) const NOWHERE: Self = Self { index: NONE, birth: 0 };
}

/// Who waits for the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The client left or was answered with an error, or the proxy itself asked.
    Nobody,
    /// Item `reply` of the reply queue of a client.
    Client { client: u32, generation: u32, reply: u32 },
    /// A question after the body of a script.
    Lookup { index: u32 },
    /// A command queued in a client's transaction that EXEC waits for.
    Queued { client: u32, generation: u32, position: u32 },
    /// One part of a command that went to several shards.
    Scatter { index: u32, part: u32 },
}

/// What is asked of the shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read(ReadOp),
    Write(RecordOp),
}

/// Where a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// To be sent when its shard can take it. If it was sent before, `attempts` is not 0.
    Waiting,
    /// Sent to the present primary.
    Sent,
    /// Answered "blocked": the shard keeps it and will answer under the same tag.
    Blocked,
}

/// One unanswered request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) owner: Owner,
    pub(crate) kind: Kind,
    pub(crate) progress: Progress,
    /// Flags of the record or read frame.
    pub(crate) flags: u8,
    pub(crate) db: u16,
    pub(crate) slot: Slot,
    /// Index of the shard in the router.
    pub(crate) shard: u32,
    /// How often it was sent. 0 means that it surely was not executed.
    pub(crate) attempts: u32,
    /// Position in its lane; given when it is sent for the first time. 0 for reads.
    pub(crate) seq: u64,
    /// The session under which `seq` was given.
    pub(crate) worker: WorkerId,
    /// Counts up with each request of the worker.
    pub(crate) order: u64,
    /// A read waits for the writes of the same client up to this one.
    pub(crate) depends_on: Handle,
    /// When the client's bytes were read, in microseconds of the core's clock.
    pub(crate) received_us: u64,
    /// Which command, for statistics.
    pub(crate) command: u16,
    /// It stands in the list of its lane.
    pub(crate) in_lane: bool,
    /// Has it been answered "blocked" ever: its kept reply is to be released by a record.
    pub(crate) was_blocked: bool,
    /// The shard refused it because the session expired, at its first sending.
    pub(crate) refused_unexecuted: bool,
    pub(crate) body: Bytes,
}

struct Entry {
    request: Option<Request>,
    /// Value of `generation` when the entry was taken.
    birth: u32,
    /// Grows with each sending and each reuse; part of the tag, so that an answer to an older
    /// sending is told from one to the present sending.
    generation: u32,
    shard_links: Links,
    lane_links: Links,
}

/// Neighbours in one of the two lists; `next` also links free entries.
#[derive(Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

const UNLINKED: Links = Links { previous: NONE, next: NONE };

/// Ends of a list of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    pub(crate) head: u32,
    pub(crate) tail: u32,
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: NONE, tail: NONE };

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

/// The slab of requests.
pub(crate) struct Requests {
    entries: Vec<Entry>,
    free: u32,
    len: usize,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: NONE, len: 0 }
    }

    /// How many requests are not answered.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, request: Request) -> u32 {
        self.len += 1;
        if self.free == NONE {
            let index = self.entries.len() as u32;
            self.entries.push(Entry {
                request: Some(request),
                birth: 0,
                generation: 0,
                shard_links: UNLINKED,
                lane_links: UNLINKED,
            });
            return index;
        }
        let index = self.free;
        let entry = &mut self.entries[index as usize];
        self.free = entry.shard_links.next;
        entry.generation = entry.generation.wrapping_add(1);
        entry.birth = entry.generation;
        entry.shard_links = UNLINKED;
        entry.lane_links = UNLINKED;
        entry.request = Some(request);
        index
    }

    /// Takes a request out of the slab. It must not be linked in any list.
    pub(crate) fn remove(&mut self, index: u32) -> Request {
        let entry = &mut self.entries[index as usize];
        let request = entry.request.take().expect("a linked entry holds a request");
        // Answers to any sending of it are late from now on.
        entry.generation = entry.generation.wrapping_add(1);
        entry.shard_links = Links { previous: NONE, next: self.free };
        self.free = index;
        self.len -= 1;
        request
    }

    pub(crate) fn get(&self, index: u32) -> &Request {
        self.entries[index as usize].request.as_ref().expect("a linked entry holds a request")
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Request {
        self.entries[index as usize].request.as_mut().expect("a linked entry holds a request")
    }

    pub(crate) fn handle(&self, index: u32) -> Handle {
        Handle { index, birth: self.entries[index as usize].birth }
    }

    /// The request that a handle was made for, if it is still unanswered.
    pub(crate) fn resolve(&self, handle: Handle) -> Option<&Request> {
        let entry = self.entries.get(handle.index as usize)?;
        if entry.birth != handle.birth { None } else { entry.request.as_ref() }
    }

    /// A tag for a new sending; answers to earlier sendings no longer match.
    pub(crate) fn renew_tag(&mut self, index: u32) -> u64 {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        u64::from(entry.generation) << 32 | u64::from(index)
    }

    /// The entry that a tag names, if it is the tag of its latest sending.
    pub(crate) fn of_tag(&self, tag: u64) -> Option<u32> {
        let index = tag as u32;
        let entry = self.entries.get(index as usize)?;
        let current = entry.generation == (tag >> 32) as u32 && entry.request.is_some();
        current.then_some(index)
    }

    /// The write that a read must wait for, if any is unanswered: the last one before it in the lane
    /// of its slot, else the client's last one. Writes to different slots may be executed out of
    /// order when a shard refuses some of them for a moment, so the client's last one alone would
    /// not do.
    pub(crate) fn dependency(&self, lanes: &Lanes, read: &Request) -> Option<&Request> {
        if read.depends_on == Handle::NOWHERE {
            return None;
        }
        let mut index = lanes.lane(read.slot).unanswered.tail;
        while index != NONE {
            let write = self.get(index);
            if write.order < read.order {
                return Some(write);
            }
            index = self.entries[index as usize].lane_links.previous;
        }
        self.resolve(read.depends_on)
    }

    pub(crate) fn next_in_shard(&self, index: u32) -> u32 {
        self.entries[index as usize].shard_links.next
    }

    pub(crate) fn push_to_shard(&mut self, list: &mut List, index: u32) {
        push(&mut self.entries, list, index, |entry| &mut entry.shard_links);
    }

    pub(crate) fn unlink_from_shard(&mut self, list: &mut List, index: u32) {
        unlink(&mut self.entries, list, index, |entry| &mut entry.shard_links);
    }

    pub(crate) fn push_to_lane(&mut self, list: &mut List, index: u32) {
        push(&mut self.entries, list, index, |entry| &mut entry.lane_links);
    }

    pub(crate) fn unlink_from_lane(&mut self, list: &mut List, index: u32) {
        unlink(&mut self.entries, list, index, |entry| &mut entry.lane_links);
    }

    /// The smallest unanswered seq of a lane.
    pub(crate) fn first_unacked(&self, lanes: &Lanes, slot: Slot) -> u64 {
        let lane = lanes.lane(slot);
        if lane.unanswered.is_empty() { lane.next_seq } else { self.get(lane.unanswered.head).seq }
    }
}

fn push(
    entries: &mut [Entry],
    list: &mut List,
    index: u32,
    links: impl Fn(&mut Entry) -> &mut Links,
) {
    *links(&mut entries[index as usize]) = Links { previous: list.tail, next: NONE };
    if list.tail == NONE {
        list.head = index;
    } else {
        links(&mut entries[list.tail as usize]).next = index;
    }
    list.tail = index;
}

fn unlink(
    entries: &mut [Entry],
    list: &mut List,
    index: u32,
    links: impl Fn(&mut Entry) -> &mut Links,
) {
    let Links { previous, next } = std::mem::replace(links(&mut entries[index as usize]), UNLINKED);
    if previous == NONE {
        list.head = next;
    } else {
        links(&mut entries[previous as usize]).next = next;
    }
    if next == NONE {
        list.tail = previous;
    } else {
        links(&mut entries[next as usize]).previous = previous;
    }
}
