//! INFO and SLOWLOG: commands that speak for all shards. The shards that are up are asked, and
//! their answers and the proxy's own numbers become one.

use super::connection::{REDIS_VERSION, help, unknown_subcommand};
use super::{Gather, command, is_word, number};
use crate::core::session::Resolved;
use crate::core::stats::CommandStats;
use crate::core::{Stats, WorkerCore, respond};
use bytes::{Bytes, BytesMut};
use holdfast_proto::resp::reply::{self, Value};
use holdfast_proto::resp::{RawRequest, ReplyScanner, encode};
use holdfast_proto::v1::PersistenceMode;
use std::collections::BTreeMap;
use std::fmt::Write;

/// SLOWLOG GET without a count.
const SLOWLOG_GET_DEFAULT: usize = 10;

impl WorkerCore {
    /// Begins a command that needs every shard's numbers.
    pub(in crate::core) fn gather(
        &mut self,
        index: u32,
        resolved: Resolved,
        gather: Gather,
        request: &RawRequest,
    ) {
        let body = match gather {
            Gather::Info => Self::shards_body(&[b"INFO"]),
            Gather::MemoryStats => Self::shards_body(&[b"MEMORY", b"STATS"]),
            Gather::Slowlog => {
                if request.len() == 2 && is_word(request.arg(1), "help") {
                    return self.reply_with(index, |out| help(out, SLOWLOG_HELP));
                }
                if !["get", "len", "reset"].iter().any(|word| is_word(request.arg(1), word)) {
                    return self
                        .reply_with(index, |out| unknown_subcommand("slowlog", request, out));
                }
                if request.len() == 3 && number::<i64>(request.arg(2)).is_none() {
                    return self.reject(index, resolved.index, respond::NOT_AN_INTEGER);
                }
                request.raw.clone()
            }
        };
        self.ask_shards(index, resolved, gather, request, body);
    }

    pub(in crate::core) fn merge_gather(
        &mut self,
        index: u32,
        gather: Gather,
        request: &RawRequest,
        parts: &[Bytes],
    ) -> Bytes {
        let mut out = BytesMut::new();
        match gather {
            Gather::Info => {
                let resp3 = self.clients.get(index).is_some_and(|client| client.resp3);
                let text = self.info(request, &ShardNumbers::read(parts));
                encode::verbatim(&mut out, b"txt", text.as_bytes(), resp3);
            }
            Gather::MemoryStats => {
                let resp3 = self.clients.get(index).is_some_and(|client| client.resp3);
                self.memory_stats(parts, resp3, &mut out);
            }
            Gather::Slowlog => merge_slowlog(request, parts, &mut out),
        }
        out.freeze()
    }

    fn info(&mut self, request: &RawRequest, shards: &ShardNumbers) -> String {
        let wanted = Wanted::read(request);
        let mut stats = self.stats().clone();
        stats.merge(&self.peer_stats);
        let stats = &stats;
        let mut text = String::new();
        let mut section = |name: &str, by_default: bool, body: String| {
            if wanted.has(name, by_default) {
                if !text.is_empty() {
                    text.push_str("\r\n");
                }
                text.push_str("# ");
                text.push_str(&title(name));
                text.push_str("\r\n");
                text.push_str(&body);
            }
        };
        section("server", true, self.info_server());
        section("clients", true, self.info_clients(stats, shards));
        section("memory", true, self.info_memory(shards));
        section("persistence", true, self.info_persistence(shards));
        section("stats", true, self.info_stats(stats, shards));
        section("replication", true, self.info_replication(shards));
        section("cpu", true, self.info_cpu());
        section("modules", true, String::new());
        section("commandstats", false, info_commandstats(stats));
        section("errorstats", true, info_errorstats(stats));
        let percentiles =
            self.setting("latency-tracking-info-percentiles").unwrap_or("50 99 99.9").to_owned();
        section("latencystats", false, info_latencystats(stats, &percentiles));
        section("cluster", true, "cluster_enabled:0\r\n".to_owned());
        section("keyspace", true, shards.keyspace());
        section("proxy", false, self.info_proxy(stats));
        section("raft", false, self.info_raft(shards));
        text
    }

