//! What the control plane says to nodes and proxies, their side of it, and faults that are orders.

use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::{MembershipChange, Role};
use holdfast_node::sim::{Ordered, PendingOrder};
use holdfast_proto::ids::{RaftId, ShardId, Term, WorkerId};
use holdfast_proto::v1;
use holdfast_sentinel::core::balance::Transfer;

use super::nodes::RESTART_AFTER;
use super::plan::Proc;
use super::world::{Event, World};

/// What processes of the control plane tell each other.
pub(crate) enum Rpc {
    /// Of the metadata group.
    Raft(v1::RaftMessage),
    Opinion(v1::SentinelOpinion),
    Heartbeat {
        from: usize,
        sequence: u64,
    },
    HeartbeatReply(v1::HeartbeatReply),
    /// A node's process is gone: its socket says so.
    NodeGone {
        node: usize,
        first: bool,
    },
    Order {
        from: usize,
        order: Order,
    },
    /// `None`: it could not be delivered.
    Ordered {
        order: Order,
        result: Option<Ordered>,
    },
    ReportPrimary {
        shard: u32,
        term: u64,
        node: u64,
    },
    ReportAmnesia {
        shard: u32,
        raft_id: u64,
        node: u64,
        reason: String,
    },
    Topology(Arc<v1::Topology>),
    RegisterProxy {
        proxy: usize,
    },
    Registered {
        proxy_id: u64,
        worker: WorkerId,
        topology: Arc<v1::Topology>,
    },
    RegisterAgain,
    NewSession {
        worker: WorkerId,
    },
    /// The policy wants to be asked now.
    Wake,
    /// A node that was asked to end does so.
    EndProcess,
}

/// An order of a sentinel to a node.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Forget { shard: u32, node: u64, term: u64, leader: u64 },
    Campaign { shard: u32, node: u64, term: u64 },
    Transfer(Transfer),
    Change { shard: u32, node: u64, change: MembershipChange },
}

impl Order {
    pub(crate) fn node(&self) -> u64 {
        match self {
            Self::Forget { node, .. } | Self::Campaign { node, .. } | Self::Change { node, .. } => {
                *node
            }
            Self::Transfer(transfer) => transfer.from_node,
        }
    }
}

impl World {
    // ----- nodes and proxies ------------------------------------------------------------------

    /// Sentinels with a connection to a node that died learn of it from their sockets.
    pub(crate) fn node_gone(&mut self, node: usize) {
        self.tell_sentinels(Proc::Node(node), || Rpc::NodeGone { node, first: true });
    }

    /// A node tells the sentinels something; whoever leads acts on it.
    pub(crate) fn report(&mut self, at: usize, rpc: Rpc) {
        let again = |rpc: &Rpc| match rpc {
            Rpc::ReportPrimary { shard, term, node } => {
                Rpc::ReportPrimary { shard: *shard, term: *term, node: *node }
            }
            Rpc::ReportAmnesia { shard, raft_id, node, reason } => Rpc::ReportAmnesia {
                shard: *shard,
                raft_id: *raft_id,
                node: *node,
                reason: reason.clone(),
            },
            _ => Rpc::Wake,
        };
        self.tell_sentinels(Proc::Node(at), || again(&rpc));
    }

    pub(crate) fn rpc_to_node(&mut self, at: usize, rpc: Rpc) {
        match rpc {
            Rpc::Heartbeat { from, sequence } => {
                self.machines[at].set_clock(self.now);
                let Some(process) = &self.machines[at].process else { return };
                let reply = process.heartbeat(false, sequence);
                self.send(Proc::Node(at), Proc::Sentinel(from), Rpc::HeartbeatReply(reply));
            }
            Rpc::Topology(topology) => {
                let known = self.machines[at].topology.version;
                let hosts = |raft_id| {
                    let process = self.machines[at].process.as_ref();
                    process.is_some_and(|p| p.replicas().any(|(_, id)| id == RaftId(raft_id)))
                };
                let incomplete = topology
                    .shards
                    .iter()
                    .flat_map(|s| &s.replicas)
                    .any(|r| r.node == at as u64 + 1 && !hosts(r.raft_id));
                if topology.version > known || (topology.version == known && incomplete) {
                    self.node_topology(at, &topology);
                }
            }
            Rpc::Order { from, order } => self.take_order(at, from, order),
            Rpc::EndProcess => {
                self.kill(Proc::Node(at));
                if self.machines[at].down == 0 {
                    // It was paused when it was asked: nobody waits any more to start it again.
                    self.after(RESTART_AFTER, Event::Start { proc: Proc::Node(at) });
                }
            }
            _ => {}
        }
    }

    pub(crate) fn take_order(&mut self, at: usize, from: usize, order: Order) {
        self.machines[at].set_clock(self.now);
        self.machines[at].rested &= !matches!(order, Order::Campaign { .. });
        let Some(process) = &mut self.machines[at].process else { return };
        let pending = match &order {
            Order::Forget { shard, term, leader, .. } => {
                process.forget_leader(ShardId(*shard), Term(*term), RaftId(*leader))
            }
            Order::Campaign { shard, term, .. } => process.campaign(ShardId(*shard), Term(*term)),
            Order::Transfer(t) => process.transfer_leader(ShardId(t.shard), RaftId(t.to_raft_id)),
            Order::Change { shard, change, .. } => {
                process.change_membership(ShardId(*shard), change.clone())
            }
        };
        self.machines[at].orders.push((pending, from, order));
        self.settle_node(at);
    }

