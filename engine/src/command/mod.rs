//! The commands, one file per family, and the table that dispatches to them.
//!
//! # How a family file is written
//!
//! A handler is a function of the context and the arguments (`args[0]` is the command's name). The
//! table's arity is already checked. It appends exactly one RESP value to `ctx.reply`, or returns
//! an error, which becomes the reply (whatever it had written before is dropped, what it changed is
//! not: check everything first). `ctx.keys` and `ctx.reply` are separate fields, so that a borrowed
//! value can be written out:
//!
//! ```ignore
//! pub(super) const COMMANDS: &[Command] =
//!     &[Command::new("llen", llen), Command::new("rpush", rpush), Command::new("blpop", blpop)];
//!
//! fn llen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
//!     let len = ctx.keys.list(args[1])?.map_or(0, List::len);
//!     ctx.reply.count(len);
//!     Ok(())
//! }
//!
//! fn rpush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
//!     let list = ctx.keys.list_or_new(args[1])?;     // WRONGTYPE for another type
//!     for element in &args[2..] {
//!         list.push_back(element);
//!     }
//!     let len = list.len();
//!     ctx.keys.modified(args[1]);                    // accounts, deletes if empty, wakes waiters
//!     ctx.reply.count(len);
//!     Ok(())
//! }
//!
//! fn blpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
//!     let (&timeout, keys) = args[1..].split_last().expect("the arity is checked");
//!     let deadline_ms = ctx.deadline_arg(timeout)?;
//!     for key in keys { /* serve and return if the key has elements */ }
//!     if !ctx.may_block() {
//!         ctx.reply.null_array();                    // inside MULTI: as if it had timed out
//!         return Ok(());
//!     }
//!     ctx.block_on(keys, deadline_ms, BlockKind::List);   // no reply now; run again when ready
//!     Ok(())
//! }
//! ```
//!
//! Rules: effects depend on logical values only, never on layout or encoding; random choices come
//! from `ctx.rng` over an order that does not depend on layout (`Table::random`, sorted members);
//! `ctx.keys.now_ms()` is the time. One `modified` per changed key, and `ctx.keys.notify` with the
//! event where Redis calls `notifyKeyspaceEvent` (in its order: tests compare the sequences). A command that only reads must
//! not call `*_mut`: it may run on the read path.

use crate::blocking::{BlockKind, BlockRequest};
use crate::config::EncodingLimits;
use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::num;
use crate::random::Rng;
use crate::reply::Reply;
use crate::script::Scripting;
use holdfast_proto::command::{self as table, CommandSpec, flag};
use std::sync::OnceLock;

mod bitfield;
mod bitmap;
mod collection;
mod database;
mod dump;
mod expiry;
mod geo;
mod hash;
pub(crate) mod hyperloglog;
mod keys;
mod lcs;
mod list;
mod object;
mod pubsub;
pub(crate) mod scan;
mod set;
mod sort;
mod stream;
mod stream_group;
mod stream_info;
mod stream_read;
mod string;
mod zset;
mod zset_combine;
mod zset_range;

/// What a handler returns; the error is the reply.
pub(crate) type CommandResult = Result<(), CommandError>;

type Handler = fn(&mut Ctx<'_>, &[&[u8]]) -> CommandResult;

/// One command of a family.
pub(crate) struct Command {
    /// In lower case.
    name: &'static str,
    run: Handler,
}

impl Command {
    pub(crate) const fn new(name: &'static str, run: Handler) -> Self {
        Self { name, run }
    }
}

/// What a handler works with.
pub(crate) struct Ctx<'a> {
    pub(crate) keys: Keys<'a>,
    pub(crate) reply: Reply<'a>,
    pub(crate) rng: Rng,
    pub(crate) limits: &'a EncodingLimits,
    /// Inside EXEC, where nothing blocks.
    pub(crate) in_exec: bool,
    /// The record says that memory is short: what a script may do then is up to the script.
    pub(crate) out_of_memory: bool,
    /// Set by [`Ctx::block_on`].
    pub(crate) blocked: Option<BlockRequest>,
}

