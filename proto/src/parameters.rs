//! The parameters of CONFIG: names, kinds, defaults and the errors for bad values, as in Redis 7.2.
//!
//! A value is checked where a client gives it (proxy), where an operator gives it (CLI) and once
//! more when the sentinels apply it to the cluster's metadata; all of them ask [`check`].

use crate::events::EventClasses;
use crate::placement::{self, Placement};
use std::collections::BTreeMap;

/// Values that a parameter can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A whole number within bounds, both inclusive.
    Integer(i64, i64),
    /// Bytes, at least so many; units as in redis.conf (`1gb`, `100mb`, `64k`).
    Memory(u64),
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// Classes of keyspace events.
    Events,
    /// Groups of class, hard limit, soft limit, seconds.
    BufferLimits,
    /// Percentiles between 0 and 100.
    Percentiles,
    /// Co-location rules.
    Rules,
}

/// What changing a parameter means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Stored in the cluster's metadata; holds for all proxies and nodes.
    Cluster,
    /// As [`Scope::Cluster`], but only the operator may change it, not clients.
    Operator,
    /// Decided elsewhere (by the configuration files, by the persistence mode, by the engine: a script
    /// can see encodings, so replicas must agree on their limits); shown only.
    Fixed,
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    pub name: &'static str,
    /// The older name that means the same; empty when there is none.
    pub alias: &'static str,
    pub kind: Kind,
    pub scope: Scope,
    /// As CONFIG GET shows it.
    pub default: &'static str,
}

/// Why a value is refused: what Redis says after the dash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(pub String);

/// The user's password; never stored among the settings.
pub const REQUIREPASS: &str = "requirepass";
/// `client-output-buffer-limit` when nothing is set.
pub const BUFFER_LIMITS: &str =
    "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;

const fn cluster(name: &'static str, kind: Kind, default: &'static str) -> Parameter {
    Parameter { name, alias: "", kind, scope: Scope::Cluster, default }
}

const fn operator(name: &'static str, kind: Kind, default: &'static str) -> Parameter {
    Parameter { name, alias: "", kind, scope: Scope::Operator, default }
}

const fn fixed(name: &'static str, default: &'static str) -> Parameter {
    Parameter { name, alias: "", kind: Kind::Text, scope: Scope::Fixed, default }
}

const fn known_as(parameter: Parameter, alias: &'static str) -> Parameter {
    Parameter { alias, ..parameter }
}

const LOG_LEVELS: &[&str] = &["debug", "verbose", "notice", "warning", "nothing"];
/// The values of `maxmemory-policy`, in the order in which Redis names them.
pub const POLICIES: &[&str] = &[
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
];

