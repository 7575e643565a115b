//! The `redis` table, and the functions of the sandbox that are written in Rust.

use super::convert;
use super::host::{Failure, Registered};
use super::library;
use super::shebang::Flags;
use super::vm::{
    COROUTINE_COST, OWN_SOURCE, Raised, Shared, error_at_caller, raised_of, syntax_text,
};
use super::{bits, json, msgpack, strings, structs};
use holdfast_proto::command as table;
use holdfast_proto::sha1;
use mlua::{ChunkMode, Error, Function, Lua, MultiValue, Table, Value};
use smallvec::SmallVec;

/// What a redis.call costs of the budget, besides its reply.
const CALL_COST: u64 = 100;
/// Reply bytes that cost one instruction.
const REPLY_BYTES_PER_INSTRUCTION: u64 = 8;

const REDIS_VERSION: &str = "7.2.0";
const REDIS_VERSION_NUM: i64 = 0x0007_0200;

/// The low bits of the state of math.random after seeding, as in `srand48`.
const RANDOM_START: u64 = 0x330e;
/// The generator's range as Redis uses it (`REDIS_LRAND48_MAX`).
const RANDOM_MAX: u64 = i32::MAX as u64;

/// Puts the functions that the prelude asks for into `raw`.
pub(super) fn install(
    lua: &Lua,
    raw: &Table,
    numbers: &Table,
    shared: &Shared,
) -> mlua::Result<()> {
    raw.set("caught", lua.create_function(caught)?)?;
    raw.set("compile", lua.create_function(compile)?)?;
    let fuel = shared.fuel.clone();
    raw.set("charge", lua.create_function(move |_, ()| Ok(fuel.charge(COROUTINE_COST)?))?)?;
    let fuel = shared.fuel.clone();
    raw.set("stopped", lua.create_function(move |_, ()| Ok(fuel.exhausted()))?)?;
    raw.set("number_of", number_of(lua, numbers, shared)?)?;
    raw.set("random", random(lua, shared)?)?;
    raw.set("randomseed", randomseed(lua, shared)?)?;
    let fuel = shared.fuel.clone();
    let seconds = move |_: &Lua, ()| Ok(fuel.used() as f64 / 1e8);
    raw.set("clock", lua.create_function(seconds)?)?;
    raw.set("strings", strings::library(lua, shared)?)?;
    let libraries = lua.create_table()?;
    libraries.set("bit", bits::library(lua)?)?;
    libraries.set("cjson", json::library(lua, shared, &shared.json)?)?;
    libraries.set("cmsgpack", msgpack::library(lua, shared)?)?;
    libraries.set("struct", structs::library(lua, shared)?)?;
    raw.set("libraries", libraries)
}

/// The Lua value of an error that was raised in Rust; `table`: error replies stay tables.
fn caught(lua: &Lua, (error, as_table): (Value, bool)) -> mlua::Result<Value> {
    let Value::Error(error) = error else { return Ok(error) };
    match raised_of(&error) {
        Raised::Reply(text) if as_table => convert::error_table(lua, &text),
        Raised::Reply(text) | Raised::Text(text) => Ok(Value::String(lua.create_string(text)?)),
        Raised::Stopped => Ok(Value::String(lua.create_string("script stopped")?)),
    }
}

/// loadstring: text only, for the interpreter does not survive forged bytecode.
fn compile(
    lua: &Lua,
    (code, name): (mlua::String, Option<mlua::String>),
) -> mlua::Result<MultiValue> {
    let name = name.as_ref().unwrap_or(&code).as_bytes().to_vec();
    // Names are C strings.
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    let chunk = lua.load(code.as_bytes().to_vec()).set_name(name).set_mode(ChunkMode::Text);
    let mut results = MultiValue::new();
    match chunk.into_function() {
        Ok(function) => results.push_back(Value::Function(function)),
        Err(error) => {
            results.push_back(Value::Nil);
            results.push_back(Value::String(lua.create_string(syntax_text(&error))?));
        }
    }
    Ok(results)
}

