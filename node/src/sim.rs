//! A node driven by a simulation: the real consensus loop, executors, link reader and answers,
//! without threads, sockets, files or clocks.
//!
//! Each part that has a thread of its own in the product takes turns when the simulation says so
//! ([`SimNode::turn`]); what it wants from the world is gathered and taken by the simulation. The
//! host's work (opening and closing replicas) is done here the way `host.rs` does it.

use crate::checkpoint_files::CheckpointFile;
use crate::consensus_loop::{
    ConsensusLoop, GroupParts, Input, Order, OrderReply, OrderResult, Peers, Shell, TICK,
};
use crate::executor::checkpoint::{CheckpointDisk, Slice};
use crate::executor::{self, Executor};
use crate::host::{HostEvent, replica_config};
use crate::link_server::{Reader, take_hello, welcome};
use crate::links::{Link, LinkTable, Replies};
use crate::mailbox::Mailbox;
use crate::shared::{NodeShared, Registry, ShardHandle, ShardShared, Stop, StopReason, lock};
use crate::{clock, heartbeat, open};
use anyhow::Context;
use bytes::BytesMut;
use crossbeam_channel::Receiver;
use holdfast_consensus::log::memory::MemoryStore;
use holdfast_consensus::log::writer::LogQueue;
use holdfast_consensus::{
    Committed, LogStore, LogWrite, MembershipChange, Replica, ReplicaConfig, Role, StoredState,
};
use holdfast_engine::{Engine, EngineConfig};
use holdfast_proto::frame::whole_frames_len;
use holdfast_proto::ids::{LogIndex, NodeId, RaftId, ShardId, Term, WorkerId};
use holdfast_proto::v1;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Sets the clocks that every node sees until the next call: monotonic, wall in microseconds.
pub fn set_clock(monotonic: Duration, wall_us: u64) {
    clock::set_virtual(monotonic, wall_us);
}

/// The checkpoints on a machine's disk; clones share them.
#[derive(Clone, Default)]
pub struct SimCheckpoints {
    files: Arc<Mutex<BTreeMap<(ShardId, LogIndex), SimFile>>>,
    jobs: Arc<Mutex<Vec<Job>>>,
}

#[derive(Clone)]
struct SimFile {
    bytes: Vec<u8>,
    crc32: u32,
}

/// A checkpoint being written.
struct Job {
    shard: ShardId,
    slices: Receiver<Slice>,
    inbox: Mailbox<executor::Input>,
    bytes: Vec<u8>,
}

impl SimCheckpoints {
    /// What is on the disk.
    pub fn list(&self) -> Vec<(ShardId, LogIndex, usize)> {
        lock(&self.files).iter().map(|(at, file)| (at.0, at.1, file.bytes.len())).collect()
    }

    /// Flips a bit of a file; it stays unnoticed until the file is read.
    pub fn flip(&self, shard: ShardId, index: LogIndex, bit: u64) {
        if let Some(file) = lock(&self.files).get_mut(&(shard, index))
            && !file.bytes.is_empty()
        {
            let at = (bit / 8) as usize % file.bytes.len();
            file.bytes[at] ^= 1 << (bit % 8);
        }
    }

    fn read(&self, shard: ShardId, index: LogIndex) -> Option<SimFile> {
        lock(&self.files).get(&(shard, index)).cloned()
    }

    /// A pulled checkpoint becomes durable.
    pub fn save(&self, shard: ShardId, index: LogIndex, bytes: Vec<u8>) {
        let crc32 = crc32fast::hash(&bytes);
        lock(&self.files).insert((shard, index), SimFile { bytes, crc32 });
    }

    fn remove_old(&self, shard: ShardId, keep_from: LogIndex) {
        lock(&self.files).retain(|at, _| at.0 != shard || at.1 >= keep_from);
    }

    fn remove_all(&self, shard: ShardId) {
        lock(&self.files).retain(|at, _| at.0 != shard);
    }

    /// The process died: what was being written disappears.
    pub fn abandon_jobs(&self) {
        lock(&self.jobs).clear();
    }

    /// Checkpoints being written.
    pub fn is_writing(&self) -> bool {
        !lock(&self.jobs).is_empty()
    }

