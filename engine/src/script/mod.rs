//! Scripting: EVAL and its kin, functions, on Lua 5.1.
//!
//! What is replicated is small: the *cache* of script bodies by their SHA-1 and the function
//! *libraries* by name ([`Scripting`]). The Lua interpreter ([`vm::Vm`]) is a tool of one replica,
//! made when first needed and thrown away when it has grown: it carries nothing from one script to the
//! next that a script could see, so that every replica computes the same from the same record.
//!
//! What keeps a script deterministic and bounded:
//! - Time, random numbers and the database are those of the record.
//! - Each run has a budget of instructions ([`vm::Fuel`]), counted by the interpreter; loops inside
//!   library functions (patterns, JSON …) are charged to the same budget. A script that has used it up
//!   is stopped with an error; what it has written stays, as in Redis.
//! - Addresses are not visible: `tostring` numbers objects in the order in which it is asked, tables
//!   with objects as keys cannot be iterated, weak tables keep what they hold, finalizers do not
//!   exist, `collectgarbage` tells nothing.
//! - A library is run anew for each FCALL: what it keeps in variables of its own does not last.
//!
//! In reading order: `command` has the commands, `cache` and `library` the replicated state, `vm` runs
//! code, `host` executes redis.call, `convert` turns replies into Lua values and back, `api` is the
//! `redis` table, `prelude.lua` the sandbox; the other files are the libraries.

mod api;
mod bits;
mod cache;
pub(crate) mod command;
mod convert;
mod host;
mod json;
mod library;
mod msgpack;
mod number;
mod pattern;
mod shebang;
mod strings;
mod structs;
mod vm;

use holdfast_proto::acl;
use holdfast_proto::command::CommandSpec;
use holdfast_proto::frame::flags;
use holdfast_proto::sha1;
use holdfast_proto::slot::Slot;
use std::sync::Arc;

pub(crate) use cache::Cache;
pub(crate) use library::Libraries;
use shebang::Flags;

/// Part of the budget that loading a library may use: it only registers functions.
const LOAD_SHARE: u64 = 10;

/// Which keys scripts may touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All: the shard owns every slot, or the proxy vouches for it.
    #[default]
    Everything,
    /// Only keys of this slot; `None` is no key at all. With several shards, a key of another slot
    /// may live elsewhere, and what a script wrote here would be lost.
    Slot(Option<Slot>),
}

impl Scope {
    /// What the flags of a record or read say.
    pub(crate) fn of_frame(frame_flags: u8, slot: Slot) -> Self {
        match (frame_flags & flags::ONE_SLOT != 0, frame_flags & flags::KEYLESS != 0) {
            (false, _) => Self::Everything,
            (true, false) => Self::Slot(Some(slot)),
            (true, true) => Self::Slot(None),
        }
    }
}

/// The flags in the first line of a script, if it has one that makes sense.
fn declared(body: &[u8]) -> Option<Flags> {
    shebang::of_script(body).ok().and_then(|(flags, _)| flags)
}

/// The user for whom a script runs.
struct Caller {
    name: String,
    permissions: Box<[u8]>,
    user: acl::User,
}

impl Caller {
    fn new(caller: acl::Caller<'_>) -> Self {
        // Rules that this build does not understand allow nothing.
        let user = std::str::from_utf8(caller.permissions)
            .ok()
            .and_then(|rules| acl::User::parse(rules).ok())
            .unwrap_or_default();
        let name = String::from_utf8_lossy(caller.name).into_owned();
        Self { name, permissions: caller.permissions.into(), user }
    }

    /// The reason why the user may not run a command, if it may not.
    fn refuses(&self, spec: &CommandSpec, args: &[&[u8]]) -> Option<String> {
        if let Err(denied) = self.user.check(spec, args) {
            let reason = denied.text(&self.name, spec);
            return Some(format!("ERR ACL failure in script: {reason}"));
        }
        self.user.check_sort(spec, args).err().map(str::to_owned)
    }
}

/// The state of scripting on a shard.
pub(crate) struct Scripting {
    pub(crate) cache: Cache,
    pub(crate) libraries: Libraries,
    /// Of the record or read that is being executed.
    pub(crate) scope: Scope,
    /// For whom the command is executed; `None` may do everything.
    caller: Option<Arc<Caller>>,
    /// The last one, who often is the next one too. Not replicated.
    last_caller: Option<Arc<Caller>>,
    /// Instructions that a script may run.
    budget: u64,
    /// Not replicated; `None` until the first script.
    vm: Option<Box<vm::Vm>>,
}

impl Scripting {
    /// `budget`: instructions that a script may run.
    pub(crate) fn new(budget: u64) -> Self {
        Self {
            cache: Cache::default(),
            libraries: Libraries::default(),
            scope: Scope::default(),
            caller: None,
            last_caller: None,
            budget,
            vm: None,
        }
    }

    /// Says for whom the next command is executed.
    #[inline]
    pub(crate) fn run_for(&mut self, caller: Option<acl::Caller<'_>>) {
        self.caller = caller.map(|caller| self.know(caller));
    }

    #[cold]
    fn know(&mut self, caller: acl::Caller<'_>) -> Arc<Caller> {
        let is_same = |known: &&Arc<Caller>| {
            *known.permissions == *caller.permissions && known.name.as_bytes() == caller.name
        };
        if let Some(known) = self.last_caller.as_ref().filter(is_same) {
            return Arc::clone(known);
        }
        let known = Arc::new(Caller::new(caller));
        self.last_caller = Some(Arc::clone(&known));
        known
    }

    fn budget(&self) -> u64 {
        self.budget
    }

    /// Does this call run a script or function that declares itself, and not as one that may run
    /// while memory is short? (A script without a first line of flags may begin: its commands are
    /// looked at one by one.)
    pub(crate) fn needs_memory(&self, command: &str, args: &[&[u8]]) -> bool {
        let Some(name) = args.get(1) else { return false };
        let flags = match command {
            "eval" => declared(name),
            "evalsha" => {
                let sha = sha1::from_hex(name);
                sha.and_then(|sha| self.cache.get(&sha)).and_then(|body| declared(&body))
            }
            "fcall" => self.libraries.function(name).map(|(_, function)| function.flags),
            _ => None,
        };
        flags.is_some_and(|flags| !flags.has(Flags::ALLOW_OOM) && !flags.has(Flags::NO_WRITES))
    }

    /// Adds a library with this text; the error is the text of the reply. Gives its name.
    pub(crate) fn load_library(&mut self, code: &[u8], replace: bool) -> Result<Vec<u8>, String> {
        let (name, body) = shebang::of_library(code)?;
        if !replace && self.libraries.get(name).is_some() {
            let name = String::from_utf8_lossy(name);
            return Err(format!("Library '{name}' already exists"));
        }
        let mut vm = self.take_vm();
        let registered = vm.register(self.budget / LOAD_SHARE, &sha1::digest(code), body);
        self.vm = Some(vm);
        self.libraries.insert(name, code, registered?, replace)?;
        Ok(name.to_vec())
    }

    /// The interpreter, a new one if the last is used up. To be put back.
    fn take_vm(&mut self) -> Box<vm::Vm> {
        match self.vm.take() {
            Some(vm) if vm.is_fit() => vm,
            _ => Box::new(vm::Vm::new().expect("a new interpreter has what the sandbox needs")),
        }
    }

    /// Approximate bytes.
    pub(crate) fn memory(&self) -> usize {
        self.cache.memory() + self.libraries.memory() + self.vm.as_ref().map_or(0, |vm| vm.memory())
    }
}
