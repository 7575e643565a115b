//! What each kind of object answers, for the [search](super::search).
//!
//! Each object is built from the operations on one key: it drops what says nothing (failed
//! operations, reads without an answer), and operations of unknown outcome that no answer depends
//! on, because each of those doubles the work.

use super::history::{Call, NEVER, Operation, Outcome, Reply};
use super::search::{Interval, Object};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// The operations of an object that the search has to place.
pub(super) struct Prepared<'a> {
    pub(super) operations: Vec<&'a Operation>,
    pub(super) intervals: Vec<Interval>,
}

impl<'a> Prepared<'a> {
    /// Keeps what may have had an effect or has an answer, and of the unknown ones those for which
    /// `matters` is true.
    fn new(operations: &[&'a Operation], matters: impl Fn(&Operation) -> bool) -> Self {
        let keep = |operation: &&&Operation| match operation.outcome {
            Outcome::Ok(_) => true,
            Outcome::Failed => false,
            Outcome::Unknown => is_write(&operation.call) && matters(operation),
        };
        let mut operations: Vec<&Operation> = operations.iter().filter(keep).copied().collect();
        operations.sort_by_key(|operation| (operation.start, operation.end));
        let mut last_of_kind: HashMap<String, u32> = HashMap::new();
        let mut intervals = Vec::with_capacity(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            let end = (operation.end != NEVER).then_some(operation.end);
            let after = match end {
                Some(_) => None,
                None => last_of_kind.insert(format!("{:?}", operation.call), index as u32),
            };
            intervals.push(Interval { start: operation.start, end, after });
        }
        Self { operations, intervals }
    }
}

fn is_write(call: &Call) -> bool {
    !matches!(
        call,
        Call::Get
            | Call::ReadList
            | Call::HasMember { .. }
            | Call::Members
            | Call::GetField { .. }
            | Call::Fields
    )
}

/// `None`: the answer is not known, so anything goes. Otherwise whether it is `expected`.
fn answers(operation: &Operation, expected: &Reply) -> bool {
    operation.reply().is_none_or(|reply| reply == expected)
}

/// A value that can be read, set, and set if it is a given one.
pub(super) struct Register<'a> {
    pub(super) prepared: Prepared<'a>,
}

impl<'a> Register<'a> {
    pub(super) fn new(operations: &[&'a Operation]) -> Self {
        let mut seen: HashSet<i64> = HashSet::new();
        let mut any_refused = false;
        for operation in operations {
            match (&operation.call, &operation.outcome) {
                (_, Outcome::Ok(Reply::Value(Some(value)))) => {
                    seen.insert(*value);
                }
                (Call::Cas { .. }, Outcome::Ok(Reply::Did(false))) => any_refused = true,
                (Call::Cas { from: Some(from), .. }, Outcome::Ok(_) | Outcome::Unknown) => {
                    seen.insert(*from);
                }
                _ => {}
            }
        }
        // A write that nobody saw, and that made no compare-and-set fail, may as well not have been.
        let matters = |operation: &Operation| match operation.call {
            Call::Set { value } | Call::Cas { to: value, .. } => {
                any_refused || seen.contains(&value)
            }
            _ => true,
        };
        Self { prepared: Prepared::new(operations, matters) }
    }
}

impl Object for Register<'_> {
    type State = Option<i64>;

    fn initial(&self) -> Option<i64> {
        None
    }

    fn step(&self, state: &Option<i64>, op: usize) -> Option<Option<i64>> {
        let operation = self.prepared.operations[op];
        match &operation.call {
            Call::Get => answers(operation, &Reply::Value(*state)).then_some(*state),
            Call::Set { value } => answers(operation, &Reply::Done).then_some(Some(*value)),
            Call::Cas { from, to } => {
                let does = state == from;
                if operation.reply().is_none() {
                    return does.then_some(Some(*to));
                }
                let next = if does { Some(*to) } else { *state };
                answers(operation, &Reply::Did(does)).then_some(next)
            }
            _ => None,
        }
    }
}

