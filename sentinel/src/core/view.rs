//! What this sentinel knows right now: the recorded topology and what heartbeats said last.
//!
//! Heartbeats are newer than the record; where they differ, they are believed first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::v1;

use super::quorum::Verdict;

/// A node as last heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub verdict: Verdict,
    pub last_reply: Duration,
    pub incarnation: u64,
    pub impaired: bool,
    pub fsync_latency: Duration,
    pub used_memory: u64,
    pub replicas: Vec<v1::ReplicaStatus>,
}

/// A process was replaced by a new one of the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    pub node: u64,
    /// When the former process was last heard.
    pub last_alive: Duration,
}

/// A replica that serves its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Primary {
    pub term: u64,
    pub node: u64,
}

/// The whole picture.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    pub topology: Arc<v1::Topology>,
    pub nodes: BTreeMap<u64, NodeView>,
}

impl NodeView {
    /// Not heard of yet, and watched from `now` on.
    fn unheard(now: Duration) -> Self {
        Self {
            verdict: Verdict::Unknown,
            last_reply: now,
            incarnation: 0,
            impaired: false,
            fsync_latency: Duration::ZERO,
            used_memory: 0,
            replicas: Vec::new(),
        }
    }
}

impl ClusterView {
    /// Takes the recorded topology. A node that was never heard counts from now.
    pub fn adopt(&mut self, now: Duration, topology: &Arc<v1::Topology>) {
        if self.topology.version >= topology.version {
            return;
        }
        self.topology = Arc::clone(topology);
        let known: Vec<u64> = topology.nodes.iter().map(|n| n.id).collect();
        self.nodes.retain(|id, _| known.contains(id));
        for id in known {
            self.nodes.entry(id).or_insert_with(|| NodeView::unheard(now));
        }
    }

    /// Takes a heartbeat's answer.
    pub fn heartbeat(&mut self, now: Duration, reply: v1::HeartbeatReply) -> Option<Restarted> {
        let former = self.nodes.get(&reply.node);
        let restarted = former.filter(|n| n.incarnation != 0 && n.incarnation != reply.incarnation);
        let restarted = restarted.map(|n| Restarted { node: reply.node, last_alive: n.last_reply });
        let verdict = former.map_or(Verdict::Unknown, |n| n.verdict);
        let view = NodeView {
            verdict,
            last_reply: now,
            incarnation: reply.incarnation,
            impaired: reply.impaired,
            fsync_latency: Duration::from_micros(reply.fsync_latency_us),
            used_memory: reply.used_memory,
            replicas: reply.replicas,
        };
        self.nodes.insert(reply.node, view);
        restarted
    }

    /// A node says that its replica serves; the next heartbeat would say so too.
    pub fn primary_reported(&mut self, shard: u32, primary: Primary) {
        let Some(node) = self.nodes.get_mut(&primary.node) else { return };
        let Some(status) = node.replicas.iter_mut().find(|r| r.shard == shard) else { return };
        if status.term <= primary.term {
            status.term = primary.term;
            status.role = v1::RaftRole::Leader.into();
            status.leader_raft_id = status.raft_id;
            status.serving = true;
        }
    }

    pub fn shard(&self, id: u32) -> Option<&v1::ShardInfo> {
        self.topology.shards.iter().find(|s| s.id == id)
    }

    /// Heard of, and not known to be down.
    pub fn is_live(&self, node: u64) -> bool {
        self.nodes.get(&node).is_some_and(|n| !n.verdict.is_down())
    }

    pub fn verdict(&self, node: u64) -> Verdict {
        self.nodes.get(&node).map_or(Verdict::Unknown, |n| n.verdict)
    }

    /// The last status of a replica, of a live node or a dead one.
    pub fn status(&self, node: u64, shard: u32, raft_id: u64) -> Option<&v1::ReplicaStatus> {
        let replicas = &self.nodes.get(&node)?.replicas;
        replicas.iter().find(|r| r.shard == shard && r.raft_id == raft_id)
    }

    /// The primary that serves as far as live nodes say: the greatest term.
    pub fn serving(&self, shard: u32) -> Option<Primary> {
        self.leaders(shard).filter(|(p, s)| s.serving && self.is_live(p.node)).map(|(p, _)| p).max()
    }

    /// Who leads or last led the shard: heartbeats first, the record second.
    pub fn last_primary(&self, shard: u32) -> Option<Primary> {
        let recorded = self.shard(shard).filter(|s| s.primary_node != 0);
        let recorded = recorded.map(|s| Primary { term: s.term, node: s.primary_node });
        self.leaders(shard).map(|(p, _)| p).chain(recorded).max()
    }

