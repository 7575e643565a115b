//! The engine: applies records of the log and answers reads.

use crate::blocking::{BlockKind, BlockRequest, Waiter, WaiterName};
use crate::command::{self, Ctx};
use crate::config::EngineConfig;
use crate::digest::Digest;
use crate::effect::{Effect, Watched};
use crate::evict::{self, EvictPolicy, EvictionConfig, Victim};
use crate::expire::ExpiryCycle;
use crate::hash;
use crate::keyspace::{Clock, Keyspace};
use crate::lane::{Admission, Kept, Lanes};
use crate::outcome::Outcomes;
use crate::random::Rng;
use crate::reply::Reply;
use crate::script::Scope;
use crate::value::ValueRef;
use holdfast_proto::acl;
use holdfast_proto::events::EventClasses;
use holdfast_proto::frame::{
    AnswerStatus, BatchHeader, ReadOp, RecordHeader, RecordOp, UnblockReason, flags,
};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::parse_array;
use holdfast_proto::slot::Slot;
use smallvec::SmallVec;

/// The state of one shard replica.
pub struct Engine {
    pub(crate) cfg: EngineConfig,
    pub(crate) space: Keyspace,
    pub(crate) lanes: Lanes,
    /// Cluster time of the last applied batch, milliseconds since the Unix epoch.
    pub(crate) time_ms: u64,
    commands: u64,
    /// Random numbers of reads; not replicated.
    read_rng: Rng,
    /// Where the search for due keys goes on; not replicated.
    expiry_cycle: ExpiryCycle,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The reply was appended.
    Done,
    /// The read saw a key that is due by `now_ms` but not by the applied time. A replica whose
    /// cluster time is behind could still show it later, so the caller gets a cluster time of at
    /// least `now_ms` applied (a Tick record) and reads again. Nothing was appended.
    Expired,
    /// The command may write; it has to go through the log. Nothing was appended.
    NotReadOnly,
}

/// Counters of this replica since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub keyspace_hits: u64,
    pub keyspace_misses: u64,
    pub expired_keys: u64,
    pub evicted_keys: u64,
    /// Commands executed, those inside EXEC included.
    pub commands: u64,
    pub blocked_commands: u64,
}

/// Slots of flushed databases that each search for due keys frees: a whole database is gone after
/// some hundred searches, or as many records as it had slots.
const GARBAGE_SLOTS: usize = 64;

pub(crate) const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";

/// Where a command stands: what decides its time, its random numbers and its protocol.
#[derive(Clone, Copy)]
struct Place {
    db: u16,
    resp3: bool,
    in_exec: bool,
    /// The primary had no room left for commands that need memory.
    out_of_memory: bool,
    seed: u64,
    index: u32,
    position: u32,
}

impl Engine {
    pub fn new(cfg: EngineConfig) -> Self {
        let space = Keyspace::new(cfg.databases, cfg.hash_seed, cfg.script_budget);
        let read_rng = Rng::new(cfg.hash_seed, 0, 0);
        Self {
            cfg,
            space,
            lanes: Lanes::default(),
            time_ms: 0,
            commands: 0,
            read_rng,
            expiry_cycle: ExpiryCycle::default(),
        }
    }

    pub fn config(&self) -> &EngineConfig {
        &self.cfg
    }

    /// Applies record number `index` of a batch, and pushes the record's own answer (if it has a
    /// worker to answer), then those of blocked commands that it woke.
    pub fn apply(
        &mut self,
        batch: &BatchHeader,
        index: u32,
        header: &RecordHeader,
        body: &[u8],
        out: &mut Outcomes,
    ) {
        hash::enter(self.cfg.hash_seed);
        self.time_ms = batch.time_ms;
        let mut position = 0;
        if header.worker == WorkerId::SHARD {
            self.apply_own(batch, index, header, body, out);
        } else if self.admit(header, out) {
            let place = Place {
                db: header.db,
                resp3: header.flags & flags::RESP3 != 0,
                in_exec: false,
                out_of_memory: header.flags & flags::OUT_OF_MEMORY != 0,
                seed: batch.seed,
                index,
                position: 0,
            };
            self.execute(place, header, body, out, &mut position);
        }
        self.space.no_touch = false;
        if !self.space.waiters.is_empty() {
            self.serve_waiters(batch.seed, index, &mut position, out);
        }
        if !self.space.effects.list.is_empty() {
            out.effects.append(&mut self.space.effects.list);
        }
    }

