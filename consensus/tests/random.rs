//! Random runs of the deterministic cluster.

#![allow(clippy::unwrap_used)]

use holdfast_consensus::testing::World;
use holdfast_consensus::testing::random::{Faults, run};

fn seeds(default: u64) -> std::ops::Range<u64> {
    // HOLDFAST_SEEDS=from-to runs others.
    let Ok(range) = std::env::var("HOLDFAST_SEEDS") else {
        return 0..default;
    };
    let (from, to) = range.split_once('-').expect("from-to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn three_replicas_survive_process_faults() {
    let faults = Faults { power_loss: false, membership: false };
    for seed in seeds(60) {
        run(World::rough(seed), 3, faults);
    }
}

#[test]
fn five_replicas_survive_power_loss() {
    let faults = Faults { power_loss: true, membership: false };
    for seed in seeds(30) {
        run(World::rough(seed), 5, faults);
    }
}

#[test]
fn membership_changes_lose_nothing() {
    let faults = Faults { power_loss: true, membership: true };
    for seed in seeds(60) {
        run(World::rough(seed), 3, faults);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let faults = Faults { power_loss: true, membership: true };
    for seed in [3, 14] {
        assert_eq!(run(World::rough(seed), 3, faults), run(World::rough(seed), 3, faults));
    }
}
