//! Consumer groups: making them, confirming, inspecting and claiming what is pending.

use super::object::{check_subcommand, help};
use super::stream::{end_arg, id_arg, id_args, id_or_edge_arg, quoted, start_arg};
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::{int_arg, parse_i64};
use crate::value::Value;
use crate::value::stream::group::{Group, Pending};
use crate::value::stream::{Stream, StreamId};
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("xack", xack),
    Command::new("xautoclaim", xautoclaim),
    Command::new("xclaim", xclaim),
    Command::new("xgroup", xgroup),
    Command::new("xpending", xpending),
];

fn no_group(key: &[u8], group: &[u8]) -> CommandError {
    CommandError::Owned(format!(
        "NOGROUP No such key '{}' or consumer group '{}'",
        quoted(key),
        quoted(group)
    ))
}

/// The error for a stream that is there without the group.
pub(super) fn no_group_of(key: &[u8], group: &[u8]) -> CommandError {
    CommandError::Owned(format!(
        "NOGROUP No such consumer group '{}' for key name '{}'",
        quoted(group),
        quoted(key)
    ))
}

/// The error for options or a number of arguments that a subcommand does not have.
pub(super) fn subcommand_syntax(args: &[&[u8]]) -> CommandError {
    let sub = &args[1][..args[1].len().min(128)];
    let name = quoted(args[0]).to_uppercase();
    CommandError::Owned(format!(
        "ERR unknown subcommand or wrong number of arguments for '{}'. Try {name} HELP.",
        quoted(sub)
    ))
}

// ---- XGROUP --------------------------------------------------------------------------------------

fn xgroup(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    check_subcommand("xgroup", args)?;
    let sub = args[1];
    if is_option(sub, "HELP") {
        return help(ctx, "XGROUP", XGROUP_HELP);
    }
    let create = is_option(sub, "CREATE");
    let set_id = is_option(sub, "SETID");
    let (mut make_stream, mut entries_read) = (false, None);
    let mut options = args[5.min(args.len())..].iter();
    while let Some(option) = options.next() {
        if create && is_option(option, "MKSTREAM") {
            make_stream = true;
        } else if (create || set_id)
            && is_option(option, "ENTRIESREAD")
            && let Some(value) = options.next()
        {
            entries_read = match int_arg(value)? {
                -1 => None,
                count => Some(u64::try_from(count).map_err(|_| {
                    CommandError::Text("ERR value for ENTRIESREAD must be positive or -1")
                })?),
            };
        } else {
            return Err(subcommand_syntax(args));
        }
    }
    let (key, name) = (args[2], args[3]);
    let stream = ctx.keys.stream_mut(key)?;
    if !make_stream {
        let stream = stream.as_deref().ok_or(CommandError::Text(
            "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may \
             want to use the MKSTREAM option to create an empty stream automatically.",
        ))?;
        if stream.group(name).is_none() && !create && !is_option(sub, "DESTROY") {
            return Err(no_group_of(key, name));
        }
    }
    if create {
        if args.len() > 8 {
            return Err(subcommand_syntax(args));
        }
        return create_group(ctx, args, entries_read);
    }
    let stream = stream.ok_or(CommandError::NoSuchKey)?;
    if set_id {
        if args.len() != 5 && args.len() != 7 {
            return Err(subcommand_syntax(args));
        }
        let id = match args[4] {
            b"$" => stream.log.last_id,
            id => id_or_edge_arg(id, 0)?,
        };
        let mut group = stream.groups_mut().get_mut(name).ok_or_else(|| no_group_of(key, name))?;
        (group.last_id, group.entries_read) = (id, entries_read);
        drop(group);
        ctx.keys.notify(EventClasses::STREAM, "xgroup-setid", key);
        ctx.reply.ok();
    } else if is_option(sub, "DESTROY") {
        let destroyed = stream.groups_mut().remove(name);
        if destroyed {
            ctx.keys.account(key);
            ctx.keys.notify(EventClasses::STREAM, "xgroup-destroy", key);
            ctx.keys.wake(key);
        }
        ctx.reply.flag(destroyed);
    } else {
        let now_ms = ctx.keys.now_ms();
        if let Some(event) = change_consumer(ctx, args, now_ms)? {
            ctx.keys.account(key);
            ctx.keys.notify(EventClasses::STREAM, event, key);
        }
    }
    Ok(())
}