    fn info_server(&self) -> String {
        let uptime_s = (self.now_us - self.started_us) / 1_000_000;
        let port = match self.config.tls_port {
            0 => self.config.plain_port,
            port => port,
        };
        lines(&[
            ("redis_version", REDIS_VERSION.to_owned()),
            ("redis_git_sha1", "00000000".to_owned()),
            ("redis_git_dirty", "0".to_owned()),
            ("redis_build_id", "0".to_owned()),
            ("redis_mode", "standalone".to_owned()),
            ("server_name", "holdfast".to_owned()),
            ("holdfast_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("os", std::env::consts::OS.to_owned()),
            ("arch_bits", usize::BITS.to_string()),
            ("multiplexing_api", "epoll".to_owned()),
            ("monotonic_clock", "POSIX clock_gettime".to_owned()),
            ("atomicvar_api", "c11-builtin".to_owned()),
            ("gcc_version", "0.0.0".to_owned()),
            ("process_id", self.config.process_id.to_string()),
            ("process_supervised", "no".to_owned()),
            ("run_id", self.cluster_node_id()),
            ("tcp_port", port.to_string()),
            ("server_time_usec", self.unix_us.to_string()),
            ("uptime_in_seconds", uptime_s.to_string()),
            ("uptime_in_days", (uptime_s / 86400).to_string()),
            ("hz", self.setting("hz").unwrap_or("10").to_owned()),
            ("configured_hz", self.setting("hz").unwrap_or("10").to_owned()),
            ("lru_clock", ((self.unix_us / 1_000_000) & 0xff_ffff).to_string()),
            ("executable", "holdfast".to_owned()),
            ("config_file", String::new()),
            ("io_threads_active", "0".to_owned()),
            ("listener0", format!("name=tcp,bind=*,port={port}")),
        ])
    }

    fn info_clients(&self, stats: &Stats, shards: &ShardNumbers) -> String {
        let blocked = (stats.clients_blocked as u64).max(shards.sum("blocked_clients"));
        let connected = stats.clients;
        lines(&[
            ("connected_clients", connected.to_string()),
            ("cluster_connections", "0".to_owned()),
            ("maxclients", self.clients_max_shown().to_string()),
            ("client_recent_max_input_buffer", "0".to_owned()),
            ("client_recent_max_output_buffer", "0".to_owned()),
            ("blocked_clients", blocked.to_string()),
            ("tracking_clients", "0".to_owned()),
            ("clients_in_timeout_table", blocked.to_string()),
            ("total_blocking_keys", shards.sum("blocking_keys").to_string()),
            ("total_blocking_keys_on_nokey", "0".to_owned()),
        ])
    }

    fn info_memory(&self, shards: &ShardNumbers) -> String {
        let used = shards.sum("used_memory");
        let peak = shards.sum("used_memory_peak").max(used);
        let max = self.setting("maxmemory").unwrap_or("0").to_owned();
        lines(&[
            ("used_memory", used.to_string()),
            ("used_memory_human", human(used)),
            ("used_memory_rss", used.to_string()),
            ("used_memory_rss_human", human(used)),
            ("used_memory_peak", peak.to_string()),
            ("used_memory_peak_human", human(peak)),
            ("used_memory_peak_perc", percent(used, peak)),
            ("used_memory_overhead", "0".to_owned()),
            ("used_memory_startup", "0".to_owned()),
            ("used_memory_dataset", used.to_string()),
            ("used_memory_dataset_perc", percent(used, used)),
            ("allocator_allocated", used.to_string()),
            ("allocator_active", used.to_string()),
            ("allocator_resident", used.to_string()),
            ("total_system_memory", "0".to_owned()),
            ("total_system_memory_human", "0B".to_owned()),
            ("used_memory_lua", shards.sum("used_memory_lua").to_string()),
            ("used_memory_vm_eval", shards.sum("used_memory_vm_eval").to_string()),
            ("used_memory_scripts", shards.sum("used_memory_scripts").to_string()),
            ("used_memory_functions", shards.sum("used_memory_functions").to_string()),
            ("number_of_cached_scripts", shards.most("number_of_cached_scripts").to_string()),
            ("number_of_functions", shards.most("number_of_functions").to_string()),
            ("number_of_libraries", shards.most("number_of_libraries").to_string()),
            ("maxmemory_human", human(max.parse().unwrap_or(0))),
            ("maxmemory", max),
            (
                "maxmemory_policy",
                self.setting("maxmemory-policy").unwrap_or("noeviction").to_owned(),
            ),
            ("mem_fragmentation_ratio", "1.00".to_owned()),
            ("mem_fragmentation_bytes", "0".to_owned()),
            ("mem_not_counted_for_evict", "0".to_owned()),
            ("mem_replication_backlog", "0".to_owned()),
            ("mem_clients_slaves", "0".to_owned()),
            ("mem_clients_normal", "0".to_owned()),
            ("mem_cluster_links", "0".to_owned()),
            ("mem_aof_buffer", "0".to_owned()),
            ("mem_allocator", "libc".to_owned()),
            ("active_defrag_running", "0".to_owned()),
            ("lazyfree_pending_objects", "0".to_owned()),
            ("lazyfreed_objects", "0".to_owned()),
        ])
    }

    fn info_persistence(&self, shards: &ShardNumbers) -> String {
        let mode = self.topology.spec.as_ref().map(|spec| spec.persistence());
        let aof = matches!(mode, Some(PersistenceMode::AofAlways | PersistenceMode::AofEverysec));
        lines(&[
            ("loading", "0".to_owned()),
            ("async_loading", "0".to_owned()),
            ("rdb_changes_since_last_save", shards.sum("changes_since_checkpoint").to_string()),
            ("rdb_bgsave_in_progress", shards.sum("checkpoint_in_progress").to_string()),
            ("rdb_last_save_time", shards.least("last_checkpoint_unix_s").to_string()),
            ("rdb_last_bgsave_status", "ok".to_owned()),
            ("rdb_last_bgsave_time_sec", "0".to_owned()),
            ("rdb_current_bgsave_time_sec", "-1".to_owned()),
            ("rdb_saves", shards.sum("checkpoints").to_string()),
            ("rdb_last_cow_size", "0".to_owned()),
            ("rdb_last_load_keys_expired", "0".to_owned()),
            ("rdb_last_load_keys_loaded", "0".to_owned()),
            ("aof_enabled", u8::from(aof).to_string()),
            ("aof_rewrite_in_progress", "0".to_owned()),
            ("aof_rewrite_scheduled", "0".to_owned()),
            ("aof_last_rewrite_time_sec", "-1".to_owned()),
            ("aof_current_rewrite_time_sec", "-1".to_owned()),
            ("aof_last_cow_size", "0".to_owned()),
            ("aof_rewrites", "0".to_owned()),
            ("aof_last_bgrewrite_status", "ok".to_owned()),
            ("aof_last_write_status", "ok".to_owned()),
        ])
    }

    fn info_stats(&self, stats: &Stats, shards: &ShardNumbers) -> String {
        lines(&[
            ("total_connections_received", stats.connections_received.to_string()),
            ("total_commands_processed", stats.commands.to_string()),
            ("instantaneous_ops_per_sec", self.ops_per_second.to_string()),
            ("total_net_input_bytes", stats.net_input_bytes.to_string()),
            ("total_net_output_bytes", stats.net_output_bytes.to_string()),
            ("total_net_repl_input_bytes", "0".to_owned()),
            ("total_net_repl_output_bytes", "0".to_owned()),
            ("instantaneous_input_kbps", "0.00".to_owned()),
            ("instantaneous_output_kbps", "0.00".to_owned()),
            ("rejected_connections", stats.connections_rejected.to_string()),
            ("sync_full", "0".to_owned()),
            ("sync_partial_ok", "0".to_owned()),
            ("sync_partial_err", "0".to_owned()),
            ("expired_stale_perc", "0.00".to_owned()),
            ("expired_time_cap_reached_count", "0".to_owned()),
            ("evicted_clients", "0".to_owned()),
            ("total_eviction_exceeded_time", "0".to_owned()),
            ("current_eviction_exceeded_time", "0".to_owned()),
            ("expired_keys", shards.sum("expired_keys").to_string()),
            ("evicted_keys", shards.sum("evicted_keys").to_string()),
            ("keyspace_hits", shards.sum("keyspace_hits").to_string()),
            ("keyspace_misses", shards.sum("keyspace_misses").to_string()),
            // Every node knows of all subscriptions.
            ("pubsub_channels", shards.most("pubsub_channels").to_string()),
            ("pubsub_patterns", shards.most("pubsub_patterns").to_string()),
            ("pubsubshard_channels", shards.most("pubsubshard_channels").to_string()),
            ("latest_fork_usec", "0".to_owned()),
            ("total_forks", "0".to_owned()),
            ("migrate_cached_sockets", "0".to_owned()),
            ("acl_access_denied_auth", stats.auth_failures.to_string()),
            ("acl_access_denied_cmd", stats.denied_commands.to_string()),
            ("acl_access_denied_key", stats.denied_keys.to_string()),
            ("acl_access_denied_channel", stats.denied_channels.to_string()),
            ("total_error_replies", stats.errors.values().sum::<u64>().to_string()),
            ("total_reads_processed", shards.sum("commands_read").to_string()),
            ("total_writes_processed", shards.sum("commands_written").to_string()),
        ])
    }

    /// How many copies the least copied shard has. None is named by address: a client that went
    /// looking for a replica would find none that may answer it.
    fn info_replication(&self, shards: &ShardNumbers) -> String {
        let id = self.cluster_node_id();
        lines(&[
            ("role", "master".to_owned()),
            ("connected_slaves", shards.least("replicas_online").to_string()),
            ("master_failover_state", "no-failover".to_owned()),
            ("master_replid", id),
            ("master_replid2", "0".repeat(40)),
            ("master_repl_offset", shards.sum("applied_index").to_string()),
            ("second_repl_offset", "-1".to_owned()),
            ("repl_backlog_active", "0".to_owned()),
            ("repl_backlog_size", "1048576".to_owned()),
            ("repl_backlog_first_byte_offset", "0".to_owned()),
            ("repl_backlog_histlen", "0".to_owned()),
        ])
    }

    /// Of this proxy's process.
    fn info_cpu(&self) -> String {
        let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
        lines(&[
            ("used_cpu_sys", seconds(self.usage.cpu_sys_us)),
            ("used_cpu_user", seconds(self.usage.cpu_user_us)),
            ("used_cpu_sys_children", seconds(0)),
            ("used_cpu_user_children", seconds(0)),
            ("used_cpu_sys_main_thread", seconds(self.usage.cpu_sys_us)),
            ("used_cpu_user_main_thread", seconds(self.usage.cpu_user_us)),
        ])
    }

    /// MEMORY STATS over all shards: sums, and ratios of sums.
    fn memory_stats(&self, parts: &[Bytes], resp3: bool, out: &mut BytesMut) {
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for part in parts {
            let Ok(Value::Array(fields)) = reply::parse(part) else { continue };
            for pair in fields.chunks_exact(2) {
                if let (Some(name), Value::Integer(number)) = (pair[0].as_bytes(), &pair[1]) {
                    *sums.entry(String::from_utf8_lossy(name).into_owned()).or_default() += number;
                }
            }
        }
        let sum = |name: &str| sums.get(name).copied().unwrap_or(0);
        let (total, keys) = (sum("total.allocated"), sum("keys.count"));
        let peak = sum("peak.allocated").max(total);
        let buffers: usize = self
            .clients
            .iter()
            .map(|(_, client)| {
                size_of_val(client) + client.input.capacity() + client.output.capacity()
            })
            .sum();
        let integers = [
            ("peak.allocated", peak),
            ("total.allocated", total),
            ("startup.allocated", 0),
            ("replication.backlog", 0),
            ("clients.slaves", 0),
            ("clients.normal", buffers as i64),
            ("cluster.links", 0),
            ("aof.buffer", 0),
            ("lua.caches", sum("lua.caches")),
            ("functions.caches", sum("functions.caches")),
            ("overhead.total", sum("overhead.total")),
            ("keys.count", keys),
            ("keys.bytes-per-key", total / keys.max(1)),
            ("dataset.bytes", total - sum("overhead.total")),
        ];
        let ratio = |part: i64, whole: i64| part as f64 * 100.0 / whole.max(1) as f64;
        let doubles = [
            ("dataset.percentage", ratio(total - sum("overhead.total"), total)),
            ("peak.percentage", ratio(total, peak)),
            ("fragmentation", 1.0),
        ];
        encode::map(out, integers.len() + doubles.len(), resp3);
        for (name, value) in integers {
            encode::bulk(out, name.as_bytes());
            encode::integer(out, value);
        }
        for (name, value) in doubles {
            encode::bulk(out, name.as_bytes());
            encode::double(out, value, resp3);
        }
    }

    /// What only a Holdfast proxy can tell.
    fn info_proxy(&self, stats: &Stats) -> String {
        let worker = self.worker().0;
        lines(&[
            ("worker", worker.to_string()),
            ("requests_unanswered", stats.requests_unanswered.to_string()),
            ("requests_held", stats.requests_held.to_string()),
            ("requests_resent", stats.requests_resent.to_string()),
            ("requests_failed", stats.requests_failed.to_string()),
            ("topology_version", self.router.version.to_string()),
        ])
    }

    fn info_raft(&self, shards: &ShardNumbers) -> String {
        let mut text = String::new();
        for shard in &shards.shards {
            let field = |name: &str| shard.get(name).map_or("", String::as_str);
            let _ = write!(
                text,
                "shard{}:node={},term={},applied_index={},keys={},used_memory={},replicas_online={}\r\n",
                field("shard"),
                field("node"),
                field("term"),
                field("applied_index"),
                field("keys"),
                field("used_memory"),
                field("replicas_online"),
            );
            let replicas = shard.iter().filter(|(name, _)| {
                name.strip_prefix("replica").is_some_and(|n| n.parse::<u32>().is_ok())
            });
            for (name, value) in replicas {
                let _ = write!(text, "shard{}_{name}:{value}\r\n", field("shard"));
            }
        }
        text
    }
}

fn info_commandstats(stats: &Stats) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, stats: &CommandStats| {
        let per_call = stats.usec as f64 / stats.calls.max(1) as f64;
        let _ = write!(
            text,
            "cmdstat_{name}:calls={},usec={},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}\r\n",
            stats.calls, stats.usec, stats.rejected, stats.failed
        );
    };
    for (index, numbers) in stats.by_command.iter().enumerate() {
        let Some(name) = command::name_of(index as u16) else { continue };
        let own = |sub: &str| sub.strip_prefix(name).is_some_and(|rest| rest.starts_with('|'));
        let has_subcommands = stats.subcommands.keys().any(|sub| own(sub));
        if numbers.calls + numbers.rejected > 0 && !has_subcommands {
            line(name, numbers);
        }
    }
    for (name, numbers) in &stats.subcommands {
        line(name, numbers);
    }
    text
}

