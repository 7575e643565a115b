//! MULTI, EXEC, WATCH: commands are queued here and travel as one record.
//!
//! WATCH reads the versions of its keys from their shard; EXEC carries them along and the shard
//! compares when it applies the record. So no node keeps state for a connection, and a transaction
//! survives a failover like any other write.

use super::client::{Client, Stall, Watches};
use super::flow::{Draft, READ_COMMAND};
use super::local::{ACCEPT, Handler, LocalCommand};
use super::pubsub::{PushCommand, pubsub_help, run_subscription};
use super::request::{Handle, Kind, Owner};
use super::session::{Resolved, Route};
use super::users::Account;
use super::{WorkerCore, local, respond, stats};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_proto::command::{self, flag};
use holdfast_proto::frame::{ReadOp, RecordOp, Watch, flags};
use holdfast_proto::resp::{RawRequest, ReplyScanner, encode};
use holdfast_proto::slot::Slot;

/// Commands of one transaction together hold at most this many bytes. A guess far above use.
const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Watched keys of a client; the record counts them in 16 bits.
const WATCHES_MAX: usize = u16::MAX as usize;

/// The commands queued since MULTI.
#[derive(Default)]
pub(crate) struct Transaction {
    queue: Vec<Queued>,
    bytes: usize,
    /// Where the keys live; `None` as long as no command had one.
    place: Option<(u32, Slot)>,
    /// A command was refused: EXEC will be, too.
    pub(crate) aborted: bool,
    /// Of the users, when its first command was checked.
    users_version: u64,
    /// By the last SELECT in it.
    db: Option<u16>,
    /// Nodes have been asked for the queued commands that they answer.
    asked: bool,
}

/// One queued command.
enum Queued {
    /// Goes into the record.
    Shard(RawRequest),
    /// Answered here, when the record's answer is there.
    Local(LocalCommand, RawRequest),
    /// PUBSUB: a node is asked when EXEC comes, and EXEC waits for the answer. (The state machine
    /// knows no subscribers.)
    Node(RawRequest, Option<Bytes>),
}

/// What is left to do when the answer of an EXEC arrives.
pub(crate) struct ExecRest {
    /// The reply it belongs to.
    reply: u32,
    /// In the order of the queue.
    parts: Vec<Part>,
    /// Database after the transaction, if it had a SELECT.
    db: Option<u16>,
}

/// Where an element of the reply to EXEC comes from.
enum Part {
    /// It is the next element of the shard's answer.
    Shard,
    Local(LocalCommand, RawRequest),
    Known(Bytes),
}

