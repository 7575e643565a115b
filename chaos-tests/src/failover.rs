//! What clients see of failovers, and whether every write happened exactly once.
//!
//! Each writer uses one connection that must never break. It increments a counter of its own and
//! appends unique values to a list of its own, one command at a time, and records how long each took.
//! At the end the counter must equal the number of acknowledged increments and the list must be
//! exactly the acknowledged values in order: a lost write is a gap, a doubled one a duplicate.
//! With `blocked`, further clients sit in BLPOP and in WATCH/MULTI/EXEC loops meanwhile.

use crate::harness::Cluster;
use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use holdfast_cli::client::Connection;
use holdfast_proto::resp::reply::Value;
use rustix::process::Signal;
use serde::Serialize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What to do.
#[derive(Clone, Debug)]
pub struct FailoverOptions {
    pub kills: u32,
    /// Hand over by order instead of killing.
    pub planned: bool,
    pub writers: usize,
    /// Also three clients in BLPOP and three in WATCH/MULTI/EXEC loops.
    pub blocked: bool,
    /// Time between two failovers, after full health.
    pub pause: Duration,
}

/// What was seen.
#[derive(Debug, Serialize)]
pub struct FailoverReport {
    pub failovers: u32,
    pub planned: bool,
    pub writes: u64,
    pub errors: u64,
    pub lost: u64,
    pub doubled: u64,
    pub popped: u64,
    pub transactions: u64,
    /// Per failover, the longest time any client waited for an answer around it.
    pub stalls_ms: Vec<f64>,
    pub stall_median_ms: f64,
    pub stall_p99_ms: f64,
    pub stall_max_ms: f64,
    pub first_error: String,
}

/// State shared by the clients and the one who kills.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    writes: AtomicU64,
    errors: AtomicU64,
    first_error: Mutex<String>,
    /// Longest wait since it was last taken, in nanoseconds.
    longest_ns: AtomicU64,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn took(&self, started: Instant) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.longest_ns.fetch_max(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    fn error(&self, text: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_error.lock().expect("no client panics with the lock");
        if first.is_empty() {
            *first = text;
        }
    }

    fn take_longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.swap(0, Ordering::Relaxed))
    }
}

