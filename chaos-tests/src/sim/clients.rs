//! Clients that speak RESP to the proxies, what they asked and were told, and whether that can be
//! the work of one server that executes every command once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use holdfast_consensus::testing::Rng;
use holdfast_proto::resp::encode;
use holdfast_proto::resp::reply::{Value, decode};
use holdfast_proxy::core::ClientKey;

use super::plan::Plan;
use super::world::{Event, World};

/// Hash tags: their slots lie in all shards.
const TAGS: u64 = 5;

/// One command, or a transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ask {
    /// Append a token that is never used again; answered with its place.
    Push(Key, u64),
    /// The tokens of a list.
    Range(Key),
    /// Append a token to both lists of a tag in MULTI/EXEC.
    PushBoth(u64, u64),
    Incr(Key),
    Count(Key),
    Set(Key, u64),
    Get(Key),
    /// A value that expires after so many milliseconds.
    SetFor(Key, u64, u64),
    /// Take the first token.
    Pop(Key),
    /// The same, waiting for one for a second.
    PopWaiting(Key),
    Add(Key, u64),
    /// Take any member.
    Take(Key),
    Members(Key),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    List(u64, u64),
    Counter(u64),
    Register(u64),
    Expiring(u64),
    Queue(u64),
    Bag(u64),
}

impl Key {
    fn name(self) -> String {
        match self {
            Self::List(tag, at) => format!("list:{{t{tag}}}:{at}"),
            Self::Counter(tag) => format!("counter:{{t{tag}}}"),
            Self::Register(tag) => format!("register:{{t{tag}}}"),
            Self::Expiring(tag) => format!("expiring:{{t{tag}}}"),
            Self::Queue(tag) => format!("queue:{{t{tag}}}"),
            Self::Bag(tag) => format!("bag:{{t{tag}}}"),
        }
    }
}

impl Ask {
    /// The commands, as words.
    fn commands(&self) -> Vec<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        match self {
            Self::Push(key, token) => vec![words(&["RPUSH", &key.name(), &token.to_string()])],
            Self::Range(key) => vec![words(&["LRANGE", &key.name(), "0", "-1"])],
            Self::PushBoth(tag, token) => {
                let push = |at| words(&["RPUSH", &Key::List(*tag, at).name(), &token.to_string()]);
                vec![words(&["MULTI"]), push(0), push(1), words(&["EXEC"])]
            }
            Self::Incr(key) => vec![words(&["INCR", &key.name()])],
            Self::Count(key) | Self::Get(key) => vec![words(&["GET", &key.name()])],
            Self::Set(key, value) => vec![words(&["SET", &key.name(), &value.to_string()])],
            Self::SetFor(key, value, ms) => {
                let (value, ms) = (value.to_string(), ms.to_string());
                vec![words(&["SET", &key.name(), &value, "PX", &ms])]
            }
            Self::Pop(key) => vec![words(&["LPOP", &key.name()])],
            Self::PopWaiting(key) => vec![words(&["BLPOP", &key.name(), "1"])],
            Self::Add(key, member) => vec![words(&["SADD", &key.name(), &member.to_string()])],
            Self::Take(key) => vec![words(&["SPOP", &key.name()])],
            Self::Members(key) => vec![words(&["SMEMBERS", &key.name()])],
        }
    }
}

/// What a client knows of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Waiting,
    Done(Value),
    /// The answer says that it was surely not executed.
    Refused,
    /// It may or may not have been executed.
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Op {
    client: usize,
    session: u64,
    ask: Ask,
    invoked: Duration,
    returned: Duration,
    outcome: Outcome,
    /// Answers still to come.
    answers: usize,
}

struct Client {
    rng: Rng,
    /// Of the connection; changes with each.
    session: u64,
    place: Option<(usize, ClientKey)>,
    pending: VecDeque<usize>,
    input: BytesMut,
    request_arrives: Duration,
    reply_arrives: Duration,
}

/// All clients and their history.
pub(crate) struct Clients {
    clients: Vec<Client>,
    ops: Vec<Op>,
    next_token: u64,
    pub(crate) stop_at: Duration,
    /// At the end client 0 reads everything.
    pub(crate) scanning: bool,
    scan: Vec<usize>,
}