impl WorkerCore {
    pub(crate) fn handle_multi(&mut self, index: u32) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if client.transaction.is_some() {
            return self.reply_error(index, respond::NESTED_MULTI);
        }
        let users_version = self.users.version;
        client.transaction =
            Some(Box::new(Transaction { users_version, ..Transaction::default() }));
        self.reply_with(index, encode::ok);
    }

    pub(crate) fn handle_discard(&mut self, index: u32) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if client.transaction.take().is_none() {
            return self.reply_error(index, respond::DISCARD_WITHOUT_MULTI);
        }
        client.forget_watches();
        self.reply_with(index, encode::ok);
    }

    pub(crate) fn handle_unwatch(&mut self, index: u32) {
        if let Some(client) = self.clients.get_mut(index) {
            client.forget_watches();
        }
        self.reply_with(index, encode::ok);
    }

    /// A command between MULTI and EXEC.
    pub(crate) fn queue_in_transaction(
        &mut self,
        index: u32,
        resolved: Resolved,
        request: RawRequest,
    ) {
        if resolved.spec.flags.has(flag::NO_MULTI) {
            return self.reject(index, resolved.index, respond::NOT_IN_MULTI);
        }
        let request = if matches!(resolved.handler, Handler::Script) {
            match self.with_script(index, resolved, request) {
                Some(request) => request,
                None => return,
            }
        } else {
            request
        };
        let queued = match resolved.handler {
            Handler::Data | Handler::Spread(_) | Handler::Script | Handler::ScriptCache => {
                if let Err(text) = self.place_in_transaction(index, resolved, &request) {
                    return self.reject(index, resolved.index, text);
                }
                Queued::Shard(request)
            }
            Handler::Local(_) if resolved.spec.name == "select" => Queued::Shard(request),
            // Its answer comes from the sentinels; a transaction waits for its shard only.
            Handler::Local(_)
                if matches!(
                    resolved.spec.name,
                    "config|set" | "acl|setuser" | "acl|deluser" | "debug"
                ) =>
            {
                return self.reject(index, resolved.index, respond::NOT_IN_MULTI);
            }
            Handler::Local(run) => Queued::Local(run, request),
            // Without effect here, as in Redis: EXEC compares the watches all the same.
            Handler::Unwatch => Queued::Local(ACCEPT, request),
            Handler::Push(PushCommand::Subscription) => Queued::Local(run_subscription, request),
            // Delivered by whichever shard executes the transaction.
            Handler::Push(PushCommand::Publish { .. }) => Queued::Shard(request),
            Handler::Push(PushCommand::Introspect) if is_help(&request) => {
                Queued::Local(pubsub_help, request)
            }
            Handler::Push(PushCommand::Introspect) => Queued::Node(request, None),
            Handler::Unsupported => {
                let text = respond::not_supported(resolved.spec);
                return self.reject(index, resolved.index, &text);
            }
            _ => return self.reject(index, resolved.index, respond::NOT_IN_MULTI),
        };
        let queued = queued.detached();
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(transaction) = &mut client.transaction else { return };
        transaction.bytes += queued.len_bytes();
        if transaction.bytes > TRANSACTION_BYTES_MAX {
            transaction.queue.clear();
            return self.reject(index, resolved.index, "ERR the transaction is too large");
        }
        if resolved.spec.name == "select" {
            transaction.db = queued.selected().or(transaction.db);
        }
        transaction.queue.push(queued);
        self.reply_with(index, |out| encode::simple(out, "QUEUED"));
    }

    /// All keys of a transaction live in one slot, unless there is one shard only.
    fn place_in_transaction(
        &mut self,
        index: u32,
        resolved: Resolved,
        request: &RawRequest,
    ) -> Result<(), &'static str> {
        let db = self.db_of(index);
        let place = match self.route(db, resolved.spec, request) {
            Route::One { shard, slot } => (shard, slot),
            Route::Keyless | Route::Invalid => match *self.router.serving_shards() {
                [shard] => (shard, self.keyless_slot(shard)),
                [] => return Err(respond::SLOT_NOT_SERVED),
                _ => return Err(respond::CROSSSLOT),
            },
            Route::Many => return Err(respond::CROSSSLOT),
            Route::Unserved => return Err(respond::SLOT_NOT_SERVED),
        };
        let several = self.router.shards.len() > 1;
        let client = self.clients.get_mut(index);
        let Some(transaction) = client.and_then(|client| client.transaction.as_mut()) else {
            return Ok(());
        };
        match transaction.place {
            None => transaction.place = Some(place),
            Some((_, slot)) if several && slot != place.1 => return Err(respond::CROSSSLOT),
            Some(_) => {}
        }
        Ok(())
    }

    /// Asks a node for the answers that only nodes have; whether EXEC has to wait for them.
    fn ask_before_exec(&mut self, index: u32) -> bool {
        let Some(client) = self.clients.get_mut(index) else { return false };
        let (generation, db) = (client.generation, client.db);
        let flags = client.frame_flags() | flags::KEYLESS;
        let Some(transaction) = &mut client.transaction else { return false };
        if transaction.aborted || std::mem::replace(&mut transaction.asked, true) {
            return false;
        }
        let asks = transaction.queue.iter().zip(0u32..).filter_map(|(queued, position)| {
            let Queued::Node(request, _) = queued else { return None };
            Some((position, request.raw.clone()))
        });
        let asks: Vec<(u32, Bytes)> = asks.collect();
        // Any primary knows. Without one, the parts say so.
        let Some(&shard) = self.router.serving_shards().first() else { return false };
        let waits = !asks.is_empty();
        for (position, body) in asks {
            self.submit(Draft {
                owner: Owner::Queued { client: index, generation, position },
                kind: READ_COMMAND,
                flags,
                db,
                slot: self.keyless_slot(shard),
                shard,
                depends_on: Handle::NOWHERE,
                command: stats::NO_COMMAND,
                body,
            });
        }
        waits
    }

    /// A node has answered a queued command; after the last one EXEC goes on.
    pub(crate) fn queued_answered(
        &mut self,
        index: u32,
        generation: u32,
        position: u32,
        payload: &[u8],
    ) {
        let Some(client) = self.clients.of_generation(index, generation) else { return };
        let Some(transaction) = &mut client.transaction else { return };
        if let Some(Queued::Node(_, answer)) = transaction.queue.get_mut(position as usize) {
            *answer = Some(Bytes::copy_from_slice(payload));
        }
        if !transaction.queue.iter().any(|queued| matches!(queued, Queued::Node(_, None))) {
            self.unstall(vec![(index, generation)]);
        }
    }

    pub(crate) fn handle_exec(&mut self, index: u32, resolved: Resolved, request: RawRequest) {
        if self.ask_before_exec(index) {
            return self.park(index, request, Stall::Script);
        }
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(transaction) = client.transaction.take() else {
            return self.reply_error(index, respond::EXEC_WITHOUT_MULTI);
        };
        let watches = client.watches.take();
        let broken = std::mem::take(&mut client.watch_broken);
        let resp3 = client.resp3;
        if transaction.aborted {
            return self.reply_error(index, respond::EXECABORT);
        }
        if transaction.users_version != self.users.version
            && let Some(text) = self.recheck_transaction(index, transaction.requests())
        {
            return self.reply_error(index, &text);
        }
        if broken {
            return self.reply_with(index, |out| encode::null_array(out, resp3));
        }
        let has_records = transaction.queue.iter().any(|q| matches!(q, Queued::Shard(_)));
        if !has_records && watches.is_none() {
            return self.exec_here(index, *transaction);
        }
        let Some((shard, slot)) = self.place_of_exec(&transaction, watches.as_deref()) else {
            return self.reply_error(index, respond::CROSSSLOT);
        };
        let Some(client) = self.clients.get(index) else { return };
        let body = encode_exec(&transaction, watches.as_deref(), &client.account);
        let kind = Kind::Write(RecordOp::Exec);
        let flags = self.script_flags(slot, false);
        let Some((reply, _)) =
            self.submit_for(index, resolved.index, kind, shard, slot, body, flags)
        else {
            return;
        };
        if let Some(rest) = ExecRest::of(reply, *transaction)
            && let Some(client) = self.clients.get_mut(index)
        {
            client.exec_rest = Some(Box::new(rest));
            client.stall = Stall::Reply(reply);
        }
    }

    /// The shard and lane of the record; `None` if the watched keys live in another shard.
    fn place_of_exec(
        &self,
        transaction: &Transaction,
        watches: Option<&Watches>,
    ) -> Option<(u32, Slot)> {
        match (transaction.place, watches) {
            (Some(place), None) => Some(place),
            (Some((shard, slot)), Some(watches)) => {
                (watches.shard == shard).then_some((shard, slot))
            }
            (None, Some(watches)) => Some((watches.shard, watches.slot)),
            // Nothing but SELECT.
            (None, None) => {
                let shard = *self.router.serving_shards().first()?;
                Some((shard, self.keyless_slot(shard)))
            }
        }
    }

    /// A transaction of commands that no shard is needed for.
    fn exec_here(&mut self, index: u32, transaction: Transaction) {
        let mut reply = BytesMut::new();
        encode::array(&mut reply, transaction.queue.len());
        for queued in transaction.queue {
            match queued {
                Queued::Local(run, request) => self.run_into(index, run, &request, &mut reply),
                Queued::Node(_, answer) => reply.extend_from_slice(&known(answer)),
                Queued::Shard(_) => {}
            }
        }
        self.reply_with(index, |out| out.extend_from_slice(&reply));
    }

    fn run_into(
        &mut self,
        index: u32,
        run: LocalCommand,
        request: &RawRequest,
        reply: &mut BytesMut,
    ) {
        let start = reply.len();
        run(self, index, request, reply);
        if reply.len() == start {
            // Commands that answer nothing (CLIENT REPLY OFF) still need their element.
            encode::ok(reply);
        }
    }

    /// Completes the shard's answer to an EXEC with the replies made here.
    /// `None`: there are none.
    pub(crate) fn finish_exec(
        &mut self,
        index: u32,
        reply: u32,
        payload: &[u8],
    ) -> Option<BytesMut> {
        let databases = self.databases();
        let client = self.clients.get_mut(index)?;
        let rest = client.exec_rest.take_if(|rest| rest.reply == reply)?;
        let mut elements = elements_of(payload)?;
        if let Some(db) = rest.db.filter(|db| u32::from(*db) < databases) {
            client.db = db;
        }
        let mut out = BytesMut::new();
        encode::array(&mut out, rest.parts.len());
        for part in rest.parts {
            match part {
                Part::Local(run, request) => self.run_into(index, run, &request, &mut out),
                Part::Known(answer) => out.extend_from_slice(&answer),
                Part::Shard => {
                    let len = ReplyScanner::default().scan(elements).ok().flatten().unwrap_or(0);
                    let (element, others) = elements.split_at(len);
                    out.extend_from_slice(element);
                    elements = others;
                }
            }
        }
        Some(out)
    }

    pub(crate) fn handle_watch(&mut self, index: u32, resolved: Resolved, request: RawRequest) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if client.transaction.is_some() {
            return self.reply_error(index, respond::WATCH_INSIDE_MULTI);
        }
        let db = self.db_of(index);
        let (shard, slot) = match self.route(db, resolved.spec, &request) {
            Route::One { shard, slot } => (shard, slot),
            Route::Unserved => return self.reject(index, resolved.index, respond::SLOT_NOT_SERVED),
            _ => return self.reject(index, resolved.index, respond::CROSSSLOT),
        };
        let Some(client) = self.clients.get(index) else { return };
        let watched = client.watches.as_deref();
        let too_many = watched.map_or(0, |w| w.list.len()) + request.len() > WATCHES_MAX;
        if too_many || watched.is_some_and(|watches| watches.shard != shard) {
            return self.reject(index, resolved.index, respond::CROSSSLOT);
        }
        let mut keys = BytesMut::with_capacity(request.raw.len());
        encode::array(&mut keys, request.len() - 1);
        for key in request.iter().skip(1) {
            encode::bulk(&mut keys, key);
        }
        let kind = Kind::Read(ReadOp::WatchVersions);
        let body = keys.freeze();
        if let Some((reply, _)) = self.submit_for(index, resolved.index, kind, shard, slot, body, 0)
            && let Some(client) = self.clients.get_mut(index)
        {
            // EXEC must have the versions when it leaves.
            client.stall = Stall::Reply(reply);
        }
    }

    /// The versions that WATCH asked for.
    pub(crate) fn take_watches(&mut self, index: u32, shard: u32, slot: Slot, mut payload: &[u8]) {
        if let Some(client) = self.clients.get_mut(index) {
            let watches = client
                .watches
                .get_or_insert_with(|| Box::new(Watches { shard, slot, list: Vec::new() }));
            if watches.shard != shard {
                client.watch_broken = true;
            } else {
                while payload.len() >= 12 {
                    let (index, version) = (payload.get_u32_le(), payload.get_u64_le());
                    watches.list.push(Watch { index, version });
                }
            }
        }
    }
}

