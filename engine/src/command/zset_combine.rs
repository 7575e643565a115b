//! Unions, intersections and differences of sorted sets and sets.

use super::collection::at_least;
use super::zset::reply_scored;
use super::zset_range::store;
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::{int_arg, parse_f64};
use crate::value::ValueRef;
use crate::value::packed::Item;
use crate::value::set::Set;
use crate::value::zset::{ZSet, compare};
use std::collections::HashMap;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("zdiff", |ctx, args| combine(ctx, args, Operation::Difference)),
    Command::new("zdiffstore", |ctx, args| combine_store(ctx, args, Operation::Difference)),
    Command::new("zinter", |ctx, args| combine(ctx, args, Operation::Intersection)),
    Command::new("zintercard", zintercard),
    Command::new("zinterstore", |ctx, args| combine_store(ctx, args, Operation::Intersection)),
    Command::new("zunion", |ctx, args| combine(ctx, args, Operation::Union)),
    Command::new("zunionstore", |ctx, args| combine_store(ctx, args, Operation::Union)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// How the scores of one member are joined.
#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn join(self, score: f64, other: f64) -> f64 {
        match self {
            // Infinities of both signs add up to nothing that could be a score.
            Self::Sum => not_nan(score + other),
            Self::Min => score.min(other),
            Self::Max => score.max(other),
        }
    }
}

fn not_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// Where a command expects its options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The result is returned; WITHSCORES is known.
    Reply,
    /// The result is stored.
    Store,
    /// The result is counted; LIMIT is known.
    Count,
}

/// What the arguments ask for.
struct Request<'a> {
    /// Keys with their weights.
    sources: Vec<(&'a [u8], f64)>,
    aggregate: Aggregate,
    with_scores: bool,
    limit: usize,
}

impl<'a> Request<'a> {
    /// `numkeys key [key ...] [options]`. The types of all keys are checked before the options.
    fn parse(
        ctx: &mut Ctx<'_>,
        args: &[&'a [u8]],
        name: &[u8],
        operation: Operation,
        form: Form,
    ) -> Result<Self, CommandError> {
        let numkeys = int_arg(args[0])?;
        if numkeys < 1 {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let text = format!("ERR at least 1 input key is needed for '{name}' command");
            return Err(CommandError::Owned(text));
        }
        let (keys, options) =
            args[1..].split_at_checked(numkeys as usize).ok_or(CommandError::Syntax)?;
        for key in keys {
            source(ctx, key)?;
        }
        let mut request = Self {
            sources: keys.iter().map(|&key| (key, 1.0)).collect(),
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: usize::MAX,
        };
        request.options(options, operation, form)?;
        Ok(request)
    }

    fn options(
        &mut self,
        mut options: &[&[u8]],
        operation: Operation,
        form: Form,
    ) -> Result<(), CommandError> {
        let weighted = operation != Operation::Difference && form != Form::Count;
        while let Some((&option, rest)) = options.split_first() {
            let taken =
                if weighted && rest.len() >= self.sources.len() && is_option(option, "WEIGHTS") {
                    for ((_, weight), text) in self.sources.iter_mut().zip(rest) {
                        *weight = parse_f64(text)
                            .ok_or(CommandError::Text("ERR weight value is not a float"))?;
                    }
                    self.sources.len()
                } else if weighted && !rest.is_empty() && is_option(option, "AGGREGATE") {
                    self.aggregate = aggregate_arg(rest[0])?;
                    1
                } else if form == Form::Reply && is_option(option, "WITHSCORES") {
                    self.with_scores = true;
                    0
                } else if form == Form::Count && !rest.is_empty() && is_option(option, "LIMIT") {
                    self.limit = match at_least(0, rest[0], "ERR LIMIT can't be negative")? {
                        0 => usize::MAX,
                        limit => limit,
                    };
                    1
                } else {
                    return Err(CommandError::Syntax);
                };
            options = &rest[taken..];
        }
        Ok(())
    }

    /// The members of the result with their scores, each once, in no meaningful order.
    fn run(
        &mut self,
        ctx: &mut Ctx<'_>,
        operation: Operation,
    ) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
        if operation != Operation::Difference {
            // Redis goes from the smallest to the largest; it shows when sums are rounded.
            let mut lens = Vec::with_capacity(self.sources.len());
            for (key, weight) in &self.sources {
                lens.push((source(ctx, key)?.len(), *key, *weight));
            }
            lens.sort_by_key(|(len, ..)| *len);
            self.sources = lens.into_iter().map(|(_, key, weight)| (key, weight)).collect();
        }
        match operation {
            Operation::Union => self.union(ctx),
            Operation::Intersection => self.intersection(ctx),
            Operation::Difference => self.difference(ctx),
        }
    }