    /// The disk's share: takes the slices that wait and ends what is whole; with `full` every
    /// checkpoint fails. True if one ended.
    pub fn work(&self, full: bool) -> bool {
        let mut jobs = lock(&self.jobs);
        let before = jobs.len();
        jobs.retain_mut(|job| {
            loop {
                match job.slices.try_recv() {
                    Ok(_) if full => {
                        let failed = Err("no space left on device".to_owned());
                        job.inbox.send(executor::Input::CheckpointEnded(failed));
                        return false;
                    }
                    Ok(Slice::Bytes(bytes)) => job.bytes.extend_from_slice(&bytes),
                    Ok(Slice::End(index)) => {
                        let bytes = std::mem::take(&mut job.bytes);
                        let (len_bytes, crc32) = (bytes.len() as u64, crc32fast::hash(&bytes));
                        lock(&self.files).insert((job.shard, index), SimFile { bytes, crc32 });
                        let file = CheckpointFile { index, len_bytes, crc32 };
                        job.inbox.send(executor::Input::CheckpointEnded(Ok(file)));
                        return false;
                    }
                    Err(crossbeam_channel::TryRecvError::Empty) => return true,
                    Err(crossbeam_channel::TryRecvError::Disconnected) => return false,
                }
            }
        });
        jobs.len() < before
    }
}

impl CheckpointDisk for SimCheckpoints {
    fn write(
        &self,
        _folder: PathBuf,
        shard: ShardId,
        slices: Receiver<Slice>,
        inbox: Mailbox<executor::Input>,
    ) -> std::io::Result<()> {
        lock(&self.jobs).push(Job { shard, slices, inbox, bytes: Vec::new() });
        Ok(())
    }

    fn load(
        &self,
        _folder: &Path,
        shard: ShardId,
        index: LogIndex,
        config: EngineConfig,
    ) -> anyhow::Result<Engine> {
        let files = lock(&self.files);
        let file = files.get(&(shard, index));
        let file = file.with_context(|| format!("{shard}: no whole checkpoint at {index}"))?;
        anyhow::ensure!(crc32fast::hash(&file.bytes) == file.crc32, "the checkpoint is damaged");
        Ok(Engine::load(config, &file.bytes[..])?)
    }
}

/// Messages for other nodes since the simulation last looked.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<Vec<(u64, ShardId, v1::RaftMessage)>>>);

impl Peers for Outbox {
    fn send(&self, node: u64, messages: &mut dyn Iterator<Item = (ShardId, v1::RaftMessage)>) {
        lock(&self.0).extend(messages.map(|(shard, message)| (node, shard, message)));
    }

    fn set_peers(&self, _addrs: &BTreeMap<u64, String>) {}
}

/// What a node starts with.
pub struct SimStart {
    pub cluster_id: [u8; 16],
    pub secret: [u8; 32],
    pub node: u64,
    pub incarnation: u64,
    pub seed: u64,
    /// The machine's disk, which outlives the process.
    pub store: MemoryStore,
    pub checkpoints: SimCheckpoints,
    /// Changes the options of every replica.
    pub tune: fn(&mut ReplicaConfig),
}

/// A part of the process with a thread of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Consensus,
    Executor(ShardId),
}

/// What the node wants from the world besides messages and log writes.
#[derive(Clone, Debug)]
pub enum Event {
    /// A replica serves as primary: the sentinels are to know.
    Serving { shard: ShardId, term: Term },
    /// A checkpoint is to be pulled from that node, then [`SimNode::fetched`].
    Install { shard: ShardId, leader: u64, index: LogIndex, term: Term },
    /// A replica has lost what it acknowledged: the sentinels are to know, and it never runs again.
    Amnesia { shard: ShardId, raft_id: RaftId, reason: String },
}

/// What an executor was given to do.
#[derive(Clone, Debug)]
pub enum History {
    /// A committed entry to apply.
    Applied { shard: ShardId, raft_id: RaftId, entry: Committed },
    /// The state after `index` to go on from.
    Loaded { shard: ShardId, raft_id: RaftId, index: LogIndex },
}

/// What came of an order.
#[derive(Clone, Debug)]
pub enum Ordered {
    Done { status: v1::ReplicaStatus },
    Refused { reason: String, retry_after: Duration, status: v1::ReplicaStatus },
    NoReplica,
}

/// An answer to an order that is still to come.
pub struct PendingOrder(oneshot::Receiver<OrderResult>);

