//! Commands that concern several shards: split, sent, and their replies made into one.
//!
//! The parts are independent requests, each exactly once by itself; the whole is not atomic over
//! shards, as in any cluster. On a cluster of one shard nothing is split.

use super::flow::{Draft, READ_COMMAND, WRITE_COMMAND};
use super::local::Gather;
use super::request::{Handle, Owner};
use super::session::{Resolved, Route};
use super::{WorkerCore, respond};
use bytes::{Bytes, BytesMut};
use holdfast_proto::frame::flags;
use holdfast_proto::resp::reply::{self, Value};
use holdfast_proto::resp::{RawRequest, ReplyScanner, encode};
use holdfast_proto::slot::Slot;
use slab::Slab;

/// Commands that can be split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spread {
    /// MGET: values in the order of the keys.
    Values,
    /// MSET: pairs.
    Pairs,
    /// DEL, UNLINK, EXISTS, TOUCH: the numbers add up.
    Count,
    /// KEYS: the lists are joined.
    Keys,
    /// DBSIZE.
    Sum,
    /// FLUSHALL, FLUSHDB, SWAPDB: all must say OK.
    All,
    /// SCRIPT LOAD, FUNCTION LOAD: every shard gives the same answer.
    Same,
    /// SCRIPT EXISTS: 1 where any shard says so.
    AnyOf,
    Scan,
    RandomKey,
}

/// One split command.
pub(crate) struct Scatter {
    pub(crate) client: u32,
    pub(crate) generation: u32,
    pub(crate) reply: u32,
    merge: Merge,
    /// The replies, by part.
    parts: Vec<Bytes>,
    waiting: usize,
    /// The request, if its client tracks what it reads.
    tracked: Option<Bytes>,
}

/// How the parts become one reply.
enum Merge {
    /// Per part, the positions of its values.
    Values(Vec<Vec<u32>>),
    Sum,
    Ok,
    Join,
    OneOf,
    Same,
    AnyOf,
    /// SCAN on one of several shards: the cursor is made one over all of them.
    Cursor {
        ordinal: u64,
        shards: u64,
    },
    Gather(Gather, RawRequest),
}

/// The split commands of a worker.
#[derive(Default)]
pub(crate) struct Scatters {
    pub(crate) slab: Slab<Scatter>,
}

/// Low bits of a cursor that name the shard; 64 shards are the most a cluster has.
const CURSOR_SHARD_BITS: u32 = 6;

impl Scatters {
    /// Whose command it is.
    pub(crate) fn client_of(&self, index: u32) -> Option<u32> {
        self.slab.get(index as usize).map(|scatter| scatter.client)
    }
}

impl WorkerCore {
    pub(crate) fn route_spread(
        &mut self,
        index: u32,
        resolved: Resolved,
        spread: Spread,
        request: RawRequest,
    ) {
        if self.router.shards.len() <= 1 {
            return self.route_data(index, resolved, request);
        }
        if resolved.spec.name == "swapdb" && self.swaps_pinned(&request) {
            return self.reject(index, resolved.index, respond::SWAPDB_PINNED);
        }
        match spread {
            Spread::Values | Spread::Pairs | Spread::Count => {
                self.split_keys(index, resolved, spread, request);
            }
            Spread::Scan => self.scan(index, resolved, &request),
            Spread::Keys => self.send_everywhere(index, resolved, Merge::Join, &request),
            Spread::Sum => self.send_everywhere(index, resolved, Merge::Sum, &request),
            Spread::All => self.send_everywhere(index, resolved, Merge::Ok, &request),
            Spread::Same => self.send_everywhere(index, resolved, Merge::Same, &request),
            Spread::AnyOf => self.send_everywhere(index, resolved, Merge::AnyOf, &request),
            Spread::RandomKey => self.send_everywhere(index, resolved, Merge::OneOf, &request),
        }
    }

    /// Would keys of a database change places with those of one that a rule keeps elsewhere?
    fn swaps_pinned(&self, request: &RawRequest) -> bool {
        let database = |at: usize| std::str::from_utf8(request.arg(at)).ok()?.parse::<u16>().ok();
        [1, 2]
            .into_iter()
            .filter_map(database)
            .any(|db| self.placement.slot_of_database(db).is_some())
    }

