//! Keeps the replicas on this node as the topology says, and does what takes them time: opening
//! from disk, fetching checkpoints, telling the sentinels.

use crate::checkpoint_files;
use crate::clock;
use crate::consensus_loop::{GroupParts, Input, Order, OrderReply, TICK};
use crate::executor::{self, Executor};
use crate::identity::{DataDir, random_u64};
use crate::mailbox::Mailbox;
use crate::open::{self, OpenError};
use crate::pull;
use crate::shared::{NodeShared, ShardHandle, ShardShared};
use crate::topology_cache;
use anyhow::Context;
use holdfast_consensus::log::writer::LogWriterHandle;
use holdfast_consensus::{Replica, ReplicaConfig};
use holdfast_proto::ids::{LogIndex, NodeId, RaftId, ShardId, Term};
use holdfast_proto::sentinel_client::SentinelClient;
use holdfast_proto::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Before a replica that could not be opened is tried again.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// A hand-over takes one round trip when the target is up to date, and is aborted after 500 ms.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(700);

/// Executors run scripts, whose values nest deeper than the default of 2 MiB is meant for.
const EXECUTOR_STACK_BYTES: usize = 8 * 1024 * 1024;

/// What other threads want from the host.
pub(crate) enum HostEvent {
    /// Close and open a replica again.
    Restart { shard: ShardId, done: oneshot::Sender<Result<(), String>> },
    /// A replica serves as primary.
    Serving { shard: ShardId, term: Term },
    /// A replica is behind its leader's log and needs the checkpoint.
    Install { shard: ShardId, leader: NodeId, index: LogIndex, term: Term },
    /// The leader knows of entries that a replica acknowledged and has lost.
    Amnesia { shard: ShardId, reason: String },
    /// The log records this checkpoint: older files may go.
    CheckpointRecorded { shard: ShardId, index: LogIndex },
}

pub(crate) struct Host {
    pub(crate) node: Arc<NodeShared>,
    pub(crate) data: Arc<DataDir>,
    pub(crate) log: LogWriterHandle,
    /// Replicas that the record of synced entries condemned at the start, and why.
    pub(crate) amnesiacs: BTreeMap<RaftId, String>,
    pub(crate) topology: watch::Receiver<Arc<v1::Topology>>,
    /// `None` in tests with a fixed topology.
    pub(crate) sentinels: Option<SentinelClient>,
    pub(crate) open: BTreeMap<ShardId, OpenReplica>,
    /// Version of the topology on disk.
    pub(crate) kept_version: u64,
}

pub(crate) struct OpenReplica {
    raft_id: RaftId,
    executor: JoinHandle<()>,
}

