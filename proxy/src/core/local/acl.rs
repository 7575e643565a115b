//! The ACL family. Users live in the sentinels' metadata, so a change holds on every proxy.

use super::connection::{help, unknown_subcommand};
use super::{is_word, number};
use crate::core::proposals::Change;
use crate::core::users::DEFAULT_USER;
use crate::core::{WorkerCore, respond};
use bytes::BytesMut;
use holdfast_proto::acl::{self, Selector, merge_selectors};
use holdfast_proto::command::{self, AclCategories};
use holdfast_proto::resp::{RawRequest, encode};
use holdfast_proto::v1::UserChange;

pub(super) fn acl(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"whoami" => {
            let name = core.clients.get(index).map(|client| client.account.name.clone());
            encode::bulk(out, name.unwrap_or_default().as_bytes());
        }
        b"users" => {
            encode::array(out, core.users.iter().len());
            for account in core.users.iter() {
                encode::bulk(out, account.name.as_bytes());
            }
        }
        b"list" => {
            encode::array(out, core.users.iter().len());
            for account in core.users.iter() {
                let line = format!("user {} {}", account.name, account.user.describe());
                encode::bulk(out, line.as_bytes());
            }
        }
        b"getuser" => get_user(core, index, request.arg(2), out),
        b"setuser" => match changed_user(core, request) {
            Ok(None) => encode::ok(out),
            Ok(Some(change)) => {
                core.propose(index, request, Change::Users(vec![change]), encode::OK.to_vec());
            }
            Err(text) => encode::error(out, &text),
        },
        b"deluser" => delete_users(core, index, request, out),
        b"dryrun" => dry_run(core, request, out),
        b"cat" => categories(request, out),
        b"genpass" => generate(core, request, out),
        b"log" => log(core, index, request, out),
        b"load" | b"save" => encode::error(out, NO_FILE),
        b"help" => help(out, HELP),
        _ => unknown_subcommand("acl", request, out),
    }
}

const NO_FILE: &str = "ERR This Redis instance is not configured to use an ACL file. You may want \
                       to specify users via the ACL SETUSER command and then issue a CONFIG \
                       REWRITE (assuming you have a Redis configuration file set) in order to \
                       store users in the Redis configuration.";

fn get_user(core: &WorkerCore, index: u32, name: &[u8], out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    let account = std::str::from_utf8(name).ok().and_then(|name| core.users.get(name));
    let Some(account) = account else { return encode::null(out, resp3) };
    let user = &account.user;
    encode::map(out, 6, resp3);
    encode::bulk(out, b"flags");
    let flags = user.flags();
    encode::set(out, flags.len(), resp3);
    for flag in flags {
        encode::bulk(out, flag.as_bytes());
    }
    encode::bulk(out, b"passwords");
    encode::array(out, user.passwords().len());
    for hash in user.passwords() {
        encode::bulk(out, hash.as_bytes());
    }
    describe(user.root(), out);
    encode::bulk(out, b"selectors");
    encode::array(out, user.selectors().len());
    for selector in user.selectors() {
        encode::map(out, 3, resp3);
        describe(selector, out);
    }
}

