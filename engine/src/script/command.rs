//! EVAL, EVALSHA, SCRIPT and FCALL, FUNCTION.

use super::cache::Sha;
use super::convert::{self, Writer};
use super::host::Failure;
use super::library::{self, Libraries};
use super::shebang::{self, Flags};
use super::vm::{Code, Vm};
use crate::command::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::int_arg;
use holdfast_proto::{glob, sha1};
use std::sync::Arc;

pub(crate) const COMMANDS: &[Command] = &[
    Command::new("eval", |ctx, args| eval(ctx, args, false)),
    Command::new("eval_ro", |ctx, args| eval(ctx, args, true)),
    Command::new("evalsha", |ctx, args| evalsha(ctx, args, false)),
    Command::new("evalsha_ro", |ctx, args| evalsha(ctx, args, true)),
    Command::new("fcall", |ctx, args| fcall(ctx, args, false)),
    Command::new("fcall_ro", |ctx, args| fcall(ctx, args, true)),
    Command::new("script", script),
    Command::new("function", function),
];

const NO_SCRIPT: CommandError = CommandError::Text("NOSCRIPT No matching script. Please use EVAL.");
const NOT_BUSY: CommandError = CommandError::Text("NOTBUSY No scripts in execution right now.");

fn eval(ctx: &mut Ctx<'_>, args: &[&[u8]], read_only: bool) -> CommandResult {
    let (keys, rest) = key_args(args)?;
    let body: Arc<[u8]> = args[1].into();
    run_script(ctx, &sha1::digest(&body), &body, keys, rest, read_only)
}

fn evalsha(ctx: &mut Ctx<'_>, args: &[&[u8]], read_only: bool) -> CommandResult {
    let sha = sha1::from_hex(args[1]).ok_or(NO_SCRIPT)?;
    let (keys, rest) = key_args(args)?;
    let body = ctx.keys.space().scripting.cache.get(&sha).ok_or(NO_SCRIPT)?;
    run_script(ctx, &sha, &body, keys, rest, read_only)
}

/// The keys of a call, and its other arguments.
type KeysAndArgs<'a, 'b> = (&'b [&'a [u8]], &'b [&'a [u8]]);

/// `numkeys key … arg …`, from `args[2]` on.
fn key_args<'a, 'b>(args: &'b [&'a [u8]]) -> Result<KeysAndArgs<'a, 'b>, CommandError> {
    let count = int_arg(args[2])?;
    if count > args.len() as i64 - 3 {
        return Err(CommandError::Text("ERR Number of keys can't be greater than number of args"));
    }
    let count = usize::try_from(count)
        .map_err(|_| CommandError::Text("ERR Number of keys can't be negative"))?;
    Ok(args[3..].split_at(count))
}

fn run_script(
    ctx: &mut Ctx<'_>,
    sha: &Sha,
    body: &[u8],
    keys: &[&[u8]],
    args: &[&[u8]],
    read_only: bool,
) -> CommandResult {
    let (flags, code) = shebang::of_script(body).map_err(error)?;
    const SOURCE: &str = "@user_script";
    let known = ctx.keys.space().scripting.cache.contains(sha);
    if !known {
        with_vm(ctx, |vm, _| vm.compile(sha, code, SOURCE).map(drop)).map_err(compile_error)?;
        if ctx.keys.clock().apply {
            ctx.keys.space().scripting.cache.insert(body, false);
        }
    }
    if read_only && flags.is_some_and(|flags| !flags.has(Flags::NO_WRITES)) {
        return Err(CommandError::Text(
            "ERR Can not execute a script with write flag using *_ro command.",
        ));
    }
    run(ctx, &sha1::to_hex(sha), Code::Script(sha, code), flags, keys, args, read_only)
}

fn compile_error(text: String) -> CommandError {
    CommandError::Owned(format!("ERR Error compiling script (new function): {text}"))
}

fn error(text: String) -> CommandError {
    CommandError::Owned(format!("ERR {text}"))
}

