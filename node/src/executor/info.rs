//! Commands that a node answers itself, about one replica: the proxy asks every shard and merges.
//!
//! * `INFO`: a bulk string of `field:value` lines (fields in [`Executor::info`]);
//! * `SLOWLOG GET [count] | LEN | RESET`: as Redis answers, without the client's address and name,
//!   which only the proxy knows (it sees `["id", time, µs, [args], "", ""]`);
//! * `PUBSUB …`: of all workers, as far as they are linked to this node;
//! * `CLUSTER COUNTKEYSINSLOT slot`, `CLUSTER GETKEYSINSLOT slot count`: of database 0, as in a Redis
//!   cluster; keys whose time has come count until they are deleted;
//! * `MEMORY STATS`: a map (RESP2: flat array) of names and integers of this replica.
//!
//! They are sent as reads and answered by the primary.

use super::Executor;
use crate::links::{begin_answer, finish_answer};
use crate::shared::Follower;
use holdfast_proto::acl::split_caller;
use holdfast_proto::frame::push::Topic;
use holdfast_proto::frame::{AnswerStatus, ReadHeader};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::{encode, parse_array};
use smallvec::SmallVec;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

/// One of the commands above.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NodeCommand {
    Info,
    SlowlogGet(usize),
    SlowlogLen,
    SlowlogReset,
    MemoryStats,
    /// PUBSUB with its arguments.
    Pubsub(Vec<Vec<u8>>),
    /// CLUSTER COUNTKEYSINSLOT.
    CountKeysInSlot(u16),
    /// CLUSTER GETKEYSINSLOT: at most so many.
    KeysInSlot(u16, usize),
    /// A SLOWLOG subcommand or argument that is none.
    Wrong(&'static str),
}

/// SLOWLOG GET without a count.
const SLOWLOG_GET_DEFAULT: usize = 10;

impl NodeCommand {
    /// Costs a comparison of a few bytes for every other command.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        // "*1\r\n$4\r\nINFO": the name begins after the second line feed, and no node command is
        // shorter than 4 or longer than 7 bytes, so its length is one digit. The number of arguments
        // has any number of digits (PUBSUB NUMSUB).
        let name_at = body.iter().position(|&byte| byte == b'\n')? + 5;
        let name = body.get(name_at..name_at + 4)?;
        let first = name[0] | 0x20;
        if !matches!(first, b'i' | b's' | b'm' | b'p' | b'c') {
            return None;
        }
        let args = args_of(body);
        let is = |i: usize, name: &str| {
            args.get(i).is_some_and(|a| a.eq_ignore_ascii_case(name.as_bytes()))
        };
        if is(0, "info") {
            return Some(Self::Info);
        }
        if is(0, "memory") && is(1, "stats") {
            return Some(Self::MemoryStats);
        }
        if is(0, "pubsub") && args.len() > 1 {
            return Some(Self::Pubsub(args[1..].iter().map(|arg| arg.to_vec()).collect()));
        }
        if is(0, "cluster") {
            let number = |at: usize| std::str::from_utf8(args.get(at)?).ok()?.parse::<u16>().ok();
            return match args.len() {
                3 if is(1, "countkeysinslot") => number(2).map(Self::CountKeysInSlot),
                4 if is(1, "getkeysinslot") => {
                    let count = std::str::from_utf8(args[3]).ok()?.parse().ok()?;
                    number(2).map(|slot| Self::KeysInSlot(slot, count))
                }
                _ => None,
            };
        }
        if !is(0, "slowlog") {
            return None;
        }
        Some(match args.len() {
            2 if is(1, "len") => Self::SlowlogLen,
            2 if is(1, "reset") => Self::SlowlogReset,
            2 if is(1, "get") => Self::SlowlogGet(SLOWLOG_GET_DEFAULT),
            3 if is(1, "get") => match std::str::from_utf8(args[2]).map(str::parse::<i64>) {
                Ok(Ok(-1)) => Self::SlowlogGet(usize::MAX),
                Ok(Ok(count)) if count >= 0 => Self::SlowlogGet(count as usize),
                Ok(Ok(_)) => Self::Wrong("ERR count should be greater than or equal to -1"),
                _ => Self::Wrong("ERR value is not an integer or out of range"),
            },
            _ => Self::Wrong("ERR unknown subcommand or wrong number of arguments for 'slowlog'"),
        })
    }
}

/// The arguments of a RESP array, as the client sent them; none if it is not one.
pub(crate) fn args_of(body: &[u8]) -> SmallVec<[&[u8]; 8]> {
    let mut args = SmallVec::new();
    if parse_array(body, &mut args).is_err() {
        args.clear();
    }
    let (_, command) = split_caller(&args);
    let added = args.len() - command.len();
    args.drain(..added);
    args
}

impl Executor {
    pub(super) fn answer_node_command(
        &mut self,
        to: WorkerId,
        read: &ReadHeader,
        command: &NodeCommand,
    ) {
        let mut reply = Vec::new();
        match command {
            NodeCommand::Info => encode::bulk(&mut reply, self.info().as_bytes()),
            NodeCommand::MemoryStats => self.memory_stats(&mut reply),
            NodeCommand::SlowlogLen => encode::integer(&mut reply, self.slowlog.len() as i64),
            NodeCommand::SlowlogReset => {
                self.slowlog.reset();
                encode::ok(&mut reply);
            }
            NodeCommand::SlowlogGet(count) => self.slowlog_get(*count, &mut reply),
            NodeCommand::Pubsub(args) => {
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                self.pubsub(&args, &mut reply);
            }
            NodeCommand::CountKeysInSlot(slot) => {
                encode::integer(&mut reply, self.engine.count_keys_in_slot(0, *slot) as i64);
            }
            NodeCommand::KeysInSlot(slot, count) => {
                let keys = self.engine.keys_in_slot(0, *slot, *count);
                encode::array(&mut reply, keys.len());
                for key in keys {
                    encode::bulk(&mut reply, key);
                }
            }
            NodeCommand::Wrong(text) => encode::error(&mut reply, text),
        }
        if let Some(out) = self.replies.output(to) {
            let start = begin_answer(out, read.tag);
            out.extend_from_slice(&reply);
            finish_answer(out, start, AnswerStatus::Reply);
        }
    }