/// Broken promises found in a history.
#[derive(Debug, Default)]
pub(crate) struct Violations(pub(crate) Vec<(&'static str, String)>);

impl Violations {
    fn add(&mut self, invariant: &'static str, text: String) {
        self.0.push((invariant, text));
    }
}

impl Clients {
    pub(crate) fn new(plan: &Plan) -> Self {
        let client = |at| Client {
            rng: Rng(plan.seed.wrapping_add(at as u64 * 77) ^ 0xc11e),
            session: 0,
            place: None,
            pending: VecDeque::new(),
            input: BytesMut::new(),
            request_arrives: Duration::ZERO,
            reply_arrives: Duration::ZERO,
        };
        Self {
            clients: (0..plan.clients).map(client).collect(),
            ops: Vec::new(),
            next_token: 1,
            stop_at: Duration::MAX,
            scanning: false,
            scan: Vec::new(),
        }
    }

    pub(crate) fn session(&self, client: usize) -> u64 {
        self.clients[client].session
    }

    /// The proxy of a client's connection, if it is still that one.
    pub(crate) fn proxy_of(&self, client: usize, session: u64) -> Option<usize> {
        let client = &self.clients[client];
        client.place.filter(|_| client.session == session).map(|(proxy, _)| proxy)
    }

    pub(crate) fn key(&self, client: usize) -> Option<ClientKey> {
        self.clients[client].place.map(|(_, key)| key)
    }

    pub(crate) fn connected(&mut self, client: usize, proxy: usize, key: ClientKey) {
        let client = &mut self.clients[client];
        client.place = Some((proxy, key));
        client.session += 1;
        client.input.clear();
    }

    /// The connection is gone: nothing more will be known of what is unanswered.
    pub(crate) fn disconnected(&mut self, client: usize) {
        let state = &mut self.clients[client];
        state.place = None;
        state.session += 1;
        for op in state.pending.drain(..) {
            self.ops[op].outcome = Outcome::Unknown;
            self.ops[op].returned = Duration::MAX;
        }
    }

    pub(crate) fn send_reply(&mut self, client: usize, now: Duration, _bytes: usize) {
        let state = &mut self.clients[client];
        state.reply_arrives = state.reply_arrives.max(now + Duration::from_micros(100));
    }

    pub(crate) fn reply_arrives(&self, client: usize, _now: Duration) -> Duration {
        self.clients[client].reply_arrives
    }

    /// Who still waits for something.
    pub(crate) fn waiting(&self) -> Option<String> {
        let waits = self.clients.iter().position(|client| !client.pending.is_empty());
        if let Some(at) = waits {
            let op = self.clients[at].pending.front().map(|op| &self.ops[*op]);
            return Some(format!("client {at} waits: {op:?}"));
        }
        let unread = self.scanning && self.scan.is_empty();
        let failed = self.scan.iter().any(|op| !matches!(self.ops[*op].outcome, Outcome::Done(_)));
        (unread || failed).then(|| "the scan is not done".to_owned())
    }

    pub(crate) fn begin_scan(&mut self) {
        self.scanning = true;
    }

    fn draw(&mut self, client: usize) -> Vec<Ask> {
        let rng = &mut self.clients[client].rng;
        let mut asks = Vec::new();
        let long = rng.chance(30);
        let count = if long { 2 + rng.below(7) } else { 1 };
        let home = rng.below(TAGS);
        for _ in 0..count {
            let tag = if rng.chance(60) { home } else { rng.below(TAGS) };
            let token = self.next_token;
            self.next_token += 1;
            let list = Key::List(tag, rng.below(2));
            asks.push(match rng.below(100) {
                0..=24 => Ask::Push(list, token),
                25..=37 => Ask::Range(list),
                38..=44 => Ask::PushBoth(tag, token),
                45..=57 => Ask::Incr(Key::Counter(tag)),
                58..=63 => Ask::Count(Key::Counter(tag)),
                64..=70 => Ask::Set(Key::Register(tag), token),
                71..=77 => Ask::Get(Key::Register(tag)),
                78..=80 => Ask::SetFor(Key::Expiring(tag), token, 20 + rng.below(800)),
                81..=82 => Ask::Get(Key::Expiring(tag)),
                83..=88 => Ask::Push(Key::Queue(tag), token),
                89..=91 => Ask::Pop(Key::Queue(tag)),
                92..=93 => Ask::PopWaiting(Key::Queue(tag)),
                94..=97 => Ask::Add(Key::Bag(tag), token),
                _ => Ask::Take(Key::Bag(tag)),
            });
        }
        asks
    }
}

fn scan_asks() -> Vec<Ask> {
    (0..TAGS)
        .flat_map(|tag| {
            [
                Ask::Range(Key::List(tag, 0)),
                Ask::Range(Key::List(tag, 1)),
                Ask::Count(Key::Counter(tag)),
                Ask::Get(Key::Register(tag)),
                Ask::Range(Key::Queue(tag)),
                Ask::Members(Key::Bag(tag)),
            ]
        })
        .collect()
}

impl World {
    pub(crate) fn client_wake(&mut self, client: usize, session: u64) {
        if self.clients.session(client) != session {
            return;
        }
        if self.clients.clients[client].place.is_none() {
            if !self.connect_client(client) {
                let delay = Duration::from_millis(30);
                return self.after(delay, Event::ClientWake { client, session });
            }
            let session = self.clients.session(client);
            return self.after(Duration::ZERO, Event::ClientWake { client, session });
        }
        if !self.clients.clients[client].pending.is_empty() {
            return;
        }
        let scan = self.clients.scanning && client == 0;
        if scan {
            let done = self.clients.waiting().is_none();
            if done {
                return;
            }
        } else if self.now >= self.clients.stop_at {
            return;
        }
        let asks = if scan { scan_asks() } else { self.clients.draw(client) };
        let mut bytes = BytesMut::new();
        let mut ops = Vec::new();
        for ask in asks {
            let commands = ask.commands();
            for words in &commands {
                encode::command(&mut bytes, words.iter().map(|w| w.as_bytes()));
            }
            ops.push(self.clients.ops.len());
            self.clients.ops.push(Op {
                client,
                session,
                ask,
                invoked: self.now,
                returned: Duration::MAX,
                outcome: Outcome::Waiting,
                answers: commands.len(),
            });
        }
        self.totals.operations += ops.len() as u64;
        if scan {
            self.clients.scan = ops.clone();
        }
        let arrival = self.now + Duration::from_micros(50);
        let state = &mut self.clients.clients[client];
        state.pending.extend(ops);
        state.request_arrives = state.request_arrives.max(arrival);
        let at = state.request_arrives;
        let leaves = !scan && state.rng.chance(1);
        self.at(at, Event::Request { client, session, bytes: bytes.to_vec() });
        if leaves {
            let delay = Duration::from_micros(self.rng.below(20_000));
            self.after(delay, Event::ClientGone { client, session });
        }
    }

    pub(crate) fn reply(&mut self, client: usize, session: u64, bytes: &[u8]) {
        if self.clients.session(client) != session {
            return;
        }
        self.mix(bytes.iter().fold(0, |sum, b| sum << 5 ^ sum >> 59 ^ u64::from(*b)));
        self.clients.clients[client].input.extend_from_slice(bytes);
        loop {
            let now = self.now;
            let state = &mut self.clients.clients[client];
            let value = match decode(&mut state.input) {
                Ok(Some(value)) => value,
                Ok(None) => break,
                Err(error) => {
                    return self.oracle.report("replies are RESP", format!("{error:?}"));
                }
            };
            let Some(op) = state.pending.front().copied() else {
                let text = format!("client {client} got {value:?} without having asked");
                return self.oracle.report("one reply per request", text);
            };
            let known = &mut self.clients.ops[op];
            known.answers -= 1;
            if known.answers > 0 {
                // Inside MULTI: the answer of EXEC says what came of it.
                continue;
            }
            state.pending.pop_front();
            known.returned = now;
            known.outcome = classify(&value);
            match &known.outcome {
                Outcome::Done(_) => self.totals.answered += 1,
                _ => self.totals.failed += 1,
            }
            if let Err(why) = fits(&known.ask, &value) {
                let text =
                    format!("client {client}: {:?} was answered {value:?}: {why}", known.ask);
                return self.oracle.report("replies match requests", text);
            }
            if matches!(known.outcome, Outcome::Refused | Outcome::Unknown) {
                let ask = known.ask.clone();
                self.note(|| format!("client {client}: {ask:?} failed: {value:?}"));
            }
        }
        if self.clients.clients[client].pending.is_empty() {
            let most = self.plan.think.as_micros() as u64;
            let delay = Duration::from_micros(self.clients.clients[client].rng.below(most));
            self.after(delay, Event::ClientWake { client, session });
        }
    }
}

fn is_outage(value: &Value) -> bool {
    let Value::Error(text) = value else { return false };
    [&b"CLUSTERDOWN"[..], b"OUTCOMEUNKNOWN", b"EXECABORT"].iter().any(|code| text.starts_with(code))
}

fn classify(value: &Value) -> Outcome {
    match value {
        Value::Error(text) if text.starts_with(b"OUTCOMEUNKNOWN") => Outcome::Unknown,
        // EXECABORT: a command of the transaction was refused when it was queued.
        refused if is_outage(refused) => Outcome::Refused,
        other => Outcome::Done(other.clone()),
    }
}

/// Whether an answer can be one to this request.
fn fits(ask: &Ask, value: &Value) -> Result<(), &'static str> {
    if is_outage(value) {
        return Ok(());
    }
    let ok = match ask {
        Ask::Push(..) | Ask::Incr(_) | Ask::Add(..) => matches!(value, Value::Integer(1..)),
        Ask::Range(_) | Ask::Members(_) => matches!(value, Value::Array(_)),
        Ask::PushBoth(..) => matches!(value, Value::Array(items)
            if matches!(items[..], [Value::Integer(1..), Value::Integer(1..)])),
        Ask::Count(_) | Ask::Get(_) | Ask::Pop(_) | Ask::Take(_) => {
            matches!(value, Value::Bulk(_) | Value::Null)
        }
        Ask::Set(..) | Ask::SetFor(..) => value.is_ok(),
        Ask::PopWaiting(_) => matches!(value, Value::Array(_) | Value::NullArray | Value::Null),
    };
    if ok { Ok(()) } else { Err("not such an answer") }
}

fn number(value: &Value) -> Option<u64> {
    std::str::from_utf8(value.as_bytes()?).ok()?.parse().ok()
}

fn numbers(value: &Value) -> Vec<u64> {
    match value {
        Value::Array(items) | Value::Set(items) => items.iter().filter_map(number).collect(),
        _ => Vec::new(),
    }
}

/// Something that grew: an operation saw it at, or made it, this size.
struct Seen<'a> {
    op: &'a Op,
    order: usize,
    size: u64,
    writes: bool,
}

