//! `holdfast node|sentinel|proxy`: one process of a deployment.

use anyhow::Context;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// What each process is started with.
#[derive(clap::Args)]
pub(crate) struct DaemonArgs {
    /// The configuration file (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Log lines as JSON.
    #[arg(long)]
    log_json: bool,
    /// What to log, in place of the configuration's log-level: error, warn, info, debug, trace, or
    /// per module as in `info,raft=warn`.
    #[arg(long, env = "HOLDFAST_LOG")]
    log: Option<String>,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

impl DaemonArgs {
    fn prepare(&self, log_level: &str) -> anyhow::Result<()> {
        if self.end_with_parent {
            let signal = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(signal)
                .context("follow the parent process")?;
        }
        let directives = self.log.as_deref().unwrap_or(log_level);
        let filter = EnvFilter::try_new(directives).with_context(|| format!("log {directives}"))?;
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        if self.log_json {
            builder.json().init();
        } else {
            builder.with_ansi(false).init();
        }
        Ok(())
    }
}

pub(crate) fn node(args: &DaemonArgs) -> anyhow::Result<()> {
    let config = holdfast_node::Config::from_file(&args.config)?;
    args.prepare(&config.log_level)?;
    holdfast_node::run(config)
}

pub(crate) fn sentinel(args: &DaemonArgs) -> anyhow::Result<()> {
    let config = holdfast_sentinel::Config::from_file(&args.config)?;
    args.prepare(&config.log_level)?;
    holdfast_sentinel::run(config)
}

pub(crate) fn proxy(args: &DaemonArgs) -> anyhow::Result<()> {
    let config = holdfast_proxy::Config::from_file(&args.config)?;
    args.prepare(&config.log_level)?;
    holdfast_proxy::run(config)
}
