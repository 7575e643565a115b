//! TIME, WAIT, LATENCY and other small ones.

use super::connection::{help, unknown_subcommand};
use super::number;
use crate::core::{WorkerCore, respond};
use bytes::BytesMut;
use holdfast_proto::resp::{RawRequest, encode};

pub(super) fn accept(_: &mut WorkerCore, _: u32, _: &RawRequest, out: &mut BytesMut) {
    encode::ok(out);
}

pub(super) fn time(core: &mut WorkerCore, _: u32, _: &RawRequest, out: &mut BytesMut) {
    encode::array(out, 2);
    encode::bulk(out, (core.unix_us / 1_000_000).to_string().as_bytes());
    encode::bulk(out, (core.unix_us % 1_000_000).to_string().as_bytes());
}

/// Each acknowledged write is on a majority already, so there is nothing to wait for. The number
/// of replicas that have it is at least that majority without the primary.
pub(super) fn wait(core: &mut WorkerCore, _: u32, request: &RawRequest, out: &mut BytesMut) {
    if number::<i64>(request.arg(1)).is_none() {
        return encode::error(out, respond::NOT_AN_INTEGER);
    }
    match number::<i64>(request.arg(2)) {
        None => encode::error(out, "ERR timeout is not an integer or out of range"),
        Some(timeout) if timeout < 0 => encode::error(out, "ERR timeout is negative"),
        Some(_) => encode::integer(out, core.acknowledging_replicas()),
    }
}

pub(super) fn waitaof(core: &mut WorkerCore, _: u32, request: &RawRequest, out: &mut BytesMut) {
    let numbers = [1, 2, 3].map(|at| number::<i64>(request.arg(at)));
    if numbers.contains(&None) {
        return encode::error(out, respond::NOT_AN_INTEGER);
    }
    if numbers[2].is_some_and(|timeout| timeout < 0) {
        return encode::error(out, "ERR timeout is negative");
    }
    encode::array(out, 2);
    encode::integer(out, 1);
    encode::integer(out, core.acknowledging_replicas());
}

impl WorkerCore {
    /// Replicas besides the primary that are sure to have an acknowledged write.
    pub(super) fn acknowledging_replicas(&self) -> i64 {
        let voters = self.router.shards.iter().map(|shard| shard.replicas.len()).min();
        voters.map_or(0, |voters| voters as i64 / 2)
    }
}

pub(super) fn lolwut(_: &mut WorkerCore, _: u32, _: &RawRequest, out: &mut BytesMut) {
    let text = format!(
        "Holdfast {}: what was acknowledged, stays.\nRedis ver. {}\n",
        env!("CARGO_PKG_VERSION"),
        super::connection::REDIS_VERSION
    );
    encode::bulk(out, text.as_bytes());
}

pub(super) fn monitor(core: &mut WorkerCore, index: u32, _: &RawRequest, out: &mut BytesMut) {
    core.begin_monitor(index);
    encode::ok(out);
}

/// MEMORY DOCTOR, PURGE, MALLOC-STATS.
pub(super) fn memory(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"doctor" => encode::verbatim(
            out,
            b"txt",
            b"Hi Sam, I can't find any memory issue in your instance. I can only account for what \
              occurs on this base.\n",
            resp3,
        ),
        // Nodes give memory back by themselves.
        b"purge" => encode::ok(out),
        b"malloc-stats" => encode::bulk(out, b"Stats not supported for the current allocator"),
        b"help" => help(out, MEMORY_HELP),
        _ => unknown_subcommand("memory", request, out),
    }
}

const MEMORY_HELP: &[&str] = &[
    "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Return memory problems reports.",
    "MALLOC-STATS",
    "    Return internal statistics report from the memory allocator.",
    "PURGE",
    "    Attempt to purge dirty pages for reclamation by the allocator.",
    "STATS",
    "    Return information about the memory usage of the server.",
    "USAGE <key> [SAMPLES <count>]",
    "    Return memory in bytes used by <key> and its value. Nested values are",
    "    sampled up to <count> times (default: 5, 0 means sample all).",
    "HELP",
    "    Print this help.",
];

/// May the client use DEBUG (`enable-debug-command`)?
pub(crate) fn may_debug(core: &WorkerCore, index: u32) -> bool {
    match core.setting("enable-debug-command") {
        Some("yes") => true,
        Some("local") => {
            core.clients.get(index).is_some_and(|client| client.addr.ip().is_loopback())
        }
        _ => false,
    }
}

/// DEBUG OBJECT, which the shard of the key answers: its key.
pub(crate) fn debug_object(request: &RawRequest) -> Option<&[u8]> {
    (request.len() == 3 && request.arg(1).eq_ignore_ascii_case(b"object")).then(|| request.arg(2))
}

/// What test suites use of DEBUG, when the operator allows it.
pub(super) fn debug(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    if !may_debug(core, index) {
        return encode::error(out, respond::DEBUG_NOT_ALLOWED);
    }
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"sleep" if request.len() == 3 => match number::<f64>(request.arg(2)) {
            Some(seconds) if seconds.is_finite() && seconds >= 0.0 => core.sleep(index, seconds),
            _ => encode::error(out, "ERR value is not a valid float"),
        },
        b"error" if request.len() == 3 => {
            encode::error(out, &String::from_utf8_lossy(request.arg(2)));
        }
        b"stringmatch-len" if request.len() == 4 => match number::<usize>(request.arg(2)) {
            Some(len) if len <= 1024 * 1024 => {
                let found = holdfast_proto::glob::matches(request.arg(3), &vec![b'a'; len]);
                encode::integer(out, i64::from(found));
            }
            _ => encode::error(out, respond::NOT_AN_INTEGER),
        },
        // Nothing to do here: expiry is decided by the primaries, nodes load only what they wrote,
        // and there is no replication id.
        b"set-active-expire"
        | b"reload"
        | b"loadaof"
        | b"change-repl-id"
        | b"jmap"
        | b"quicklist-packed-threshold"
        | b"set-disable-deny-scripts" => encode::ok(out),
        b"help" => help(out, DEBUG_HELP),
        _ => {
            let sub = String::from_utf8_lossy(request.arg(1));
            let text = format!(
                "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try DEBUG HELP."
            );
            encode::error(out, &text);
        }
    }
}

const DEBUG_HELP: &[&str] = &[
    "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "OBJECT <key>",
    "    Show low level info about <key> and its value.",
    "ERROR <string>",
    "    Return a Redis protocol error with <string> as message.",
    "SLEEP <seconds>",
    "    Answer this client after <seconds>; others are not delayed. Decimals allowed.",
    "STRINGMATCH-LEN <length> <pattern>",
    "    Match <pattern> against a string of <length> letters.",
    "CHANGE-REPL-ID | LOADAOF | RELOAD | SET-ACTIVE-EXPIRE <0|1>",
    "    Accepted without effect.",
    "HELP",
    "    Print this help.",
];

/// Nodes save by themselves; every acknowledged write is on a majority now.
pub(super) fn lastsave(core: &mut WorkerCore, _: u32, _: &RawRequest, out: &mut BytesMut) {
    encode::integer(out, (core.unix_us / 1_000_000) as i64);
}

pub(super) fn role(_: &mut WorkerCore, _: u32, _: &RawRequest, out: &mut BytesMut) {
    encode::array(out, 3);
    encode::bulk(out, b"master");
    encode::integer(out, 0);
    encode::array(out, 0);
}
