//! Exactly once: nothing acknowledged is missing, nothing happened twice, nothing appeared from
//! nowhere. The [search](super::search) finds such faults too; these checks need no search, so they
//! also work on objects with any number of operations, and they say which promise broke.

use super::history::{Call, Operation, Outcome, Reply};
use super::{Fault, Kind};
use std::collections::HashMap;

/// A counter that is only incremented by 1: no answer may come twice, and the last read must count
/// every acknowledged increment.
pub(super) fn counter(key: &str, operations: &[&Operation], faults: &mut Vec<Fault>) {
    if operations.iter().any(|op| matches!(op.call, Call::Add { by } if by != 1)) {
        return;
    }
    let mut answers: HashMap<i64, &Operation> = HashMap::new();
    let (mut acknowledged, mut unknown) = (0_i64, 0_i64);
    let mut last_end = 0;
    for operation in operations.iter().filter(|op| matches!(op.call, Call::Add { .. })) {
        match &operation.outcome {
            Outcome::Ok(Reply::Number(number)) => {
                acknowledged += 1;
                last_end = last_end.max(operation.end);
                if let Some(first) = answers.insert(*number, operation) {
                    let text = format!("{number} was answered twice");
                    faults.push(Fault::new(Kind::Lost, key, text, &[first, operation]));
                }
            }
            Outcome::Unknown => unknown += 1,
            _ => {}
        }
    }
    for operation in operations.iter().filter(|op| op.start > last_end) {
        let Outcome::Ok(Reply::Value(value)) = &operation.outcome else { continue };
        let value = value.unwrap_or(0);
        if value < acknowledged {
            let text = format!("{acknowledged} increments were acknowledged, {value} are there");
            faults.push(Fault::counted(Kind::Lost, acknowledged - value, key, text, &[operation]));
        }
        if value > acknowledged + unknown {
            let most = acknowledged + unknown;
            let text = format!("at most {most} increments were made, {value} are there");
            faults.push(Fault::counted(Kind::Doubled, value - most, key, text, &[operation]));
        }
        return;
    }
}

/// A list with unique elements: the last read must hold each acknowledged one once, and nothing that
/// was never appended or whose append was refused.
pub(super) fn list(key: &str, operations: &[&Operation], faults: &mut Vec<Fault>) {
    let mut appends: HashMap<i64, &Operation> = HashMap::new();
    let mut last_end = 0;
    for operation in operations {
        if let Call::Append { value } = operation.call {
            appends.insert(value, operation);
            if operation.reply().is_some() {
                last_end = last_end.max(operation.end);
            }
        }
    }
    let final_read =
        operations.iter().filter(|op| op.start > last_end).find_map(|op| match &op.outcome {
            Outcome::Ok(Reply::List(values)) => Some((op, values)),
            _ => None,
        });
    let Some((read, values)) = final_read else { return };
    let mut times: HashMap<i64, u32> = HashMap::new();
    for value in values {
        *times.entry(*value).or_default() += 1;
    }
    for (value, times) in &times {
        match appends.get(value) {
            None => {
                let text = format!("{value} is there and was never appended");
                faults.push(Fault::new(Kind::Phantom, key, text, &[read]));
            }
            Some(append) if append.outcome == Outcome::Failed => {
                let text = format!("{value} is there although its append was refused");
                faults.push(Fault::new(Kind::Phantom, key, text, &[append]));
            }
            Some(append) if *times > 1 => {
                let text = format!("{value} is there {times} times");
                faults.push(Fault::new(Kind::Doubled, key, text, &[append]));
            }
            Some(_) => {}
        }
    }
    for (value, append) in &appends {
        if append.reply().is_some() && !times.contains_key(value) {
            let text = format!("{value} was acknowledged and is missing");
            faults.push(Fault::new(Kind::Lost, key, text, &[append]));
        }
    }
}

/// A queue whose elements are unique: each pushed element is taken once, in the order of pushing as
/// far as real time tells it, and no one is told that the queue is empty while something certainly
/// is in it.
pub(super) fn queue(key: &str, operations: &[&Operation], faults: &mut Vec<Fault>) {
    let mut pushes: HashMap<i64, &Operation> = HashMap::new();
    let mut pops: HashMap<i64, &Operation> = HashMap::new();
    let mut empty: Vec<&Operation> = Vec::new();
    let mut lost_pops = 0_usize;
    for operation in operations {
        match (&operation.call, &operation.outcome) {
            (Call::Push { value }, _) => {
                pushes.insert(*value, operation);
            }
            (Call::Pop, Outcome::Ok(Reply::Value(Some(value)))) => {
                if let Some(first) = pops.insert(*value, operation) {
                    let text = format!("{value} was delivered twice");
                    faults.push(Fault::new(Kind::Doubled, key, text, &[first, operation]));
                }
            }
            (Call::Pop, Outcome::Ok(_)) => empty.push(operation),
            (Call::Pop, Outcome::Unknown) => lost_pops += 1,
            _ => {}
        }
    }
    for (value, pop) in &pops {
        match pushes.get(value) {
            None => {
                let text = format!("{value} was delivered and never pushed");
                faults.push(Fault::new(Kind::Phantom, key, text, &[pop]));
            }
            Some(push) if push.outcome == Outcome::Failed => {
                let text = format!("{value} was delivered although its push was refused");
                faults.push(Fault::new(Kind::Phantom, key, text, &[push, pop]));
            }
            Some(push) if pop.end < push.start => {
                let text = format!("{value} was delivered before it was pushed");
                faults.push(Fault::new(Kind::Phantom, key, text, &[push, pop]));
            }
            Some(_) => {}
        }
    }
    missing(key, operations, &pushes, &pops, lost_pops, faults);
    order(key, &pushes, &pops, faults);
    emptiness(key, &pushes, &pops, &empty, lost_pops, faults);
}