fn describe(selector: &Selector, out: &mut BytesMut) {
    let fields = [
        ("commands", selector.describe_commands()),
        ("keys", selector.describe_keys()),
        ("channels", selector.describe_channels()),
    ];
    for (name, value) in fields {
        encode::bulk(out, name.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
}

/// ACL SETUSER name [rule …]: what is to be stored; `None` when it is so already.
fn changed_user(core: &WorkerCore, request: &RawRequest) -> Result<Option<UserChange>, String> {
    let name = String::from_utf8_lossy(request.arg(2)).into_owned();
    if name.bytes().any(|c| c.is_ascii_whitespace() || c == 0 || c == 0x0b) {
        return Err("ERR Usernames can't contain spaces or null characters".to_owned());
    }
    let words: Vec<String> =
        request.iter().skip(3).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let rules = merge_selectors(&words).map_err(|first| {
        format!("ERR Unmatched parenthesis in acl selector starting at '{first}'.")
    })?;
    let present = core.users.get(&name).map(|account| account.user.clone());
    let known = present.is_some();
    let mut user = present.unwrap_or_default();
    if !known && core.setting("acl-pubsub-default") == Some("allchannels") {
        user.apply("allchannels").expect("a new user takes any rule that exists");
    }
    let before = user.describe();
    for rule in rules {
        user.apply(&rule)
            .map_err(|error| format!("ERR Error in ACL SETUSER modifier '{rule}': {error}"))?;
    }
    let rules = user.describe();
    if known && rules == before {
        return Ok(None);
    }
    let expected = core.users.stored_rules(&name).to_owned();
    Ok(Some(UserChange { name, expected, rules }))
}

fn delete_users(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let mut changes: Vec<UserChange> = Vec::new();
    for name in request.iter().skip(2) {
        let name = String::from_utf8_lossy(name).into_owned();
        if name == DEFAULT_USER {
            return encode::error(out, "ERR The 'default' user cannot be removed");
        }
        if core.users.get(&name).is_some() && changes.iter().all(|known| known.name != name) {
            let expected = core.users.stored_rules(&name).to_owned();
            changes.push(UserChange { name, expected, rules: String::new() });
        }
    }
    if changes.is_empty() {
        return encode::integer(out, 0);
    }
    let mut answer = Vec::new();
    encode::integer(&mut answer, changes.len() as i64);
    core.propose(index, request, Change::Users(changes), answer);
}

/// ACL DRYRUN user command [arg …]
fn dry_run(core: &WorkerCore, request: &RawRequest, out: &mut BytesMut) {
    let name = String::from_utf8_lossy(request.arg(2)).into_owned();
    let Some(account) = core.users.get(&name) else {
        return encode::error(out, &format!("ERR User '{name}' not found"));
    };
    let args: Vec<&[u8]> = request.iter().skip(3).collect();
    let Ok(spec) = command::resolve(args[0], args.get(1).copied()) else {
        let command = String::from_utf8_lossy(args[0]);
        return encode::error(out, &format!("ERR Command '{command}' not found"));
    };
    if !spec.arity_fits(args.len()) {
        return encode::error(out, &command::arity_error(spec));
    }
    match account.user.check(spec, &args) {
        Ok(()) => encode::ok(out),
        Err(denied) => encode::bulk(out, denied.verbose_text(&name, spec, &args).as_bytes()),
    }
}

/// ACL CAT [category]
fn categories(request: &RawRequest, out: &mut BytesMut) {
    if request.len() == 2 {
        encode::array(out, AclCategories::NAMES.len());
        for (_, name) in AclCategories::NAMES {
            encode::bulk(out, name.trim_start_matches('@').as_bytes());
        }
        return;
    }
    let mut name = b"@".to_vec();
    name.extend_from_slice(request.arg(2));
    let Some(bit) = AclCategories::bit(&name) else {
        let name = String::from_utf8_lossy(request.arg(2));
        return encode::error(out, &format!("ERR Unknown category '{name}'"));
    };
    let names: Vec<&str> =
        acl::commands().filter(|spec| spec.categories.has(bit)).map(|spec| spec.name).collect();
    encode::array(out, names.len());
    for name in names {
        encode::bulk(out, name.as_bytes());
    }
}

fn generate(core: &mut WorkerCore, request: &RawRequest, out: &mut BytesMut) {
    const BITS_DEFAULT: usize = 256;
    const BITS_MAX: usize = 4096;
    let bits = match request.len() {
        2 => BITS_DEFAULT,
        _ => match number::<i64>(request.arg(2)) {
            None => return encode::error(out, respond::NOT_AN_INTEGER),
            Some(bits) => usize::try_from(bits).unwrap_or(0),
        },
    };
    if !(1..=BITS_MAX).contains(&bits) {
        let text = format!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a \
             positive number up to {BITS_MAX}"
        );
        return encode::error(out, &text);
    }
    encode::bulk(out, core.generate_password(bits).as_bytes());
}

/// ACL LOG [count | RESET]
fn log(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    const COUNT_DEFAULT: usize = 10;
    let mut count = COUNT_DEFAULT;
    let known = core.clients.get(index).map(|client| client.resp3);
    // Another worker's client says so at the end (`peers::in_resp3`).
    let peer = known.is_none() && request.arg(request.len() - 1) == crate::core::peers::RESP3;
    let given = request.len() - usize::from(peer);
    if given > 3 {
        return unknown_subcommand("acl", request, out);
    }
    if given == 3 {
        if is_word(request.arg(2), "reset") {
            core.refusals.entries.clear();
            return encode::ok(out);
        }
        match number::<i64>(request.arg(2)).and_then(|n| usize::try_from(n).ok()) {
            Some(given) => count = given,
            None => return encode::error(out, respond::NOT_AN_INTEGER),
        }
    }
    let resp3 = known.unwrap_or(peer);
    let entries = &core.refusals.entries;
    encode::array(out, entries.len().min(count));
    for entry in entries.iter().take(count) {
        encode::map(out, 10, resp3);
        let text = |out: &mut BytesMut, name: &str, value: &[u8]| {
            encode::bulk(out, name.as_bytes());
            encode::bulk(out, value);
        };
        let integer = |out: &mut BytesMut, name: &str, value: u64| {
            encode::bulk(out, name.as_bytes());
            encode::integer(out, value as i64);
        };
        integer(out, "count", entry.count);
        text(out, "reason", entry.reason.as_bytes());
        text(out, "context", entry.context.as_bytes());
        text(out, "object", &entry.object);
        text(out, "username", entry.user.as_bytes());
        encode::bulk(out, b"age-seconds");
        let age_ms = core.unix_us.saturating_sub(entry.created_us) / 1000;
        encode::double(out, age_ms as f64 / 1000.0, resp3);
        text(out, "client-info", entry.client.as_bytes());
        integer(out, "entry-id", entry.id);
        integer(out, "timestamp-created", entry.created_us / 1000);
        integer(out, "timestamp-last-updated", entry.updated_us / 1000);
    }
}

const HELP: &[&str] = &[
    "ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CAT [<category>]",
    "    List all commands that belong to <category>, or all command categories",
    "    when no category is specified.",
    "DELUSER <username> [<username> ...]",
    "    Delete a list of users.",
    "DRYRUN <username> <command> [<arg> ...]",
    "    Returns whether the user can execute the given command without executing the command.",
    "GETUSER <username>",
    "    Get the user's details.",
    "GENPASS [<bits>]",
    "    Generate a secure 256-bit user password. The optional `bits` argument can",
    "    be used to specify a different size.",
    "LIST",
    "    Show users details in config file format.",
    "LOAD",
    "    Reload users from the ACL file.",
    "LOG [<count> | RESET]",
    "    Show the ACL log entries.",
    "SAVE",
    "    Save the current config to the ACL file.",
    "SETUSER <username> <attribute> [<attribute> ...]",
    "    Create or modify a user with the specified attributes.",
    "USERS",
    "    List all the registered usernames.",
    "WHOAMI",
    "    Return the current connection username.",
    "HELP",
    "    Print this help.",
];
