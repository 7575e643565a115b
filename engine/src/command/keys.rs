//! Commands about keys whatever their type: DEL, RENAME, COPY and the like.

use super::database::db_arg;
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("copy", copy),
    Command::new("del", del),
    Command::new("exists", exists),
    Command::new("move", move_key),
    Command::new("rename", rename),
    Command::new("renamenx", renamenx),
    Command::new("touch", touch),
    Command::new("type", type_name),
    Command::new("unlink", del),
];

const SAME_OBJECT: CommandError =
    CommandError::Text("ERR source and destination objects are the same");

/// DEL and UNLINK: freeing memory never blocks anybody but this shard's replica for microseconds
/// per thousand elements, so they are the same.
fn del(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let removed = args[1..].iter().filter(|key| ctx.keys.delete(key)).count();
    ctx.reply.count(removed);
    Ok(())
}

fn exists(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let found = args[1..].iter().filter(|key| ctx.keys.look(key)).count();
    ctx.reply.count(found);
    Ok(())
}

/// Looking a key up touches it, also for a client with CLIENT NO-TOUCH.
fn touch(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let no_touch = std::mem::replace(&mut ctx.keys.space().no_touch, false);
    let found = args[1..].iter().filter(|key| ctx.keys.get(key).is_some()).count();
    ctx.keys.space().no_touch = no_touch;
    ctx.reply.count(found);
    Ok(())
}

fn type_name(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let found = ctx.keys.look(args[1]);
    let name = if found { ctx.keys.peek(args[1]).map(|value| value.type_name()) } else { None };
    let name = name.unwrap_or("none");
    ctx.reply.simple(name);
    Ok(())
}

fn rename(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    move_to(ctx, args[1], args[2])?;
    ctx.reply.ok();
    Ok(())
}

fn renamenx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    if !ctx.keys.exists(args[1]) {
        return Err(CommandError::NoSuchKey);
    }
    let free = !ctx.keys.exists(args[2]);
    if free {
        move_to(ctx, args[1], args[2])?;
    }
    ctx.reply.flag(free);
    Ok(())
}

fn move_to(ctx: &mut Ctx<'_>, from: &[u8], to: &[u8]) -> CommandResult {
    if from == to {
        return if ctx.keys.exists(from) { Ok(()) } else { Err(CommandError::NoSuchKey) };
    }
    let (value, expire_at) = ctx.keys.take(from).ok_or(CommandError::NoSuchKey)?;
    ctx.keys.replace(to, value, expire_at);
    ctx.keys.notify(EventClasses::GENERIC, "rename_from", from);
    ctx.keys.notify(EventClasses::GENERIC, "rename_to", to);
    Ok(())
}

fn copy(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (from, to) = (args[1], args[2]);
    let from_db = ctx.keys.db();
    let mut to_db = from_db;
    let mut replace = false;
    let mut options = args[3..].iter();
    while let Some(option) = options.next() {
        if is_option(option, "REPLACE") {
            replace = true;
        } else if is_option(option, "DB") {
            to_db = db_arg(ctx, options.next().ok_or(CommandError::Syntax)?)?;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if from_db == to_db && from == to {
        return Err(SAME_OBJECT);
    }
    let Some(value) = ctx.keys.get(from).map(|value| value.to_value()) else {
        ctx.reply.int(0);
        return Ok(());
    };
    let expire_at = ctx.keys.expire_at(from).flatten();
    ctx.keys.set_db(to_db);
    let free = replace || !ctx.keys.exists(to);
    if free {
        ctx.keys.replace(to, value, expire_at);
        ctx.keys.notify(EventClasses::GENERIC, "copy_to", to);
    }
    ctx.reply.flag(free);
    Ok(())
}

fn move_key(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let key = args[1];
    let from_db = ctx.keys.db();
    let to_db = db_arg(ctx, args[2])?;
    if from_db == to_db {
        return Err(SAME_OBJECT);
    }
    ctx.keys.set_db(to_db);
    let taken = ctx.keys.exists(key);
    ctx.keys.set_db(from_db);
    let moved = if taken { None } else { ctx.keys.take(key) };
    ctx.reply.flag(moved.is_some());
    if let Some((value, expire_at)) = moved {
        ctx.keys.set_db(to_db);
        ctx.keys.insert(key, value, expire_at);
        ctx.keys.set_db(from_db);
        ctx.keys.notify(EventClasses::GENERIC, "move_from", key);
        ctx.keys.set_db(to_db);
        ctx.keys.notify(EventClasses::GENERIC, "move_to", key);
    }
    Ok(())
}