/// Each acknowledged element must have been delivered, or be what a pop without an answer took. Only
/// known once the queue has been drained: when the last thing asked found it empty.
fn missing(
    key: &str,
    operations: &[&Operation],
    pushes: &HashMap<i64, &Operation>,
    pops: &HashMap<i64, &Operation>,
    lost_pops: usize,
    faults: &mut Vec<Fault>,
) {
    let last_end = pushes.values().filter(|op| op.reply().is_some()).map(|op| op.end).max();
    let drained = operations.iter().any(|operation| {
        operation.outcome == Outcome::Ok(Reply::Value(None))
            && matches!(operation.call, Call::Pop)
            && Some(operation.start) > last_end
    });
    if !drained {
        return;
    }
    let mut missing: Vec<&Operation> = pushes
        .iter()
        .filter(|(value, push)| push.reply().is_some() && !pops.contains_key(value))
        .map(|(_, push)| *push)
        .collect();
    if missing.len() > lost_pops {
        missing.sort_by_key(|push| push.start);
        let count = (missing.len() - lost_pops) as i64;
        let text = format!(
            "{} acknowledged elements were never delivered; {lost_pops} pops had no answer",
            missing.len()
        );
        missing.truncate(5);
        faults.push(Fault::counted(Kind::Lost, count, key, text, &missing));
    }
}

/// If one push ended before another started, its element must not be taken only after the other
/// one's was.
fn order(
    key: &str,
    pushes: &HashMap<i64, &Operation>,
    pops: &HashMap<i64, &Operation>,
    faults: &mut Vec<Fault>,
) {
    let mut delivered: Vec<(&Operation, &Operation)> =
        pops.iter().filter_map(|(value, pop)| Some((*pushes.get(value)?, *pop))).collect();
    // Later pushes first; of all whose push started after this one's end, the earliest end of a pop.
    delivered.sort_by_key(|(push, _)| std::cmp::Reverse(push.start));
    let mut by_end: Vec<(&Operation, &Operation)> = delivered.clone();
    by_end.sort_by_key(|(push, _)| std::cmp::Reverse(push.end));
    let mut earliest: Option<(&Operation, &Operation)> = None;
    let mut later = delivered.iter().peekable();
    for (push, pop) in by_end {
        while let Some((other, its_pop)) = later.next_if(|(other, _)| other.start > push.end) {
            if earliest.is_none_or(|(_, known)| its_pop.end < known.end) {
                earliest = Some((other, its_pop));
            }
        }
        if let Some((other, its_pop)) = earliest
            && its_pop.end < pop.start
        {
            let text = "an element was delivered after one that was pushed later".to_owned();
            faults.push(Fault::new(Kind::Order, key, text, &[push, pop, other, its_pop]));
            return;
        }
    }
}

/// A pop may find nothing only if at some time during it nothing was there.
fn emptiness(
    key: &str,
    pushes: &HashMap<i64, &Operation>,
    pops: &HashMap<i64, &Operation>,
    empty: &[&Operation],
    lost_pops: usize,
    faults: &mut Vec<Fault>,
) {
    if lost_pops > 0 {
        // A pop without an answer may have taken any element.
        return;
    }
    let mut present: Vec<(u64, u64, &Operation)> = pushes
        .iter()
        .filter(|(_, push)| push.reply().is_some())
        .map(|(value, push)| (push.end, pops.get(value).map_or(u64::MAX, |pop| pop.start), *push))
        .collect();
    present.sort_unstable_by_key(|(from, _, _)| *from);
    let mut empty = empty.to_vec();
    empty.sort_by_key(|pop| pop.start);
    let mut longest: Option<(u64, &Operation)> = None;
    let mut at = 0;
    for pop in empty {
        while let Some((from, until, push)) = present.get(at)
            && *from < pop.start
        {
            if longest.is_none_or(|(known, _)| *until > known) {
                longest = Some((*until, push));
            }
            at += 1;
        }
        if let Some((until, push)) = longest
            && until > pop.end
        {
            let text = "the queue was called empty while an element was in it".to_owned();
            faults.push(Fault::new(Kind::Stale, key, text, &[push, pop]));
            return;
        }
    }
}
