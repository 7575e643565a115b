//! The string commands.

use super::expiry::{ExpiryOption, ExpiryUnit};
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::keyspace::NewExpiry;
use crate::num::{self, LongDouble, int_arg};
use crate::value::{StrRef, ValueRef};
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("append", append),
    Command::new("decr", decr),
    Command::new("decrby", decrby),
    Command::new("get", get),
    Command::new("getdel", getdel),
    Command::new("getex", getex),
    Command::new("getrange", getrange),
    Command::new("getset", getset),
    Command::new("incr", incr),
    Command::new("incrby", incrby),
    Command::new("incrbyfloat", incrbyfloat),
    Command::new("mget", mget),
    Command::new("mset", mset),
    Command::new("msetnx", msetnx),
    Command::new("psetex", psetex),
    Command::new("set", set),
    Command::new("setex", setex),
    Command::new("setnx", setnx),
    Command::new("setrange", setrange),
    Command::new("strlen", strlen),
    Command::new("substr", getrange),
];

/// `proto-max-bulk-len` of Redis: no string may grow beyond it.
pub(super) const STRING_LEN_MAX: usize = 512 * 1024 * 1024;

// ---- reading -----------------------------------------------------------------------------------

fn get(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    reply_value(ctx, args[1]).map(drop)
}

/// Replies with the string or null; `true` if the key exists.
fn reply_value(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<bool, CommandError> {
    match ctx.keys.string(key)? {
        Some(value) => ctx.reply.string(value),
        None => {
            ctx.reply.null();
            return Ok(false);
        }
    }
    Ok(true)
}

fn mget(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    ctx.reply.array(args.len() - 1);
    for key in &args[1..] {
        match ctx.keys.string(key) {
            Ok(Some(value)) => ctx.reply.string(value),
            // A key of another type has no string value: null, not an error.
            Ok(None) | Err(_) => ctx.reply.null(),
        }
    }
    Ok(())
}

fn strlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let len = ctx.keys.string(args[1])?.map_or(0, StrRef::len);
    ctx.reply.count(len);
    Ok(())
}

/// GETRANGE and its old name SUBSTR.
fn getrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (start, end) = (int_arg(args[2])?, int_arg(args[3])?);
    let mut buffer = itoa::Buffer::new();
    let bytes = match ctx.keys.string(args[1])? {
        Some(value) => value.bytes(&mut buffer),
        None => b"",
    };
    ctx.reply.bulk(&bytes[byte_range(bytes.len(), start, end)]);
    Ok(())
}

/// The bytes `start..=end` where negative positions count from the end.
fn byte_range(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let len = len as i64;
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let absolute = |position: i64| if position < 0 { (len + position).max(0) } else { position };
    let (start, end) = (absolute(start), absolute(end).min(len - 1));
    if start > end || len == 0 { 0..0 } else { start as usize..end as usize + 1 }
}

// ---- setting -----------------------------------------------------------------------------------

/// The options of SET.
struct SetOptions<'a> {
    if_missing: bool,
    if_present: bool,
    get: bool,
    expiry: Option<ExpiryOption<'a>>,
}

fn set(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    if args.len() == 3 {
        ctx.keys.insert_string(args[1], args[2], NewExpiry::Never);
        ctx.keys.notify(EventClasses::STRING, "set", args[1]);
        ctx.reply.ok();
        return Ok(());
    }
    let options = SetOptions::parse(&args[3..])?;
    let expiry = match options.expiry {
        None => NewExpiry::Never,
        Some(ExpiryOption::Keep) => NewExpiry::Keep,
        Some(option) => NewExpiry::At(option.deadline("set", ctx.keys.now_ms())?),
    };
    if options.get {
        reply_value(ctx, args[1])?;
    }
    if (options.if_missing || options.if_present) && ctx.keys.exists(args[1]) != options.if_present
    {
        if !options.get {
            ctx.reply.null();
        }
        return Ok(());
    }
    ctx.keys.insert_string(args[1], args[2], expiry);
    ctx.keys.notify(EventClasses::STRING, "set", args[1]);
    if let NewExpiry::At(_) = expiry {
        ctx.keys.notify(EventClasses::GENERIC, "expire", args[1]);
    }
    if !options.get {
        ctx.reply.ok();
    }
    Ok(())
}

