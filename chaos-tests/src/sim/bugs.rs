//! The deliberate bugs: each must be noticed within a stated number of seeds. Built with the feature
//! `deliberate-bugs` only.

use std::time::{Duration, Instant};

use holdfast_proto::bugs::{self, Bug};

use super::oracle::Violation;
use super::plan::Plan;
use super::search::run_caught;

/// Seeds tried for each bug in a whole search.
const SEEDS_MAX: u64 = 3_000;
/// Seeds tried for each bug in the quick gate.
const GATE_SEEDS: u64 = 400;

/// The first seed of a range that notices a bug, and how; and how many seeds were tried.
fn noticed(
    bug: Bug,
    seeds: std::ops::Range<u64>,
    limit: Option<Duration>,
) -> (Option<(u64, Violation)>, u64) {
    bugs::set(Some(bug));
    let began = Instant::now();
    let (mut found, mut tried) = (None, 0);
    for seed in seeds {
        if limit.is_some_and(|limit| began.elapsed() > limit) {
            break;
        }
        tried += 1;
        found = run_caught(&Plan::new(seed), false).violation.map(|violation| (seed, violation));
        if found.is_some() {
            break;
        }
    }
    bugs::set(None);
    (found, tried)
}

/// Prints the table; false if a bug was not noticed.
pub(crate) fn table(quick: bool, only: Option<&str>, limit: Option<Duration>) -> bool {
    println!("| bug | noticed by seed | seeds tried | invariant |");
    println!("| --- | --- | --- | --- |");
    let mut missed = 0;
    for bug in Bug::ALL {
        if only.is_some_and(|only| !format!("{bug:?}").eq_ignore_ascii_case(only)) {
            continue;
        }
        let most = if quick { GATE_SEEDS } else { SEEDS_MAX };
        let (found, tried) = noticed(bug, 0..most, limit);
        match found {
            Some((seed, violation)) => {
                let Violation { invariant, text } = violation;
                let text: String = text.chars().take(110).collect();
                let text = text.replace('|', "/").replace('\n', " ");
                println!("| {bug:?} | {seed} | {tried} | {invariant}: {text} |");
            }
            None => {
                missed += 1;
                println!("| {bug:?} | none | {tried} | |");
            }
        }
    }
    println!("{missed} of {} deliberate bugs were not noticed", Bug::ALL.len());
    missed == 0
}
