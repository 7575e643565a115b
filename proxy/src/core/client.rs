//! One client connection: who it is, what it sent that is not processed yet, what it is still to
//! be told, and in which order.
//!
//! Memory: an idle client must be cheap (10,000 of them on the smallest plan), so buffers are
//! given back when they run empty and rare state is boxed.

use super::open_reads::OpenReads;
use super::pubsub::Subscriptions;
use super::request::Handle;
use super::tracking::Tracking;
use super::transaction::{ExecRest, Transaction};
use super::users::Account;
use bytes::BytesMut;
use holdfast_proto::bugs;
use holdfast_proto::frame::{Watch, flags};
use holdfast_proto::resp::{Decoder, RawRequest};
use holdfast_proto::slot::Slot;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// A client buffer larger than this is given back when it is empty.
const KEPT_BUFFER_BYTES: usize = 4 * 1024;

/// A place in the reply queue.
#[derive(Debug)]
enum Item {
    Waiting,
    /// Waiting, and the client asked not to be told (CLIENT REPLY).
    Muted,
    Ready(BytesMut),
}

/// Why a client's input is not processed further for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stall {
    None,
    /// Until this item of the reply queue is answered (blocking commands, WATCH).
    Reply(u32),
    /// Until its shard has room for the parked request.
    Shard,
    /// Until replies have gone out: too many requests are unanswered.
    Window,
    /// Until it is known where the script of the parked request is.
    Script,
    /// CLIENT PAUSE.
    Paused,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplyMode {
    On,
    Off,
    /// The next command's reply is dropped.
    SkipNext,
    /// The present command's reply is dropped.
    Skip,
}

/// The client's last unanswered write to a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastWrite {
    pub(crate) shard: u32,
    pub(crate) request: Handle,
}

/// What WATCH has recorded; valid on one shard.
#[derive(Debug)]
pub(crate) struct Watches {
    pub(crate) shard: u32,
    pub(crate) slot: Slot,
    pub(crate) list: Vec<Watch>,
}

/// Names and numbers that CLIENT LIST shows; boxed, only few clients set any.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    pub(crate) name: Vec<u8>,
    pub(crate) lib_name: Vec<u8>,
    pub(crate) lib_version: Vec<u8>,
}

/// One client connection.
pub(crate) struct Client {
    /// As CLIENT ID shows it.
    pub(crate) id: u64,
    /// Tells the uses of a slab entry apart.
    pub(crate) generation: u32,
    pub(crate) addr: SocketAddr,
    pub(crate) local_addr: SocketAddr,
    pub(crate) input: BytesMut,
    /// How far the unfinished request at the front of `input` is understood, if it is long.
    pub(crate) decoder: Option<Box<Decoder>>,
    pub(crate) output: BytesMut,
    replies: VecDeque<Item>,
    /// Number of the first item of `replies`; counts up and wraps.
    first_reply: u32,
    /// Number of the last item that became ready before its turn; meaningless if it is gone.
    last_ready: u32,
    pub(crate) authenticated: bool,
    /// Whose rights it has.
    pub(crate) account: Arc<Account>,
    pub(crate) resp3: bool,
    pub(crate) db: u16,
    pub(crate) reply_mode: ReplyMode,
    pub(crate) labels: Option<Box<Labels>>,
    pub(crate) transaction: Option<Box<Transaction>>,
    pub(crate) watches: Option<Box<Watches>>,
    /// Of the EXEC in flight.
    pub(crate) exec_rest: Option<Box<ExecRest>>,
    /// WATCH found that its keys cannot be watched together any more: EXEC answers null.
    pub(crate) watch_broken: bool,
    pub(crate) stall: Stall,
    /// The request that could not be taken because its shard is full.
    pub(crate) parked: Option<Box<RawRequest>>,
    pub(crate) last_writes: SmallVec<[LastWrite; 1]>,
    /// What its writes must not overtake.
    open_reads: OpenReads,
    /// The blocking command it waits for.
    pub(crate) blocked: Option<Handle>,
    /// QUIT was said: nothing more is read; closes when all is answered.
    pub(crate) quitting: bool,
    /// `None`: not subscribed to anything.
    pub(crate) subscriptions: Option<Box<Subscriptions>>,
    /// `None`: CLIENT TRACKING is off.
    pub(crate) tracking: Option<Box<Tracking>>,
    /// Close at once, whatever is left to write.
    pub(crate) cut: bool,
    /// Close once the output is written.
    pub(crate) closing: bool,
    /// Output is there that the shell was told about.
    pub(crate) dirty: bool,
    /// MONITOR.
    pub(crate) monitor: bool,
    pub(crate) no_evict: bool,
    pub(crate) no_touch: bool,
    pub(crate) created_us: u64,
    pub(crate) active_us: u64,
    /// Index of the last command in the table.
    pub(crate) last_command: u16,
    /// Place of the reply to a change of the metadata that is being tried again.
    pub(crate) proposal_reply: Option<u32>,
}

