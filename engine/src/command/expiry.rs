//! Expiry times: the options of SET and GETEX, and the EXPIRE family.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::int_arg;
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("expire", expire),
    Command::new("expireat", expireat),
    Command::new("expiretime", expiretime),
    Command::new("persist", persist),
    Command::new("pexpire", pexpire),
    Command::new("pexpireat", pexpireat),
    Command::new("pexpiretime", pexpiretime),
    Command::new("pttl", pttl),
    Command::new("ttl", ttl),
];

/// How a time is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExpiryUnit {
    seconds: bool,
    absolute: bool,
}

impl ExpiryUnit {
    pub(super) const SECONDS: Self = Self { seconds: true, absolute: false };
    pub(super) const MILLIS: Self = Self { seconds: false, absolute: false };
    const UNIX_SECONDS: Self = Self { seconds: true, absolute: true };
    const UNIX_MILLIS: Self = Self { seconds: false, absolute: true };

    /// EX, PX, EXAT or PXAT.
    pub(super) fn parse(option: &[u8]) -> Option<Self> {
        [
            ("EX", Self::SECONDS),
            ("PX", Self::MILLIS),
            ("EXAT", Self::UNIX_SECONDS),
            ("PXAT", Self::UNIX_MILLIS),
        ]
        .into_iter()
        .find(|(name, _)| is_option(option, name))
        .map(|(_, unit)| unit)
    }

    pub(super) fn is_absolute(self) -> bool {
        self.absolute
    }

    /// Milliseconds since the Unix epoch; `None` on overflow.
    fn absolute_ms(self, time: i64, now_ms: u64) -> Option<i64> {
        let millis = if self.seconds { time.checked_mul(1000)? } else { time };
        if self.absolute { Some(millis) } else { millis.checked_add(now_ms as i64) }
    }
}

/// What SET and GETEX are told about the expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpiryOption<'a> {
    Keep,
    Time(ExpiryUnit, &'a [u8]),
}

impl ExpiryOption<'_> {
    /// Is a time in this unit.
    pub(super) fn has_unit(&self, unit: ExpiryUnit) -> bool {
        matches!(self, Self::Time(own, _) if *own == unit)
    }

    /// The deadline in milliseconds since the Unix epoch; the error names the command.
    pub(super) fn deadline(&self, command: &str, now_ms: u64) -> Result<u64, CommandError> {
        let Self::Time(unit, time) = self else { return Err(CommandError::Syntax) };
        let time = int_arg(time)?;
        let deadline = if time <= 0 { None } else { unit.absolute_ms(time, now_ms) };
        deadline.map(|at| at as u64).ok_or_else(|| invalid_time(command))
    }
}

fn invalid_time(command: &str) -> CommandError {
    CommandError::Owned(format!("ERR invalid expire time in '{command}' command"))
}

fn expire(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    set_expiry(ctx, args, ExpiryUnit::SECONDS, "expire")
}

fn pexpire(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    set_expiry(ctx, args, ExpiryUnit::MILLIS, "pexpire")
}

fn expireat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    set_expiry(ctx, args, ExpiryUnit::UNIX_SECONDS, "expireat")
}

fn pexpireat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    set_expiry(ctx, args, ExpiryUnit::UNIX_MILLIS, "pexpireat")
}

fn set_expiry(ctx: &mut Ctx<'_>, args: &[&[u8]], unit: ExpiryUnit, name: &str) -> CommandResult {
    let (key, time) = (args[1], args[2]);
    let condition = Condition::parse(&args[3..])?;
    let now_ms = ctx.keys.now_ms();
    let at = unit.absolute_ms(int_arg(time)?, now_ms).ok_or_else(|| invalid_time(name))?;
    let done = match ctx.keys.expire_at(key) {
        None => false,
        Some(old) if !condition.allows(old, at) => false,
        Some(_) if at <= now_ms as i64 => ctx.keys.delete(key),
        Some(_) => {
            ctx.keys.set_expire_at(key, Some(at as u64));
            ctx.keys.notify(EventClasses::GENERIC, "expire", key);
            true
        }
    };
    ctx.reply.flag(done);
    Ok(())
}

/// NX, XX, GT and LT.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    if_none: bool,
    if_any: bool,
    if_greater: bool,
    if_less: bool,
}

impl Condition {
    fn parse(args: &[&[u8]]) -> Result<Self, CommandError> {
        let mut condition = Self::default();
        for arg in args {
            if is_option(arg, "NX") {
                condition.if_none = true;
            } else if is_option(arg, "XX") {
                condition.if_any = true;
            } else if is_option(arg, "GT") {
                condition.if_greater = true;
            } else if is_option(arg, "LT") {
                condition.if_less = true;
            } else {
                let option = String::from_utf8_lossy(arg);
                return Err(CommandError::Owned(format!("ERR Unsupported option {option}")));
            }
        }
        let Self { if_none, if_any, if_greater, if_less } = condition;
        if if_none && (if_any || if_greater || if_less) {
            return Err(CommandError::Text(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if if_greater && if_less {
            return Err(CommandError::Text(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(condition)
    }

    /// No expiry counts as infinitely late for GT and LT.
    fn allows(self, old: Option<u64>, new: i64) -> bool {
        let old = old.map(|at| at as i64);
        !((self.if_none && old.is_some())
            || (self.if_any && old.is_none())
            || (self.if_greater && old.is_none_or(|old| new <= old))
            || (self.if_less && old.is_some_and(|old| new >= old)))
    }
}

fn persist(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let had_expiry = ctx.keys.expire_at(args[1]).flatten().is_some();
    if had_expiry {
        ctx.keys.set_expire_at(args[1], None);
        ctx.keys.notify(EventClasses::GENERIC, "persist", args[1]);
    }
    ctx.reply.flag(had_expiry);
    Ok(())
}

fn ttl(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    // Rounded to the nearest second, as Redis does.
    reply_time(ctx, args[1], |at, now_ms| (at.saturating_sub(now_ms) + 500) / 1000)
}

fn pttl(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    reply_time(ctx, args[1], u64::saturating_sub)
}

fn expiretime(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    reply_time(ctx, args[1], |at, _| (at + 500) / 1000)
}

fn pexpiretime(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    reply_time(ctx, args[1], |at, _| at)
}

/// -2 without key, -1 without expiry.
fn reply_time(ctx: &mut Ctx<'_>, key: &[u8], show: fn(u64, u64) -> u64) -> CommandResult {
    let now_ms = ctx.keys.now_ms();
    ctx.keys.look(key);
    let shown = match ctx.keys.expire_at(key) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => show(at, now_ms) as i64,
    };
    ctx.reply.int(shown);
    Ok(())
}
