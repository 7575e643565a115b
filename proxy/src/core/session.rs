//! A client's bytes become commands, and commands become requests or replies.
//!
//! The order of the checks is Redis's (`processCommand` in `server.c`): known, arity,
//! authentication, transaction, then routing.

use super::client::{ReplyMode, Stall};
use super::flow::{Draft, READ_COMMAND, WRITE_COMMAND};
use super::local::{Handler, LocalCommand, SENTINEL, debug_object, may_debug, table};
use super::pubsub::confinement_error;
use super::request::{Handle, Kind, Owner, Request};
use super::{WorkerCore, respond, stats};
use bytes::{Bytes, BytesMut};
use holdfast_proto::command::{self, CommandSpec, Group, Support, UnknownCommand, flag};
use holdfast_proto::frame::{AnswerStatus, ReadOp, RecordOp, flags};
use holdfast_proto::resp::{Decoded, Decoder, Limits, RawRequest, encode};
use holdfast_proto::slot::Slot;
use smallvec::SmallVec;

/// A client with this many unanswered commands is not read from until half of them are answered.
const WINDOW_REQUESTS_MAX: usize = 16 * 1024;

/// Of an unfinished request this long it is remembered how far it is understood; a shorter one is
/// looked at afresh when more of it comes.
const KEPT_DECODER_BYTES: usize = 4 * 1024;

/// A command that passed the first checks.
#[derive(Clone, Copy)]
pub(crate) struct Resolved {
    pub(crate) spec: &'static CommandSpec,
    /// Index in the table.
    pub(crate) index: u16,
    pub(crate) handler: Handler,
}

/// Where a command with keys goes.
pub(crate) enum Route {
    /// All keys are in this shard, the first one in this slot.
    One { shard: u32, slot: Slot },
    /// Keys in several slots, and there are several shards.
    Many,
    /// The command names no key.
    Keyless,
    /// No shard serves the slot.
    Unserved,
    /// The keys cannot be told from the arguments.
    Invalid,
}

impl WorkerCore {
    /// Processes new bytes of a client; `chunk` is cut out of a shared buffer, so what remains of
    /// it is copied.
    pub(crate) fn process_input(&mut self, index: u32, mut chunk: BytesMut) {
        self.process_commands(index, &mut chunk);
        let Some(client) = self.clients.get_mut(index) else { return };
        if !chunk.is_empty() && !client.closing {
            client.input = BytesMut::from(&chunk[..]);
        }
        if !client.output.is_empty() || client.closing {
            self.mark_client(index);
        }
    }

