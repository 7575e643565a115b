//! The deliberate bugs: each must be noticed within a stated number of runs. Built with the feature
//! `deliberate-bugs` only.

use std::fmt;
use std::time::{Duration, Instant};

use holdfast_consensus::testing::World;
use holdfast_consensus::testing::random::{Faults, run as run_replicas};
use holdfast_proto::bugs::{self, Bug};

use super::oracle::Violation;
use super::plan::PlanKind;
use super::search::{caught, run_caught};

/// Seeds tried for each bug at most, of each kind of plan.
const SEEDS_MAX: u64 = 3_000;

/// What can notice a bug.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    /// A whole cluster.
    Cluster(PlanKind, u64),
    /// Replicas of one shard alone, with membership changes of every kind.
    Replicas(u64),
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(kind, seed) => write!(f, "{seed}{}", kind.option()),
            Self::Replicas(seed) => write!(f, "{seed} of replicas alone"),
        }
    }
}

impl Run {
    fn violation(self) -> Option<Violation> {
        match self {
            Self::Cluster(kind, seed) => run_caught(&kind.plan(seed), false).violation,
            Self::Replicas(seed) => {
                let faults = Faults { power_loss: true, membership: true };
                let text = caught(|| run_replicas(World::rough(seed), 3, faults)).err()?;
                Some(Violation { invariant: "of replicas", text })
            }
        }
    }

    /// All that are tried for a bug, in order.
    fn all(bug: Bug, kinds: &[PlanKind]) -> impl Iterator<Item = Self> {
        // In a whole cluster a replica that is to be removed has been closed by its node before the
        // change is proposed.
        let alone = bug == Bug::LeadAfterRemoval;
        (0..SEEDS_MAX).flat_map(move |seed| {
            let cluster = kinds.iter().filter(move |_| !alone);
            let cluster = cluster.map(move |kind| Self::Cluster(*kind, seed));
            cluster.chain(alone.then_some(Self::Replicas(seed)))
        })
    }
}

/// The run that noticed each bug when the table in docs/simulation.md was made. The quick gate tries it
/// first; any change of the code may make it another one, so the gate then goes on with others.
const fn known(bug: Bug) -> Run {
    use PlanKind::{Plain, Rush, Staged};
    use Run::{Cluster, Replicas};
    match bug {
        Bug::ReplyBeforeCommit
        | Bug::ReadBeforeOwnWrite
        | Bug::RepliesOutOfOrder
        | Bug::ExpiryByLocalClock => Cluster(Plain, 0),
        Bug::LeaseNotChecked => Cluster(Plain, 6),
        Bug::UnknownCalledFailed => Cluster(Plain, 34),
        Bug::NoVoteRefusal => Cluster(Plain, 43),
        Bug::PromiseBeforePersisted
        | Bug::LanesNotInCheckpoint
        | Bug::DuplicateExecutes
        | Bug::CheckpointBeforeRecord => Cluster(Staged, 1),
        Bug::TimeGoesBack => Cluster(Staged, 2),
        Bug::LeaseKeptInHandOver => Cluster(Staged, 3),
        Bug::ServeBeforeOwnEntry => Cluster(Staged, 4),
        Bug::TickBurst => Cluster(Staged, 6),
        Bug::AmnesiacRejoins | Bug::SnapshotBeforeDisk => Cluster(Staged, 13),
        Bug::ReadContextReused => Cluster(Staged, 24),
        Bug::VoteNotStored => Cluster(Staged, 40),
        Bug::GapIgnored => Cluster(Staged, 163),
        Bug::NewSeqOnResend => Cluster(Rush, 1),
        Bug::ReadWithoutRound => Cluster(Rush, 149),
        Bug::LeadAfterRemoval => Replicas(66),
    }
}

/// What came of a search for a run that notices a bug.
struct Search {
    found: Option<(Run, Violation)>,
    tried: u64,
}

fn search(bug: Bug, runs: impl Iterator<Item = Run>, limit: Option<Duration>) -> Search {
    let began = Instant::now();
    let mut tried = 0;
    bugs::set(Some(bug));
    let mut in_time = runs.take_while(|_| limit.is_none_or(|limit| began.elapsed() < limit));
    let found = in_time.find_map(|run| {
        tried += 1;
        Some((run, run.violation()?))
    });
    bugs::set(None);
    Search { found, tried }
}

/// Prints the table; false if a bug was not noticed.
pub(crate) fn table(
    quick: bool,
    only: Option<&str>,
    limit: Option<Duration>,
    kinds: &[PlanKind],
) -> bool {
    println!("| bug | noticed by seed | runs tried | invariant |");
    println!("| --- | --- | --- | --- |");
    let mut missed = 0;
    for bug in Bug::ALL {
        if only.is_some_and(|only| !format!("{bug:?}").eq_ignore_ascii_case(only)) {
            continue;
        }
        let first = Some(known(bug)).filter(|_| quick);
        let rest = Run::all(bug, kinds).filter(|run| Some(*run) != first);
        let Search { found, tried } = search(bug, first.into_iter().chain(rest), limit);
        let Some((run, Violation { invariant, text })) = found else {
            missed += 1;
            println!("| {bug:?} | none | {tried} | |");
            continue;
        };
        if let Some(violation) = run.violation() {
            missed += 1;
            println!(
                "| {bug:?} | {run}, which fails without it as well: {violation:?} | {tried} | |"
            );
            continue;
        }
        let text: String = text.chars().take(110).collect();
        let text = text.replace('|', "/").replace('\n', " ");
        println!("| {bug:?} | {run} | {tried} | {invariant}: {text} |");
    }
    let all = Bug::ALL.len();
    println!("{missed} of {all} deliberate bugs were not noticed");
    missed == 0
}
