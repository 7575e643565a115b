//! What a running script acts upon: the shard's keys, and redis.call.

use super::library;
use super::shebang::Flags;
use super::vm::Raised;
use super::{Caller, Scope};
use crate::command::{self, Ctx};
use crate::config::EncodingLimits;
use crate::engine::OUT_OF_MEMORY;
use crate::keyspace::{Clock, Keyspace};
use crate::random::Rng;
use crate::reply::Reply;
use holdfast_proto::command::{self as table, CommandSpec, flag};
use holdfast_proto::resp::encode;
use holdfast_proto::slot::Slot;
use std::sync::Arc;

/// Why a script ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Begins with the error's code.
    pub(super) text: Vec<u8>,
    /// Source and line of the code that failed.
    pub(super) place: Option<(String, usize)>,
}

impl Failure {
    pub(super) fn new(text: impl Into<Vec<u8>>) -> Self {
        Self { text: text.into(), place: None }
    }

    pub(super) fn of(raised: &Raised) -> Self {
        match raised {
            Raised::Text(text) => Self::new([b"ERR ", &text[..]].concat()),
            Raised::Reply(text) => Self::new(text.clone()),
            Raised::Stopped => Self::new("ERR script stopped"),
        }
    }

    /// The budget is used up; `seen` knows the place.
    pub(super) fn stopped(budget: u64, seen: Option<Self>) -> Self {
        let text = format!(
            "ERR Script stopped after {budget} instructions (script-instructions-max); what it \
             wrote until then stays."
        );
        Self { text: text.into(), place: seen.and_then(|seen| seen.place) }
    }
}

/// A function that a library registered.
pub(super) struct Registered {
    pub(super) about: library::Function,
    pub(super) callback: mlua::Function,
}

/// The state of a run.
pub(super) struct Host {
    /// The shard's data, lent for the run.
    pub(super) space: Option<Keyspace>,
    pub(super) clock: Clock,
    pub(super) limits: EncodingLimits,
    pub(super) rng: Rng,
    pub(super) db: u16,
    /// What redis.setresp asked for.
    pub(super) resp3: bool,
    /// Commands that write are refused.
    pub(super) read_only: bool,
    /// Memory is short: commands that need some are refused, until the script has written. From
    /// then on it runs through, for half of it would be worse than some bytes too many.
    pub(super) out_of_memory: bool,
    pub(super) scope: Scope,
    /// Whose rights the commands need; `None` has all.
    caller: Option<Arc<Caller>>,
    /// What a library has registered so far; `None` unless one loads.
    pub(super) registering: Option<Vec<Registered>>,
    /// A read saw a key that is due: the result is void.
    pub(super) saw_due: bool,
    pub(super) failure: Option<Failure>,
    /// Of math.random: 48 bits.
    pub(super) random: u64,
    /// The reply of the last command, in RESP.
    pub(super) reply: Vec<u8>,
    /// The number that tostring gives next.
    pub(super) next_number: u64,
    /// Commands executed.
    pub(super) commands: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            space: None,
            clock: Clock { now_ms: 0, applied_ms: 0, apply: false },
            limits: EncodingLimits::REDIS,
            rng: Rng::new(0, 0, 0),
            db: 0,
            resp3: false,
            read_only: true,
            out_of_memory: false,
            scope: Scope::Everything,
            caller: None,
            registering: None,
            saw_due: false,
            failure: None,
            random: 0,
            reply: Vec::new(),
            next_number: 0,
            commands: 0,
        }
    }
}

/// The error reply that a script gets when a command is refused before it runs.
fn refused(text: &str) -> Vec<u8> {
    format!("ERR {text}").into_bytes()
}

impl Host {
    /// Makes ready for a run. `flags` are those of the script, if it declares any.
    pub(super) fn begin(&mut self, ctx: &mut Ctx<'_>, read_only: bool, flags: Option<Flags>) {
        // One that declares itself was refused as a whole, or may use memory.
        self.out_of_memory = ctx.out_of_memory && flags.is_none();
        let flags = flags.unwrap_or_default();
        self.clock = ctx.keys.clock();
        self.limits = ctx.limits.clone();
        self.rng = Rng::new(ctx.rng.next(), 0, 0);
        self.db = ctx.keys.db();
        self.resp3 = false;
        self.read_only = read_only || !self.clock.apply || flags.has(Flags::NO_WRITES);
        self.registering = None;
        self.saw_due = false;
        self.failure = None;
        self.random = super::api::random_state(ctx.rng.next() as u32);
        self.next_number = 0;
        self.commands = 0;
        let space = ctx.keys.space();
        self.scope = space.scripting.scope;
        self.caller = space.scripting.caller.take();
        self.space = Some(std::mem::replace(space, Keyspace::absent()));
    }