    /// From now on [`Outcomes::effects`] and [`Engine::take_read_effects`] tell of these.
    pub fn watch(&mut self, watched: Watched) {
        self.space.effects.watched = watched;
    }

    /// Moves the effects of reads (`keymiss` events) to `out`.
    pub fn take_read_effects(&mut self, out: &mut Vec<Effect>) {
        out.append(&mut self.space.effects.list);
    }

    /// Executes a read-only command, or tells the versions of watched keys, and appends the reply.
    /// `now_ms` is the greater of [`Engine::time_ms`] and the wall clock.
    pub fn read(
        &mut self,
        now_ms: u64,
        db: u16,
        resp3: bool,
        op: ReadOp,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        hash::enter(self.cfg.hash_seed);
        let mut args = SmallVec::new();
        if parse_array(body, &mut args).is_err() || args.is_empty() {
            Reply::new(out, resp3).error("ERR Protocol error: malformed request");
            return ReadOutcome::Done;
        }
        if usize::from(db) >= self.space.dbs.len() {
            Reply::new(out, resp3).error("ERR DB index is out of range");
            return ReadOutcome::Done;
        }
        match op {
            ReadOp::Command => self.read_command(now_ms, db, resp3, &args, out),
            ReadOp::WatchVersions => self.watch_versions(now_ms, db, &args, out),
            // Messages are handed out by the node; the engine knows no subscribers.
            ReadOp::Publish => ReadOutcome::NotReadOnly,
        }
    }

    fn read_command(
        &mut self,
        now_ms: u64,
        db: u16,
        resp3: bool,
        args: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        let (caller, args) = acl::split_caller(args);
        self.space.scripting.run_for(caller);
        let Some(command) = command::lookup(args[0]) else {
            Reply::new(out, resp3).error(&command::unknown(args).to_string());
            return ReadOutcome::Done;
        };
        if !command.is_readonly(args) {
            return ReadOutcome::NotReadOnly;
        }
        self.commands += 1;
        let clock =
            Clock { now_ms: now_ms.max(self.time_ms), applied_ms: self.time_ms, apply: false };
        let start = out.len();
        let mut ctx = Ctx {
            keys: self.space.keys(db, clock),
            reply: Reply::new(out, resp3),
            rng: Rng::new(self.read_rng.next(), 0, 0),
            limits: &self.cfg.limits,
            in_exec: false,
            out_of_memory: false,
            blocked: None,
        };
        command.run(&mut ctx, args);
        if ctx.keys.saw_due() {
            out.truncate(start);
            self.space.effects.list.clear();
            return ReadOutcome::Expired;
        }
        if ctx.blocked.is_some() {
            // XREAD with BLOCK: only a record can wait.
            out.truncate(start);
            return ReadOutcome::NotReadOnly;
        }
        ReadOutcome::Done
    }

