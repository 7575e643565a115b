//! The commands of one sorted set. Those of several are in `zset_combine`, ranges in `zset_range`.

use super::collection::{Picks, count_arg, counted_keys, picks_args, pop_count, scan_buckets};
use super::scan::{ScanOptions, cursor_arg};
use super::{Command, CommandResult, Ctx, is_option};
use crate::blocking::BlockKind;
use crate::error::CommandError;
use crate::num::float_arg;
use crate::random::Rng;
use crate::reply::Reply;
use crate::value::packed::Item;
use crate::value::zset::{Inserted, ZSet};
use holdfast_proto::events::EventClasses;
use smallvec::SmallVec;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("bzmpop", bzmpop),
    Command::new("bzpopmax", |ctx, args| blocking_pop(ctx, args, Which::Max)),
    Command::new("bzpopmin", |ctx, args| blocking_pop(ctx, args, Which::Min)),
    Command::new("zadd", |ctx, args| add(ctx, args, false)),
    Command::new("zcard", zcard),
    Command::new("zincrby", |ctx, args| add(ctx, args, true)),
    Command::new("zmpop", zmpop),
    Command::new("zmscore", zmscore),
    Command::new("zpopmax", |ctx, args| pop(ctx, args, Which::Max)),
    Command::new("zpopmin", |ctx, args| pop(ctx, args, Which::Min)),
    Command::new("zrandmember", zrandmember),
    Command::new("zrank", |ctx, args| rank(ctx, args, false)),
    Command::new("zrem", zrem),
    Command::new("zrevrank", |ctx, args| rank(ctx, args, true)),
    Command::new("zscan", zscan),
    Command::new("zscore", zscore),
];

// ---- adding --------------------------------------------------------------------------------------

/// The options of ZADD.
#[derive(Default)]
struct AddOptions {
    only_new: bool,
    only_existing: bool,
    greater: bool,
    less: bool,
    count_changed: bool,
    increment: bool,
}

impl AddOptions {
    /// Reads options from the front of `args`; returns what follows them.
    fn parse<'a, 'b>(
        mut args: &'a [&'b [u8]],
        increment: bool,
    ) -> Result<(Self, &'a [&'b [u8]]), CommandError> {
        let mut options = Self { increment, ..Self::default() };
        while let Some((arg, rest)) = args.split_first() {
            match arg {
                arg if is_option(arg, "NX") => options.only_new = true,
                arg if is_option(arg, "XX") => options.only_existing = true,
                arg if is_option(arg, "CH") => options.count_changed = true,
                arg if is_option(arg, "INCR") => options.increment = true,
                arg if is_option(arg, "GT") => options.greater = true,
                arg if is_option(arg, "LT") => options.less = true,
                _ => break,
            }
            args = rest;
        }
        Ok((options, args))
    }

    fn check(&self, pairs: usize) -> Result<(), CommandError> {
        let text = if self.only_new && self.only_existing {
            "ERR XX and NX options at the same time are not compatible"
        } else if (self.only_new && (self.greater || self.less)) || (self.greater && self.less) {
            "ERR GT, LT, and/or NX options at the same time are not compatible"
        } else if self.increment && pairs > 1 {
            "ERR INCR option supports a single increment-element pair"
        } else {
            return Ok(());
        };
        Err(CommandError::Text(text))
    }

    /// The score that a member gets, if it gets one. Inner `None`: the options forbid it.
    fn new_score(&self, old: Option<f64>, given: f64) -> Result<Option<f64>, CommandError> {
        let Some(old) = old else {
            return Ok((!self.only_existing).then_some(given));
        };
        if self.only_new {
            return Ok(None);
        }
        let score = if self.increment { old + given } else { given };
        if score.is_nan() {
            return Err(CommandError::Text("ERR resulting score is not a number (NaN)"));
        }
        let refused = (self.less && score >= old) || (self.greater && score <= old);
        Ok((!refused).then_some(score))
    }
}

