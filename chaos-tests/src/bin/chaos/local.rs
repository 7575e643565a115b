//! `chaos local`.

use holdfast_chaos_tests::local::cluster::Shape;
use holdfast_chaos_tests::local::{self, LocalOptions, network};
use holdfast_chaos_tests::nemesis::{FaultKind, Plan};
use holdfast_chaos_tests::workload;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Run a cluster of real processes under load, break it all the time, and judge what clients saw.
#[derive(clap::Args)]
pub(crate) struct LocalArgs {
    /// Decides which faults come when [default: a new one].
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Kinds of faults, separated by commas; `mix` is all but `majority`.
    #[arg(long, default_value = "mix", value_delimiter = ',')]
    faults: Vec<String>,
    /// Gets report.html, report.json, the processes' logs.
    #[arg(long, default_value = "chaos-report")]
    report: PathBuf,
    /// Also write history.jsonl there.
    #[arg(long)]
    history: bool,
    #[arg(long, default_value_t = 2)]
    shards: u32,
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    #[arg(long, default_value_t = 3)]
    sentinels: usize,
    #[arg(long, default_value_t = 2)]
    proxies: usize,
    #[arg(long, default_value = "aof-everysec")]
    persistence: String,
    /// Clients that do everything; queues and pipelines have their own.
    #[arg(long, default_value_t = 16)]
    clients: u32,
    /// Mean pause of such a client between two commands, milliseconds.
    #[arg(long, default_value_t = 6)]
    think_ms: u64,
    /// Mean pause between two faults of a lane, milliseconds.
    #[arg(long, default_value_t = 2200)]
    pause_ms: u64,
    /// Use this machine's loopback and leave the links whole.
    #[arg(long)]
    no_namespaces: bool,
    /// The `holdfast` binary [default: beside this one].
    #[arg(long)]
    binary: Option<PathBuf>,
}

impl LocalArgs {
    fn options(&self) -> anyhow::Result<LocalOptions> {
        let seed = match self.seed {
            Some(seed) => seed,
            None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64 % 1_000_000,
        };
        let mut kinds: Vec<FaultKind> = Vec::new();
        for name in &self.faults {
            if name == "mix" {
                kinds.extend(FaultKind::MIX);
            } else if name != "none" {
                kinds.push(name.parse().map_err(anyhow::Error::msg)?);
            }
        }
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("holdfast"),
        };
        let command = format!(
            "chaos local --seed {seed} --minutes {} --faults {} --shards {} --nodes {} --sentinels {} --proxies {} --persistence {} --clients {} --think-ms {} --pause-ms {}",
            self.minutes,
            self.faults.join(","),
            self.shards,
            self.nodes,
            self.sentinels,
            self.proxies,
            self.persistence,
            self.clients,
            self.think_ms,
            self.pause_ms,
        );
        Ok(LocalOptions {
            shape: Shape {
                nodes: self.nodes,
                sentinels: self.sentinels,
                proxies: self.proxies,
                shards: self.shards,
                replicas: 3.min(self.nodes as u32),
                persistence: self.persistence.clone(),
            },
            plan: Plan {
                seed,
                kinds,
                pause_ms: (self.pause_ms / 4, self.pause_ms * 7 / 4),
                ..Plan::default()
            },
            workload: workload::Options {
                clients: self.clients,
                think: Duration::from_millis(self.think_ms),
                seed,
                ..workload::Options::default()
            },
            length: Duration::from_secs_f64(self.minutes * 60.0),
            binary,
            report: self.report.clone(),
            command,
            keep_history: self.history,
        })
    }
}

#[allow(clippy::print_stdout, reason = "the verdict is this command's output")]
pub(crate) fn run(args: &LocalArgs) -> anyhow::Result<bool> {
    if let Some(code) = network::enter(!args.no_namespaces)? {
        std::process::exit(code);
    }
    let options = args.options()?;
    let report = local::run(&options)?;
    for fault in report.verdict.faults.iter().take(10) {
        println!("{:?}: {}: {}", fault.kind, fault.key, fault.text);
        for line in &fault.evidence {
            println!("    {line}");
        }
    }
    for error in report.errors.iter().take(10) {
        println!(
            "client error at {:.3} s (sent at {:.3} s) via {}: {:?}: {}",
            error.at as f64 / 1e9,
            error.start as f64 / 1e9,
            error.via,
            error.kind,
            error.text
        );
    }
    for crash in &report.crashes {
        println!("{} ended at {:.3} s: {}", crash.process, crash.at as f64 / 1e9, crash.text);
    }
    for trouble in &report.troubles {
        println!("{trouble}");
    }
    println!("report: {}", options.report.join("report.html").display());
    println!("{}", report.totals());
    Ok(report.is_fine())
}