    /// Sends the answers to orders that are there.
    pub(crate) fn poll_orders(&mut self, at: usize) {
        let mut answers = Vec::new();
        self.machines[at].orders.retain_mut(|(pending, from, order)| match pending.poll() {
            Some(result) => {
                answers.push((*from, order.clone(), result));
                false
            }
            None => true,
        });
        for (from, order, result) in answers {
            if from < self.sentinels.len() {
                let rpc = Rpc::Ordered { order, result };
                self.send(Proc::Node(at), Proc::Sentinel(from), rpc);
            }
        }
    }

    pub(crate) fn rpc_to_proxy(&mut self, at: usize, rpc: Rpc) {
        match rpc {
            Rpc::Topology(topology) if topology.version > self.proxies[at].topology.version => {
                self.proxy_topology(at, &topology);
            }
            Rpc::Registered { proxy_id, worker, topology } => {
                if self.proxies[at].core.is_none() && self.proxies[at].down == 0 {
                    self.proxy_registered(at, proxy_id, worker, topology);
                } else if self.proxies[at].renewing {
                    self.session_renewed(at, worker);
                }
            }
            Rpc::NewSession { worker } => self.session_renewed(at, worker),
            Rpc::RegisterAgain if self.proxies[at].renewing => self.register_proxy(at),
            _ => {}
        }
    }

    /// A proxy wants a worker id, at its start or because its session expired.
    pub(crate) fn register_proxy(&mut self, at: usize) {
        let to = self.rng.below(self.sentinels.len() as u64) as usize;
        let proxy = Proc::Proxy(at);
        self.send(proxy, Proc::Sentinel(to), Rpc::RegisterProxy { proxy: at });
        let delay = Duration::from_millis(100);
        let inc = self.incarnation(proxy);
        if self.proxies[at].core.is_none() {
            self.after(delay, Event::Start { proc: proxy });
        } else {
            let rpc = Box::new(Rpc::RegisterAgain);
            self.after(delay, Event::Rpc { to: proxy, inc, rpc });
        }
    }

    // ----- faults that are orders -------------------------------------------------------------

    pub(crate) fn order_transfer(&mut self, shard: u32, node: usize) -> bool {
        let Some(raft_id) = self.replica_on(shard, node) else { return false };
        let leader = self.leader_of(shard);
        let Some(from) = leader.filter(|from| *from != node && !self.machines[*from].paused) else {
            return false;
        };
        let transfer = Transfer {
            shard,
            from_node: from as u64 + 1,
            to_node: node as u64 + 1,
            to_raft_id: raft_id,
            reason: holdfast_sentinel::core::balance::Reason::Planned,
        };
        self.take_order(from, usize::MAX, Order::Transfer(transfer));
        true
    }

    /// The id of a shard's replica on a node.
    pub(crate) fn replica_on(&self, shard: u32, node: usize) -> Option<u64> {
        let topology = self.newest_topology();
        let info = topology.shards.iter().find(|s| s.id == shard)?;
        let replica = info.replicas.iter().find(|r| r.node == node as u64 + 1)?;
        Some(replica.raft_id)
    }

    /// The node whose replica leads a shard, in the newest term.
    pub(crate) fn leader_of(&self, shard: u32) -> Option<usize> {
        let role = |at: &usize| self.machines[*at].process.as_ref()?.role(ShardId(shard));
        let leads = |at: &usize| role(at).is_some_and(|(_, _, role)| role == Role::Leader);
        let leaders = (0..self.machines.len()).filter(leads);
        leaders.max_by_key(|at| role(at).map(|(_, term, _)| term))
    }

    /// All replicas are told to forget their leader and one to campaign, for no reason.
    pub(crate) fn wrong_order(&mut self, shard: u32, node: usize) {
        for at in 0..self.machines.len() {
            if self.machines[at].paused {
                continue;
            }
            let Some(process) = &self.machines[at].process else { continue };
            let Some(status) = process.status(ShardId(shard)) else { continue };
            let own = at as u64 + 1;
            let (term, leader) = (status.term, status.leader_raft_id);
            self.take_order(at, usize::MAX, Order::Forget { shard, node: own, term, leader });
            if at == node {
                self.take_order(at, usize::MAX, Order::Campaign { shard, node: own, term });
            }
        }
    }

    /// An operator has a replica replaced.
    pub(crate) fn order_replacement(&mut self, shard: u32, node: usize) -> bool {
        let Some(leader) = (0..self.sentinels.len()).find(|at| {
            !self.sentinels[*at].paused
                && self.sentinels[*at].process.as_ref().is_some_and(|p| p.serves)
        }) else {
            return false;
        };
        let topology = self.sentinels[leader].topology();
        let Some(info) = topology.shards.iter().find(|s| s.id == shard) else { return false };
        let id = node as u64 + 1;
        let Some(replica) = info.replicas.iter().find(|r| r.node == id) else { return false };
        // The leader itself is not replaced while it leads.
        if info.primary_node == id {
            return false;
        }
        self.replace(leader, shard, replica.raft_id, id, "by order".to_owned());
        self.drive(leader);
        true
    }
}

pub(crate) fn forget_reply(ordered: Ordered) -> Option<v1::ForgetLeaderReply> {
    match ordered {
        Ordered::Done { status } => {
            Some(v1::ForgetLeaderReply { obeyed: true, status: Some(status), ..Default::default() })
        }
        Ordered::Refused { reason, retry_after, status } => Some(v1::ForgetLeaderReply {
            obeyed: false,
            retry_after_us: retry_after.as_micros() as u64,
            reason,
            status: Some(status),
        }),
        Ordered::NoReplica => None,
    }
}

/// Orders under way at a node, with the sentinel that waits.
pub(crate) type Orders = Vec<(PendingOrder, usize, Order)>;