/// A number that is added to.
pub(super) struct Counter<'a> {
    pub(super) prepared: Prepared<'a>,
}

impl<'a> Counter<'a> {
    pub(super) fn new(operations: &[&'a Operation]) -> Self {
        Self { prepared: Prepared::new(operations, |_| true) }
    }
}

impl Object for Counter<'_> {
    /// Missing until it is first added to.
    type State = Option<i64>;

    fn initial(&self) -> Option<i64> {
        None
    }

    fn step(&self, state: &Option<i64>, op: usize) -> Option<Option<i64>> {
        let operation = self.prepared.operations[op];
        match &operation.call {
            Call::Add { by } => {
                let next = state.unwrap_or(0).checked_add(*by)?;
                answers(operation, &Reply::Number(next)).then_some(Some(next))
            }
            Call::Get => answers(operation, &Reply::Value(*state)).then_some(*state),
            _ => None,
        }
    }
}

/// Content of a list, as length and hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Content {
    len: u64,
    hash: u128,
}

impl Content {
    fn push(self, value: i64) -> Self {
        // Two multiplications with odd constants and a rotation: each step is a bijection of the
        // state, so that different contents of one length differ but by chance of 2^-128.
        let mixed = (value as u128 ^ 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .wrapping_mul(0xd128_6f1c_3a5d_9d0f_0a2b_bb4d_2a1f_6d4b);
        let hash = (self.hash.rotate_left(29) ^ mixed ^ (mixed >> 61))
            .wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        Self { len: self.len + 1, hash }
    }

    fn of(values: &[i64]) -> Self {
        values.iter().fold(Self::default(), |content, value| content.push(*value))
    }
}

/// A list that is appended to and read.
pub(super) struct List<'a> {
    pub(super) prepared: Prepared<'a>,
    reads: Vec<Option<Content>>,
}

impl<'a> List<'a> {
    pub(super) fn new(operations: &[&'a Operation]) -> Self {
        // An append of unknown outcome that a read of the final list does not show never happened
        // before that read, and after it nobody looks.
        let last_end = operations
            .iter()
            .filter(|operation| operation.reply().is_some())
            .filter(|operation| matches!(operation.call, Call::Append { .. }))
            .map(|operation| operation.end)
            .max()
            .unwrap_or(0);
        let final_list: Option<HashSet<i64>> = operations
            .iter()
            .filter(|operation| operation.start > last_end)
            .filter_map(|operation| match &operation.outcome {
                Outcome::Ok(Reply::List(values)) => Some(values),
                _ => None,
            })
            .max_by_key(|values| values.len())
            .map(|values| values.iter().copied().collect());
        let matters = |operation: &Operation| match (&operation.call, &final_list) {
            (Call::Append { value }, Some(list)) => list.contains(value),
            _ => true,
        };
        let prepared = Prepared::new(operations, matters);
        let reads = prepared.operations.iter().map(|operation| match &operation.outcome {
            Outcome::Ok(Reply::List(values)) => Some(Content::of(values)),
            _ => None,
        });
        Self { reads: reads.collect(), prepared }
    }
}

impl Object for List<'_> {
    type State = Content;

    fn initial(&self) -> Content {
        Content::default()
    }

    fn step(&self, state: &Content, op: usize) -> Option<Content> {
        let operation = self.prepared.operations[op];
        match &operation.call {
            Call::Append { value } => {
                let next = state.push(*value);
                answers(operation, &Reply::Number(next.len as i64)).then_some(next)
            }
            Call::ReadList => (self.reads[op] == Some(*state)).then_some(*state),
            _ => None,
        }
    }
}

/// Names for the values of an object, counting from 0.
#[derive(Default)]
struct Names(HashMap<i64, usize>);

impl Names {
    fn name(&mut self, value: i64) -> usize {
        let next = self.0.len();
        *self.0.entry(value).or_insert(next)
    }
}

/// A set: which of the members ever named are in it.
pub(super) struct Set<'a> {
    pub(super) prepared: Prepared<'a>,
    names: Names,
    /// Per operation that read all members: the state that it saw; `None` for a value unheard of.
    reads: Vec<Option<Rc<[u64]>>>,
}

