//! The checkers against trying every order, on small random histories.

use super::history::{Call, Model, NEVER, Operation, Outcome, Reply, Step};
use super::{Limits, check};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// An object of any model, in the simplest form.
#[derive(Clone, Default)]
struct World {
    value: Option<i64>,
    list: Vec<i64>,
    set: BTreeSet<i64>,
    hash: BTreeMap<i64, i64>,
    queue: VecDeque<i64>,
    lists: BTreeMap<u32, Vec<i64>>,
}

impl World {
    fn apply(&mut self, call: &Call) -> Reply {
        match call {
            Call::Get => Reply::Value(self.value),
            Call::Set { value } => {
                self.value = Some(*value);
                Reply::Done
            }
            Call::Cas { from, to } => {
                let does = self.value == *from;
                if does {
                    self.value = Some(*to);
                }
                Reply::Did(does)
            }
            Call::Add { by } => {
                let sum = self.value.unwrap_or(0) + by;
                self.value = Some(sum);
                Reply::Number(sum)
            }
            Call::Append { value } => {
                self.list.push(*value);
                Reply::Number(self.list.len() as i64)
            }
            Call::ReadList => Reply::List(self.list.clone()),
            Call::AddMember { value } => Reply::Number(i64::from(self.set.insert(*value))),
            Call::RemoveMember { value } => Reply::Number(i64::from(self.set.remove(value))),
            Call::HasMember { value } => Reply::Did(self.set.contains(value)),
            Call::Members => Reply::List(self.set.iter().copied().collect()),
            Call::SetField { field, value } => {
                Reply::Number(i64::from(self.hash.insert(*field, *value).is_none()))
            }
            Call::DeleteField { field } => {
                Reply::Number(i64::from(self.hash.remove(field).is_some()))
            }
            Call::GetField { field } => Reply::Value(self.hash.get(field).copied()),
            Call::Fields => Reply::Pairs(self.hash.iter().map(|(f, v)| (*f, *v)).collect()),
            Call::Push { value } => {
                self.queue.push_back(*value);
                Reply::Done
            }
            Call::Pop => Reply::Value(self.queue.pop_front()),
            Call::Transaction { steps } => {
                let step = |step: &Step| {
                    let list = self.lists.entry(step.key).or_default();
                    match step.append {
                        Some(value) => {
                            list.push(value);
                            None
                        }
                        None => Some(list.clone()),
                    }
                };
                Reply::Lists(steps.iter().map(step).collect())
            }
            Call::SetExpiring { .. } | Call::Lock { .. } => unreachable!("not generated here"),
        }
    }
}

/// Tries every order and every choice of operations of unknown outcome.
fn has_order(operations: &[Operation], taken: &mut Vec<bool>, world: &World) -> bool {
    let is_open =
        |at: usize, taken: &[bool]| !taken[at] && matches!(operations[at].outcome, Outcome::Ok(_));
    if (0..operations.len()).all(|at| !is_open(at, taken)) {
        return true;
    }
    for at in 0..operations.len() {
        let operation = &operations[at];
        let too_early = (0..operations.len()).any(|other| {
            other != at && is_open(other, taken) && operations[other].end < operation.start
        });
        if taken[at] || too_early || operation.outcome == Outcome::Failed {
            continue;
        }
        let mut next = world.clone();
        let reply = next.apply(&operation.call);
        if operation.reply().is_some_and(|seen| *seen != reply) {
            continue;
        }
        taken[at] = true;
        let found = has_order(operations, taken, &next);
        taken[at] = false;
        if found {
            return true;
        }
    }
    false
}

fn random_call(model: Model, unique: i64, random: &mut Random) -> Call {
    let small = random.below(2) as i64;
    let write = random.below(3) > 0;
    match (model, random.below(3)) {
        (Model::Register, 0) => Call::Get,
        (Model::Register, 1) => Call::Set { value: small },
        (Model::Register, _) => {
            let from = if random.chance(1, 5) { None } else { Some(small) };
            Call::Cas { from, to: random.below(2) as i64 }
        }
        (Model::Counter, _) if write => Call::Add { by: 1 + i64::from(random.chance(1, 4)) },
        (Model::Counter, _) => Call::Get,
        (Model::List, _) if write => Call::Append { value: unique },
        (Model::List, _) => Call::ReadList,
        (Model::Set, 0) => Call::AddMember { value: small },
        (Model::Set, 1) => Call::RemoveMember { value: small },
        (Model::Set, _) if write => Call::HasMember { value: small },
        (Model::Set, _) => Call::Members,
        (Model::Hash, 0) => Call::SetField { field: small, value: random.below(2) as i64 },
        (Model::Hash, 1) if write => Call::DeleteField { field: small },
        (Model::Hash, 1) => Call::GetField { field: small },
        (Model::Hash, _) => Call::Fields,
        (Model::Queue, _) if random.chance(1, 2) => Call::Push { value: unique },
        (Model::Queue, _) => Call::Pop,
        (Model::Transactions, _) => {
            let step = |at: u64, random: &mut Random| Step {
                key: random.below(2) as u32,
                append: random.chance(1, 2).then_some(10 * unique + at as i64),
            };
            let count = 1 + random.below(3);
            Call::Transaction { steps: (0..count).map(|at| step(at, random)).collect() }
        }
        (Model::Expiring, _) => unreachable!("not generated here"),
    }
}