/// The text of an object for tostring: a number instead of an address.
fn number_of(lua: &Lua, numbers: &Table, shared: &Shared) -> mlua::Result<Function> {
    let (numbers, shared) = (numbers.clone(), shared.clone());
    lua.create_function(move |_, object: Value| {
        let kind = object.type_name();
        if let Value::LightUserData(data) = &object
            && data.0.is_null()
        {
            return Ok("userdata: (nil)".to_owned());
        }
        let number = match numbers.raw_get::<Option<u64>>(&object)? {
            Some(number) => number,
            None => {
                let mut host = shared.host();
                host.next_number += 1;
                numbers.raw_set(&object, host.next_number)?;
                host.next_number
            }
        };
        let kind = if kind == "error" { "userdata" } else { kind };
        Ok(format!("{kind}: 0x{:012x}", number * 16))
    })
}

fn random(lua: &Lua, shared: &Shared) -> mlua::Result<Function> {
    let shared = shared.clone();
    lua.create_function(move |lua, bounds: MultiValue| {
        let drawn = {
            let mut host = shared.host();
            host.random =
                host.random.wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & 0xffff_ffff_ffff;
            (host.random >> 17) % RANDOM_MAX
        };
        let unit = drawn as f64 / RANDOM_MAX as f64;
        let bound = |position| integer_arg(lua, &bounds, position, "random");
        match bounds.len() {
            0 => Ok(unit),
            1 => {
                let upper = bound(1)?;
                if upper < 1 {
                    return Err(bad_argument(lua, 1, "random", "interval is empty"));
                }
                Ok((unit * upper as f64).floor() + 1.0)
            }
            2 => {
                let (lower, upper) = (bound(1)?, bound(2)?);
                if lower > upper {
                    return Err(bad_argument(lua, 2, "random", "interval is empty"));
                }
                Ok((unit * (upper.wrapping_sub(lower).wrapping_add(1)) as f64).floor()
                    + lower as f64)
            }
            _ => Err(error_at_caller(lua, "wrong number of arguments")),
        }
    })
}

/// The state of math.random after seeding it.
pub(super) fn random_state(seed: u32) -> u64 {
    u64::from(seed) << 16 | RANDOM_START
}

fn randomseed(lua: &Lua, shared: &Shared) -> mlua::Result<Function> {
    let shared = shared.clone();
    lua.create_function(move |lua, args: MultiValue| {
        let seed = integer_arg(lua, &args, 1, "randomseed")?;
        shared.host().random = random_state(seed as u32);
        Ok(())
    })
}

// ---- arguments -----------------------------------------------------------------------------------

/// `luaL_argerror`.
pub(super) fn bad_argument(lua: &Lua, position: usize, function: &str, problem: &str) -> Error {
    error_at_caller(lua, format!("bad argument #{position} to '{function}' ({problem})"))
}

/// `luaL_typerror`: argument `position`, from 1, should have been something else.
pub(super) fn wrong_type(
    lua: &Lua,
    args: &MultiValue,
    position: usize,
    function: &str,
    expected: &str,
) -> Error {
    let found = args.get(position - 1).map_or("no value", type_name);
    bad_argument(lua, position, function, &format!("{expected} expected, got {found}"))
}

/// The arguments as a slice can be matched.
fn items(args: &MultiValue) -> SmallVec<[&Value; 4]> {
    args.iter().collect()
}

/// What `type` answers.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "number",
        Value::LightUserData(_) | Value::Error(_) => "userdata",
        other => other.type_name(),
    }
}

/// A number, or a string that holds one.
pub(super) fn number_arg(
    lua: &Lua,
    args: &MultiValue,
    position: usize,
    function: &str,
) -> mlua::Result<f64> {
    let number = match args.get(position - 1) {
        Some(Value::Number(number)) => Some(*number),
        Some(Value::Integer(number)) => Some(*number as f64),
        Some(text @ Value::String(_)) => lua.coerce_number(text.clone())?,
        _ => None,
    };
    number.ok_or_else(|| wrong_type(lua, args, position, function, "number"))
}