    /// One part per shard that owns some of the keys.
    fn split_keys(&mut self, index: u32, resolved: Resolved, spread: Spread, request: RawRequest) {
        if spread == Spread::Pairs && request.len().is_multiple_of(2) {
            let text = holdfast_proto::command::arity_error(resolved.spec);
            return self.reject(index, resolved.index, &text);
        }
        let db = self.db_of(index);
        if let Route::One { shard, slot } = self.route(db, resolved.spec, &request) {
            return self.forward(index, resolved, request, shard, slot);
        }
        let step = if spread == Spread::Pairs { 2 } else { 1 };
        let mut groups: Vec<(u32, Slot, Vec<u32>)> = Vec::new();
        for position in (1..request.len()).step_by(step) {
            let slot = self.placement.slot_of(db, request.arg(position));
            let Some(shard) = self.router.shard_of(slot) else {
                return self.reject(index, resolved.index, respond::SLOT_NOT_SERVED);
            };
            match groups.iter_mut().find(|(known, ..)| *known == shard) {
                Some((.., positions)) => positions.push(position as u32),
                None => groups.push((shard, slot, vec![position as u32])),
            }
        }
        if let Some(&(shard, ..)) = groups.iter().find(|(shard, ..)| self.has_no_room(*shard)) {
            return self.park_for_shard(index, shard, request);
        }
        if let [(shard, slot, _)] = groups[..] {
            return self.forward(index, resolved, request, shard, slot);
        }
        if resolved.spec.is_write() && self.setting("strict-multi-key") == Some("yes") {
            return self.reject(index, resolved.index, respond::CROSSSLOT);
        }
        let bodies = groups
            .iter()
            .map(|(shard, slot, positions)| {
                let mut body = BytesMut::new();
                encode::array(&mut body, 1 + positions.len() * step);
                encode::bulk(&mut body, request.arg(0));
                for &position in positions {
                    for offset in 0..step {
                        encode::bulk(&mut body, request.arg(position as usize + offset));
                    }
                }
                (*shard, *slot, body.freeze(), 0)
            })
            .collect();
        let merge = match spread {
            Spread::Values => {
                Merge::Values(groups.into_iter().map(|(.., positions)| positions).collect())
            }
            Spread::Pairs => Merge::Ok,
            _ => Merge::Sum,
        };
        let tracked = self.tracking_flag(index, resolved.spec) != 0;
        let scatter = self.scatter(index, resolved, merge, bodies);
        if tracked && let Some(scatter) = scatter {
            self.scatters.slab[scatter as usize].tracked = Some(request.raw);
        }
    }

    /// The same command to every shard.
    fn send_everywhere(
        &mut self,
        index: u32,
        resolved: Resolved,
        merge: Merge,
        request: &RawRequest,
    ) {
        let shards = self.router.serving_shards();
        if shards.is_empty() {
            return self.reject(index, resolved.index, respond::SLOT_NOT_SERVED);
        }
        let bodies = shards
            .into_iter()
            .map(|shard| (shard, self.keyless_slot(shard), request.raw.clone(), flags::KEYLESS))
            .collect();
        self.scatter(index, resolved, merge, bodies);
    }

    fn scatter(
        &mut self,
        index: u32,
        resolved: Resolved,
        merge: Merge,
        parts: Vec<(u32, Slot, Bytes, u8)>,
    ) -> Option<u32> {
        self.stats.commands += 1;
        let write = resolved.spec.is_logged();
        let client = self.clients.get_mut(index)?;
        let (generation, db) = (client.generation, client.db);
        let client_flags = client.frame_flags();
        let reply = client.expect_reply();
        if !write {
            client.remember_read(None, reply);
        }
        let scatter = self.scatters.slab.insert(Scatter {
            client: index,
            generation,
            reply,
            merge,
            parts: vec![Bytes::new(); parts.len()],
            waiting: parts.len(),
            tracked: None,
        }) as u32;
        for (part, (shard, slot, body, extra)) in parts.into_iter().enumerate() {
            let depends_on = match self.clients.get(index) {
                Some(client) if !write => client.last_write(shard),
                _ => Handle::NOWHERE,
            };
            let handle = self.submit(Draft {
                owner: Owner::Scatter { index: scatter, part: part as u32 },
                kind: if write { WRITE_COMMAND } else { READ_COMMAND },
                flags: client_flags | extra,
                db,
                slot,
                shard,
                depends_on,
                command: resolved.index,
                body,
            });
            if write && let Some(client) = self.clients.get_mut(index) {
                client.remember_write(shard, handle);
            }
        }
        Some(scatter)
    }

