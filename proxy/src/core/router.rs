//! Which shard owns a slot, and which node is the shard's primary.
//!
//! Knowledge comes from the metadata, from primaries that announce themselves and from refusals;
//! the greater Raft term wins, whoever told it.

use super::request::List;
use holdfast_proto::ids::{NodeId, ShardId, Term};
use holdfast_proto::slot::{SLOT_COUNT, Slot};
use holdfast_proto::v1;

/// No shard serves the slot.
const UNSERVED: u16 = u16::MAX;

/// What is known about the primary of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Primary {
    pub(crate) term: Term,
    /// `None`: the one of `term`, or an older one, is gone and its successor is not known yet.
    pub(crate) node: Option<NodeId>,
}

/// One shard as a proxy worker sees it.
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) primary: Primary,
    /// Nodes with a data replica.
    pub(crate) replicas: Vec<NodeId>,
    /// Unanswered requests in the order in which they are to be executed.
    pub(crate) list: List,
    /// Requests in `list`, and the bytes they hold.
    pub(crate) unanswered: usize,
    pub(crate) unanswered_bytes: usize,
    /// Nothing is sent before this time (the primary's queues were full, a slot is frozen).
    pub(crate) paused_until_us: Option<u64>,
    /// Since when no primary answers; hold deadlines count from here.
    pub(crate) down_since_us: Option<u64>,
    /// Last time one request was sent to a guessed node, while no primary is known.
    pub(crate) probed_us: u64,
    pub(crate) probe_turn: usize,
    /// Clients that may not go on before there is room for another request.
    pub(crate) stalled_clients: Vec<(u32, u32)>,
    pub(crate) outage: Outage,
    /// Term of the primary that the outage began with.
    pub(crate) outage_term: Term,
}

impl Shard {
    pub(crate) fn begin_outage(&mut self) {
        self.outage = Outage { open: true, held: self.unanswered as u64, ..Outage::default() };
        self.outage_term = self.primary.term;
    }
}

/// Numbers of the present or last outage of a shard, for the failover report.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Outage {
    /// An outage is going on or its first reply is still to come.
    pub open: bool,
    /// Requests that were unanswered when the primary went, or came while there was none.
    pub held: u64,
    /// Requests sent again to the new primary.
    pub retried: u64,
    /// Requests that got an error because they waited too long.
    pub failed: u64,
}

/// The worker's copy of the cluster's map.
pub(crate) struct Router {
    slots: Vec<u16>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) version: u64,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self { slots: vec![UNSERVED; SLOT_COUNT as usize], shards: Vec::new(), version: 0 }
    }

    /// Index of the shard that serves a slot.
    pub(crate) fn shard_of(&self, slot: Slot) -> Option<u32> {
        let index = self.slots[slot.index()];
        (index != UNSERVED).then_some(u32::from(index))
    }

    pub(crate) fn index_of(&self, id: ShardId) -> Option<u32> {
        self.shards.iter().position(|shard| shard.id == id).map(|index| index as u32)
    }

    /// Indexes of the shards that own at least one slot, in the order of their ids.
    pub(crate) fn serving_shards(&self) -> Vec<u32> {
        let mut seen = vec![false; self.shards.len()];
        for &index in &self.slots {
            if index != UNSERVED {
                seen[index as usize] = true;
            }
        }
        let mut indexes: Vec<u32> =
            (0..self.shards.len() as u32).filter(|&index| seen[index as usize]).collect();
        indexes.sort_by_key(|&index| self.shards[index as usize].id);
        indexes
    }

    /// The smallest slot of a shard; slot 0 if it has none.
    pub(crate) fn first_slot_of(&self, shard: u32) -> Slot {
        let first = self.slots.iter().position(|&index| u32::from(index) == shard);
        first.and_then(|slot| Slot::new(slot as u16)).unwrap_or_default()
    }

    pub(crate) fn assign(&mut self, slot: Slot, shard: u32) {
        self.slots[slot.index()] = shard as u16;
    }

    /// Takes over shards and slots of newer metadata. Shards are never forgotten: requests refer
    /// to them by index.
    pub(crate) fn update(&mut self, topology: &v1::Topology) {
        if topology.version < self.version {
            return;
        }
        self.version = topology.version;
        self.slots.fill(UNSERVED);
        for info in &topology.shards {
            let index = self.index_or_insert(ShardId(info.id));
            self.shards[index as usize].replicas = data_replicas(info);
            for range in &info.slots {
                let last = range.last.min(u32::from(SLOT_COUNT) - 1);
                for slot in range.first..=last {
                    self.slots[slot as usize] = index as u16;
                }
            }
        }
    }

    fn index_or_insert(&mut self, id: ShardId) -> u32 {
        if let Some(index) = self.index_of(id) {
            return index;
        }
        self.shards.push(Shard {
            id,
            primary: Primary { term: Term(0), node: None },
            replicas: Vec::new(),
            list: List::EMPTY,
            unanswered: 0,
            unanswered_bytes: 0,
            paused_until_us: None,
            down_since_us: None,
            probed_us: 0,
            probe_turn: 0,
            stalled_clients: Vec::new(),
            outage: Outage::default(),
            outage_term: Term(0),
        });
        (self.shards.len() - 1) as u32
    }
}

fn data_replicas(info: &v1::ShardInfo) -> Vec<NodeId> {
    info.replicas
        .iter()
        .filter(|replica| replica.role() != v1::ReplicaRole::Witness)
        .map(|replica| NodeId(replica.node))
        .collect()
}
