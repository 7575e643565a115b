//! Commands about whole databases.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::{int_arg, parse_i64};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("dbsize", dbsize),
    Command::new("flushall", flushall),
    Command::new("flushdb", flushdb),
    Command::new("swapdb", swapdb),
];

const OUT_OF_RANGE: CommandError = CommandError::Text("ERR DB index is out of range");

/// Redis reads these numbers as a C `int`.
const NOT_AN_INT: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";

/// A database's number.
pub(super) fn db_arg(ctx: &Ctx<'_>, text: &[u8]) -> Result<u16, CommandError> {
    let db = int_arg(text)?;
    i32::try_from(db).map_err(|_| CommandError::Text(NOT_AN_INT))?;
    in_range(ctx, db)
}

fn in_range(ctx: &Ctx<'_>, db: i64) -> Result<u16, CommandError> {
    let count = ctx.keys.database_count();
    u16::try_from(db).ok().filter(|&db| usize::from(db) < count).ok_or(OUT_OF_RANGE)
}

fn dbsize(ctx: &mut Ctx<'_>, _args: &[&[u8]]) -> CommandResult {
    let db = usize::from(ctx.keys.db());
    let count = ctx.keys.space().dbs[db].key_count();
    ctx.reply.int(count as i64);
    Ok(())
}

fn flushdb(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    check_mode(args)?;
    let db = ctx.keys.db();
    ctx.keys.space().flush(db);
    ctx.keys.space().bump_all();
    ctx.reply.ok();
    Ok(())
}

fn flushall(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    check_mode(args)?;
    for db in 0..ctx.keys.database_count() {
        ctx.keys.space().flush(db as u16);
    }
    ctx.keys.space().bump_all();
    ctx.reply.ok();
    Ok(())
}

/// SYNC or ASYNC; the result is the same.
fn check_mode(args: &[&[u8]]) -> CommandResult {
    match args[1..] {
        [] => Ok(()),
        [mode] if is_option(mode, "SYNC") || is_option(mode, "ASYNC") => Ok(()),
        _ => Err(CommandError::Syntax),
    }
}

fn swapdb(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let index = |text| parse_i64(text).filter(|&db| i32::try_from(db).is_ok());
    let first = index(args[1]).ok_or(CommandError::Text("ERR invalid first DB index"))?;
    let second = index(args[2]).ok_or(CommandError::Text("ERR invalid second DB index"))?;
    let (first, second) = (in_range(ctx, first)?, in_range(ctx, second)?);
    if first != second {
        let space = ctx.keys.space();
        space.swap(first, second);
        space.bump_all();
        space.waiters.databases_changed([first, second]);
    }
    ctx.reply.ok();
    Ok(())
}