impl PendingOrder {
    /// The answer, once. `Some(None)`: there will be none.
    pub fn poll(&mut self) -> Option<Option<Ordered>> {
        match self.0.try_recv() {
            Ok(OrderResult::Done { status, .. }) => Some(Some(Ordered::Done { status })),
            Ok(OrderResult::Refused { reason, retry_after, status }) => {
                Some(Some(Ordered::Refused { reason, retry_after, status }))
            }
            Ok(OrderResult::NoReplica) => Some(Some(Ordered::NoReplica)),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(None),
        }
    }
}

/// One proxy worker's connection, as the node sees it.
pub struct Connection {
    link: Option<Arc<Link>>,
    worker: WorkerId,
    input: BytesMut,
}

struct Hosted {
    raft_id: RaftId,
    executor: Executor,
    shared: Arc<ShardShared>,
    inbox: Mailbox<executor::Input>,
    next_duty: Instant,
}

/// One node process.
pub struct SimNode {
    shared: Arc<NodeShared>,
    consensus: ConsensusLoop,
    next_tick: Instant,
    hosted: BTreeMap<ShardId, Hosted>,
    amnesiacs: BTreeMap<RaftId, String>,
    events: mpsc::UnboundedReceiver<HostEvent>,
    told: VecDeque<Event>,
    outbox: Outbox,
    log: LogQueue,
    store: MemoryStore,
    checkpoints: SimCheckpoints,
    seed: u64,
    tune: fn(&mut ReplicaConfig),
    history: Vec<History>,
}

impl SimNode {
    /// A process that hosts nothing yet.
    pub fn new(start: SimStart) -> Self {
        let (log_handle, log) = LogQueue::detached();
        let shared = Arc::new(NodeShared {
            cluster_id: start.cluster_id,
            secret: start.secret,
            node: NodeId(start.node),
            incarnation: start.incarnation,
            consensus: Mailbox::new(),
            links: LinkTable::default(),
            shards: Registry::default(),
            log: log_handle.clone(),
            checkpoints: Box::new(start.checkpoints.clone()),
            stop: Stop::new(),
        });
        let (host_events, events) = mpsc::unbounded_channel();
        let outbox = Outbox::default();
        let shell = Shell {
            node: Arc::clone(&shared),
            transport: Box::new(outbox.clone()),
            log: log_handle,
            events: host_events,
            replies: Replies::default(),
            places: BTreeMap::new(),
        };
        Self {
            consensus: ConsensusLoop::new(shell),
            next_tick: clock::instant() + TICK,
            hosted: BTreeMap::new(),
            amnesiacs: BTreeMap::new(),
            events,
            told: VecDeque::new(),
            outbox,
            log,
            store: start.store,
            checkpoints: start.checkpoints,
            seed: start.seed,
            tune: start.tune,
            history: Vec::new(),
            shared,
        }
    }

    /// This replica must not run (again) here.
    pub fn condemn(&mut self, raft_id: RaftId, reason: &str) {
        self.amnesiacs.insert(raft_id, reason.to_owned());
    }

    /// Opens and closes replicas so that they are those of the topology.
    pub fn topology(&mut self, topology: &Arc<v1::Topology>) {
        self.shared.consensus.send(Input::Topology(Arc::clone(topology)));
        let spec = Arc::new(topology.spec.clone().unwrap_or_default());
        for handle in self.shared.shards.all() {
            handle.executor.send(executor::Input::Settings(Arc::clone(&spec)));
        }
        let own = self.shared.node.0;
        let mine: Vec<(&v1::ShardInfo, &v1::ReplicaInfo)> = topology
            .shards
            .iter()
            .flat_map(|shard| shard.replicas.iter().map(move |replica| (shard, replica)))
            .filter(|(_, replica)| replica.node == own)
            .collect();
        for shard in self.hosted.keys().copied().collect::<Vec<_>>() {
            let raft_id = self.hosted[&shard].raft_id.0;
            if !mine.iter().any(|(s, r)| s.id == shard.0 && r.raft_id == raft_id) {
                self.close(shard);
            }
        }
        for (info, replica) in mine {
            let shard = ShardId(info.id);
            if self.hosted.contains_key(&shard) {
                continue;
            }
            let raft_id = RaftId(replica.raft_id);
            if let Err(open::OpenError::Amnesia(reason)) = self.open(info, replica, &spec) {
                self.told.push_back(Event::Amnesia { shard, raft_id, reason });
            }
        }
    }