    /// A part of a split command is answered; the last one answers the client.
    pub(crate) fn deliver_part(&mut self, index: u32, part: u32, payload: Bytes) {
        let Some(scatter) = self.scatters.slab.get_mut(index as usize) else { return };
        scatter.parts[part as usize] = payload;
        scatter.waiting -= 1;
        if scatter.waiting > 0 {
            return;
        }
        let scatter = self.scatters.slab.remove(index as usize);
        let (client, generation) = (scatter.client, scatter.generation);
        if self.clients.of_generation(client, generation).is_none() {
            return;
        }
        let (reply, tracked) = (scatter.reply, scatter.tracked.clone());
        let merged = self.merge(scatter);
        self.answer_client(client, reply, &merged);
        if let Some(raw) = tracked {
            self.invalidate_read(client, &raw);
        }
    }

    fn merge(&mut self, scatter: Scatter) -> Bytes {
        if !matches!(scatter.merge, Merge::Gather(..))
            && let Some(error) = scatter.parts.iter().find(|part| part.first() == Some(&b'-'))
        {
            return error.clone();
        }
        match scatter.merge {
            Merge::Values(positions) => merge_values(&positions, &scatter.parts),
            Merge::Sum => merge_sum(&scatter.parts),
            Merge::Ok => Bytes::from_static(encode::OK),
            Merge::Same => scatter.parts[0].clone(),
            Merge::AnyOf => merge_any(&scatter.parts),
            Merge::Join => merge_join(&scatter.parts),
            Merge::OneOf => {
                let found: Vec<&Bytes> = scatter
                    .parts
                    .iter()
                    .filter(|part| !matches!(part.as_ref(), b"$-1\r\n" | b"_\r\n"))
                    .collect();
                let count = found.len() as u64;
                match count {
                    0 => scatter.parts[0].clone(),
                    _ => found[(self.random() % count) as usize].clone(),
                }
            }
            Merge::Cursor { ordinal, shards } => wrap_cursor(&scatter.parts[0], ordinal, shards)
                .unwrap_or_else(|| scatter.parts[0].clone()),
            Merge::Gather(gather, request) => {
                self.merge_gather(scatter.client, gather, &request, &scatter.parts)
            }
        }
    }

    /// SCAN walks shard after shard; the cursor says where it is.
    fn scan(&mut self, index: u32, resolved: Resolved, request: &RawRequest) {
        let shards = self.router.serving_shards();
        let cursor = std::str::from_utf8(request.arg(1)).ok().and_then(|t| t.parse::<u64>().ok());
        let Some(cursor) = cursor else {
            return self.reject(index, resolved.index, respond::BAD_CURSOR);
        };
        let ordinal = cursor & ((1 << CURSOR_SHARD_BITS) - 1);
        let inner = cursor >> CURSOR_SHARD_BITS;
        let Some(&shard) = shards.get(ordinal as usize) else {
            // The shard is gone since: as Redis does with a cursor it cannot make sense of.
            return self.reply_with(index, |out| {
                encode::array(out, 2);
                encode::bulk(out, b"0");
                encode::array(out, 0);
            });
        };
        if self.has_no_room(shard) {
            return self.park_for_shard(index, shard, request.clone());
        }
        let mut body = BytesMut::with_capacity(request.raw.len() + 8);
        encode::array(&mut body, request.len());
        encode::bulk(&mut body, request.arg(0));
        encode::bulk_integer(&mut body, inner as i64);
        for arg in request.iter().skip(2) {
            encode::bulk(&mut body, arg);
        }
        let merge = Merge::Cursor { ordinal, shards: shards.len() as u64 };
        let part = (shard, self.keyless_slot(shard), body.freeze(), flags::KEYLESS);
        self.scatter(index, resolved, merge, vec![part]);
    }

