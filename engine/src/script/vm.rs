//! The Lua interpreter of one replica, and the bounds of what runs in it.

use super::api;
use super::cache::Sha;
use super::host::{Failure, Host, Registered};
use super::library;
use mlua::{ChunkMode, Error, Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table};
use mlua::{Value, VmState};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Instructions between two looks at the budget.
const HOOK_PERIOD: u32 = 1000;
/// What all objects of the interpreter may take, bytes. It is a backstop far above use, for it
/// is not exact: how much garbage lies about when it is reached differs from replica to replica.
pub(super) const MEMORY_MAX: usize = 512 * 1024 * 1024;
/// The interpreter is made anew when it holds more than this after a script, or so many compiled
/// scripts: collecting its garbage would take longer.
const KEPT_MEMORY_MAX: usize = 16 * 1024 * 1024;
const KEPT_SCRIPTS_MAX: usize = 1024;

/// Why code in the interpreter was stopped by code of ours. Goes through Lua as an error value.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Raised {
    /// An ordinary error: a string in Lua.
    #[error("{}", String::from_utf8_lossy(.0))]
    Text(Vec<u8>),
    /// An error reply: a table with the field `err` in Lua.
    #[error("{}", String::from_utf8_lossy(.0))]
    Reply(Vec<u8>),
    /// The budget is used up.
    #[error("script stopped")]
    Stopped,
}

impl From<Raised> for Error {
    fn from(raised: Raised) -> Self {
        Self::external(raised)
    }
}

/// The error that a Rust function had raised.
pub(super) fn raised_of(error: &Error) -> Raised {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => raised_of(cause),
        Error::ExternalError(error) => match error.downcast_ref::<Raised>() {
            Some(raised) => raised.clone(),
            None => Raised::Text(error.to_string().into_bytes()),
        },
        Error::MemoryError(_) => Raised::Text(b"not enough memory".to_vec()),
        Error::RuntimeError(text) => Raised::Text(text.clone().into_bytes()),
        other => Raised::Text(other.to_string().into_bytes()),
    }
}

/// An error of the library's caller, with the place of the call in front, as `luaL_error` does.
pub(super) fn error_at_caller(lua: &Lua, text: impl AsRef<[u8]>) -> Error {
    let mut message = where_called(lua).into_bytes();
    message.extend_from_slice(text.as_ref());
    Raised::Text(message).into()
}

/// The source of the sandbox's own code.
pub(super) const OWN_SOURCE: &str = "=holdfast";

fn where_called(lua: &Lua) -> String {
    // Wrappers of the sandbox are not what the script called.
    for level in 1.. {
        let place = lua.inspect_stack(level, |debug| {
            let source = debug.source();
            let own = source.source.as_deref() == Some(OWN_SOURCE);
            let line = debug.current_line();
            (own, line.map(|line| format!("{}:{line}: ", source.short_src.unwrap_or_default())))
        });
        match place {
            Some((true, _)) => {}
            Some((false, place)) => return place.unwrap_or_default(),
            None => break,
        }
    }
    String::new()
}

/// Instructions that the running script has left.
#[derive(Debug, Default)]
pub(super) struct Fuel {
    left: AtomicU64,
    budget: AtomicU64,
    exhausted: AtomicBool,
}

