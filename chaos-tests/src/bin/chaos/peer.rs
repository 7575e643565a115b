//! `chaos peer`.

use crate::outcome;
use anyhow::Context;
use holdfast_chaos_tests::local::network;
use holdfast_chaos_tests::nemesis::Plan;
use holdfast_chaos_tests::peer::{Peer, PeerOptions};
use holdfast_chaos_tests::run::{RunOptions, run as run_on};
use holdfast_chaos_tests::workload;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The same workload, faults and checkers on Redis with Sentinel (Debian's redis-server and redis-sentinel).
#[derive(clap::Args)]
pub(crate) struct PeerArgs {
    /// Decides which faults come when [default: a new one].
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Kinds of faults, separated by commas.
    #[arg(long, default_value = "kill,pause,cut", value_delimiter = ',')]
    faults: Vec<String>,
    /// Gets report.html, report.json, the processes' logs.
    #[arg(long, default_value = "peer-report")]
    report: PathBuf,
    /// Also write history.jsonl there.
    #[arg(long)]
    history: bool,
    /// `min-replicas-to-write` [Redis's default: 0].
    #[arg(long, default_value_t = 0)]
    min_replicas: u32,
    /// `down-after-milliseconds` of the sentinels [Redis's default: 30000].
    #[arg(long, default_value_t = 1000)]
    down_after_ms: u64,
    #[arg(long, default_value_t = 16)]
    clients: u32,
    /// Mean pause of such a client between two commands, milliseconds.
    #[arg(long, default_value_t = 6)]
    think_ms: u64,
    /// Mean pause between two faults, milliseconds.
    #[arg(long, default_value_t = 2200)]
    pause_ms: u64,
}

/// How long a client waits for an answer, as client libraries are set up by those who want to notice
/// a failover.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &PeerArgs) -> anyhow::Result<bool> {
    if let Some(code) = network::enter(true)? {
        std::process::exit(code);
    }
    let seed = outcome::seed(args.seed)?;
    let options = RunOptions {
        title: "chaos peer: Redis with Sentinel".to_owned(),
        command: format!(
            "chaos peer --seed {seed} --minutes {} --faults {} --min-replicas {} --down-after-ms {} --clients {} --think-ms {} --pause-ms {}",
            args.minutes,
            args.faults.join(","),
            args.min_replicas,
            args.down_after_ms,
            args.clients,
            args.think_ms,
            args.pause_ms,
        ),
        plan: Plan {
            seed,
            kinds: outcome::kinds(&args.faults)?,
            pause_ms: (args.pause_ms / 4, args.pause_ms * 7 / 4),
            // Longer than it takes the sentinels to act, or nothing would happen.
            lasts_ms: (2 * args.down_after_ms, 6 * args.down_after_ms),
            ..Plan::default()
        },
        workload: workload::Options {
            clients: args.clients,
            think: Duration::from_millis(args.think_ms),
            answer_limit: ANSWER_LIMIT,
            seed,
            ..workload::Options::default()
        },
        length: Duration::from_secs_f64(args.minutes * 60.0),
        report: args.report.clone(),
        keep_history: args.history,
        strict: false,
    };
    let data = tempfile::Builder::new().prefix("holdfast-peer-").tempdir()?;
    let logs = options.report.join("logs");
    let redis = PeerOptions { min_replicas: args.min_replicas, down_after_ms: args.down_after_ms };
    let peer = Peer::start(&redis, data.path(), &logs)
        .with_context(|| format!("start Redis with Sentinel; see {}", logs.display()))?;
    let report = run_on(&options, Arc::new(peer))?;
    outcome::print(&report, &options.report);
    Ok(report.is_fine())
}