/// Runs the clients and the failovers, then counts.
pub async fn run(cluster: &Cluster, options: &FailoverOptions) -> anyhow::Result<FailoverReport> {
    cluster.wait_healthy(Duration::from_secs(60)).await?;
    let shared = Arc::new(Shared::default());
    let mut writers = Vec::new();
    for index in 0..options.writers {
        let connection = cluster.connect().await?;
        writers.push(tokio::spawn(write_for_ever(index, connection, shared.clone())));
    }
    let mut others = Vec::new();
    let mut queues = Vec::new();
    if options.blocked {
        for index in 0..3 {
            let (push, pop) = (cluster.connect().await?, cluster.connect().await?);
            queues.push(tokio::spawn(push_and_pop(index, push, pop, shared.clone())));
            let connection = cluster.connect().await?;
            others.push(tokio::spawn(transact_for_ever(index, connection, shared.clone())));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stalls = fail_over_and_over(cluster, options, &shared).await;
    shared.stop.store(true, Ordering::Relaxed);
    let stalls = stalls?;

    let mut check = cluster.connect().await?;
    let (mut lost, mut doubled) = (0, 0);
    for (index, writer) in writers.into_iter().enumerate() {
        let acknowledged = writer.await??;
        let (missing, double) = count_differences(&mut check, index, acknowledged).await?;
        lost += missing;
        doubled += double;
    }
    let mut popped = 0;
    for queue in queues {
        let outcome = queue.await??;
        popped += outcome.popped;
        lost += outcome.lost;
        doubled += outcome.doubled;
    }
    let mut transactions = 0;
    for (index, other) in others.into_iter().enumerate() {
        let done: u64 = other.await??;
        transactions += done;
        let stored = integer(&check.call(&["GET", &format!("{{tx:{index}}}:sum")]).await?)? as u64;
        lost += done.saturating_sub(stored);
        doubled += stored.saturating_sub(done);
    }
    Ok(report(options, &shared, stalls, (lost, doubled), popped, transactions))
}

async fn fail_over_and_over(
    cluster: &Cluster,
    options: &FailoverOptions,
    shared: &Shared,
) -> anyhow::Result<Vec<Duration>> {
    let mut stalls = Vec::new();
    for round in 0..options.kills {
        let shard = 1 + round % cluster.options().shards;
        cluster.wait_healthy(Duration::from_secs(60)).await?;
        let primary = cluster.primary(shard).await?;
        let name = cluster.node_name(primary).await?;
        shared.take_longest();
        if options.planned {
            cluster.access().failover(shard, 0).await?;
        } else {
            cluster.signal(&name, Signal::KILL)?;
        }
        // Long enough for the slowest answer that a failover could delay to have arrived.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let stall = shared.take_longest();
        eprintln!(
            "{} {}/{}: shard {shard} on {name}, longest wait {:.1} ms, {} writes so far, {} errors",
            if options.planned { "hand-over" } else { "kill" },
            round + 1,
            options.kills,
            stall.as_secs_f64() * 1e3,
            shared.writes.load(Ordering::Relaxed),
            shared.errors.load(Ordering::Relaxed),
        );
        stalls.push(stall);
        tokio::time::sleep(options.pause).await;
    }
    cluster.wait_healthy(Duration::from_secs(60)).await?;
    Ok(stalls)
}

/// Returns how many rounds (one INCR and one RPUSH each) were acknowledged.
async fn write_for_ever(
    index: usize,
    mut connection: Connection,
    shared: Arc<Shared>,
) -> anyhow::Result<u64> {
    let counter = format!("counter:{index}");
    let list = format!("list:{index}");
    let mut round = 0_u64;
    while !shared.stopped() {
        round += 1;
        let started = Instant::now();
        let reply = connection.call(&["INCR", &counter]).await.context("the connection broke")?;
        shared.took(started);
        match reply {
            Value::Integer(value) if value as u64 == round => {}
            other => {
                shared.error(format!("INCR number {round} answered {other:?}"));
                bail!("INCR number {round} of {counter} answered {other:?}");
            }
        }
        let started = Instant::now();
        let token = round.to_string();
        let reply =
            connection.call(&["RPUSH", &list, &token]).await.context("the connection broke")?;
        shared.took(started);
        if reply.is_error() {
            shared.error(format!("{reply:?}"));
            bail!("RPUSH to {list} answered {reply:?}");
        }
    }
    Ok(round)
}

/// Compares a writer's counter and list with what was acknowledged: (lost, doubled).
async fn count_differences(
    connection: &mut Connection,
    index: usize,
    acknowledged: u64,
) -> anyhow::Result<(u64, u64)> {
    let counter = integer(&connection.call(&["GET", &format!("counter:{index}")]).await?)? as u64;
    let list = connection.call(&["LRANGE", &format!("list:{index}"), "0", "-1"]).await?;
    let items = list.as_array().context("a list")?;
    let mut lost = acknowledged.saturating_sub(counter);
    let mut doubled = counter.saturating_sub(acknowledged);
    let mut expected = 1_u64;
    for item in items {
        let value = integer(item)? as u64;
        if value < expected {
            doubled += 1;
        } else {
            lost += value - expected;
            expected = value + 1;
        }
    }
    lost += (acknowledged + 1).saturating_sub(expected);
    Ok((lost, doubled))
}

/// What became of a queue's elements.
struct QueueOutcome {
    popped: u64,
    lost: u64,
    doubled: u64,
}

/// One client pushes unique elements, another one takes them with BLPOP: each exactly once, in order.
async fn push_and_pop(
    index: usize,
    mut push: Connection,
    mut pop: Connection,
    shared: Arc<Shared>,
) -> anyhow::Result<QueueOutcome> {
    let queue = format!("queue:{index}");
    let popper = {
        let (queue, shared) = (queue.clone(), shared.clone());
        tokio::spawn(async move {
            let mut outcome = QueueOutcome { popped: 0, lost: 0, doubled: 0 };
            let mut expected = 1_u64;
            loop {
                let reply =
                    pop.call(&["BLPOP", &queue, "2"]).await.context("BLPOP's connection")?;
                match &reply {
                    Value::Array(parts) if parts.len() == 2 => {
                        let value = integer(&parts[1])? as u64;
                        outcome.popped += 1;
                        if value == 0 {
                            return anyhow::Ok(outcome);
                        }
                        if value < expected {
                            outcome.doubled += 1;
                        } else {
                            outcome.lost += value - expected;
                            expected = value + 1;
                        }
                    }
                    Value::Null | Value::NullArray => {}
                    other => {
                        shared.error(format!("BLPOP answered {other:?}"));
                        bail!("BLPOP answered {other:?}");
                    }
                }
            }
        })
    };
    let mut value = 0_u64;
    while !shared.stopped() {
        value += 1;
        let reply = push.call(&["RPUSH", &queue, &value.to_string()]).await?;
        if reply.is_error() {
            shared.error(format!("RPUSH answered {reply:?}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Element 0 ends the queue.
    push.call(&["RPUSH", &queue, "0"]).await?;
    popper.await?
}

/// Adds 1 to a sum by WATCH, GET, MULTI, SET, EXEC. Returns how many EXECs succeeded.
async fn transact_for_ever(
    index: usize,
    mut connection: Connection,
    shared: Arc<Shared>,
) -> anyhow::Result<u64> {
    let key = format!("{{tx:{index}}}:sum");
    let mut done = 0;
    while !shared.stopped() {
        ok(&connection.call(&["WATCH", &key]).await?, &shared)?;
        let current = match connection.call(&["GET", &key]).await? {
            Value::Null => 0,
            value => integer(&value)?,
        };
        ok(&connection.call(&["MULTI"]).await?, &shared)?;
        connection.call(&["SET", &key, &(current + 1).to_string()]).await?;
        match connection.call(&["EXEC"]).await? {
            Value::Array(_) => done += 1,
            // Only this client writes the key; a failed watch is allowed, never a wrong sum.
            Value::Null | Value::NullArray => {}
            other => {
                shared.error(format!("EXEC answered {other:?}"));
                bail!("EXEC answered {other:?}");
            }
        }
    }
    Ok(done)
}

fn ok(value: &Value, shared: &Shared) -> anyhow::Result<()> {
    if !value.is_ok() {
        shared.error(format!("{value:?}"));
    }
    ensure!(value.is_ok(), "answered {value:?}");
    Ok(())
}

fn integer(value: &Value) -> anyhow::Result<i64> {
    value
        .as_integer()
        .or_else(|| text_integer(value))
        .with_context(|| format!("{value:?} is no integer"))
}

fn text_integer(value: &Value) -> Option<i64> {
    std::str::from_utf8(value.as_bytes()?).ok()?.parse().ok()
}

fn report(
    options: &FailoverOptions,
    shared: &Shared,
    stalls: Vec<Duration>,
    (lost, doubled): (u64, u64),
    popped: u64,
    transactions: u64,
) -> FailoverReport {
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).expect("constant bounds are valid");
    for stall in &stalls {
        histogram.saturating_record(stall.as_micros() as u64);
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    FailoverReport {
        failovers: stalls.len() as u32,
        planned: options.planned,
        writes: shared.writes.load(Ordering::Relaxed),
        errors: shared.errors.load(Ordering::Relaxed),
        lost,
        doubled,
        popped,
        transactions,
        stall_median_ms: at(0.5),
        stall_p99_ms: at(0.99),
        stall_max_ms: histogram.max() as f64 / 1e3,
        stalls_ms: stalls.iter().map(|stall| stall.as_secs_f64() * 1e3).collect(),
        first_error: shared.first_error.lock().expect("no client panics with the lock").clone(),
    }
}
