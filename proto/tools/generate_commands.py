#!/usr/bin/env python3
"""Writes proto/src/command/table/*.rs: the command table as data.

The base is what a stock Redis 7.0 says about itself (COMMAND and COMMAND DOCS); what Redis 7.2 adds or
changes is laid over it from the tables below, by hand, from the 7.2 release notes and documentation.

Usage: start `redis-server --port 7791 --save ''`, then
    proto/tools/generate_commands.py 7791
"""
import json
import pathlib
import subprocess
import sys

PORT = sys.argv[1]
HERE = pathlib.Path(__file__).resolve().parent
TABLE = HERE.parent / "src" / "command" / "table"


def ask(command):
    args = ["redis-cli", "-p", PORT, "-3", "--json"] + command
    return json.loads(subprocess.run(args, check=True, capture_output=True).stdout)


# --- What 7.2 adds. ---

def token(name, **more):
    return dict(name=name.lower(), type="pure-token", token=name, **more)


ON_OFF = [dict(name="enabled", type="oneof", arguments=[token("ON"), token("OFF")])]
ADDED = {
    "waitaof": dict(
        info=["waitaof", 4, ["blocking"], 0, 0, 0, ["@slow", "@blocking", "@connection"],
              ["request_policy:all_shards", "response_policy:agg_min"], [], []],
        docs=dict(
            summary="Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas.",
            since="7.2.0", group="generic", complexity="O(1)",
            arguments=[dict(name=n, type="integer") for n in ("numlocal", "numreplicas", "timeout")])),
    "client|no-touch": dict(
        info=["client|no-touch", 3, ["noscript", "loading", "stale"], 0, 0, 0, ["@slow", "@connection"], [], [], []],
        docs=dict(summary="Controls whether commands sent by the client affect the LRU/LFU of accessed keys.",
                  since="7.2.0", group="connection", complexity="O(1)", arguments=ON_OFF)),
    "client|setinfo": dict(
        info=["client|setinfo", 4, ["noscript", "loading", "stale"], 0, 0, 0, ["@slow", "@connection"],
              ["request_policy:all_nodes", "response_policy:all_succeeded"], [], []],
        docs=dict(summary="Sets information specific to the client or connection.",
                  since="7.2.0", group="connection", complexity="O(1)",
                  arguments=[dict(name="attr", type="oneof", arguments=[
                      dict(name="libname", type="string", token="LIB-NAME"),
                      dict(name="libver", type="string", token="LIB-VER")])])),
    "cluster|myshardid": dict(
        info=["cluster|myshardid", 2, ["stale"], 0, 0, 0, ["@slow"], ["nondeterministic_output"], [], []],
        docs=dict(summary="Returns the shard ID of a node.", since="7.2.0", group="cluster", complexity="O(1)")),
}


def with_score(docs):
    docs.setdefault("history", []).append(["7.2.0", "Added the optional `WITHSCORE` argument."])
    docs["arguments"].append(token("WITHSCORE", flags=["optional"]))


def history(*entries):
    def change(docs):
        docs.setdefault("history", []).extend([list(entry) for entry in entries])
    return change


# name -> (new arity or None, change of the docs)
CHANGED = {
    "zrank": (-3, with_score),
    "zrevrank": (-3, with_score),
    "xinfo|consumers": (None, history(["7.2.0", "Added the `inactive` field, and changed the meaning of `idle`."])),
    "xinfo|stream": (None, history(["7.2.0", "Added the `active-time` field, and changed the meaning of `seen-time`."])),
}
# WAIT may be called from scripts in 7.2.
FLAGS_REMOVED = {"wait": {"noscript"}}

# --- Which commands work here. ---

NOT_YET_GROUPS = set()
NOT_YET = set()
REFUSED = set("""
replicaof slaveof sync psync replconf module failover shutdown save bgsave bgrewriteaof migrate
restore-asking asking script|debug
cluster|addslots cluster|addslotsrange cluster|bumpepoch cluster|count-failure-reports
cluster|delslots cluster|delslotsrange cluster|failover cluster|flushslots cluster|forget
cluster|meet cluster|replicate cluster|reset cluster|saveconfig cluster|set-config-epoch
cluster|setslot
""".split())


