//! The simulation itself: equal seeds give equal runs, and a few seeds run clean.

use super::plan::Plan;
use super::search::{run_caught, search};

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 11, 12] {
        let plan = Plan::new(seed);
        let (first, second) = (run_caught(&plan, false), run_caught(&plan, false));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.totals.events, second.totals.events, "seed {seed}");
        assert_ne!(first.trace, run_caught(&Plan::new(seed + 100), false).trace);
    }
}

#[test]
fn a_few_seeds_run_clean() {
    let found = search(0, 40, 2, 3, None, Plan::new);
    assert_eq!(found.failures, [], "{}", found.summary());
    assert_eq!(found.seeds, 40);
    assert!(found.totals.answered > 2_000, "{}", found.summary());
}
