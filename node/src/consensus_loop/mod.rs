//! The consensus thread: it owns the replicas of all shards on this node.
//!
//! One turn: take everything that waits in the mailbox, step the replicas with it, propose what the
//! links brought as one entry per shard, tick if it is time, then carry out each replica's outputs
//! in their order of duties. Nothing in a turn waits for a disk or a socket.

mod group;
mod proposal;

pub(crate) use group::{Group, GroupParts, Order, OrderReply, OrderResult};
pub(crate) use proposal::{InternalRecord, WriteChunk};

use crate::clock;
use crate::host::HostEvent;
use crate::links::Replies;
use crate::mailbox::Mailbox;
use crate::shared::NodeShared;
use holdfast_consensus::Outputs;
use holdfast_consensus::log::writer::LogWriterHandle;
use holdfast_consensus::transport::{TransportEvents, TransportHandle};
use holdfast_proto::bugs;
use holdfast_proto::ids::{LogIndex, NodeId, RaftId, ShardId};
use holdfast_proto::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// The length of a Raft tick.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// A turn that takes this long delays heartbeats noticeably; it takes well under a millisecond.
const LONG_TURN: Duration = Duration::from_millis(100);

/// What the consensus thread is told.
pub(crate) enum Input {
    Writes(WriteChunk),
    /// Records that the primary's executor wants in the log.
    Internal {
        shard: ShardId,
        records: Vec<InternalRecord>,
    },
    /// A read point is wanted ([`crate::executor::Input::ReadPoint`] brings it).
    ReadIndex {
        shard: ShardId,
        token: u64,
    },
    Applied {
        shard: ShardId,
        index: LogIndex,
    },
    /// Messages of other replicas.
    Peer(Vec<(ShardId, v1::RaftMessage)>),
    /// Nothing can be sent to a node at present.
    Unreachable(NodeId),
    /// A write of the log writer is done.
    Persisted {
        shard: ShardId,
        number: u64,
    },
    /// Appended to the mailbox by the host.
    Open(Box<GroupParts>),
    /// The replica is not to run here any more; answered when it is gone.
    Close {
        shard: ShardId,
        done: tokio::sync::oneshot::Sender<()>,
    },
    Topology(Arc<v1::Topology>),
    CheckpointTaken {
        shard: ShardId,
        index: LogIndex,
    },
    /// A checkpoint was pulled from the leader and is durable.
    Fetched {
        shard: ShardId,
        index: LogIndex,
    },
    FetchFailed {
        shard: ShardId,
        index: LogIndex,
    },
    Order {
        shard: ShardId,
        order: Order,
        reply: OrderReply,
    },
    Stop,
}

/// The way to the other nodes.
pub(crate) trait Peers: Send {
    /// Sends messages to a node, in order; they may get lost.
    fn send(&self, node: u64, messages: &mut dyn Iterator<Item = (ShardId, v1::RaftMessage)>);
    /// The nodes of the cluster and where they listen.
    fn set_peers(&self, addrs: &BTreeMap<u64, String>);
}

impl Peers for TransportHandle {
    fn send(&self, node: u64, messages: &mut dyn Iterator<Item = (ShardId, v1::RaftMessage)>) {
        self.send_batch(node, messages);
    }

    fn set_peers(&self, addrs: &BTreeMap<u64, String>) {
        TransportHandle::set_peers(self, addrs);
    }
}

/// Where the consensus thread's effects go.
pub(crate) struct Shell {
    pub(crate) node: Arc<NodeShared>,
    pub(crate) transport: Box<dyn Peers>,
    pub(crate) log: LogWriterHandle,
    pub(crate) events: UnboundedSender<HostEvent>,
    /// Answers given by this thread.
    pub(crate) replies: Replies,
    /// Which node runs a replica.
    pub(crate) places: BTreeMap<(ShardId, RaftId), NodeId>,
}

impl Shell {
    pub(crate) fn node_of(&self, shard: ShardId, replica: RaftId) -> NodeId {
        self.places.get(&(shard, replica)).copied().unwrap_or_default()
    }

    /// Sends messages to the nodes of their receivers, in order for each.
    pub(crate) fn send(&self, shard: ShardId, messages: &mut Vec<v1::RaftMessage>) {
        while let Some(to) = messages.first().map(|message| message.to) {
            let mut batch =
                messages.extract_if(.., |message| message.to == to).map(|message| (shard, message));
            match self.node_of(shard, RaftId(to)) {
                // A member that the topology does not name (any more).
                NodeId(0) => batch.for_each(drop),
                NodeId(node) => self.transport.send(node, &mut batch),
            }
        }
    }

    pub(crate) fn event(&self, event: HostEvent) {
        // Without a host the node is stopping.
        let _ = self.events.send(event);
    }
}

pub(crate) struct ConsensusLoop {
    shell: Shell,
    groups: BTreeMap<ShardId, Group>,
    retired: group::Retired,
    /// Empty between turns; kept for its memory.
    outputs: Outputs,
}

impl ConsensusLoop {
    pub(crate) fn new(shell: Shell) -> Self {
        Self {
            shell,
            groups: BTreeMap::new(),
            retired: group::Retired::default(),
            outputs: Outputs::default(),
        }
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let inbox = self.shell.node.consensus.clone();
        let mut inputs = Vec::new();
        let mut next_tick = clock::instant() + TICK;
        loop {
            inbox.receive(Some(self.deadline(next_tick)), &mut inputs);
            if self.turn(&mut inputs, &mut next_tick) {
                return;
            }
        }
    }

