//! Command line of `holdfast bench`.

use crate::client::Uri;
use std::path::PathBuf;
use std::time::Duration;

/// Generate load against any Redis endpoint and report throughput and latency percentiles.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct BenchArgs {
    /// Where to connect: redis://… or rediss://user:password@host:port/db.
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379")]
    pub(crate) uri: String,
    /// CA certificate (PEM) that the server's certificate must lead to.
    #[arg(long)]
    pub(crate) cacert: Option<PathBuf>,
    /// Accept any server certificate. Dangerous anywhere but on a test machine.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// How many connections in all.
    #[arg(short = 'c', long, default_value_t = 50)]
    pub(crate) connections: usize,
    /// How many load threads share the connections.
    #[arg(short = 't', long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Requests sent at once on each connection.
    #[arg(short = 'P', long, default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// Stop after so many requests in all (0: only --duration counts).
    #[arg(short = 'n', long, default_value_t = 0)]
    pub(crate) requests: u64,
    /// Stop after so many seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Requests per second in all (open loop; latency counts from when a request was due).
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// What to send, with weights: `set`, `get:80,set:20`, … out of get, set, incr, append, del,
    /// lpush, rpop, hset, hget, sadd, zadd, mset, mget, ping, set-wait (SET, then WAIT 1 0).
    #[arg(long, default_value = "set")]
    pub(crate) mix: String,
    /// Instead of --mix: one command, words split at blanks; __key__ and __value__ are filled in.
    #[arg(long)]
    pub(crate) command: Option<String>,
    /// How many different keys.
    #[arg(short = 'r', long, default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// Length of keys in bytes (a prefix and a number with leading zeros).
    #[arg(long, default_value_t = 16)]
    pub(crate) key_len: usize,
    /// Length of values in bytes.
    #[arg(short = 'd', long, default_value_t = 64)]
    pub(crate) value_len: usize,
    /// How keys are chosen: uniform, sequential or zipf (theta 0.99).
    #[arg(long, default_value = "uniform")]
    pub(crate) distribution: String,
    /// Seed of the choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Report the CPU time these processes (pids, separated by commas) used meanwhile.
    #[arg(long, value_delimiter = ',')]
    pub(crate) cpu_of: Vec<i32>,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress line.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Exit with 0 even if there were error replies (they are still counted).
    #[arg(long)]
    pub(crate) allow_errors: bool,
}

impl BenchArgs {
    pub(crate) fn endpoint(&self) -> anyhow::Result<Uri> {
        Uri::parse(&self.uri)
    }

    /// `None` when only the number of requests ends the run.
    pub(crate) fn duration(&self) -> Option<Duration> {
        (self.requests == 0).then(|| Duration::from_secs_f64(self.seconds.max(0.1)))
    }
}