impl Host {
    /// Runs until the node stops, then closes all replicas.
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<HostEvent>) {
        let stop = self.node.stop.clone();
        let mut retry = false;
        loop {
            retry = !self.follow_topology().await || retry;
            let again = tokio::time::sleep(REOPEN_AFTER);
            tokio::select! {
                () = stop.stopped() => break,
                changed = self.topology.changed() => if changed.is_err() { stop.stopped().await },
                event = events.recv() => if let Some(event) = event { self.handle(event).await },
                () = again, if retry => retry = false,
            }
        }
        let all: Vec<ShardId> = self.open.keys().copied().collect();
        self.hand_over(&all).await;
        for shard in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(shard).await;
        }
    }

    /// Before a planned end: clients then wait for a moment instead of an election.
    async fn hand_over(&self, shards: &[ShardId]) {
        let orders: Vec<_> = shards
            .iter()
            .map(|&shard| {
                let (sender, receiver) = oneshot::channel();
                let (order, reply) = (Order::HandOver, OrderReply(sender));
                self.node.consensus.send(Input::Order { shard, order, reply });
                receiver
            })
            .collect();
        for answer in orders {
            // Whatever comes of it, the replica stops.
            let _ = tokio::time::timeout(HAND_OVER_TIMEOUT, answer).await;
        }
    }

    async fn handle(&mut self, event: HostEvent) {
        match event {
            HostEvent::Restart { shard, done } => {
                let known = self.open.contains_key(&shard);
                if known {
                    self.hand_over(&[shard]).await;
                }
                self.close(shard).await;
                self.follow_topology().await;
                let opened = self.open.contains_key(&shard);
                let result = match (known, opened) {
                    (_, true) => Ok(()),
                    (true, false) => Err("the replica did not open again".to_owned()),
                    (false, false) => Err("no such replica here".to_owned()),
                };
                // The asker may have given up.
                let _ = done.send(result);
            }
            HostEvent::Serving { shard, term } => self.report_primary(shard, term),
            HostEvent::Install { shard, leader, index, term } => {
                self.fetch(shard, leader, index, term);
            }
            HostEvent::Amnesia { shard, reason } => {
                let raft_id = self.open.get(&shard).map(|open| open.raft_id);
                self.close(shard).await;
                self.amnesiacs.extend(raft_id.map(|raft_id| (raft_id, reason)));
                // Finds it condemned and tells the sentinels.
                self.follow_topology().await;
            }
            HostEvent::CheckpointRecorded { shard, index } => {
                let folder = self.data.shard_dir(shard.0);
                if let Err(error) = checkpoint_files::remove_old(&folder, index) {
                    tracing::warn!(%shard, %error, "removing old checkpoints failed");
                }
            }
        }
    }

    /// Opens and closes replicas so that they are those of the topology; false if one is missing.
    async fn follow_topology(&mut self) -> bool {
        let topology = self.topology.borrow_and_update().clone();
        self.keep_topology(&topology).await;
        self.node.consensus.send(Input::Topology(Arc::clone(&topology)));
        let spec = Arc::new(topology.spec.clone().unwrap_or_default());
        for handle in self.node.shards.all() {
            handle.executor.send(executor::Input::Settings(Arc::clone(&spec)));
        }
        let mine: Vec<(&v1::ShardInfo, &v1::ReplicaInfo)> = topology
            .shards
            .iter()
            .flat_map(|shard| shard.replicas.iter().map(move |replica| (shard, replica)))
            .filter(|(_, replica)| replica.node == self.node.node.0)
            .collect();
        for shard in self.open.keys().copied().collect::<Vec<_>>() {
            let raft_id = self.open[&shard].raft_id.0;
            if !mine.iter().any(|(s, r)| s.id == shard.0 && r.raft_id == raft_id) {
                self.close(shard).await;
            }
        }
        let mut complete = true;
        for (shard, replica) in mine {
            if !self.open.contains_key(&ShardId(shard.id)) {
                complete &= self.open(shard, replica, &spec).await;
            }
        }
        complete
    }

    async fn keep_topology(&mut self, topology: &Arc<v1::Topology>) {
        if self.sentinels.is_none() || topology.version <= self.kept_version {
            return;
        }
        self.kept_version = topology.version;
        let (path, topology) = (self.data.topology_file(), Arc::clone(topology));
        let saved =
            tokio::task::spawn_blocking(move || topology_cache::save(&path, &topology)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "the topology is not kept on disk");
        }
    }

    async fn open(
        &mut self,
        info: &v1::ShardInfo,
        replica: &v1::ReplicaInfo,
        spec: &Arc<v1::ClusterSpec>,
    ) -> bool {
        let (shard, raft_id) = (ShardId(info.id), RaftId(replica.raft_id));
        match self.try_open(info, replica, spec).await {
            Ok(opened) => {
                self.open.insert(shard, opened);
                return true;
            }
            Err(OpenError::Amnesia(reason)) => {
                tracing::error!(%shard, %raft_id, reason, "replica may have lost entries");
                self.report_amnesia(shard, raft_id, reason);
            }
            Err(error) => tracing::error!(%shard, %raft_id, %error, "replica does not open"),
        }
        false
    }

    async fn try_open(
        &self,
        info: &v1::ShardInfo,
        replica: &v1::ReplicaInfo,
        spec: &Arc<v1::ClusterSpec>,
    ) -> Result<OpenReplica, OpenError> {
        let (shard, raft_id) = (ShardId(info.id), RaftId(replica.raft_id));
        if let Some(reason) = self.amnesiacs.get(&raft_id) {
            return Err(OpenError::Amnesia(reason.clone()));
        }
        let config = open::engine_config(&self.node.cluster_id, shard, spec);
        let (data, log) = (Arc::clone(&self.data), self.log.clone());
        let found =
            tokio::task::spawn_blocking(move || open::open(&data, &log, shard, raft_id, config));
        let found = found.await.context("open a replica")??;
        let shared = Arc::new(ShardShared::new(shard, raft_id));
        let config = replica_config(info, replica, random_u64());
        let core =
            Replica::new(config, found.stored, found.reader).map_err(|error| match error {
                holdfast_consensus::OpenError::Amnesia(reason) => OpenError::Amnesia(reason),
                other => {
                    anyhow::Error::new(other).context(format!("{shard}: start the replica")).into()
                }
            })?;
        let handle = ShardHandle { shared: Arc::clone(&shared), executor: Mailbox::new() };
        let executor = Executor::new(executor::Start {
            node: Arc::clone(&self.node),
            shared,
            inbox: handle.executor.clone(),
            engine: found.engine,
            applied: found.applied,
            folder: self.data.shard_dir(shard.0),
            spec: Arc::clone(spec),
        });
        let thread = std::thread::Builder::new()
            .name(format!("exec-{shard}"))
            .stack_size(EXECUTOR_STACK_BYTES);
        let stop = self.node.stop.clone();
        let guarded = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| executor.run()));
            if result.is_err() {
                // Half a command may be applied: nothing may be served from this state.
                stop.fatal(format!("the executor of {shard} panicked"));
            }
        };
        let executor = thread.spawn(guarded).context("start an executor")?;
        self.node.shards.insert(handle.clone());
        let synced = spec.persistence() == v1::PersistenceMode::AofAlways;
        let parts = GroupParts { replica: core, handle, seed: random_u64(), synced };
        self.node.consensus.send(Input::Open(Box::new(parts)));
        tracing::info!(%shard, %raft_id, "replica opened");
        Ok(OpenReplica { raft_id, executor })
    }

    async fn close(&mut self, shard: ShardId) {
        let Some(open) = self.open.remove(&shard) else { return };
        self.node.shards.remove(shard);
        let (done, closed) = oneshot::channel();
        self.node.consensus.send(Input::Close { shard, done });
        // The consensus thread may have stopped already.
        let _ = closed.await;
        let joined = tokio::task::spawn_blocking(move || open.executor.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!(%shard, "the executor ended by a panic");
        }
    }

    fn report_primary(&self, shard: ShardId, term: Term) {
        let Some(sentinels) = self.sentinels.clone() else { return };
        let node = self.node.node.0;
        tokio::spawn(async move {
            let reported = sentinels.report_primary(shard.0, term.0, node, clock::wall_ms()).await;
            if let Err(error) = reported {
                tracing::warn!(%shard, %term, %error, "reporting the new primary failed");
            }
        });
    }

    fn report_amnesia(&self, shard: ShardId, raft_id: RaftId, reason: String) {
        let Some(sentinels) = self.sentinels.clone() else { return };
        let node = self.node.node.0;
        tokio::spawn(async move {
            if let Err(error) = sentinels.report_amnesia(node, shard.0, raft_id.0, reason).await {
                tracing::warn!(%shard, %error, "reporting the amnesia failed");
            }
        });
    }

    /// Fetches a checkpoint to this node's disk.
    fn fetch(&self, shard: ShardId, leader: NodeId, index: LogIndex, term: Term) {
        let topology = self.topology.borrow().clone();
        let source = topology.nodes.iter().find(|node| node.id == leader.0);
        let source = source.map(|node| node.control_addr.clone());
        let (node, folder) = (Arc::clone(&self.node), self.data.shard_dir(shard.0));
        tokio::spawn(async move {
            let fetched = async {
                let source = source.context("the leader's address is not known")?;
                pull::pull(&source, &node.secret, shard.0, &folder, index, term).await
            };
            let input = match fetched.await {
                Ok(()) => Input::Fetched { shard, index },
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(%shard, %index, error, "fetching a checkpoint failed");
                    Input::FetchFailed { shard, index }
                }
            };
            node.consensus.send(input);
        });
    }
}

pub(crate) fn replica_config(
    info: &v1::ShardInfo,
    replica: &v1::ReplicaInfo,
    seed: u64,
) -> ReplicaConfig {
    let founding = |r: &&v1::ReplicaInfo| r.founding && r.role() != v1::ReplicaRole::Learner;
    let founding_voters = if replica.founding {
        info.replicas.iter().filter(founding).map(|r| RaftId(r.raft_id)).collect()
    } else {
        Vec::new()
    };
    let (shard, raft_id) = (ShardId(info.id), RaftId(replica.raft_id));
    let config = ReplicaConfig::new(shard, raft_id, clock::monotonic(), seed);
    ReplicaConfig { founding_voters, tick: TICK, ..config }
}
