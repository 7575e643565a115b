//! What there is to say about single commands: where they differ from Redis 7.2, why they are refused.
//! The page `docs/commands.md` is made of this and of the table (`proto/tests/commands_page.rs`).

/// Supported commands that behave otherwise than Redis's, sorted by name. Details and reasons are in
/// `docs/differences.md`.
pub const DIFFERENCES: &[(&str, &str)] = &[
    ("acl|load", "answers as a server without an ACL file: users are in the cluster's metadata"),
    ("acl|save", "as ACL LOAD"),
    (
        "bitfield",
        "reads through it are writes of the log, as the command may write; BITFIELD_RO is not",
    ),
    ("client|no-evict", "accepted; the proxy evicts no clients for memory"),
    ("client|tracking", "REDIRECT only to a client of the same proxy worker"),
    ("cluster|info", "the view of one node that owns every slot: the proxy"),
    ("cluster|links", "empty: the proxy has no cluster bus"),
    ("cluster|nodes", "the view of one node that owns every slot: the proxy"),
    ("cluster|shards", "the view of one node that owns every slot: the proxy"),
    ("cluster|slots", "the view of one node that owns every slot: the proxy"),
    ("config|get", "parameters that mean something here"),
    (
        "config|rewrite",
        "does nothing: CONFIG SET has stored the parameter in the cluster's metadata",
    ),
    ("config|set", "parameters that mean something here; stored in the cluster's metadata"),
    ("debug", "what test suites use, if the operator allows it; SLEEP delays its own client only"),
    ("eval", SCRIPTS),
    ("eval_ro", SCRIPTS),
    ("evalsha", SCRIPTS),
    ("evalsha_ro", SCRIPTS),
    ("exec", "after FLUSHALL, FLUSHDB or SWAPDB fails if anything was watched"),
    ("fcall", SCRIPTS),
    ("fcall_ro", SCRIPTS),
    ("function|kill", "`NOTBUSY`: a script that runs too long is stopped by itself"),
    (
        "georadius",
        "stored distances may differ in the 16th digit: sines are the same on every machine",
    ),
    ("georadiusbymember", "as GEORADIUS"),
    ("geosearchstore", "as GEORADIUS"),
    ("hrandfield", "at most 16,777,216 picks with repeats"),
    ("info", "one server: the cluster as the proxy sees it"),
    ("keys", "over all shards, in any order"),
    ("lastsave", "the time of the shards' last checkpoints"),
    ("latency", "measured at the proxy; the events are `command` and `fast-command`"),
    ("memory|usage", "bytes of this engine's layout"),
    ("monitor", "the commands of one proxy, the one that answers"),
    ("move", "within a shard; CROSSSLOT when a co-location rule puts a database elsewhere"),
    (
        "mset",
        "over several shards: atomic on each shard only, unless `strict-multi-key` refuses it",
    ),
    ("object|encoding", "of strings: follows from the content"),
    ("object|freq", "of the primary; begins anew with a failover"),
    ("object|idletime", "of the primary; begins anew with a failover"),
    ("object|refcount", "1: values are not shared"),
    ("pfadd", "same bytes as Redis, except the cached cardinality"),
    ("pfcount", "does not write the computed cardinality into the value; remembers it beside"),
    ("pfselftest", "tests this implementation"),
    ("publish", "inside MULTI and scripts answers 0"),
    ("role", "the proxy's view: a master"),
    ("scan", "over all shards; cursors are the proxy's"),
    ("script|kill", "`NOTBUSY`: a script that runs too long is stopped by itself"),
    ("sort", "elements of equal weight are in order of their bytes"),
    ("sort_ro", "as SORT"),
    ("spublish", "inside MULTI and scripts answers 0"),
    ("srandmember", "at most 16,777,216 picks with repeats"),
    ("swapdb", "clients woken by it are served in the order of their keys"),
    ("wait", "every acknowledged write is on a majority already: answers at once"),
    ("waitaof", "as WAIT"),
    ("xinfo|stream", "`radix-tree-nodes` follows from `radix-tree-keys`"),
    ("zrandmember", "at most 16,777,216 picks with repeats"),
];

/// Why commands are refused, sorted by name. A container's reason counts for its subcommands.
pub const REFUSALS: &[(&str, &str)] = &[
    ("asking", "slots move behind the proxy; clients are never redirected"),
    ("bgrewriteaof", "the log is cut after checkpoints, by itself"),
    ("bgsave", "checkpoints are taken by schedule and by the operator"),
    ("cluster|addslots", TOPOLOGY),
    ("cluster|addslotsrange", TOPOLOGY),
    ("cluster|bumpepoch", TOPOLOGY),
    ("cluster|count-failure-reports", TOPOLOGY),
    ("cluster|delslots", TOPOLOGY),
    ("cluster|delslotsrange", TOPOLOGY),
    ("cluster|failover", TOPOLOGY),
    ("cluster|flushslots", TOPOLOGY),
    ("cluster|forget", TOPOLOGY),
    ("cluster|meet", TOPOLOGY),
    ("cluster|replicate", TOPOLOGY),
    ("cluster|reset", TOPOLOGY),
    ("cluster|saveconfig", TOPOLOGY),
    ("cluster|set-config-epoch", TOPOLOGY),
    ("cluster|setslot", TOPOLOGY),
    ("failover", "`holdfast failover` hands a shard over"),
    ("migrate", "slots are moved by the operator, keys by DUMP and RESTORE"),
    ("module", "no code is loaded into the nodes"),
    ("psync", REPLICATION),
    ("replconf", REPLICATION),
    ("replicaof", REPLICATION),
    ("restore-asking", "slots move behind the proxy; clients are never redirected"),
    ("save", "checkpoints are taken by schedule and by the operator"),
    ("script|debug", "a script runs on every replica; there is no debugger"),
    ("shutdown", "processes belong to the operator, not to clients"),
    ("slaveof", REPLICATION),
    ("sync", REPLICATION),
];

const SCRIPTS: &str = "stopped after a number of instructions, at the same place on every replica; no globals are kept";
const TOPOLOGY: &str =
    "nodes and slots are the sentinels' business; `holdfast` is the operator's tool";
const REPLICATION: &str = "replicas follow the shard's log, not another server";

/// What is to be said about a command: of the list, by its name or its container's.
pub fn note(list: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    let find = |name: &str| list.iter().find(|(noted, _)| *noted == name).map(|(_, note)| *note);
    find(name).or_else(|| find(name.split('|').next().unwrap_or(name)))
}
