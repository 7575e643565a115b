//! Client tracking: clients keep copies of what they read and are told when it changes.
//!
//! A read of a tracking client carries a flag; the primary that serves it remembers key and worker
//! and sends an *invalidation* with the first change of the key, before the answer to the write.
//! Here the keys are mapped to clients. A client must not be left with a copy of which nobody will
//! tell it the end, so:
//! - a key counts as read when its answer passes here, and what comes behind it on the same link
//!   comes behind it for the client, too;
//! - when a primary is gone, replaced, silent or refuses, its memory of keys may be lost or
//!   incomplete: every tracking client is told to forget everything (the null invalidation);
//! - an answer that comes from a node that is not, or no longer, known as the primary is followed
//!   by an invalidation of its keys. So are reads inside transactions and reads that were split
//!   over shards, whose reply is put together after their keys were read.

use super::client::Client;
use super::link::LinkState;
use super::redirect::Redirected;
use super::request::{Owner, Request};
use super::{Action, WorkerCore};
use bytes::{Buf, Bytes, BytesMut};
use holdfast_proto::acl::split_caller;
use holdfast_proto::command::{self, CommandSpec};
use holdfast_proto::frame::flags;
use holdfast_proto::frame::push::{Topic, invalidated_keys};
use holdfast_proto::resp::{Args, RawRequest, encode, parse_array};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

/// Where RESP2 clients are told: a connection subscribed to this channel.
const INVALIDATE_CHANNEL: &[u8] = b"__redis__:invalidate";
/// Keys remembered for all clients of a worker (`tracking-table-max-keys`); beyond it the first
/// ones are invalidated.
const KEYS_MAX: usize = 1_000_000;

/// Which reads are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// All.
    Default,
    /// Those after CLIENT CACHING YES.
    OptIn,
    /// Those but after CLIENT CACHING NO.
    OptOut,
    /// None: the client is told of every change under its prefixes.
    Broadcast,
}

/// What a client asked for with CLIENT TRACKING ON.
#[derive(Debug)]
pub(crate) struct Tracking {
    mode: Mode,
    /// Of a broadcasting client; never empty then (no prefix is the empty one).
    prefixes: BTreeSet<Bytes>,
    no_loop: bool,
    /// The client that is told instead; 0: none.
    redirect: u64,
    /// That client is gone.
    broken: bool,
    /// CLIENT CACHING, for the next command.
    caching: bool,
    /// CLIENT CACHING, for the present one.
    caching_now: bool,
}

/// Of a worker.
#[derive(Default)]
pub(super) struct TrackingTable {
    /// Who read a key since it changed last.
    keys: BTreeMap<Bytes, SmallVec<[(u32, u32); 2]>>,
    /// Clients with tracking on.
    clients: BTreeSet<u32>,
    /// Broadcasting clients by prefix.
    prefixes: BTreeMap<Bytes, BTreeSet<u32>>,
}

impl Client {
    /// As CLIENT GETREDIR: -1 without tracking, 0 without redirection, or the other client's id.
    pub(crate) fn redirection(&self) -> i64 {
        self.tracking.as_deref().map_or(-1, |tracking| tracking.redirect as i64)
    }

    /// A command begins: what CLIENT CACHING said is about this one, or is over.
    pub(crate) fn begin_tracked_command(&mut self) {
        if let Some(tracking) = &mut self.tracking
            && self.transaction.is_none()
        {
            tracking.caching_now = std::mem::take(&mut tracking.caching);
        }
    }
}

impl WorkerCore {
    /// The flag of a read whose keys are to be remembered for the client.
    pub(super) fn tracking_flag(&self, index: u32, spec: &CommandSpec) -> u8 {
        let tracking = self.clients.get(index).and_then(|client| client.tracking.as_deref());
        let tracks = tracking.is_some_and(|tracking| match tracking.mode {
            Mode::Default => true,
            Mode::OptIn => tracking.caching_now,
            Mode::OptOut => !tracking.caching_now,
            Mode::Broadcast => false,
        });
        if tracks && spec.is_readonly() { flags::TRACK } else { 0 }
    }

