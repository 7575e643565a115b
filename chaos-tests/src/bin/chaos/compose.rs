//! `chaos compose`.

use crate::outcome;
use anyhow::Context;
use holdfast_chaos_tests::compose::{ComposeCluster, ComposeOptions};
use holdfast_chaos_tests::nemesis::Plan;
use holdfast_chaos_tests::run::{RunOptions, run as run_on};
use holdfast_chaos_tests::workload;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Run the project of deploy/docker-compose.yml under load, break it by Docker's means, and judge what
/// clients saw. Needs Docker and the image (deploy/build-image).
#[derive(clap::Args)]
pub(crate) struct ComposeArgs {
    /// Decides which faults come when [default: a new one].
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Kinds of faults, separated by commas; `mix` is all that Docker can do but `majority` and
    /// `sentinels-down`.
    #[arg(long, default_value = "mix", value_delimiter = ',')]
    faults: Vec<String>,
    /// Gets report.html and report.json.
    #[arg(long, default_value = "compose-report")]
    report: PathBuf,
    /// Also write history.jsonl there.
    #[arg(long)]
    history: bool,
    /// The folder with docker-compose.yml.
    #[arg(long, default_value = "deploy")]
    deploy: PathBuf,
    #[arg(long, env = "HOLDFAST_IMAGE", default_value = "holdfast:local")]
    image: String,
    /// Published port of the first proxy; the second has the next one.
    #[arg(long, default_value_t = 26_579)]
    port: u16,
    #[arg(long, default_value_t = 2)]
    shards: u32,
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
}

pub(crate) fn run(args: &ComposeArgs) -> anyhow::Result<bool> {
    let seed = outcome::seed(args.seed)?;
    let options = RunOptions {
        title: "chaos compose".to_owned(),
        command: format!(
            "chaos compose --seed {seed} --minutes {} --faults {} --shards {} --persistence {} --clients {} --think-ms {} --pause-ms {}",
            args.minutes,
            args.faults.join(","),
            args.shards,
            args.persistence,
            args.clients,
            args.think_ms,
            args.pause_ms,
        ),
        plan: Plan {
            seed,
            kinds: outcome::kinds(&args.faults)?,
            pause_ms: (args.pause_ms / 4, args.pause_ms * 7 / 4),
            ..Plan::default()
        },
        workload: workload::Options {
            clients: args.clients,
            think: Duration::from_millis(args.think_ms),
            seed,
            ..workload::Options::default()
        },
        length: Duration::from_secs_f64(args.minutes * 60.0),
        report: args.report.clone(),
        keep_history: args.history,
        strict: true,
    };
    let folder = tempfile::Builder::new().prefix("holdfast-compose-").tempdir()?;
    let project = ComposeOptions {
        deploy: args.deploy.clone(),
        image: args.image.clone(),
        project: format!("holdfast-chaos-{}", std::process::id()),
        ports: [args.port, args.port + 1],
        shards: args.shards,
        persistence: args.persistence.clone(),
    };
    let started = Instant::now();
    let cluster = ComposeCluster::start(project, folder.path()).context("start the containers")?;
    eprintln!("chaos: the containers serve after {:.1} s", started.elapsed().as_secs_f64());
    let report = run_on(&options, Arc::new(cluster))?;
    outcome::print(&report, &options.report);
    Ok(report.is_fine())
}
