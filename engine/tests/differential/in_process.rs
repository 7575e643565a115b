//! The engine as a server: what a proxy and a node do around it, without either.

use super::compare;
use super::grammar::Args;
use super::target::{CLIENTS, Target, parse, wall_clock_ms};
use bytes::BufMut;
use holdfast_engine::{
    CheckpointStep, Effect, Engine, EngineConfig, Outcomes, ReadOutcome, Watched,
};
use holdfast_proto::command::{self, UnknownCommand};
use holdfast_proto::events::EventClasses;
use holdfast_proto::frame::{
    AnswerStatus, BatchHeader, ReadOp, RecordHeader, RecordOp, UnblockReason, flags,
};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::decode::parse_integer;
use holdfast_proto::resp::{Value, encode, parse_array};
use holdfast_proto::slot::Slot;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const WORKER: WorkerId = WorkerId(1);

/// Batches between two restarts of the replica.
const RESTART_AFTER: u64 = 25;
/// Bytes of a checkpoint that are taken after each batch: it spans dozens of them.
const CHECKPOINT_STEP_BYTES: usize = 150;

/// How often a replica was restarted.
pub(crate) static RESTARTS: AtomicU64 = AtomicU64::new(0);

/// Two engines that apply the same records; the first also answers reads. The second is replaced
/// now and then by one that was loaded from a checkpoint of the first and caught up.
pub(crate) struct InProcess {
    engine: Engine,
    replica: Engine,
    sessions: Vec<Session>,
    /// Per lane, the next seq.
    seqs: HashMap<Slot, u64>,
    time_ms: u64,
    batches: u64,
    tags: u64,
    /// Blocked commands: tag and client.
    waiting: HashMap<u64, usize>,
    /// Answers of commands that had been blocked.
    arrived: VecDeque<(usize, Value)>,
    outcomes: Outcomes,
    restart: Option<Restart>,
    /// Keyspace events of the first engine, if they are watched; the second never watches.
    events: Vec<String>,
}

/// A checkpoint being taken, and what was applied since it began.
#[derive(Default)]
struct Restart {
    file: Vec<u8>,
    since: Vec<(BatchHeader, RecordHeader, Vec<u8>)>,
}

#[derive(Default)]
struct Session {
    db: u16,
    resp3: bool,
    queue: Option<Vec<Args>>,
    /// A command could not be queued.
    aborted: bool,
    watches: Vec<(u32, u64)>,
}

impl InProcess {
    pub(crate) fn new() -> Self {
        let mut this = Self {
            engine: Engine::new(EngineConfig::default()),
            replica: Engine::new(EngineConfig::default()),
            sessions: Vec::new(),
            seqs: HashMap::new(),
            time_ms: 0,
            batches: 0,
            tags: 0,
            waiting: HashMap::new(),
            arrived: VecDeque::new(),
            outcomes: Outcomes::new(),
            restart: None,
            events: Vec::new(),
        };
        this.open_sessions(CLIENTS, false);
        this
    }

    pub(crate) fn open_sessions(&mut self, count: usize, resp3: bool) {
        let session = || Session { resp3, ..Session::default() };
        self.sessions = std::iter::repeat_with(session).take(count).collect();
    }

    /// Has the first engine gather every keyspace event from now on.
    pub(crate) fn watch_events(&mut self) {
        let all = EventClasses::parse("KEAmn").expect("known letters");
        self.engine.watch(Watched { events: all, ..Watched::default() });
    }

