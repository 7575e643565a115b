//! Many seeds, and what to do with one that fails.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::oracle::Violation;
use super::plan::Plan;
use super::{Report, Totals, run};

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Keeps panics of the code under test from the terminal; they become violations.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = payload_text(info.payload());
            let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
            let text = text + &place.unwrap_or_default();
            if cfg!(panic = "abort") {
                // The release profile: nothing catches it.
                println!("seed {}: assertions of the code: {text}", SEED.get());
            }
            PANIC.set(Some(text));
        }));
    });
}

fn payload_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Runs something; the text of a panic.
pub(super) fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_panics();
    catch_unwind(AssertUnwindSafe(act))
        .map_err(|payload| PANIC.take().unwrap_or_else(|| payload_text(&*payload)))
}

/// Runs a plan; a panic of the code under test is a violation.
pub fn run_caught(plan: &Plan, verbose: bool) -> Report {
    SEED.set(plan.seed);
    caught(|| run(plan, verbose)).unwrap_or_else(|text| {
        if verbose {
            println!("PANIC: {text}");
        }
        let violation = Some(Violation { invariant: "assertions of the code", text });
        Report { violation, totals: Totals::default(), trace: 0 }
    })
}

/// Cuts a failing plan's list of faults down for as long as it still fails.
pub fn shorten(plan: &Plan) -> (Plan, Violation) {
    let failure = |plan: &Plan| run_caught(plan, false).violation;
    let mut best = plan.clone();
    let mut violation = failure(plan).unwrap_or_else(|| Violation {
        invariant: "none",
        text: "the run does not fail any more".to_owned(),
    });
    let mut chunk = best.faults.len().div_ceil(2);
    while chunk > 0 && !best.faults.is_empty() {
        let mut at = 0;
        while at < best.faults.len() {
            let mut fewer = best.clone();
            let end = (at + chunk).min(fewer.faults.len());
            fewer.faults.drain(at..end);
            match failure(&fewer) {
                Some(found) => (best, violation) = (fewer, found),
                None => at += chunk,
            }
        }
        chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
    }
    (best, violation)
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    pub seeds: u64,
    pub totals: Totals,
    pub took: Duration,
    /// CPU time is about `took` times the jobs.
    pub jobs: u64,
    pub failures: Vec<(u64, Violation)>,
}

/// Runs the seeds `from..to` on `jobs` threads until `failures_max` have failed, or time is over.
pub fn search(
    from: u64,
    to: u64,
    jobs: u64,
    failures_max: usize,
    limit: Option<Duration>,
    make: impl Fn(u64) -> Plan + Sync,
) -> Found {
    let began = Instant::now();
    let next = AtomicU64::new(from);
    let enough = AtomicBool::new(false);
    let found = Mutex::new(Found { jobs, ..Found::default() });
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed)
                    && limit.is_none_or(|limit| began.elapsed() < limit)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let report = run_caught(&make(seed), false);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.seeds += 1;
                    found.totals.add(&report.totals);
                    if let Some(violation) = report.violation {
                        found.failures.push((seed, violation));
                        if found.failures.len() >= failures_max {
                            enough.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.failures.sort_by_key(|(seed, _)| *seed);
    found.took = began.elapsed();
    found
}

impl Found {
    /// One line of totals.
    pub fn summary(&self) -> String {
        let totals = &self.totals;
        let seconds = self.took.as_secs_f64().max(0.001);
        let cpu_hours = seconds * self.jobs as f64 / 3600.0;
        let faults: Vec<String> =
            totals.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!(
            "{} seeds, {} failed; {} operations ({} answered, {} refused or unknown), {} entries, \
             {} elections, {} checkpoints, {} states loaded, {} replicas replaced; faults: {}; {:.0} \
             seeds/minute, {:.0} simulated hours per CPU hour",
            self.seeds,
            self.failures.len(),
            totals.operations,
            totals.answered,
            totals.failed,
            totals.entries,
            totals.elections,
            totals.checkpoints,
            totals.snapshots,
            totals.replaced,
            faults.join(", "),
            self.seeds as f64 * 60.0 / seconds,
            totals.simulated.as_secs_f64() / 3600.0 / cpu_hours,
        )
    }
}