/// A number cut to an integer (`luaL_checkinteger`).
pub(super) fn integer_arg(
    lua: &Lua,
    args: &MultiValue,
    position: usize,
    function: &str,
) -> mlua::Result<i64> {
    Ok(convert::truncate(number_arg(lua, args, position, function)?))
}

/// A string; numbers are converted as Lua does.
pub(super) fn string_arg(
    lua: &Lua,
    args: &MultiValue,
    position: usize,
    function: &str,
) -> mlua::Result<mlua::String> {
    let text = match args.get(position - 1) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(number @ (Value::Integer(_) | Value::Number(_))) => {
            lua.coerce_string(number.clone())?
        }
        _ => None,
    };
    text.ok_or_else(|| wrong_type(lua, args, position, function, "string"))
}

// ---- redis ---------------------------------------------------------------------------------------

/// An error of a function of the `redis` table.
fn reply_error(text: &str) -> Error {
    Raised::Reply(format!("ERR {text}").into_bytes()).into()
}

/// The `redis` table of scripts.
pub(super) fn redis_table(lua: &Lua, shared: &Shared) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    let host = shared.clone();
    redis.set("call", lua.create_function(move |lua, args| call(lua, &host, &args, true))?)?;
    let host = shared.clone();
    redis.set("pcall", lua.create_function(move |lua, args| call(lua, &host, &args, false))?)?;
    redis.set("sha1hex", lua.create_function(sha1hex)?)?;
    redis.set("error_reply", lua.create_function(|lua, args| single_field(lua, &args, "err"))?)?;
    redis.set("status_reply", lua.create_function(|lua, args| single_field(lua, &args, "ok"))?)?;
    redis.set("setresp", setresp(lua, shared)?)?;
    redis.set("set_repl", lua.create_function(set_repl)?)?;
    redis.set("replicate_commands", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    redis.set("breakpoint", lua.create_function(|_, _: MultiValue| Ok(false))?)?;
    redis.set("debug", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    let host = shared.clone();
    let check = move |_: &Lua, args: MultiValue| acl_check_cmd(&host, &args);
    redis.set("acl_check_cmd", lua.create_function(check)?)?;
    add_common(lua, &redis)?;
    for (name, value) in
        [("REPL_NONE", 0), ("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3)]
    {
        redis.set(name, value)?;
    }
    Ok(redis)
}

/// The `redis` table while a library loads.
pub(super) fn redis_table_of_load(lua: &Lua, shared: &Shared) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    let shared = shared.clone();
    let register = move |_: &Lua, args: MultiValue| register_function(&shared, &args);
    redis.set("register_function", lua.create_function(register)?)?;
    add_common(lua, &redis)?;
    // As in Redis, a name that is not there is an error.
    let missing = lua.create_function(|lua, (_, name): (Value, Value)| -> mlua::Result<()> {
        let name = lua.coerce_string(name)?.map_or_else(String::new, |name| name.to_string_lossy());
        let text = format!("Script attempted to access nonexistent global variable '{name}'");
        Err(error_at_caller(lua, text))
    })?;
    let meta = lua.create_table()?;
    meta.set("__index", missing)?;
    redis.set_metatable(Some(meta))?;
    Ok(redis)
}

/// `redis.register_function(name, callback)` or with a table of named arguments.
fn register_function(shared: &Shared, args: &MultiValue) -> mlua::Result<()> {
    let (about, callback) = match items(args)[..] {
        [Value::Table(named)] => named_registration(named)?,
        [_] => {
            return Err(reply_error(
                "calling redis.register_function with a single argument is only applicable to Lua \
                 table (representing named arguments).",
            ));
        }
        [name, callback] => {
            let Value::String(name) = name else {
                let text = "first argument to redis.register_function must be a string";
                return Err(reply_error(text));
            };
            let Value::Function(callback) = callback else {
                let text = "second argument to redis.register_function must be a function";
                return Err(reply_error(text));
            };
            let name = name.as_bytes().to_vec();
            let about = library::Function { name, flags: Flags::default(), description: None };
            (about, callback.clone())
        }
        _ => {
            let text = "wrong number of arguments to redis.register_function";
            return Err(reply_error(text));
        }
    };
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if about.name.is_empty() || !about.name.iter().all(word) {
        return Err(reply_error(
            "Library names can only contain letters, numbers, or underscores(_) and must be at \
             least one character long",
        ));
    }
    let mut host = shared.host();
    let Some(registered) = &mut host.registering else {
        let text = "redis.register_function can only be called on FUNCTION LOAD command";
        return Err(reply_error(text));
    };
    if registered.iter().any(|other| other.about.name.eq_ignore_ascii_case(&about.name)) {
        return Err(reply_error("Function already exists in the library"));
    }
    registered.push(Registered { about, callback });
    Ok(())
}

fn named_registration(named: &Table) -> mlua::Result<(library::Function, Function)> {
    let (mut name, mut callback, mut description) = (None, None, None);
    let mut flags = Flags::default();
    named.for_each(|key: Value, value: Value| {
        let key = match key {
            Value::String(key) => key,
            Value::Integer(_) | Value::Number(_) => {
                let text = "unknown argument given to redis.register_function";
                return Err(reply_error(text));
            }
            _ => {
                let text = "named argument key given to redis.register_function is not a string";
                return Err(reply_error(text));
            }
        };
        match (&*key.as_bytes(), value) {
            (b"function_name", Value::String(value)) => name = Some(value.as_bytes().to_vec()),
            (b"function_name", value @ (Value::Integer(_) | Value::Number(_))) => {
                name = Some(lua_number_text(&value).into_bytes());
            }
            (b"function_name", _) => {
                return Err(reply_error(
                    "function_name argument given to redis.register_function must be a string",
                ));
            }
            (b"description", Value::String(value)) => {
                description = Some(value.as_bytes().to_vec());
            }
            (b"description", _) => {
                return Err(reply_error(
                    "description argument given to redis.register_function must be a string",
                ));
            }
            (b"callback", Value::Function(value)) => callback = Some(value),
            (b"callback", _) => {
                return Err(reply_error(
                    "callback argument given to redis.register_function must be a function",
                ));
            }
            (b"flags", Value::Table(list)) => {
                for flag in list.sequence_values::<Value>() {
                    let flag = match flag? {
                        Value::String(flag) => Flags::named(&flag.as_bytes()),
                        _ => None,
                    };
                    flags = flags.with(flag.ok_or_else(|| reply_error("unknown flag given"))?);
                }
            }
            (b"flags", _) => {
                return Err(reply_error(
                    "flags argument to redis.register_function must be a table representing \
                     function flags",
                ));
            }
            _ => {
                let text = "unknown argument given to redis.register_function";
                return Err(reply_error(text));
            }
        }
        Ok(())
    })?;
    let name = name
        .ok_or_else(|| reply_error("redis.register_function must get a function name argument"))?;
    let callback = callback
        .ok_or_else(|| reply_error("redis.register_function must get a callback argument"))?;
    Ok((library::Function { name, flags, description }, callback))
}

/// What is there while a library loads, too.
pub(super) fn add_common(lua: &Lua, redis: &Table) -> mlua::Result<()> {
    redis.set("log", lua.create_function(log)?)?;
    for (name, value) in
        [("LOG_DEBUG", 0), ("LOG_VERBOSE", 1), ("LOG_NOTICE", 2), ("LOG_WARNING", 3)]
    {
        redis.set(name, value)?;
    }
    redis.set("REDIS_VERSION", REDIS_VERSION)?;
    redis.set("REDIS_VERSION_NUM", REDIS_VERSION_NUM)
}

/// redis.call and redis.pcall.
fn call(lua: &Lua, shared: &Shared, args: &MultiValue, raise: bool) -> mlua::Result<Value> {
    let failed = |text: Vec<u8>| {
        if raise { Err(Raised::Reply(text).into()) } else { convert::error_table(lua, &text) }
    };
    if args.is_empty() {
        let text = b"ERR Please specify at least one argument for this redis lib call";
        return failed(text.to_vec());
    }
    shared.fuel.charge(CALL_COST)?;
    let mut owned: SmallVec<[Argument<'_>; 8]> = SmallVec::new();
    for arg in args {
        let Some(argument) = Argument::of(arg) else {
            let text = b"ERR Lua redis lib command arguments must be strings or integers";
            return failed(text.to_vec());
        };
        owned.push(argument);
    }
    let slices: SmallVec<[&[u8]; 8]> = owned.iter().map(Argument::bytes).collect();
    let mut host = shared.host();
    let result = host.call(&slices);
    let reply = std::mem::take(&mut host.reply);
    drop(host);
    shared.fuel.charge(reply.len() as u64 / REPLY_BYTES_PER_INSTRUCTION)?;
    let value = match (result, reply.first()) {
        (Err(text), _) => failed(text),
        (Ok(()), Some(b'-')) if raise => {
            let end = memchr::memchr(b'\r', &reply).unwrap_or(reply.len());
            failed(reply[1..end].to_vec())
        }
        (Ok(()), _) => convert::to_lua(lua, &reply),
    };
    shared.host().reply = reply;
    value
}

/// An argument of redis.call.
enum Argument<'a> {
    Text(mlua::BorrowedBytes<'a>),
    Number(String),
}

impl<'a> Argument<'a> {
    /// Integers are written as such, other numbers with 17 digits.
    fn of(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::String(text) => Self::Text(text.as_bytes()),
            Value::Integer(number) => Self::Number(number.to_string()),
            Value::Number(number) => Self::Number(number_text(*number)),
            _ => return None,
        })
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text,
            Self::Number(text) => text.as_bytes(),
        }
    }
}

