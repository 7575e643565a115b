//! Who listens to which channels: registered by the proxy workers on their links, and forgotten
//! with the link. Nothing of this is replicated; every node knows every worker's subscriptions,
//! so that a new primary delivers from its first moment on.

use crate::shared::lock;
use holdfast_proto::frame::FrameError;
use holdfast_proto::frame::push::{Registration, Topic};
use holdfast_proto::glob;
use holdfast_proto::ids::WorkerId;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The workers with clients of one name, and how many clients each has.
type Receivers = SmallVec<[(WorkerId, u32); 2]>;

#[derive(Default)]
pub(crate) struct Subscribers {
    table: Mutex<Table>,
    /// Whether there is any registration: publishing to nobody takes no lock.
    any: AtomicBool,
    /// Whether some client is told of every change under a prefix.
    any_prefix: AtomicBool,
}

#[derive(Default)]
struct Table {
    names: [BTreeMap<Box<[u8]>, Receivers>; Topic::ALL.len()],
    workers: BTreeMap<WorkerId, Worker>,
}

struct Worker {
    /// The worker's present link; registrations on an older one come too late.
    link: u64,
    names: BTreeSet<(Topic, Box<[u8]>)>,
}

impl Subscribers {
    /// A worker's new link: it has no registrations yet.
    pub(crate) fn open(&self, worker: WorkerId, link: u64) {
        let mut table = lock(&self.table);
        table.forget(worker);
        table.workers.insert(worker, Worker { link, names: BTreeSet::new() });
        self.publish_any(&table);
    }

    /// A link is gone.
    pub(crate) fn close(&self, worker: WorkerId, link: u64) {
        let mut table = lock(&self.table);
        if table.workers.get(&worker).is_some_and(|known| known.link == link) {
            table.forget(worker);
        }
        self.publish_any(&table);
    }

    /// Takes over what a link registers.
    pub(crate) fn register(
        &self,
        worker: WorkerId,
        link: u64,
        mut entries: &[u8],
    ) -> Result<(), FrameError> {
        let mut table = lock(&self.table);
        if table.workers.get(&worker).is_none_or(|known| known.link != link) {
            return Ok(());
        }
        while !entries.is_empty() {
            table.set(worker, Registration::decode(&mut entries)?);
        }
        self.publish_any(&table);
        Ok(())
    }

    fn publish_any(&self, table: &Table) {
        let any = table.names.iter().any(|names| !names.is_empty());
        self.any.store(any, Ordering::Release);
        let prefixes = &table.names[Topic::Prefix as usize];
        self.any_prefix.store(!prefixes.is_empty(), Ordering::Release);
    }

    /// Appends the workers with a client that receives a message on `channel`, each once, with the
    /// number of deliveries.
    pub(crate) fn receivers(
        &self,
        channel: &[u8],
        sharded: bool,
        out: &mut SmallVec<[(WorkerId, u32); 8]>,
    ) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let table = lock(&self.table);
        let topic = if sharded { Topic::ShardChannel } else { Topic::Channel };
        let direct = table.names[topic as usize].get(channel).into_iter().flatten();
        let patterns = &table.names[Topic::Pattern as usize];
        let patterns = patterns
            .iter()
            .filter(|(pattern, _)| !sharded && glob::matches(pattern, channel))
            .flat_map(|(_, receivers)| receivers);
        for &(worker, clients) in direct.chain(patterns) {
            match out.iter_mut().find(|(known, _)| *known == worker) {
                Some((_, count)) => *count += clients,
                None => out.push((worker, clients)),
            }
        }
    }

    pub(crate) fn any_prefix(&self) -> bool {
        self.any_prefix.load(Ordering::Acquire)
    }

    /// Appends the workers that are told of every change of this key, each once.
    pub(crate) fn prefix_receivers(&self, key: &[u8], out: &mut SmallVec<[WorkerId; 2]>) {
        if !self.any_prefix() {
            return;
        }
        let table = lock(&self.table);
        let prefixes = table.names[Topic::Prefix as usize].iter();
        for (_, receivers) in prefixes.filter(|(prefix, _)| key.starts_with(prefix)) {
            for (worker, _) in receivers {
                if !out.contains(worker) {
                    out.push(*worker);
                }
            }
        }
    }

    /// PUBSUB CHANNELS and SHARDCHANNELS.
    pub(crate) fn channels(&self, sharded: bool, pattern: Option<&[u8]>) -> Vec<Box<[u8]>> {
        let topic = if sharded { Topic::ShardChannel } else { Topic::Channel };
        lock(&self.table).names[topic as usize]
            .keys()
            .filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name)))
            .cloned()
            .collect()
    }

    /// Clients subscribed to a channel, patterns apart (PUBSUB NUMSUB).
    pub(crate) fn count(&self, sharded: bool, channel: &[u8]) -> u64 {
        let topic = if sharded { Topic::ShardChannel } else { Topic::Channel };
        let table = lock(&self.table);
        let receivers = table.names[topic as usize].get(channel);
        receivers.map_or(0, |all| all.iter().map(|(_, clients)| u64::from(*clients)).sum())
    }

    /// Different names of a kind.
    pub(crate) fn names(&self, topic: Topic) -> usize {
        lock(&self.table).names[topic as usize].len()
    }
}