    fn open(
        &mut self,
        info: &v1::ShardInfo,
        replica: &v1::ReplicaInfo,
        spec: &Arc<v1::ClusterSpec>,
    ) -> Result<(), open::OpenError> {
        let (shard, raft_id) = (ShardId(info.id), RaftId(replica.raft_id));
        if let Some(reason) = self.amnesiacs.get(&raft_id) {
            return Err(open::OpenError::Amnesia(reason.clone()));
        }
        let config = open::engine_config(&self.shared.cluster_id, shard, spec);
        let mut stored = self.store.load(shard).map_err(anyhow::Error::new)?;
        if stored.take_if(|stored| stored.raft_id != raft_id).is_some() {
            self.store.destroy(shard).map_err(anyhow::Error::new)?;
            self.checkpoints.remove_all(shard);
        }
        let recorded = stored.as_ref().map_or(LogIndex(0), |stored| stored.checkpoint.index);
        let engine = if recorded <= StoredState::GENESIS {
            Engine::new(config)
        } else {
            CheckpointDisk::load(&self.checkpoints, Path::new(""), shard, recorded, config)
                .map_err(|error| open::OpenError::Amnesia(format!("{error:#}")))?
        };
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(shard.0.into());
        let mut config = replica_config(info, replica, self.seed);
        (self.tune)(&mut config);
        let core = Replica::new(config, stored, self.store.reader()).map_err(|e| match e {
            holdfast_consensus::OpenError::Amnesia(reason) => open::OpenError::Amnesia(reason),
            other => open::OpenError::Other(other.into()),
        })?;
        let shared = Arc::new(ShardShared::new(shard, raft_id));
        let handle = ShardHandle { shared: Arc::clone(&shared), executor: Mailbox::new() };
        let inbox = handle.executor.clone();
        let executor = Executor::new(executor::Start {
            node: Arc::clone(&self.shared),
            shared: Arc::clone(&shared),
            inbox: inbox.clone(),
            engine,
            applied: recorded,
            folder: PathBuf::new(),
            spec: Arc::clone(spec),
        });
        self.history.push(History::Loaded { shard, raft_id, index: recorded });
        self.shared.shards.insert(handle.clone());
        let synced = spec.persistence() == v1::PersistenceMode::AofAlways;
        let parts = GroupParts { replica: core, handle, seed: self.seed, synced };
        self.shared.consensus.send(Input::Open(Box::new(parts)));
        let next_duty = clock::instant() + executor::DUTY_PERIOD;
        self.hosted.insert(shard, Hosted { raft_id, executor, shared, inbox, next_duty });
        Ok(())
    }

    fn close(&mut self, shard: ShardId) {
        self.shared.shards.remove(shard);
        let (done, _closed) = oneshot::channel();
        self.shared.consensus.send(Input::Close { shard, done });
        self.turn(Part::Consensus);
        self.turn(Part::Executor(shard));
        self.hosted.remove(&shard);
    }