impl Client {
    /// What the client's settings ask of each of its commands.
    pub(crate) fn frame_flags(&self) -> u8 {
        let resp3 = if self.resp3 { flags::RESP3 } else { 0 };
        resp3 | if self.no_touch { flags::NO_TOUCH } else { 0 }
    }

    pub(crate) fn new(
        id: u64,
        generation: u32,
        addr: SocketAddr,
        local_addr: SocketAddr,
        account: Arc<Account>,
        now_us: u64,
    ) -> Self {
        Self {
            id,
            generation,
            addr,
            local_addr,
            input: BytesMut::new(),
            decoder: None,
            output: BytesMut::new(),
            replies: VecDeque::new(),
            first_reply: 0,
            last_ready: 0,
            authenticated: false,
            account,
            resp3: false,
            db: 0,
            reply_mode: ReplyMode::On,
            labels: None,
            transaction: None,
            watches: None,
            exec_rest: None,
            watch_broken: false,
            stall: Stall::None,
            parked: None,
            last_writes: SmallVec::new(),
            open_reads: OpenReads::default(),
            blocked: None,
            quitting: false,
            subscriptions: None,
            tracking: None,
            cut: false,
            closing: false,
            dirty: false,
            monitor: false,
            no_evict: false,
            no_touch: false,
            created_us: now_us,
            active_us: now_us,
            last_command: super::stats::NO_COMMAND,
            proposal_reply: None,
        }
    }

    /// Requests without an answer, or answered ahead of an earlier one.
    pub(crate) fn outstanding(&self) -> usize {
        self.replies.len()
    }

    /// Reserves the next place in the reply order.
    pub(crate) fn expect_reply(&mut self) -> u32 {
        let number = self.first_reply.wrapping_add(self.replies.len() as u32);
        let muted = !matches!(self.reply_mode, ReplyMode::On | ReplyMode::SkipNext);
        self.replies.push_back(if muted { Item::Muted } else { Item::Waiting });
        number
    }

    /// Whether an earlier reply than this one is still out.
    pub(crate) fn waits_before(&self, reply: u32) -> bool {
        reply != self.first_reply
    }

    /// The last place in the reply order that waits for something.
    pub(crate) fn last_outstanding(&self) -> Option<u32> {
        let waits = |item: &Item| matches!(item, Item::Waiting | Item::Muted);
        let offset = self.replies.iter().rposition(waits)?;
        Some(self.first_reply.wrapping_add(offset as u32))
    }

    /// Fills a reserved place and moves everything that is ready to the output.
    pub(crate) fn answer(&mut self, number: u32, reply: &[u8]) {
        let offset = number.wrapping_sub(self.first_reply) as usize;
        let Some(item) = self.replies.get_mut(offset) else { return };
        let muted = matches!(item, Item::Muted);
        if offset > 0 && !bugs::active(bugs::Bug::RepliesOutOfOrder) {
            *item = Item::Ready(if muted { BytesMut::new() } else { BytesMut::from(reply) });
            self.note_ready(number);
            return;
        }
        if !muted {
            self.output.extend_from_slice(reply);
        }
        self.pop_reply();
        while let Some(Item::Ready(reply)) = self.replies.front() {
            self.output.extend_from_slice(reply);
            self.pop_reply();
        }
        if self.replies.is_empty() && self.replies.capacity() > 64 {
            self.replies = VecDeque::new();
        }
    }

    fn pop_reply(&mut self) {
        self.replies.pop_front();
        self.first_reply = self.first_reply.wrapping_add(1);
    }

    /// Answers a command at once: straight to the output when nothing is ahead of it.
    pub(crate) fn reply_now(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if !matches!(self.reply_mode, ReplyMode::On | ReplyMode::SkipNext) {
            return;
        }
        if self.replies.is_empty() {
            write(&mut self.output);
            return;
        }
        let mut reply = BytesMut::new();
        write(&mut reply);
        self.push_ready(reply);
    }

    /// As [`Client::expect_reply`], for what CLIENT REPLY does not silence.
    pub(crate) fn expect_unmuted_reply(&mut self) -> u32 {
        let number = self.first_reply.wrapping_add(self.replies.len() as u32);
        self.replies.push_back(Item::Waiting);
        number
    }