def support(name, group):
    parent = name.split("|")[0]
    if name in REFUSED or parent in REFUSED:
        return "Refused"
    if group in NOT_YET_GROUPS or name in NOT_YET or parent in NOT_YET:
        return "NotYet"
    return "Supported"


# --- Rust. ---

def string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def option(value, render=string):
    return "None" if value is None else f"Some({render(value)})"


def bits(names, prefix=""):
    consts = [n.lstrip("@").upper().replace("-", "_") for n in names]
    return " | ".join(prefix + c for c in consts) if consts else "0"


def camel(text):
    return "".join(part.capitalize() for part in text.replace("-", "_").split("_"))


def key_spec(spec):
    begin, find = spec["begin_search"], spec["find_keys"]
    b, f = begin["spec"], find["spec"]
    rendered_begin = {
        "index": lambda: f"Begin::Index({b['index']})",
        "keyword": lambda: f"Begin::Keyword({string(b['keyword'])}, {b['startfrom']})",
        "unknown": lambda: "Begin::Unknown",
    }[begin["type"]]()
    rendered_find = {
        "range": lambda: f"Find::Range {{ last: {f['lastkey']}, step: {f['keystep']}, limit: {f['limit']} }}",
        "keynum": lambda: f"Find::KeyNum {{ index: {f['keynumidx']}, first: {f['firstkey']}, step: {f['keystep']} }}",
        "unknown": lambda: "Find::Unknown",
    }[find["type"]]()
    order = ["RO", "RW", "OW", "RM", "access", "update", "insert", "delete", "not_key", "incomplete", "variable_flags"]
    flags = bits(sorted(spec["flags"], key=order.index), "key::")
    return (f"KeySpec {{ flags: KeyFlags({flags}), begin: {rendered_begin}, find: {rendered_find}, "
            f"notes: {option(spec.get('notes'))} }}")


def argument(arg, indent):
    text = f"arg({string(arg['name'])}, {camel(arg['type'])})"
    if "key_spec_index" in arg:
        text += f".key({arg['key_spec_index']})"
    for field, method in (("token", "token"), ("since", "since"), ("deprecated_since", "deprecated")):
        if field in arg:
            text += f".{method}({string(arg[field])})"
    for flag in arg.get("flags", []):
        text += f".{flag}()"
    if "arguments" in arg:
        inner = "".join(f"\n{indent}    {argument(a, indent + '    ')}," for a in arg["arguments"])
        text += f".of(&[{inner}\n{indent}])"
    return text


def seq(items, indent):
    if not items:
        return "&[]"
    return "&[" + "".join(f"\n{indent}    {item}," for item in items) + f"\n{indent}]"