impl Table {
    fn set(&mut self, worker: WorkerId, registration: Registration<'_>) {
        let Registration { topic, name, clients } = registration;
        if clients == 0 {
            self.unset(worker, topic, name);
            if let Some(entry) = self.workers.get_mut(&worker) {
                entry.names.remove(&(topic, Box::from(name)));
            }
            return;
        }
        let receivers = self.names[topic as usize].entry(name.into()).or_default();
        match receivers.iter_mut().find(|(known, _)| *known == worker) {
            Some((_, count)) => *count = clients,
            None => receivers.push((worker, clients)),
        }
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.names.insert((topic, name.into()));
        }
    }

    fn unset(&mut self, worker: WorkerId, topic: Topic, name: &[u8]) {
        let names = &mut self.names[topic as usize];
        let Some(receivers) = names.get_mut(name) else { return };
        receivers.retain(|(known, _)| *known != worker);
        if receivers.is_empty() {
            names.remove(name);
        }
    }

    fn forget(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.remove(&worker) else { return };
        for (topic, name) in entry.names {
            self.unset(worker, topic, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    fn entries(all: &[(Topic, &str, u32)]) -> BytesMut {
        let mut out = BytesMut::new();
        for &(topic, name, clients) in all {
            Registration { topic, name: name.as_bytes(), clients }.encode(&mut out);
        }
        out
    }

    fn receivers(of: &Subscribers, channel: &str, sharded: bool) -> Vec<(u64, u32)> {
        let mut out = SmallVec::new();
        of.receivers(channel.as_bytes(), sharded, &mut out);
        out.iter().map(|(worker, clients)| (worker.0, *clients)).collect()
    }

    #[test]
    fn a_worker_gets_a_message_once_however_many_of_its_names_match() {
        let all = Subscribers::default();
        let (a, b) = (WorkerId(1), WorkerId(2));
        all.open(a, 10);
        all.open(b, 11);
        let names = entries(&[(Topic::Channel, "news", 2), (Topic::Pattern, "n*", 1)]);
        all.register(a, 10, &names).unwrap();
        all.register(b, 11, &entries(&[(Topic::Pattern, "*", 4)])).unwrap();
        all.register(b, 11, &entries(&[(Topic::ShardChannel, "news", 1)])).unwrap();
        assert_eq!(receivers(&all, "news", false), [(1, 3), (2, 4)]);
        assert_eq!(receivers(&all, "news", true), [(2, 1)]);
        assert_eq!(receivers(&all, "other", false), [(2, 4)]);
        assert_eq!((all.count(false, b"news"), all.names(Topic::Pattern)), (2, 2));
        assert_eq!(all.channels(false, Some(b"n?ws")), [Box::from(&b"news"[..])]);
        all.register(a, 10, &entries(&[(Topic::Channel, "news", 0)])).unwrap();
        assert_eq!(receivers(&all, "news", false), [(2, 4), (1, 1)]);
    }

    #[test]
    fn registrations_end_with_their_link_and_not_with_an_older_one() {
        let all = Subscribers::default();
        let worker = WorkerId(1);
        all.open(worker, 1);
        all.register(worker, 1, &entries(&[(Topic::Channel, "c", 1)])).unwrap();
        all.open(worker, 2);
        assert_eq!(receivers(&all, "c", false), []);
        all.register(worker, 2, &entries(&[(Topic::Channel, "d", 1)])).unwrap();
        // What the old link still says or that it ends no longer matters.
        all.register(worker, 1, &entries(&[(Topic::Channel, "c", 1)])).unwrap();
        all.close(worker, 1);
        assert_eq!(
            (receivers(&all, "c", false), receivers(&all, "d", false)),
            (vec![], vec![(1, 1)])
        );
        all.close(worker, 2);
        assert_eq!(receivers(&all, "d", false), []);
        assert!(!all.any.load(Ordering::Relaxed));
    }
}
