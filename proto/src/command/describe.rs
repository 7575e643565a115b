//! The replies of COMMAND: what each subcommand says about one command.

use super::docs::Argument;
use super::spec::{Begin, CommandSpec, Find, KeySpec};
use crate::resp::encode::{array, bulk, integer, map, null_array, set, simple};

/// An element of `COMMAND` and `COMMAND INFO`; for an unknown name a null.
pub fn info(out: &mut Vec<u8>, spec: Option<&CommandSpec>, resp3: bool) {
    let Some(spec) = spec else { return null_array(out, resp3) };
    array(out, 10);
    text(out, spec.name);
    integer(out, i64::from(spec.arity));
    names(out, spec.flags.names(), resp3);
    integer(out, i64::from(spec.first_key));
    integer(out, i64::from(spec.last_key));
    integer(out, i64::from(spec.step));
    names(out, spec.categories.names(), resp3);
    set(out, spec.tips.len(), resp3);
    spec.tips.iter().for_each(|tip| text(out, tip));
    set(out, spec.key_specs.len(), resp3);
    spec.key_specs.iter().for_each(|key_spec| key_specification(out, key_spec, resp3));
    if spec.subcommands.is_empty() {
        set(out, 0, resp3);
    } else {
        array(out, spec.subcommands.len());
        spec.subcommands.iter().for_each(|sub| info(out, Some(sub), resp3));
    }
}

fn key_specification(out: &mut Vec<u8>, spec: &KeySpec, resp3: bool) {
    map(out, 3 + usize::from(spec.notes.is_some()), resp3);
    if let Some(notes) = spec.notes {
        field(out, "notes", notes);
    }
    text(out, "flags");
    names(out, spec.flags.names(), resp3);
    text(out, "begin_search");
    map(out, 2, resp3);
    match spec.begin {
        Begin::Index(index) => {
            numbers(out, "index", &[("index", i64::from(index))], resp3);
        }
        Begin::Keyword(word, from) => {
            field(out, "type", "keyword");
            text(out, "spec");
            map(out, 2, resp3);
            field(out, "keyword", word);
            text(out, "startfrom");
            integer(out, i64::from(from));
        }
        Begin::Unknown => numbers(out, "unknown", &[], resp3),
    }
    text(out, "find_keys");
    map(out, 2, resp3);
    match spec.find {
        Find::Range { last, step, limit } => {
            let (last, step, limit) = (i64::from(last), i64::from(step), i64::from(limit));
            let spec = [("lastkey", last), ("keystep", step), ("limit", limit)];
            numbers(out, "range", &spec, resp3);
        }
        Find::KeyNum { index, first, step } => {
            let (index, first, step) = (i64::from(index), i64::from(first), i64::from(step));
            let spec = [("keynumidx", index), ("firstkey", first), ("keystep", step)];
            numbers(out, "keynum", &spec, resp3);
        }
        Find::Unknown => numbers(out, "unknown", &[], resp3),
    }
}

/// The inside of a two-element map: the type, and its parameters.
fn numbers(out: &mut Vec<u8>, kind: &str, parameters: &[(&str, i64)], resp3: bool) {
    field(out, "type", kind);
    text(out, "spec");
    map(out, parameters.len(), resp3);
    for (name, number) in parameters {
        text(out, name);
        integer(out, *number);
    }
}

/// A pair of `COMMAND DOCS`: the name and its documentation.
pub fn docs(out: &mut Vec<u8>, spec: &CommandSpec, resp3: bool) {
    text(out, spec.name);
    let docs = &spec.docs;
    let fields = 3
        + usize::from(docs.complexity.is_some())
        + usize::from(!docs.flags.is_empty())
        + usize::from(docs.deprecated_since.is_some())
        + usize::from(docs.replaced_by.is_some())
        + usize::from(!docs.history.is_empty())
        + usize::from(!docs.arguments.is_empty())
        + usize::from(!spec.subcommands.is_empty());
    map(out, fields, resp3);
    field(out, "summary", docs.summary);
    field(out, "since", docs.since);
    field(out, "group", spec.group.name());
    optional_field(out, "complexity", docs.complexity);
    if !docs.flags.is_empty() {
        text(out, "doc_flags");
        names(out, docs.flags.iter().copied(), resp3);
    }
    optional_field(out, "deprecated_since", docs.deprecated_since);
    optional_field(out, "replaced_by", docs.replaced_by);
    if !docs.history.is_empty() {
        text(out, "history");
        set(out, docs.history.len(), resp3);
        for (version, change) in docs.history {
            array(out, 2);
            field(out, version, change);
        }
    }
    if !docs.arguments.is_empty() {
        text(out, "arguments");
        arguments(out, docs.arguments, resp3);
    }
    if !spec.subcommands.is_empty() {
        text(out, "subcommands");
        map(out, spec.subcommands.len(), resp3);
        spec.subcommands.iter().for_each(|sub| self::docs(out, sub, resp3));
    }
}

fn arguments(out: &mut Vec<u8>, list: &[Argument], resp3: bool) {
    array(out, list.len());
    for argument in list {
        let flags = [
            (argument.optional, "optional"),
            (argument.multiple, "multiple"),
            (argument.multiple_token, "multiple_token"),
        ];
        let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name);
        let fields = 2
            + usize::from(argument.key_spec_index.is_some())
            + usize::from(argument.token.is_some())
            + usize::from(argument.since.is_some())
            + usize::from(argument.deprecated_since.is_some())
            + usize::from(flags.clone().next().is_some())
            + usize::from(!argument.arguments.is_empty());
        map(out, fields, resp3);
        field(out, "name", argument.name);
        field(out, "type", argument.kind.name());
        if let Some(index) = argument.key_spec_index {
            text(out, "key_spec_index");
            integer(out, i64::from(index));
        }
        optional_field(out, "token", argument.token);
        optional_field(out, "since", argument.since);
        optional_field(out, "deprecated_since", argument.deprecated_since);
        if flags.clone().next().is_some() {
            text(out, "flags");
            names(out, flags, resp3);
        }
        if !argument.arguments.is_empty() {
            text(out, "arguments");
            arguments(out, argument.arguments, resp3);
        }
    }
}

fn names(out: &mut Vec<u8>, names: impl Iterator<Item = &'static str> + Clone, resp3: bool) {
    set(out, names.clone().count(), resp3);
    names.for_each(|name| simple(out, name));
}

fn text(out: &mut Vec<u8>, text: &str) {
    bulk(out, text.as_bytes());
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    text(out, name);
    text(out, value);
}

fn optional_field(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        field(out, name, value);
    }
}