    /// The answer to a tracked read has been given to its client.
    pub(super) fn remember_read_keys(&mut self, request: &Request) {
        let Owner::Client { client: index, generation, .. } = request.owner else { return };
        let tracked = self.clients.of_generation(index, generation);
        if tracked.is_none_or(|client| client.tracking.is_none()) {
            return;
        }
        let keys = keys_of(&request.body);
        let primary = self.router.shards[request.shard as usize].primary.node;
        let current = self.answering.is_some_and(|link| {
            let link = &self.links[link];
            Some(link.node) == primary && link.state == LinkState::Ready && !link.stuck
        });
        if !current {
            return self.invalidate(index, &keys);
        }
        for key in keys {
            let readers = self.tracking.keys.entry(key).or_default();
            if !readers.contains(&(index, generation)) {
                readers.push((index, generation));
            }
        }
        while self.tracking.keys.len() > KEYS_MAX {
            if let Some((key, readers)) = self.tracking.keys.pop_first() {
                for (reader, _) in readers {
                    self.invalidate(reader, std::slice::from_ref(&key));
                }
            }
        }
    }

    /// A reply was made of keys read earlier: the client may not keep them.
    pub(super) fn invalidate_read(&mut self, index: u32, raw: &Bytes) {
        let keys = keys_of(raw);
        if !keys.is_empty() {
            self.invalidate(index, &keys);
        }
    }

    /// The same for a transaction; `body` is the record's.
    pub(super) fn invalidate_exec_reads(&mut self, index: u32, body: &Bytes) {
        let tracking = self.clients.get(index).and_then(|client| client.tracking.as_deref());
        if tracking.is_none_or(|tracking| tracking.mode == Mode::Broadcast) {
            return;
        }
        let Some(watches) = body.first_chunk::<2>() else { return };
        let mut at = 2 + 12 * usize::from(u16::from_le_bytes(*watches)) + 4;
        while at < body.len() {
            let mut args = SmallVec::<[&[u8]; 8]>::new();
            let Ok(len) = parse_array(&body[at..], &mut args) else { return };
            let (_, args) = split_caller(&args);
            let reads =
                command::resolve(args[0], args.get(1).copied()).is_ok_and(CommandSpec::is_readonly);
            if reads {
                self.invalidate_read(index, &body.slice(at..at + len));
            }
            at += len;
        }
    }

