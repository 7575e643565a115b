//! XREAD and XREADGROUP, which may wait for entries.

use super::stream::{id_arg, quoted};
use super::{Command, CommandResult, Ctx, is_option};
use crate::blocking::BlockKind;
use crate::error::CommandError;
use crate::num::{int_arg, parse_i64};
use crate::reply::Reply;
use crate::value::stream::StreamId;
use crate::value::stream::group::{Group, Pending};
use crate::value::stream::log::Log;
use holdfast_proto::events::EventClasses;
use holdfast_proto::resp::encode;

pub(super) const COMMANDS: &[Command] =
    &[Command::new("xread", xread), Command::new("xreadgroup", xreadgroup)];

struct Request<'a, 'b> {
    /// At most so many entries of each stream.
    count: usize,
    /// Waits until then, `Some(None)` for ever.
    block: Option<Option<u64>>,
    group: Option<(&'b [u8], &'b [u8])>,
    noack: bool,
    keys: &'a [&'b [u8]],
    ids: &'a [&'b [u8]],
}

impl<'a, 'b> Request<'a, 'b> {
    fn parse(args: &'a [&'b [u8]], now_ms: u64, in_group: bool) -> Result<Self, CommandError> {
        let mut request =
            Self { count: usize::MAX, block: None, group: None, noack: false, keys: &[], ids: &[] };
        let mut at = 1;
        loop {
            let Some(&option) = args.get(at) else { return Err(CommandError::Syntax) };
            let more = args.len() - at - 1;
            if is_option(option, "BLOCK") && more > 0 {
                at += 1;
                request.block = Some(deadline(args[at], now_ms)?);
            } else if is_option(option, "COUNT") && more > 0 {
                at += 1;
                let count = int_arg(args[at])?;
                request.count = if count <= 0 { usize::MAX } else { count as usize };
            } else if is_option(option, "STREAMS") && more > 0 {
                request.streams(&args[at + 1..], in_group)?;
                break;
            } else if is_option(option, "GROUP") && more > 1 {
                if !in_group {
                    return Err(CommandError::Text(
                        "ERR The GROUP option is only supported by XREADGROUP. You called XREAD \
                         instead.",
                    ));
                }
                request.group = Some((args[at + 1], args[at + 2]));
                at += 2;
            } else if is_option(option, "NOACK") {
                if !in_group {
                    return Err(CommandError::Text(
                        "ERR The NOACK option is only supported by XREADGROUP. You called XREAD \
                         instead.",
                    ));
                }
                request.noack = true;
            } else {
                return Err(CommandError::Syntax);
            }
            at += 1;
        }
        if in_group && request.group.is_none() {
            return Err(CommandError::Text("ERR Missing GROUP option for XREADGROUP"));
        }
        Ok(request)
    }

    fn streams(&mut self, rest: &'a [&'b [u8]], in_group: bool) -> CommandResult {
        if !rest.len().is_multiple_of(2) {
            return Err(CommandError::Text(if in_group {
                "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' \
                 must be specified."
            } else {
                "ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be \
                 specified."
            }));
        }
        (self.keys, self.ids) = rest.split_at(rest.len() / 2);
        Ok(())
    }

    /// Nothing is there: waits, or says so.
    fn wait(&self, ctx: &mut Ctx<'_>, kind: BlockKind) {
        match self.block {
            Some(deadline_ms) if ctx.may_block() => ctx.block_on(self.keys, deadline_ms, kind),
            _ => ctx.reply.null_array(),
        }
    }
}

/// The timeout in milliseconds as an absolute time; 0 is never.
fn deadline(text: &[u8], now_ms: u64) -> Result<Option<u64>, CommandError> {
    let timeout = parse_i64(text)
        .ok_or(CommandError::Text("ERR timeout is not an integer or out of range"))?;
    let timeout =
        u64::try_from(timeout).map_err(|_| CommandError::Text("ERR timeout is negative"))?;
    match now_ms.checked_add(timeout) {
        _ if timeout == 0 => Ok(None),
        Some(at) if at <= i64::MAX as u64 => Ok(Some(at)),
        _ => Err(CommandError::Text("ERR timeout is out of range")),
    }
}

// ---- XREAD ---------------------------------------------------------------------------------------

fn xread(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let request = Request::parse(args, ctx.keys.now_ms(), false)?;
    let mut after = Vec::with_capacity(request.keys.len());
    for (key, id) in request.keys.iter().zip(request.ids) {
        let stream = ctx.keys.stream(key)?;
        after.push(match *id {
            b"$" => stream.map_or(StreamId::MIN, |stream| stream.log.last_id),
            b">" => {
                return Err(CommandError::Text(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP \
                     <group> <consumer> option.",
                ));
            }
            id => id_arg(id)?,
        });
    }
    let whole = ctx.reply.deferred();
    let mut served = 0;
    for (key, &after) in request.keys.iter().zip(&after) {
        let Some(stream) = ctx.keys.stream(key)? else { continue };
        if stream.log.last_live_id().is_none_or(|last| last <= after) {
            continue;
        }
        let start = after.next().expect("an id after it was just seen");
        stream_header(&mut ctx.reply, key);
        let entries = stream.log.range(start, StreamId::MAX);
        ctx.reply.stream_entries(entries.take(request.count));
        served += 1;
    }
    if served > 0 {
        ctx.reply.finish_map_or_array(whole, served);
        return Ok(());
    }
    request.wait(ctx, BlockKind::Stream);
    if let Some(blocked) = &mut ctx.blocked
        && request.ids.contains(&&b"$"[..])
    {
        // What `$` means is decided now, not when the command is run again.
        blocked.command = Some(with_ids(args, &after));
    }
    Ok(())
}