    /// As [`Client::reply_now`], for what CLIENT REPLY does not silence.
    pub(crate) fn reply_pushed(&mut self, reply: &[u8]) {
        if self.replies.is_empty() {
            self.output.extend_from_slice(reply);
        } else {
            self.push_ready(BytesMut::from(reply));
        }
    }

    /// Tells the client something that it did not ask for: after everything that is answered, be it
    /// sent or not, and before whatever is not. How much then waits to be written with it.
    pub(crate) fn push(&mut self, message: &[u8]) -> usize {
        let offset = self.last_ready.wrapping_sub(self.first_reply) as usize;
        let buffer = match self.replies.get_mut(offset) {
            Some(Item::Ready(reply)) => reply,
            _ => &mut self.output,
        };
        buffer.extend_from_slice(message);
        buffer.len()
    }

    fn push_ready(&mut self, reply: BytesMut) {
        let number = self.first_reply.wrapping_add(self.replies.len() as u32);
        self.replies.push_back(Item::Ready(reply));
        self.note_ready(number);
    }

    fn note_ready(&mut self, number: u32) {
        let ahead = |number: u32| number.wrapping_sub(self.first_reply) as usize;
        let known = ahead(self.last_ready);
        if known >= self.replies.len() || ahead(number) > known {
            self.last_ready = number;
        }
    }

    /// Closes the connection once everything asked before is answered.
    pub(crate) fn close_when_answered(&mut self) {
        self.quitting = true;
    }

    /// The last write to a shard, if it is remembered.
    pub(crate) fn last_write(&self, shard: u32) -> Handle {
        self.last_writes
            .iter()
            .find(|write| write.shard == shard)
            .map_or(Handle::NOWHERE, |write| write.request)
    }

    pub(crate) fn remember_write(&mut self, shard: u32, request: Handle) {
        match self.last_writes.iter_mut().find(|write| write.shard == shard) {
            Some(write) => write.request = request,
            None => self.last_writes.push(LastWrite { shard, request }),
        }
    }

    /// Notes a read that will be answered at `reply`; `slot` is `None` if it looks at several.
    pub(crate) fn remember_read(&mut self, slot: Option<Slot>, reply: u32) {
        if self.replies.len() == 1 && !self.open_reads.is_empty() {
            // Nothing but this read is outstanding.
            self.open_reads.clear();
        }
        self.open_reads.add(slot, reply, self.first_reply);
    }

    /// The reply that a write must wait for so that it does not overtake an earlier read.
    pub(crate) fn read_before_write(&mut self, slot: Option<Slot>) -> Option<u32> {
        if self.open_reads.is_empty() {
            return None;
        }
        if self.replies.is_empty() {
            self.open_reads.clear();
            return None;
        }
        self.open_reads.before_write(slot).find(|reply| !self.is_answered(*reply))
    }

    fn is_answered(&self, reply: u32) -> bool {
        let offset = reply.wrapping_sub(self.first_reply) as usize;
        !matches!(self.replies.get(offset), Some(Item::Waiting | Item::Muted))
    }

    /// Gives memory back while nothing is going on.
    pub(crate) fn shrink_if_idle(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.capacity() > KEPT_BUFFER_BYTES {
            self.output = BytesMut::new();
        }
        if self.replies.is_empty() {
            self.last_writes = SmallVec::new();
            self.open_reads.clear();
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        self.labels.as_ref().map_or(b"", |labels| &labels.name)
    }

    pub(crate) fn labels_mut(&mut self) -> &mut Labels {
        self.labels.get_or_insert_default()
    }
}

/// The clients of a worker.
pub(crate) struct Clients {
    entries: Vec<Option<Box<Client>>>,
    free: Vec<u32>,
    generation: u32,
    len: usize,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), generation: 0, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a client that `make` builds from its generation.
    pub(crate) fn insert(&mut self, make: impl FnOnce(u32) -> Client) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let client = Some(Box::new(make(self.generation)));
        self.len += 1;
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = client;
            return index;
        }
        self.entries.push(client);
        (self.entries.len() - 1) as u32
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Box<Client>> {
        let client = self.entries.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.len -= 1;
        Some(client)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Client> {
        self.entries.get(index as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Client> {
        self.entries.get_mut(index as usize)?.as_deref_mut()
    }

    /// The client, if the entry still is the same one.
    pub(crate) fn of_generation(&mut self, index: u32, generation: u32) -> Option<&mut Client> {
        self.get_mut(index).filter(|client| client.generation == generation)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Client)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, client)| Some((index as u32, client.as_deref()?)))
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<u32> {
        self.iter().find(|(_, client)| client.id == id).map(|(index, _)| index)
    }
}