    /// Processes what a client's own buffer holds; the rest stays where it is, so that a large
    /// request that comes in many pieces is not copied with each of them.
    pub(crate) fn process_kept_input(&mut self, index: u32) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let generation = client.generation;
        let mut input = std::mem::take(&mut client.input);
        self.process_commands(index, &mut input);
        let Some(client) = self.clients.of_generation(index, generation) else { return };
        if !client.closing {
            client.input = input;
        }
        if !client.output.is_empty() || client.closing {
            self.mark_client(index);
        }
    }

    /// Goes on with a client whose reason to stall may be over.
    pub(crate) fn resume_client(&mut self, index: u32, generation: u32) {
        let Some(client) = self.clients.of_generation(index, generation) else { return };
        if !matches!(client.stall, Stall::None) {
            return;
        }
        if let Some(parked) = client.parked.take() {
            self.dispatch(index, *parked);
        }
        self.process_kept_input(index);
        // Also when there is no output: the shell may read again.
        self.mark_client(index);
    }

    fn process_commands(&mut self, index: u32, input: &mut BytesMut) {
        while !input.is_empty() {
            let Some(client) = self.clients.get_mut(index) else { return };
            if client.quitting && client.outstanding() == 0 {
                client.closing = true;
            }
            if client.closing || client.quitting || client.stall != Stall::None {
                return;
            }
            if client.outstanding() >= WINDOW_REQUESTS_MAX {
                client.stall = Stall::Window;
                return;
            }
            let limits = if client.authenticated { &self.limits } else { &Limits::UNAUTHENTICATED };
            let mut decoder = client.decoder.take().map_or_else(Decoder::default, |kept| *kept);
            match decoder.decode(input, limits) {
                Ok(Decoded::NeedMore) => {
                    if input.len() >= KEPT_DECODER_BYTES {
                        client.decoder = Some(Box::new(decoder));
                    }
                    return;
                }
                Ok(Decoded::Request(request)) => self.dispatch(index, request),
                Err(error) => {
                    tracing::debug!(client = %client.addr, %error, "closing client");
                    let text = format!("ERR {error}");
                    client.reply_now(|out| encode::error(out, &text));
                    client.closing = true;
                    self.stats.protocol_errors += 1;
                    return;
                }
            }
        }
    }

    /// One command of a client.
    fn dispatch(&mut self, index: u32, request: RawRequest) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let mode = client.reply_mode;
        if mode == ReplyMode::SkipNext {
            client.reply_mode = ReplyMode::Skip;
        }
        self.dispatch_checked(index, request);
        if let Some(client) = self.clients.get_mut(index)
            && mode == ReplyMode::SkipNext
            && client.parked.is_none()
            && client.reply_mode == ReplyMode::Skip
        {
            client.reply_mode = ReplyMode::On;
        }
    }

    fn dispatch_checked(&mut self, index: u32, request: RawRequest) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let resolved = match Self::resolve(&request) {
            Ok(resolved) => resolved,
            Err(_) if client.authenticated && is_sentinel(&request) => {
                return self.run_local(index, stats::NO_COMMAND, &request, SENTINEL);
            }
            Err(_) if is_http(&request) => return self.cut_off(index),
            Err((command, text)) => return self.reject(index, command, &text),
        };
        let Some(client) = self.clients.get_mut(index) else { return };
        client.last_command = resolved.index;
        if !client.authenticated && !resolved.spec.flags.has(flag::NO_AUTH) {
            return self.reject(index, resolved.index, respond::NOAUTH);
        }
        if self.refused.get(resolved.index as usize) == Some(&true) {
            return self.reject(index, resolved.index, &super::profile::text(resolved.spec.name));
        }
        if self.refuse_unpermitted(index, resolved, &request) {
            return;
        }
        if self.is_paused_for(resolved.spec) {
            return self.park(index, request, Stall::Paused);
        }
        let Some(client) = self.clients.get_mut(index) else { return };
        if let Some(text) = confinement_error(client, resolved.spec.name) {
            return self.reject(index, resolved.index, &text);
        }
        if !resolved.spec.name.starts_with("client") {
            client.begin_tracked_command();
        }
        let leaves = matches!(resolved.spec.name, "quit" | "reset");
        if client.transaction.is_some() && !leaves && !resolved.handler.runs_inside_multi() {
            self.feed_monitors(index, resolved.spec, &request);
            return self.queue_in_transaction(index, resolved, request);
        }
        if is_logged(resolved.spec, &request) || matches!(resolved.handler, Handler::Exec) {
            let slot = self.single_key_slot(index, &resolved, &request);
            if let Some(client) = self.clients.get_mut(index)
                && let Some(reply) = client.read_before_write(slot)
            {
                return self.park(index, request, Stall::Reply(reply));
            }
        }
        self.feed_monitors(index, resolved.spec, &request);
        match resolved.handler {
            Handler::Data => self.route_data(index, resolved, request),
            Handler::Spread(spread) => self.route_spread(index, resolved, spread, request),
            Handler::Local(_)
                if resolved.spec.name == "debug"
                    && debug_object(&request).is_some()
                    && may_debug(self, index) =>
            {
                self.ask_about_key(index, resolved, request);
            }
            Handler::Local(run) => {
                if resolved.spec.name.contains('|') {
                    self.stats.count_subcommand(resolved.spec.name);
                }
                self.run_local(index, resolved.index, &request, run);
            }
            Handler::Slot => self.ask_slot(index, resolved, request),
            Handler::Gather(gather) => self.gather(index, resolved, gather, &request),
            Handler::Script => self.handle_script(index, resolved, request),
            Handler::ScriptCache => self.handle_script_cache(index, resolved, request),
            Handler::Push(command) => self.handle_push_command(index, resolved, command, request),
            Handler::Multi => self.handle_multi(index),
            Handler::Exec => self.handle_exec(index, resolved, request),
            Handler::Discard => self.handle_discard(index),
            Handler::Watch => self.handle_watch(index, resolved, request),
            Handler::Unwatch => self.handle_unwatch(index),
            Handler::Unsupported => {
                self.reject(index, resolved.index, &respond::not_supported(resolved.spec));
            }
        }
    }

    /// Finds the command in the table and checks the number of arguments.
    fn resolve(request: &RawRequest) -> Result<Resolved, (u16, String)> {
        let name = request.arg(0);
        let subcommand = (request.len() > 1).then(|| request.arg(1));
        let spec = match command::resolve(name, subcommand) {
            Ok(spec) => spec,
            Err(UnknownCommand::Command) => {
                let text = command::unknown_command_error(name, request.iter().skip(1));
                return Err((stats::NO_COMMAND, text));
            }
            Err(UnknownCommand::Subcommand(parent, sub)) => {
                return Err((parent.index, command::unknown_subcommand_error(parent, sub)));
            }
        };
        if !spec.arity_fits(request.len()) {
            return Err((spec.index, command::arity_error(spec)));
        }
        let handler = if spec.support == Support::Supported {
            match spec.group {
                Group::Server | Group::Cluster => table().handler_of_subcommand(spec),
                _ => table().handler(spec.index),
            }
        } else {
            table().handler_of_unsupported(spec)
        };
        Ok(Resolved { spec, index: spec.index, handler })
    }

    /// Somebody makes a browser or another HTTP client talk to this port (`securityWarningCommand`
    /// in `server.c`): no answer that it could make use of.
    fn cut_off(&mut self, index: u32) {
        self.stats.protocol_errors += 1;
        let Some(client) = self.clients.get_mut(index) else { return };
        tracing::warn!(client.addr = %client.addr, "HTTP on a Redis port: connection closed");
        client.output.clear();
        client.closing = true;
        self.mark_client(index);
    }

    /// Answers with an error made here; inside MULTI this spoils the transaction.
    pub(crate) fn reject(&mut self, index: u32, command: u16, text: &str) {
        self.stats.commands += 1;
        self.stats.count_rejected(command, text);
        let Some(client) = self.clients.get_mut(index) else { return };
        if let Some(transaction) = &mut client.transaction {
            transaction.aborted = true;
        }
        client.reply_now(|out| encode::error(out, text));
        self.mark_client(index);
    }

    /// Answers with an error made here; a transaction goes on.
    pub(crate) fn reply_error(&mut self, index: u32, text: &str) {
        self.stats.count_rejected(stats::NO_COMMAND, text);
        self.reply_with(index, |out| encode::error(out, text));
    }

    pub(crate) fn reply_with(&mut self, index: u32, write: impl FnOnce(&mut BytesMut)) {
        self.stats.commands += 1;
        if let Some(client) = self.clients.get_mut(index) {
            client.reply_now(write);
            self.mark_client(index);
        }
    }

    /// Keeps a request until the client may go on.
    pub(crate) fn park(&mut self, index: u32, request: RawRequest, stall: Stall) {
        if let Some(client) = self.clients.get_mut(index) {
            client.parked = Some(Box::new(request));
            client.stall = stall;
        }
    }

    fn is_paused_for(&self, spec: &CommandSpec) -> bool {
        let Some((until_us, writes_only)) = self.client_pause else { return false };
        self.now_us < until_us
            && (!writes_only || spec.is_logged())
            && !spec.name.starts_with("client")
    }

    fn run_local(&mut self, index: u32, command: u16, request: &RawRequest, run: LocalCommand) {
        self.stats.commands += 1;
        self.stats.count_local(command);
        if self.config.worker_count > 1 && self.asked_for_target(index, request) {
            return self.mark_client(index);
        }
        if (self.config.worker_count > 1 || self.topology.proxies.len() > 1)
            && let Some(how) = super::peers::merge_of(request)
        {
            self.ask_peers(index, request, run, how);
            return self.mark_client(index);
        }
        let mut reply = BytesMut::new();
        run(self, index, request, &mut reply);
        if reply.first() == Some(&b'-') {
            let text = String::from_utf8_lossy(&reply[1..]).into_owned();
            self.stats.count_rejected(stats::NO_COMMAND, &text);
        }
        if let Some(client) = self.clients.get_mut(index)
            && !reply.is_empty()
        {
            client.reply_now(|out| out.extend_from_slice(&reply));
        }
        self.mark_client(index);
    }

    /// A data command: to the shard of its keys, or Redis's error.
    pub(crate) fn route_data(&mut self, index: u32, resolved: Resolved, request: RawRequest) {
        let db = self.db_of(index);
        match self.route(db, resolved.spec, &request) {
            Route::One { shard, slot } => self.forward(index, resolved, request, shard, slot),
            Route::Keyless => match self.router.serving_shards().first() {
                Some(&shard) => {
                    let slot = self.keyless_slot(shard);
                    self.forward(index, resolved, request, shard, slot);
                }
                None => self.reject(index, resolved.index, respond::SLOT_NOT_SERVED),
            },
            Route::Many => self.reject(index, resolved.index, respond::CROSSSLOT),
            Route::Unserved => self.reject(index, resolved.index, respond::SLOT_NOT_SERVED),
            // The shard words the error.
            Route::Invalid => match self.router.serving_shards().first() {
                Some(&shard) => {
                    let slot = self.keyless_slot(shard);
                    self.forward(index, resolved, request, shard, slot);
                }
                None => self.reject(index, resolved.index, respond::SLOT_NOT_SERVED),
            },
        }
    }

    /// The database that a client's next command is for, also inside MULTI.
    pub(crate) fn db_of(&self, index: u32) -> u16 {
        let Some(client) = self.clients.get(index) else { return 0 };
        client.transaction.as_ref().and_then(|t| t.selected()).unwrap_or(client.db)
    }

    /// DEBUG OBJECT: the shard of the key answers.
    fn ask_about_key(&mut self, index: u32, resolved: Resolved, request: RawRequest) {
        let db = self.db_of(index);
        let key = debug_object(&request).unwrap_or_default();
        match self.route_slot(self.placement.slot_of(db, key)) {
            Route::One { shard, slot } => self.forward(index, resolved, request, shard, slot),
            _ => self.reject(index, resolved.index, respond::SLOT_NOT_SERVED),
        }
    }

    /// CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT: the node that has the slot answers.
    fn ask_slot(&mut self, index: u32, resolved: Resolved, request: RawRequest) {
        let slot = std::str::from_utf8(request.arg(2)).ok().and_then(|text| text.parse().ok());
        let Some(slot) = slot.and_then(Slot::new) else {
            return self.reject(index, resolved.index, "ERR Invalid or out of range slot");
        };
        let count = || std::str::from_utf8(request.arg(3)).ok()?.parse::<i32>().ok();
        if request.len() == 4 && count().is_none_or(|count| count < 0) {
            return self.reject(index, resolved.index, "ERR Invalid slot or number of keys");
        }
        match self.router.shard_of(slot) {
            Some(shard) => self.forward(index, resolved, request, shard, slot),
            None => self.reject(index, resolved.index, respond::SLOT_NOT_SERVED),
        }
    }

    /// Where the keys of a command live.
    pub(crate) fn route(&self, db: u16, spec: &'static CommandSpec, request: &RawRequest) -> Route {
        let is_plain = spec.first_key == 1
            && spec.last_key == 1
            && !spec.flags.has(flag::MOVABLEKEYS)
            && (self.placement.is_empty() || spec.name != "move");
        if is_plain {
            return self.route_slot(self.placement.slot_of(db, request.arg(1)));
        }
        let args: SmallVec<[&[u8]; 16]> = request.iter().collect();
        let Ok(positions) = command::keys(spec, &args) else { return Route::Invalid };
        let mut keys = positions.iter().map(|position| args[position.index as usize]);
        let Some(first) = keys.next() else {
            // Keys that a script makes up are at least in the database's shard.
            return match self.placement.slot_of_database(db) {
                Some(slot) => self.route_slot(slot),
                None => Route::Keyless,
            };
        };
        let slot = self.placement.slot_of(db, first);
        let several = self.router.shards.len() > 1;
        if several && keys.any(|key| self.placement.slot_of(db, key) != slot) {
            return Route::Many;
        }
        if several && self.goes_elsewhere(db, slot, spec, &args) {
            return Route::Many;
        }
        self.route_slot(slot)
    }

    /// Does COPY or MOVE name a database whose keys are on another shard by rule?
    fn goes_elsewhere(&self, db: u16, slot: Slot, spec: &CommandSpec, args: &[&[u8]]) -> bool {
        let (target, key) = match spec.name {
            "move" => (args.get(2), args[1]),
            "copy" => {
                let word = args.iter().skip(3).position(|arg| arg.eq_ignore_ascii_case(b"db"));
                (word.and_then(|at| args.get(at + 4)), args[2])
            }
            _ => return false,
        };
        let target = target.and_then(|db| std::str::from_utf8(db).ok()?.parse::<u16>().ok());
        target.is_some_and(|target| {
            target != db
                && self.router.shard_of(self.placement.slot_of(target, key))
                    != self.router.shard_of(slot)
        })
    }

    /// The slot of a command with one key; `None` if it may touch several slots.
    fn single_key_slot(
        &self,
        index: u32,
        resolved: &Resolved,
        request: &RawRequest,
    ) -> Option<Slot> {
        let single = matches!(resolved.handler, Handler::Data) && is_single_key(resolved.spec);
        single.then(|| self.placement.slot_of(self.db_of(index), request.arg(1)))
    }

    fn route_slot(&self, slot: Slot) -> Route {
        match self.router.shard_of(slot) {
            Some(shard) => Route::One { shard, slot },
            None => Route::Unserved,
        }
    }

    /// The slot whose lane a command without a key uses on a shard: one of the shard's own.
    pub(crate) fn keyless_slot(&self, shard: u32) -> Slot {
        self.router.first_slot_of(shard)
    }

    /// Sends a client's command to a shard as it came.
    pub(crate) fn forward(
        &mut self,
        index: u32,
        resolved: Resolved,
        request: RawRequest,
        shard: u32,
        slot: Slot,
    ) {
        if self.has_no_room(shard) {
            return self.park_for_shard(index, shard, request);
        }
        let write = is_logged(resolved.spec, &request);
        let kind = if write { WRITE_COMMAND } else { READ_COMMAND };
        let track = self.tracking_flag(index, resolved.spec);
        let Some((number, handle)) =
            self.submit_for(index, resolved.index, kind, shard, slot, request.raw, track)
        else {
            return;
        };
        if !write && let Some(client) = self.clients.get_mut(index) {
            let single = is_single_key(resolved.spec);
            client.remember_read(single.then_some(slot), number);
        }
        if write
            && resolved.spec.is_blocking()
            && let Some(client) = self.clients.get_mut(index)
        {
            client.stall = Stall::Reply(number);
            client.blocked = Some(handle);
        }
    }

    /// Submits a request whose answer is the client's next reply; returns the reply's number.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn submit_for(
        &mut self,
        index: u32,
        command: u16,
        kind: Kind,
        shard: u32,
        slot: Slot,
        body: Bytes,
        extra_flags: u8,
    ) -> Option<(u32, Handle)> {
        self.stats.commands += 1;
        let client = self.clients.get_mut(index)?;
        let reply = client.expect_reply();
        let owner = Owner::Client { client: index, generation: client.generation, reply };
        let depends_on = match kind {
            Kind::Read(_) => client.last_write(shard),
            Kind::Write(_) => Handle::NOWHERE,
        };
        let flags = client.frame_flags() | extra_flags;
        let db = client.db;
        let handle =
            self.submit(Draft { owner, kind, flags, db, slot, shard, depends_on, command, body });
        if matches!(kind, Kind::Write(_))
            && let Some(client) = self.clients.get_mut(index)
        {
            client.remember_write(shard, handle);
        }
        Some((reply, handle))
    }

    pub(crate) fn has_no_room(&self, shard: u32) -> bool {
        self.router.shards[shard as usize].unanswered_bytes >= self.config.held_bytes_max
    }

    pub(crate) fn park_for_shard(&mut self, index: u32, shard: u32, request: RawRequest) {
        self.park(index, request, Stall::Shard);
        if let Some(client) = self.clients.get(index) {
            let generation = client.generation;
            self.router.shards[shard as usize].stalled_clients.push((index, generation));
        }
    }

    /// A request's final answer reaches whoever waits for it.
    pub(crate) fn deliver(&mut self, request: &Request, status: AnswerStatus, payload: &[u8]) {
        match request.owner {
            Owner::Nobody => {}
            Owner::Lookup { index } => self.lookup_answered(index, payload),
            Owner::Queued { client, generation, position } => {
                self.queued_answered(client, generation, position, payload);
            }
            Owner::Scatter { index, part } => {
                self.deliver_part(index, part, Bytes::copy_from_slice(payload))
            }
            Owner::Client { client: index, generation, reply } => {
                if self.clients.of_generation(index, generation).is_none() {
                    return;
                }
                match (request.kind, status) {
                    (Kind::Read(ReadOp::WatchVersions), AnswerStatus::WatchVersions) => {
                        self.take_watches(index, request.shard, request.slot, payload);
                        self.answer_client(index, reply, encode::OK);
                    }
                    (Kind::Write(RecordOp::Exec), _) => {
                        let whole = self.finish_exec(index, reply, payload);
                        self.answer_client(index, reply, whole.as_deref().unwrap_or(payload));
                        self.invalidate_exec_reads(index, &request.body);
                    }
                    _ => {
                        if payload.starts_with(b"-NOSCRIPT") {
                            self.scripts.forget(request.shard, &request.body);
                        }
                        self.answer_client(index, reply, payload);
                        if request.flags & flags::TRACK != 0 {
                            self.remember_read_keys(request);
                        }
                    }
                }
            }
        }
    }

    /// Puts a reply into its place and lets the client go on if it waited for it.
    pub(crate) fn answer_client(&mut self, index: u32, reply: u32, payload: &[u8]) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.answer(reply, payload);
        if self.output_hard_bytes > 0 && client.output.len() as u64 > self.output_hard_bytes {
            tracing::info!(client = %client.addr, "output buffer limit reached, closing client");
            client.output.clear();
            client.closing = true;
        }
        client.closing |= client.quitting && client.outstanding() == 0;
        let goes_on = match client.stall {
            Stall::Reply(number) => number == reply,
            Stall::Window => client.outstanding() <= WINDOW_REQUESTS_MAX / 2,
            _ => false,
        };
        if goes_on {
            if matches!(client.stall, Stall::Reply(_)) {
                client.blocked = None;
            }
            client.stall = Stall::None;
            self.resumable.push((index, client.generation));
        }
        self.mark_client(index);
    }

    /// The shards have room again, or CLIENT PAUSE ended.
    pub(crate) fn unstall(&mut self, waiting: Vec<(u32, u32)>) {
        for (index, generation) in waiting {
            if let Some(client) = self.clients.of_generation(index, generation)
                && matches!(client.stall, Stall::Shard | Stall::Paused | Stall::Script)
            {
                client.stall = Stall::None;
                self.resumable.push((index, generation));
            }
        }
    }

    /// Idle clients are closed, pauses end.
    pub(crate) fn tick_clients(&mut self) {
        if let Some((until_us, _)) = self.client_pause
            && self.now_us >= until_us
        {
            self.client_pause = None;
            let waiting = self
                .clients
                .iter()
                .filter(|(_, client)| client.stall == Stall::Paused)
                .map(|(index, client)| (index, client.generation))
                .collect();
            self.unstall(waiting);
        }
        self.close_idle_clients();
    }

    /// `timeout`: closes clients that sent nothing for so many seconds; looked at once a second.
    fn close_idle_clients(&mut self) {
        if self.now_us < self.idle_check_us + 1_000_000 {
            return;
        }
        let elapsed_us = self.now_us - self.idle_check_us;
        let commands = self.stats.commands.saturating_sub(self.commands_at_check);
        self.ops_per_second = commands * 1_000_000 / elapsed_us.max(1);
        self.commands_at_check = self.stats.commands;
        self.idle_check_us = self.now_us;
        let timeout_s: u64 =
            self.setting("timeout").and_then(|value| value.parse().ok()).unwrap_or(0);
        let idle: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, client)| {
                let idle_us = self.now_us.saturating_sub(client.active_us);
                let limit_us = if client.authenticated {
                    timeout_s * 1_000_000
                } else {
                    super::UNAUTHENTICATED_TIMEOUT_US
                };
                limit_us > 0 && idle_us > limit_us && client.outstanding() == 0
            })
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            if let Some(client) = self.clients.get_mut(index) {
                client.closing = true;
            }
            self.mark_client(index);
        }
    }
}

fn is_sentinel(request: &RawRequest) -> bool {
    request.arg(0).eq_ignore_ascii_case(b"sentinel")
}

/// Its only key is its first argument.
pub(crate) fn is_single_key(spec: &CommandSpec) -> bool {
    spec.first_key == 1 && spec.last_key == 1 && !spec.flags.has(flag::MOVABLEKEYS)
}

/// A line of an HTTP request that is no Redis command.
fn is_http(request: &RawRequest) -> bool {
    let name = request.arg(0);
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Goes through the log: it writes, or it may have to wait for a write.
fn is_logged(spec: &'static CommandSpec, request: &RawRequest) -> bool {
    spec.is_logged() || command::may_wait(spec, request.iter())
}