    /// A command about the whole cluster: `bodies` to the shards that are up, so that one that is
    /// down does not make INFO wait.
    pub(crate) fn ask_shards(
        &mut self,
        index: u32,
        resolved: Resolved,
        gather: Gather,
        request: &RawRequest,
        body: Bytes,
    ) {
        let parts: Vec<_> = self
            .router
            .serving_shards()
            .into_iter()
            .filter(|&shard| self.router.shards[shard as usize].down_since_us.is_none())
            .map(|shard| (shard, self.keyless_slot(shard), body.clone(), flags::KEYLESS))
            .collect();
        if parts.is_empty() {
            let reply = self.merge_gather(index, gather, request, &[]);
            return self.reply_with(index, |out| out.extend_from_slice(&reply));
        }
        self.scatter(index, resolved, Merge::Gather(gather, request.clone()), parts);
    }
}

/// The header's number and where the elements begin, of an array or set.
fn aggregate(part: &[u8]) -> Option<(usize, usize)> {
    if !matches!(part.first(), Some(b'*' | b'~')) {
        return None;
    }
    let end = memchr::memchr(b'\r', part)?;
    let count = std::str::from_utf8(&part[1..end]).ok()?.parse().ok()?;
    Some((count, end + 2))
}

/// Puts the values of MGET's parts back into the order of the keys, without looking into them.
fn merge_values(positions: &[Vec<u32>], parts: &[Bytes]) -> Bytes {
    let count = positions.iter().map(Vec::len).sum();
    let mut values: Vec<&[u8]> = vec![b"$-1\r\n"; count];
    let mut len = 16;
    for (positions, part) in positions.iter().zip(parts) {
        let Some((_, mut at)) = aggregate(part) else { continue };
        for &position in positions {
            let Ok(Some(size)) = ReplyScanner::default().scan(&part[at..]) else { break };
            // Keys are at 1, 2, 3 … in the request.
            values[position as usize - 1] = &part[at..at + size];
            at += size;
            len += size;
        }
    }
    let mut out = BytesMut::with_capacity(len);
    encode::array(&mut out, count);
    for value in values {
        out.extend_from_slice(value);
    }
    out.freeze()
}

fn merge_sum(parts: &[Bytes]) -> Bytes {
    let sum = parts
        .iter()
        .filter_map(|part| match reply::parse(part) {
            Ok(Value::Integer(number)) => Some(number),
            _ => None,
        })
        .sum();
    let mut out = BytesMut::new();
    encode::integer(&mut out, sum);
    out.freeze()
}

/// Arrays of flags: 1 where any part has a 1.
fn merge_any(parts: &[Bytes]) -> Bytes {
    let mut flags: Vec<i64> = Vec::new();
    for part in parts {
        let Ok(value) = reply::parse(part) else { continue };
        let elements = value.as_array().unwrap_or_default();
        flags.resize(flags.len().max(elements.len()), 0);
        for (flag, element) in flags.iter_mut().zip(elements) {
            *flag |= element.as_integer().unwrap_or(0);
        }
    }
    let mut out = BytesMut::new();
    encode::array(&mut out, flags.len());
    for flag in flags {
        encode::integer(&mut out, flag);
    }
    out.freeze()
}

pub(super) fn merge_join<P: AsRef<[u8]>>(parts: &[P]) -> Bytes {
    let parts = || parts.iter().map(AsRef::as_ref);
    let lists: Vec<_> = parts().filter_map(|part| Some((aggregate(part)?, part))).collect();
    let count = lists.iter().map(|((count, _), _)| count).sum();
    let len: usize = parts().map(<[u8]>::len).sum();
    let mut out = BytesMut::with_capacity(len + 16);
    encode::array(&mut out, count);
    for ((_, at), part) in lists {
        out.extend_from_slice(&part[at..]);
    }
    out.freeze()
}

/// Makes a shard's cursor one over all shards: at its end, the next shard's beginning.
fn wrap_cursor(part: &Bytes, ordinal: u64, shards: u64) -> Option<Bytes> {
    let (_, at) = aggregate(part)?;
    let size = ReplyScanner::default().scan(&part[at..]).ok()??;
    let inner = reply::parse(&part.slice(at..at + size)).ok()?;
    let inner: u64 = std::str::from_utf8(inner.as_bytes()?).ok()?.parse().ok()?;
    let cursor = match inner {
        0 if ordinal + 1 >= shards => 0,
        0 => ordinal + 1,
        inner => inner << CURSOR_SHARD_BITS | ordinal,
    };
    let mut out = BytesMut::with_capacity(part.len() + 8);
    encode::array(&mut out, 2);
    encode::bulk(&mut out, cursor.to_string().as_bytes());
    out.extend_from_slice(&part[at + size..]);
    Some(out.freeze())
}
