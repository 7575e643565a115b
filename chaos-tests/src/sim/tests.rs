//! The simulation itself: equal seeds give equal runs, and a few seeds run clean.

use super::plan::PlanKind;
use super::search::{run_caught, search};

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (kind, seed) in [3, 11, 12].into_iter().flat_map(|s| PlanKind::ALL.map(|kind| (kind, s))) {
        let plan = kind.plan(seed);
        let (first, second) = (run_caught(&plan, false), run_caught(&plan, false));
        assert_eq!(first.trace, second.trace, "{kind:?} {seed}");
        assert_eq!(first.totals.events, second.totals.events, "{kind:?} {seed}");
        assert_ne!(first.trace, run_caught(&kind.plan(seed + 100), false).trace);
    }
}

#[test]
fn a_few_seeds_run_clean() {
    for kind in PlanKind::ALL {
        let found = search(0, 20, 2, 3, None, |seed| kind.plan(seed));
        assert_eq!(found.failures, [], "{kind:?}: {}", found.summary());
        assert_eq!(found.seeds, 20);
        assert!(found.totals.answered > 1_000, "{kind:?}: {}", found.summary());
    }
}

/// Those of the table in docs/simulation.md. What they showed is pinned at lower levels too, as any
/// change of the code makes other runs of them.
#[test]
fn seeds_that_once_failed_run_clean() {
    for seed in [43, 160, 384, 1894, 109_046, 201_937, 512_668] {
        let report = run_caught(&PlanKind::Plain.plan(seed), false);
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
