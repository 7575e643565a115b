//! What the tasks of a sentinel share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::v1;
use tokio::sync::{Notify, mpsc};

use crate::config::Config;
use crate::core::election;
use crate::core::metadata::Command;
use crate::core::view::{ClusterView, Primary};
use crate::group::{MetadataGroup, ProposeResult};
use crate::orders::Orders;
use crate::sight::Sight;

/// What reaches the control task besides its own sight of the nodes.
pub(crate) enum Told {
    /// Of another sentinel.
    Opinion(v1::SentinelOpinion),
    /// By a node whose replica serves now.
    Primary { shard: u32, primary: Primary },
    /// Answer to an order of a running failover.
    Election { shard: u32, input: election::Input },
}

/// Figures for `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) failovers: u64,
    pub(crate) last_failover_ms: f64,
    pub(crate) transfers: u64,
    pub(crate) opinions_sent: u64,
}

/// One per process.
pub(crate) struct Sentinel {
    pub(crate) config: Config,
    pub(crate) cluster_id: Bytes,
    pub(crate) secret: Bytes,
    pub(crate) group: MetadataGroup,
    pub(crate) orders: Orders,
    pub(crate) sight: Arc<Sight>,
    pub(crate) told: mpsc::Sender<Told>,
    /// Wakes the caretaker: something was registered.
    pub(crate) chores: Notify,
    view: Mutex<ClusterView>,
    own_opinion: Mutex<v1::SentinelOpinion>,
    proxies_seen: Mutex<BTreeMap<u64, Duration>>,
    busy_shards: Mutex<BTreeSet<u32>>,
    counters: Mutex<Counters>,
}

impl Sentinel {
    pub(crate) fn new(
        config: Config,
        secret: [u8; 32],
        group: MetadataGroup,
        sight: Arc<Sight>,
        told: mpsc::Sender<Told>,
    ) -> Self {
        let secret = Bytes::copy_from_slice(&secret);
        Self {
            cluster_id: Bytes::copy_from_slice(&config.cluster_id.0),
            orders: Orders::new(secret.clone()),
            config,
            secret,
            group,
            sight,
            told,
            chores: Notify::new(),
            view: Mutex::default(),
            own_opinion: Mutex::default(),
            proxies_seen: Mutex::default(),
            busy_shards: Mutex::default(),
            counters: Mutex::default(),
        }
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, ClusterView> {
        lock(&self.view)
    }

    pub(crate) fn own_opinion(&self) -> MutexGuard<'_, v1::SentinelOpinion> {
        lock(&self.own_opinion)
    }

    /// When each proxy was last heard by this sentinel.
    pub(crate) fn proxies_seen(&self) -> MutexGuard<'_, BTreeMap<u64, Duration>> {
        lock(&self.proxies_seen)
    }

    /// Shards with a failover under way.
    pub(crate) fn busy_shards(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        lock(&self.busy_shards)
    }

    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        lock(&self.counters)
    }

    pub(crate) async fn propose(&self, command: Command) -> ProposeResult {
        self.group.propose(command).await
    }

    /// Where a node takes orders.
    pub(crate) fn control_addr(&self, node: u64) -> Option<String> {
        let view = self.view();
        let info = view.topology.nodes.iter().find(|n| n.id == node)?;
        (!info.control_addr.is_empty()).then(|| info.control_addr.clone())
    }

    /// The api address of the leader of the sentinels, if it is known.
    pub(crate) fn leader_addr(&self) -> Option<String> {
        let leader = self.group.published().leader?;
        let member = self.config.members.iter().find(|m| m.id == leader)?;
        Some(member.api_addr.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
