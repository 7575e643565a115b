//! The deliberate bugs: each must be noticed within a stated number of seeds. Built with the feature
//! `deliberate-bugs` only.

use std::time::{Duration, Instant};

use holdfast_proto::bugs::{self, Bug};

use super::oracle::Violation;
use super::plan::Plan;
use super::search::run_caught;

/// Seeds tried for each bug at most.
const SEEDS_MAX: u64 = 3_000;

/// A seed that noticed each bug when the table in docs/simulation.md was made. The quick gate tries it
/// first; any change of the code may make it another one, so the gate then goes on with others. `None`:
/// not noticed yet within [`SEEDS_MAX`], and not part of the gate.
const fn known(bug: Bug) -> Option<u64> {
    match bug {
        Bug::PromiseBeforePersisted | Bug::DuplicateExecutes => Some(4),
        Bug::LeaseNotChecked => Some(6),
        Bug::LanesNotInCheckpoint | Bug::TimeGoesBack => Some(3),
        Bug::ReplyBeforeCommit
        | Bug::ReadBeforeOwnWrite
        | Bug::RepliesOutOfOrder
        | Bug::ExpiryByLocalClock => Some(0),
        Bug::NoVoteRefusal => Some(43),
        Bug::ServeBeforeOwnEntry => Some(10),
        Bug::NewSeqOnResend => Some(13),
        Bug::UnknownCalledFailed => Some(39),
        Bug::VoteNotStored
        | Bug::ReadContextReused
        | Bug::GapIgnored
        | Bug::AmnesiacRejoins
        | Bug::TickBurst
        | Bug::ReadWithoutRound
        | Bug::LeaseKeptInHandOver
        | Bug::SnapshotBeforeDisk
        | Bug::LeadAfterRemoval
        | Bug::CheckpointBeforeRecord => None,
    }
}

/// The first of the seeds that notices a bug, and how; and how many seeds were tried.
fn noticed(
    bug: Bug,
    seeds: impl Iterator<Item = u64>,
    limit: Option<Duration>,
    make: fn(u64) -> Plan,
) -> (Option<(u64, Violation)>, u64) {
    bugs::set(Some(bug));
    let began = Instant::now();
    let (mut found, mut tried) = (None, 0);
    for seed in seeds {
        if limit.is_some_and(|limit| began.elapsed() > limit) {
            break;
        }
        tried += 1;
        found = run_caught(&make(seed), false).violation.map(|violation| (seed, violation));
        if found.is_some() {
            break;
        }
    }
    bugs::set(None);
    (found, tried)
}

/// Prints the table; false if a bug was not noticed.
pub(crate) fn table(
    quick: bool,
    only: Option<&str>,
    limit: Option<Duration>,
    make: fn(u64) -> Plan,
) -> bool {
    println!("| bug | noticed by seed | seeds tried | invariant |");
    println!("| --- | --- | --- | --- |");
    let (mut missed, mut left_out) = (0, 0);
    for bug in Bug::ALL {
        if only.is_some_and(|only| !format!("{bug:?}").eq_ignore_ascii_case(only)) {
            continue;
        }
        let first = known(bug).filter(|_| quick);
        if quick && first.is_none() {
            left_out += 1;
            continue;
        }
        let seeds = first.into_iter().chain((0..SEEDS_MAX).filter(|seed| Some(*seed) != first));
        let (found, tried) = noticed(bug, seeds, limit, make);
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
    let all = Bug::ALL.len();
    println!("{missed} of {all} deliberate bugs were not noticed, {left_out} were not tried");
    missed == 0
}
