//! Ranges of one sorted set: by rank, by score and by member.

use super::collection::clamp;
use super::zset::reply_scored;
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::{int_arg, parse_f64};
use crate::value::Value;
use crate::value::zset::{LexBound, ScoreRange, ZSet};
use holdfast_proto::events::EventClasses;
use std::ops::{Bound, Range};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("zcount", |ctx, args| count(ctx, args, By::Score)),
    Command::new("zlexcount", |ctx, args| count(ctx, args, By::Lex)),
    Command::new("zrange", |ctx, args| range(ctx, args, None, None)),
    Command::new("zrangebylex", |ctx, args| range(ctx, args, Some(By::Lex), Some(false))),
    Command::new("zrangebyscore", |ctx, args| range(ctx, args, Some(By::Score), Some(false))),
    Command::new("zrangestore", zrangestore),
    Command::new("zremrangebylex", |ctx, args| remove(ctx, args, By::Lex)),
    Command::new("zremrangebyrank", |ctx, args| remove(ctx, args, By::Rank)),
    Command::new("zremrangebyscore", |ctx, args| remove(ctx, args, By::Score)),
    Command::new("zrevrange", |ctx, args| range(ctx, args, Some(By::Rank), Some(true))),
    Command::new("zrevrangebylex", |ctx, args| range(ctx, args, Some(By::Lex), Some(true))),
    Command::new("zrevrangebyscore", |ctx, args| range(ctx, args, Some(By::Score), Some(true))),
];

/// What a range is measured in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// A parsed range.
enum Interval<'a> {
    Ranks(i64, i64),
    Scores(ScoreRange),
    Members(LexBound<'a>, LexBound<'a>),
}

impl<'a> Interval<'a> {
    fn parse(by: By, low: &'a [u8], high: &'a [u8]) -> Result<Self, CommandError> {
        Ok(match by {
            By::Rank => Self::Ranks(int_arg(low)?, int_arg(high)?),
            By::Score => Self::Scores(
                score_bound(low)
                    .zip(score_bound(high))
                    .ok_or(CommandError::Text("ERR min or max is not a float"))?,
            ),
            By::Lex => {
                let (low, high) = lex_bound(low)
                    .zip(lex_bound(high))
                    .ok_or(CommandError::Text("ERR min or max not valid string range item"))?;
                Self::Members(low, high)
            }
        })
    }

    /// The ranks of the members in the range. In reverse, rank indexes count from the other end.
    fn ranks(&self, zset: &ZSet, reverse: bool) -> Range<usize> {
        match *self {
            Self::Ranks(start, stop) => {
                let range = clamp(start, stop, zset.len());
                if reverse { zset.len() - range.end..zset.len() - range.start } else { range }
            }
            Self::Scores(range) => zset.score_ranks(range),
            Self::Members(low, high) => zset.lex_ranks(low, high),
        }
    }
}

/// A C double in text, `(` in front to exclude it. As `strtod`, it takes spaces in front, and
/// nothing as zero.
fn score_bound(text: &[u8]) -> Option<Bound<f64>> {
    let (number, excluded) = match text {
        [b'(', rest @ ..] => (rest, true),
        _ => (text, false),
    };
    // Redis looks for the end of a C string: what follows a NUL is ignored.
    let number = number.split(|&byte| byte == 0).next().unwrap_or_default();
    let number = std::str::from_utf8(number.trim_ascii_start()).ok()?;
    // Unlike other doubles, these may overflow to infinity.
    let score = match number {
        "" => 0.0,
        hex if hex.contains(['x', 'X']) => parse_f64(hex.as_bytes())?,
        decimal => decimal.parse().ok()?,
    };
    match score {
        score if f64::is_nan(score) => None,
        score if excluded => Some(Bound::Excluded(score)),
        score => Some(Bound::Included(score)),
    }
}

fn lex_bound(text: &[u8]) -> Option<LexBound<'_>> {
    match text {
        b"-" => Some(LexBound::Lowest),
        b"+" => Some(LexBound::Highest),
        [b'[', member @ ..] => Some(LexBound::Included(member)),
        [b'(', member @ ..] => Some(LexBound::Excluded(member)),
        _ => None,
    }
}

fn count(ctx: &mut Ctx<'_>, args: &[&[u8]], by: By) -> CommandResult {
    let interval = Interval::parse(by, args[2], args[3])?;
    let count = ctx.keys.zset(args[1])?.map_or(0, |zset| interval.ranks(zset, false).len());
    ctx.reply.count(count);
    Ok(())
}

