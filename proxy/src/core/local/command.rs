//! The COMMAND family, from the table.

use super::connection::{help, unknown_subcommand};
use super::is_word;
use crate::core::{WorkerCore, respond};
use bytes::BytesMut;
use holdfast_proto::command::{self as table, AclCategories, CommandSpec, describe};
use holdfast_proto::glob;
use holdfast_proto::resp::{RawRequest, encode};

pub(super) fn command(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    if request.len() == 1 {
        return info_of_all(resp3, out);
    }
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"count" => encode::integer(out, table::all().len() as i64),
        b"info" if request.len() == 2 => info_of_all(resp3, out),
        b"info" => {
            let mut text = Vec::new();
            encode::array(&mut text, request.len() - 2);
            for name in request.iter().skip(2) {
                describe::info(&mut text, find(name), resp3);
            }
            out.extend_from_slice(&text);
        }
        b"docs" => docs(request, resp3, out),
        b"list" => list(request, out),
        b"getkeys" => get_keys(request, false, resp3, out),
        b"getkeysandflags" => get_keys(request, true, resp3, out),
        b"help" => help(out, HELP),
        _ => unknown_subcommand("command", request, out),
    }
}

/// A command or, as `container|subcommand`, a subcommand.
fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    match name.iter().position(|&c| c == b'|') {
        None => table::lookup(name),
        Some(bar) => table::lookup_sub(table::lookup(&name[..bar])?, &name[bar + 1..]),
    }
}

fn info_of_all(resp3: bool, out: &mut BytesMut) {
    let mut text = Vec::new();
    encode::array(&mut text, table::all().len());
    for spec in table::all() {
        describe::info(&mut text, Some(spec), resp3);
    }
    out.extend_from_slice(&text);
}

fn docs(request: &RawRequest, resp3: bool, out: &mut BytesMut) {
    let specs: Vec<&'static CommandSpec> = if request.len() == 2 {
        table::all().collect()
    } else {
        request.iter().skip(2).filter_map(find).collect()
    };
    let mut text = Vec::new();
    encode::map(&mut text, specs.len(), resp3);
    for spec in specs {
        describe::docs(&mut text, spec, resp3);
    }
    out.extend_from_slice(&text);
}

/// COMMAND LIST [FILTERBY (MODULE name | ACLCAT category | PATTERN pattern)]
fn list(request: &RawRequest, out: &mut BytesMut) {
    let names: Vec<&str> = if request.len() == 2 {
        table::all().map(|spec| spec.name).collect()
    } else if request.len() == 5 && is_word(request.arg(2), "filterby") {
        let value = request.arg(4);
        match request.arg(3).to_ascii_lowercase().as_slice() {
            b"module" => Vec::new(),
            b"aclcat" => {
                let mut category = b"@".to_vec();
                category.extend_from_slice(value);
                let bit = AclCategories::bit(&category);
                every_command()
                    .filter(|spec| bit.is_some_and(|bit| spec.categories.has(bit)))
                    .map(|spec| spec.name)
                    .collect()
            }
            b"pattern" => {
                let pattern = value.to_ascii_lowercase();
                every_command()
                    .map(|spec| spec.name)
                    .filter(|name| glob::matches(&pattern, name.as_bytes()))
                    .collect()
            }
            _ => return encode::error(out, respond::SYNTAX),
        }
    } else {
        return encode::error(out, respond::SYNTAX);
    };
    encode::array(out, names.len());
    for name in names {
        encode::bulk(out, name.as_bytes());
    }
}

fn every_command() -> impl Iterator<Item = &'static CommandSpec> {
    table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
}

fn get_keys(request: &RawRequest, with_flags: bool, resp3: bool, out: &mut BytesMut) {
    let args: Vec<&[u8]> = request.iter().skip(2).collect();
    let Some(spec) = args.first().and_then(|name| table::resolve(name, args.get(1).copied()).ok())
    else {
        return encode::error(out, "ERR Invalid command specified");
    };
    let keys = match table::keys(spec, &args) {
        Ok(keys) => keys,
        Err(error) => return encode::error(out, &error.to_string()),
    };
    if keys.is_empty() {
        return encode::error(out, "ERR The command has no key arguments");
    }
    encode::array(out, keys.len());
    for key in keys {
        if with_flags {
            encode::array(out, 2);
        }
        encode::bulk(out, args[key.index as usize]);
        if with_flags {
            encode::set(out, key.flags.names().count(), resp3);
            for name in key.flags.names() {
                encode::simple(out, name);
            }
        }
    }
}

/// The name of a command by its index in the table.
pub(crate) fn name_of(index: u16) -> Option<&'static str> {
    table::all().nth(index as usize).map(|spec| spec.name)
}

const HELP: &[&str] = &[
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all Redis commands.",
    "COUNT",
    "    Return the total number of commands in this Redis server.",
    "LIST",
    "    Return a list of all commands in this Redis server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple Redis commands.",
    "    If no command names are given, documentation details for all commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple Redis commands.",
    "    If no command names are given, documentation details for all commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full Redis command.",
    "GETKEYSANDFLAGS <full-command>",
    "    Return the keys and the access flags from a full Redis command.",
    "HELP",
    "    Print this help.",
];
