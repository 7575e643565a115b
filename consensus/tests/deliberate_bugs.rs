//! The random runs must notice each of a list of deliberate bugs.
//! `cargo test -p holdfast-consensus --features deliberate-bugs --test deliberate_bugs`

use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast_consensus::Bug;
use holdfast_consensus::testing::World;
use holdfast_consensus::testing::random::{Faults, run};

/// Seeds tried for each bug.
const SEEDS: u64 = 250;

const BUGS: [(Bug, u64); 6] = [
    (Bug::PromiseBeforePersisted, 0),
    (Bug::LeadAfterRemoval, 0),
    (Bug::SnapshotBeforeDisk, 0),
    (Bug::CheckpointBeforeRecord, 0),
    (Bug::ReadWithoutRound, 0),
    (Bug::NoVoteRefusal, 700),
];

/// Runs until one fails; the seed and the message.
fn noticed(bug: Bug, mut seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    let kinds = [(3, false), (5, false), (3, true)];
    seeds.find_map(|seed| {
        let (count, membership) = kinds[(seed % 3) as usize];
        let world = World { bug: Some(bug), ..World::rough(seed) };
        let faults = Faults { power_loss: true, membership };
        let result = catch_unwind(AssertUnwindSafe(|| run(world, count, faults)));
        let panic = result.err()?;
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Some((seed, text.unwrap_or_default()))
    })
}

#[test]
fn every_deliberate_bug_is_noticed() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    // From a seed a little before the first that notices, so that this takes seconds.
    for (bug, from) in BUGS {
        match noticed(bug, from..from + SEEDS) {
            Some((seed, text)) => {
                let first = text.lines().next().unwrap_or_default();
                println!("{bug:?}: seed {seed}: {first}");
            }
            None => {
                println!("{bug:?}: not noticed");
                missed.push(bug);
            }
        }
    }
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