fn number_text(number: f64) -> String {
    if number == number.trunc() && number.abs() < i64::MAX as f64 / 2.0 {
        return (number as i64).to_string();
    }
    super::number::general(number, 17)
}

fn sha1hex(_: &Lua, args: MultiValue) -> mlua::Result<String> {
    let [value] = items(&args)[..] else { return Err(reply_error("wrong number of arguments")) };
    Ok(match Argument::of(value) {
        Some(Argument::Text(text)) => sha1::hex(&text),
        Some(Argument::Number(_)) => sha1::hex(lua_number_text(value).as_bytes()),
        None => sha1::hex(b""),
    })
}

/// A number as Lua makes a string of it.
fn lua_number_text(value: &Value) -> String {
    let number = match value {
        Value::Integer(number) => *number as f64,
        Value::Number(number) => *number,
        _ => 0.0,
    };
    super::number::general(number, 14)
}

/// redis.error_reply and redis.status_reply.
fn single_field(lua: &Lua, args: &MultiValue, field: &str) -> mlua::Result<Value> {
    let [Value::String(text)] = items(args)[..] else {
        return convert::error_table(lua, b"ERR wrong number or type of arguments");
    };
    let bytes = text.as_bytes();
    let shown = if field == "err" { bytes.strip_prefix(b"-").unwrap_or(&bytes) } else { &bytes };
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(field, lua.create_string(shown)?)?;
    Ok(Value::Table(table))
}

