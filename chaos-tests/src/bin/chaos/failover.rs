//! `chaos failover`.

use holdfast_chaos_tests::failover::{self, FailoverOptions};
use holdfast_chaos_tests::harness::{Cluster, ClusterOptions};
use std::path::PathBuf;
use std::time::Duration;

/// Kill (or hand over) primaries under load; measure the clients' longest waits, count every write.
#[derive(clap::Args)]
pub(crate) struct FailoverArgs {
    /// How many failovers.
    #[arg(long, default_value_t = 30)]
    kills: u32,
    /// Planned hand-overs instead of kill -9.
    #[arg(long)]
    planned: bool,
    /// Clients that write all the time, each over one unbroken connection.
    #[arg(long, default_value_t = 8)]
    writers: usize,
    /// Also clients in BLPOP and WATCH/MULTI/EXEC loops.
    #[arg(long)]
    blocked: bool,
    #[arg(long, default_value_t = 2)]
    shards: u32,
    #[arg(long, default_value = "aof-everysec")]
    persistence: String,
    #[arg(long, default_value_t = 7900)]
    port: u16,
    #[arg(long, default_value_t = 27_400)]
    internal_port: u16,
    /// Milliseconds between two failovers.
    #[arg(long, default_value_t = 500)]
    pause_ms: u64,
    /// The `holdfast` binary [default: beside this one].
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Keep the cluster's folder, here.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[allow(clippy::print_stdout, reason = "the verdict is this command's output")]
pub(crate) fn run(args: &FailoverArgs) -> anyhow::Result<bool> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("holdfast"),
    };
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().join("cluster"));
    let cluster_options = ClusterOptions {
        shards: args.shards,
        replicas: 3,
        persistence: args.persistence.clone(),
        port: args.port,
        internal_port: args.internal_port,
        binary,
    };
    let options = FailoverOptions {
        kills: args.kills,
        planned: args.planned,
        writers: args.writers,
        blocked: args.blocked,
        pause: Duration::from_millis(args.pause_ms),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let cluster = Cluster::start(&folder, &cluster_options).await?;
        failover::run(&cluster, &options).await
    })?;
    println!("{}", serde_json::to_string(&report)?);
    let fine = report.errors == 0 && report.lost == 0 && report.doubled == 0;
    println!(
        "{}: {} failovers, {} writes, {} errors, {} lost, {} doubled; longest waits: median {:.0} ms, p99 {:.0} ms, max {:.0} ms",
        if fine { "OK" } else { "VIOLATION" },
        report.failovers,
        report.writes,
        report.errors,
        report.lost,
        report.doubled,
        report.stall_median_ms,
        report.stall_p99_ms,
        report.stall_max_ms,
    );
    Ok(fine)
}
