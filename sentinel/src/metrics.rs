//! `/metrics` for Prometheus and `/live` and `/ready`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::core::quorum::Verdict;
use crate::shared::Sentinel;
use holdfast_consensus::clock;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_LEN_MAX: usize = 8192;

pub(crate) async fn serve(sentinel: Arc<Sentinel>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let sentinel = Arc::clone(&sentinel);
        tokio::spawn(async move {
            // A scraper that goes away early is none of our business.
            let _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(&sentinel, stream)).await;
        });
    }
}

async fn answer(sentinel: &Sentinel, mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < REQUEST_LEN_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let (status, body) = if request.starts_with(b"GET /metrics") {
        ("200 OK", render(sentinel))
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

fn render(sentinel: &Sentinel) -> String {
    let mut out = String::new();
    let published = sentinel.group.published();
    let counters = *sentinel.counters();
    let topology = &published.topology;
    let single: [(&str, &str, &str, f64); 9] = [
        ("leader", "gauge", "1 on the leader.", f64::from(u8::from(published.leads))),
        ("term", "gauge", "Raft term of the metadata group.", published.term as f64),
        ("applied_index", "gauge", "Last applied entry.", published.applied_index as f64),
        ("metadata_version", "gauge", "Version of the topology.", topology.version as f64),
        ("proxies", "gauge", "Proxies that are registered.", topology.proxies.len() as f64),
        ("failovers_total", "counter", "Unplanned failovers led.", counters.failovers as f64),
        ("transfers_total", "counter", "Planned hand-overs led.", counters.transfers as f64),
        (
            "last_failover_seconds",
            "gauge",
            "From the last sign of life to the new primary.",
            counters.last_failover_ms / 1000.0,
        ),
        ("opinions_sent_total", "counter", "Opinions sent.", counters.opinions_sent as f64),
    ];
    for (name, kind, help, value) in single {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "holdfast_sentinel_{name} {value}");
    }
    let view = sentinel.view();
    let now = clock::monotonic();
    head(&mut out, "node_up", "gauge", "1 unless a majority of sentinels thinks otherwise.");
    for (id, node) in &view.nodes {
        let up = u8::from(node.verdict == Verdict::Up);
        let _ = writeln!(out, "holdfast_sentinel_node_up{{node=\"{id}\"}} {up}");
    }
    head(&mut out, "node_silent_seconds", "gauge", "Since the node's last heartbeat.");
    for (id, node) in &view.nodes {
        let silent = now.saturating_sub(node.last_reply).as_secs_f64();
        let _ = writeln!(out, "holdfast_sentinel_node_silent_seconds{{node=\"{id}\"}} {silent:.3}");
    }
    head(&mut out, "shard_primary", "gauge", "Node id of the serving primary; 0 is none.");
    for shard in &topology.shards {
        let primary = view.serving(shard.id).map_or(0, |p| p.node);
        let id = shard.id;
        let _ = writeln!(out, "holdfast_sentinel_shard_primary{{shard=\"{id}\"}} {primary}");
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP holdfast_sentinel_{name} {help}");
    let _ = writeln!(out, "# TYPE holdfast_sentinel_{name} {kind}");
}