fn info_errorstats(stats: &Stats) -> String {
    stats.errors.iter().fold(String::new(), |mut text, (word, count)| {
        let _ = write!(text, "errorstat_{word}:count={count}\r\n");
        text
    })
}

/// Percentiles by command, as `latency-tracking-info-percentiles` names them.
fn info_latencystats(stats: &Stats, percentiles: &str) -> String {
    let mut text = String::new();
    for (index, latency) in stats.latencies.iter().enumerate() {
        let (Some(name), Some(latency)) = (command::name_of(index as u16), latency) else {
            continue;
        };
        let _ = write!(text, "latency_percentiles_usec_{name}:");
        for (at, percentile) in percentiles.split_ascii_whitespace().enumerate() {
            let quantile = percentile.parse::<f64>().unwrap_or(0.0) / 100.0;
            let value = latency.value_at_quantile(quantile);
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(text, "{comma}p{percentile}={value}.000");
        }
        text.push_str("\r\n");
    }
    text
}

fn lines(fields: &[(&str, String)]) -> String {
    fields.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = write!(text, "{name}:{value}\r\n");
        text
    })
}

fn title(section: &str) -> String {
    match section {
        "cpu" => "CPU".to_owned(),
        other => {
            let (first, rest) = other.split_at(1);
            first.to_ascii_uppercase() + rest
        }
    }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.2}%", part as f64 * 100.0 / whole.max(1) as f64)
}