impl Clients {
    /// Checks the whole history against what the scan found.
    pub(crate) fn verify(&self, stale_allowed: bool, found: &mut Violations) {
        let mut last: BTreeMap<Ask, Value> = BTreeMap::new();
        for op in &self.scan {
            let op = &self.ops[*op];
            if let Outcome::Done(value) = &op.outcome {
                last.insert(op.ask.clone(), value.clone());
            }
        }
        for tag in 0..TAGS {
            let lists = [0, 1].map(|at| {
                let key = Key::List(tag, at);
                self.check_list(key, &numbers(&last[&Ask::Range(key)]), stale_allowed, found)
            });
            self.check_both(tag, &lists, found);
            let counter = Key::Counter(tag);
            let count = number(&last[&Ask::Count(counter)]).unwrap_or(0);
            self.check_counter(counter, count, stale_allowed, found);
            self.check_register(Key::Register(tag), stale_allowed, found);
            let queue = Key::Queue(tag);
            self.check_handed_out(queue, &numbers(&last[&Ask::Range(queue)]), found);
            let bag = Key::Bag(tag);
            self.check_handed_out(bag, &numbers(&last[&Ask::Members(bag)]), found);
        }
    }

    /// An append-only list: the answers give each token its place. Returns the places.
    fn check_list(
        &self,
        key: Key,
        last: &[u64],
        stale_allowed: bool,
        found: &mut Violations,
    ) -> BTreeMap<u64, usize> {
        let mut places = BTreeMap::new();
        for (at, token) in last.iter().enumerate() {
            if places.insert(*token, at).is_some() {
                found.add("exactly once", format!("{key:?}: {token} is there twice: {last:?}"));
            }
        }
        let mut seen = Vec::new();
        for (order, op) in self.ops.iter().enumerate() {
            let pushed = match (&op.ask, key) {
                (Ask::Push(of, token), _) if *of == key => Some((*token, None)),
                (Ask::PushBoth(tag, token), Key::List(of, at)) if *tag == of => {
                    Some((*token, Some(at as usize)))
                }
                (Ask::Range(of), _) if *of == key => None,
                _ => continue,
            };
            match (pushed, &op.outcome) {
                (Some((token, part)), Outcome::Done(value)) => {
                    let value = match (value, part) {
                        (Value::Array(items), Some(part)) => &items[part],
                        (value, _) => value,
                    };
                    let size = value.as_integer().unwrap_or(0) as u64;
                    if last.get((size as usize).wrapping_sub(1)) != Some(&token) {
                        let text = format!(
                            "{key:?}: {token} was acknowledged as number {size}, found {:?} of {}",
                            places.get(&token).map(|at| at + 1),
                            last.len()
                        );
                        found.add("acknowledged writes stay", text);
                    }
                    seen.push(Seen { op, order, size, writes: true });
                }
                (Some((token, _)), Outcome::Refused) if places.contains_key(&token) => {
                    let text = format!("{key:?}: {token} was refused and is there");
                    found.add("refused means not executed", text);
                }
                (None, Outcome::Done(value)) => {
                    let read = numbers(value);
                    if !last.starts_with(&read) {
                        let text = format!("{key:?}: a read saw {read:?}, at the end {last:?}");
                        found.add("reads see one order", text);
                    }
                    let size = read.len() as u64;
                    seen.push(Seen { op, order, size, writes: false });
                }
                _ => {}
            }
        }
        check_growth(key, &seen, stale_allowed, found);
        places
    }