    fn watch_versions(
        &mut self,
        now_ms: u64,
        db: u16,
        keys: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        let clock = Clock { now_ms, applied_ms: self.time_ms, apply: false };
        let start = out.len();
        for key in keys {
            // A key that is due must be deleted first: its deletion would change the version.
            let mut view = self.space.keys(db, clock);
            view.peek(key);
            if view.saw_due() {
                out.truncate(start);
                return ReadOutcome::Expired;
            }
            let (index, version) = self.space.version(db, key);
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&version.to_le_bytes());
        }
        ReadOutcome::Done
    }

    /// Says how the next read is to be done: which keys its scripts may touch, and whether looking
    /// keys up counts as using them. `flags` and `slot` are those of its frame. (Records say it
    /// themselves.)
    pub fn heed_flags(&mut self, frame_flags: u8, slot: Slot) {
        self.space.no_touch = frame_flags & flags::NO_TOUCH != 0;
        self.space.scripting.scope = Scope::of_frame(frame_flags, slot);
    }

    /// The seq that a lane expects next: everything below is applied. `None` if the lane is not
    /// known (nothing of it was applied).
    pub fn lane_next(&self, slot: Slot, worker: WorkerId) -> Option<u64> {
        self.lanes.next(slot, worker)
    }

    /// Cluster time of the last applied batch.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Blocked commands whose time is over: the primary proposes an Unblock record for each.
    pub fn due_unblocks(&self, now_ms: u64, limit: usize, due: &mut Vec<(WorkerId, Slot, u64)>) {
        let names = self.space.waiters.due(now_ms).take(limit);
        due.extend(names.map(|name| (name.worker, name.slot, name.seq)));
    }

    /// When the next blocked command times out.
    pub fn next_unblock_at(&self) -> Option<u64> {
        self.space.waiters.next_deadline()
    }

    /// Keys that are due, for the primary to propose Expire records; goes on where the last call
    /// stopped. Looks at no more than `budget` keys with an expiry (at least one bucket); `true` if
    /// there may be more. A key that is not deleted comes again a second later.
    pub fn due_expired(
        &mut self,
        now_ms: u64,
        budget: usize,
        due: &mut Vec<(u16, Slot, Vec<u8>)>,
    ) -> bool {
        self.space.collect_garbage(GARBAGE_SLOTS);
        self.expiry_cycle.run(&mut self.space, now_ms, budget, due)
    }

    /// How keys' use is followed from now on. Not replicated: each replica may do as it likes.
    pub fn set_eviction(&mut self, config: EvictionConfig) {
        self.space.eviction = config;
    }

    /// Chooses keys to give up that free about `bytes` together, `count` at most, by the policy of
    /// [`Engine::set_eviction`], for the primary to propose Evict records. Adds to `victims` and
    /// returns about how many bytes they free: 0 if no key may go.
    pub fn choose_victims(
        &mut self,
        now_ms: u64,
        bytes: usize,
        count: usize,
        victims: &mut Vec<Victim>,
    ) -> usize {
        hash::enter(self.cfg.hash_seed);
        let config = self.space.eviction;
        if config.policy == EvictPolicy::NoEviction {
            return 0;
        }
        let want = (bytes, count);
        evict::choose(&self.space, &config, now_ms, want, &mut self.read_rng, victims)
    }

    /// Bytes of data and of the records kept beside it. In constant time.
    pub fn memory_used(&self) -> usize {
        self.space.memory()
            + self.lanes.memory()
            + self.space.waiters.memory()
            + self.space.scripting.memory()
    }

    pub fn key_count(&self, db: u16) -> u64 {
        self.space.dbs.get(usize::from(db)).map_or(0, |db| db.key_count())
    }

    /// Keys of one hash slot of a database.
    pub fn count_keys_in_slot(&self, db: u16, slot: u16) -> usize {
        let keys = self.space.dbs.get(usize::from(db)).and_then(|db| db.slot(usize::from(slot)));
        keys.map_or(0, |keys| keys.entries.len())
    }

    /// At most `limit` keys of one hash slot of a database, in no order.
    pub fn keys_in_slot(&self, db: u16, slot: u16, limit: usize) -> Vec<&[u8]> {
        let keys = self.space.dbs.get(usize::from(db)).and_then(|db| db.slot(usize::from(slot)));
        keys.map_or_else(Vec::new, |keys| {
            keys.entries.iter().take(limit).map(crate::table::Keyed::key).collect()
        })
    }

    /// Keys that have an expiry.
    pub fn expires_count(&self, db: u16) -> u64 {
        self.space.dbs.get(usize::from(db)).map_or(0, |db| db.expires_count())
    }

    pub fn stats(&self) -> Stats {
        let keys = self.space.stats;
        Stats {
            keyspace_hits: keys.hits,
            keyspace_misses: keys.misses,
            expired_keys: keys.expired,
            evicted_keys: keys.evicted,
            commands: self.commands,
            blocked_commands: self.space.waiters.len() as u64,
        }
    }

    /// A digest of the logical state: data, expiry times, watch versions, lanes and waiters. Equal
    /// on all replicas that applied the same log. Visits everything: for tests and audits.
    pub fn digest(&self) -> [u8; 16] {
        let mut digest = Digest::new();
        for (db, data) in self.space.dbs.iter().enumerate() {
            digest.number(db as u64);
            digest.unordered(data.iter(), |digest, (_, entry)| {
                use crate::table::Keyed;
                digest.bytes(entry.key());
                digest.number(entry.expire_at().unwrap_or(u64::MAX));
                entry.value().digest(digest);
            });
        }
        for &version in self.space.versions() {
            digest.number(version);
        }
        for (slot, lane) in self.lanes.iter() {
            digest.number(u64::from(slot.get()));
            digest.number(lane.worker.0);
            digest.number(lane.next);
        }
        for worker in self.lanes.retired() {
            digest.number(worker.0);
        }
        for waiter in self.space.waiters.iter() {
            digest.number(waiter.name.worker.0);
            digest.number(u64::from(waiter.name.slot.get()));
            digest.number(waiter.name.seq);
        }
        for sha in self.space.scripting.cache.names() {
            digest.bytes(sha);
        }
        for (name, library) in self.space.scripting.libraries.iter() {
            digest.bytes(name);
            digest.bytes(&library.code);
        }
        digest.number(self.time_ms);
        digest.finish()
    }

    // ---- records ---------------------------------------------------------------------------------

    /// Asks the record's lane; `true` if the record is to be executed, otherwise it is answered.
    fn admit(&mut self, header: &RecordHeader, out: &mut Outcomes) -> bool {
        let RecordHeader { slot, worker, seq, first_unacked, tag, .. } = *header;
        let start = out.buf.len();
        let status = match self.lanes.admit(slot, worker, seq, first_unacked) {
            Admission::Execute => return true,
            Admission::Kept(reply) => {
                reply.write(&mut out.buf);
                AnswerStatus::Reply
            }
            Admission::StillBlocked => {
                self.space.waiters.set_tag(WaiterName { worker, slot, seq }, tag);
                AnswerStatus::Blocked
            }
            Admission::Forgotten => {
                Reply::new(&mut out.buf, false).error("ERR the reply was already confirmed");
                AnswerStatus::Reply
            }
            Admission::Gap { next } => {
                out.buf.extend_from_slice(&next.to_le_bytes());
                AnswerStatus::Gap
            }
            Admission::SessionExpired => AnswerStatus::SessionExpired,
        };
        out.finish(worker, tag, status, start);
        false
    }

    /// Executes an admitted record, keeps its reply and answers.
    fn execute(
        &mut self,
        place: Place,
        header: &RecordHeader,
        body: &[u8],
        out: &mut Outcomes,
        position: &mut u32,
    ) {
        let RecordHeader { slot, worker, seq, tag, .. } = *header;
        self.heed_flags(header.flags, slot);
        let mut start = out.buf.len();
        let request = if usize::from(place.db) >= self.space.dbs.len() {
            Reply::new(&mut out.buf, place.resp3).error("ERR DB index is out of range");
            None
        } else {
            match header.op {
                RecordOp::Command => self.execute_command(place, body, &mut out.buf),
                RecordOp::Exec => {
                    self.execute_all(place, body, &mut out.buf, position);
                    None
                }
                RecordOp::Unblock => {
                    let waited = self.unblock(slot, worker, body, out);
                    start = out.buf.len();
                    Reply::new(&mut out.buf, false).flag(waited);
                    None
                }
                _ => {
                    Reply::new(&mut out.buf, false).error("ERR only a shard may send this record");
                    None
                }
            }
        };
        *position += 1;
        let Some(mut request) = request else {
            self.lanes.keep(slot, worker, Kept::from_bytes(&out.buf[start..]));
            return out.finish(worker, tag, AnswerStatus::Reply, start);
        };
        out.buf.truncate(start);
        self.lanes.keep(slot, worker, Kept::Blocked);
        let command = request.command.take().unwrap_or_else(|| body.into());
        self.space.waiters.add(Waiter {
            name: WaiterName { worker, slot, seq },
            db: place.db,
            resp3: place.resp3,
            tag,
            request,
            command,
        });
        out.finish(worker, tag, AnswerStatus::Blocked, start);
    }

    /// Runs one command in apply mode; `Some` if it has to wait.
    fn execute_command(
        &mut self,
        place: Place,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<BlockRequest> {
        let mut args = SmallVec::new();
        if parse_array(body, &mut args).is_err() || args.is_empty() {
            Reply::new(out, place.resp3).error("ERR Protocol error: malformed request");
            return None;
        }
        self.run(place, &args, out)
    }

    fn run(&mut self, place: Place, args: &[&[u8]], out: &mut Vec<u8>) -> Option<BlockRequest> {
        let (caller, args) = acl::split_caller(args);
        self.space.scripting.run_for(caller);
        let mut reply = Reply::new(out, place.resp3);
        let Some(command) = command::lookup(args[0]) else {
            reply.error(&command::unknown(args).to_string());
            return None;
        };
        // EXEC has looked at all of its commands before it ran the first.
        let refused = place.out_of_memory && !place.in_exec;
        if refused && command.needs_memory(args, &self.space.scripting) {
            reply.error(OUT_OF_MEMORY);
            return None;
        }
        self.commands += 1;
        let clock = Clock { now_ms: self.time_ms, applied_ms: self.time_ms, apply: true };
        let mut ctx = Ctx {
            keys: self.space.keys(place.db, clock),
            reply,
            rng: Rng::new(place.seed, place.index, place.position),
            limits: &self.cfg.limits,
            in_exec: place.in_exec,
            out_of_memory: place.out_of_memory,
            blocked: None,
        };
        command.run(&mut ctx, args);
        ctx.blocked
    }

    /// MULTI/EXEC: compares the watched versions, then runs every command.
    fn execute_all(&mut self, place: Place, body: &[u8], out: &mut Vec<u8>, position: &mut u32) {
        let start = out.len();
        if self.try_execute_all(place, body, out, position).is_none() {
            out.truncate(start);
            Reply::new(out, place.resp3).error("ERR Protocol error: malformed transaction");
        }
    }

    /// `None` if the body is malformed (nothing was executed).
    fn try_execute_all(
        &mut self,
        mut place: Place,
        body: &[u8],
        out: &mut Vec<u8>,
        position: &mut u32,
    ) -> Option<()> {
        let exec = ExecBody::parse(body)?;
        let unchanged = exec
            .watches
            .iter()
            .all(|&(index, version)| self.space.version_at(index) == Some(version));
        let mut reply = Reply::new(out, place.resp3);
        if !unchanged {
            reply.null_array();
            return Some(());
        }
        let needs_memory = |args: &SmallVec<[&[u8]; 8]>| {
            let (_, args) = acl::split_caller(args);
            let command = command::lookup(args[0]);
            command.is_some_and(|command| command.needs_memory(args, &self.space.scripting))
        };
        if place.out_of_memory && exec.commands.iter().any(needs_memory) {
            reply.error(&format!("EXECABORT Transaction discarded because of: {OUT_OF_MEMORY}"));
            return Some(());
        }
        reply.array(exec.commands.len());
        place.in_exec = true;
        for args in &exec.commands {
            place.position = *position;
            *position += 1;
            match self.selected(args) {
                None => {
                    self.run(place, args, out);
                }
                Some(Ok(db)) => {
                    place.db = db;
                    Reply::new(out, place.resp3).ok();
                }
                Some(Err(error)) => Reply::new(out, place.resp3).error(error),
            }
        }
        Some(())
    }

    /// SELECT, which only means something inside EXEC: elsewhere the record names the database.
    fn selected(&self, args: &[&[u8]]) -> Option<Result<u16, &'static str>> {
        let &[name, db] = args else { return None };
        if !name.eq_ignore_ascii_case(b"select") {
            return None;
        }
        Some(match crate::num::parse_i64(db) {
            None => Err("ERR value is not an integer or out of range"),
            Some(db) => u16::try_from(db)
                .ok()
                .filter(|db| usize::from(*db) < self.space.dbs.len())
                .ok_or("ERR DB index is out of range"),
        })
    }

    /// Executes a record that the shard's primary made by itself.
    fn apply_own(
        &mut self,
        batch: &BatchHeader,
        index: u32,
        header: &RecordHeader,
        body: &[u8],
        out: &mut Outcomes,
    ) {
        match header.op {
            RecordOp::Tick => {}
            RecordOp::Unblock => {
                self.unblock(header.slot, WorkerId(header.tag), body, out);
            }
            RecordOp::Expire | RecordOp::Evict => self.delete_keys(header, body),
            RecordOp::RetireWorker => {
                if let Some(worker) = body.first_chunk::<8>() {
                    let worker = WorkerId(u64::from_le_bytes(*worker));
                    for waiter in self.space.waiters.remove_worker(worker) {
                        // A proxy that was only cut off still has the client, and asks again
                        // under another id; without an answer it would wait for ever.
                        let end = out.buf.len();
                        out.finish(worker, waiter.tag, AnswerStatus::SessionExpired, end);
                    }
                    self.lanes.retire(worker);
                }
            }
            RecordOp::Command | RecordOp::Exec => {
                let start = out.buf.len();
                let place = Place {
                    db: header.db,
                    resp3: false,
                    in_exec: true,
                    out_of_memory: false,
                    seed: batch.seed,
                    index,
                    position: 0,
                };
                if usize::from(place.db) < self.space.dbs.len() {
                    self.execute_command(place, body, &mut out.buf);
                }
                out.buf.truncate(start);
            }
        }
    }

    /// Expire deletes what is due by the batch's time, Evict whatever is named.
    fn delete_keys(&mut self, header: &RecordHeader, body: &[u8]) {
        let mut keys = SmallVec::new();
        if parse_array(body, &mut keys).is_err() || usize::from(header.db) >= self.space.dbs.len() {
            return;
        }
        let clock = Clock { now_ms: self.time_ms, applied_ms: self.time_ms, apply: true };
        for key in keys {
            let mut view = self.space.keys(header.db, clock);
            // Looking a due key up deletes it.
            if header.op == RecordOp::Expire {
                view.exists(key);
            } else if view.remove(key) {
                view.notify(EventClasses::EVICTED, "evicted", key);
                self.space.stats.evicted += 1;
            }
        }
    }

    /// Ends the wait of a blocked command and answers it (unless its client is gone); whether it
    /// waited.
    fn unblock(&mut self, slot: Slot, worker: WorkerId, body: &[u8], out: &mut Outcomes) -> bool {
        let parsed = body.first_chunk::<8>().zip(body.get(8));
        let Some((seq, reason)) = parsed else {
            return false;
        };
        let seq = u64::from_le_bytes(*seq);
        let name = WaiterName { worker, slot, seq };
        let waiter = match self.space.waiters.find(name) {
            Some(order) if *reason == UnblockReason::Timeout as u8 => {
                // A time-out proposed too early (by a primary whose clock ran ahead) is void.
                let waiter = self.space.waiters.get(order);
                let due = waiter
                    .and_then(|waiter| waiter.request.deadline_ms)
                    .is_some_and(|deadline| deadline <= self.time_ms);
                if due { self.space.waiters.remove(order) } else { None }
            }
            Some(order) => self.space.waiters.remove(order),
            None => None,
        };
        let waited = waiter.is_some();
        if *reason == UnblockReason::Gone as u8 {
            self.lanes.forget_blocked(slot, worker, seq);
        } else if let Some(waiter) = waiter {
            let start = out.buf.len();
            let mut reply = Reply::new(&mut out.buf, waiter.resp3);
            if *reason == UnblockReason::Timeout as u8 {
                reply.null_array();
            } else {
                reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
            }
            self.answer_waiter(&waiter, start, out);
        }
        waited
    }

    // ---- waiters ---------------------------------------------------------------------------------

    /// Runs the commands again that wait for keys changed by this record, until nothing changes.
    fn serve_waiters(&mut self, seed: u64, index: u32, position: &mut u32, out: &mut Outcomes) {
        while let Some(place) = self.space.waiters.take_ready() {
            for order in self.space.waiters.waiting_for(&place) {
                let kind = self.kind_of(&place);
                self.serve(order, kind, seed, index, position, out);
            }
        }
    }

    /// Which waits the key can end now.
    fn kind_of(&mut self, (db, key): &(u16, Box<[u8]>)) -> Option<BlockKind> {
        let clock = Clock { now_ms: self.time_ms, applied_ms: self.time_ms, apply: true };
        match self.space.keys(*db, clock).peek(key)? {
            ValueRef::List(_) => Some(BlockKind::List),
            ValueRef::ZSet(_) => Some(BlockKind::ZSet),
            ValueRef::Stream(_) => Some(BlockKind::Stream),
            _ => None,
        }
    }

    fn serve(
        &mut self,
        order: u64,
        kind: Option<BlockKind>,
        seed: u64,
        index: u32,
        position: &mut u32,
        out: &mut Outcomes,
    ) {
        let Some(waiter) = self.space.waiters.get(order) else { return };
        let wanted = waiter.request.kind;
        if Some(wanted) != kind && wanted != BlockKind::StreamGroup {
            return;
        }
        let waiter = waiter.clone();
        *position += 1;
        let place = Place {
            db: waiter.db,
            resp3: waiter.resp3,
            in_exec: false,
            out_of_memory: false,
            seed,
            index,
            position: *position,
        };
        let start = out.buf.len();
        if self.execute_command(place, &waiter.command, &mut out.buf).is_some() {
            return out.buf.truncate(start);
        }
        self.space.waiters.remove(order);
        self.answer_waiter(&waiter, start, out);
    }

    /// Keeps and sends the final reply of a blocked command, which stands from `start` on.
    fn answer_waiter(&mut self, waiter: &Waiter, start: usize, out: &mut Outcomes) {
        let WaiterName { worker, slot, seq } = waiter.name;
        self.lanes.unblocked(slot, worker, seq, Kept::from_bytes(&out.buf[start..]));
        out.finish(worker, waiter.tag, AnswerStatus::Reply, start);
    }
}

/// The parsed body of an Exec record.
struct ExecBody<'a> {
    watches: SmallVec<[(u32, u64); 4]>,
    commands: Vec<SmallVec<[&'a [u8]; 8]>>,
}

impl<'a> ExecBody<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        let (count, mut rest) = body.split_first_chunk::<2>()?;
        let mut watches = SmallVec::new();
        for _ in 0..u16::from_le_bytes(*count) {
            let (index, after) = rest.split_first_chunk::<4>()?;
            let (version, after) = after.split_first_chunk::<8>()?;
            watches.push((u32::from_le_bytes(*index), u64::from_le_bytes(*version)));
            rest = after;
        }
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        let mut commands = Vec::new();
        for _ in 0..u32::from_le_bytes(*count) {
            let mut args = SmallVec::new();
            let used = parse_array(rest, &mut args).ok()?;
            if args.is_empty() {
                return None;
            }
            commands.push(args);
            rest = &rest[used..];
        }
        Some(Self { watches, commands })
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