/// A history that really happened, but for up to one answer that was tampered with.
fn random_history(model: Model, random: &mut Random) -> Vec<Operation> {
    let count = 3 + random.below(5) as usize;
    let mut planned: Vec<(u64, Operation, bool)> = Vec::new();
    for at in 0..count {
        let start = random.below(30);
        let end = start + random.below(12);
        let instant = start + random.below(end - start + 1);
        let call = random_call(model, at as i64, random);
        let outcome = Outcome::Ok(Reply::Done);
        let client = at as u32;
        let operation = Operation { model, key: "x".into(), client, start, end, call, outcome };
        planned.push((instant, operation, true));
    }
    // Something that reads it all in the end, so that nothing hides.
    let last = match model {
        Model::Register | Model::Counter => Call::Get,
        Model::List => Call::ReadList,
        Model::Set => Call::Members,
        Model::Hash => Call::Fields,
        Model::Queue => Call::Pop,
        _ => Call::Transaction { steps: (0..2).map(|key| Step { key, append: None }).collect() },
    };
    let outcome = Outcome::Ok(Reply::Done);
    let read =
        Operation { model, key: "x".into(), client: 99, start: 100, end: 110, call: last, outcome };
    planned.push((105, read, true));
    for (instant, operation, happens) in &mut planned {
        if operation.client != 99 && random.chance(1, 6) {
            *happens = random.chance(1, 2);
            operation.outcome =
                if *happens || random.chance(1, 2) { Outcome::Unknown } else { Outcome::Failed };
            if operation.outcome == Outcome::Unknown {
                operation.end = NEVER;
                *instant += random.below(30);
            }
        }
    }
    planned.sort_by_key(|(instant, _, _)| *instant);
    let mut world = World::default();
    for (_, operation, happens) in &mut planned {
        if !*happens {
            continue;
        }
        let reply = world.apply(&operation.call);
        if operation.end != NEVER {
            operation.outcome = Outcome::Ok(reply);
        }
    }
    let mut operations: Vec<Operation> = planned.into_iter().map(|(_, op, _)| op).collect();
    if random.chance(2, 3) {
        let at = random.below(operations.len() as u64) as usize;
        tamper(&mut operations[at], random);
    }
    operations
}

fn tamper(operation: &mut Operation, random: &mut Random) {
    let Outcome::Ok(reply) = &mut operation.outcome else { return };
    match reply {
        Reply::Number(number) => *number += if random.chance(1, 2) { 1 } else { -1 },
        Reply::Value(value) => *value = random.chance(3, 4).then_some(random.below(3) as i64),
        Reply::Did(did) => *did = !*did,
        Reply::List(list) if random.chance(1, 2) => {
            list.pop();
        }
        Reply::List(list) => list.push(random.below(6) as i64),
        Reply::Pairs(pairs) => {
            pairs.pop();
        }
        Reply::Lists(lists) => {
            for list in lists.iter_mut().flatten() {
                list.pop();
            }
        }
        Reply::Done => {}
    }
}

fn compare(model: Model, seeds: std::ops::Range<u64>, is_complete: bool) {
    let (mut good, mut bad) = (0, 0);
    for seed in seeds {
        let history = random_history(model, &mut Random::new(seed));
        let expected = has_order(&history, &mut vec![false; history.len()], &World::default());
        let verdict = check(&history, &Limits::default());
        let shown = || {
            let lines: Vec<String> = history.iter().map(Operation::describe).collect();
            format!("seed {seed}, has an order: {expected}\n{}\n{verdict:#?}", lines.join("\n"))
        };
        if expected || is_complete {
            assert_eq!(verdict.is_fine(), expected, "{}", shown());
        }
        if verdict.is_fine() {
            good += 1;
        } else {
            bad += 1;
        }
    }
    assert!(good > 100 && bad > 100, "the histories are too much alike: {good} good, {bad} bad");
}

#[test]
fn registers() {
    compare(Model::Register, 0..3000, true);
}

#[test]
fn counters() {
    compare(Model::Counter, 0..3000, true);
}

#[test]
fn lists() {
    compare(Model::List, 0..3000, true);
}

#[test]
fn sets() {
    compare(Model::Set, 0..3000, true);
}

#[test]
fn hashes() {
    compare(Model::Hash, 0..3000, true);
}

/// The queue's checks look for known patterns, which need not be all there are.
#[test]
fn queues() {
    compare(Model::Queue, 0..3000, false);
}

#[test]
fn transactions() {
    compare(Model::Transactions, 0..3000, true);
}
