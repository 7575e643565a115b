//! `chaos check`.

use anyhow::Context;
use holdfast_chaos_tests::check::{Limits, check, history};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

/// Check a history file (JSON lines, see docs/chaos.md): linearizability, serializability, exactly-once.
#[derive(clap::Args)]
pub(crate) struct CheckArgs {
    file: PathBuf,
    /// By how much clocks may have been off while keys expired, milliseconds.
    #[arg(long, default_value_t = 50)]
    expiry_slack_ms: u64,
    /// Seconds after which what is not decided counts as violated.
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

#[allow(clippy::print_stdout, reason = "the verdict is this command's output")]
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<bool> {
    let shown = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("open {shown}"))?;
    let operations =
        history::read(BufReader::new(file)).with_context(|| format!("read {shown}"))?;
    let limits = Limits {
        time: Duration::from_secs(args.limit),
        expiry_slack: Duration::from_millis(args.expiry_slack_ms),
        ..Limits::default()
    };
    let verdict = check(&operations, &limits);
    for fault in &verdict.faults {
        println!("{:?}: {}: {}", fault.kind, fault.key, fault.text);
        for line in &fault.evidence {
            println!("    {line}");
        }
    }
    let word = if verdict.is_fine() { "OK" } else { "VIOLATION" };
    println!("{word}: {}; checked in {} ms", verdict.totals(), verdict.took_ms);
    Ok(verdict.is_fine())
}