/// Runs code with the shard's data lent to it, and writes its result. Without `flags` it is a script
/// that says nothing about itself.
fn run(
    ctx: &mut Ctx<'_>,
    name: &str,
    code: Code<'_>,
    flags: Option<Flags>,
    keys: &[&[u8]],
    args: &[&[u8]],
    read_only: bool,
) -> CommandResult {
    let resp3 = ctx.reply.is_resp3();
    let result = with_vm(ctx, |vm, ctx| {
        let budget = ctx.keys.space().scripting.budget();
        vm.shared.host().begin(ctx, read_only, flags);
        let shared = vm.shared.clone();
        let mut out = Vec::new();
        let result = vm.run(budget, code, keys, args, |_, value| {
            let script_resp3 = shared.host().resp3;
            let mut writer = Writer { out: &mut out, resp3, script_resp3, overflow: false };
            writer.value(value, 0);
            if writer.overflow {
                out.clear();
                convert::error(&mut out, b"ERR the result of the script is too large");
            }
        });
        shared.host().end(ctx);
        result.map(|()| out)
    });
    match result {
        Ok(out) => ctx.reply.raw(&out),
        Err(failure) => ctx.reply.raw(&failure_reply(name, failure)),
    }
    Ok(())
}

fn failure_reply(name: &str, failure: Failure) -> Vec<u8> {
    let mut text = failure.text;
    if let Some((source, line)) = failure.place {
        text.extend_from_slice(format!(" script: {name}, on {source}:{line}.").as_bytes());
    }
    let mut out = Vec::new();
    convert::error(&mut out, &text);
    out
}

/// Takes the interpreter out of the state for `act`.
fn with_vm<R>(ctx: &mut Ctx<'_>, act: impl FnOnce(&mut Vm, &mut Ctx<'_>) -> R) -> R {
    let mut vm = ctx.keys.space().scripting.take_vm();
    let result = act(&mut vm, ctx);
    ctx.keys.space().scripting.vm = Some(vm);
    result
}

fn fcall(ctx: &mut Ctx<'_>, args: &[&[u8]], read_only: bool) -> CommandResult {
    let libraries = &ctx.keys.space().scripting.libraries;
    let (library, function) =
        libraries.function(args[1]).ok_or(CommandError::Text("ERR Function not found"))?;
    let (code, sha, flags) = (Arc::clone(&library.code), library.sha, function.flags);
    let found = function.name.clone();
    let count = crate::num::parse_i64(args[2])
        .ok_or(CommandError::Text("ERR Bad number of keys provided"))?;
    if count > args.len() as i64 - 3 {
        return Err(CommandError::Text("ERR Number of keys can't be greater than number of args"));
    }
    let (keys, rest) = key_args(args)?;
    if read_only && !flags.has(Flags::NO_WRITES) {
        return Err(CommandError::Text(
            "ERR Can not execute a script with write flag using *_ro command.",
        ));
    }
    let (_, body) = shebang::of_library(&code).map_err(error)?;
    let name = String::from_utf8_lossy(args[1]).into_owned();
    run(ctx, &name, Code::Function(&sha, body, &found), Some(flags), keys, rest, read_only)
}

// ---- FUNCTION ------------------------------------------------------------------------------------

fn function(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let sub = args[1].to_ascii_uppercase();
    match (&sub[..], &args[2..]) {
        (b"LOAD", [options @ .., code]) => {
            let mut replace = false;
            for option in options {
                if !is_option(option, "REPLACE") {
                    let option = String::from_utf8_lossy(option);
                    return Err(error(format!("Unknown option given: {option}")));
                }
                replace = true;
            }
            let name = ctx.keys.space().scripting.load_library(code, replace).map_err(error)?;
            ctx.reply.bulk(&name);
        }
        (b"DELETE", [name]) => {
            if !ctx.keys.space().scripting.libraries.remove(name) {
                return Err(CommandError::Text("ERR Library not found"));
            }
            ctx.reply.ok();
        }
        (b"FLUSH", mode) => {
            if !flush_mode(mode) {
                let text = "ERR FUNCTION FLUSH only supports SYNC|ASYNC option";
                return Err(CommandError::Text(text));
            }
            let scripting = &mut ctx.keys.space().scripting;
            scripting.libraries = Libraries::default();
            scripting.vm = None;
            ctx.reply.ok();
        }
        (b"LIST", options) => list_functions(ctx, options)?,
        (b"STATS", []) => function_stats(ctx),
        (b"DUMP", []) => {
            let payload = ctx.keys.space().scripting.libraries.dump();
            ctx.reply.bulk(&payload);
        }
        (b"RESTORE", [payload]) => restore_functions(ctx, payload, b"APPEND")?,
        (b"RESTORE", [payload, policy]) => restore_functions(ctx, payload, policy)?,
        (b"KILL", []) => return Err(NOT_BUSY),
        (b"HELP", []) => help(ctx, FUNCTION_HELP),
        _ => return Err(subcommand_error("function", args)),
    }
    Ok(())
}

/// FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE].
fn list_functions(ctx: &mut Ctx<'_>, mut options: &[&[u8]]) -> CommandResult {
    let (mut pattern, mut with_code) = (None, false);
    while let Some((&option, rest)) = options.split_first() {
        options = rest;
        if !with_code && is_option(option, "WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && is_option(option, "LIBRARYNAME") {
            let Some((&given, rest)) = options.split_first() else {
                return Err(CommandError::Text("ERR library name argument was not given"));
            };
            pattern = Some(given);
            options = rest;
        } else {
            let option = String::from_utf8_lossy(option);
            return Err(error(format!("Unknown argument {option}")));
        }
    }
    let libraries = &ctx.keys.space().scripting.libraries;
    // Names are compared in any case, as in Redis.
    let pattern = pattern.map(<[u8]>::to_ascii_lowercase);
    let shown: Vec<_> = libraries
        .iter()
        .filter(|(name, _)| {
            let pattern = pattern.as_deref();
            pattern.is_none_or(|pattern| glob::matches(pattern, &name.to_ascii_lowercase()))
        })
        .map(|(name, library)| (name.to_vec(), library.clone()))
        .collect();
    ctx.reply.array(shown.len());
    for (name, library) in shown {
        ctx.reply.map(if with_code { 4 } else { 3 });
        ctx.reply.bulk(b"library_name");
        ctx.reply.bulk(&name);
        ctx.reply.bulk(b"engine");
        ctx.reply.bulk(b"LUA");
        ctx.reply.bulk(b"functions");
        ctx.reply.array(library.functions.len());
        for function in &library.functions {
            ctx.reply.map(3);
            ctx.reply.bulk(b"name");
            ctx.reply.bulk(&function.name);
            ctx.reply.bulk(b"description");
            ctx.reply.bulk_or_null(function.description.as_deref());
            ctx.reply.bulk(b"flags");
            ctx.reply.set(function.flags.names().count());
            for flag in function.flags.names() {
                ctx.reply.simple(flag);
            }
        }
        if with_code {
            ctx.reply.bulk(b"library_code");
            ctx.reply.bulk(&library.code);
        }
    }
    Ok(())
}

fn function_stats(ctx: &mut Ctx<'_>) {
    let libraries = &ctx.keys.space().scripting.libraries;
    let (count, functions) = (libraries.len(), libraries.function_count());
    ctx.reply.map(2);
    ctx.reply.bulk(b"running_script");
    ctx.reply.null();
    ctx.reply.bulk(b"engines");
    ctx.reply.map(1);
    ctx.reply.bulk(b"LUA");
    ctx.reply.map(2);
    ctx.reply.bulk(b"libraries_count");
    ctx.reply.count(count);
    ctx.reply.bulk(b"functions_count");
    ctx.reply.count(functions);
}

/// FUNCTION RESTORE: all libraries of the payload or none.
fn restore_functions(ctx: &mut Ctx<'_>, payload: &[u8], policy: &[u8]) -> CommandResult {
    let (flush, replace) = match policy {
        policy if is_option(policy, "APPEND") => (false, false),
        policy if is_option(policy, "REPLACE") => (false, true),
        policy if is_option(policy, "FLUSH") => (true, false),
        _ => {
            return Err(CommandError::Text(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            ));
        }
    };
    let codes = library::parse_dump(payload).map_err(error)?;
    let scripting = &mut ctx.keys.space().scripting;
    let before = scripting.libraries.clone();
    if flush {
        scripting.libraries = Libraries::default();
    }
    for code in codes {
        if let Err(text) = scripting.load_library(&code, replace) {
            scripting.libraries = before;
            // Here Redis names the library without quotes.
            return Err(error(text.replace('\'', "")));
        }
    }
    ctx.reply.ok();
    Ok(())
}

// ---- SCRIPT --------------------------------------------------------------------------------------