/// ZADD and ZINCRBY.
fn add(ctx: &mut Ctx<'_>, args: &[&[u8]], increment: bool) -> CommandResult {
    let (options, pairs) = AddOptions::parse(&args[2..], increment)?;
    let (pairs, odd) = pairs.as_chunks::<2>();
    if !odd.is_empty() || pairs.is_empty() {
        return Err(CommandError::Syntax);
    }
    options.check(pairs.len())?;
    let pairs = pairs.iter().map(|&[score, member]| Ok((float_arg(score)?, member)));
    let pairs = pairs.collect::<Result<SmallVec<[(f64, &[u8]); 2]>, CommandError>>()?;
    add_members(ctx, args[1], &options, &pairs)
}

/// ZADD with these options (NX, XX, CH) in front of scores that are numbers already: GEOADD.
pub(super) fn add_scored(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    options: &[&[u8]],
    pairs: &[(f64, &[u8])],
) -> CommandResult {
    let (options, _) = AddOptions::parse(options, false)?;
    if pairs.is_empty() {
        return Err(CommandError::Syntax);
    }
    add_members(ctx, key, &options, pairs)
}

fn add_members(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    options: &AddOptions,
    pairs: &[(f64, &[u8])],
) -> CommandResult {
    if ctx.keys.zset_mut(key)?.is_none() && options.only_existing {
        match options.increment {
            true => ctx.reply.null(),
            false => ctx.reply.int(0),
        }
        return Ok(());
    }
    let zset = ctx.keys.zset_or_new(key)?;
    let (mut added, mut moved, mut last) = (0, 0, None);
    for &(given, member) in pairs {
        last = options.new_score(zset.score(member), given)?;
        let Some(score) = last else { continue };
        match zset.insert(member, score, ctx.limits) {
            Inserted::Added => added += 1,
            Inserted::Moved => moved += 1,
            Inserted::Same => {}
        }
    }
    let empty = zset.is_empty();
    if added + moved > 0 {
        let event = if options.increment { "zincr" } else { "zadd" };
        ctx.keys.changed_by(key, EventClasses::ZSET, event);
    } else if empty {
        ctx.keys.modified(key);
    }
    match (options.increment, last) {
        (true, Some(score)) => ctx.reply.double(without_sign_of_zero(score)),
        (true, None) => ctx.reply.null(),
        (false, _) => ctx.reply.int(added + if options.count_changed { moved } else { 0 }),
    }
    Ok(())
}

/// Scores are stored like this, see [`ZSet`].
fn without_sign_of_zero(score: f64) -> f64 {
    if score == 0.0 { 0.0 } else { score }
}

fn zrem(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let mut removed = 0;
    if let Some(zset) = ctx.keys.zset_mut(args[1])? {
        removed = args[2..].iter().filter(|member| zset.remove(member).is_some()).count();
    }
    if removed > 0 {
        ctx.keys.changed_by(args[1], EventClasses::ZSET, "zrem");
    }
    ctx.reply.count(removed);
    Ok(())
}

// ---- asking --------------------------------------------------------------------------------------

fn zcard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let len = ctx.keys.zset(args[1])?.map_or(0, ZSet::len);
    ctx.reply.count(len);
    Ok(())
}

fn zscore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let score = ctx.keys.zset(args[1])?.and_then(|zset| zset.score(args[2]));
    double_or_null(&mut ctx.reply, score);
    Ok(())
}

fn zmscore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let zset = ctx.keys.zset(args[1])?;
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        double_or_null(&mut ctx.reply, zset.and_then(|zset| zset.score(member)));
    }
    Ok(())
}

