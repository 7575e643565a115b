//! The string commands.

use super::{Command, CommandResult, Ctx};
use crate::keyspace::NewExpiry;

pub(super) const COMMANDS: &[Command] = &[Command::new("get", get), Command::new("set", set)];

fn get(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    match ctx.keys.string(args[1])? {
        Some(value) => ctx.reply.string(value),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn set(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    ctx.keys.insert_string(args[1], args[2], NewExpiry::Never);
    ctx.reply.ok();
    Ok(())
}
