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

pub(super) fn latency(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"latest" | b"history" => encode::array(out, 0),
        b"reset" => encode::integer(out, 0),
        b"doctor" => encode::verbatim(
            out,
            b"txt",
            b"I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this instance.\n",
            resp3,
        ),
        b"graph" => encode::error(out, "ERR No samples available for event"),
        b"histogram" => encode::map(out, 0, resp3),
        b"help" => help(
            out,
            &[
                "LATENCY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "DOCTOR",
                "    Return a human readable latency analysis report.",
                "HISTORY <event>",
                "    Return time-latency samples for the <event> class.",
                "LATEST",
                "    Return the latest latency samples for all events.",
                "RESET [<event> ...]",
                "    Reset latency data of one or more <event> classes.",
                "HELP",
                "    Print this help.",
            ],
        ),
        _ => unknown_subcommand("latency", request, out),
    }
}

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
