//! `chaos local`.

use crate::shared::{self, Defaults, LoadArgs};
use anyhow::Context;
use holdfast_chaos_tests::local::cluster::{LocalCluster, Shape};
use holdfast_chaos_tests::local::network;
use holdfast_chaos_tests::run::{RunOptions, run as run_on};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Run a cluster of real processes under load, break it all the time, and judge what clients saw.
#[derive(clap::Args)]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    load: LoadArgs,
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
        let own = format!(
            "--shards {} --nodes {} --sentinels {} --proxies {} --persistence {}",
            self.shards, self.nodes, self.sentinels, self.proxies, self.persistence,
        );
        let defaults = Defaults { subcommand: "local", faults: &["mix"], report: "chaos-report" };
        self.load.options(&own, &defaults)
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
    shared::print(&report, &options.report);
    Ok(report.is_fine())
}