fn setresp(lua: &Lua, shared: &Shared) -> mlua::Result<Function> {
    let shared = shared.clone();
    lua.create_function(move |lua, args: MultiValue| {
        if args.len() != 1 {
            return Err(reply_error("redis.setresp() requires one argument."));
        }
        let version = match number_arg(lua, &args, 1, "setresp") {
            Ok(number) if number == 2.0 || number == 3.0 => number as u8,
            _ => return Err(reply_error("RESP version must be 2 or 3.")),
        };
        shared.host().resp3 = version == 3;
        Ok(())
    })
}

/// Nothing to choose: every replica runs the script.
fn set_repl(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    if args.len() != 1 {
        return Err(reply_error("redis.set_repl() requires two arguments."));
    }
    // What is no number is 0.
    match number_arg(lua, &args, 1, "set_repl").unwrap_or(0.0) {
        flags if (0.0..=3.0).contains(&flags) => Ok(()),
        _ => Err(reply_error(
            "Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
        )),
    }
}

/// Whether the script's user may run a command.
fn acl_check_cmd(shared: &Shared, args: &MultiValue) -> mlua::Result<bool> {
    if args.is_empty() {
        let text = "Please specify at least one argument for this redis lib call";
        return Err(reply_error(text));
    }
    let arguments: Option<Vec<_>> = args.iter().map(Argument::of).collect();
    let Some(arguments) = arguments else {
        let text = "Lua redis lib command arguments must be strings or integers";
        return Err(reply_error(text));
    };
    let slices: SmallVec<[&[u8]; 8]> = arguments.iter().map(Argument::bytes).collect();
    match table::resolve(slices[0], slices.get(1).copied()) {
        Ok(spec) => Ok(shared.host().may_run(spec, &slices)),
        Err(_) => Err(reply_error("Invalid command passed to redis.acl_check_cmd()")),
    }
}