impl<'a> SetOptions<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Self, CommandError> {
        let mut options = Self { if_missing: false, if_present: false, get: false, expiry: None };
        let mut at = 0;
        while let Some(&arg) = args.get(at) {
            at += 1;
            if is_option(arg, "NX") && !options.if_present {
                options.if_missing = true;
            } else if is_option(arg, "XX") && !options.if_missing {
                options.if_present = true;
            } else if is_option(arg, "GET") {
                options.get = true;
            } else if is_option(arg, "KEEPTTL") && options.expiry.is_none() {
                options.expiry = Some(ExpiryOption::Keep);
            } else if let (Some(unit), Some(&time)) = (ExpiryUnit::parse(arg), args.get(at))
                && options.expiry.as_ref().is_none_or(|given| given.has_unit(unit))
            {
                // The same option may be repeated; the last one counts.
                options.expiry = Some(ExpiryOption::Time(unit, time));
                at += 1;
            } else if is_option(arg, "KEEPTTL")
                && matches!(options.expiry, Some(ExpiryOption::Keep))
            {
                // Repeating it is allowed.
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }
}

fn setnx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let missing = !ctx.keys.exists(args[1]);
    if missing {
        ctx.keys.insert_string(args[1], args[2], NewExpiry::Never);
        ctx.keys.notify(EventClasses::STRING, "set", args[1]);
    }
    ctx.reply.flag(missing);
    Ok(())
}

fn setex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    set_with_time(ctx, args, ExpiryUnit::SECONDS, "setex")
}

fn psetex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    set_with_time(ctx, args, ExpiryUnit::MILLIS, "psetex")
}

fn set_with_time(ctx: &mut Ctx<'_>, args: &[&[u8]], unit: ExpiryUnit, name: &str) -> CommandResult {
    let option = ExpiryOption::Time(unit, args[2]);
    let at = option.deadline(name, ctx.keys.now_ms())?;
    ctx.keys.insert_string(args[1], args[3], NewExpiry::At(at));
    ctx.keys.notify(EventClasses::STRING, "set", args[1]);
    ctx.keys.notify(EventClasses::GENERIC, "expire", args[1]);
    ctx.reply.ok();
    Ok(())
}

fn getset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    reply_value(ctx, args[1])?;
    ctx.keys.insert_string(args[1], args[2], NewExpiry::Never);
    ctx.keys.notify(EventClasses::STRING, "set", args[1]);
    Ok(())
}

fn getdel(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    if reply_value(ctx, args[1])? {
        ctx.keys.delete(args[1]);
    }
    Ok(())
}

/// What GETEX does to the expiry: nothing, `Some(None)` for PERSIST, or a time. The same option may
/// be repeated; the last one counts.
type GetExOption<'a> = Option<Option<(ExpiryUnit, ExpiryOption<'a>)>>;

fn getex_option<'a>(args: &[&'a [u8]]) -> Result<GetExOption<'a>, CommandError> {
    let mut option: GetExOption<'a> = None;
    let mut at = 0;
    while let Some(&arg) = args.get(at) {
        at += 1;
        if is_option(arg, "PERSIST") && !matches!(option, Some(Some(_))) {
            option = Some(None);
        } else if let (Some(unit), Some(&time)) = (ExpiryUnit::parse(arg), args.get(at))
            && option.is_none_or(|given| given.is_some_and(|(given, _)| given == unit))
        {
            option = Some(Some((unit, ExpiryOption::Time(unit, time))));
            at += 1;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(option)
}

fn getex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let option = getex_option(&args[2..])?;
    // The type comes before the time, and a missing key before both.
    if ctx.keys.string(args[1])?.is_none() {
        ctx.reply.null();
        return Ok(());
    }
    let now_ms = ctx.keys.now_ms();
    let deadline = match option {
        Some(Some((unit, time))) => Some((unit, time.deadline("getex", now_ms)?)),
        _ => None,
    };
    reply_value(ctx, args[1])?;
    match (option, deadline) {
        (_, Some((unit, at))) if unit.is_absolute() && at <= now_ms => {
            ctx.keys.delete(args[1]);
        }
        (_, Some((_, at))) => {
            ctx.keys.set_expire_at(args[1], Some(at));
            ctx.keys.notify(EventClasses::GENERIC, "expire", args[1]);
        }
        (Some(None), _) if ctx.keys.expire_at(args[1]).flatten().is_some() => {
            ctx.keys.set_expire_at(args[1], None);
            ctx.keys.notify(EventClasses::GENERIC, "persist", args[1]);
        }
        _ => {}
    }
    Ok(())
}

