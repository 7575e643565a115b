//! `chaos sim`.

use std::time::Duration;

use super::plan::{Plan, PlanKind};
use super::search::{run_caught, search, shorten};

/// Options of `chaos sim`.
#[derive(clap::Args, Debug)]
pub struct SimArgs {
    /// Run one seed and print what happens.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run the seeds A to B (exclusive), given as A..B.
    #[arg(long, value_parser = parse_seeds, default_value = "0..1000")]
    seeds: (u64, u64),
    /// Faults that are short and come within milliseconds of each other.
    #[arg(long)]
    rush: bool,
    /// Sequences of faults aimed at whoever leads.
    #[arg(long, conflicts_with = "rush")]
    staged: bool,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Stop after this many failures.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// Stop after this many seconds; with --bugs, give each bug this long.
    #[arg(long)]
    seconds: Option<u64>,
    /// With --seed: only the totals.
    #[arg(long)]
    quiet: bool,
    /// Run with each deliberate bug until it is noticed, and print the table. Plans of all kinds are
    /// tried in turn, unless one is named. Needs the feature `deliberate-bugs`.
    #[arg(long, conflicts_with = "seed")]
    bugs: bool,
    /// With --bugs: begin with the seeds that are known to notice each.
    #[arg(long)]
    quick: bool,
    /// With --bugs: only this one; with --seed: run with it.
    #[arg(long)]
    bug: Option<String>,
    /// Do not look for a shorter schedule of a failure.
    #[arg(long)]
    no_shorten: bool,
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("expected A..B")?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|error| error.to_string());
    Ok((number(from)?, number(to)?))
}

/// Runs the subcommand; false if a promise was broken.
pub fn main(args: &SimArgs) -> bool {
    if args.bugs {
        return bugs(args);
    }
    match args.seed {
        Some(seed) => one(seed, args),
        None => many(args),
    }
}

#[cfg(feature = "deliberate-bugs")]
fn bugs(args: &SimArgs) -> bool {
    let limit = args.seconds.map(Duration::from_secs);
    let only = [kind(args)];
    let kinds = if only == [PlanKind::Plain] { &PlanKind::ALL[..] } else { &only };
    super::bugs::table(args.quick, args.bug.as_deref(), limit, kinds)
}

#[cfg(not(feature = "deliberate-bugs"))]
fn bugs(_args: &SimArgs) -> bool {
    println!("built without the feature deliberate-bugs");
    false
}

fn kind(args: &SimArgs) -> PlanKind {
    match (args.rush, args.staged) {
        (true, _) => PlanKind::Rush,
        (_, true) => PlanKind::Staged,
        _ => PlanKind::Plain,
    }
}

/// Gives the process the bug of `--bug`.
#[cfg(feature = "deliberate-bugs")]
fn misbehave(args: &SimArgs) {
    use holdfast_proto::bugs;
    let named = |bug: &bugs::Bug| {
        let name = args.bug.as_deref().unwrap_or_default();
        format!("{bug:?}").eq_ignore_ascii_case(name)
    };
    bugs::set(bugs::Bug::ALL.into_iter().find(named));
}

#[cfg(not(feature = "deliberate-bugs"))]
fn misbehave(_args: &SimArgs) {}

fn one(seed: u64, args: &SimArgs) -> bool {
    misbehave(args);
    let plan = kind(args).plan(seed);
    if !args.quiet {
        describe(&plan);
    }
    let report = run_caught(&plan, !args.quiet);
    println!("trace {:016x}; {:?}", report.trace, report.totals);
    let Some(violation) = report.violation else {
        println!("seed {seed}: nothing broken");
        return true;
    };
    println!("seed {seed}: {}: {}", violation.invariant, violation.text);
    if !args.no_shorten {
        print_short(&plan);
    }
    false
}

fn describe(plan: &Plan) {
    let Plan { faults, .. } = plan;
    let mut shown = plan.clone();
    shown.faults = Vec::new();
    println!("{shown:?}");
    println!("{} faults", faults.len());
}

fn print_short(plan: &Plan) {
    let (short, violation) = shorten(plan);
    println!(
        "shortened to {} of {} faults: {}: {}",
        short.faults.len(),
        plan.faults.len(),
        violation.invariant,
        violation.text
    );
    for (at, fault) in &short.faults {
        println!("  {:>8.1} ms  {fault:?}", at.as_secs_f64() * 1000.0);
    }
}

fn many(args: &SimArgs) -> bool {
    let ((from, to), kind) = (args.seeds, kind(args));
    let limit = args.seconds.map(Duration::from_secs);
    let found = search(from, to, args.jobs, args.failures, limit, |seed| kind.plan(seed));
    for (seed, violation) in &found.failures {
        println!("seed {seed}: {}: {}", violation.invariant, violation.text);
        if !args.no_shorten {
            print_short(&kind.plan(*seed));
        }
        println!("  replay: chaos sim --seed {seed}{}", kind.option());
    }
    println!("{}", found.summary());
    found.failures.is_empty()
}
