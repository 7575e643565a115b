//! CONFIG. Most parameters of Redis are the cluster's own business here; what client libraries and
//! tools ask for is answered, what the cluster's settings hold is shown, and harmless changes are
//! accepted. Settings of the cluster are changed by its operator.

use super::connection::{help, unknown_subcommand};
use crate::core::WorkerCore;
use bytes::{Bytes, BytesMut};
use holdfast_proto::resp::{RawRequest, encode};
use holdfast_proto::v1::PersistenceMode;

pub(super) fn config(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"get" => get(core, index, request, out),
        b"set" => set(core, request, out),
        b"resetstat" => {
            core.stats.reset();
            encode::ok(out);
        }
        b"rewrite" => encode::ok(out),
        b"help" => help(out, HELP),
        _ => unknown_subcommand("config", request, out),
    }
}

fn get(core: &WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    let found: Vec<(String, String)> = core
        .parameters()
        .into_iter()
        .filter(|(name, _)| {
            request
                .iter()
                .skip(2)
                .any(|pattern| glob(&pattern.to_ascii_lowercase(), name.as_bytes()))
        })
        .collect();
    encode::map(out, found.len(), resp3);
    for (name, value) in found {
        encode::bulk(out, name.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
}

/// Parameters that tools set on every server they start with, and that mean nothing here.
const ACCEPTED: &[&str] = &[
    "activerehashing",
    "hz",
    "dynamic-hz",
    "latency-monitor-threshold",
    "latency-tracking",
    "client-output-buffer-limit",
    "lazyfree-lazy-eviction",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del",
    "lazyfree-lazy-user-del",
    "lazyfree-lazy-user-flush",
    "loglevel",
    "tcp-keepalive",
    "save",
    "appendonly",
    "appendfsync",
    "stop-writes-on-bgsave-error",
];

/// CONFIG SET name value [name value …]
fn set(core: &mut WorkerCore, request: &RawRequest, out: &mut BytesMut) {
    if !request.len().is_multiple_of(2) {
        return encode::error(out, "ERR wrong number of arguments for 'config|set' command");
    }
    let known = core.parameters();
    for at in (2..request.len()).step_by(2) {
        let name = String::from_utf8_lossy(request.arg(at)).to_ascii_lowercase();
        let value = request.arg(at + 1);
        if ACCEPTED.contains(&name.as_str()) {
            continue;
        }
        let Some((_, present)) = known.iter().find(|(other, _)| *other == name) else {
            let text =
                format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'");
            return encode::error(out, &text);
        };
        if present.as_bytes() != value {
            let text = format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - set it for the whole cluster with `holdfast parameters set`"
            );
            return encode::error(out, &text);
        }
    }
    encode::ok(out);
}

impl WorkerCore {
    /// Every parameter that CONFIG GET knows, sorted by name.
    fn parameters(&self) -> Vec<(String, String)> {
        let persistence = self.topology.spec.as_ref().map(|spec| spec.persistence());
        let (appendonly, appendfsync, save) = match persistence {
            Some(PersistenceMode::AofAlways) => ("yes", "always", ""),
            Some(PersistenceMode::AofEverysec) => ("yes", "everysec", ""),
            Some(PersistenceMode::Rdb) => ("no", "everysec", "900 1 300 10 60 10000"),
            _ => ("no", "everysec", ""),
        };
        let own = [
            ("appendonly", appendonly.to_owned()),
            ("appendfsync", appendfsync.to_owned()),
            ("save", save.to_owned()),
            ("databases", self.databases().to_string()),
            ("maxclients", self.config.clients_max_shown.to_string()),
            ("port", self.config.plain_port.to_string()),
            ("tls-port", self.config.tls_port.to_string()),
        ];
        let mut all: std::collections::BTreeMap<String, String> = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        all.extend(own.map(|(name, value)| (name.to_owned(), value)));
        if let Some(spec) = &self.topology.spec {
            all.extend(spec.settings.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        all.into_iter().collect()
    }

    /// Tells every shard to forget its statistics.
    pub(super) fn shards_body(words: &[&[u8]]) -> Bytes {
        let mut body = BytesMut::new();
        encode::command(&mut body, words.iter().copied());
        body.freeze()
    }
}

/// What a stock Redis 7.2 answers, for parameters that clients look at.
const DEFAULTS: &[(&str, &str)] = &[
    ("activerehashing", "yes"),
    ("bind", "* -::*"),
    (
        "client-output-buffer-limit",
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    ),
    ("client-query-buffer-limit", "1073741824"),
    ("cluster-enabled", "no"),
    ("daemonize", "no"),
    ("dbfilename", "dump.rdb"),
    ("dir", "/"),
    ("hash-max-listpack-entries", "128"),
    ("hash-max-listpack-value", "64"),
    ("hz", "10"),
    ("latency-monitor-threshold", "0"),
    ("latency-tracking", "yes"),
    ("lfu-decay-time", "1"),
    ("lfu-log-factor", "10"),
    ("list-max-listpack-size", "-2"),
    ("lua-time-limit", "5000"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("maxmemory-samples", "5"),
    ("min-replicas-to-write", "0"),
    ("notify-keyspace-events", ""),
    ("proto-max-bulk-len", "536870912"),
    ("protected-mode", "no"),
    ("replica-read-only", "yes"),
    ("requirepass", ""),
    ("set-max-intset-entries", "512"),
    ("set-max-listpack-entries", "128"),
    ("set-max-listpack-value", "64"),
    ("slave-read-only", "yes"),
    ("slowlog-log-slower-than", "10000"),
    ("slowlog-max-len", "128"),
    ("stop-writes-on-bgsave-error", "yes"),
    ("stream-node-max-bytes", "4096"),
    ("stream-node-max-entries", "100"),
    ("tcp-keepalive", "60"),
    ("timeout", "0"),
    ("zset-max-listpack-entries", "128"),
    ("zset-max-listpack-value", "64"),
];

/// Redis's glob patterns: `*`, `?`, `[a-z]`, `[^a]`, backslash.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else { return text.is_empty() };
    match first {
        b'*' => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        b'?' => !text.is_empty() && glob(rest, &text[1..]),
        b'[' => {
            let Some((&c, tail)) = text.split_first() else { return false };
            let Some(end) = rest.iter().position(|&c| c == b']') else { return false };
            let (negated, set) = match &rest[..end] {
                [b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            in_set(set, c) != negated && glob(&rest[end + 1..], tail)
        }
        b'\\' if !rest.is_empty() => text.first() == Some(&rest[0]) && glob(&rest[1..], &text[1..]),
        c => text.first() == Some(&c) && glob(rest, &text[1..]),
    }
}

fn in_set(mut set: &[u8], c: u8) -> bool {
    while !set.is_empty() {
        if let [from, b'-', to, rest @ ..] = set {
            if (*from.min(to)..=*from.max(to)).contains(&c) {
                return true;
            }
            set = rest;
        } else {
            if set[0] == c {
                return true;
            }
            set = &set[1..];
        }
    }
    false
}

const HELP: &[&str] = &[
    "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "SET <directive> <value>",
    "    Set the configuration <directive> to <value>.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "REWRITE",
    "    Rewrite the configuration file.",
    "HELP",
    "    Print this help.",
];
