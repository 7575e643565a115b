//! What the commands of lists, hashes, sets and sorted sets share.

use super::{Ctx, is_option};
use crate::error::CommandError;
use crate::num::parse_i64;
use crate::random::Rng;
use crate::reply::Reply;
use crate::value::packed::Item;
use crate::value::pick::Candidates;
use std::collections::HashSet;
use std::ops::Range;

impl Reply<'_> {
    /// An element as it is stored.
    pub(crate) fn item(&mut self, item: Item<'_>) {
        match item {
            Item::Int(value) => self.bulk_int(value),
            Item::Bytes(bytes) => self.bulk(bytes),
        }
    }

    pub(crate) fn item_or_null(&mut self, item: Option<Item<'_>>) {
        match item {
            Some(item) => self.item(item),
            None => self.null(),
        }
    }
}

/// An integer of at least `min`; one error for everything else (`getRangeLongFromObjectOrReply`
/// with a message).
pub(super) fn at_least(min: i64, text: &[u8], error: &'static str) -> Result<usize, CommandError> {
    parse_i64(text)
        .filter(|&value| value >= min)
        .and_then(|value| usize::try_from(value).ok())
        .ok_or(CommandError::Text(error))
}

/// An optional count that must not be negative (`getPositiveLongFromObjectOrReply`).
pub(super) fn count_arg(text: &[u8]) -> Result<usize, CommandError> {
    at_least(0, text, "ERR value is out of range, must be positive")
}

/// An integer whose negation is one too (`getRangeLongFromObjectOrReply` from `-LONG_MAX`).
pub(super) fn signed_arg(text: &[u8]) -> Result<i64, CommandError> {
    match parse_i64(text) {
        Some(i64::MIN) => Err(CommandError::Text(
            "ERR value is out of range, value must between -9223372036854775807 and \
             9223372036854775807",
        )),
        Some(value) => Ok(value),
        None => Err(CommandError::NotInteger),
    }
}

/// The number of keys in front of them: at least 1. What follows is checked by the caller.
pub(super) fn numkeys_arg(text: &[u8]) -> Result<usize, CommandError> {
    at_least(1, text, "ERR numkeys should be greater than 0")
}

/// The `[COUNT count]` at the end of LMPOP, ZMPOP and their blocking forms.
pub(super) fn pop_count(options: &[&[u8]]) -> Result<usize, CommandError> {
    let mut given = None;
    for option in options.chunks(2) {
        match option {
            [name, value] if given.is_none() && is_option(name, "COUNT") => {
                given = Some(at_least(1, value, "ERR count should be greater than 0")?);
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    Ok(given.unwrap_or(1))
}

/// `numkeys key [key ...]` at the front of `args`: the keys and what follows them, which must not
/// be empty.
#[allow(clippy::type_complexity)] // Two slices of arguments: a name would say less.
pub(super) fn counted_keys<'a, 'b>(
    args: &'a [&'b [u8]],
) -> Result<(&'a [&'b [u8]], &'a [&'b [u8]]), CommandError> {
    let numkeys = numkeys_arg(args[0])?;
    match args[1..].split_at_checked(numkeys) {
        Some((keys, rest)) if !rest.is_empty() => Ok((keys, rest)),
        _ => Err(CommandError::Syntax),
    }
}

/// Inclusive indexes, negative ones from the end, as indexes that exist.
pub(super) fn clamp(start: i64, stop: i64, len: usize) -> Range<usize> {
    let len = len as i64;
    let start = if start < 0 { start.saturating_add(len).max(0) } else { start };
    let stop = if stop < 0 { stop.saturating_add(len) } else { stop };
    let stop = stop.min(len - 1);
    if start > stop { 0..0 } else { start as usize..stop as usize + 1 }
}

/// An index, negative ones from the end, if it exists.
pub(super) fn index_of(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < len)
}

/// What random picks are asked for by SRANDMEMBER, HRANDFIELD and ZRANDMEMBER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picks {
    /// So many different ones, or all there are.
    Distinct(usize),
    /// Exactly so many, with repeats.
    Repeated(usize),
}

/// Most picks with repeats. Their number is the client's alone, and a reply of billions of elements
/// would take all of a node's memory (in Redis it does).
const REPEATED_PICKS_MAX: usize = 1 << 24;

impl Picks {
    pub(super) fn new(count: i64) -> Result<Self, CommandError> {
        let picks = count.unsigned_abs() as usize;
        match count {
            0.. => Ok(Self::Distinct(picks)),
            _ if picks <= REPEATED_PICKS_MAX => Ok(Self::Repeated(picks)),
            _ => Err(CommandError::Text("ERR value is out of range")),
        }
    }
}

/// `count [WITH...]` of HRANDFIELD and ZRANDMEMBER.
pub(super) fn picks_args(
    args: &[&[u8]],
    option: &str,
) -> Result<Option<(Picks, bool)>, CommandError> {
    let Some((count, rest)) = args.split_first() else { return Ok(None) };
    let count = signed_arg(count)?;
    match rest {
        [] => Ok(Some((Picks::new(count)?, false))),
        [with] if super::is_option(with, option) => {
            if count.unsigned_abs() > i64::MAX as u64 / 2 {
                return Err(CommandError::Text("ERR value is out of range"));
            }
            Ok(Some((Picks::new(count)?, true)))
        }
        _ => Err(CommandError::Syntax),
    }
}

impl Ctx<'_> {
    /// The reply of a scan: the next cursor and the header of `len` elements.
    pub(super) fn scan_header(&mut self, cursor: u64, len: usize) {
        self.reply.array(2);
        self.reply.bulk_unsigned(cursor);
        self.reply.array(len);
    }
}

/// Runs `step` (one bucket; returns the next cursor) from `cursor` until enough elements are found:
/// `found` says how many there are after each step. Empty buckets count too, so that a sparse table
/// cannot hold up others. Returns the cursor to go on from, 0 at the end.
pub(super) fn scan_buckets(
    mut cursor: u64,
    count: usize,
    mut step: impl FnMut(u64) -> (u64, usize),
) -> u64 {
    for _ in 0..count.saturating_mul(10) {
        let (next, found) = step(cursor);
        cursor = next;
        if cursor == 0 || found >= count {
            break;
        }
    }
    cursor
}

/// So many different random members, fewer than there are. Few are drawn one by one, many are taken
/// out of a list of all.
pub(super) fn distinct(
    count: usize,
    len: usize,
    rng: &mut Rng,
    mut draw: impl FnMut(&mut Rng) -> Vec<u8>,
    all: impl FnOnce() -> Candidates,
) -> Vec<Vec<u8>> {
    if count.saturating_mul(3) > len {
        let mut candidates = all();
        return (0..count).map(|_| candidates.take(rng)).collect();
    }
    let mut seen = HashSet::with_hasher(foldhash::fast::FixedState::with_seed(0));
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        let member = draw(rng);
        if seen.insert(member.clone()) {
            drawn.push(member);
        }
    }
    drawn
}

/// So many different random numbers below `len`, fewer than `len`.
pub(super) fn distinct_below(count: usize, len: usize, rng: &mut Rng) -> Vec<usize> {
    if count.saturating_mul(3) > len {
        let mut all: Vec<usize> = (0..len).collect();
        for at in 0..count {
            all.swap(at, at + rng.below(len - at));
        }
        all.truncate(count);
        return all;
    }
    let mut seen = HashSet::with_hasher(foldhash::fast::FixedState::with_seed(0));
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        let number = rng.below(len);
        if seen.insert(number) {
            drawn.push(number);
        }
    }
    drawn
}
