//! Checks what clients saw: linearizability of each object, strict serializability of transactions,
//! exactly-once.
//!
//! [`history`] is the record of a run and its file format. [`check`] looks at each object on its own
//! (linearizability composes) and on all cores. What the checkers cannot decide within their limits
//! counts as a fault: a run passes only if it was shown to be correct.

mod counts;
pub mod history;
mod models;
mod search;
mod serial;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_random;

use history::{Model, Operation};
use search::{Found, Object, search};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How far to go.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tries of an operation per object. Each remembers up to 17 bytes, so this bounds memory too.
    pub steps_per_object: u64,
    /// For everything together.
    pub time: Duration,
    /// By how much clocks may have been off while keys expired.
    pub expiry_slack: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps_per_object: 20_000_000,
            time: Duration::from_secs(600),
            expiry_slack: Duration::from_millis(50),
        }
    }
}

/// Which promise broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something acknowledged is missing.
    Lost,
    /// Something happened more than once.
    Doubled,
    /// Something is there that never happened or was refused.
    Phantom,
    /// A read answered with something older than it may.
    Stale,
    /// Things happened in an order that they must not.
    Order,
    /// No order of the operations explains the answers.
    NotLinearizable,
    /// Transactions that each must come before the other.
    Cycle,
    /// An answer of a kind that the call cannot have.
    Malformed,
    /// Time or memory ran out before it was known.
    Inconclusive,
}

/// One broken promise.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    pub kind: Kind,
    pub key: String,
    /// How many operations are concerned.
    pub count: i64,
    pub text: String,
    /// The operations that show it.
    pub evidence: Vec<String>,
}

impl Fault {
    fn new(kind: Kind, key: &str, text: String, evidence: &[&Operation]) -> Self {
        Self::counted(kind, 1, key, text, evidence)
    }

    fn counted(kind: Kind, count: i64, key: &str, text: String, evidence: &[&Operation]) -> Self {
        let evidence = evidence.iter().map(|operation| operation.describe()).collect();
        Self { kind, key: key.to_owned(), count, text, evidence }
    }
}

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub operations: usize,
    /// Operations whose outcome nobody knows.
    pub unknown: usize,
    /// Objects (or groups of keys) looked at, by model.
    pub objects: BTreeMap<String, usize>,
    pub faults: Vec<Fault>,
    pub took_ms: u64,
}

impl Verdict {
    pub fn is_fine(&self) -> bool {
        self.faults.is_empty()
    }

    /// Operations concerned by faults of a kind.
    pub fn count(&self, kind: Kind) -> i64 {
        self.faults.iter().filter(|fault| fault.kind == kind).map(|fault| fault.count).sum()
    }

    /// All kinds in one line.
    pub fn totals(&self) -> String {
        let objects: usize = self.objects.values().sum();
        let other: i64 =
            [Kind::Phantom, Kind::Order, Kind::Cycle, Kind::Malformed, Kind::NotLinearizable]
                .iter()
                .map(|kind| self.count(*kind))
                .sum();
        format!(
            "{} operations on {objects} objects ({} of unknown outcome): {} lost, {} doubled, {} stale, {other} other anomalies, {} inconclusive",
            self.operations,
            self.unknown,
            self.count(Kind::Lost),
            self.count(Kind::Doubled),
            self.count(Kind::Stale),
            self.count(Kind::Inconclusive),
        )
    }
}

/// Checks a whole history.
pub fn check(operations: &[Operation], limits: &Limits) -> Verdict {
    let started = Instant::now();
    let mut objects: BTreeMap<(Model, &str), Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        objects.entry((operation.model, &operation.key)).or_default().push(operation);
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (model, _) in objects.keys() {
        *counts.entry(format!("{model:?}").to_lowercase()).or_default() += 1;
    }
    let objects: Vec<_> = objects.into_iter().collect();
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(((model, key), operations)) = objects.get(index) else { return };
                    let mut found = Vec::new();
                    if started.elapsed() < limits.time {
                        check_object(*model, key, operations, limits, &mut found);
                    } else {
                        let text = "not looked at: no time left".to_owned();
                        found.push(Fault::new(Kind::Inconclusive, key, text, &[]));
                    }
                    if !found.is_empty() {
                        let mut faults = faults.lock().expect("no thread panics with the lock");
                        faults.extend(found.into_iter().map(|fault| (index, fault)));
                    }
                }
            });
        }
    });
    let mut faults = faults.into_inner().expect("no thread panics with the lock");
    faults.sort_by_key(|(index, _)| *index);
    Verdict {
        operations: operations.len(),
        unknown: operations.iter().filter(|op| op.outcome == history::Outcome::Unknown).count(),
        objects: counts,
        faults: faults.into_iter().map(|(_, fault)| fault).collect(),
        took_ms: started.elapsed().as_millis() as u64,
    }
}