/// The command with its ids, which come last, written out.
fn with_ids(args: &[&[u8]], ids: &[StreamId]) -> Box<[u8]> {
    let front = &args[..args.len() - ids.len()];
    let ids: Vec<String> = ids.iter().map(StreamId::to_string).collect();
    let whole: Vec<&[u8]> = front.iter().copied().chain(ids.iter().map(String::as_bytes)).collect();
    let mut command = Vec::new();
    encode::command(&mut command, whole.into_iter());
    command.into()
}

/// What stands before the entries of one stream: in RESP3 the streams are a map.
fn stream_header(reply: &mut Reply<'_>, key: &[u8]) {
    if !reply.is_resp3() {
        reply.array(2);
    }
    reply.bulk(key);
}

// ---- XREADGROUP ----------------------------------------------------------------------------------

/// What a consumer asks for.
#[derive(Clone, Copy)]
enum Wanted {
    /// Entries that nobody was given yet.
    New,
    /// What is pending for the consumer after this id.
    Pending(StreamId),
}

fn xreadgroup(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let now_ms = ctx.keys.now_ms();
    let request = Request::parse(args, now_ms, true)?;
    let (group_name, consumer_name) = request.group.expect("checked by the parser");
    let mut wanted = Vec::with_capacity(request.keys.len());
    for (key, id) in request.keys.iter().zip(request.ids) {
        let stream = ctx.keys.stream(key)?;
        if stream.and_then(|stream| stream.group(group_name)).is_none() {
            return Err(CommandError::Owned(format!(
                "NOGROUP No such key '{}' or consumer group '{}' in XREADGROUP with GROUP option",
                quoted(key),
                quoted(group_name)
            )));
        }
        wanted.push(match *id {
            b">" => Wanted::New,
            b"$" => {
                return Err(CommandError::Text(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read \
                     the history of this consumer by specifying a proper ID, or use the > ID to \
                     get new messages. The $ ID would just return an empty result set.",
                ));
            }
            id => match id_arg(id)? {
                StreamId::MAX => Wanted::New,
                id => Wanted::Pending(id),
            },
        });
    }
    let whole = ctx.reply.deferred();
    let mut served = 0;
    for (key, wanted) in request.keys.iter().zip(wanted) {
        let Some(stream) = ctx.keys.stream_mut(key)? else { continue };
        let (log, groups) = stream.parts();
        let mut group = groups.get_mut(group_name).expect("checked above");
        let (consumer, created) = group.see_consumer(consumer_name, now_ms);
        match wanted {
            Wanted::New if log.last_live_id().is_some_and(|last| last > group.last_id) => {
                stream_header(&mut ctx.reply, key);
                let delivery = Delivery { now_ms, consumer, count: request.count };
                delivery.new_entries(&mut ctx.reply, log, &mut group, request.noack);
                served += 1;
            }
            Wanted::New => {}
            Wanted::Pending(after) => {
                stream_header(&mut ctx.reply, key);
                let delivery = Delivery { now_ms, consumer, count: request.count };
                delivery.again(&mut ctx.reply, log, &mut group, after);
                served += 1;
            }
        }
        drop(group);
        ctx.keys.account(key);
        if created {
            ctx.keys.notify(EventClasses::STREAM, "xgroup-createconsumer", key);
        }
    }
    if served > 0 {
        ctx.reply.finish_map_or_array(whole, served);
    } else {
        request.wait(ctx, BlockKind::StreamGroup);
    }
    Ok(())
}

/// Gives entries to a consumer.
struct Delivery {
    now_ms: u64,
    consumer: u32,
    count: usize,
}

impl Delivery {
    fn new_entries(&self, reply: &mut Reply<'_>, log: &Log, group: &mut Group, noack: bool) {
        let array = reply.deferred();
        let mut len = 0;
        let start = group.last_id.next().expect("there is an entry after it");
        for entry in log.range(start, StreamId::MAX).take(self.count) {
            group.advance(log, entry.id);
            reply.stream_entry(&entry);
            len += 1;
            if !noack {
                group.set_pending(Pending {
                    id: entry.id,
                    delivered_ms: self.now_ms,
                    deliveries: 1,
                    consumer: self.consumer,
                });
                group.consumer_mut(self.consumer).active_ms = Some(self.now_ms);
            }
        }
        reply.finish_array(array, len);
    }

    /// What the consumer was given before; of entries that are gone, the ids.
    fn again(&self, reply: &mut Reply<'_>, log: &Log, group: &mut Group, after: StreamId) {
        let start = after.next().expect("the last id means new entries");
        let ids = group.consumer(self.consumer).pending_from(start, self.count);
        reply.array(ids.len());
        for id in ids {
            match log.get(id) {
                Some(entry) => {
                    reply.stream_entry(&entry);
                    if let Some(pending) = group.pending(id) {
                        group.set_pending(Pending {
                            delivered_ms: self.now_ms,
                            deliveries: pending.deliveries.wrapping_add(1),
                            ..pending
                        });
                    }
                }
                None => {
                    reply.array(2);
                    reply.stream_id(id);
                    reply.null_array();
                }
            }
        }
    }
}