    /// The parts there are.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        std::iter::once(Part::Consensus).chain(self.hosted.keys().map(|s| Part::Executor(*s)))
    }

    /// Something waits for this part.
    pub fn has_input(&self, part: Part) -> bool {
        match part {
            Part::Consensus => !self.shared.consensus.is_empty(),
            Part::Executor(shard) => self.hosted.get(&shard).is_some_and(|h| !h.inbox.is_empty()),
        }
    }

    /// How long this part sleeps at most, from now on; `None`: there is no such part.
    pub fn sleeps_for(&self, part: Part) -> Option<Duration> {
        let deadline = match part {
            Part::Consensus => self.consensus.deadline(self.next_tick),
            Part::Executor(shard) => {
                let hosted = self.hosted.get(&shard)?;
                hosted.executor.deadline(hosted.next_duty)
            }
        };
        Some(deadline.saturating_duration_since(clock::instant()))
    }

    /// One turn of a part.
    pub fn turn(&mut self, part: Part) {
        match part {
            Part::Consensus => {
                let mut inputs = Vec::new();
                self.shared.consensus.take(&mut inputs);
                self.consensus.turn(&mut inputs, &mut self.next_tick);
                self.take_host_events();
            }
            Part::Executor(shard) => {
                let Some(hosted) = self.hosted.get_mut(&shard) else { return };
                let mut inputs = Vec::new();
                hosted.inbox.take(&mut inputs);
                for input in &inputs {
                    match input {
                        executor::Input::Committed(entries) => {
                            let raft_id = hosted.raft_id;
                            self.history.extend(entries.iter().map(|entry| {
                                let entry = entry.clone();
                                History::Applied { shard, raft_id, entry }
                            }));
                        }
                        executor::Input::Restore(index) => {
                            let (raft_id, index) = (hosted.raft_id, *index);
                            self.history.push(History::Loaded { shard, raft_id, index });
                        }
                        _ => {}
                    }
                }
                hosted.executor.turn(&mut inputs, &mut hosted.next_duty);
            }
        }
    }

    fn take_host_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                HostEvent::Serving { shard, term } => {
                    self.told.push_back(Event::Serving { shard, term });
                }
                HostEvent::Install { shard, leader, index, term } => {
                    let leader = leader.0;
                    self.told.push_back(Event::Install { shard, leader, index, term });
                }
                HostEvent::Amnesia { shard, reason } => {
                    let Some(hosted) = self.hosted.get(&shard) else { continue };
                    let raft_id = hosted.raft_id;
                    self.close(shard);
                    self.condemn(raft_id, &reason);
                    self.told.push_back(Event::Amnesia { shard, raft_id, reason });
                }
                HostEvent::CheckpointRecorded { shard, index } => {
                    self.checkpoints.remove_old(shard, index);
                }
                HostEvent::Restart { done, .. } => {
                    // Nobody asks for it here.
                    let _ = done.send(Err("not simulated".to_owned()));
                }
            }
        }
    }

    /// Messages to other nodes since the last call.
    pub fn take_messages(&mut self, out: &mut Vec<(u64, ShardId, v1::RaftMessage)>) {
        out.append(&mut lock(&self.outbox.0));
    }

    /// Writes for the log since the last call.
    pub fn take_writes(&mut self, out: &mut Vec<LogWrite>) {
        self.log.take(out);
    }

    /// What happened since the last call.
    pub fn take_events(&mut self, out: &mut Vec<Event>) {
        out.extend(self.told.drain(..));
    }

    /// What the executors were given to do since the last call, in order.
    pub fn take_history(&mut self, out: &mut Vec<History>) {
        out.append(&mut self.history);
    }

    /// The log writer has done all writes of a shard up to this one.
    pub fn persisted(&mut self, shard: ShardId, number: u64, took: Duration) {
        self.log.note_write(took);
        self.shared.consensus.send(Input::Persisted { shard, number });
    }

    /// A message of another node.
    pub fn deliver(&mut self, shard: ShardId, message: v1::RaftMessage) {
        self.shared.consensus.send(Input::Peer(vec![(shard, message)]));
    }

    /// The connection to a node broke, or dropped messages.
    pub fn unreachable(&mut self, node: u64) {
        self.shared.consensus.send(Input::Unreachable(NodeId(node)));
    }

    /// The checkpoint of [`Event::Install`] is durable here, or could not be had.
    pub fn fetched(&mut self, shard: ShardId, index: LogIndex, ok: bool) {
        self.shared.consensus.send(match ok {
            true => Input::Fetched { shard, index },
            false => Input::FetchFailed { shard, index },
        });
    }

    /// A checkpoint as this node sends it to another one; a damaged one is not sent, and replaced.
    pub fn serve_checkpoint(&self, shard: ShardId, index: LogIndex) -> Option<Vec<u8>> {
        let file = self.checkpoints.read(shard, index)?;
        if crc32fast::hash(&file.bytes) == file.crc32 {
            return Some(file.bytes);
        }
        if let Some(hosted) = self.hosted.get(&shard) {
            hosted.inbox.send(executor::Input::CheckpointDamaged(index));
        }
        None
    }

    /// An operator wants a checkpoint.
    pub fn want_checkpoint(&mut self, shard: ShardId) {
        if let Some(hosted) = self.hosted.get(&shard) {
            hosted.inbox.send(executor::Input::Checkpoint(None));
        }
    }

    /// A sentinel's order to forget a leader.
    pub fn forget_leader(&mut self, shard: ShardId, term: Term, leader: RaftId) -> PendingOrder {
        self.order(shard, Order::ForgetLeader { term, leader })
    }

    /// A sentinel's order to campaign.
    pub fn campaign(&mut self, shard: ShardId, term: Term) -> PendingOrder {
        self.order(shard, Order::Campaign { term })
    }

    /// A sentinel's order to hand leadership over.
    pub fn transfer_leader(&mut self, shard: ShardId, to: RaftId) -> PendingOrder {
        self.order(shard, Order::TransferLeader { to })
    }

    /// A sentinel's order to change the membership.
    pub fn change_membership(&mut self, shard: ShardId, change: MembershipChange) -> PendingOrder {
        self.order(shard, Order::ChangeMembership(change))
    }

    /// The process is asked to end: hands leadership over.
    pub fn hand_over(&mut self, shard: ShardId) -> PendingOrder {
        self.order(shard, Order::HandOver)
    }

    fn order(&mut self, shard: ShardId, order: Order) -> PendingOrder {
        let (sender, receiver) = oneshot::channel();
        self.shared.consensus.send(Input::Order { shard, order, reply: OrderReply(sender) });
        PendingOrder(receiver)
    }

    /// Answers a sentinel's heartbeat.
    pub fn heartbeat(&self, impaired: bool, sequence: u64) -> v1::HeartbeatReply {
        heartbeat::reply(&self.shared, impaired, sequence)
    }

    /// A proxy worker connects.
    pub fn connect(&self) -> Connection {
        Connection { link: None, worker: WorkerId::default(), input: BytesMut::new() }
    }

    /// Bytes of a proxy worker. An error: the connection is to be closed.
    pub fn link_data(&self, connection: &mut Connection, bytes: &[u8]) -> anyhow::Result<()> {
        connection.input.extend_from_slice(bytes);
        if connection.link.is_none() {
            if whole_frames_len(&connection.input)? == 0 {
                return Ok(());
            }
            connection.worker = take_hello(&self.shared, &mut connection.input)?;
            connection.link = Some(welcome(&self.shared, connection.worker));
        }
        let link = connection.link.as_ref().context("just opened")?;
        let mut reader = Reader::new(&self.shared, link, connection.worker);
        Ok(reader.handle(&mut connection.input)?)
    }

    /// What waits to be written to a proxy worker, and whether the connection is to be closed.
    pub fn link_output(&self, connection: &Connection) -> (Vec<u8>, bool) {
        connection.link.as_ref().map_or((Vec::new(), false), |link| link.try_take())
    }

    /// A proxy worker's connection is gone.
    pub fn disconnect(&self, connection: &Connection) {
        if let Some(link) = &connection.link {
            self.shared.links.remove(link);
        }
    }

    /// Why the process ended itself, if it did.
    pub fn fatal(&self) -> Option<String> {
        match self.shared.stop.reason()? {
            StopReason::Fatal(reason) => Some(reason),
            StopReason::Asked => None,
        }
    }

    // ----- for the checks ---------------------------------------------------------------------

    /// Replicas that run here.
    pub fn replicas(&self) -> impl Iterator<Item = (ShardId, RaftId)> + '_ {
        self.hosted.iter().map(|(shard, hosted)| (*shard, hosted.raft_id))
    }

    /// Index and digest of a replica's state.
    pub fn digest(&self, shard: ShardId) -> Option<(LogIndex, [u8; 16])> {
        let hosted = self.hosted.get(&shard)?;
        let (engine, applied) = hosted.executor.state();
        Some((applied, engine.digest()))
    }

    /// A replica's engine and the index of its state.
    pub fn engine(&self, shard: ShardId) -> Option<(&Engine, LogIndex)> {
        self.hosted.get(&shard).map(|hosted| hosted.executor.state())
    }

    /// A replica's status as of now.
    pub fn status(&self, shard: ShardId) -> Option<v1::ReplicaStatus> {
        self.consensus.replica(shard).map(Replica::status)
    }

    /// A replica's id, term and role.
    pub fn role(&self, shard: ShardId) -> Option<(RaftId, u64, Role)> {
        let replica = self.consensus.replica(shard)?;
        let role = replica.role();
        Some((replica.config().raft_id, role.term.0, role.role))
    }

    /// Whether a read would be served on the lease now.
    pub fn lease_holds(&self, shard: ShardId) -> bool {
        self.hosted.get(&shard).is_some_and(|h| h.shared.lease_holds(clock::monotonic()))
    }

    /// Time stamps of the engine go on from here.
    pub fn cluster_time_ms(&self, shard: ShardId) -> u64 {
        self.hosted.get(&shard).map_or(0, |h| h.shared.cluster_time_ms())
    }
}