impl<'a> Set<'a> {
    pub(super) fn new(operations: &[&'a Operation]) -> Self {
        let prepared = Prepared::new(operations, |_| true);
        let mut names = Names::default();
        for operation in &prepared.operations {
            match operation.call {
                Call::AddMember { value }
                | Call::RemoveMember { value }
                | Call::HasMember { value } => {
                    names.name(value);
                }
                _ => {}
            }
        }
        let words = names.0.len().div_ceil(64).max(1);
        let reads = prepared.operations.iter().map(|operation| {
            let Outcome::Ok(Reply::List(values)) = &operation.outcome else { return None };
            let mut state = vec![0_u64; words];
            for value in values {
                let name = names.0.get(value)?;
                let bit = 1 << (name % 64);
                // A member named twice is no answer a set can give.
                if state[name / 64] & bit != 0 {
                    return None;
                }
                state[name / 64] |= bit;
            }
            Some(Rc::from(state))
        });
        Self { reads: reads.collect(), prepared, names }
    }
}

impl Object for Set<'_> {
    type State = Rc<[u64]>;

    fn initial(&self) -> Rc<[u64]> {
        vec![0; self.names.0.len().div_ceil(64).max(1)].into()
    }

    fn step(&self, state: &Rc<[u64]>, op: usize) -> Option<Rc<[u64]>> {
        let operation = self.prepared.operations[op];
        let place = |value: &i64| {
            let name = self.names.0[value];
            (name / 64, 1_u64 << (name % 64))
        };
        let change = |value: &i64, to: bool| {
            let (word, bit) = place(value);
            let changes = (state[word] & bit != 0) != to;
            if !answers(operation, &Reply::Number(i64::from(changes))) {
                return None;
            }
            if !changes {
                return Some(state.clone());
            }
            let mut next = state.to_vec();
            next[word] ^= bit;
            Some(Rc::from(next))
        };
        match &operation.call {
            Call::AddMember { value } => change(value, true),
            Call::RemoveMember { value } => change(value, false),
            Call::HasMember { value } => {
                let (word, bit) = place(value);
                answers(operation, &Reply::Did(state[word] & bit != 0)).then(|| state.clone())
            }
            Call::Members => (self.reads[op].as_ref() == Some(state)).then(|| state.clone()),
            _ => None,
        }
    }
}

/// A map from fields to values.
pub(super) struct Hash<'a> {
    pub(super) prepared: Prepared<'a>,
    names: Names,
    reads: Vec<Option<Rc<[Option<i64>]>>>,
}

impl<'a> Hash<'a> {
    pub(super) fn new(operations: &[&'a Operation]) -> Self {
        let prepared = Prepared::new(operations, |_| true);
        let mut names = Names::default();
        for operation in &prepared.operations {
            match operation.call {
                Call::SetField { field, .. }
                | Call::DeleteField { field }
                | Call::GetField { field } => {
                    names.name(field);
                }
                _ => {}
            }
        }
        let fields = names.0.len();
        let reads = prepared.operations.iter().map(|operation| {
            let Outcome::Ok(Reply::Pairs(pairs)) = &operation.outcome else { return None };
            let mut state = vec![None; fields];
            for (field, value) in pairs {
                if state[*names.0.get(field)?].replace(*value).is_some() {
                    return None;
                }
            }
            Some(Rc::from(state))
        });
        Self { reads: reads.collect(), prepared, names }
    }
}

impl Object for Hash<'_> {
    type State = Rc<[Option<i64>]>;

    fn initial(&self) -> Self::State {
        vec![None; self.names.0.len()].into()
    }