/// Sorted by name.
pub const PARAMETERS: &[Parameter] = &[
    fixed("aclfile", ""),
    cluster("acl-pubsub-default", Kind::Choice(&["allchannels", "resetchannels"]), "resetchannels"),
    cluster("acllog-max-len", Kind::Integer(0, LONG_MAX), "128"),
    cluster("active-expire-effort", Kind::Integer(1, 10), "1"),
    cluster("activedefrag", Kind::Bool, "no"),
    cluster("activerehashing", Kind::Bool, "yes"),
    fixed("always-show-logo", "no"),
    fixed("appendfilename", "appendonly.aof"),
    fixed("appendfsync", "everysec"),
    fixed("appendonly", "yes"),
    cluster("auto-aof-rewrite-min-size", Kind::Memory(0), "67108864"),
    cluster("auto-aof-rewrite-percentage", Kind::Integer(0, INT_MAX), "100"),
    fixed("bind", "* -::*"),
    known_as(cluster("busy-reply-threshold", Kind::Integer(0, LONG_MAX), "5000"), "lua-time-limit"),
    cluster("client-output-buffer-limit", Kind::BufferLimits, BUFFER_LIMITS),
    cluster("client-query-buffer-limit", Kind::Memory(1024 * 1024), "1073741824"),
    fixed("cluster-enabled", "no"),
    operator(placement::SETTING, Kind::Rules, ""),
    // Which commands clients are refused: see `docs/operations.md`.
    operator("command-profile", Kind::Choice(&["open", "managed"]), "open"),
    fixed("daemonize", "no"),
    fixed("databases", "16"),
    fixed("dbfilename", "dump.rdb"),
    fixed("dir", "/"),
    cluster("dynamic-hz", Kind::Bool, "yes"),
    operator("enable-debug-command", Kind::Choice(&["no", "yes", "local"]), "no"),
    known_as(fixed("hash-max-listpack-entries", "512"), "hash-max-ziplist-entries"),
    known_as(fixed("hash-max-listpack-value", "64"), "hash-max-ziplist-value"),
    fixed("hll-sparse-max-bytes", "3000"),
    cluster("hz", Kind::Integer(0, INT_MAX), "10"),
    fixed("io-threads", "1"),
    cluster("latency-monitor-threshold", Kind::Integer(0, LONG_MAX), "0"),
    cluster("latency-tracking", Kind::Bool, "yes"),
    cluster("latency-tracking-info-percentiles", Kind::Percentiles, "50 99 99.9"),
    cluster("lazyfree-lazy-eviction", Kind::Bool, "no"),
    cluster("lazyfree-lazy-expire", Kind::Bool, "no"),
    cluster("lazyfree-lazy-server-del", Kind::Bool, "no"),
    cluster("lazyfree-lazy-user-del", Kind::Bool, "no"),
    cluster("lazyfree-lazy-user-flush", Kind::Bool, "no"),
    cluster("lfu-decay-time", Kind::Integer(0, INT_MAX), "1"),
    cluster("lfu-log-factor", Kind::Integer(0, INT_MAX), "10"),
    fixed("list-compress-depth", "0"),
    known_as(fixed("list-max-listpack-size", "-2"), "list-max-ziplist-size"),
    fixed("logfile", ""),
    cluster("loglevel", Kind::Choice(LOG_LEVELS), "notice"),
    cluster("maxclients", Kind::Integer(1, u32::MAX as i64), "10000"),
    cluster("maxmemory", Kind::Memory(0), "0"),
    fixed("maxmemory-clients", "0"),
    cluster("maxmemory-eviction-tenacity", Kind::Integer(0, 100), "10"),
    cluster("maxmemory-policy", Kind::Choice(POLICIES), "noeviction"),
    cluster("maxmemory-samples", Kind::Integer(1, 64), "5"),
    known_as(
        cluster("min-replicas-max-lag", Kind::Integer(0, INT_MAX), "10"),
        "min-slaves-max-lag",
    ),
    known_as(
        cluster("min-replicas-to-write", Kind::Integer(0, INT_MAX), "0"),
        "min-slaves-to-write",
    ),
    cluster("notify-keyspace-events", Kind::Events, ""),
    fixed("port", "0"),
    cluster("proto-max-bulk-len", Kind::Memory(1024 * 1024), "536870912"),
    fixed("protected-mode", "no"),
    fixed("rdbchecksum", "yes"),
    fixed("rdbcompression", "yes"),
    known_as(fixed("replica-read-only", "yes"), "slave-read-only"),
    fixed("replicaof", ""),
    cluster(REQUIREPASS, Kind::Text, ""),
    fixed("save", ""),
    operator("scripting", Kind::Bool, "yes"),
    fixed("set-max-intset-entries", "512"),
    fixed("set-max-listpack-entries", "128"),
    fixed("set-max-listpack-value", "64"),
    cluster("slowlog-log-slower-than", Kind::Integer(-1, LONG_MAX), "10000"),
    cluster("slowlog-max-len", Kind::Integer(0, LONG_MAX), "128"),
    cluster("stop-writes-on-bgsave-error", Kind::Bool, "yes"),
    fixed("stream-node-max-bytes", "4096"),
    fixed("stream-node-max-entries", "100"),
    // What a Holdfast cluster adds; dashes and words as in Redis.
    cluster("strict-multi-key", Kind::Bool, "no"),
    cluster("tcp-keepalive", Kind::Integer(0, INT_MAX), "60"),
    cluster("timeout", Kind::Integer(0, INT_MAX), "0"),
    fixed("tls-port", "0"),
    cluster("tracking-table-max-keys", Kind::Integer(0, LONG_MAX), "1000000"),
    fixed("unixsocket", ""),
    known_as(fixed("zset-max-listpack-entries", "128"), "zset-max-ziplist-entries"),
    known_as(fixed("zset-max-listpack-value", "64"), "zset-max-ziplist-value"),
];

