//! `chaos compose`.

use crate::shared::{self, Defaults, LoadArgs};
use anyhow::Context;
use holdfast_chaos_tests::compose::{ComposeCluster, ComposeOptions};
use holdfast_chaos_tests::run::run as run_on;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Run the project of deploy/docker-compose.yml under load, break it by Docker's means, and judge what
/// clients saw. Needs Docker and the image (deploy/build-image).
#[derive(clap::Args)]
pub(crate) struct ComposeArgs {
    #[command(flatten)]
    load: LoadArgs,
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
}

pub(crate) fn run(args: &ComposeArgs) -> anyhow::Result<bool> {
    let own = format!("--shards {} --persistence {}", args.shards, args.persistence);
    let defaults = Defaults { subcommand: "compose", faults: &["mix"], report: "compose-report" };
    let options = args.load.options(&own, &defaults)?;
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
    shared::print(&report, &options.report);
    Ok(report.is_fine())
}