    fn info(&mut self) -> String {
        self.publish_figures();
        let mut text = String::new();
        let counters = &self.shared.counters;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let subscribers = &self.node.links.subscribers;
        let fields = [
            ("pubsub_channels", subscribers.names(Topic::Channel) as u64),
            ("pubsub_patterns", subscribers.names(Topic::Pattern) as u64),
            ("pubsubshard_channels", subscribers.names(Topic::ShardChannel) as u64),
            ("shard", u64::from(self.shared.shard.0)),
            ("node", self.node.node.0),
            ("raft_id", self.shared.raft_id.0),
            ("term", self.shared.term().0),
            ("applied_index", self.applied.0),
            ("checkpoint_index", load(&self.shared.checkpoint_index)),
            ("cluster_time_ms", self.engine.time_ms()),
            ("used_memory", load(&self.shared.used_memory)),
            ("keys", load(&self.shared.keys)),
            ("keyspace_hits", load(&counters.hits)),
            ("keyspace_misses", load(&counters.misses)),
            ("expired_keys", load(&counters.expired)),
            ("evicted_keys", load(&counters.evicted)),
            ("commands_written", load(&counters.writes)),
            ("commands_read", load(&counters.reads)),
            ("blocked_clients", self.engine.stats().blocked_commands),
            ("slowlog_len", self.slowlog.len() as u64),
            ("checkpoint_in_progress", u64::from(self.checkpoint.is_running())),
            ("last_checkpoint_unix_s", self.checkpoint.last_unix_s()),
            ("changes_since_checkpoint", self.checkpoint.changes()),
        ];
        for (name, value) in fields {
            let _ = writeln!(text, "{name}:{value}\r");
        }
        let role = if self.shared.is_serving() { "primary" } else { "replica" };
        let _ = writeln!(text, "role:{role}\r");
        let followers = self.shared.followers();
        let online = followers.iter().filter(|follower| follower.online).count();
        let _ = writeln!(text, "replicas_online:{online}\r");
        for (number, follower) in followers.iter().enumerate() {
            let Follower { raft_id, node, online, matched, lag } = follower;
            let state = if *online { "online" } else { "offline" };
            let (offset, lag) = (matched.0, lag.as_secs());
            let _ = writeln!(
                text,
                "replica{number}:raft_id={},node={},state={state},offset={offset},lag={lag}\r",
                raft_id.0, node.0
            );
        }
        for db in 0..self.engine.config().databases {
            let (keys, expires) = (self.engine.key_count(db), self.engine.expires_count(db));
            if keys > 0 {
                let _ = writeln!(text, "db{db}:keys={keys},expires={expires},avg_ttl=0\r");
            }
        }
        text
    }

    fn memory_stats(&mut self, reply: &mut Vec<u8>) {
        let used = self.engine.memory_used() as i64;
        let keys: u64 =
            (0..self.engine.config().databases).map(|db| self.engine.key_count(db)).sum();
        let per_key = if keys == 0 { 0 } else { used / keys as i64 };
        let fields = [
            ("total.allocated", used),
            ("keys.count", keys as i64),
            ("keys.bytes-per-key", per_key),
        ];
        encode::array(reply, 2 * fields.len());
        for (name, value) in fields {
            encode::bulk(reply, name.as_bytes());
            encode::integer(reply, value);
        }
    }

    fn slowlog_get(&self, count: usize, reply: &mut Vec<u8>) {
        let entries = self.slowlog.entries();
        encode::array(reply, entries.len().min(count));
        for entry in entries.take(count) {
            encode::array(reply, 6);
            encode::integer(reply, entry.id as i64);
            encode::integer(reply, entry.unix_s as i64);
            encode::integer(reply, entry.duration.as_micros() as i64);
            encode::array(reply, entry.args.len());
            for arg in &entry.args {
                encode::bulk(reply, arg);
            }
            encode::bulk(reply, b"");
            encode::bulk(reply, b"");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_node_commands_are_taken() {
        assert_eq!(NodeCommand::parse(b"*1\r\n$4\r\nInfo\r\n"), Some(NodeCommand::Info));
        let get = b"*3\r\n$7\r\nSLOWLOG\r\n$3\r\nget\r\n$2\r\n-1\r\n";
        assert_eq!(NodeCommand::parse(get), Some(NodeCommand::SlowlogGet(usize::MAX)));
        assert_eq!(NodeCommand::parse(b"*2\r\n$4\r\nMGET\r\n$1\r\na\r\n"), None);
        assert_eq!(NodeCommand::parse(b"*2\r\n$3\r\nGET\r\n$4\r\nINFO\r\n"), None);
        let usage = b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n$1\r\na\r\n";
        assert_eq!(NodeCommand::parse(usage), None);
        assert_eq!(NodeCommand::parse(b"*1\r\n$"), None);
        let mut many = b"*12\r\n$6\r\nPUBSUB\r\n$6\r\nNUMSUB\r\n".to_vec();
        many.extend_from_slice(&b"$1\r\nc\r\n".repeat(10));
        let Some(NodeCommand::Pubsub(args)) = NodeCommand::parse(&many) else { panic!("PUBSUB") };
        assert_eq!(args.len(), 11);
    }
}
