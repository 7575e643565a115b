//! The hash commands.

use super::collection::{Picks, picks_args, scan_buckets};
use super::scan::{ScanOptions, cursor_arg};
use super::{Command, CommandResult, Ctx};
use crate::error::CommandError;
use crate::num::{LongDouble, add_long_double, int_arg, parse_i64};
use crate::random::Rng;
use crate::value::hash::Hash;
use crate::value::packed::Item;
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("hdel", hdel),
    Command::new("hexists", hexists),
    Command::new("hget", hget),
    Command::new("hgetall", |ctx, args| all(ctx, args, Parts::Both)),
    Command::new("hincrby", hincrby),
    Command::new("hincrbyfloat", hincrbyfloat),
    Command::new("hkeys", |ctx, args| all(ctx, args, Parts::Fields)),
    Command::new("hlen", hlen),
    Command::new("hmget", hmget),
    Command::new("hmset", hmset),
    Command::new("hrandfield", hrandfield),
    Command::new("hscan", hscan),
    Command::new("hset", hset),
    Command::new("hsetnx", hsetnx),
    Command::new("hstrlen", hstrlen),
    Command::new("hvals", |ctx, args| all(ctx, args, Parts::Values)),
];

// ---- writing -------------------------------------------------------------------------------------

fn hset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let added = set_pairs(ctx, args, "hset")?;
    ctx.reply.count(added);
    Ok(())
}

fn hmset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    set_pairs(ctx, args, "hmset")?;
    ctx.reply.ok();
    Ok(())
}

/// Sets all pairs; returns how many fields are new.
fn set_pairs(ctx: &mut Ctx<'_>, args: &[&[u8]], name: &str) -> Result<usize, CommandError> {
    let (pairs, odd) = args[2..].as_chunks::<2>();
    if !odd.is_empty() {
        return Err(CommandError::Arity(name.to_owned()));
    }
    let hash = ctx.keys.hash_or_new(args[1])?;
    let mut added = 0;
    for [field, value] in pairs {
        added += usize::from(hash.set(field, value, ctx.limits));
    }
    ctx.keys.changed_by(args[1], EventClasses::HASH, "hset");
    Ok(added)
}

fn hsetnx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let exists = ctx.keys.hash_mut(args[1])?.is_some_and(|hash| hash.contains(args[2]));
    if !exists {
        ctx.keys.hash_or_new(args[1])?.set(args[2], args[3], ctx.limits);
        ctx.keys.changed_by(args[1], EventClasses::HASH, "hset");
    }
    ctx.reply.flag(!exists);
    Ok(())
}

fn hdel(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let mut removed = 0;
    if let Some(hash) = ctx.keys.hash_mut(args[1])? {
        removed = args[2..].iter().filter(|field| hash.remove(field)).count();
    }
    if removed > 0 {
        ctx.keys.changed_by(args[1], EventClasses::HASH, "hdel");
    }
    ctx.reply.count(removed);
    Ok(())
}

fn hincrby(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let by = int_arg(args[3])?;
    let old = match ctx.keys.hash_mut(args[1])?.and_then(|hash| hash.get(args[2])) {
        None => 0,
        Some(Item::Int(value)) => value,
        Some(Item::Bytes(text)) => {
            parse_i64(text).ok_or(CommandError::Text("ERR hash value is not an integer"))?
        }
    };
    let new = old
        .checked_add(by)
        .ok_or(CommandError::Text("ERR increment or decrement would overflow"))?;
    let text = itoa::Buffer::new().format(new).to_owned();
    ctx.keys.hash_or_new(args[1])?.set(args[2], text.as_bytes(), ctx.limits);
    ctx.keys.changed_by(args[1], EventClasses::HASH, "hincrby");
    ctx.reply.int(new);
    Ok(())
}

fn hincrbyfloat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let by = LongDouble::parse(args[3]).ok_or(CommandError::NotFloat)?;
    if by.is_infinite() {
        return Err(CommandError::Text("ERR value is NaN or Infinity"));
    }
    let old = match ctx.keys.hash_mut(args[1])?.and_then(|hash| hash.get(args[2])) {
        None => LongDouble::parse(b"0"),
        Some(item) => LongDouble::parse(item.bytes(&mut itoa::Buffer::new())),
    };
    let old = old.ok_or(CommandError::Text("ERR hash value is not a float"))?;
    let text = add_long_double(old, args[3])?;
    ctx.keys.hash_or_new(args[1])?.set(args[2], text.as_bytes(), ctx.limits);
    ctx.keys.changed_by(args[1], EventClasses::HASH, "hincrbyfloat");
    ctx.reply.bulk(text.as_bytes());
    Ok(())
}

