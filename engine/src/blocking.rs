//! Commands that wait for keys (BLPOP and its kin), as replicated state.
//!
//! A *waiter* keeps the command as it came. When one of its keys changes, the command is executed
//! again at the end of the record that changed it; if it does not block this time, that was its
//! answer. Waiters of a key are served in the order in which they blocked.

use holdfast_proto::ids::WorkerId;
use holdfast_proto::slot::Slot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Which type of key can end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    List,
    ZSet,
    /// XREAD.
    Stream,
    /// XREADGROUP, which also ends (with an error) when the key goes or gets another type.
    StreamGroup,
}

/// What a handler asks for when it cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockRequest {
    pub(crate) keys: Vec<Box<[u8]>>,
    /// Cluster time at which the wait ends; `None` waits for ever.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) kind: BlockKind,
    /// What is to be run again, if not the command as it came: a RESP array.
    pub(crate) command: Option<Box<[u8]>>,
}

/// Names a waiter: the record that blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterName {
    pub(crate) worker: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) seq: u64,
}

/// A command that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) name: WaiterName,
    pub(crate) db: u16,
    pub(crate) resp3: bool,
    pub(crate) tag: u64,
    pub(crate) request: BlockRequest,
    /// The command as a RESP array.
    pub(crate) command: Box<[u8]>,
}

impl Waiter {
    fn memory(&self) -> usize {
        self.command.len() * 2 + 512
    }
}

/// All waiters of the shard.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// By the order in which they blocked.
    waiters: BTreeMap<u64, Waiter>,
    by_name: BTreeMap<WaiterName, u64>,
    by_key: BTreeMap<(u16, Box<[u8]>), BTreeSet<u64>>,
    deadlines: BTreeSet<(u64, u64)>,
    next_order: u64,
    /// Approximate bytes.
    memory: usize,
    /// Keys that changed during the current record and that somebody waits for, without repeats.
    ready: VecDeque<(u16, Box<[u8]>)>,
}

impl Waiters {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// In the order in which they blocked.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values()
    }

    pub(crate) fn add(&mut self, waiter: Waiter) {
        let order = self.next_order;
        self.next_order += 1;
        for key in &waiter.request.keys {
            self.by_key.entry((waiter.db, key.clone())).or_default().insert(order);
        }
        if let Some(deadline) = waiter.request.deadline_ms {
            self.deadlines.insert((deadline, order));
        }
        self.by_name.insert(waiter.name, order);
        self.memory += waiter.memory();
        self.waiters.insert(order, waiter);
    }

    pub(crate) fn get(&self, order: u64) -> Option<&Waiter> {
        self.waiters.get(&order)
    }

    pub(crate) fn find(&self, name: WaiterName) -> Option<u64> {
        self.by_name.get(&name).copied()
    }

    pub(crate) fn set_tag(&mut self, name: WaiterName, tag: u64) {
        let waiter = self.by_name.get(&name).and_then(|order| self.waiters.get_mut(order));
        if let Some(waiter) = waiter {
            waiter.tag = tag;
        }
    }

    pub(crate) fn remove(&mut self, order: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&order)?;
        for key in &waiter.request.keys {
            let place = (waiter.db, key.clone());
            if let Some(orders) = self.by_key.get_mut(&place) {
                orders.remove(&order);
                if orders.is_empty() {
                    self.by_key.remove(&place);
                }
            }
        }
        if let Some(deadline) = waiter.request.deadline_ms {
            self.deadlines.remove(&(deadline, order));
        }
        self.by_name.remove(&waiter.name);
        self.memory -= waiter.memory();
        if self.waiters.is_empty() {
            self.ready.clear();
        }
        Some(waiter)
    }

    /// Removes all waiters of a worker; returns them in the order in which they blocked.
    pub(crate) fn remove_worker(&mut self, worker: WorkerId) -> Vec<Waiter> {
        let of_worker = self.waiters.iter().filter(|(_, waiter)| waiter.name.worker == worker);
        let orders: Vec<u64> = of_worker.map(|(&order, _)| order).collect();
        orders.into_iter().filter_map(|order| self.remove(order)).collect()
    }

    /// Notes that a key changed.
    pub(crate) fn key_changed(&mut self, db: u16, key: &[u8]) {
        let place = (db, Box::from(key));
        if self.by_key.contains_key(&place) && !self.ready.contains(&place) {
            self.ready.push_back(place);
        }
    }

    /// Notes that a key is gone, which matters only to commands that end then.
    pub(crate) fn key_removed(&mut self, db: u16, key: &[u8]) {
        let place = (db, Box::from(key));
        let ends = |order| {
            self.waiters.get(order).is_some_and(|w| w.request.kind == BlockKind::StreamGroup)
        };
        if self.by_key.get(&place).is_some_and(|orders| orders.iter().any(ends)) {
            self.key_changed(db, key);
        }
    }

    /// As [`Waiters::key_removed`] for every key of a database.
    pub(crate) fn database_flushed(&mut self, db: u16) {
        let keys: Vec<_> =
            self.by_key.keys().filter(|(of, _)| *of == db).map(|(_, key)| key.clone()).collect();
        for key in keys {
            self.key_removed(db, &key);
        }
    }

    /// Every key of two databases that somebody waits for is looked at again: SWAPDB.
    pub(crate) fn databases_changed(&mut self, dbs: [u16; 2]) {
        let places: Vec<_> =
            self.by_key.keys().filter(|(db, _)| dbs.contains(db)).cloned().collect();
        for (db, key) in places {
            self.key_changed(db, &key);
        }
    }

    pub(crate) fn take_ready(&mut self) -> Option<(u16, Box<[u8]>)> {
        self.ready.pop_front()
    }

    /// Who waits for a key, in order.
    pub(crate) fn waiting_for(&self, place: &(u16, Box<[u8]>)) -> Vec<u64> {
        self.by_key.get(place).map(|orders| orders.iter().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Waiters whose deadline is at or before `now_ms`.
    pub(crate) fn due(&self, now_ms: u64) -> impl Iterator<Item = WaiterName> {
        self.deadlines
            .iter()
            .take_while(move |&&(deadline, _)| deadline <= now_ms)
            .filter_map(|(_, order)| self.waiters.get(order).map(|waiter| waiter.name))
    }

    /// Approximate bytes.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }
}