    /// The events since the last call, as `event db key`.
    pub(crate) fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    fn note_events(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Event { event, db, key, .. } = effect {
                self.events.push(format!("{event} {db} {}", key.escape_ascii()));
            }
        }
    }

    /// The reply, or `None` if the command now waits.
    pub(crate) fn submit(&mut self, client: usize, args: &Args) -> Option<Value> {
        Some(match self.before_execution(client, args) {
            Some(reply) => parse(&reply),
            None => return self.execute(client, args),
        })
    }

    /// Whether the engine has a command.
    pub(crate) fn knows(&mut self, name: &str) -> bool {
        let spec = command::lookup(name.as_bytes()).expect("in the table");
        let mut args = vec![b"x".to_vec(); spec.arity.unsigned_abs() as usize];
        args[0] = name.as_bytes().to_vec();
        let reply = self.submit(0, &args);
        !reply.is_some_and(|r| r.as_bytes().is_some_and(|t| t.starts_with(b"ERR unknown command")))
    }

    /// The next answer of a command that had been blocked.
    pub(crate) fn take_arrived(&mut self) -> Option<(usize, Value)> {
        self.arrived.pop_front()
    }

    /// What the session itself answers: transactions, database, commands that do not exist.
    fn before_execution(&mut self, client: usize, args: &Args) -> Option<Vec<u8>> {
        let session = &mut self.sessions[client];
        let mut reply = Vec::new();
        let first = args.get(1).map(Vec::as_slice);
        let error = match command::resolve(&args[0], first) {
            Err(UnknownCommand::Command) => {
                Some(command::unknown_command_error(&args[0], args[1..].iter().map(Vec::as_slice)))
            }
            Err(UnknownCommand::Subcommand(parent, sub)) => {
                Some(command::unknown_subcommand_error(parent, sub))
            }
            Ok(spec) if !spec.arity_fits(args.len()) => Some(command::arity_error(spec)),
            Ok(_) => None,
        };
        if let Some(error) = error {
            session.aborted |= session.queue.is_some();
            encode::error(&mut reply, &error);
            return Some(reply);
        }
        match args[0].to_ascii_uppercase().as_slice() {
            b"MULTI" if session.queue.is_some() => {
                encode::error(&mut reply, "ERR MULTI calls can not be nested");
            }
            b"MULTI" => {
                session.queue = Some(Vec::new());
                encode::ok(&mut reply);
            }
            b"EXEC" | b"DISCARD" if session.queue.is_none() => {
                let name = String::from_utf8_lossy(&args[0]).to_uppercase();
                encode::error(&mut reply, &format!("ERR {name} without MULTI"));
            }
            b"EXEC" if session.aborted => {
                let text = "EXECABORT Transaction discarded because of previous errors.";
                encode::error(&mut reply, text);
                *session = Session { db: session.db, resp3: session.resp3, ..Session::default() };
            }
            b"EXEC" => return None,
            b"DISCARD" => {
                *session = Session { db: session.db, resp3: session.resp3, ..Session::default() };
                encode::ok(&mut reply);
            }
            b"WATCH" if session.queue.is_some() => {
                encode::error(&mut reply, "ERR WATCH inside MULTI is not allowed");
            }
            b"WATCH" => {
                self.watch(client, &args[1..]);
                encode::ok(&mut reply);
            }
            _ if session.queue.is_some() => {
                session.queue.as_mut().expect("just seen").push(args.clone());
                encode::simple(&mut reply, "QUEUED");
            }
            b"UNWATCH" => {
                session.watches.clear();
                encode::ok(&mut reply);
            }
            b"SELECT" => match parse_integer(&args[1]) {
                Some(db @ 0..16) => {
                    session.db = db as u16;
                    encode::ok(&mut reply);
                }
                Some(db) if i32::try_from(db).is_ok() => {
                    encode::error(&mut reply, "ERR DB index is out of range");
                }
                Some(_) => encode::error(
                    &mut reply,
                    "ERR value is out of range, value must between -2147483648 and 2147483647",
                ),
                None => encode::error(&mut reply, "ERR value is not an integer or out of range"),
            },
            _ => return None,
        }
        Some(reply)
    }

    fn watch(&mut self, client: usize, keys: &[Vec<u8>]) {
        let mut body = Vec::new();
        encode::command(&mut body, keys.iter().map(Vec::as_slice));
        let versions = self.read(client, ReadOp::WatchVersions, &body).expect("a read");
        for version in versions.chunks_exact(12) {
            let index = u32::from_le_bytes(version[..4].try_into().unwrap());
            let version = u64::from_le_bytes(version[4..].try_into().unwrap());
            self.sessions[client].watches.push((index, version));
        }
    }

    fn execute(&mut self, client: usize, args: &Args) -> Option<Value> {
        let mut body = Vec::new();
        let session = &mut self.sessions[client];
        let Some(queue) = session.queue.take() else {
            encode::command(&mut body, args.iter().map(Vec::as_slice));
            // Reads go both ways, by turns: straight to the state, or through the log.
            if !self.tags.is_multiple_of(3)
                && let Some(reply) = self.read(client, ReadOp::Command, &body)
            {
                self.tags += 1;
                return Some(parse(&reply));
            }
            return self.write(client, RecordOp::Command, args, &body);
        };
        body.put_u16_le(session.watches.len() as u16);
        for (index, version) in session.watches.drain(..) {
            body.put_u32_le(index);
            body.put_u64_le(version);
        }
        body.put_u32_le(queue.len() as u32);
        for queued in &queue {
            encode::command(&mut body, queued.iter().map(Vec::as_slice));
        }
        let first = queue.first().cloned().unwrap_or_else(|| args.clone());
        self.write(client, RecordOp::Exec, &first, &body)
    }

    /// The reply of a read; `None` if it may write.
    fn read(&mut self, client: usize, op: ReadOp, body: &[u8]) -> Option<Vec<u8>> {
        loop {
            let Session { db, resp3, .. } = self.sessions[client];
            let mut reply = Vec::new();
            let now_ms = wall_clock_ms().max(self.time_ms);
            let outcome = self.engine.read(now_ms, db, resp3, op, body, &mut reply);
            let mut effects = Vec::new();
            self.engine.take_read_effects(&mut effects);
            self.note_events(effects);
            match outcome {
                ReadOutcome::Done => return Some(reply),
                ReadOutcome::NotReadOnly => return None,
                ReadOutcome::Expired => self.own_record(RecordOp::Tick, Slot::default(), 0, &[]),
            }
        }
    }

    fn write(&mut self, client: usize, op: RecordOp, args: &Args, body: &[u8]) -> Option<Value> {
        let first_argument = args.get(1).map(Vec::as_slice);
        let spec = command::resolve(&args[0], first_argument).ok();
        let keys = spec.and_then(|spec| command::keys(spec, args).ok()).unwrap_or_default();
        let slot = keys.first().map(|key| Slot::of_key(&args[key.index as usize]));
        let session = &self.sessions[client];
        let seq = self.seqs.entry(slot.unwrap_or_default()).or_insert(1);
        self.tags += 1;
        let header = RecordHeader {
            op,
            flags: if session.resp3 { flags::RESP3 } else { 0 }
                | if slot.is_none() { flags::KEYLESS } else { 0 },
            db: session.db,
            slot: slot.unwrap_or_default(),
            worker: WORKER,
            seq: *seq,
            first_unacked: *seq,
            tag: self.tags,
            body_len: body.len() as u32,
        };
        *seq += 1;
        let tag = self.tags;
        self.waiting.insert(tag, client);
        self.apply(&header, body);
        if self.waiting.contains_key(&tag) {
            return None;
        }
        // The record's own answer comes before those it wakes.
        let own = self.arrived.iter().position(|(to, _)| *to == client).expect("an answer");
        self.arrived.remove(own).map(|(_, reply)| reply)
    }

    fn own_record(&mut self, op: RecordOp, slot: Slot, tag: u64, body: &[u8]) {
        let header = RecordHeader {
            op,
            flags: 0,
            db: 0,
            slot,
            worker: WorkerId::SHARD,
            seq: 0,
            first_unacked: 0,
            tag,
            body_len: body.len() as u32,
        };
        self.apply(&header, body);
    }

    /// Applies one record as a batch of its own, on both engines.
    fn apply(&mut self, header: &RecordHeader, body: &[u8]) {
        self.batches += 1;
        self.time_ms = wall_clock_ms().max(self.time_ms + 1);
        let seed = self.batches.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let batch = BatchHeader { count: 1, time_ms: self.time_ms, seed };
        self.outcomes.clear();
        self.replica.apply(&batch, 0, header, body, &mut self.outcomes);
        let on_replica: Vec<_> =
            self.outcomes.iter().map(|(c, p)| (c.clone(), p.to_vec())).collect();
        self.outcomes.clear();
        self.engine.apply(&batch, 0, header, body, &mut self.outcomes);
        let answers: Vec<_> = self.outcomes.iter().map(|(c, p)| (c.clone(), p.to_vec())).collect();
        let effects = std::mem::take(&mut self.outcomes.effects);
        self.note_events(effects);
        let alike = answers.len() == on_replica.len()
            && answers.iter().zip(&on_replica).all(|((ours, a), (theirs, b))| {
                (ours.tag, ours.status) == (theirs.tag, theirs.status)
                    && alike(header.op, body, a, b)
            });
        assert!(alike, "replicas answer differently: {answers:?} {on_replica:?}");
        self.restart_replica(&batch, header, body);
        for (completion, payload) in answers {
            match completion.status {
                AnswerStatus::Reply => {
                    // Answers to our own Unblock records have no waiting client.
                    if let Some(client) = self.waiting.remove(&completion.tag) {
                        self.arrived.push_back((client, parse(&payload)));
                    }
                }
                AnswerStatus::Blocked => {}
                other => panic!("unexpected answer {other:?}"),
            }
        }
    }

    fn restart_replica(&mut self, batch: &BatchHeader, header: &RecordHeader, body: &[u8]) {
        let Some(restart) = &mut self.restart else {
            if self.batches.is_multiple_of(RESTART_AFTER) {
                self.engine.checkpoint_begin();
                self.restart = Some(Restart::default());
            }
            return;
        };
        restart.since.push((*batch, *header, body.to_vec()));
        let step = self.engine.checkpoint_step(CHECKPOINT_STEP_BYTES, &mut restart.file);
        if step == CheckpointStep::More {
            return;
        }
        let Some(Restart { file, since }) = self.restart.take() else { return };
        let config = EngineConfig::default();
        self.replica = Engine::load(config, &file[..]).expect("a checkpoint loads");
        for (batch, header, body) in since {
            self.outcomes.clear();
            self.replica.apply(&batch, 0, &header, &body, &mut self.outcomes);
        }
        assert_eq!(self.engine.digest(), self.replica.digest(), "a restarted replica differs");
        RESTARTS.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the waits whose time is over.
    pub(crate) fn unblock_due(&mut self) {
        let mut due = Vec::new();
        self.engine.due_unblocks(wall_clock_ms().max(self.time_ms), 100, &mut due);
        for (worker, slot, seq) in due {
            let mut body = seq.to_le_bytes().to_vec();
            body.push(UnblockReason::Timeout as u8);
            self.own_record(RecordOp::Unblock, slot, worker.0, &body);
        }
    }
}