    fn check_both(&self, tag: u64, lists: &[BTreeMap<u64, usize>; 2], found: &mut Violations) {
        for op in &self.ops {
            if let Ask::PushBoth(of, token) = &op.ask
                && *of == tag
                && lists[0].contains_key(token) != lists[1].contains_key(token)
            {
                let text = format!("tag {tag}: {token} is in one list only");
                found.add("transactions are atomic", text);
            }
        }
    }

    fn check_counter(&self, key: Key, last: u64, stale_allowed: bool, found: &mut Violations) {
        let (mut seen, mut unknown) = (Vec::new(), 0);
        let mut values = BTreeSet::new();
        for (order, op) in self.ops.iter().enumerate() {
            let writes = match &op.ask {
                Ask::Incr(of) if *of == key => true,
                Ask::Count(of) if *of == key => false,
                _ => continue,
            };
            match &op.outcome {
                Outcome::Done(value) => {
                    let size = value.as_integer().map(|v| v as u64).or_else(|| number(value));
                    let size = size.unwrap_or(0);
                    if writes && !values.insert(size) {
                        found.add("exactly once", format!("{key:?}: two INCR made it {size}"));
                    }
                    seen.push(Seen { op, order, size, writes });
                }
                Outcome::Unknown if writes => unknown += 1,
                _ => {}
            }
        }
        let done = values.len() as u64;
        if last < done || last > done + unknown {
            let text = format!("{key:?} is {last} after {done} increments and {unknown} unknown");
            found.add("exactly once", text);
        }
        check_growth(key, &seen, stale_allowed, found);
    }

