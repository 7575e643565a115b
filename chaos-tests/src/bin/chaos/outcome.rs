//! What the subcommands that run clusters share: their arguments' meaning, and how they end.

use holdfast_chaos_tests::nemesis::FaultKind;
use holdfast_chaos_tests::report::Report;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The seed given, or one that nobody has seen before.
pub(crate) fn seed(given: Option<u64>) -> anyhow::Result<u64> {
    match given {
        Some(seed) => Ok(seed),
        None => Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64 % 1_000_000),
    }
}

/// Names of faults; `mix` and `none` are allowed.
pub(crate) fn kinds(names: &[String]) -> anyhow::Result<Vec<FaultKind>> {
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
