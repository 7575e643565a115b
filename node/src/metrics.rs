//! `/metrics` for Prometheus. Names are those of redis_exporter where it has one.

use crate::shared::{NodeShared, ShardShared};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_LEN_MAX: usize = 8192;

pub(crate) async fn serve(node: Arc<NodeShared>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            // A scraper that goes away early is none of our business.
            let _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(&node, stream)).await;
        });
    }
}

async fn answer(node: &NodeShared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < REQUEST_LEN_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let (status, body) = if request.starts_with(b"GET /metrics") {
        ("200 OK", render(node))
    } else if request.starts_with(b"GET /live") || request.starts_with(b"GET /ready") {
        ("200 OK", "ok\n".to_owned())
    } else {
        ("404 Not Found", "see /metrics, /live, /ready\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await
}

/// What is read of one replica for one metric.
type Reading = fn(&ShardShared) -> u64;

/// Name, type, help and reading of every metric that exists once per replica.
const PER_REPLICA: [(&str, &str, &str, Reading); 20] = [
    ("redis_memory_used_bytes", "gauge", "Memory of the data.", |s| load(&s.used_memory)),
    ("redis_db_keys", "gauge", "Keys of all databases.", |s| load(&s.keys)),
    ("redis_db_keys_expiring", "gauge", "Keys with a time to live.", |s| load(&s.counters.expires)),
    ("redis_keyspace_hits_total", "counter", "Reads that found their key.", |s| {
        load(&s.counters.hits)
    }),
    ("redis_keyspace_misses_total", "counter", "Reads that did not.", |s| load(&s.counters.misses)),
    ("redis_expired_keys_total", "counter", "Keys deleted at their time.", |s| {
        load(&s.counters.expired)
    }),
    ("redis_evicted_keys_total", "counter", "Keys deleted for memory.", |s| {
        load(&s.counters.evicted)
    }),
    ("redis_slowlog_last_id", "counter", "Slow commands noted.", |s| load(&s.counters.slow)),
    ("holdfast_records_applied_total", "counter", "Records applied.", |s| load(&s.counters.writes)),
    ("holdfast_reads_total", "counter", "Reads taken as primary.", |s| load(&s.counters.reads)),
    ("holdfast_batches_applied_total", "counter", "Log entries applied.", |s| {
        load(&s.counters.batches)
    }),
    ("holdfast_parked_reads", "gauge", "Reads that wait for a confirmation or a write.", |s| {
        load(&s.counters.parked)
    }),
    ("holdfast_checkpoints_total", "counter", "Checkpoints taken.", |s| {
        load(&s.counters.checkpoints)
    }),
    ("holdfast_checkpoint_log_index", "gauge", "Index of the latest checkpoint.", |s| {
        load(&s.checkpoint_index)
    }),
    ("holdfast_applied_log_index", "gauge", "Index applied.", |s| s.applied_index().0),
    ("holdfast_commit_log_index", "gauge", "Index known to be committed.", |s| {
        s.status().commit_index
    }),
    ("holdfast_last_log_index", "gauge", "Last index in the log.", |s| s.status().last_index),
    ("holdfast_raft_term", "gauge", "Raft term.", |s| s.term().0),
    ("holdfast_primary", "gauge", "1 while this replica serves as primary.", |s| {
        u64::from(s.is_serving())
    }),
    ("holdfast_queued_write_bytes", "gauge", "Writes not proposed yet.", |s| {
        s.queued_bytes.load(Ordering::Relaxed) as u64
    }),
];

fn render(node: &NodeShared) -> String {
    let mut out = String::new();
    let shards = node.shards.all();
    for (name, kind, help, reading) in PER_REPLICA {
        head(&mut out, name, kind, help);
        for handle in &shards {
            let (shard, value) = (handle.shared.shard.0, reading(&handle.shared));
            let _ = writeln!(out, "{name}{{shard=\"{shard}\"}} {value}");
        }
    }
    let followers: Vec<_> =
        shards.iter().map(|handle| (handle.shared.shard.0, handle.shared.followers())).collect();
    let name = "redis_connected_slaves";
    head(&mut out, name, "gauge", "Other replicas that a primary hears.");
    for (shard, followers) in &followers {
        let online = followers.iter().filter(|follower| follower.online).count();
        let _ = writeln!(out, "{name}{{shard=\"{shard}\"}} {online}");
    }
    let name = "redis_connected_slave_lag_seconds";
    head(&mut out, name, "gauge", "How long a replica has been behind without progress.");
    for (shard, follower) in followers.iter().flat_map(|(s, all)| all.iter().map(move |f| (s, f))) {
        let (node, lag) = (follower.node.0, follower.lag.as_secs_f64());
        let _ = writeln!(out, "{name}{{shard=\"{shard}\",node=\"{node}\"}} {lag:.3}");
    }
    let of_process = [
        ("redis_up", "gauge", "1.", 1),
        ("redis_connected_clients", "gauge", "Links of proxy workers.", node.links.count() as u64),
        ("holdfast_log_writes_total", "counter", "Writes of the log.", node.log.stats().writes()),
        ("holdfast_log_written_bytes_total", "counter", "Bytes of log entries written.", {
            node.log.stats().bytes()
        }),
        ("holdfast_incarnation", "gauge", "Start of the process, µs.", node.incarnation),
    ];
    for (name, kind, help, value) in of_process {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    }
    let name = "holdfast_log_write_seconds";
    head(&mut out, name, "gauge", "Duration of the latest write of the log, sync included.");
    let _ = writeln!(out, "{name} {}", node.log.stats().last_write_us() as f64 / 1e6);
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn load(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_are_unique() {
        let mut names: Vec<&str> = PER_REPLICA.iter().map(|metric| metric.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PER_REPLICA.len());
    }
}