    /// A read must not return a value that was overwritten before the read began.
    fn check_register(&self, key: Key, stale_allowed: bool, found: &mut Violations) {
        let mut writes: BTreeMap<u64, &Op> = BTreeMap::new();
        for op in &self.ops {
            if let Ask::Set(of, value) = &op.ask
                && *of == key
            {
                writes.insert(*value, op);
            }
        }
        for op in &self.ops {
            if op.ask != Ask::Get(key) {
                continue;
            }
            let Outcome::Done(value) = &op.outcome else { continue };
            let written = number(value).map(|value| (value, writes.get(&value)));
            let since = match written {
                None => Duration::ZERO,
                Some((value, None)) => {
                    found.add("reads see what was written", format!("{key:?}: {value}"));
                    continue;
                }
                Some((value, Some(write))) => {
                    if write.outcome == Outcome::Refused {
                        let text = format!("{key:?}: {value} was refused and is read");
                        found.add("refused means not executed", text);
                    }
                    if write.invoked > op.returned {
                        let text = format!("{key:?}: {value} was read before it was written");
                        found.add("reads see what was written", text);
                    }
                    write.returned
                }
            };
            let newer = writes.values().find(|newer| {
                newer.returned < op.invoked
                    && matches!(newer.outcome, Outcome::Done(_))
                    && newer.invoked > since
            });
            if let Some(newer) = newer
                && !stale_allowed
            {
                let text = format!("{key:?}: read {value:?} after {:?} was done", newer.ask);
                found.add("no stale reads", text);
            }
        }
    }