impl Ctx<'_> {
    /// Whether the command may wait. If not, it answers at once as if its time were over.
    pub(crate) fn may_block(&self) -> bool {
        !self.in_exec
    }

    /// Makes the command wait until one of `keys` changes, then it is run again. The handler
    /// returns without a reply.
    pub(crate) fn block_on(&mut self, keys: &[&[u8]], deadline_ms: Option<u64>, kind: BlockKind) {
        let keys = keys.iter().map(|&key| Box::from(key)).collect();
        self.blocked = Some(BlockRequest { keys, deadline_ms, kind, command: None });
    }

    /// The timeout argument of a blocking command, in seconds, as an absolute time; 0 is never.
    pub(crate) fn deadline_arg(&self, text: &[u8]) -> Result<Option<u64>, CommandError> {
        const NOT_A_FLOAT: CommandError =
            CommandError::Text("ERR timeout is not a float or out of range");
        let seconds = num::LongDouble::parse(text).ok_or(NOT_A_FLOAT)?.to_f64();
        let millis = (seconds * 1000.0).ceil();
        if millis > i64::MAX as f64 {
            return Err(CommandError::Text("ERR timeout is out of range"));
        }
        if seconds < 0.0 {
            return Err(CommandError::Text("ERR timeout is negative"));
        }
        let deadline = self.keys.now_ms().checked_add(millis as u64);
        match deadline {
            _ if millis == 0.0 => Ok(None),
            Some(deadline) if deadline <= i64::MAX as u64 => Ok(Some(deadline)),
            _ => Err(CommandError::Text("ERR timeout is out of range")),
        }
    }
}

/// Whether `arg` is this option, whatever its case. `option` is in upper case.
pub(crate) fn is_option(arg: &[u8], option: &str) -> bool {
    arg.eq_ignore_ascii_case(option.as_bytes())
}

/// A command as dispatch knows it.
pub(crate) struct Registered {
    run: Handler,
    spec: &'static CommandSpec,
    /// Never changes data; may run on the read path.
    readonly: bool,
}

impl Registered {
    /// May not be executed while memory is short.
    pub(crate) fn needs_memory(&self, args: &[&[u8]], scripting: &Scripting) -> bool {
        let sub = args.get(1).and_then(|name| table::lookup_sub(self.spec, name));
        sub.unwrap_or(self.spec).flags.has(flag::DENYOOM)
            || scripting.needs_memory(self.spec.name, args)
    }

    /// Whether this call never changes data and may run on the read path.
    #[inline]
    pub(crate) fn is_readonly(&self, args: &[&[u8]]) -> bool {
        self.readonly || !self.spec.subcommands.is_empty() && self.is_readonly_sub(args)
    }

    fn is_readonly_sub(&self, args: &[&[u8]]) -> bool {
        let sub = args.get(1).and_then(|name| table::lookup_sub(self.spec, name));
        sub.is_none_or(|sub| !sub.is_logged())
    }

    /// Runs the command; its reply, be it an error, is written.
    pub(crate) fn run(&self, ctx: &mut Ctx<'_>, args: &[&[u8]]) {
        let result = if self.spec.arity_fits(args.len()) {
            (self.run)(ctx, args)
        } else {
            Err(CommandError::Arity(self.spec.name.to_owned()))
        };
        if let Err(error) = result {
            ctx.blocked = None;
            ctx.reply.reset();
            ctx.reply.error(&error.to_string());
        }
    }
}

/// Finds a command by its name in any case.
pub(crate) fn lookup(name: &[u8]) -> Option<&'static Registered> {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::new).find(name)
}

/// The error for a name that [`lookup`] does not know.
pub(crate) fn unknown(args: &[&[u8]]) -> CommandError {
    let excluded = table::lookup(args[0]).and_then(table::support_error);
    CommandError::Owned(
        excluded
            .unwrap_or_else(|| table::unknown_command_error(args[0], args[1..].iter().copied())),
    )
}