    fn step(&self, state: &Self::State, op: usize) -> Option<Self::State> {
        let operation = self.prepared.operations[op];
        let with = |name: usize, value: Option<i64>| {
            let mut next = state.to_vec();
            next[name] = value;
            Self::State::from(next)
        };
        match &operation.call {
            Call::SetField { field, value } => {
                let name = self.names.0[field];
                let added = i64::from(state[name].is_none());
                answers(operation, &Reply::Number(added)).then(|| with(name, Some(*value)))
            }
            Call::DeleteField { field } => {
                let name = self.names.0[field];
                let removed = i64::from(state[name].is_some());
                answers(operation, &Reply::Number(removed)).then(|| with(name, None))
            }
            Call::GetField { field } => {
                let value = state[self.names.0[field]];
                answers(operation, &Reply::Value(value)).then(|| state.clone())
            }
            Call::Fields => (self.reads[op].as_ref() == Some(state)).then(|| state.clone()),
            _ => None,
        }
    }
}

/// A value with a time to live.
///
/// When exactly it goes is not visible: its life starts somewhere between the start and the end of
/// the call that set it, on clocks that may be off by up to `slack_ns`. So a read may show it if it
/// *may* still live, and may show nothing if it *may* be gone; once it was seen to be gone it stays
/// so.
pub(super) struct Expiring<'a> {
    pub(super) prepared: Prepared<'a>,
    slack_ns: u64,
}

impl<'a> Expiring<'a> {
    pub(super) fn new(operations: &[&'a Operation], slack_ns: u64) -> Self {
        let mut seen: BTreeMap<i64, ()> = BTreeMap::new();
        let mut any_refused = false;
        for operation in operations {
            match &operation.outcome {
                Outcome::Ok(Reply::Value(Some(value))) => {
                    seen.insert(*value, ());
                }
                Outcome::Ok(Reply::Did(false)) => any_refused = true,
                _ => {}
            }
        }
        let matters = |operation: &Operation| match operation.call {
            Call::SetExpiring { value, .. } | Call::Lock { value, .. } => {
                any_refused || seen.contains_key(&value)
            }
            _ => true,
        };
        Self { prepared: Prepared::new(operations, matters), slack_ns }
    }

    fn ttl_ns(&self, setter: usize) -> u64 {
        match self.prepared.operations[setter].call {
            Call::SetExpiring { ttl_ms, .. } | Call::Lock { ttl_ms, .. } => {
                ttl_ms.saturating_mul(1_000_000)
            }
            _ => u64::MAX,
        }
    }

    fn value(&self, setter: usize) -> Option<i64> {
        match self.prepared.operations[setter].call {
            Call::SetExpiring { value, .. } | Call::Lock { value, .. } => Some(value),
            _ => None,
        }
    }

    fn may_live(&self, setter: usize, op: usize) -> bool {
        let latest = self.prepared.operations[setter].end.saturating_add(self.ttl_ns(setter));
        self.prepared.operations[op].start <= latest.saturating_add(self.slack_ns)
    }

    fn may_be_gone(&self, setter: usize, op: usize) -> bool {
        let earliest = self.prepared.operations[setter].start.saturating_add(self.ttl_ns(setter));
        self.prepared.operations[op].end >= earliest.saturating_sub(self.slack_ns)
    }
}

impl Object for Expiring<'_> {
    /// The operation that set the value.
    type State = Option<usize>;

    fn initial(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, op: usize) -> Option<Self::State> {
        let operation = self.prepared.operations[op];
        match (&operation.call, operation.reply()) {
            (Call::SetExpiring { .. }, None | Some(Reply::Done)) => Some(Some(op)),
            (Call::Lock { .. }, None | Some(Reply::Did(true))) => match *state {
                Some(setter) if !self.may_be_gone(setter, op) => None,
                _ => Some(Some(op)),
            },
            (Call::Lock { .. }, Some(Reply::Did(false))) => {
                let setter = (*state)?;
                self.may_live(setter, op).then_some(*state)
            }
            (Call::Get, Some(Reply::Value(None))) => match *state {
                Some(setter) if !self.may_be_gone(setter, op) => None,
                _ => Some(None),
            },
            (Call::Get, Some(Reply::Value(read))) => {
                let setter = (*state)?;
                (self.value(setter) == *read && self.may_live(setter, op)).then_some(*state)
            }
            _ => None,
        }
    }
}
