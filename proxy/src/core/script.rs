//! Scripts and functions: where they run, and how every shard gets them.
//!
//! A shard keeps the scripts that it has seen, and Redis's clients expect that EVALSHA finds what an
//! EVAL or SCRIPT LOAD brought, whatever the keys. So SCRIPT LOAD and FUNCTION LOAD go to all shards, and
//! for EVALSHA the worker sees to it that the shard has the script:
//! - It knows that the shard has it (it sent it there before): the command goes as it came.
//! - It knows the body: the command goes as EVAL.
//! - Otherwise the client waits while all shards are asked for the body. If none has it, the command goes
//!   as it came and the shard answers NOSCRIPT.
//!
//! All this happens before the command gets its place in a lane, so the order of a client's commands
//! and exactly-once are what they are for any other command.

use super::client::Stall;
use super::flow::{Draft, READ_COMMAND, WRITE_COMMAND};
use super::local::is_word;
use super::request::{Handle, Owner};
use super::scatter::Spread;
use super::session::{Resolved, Route};
use super::{WorkerCore, respond, stats};
use bytes::{Bytes, BytesMut};
use holdfast_proto::acl::split_caller;
use holdfast_proto::frame::flags;
use holdfast_proto::resp::{Args, RawRequest, encode, parse_array};
use holdfast_proto::sha1;
use holdfast_proto::slot::Slot;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

type Sha = [u8; 20];

/// Bodies of scripts that a worker remembers, bytes; the oldest are forgotten. Their shards still
/// have them. A guess: far more than the scripts of an application take.
const BODIES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Pairs of shard and script that a worker remembers.
const PLACES_MAX: usize = 64 * 1024;

/// What a worker knows of scripts.
#[derive(Default)]
pub(crate) struct Scripts {
    bodies: BTreeMap<Sha, Bytes>,
    /// Oldest first.
    order: VecDeque<Sha>,
    bytes: usize,
    /// Shards that have a script, or were just asked in vain.
    places: BTreeSet<(u32, Sha)>,
    lookups: Slab<Lookup>,
}

/// A client waits to hear of a script.
struct Lookup {
    client: u32,
    generation: u32,
    sha: Sha,
    /// Where the script is to run.
    shard: u32,
    waiting: usize,
    over: bool,
}

impl Scripts {
    fn remember(&mut self, sha: Sha, body: &[u8]) {
        if body.len() > BODIES_BYTES_MAX || self.bodies.contains_key(&sha) {
            return;
        }
        self.bodies.insert(sha, Bytes::copy_from_slice(body));
        self.order.push_back(sha);
        self.bytes += body.len();
        while self.bytes > BODIES_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.bytes -= self.bodies.remove(&oldest).map_or(0, |body| body.len());
        }
    }

    fn note_place(&mut self, shard: u32, sha: Sha) {
        if self.places.len() >= PLACES_MAX {
            self.places.clear();
        }
        self.places.insert((shard, sha));
    }

    /// A shard says that it does not have the script of an EVALSHA.
    pub(crate) fn forget(&mut self, shard: u32, command: &[u8]) {
        let mut args: SmallVec<[&[u8]; 8]> = SmallVec::new();
        if parse_array(command, &mut args).is_ok()
            && let Some(sha) = split_caller(&args).1.get(1).and_then(|name| sha1::from_hex(name))
        {
            self.places.remove(&(shard, sha));
        }
    }

    fn clear(&mut self) {
        self.bodies.clear();
        self.order.clear();
        self.bytes = 0;
        self.places.clear();
    }
}