impl Transaction {
    fn requests(&self) -> impl Iterator<Item = &RawRequest> {
        self.queue.iter().map(|queued| match queued {
            Queued::Shard(request) | Queued::Local(_, request) | Queued::Node(request, _) => {
                request
            }
        })
    }

    /// The database that a queued SELECT chooses.
    pub(crate) fn selected(&self) -> Option<u16> {
        self.db
    }

    /// Commands queued so far.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

impl Client {
    pub(crate) fn forget_watches(&mut self) {
        self.watches = None;
        self.watch_broken = false;
    }
}

impl Queued {
    /// A transaction may stay open for long: small commands are copied, so that they do not hold
    /// the buffer that they came in with others.
    fn detached(mut self) -> Self {
        const COPIED_BYTES_MAX: usize = 16 * 1024;
        let (Self::Shard(request) | Self::Local(_, request) | Self::Node(request, _)) = &mut self;
        if request.raw.len() <= COPIED_BYTES_MAX {
            request.raw = Bytes::copy_from_slice(&request.raw);
        }
        self
    }

    /// The database of a SELECT.
    fn selected(&self) -> Option<u16> {
        let (Self::Shard(request) | Self::Local(_, request) | Self::Node(request, _)) = self;
        std::str::from_utf8(request.arg(1)).ok()?.parse().ok()
    }