fn check_object(
    model: Model,
    key: &str,
    operations: &[&Operation],
    limits: &Limits,
    faults: &mut Vec<Fault>,
) {
    if let Some(wrong) = operations.iter().find(|operation| !is_well_formed(model, operation)) {
        let text = "an answer that this call cannot have".to_owned();
        faults.push(Fault::new(Kind::Malformed, key, text, &[wrong]));
        return;
    }
    let mut linearize = |intervals: &[search::Interval],
                         object: &dyn Search,
                         ops: &[&Operation]| {
        let stuck = match object.run(intervals, limits.steps_per_object) {
            Found::Linearizable => return,
            Found::Impossible { stuck } => stuck,
            Found::Inconclusive => {
                let text = format!("{} operations: too many orders to try", ops.len());
                faults.push(Fault::new(Kind::Inconclusive, key, text, &[]));
                return;
            }
        };
        let text = "no order explains the answers; the first that does not fit and what was going \
                    on around it:"
            .to_owned();
        let around = neighbours(ops, stuck);
        faults.push(Fault::new(Kind::NotLinearizable, key, text, &around));
    };
    let slack = limits.expiry_slack.as_nanos() as u64;
    match model {
        Model::Register => {
            let object = models::Register::new(operations);
            linearize(&object.prepared.intervals, &object, &object.prepared.operations);
        }
        Model::Counter => {
            let object = models::Counter::new(operations);
            linearize(&object.prepared.intervals, &object, &object.prepared.operations);
            counts::counter(key, operations, faults);
        }
        Model::List => {
            let object = models::List::new(operations);
            linearize(&object.prepared.intervals, &object, &object.prepared.operations);
            counts::list(key, operations, faults);
        }
        Model::Set => {
            let object = models::Set::new(operations);
            linearize(&object.prepared.intervals, &object, &object.prepared.operations);
        }
        Model::Hash => {
            let object = models::Hash::new(operations);
            linearize(&object.prepared.intervals, &object, &object.prepared.operations);
        }
        Model::Expiring => {
            let object = models::Expiring::new(operations, slack);
            linearize(&object.prepared.intervals, &object, &object.prepared.operations);
        }
        Model::Queue => counts::queue(key, operations, faults),
        Model::Transactions => serial::check(key, operations, faults),
    }
}

/// A search over any object.
trait Search {
    fn run(&self, intervals: &[search::Interval], steps: u64) -> Found;
}

impl<O: Object> Search for O {
    fn run(&self, intervals: &[search::Interval], steps: u64) -> Found {
        search(self, intervals, steps)
    }
}

/// The operation that did not fit, first, then up to a dozen that overlap it or end just before it.
fn neighbours<'a>(operations: &[&'a Operation], stuck: usize) -> Vec<&'a Operation> {
    let centre = operations[stuck];
    let mut before: Vec<&Operation> = operations
        .iter()
        .enumerate()
        .filter(|(index, other)| *index != stuck && other.start <= centre.end)
        .map(|(_, operation)| *operation)
        .collect();
    before.sort_by_key(|operation| std::cmp::Reverse(operation.end.min(centre.end)));
    before.truncate(12);
    before.sort_by_key(|operation| operation.start);
    let mut evidence = vec![centre];
    evidence.extend(before);
    evidence
}

fn is_well_formed(model: Model, operation: &Operation) -> bool {
    use history::{Call, Reply};
    let fits_model = match operation.call {
        Call::Get => matches!(model, Model::Register | Model::Counter | Model::Expiring),
        Call::Set { .. } | Call::Cas { .. } => model == Model::Register,
        Call::Add { .. } => model == Model::Counter,
        Call::Append { .. } | Call::ReadList => model == Model::List,
        Call::AddMember { .. }
        | Call::RemoveMember { .. }
        | Call::HasMember { .. }
        | Call::Members => model == Model::Set,
        Call::SetField { .. } | Call::DeleteField { .. } | Call::GetField { .. } | Call::Fields => {
            model == Model::Hash
        }
        Call::SetExpiring { .. } | Call::Lock { .. } => model == Model::Expiring,
        Call::Push { .. } | Call::Pop => model == Model::Queue,
        Call::Transaction { .. } => model == Model::Transactions,
    };
    let fits_call = operation.reply().is_none_or(|reply| match (&operation.call, reply) {
        (Call::Get | Call::GetField { .. } | Call::Pop, Reply::Value(_))
        | (Call::Set { .. } | Call::SetExpiring { .. } | Call::Push { .. }, Reply::Done)
        | (Call::Cas { .. } | Call::HasMember { .. } | Call::Lock { .. }, Reply::Did(_))
        | (
            Call::Add { .. }
            | Call::Append { .. }
            | Call::AddMember { .. }
            | Call::RemoveMember { .. }
            | Call::SetField { .. }
            | Call::DeleteField { .. },
            Reply::Number(_),
        )
        | (Call::ReadList | Call::Members, Reply::List(_))
        | (Call::Fields, Reply::Pairs(_)) => true,
        (Call::Transaction { steps }, Reply::Lists(lists)) => {
            steps.len() == lists.len()
                && steps
                    .iter()
                    .zip(lists)
                    .all(|(step, list)| step.append.is_none() == list.is_some())
        }
        _ => false,
    });
    fits_model && fits_call
}