    /// Each token is handed to one client at most, and none disappears.
    fn check_handed_out(&self, key: Key, left: &[u64], found: &mut Violations) {
        let mut out: BTreeSet<u64> = BTreeSet::new();
        let mut unknown = 0;
        for op in &self.ops {
            let takes = match &op.ask {
                Ask::Pop(of) | Ask::PopWaiting(of) | Ask::Take(of) => *of == key,
                _ => false,
            };
            if !takes {
                continue;
            }
            match &op.outcome {
                Outcome::Done(value) => {
                    let token = match value {
                        Value::Array(pair) => pair.last().and_then(number),
                        value => number(value),
                    };
                    if let Some(token) = token
                        && !out.insert(token)
                    {
                        found.add("exactly once", format!("{key:?}: {token} was handed out twice"));
                    }
                }
                Outcome::Unknown | Outcome::Waiting => unknown += 1,
                Outcome::Refused => {}
            }
        }
        let left: BTreeSet<u64> = left.iter().copied().collect();
        if let Some(token) = left.intersection(&out).next() {
            found.add("exactly once", format!("{key:?}: {token} was handed out and is there"));
        }
        let mut lost = Vec::new();
        for op in &self.ops {
            let token = match &op.ask {
                Ask::Push(of, token) | Ask::Add(of, token) if *of == key => *token,
                _ => continue,
            };
            let there = left.contains(&token) || out.contains(&token);
            match &op.outcome {
                Outcome::Done(_) if !there => lost.push(token),
                Outcome::Refused if there => {
                    let text = format!("{key:?}: {token} was refused and is there");
                    found.add("refused means not executed", text);
                }
                _ => {}
            }
        }
        if lost.len() > unknown {
            let text = format!("{key:?}: {lost:?} are gone, {unknown} pops have no known outcome");
            found.add("acknowledged writes stay", text);
        }
    }
}

/// Sizes only grow: whatever begins after something was seen sees at least as much; a client's own
/// commands see each other in the order in which they were sent.
fn check_growth(key: Key, seen: &[Seen<'_>], stale_allowed: bool, found: &mut Violations) {
    let mut by_return: Vec<&Seen<'_>> = seen.iter().collect();
    by_return.sort_by_key(|s| (s.op.returned, s.order));
    let mut by_invocation: Vec<&Seen<'_>> = seen.iter().collect();
    by_invocation.sort_by_key(|s| (s.op.invoked, s.order));
    let mut returned = by_return.into_iter().peekable();
    let mut floor = 0;
    let mut own: BTreeMap<(usize, u64), u64> = BTreeMap::new();
    for seen in by_invocation {
        while let Some(done) = returned.next_if(|s| s.op.returned < seen.op.invoked) {
            floor = floor.max(done.size);
        }
        let mine = own.entry((seen.op.client, seen.op.session)).or_default();
        let least = floor.max(*mine) + u64::from(seen.writes);
        if seen.size < least && (seen.writes || !stale_allowed) {
            let text = format!("{key:?}: {:?} saw {}, before it {}", seen.op, seen.size, least);
            let invariant = match (seen.writes, seen.size <= floor) {
                (true, true) => "writes are ordered",
                (true, false) => "a client's writes keep their order",
                (false, true) if seen.size < floor => "no stale reads",
                (false, _) => "a client reads its own writes",
            };
            found.add(invariant, text);
        }
        *mine = (*mine).max(seen.size);
    }
}