// ---- reading -------------------------------------------------------------------------------------

fn hget(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let value = ctx.keys.hash(args[1])?.and_then(|hash| hash.get(args[2]));
    ctx.reply.item_or_null(value);
    Ok(())
}

fn hmget(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let hash = ctx.keys.hash(args[1])?;
    ctx.reply.array(args.len() - 2);
    for field in &args[2..] {
        ctx.reply.item_or_null(hash.and_then(|hash| hash.get(field)));
    }
    Ok(())
}

fn hexists(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let exists = ctx.keys.hash(args[1])?.is_some_and(|hash| hash.contains(args[2]));
    ctx.reply.flag(exists);
    Ok(())
}

fn hlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let len = ctx.keys.hash(args[1])?.map_or(0, Hash::len);
    ctx.reply.count(len);
    Ok(())
}

fn hstrlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let value = ctx.keys.hash(args[1])?.and_then(|hash| hash.get(args[2]));
    ctx.reply.count(value.map_or(0, |value| value.text_len()));
    Ok(())
}

/// What HKEYS, HVALS and HGETALL return.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    Fields,
    Values,
    Both,
}

fn all(ctx: &mut Ctx<'_>, args: &[&[u8]], parts: Parts) -> CommandResult {
    let hash = ctx.keys.hash(args[1])?;
    let len = hash.map_or(0, Hash::len);
    match parts {
        Parts::Both => ctx.reply.map(len),
        Parts::Fields | Parts::Values => ctx.reply.array(len),
    }
    for (field, value) in hash.into_iter().flat_map(Hash::iter) {
        if parts != Parts::Values {
            ctx.reply.item(field);
        }
        if parts != Parts::Fields {
            ctx.reply.item(value);
        }
    }
    Ok(())
}

fn hscan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let cursor = cursor_arg(args[2])?;
    let Some(hash) = ctx.keys.hash(args[1])? else {
        ctx.scan_header(0, 0);
        return Ok(());
    };
    let options = ScanOptions::parse(&args[3..])?;
    if options.type_name.is_some() {
        return Err(CommandError::Syntax);
    }
    let mut found = Vec::new();
    let mut visited = 0;
    let cursor = scan_buckets(cursor, options.count, |cursor| {
        let next = hash.scan(cursor, |field, value| {
            visited += 1;
            if options.matches(field.bytes(&mut itoa::Buffer::new())) {
                found.push((field, value));
            }
        });
        (next, visited)
    });
    ctx.reply.array(2);
    ctx.reply.bulk_unsigned(cursor);
    ctx.reply.array(found.len() * if options.no_values { 1 } else { 2 });
    for (field, value) in found {
        ctx.reply.item(field);
        if !options.no_values {
            ctx.reply.item(value);
        }
    }
    Ok(())
}

// ---- random fields -------------------------------------------------------------------------------

fn hrandfield(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let picks = picks_args(&args[2..], "WITHVALUES")?;
    let Some(hash) = ctx.keys.hash(args[1])? else {
        match picks {
            Some(_) => ctx.reply.array(0),
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    let Some((picks, with_values)) = picks else {
        ctx.reply.bulk(&hash.random(&mut ctx.rng));
        return Ok(());
    };
    let fields = random_fields(hash, picks, &mut ctx.rng);
    let nested = with_values && ctx.reply.is_resp3();
    ctx.reply.array(fields.len() * if with_values && !nested { 2 } else { 1 });
    for field in &fields {
        if nested {
            ctx.reply.array(2);
        }
        ctx.reply.bulk(field);
        if with_values {
            ctx.reply.item_or_null(hash.get(field));
        }
    }
    Ok(())
}

fn random_fields(hash: &Hash, picks: Picks, rng: &mut Rng) -> Vec<Vec<u8>> {
    match picks {
        Picks::Distinct(count) if count >= hash.len() => {
            hash.iter().map(|(field, _)| field.to_vec()).collect()
        }
        Picks::Distinct(count) => super::collection::distinct(
            count,
            hash.len(),
            rng,
            |rng| hash.random(rng),
            || hash.candidates(),
        ),
        Picks::Repeated(count) => (0..count).map(|_| hash.random(rng)).collect(),
    }
}
