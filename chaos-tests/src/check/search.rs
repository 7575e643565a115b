//! Linearizability of one object: the search of Wing and Gong with Lowe's cache of states, in the
//! form of porcupine.
//!
//! The history of an object is linearizable if its operations can be put in one order that respects
//! real time (an operation that ended before another one started comes first) and in which each
//! answer is what the object's model gives. Operations without a known outcome may be put anywhere
//! after their start, or left out.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash};

/// One operation as the search sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub(super) start: u64,
    /// `None`: need not have happened.
    pub(super) end: Option<u64>,
    /// An operation that must come before this one if this one comes at all. Set between operations
    /// that may be left out and have the same effect: taking the earlier one first loses nothing
    /// and saves trying each subset.
    pub(super) after: Option<u32>,
}

/// What operations do to a state.
pub(super) trait Object {
    type State: Clone + Hash;

    fn initial(&self) -> Self::State;

    /// The state after operation `op`, or `None` if its answer is impossible in `state`.
    fn step(&self, state: &Self::State, op: usize) -> Option<Self::State>;
}

/// Result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Linearizable,
    /// No order exists. The operation whose end was the furthest that any order got to.
    Impossible {
        stuck: usize,
    },
    /// Steps ran out: nothing is known.
    Inconclusive,
}

/// Nothing before, or after.
const NONE: u32 = u32::MAX;

struct Event {
    op: u32,
    is_start: bool,
    previous: u32,
    next: u32,
}

/// Events in order of time as a linked list, so that operations can be lifted out and put back.
struct Events {
    list: Vec<Event>,
    first: u32,
    /// Per operation: its start and its end (`NONE` without one).
    places: Vec<(u32, u32)>,
}

impl Events {
    fn new(intervals: &[Interval]) -> Self {
        let mut order: Vec<(u64, bool, u32)> = Vec::with_capacity(2 * intervals.len());
        for (op, interval) in intervals.iter().enumerate() {
            // Of two events at the same time the start sorts first: then they overlap.
            order.push((interval.start, false, op as u32));
            if let Some(end) = interval.end {
                order.push((end, true, op as u32));
            }
        }
        order.sort_unstable();
        let mut places = vec![(NONE, NONE); intervals.len()];
        let count = order.len() as u32;
        let mut list = Vec::with_capacity(order.len());
        for (at, (_, is_end, op)) in order.into_iter().enumerate() {
            let at = at as u32;
            let place = &mut places[op as usize];
            if is_end {
                place.1 = at;
            } else {
                place.0 = at;
            }
            list.push(Event {
                op,
                is_start: !is_end,
                previous: at.checked_sub(1).unwrap_or(NONE),
                next: if at + 1 < count { at + 1 } else { NONE },
            });
        }
        Self { list, first: if count == 0 { NONE } else { 0 }, places }
    }

    fn unlink(&mut self, at: u32) {
        let (previous, next) = (self.list[at as usize].previous, self.list[at as usize].next);
        match previous {
            NONE => self.first = next,
            previous => self.list[previous as usize].next = next,
        }
        if next != NONE {
            self.list[next as usize].previous = previous;
        }
    }

    fn relink(&mut self, at: u32) {
        let (previous, next) = (self.list[at as usize].previous, self.list[at as usize].next);
        match previous {
            NONE => self.first = at,
            previous => self.list[previous as usize].next = at,
        }
        if next != NONE {
            self.list[next as usize].previous = at;
        }
    }

    fn lift(&mut self, op: u32) {
        let (start, end) = self.places[op as usize];
        self.unlink(start);
        if end != NONE {
            self.unlink(end);
        }
    }

    /// Must be called in the reverse order of `lift`.
    fn put_back(&mut self, op: u32) {
        let (start, end) = self.places[op as usize];
        if end != NONE {
            self.relink(end);
        }
        self.relink(start);
    }
}

/// Looks for an order, for at most `steps` tries of an operation.
pub(super) fn search<O: Object>(object: &O, intervals: &[Interval], steps: u64) -> Found {
    let mut events = Events::new(intervals);
    let mut must_happen = intervals.iter().filter(|interval| interval.end.is_some()).count();
    // What has been tried: the set of operations in the order so far, and the state after them. Both
    // are kept as hashes of 64 bits each, the set as the exclusive-or of a random word per
    // operation; 10^7 entries collide with probability 10^-24.
    let hasher = foldhash::quality::FixedState::default();
    let word = |op: u32| hasher.hash_one(op);
    let mut tried: HashSet<(u64, u64), foldhash::fast::FixedState> = HashSet::default();
    let mut taken = vec![false; intervals.len()];
    let mut taken_hash = 0_u64;
    let mut state = object.initial();
    let mut path: Vec<(u32, O::State)> = Vec::new();
    let mut furthest = 0;
    let mut stuck = 0;
    let mut left = steps;
    let mut at = events.first;
    while must_happen > 0 {
        debug_assert_ne!(at, NONE, "an operation that must happen has an end in the list");
        let (op, is_start) = (events.list[at as usize].op, events.list[at as usize].is_start);
        if is_start {
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => return Found::Inconclusive,
            };
            let interval = &intervals[op as usize];
            let allowed = interval.after.is_none_or(|before| taken[before as usize]);
            if let Some(next) = allowed.then(|| object.step(&state, op as usize)).flatten()
                && tried.insert((taken_hash ^ word(op), hasher.hash_one(&next)))
            {
                taken[op as usize] = true;
                taken_hash ^= word(op);
                path.push((op, std::mem::replace(&mut state, next)));
                must_happen -= usize::from(interval.end.is_some());
                events.lift(op);
                at = events.first;
                continue;
            }
            at = events.list[at as usize].next;
        } else {
            // An operation ended and is not in the order yet: what was chosen before is wrong.
            if at >= furthest {
                (furthest, stuck) = (at, op as usize);
            }
            let Some((last, before)) = path.pop() else { return Found::Impossible { stuck } };
            taken[last as usize] = false;
            taken_hash ^= word(last);
            state = before;
            must_happen += usize::from(intervals[last as usize].end.is_some());
            events.put_back(last);
            at = events.list[events.places[last as usize].0 as usize].next;
        }
    }
    Found::Linearizable
}
