//! Which commands the proxy answers itself, and the table that says what happens to each.

mod acl;
mod client;
mod cluster;
mod command;
mod config;
mod connection;
mod info;
mod latency;
mod server;

pub(crate) use connection::help;
pub(crate) use server::{debug_object, may_debug};

use super::WorkerCore;
use super::pubsub::PushCommand;
use super::scatter::Spread;
use bytes::BytesMut;
use holdfast_proto::command::{self as commands, CommandSpec, Group, Support};
use holdfast_proto::resp::RawRequest;
use std::sync::LazyLock;

/// Answers a command of a client (named by its index) by appending to the buffer. Appending
/// nothing is no reply.
pub(crate) type LocalCommand = fn(&mut WorkerCore, u32, &RawRequest, &mut BytesMut);

/// What is done with a command.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// Goes to the shard of its keys.
    Data,
    /// As [`Handler::Data`], and can be split over shards.
    Spread(Spread),
    Local(LocalCommand),
    /// Goes to the shard of the slot that it names.
    Slot,
    /// Needs numbers of every shard.
    Gather(Gather),
    /// EVAL and FCALL in their forms.
    Script,
    /// SCRIPT and FUNCTION.
    ScriptCache,
    /// Subscriptions and messages.
    Push(PushCommand),
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Unsupported,
}

/// Commands that speak for the whole cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gather {
    Info,
    Slowlog,
    MemoryStats,
}

impl Handler {
    /// These end, spoil or refuse a transaction instead of becoming part of it.
    pub(crate) fn runs_inside_multi(self) -> bool {
        matches!(self, Self::Multi | Self::Exec | Self::Discard | Self::Watch)
    }
}

/// Handlers by index of the command table.
pub(crate) struct Table {
    handlers: Vec<Handler>,
}

impl Table {
    pub(crate) fn handler(&self, index: u16) -> Handler {
        self.handlers.get(index as usize).copied().unwrap_or(Handler::Unsupported)
    }

    /// What is done with a subcommand whose container goes to a shard.
    pub(crate) fn handler_of_subcommand(&self, spec: &CommandSpec) -> Handler {
        match spec.name {
            "memory|stats" => Handler::Gather(Gather::MemoryStats),
            "memory|doctor" | "memory|purge" | "memory|malloc-stats" | "memory|help" => {
                Handler::Local(server::memory)
            }
            "cluster|countkeysinslot" | "cluster|getkeysinslot" => Handler::Slot,
            _ => self.handler(spec.index),
        }
    }

    /// What is done with a command that the table says is not executed: some of them have an
    /// answer here all the same.
    pub(crate) fn handler_of_unsupported(&self, spec: &CommandSpec) -> Handler {
        match self.handler(spec.index) {
            local @ Handler::Local(_) => local,
            _ => Handler::Unsupported,
        }
    }
}

pub(crate) fn table() -> &'static Table {
    static TABLE: LazyLock<Table> =
        LazyLock::new(|| Table { handlers: commands::all().map(handler_of).collect() });
    &TABLE
}

fn handler_of(spec: &'static CommandSpec) -> Handler {
    match spec.name {
        "multi" => Handler::Multi,
        "exec" => Handler::Exec,
        "discard" => Handler::Discard,
        "watch" => Handler::Watch,
        "unwatch" => Handler::Unwatch,
        "mget" => Handler::Spread(Spread::Values),
        "mset" => Handler::Spread(Spread::Pairs),
        "del" | "unlink" | "exists" | "touch" => Handler::Spread(Spread::Count),
        "keys" => Handler::Spread(Spread::Keys),
        "dbsize" => Handler::Spread(Spread::Sum),
        "flushall" | "flushdb" | "swapdb" => Handler::Spread(Spread::All),
        "scan" => Handler::Spread(Spread::Scan),
        "randomkey" => Handler::Spread(Spread::RandomKey),
        "subscribe" | "psubscribe" | "ssubscribe" | "unsubscribe" | "punsubscribe"
        | "sunsubscribe" => Handler::Push(PushCommand::Subscription),
        "publish" => Handler::Push(PushCommand::Publish { sharded: false }),
        "spublish" => Handler::Push(PushCommand::Publish { sharded: true }),
        "pubsub" => Handler::Push(PushCommand::Introspect),
        "info" => Handler::Gather(Gather::Info),
        "slowlog" => Handler::Gather(Gather::Slowlog),
        "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro" => Handler::Script,
        "script" | "function" => Handler::ScriptCache,
        name => match local_command(name) {
            Some(run) => Handler::Local(run),
            None if spec.support != Support::Supported => Handler::Unsupported,
            None if is_data(spec) => Handler::Data,
            None => Handler::Unsupported,
        },
    }
}

fn is_data(spec: &CommandSpec) -> bool {
    spec.name == "memory"
        || matches!(
            spec.group,
            Group::Bitmap
                | Group::Generic
                | Group::Geo
                | Group::Hash
                | Group::Hyperloglog
                | Group::List
                | Group::Set
                | Group::SortedSet
                | Group::Stream
                | Group::String
        )
}

fn local_command(name: &str) -> Option<LocalCommand> {
    Some(match name {
        "ping" => connection::ping,
        "echo" => connection::echo,
        "auth" => connection::auth,
        "hello" => connection::hello,
        "reset" => connection::reset,
        "quit" => connection::quit,
        "select" => connection::select,
        "client" => client::client,
        "command" => command::command,
        "acl" => acl::acl,
        "config" => config::config,
        "time" => server::time,
        "wait" => server::wait,
        "waitaof" => server::waitaof,
        "lolwut" => server::lolwut,
        "latency" => latency::latency,
        "debug" => server::debug,
        "monitor" => server::monitor,
        "lastsave" => server::lastsave,
        "role" => server::role,
        "cluster" => cluster::cluster,
        "readonly" | "readwrite" | "asking" => server::accept,
        _ => return None,
    })
}

/// How a command is answered here, if it is.
pub(crate) fn run_of(name: &[u8]) -> Option<LocalCommand> {
    match table().handler(commands::lookup(name)?.index) {
        Handler::Local(run) => Some(run),
        _ => None,
    }
}

pub(crate) use latency::LatencyMonitor;

/// The name of a command by its index in the table.
pub(crate) use command::name_of;

/// SENTINEL is not in the table of a server; clients that look for their primary send it.
pub(crate) const SENTINEL: LocalCommand = cluster::sentinel;
/// Answers OK.
pub(crate) const ACCEPT: LocalCommand = server::accept;

/// Does an argument equal a word, in any case?
pub(crate) fn is_word(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// An argument as a decimal number.
pub(crate) fn number<T: std::str::FromStr>(arg: &[u8]) -> Option<T> {
    std::str::from_utf8(arg).ok()?.parse().ok()
}