fn remove(ctx: &mut Ctx<'_>, args: &[&[u8]], by: By) -> CommandResult {
    let interval = Interval::parse(by, args[2], args[3])?;
    let mut removed = 0;
    if let Some(zset) = ctx.keys.zset_mut(args[1])? {
        let ranks = interval.ranks(zset, false);
        removed = ranks.len();
        zset.remove_ranks(ranks);
    }
    if removed > 0 {
        let event = match by {
            By::Rank => "zremrangebyrank",
            By::Score => "zremrangebyscore",
            By::Lex => "zremrangebylex",
        };
        ctx.keys.changed_by(args[1], EventClasses::ZSET, event);
    }
    ctx.reply.count(removed);
    Ok(())
}

/// What ZRANGE and its relatives are asked for.
struct Request<'a> {
    interval: Interval<'a>,
    reverse: bool,
    with_scores: bool,
    /// Members to pass over, then how many to take; negative numbers as Redis reads them.
    limit: Option<(i64, i64)>,
}

impl<'a> Request<'a> {
    /// `min max [options]`. What `by` and `reverse` leave open may be given as options.
    fn parse(
        args: &[&'a [u8]],
        by: Option<By>,
        reverse: Option<bool>,
        store: bool,
    ) -> Result<Self, CommandError> {
        let (mut found_by, mut found_reverse) = (by, reverse);
        let (mut with_scores, mut limit) = (false, None);
        let mut options = &args[2..];
        while let Some((option, rest)) = options.split_first() {
            options = rest;
            match option {
                option if !store && is_option(option, "WITHSCORES") => with_scores = true,
                option if is_option(option, "LIMIT") && rest.len() >= 2 => {
                    limit = Some((int_arg(rest[0])?, int_arg(rest[1])?));
                    options = &rest[2..];
                }
                option if found_reverse.is_none() && is_option(option, "REV") => {
                    found_reverse = Some(true);
                }
                option if found_by.is_none() && is_option(option, "BYLEX") => {
                    found_by = Some(By::Lex);
                }
                option if found_by.is_none() && is_option(option, "BYSCORE") => {
                    found_by = Some(By::Score);
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        let (by, reverse) = (found_by.unwrap_or(By::Rank), found_reverse.unwrap_or(false));
        if by == By::Rank && limit.is_some_and(|(_, count)| count != -1) {
            return Err(CommandError::Text(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or \
                 BYLEX",
            ));
        }
        if by == By::Lex && with_scores {
            return Err(CommandError::Text(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            ));
        }
        let (low, high) =
            if reverse && by != By::Rank { (args[1], args[0]) } else { (args[0], args[1]) };
        let interval = Interval::parse(by, low, high)?;
        // `LIMIT offset -1` is accepted for ranks, and does nothing.
        let limit = limit.filter(|_| by != By::Rank);
        Ok(Self { interval, reverse, with_scores, limit })
    }

    /// The ranks that are left of the range after LIMIT.
    fn ranks(&self, zset: &ZSet) -> Range<usize> {
        let ranks = self.interval.ranks(zset, self.reverse);
        let Some((offset, count)) = self.limit else { return ranks };
        // A negative offset passes over everything, a negative count takes everything.
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(ranks.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(ranks.len() - offset);
        if self.reverse {
            ranks.end - offset - count..ranks.end - offset
        } else {
            ranks.start + offset..ranks.start + offset + count
        }
    }
}

fn range(
    ctx: &mut Ctx<'_>,
    args: &[&[u8]],
    by: Option<By>,
    reverse: Option<bool>,
) -> CommandResult {
    let request = Request::parse(&args[2..], by, reverse, false)?;
    let Some(zset) = ctx.keys.zset(args[1])? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let ranks = request.ranks(zset);
    reply_scored(&mut ctx.reply, ranks.len(), request.with_scores, |write| {
        zset.visit(ranks, request.reverse, write);
    });
    Ok(())
}

fn zrangestore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let request = Request::parse(&args[3..], None, None, true)?;
    let mut result = ZSet::new();
    if let Some(zset) = ctx.keys.zset(args[2])? {
        zset.visit(request.ranks(zset), false, |member, score| {
            result.insert(member.bytes(&mut itoa::Buffer::new()), score, ctx.limits);
        });
    }
    store(ctx, args[1], result, "zrangestore");
    Ok(())
}

/// Replaces a key by a sorted set, or deletes it if that is empty; replies with its length.
pub(super) fn store(ctx: &mut Ctx<'_>, key: &[u8], zset: ZSet, event: &'static str) {
    let len = zset.len();
    if zset.is_empty() {
        ctx.keys.delete(key);
    } else {
        ctx.keys.insert(key, Value::ZSet(Box::new(zset)), None);
        ctx.keys.notify(EventClasses::ZSET, event, key);
    }
    ctx.reply.count(len);
}