fn create_group(ctx: &mut Ctx<'_>, args: &[&[u8]], entries_read: Option<u64>) -> CommandResult {
    let (key, name) = (args[2], args[3]);
    let stream = ctx.keys.stream_mut(key)?;
    let id = match args[4] {
        b"$" => stream.as_deref().map_or(StreamId::MIN, |stream| stream.log.last_id),
        id => id_arg(id)?,
    };
    if stream.is_none() {
        ctx.keys.insert(key, Value::Stream(Box::default()), None);
    }
    let stream = ctx.keys.stream_or_new(key)?;
    if !stream.groups_mut().insert(Group::new(name, id, entries_read)) {
        return Err(CommandError::Text("BUSYGROUP Consumer Group name already exists"));
    }
    ctx.keys.account(key);
    ctx.keys.notify(EventClasses::STREAM, "xgroup-create", key);
    ctx.reply.ok();
    Ok(())
}

/// CREATECONSUMER and DELCONSUMER; the event if anything changed.
fn change_consumer(
    ctx: &mut Ctx<'_>,
    args: &[&[u8]],
    now_ms: u64,
) -> Result<Option<&'static str>, CommandError> {
    let stream = ctx.keys.stream_mut(args[2])?.ok_or(CommandError::NoSuchKey)?;
    let mut group =
        stream.groups_mut().get_mut(args[3]).ok_or_else(|| no_group_of(args[2], args[3]))?;
    if is_option(args[1], "CREATECONSUMER") {
        let created = group.create_consumer(args[4], now_ms).is_some();
        ctx.reply.flag(created);
        return Ok(created.then_some("xgroup-createconsumer"));
    }
    let deleted = group.delete_consumer(args[4]);
    ctx.reply.count(deleted.unwrap_or(0));
    Ok(deleted.map(|_| "xgroup-delconsumer"))
}

const XGROUP_HELP: &[&str] = &[
    "CREATE <key> <groupname> <id|$> [option]",
    "    Create a new consumer group. Options are:",
    "    * MKSTREAM",
    "      Create the empty stream if it does not exist.",
    "    * ENTRIESREAD entries_read",
    "      Set the group's entries_read counter (internal use).",
    "CREATECONSUMER <key> <groupname> <consumer>",
    "    Create a new consumer in the specified group.",
    "DELCONSUMER <key> <groupname> <consumer>",
    "    Remove the specified consumer.",
    "DESTROY <key> <groupname>",
    "    Remove the specified group.",
    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
    "    Set the current group ID and entries_read counter.",
];

// ---- XACK, XPENDING ------------------------------------------------------------------------------

fn xack(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let group = ctx.keys.stream_mut(args[1])?.filter(|stream| stream.group(args[2]).is_some());
    let Some(stream) = group else {
        ctx.reply.int(0);
        return Ok(());
    };
    let ids = id_args(&args[3..])?;
    let mut group = stream.groups_mut().get_mut(args[2]).expect("just seen");
    let confirmed = ids.into_iter().filter(|&id| group.remove_pending(id)).count();
    drop(group);
    ctx.keys.account(args[1]);
    ctx.reply.count(confirmed);
    Ok(())
}

/// XPENDING key group [[IDLE min-idle-time] start end count [consumer]]
fn xpending(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let range = match args.len() {
        3 => None,
        6..=9 => Some(PendingRange::parse(&args[3..])?),
        _ => return Err(CommandError::Syntax),
    };
    let now_ms = ctx.keys.now_ms();
    let stream = ctx.keys.stream(args[1])?;
    let group = stream
        .and_then(|stream| stream.group(args[2]))
        .ok_or_else(|| no_group(args[1], args[2]))?;
    let reply = &mut ctx.reply;
    let Some(range) = range else {
        reply.array(4);
        reply.count(group.pending_len());
        let (Some(first), Some(last)) = (group.first_pending(), group.last_pending()) else {
            reply.null();
            reply.null();
            reply.null_array();
            return Ok(());
        };
        reply.stream_id(first.id);
        reply.stream_id(last.id);
        let busy = || group.consumers().filter(|consumer| consumer.pending_len() > 0);
        reply.array(busy().count());
        for consumer in busy() {
            reply.array(2);
            reply.bulk(&consumer.name);
            reply.bulk_int(consumer.pending_len() as i64);
        }
        return Ok(());
    };
    let array = reply.deferred();
    let mut len = 0;
    let mut show = |pending: Pending| {
        if pending.id > range.end || len >= range.count {
            return false;
        }
        let idle = now_ms as i64 - pending.delivered_ms as i64;
        if range.min_idle == 0 || idle >= range.min_idle {
            len += 1;
            reply.array(4);
            reply.stream_id(pending.id);
            reply.bulk(&group.consumer(pending.consumer).name);
            reply.int(idle.max(0));
            reply.int(pending.deliveries as i64);
        }
        true
    };
    match range.consumer.map(|name| group.find_consumer(name)) {
        None => group.visit_pending(range.start, show),
        Some(None) => {}
        Some(Some(consumer)) => {
            for id in group.consumer(consumer).pending_from(range.start, usize::MAX) {
                if !group.pending(id).is_none_or(&mut show) {
                    break;
                }
            }
        }
    }
    ctx.reply.finish_array(array, len);
    Ok(())
}