fn log(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    if args.len() < 2 {
        return Err(reply_error("redis.log() requires two arguments or more."));
    }
    let (Value::Integer(_) | Value::Number(_)) = args[0] else {
        return Err(reply_error("First argument must be a number (log level)."));
    };
    let level = integer_arg(lua, &args, 1, "log")?;
    let mut parts = Vec::new();
    for position in 2..=args.len() {
        if let Ok(text) = string_arg(lua, &args, position, "log") {
            parts.push(text.to_string_lossy());
        }
    }
    let text = parts.join(" ");
    match level {
        0 | 1 => tracing::debug!(target: "holdfast::script", "{text}"),
        2 => tracing::info!(target: "holdfast::script", "{text}"),
        3 => tracing::warn!(target: "holdfast::script", "{text}"),
        _ => return Err(reply_error("Invalid debug level.")),
    }
    Ok(())
}

// ---- errors --------------------------------------------------------------------------------------

/// The error handler of a run: notes what was raised and where, with the host.
pub(super) fn describe(lua: &Lua, shared: &Shared) -> mlua::Result<Function> {
    let shared = shared.clone();
    lua.create_function(move |lua, error: Value| {
        let mut failure = match &error {
            Value::Error(error) => Failure::of(&raised_of(error)),
            Value::Table(table) => match table.raw_get::<Value>("err")? {
                Value::String(text) => Failure::new(text.as_bytes().to_vec()),
                _ => Failure::new("ERR unknown error"),
            },
            Value::String(text) => Failure::new([b"ERR ", &text.as_bytes()[..]].concat()),
            number @ (Value::Integer(_) | Value::Number(_)) => {
                Failure::new(format!("ERR {}", lua_number_text(number)))
            }
            Value::Nil => Failure::new("ERR nil"),
            Value::Boolean(truth) => Failure::new(format!("ERR {truth}")),
            other => Failure::new(format!("ERR {}", type_name(other))),
        };
        // The function that raised the error, or if that is not in Lua, the one that called it.
        for level in 1.. {
            let found = lua.inspect_stack(level, |debug| {
                let source = debug.source();
                let name = source.source.as_deref().unwrap_or("?").to_owned();
                (source.what == "C" || name == OWN_SOURCE, name, debug.current_line())
            });
            let Some((passed_over, name, line)) = found else { break };
            if !passed_over {
                failure.place = line.map(|line| (name, line));
                break;
            }
        }
        shared.host().failure = Some(failure);
        Ok(())
    })
}