/// The parameter of a name or alias, in any case.
pub fn lookup(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| {
        parameter.name.eq_ignore_ascii_case(name)
            || (!parameter.alias.is_empty() && parameter.alias.eq_ignore_ascii_case(name))
    })
}

/// The value in the form in which it is stored and shown, or why it cannot be. `current` is the
/// present value: some parameters are changed in part only.
pub fn check(parameter: &Parameter, value: &str, current: &str) -> Result<String, BadValue> {
    let refuse = |text: String| Err(BadValue(text));
    match parameter.kind {
        Kind::Text => Ok(value.to_owned()),
        Kind::Bool => match value.to_ascii_lowercase().as_str() {
            word @ ("yes" | "no") => Ok(word.to_owned()),
            _ => refuse("argument must be 'yes' or 'no'".to_owned()),
        },
        Kind::Integer(least, most) => {
            let Ok(number) = value.parse::<i64>() else {
                return refuse("argument couldn't be parsed into an integer".to_owned());
            };
            if !(least..=most).contains(&number) {
                return refuse(format!("argument must be between {least} and {most} inclusive"));
            }
            // Redis clips this one.
            let number = if parameter.name == "hz" { number.clamp(1, 500) } else { number };
            Ok(number.to_string())
        }
        Kind::Memory(least) => {
            let Some(bytes) = memory(value) else {
                return refuse("argument must be a memory value".to_owned());
            };
            if bytes < least || bytes > LONG_MAX as u64 {
                return refuse(format!(
                    "argument must be between {least} and {LONG_MAX} inclusive"
                ));
            }
            Ok(bytes.to_string())
        }
        Kind::Choice(words) => {
            let found = words.iter().find(|word| word.eq_ignore_ascii_case(value));
            found.map(|word| (*word).to_owned()).ok_or_else(|| {
                BadValue(format!("argument(s) must be one of the following: {}", words.join(", ")))
            })
        }
        Kind::Events => match EventClasses::parse(value) {
            Some(classes) => Ok(classes.to_string()),
            None => refuse("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned()),
        },
        Kind::Rules => Placement::parse(value).map(|rules| rules.describe()).map_err(BadValue),
        Kind::BufferLimits => merged_limits(value, current),
        Kind::Percentiles => percentiles(value),
    }
}

/// Bytes from a number with a unit: `b`, `k` (1000), `kb` (1024), `m`, `mb`, `g`, `gb`.
pub fn memory(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    // No digits are read as 0, as Redis does.
    let number: u64 = if digits == 0 { 0 } else { text[..digits].parse().ok()? };
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1024,
        "m" => 1_000_000,
        "mb" => 1024 * 1024,
        "g" => 1_000_000_000,
        "gb" => 1024 * 1024 * 1024,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Limits of one class of clients: bytes at once, bytes for so many seconds. 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferLimit {
    pub hard_bytes: u64,
    pub soft_bytes: u64,
    pub soft_seconds: u64,
}

/// The limits of normal clients, replicas and subscribers.
pub fn buffer_limits(text: &str) -> [BufferLimit; 3] {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let mut limits = [BufferLimit::default(); 3];
    for group in words.chunks_exact(4) {
        let class = match group[0].to_ascii_lowercase().as_str() {
            "normal" => 0,
            "slave" | "replica" => 1,
            "pubsub" => 2,
            _ => continue,
        };
        limits[class] = BufferLimit {
            hard_bytes: memory(group[1]).unwrap_or(0),
            soft_bytes: memory(group[2]).unwrap_or(0),
            soft_seconds: group[3].parse().unwrap_or(0),
        };
    }
    limits
}

fn merged_limits(value: &str, current: &str) -> Result<String, BadValue> {
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    if words.is_empty() {
        return Ok(current.to_owned());
    }
    if !words.len().is_multiple_of(4) {
        let text = "Wrong number of arguments in buffer limit configuration.";
        return Err(BadValue(text.to_owned()));
    }
    let mut by_class: BTreeMap<usize, [u64; 3]> = BTreeMap::new();
    for (class, limit) in buffer_limits(current).iter().enumerate() {
        by_class.insert(class, [limit.hard_bytes, limit.soft_bytes, limit.soft_seconds]);
    }
    for group in words.chunks_exact(4) {
        let class = match group[0].to_ascii_lowercase().as_str() {
            "normal" => 0,
            "slave" | "replica" => 1,
            "pubsub" => 2,
            _ => {
                let text = "Invalid client class specified in buffer limit configuration.";
                return Err(BadValue(text.to_owned()));
            }
        };
        let numbers = (memory(group[1]), memory(group[2]), group[3].parse::<u32>());
        let (Some(hard), Some(soft), Ok(seconds)) = numbers else {
            let text = "Error in hard, soft or soft_seconds setting in buffer limit configuration.";
            return Err(BadValue(text.to_owned()));
        };
        by_class.insert(class, [hard, soft, u64::from(seconds)]);
    }
    let names = ["normal", "slave", "pubsub"];
    let groups: Vec<String> = by_class
        .iter()
        .map(|(class, [hard, soft, seconds])| format!("{} {hard} {soft} {seconds}", names[*class]))
        .collect();
    Ok(groups.join(" "))
}

fn percentiles(value: &str) -> Result<String, BadValue> {
    let mut words = Vec::new();
    for word in value.split_ascii_whitespace() {
        match word.parse::<f64>() {
            Ok(number) if (0.0..=100.0).contains(&number) => words.push(number.to_string()),
            Ok(_) => {
                let text = "latency-tracking-info-percentiles parameters should sit between \
                            [0.0,100.0]";
                return Err(BadValue(text.to_owned()));
            }
            Err(_) => {
                let text = "Invalid latency-tracking-info-percentiles parameters";
                return Err(BadValue(text.to_owned()));
            }
        }
    }
    Ok(words.join(" "))
}

/// Checks what is to be stored, for the sentinels: names and values together. Returns the canonical
/// values by canonical name.
pub fn check_all<'a>(
    changes: impl IntoIterator<Item = (&'a String, &'a String)>,
    current: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, String> {
    let mut checked = BTreeMap::new();
    for (name, value) in changes {
        let parameter = lookup(name).ok_or_else(|| format!("there is no parameter '{name}'"))?;
        if parameter.scope == Scope::Fixed {
            return Err(format!("'{name}' is not a setting of the cluster"));
        }
        let present = current(parameter.name).unwrap_or_else(|| parameter.default.to_owned());
        let value = check(parameter, value, &present).map_err(|e| format!("'{name}': {e}"))?;
        checked.insert(parameter.name.to_owned(), value);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<String, String> {
        let parameter = lookup(name).unwrap();
        check(parameter, value, parameter.default).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_unique_and_defaults_are_their_own_canonical_form() {
        let mut names: Vec<&str> = PARAMETERS
            .iter()
            .flat_map(|p| [p.name, p.alias])
            .filter(|name| !name.is_empty())
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for parameter in PARAMETERS {
            assert_eq!(set(parameter.name, parameter.default).as_deref(), Ok(parameter.default));
        }
    }

    #[test]
    fn values_are_made_canonical() {
        assert_eq!(set("maxmemory", "2gb").unwrap(), "2147483648");
        assert_eq!(set("maxmemory", "3k").unwrap(), "3000");
        assert_eq!(set("activerehashing", "YES").unwrap(), "yes");
        assert_eq!(set("maxmemory-policy", "ALLKEYS-LRU").unwrap(), "allkeys-lru");
        assert_eq!(set("notify-keyspace-events", "KEA").unwrap(), "AKE");
        assert_eq!(set("notify-keyspace-events", "xKg").unwrap(), "gxK");
        assert_eq!(
            set("client-output-buffer-limit", "pubsub 1mb 2 3").unwrap(),
            "normal 0 0 0 slave 268435456 67108864 60 pubsub 1048576 2 3"
        );
    }

    #[test]
    fn several_settings_are_taken_together_or_not_at_all() {
        let changes = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let none = |_: &str| None;
        let good = changes(&[("LUA-time-limit", "7"), ("TIMEOUT", "3")]);
        let stored = check_all(&good, none).unwrap();
        assert_eq!(stored.get("busy-reply-threshold").unwrap(), "7");
        assert_eq!(stored.get("timeout").unwrap(), "3");
        assert!(check_all(&changes(&[("timeout", "-1")]), none).unwrap_err().contains("between"));
        assert!(check_all(&changes(&[("dir", "/x")]), none).is_err());
        assert!(check_all(&changes(&[("nonsense", "1")]), none).is_err());
    }
}
