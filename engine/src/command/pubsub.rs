//! PUBLISH and SPUBLISH inside transactions and scripts. Elsewhere they do not go through the log.
//!
//! How many clients received the message is not part of the replicated state, so it cannot be part
//! of a reply that is kept: the answer is 0.

use super::{Command, CommandResult, Ctx};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("publish", |ctx, args| publish(ctx, args, false)),
    Command::new("spublish", |ctx, args| publish(ctx, args, true)),
];

fn publish(ctx: &mut Ctx<'_>, args: &[&[u8]], sharded: bool) -> CommandResult {
    ctx.keys.publish(args[1], args[2], sharded);
    ctx.reply.int(0);
    Ok(())
}