    /// Keys changed. The frame begins with the tag of the request that changed them, 0 for none.
    pub(super) fn handle_invalidate(&mut self, mut body: Bytes) {
        if body.len() < 8 {
            return tracing::error!("a node sent a malformed invalidation");
        }
        let writer = self.client_of_tag(body.get_u64_le());
        let Ok(keys) = invalidated_keys(body) else {
            return tracing::error!("a node sent a malformed invalidation");
        };
        if keys.is_empty() {
            return self.flush_tracking();
        }
        let mut broadcasts: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            for (prefix, clients) in &self.tracking.prefixes {
                if key.starts_with(prefix) {
                    for &client in clients {
                        broadcasts.entry(client).or_default().push(key.clone());
                    }
                }
            }
            let readers = self.tracking.keys.remove(&key).unwrap_or_default();
            for (reader, generation) in readers {
                if self.clients.of_generation(reader, generation).is_some()
                    && !self.is_own_write(reader, writer)
                {
                    self.invalidate(reader, std::slice::from_ref(&key));
                }
            }
        }
        for (client, keys) in broadcasts {
            if !self.is_own_write(client, writer) {
                self.invalidate(client, &keys);
            }
        }
    }

    fn client_of_tag(&self, tag: u64) -> Option<u32> {
        let index = self.requests.of_tag(tag)?;
        match self.requests.get(index).owner {
            Owner::Client { client, .. } => Some(client),
            Owner::Scatter { index, .. } => self.scatters.client_of(index),
            Owner::Nobody | Owner::Lookup { .. } | Owner::Queued { .. } => None,
        }
    }

    /// The client made the change itself and does not want to be told (NOLOOP).
    fn is_own_write(&self, index: u32, writer: Option<u32>) -> bool {
        let tracking = self.clients.get(index).and_then(|client| client.tracking.as_deref());
        writer == Some(index) && tracking.is_some_and(|tracking| tracking.no_loop)
    }

    /// Some invalidations may have been missed: every tracking client forgets everything.
    pub(super) fn flush_tracking(&mut self) {
        self.tracking.keys.clear();
        for index in self.tracking.clients.clone() {
            self.invalidate(index, &[]);
        }
    }

    /// Tells a client (or the one it named) to forget keys; all of them if `keys` is empty.
    fn invalidate(&mut self, index: u32, keys: &[Bytes]) {
        let Some(tracking) = self.clients.get(index).and_then(|c| c.tracking.as_deref()) else {
            return;
        };
        let target = tracking.redirect;
        if target == 0 {
            return self.tell_to_forget(index, false, keys);
        }
        if let Some(target) = self.clients.by_id(target) {
            return self.tell_to_forget(target, true, keys);
        }
        if !self.is_of_other_worker(target) {
            return self.redirection_broke(index);
        }
        let Some(source) = self.clients.get(index).map(|client| client.id) else { return };
        let forget = Redirected::Forget { source, target, keys: keys.to_vec() };
        self.actions.push(Action::Redirect(forget));
    }

    /// The client to which a client's invalidations go is gone.
    pub(super) fn redirection_broke(&mut self, index: u32) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(tracking) = &mut client.tracking else { return };
        let known = std::mem::replace(&mut tracking.broken, true);
        let target = tracking.redirect;
        if client.resp3 && !known {
            let mut out = BytesMut::new();
            encode::push(&mut out, 2, true);
            encode::bulk(&mut out, b"tracking-redir-broken");
            encode::integer(&mut out, target as i64);
            client.push(&out);
            self.mark_client(index);
        }
    }

    /// Tells a client to forget keys, which another one has read if it was redirected.
    pub(super) fn tell_to_forget(&mut self, target: u32, redirected: bool, keys: &[Bytes]) {
        let mut out = BytesMut::new();
        let Some(client) = self.clients.get_mut(target) else { return };
        if client.resp3 {
            encode::push(&mut out, 2, true);
            encode::bulk(&mut out, b"invalidate");
        } else if redirected && client.is_subscriber() {
            encode::array(&mut out, 3);
            encode::bulk(&mut out, b"message");
            encode::bulk(&mut out, INVALIDATE_CHANNEL);
        } else {
            return;
        }
        if keys.is_empty() {
            encode::null_array(&mut out, client.resp3);
        } else {
            encode::array(&mut out, keys.len());
            keys.iter().for_each(|key| encode::bulk(&mut out, key));
        }
        client.push(&out);
        self.mark_client(target);
    }

    /// RESET, CLIENT TRACKING OFF, or the client is gone.
    pub(super) fn stop_tracking(&mut self, index: u32, tracking: Option<Box<Tracking>>) {
        let Some(tracking) = tracking else { return };
        self.tracking.clients.remove(&index);
        for prefix in &tracking.prefixes {
            self.remove_prefix(index, prefix);
        }
    }

    fn remove_prefix(&mut self, index: u32, prefix: &Bytes) {
        if let Some(clients) = self.tracking.prefixes.get_mut(prefix) {
            clients.remove(&index);
            if clients.is_empty() {
                self.tracking.prefixes.remove(prefix);
            }
        }
        self.pubsub.remove(Topic::Prefix, prefix, index);
    }
}

/// The keys of a read, copied out of the buffer that it came in.
fn keys_of(raw: &Bytes) -> Vec<Bytes> {
    let Ok(args) = Args::parse(raw) else { return Vec::new() };
    let request = RawRequest { raw: raw.clone(), args };
    let args: SmallVec<[&[u8]; 16]> = request.iter().collect();
    let (_, args) = split_caller(&args);
    let subcommand = args.get(1).copied();
    let Ok(spec) = command::resolve(args[0], subcommand) else { return Vec::new() };
    let Ok(positions) = command::keys(spec, args) else { return Vec::new() };
    positions.iter().map(|at| Bytes::copy_from_slice(args[at.index as usize])).collect()
}

// ---- the commands --------------------------------------------------------------------------------

const SWITCH_BROADCAST: &str = "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.";
const SWITCH_OPT: &str = "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.";

/// The options of CLIENT TRACKING.
#[derive(Default)]
struct Options {
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    redirect: u64,
    prefixes: Vec<Bytes>,
}

/// CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix …] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]
pub(super) fn tracking(
    core: &mut WorkerCore,
    index: u32,
    request: &RawRequest,
    out: &mut BytesMut,
) {
    match core.set_tracking(index, request, false) {
        Ok(()) => encode::ok(out),
        Err(text) => encode::error(out, &text),
    }
}

impl WorkerCore {
    /// `vouched`: another worker has the client to which invalidations are redirected.
    pub(super) fn set_tracking(
        &mut self,
        index: u32,
        request: &RawRequest,
        vouched: bool,
    ) -> Result<(), String> {
        let options = self.tracking_options(request)?;
        let redirect = options.redirect;
        if redirect != 0 && !vouched && self.clients.by_id(redirect).is_none() {
            return Err("ERR The client ID you want redirect to does not exist".to_owned());
        }
        match request.arg(2).to_ascii_lowercase().as_slice() {
            b"off" => {
                let old = self.clients.get_mut(index).and_then(|client| client.tracking.take());
                self.stop_tracking(index, old);
                Ok(())
            }
            b"on" => self.start_tracking(index, options),
            _ => Err(super::respond::SYNTAX.to_owned()),
        }
    }

    /// The client that CLIENT TRACKING wants to be told, if another worker has to say whether it is
    /// there.
    pub(super) fn redirect_elsewhere(&self, request: &RawRequest) -> Option<u64> {
        let is = |at: usize, word: &str| {
            request.len() > at && request.arg(at).eq_ignore_ascii_case(word.as_bytes())
        };
        if !is(0, "client") || !is(1, "tracking") || !is(2, "on") {
            return None;
        }
        let target = self.tracking_options(request).ok()?.redirect;
        let elsewhere = target != 0 && self.is_of_other_worker(target);
        elsewhere.then_some(target)
    }

    fn tracking_options(&self, request: &RawRequest) -> Result<Options, String> {
        let syntax = || super::respond::SYNTAX.to_owned();
        let mut options = Options::default();
        let mut args = request.iter().skip(3);
        while let Some(arg) = args.next() {
            match arg.to_ascii_lowercase().as_slice() {
                b"bcast" => options.broadcast = true,
                b"optin" => options.opt_in = true,
                b"optout" => options.opt_out = true,
                b"noloop" => options.no_loop = true,
                b"prefix" => {
                    let prefix = args.next().ok_or_else(syntax)?;
                    options.prefixes.push(Bytes::copy_from_slice(prefix));
                }
                b"redirect" => {
                    let id = args.next().ok_or_else(syntax)?;
                    if options.redirect != 0 {
                        let text = "ERR A client can only redirect to a single other client";
                        return Err(text.to_owned());
                    }
                    options.redirect = super::local::number(id)
                        .ok_or_else(|| super::respond::NOT_AN_INTEGER.to_owned())?;
                }
                _ => return Err(syntax()),
            }
        }
        Ok(options)
    }

    fn start_tracking(&mut self, index: u32, options: Options) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        let old = client.tracking.as_deref();
        if !options.broadcast && !options.prefixes.is_empty() {
            return Err("ERR PREFIX option requires BCAST mode to be enabled".to_owned());
        }
        if old.is_some_and(|old| (old.mode == Mode::Broadcast) != options.broadcast) {
            return Err(SWITCH_BROADCAST.to_owned());
        }
        if options.broadcast && (options.opt_in || options.opt_out) {
            return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".to_owned());
        }
        if options.opt_in && options.opt_out {
            return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".to_owned());
        }
        let switches = old.is_some_and(|old| {
            options.opt_in && old.mode == Mode::OptOut || options.opt_out && old.mode == Mode::OptIn
        });
        if switches {
            return Err(SWITCH_OPT.to_owned());
        }
        let mut prefixes = old.map(|old| old.prefixes.clone()).unwrap_or_default();
        check_prefixes(&prefixes, &options.prefixes)?;
        let added = if options.broadcast && prefixes.is_empty() && options.prefixes.is_empty() {
            vec![Bytes::new()]
        } else {
            options.prefixes
        };
        prefixes.extend(added.iter().cloned());
        let mode = match (options.broadcast, options.opt_in, options.opt_out) {
            (true, ..) => Mode::Broadcast,
            (_, true, _) => Mode::OptIn,
            (_, _, true) => Mode::OptOut,
            _ => Mode::Default,
        };
        let generation = client.generation;
        client.tracking = Some(Box::new(Tracking {
            mode,
            prefixes,
            no_loop: options.no_loop,
            redirect: options.redirect,
            broken: false,
            caching: false,
            caching_now: false,
        }));
        self.tracking.clients.insert(index);
        for prefix in added {
            self.pubsub.add(Topic::Prefix, &prefix, index, generation);
            self.tracking.prefixes.entry(prefix).or_default().insert(index);
        }
        // Ahead of the client's next read on every link.
        self.register_changes();
        Ok(())
    }
}