    fn len_bytes(&self) -> usize {
        let (Self::Shard(request) | Self::Local(_, request) | Self::Node(request, _)) = self;
        request.raw.len()
    }
}

impl ExecRest {
    /// `None` when the shard's answer is the whole answer.
    fn of(reply: u32, transaction: Transaction) -> Option<Self> {
        let mut db = None;
        let mut simple = true;
        let mut parts = Vec::with_capacity(transaction.queue.len());
        for queued in transaction.queue {
            parts.push(match queued {
                Queued::Shard(request) => {
                    if request.arg(0).eq_ignore_ascii_case(b"select") && request.len() == 2 {
                        db = std::str::from_utf8(request.arg(1))
                            .ok()
                            .and_then(|text| text.parse().ok())
                            .or(db);
                    }
                    Part::Shard
                }
                Queued::Local(run, request) => {
                    simple = false;
                    Part::Local(run, request)
                }
                Queued::Node(_, answer) => {
                    simple = false;
                    Part::Known(known(answer))
                }
            });
        }
        (!simple || db.is_some()).then_some(Self { reply, parts, db })
    }
}

/// The record's body as `RecordOp::Exec` says.
fn encode_exec(transaction: &Transaction, watches: Option<&Watches>, account: &Account) -> Bytes {
    let watches = watches.map_or(&[][..], |watches| &watches.list);
    let mut body = BytesMut::with_capacity(8 + watches.len() * 12 + transaction.bytes);
    body.put_u16_le(watches.len() as u16);
    for watch in watches {
        body.put_u32_le(watch.index);
        body.put_u64_le(watch.version);
    }
    let records = transaction.queue.iter().filter_map(|queued| match queued {
        Queued::Shard(request) => Some(request),
        Queued::Local(..) | Queued::Node(..) => None,
    });
    body.put_u32_le(records.clone().count() as u32);
    for request in records {
        if !account.unrestricted && is_script(request) {
            body.put_slice(&account.script_body(request));
        } else {
            body.put_slice(&request.raw);
        }
    }
    body.freeze()
}

/// What a node answered; nobody was there to ask otherwise.
fn known(answer: Option<Bytes>) -> Bytes {
    answer.unwrap_or_else(|| {
        let mut out = BytesMut::new();
        encode::error(&mut out, respond::SLOT_NOT_SERVED);
        out.freeze()
    })
}

/// PUBSUB HELP.
fn is_help(request: &RawRequest) -> bool {
    request.arg(1).eq_ignore_ascii_case(b"help")
}

/// Calls commands of its own.
fn is_script(request: &RawRequest) -> bool {
    let spec = command::lookup(request.arg(0));
    spec.is_some_and(|spec| matches!(local::table().handler(spec.index), Handler::Script))
}

/// What follows the header of an array reply; `None` for a null or an error.
fn elements_of(payload: &[u8]) -> Option<&[u8]> {
    if payload.first() != Some(&b'*') || payload.get(1) == Some(&b'-') {
        return None;
    }
    let end = memchr::memchr(b'\n', payload)? + 1;
    Some(&payload[end..])
}