impl Fuel {
    fn refill(&self, budget: u64) {
        self.left.store(budget, Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
        self.exhausted.store(false, Ordering::Relaxed);
    }

    /// Takes `cost` instructions; an error once they are used up, and from then on.
    pub(super) fn charge(&self, cost: u64) -> Result<(), Raised> {
        let left = self.left.load(Ordering::Relaxed);
        if left < cost || self.exhausted() {
            self.exhausted.store(true, Ordering::Relaxed);
            return Err(Raised::Stopped);
        }
        self.left.store(left - cost, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// Instructions used since the script began.
    pub(super) fn used(&self) -> u64 {
        self.budget.load(Ordering::Relaxed) - self.left.load(Ordering::Relaxed)
    }
}

/// What functions of the libraries share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) host: Arc<Mutex<Host>>,
    pub(super) fuel: Arc<Fuel>,
    /// Settings of the `cjson` that every script sees.
    pub(super) json: super::json::SharedConfig,
}

impl Shared {
    pub(super) fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An interpreter with the sandbox in place.
pub(crate) struct Vm {
    lua: Lua,
    pub(super) shared: Shared,
    /// Contents of the scripts' globals.
    globals: Table,
    redis: Table,
    /// The `redis` table while a library loads.
    redis_of_load: Table,
    xpcall: Function,
    /// Error handler: notes the error and its place with the host.
    describe: Function,
    clean: Function,
    /// Binds a function to its keys and arguments.
    bind: Function,
    compiled: BTreeMap<Sha, Function>,
    /// Numbers given to objects by tostring.
    numbers: Table,
    /// Must not be used again.
    spoiled: bool,
}

/// What to run.
pub(super) enum Code<'a> {
    /// A script: its name and its code.
    Script(&'a Sha, &'a [u8]),
    /// A function: name and code of its library, and its own name.
    Function(&'a Sha, &'a [u8], &'a [u8]),
}

impl Vm {
    pub(super) fn new() -> mlua::Result<Self> {
        let libs = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libs, LuaOptions::default())?;
        lua.set_memory_limit(MEMORY_MAX)?;
        make_all_tables_strong(&lua)?;
        let shared = Shared { host: Arc::default(), fuel: Arc::default(), json: Arc::default() };
        let raw = lua.create_table()?;
        let numbers = lua.create_table()?;
        api::install(&lua, &raw, &numbers, &shared)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name(OWN_SOURCE);
        prelude.call::<()>(&raw)?;
        let env: Table = raw.get("env")?;
        lua.set_globals(env)?;
        let protect: Function = raw.get("protect")?;
        let redis = protect.call(api::redis_table(&lua, &shared)?)?;
        let redis_of_load = protect.call(api::redis_table_of_load(&lua, &shared)?)?;
        Ok(Self {
            globals: raw.get("globals")?,
            redis,
            redis_of_load,
            bind: raw.get("bind")?,
            xpcall: raw.get("xpcall")?,
            describe: api::describe(&lua, &shared)?,
            clean: raw.get("clean")?,
            compiled: BTreeMap::new(),
            numbers,
            spoiled: false,
            lua,
            shared,
        })
    }

    pub(super) fn memory(&self) -> usize {
        self.lua.used_memory()
    }

    /// Whether the next script may run in it.
    pub(super) fn is_fit(&self) -> bool {
        !self.spoiled
            && self.compiled.len() < KEPT_SCRIPTS_MAX
            && self.lua.used_memory() < KEPT_MEMORY_MAX
    }

    /// The functions that a library registers, or what is wrong with it.
    pub(super) fn register(
        &mut self,
        budget: u64,
        sha: &Sha,
        code: &[u8],
    ) -> Result<Vec<library::Function>, String> {
        self.compile(sha, code, "@user_function")
            .map_err(|text| format!("Error compiling function: {text}"))?;
        let registered = self.begin(budget).and_then(|()| self.run_library(sha, code));
        let failure = self.shared.host().failure.take();
        self.spoiled |= self.clean.call::<bool>(()).is_ok_and(|clean| !clean);
        if self.shared.fuel.exhausted() {
            self.spoiled = true;
            return Err("Error registering functions: FUNCTION LOAD timeout".to_owned());
        }
        let problem = match registered {
            Ok(Some(registered)) if registered.is_empty() => {
                return Err("No functions registered".to_owned());
            }
            Ok(Some(registered)) => {
                return Ok(registered.into_iter().map(|function| function.about).collect());
            }
            Ok(None) => failure.map_or_else(Vec::new, |failure| failure.text),
            Err(error) => Failure::of(&raised_of(&error)).text,
        };
        Err(format!("Error registering functions: {}", String::from_utf8_lossy(&problem)))
    }

    /// Runs the code of a library; `None` if it failed.
    fn run_library(&mut self, sha: &Sha, code: &[u8]) -> mlua::Result<Option<Vec<Registered>>> {
        let chunk = self.compile(sha, code, "@user_function").map_err(Error::runtime)?;
        self.globals.raw_set("redis", &self.redis_of_load)?;
        self.globals.raw_set("KEYS", Value::Nil)?;
        self.globals.raw_set("ARGV", Value::Nil)?;
        self.shared.host().registering = Some(Vec::new());
        let result = self.xpcall.call::<MultiValue>((chunk, &self.describe));
        let registered = self.shared.host().registering.take().unwrap_or_default();
        let ok = result?.pop_front().is_some_and(|ok| ok.as_boolean() == Some(true));
        Ok(ok.then_some(registered))
    }

    /// Compiles a script or library, or says what is wrong with it.
    pub(super) fn compile(
        &mut self,
        sha: &Sha,
        code: &[u8],
        name: &str,
    ) -> Result<Function, String> {
        if let Some(function) = self.compiled.get(sha) {
            return Ok(function.clone());
        }
        let chunk = self.lua.load(code).set_name(name).set_mode(ChunkMode::Text);
        let function = chunk.into_function().map_err(|error| syntax_text(&error))?;
        self.compiled.insert(*sha, function.clone());
        Ok(function)
    }

    /// Runs a script whose host is prepared; `reply` gets its result before anything else runs.
    pub(super) fn run(
        &mut self,
        budget: u64,
        code: Code<'_>,
        keys: &[&[u8]],
        args: &[&[u8]],
        reply: impl FnOnce(&Lua, &Value),
    ) -> Result<(), Failure> {
        let outcome = self.try_run(budget, code, keys, args, reply);
        let unclean = self.clean.call::<bool>(()).is_ok_and(|clean| !clean);
        if self.shared.fuel.exhausted() {
            self.spoiled = true;
            return Err(Failure::stopped(budget, self.shared.host().failure.take()));
        }
        self.spoiled |= unclean || outcome.is_err();
        let failure = self.shared.host().failure.take();
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(failure.unwrap_or_else(|| Failure::new("ERR error in error handling")))
            }
            Err(error) => Err(failure.unwrap_or_else(|| Failure::of(&raised_of(&error)))),
        }
    }

