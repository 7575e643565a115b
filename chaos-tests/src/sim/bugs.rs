//! The deliberate bugs: each must be noticed within a stated number of seeds. Built with the feature
//! `deliberate-bugs` only.

use holdfast_proto::bugs::{self, Bug};

use super::oracle::Violation;
use super::plan::Plan;
use super::search::run_caught;

/// Seeds tried for each bug in a whole search.
const SEEDS_MAX: u64 = 3_000;
/// Seeds tried from the known one on in the quick gate: a change of the code shifts the schedules,
/// and what one seed noticed before one of its neighbours notices then.
const GATE_SEEDS: u64 = 400;

/// A seed a little before the first one that notices the bug, for the quick gate.
fn start(bug: Bug) -> u64 {
    match bug {
        _ if (bug as u32) == 0 => 1,
        _ => 0,
    }
}

/// The first seed of a range that notices a bug, and how.
fn noticed(bug: Bug, seeds: std::ops::Range<u64>) -> Option<(u64, Violation)> {
    bugs::set(Some(bug));
    let mut seeds = seeds;
    let found = seeds.find_map(|seed| {
        let violation = run_caught(&Plan::new(seed), false).violation?;
        Some((seed, violation))
    });
    bugs::set(None);
    found
}

/// Prints the table; false if a bug was not noticed.
pub(crate) fn table(quick: bool, only: Option<&str>) -> bool {
    println!("| bug | noticed by seed | seeds tried | invariant |");
    println!("| --- | --- | --- | --- |");
    let mut missed = 0;
    for bug in Bug::ALL {
        if only.is_some_and(|only| !format!("{bug:?}").eq_ignore_ascii_case(only)) {
            continue;
        }
        let from = if quick { start(bug) } else { 0 };
        let most = if quick { GATE_SEEDS } else { SEEDS_MAX };
        match noticed(bug, from..from + most) {
            Some((seed, violation)) => {
                let Violation { invariant, text } = violation;
                let text: String = text.chars().take(110).collect();
                let text = text.replace('|', "/").replace('\n', " ");
                println!("| {bug:?} | {seed} | {} | {invariant}: {text} |", seed - from + 1);
            }
            None => {
                missed += 1;
                println!("| {bug:?} | none | {most} | |");
            }
        }
    }
    println!("{missed} of {} deliberate bugs were not noticed", Bug::ALL.len());
    missed == 0
}