fn double_or_null(reply: &mut Reply<'_>, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

fn rank(ctx: &mut Ctx<'_>, args: &[&[u8]], reverse: bool) -> CommandResult {
    let with_score = match args {
        [_, _, _] => false,
        [_, _, _, option] if is_option(option, "WITHSCORE") => true,
        [_, _, _, _] => return Err(CommandError::Syntax),
        _ => {
            let name = if reverse { "zrevrank" } else { "zrank" };
            return Err(CommandError::Arity(name.to_owned()));
        }
    };
    let found = ctx.keys.zset(args[1])?.and_then(|zset| {
        let (rank, score) = zset.rank(args[2])?;
        Some((if reverse { zset.len() - 1 - rank } else { rank }, score))
    });
    match found {
        Some((rank, score)) if with_score => {
            ctx.reply.array(2);
            ctx.reply.count(rank);
            ctx.reply.double(score);
        }
        Some((rank, _)) => ctx.reply.count(rank),
        None if with_score => ctx.reply.null_array(),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn zscan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let cursor = cursor_arg(args[2])?;
    let Some(zset) = ctx.keys.zset(args[1])? else {
        ctx.scan_header(0, 0);
        return Ok(());
    };
    let options = ScanOptions::parse(&args[3..])?;
    if options.type_name.is_some() || options.no_values {
        return Err(CommandError::Syntax);
    }
    let mut found = Vec::new();
    let mut visited = 0;
    let cursor = scan_buckets(cursor, options.count, |cursor| {
        let next = zset.scan(cursor, |member, score| {
            visited += 1;
            if options.matches(member.bytes(&mut itoa::Buffer::new())) {
                found.push((member, score));
            }
        });
        (next, visited)
    });
    ctx.reply.array(2);
    ctx.reply.bulk_unsigned(cursor);
    ctx.reply.array(2 * found.len());
    for (member, score) in found {
        ctx.reply.item(member);
        ctx.reply.bulk_double(score);
    }
    Ok(())
}

/// Writes members with their scores: flat in RESP2, pairs in RESP3.
pub(super) fn reply_scored<'t>(
    reply: &mut Reply<'_>,
    len: usize,
    with_scores: bool,
    visit: impl FnOnce(&mut dyn FnMut(Item<'t>, f64)),
) {
    let nested = with_scores && reply.is_resp3();
    reply.array(len * if with_scores && !nested { 2 } else { 1 });
    visit(&mut |member, score| {
        if nested {
            reply.array(2);
        }
        reply.item(member);
        if with_scores {
            reply.double(score);
        }
    });
}

fn zrandmember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let picks = picks_args(&args[2..], "WITHSCORES")?;
    let Some(zset) = ctx.keys.zset(args[1])? else {
        match picks {
            Some(_) => ctx.reply.array(0),
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    let Some((picks, with_scores)) = picks else {
        let member = zset.get(ctx.rng.below(zset.len())).map(|(member, _)| member);
        ctx.reply.item_or_null(member);
        return Ok(());
    };
    let ranks = random_ranks(zset.len(), picks, &mut ctx.rng);
    reply_scored(&mut ctx.reply, ranks.len(), with_scores, |write| {
        for (member, score) in ranks.iter().filter_map(|&rank| zset.get(rank)) {
            write(member, score);
        }
    });
    Ok(())
}

/// Ranks are the same for every encoding, so members are drawn by them.
fn random_ranks(len: usize, picks: Picks, rng: &mut Rng) -> Vec<usize> {
    match picks {
        Picks::Distinct(count) if count >= len => (0..len).collect(),
        Picks::Distinct(count) => super::collection::distinct_below(count, len, rng),
        Picks::Repeated(count) => (0..count).map(|_| rng.below(len)).collect(),
    }
}

// ---- popping -------------------------------------------------------------------------------------

/// Which end of the order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Min,
    Max,
}

/// How popped members are laid out in the reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Member, score, member, score.
    Flat,
    /// Pairs.
    Nested,
}

fn pop(ctx: &mut Ctx<'_>, args: &[&[u8]], which: Which) -> CommandResult {
    let (count, layout) = match args {
        [_, _] => (1, Layout::Flat),
        [_, _, count] => {
            let layout = if ctx.reply.is_resp3() { Layout::Nested } else { Layout::Flat };
            (count_arg(count)?, layout)
        }
        _ => return Err(CommandError::Syntax),
    };
    let Some(zset) = ctx.keys.zset_mut(args[1])? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let count = count.min(zset.len());
    ctx.reply.array(count * if layout == Layout::Flat { 2 } else { 1 });
    take(&mut ctx.reply, zset, count, which, layout);
    if count > 0 {
        ctx.keys.changed_by(args[1], EventClasses::ZSET, pop_event(which));
    }
    Ok(())
}

fn pop_event(which: Which) -> &'static str {
    match which {
        Which::Min => "zpopmin",
        Which::Max => "zpopmax",
    }
}

/// Removes `count` members from one end and writes them.
fn take(reply: &mut Reply<'_>, zset: &mut ZSet, count: usize, which: Which, layout: Layout) {
    let ranks = match which {
        Which::Min => 0..count,
        Which::Max => zset.len() - count..zset.len(),
    };
    zset.visit(ranks.clone(), which == Which::Max, |member, score| {
        if layout == Layout::Nested {
            reply.array(2);
        }
        reply.item(member);
        reply.double(score);
    });
    zset.remove_ranks(ranks);
}

fn blocking_pop(ctx: &mut Ctx<'_>, args: &[&[u8]], which: Which) -> CommandResult {
    let (&timeout, keys) = args[1..].split_last().expect("the arity is checked");
    let deadline_ms = ctx.deadline_arg(timeout)?;
    for &key in keys {
        let Some(zset) = ctx.keys.zset_mut(key)? else { continue };
        ctx.reply.array(3);
        ctx.reply.bulk(key);
        take(&mut ctx.reply, zset, 1, which, Layout::Flat);
        ctx.keys.changed_by(key, EventClasses::ZSET, pop_event(which));
        return Ok(());
    }
    wait_for(ctx, keys, deadline_ms);
    Ok(())
}

fn zmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let request = MultiPop::parse(&args[1..])?;
    if !request.serve(ctx)? {
        ctx.reply.null_array();
    }
    Ok(())
}

