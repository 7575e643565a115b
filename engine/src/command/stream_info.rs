//! XINFO.

use super::object::{check_subcommand, help};
use super::stream_group::{no_group_of, subcommand_syntax};
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::int_arg;
use crate::reply::Reply;
use crate::value::stream::group::{Consumer, Group, Groups};
use crate::value::stream::log::Log;
use crate::value::stream::{Stream, StreamId};

pub(super) const COMMANDS: &[Command] = &[Command::new("xinfo", xinfo)];

fn xinfo(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    check_subcommand("xinfo", args)?;
    if is_option(args[1], "HELP") {
        return help(ctx, "XINFO", XINFO_HELP);
    }
    let now_ms = ctx.keys.now_ms();
    let stream = ctx.keys.stream(args[2])?.ok_or(CommandError::NoSuchKey)?;
    if is_option(args[1], "CONSUMERS") {
        let group = stream.group(args[3]).ok_or_else(|| no_group_of(args[2], args[3]))?;
        ctx.reply.array(group.consumer_count());
        group.consumers().for_each(|consumer| consumer_line(&mut ctx.reply, consumer, now_ms));
    } else if is_option(args[1], "GROUPS") {
        ctx.reply.array(stream.groups().map_or(0, Groups::len));
        for group in stream.groups().into_iter().flat_map(Groups::iter) {
            group_line(&mut ctx.reply, &stream.log, group);
        }
    } else {
        match full_option(args)? {
            None => summary(&mut ctx.reply, stream),
            Some(count) => full(&mut ctx.reply, stream, count),
        }
    }
    Ok(())
}

/// `[FULL [COUNT count]]`: `None` without FULL.
fn full_option(args: &[&[u8]]) -> Result<Option<usize>, CommandError> {
    const DEFAULT: usize = 10;
    match args[3..] {
        [] => Ok(None),
        [full] if is_option(full, "FULL") => Ok(Some(DEFAULT)),
        [full, count, value] if is_option(full, "FULL") && is_option(count, "COUNT") => {
            Ok(Some(match int_arg(value)? {
                0 => usize::MAX,
                count => usize::try_from(count).unwrap_or(DEFAULT),
            }))
        }
        _ => Err(subcommand_syntax(args)),
    }
}

fn label(reply: &mut Reply<'_>, name: &str) {
    reply.bulk(name.as_bytes());
}

fn time_or_never(reply: &mut Reply<'_>, at: Option<u64>) {
    reply.int(at.map_or(-1, |at| at as i64));
}

fn consumer_line(reply: &mut Reply<'_>, consumer: &Consumer, now_ms: u64) {
    let since = |at: u64| (now_ms as i64 - at as i64).max(0);
    reply.map(4);
    label(reply, "name");
    reply.bulk(&consumer.name);
    label(reply, "pending");
    reply.count(consumer.pending_len());
    label(reply, "idle");
    reply.int(since(consumer.seen_ms));
    label(reply, "inactive");
    reply.int(consumer.active_ms.map_or(-1, since));
}

fn group_line(reply: &mut Reply<'_>, log: &Log, group: &Group) {
    reply.map(6);
    label(reply, "name");
    reply.bulk(&group.name);
    label(reply, "consumers");
    reply.count(group.consumer_count());
    label(reply, "pending");
    reply.count(group.pending_len());
    progress(reply, log, group);
}

fn progress(reply: &mut Reply<'_>, log: &Log, group: &Group) {
    let int_or_null = |reply: &mut Reply<'_>, value: Option<i64>| match value {
        Some(value) => reply.int(value),
        None => reply.null(),
    };
    label(reply, "last-delivered-id");
    reply.stream_id(group.last_id);
    label(reply, "entries-read");
    int_or_null(reply, group.entries_read.map(|count| count as i64));
    label(reply, "lag");
    int_or_null(reply, group.lag(log));
}

/// What both forms of XINFO STREAM begin with.
fn head(reply: &mut Reply<'_>, stream: &Stream, fields: usize) {
    let log = &stream.log;
    reply.map(fields);
    label(reply, "length");
    reply.int(log.len() as i64);
    label(reply, "radix-tree-keys");
    reply.count(log.nodes().len());
    // There is no such tree: one node for each key, and the root.
    label(reply, "radix-tree-nodes");
    reply.count(log.nodes().len() + 1);
    label(reply, "last-generated-id");
    reply.stream_id(log.last_id);
    label(reply, "max-deleted-entry-id");
    reply.stream_id(log.max_deleted_id);
    label(reply, "entries-added");
    reply.int(log.entries_added as i64);
    label(reply, "recorded-first-entry-id");
    reply.stream_id(log.first_id);
}

fn summary(reply: &mut Reply<'_>, stream: &Stream) {
    head(reply, stream, 10);
    label(reply, "groups");
    reply.count(stream.groups().map_or(0, Groups::len));
    let log = &stream.log;
    label(reply, "first-entry");
    match log.range(StreamId::MIN, StreamId::MAX).next() {
        Some(entry) => reply.stream_entry(&entry),
        None => reply.null(),
    }
    label(reply, "last-entry");
    match log.range_back(StreamId::MIN, StreamId::MAX).next() {
        Some(entry) => reply.stream_entry(&entry),
        None => reply.null(),
    }
}

fn full(reply: &mut Reply<'_>, stream: &Stream, count: usize) {
    head(reply, stream, 9);
    label(reply, "entries");
    reply.stream_entries(stream.log.range(StreamId::MIN, StreamId::MAX).take(count));
    label(reply, "groups");
    reply.array(stream.groups().map_or(0, Groups::len));
    for group in stream.groups().into_iter().flat_map(Groups::iter) {
        full_group(reply, &stream.log, group, count);
    }
}

fn full_group(reply: &mut Reply<'_>, log: &Log, group: &Group, count: usize) {
    reply.map(7);
    label(reply, "name");
    reply.bulk(&group.name);
    progress(reply, log, group);
    label(reply, "pel-count");
    reply.count(group.pending_len());
    label(reply, "pending");
    reply.array(group.pending_len().min(count));
    let mut left = count;
    group.visit_pending(StreamId::MIN, |pending| {
        if left == 0 {
            return false;
        }
        left -= 1;
        reply.array(4);
        reply.stream_id(pending.id);
        reply.bulk(&group.consumer(pending.consumer).name);
        reply.int(pending.delivered_ms as i64);
        reply.int(pending.deliveries as i64);
        true
    });
    label(reply, "consumers");
    reply.array(group.consumer_count());
    for consumer in group.consumers() {
        reply.map(5);
        label(reply, "name");
        reply.bulk(&consumer.name);
        label(reply, "seen-time");
        reply.int(consumer.seen_ms as i64);
        label(reply, "active-time");
        time_or_never(reply, consumer.active_ms);
        label(reply, "pel-count");
        reply.count(consumer.pending_len());
        label(reply, "pending");
        let ids = consumer.pending_from(StreamId::MIN, count);
        reply.array(ids.len());
        for pending in ids.into_iter().filter_map(|id| group.pending(id)) {
            reply.array(3);
            reply.stream_id(pending.id);
            reply.int(pending.delivered_ms as i64);
            reply.int(pending.deliveries as i64);
        }
    }
}

const XINFO_HELP: &[&str] = &[
    "CONSUMERS <key> <groupname>",
    "    Show consumers of <groupname>.",
    "GROUPS <key>",
    "    Show the stream consumer groups.",
    "STREAM <key> [FULL [COUNT <count>]",
    "    Show information about the stream.",
];
