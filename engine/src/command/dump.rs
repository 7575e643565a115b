//! DUMP and RESTORE.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::int_arg;
use crate::rdb::{self, payload};
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] =
    &[Command::new("dump", dump), Command::new("restore", restore)];

fn dump(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    match ctx.keys.get(args[1]) {
        Some(value) => ctx.reply.bulk(&payload::write(value)),
        None => ctx.reply.null(),
    }
    Ok(())
}

/// RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ count]. The checks are made
/// in Redis's order, since each has its own error.
fn restore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    const BUSY_KEY: CommandError = CommandError::Text("BUSYKEY Target key name already exists.");
    const NEGATIVE_TTL: CommandError = CommandError::Text("ERR Invalid TTL value, must be >= 0");
    let (key, ttl, payload) = (args[1], args[2], args[3]);
    let options = Options::parse(&args[4..])?;
    if !options.replace && ctx.keys.exists(key) {
        return Err(BUSY_KEY);
    }
    let ttl = u64::try_from(int_arg(ttl)?).map_err(|_| NEGATIVE_TTL)?;
    let value = payload::read(payload, ctx.limits).map_err(payload_error)?;
    let now_ms = ctx.keys.now_ms();
    let expire_at = match ttl {
        0 => None,
        at if options.absolute => Some(at),
        ttl => Some(now_ms.saturating_add(ttl)),
    };
    if expire_at.is_some_and(|at| at <= now_ms) {
        // Only REPLACE gets here with an old key: it is gone, and so is the new one already.
        ctx.keys.delete(key);
    } else {
        ctx.keys.replace(key, value, expire_at);
        ctx.keys.notify(EventClasses::GENERIC, "restore", key);
        ctx.keys.restore_access(key, options.idle_s, options.frequency);
    }
    ctx.reply.ok();
    Ok(())
}

fn payload_error(error: rdb::Error) -> CommandError {
    match error {
        rdb::Error::Version(_) | rdb::Error::Checksum => {
            CommandError::Text("ERR DUMP payload version or checksum are wrong")
        }
        rdb::Error::NotSupported(what) => {
            CommandError::Owned(format!("ERR restoring {what} is not supported yet"))
        }
        rdb::Error::Io(_) | rdb::Error::Truncated | rdb::Error::Corrupt(_) => {
            CommandError::Text("ERR Bad data format")
        }
    }
}

#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
    idle_s: Option<u32>,
    frequency: Option<u8>,
}

impl Options {
    fn parse(args: &[&[u8]]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        let mut rest = args;
        while let Some((&option, mut after)) = rest.split_first() {
            if is_option(option, "REPLACE") {
                options.replace = true;
            } else if is_option(option, "ABSTTL") {
                options.absolute = true;
            } else if is_option(option, "IDLETIME")
                && !after.is_empty()
                && options.frequency.is_none()
            {
                let idle = u64::try_from(int_arg(after[0])?)
                    .map_err(|_| CommandError::Text("ERR Invalid IDLETIME value, must be >= 0"))?;
                options.idle_s = Some(u32::try_from(idle).unwrap_or(u32::MAX));
                after = &after[1..];
            } else if is_option(option, "FREQ") && !after.is_empty() && options.idle_s.is_none() {
                let frequency = u8::try_from(int_arg(after[0])?).map_err(|_| {
                    CommandError::Text("ERR Invalid FREQ value, must be >= 0 and <= 255")
                })?;
                options.frequency = Some(frequency);
                after = &after[1..];
            } else {
                return Err(CommandError::Syntax);
            }
            rest = after;
        }
        Ok(options)
    }
}
