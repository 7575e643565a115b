//! One connection's loop, and the thread that drives its share of the connections.

use super::args::BenchArgs;
use super::workload::{Chooser, Workload};
use crate::client::{ClientStream, ClientTls, Uri, connect};
use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use holdfast_proto::resp::reply::ReplyScanner;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What all connections share, read-only.
pub(crate) struct Load {
    uri: Uri,
    tls: Option<ClientTls>,
    workload: Arc<Workload>,
    connections: usize,
    threads: usize,
    pipeline: usize,
    seed: u64,
    /// Open loop: time between two requests of one connection.
    interval: Option<Duration>,
    /// Requests of each connection; `u64::MAX` when time alone ends the run.
    requests_each: u64,
}

impl Load {
    pub(crate) fn new(
        args: &BenchArgs,
        uri: Uri,
        tls: Option<ClientTls>,
        workload: Arc<Workload>,
    ) -> Self {
        let interval = args
            .rate
            .map(|rate| Duration::from_secs_f64(args.connections as f64 / rate.max(0.001)));
        let requests_each = match args.requests {
            0 => u64::MAX,
            all => all.div_ceil(args.connections as u64),
        };
        Self {
            uri,
            tls,
            workload,
            connections: args.connections,
            threads: args.threads,
            pipeline: args.pipeline,
            seed: args.seed,
            interval,
            requests_each,
        }
    }
}

/// What a thread measured. Latencies in nanoseconds, three significant digits.
pub(crate) struct Counters {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: String,
    pub(crate) latency: Histogram<u64>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1_000, 600_000_000_000, 3)
            .expect("constant bounds are valid");
        Self { requests: 0, errors: 0, first_error: String::new(), latency }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        if self.first_error.is_empty() {
            self.first_error.clone_from(&other.first_error);
        }
        self.latency.add(&other.latency).expect("same bounds");
    }

    fn answered(&mut self, latency: Duration) {
        self.requests += 1;
        self.latency.saturating_record(latency.as_nanos() as u64);
    }

    fn error(&mut self, line: &[u8]) {
        self.errors += 1;
        if self.first_error.is_empty() {
            self.first_error = String::from_utf8_lossy(line).trim_end().to_owned();
        }
    }
}

pub(crate) fn run_thread(
    index: usize,
    load: &Arc<Load>,
    stop: &Arc<AtomicBool>,
    done: &Arc<AtomicU64>,
    barrier: &Barrier,
) -> anyhow::Result<Counters> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mine = (0..load.connections).filter(|connection| connection % load.threads == index);
        let mut streams = Vec::new();
        for connection in mine {
            let stream = connect(&load.uri, load.tls.as_ref()).await;
            match stream.with_context(|| format!("connect to {}:{}", load.uri.host, load.uri.port))
            {
                Ok(stream) => streams.push((connection, stream)),
                Err(error) => {
                    barrier.wait();
                    return Err(error);
                }
            }
        }
        barrier.wait();
        let mut tasks = Vec::new();
        for (connection, stream) in streams {
            let (load, stop, done) = (load.clone(), stop.clone(), done.clone());
            tasks.push(tokio::task::spawn_local(async move {
                Connection::new(connection, stream, &load).run(&load, &stop, &done).await
            }));
        }
        let mut total = Counters::new();
        for task in tasks {
            total.add(&task.await??);
        }
        Ok(total)
    })
}

struct Connection {
    stream: ClientStream,
    chooser: Chooser,
    counters: Counters,
    out: Vec<u8>,
    input: bytes::BytesMut,
    scanner: ReplyScanner,
    /// Per request in flight: when it was due, and how many replies are still to come.
    in_flight: VecDeque<(Instant, u32)>,
}

impl Connection {
    fn new(index: usize, stream: ClientStream, load: &Load) -> Self {
        Self {
            stream,
            chooser: Chooser::new(load.seed, index as u64),
            counters: Counters::new(),
            out: Vec::with_capacity((load.workload.value_len() + 128) * load.pipeline),
            input: bytes::BytesMut::with_capacity(16 * 1024),
            scanner: ReplyScanner::default(),
            in_flight: VecDeque::new(),
        }
    }

    async fn run(
        mut self,
        load: &Load,
        stop: &AtomicBool,
        done: &AtomicU64,
    ) -> anyhow::Result<Counters> {
        let mut sent = 0;
        let mut due = Instant::now();
        while sent < load.requests_each && !stop.load(Ordering::Relaxed) {
            let count = (load.pipeline as u64).min(load.requests_each - sent);
            if let Some(interval) = load.interval {
                due += interval * count as u32;
                tokio::time::sleep_until(due.into()).await;
            } else {
                due = Instant::now();
            }
            self.out.clear();
            for _ in 0..count {
                let replies = load.workload.append(&mut self.chooser, &mut self.out);
                self.in_flight.push_back((due, replies));
            }
            self.stream.write_all(&self.out).await.context("send")?;
            self.stream.flush().await.context("send")?;
            self.read_all().await?;
            sent += count;
            done.fetch_add(count, Ordering::Relaxed);
        }
        Ok(self.counters)
    }

    /// Reads until nothing is in flight.
    async fn read_all(&mut self) -> anyhow::Result<()> {
        while !self.in_flight.is_empty() {
            if self.stream.read_buf(&mut self.input).await.context("receive")? == 0 {
                bail!("the server closed the connection");
            }
            let now = Instant::now();
            while let Some(len) = self.scanner.scan(&self.input)? {
                if self.input[0] == b'-' {
                    self.counters.error(&self.input[1..len]);
                }
                bytes::Buf::advance(&mut self.input, len);
                let Some((due, left)) = self.in_flight.front_mut() else {
                    bail!("a reply without a request");
                };
                *left -= 1;
                if *left == 0 {
                    let latency = now.saturating_duration_since(*due);
                    self.in_flight.pop_front();
                    self.counters.answered(latency);
                }
            }
        }
        Ok(())
    }
}