    fn leaders(&self, shard: u32) -> impl Iterator<Item = (Primary, &v1::ReplicaStatus)> {
        let members = self.shard(shard).map_or(&[][..], |s| &s.replicas);
        members.iter().filter_map(move |member| {
            let status = self.status(member.node, shard, member.raft_id)?;
            let leads = status.role() == v1::RaftRole::Leader;
            leads.then_some((Primary { term: status.term, node: member.node }, status))
        })
    }

    /// The shard's recorded voters and the statuses of those on live nodes.
    pub fn live_voters<'a>(
        &'a self,
        shard: &'a v1::ShardInfo,
    ) -> impl Iterator<Item = (&'a v1::ReplicaInfo, &'a v1::ReplicaStatus)> {
        let voters = shard.replicas.iter().filter(|r| r.role() == v1::ReplicaRole::Voter);
        voters
            .filter(|r| self.is_live(r.node))
            .filter_map(|r| self.status(r.node, shard.id, r.raft_id).map(|status| (r, status)))
    }
}

/// How many voters make a majority of a shard.
pub fn quorum(shard: &v1::ShardInfo) -> usize {
    shard.replicas.len() / 2 + 1
}

#[cfg(test)]
pub(crate) mod testing {
    //! A shard of three replicas on nodes 1, 2, 3 (raft ids 11, 12, 13), led by node 1 in term 5.

    use super::*;

    pub(crate) const SHARD: u32 = 1;

    pub(crate) fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    pub(crate) fn three_nodes() -> ClusterView {
        let replica = |node| v1::ReplicaInfo {
            raft_id: node + 10,
            node,
            role: v1::ReplicaRole::Voter.into(),
            founding: true,
        };
        let shard = v1::ShardInfo {
            id: SHARD,
            replicas: (1..=3).map(replica).collect(),
            primary_node: 1,
            term: 5,
            slots: vec![],
            epoch: 1,
        };
        let info = |id| v1::NodeInfo {
            id,
            incarnation: 100,
            health: v1::NodeHealth::Up.into(),
            ..Default::default()
        };
        let topology = v1::Topology {
            version: 10,
            nodes: (1..=3).map(info).collect(),
            shards: vec![shard],
            ..Default::default()
        };
        let mut view = ClusterView { topology: Arc::new(topology), nodes: BTreeMap::new() };
        for node in 1..=3 {
            view.heartbeat(ms(1000), reply(node));
            verdict(&mut view, node, Verdict::Up);
        }
        view
    }

    pub(crate) fn reply(node: u64) -> v1::HeartbeatReply {
        let leads = node == 1;
        let role = if leads { v1::RaftRole::Leader } else { v1::RaftRole::Follower };
        let status = v1::ReplicaStatus {
            shard: SHARD,
            raft_id: node + 10,
            role: role.into(),
            term: 5,
            leader_raft_id: 11,
            last_term: 5,
            last_index: 50,
            commit_index: 50,
            applied_index: 50,
            serving: leads,
            membership: Some(v1::Membership { voters: vec![11, 12, 13], ..Default::default() }),
            ..Default::default()
        };
        v1::HeartbeatReply { node, incarnation: 100, replicas: vec![status], ..Default::default() }
    }

    pub(crate) fn verdict(view: &mut ClusterView, node: u64, verdict: Verdict) {
        view.nodes.get_mut(&node).unwrap().verdict = verdict;
    }

    pub(crate) fn status_mut(view: &mut ClusterView, node: u64) -> &mut v1::ReplicaStatus {
        &mut view.nodes.get_mut(&node).unwrap().replicas[0]
    }

    pub(crate) fn topology_mut(view: &mut ClusterView) -> &mut v1::Topology {
        Arc::make_mut(&mut view.topology)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    #[test]
    fn heartbeats_are_believed_before_the_record() {
        let mut view = three_nodes();
        assert_eq!(view.last_primary(SHARD), Some(Primary { term: 5, node: 1 }));
        status_mut(&mut view, 2).role = v1::RaftRole::Leader.into();
        status_mut(&mut view, 2).term = 6;
        assert_eq!(view.last_primary(SHARD), Some(Primary { term: 6, node: 2 }));
        assert_eq!(view.serving(SHARD), Some(Primary { term: 5, node: 1 }), "2 does not serve yet");
    }

    #[test]
    fn a_dead_node_serves_nothing_but_was_the_last_primary() {
        let mut view = three_nodes();
        verdict(&mut view, 1, Verdict::ObjectivelyDown { hard: true });
        assert_eq!(view.serving(SHARD), None);
        assert_eq!(view.last_primary(SHARD), Some(Primary { term: 5, node: 1 }));
    }

    #[test]
    fn another_incarnation_is_a_restart() {
        let mut view = three_nodes();
        let mut again = reply(1);
        again.incarnation = 101;
        let restarted = Restarted { node: 1, last_alive: ms(1000) };
        assert_eq!(view.heartbeat(ms(1200), again), Some(restarted));
        assert_eq!(view.heartbeat(ms(1300), reply(2)), None);
    }
}