const FAMILIES: &[&[Command]] = &[
    string::COMMANDS,
    lcs::COMMANDS,
    expiry::COMMANDS,
    keys::COMMANDS,
    object::COMMANDS,
    pubsub::COMMANDS,
    database::COMMANDS,
    scan::COMMANDS,
    sort::COMMANDS,
    list::COMMANDS,
    hash::COMMANDS,
    set::COMMANDS,
    zset::COMMANDS,
    dump::COMMANDS,
    bitmap::COMMANDS,
    bitfield::COMMANDS,
    hyperloglog::COMMANDS,
    geo::COMMANDS,
    zset_combine::COMMANDS,
    zset_range::COMMANDS,
    stream::COMMANDS,
    stream_read::COMMANDS,
    stream_group::COMMANDS,
    stream_info::COMMANDS,
    crate::script::command::COMMANDS,
];

/// Longest name that is packed into one `u128`. The few longer ones are in a list.
const NAME_LEN_MAX: usize = 16;
/// Places of the registry, a power of two far above the number of commands.
const REGISTRY_LEN: usize = 1024;

/// An open-addressing table from packed names to commands.
struct Registry {
    places: Box<[(u128, Option<Registered>)]>,
    /// Commands whose names are too long for it.
    long: Vec<Registered>,
}

impl Registry {
    fn new() -> Self {
        let mut places = Vec::new();
        places.resize_with(REGISTRY_LEN, || (0, None));
        let mut registry = Self { places: places.into_boxed_slice(), long: Vec::new() };
        for command in FAMILIES.iter().copied().flatten() {
            registry.add(command);
        }
        registry
    }

    fn add(&mut self, command: &Command) {
        let spec =
            table::lookup(command.name.as_bytes()).expect("every family's command has a spec");
        let command = Registered { run: command.run, spec, readonly: is_readonly(spec) };
        let Some(packed) = pack(spec.name.as_bytes()) else { return self.long.push(command) };
        let mut at = place(packed);
        while self.places[at].1.is_some() {
            at = (at + 1) % REGISTRY_LEN;
        }
        self.places[at] = (packed, Some(command));
    }

    #[inline]
    fn find(&self, name: &[u8]) -> Option<&Registered> {
        let Some(packed) = pack(name) else {
            let same =
                |command: &&Registered| command.spec.name.as_bytes().eq_ignore_ascii_case(name);
            return self.long.iter().find(same);
        };
        let mut at = place(packed);
        loop {
            let (found, command) = &self.places[at];
            let command = command.as_ref()?;
            if *found == packed {
                return Some(command);
            }
            at = (at + 1) % REGISTRY_LEN;
        }
    }
}

/// Whether the command never changes data. A container is read-only if all its subcommands are.
fn is_readonly(spec: &CommandSpec) -> bool {
    !spec.is_logged() && spec.subcommands.iter().all(|sub| !sub.is_logged())
}

/// A name in lower case as a number; `None` if it is too long or empty.
#[inline]
fn pack(name: &[u8]) -> Option<u128> {
    if name.len() > NAME_LEN_MAX || name.is_empty() {
        return None;
    }
    let mut bytes = [0u8; NAME_LEN_MAX];
    bytes[..name.len()].copy_from_slice(name);
    bytes.make_ascii_lowercase();
    Some(u128::from_le_bytes(bytes))
}

#[inline]
fn place(packed: u128) -> usize {
    let folded = crate::hash::mix(
        packed as u64 ^ 0x9e37_79b9_7f4a_7c15,
        (packed >> 64) as u64 ^ 0xd1b5_4a32_d192_ed03,
    );
    folded as usize % REGISTRY_LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::command::{Group, Support};

    #[test]
    fn every_data_command_of_the_table_is_here() {
        // The proxy answers these.
        const ELSEWHERE: [&str; 2] = ["wait", "waitaof"];
        for spec in table::all() {
            let is_data = matches!(
                spec.group,
                Group::Bitmap
                    | Group::Generic
                    | Group::Geo
                    | Group::Hash
                    | Group::Hyperloglog
                    | Group::List
                    | Group::Set
                    | Group::SortedSet
                    | Group::Stream
                    | Group::String
            );
            if is_data && !ELSEWHERE.contains(&spec.name) {
                let found = lookup(spec.name.to_ascii_uppercase().as_bytes());
                let supported = spec.support == Support::Supported;
                assert_eq!(found.is_some(), supported, "{}", spec.name);
            }
        }
    }
}