    /// Whether it ended without an error.
    fn try_run(
        &mut self,
        budget: u64,
        code: Code<'_>,
        keys: &[&[u8]],
        args: &[&[u8]],
        reply: impl FnOnce(&Lua, &Value),
    ) -> mlua::Result<bool> {
        let (keys, args) = (self.strings(keys)?, self.strings(args)?);
        self.begin(budget)?;
        let function = match code {
            Code::Script(sha, code) => {
                let function = self.compile(sha, code, "@user_script").map_err(Error::runtime)?;
                self.globals.raw_set("redis", &self.redis)?;
                self.globals.raw_set("KEYS", keys)?;
                self.globals.raw_set("ARGV", args)?;
                function
            }
            Code::Function(sha, code, name) => {
                let Some(registered) = self.run_library(sha, code)? else { return Ok(false) };
                let found = registered.into_iter().find(|function| function.about.name == name);
                let found = found.ok_or_else(|| Error::runtime("Function not found"))?;
                self.globals.raw_set("redis", &self.redis)?;
                self.bind.call((found.callback, keys, args))?
            }
        };
        let mut results: MultiValue = self.xpcall.call((function, &self.describe))?;
        let ok = results.pop_front().is_some_and(|ok| ok.as_boolean() == Some(true));
        if ok {
            reply(&self.lua, &results.pop_front().unwrap_or(Value::Nil));
        }
        if !ok {
            // Errors of memory and of error handling do not pass through the error handler.
            let mut host = self.shared.host();
            if host.failure.is_none()
                && let Some(Value::String(text)) = results.front()
            {
                host.failure = Some(Failure::of(&Raised::Text(text.as_bytes().to_vec())));
            }
        }
        Ok(ok)
    }