    /// When the next turn is due if nothing comes.
    pub(crate) fn deadline(&self, next_tick: Instant) -> Instant {
        let Some(wake) = self.groups.values().filter_map(Group::wake_at).min() else {
            return next_tick;
        };
        let wait = wake.saturating_sub(clock::monotonic());
        next_tick.min(clock::instant() + wait)
    }

    /// Handles what came, ticks if it is time, carries out what the replicas want. True: stop.
    pub(crate) fn turn(&mut self, inputs: &mut Vec<Input>, next_tick: &mut Instant) -> bool {
        let begun = clock::instant();
        let now = clock::monotonic();
        self.shell.replies.refresh(&self.shell.node.links);
        let count = inputs.len();
        for input in inputs.drain(..) {
            if matches!(input, Input::Stop) {
                return true;
            }
            self.handle(now, input);
        }
        // At most one tick per turn, after all that waited was heard: a process that was
        // paused must not take the time for silence of the leader.
        let at = clock::instant();
        let tick = at >= *next_tick;
        let burst = bugs::active(bugs::Bug::TickBurst) && tick;
        let missed = if burst { (at - *next_tick).as_millis() / TICK.as_millis() } else { 0 };
        if tick {
            *next_tick = at + TICK;
        }
        for group in self.groups.values_mut() {
            if tick {
                group.tick(now, &self.shell, &self.retired);
                for _ in 0..missed {
                    group.tick(now, &self.shell, &self.retired);
                }
            }
            group.finish_turn(now, &mut self.shell, &mut self.outputs);
        }
        self.shell.replies.flush();
        let took = clock::since(begun);
        if took >= LONG_TURN {
            let ms = took.as_millis() as u64;
            tracing::warn!(ms, inputs = count, "the consensus thread was busy or got no processor");
        }
        false
    }

    fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Writes(chunk) => match self.groups.get_mut(&chunk.shard) {
                Some(group) => group.take_writes(&mut self.shell, chunk),
                None => group::refuse_chunk(&mut self.shell.replies, &chunk),
            },
            Input::Internal { shard, records } => {
                self.with(shard, |group, _| group.take_internal(&records));
            }
            Input::ReadIndex { shard, token } => {
                self.with(shard, |group, _| group.replica.request_read(now, token));
            }
            Input::Applied { shard, index } => {
                self.with(shard, |group, _| group.replica.applied(now, index));
            }
            Input::Persisted { shard, number } => {
                self.with(shard, |group, _| group.replica.persisted(now, number));
            }
            Input::Peer(messages) => {
                for (shard, message) in messages {
                    self.with(shard, |group, shell| group.step(now, shell, message));
                }
            }
            Input::Unreachable(node) => {
                let places = std::mem::take(&mut self.shell.places);
                for ((shard, replica), _) in places.iter().filter(|(_, place)| **place == node) {
                    self.with(*shard, |group, _| group.replica.report_unreachable(*replica));
                }
                self.shell.places = places;
            }
            Input::Open(parts) => {
                let group = Group::new(*parts);
                self.groups.insert(group.shard(), group);
            }
            Input::Close { shard, done } => {
                if let Some(mut group) = self.groups.remove(&shard) {
                    group.close(&mut self.shell);
                }
                // The host may be gone.
                let _ = done.send(());
            }
            Input::Topology(topology) => self.take_topology(&topology),
            Input::CheckpointTaken { shard, index } => {
                self.with(shard, |group, _| group.checkpoint_taken(now, index));
            }
            Input::Fetched { shard, index } => {
                self.with(shard, |group, _| group.fetched(now, index));
            }
            Input::FetchFailed { shard, index } => {
                self.with(shard, |group, _| group.replica.install_failed(now, index));
            }
            Input::Order { shard, order, reply } => match self.groups.get_mut(&shard) {
                Some(group) => group.order(now, order, reply),
                None => reply.no_replica(),
            },
            Input::Stop => {}
        }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn replica(&self, shard: ShardId) -> Option<&holdfast_consensus::Replica> {
        self.groups.get(&shard).map(|group| &group.replica)
    }

    fn with(&mut self, shard: ShardId, act: impl FnOnce(&mut Group, &mut Shell)) {
        if let Some(group) = self.groups.get_mut(&shard) {
            act(group, &mut self.shell);
        }
    }

    fn take_topology(&mut self, topology: &v1::Topology) {
        self.shell.places = topology
            .shards
            .iter()
            .flat_map(|shard| shard.replicas.iter().map(move |replica| (shard, replica)))
            .map(|(s, r)| ((ShardId(s.id), RaftId(r.raft_id)), NodeId(r.node)))
            .collect();
        self.retired = group::Retired::new(topology);
        let addrs = topology.nodes.iter().map(|node| (node.id, node.peer_addr.clone()));
        self.shell.transport.set_peers(&addrs.collect());
    }
}

/// What the transport tells goes to the consensus thread.
pub(crate) struct FromPeers(pub(crate) Mailbox<Input>);

impl TransportEvents for FromPeers {
    fn received(&self, _from_node: u64, messages: Vec<(ShardId, v1::RaftMessage)>) {
        self.0.send(Input::Peer(messages));
    }

    fn unreachable(&self, node: u64) {
        self.0.send(Input::Unreachable(NodeId(node)));
    }
}