    fn union(&self, ctx: &mut Ctx<'_>) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
        let mut scores: HashMap<Vec<u8>, f64, _> =
            HashMap::with_hasher(foldhash::fast::FixedState::with_seed(0));
        for (key, weight) in &self.sources {
            source(ctx, key)?.visit(|member, score| {
                let score = not_nan(score * weight);
                scores
                    .entry(member.to_vec())
                    .and_modify(|sum| *sum = self.aggregate.join(*sum, score))
                    .or_insert(score);
            });
        }
        Ok(scores.into_iter().collect())
    }

    fn intersection(&self, ctx: &mut Ctx<'_>) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
        let (first, first_weight) = self.sources[0];
        let mut members = source(ctx, first)?.members();
        for (_, score) in &mut members {
            *score = not_nan(*score * first_weight);
        }
        for (key, weight) in &self.sources[1..] {
            if members.is_empty() {
                break;
            }
            let source = source(ctx, key)?;
            members.retain_mut(|(member, sum)| {
                let Some(score) = source.score(member) else { return false };
                *sum = self.aggregate.join(*sum, score * weight);
                true
            });
        }
        Ok(members)
    }

    fn difference(&self, ctx: &mut Ctx<'_>) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
        let mut members = source(ctx, self.sources[0].0)?.members();
        for (key, _) in &self.sources[1..] {
            let source = source(ctx, key)?;
            members.retain(|(member, _)| source.score(member).is_none());
        }
        Ok(members)
    }
}

fn aggregate_arg(text: &[u8]) -> Result<Aggregate, CommandError> {
    if is_option(text, "SUM") {
        Ok(Aggregate::Sum)
    } else if is_option(text, "MIN") {
        Ok(Aggregate::Min)
    } else if is_option(text, "MAX") {
        Ok(Aggregate::Max)
    } else {
        Err(CommandError::Syntax)
    }
}

/// A key that takes part: a sorted set, or a set whose members all have the score 1.
enum Source<'a> {
    Missing,
    Set(&'a Set),
    ZSet(&'a ZSet),
}

fn source<'c>(ctx: &'c mut Ctx<'_>, key: &[u8]) -> Result<Source<'c>, CommandError> {
    match ctx.keys.get(key) {
        None => Ok(Source::Missing),
        Some(ValueRef::Set(set)) => Ok(Source::Set(set)),
        Some(ValueRef::ZSet(zset)) => Ok(Source::ZSet(zset)),
        Some(_) => Err(CommandError::WrongType),
    }
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Set(set) => set.len(),
            Self::ZSet(zset) => zset.len(),
        }
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Missing => None,
            Self::Set(set) => set.contains(member).then_some(1.0),
            Self::ZSet(zset) => zset.score(member),
        }
    }

    fn visit(&self, mut visit: impl FnMut(Item<'_>, f64)) {
        match self {
            Self::Missing => {}
            Self::Set(set) => set.iter().for_each(|member| visit(member, 1.0)),
            Self::ZSet(zset) => zset.visit(0..zset.len(), false, visit),
        }
    }

    fn members(&self) -> Vec<(Vec<u8>, f64)> {
        let mut members = Vec::with_capacity(self.len());
        self.visit(|member, score| members.push((member.to_vec(), score)));
        members
    }
}

fn combine(ctx: &mut Ctx<'_>, args: &[&[u8]], operation: Operation) -> CommandResult {
    let mut request = Request::parse(ctx, &args[1..], args[0], operation, Form::Reply)?;
    let mut members = request.run(ctx, operation)?;
    members.sort_unstable_by(|a, b| compare(a.1, &a.0, b.1, &b.0));
    reply_scored(&mut ctx.reply, members.len(), request.with_scores, |write| {
        for (member, score) in &members {
            // Minus zero is shown as it would be stored.
            write(Item::Bytes(member), if *score == 0.0 { 0.0 } else { *score });
        }
    });
    Ok(())
}

fn combine_store(ctx: &mut Ctx<'_>, args: &[&[u8]], operation: Operation) -> CommandResult {
    let mut request = Request::parse(ctx, &args[2..], args[0], operation, Form::Store)?;
    let mut members = request.run(ctx, operation)?;
    // In order, the result is built by appending.
    members.sort_unstable_by(|a, b| compare(a.1, &a.0, b.1, &b.0));
    let mut zset = ZSet::new();
    for (member, score) in &members {
        zset.insert(member, *score, ctx.limits);
    }
    let event = match operation {
        Operation::Union => "zunionstore",
        Operation::Intersection => "zinterstore",
        Operation::Difference => "zdiffstore",
    };
    store(ctx, args[1], zset, event);
    Ok(())
}

fn zintercard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let operation = Operation::Intersection;
    let mut request = Request::parse(ctx, &args[1..], args[0], operation, Form::Count)?;
    let count = request.run(ctx, operation)?.len().min(request.limit);
    ctx.reply.count(count);
    Ok(())
}
