//! `chaos local`.

use crate::outcome;
use anyhow::Context;
use holdfast_chaos_tests::local::cluster::{LocalCluster, Shape};
use holdfast_chaos_tests::local::network;
use holdfast_chaos_tests::nemesis::Plan;
use holdfast_chaos_tests::run::{RunOptions, run as run_on};
use holdfast_chaos_tests::workload;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Run a cluster of real processes under load, break it all the time, and judge what clients saw.
#[derive(clap::Args)]
pub(crate) struct LocalArgs {
    /// Decides which faults come when [default: a new one].
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Kinds of faults, separated by commas; `mix` is all but `majority` and `sentinels-down`.
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
    fn shape(&self) -> Shape {
        Shape {
            nodes: self.nodes,
            sentinels: self.sentinels,
            proxies: self.proxies,
            shards: self.shards,
            replicas: 3.min(self.nodes as u32),
            persistence: self.persistence.clone(),
        }
    }

    fn options(&self) -> anyhow::Result<RunOptions> {
        let seed = outcome::seed(self.seed)?;
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
        Ok(RunOptions {
            title: "chaos local".to_owned(),
            command,
            plan: Plan {
                seed,
                kinds: outcome::kinds(&self.faults)?,
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
            report: self.report.clone(),
            keep_history: self.history,
            strict: true,
        })
    }
}

pub(crate) fn run(args: &LocalArgs) -> anyhow::Result<bool> {
    if let Some(code) = network::enter(!args.no_namespaces)? {
        std::process::exit(code);
    }
    let options = args.options()?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("holdfast"),
    };
    let data = tempfile::Builder::new().prefix("holdfast-chaos-").tempdir()?;
    let logs = options.report.join("logs");
    let started = Instant::now();
    let cluster = LocalCluster::start(args.shape(), &binary, data.path(), &logs)
        .with_context(|| format!("start a cluster; see {}", logs.display()))?;
    eprintln!("chaos: the cluster serves after {:.1} s", started.elapsed().as_secs_f64());
    let report = run_on(&options, Arc::new(cluster))?;
    outcome::print(&report, &options.report);
    Ok(report.is_fine())
}
