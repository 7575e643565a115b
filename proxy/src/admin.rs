//! The admin port: `/metrics` for Prometheus (names of redis_exporter where one fits), `/live` and
//! `/ready`.

use crate::control::Workers;
use crate::core::Stats;
use holdfast_proto::command;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest request head that is read.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What the pages are made of.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) workers: Workers,
    pub(crate) maxclients: usize,
    /// Of other proxies that pass on commands.
    pub(crate) token: String,
    /// Workers serve clients.
    pub(crate) ready: Arc<AtomicBool>,
}

impl Admin {
    pub(crate) async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = self.clone();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(REQUEST_TIMEOUT, admin.answer(stream)).await;
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        let line = head.split(|&c| c == b'\r').next().unwrap_or_default();
        let path = line.split(|&c| c == b' ').nth(1).unwrap_or_default();
        if path == crate::siblings::PATH {
            return self.answer_sibling(stream, head).await;
        }
        let (status, body) = match path {
            b"/metrics" => ("200 OK", self.metrics().await),
            b"/live" => ("200 OK", "live\n".to_owned()),
            b"/ready" if self.ready.load(Ordering::Relaxed) => ("200 OK", "ready\n".to_owned()),
            b"/ready" => ("503 Service Unavailable", "not ready\n".to_owned()),
            _ => ("404 Not Found", "see /metrics, /live, /ready\n".to_owned()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    }

    /// A command of another proxy's client (`siblings`).
    async fn answer_sibling(
        &self,
        mut stream: TcpStream,
        mut head: Vec<u8>,
    ) -> std::io::Result<()> {
        let end = head.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(head.len());
        let mut body = head.split_off((end + 4).min(head.len()));
        let text = String::from_utf8_lossy(&head);
        let header = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let given = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !crate::siblings::is_token(given.unwrap_or_default().as_bytes(), &self.token) {
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await?;
            return stream.shutdown().await;
        }
        let len = header("content-length").and_then(|len| len.parse::<usize>().ok()).unwrap_or(0);
        while body.len() < len.min(crate::siblings::COMMAND_BYTES_MAX) {
            if stream.read_buf(&mut body).await? == 0 {
                return Ok(());
            }
        }
        let answers = self.workers.carry_out(&body.into()).await;
        let body = crate::siblings::join(&answers);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    }

    async fn metrics(&self) -> String {
        let stats = self.workers.stats().await;
        let mut page = Page::default();
        page.gauge("redis_up", "Whether the proxy serves.", 1);
        page.gauge("redis_max_clients", "Most client connections.", self.maxclients as u64);
        write_stats(&mut page, &stats);
        page.0
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn describe(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.describe(name, help, "gauge");
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.describe(name, help, "counter");
        let _ = writeln!(self.0, "{name} {value}");
    }
}

fn write_stats(page: &mut Page, stats: &Stats) {
    page.gauge("redis_connected_clients", "Client connections.", stats.clients as u64);
    page.gauge(
        "redis_blocked_clients",
        "Clients in a blocking command.",
        stats.clients_blocked as u64,
    );
    page.counter(
        "redis_connections_received_total",
        "Connections accepted.",
        stats.connections_received,
    );
    page.counter(
        "redis_rejected_connections_total",
        "Connections refused for maxclients.",
        stats.connections_rejected,
    );
    page.counter("redis_commands_processed_total", "Commands.", stats.commands);
    page.counter("redis_net_input_bytes_total", "Bytes from clients.", stats.net_input_bytes);
    page.counter("redis_net_output_bytes_total", "Bytes to clients.", stats.net_output_bytes);
    page.counter(
        "redis_acl_access_denied_auth_total",
        "Failed authentications.",
        stats.auth_failures,
    );
    page.counter("holdfast_proxy_protocol_errors_total", "Protocol errors.", stats.protocol_errors);
    page.gauge(
        "holdfast_proxy_requests_unanswered",
        "Requests sent to or waiting for shards.",
        stats.requests_unanswered as u64,
    );
    page.gauge(
        "holdfast_proxy_requests_held",
        "Requests waiting for a shard without a primary.",
        stats.requests_held as u64,
    );
    page.counter(
        "holdfast_proxy_requests_resent_total",
        "Requests sent again after a failover.",
        stats.requests_resent,
    );
    page.counter(
        "holdfast_proxy_requests_failed_total",
        "Requests that got an error because no primary came in time.",
        stats.requests_failed,
    );
    write_commands(page, stats);
    page.describe("redis_errors_total", "Error replies.", "counter");
    for (error, count) in &stats.errors {
        let error: String = error.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let _ = writeln!(page.0, "redis_errors_total{{err=\"{error}\"}} {count}");
    }
    write_latency(page, stats);
}

fn write_commands(page: &mut Page, stats: &Stats) {
    let named = || {
        command::all()
            .zip(&stats.by_command)
            .filter(|(_, numbers)| numbers.calls + numbers.rejected > 0)
    };
    page.describe("redis_commands_total", "Calls per command.", "counter");
    for (spec, numbers) in named() {
        let _ = writeln!(page.0, "redis_commands_total{{cmd=\"{}\"}} {}", spec.name, numbers.calls);
    }
    page.describe("redis_commands_duration_seconds_total", "Time per command.", "counter");
    for (spec, numbers) in named() {
        let seconds = numbers.usec as f64 / 1e6;
        let _ = writeln!(
            page.0,
            "redis_commands_duration_seconds_total{{cmd=\"{}\"}} {seconds}",
            spec.name
        );
    }
    page.describe("redis_commands_failed_calls_total", "Failed calls per command.", "counter");
    for (spec, numbers) in named() {
        let _ = writeln!(
            page.0,
            "redis_commands_failed_calls_total{{cmd=\"{}\"}} {}",
            spec.name, numbers.failed
        );
    }
}

/// Upper bounds of the histogram's buckets, microseconds.
const LATENCY_BUCKETS_US: [u64; 16] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

fn write_latency(page: &mut Page, stats: &Stats) {
    let name = "holdfast_proxy_request_duration_seconds";
    page.describe(name, "From a command's arrival to its reply.", "histogram");
    let latency = stats.latency();
    for bound in LATENCY_BUCKETS_US {
        let count = latency.count_between(0, bound);
        let _ = writeln!(page.0, "{name}_bucket{{le=\"{}\"}} {count}", bound as f64 / 1e6);
    }
    let count = latency.len();
    let sum: u64 = stats.by_command.iter().map(|numbers| numbers.usec).sum();
    let _ = writeln!(page.0, "{name}_bucket{{le=\"+Inf\"}} {count}");
    let _ = writeln!(page.0, "{name}_sum {}", sum as f64 / 1e6);
    let _ = writeln!(page.0, "{name}_count {count}");
}