def render(info, docs, index, indent):
    name, arity, flags, first, last, step, categories, tips, specs, subs = info
    flags = [f for f in flags if f not in FLAGS_REMOVED.get(name, ())]
    arity_change, change = CHANGED.get(name, (None, None))
    arity = arity_change or arity
    if change:
        change(docs)
    inner = indent + "    "
    sub_docs = docs.get("subcommands", {})
    subs = sorted(subs, key=lambda s: s[0])
    rendered_subs = seq([render(s, sub_docs[s[0]], index, inner + "    ") for s in subs], inner)
    arguments = [argument(a, inner + "        ") for a in docs.get("arguments", [])]
    lines = [
        f"name: {string(name)}, index: {index}, arity: {arity}, group: Group::{camel(docs['group'])},",
        f"flags: CommandFlags({bits(flags)}),",
        f"categories: AclCategories({bits(categories, 'cat::')}),",
        f"first_key: {first}, last_key: {last}, step: {step},",
        f"key_specs: {seq([key_spec(s) for s in specs], inner)},",
        f"tips: &[{', '.join(string(t) for t in tips)}],",
        f"support: Support::{support(name, docs['group'])},",
        "docs: Docs {",
        f"    summary: {string(docs['summary'])},",
        f"    since: {string(docs['since'])}, complexity: {option(docs.get('complexity'))},",
    ]
    if "deprecated_since" in docs or docs.get("doc_flags"):
        lines.append(f"    deprecated_since: {option(docs.get('deprecated_since'))}, "
                     f"replaced_by: {option(docs.get('replaced_by'))},")
        lines.append(f"    flags: &[{', '.join(string(f) for f in docs.get('doc_flags', []))}],")
    else:
        lines.append("    deprecated_since: None, replaced_by: None, flags: &[],")
    entries = [f"({string(v)}, {string(t)})" for v, t in docs.get("history", [])]
    lines += [
        f"    history: {seq(entries, inner + '    ')},",
        f"    arguments: {seq(arguments, inner + '    ')},",
        "},",
        f"subcommands: {rendered_subs},",
    ]
    return "CommandSpec {\n" + "".join(f"{inner}{line}\n" for line in lines) + indent + "}"


HEAD = """//! Commands of the group `{group}`. Generated by `proto/tools/generate_commands.py`; do not edit.
use super::prelude::*;

#[rustfmt::skip]
pub(super) static COMMANDS: &[CommandSpec] = &[
"""


def main():
    infos = {info[0]: info for info in ask(["COMMAND"])}
    docs = ask(["COMMAND", "DOCS"])
    for name, added in ADDED.items():
        parent = name.split("|")[0]
        if parent == name:
            infos[name], docs[name] = added["info"], added["docs"]
        else:
            infos[parent][9].append(added["info"])
            docs[parent].setdefault("subcommands", {})[name] = added["docs"]
    by_group = {}
    for index, name in enumerate(sorted(infos)):
        by_group.setdefault(docs[name]["group"], []).append((index, name))
    TABLE.mkdir(exist_ok=True)
    for old in TABLE.glob("*.rs"):
        if old.name != "mod.rs":
            old.unlink()
    modules = []
    for group, members in sorted(by_group.items()):
        parts = [members]
        while max(len(render_all(part, infos, docs)) for part in parts) > 48_000 and len(parts[0]) > 1:
            parts = halves(parts)
        for number, part in enumerate(parts):
            module = group.replace("-", "_") + (f"_{number + 1}" if len(parts) > 1 else "")
            modules.append(module)
            (TABLE / f"{module}.rs").write_text(HEAD.format(group=group) + render_all(part, infos, docs) + "];\n")
    body = "".join(f"mod {m};\n" for m in modules)
    lists = "".join(f"    {m}::COMMANDS,\n" for m in modules)
    (TABLE / "mod.rs").write_text(f"""//! The table itself, a file per group of commands. Generated by
//! `proto/tools/generate_commands.py`; do not edit.

{body}
/// Every command, by group; [`CommandSpec::index`](super::CommandSpec::index) is the rank of the name.
pub(super) static TABLES: &[&[super::CommandSpec]] = &[
{lists}];

/// How many commands there are, subcommands not counted.
pub const COMMAND_COUNT: usize = {len(infos)};

mod prelude {{
    pub(super) use crate::command::docs::ArgumentKind::*;
    pub(super) use crate::command::docs::{{Docs, arg}};
    pub(super) use crate::command::spec::flag::*;
    pub(super) use crate::command::spec::{{
        AclCategories, Begin, CommandFlags, CommandSpec, Find, Group, KeyFlags, KeySpec, Support,
        cat, key,
    }};
}}
""")


def halves(parts):
    return [half for p in parts for half in (p[: (len(p) + 1) // 2], p[(len(p) + 1) // 2:])]


def render_all(members, infos, docs):
    fresh = json.loads(json.dumps({name: docs[name] for _, name in members}))
    return "".join(f"    {render(infos[name], fresh[name], index, '    ')},\n" for index, name in members)


main()
