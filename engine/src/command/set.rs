//! The set commands.

use super::collection::{
    Picks, at_least, count_arg, distinct, numkeys_arg, scan_buckets, signed_arg,
};
use super::scan::{ScanOptions, cursor_arg};
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::random::Rng;
use crate::value::Value;
use crate::value::packed::Item;
use crate::value::set::Set;
use holdfast_proto::events::EventClasses;
use std::collections::HashSet;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("sadd", sadd),
    Command::new("scard", scard),
    Command::new("sdiff", |ctx, args| combine(ctx, &args[1..], Operation::Difference)),
    Command::new("sdiffstore", |ctx, args| combine_store(ctx, args, Operation::Difference)),
    Command::new("sinter", |ctx, args| combine(ctx, &args[1..], Operation::Intersection)),
    Command::new("sintercard", sintercard),
    Command::new("sinterstore", |ctx, args| combine_store(ctx, args, Operation::Intersection)),
    Command::new("sismember", sismember),
    Command::new("smembers", smembers),
    Command::new("smismember", smismember),
    Command::new("smove", smove),
    Command::new("spop", spop),
    Command::new("srandmember", srandmember),
    Command::new("srem", srem),
    Command::new("sscan", sscan),
    Command::new("sunion", |ctx, args| combine(ctx, &args[1..], Operation::Union)),
    Command::new("sunionstore", |ctx, args| combine_store(ctx, args, Operation::Union)),
];

// ---- members -------------------------------------------------------------------------------------

fn sadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let set = ctx.keys.set_or_new(args[1])?;
    let added = args[2..].iter().filter(|member| set.add(member, ctx.limits)).count();
    if added > 0 {
        ctx.keys.changed_by(args[1], EventClasses::SET, "sadd");
    }
    ctx.reply.count(added);
    Ok(())
}

fn srem(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let mut removed = 0;
    if let Some(set) = ctx.keys.set_mut(args[1])? {
        removed = args[2..].iter().filter(|member| set.remove(member)).count();
    }
    if removed > 0 {
        ctx.keys.changed_by(args[1], EventClasses::SET, "srem");
    }
    ctx.reply.count(removed);
    Ok(())
}

fn smove(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (source, target, member) = (args[1], args[2], args[3]);
    if !ctx.keys.exists(source) {
        ctx.reply.int(0);
        return Ok(());
    }
    let present = ctx.keys.set_mut(source)?.is_some_and(|set| set.contains(member));
    ctx.keys.set_mut(target)?;
    if present && source != target {
        if let Some(set) = ctx.keys.set_mut(source)? {
            set.remove(member);
        }
        ctx.keys.changed_by(source, EventClasses::SET, "srem");
        if ctx.keys.set_or_new(target)?.add(member, ctx.limits) {
            ctx.keys.changed_by(target, EventClasses::SET, "sadd");
        } else {
            ctx.keys.modified(target);
        }
    }
    ctx.reply.flag(present);
    Ok(())
}

fn scard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let len = ctx.keys.set(args[1])?.map_or(0, Set::len);
    ctx.reply.count(len);
    Ok(())
}

fn sismember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let present = ctx.keys.set(args[1])?.is_some_and(|set| set.contains(args[2]));
    ctx.reply.flag(present);
    Ok(())
}

fn smismember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let set = ctx.keys.set(args[1])?;
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        ctx.reply.flag(set.is_some_and(|set| set.contains(member)));
    }
    Ok(())
}

fn smembers(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let set = ctx.keys.set(args[1])?;
    ctx.reply.set(set.map_or(0, Set::len));
    for member in set.into_iter().flat_map(Set::iter) {
        ctx.reply.item(member);
    }
    Ok(())
}

fn sscan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let cursor = cursor_arg(args[2])?;
    let Some(set) = ctx.keys.set(args[1])? else {
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
        let next = set.scan(cursor, |member| {
            visited += 1;
            if options.matches(member.bytes(&mut itoa::Buffer::new())) {
                found.push(member);
            }
        });
        (next, visited)
    });
    ctx.reply.array(2);
    ctx.reply.bulk_unsigned(cursor);
    ctx.reply.array(found.len());
    found.into_iter().for_each(|member| ctx.reply.item(member));
    Ok(())
}

// ---- random members ------------------------------------------------------------------------------

fn spop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    match args {
        [_, key] => spop_one(ctx, key),
        [_, key, count] => spop_many(ctx, key, count_arg(count)?),
        _ => Err(CommandError::Syntax),
    }
}

fn spop_one(ctx: &mut Ctx<'_>, key: &[u8]) -> CommandResult {
    let Some(set) = ctx.keys.set_mut(key)? else {
        ctx.reply.null();
        return Ok(());
    };
    let member = set.random(&mut ctx.rng);
    set.remove(&member);
    ctx.keys.changed_by(key, EventClasses::SET, "spop");
    ctx.reply.bulk(&member);
    Ok(())
}

