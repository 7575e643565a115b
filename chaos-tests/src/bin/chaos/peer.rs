//! `chaos peer`.

use crate::shared::{self, Defaults, LoadArgs};
use anyhow::Context;
use holdfast_chaos_tests::local::network;
use holdfast_chaos_tests::peer::{Peer, PeerOptions};
use holdfast_chaos_tests::run::run as run_on;
use std::sync::Arc;
use std::time::Duration;

/// The same workload, faults and checkers on Redis with Sentinel (Debian's redis-server and redis-sentinel).
#[derive(clap::Args)]
pub(crate) struct PeerArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// `min-replicas-to-write` [Redis's default: 0].
    #[arg(long, default_value_t = 0)]
    min_replicas: u32,
    /// `down-after-milliseconds` of the sentinels [Redis's default: 30000].
    #[arg(long, default_value_t = 1000)]
    down_after_ms: u64,
}

/// How long a client waits for an answer, as client libraries are set up by those who want to notice
/// a failover.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &PeerArgs) -> anyhow::Result<bool> {
    if let Some(code) = network::enter(true)? {
        std::process::exit(code);
    }
    let own =
        format!("--min-replicas {} --down-after-ms {}", args.min_replicas, args.down_after_ms);
    let faults = &["kill", "pause", "cut"];
    let defaults = Defaults { subcommand: "peer", faults, report: "peer-report" };
    let mut options = args.load.options(&own, &defaults)?;
    "chaos peer: Redis with Sentinel".clone_into(&mut options.title);
    // Longer than it takes the sentinels to act, or nothing would happen.
    options.plan.lasts_ms = (2 * args.down_after_ms, 6 * args.down_after_ms);
    options.workload.answer_limit = ANSWER_LIMIT;
    options.strict = false;
    let data = tempfile::Builder::new().prefix("holdfast-peer-").tempdir()?;
    let logs = options.report.join("logs");
    let redis = PeerOptions { min_replicas: args.min_replicas, down_after_ms: args.down_after_ms };
    let peer = Peer::start(&redis, data.path(), &logs)
        .with_context(|| format!("start Redis with Sentinel; see {}", logs.display()))?;
    let report = run_on(&options, Arc::new(peer))?;
    shared::print(&report, &options.report);
    Ok(report.is_fine())
}