fn check_prefixes(old: &BTreeSet<Bytes>, new: &[Bytes]) -> Result<(), String> {
    let overlap = |a: &Bytes, b: &Bytes| a.starts_with(b) || b.starts_with(a);
    let text = |a: &Bytes, what: &str, b: &Bytes| {
        let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
        format!(
            "ERR Prefix '{a}' overlaps with {what} prefix '{b}'. Prefixes for a single client must not overlap."
        )
    };
    for (at, prefix) in new.iter().enumerate() {
        if let Some(existing) = old.iter().find(|existing| overlap(prefix, existing)) {
            return Err(text(prefix, "an existing", existing));
        }
        if let Some(other) = new[at + 1..].iter().find(|other| overlap(prefix, other)) {
            return Err(text(prefix, "another provided", other));
        }
    }
    Ok(())
}

/// CLIENT CACHING YES|NO
pub(super) fn caching(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let tracking = core.clients.get_mut(index).and_then(|client| client.tracking.as_deref_mut());
    let Some(tracking) = tracking else {
        return encode::error(
            out,
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        );
    };
    let error = match (request.arg(2).to_ascii_lowercase().as_slice(), tracking.mode) {
        (b"yes", Mode::OptIn) | (b"no", Mode::OptOut) => {
            tracking.caching = true;
            return encode::ok(out);
        }
        (b"yes", _) => {
            "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
        }
        (b"no", _) => {
            "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
        }
        _ => super::respond::SYNTAX,
    };
    encode::error(out, error);
}

/// CLIENT GETREDIR
pub(super) fn redirection(core: &WorkerCore, index: u32, out: &mut BytesMut) {
    encode::integer(out, core.clients.get(index).map_or(-1, Client::redirection));
}

/// CLIENT TRACKINGINFO
pub(super) fn tracking_info(core: &WorkerCore, index: u32, out: &mut BytesMut) {
    let Some(client) = core.clients.get(index) else { return };
    let resp3 = client.resp3;
    let tracking = client.tracking.as_deref();
    let mut words: Vec<&str> = Vec::new();
    let cached = tracking.is_some_and(|tracking| tracking.caching);
    match tracking.map(|tracking| tracking.mode) {
        None => words.push("off"),
        Some(Mode::Default) => words.push("on"),
        Some(Mode::Broadcast) => words.extend(["on", "bcast"]),
        Some(Mode::OptIn) => words.extend(["on", "optin"]),
        Some(Mode::OptOut) => words.extend(["on", "optout"]),
    }
    match tracking.map(|tracking| tracking.mode) {
        Some(Mode::OptIn) if cached => words.push("caching-yes"),
        Some(Mode::OptOut) if cached => words.push("caching-no"),
        _ => {}
    }
    if tracking.is_some_and(|tracking| tracking.no_loop) {
        words.push("noloop");
    }
    if tracking.is_some_and(|tracking| tracking.broken) {
        words.push("broken_redirect");
    }
    encode::map(out, 3, resp3);
    encode::bulk(out, b"flags");
    encode::set(out, words.len(), resp3);
    words.iter().for_each(|word| encode::bulk(out, word.as_bytes()));
    encode::bulk(out, b"redirect");
    encode::integer(out, tracking.map_or(-1, |tracking| tracking.redirect as i64));
    encode::bulk(out, b"prefixes");
    let prefixes = tracking.map(|tracking| &tracking.prefixes);
    encode::array(out, prefixes.map_or(0, BTreeSet::len));
    prefixes.into_iter().flatten().for_each(|prefix| encode::bulk(out, prefix));
}