fn spop_many(ctx: &mut Ctx<'_>, key: &[u8], count: usize) -> CommandResult {
    let taken = match ctx.keys.set_mut(key)? {
        None => Vec::new(),
        Some(_) if count == 0 => Vec::new(),
        Some(set) if count >= set.len() => {
            // All of them, in an order that does not depend on the layout.
            let mut all: Vec<_> = set.iter().map(Item::to_vec).collect();
            all.sort_unstable();
            ctx.keys.notify(EventClasses::SET, "spop", key);
            ctx.keys.delete(key);
            all
        }
        Some(set) => {
            let taken = set.take_random(count, &mut ctx.rng);
            ctx.keys.changed_by(key, EventClasses::SET, "spop");
            taken
        }
    };
    ctx.reply.set(taken.len());
    taken.iter().for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

fn srandmember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let picks = match args {
        [_, _] => None,
        [_, _, count] => Some(Picks::new(signed_arg(count)?)?),
        _ => return Err(CommandError::Syntax),
    };
    let Some(set) = ctx.keys.set(args[1])? else {
        match picks {
            Some(_) => ctx.reply.array(0),
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    let Some(picks) = picks else {
        ctx.reply.bulk(&set.random(&mut ctx.rng));
        return Ok(());
    };
    let members = random_members(set, picks, &mut ctx.rng);
    ctx.reply.array(members.len());
    members.iter().for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

fn random_members(set: &Set, picks: Picks, rng: &mut Rng) -> Vec<Vec<u8>> {
    match picks {
        Picks::Distinct(count) if count >= set.len() => set.iter().map(Item::to_vec).collect(),
        Picks::Distinct(count) => {
            distinct(count, set.len(), rng, |rng| set.random(rng), || set.candidates())
        }
        Picks::Repeated(count) => (0..count).map(|_| set.random(rng)).collect(),
    }
}

// ---- several sets --------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

fn combine(ctx: &mut Ctx<'_>, keys: &[&[u8]], operation: Operation) -> CommandResult {
    let members = combined(ctx, keys, operation)?;
    ctx.reply.set(members.len());
    members.iter().for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

fn combine_store(ctx: &mut Ctx<'_>, args: &[&[u8]], operation: Operation) -> CommandResult {
    let members = combined(ctx, &args[2..], operation)?;
    let mut set = Set::new();
    for member in &members {
        set.add(member, ctx.limits);
    }
    if set.is_empty() {
        ctx.keys.delete(args[1]);
    } else {
        let event = match operation {
            Operation::Union => "sunionstore",
            Operation::Intersection => "sinterstore",
            Operation::Difference => "sdiffstore",
        };
        ctx.keys.insert(args[1], Value::Set(Box::new(set)), None);
        ctx.keys.notify(EventClasses::SET, event, args[1]);
    }
    ctx.reply.count(members.len());
    Ok(())
}

fn sintercard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let numkeys = numkeys_arg(args[1])?;
    let (keys, rest) = args[2..]
        .split_at_checked(numkeys)
        .ok_or(CommandError::Text("ERR Number of keys can't be greater than number of args"))?;
    let mut limit = usize::MAX;
    for option in rest.chunks(2) {
        let &[name, value] = option else { return Err(CommandError::Syntax) };
        if !is_option(name, "LIMIT") {
            return Err(CommandError::Syntax);
        }
        limit = match at_least(0, value, "ERR LIMIT can't be negative")? {
            0 => usize::MAX,
            limit => limit,
        };
    }
    let count = intersection(ctx, keys)?.len().min(limit);
    ctx.reply.count(count);
    Ok(())
}

/// The members of the result, each once, in no meaningful order.
fn combined(
    ctx: &mut Ctx<'_>,
    keys: &[&[u8]],
    operation: Operation,
) -> Result<Vec<Vec<u8>>, CommandError> {
    match operation {
        Operation::Union => union(ctx, keys),
        Operation::Intersection => intersection(ctx, keys),
        Operation::Difference => difference(ctx, keys),
    }
}

fn union(ctx: &mut Ctx<'_>, keys: &[&[u8]]) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut seen = HashSet::with_hasher(foldhash::fast::FixedState::with_seed(0));
    for key in keys {
        if let Some(set) = ctx.keys.set(key)? {
            seen.extend(set.iter().map(Item::to_vec));
        }
    }
    Ok(seen.into_iter().collect())
}

/// Starts from the smallest set. The type of every key is checked, even if a set is missing.
fn intersection(ctx: &mut Ctx<'_>, keys: &[&[u8]]) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut smallest = (usize::MAX, 0);
    for (index, key) in keys.iter().enumerate() {
        let len = ctx.keys.set(key)?.map_or(0, Set::len);
        smallest = smallest.min((len, index));
    }
    let (len, first) = smallest;
    if len == 0 {
        return Ok(Vec::new());
    }
    let mut members = members_of(ctx, keys[first])?;
    for (index, key) in keys.iter().enumerate() {
        if index != first
            && !members.is_empty()
            && let Some(set) = ctx.keys.set(key)?
        {
            members.retain(|member| set.contains(member));
        }
    }
    Ok(members)
}

fn difference(ctx: &mut Ctx<'_>, keys: &[&[u8]]) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut members = members_of(ctx, keys[0])?;
    for key in &keys[1..] {
        if let Some(set) = ctx.keys.set(key)? {
            members.retain(|member| !set.contains(member));
        }
    }
    Ok(members)
}

fn members_of(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Vec<Vec<u8>>, CommandError> {
    let set = ctx.keys.set(key)?;
    Ok(set.into_iter().flat_map(Set::iter).map(Item::to_vec).collect())
}
