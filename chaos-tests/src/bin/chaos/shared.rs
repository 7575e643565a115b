//! What the subcommands that run clusters share: arguments, and how they end.

use holdfast_chaos_tests::nemesis::{FaultKind, Plan};
use holdfast_chaos_tests::report::Report;
use holdfast_chaos_tests::run::RunOptions;
use holdfast_chaos_tests::workload;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Faults, load and report.
#[derive(clap::Args)]
pub(crate) struct LoadArgs {
    /// Decides which faults come when [default: a new one].
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Kinds of faults, separated by commas; `mix` is all but `majority` and `sentinels-down`, as far
    /// as they can be done [default: mix; of `peer`: kill,pause,cut].
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Gets report.html, report.json, the processes' logs [default: chaos-report, and the like].
    #[arg(long)]
    report: Option<PathBuf>,
    /// Also write history.jsonl there.
    #[arg(long)]
    history: bool,
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

/// Where a subcommand differs from the others.
pub(crate) struct Defaults<'a> {
    pub(crate) subcommand: &'a str,
    pub(crate) faults: &'a [&'a str],
    pub(crate) report: &'a str,
}

impl LoadArgs {
    /// The run that is asked for. `own` are the subcommand's own arguments, for replaying.
    pub(crate) fn options(&self, own: &str, defaults: &Defaults<'_>) -> anyhow::Result<RunOptions> {
        let seed = match self.seed {
            Some(seed) => seed,
            // One that nobody has seen before.
            None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64 % 1_000_000,
        };
        let default = || defaults.faults.iter().map(|name| (*name).to_owned()).collect();
        let faults = if self.faults.is_empty() { default() } else { self.faults.clone() };
        let command = format!(
            "chaos {} --seed {seed} --minutes {} --faults {} {own} --clients {} --think-ms {} --pause-ms {}",
            defaults.subcommand,
            self.minutes,
            faults.join(","),
            self.clients,
            self.think_ms,
            self.pause_ms,
        );
        Ok(RunOptions {
            title: format!("chaos {}", defaults.subcommand),
            command,
            plan: Plan {
                seed,
                kinds: kinds(&faults)?,
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
            report: self.report.clone().unwrap_or_else(|| defaults.report.into()),
            keep_history: self.history,
            strict: true,
        })
    }
}

/// Names of faults; `mix` and `none` are allowed.
fn kinds(names: &[String]) -> anyhow::Result<Vec<FaultKind>> {
    let mut kinds: Vec<FaultKind> = Vec::new();
    for name in names {
        match name.as_str() {
            "mix" => kinds.extend(FaultKind::MIX),
            "none" => {}
            name => kinds.push(name.parse().map_err(anyhow::Error::msg)?),
        }
    }
    Ok(kinds)
}

/// Everything that is wrong, then one line of totals.
#[allow(clippy::print_stdout, reason = "the verdict is the command's output")]
pub(crate) fn print(report: &Report, folder: &Path) {
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
    println!("report: {}", folder.join("report.html").display());
    println!("{}", report.totals());
}