fn script(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let sub = args[1].to_ascii_uppercase();
    match (&sub[..], &args[2..]) {
        (b"LOAD", [body]) => {
            let (_, code) = shebang::of_script(body).map_err(error)?;
            let sha = sha1::digest(body);
            with_vm(ctx, |vm, _| vm.compile(&sha, code, "@user_script").map(drop))
                .map_err(compile_error)?;
            ctx.keys.space().scripting.cache.insert(body, true);
            ctx.reply.bulk(sha1::to_hex(&sha).as_bytes());
        }
        (b"EXISTS", names @ [_, ..]) => {
            ctx.reply.array(names.len());
            for name in names {
                let cache = &ctx.keys.space().scripting.cache;
                let known = sha1::from_hex(name).is_some_and(|sha| cache.contains(&sha));
                ctx.reply.flag(known);
            }
        }
        // As in Valkey: the body of a script. Proxies carry scripts from shard to shard with it.
        (b"SHOW", [name]) => {
            let sha = sha1::from_hex(name).ok_or(NO_SCRIPT)?;
            let body = ctx.keys.space().scripting.cache.get(&sha).ok_or(NO_SCRIPT)?;
            ctx.reply.bulk(&body);
        }
        (b"FLUSH", mode) => {
            if !flush_mode(mode) {
                return Err(CommandError::Text("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
            }
            let scripting = &mut ctx.keys.space().scripting;
            scripting.cache.clear();
            scripting.vm = None;
            ctx.reply.ok();
        }
        (b"KILL", []) => return Err(NOT_BUSY),
        (b"HELP", []) => help(ctx, SCRIPT_HELP),
        _ => return Err(subcommand_error("script", args)),
    }
    Ok(())
}

fn flush_mode(mode: &[&[u8]]) -> bool {
    match mode {
        [] => true,
        [mode] => is_option(mode, "SYNC") || is_option(mode, "ASYNC"),
        _ => false,
    }
}

fn subcommand_error(container: &str, args: &[&[u8]]) -> CommandError {
    use holdfast_proto::command as table;
    let spec = table::lookup(container.as_bytes()).expect("the container is in the table");
    CommandError::Owned(match table::lookup_sub(spec, args[1]) {
        Some(sub) if !sub.arity_fits(args.len()) => table::arity_error(sub),
        _ => table::unknown_subcommand_error(spec, args[1]),
    })
}

fn help(ctx: &mut Ctx<'_>, lines: &[&str]) {
    ctx.reply.array(lines.len());
    for line in lines {
        ctx.reply.simple(line);
    }
}

const SCRIPT_HELP: &[&str] = &[
    "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DEBUG (YES|SYNC|NO)",
    "    Set the debug mode for subsequent scripts executed.",
    "EXISTS <sha1> [<sha1> ...]",
    "    Return information about the existence of the scripts in the script cache.",
    "FLUSH [ASYNC|SYNC]",
    "    Flush the Lua scripts cache. Very dangerous on replicas.",
    "    When called without the optional mode argument, the behavior is determined by the",
    "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
    "    * ASYNC: Asynchronously flush the scripts cache.",
    "    * SYNC: Synchronously flush the scripts cache.",
    "KILL",
    "    Kill the currently executing Lua script.",
    "LOAD <script>",
    "    Load a script into the scripts cache without executing it.",
    "HELP",
    "    Prints this help.",
];

const FUNCTION_HELP: &[&str] = &[
    "FUNCTION <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "LOAD [REPLACE] <FUNCTION CODE>",
    "    Create a new library with the given library name and code.",
    "DELETE <LIBRARY NAME>",
    "    Delete the given library.",
    "LIST [LIBRARYNAME PATTERN] [WITHCODE]",
    "    Return general information on all the libraries:",
    "    * Library name",
    "    * The engine used to run the Library",
    "    * Library description",
    "    * Functions list",
    "    * Library code (if WITHCODE is given)",
    "    It also possible to get only function that matches a pattern using LIBRARYNAME argument.",
    "STATS",
    "    Return information about the current function running:",
    "    * Function name",
    "    * Command used to run the function",
    "    * Duration in MS that the function is running",
    "    If no function is running, return nil",
    "    In addition, returns a list of available engines.",
    "KILL",
    "    Kill the current running function.",
    "FLUSH [ASYNC|SYNC]",
    "    Delete all the libraries.",
    "    When called without the optional mode argument, the behavior is determined by the",
    "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
    "    * ASYNC: Asynchronously flush the libraries.",
    "    * SYNC: Synchronously flush the libraries.",
    "DUMP",
    "    Return a serialized payload representing the current libraries, can be restored using FUNCTION RESTORE command",
    "RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
    "    Restore the libraries represented by the given payload, it is possible to give a restore policy to",
    "    control how to handle existing libraries (default APPEND):",
    "    * FLUSH: delete all existing libraries.",
    "    * APPEND: appends the restored libraries to the existing libraries. On collision, abort.",
    "    * REPLACE: appends the restored libraries to the existing libraries, On collision, replace the old",
    "      libraries with the new libraries (notice that even on this option there is a chance of failure",
    "      in case of functions name collision with another library).",
    "HELP",
    "    Prints this help.",
];
