//! What a run measured, for people and for programs.

use super::args::BenchArgs;
use super::connection::Counters;
use anyhow::Context;
use serde::Serialize;
use std::time::Duration;

/// Results of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    workload: String,
    connections: usize,
    pipeline: usize,
    value_len_bytes: usize,
    seconds: f64,
    requests: u64,
    throughput_per_second: f64,
    pub(crate) errors: u64,
    pub(crate) first_error: String,
    latency_ms: Latency,
    /// CPU seconds of the watched processes per million requests; absent if none were watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds_per_million: Option<f64>,
}

#[derive(Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Report {
    pub(crate) fn new(args: &BenchArgs, elapsed: Duration, total: Counters, cpu: CpuTime) -> Self {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let at = |quantile: f64| ms(total.latency.value_at_quantile(quantile));
        let seconds = elapsed.as_secs_f64();
        Self {
            workload: args.command.clone().unwrap_or_else(|| args.mix.clone()),
            connections: args.connections,
            pipeline: args.pipeline,
            value_len_bytes: args.value_len,
            seconds,
            requests: total.requests,
            throughput_per_second: total.requests as f64 / seconds,
            errors: total.errors,
            first_error: total.first_error,
            latency_ms: Latency {
                mean: total.latency.mean() / 1e6,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: ms(total.latency.max()),
            },
            cpu_seconds_per_million: (!args.cpu_of.is_empty())
                .then(|| cpu.seconds * 1e6 / total.requests.max(1) as f64),
        }
    }

    #[allow(clippy::print_stdout, reason = "the result is this command's output")]
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let latency = &self.latency_ms;
        println!("{}: {} connections, pipeline {}", self.workload, self.connections, self.pipeline);
        println!(
            "  {:.0} requests/s ({} in {:.1} s)",
            self.throughput_per_second, self.requests, self.seconds
        );
        println!(
            "  latency ms: mean {:.3}, p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
            latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
        );
        if let Some(cpu) = self.cpu_seconds_per_million {
            println!("  CPU of the servers: {cpu:.2} s per million requests");
        }
        if self.errors > 0 {
            println!("  {} error replies, first: {}", self.errors, self.first_error);
        }
        Ok(())
    }
}

/// The processes whose CPU time is reported.
pub(crate) struct Cpu {
    pids: Vec<i32>,
}

#[derive(Clone, Copy)]
pub(crate) struct CpuTime {
    seconds: f64,
}

impl Cpu {
    pub(crate) fn of(pids: &[i32]) -> anyhow::Result<Self> {
        let cpu = Self { pids: pids.to_vec() };
        cpu.read()?;
        Ok(cpu)
    }

    /// User and system time of all threads, from proc(5) `stat` fields 14 and 15.
    pub(crate) fn read(&self) -> anyhow::Result<CpuTime> {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let mut ticks = 0;
        for pid in &self.pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .with_context(|| format!("read the CPU time of process {pid}"))?;
            let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let fields: Vec<&str> = after_name.split_whitespace().collect();
            for field in [11, 12] {
                ticks += fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(CpuTime { seconds: ticks as f64 / ticks_per_second })
    }
}

impl CpuTime {
    pub(crate) fn since(self, before: Self) -> Self {
        Self { seconds: self.seconds - before.seconds }
    }
}