impl WorkerCore {
    /// EVAL, EVALSHA, FCALL and their read-only forms.
    pub(crate) fn handle_script(&mut self, index: u32, resolved: Resolved, request: RawRequest) {
        let Some(request) = self.with_script(index, resolved, request) else { return };
        let db = self.clients.get(index).map_or(0, |client| client.db);
        match self.script_place(db, resolved, &request) {
            Ok((shard, slot, keyless)) => {
                if self.has_no_room(shard) {
                    return self.park_for_shard(index, shard, request);
                }
                let logged = resolved.spec.is_logged();
                let kind = if logged { WRITE_COMMAND } else { READ_COMMAND };
                let flags = self.script_flags(slot, keyless);
                let Some(client) = self.clients.get(index) else { return };
                let raw = client.account.script_body(&request);
                let sent = self.submit_for(index, resolved.index, kind, shard, slot, raw, flags);
                if !logged
                    && let Some((number, _)) = sent
                    && let Some(client) = self.clients.get_mut(index)
                {
                    client.remember_read(None, number);
                }
            }
            Err(text) => self.reject(index, resolved.index, text),
        }
    }

    /// The shard and slot in which a script runs, and whether it names no key.
    fn script_place(
        &self,
        db: u16,
        resolved: Resolved,
        request: &RawRequest,
    ) -> Result<(u32, Slot, bool), &'static str> {
        match self.route(db, resolved.spec, request) {
            Route::One { shard, slot } => Ok((shard, slot, false)),
            Route::Many => Err(respond::CROSSSLOT),
            Route::Unserved => Err(respond::SLOT_NOT_SERVED),
            // The first shard; it also words the errors of what cannot be understood.
            Route::Keyless | Route::Invalid => {
                let shards = self.router.serving_shards();
                let shard = *shards.first().ok_or(respond::SLOT_NOT_SERVED)?;
                Ok((shard, self.keyless_slot(shard), true))
            }
        }
    }

    /// Flags of a frame with a script. With one shard, a script may touch whatever it likes; so may
    /// one that runs where a co-location rule puts keys, whatever slots their names have.
    pub(crate) fn script_flags(&self, slot: Slot, keyless: bool) -> u8 {
        let by_rule = self.placement.rules().iter().any(|rule| rule.slot == slot);
        let bounded = self.router.shards.len() > 1 && !by_rule;
        let one_slot = if bounded { flags::ONE_SLOT } else { 0 };
        one_slot | if keyless { flags::KEYLESS } else { 0 }
    }

    /// The command as its shard can execute it. `None`: the client waits, and then sends it again.
    pub(crate) fn with_script(
        &mut self,
        index: u32,
        resolved: Resolved,
        request: RawRequest,
    ) -> Option<RawRequest> {
        let (by_sha, eval) = match resolved.spec.name {
            "eval" | "eval_ro" => (false, ""),
            "evalsha" => (true, "EVAL"),
            "evalsha_ro" => (true, "EVAL_RO"),
            _ => return Some(request),
        };
        let db = self.clients.get(index).map_or(0, |client| client.db);
        let Ok((shard, ..)) = self.script_place(db, resolved, &request) else {
            return Some(request);
        };
        let in_multi = self.clients.get(index).is_some_and(|client| client.transaction.is_some());
        if !by_sha {
            let body = request.arg(1);
            let sha = sha1::digest(body);
            self.scripts.remember(sha, body);
            // A read leaves no script behind, and a transaction may not be executed.
            if resolved.spec.is_logged() && !in_multi {
                self.scripts.note_place(shard, sha);
            }
            return Some(request);
        }
        let Some(sha) = sha1::from_hex(request.arg(1)) else { return Some(request) };
        // What happens to the cache before EXEC is not known yet.
        if !in_multi && self.scripts.places.contains(&(shard, sha)) {
            return Some(request);
        }
        if let Some(body) = self.scripts.bodies.get(&sha) {
            let request = rewritten(&request, eval, body);
            if resolved.spec.is_logged() && !in_multi {
                self.scripts.note_place(shard, sha);
            }
            return request;
        }
        if self.scripts.places.contains(&(shard, sha)) || !self.look_up(index, shard, sha) {
            return Some(request);
        }
        self.park(index, request, Stall::Script);
        None
    }

    /// Asks all shards that are up for a script; `false` if there is none to ask.
    fn look_up(&mut self, index: u32, shard: u32, sha: Sha) -> bool {
        let Some(client) = self.clients.get(index) else { return false };
        let asked: Vec<u32> = self
            .router
            .serving_shards()
            .into_iter()
            .filter(|&shard| self.router.shards[shard as usize].down_since_us.is_none())
            .collect();
        if asked.is_empty() {
            return false;
        }
        let lookup = self.scripts.lookups.insert(Lookup {
            client: index,
            generation: client.generation,
            sha,
            shard,
            waiting: asked.len(),
            over: false,
        }) as u32;
        let mut body = BytesMut::new();
        let name = sha1::to_hex(&sha);
        encode::command(&mut body, [b"SCRIPT".as_slice(), b"SHOW", name.as_bytes()].into_iter());
        let body = body.freeze();
        for shard in asked {
            let slot = self.keyless_slot(shard);
            let depends_on =
                self.clients.get(index).map_or(Handle::NOWHERE, |client| client.last_write(shard));
            self.submit(Draft {
                owner: Owner::Lookup { index: lookup },
                kind: READ_COMMAND,
                flags: flags::KEYLESS,
                db: 0,
                slot,
                shard,
                depends_on,
                command: stats::NO_COMMAND,
                body: body.clone(),
            });
        }
        true
    }

    /// A shard has told whether it has a script.
    pub(crate) fn lookup_answered(&mut self, index: u32, payload: &[u8]) {
        let Some(lookup) = self.scripts.lookups.get_mut(index as usize) else { return };
        lookup.waiting -= 1;
        let last = lookup.waiting == 0;
        let (sha, shard) = (lookup.sha, lookup.shard);
        let client = (lookup.client, lookup.generation);
        let was_over = std::mem::replace(&mut lookup.over, true);
        let body = bulk(payload).filter(|body| sha1::digest(body) == sha);
        if last {
            self.scripts.lookups.remove(index as usize);
        } else if body.is_none() && !was_over {
            // The others may have it.
            self.scripts.lookups[index as usize].over = false;
        }
        if was_over {
            return;
        }
        match body {
            Some(body) => self.scripts.remember(sha, body),
            None if last => self.scripts.note_place(shard, sha),
            None => return,
        }
        self.unstall(vec![client]);
    }

    /// SCRIPT and FUNCTION.
    pub(crate) fn handle_script_cache(
        &mut self,
        index: u32,
        resolved: Resolved,
        request: RawRequest,
    ) {
        match resolved.spec.name {
            "script|load" => {
                let body = request.arg(2);
                self.scripts.remember(sha1::digest(body), body);
                self.route_spread(index, resolved, Spread::Same, request);
            }
            "script|exists" => self.route_spread(index, resolved, Spread::AnyOf, request),
            "script|flush" => {
                // Wrong modes are refused by the shards.
                if request.len() == 2
                    || is_word(request.arg(2), "sync")
                    || is_word(request.arg(2), "async")
                {
                    self.scripts.clear();
                }
                self.route_spread(index, resolved, Spread::All, request);
            }
            "function|load" | "function|delete" | "function|flush" | "function|restore" => {
                self.route_spread(index, resolved, Spread::Same, request);
            }
            // Every shard has the same.
            _ => self.route_data(index, resolved, request),
        }
    }
}

/// EVALSHA as EVAL.
fn rewritten(request: &RawRequest, eval: &str, body: &Bytes) -> Option<RawRequest> {
    let mut raw = BytesMut::with_capacity(request.raw.len() + body.len());
    encode::array(&mut raw, request.len());
    encode::bulk(&mut raw, eval.as_bytes());
    encode::bulk(&mut raw, body);
    for arg in request.iter().skip(2) {
        encode::bulk(&mut raw, arg);
    }
    let raw = raw.freeze();
    let args = Args::parse(&raw).ok()?;
    Some(RawRequest { raw, args })
}

/// The content of a bulk string.
fn bulk(payload: &[u8]) -> Option<&[u8]> {
    let rest = payload.strip_prefix(b"$")?;
    let end = memchr::memchr(b'\r', rest)?;
    let len: usize = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    rest.get(end + 2..end + 2 + len)
}
