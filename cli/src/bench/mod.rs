//! `holdfast bench`: a load generator for any Redis endpoint.
//!
//! Closed loop (each connection sends its next pipeline when the last one is answered) or open loop
//! (`--rate`: requests are due at fixed times, and a late one counts from when it was due, so that
//! a stalled server cannot hide behind a waiting client: "coordinated omission").
//!
//! [`args`] is what the user says, [`workload`] turns it into requests, [`connection`] is one
//! connection's loop, [`report`] the results; this file runs the threads and the progress line.

mod args;
mod connection;
mod report;
mod workload;

pub(crate) use args::BenchArgs;

use crate::client::ClientTls;
use anyhow::{Context, bail};
use connection::{Counters, Load};
use report::{Cpu, Report};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use workload::Workload;

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let uri = args.endpoint()?;
    let tls =
        if uri.tls { Some(ClientTls::new(args.cacert.as_deref(), args.insecure)?) } else { None };
    let workload = Arc::new(Workload::new(args)?);
    if args.connections == 0 || args.threads == 0 || args.pipeline == 0 {
        bail!("--connections, --threads and --pipeline must be at least 1");
    }
    let load = Arc::new(Load::new(args, uri, tls, workload));
    let cpu = Cpu::of(&args.cpu_of)?;
    let report = drive(args, &load, cpu)?;
    report.print(args.json)?;
    if report.errors > 0 && !args.allow_errors {
        bail!("{} error replies, first: {}", report.errors, report.first_error);
    }
    Ok(())
}

/// Starts the threads, waits for all connections, then measures from one common instant.
fn drive(args: &BenchArgs, load: &Arc<Load>, cpu: Cpu) -> anyhow::Result<Report> {
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let barrier = Arc::new(std::sync::Barrier::new(args.threads + 1));
    let mut threads = Vec::new();
    for index in 0..args.threads {
        let (load, stop, done, barrier) =
            (load.clone(), stop.clone(), done.clone(), barrier.clone());
        let thread = thread::Builder::new()
            .name(format!("bench-{index}"))
            .spawn(move || connection::run_thread(index, &load, &stop, &done, &barrier))
            .context("start a load thread")?;
        threads.push(thread);
    }
    barrier.wait();
    let cpu_before = cpu.read()?;
    let started = Instant::now();
    watch(args, &threads, &stop, &done, started);
    let elapsed = started.elapsed();
    let cpu_used = cpu.read()?.since(cpu_before);
    let mut total = Counters::new();
    for thread in threads {
        let counters = match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a load thread panicked"),
        };
        total.add(&counters);
    }
    Ok(Report::new(args, elapsed, total, cpu_used))
}

/// Prints a line a second until the time is over or all requests are done.
fn watch<T>(
    args: &BenchArgs,
    threads: &[thread::JoinHandle<T>],
    stop: &AtomicBool,
    done: &AtomicU64,
    started: Instant,
) {
    let mut last = 0;
    let mut last_at = started;
    loop {
        // The progress line is the only thing this thread does; the load threads time themselves.
        let left = args.duration().map(|limit| limit.saturating_sub(started.elapsed()));
        thread::sleep(left.unwrap_or(Duration::from_secs(1)).min(Duration::from_millis(200)));
        if left.is_some_and(|left| left.is_zero()) {
            stop.store(true, Ordering::Relaxed);
            break;
        }
        if threads.iter().all(thread::JoinHandle::is_finished) {
            break;
        }
        if last_at.elapsed() >= Duration::from_secs(1) {
            let now = done.load(Ordering::Relaxed);
            if !args.quiet {
                let rate = (now - last) as f64 / last_at.elapsed().as_secs_f64();
                eprint!(
                    "\r{:6.1} s  {now:>12} requests  {rate:>10.0} /s ",
                    started.elapsed().as_secs_f64()
                );
            }
            last = now;
            last_at = Instant::now();
        }
    }
    if !args.quiet {
        eprintln!();
    }
}