struct PendingRange<'a> {
    min_idle: i64,
    start: StreamId,
    end: StreamId,
    count: usize,
    consumer: Option<&'a [u8]>,
}

impl<'a> PendingRange<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Self, CommandError> {
        let mut args = args;
        let mut min_idle = 0;
        if is_option(args[0], "IDLE") {
            min_idle = int_arg(args[1])?;
            if args.len() < 5 {
                return Err(CommandError::Syntax);
            }
            args = &args[2..];
        }
        let count = usize::try_from(int_arg(args[2])?).unwrap_or(0);
        let (start, end) = (start_arg(args[0])?, end_arg(args[1])?);
        Ok(Self { min_idle, start, end, count, consumer: args.get(3).copied() })
    }
}

// ---- XCLAIM, XAUTOCLAIM --------------------------------------------------------------------------

/// How claimed entries change hands.
struct Claim {
    now_ms: u64,
    min_idle: i64,
    delivered_ms: u64,
    retry_count: Option<u64>,
    just_id: bool,
    force: bool,
}

impl Claim {
    /// Gives an entry of the stream to the consumer, if it is pending long enough; whether it did.
    fn take(&self, group: &mut Group, consumer: u32, id: StreamId) -> bool {
        let old = group.pending(id);
        let deliveries = match old {
            Some(old) => {
                let idle = self.now_ms as i64 - old.delivered_ms as i64;
                if self.min_idle > 0 && idle < self.min_idle {
                    return false;
                }
                old.deliveries
            }
            // A new one counts as delivered once already.
            None if self.force => 1,
            None => return false,
        };
        let deliveries = match self.retry_count {
            Some(count) => count,
            None if self.just_id => deliveries,
            None => deliveries.wrapping_add(1),
        };
        group.set_pending(Pending { id, delivered_ms: self.delivered_ms, deliveries, consumer });
        group.consumer_mut(consumer).active_ms = Some(self.now_ms);
        true
    }
}

/// XCLAIM key group consumer min-idle-time id [id ...] [IDLE ms] [TIME unix-time-ms]
/// [RETRYCOUNT count] [FORCE] [JUSTID] [LASTID id]
fn xclaim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let now_ms = ctx.keys.now_ms();
    let stream = ctx.keys.stream_mut(args[1])?;
    let stream: &mut Stream = stream
        .filter(|stream| stream.group(args[2]).is_some())
        .ok_or_else(|| no_group(args[1], args[2]))?;
    let min_idle = parse_i64(args[4])
        .ok_or(CommandError::Text("ERR Invalid min-idle-time argument for XCLAIM"))?;
    let ids: Vec<StreamId> = args[5..].iter().map_while(|arg| id_arg(arg).ok()).collect();
    let (claim, last_id) = claim_options(&args[5 + ids.len()..], now_ms, min_idle)?;
    let (log, groups) = stream.parts();
    let mut group = groups.get_mut(args[2]).expect("just seen");
    group.last_id = group.last_id.max(last_id);
    let (consumer, created) = group.see_consumer(args[3], now_ms);
    let array = ctx.reply.deferred();
    let mut len = 0;
    for id in ids {
        let Some(entry) = log.get(id) else {
            group.remove_pending(id);
            continue;
        };
        if claim.take(&mut group, consumer, id) {
            match claim.just_id {
                true => ctx.reply.stream_id(id),
                false => ctx.reply.stream_entry(&entry),
            }
            len += 1;
        }
    }
    ctx.reply.finish_array(array, len);
    drop(group);
    ctx.keys.account(args[1]);
    if created {
        ctx.keys.notify(EventClasses::STREAM, "xgroup-createconsumer", args[1]);
    }
    Ok(())
}