fn bzmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let request = MultiPop::parse(&args[2..])?;
    let deadline_ms = ctx.deadline_arg(args[1])?;
    if !request.serve(ctx)? {
        wait_for(ctx, request.keys, deadline_ms);
    }
    Ok(())
}

fn wait_for(ctx: &mut Ctx<'_>, keys: &[&[u8]], deadline_ms: Option<u64>) {
    if ctx.may_block() {
        ctx.block_on(keys, deadline_ms, BlockKind::ZSet);
    } else {
        ctx.reply.null_array();
    }
}

/// `numkeys key [key ...] MIN|MAX [COUNT count]`.
struct MultiPop<'a, 'b> {
    keys: &'a [&'b [u8]],
    which: Which,
    count: usize,
}

impl<'a, 'b> MultiPop<'a, 'b> {
    fn parse(args: &'a [&'b [u8]]) -> Result<Self, CommandError> {
        let (keys, rest) = counted_keys(args)?;
        let which = match rest[0] {
            which if is_option(which, "MIN") => Which::Min,
            which if is_option(which, "MAX") => Which::Max,
            _ => return Err(CommandError::Syntax),
        };
        let count = pop_count(&rest[1..])?;
        Ok(Self { keys, which, count })
    }

    /// Pops from the first sorted set that has members; `false` if there is none.
    fn serve(&self, ctx: &mut Ctx<'_>) -> Result<bool, CommandError> {
        for &key in self.keys {
            let Some(zset) = ctx.keys.zset_mut(key)? else { continue };
            let count = self.count.min(zset.len());
            ctx.reply.array(2);
            ctx.reply.bulk(key);
            ctx.reply.array(count);
            take(&mut ctx.reply, zset, count, self.which, Layout::Nested);
            ctx.keys.changed_by(key, EventClasses::ZSET, pop_event(self.which));
            return Ok(true);
        }
        Ok(false)
    }
}