impl Target for InProcess {
    fn run(&mut self, client: usize, args: &Args) -> Value {
        if let Some(reply) = self.submit(client, args) {
            return reply;
        }
        loop {
            if let Some((to, reply)) = self.take_arrived() {
                assert_eq!(to, client, "nobody else waits");
                return reply;
            }
            std::thread::sleep(Duration::from_millis(1));
            self.unblock_due();
        }
    }

    fn reset(&mut self, resp3: bool) {
        *self = Self::new();
        self.open_sessions(CLIENTS, resp3);
    }

    fn check(&mut self) {
        assert_eq!(self.engine.digest(), self.replica.digest(), "replicas differ");
    }
}

/// Whether two replicas answer a record alike. Where a reply shows a table's order or an encoding,
/// which are each replica's own, it may differ as it may from the stock server.
fn alike(op: RecordOp, body: &[u8], ours: &[u8], theirs: &[u8]) -> bool {
    if ours == theirs {
        return true;
    }
    let (ours, theirs) = (parse(ours), parse(theirs));
    match (op, ours.as_array(), theirs.as_array()) {
        (RecordOp::Command, ..) => commands(body).iter().all(|args| same(args, &ours, &theirs)),
        (RecordOp::Exec, Some(ours), Some(theirs)) => {
            let watches = usize::from(u16::from_le_bytes([body[0], body[1]]));
            let commands = commands(&body[2 + 12 * watches + 4..]);
            ours.len() == theirs.len()
                && commands
                    .iter()
                    .zip(ours.iter().zip(theirs))
                    .all(|(args, (ours, theirs))| same(args, ours, theirs))
        }
        _ => false,
    }
}

/// The commands in a record's body.
fn commands(mut body: &[u8]) -> Vec<Args> {
    let mut commands = Vec::new();
    while !body.is_empty() {
        let mut args = SmallVec::new();
        let used = parse_array(body, &mut args).expect("a command");
        commands.push(args.iter().map(|arg| arg.to_vec()).collect());
        body = &body[used..];
    }
    commands
}

/// As [`compare::same`]; a string that has grown may have another encoding once it is loaded, and
/// one step of a scan goes by the table of its replica.
fn same(args: &Args, ours: &Value, theirs: &Value) -> bool {
    let name = args[0].to_ascii_lowercase();
    name == b"object" || name.ends_with(b"scan") || compare::same(args, ours, theirs)
}