fn claim_options(
    args: &[&[u8]],
    now_ms: u64,
    min_idle: i64,
) -> Result<(Claim, StreamId), CommandError> {
    let mut claim = Claim {
        now_ms,
        min_idle,
        delivered_ms: now_ms,
        retry_count: None,
        just_id: false,
        force: false,
    };
    let mut delivered = -1;
    let mut last_id = StreamId::MIN;
    let number = |text, error| parse_i64(text).ok_or(CommandError::Text(error));
    let mut options = args.iter();
    while let Some(option) = options.next() {
        let value = options.as_slice().first();
        match value {
            _ if is_option(option, "FORCE") => claim.force = true,
            _ if is_option(option, "JUSTID") => claim.just_id = true,
            Some(value) if is_option(option, "IDLE") => {
                let idle = number(value, "ERR Invalid IDLE option argument for XCLAIM")?;
                delivered = (now_ms as i64).wrapping_sub(idle);
                options.next();
            }
            Some(value) if is_option(option, "TIME") => {
                delivered = number(value, "ERR Invalid TIME option argument for XCLAIM")?;
                options.next();
            }
            Some(value) if is_option(option, "RETRYCOUNT") => {
                let count = number(value, "ERR Invalid RETRYCOUNT option argument for XCLAIM")?;
                claim.retry_count = u64::try_from(count).ok();
                options.next();
            }
            Some(value) if is_option(option, "LASTID") => {
                last_id = id_arg(value)?;
                options.next();
            }
            _ => {
                return Err(CommandError::Owned(format!(
                    "ERR Unrecognized XCLAIM option '{}'",
                    quoted(option)
                )));
            }
        }
    }
    // A time in the future is taken for now: clients compute it by their own clocks.
    if (0..=now_ms as i64).contains(&delivered) {
        claim.delivered_ms = delivered as u64;
    }
    Ok((claim, last_id))
}

/// XAUTOCLAIM key group consumer min-idle-time start [COUNT count] [JUSTID]
fn xautoclaim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    /// Pending entries looked at for each that may be returned.
    const ATTEMPTS_FACTOR: usize = 10;
    let now_ms = ctx.keys.now_ms();
    let min_idle = parse_i64(args[4])
        .ok_or(CommandError::Text("ERR Invalid min-idle-time argument for XAUTOCLAIM"))?;
    let start = start_arg(args[5])?;
    let (mut count, mut just_id) = (100, false);
    let mut options = args[6..].iter();
    while let Some(option) = options.next() {
        if is_option(option, "COUNT")
            && let Some(value) = options.next()
        {
            let range = 1..=i64::MAX / 16;
            count = parse_i64(value)
                .filter(|count| range.contains(count))
                .ok_or(CommandError::Text("ERR COUNT must be > 0"))? as usize;
        } else if is_option(option, "JUSTID") {
            just_id = true;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let stream = ctx.keys.stream_mut(args[1])?;
    let stream: &mut Stream = stream
        .filter(|stream| stream.group(args[2]).is_some())
        .ok_or_else(|| no_group(args[1], args[2]))?;
    let claim =
        Claim { now_ms, min_idle, delivered_ms: now_ms, retry_count: None, just_id, force: false };
    let (log, groups) = stream.parts();
    let mut group = groups.get_mut(args[2]).expect("just seen");
    let (consumer, created) = group.see_consumer(args[3], now_ms);
    let (mut claimed, mut gone) = (Vec::new(), Vec::new());
    let mut attempts = count.saturating_mul(ATTEMPTS_FACTOR);
    let mut next = Some(start);
    let cursor = loop {
        let Some(pending) = next.and_then(|next| group.next_pending(next)) else {
            break StreamId::MIN;
        };
        if attempts == 0 || claimed.len() + gone.len() >= count {
            break pending.id;
        }
        attempts -= 1;
        next = pending.id.next();
        if !log.contains(pending.id) {
            group.remove_pending(pending.id);
            gone.push(pending.id);
        } else if claim.take(&mut group, consumer, pending.id) {
            claimed.push(pending.id);
        }
    };
    ctx.reply.array(3);
    ctx.reply.stream_id(cursor);
    ctx.reply.array(claimed.len());
    for id in claimed {
        match log.get(id).filter(|_| !just_id) {
            Some(entry) => ctx.reply.stream_entry(&entry),
            None => ctx.reply.stream_id(id),
        }
    }
    ctx.reply.array(gone.len());
    gone.into_iter().for_each(|id| ctx.reply.stream_id(id));
    drop(group);
    ctx.keys.account(args[1]);
    if created {
        ctx.keys.notify(EventClasses::STREAM, "xgroup-createconsumer", args[1]);
    }
    Ok(())
}