    fn strings(&self, items: &[&[u8]]) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(items.len(), 0)?;
        for item in items {
            table.raw_push(self.lua.create_string(item)?)?;
        }
        Ok(table)
    }

    /// Without instructions of the interpreter, which would be charged to the next script. Not by
    /// `Table::clear`: that of mlua 0.11.6 leaves a value on the interpreter's stack each time, and
    /// after 8000 scripts the next one fails, on this replica and not on one that started later.
    fn forget_numbers(&self) -> mlua::Result<()> {
        let keys: mlua::Result<Vec<Value>> =
            self.numbers.pairs::<Value, Value>().map(|pair| pair.map(|(key, _)| key)).collect();
        for key in keys? {
            self.numbers.raw_set(key, Value::Nil)?;
        }
        Ok(())
    }

    /// Fills the budget and counts from 0.
    fn begin(&self, budget: u64) -> mlua::Result<()> {
        self.forget_numbers()?;
        super::json::reset(&self.shared.json);
        let fuel = Arc::clone(&self.shared.fuel);
        fuel.refill(budget);
        let triggers = HookTriggers::new().every_nth_instruction(HOOK_PERIOD);
        self.lua.set_global_hook(triggers, move |lua, _| {
            if fuel.charge(HOOK_PERIOD.into()).is_err() {
                // From now on every instruction fails, so that no pcall goes on.
                let each = HookTriggers::new().every_nth_instruction(1);
                lua.set_global_hook(each, |_, _| Err(Raised::Stopped.into()))?;
                return Err(Raised::Stopped.into());
            }
            Ok(VmState::Continue)
        })
    }
}

/// What takes the place of the collector's `__mode`; as long as that. It differs in the bytes that
/// decide in which chain of the table of strings a string is looked for.
const NO_MODE: &[u8; 6] = b"\0mode\0";

/// Takes the meaning from the field `__mode` of metatables: what a weak table has lost is a matter of
/// when the collector ran, which differs from replica to replica. A script may set the field at any
/// time and in many ways, so it is not forbidden; weak tables keep what they hold, which they may.
///
/// The collector looks the field up by a string that it made at the start (`luaT_init`) and never
/// frees. Strings are equal in Lua if they are the same object. With other content that object is
/// nothing that a script's `__mode` could be: a search for it compares the content (and hashes it to
/// a place where the altered object does not stand), so that another object is made for it.
fn make_all_tables_strong(lua: &Lua) -> mlua::Result<()> {
    // SAFETY: the pointer is to the string's content, which the interpreter has on its heap, so it
    // may be written to, and which is as long as what is written: both have six bytes. Nobody else
    // uses the interpreter meanwhile. The string stays the collector's, and keeps its hash, so the
    // interpreter finds it in its table wherever it moves strings.
    unsafe {
        lua.exec_raw::<()>((), |state| {
            mlua::ffi::lua_pushlstring(state, c"__mode".as_ptr(), NO_MODE.len());
            let content = mlua::ffi::lua_tostring(state, -1).cast_mut().cast::<u8>();
            content.copy_from_nonoverlapping(NO_MODE.as_ptr(), NO_MODE.len());
            mlua::ffi::lua_pop(state, 1);
        })
    }
}

/// The text of an error of the compiler.
pub(super) fn syntax_text(error: &Error) -> String {
    match error {
        Error::SyntaxError { message, .. } => message.clone(),
        other => String::from_utf8_lossy(&match raised_of(other) {
            Raised::Text(text) | Raised::Reply(text) => text,
            Raised::Stopped => Vec::new(),
        })
        .into_owned(),
    }
}

/// Instructions that a coroutine may run before the budget hears of it.
pub(super) const COROUTINE_COST: u64 = HOOK_PERIOD as u64;