/// As Redis shows byte counts to people: `1.50M`.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// Which sections INFO was asked for.
struct Wanted {
    names: Vec<String>,
    default: bool,
    everything: bool,
}

impl Wanted {
    fn read(request: &RawRequest) -> Self {
        let names: Vec<String> = request
            .iter()
            .skip(1)
            .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
            .collect();
        let has = |name: &str| names.iter().any(|other| other == name);
        Self {
            default: names.is_empty() || has("default"),
            everything: has("all") || has("everything"),
            names,
        }
    }

    fn has(&self, name: &str, by_default: bool) -> bool {
        self.everything
            || (self.default && by_default)
            || self.names.iter().any(|other| other == name)
    }
}

/// The INFO answers of the shards.
struct ShardNumbers {
    shards: Vec<BTreeMap<String, String>>,
}

impl ShardNumbers {
    fn read(parts: &[Bytes]) -> Self {
        let shards = parts
            .iter()
            .filter_map(|part| match reply::parse(part) {
                Ok(Value::Bulk(text) | Value::Verbatim(_, text)) => Some(fields_of(&text)),
                _ => None,
            })
            .collect();
        Self { shards }
    }

    fn numbers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u64> + 'a {
        self.shards.iter().filter_map(move |shard| shard.get(name)?.parse::<u64>().ok())
    }

    fn sum(&self, name: &str) -> u64 {
        self.numbers(name).sum()
    }

    fn most(&self, name: &str) -> u64 {
        self.numbers(name).max().unwrap_or(0)
    }

    fn least(&self, name: &str) -> u64 {
        self.numbers(name).min().unwrap_or(0)
    }

    /// `db0:keys=…` lines, added up over the shards.
    fn keyspace(&self) -> String {
        let mut databases: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
        for (name, value) in self.shards.iter().flatten() {
            let Some(db) = name.strip_prefix("db").and_then(|db| db.parse().ok()) else { continue };
            let sums = databases.entry(db).or_default();
            for pair in value.split(',') {
                match pair.split_once('=') {
                    Some(("keys", count)) => sums[0] += count.parse().unwrap_or(0),
                    Some(("expires", count)) => sums[1] += count.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
        databases.iter().filter(|(_, sums)| sums[0] > 0).fold(
            String::new(),
            |mut text, (db, [keys, expires])| {
                let _ = write!(text, "db{db}:keys={keys},expires={expires},avg_ttl=0\r\n");
                text
            },
        )
    }
}

fn fields_of(text: &[u8]) -> BTreeMap<String, String> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// One slow log of all shards: entries by time, newest first.
fn merge_slowlog(request: &RawRequest, parts: &[Bytes], out: &mut BytesMut) {
    if is_word(request.arg(1), "reset") {
        return encode::ok(out);
    }
    if is_word(request.arg(1), "len") {
        let sum = parts.iter().filter_map(|part| match reply::parse(part) {
            Ok(Value::Integer(length)) => Some(length),
            _ => None,
        });
        return encode::integer(out, sum.sum());
    }
    if let Some(error) = parts.iter().find(|part| part.first() == Some(&b'-')) {
        return out.extend_from_slice(error);
    }
    let limit = match request.len() {
        3 => number::<i64>(request.arg(2)).map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        _ => SLOWLOG_GET_DEFAULT,
    };
    let mut entries: Vec<(i64, i64, Bytes)> = parts.iter().flat_map(slowlog_entries).collect();
    entries.sort_by_key(|(time_s, id, _)| std::cmp::Reverse((*time_s, *id)));
    entries.truncate(limit);
    encode::array(out, entries.len());
    for (_, _, raw) in entries {
        out.extend_from_slice(&raw);
    }
}

/// The entries of one shard: time, id and the raw element.
fn slowlog_entries(part: &Bytes) -> Vec<(i64, i64, Bytes)> {
    let mut entries = Vec::new();
    let Some(line_end) = memchr::memchr(b'\n', part) else { return entries };
    let mut at = line_end + 1;
    while let Ok(Some(len)) = ReplyScanner::default().scan(&part[at..]) {
        let raw = part.slice(at..at + len);
        if let Ok(Value::Array(fields)) = reply::parse(&raw)
            && let [Value::Integer(id), Value::Integer(time_s), ..] = fields[..]
        {
            entries.push((time_s, id, raw));
        }
        at += len;
        if at >= part.len() {
            break;
        }
    }
    entries
}

const SLOWLOG_HELP: &[&str] = &[
    "SLOWLOG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET [<count>]",
    "    Return top <count> entries from the slowlog (default: 10, -1 mean all).",
    "    Entries are made of:",
    "    id, timestamp, time in microseconds, arguments array, client IP and port,",
    "    client name",
    "LEN",
    "    Return the length of the slowlog.",
    "RESET",
    "    Reset the slowlog.",
    "HELP",
    "    Print this help.",
];
