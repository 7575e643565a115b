//! OBJECT, MEMORY and DEBUG OBJECT: what is known about a key's storage.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::int_arg;
use crate::rdb::{DUMP_FOOTER_LEN, payload};
use crate::value::ValueRef;
use holdfast_proto::command as table;

pub(super) const COMMANDS: &[Command] =
    &[Command::new("debug", debug), Command::new("memory", memory), Command::new("object", object)];

/// Redis shares the objects of small numbers and shows this reference count for them.
const SHARED_REFCOUNT: i64 = i32::MAX as i64;
const SHARED_INTEGERS: std::ops::Range<i64> = 0..10_000;

fn object(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    check_subcommand("object", args)?;
    let sub = args[1];
    if is_option(sub, "HELP") {
        return help(ctx, "OBJECT", OBJECT_HELP);
    }
    let now_s = (ctx.keys.now_ms() / 1000) as u32;
    let config = ctx.keys.space().eviction;
    let Some(entry) = ctx.keys.peek_entry(args[2]) else {
        ctx.reply.null();
        return Ok(());
    };
    if is_option(sub, "ENCODING") {
        ctx.reply.bulk(entry.encoding().as_bytes());
    } else if is_option(sub, "REFCOUNT") {
        ctx.reply.int(refcount(entry.value()));
    } else if is_option(sub, "IDLETIME") {
        if config.policy.is_lfu() {
            return Err(CommandError::Text(
                "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that \
                 when switching between policies at runtime LRU and LFU data will take some time \
                 to adjust.",
            ));
        }
        ctx.reply.int(i64::from(entry.access().idle_s(now_s)));
    } else if config.policy.is_lfu() {
        ctx.reply.int(i64::from(entry.access().frequency(now_s, &config)));
    } else {
        return Err(CommandError::Text(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please \
             note that when switching between policies at runtime LRU and LFU data will take some \
             time to adjust.",
        ));
    }
    Ok(())
}

/// DEBUG OBJECT; all other subcommands are the proxy's.
fn debug(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let &[_, sub, key] = args else { return Err(CommandError::Syntax) };
    if !is_option(sub, "OBJECT") {
        return Err(CommandError::Syntax);
    }
    let now_s = (ctx.keys.now_ms() / 1000) as u32;
    let no_key = CommandError::Text("ERR no such key");
    let entry = ctx.keys.peek_entry(key).ok_or(no_key)?;
    let idle_s = entry.access().idle_s(now_s);
    let used_s = now_s.wrapping_sub(idle_s) & 0xff_ffff;
    let serialized = payload::write(entry.value()).len() - 1 - DUMP_FOOTER_LEN;
    let encoding = entry.encoding();
    // The address would be this replica's own affair.
    let text = format!(
        "Value at:0x0 refcount:{} encoding:{encoding} serializedlength:{serialized} lru:{used_s} \
         lru_seconds_idle:{idle_s}",
        refcount(entry.value()),
    );
    ctx.reply.simple(&text);
    Ok(())
}

fn refcount(value: ValueRef<'_>) -> i64 {
    let shared = matches!(value, ValueRef::Int(value) if SHARED_INTEGERS.contains(&value));
    if shared { SHARED_REFCOUNT } else { 1 }
}

fn memory(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    check_subcommand("memory", args)?;
    if is_option(args[1], "HELP") {
        return help(ctx, "MEMORY", MEMORY_HELP);
    }
    if !is_option(args[1], "USAGE") {
        // The others are about a process, and answered by the proxy.
        let sub = String::from_utf8_lossy(args[1]).into_owned();
        return Err(CommandError::Owned(format!("ERR MEMORY {sub} is not available here")));
    }
    let mut options = args[3..].iter();
    while let Some(option) = options.next() {
        let count = options.next().filter(|_| is_option(option, "SAMPLES"));
        if int_arg(count.ok_or(CommandError::Syntax)?)? < 0 {
            return Err(CommandError::Syntax);
        }
    }
    match ctx.keys.peek_entry(args[2]) {
        // The table's share: a bucket of 64 bytes for about five entries.
        Some(entry) => ctx.reply.count(entry.own_memory() + entry.accounted() + 64 / 5),
        None => ctx.reply.null(),
    }
    Ok(())
}

/// Arity and name of a subcommand.
pub(super) fn check_subcommand(container: &str, args: &[&[u8]]) -> CommandResult {
    let parent = table::lookup(container.as_bytes()).expect("containers are in the table");
    let Some(sub) = table::lookup_sub(parent, args[1]) else {
        return Err(CommandError::Owned(table::unknown_subcommand_error(parent, args[1])));
    };
    if sub.arity_fits(args.len()) {
        Ok(())
    } else {
        Err(CommandError::Owned(table::arity_error(sub)))
    }
}

pub(super) fn help(ctx: &mut Ctx<'_>, container: &str, lines: &[&str]) -> CommandResult {
    let first = format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    ctx.reply.array(lines.len() + 3);
    ctx.reply.simple(&first);
    for line in lines {
        ctx.reply.simple(line);
    }
    ctx.reply.simple("HELP");
    ctx.reply.simple("    Print this help.");
    Ok(())
}

const OBJECT_HELP: &[&str] = &[
    "ENCODING <key>",
    "    Return the kind of internal representation used in order to store the value",
    "    associated with a <key>.",
    "FREQ <key>",
    "    Return the access frequency index of the <key>. The returned integer is",
    "    proportional to the logarithm of the recent access frequency of the key.",
    "IDLETIME <key>",
    "    Return the idle time of the <key>, that is the approximated number of",
    "    seconds elapsed since the last access to the key.",
    "REFCOUNT <key>",
    "    Return the number of references of the value associated with the specified",
    "    <key>.",
];

const MEMORY_HELP: &[&str] = &[
    "DOCTOR",
    "    Return memory problems reports.",
    "MALLOC-STATS",
    "    Return internal statistics report from the memory allocator.",
    "PURGE",
    "    Attempt to purge dirty pages for reclamation by the allocator.",
    "STATS",
    "    Return information about the memory usage of the server.",
    "USAGE <key> [SAMPLES <count>]",
    "    Return memory in bytes used by <key> and its value. Nested values are",
    "    sampled up to <count> times (default: 5, 0 means sample all).",
];
