//! Client tracking at the primary: which workers read which keys, and telling them of changes.
//!
//! An invalidation stands in a link's output before the answer to the write that caused it, and
//! behind the answers to the reads that it is about. The memory is the replica's own and ends with
//! its leadership; the workers have their clients forget everything when a primary changes.

use super::Executor;
use bytes::BufMut;
use holdfast_engine::Effect;
use holdfast_proto::command;
use holdfast_proto::frame::push::{begin_invalidate, finish_invalidate};
use holdfast_proto::ids::WorkerId;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Keys remembered by a replica (Redis's `tracking-table-max-keys`); beyond it the first ones are
/// invalidated.
const KEYS_MAX: usize = 1_000_000;

#[derive(Default)]
pub(crate) struct Tracked {
    keys: BTreeMap<Box<[u8]>, SmallVec<[WorkerId; 2]>>,
}

impl Tracked {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn clear(&mut self) {
        self.keys.clear();
    }
}

impl Executor {
    /// A tracked read was served.
    pub(super) fn remember_reader(&mut self, worker: WorkerId, body: &[u8]) {
        let args = super::info::args_of(body);
        let Some(&name) = args.first() else { return };
        let Ok(spec) = command::resolve(name, args.get(1).copied()) else { return };
        let Ok(positions) = command::keys(spec, &args) else { return };
        for position in positions.iter() {
            let readers =
                self.tracked.keys.entry(args[position.index as usize].into()).or_default();
            if !readers.contains(&worker) {
                readers.push(worker);
            }
        }
        if self.tracked.len() > KEYS_MAX
            && let Some((key, readers)) = self.tracked.keys.pop_first()
        {
            readers.iter().for_each(|&worker| self.invalidate(worker, 0, &[&key]));
        }
        self.watch_keys();
    }

    /// Tells the workers which of their keys changed; `cause` is the tag of the record.
    pub(super) fn deliver_invalidations(&mut self, effects: &[Effect], cause: u64) {
        let mut told: BTreeMap<WorkerId, Vec<&[u8]>> = BTreeMap::new();
        let mut all = false;
        for effect in effects {
            match effect {
                Effect::AllChanged => all = true,
                Effect::Changed { key } => {
                    let readers = self.tracked.keys.remove(key).unwrap_or_default();
                    let mut receivers = SmallVec::new();
                    self.node.links.subscribers.prefix_receivers(key, &mut receivers);
                    for worker in readers.into_iter().chain(receivers) {
                        let keys = told.entry(worker).or_default();
                        if keys.last() != Some(&&key[..]) {
                            keys.push(key);
                        }
                    }
                }
                Effect::Published { .. } | Effect::Event { .. } => {}
            }
        }
        if all {
            self.tracked.clear();
            self.replies.refresh(&self.node.links);
            for worker in self.replies.workers() {
                self.invalidate(worker, cause, &[]);
            }
            return;
        }
        for (worker, keys) in told {
            self.invalidate(worker, cause, &keys);
        }
    }

    fn invalidate(&mut self, worker: WorkerId, cause: u64, keys: &[&[u8]]) {
        self.replies.refresh(&self.node.links);
        let Some(out) = self.replies.output(worker) else { return };
        let start = begin_invalidate(out, cause);
        for key in keys {
            out.put_u32_le(key.len() as u32);
            out.put_slice(key);
        }
        finish_invalidate(out, start);
    }

    /// Has the engine report changed keys while somebody wants to know.
    pub(super) fn watch_keys(&mut self) {
        let keys = !self.tracked.is_empty() || self.node.links.subscribers.any_prefix();
        if keys != self.watching_keys {
            self.watch();
        }
    }
}