    /// Gives the data back.
    pub(super) fn end(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(space) = self.space.take() {
            *ctx.keys.space() = space;
        }
        if self.saw_due {
            ctx.keys.note_due();
        }
        if self.reply.capacity() > 64 * 1024 {
            self.reply = Vec::new();
        }
    }

    /// Executes a command; its reply is in `self.reply`. The error is the text of an error reply
    /// for a command that was not executed.
    pub(super) fn call(&mut self, args: &[&[u8]]) -> Result<(), Vec<u8>> {
        self.reply.clear();
        let spec = self.admit(args)?;
        self.commands += 1;
        self.out_of_memory &= !spec.is_write();
        if let Some(text) = self.call_here(spec, args) {
            return text.map_err(refused);
        }
        let Some(command) = command::lookup(args[0]) else {
            let name = spec.name.replace('|', " ").to_ascii_uppercase();
            return Err(refused(&format!("{name} is not available in scripts")));
        };
        let clock = self.clock;
        let rng = Rng::new(self.rng.next(), 0, 0);
        let Some(space) = &mut self.space else {
            return Err(refused("no command can be executed now"));
        };
        let mut ctx = Ctx {
            keys: space.keys(self.db, clock),
            reply: Reply::new(&mut self.reply, self.resp3),
            rng,
            limits: &self.limits,
            in_exec: true,
            out_of_memory: false,
            blocked: None,
        };
        command.run(&mut ctx, args);
        self.saw_due |= ctx.keys.saw_due();
        Ok(())
    }

    /// The checks of Redis's `scriptCall`, in its order.
    fn admit(&self, args: &[&[u8]]) -> Result<&'static CommandSpec, Vec<u8>> {
        let subcommand = args.get(1).copied();
        let Ok(spec) = table::resolve(args[0], subcommand) else {
            return Err(refused("Unknown Redis command called from script"));
        };
        if !spec.arity_fits(args.len()) {
            return Err(refused("Wrong number of args calling Redis command from script"));
        }
        if spec.flags.has(flag::NOSCRIPT) || self.registering.is_some() {
            return Err(refused("This Redis command is not allowed from script"));
        }
        if let Some(text) = self.caller.as_ref().and_then(|caller| caller.refuses(spec, args)) {
            return Err(text.into());
        }
        if spec.is_write() && self.read_only {
            return Err(refused("Write commands are not allowed from read-only scripts."));
        }
        if self.out_of_memory && spec.flags.has(flag::DENYOOM) {
            return Err(OUT_OF_MEMORY.into());
        }
        if let Scope::Slot(slot) = self.scope {
            let keys = table::keys(spec, args);
            let keys = keys.iter().flat_map(|keys| keys.iter());
            for position in keys {
                if Some(Slot::of_key(args[position.index as usize])) != slot {
                    return Err(refused(
                        "Script attempted to access a non local key in a cluster node",
                    ));
                }
            }
        }
        Ok(spec)
    }

    /// Whether the user for whom the script runs may run this command.
    pub(super) fn may_run(&self, spec: &CommandSpec, args: &[&[u8]]) -> bool {
        self.caller.as_ref().is_none_or(|caller| caller.user.check(spec, args).is_ok())
    }

    /// Commands that the proxy answers outside of scripts. `None`: not one of them.
    fn call_here(
        &mut self,
        spec: &'static CommandSpec,
        args: &[&[u8]],
    ) -> Option<Result<(), &'static str>> {
        let out = &mut self.reply;
        match spec.name {
            "ping" => match args {
                [_] => encode::simple(out, "PONG"),
                [_, text] => encode::bulk(out, text),
                _ => return Some(Err("wrong number of arguments for 'ping' command")),
            },
            "echo" => encode::bulk(out, args[1]),
            "time" => {
                let now_ms = self.clock.now_ms;
                encode::array(out, 2);
                encode::bulk_integer(out, (now_ms / 1000) as i64);
                encode::bulk_integer(out, (now_ms % 1000 * 1000) as i64);
            }
            "select" => return Some(self.select(args[1])),
            "wait" => encode::integer(out, 0),
            "lastsave" => encode::integer(out, (self.clock.now_ms / 1000) as i64),
            _ => return None,
        }
        Some(Ok(()))
    }

    fn select(&mut self, number: &[u8]) -> Result<(), &'static str> {
        let databases = self.space.as_ref().map_or(0, |space| space.dbs.len());
        let db = crate::num::parse_i64(number).ok_or("value is not an integer or out of range")?;
        self.db = u16::try_from(db)
            .ok()
            .filter(|db| usize::from(*db) < databases)
            .ok_or("DB index is out of range")?;
        encode::ok(&mut self.reply);
        Ok(())
    }
}