fn mset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    for pair in pairs(args, "mset")? {
        ctx.keys.insert_string(pair[0], pair[1], NewExpiry::Never);
        ctx.keys.notify(EventClasses::STRING, "set", pair[0]);
    }
    ctx.reply.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let pairs = pairs(args, "msetnx")?;
    let any = pairs.clone().any(|pair| ctx.keys.exists(pair[0]));
    if !any {
        for pair in pairs {
            ctx.keys.insert_string(pair[0], pair[1], NewExpiry::Never);
            ctx.keys.notify(EventClasses::STRING, "set", pair[0]);
        }
    }
    ctx.reply.flag(!any);
    Ok(())
}

fn pairs<'a>(
    args: &'a [&'a [u8]],
    name: &str,
) -> Result<std::slice::Chunks<'a, &'a [u8]>, CommandError> {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::Arity(name.to_owned()));
    }
    Ok(args[1..].chunks(2))
}

// ---- changing ----------------------------------------------------------------------------------

fn append(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (key, tail) = (args[1], args[2]);
    let len = match ctx.keys.string(key)? {
        None => {
            ctx.keys.insert_string(key, tail, NewExpiry::Never);
            tail.len()
        }
        Some(value) => {
            let len = value.len() + tail.len();
            check_len(len)?;
            ctx.keys.string_mut(key)?.extend_from_slice(tail);
            ctx.keys.modified(key);
            len
        }
    };
    ctx.keys.notify(EventClasses::STRING, "append", key);
    ctx.reply.count(len);
    Ok(())
}

fn setrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (key, patch) = (args[1], args[3]);
    let offset = usize::try_from(int_arg(args[2])?)
        .map_err(|_| CommandError::Text("ERR offset is out of range"))?;
    let old_len = ctx.keys.string(key)?.map_or(0, StrRef::len);
    if patch.is_empty() {
        ctx.reply.count(old_len);
        return Ok(());
    }
    let end = offset.saturating_add(patch.len());
    check_len(end)?;
    let bytes = ctx.keys.string_mut(key)?;
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(patch);
    let len = bytes.len();
    ctx.keys.modified(key);
    ctx.keys.notify(EventClasses::STRING, "setrange", key);
    ctx.reply.count(len);
    Ok(())
}

fn check_len(len: usize) -> CommandResult {
    if len > STRING_LEN_MAX {
        return Err(CommandError::Text(
            "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
        ));
    }
    Ok(())
}

fn incr(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    add(ctx, args[1], 1)
}

fn decr(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    add(ctx, args[1], -1)
}

fn incrby(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    add(ctx, args[1], int_arg(args[2])?)
}

fn decrby(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let by = int_arg(args[2])?
        .checked_neg()
        .ok_or(CommandError::Text("ERR decrement would overflow"))?;
    add(ctx, args[1], by)
}

fn add(ctx: &mut Ctx<'_>, key: &[u8], by: i64) -> CommandResult {
    const OVERFLOW: CommandError = CommandError::Text("ERR increment or decrement would overflow");
    let (stored_as_number, value) = match ctx.keys.peek(key) {
        None => (false, 0),
        Some(ValueRef::Int(value)) => (true, value),
        Some(ValueRef::Str(bytes)) => (false, int_arg(bytes)?),
        Some(_) => return Err(CommandError::WrongType),
    };
    let value = value.checked_add(by).ok_or(OVERFLOW)?;
    if stored_as_number {
        ctx.keys.set_int(key, value);
    } else {
        let mut buffer = itoa::Buffer::new();
        ctx.keys.insert_string(key, buffer.format(value).as_bytes(), NewExpiry::Keep);
    }
    ctx.keys.notify(EventClasses::STRING, "incrby", key);
    ctx.reply.int(value);
    Ok(())
}

fn incrbyfloat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let mut buffer = itoa::Buffer::new();
    let value = match ctx.keys.string(args[1])? {
        None => LongDouble::ZERO,
        Some(value) => LongDouble::parse(value.bytes(&mut buffer)).ok_or(CommandError::NotFloat)?,
    };
    let text = num::add_long_double(value, args[2])?;
    ctx.keys.insert_text(args[1], text.as_bytes());
    ctx.keys.notify(EventClasses::STRING, "incrbyfloat", args[1]);
    ctx.reply.bulk(text.as_bytes());
    Ok(())
}
