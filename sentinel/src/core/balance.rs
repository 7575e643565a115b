//! Slow corrections: primaries spread over the nodes again, and away from slow disks.
//!
//! Always by planned transfers, one at a time, and only in a cluster that has been quiet for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_proto::v1;

use super::quorum::Verdict;
use super::view::ClusterView;

/// At most one transfer in this time.
const MOVE_INTERVAL: Duration = Duration::from_secs(5);
/// All nodes must have been up for this long before anything is moved for the sake of balance.
const QUIET_BEFORE: Duration = Duration::from_secs(10);
/// A replica is caught up when at most this many entries are missing (as TiKV's transfer check).
const LAG_ENTRIES_MAX: u64 = 128;
/// A primary whose fsync takes longer hands over (DESIGN: elections, "no storms").
const SLOW_FSYNC: Duration = Duration::from_secs(1);

/// A planned hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub shard: u32,
    pub from_node: u64,
    pub to_node: u64,
    pub to_raft_id: u64,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An operator asked.
    Planned,
    /// Other nodes lead fewer shards.
    Balance,
    /// The primary's disk is slow.
    SlowDisk,
}

/// Why there is no transfer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTransfer {
    #[error("there is no shard {0}")]
    UnknownShard(u32),
    #[error("shard {0} has no primary now")]
    NoPrimary(u32),
    #[error("node {node} is primary of shard {shard} already")]
    AlreadyPrimary { shard: u32, node: u64 },
    #[error("node {node} has no replica of shard {shard} that could lead: {reason}")]
    Unfit { shard: u32, node: u64, reason: &'static str },
    #[error("no other replica of shard {0} is alive and caught up")]
    NoCandidate(u32),
}

/// When the last transfer was, and since when the cluster is quiet.
#[derive(Debug, Default)]
pub struct Balancer {
    last_move: Option<Duration>,
    quiet_since: Option<Duration>,
}

impl Balancer {
    /// The next transfer, if one is due. `busy`: a failover is under way.
    pub fn next(&mut self, now: Duration, view: &ClusterView, busy: bool) -> Option<Transfer> {
        let all_up = view.topology.nodes.iter().filter(|n| !n.heartbeat_addr.is_empty());
        let quiet = !busy && all_up.into_iter().all(|n| view.verdict(n.id) == Verdict::Up);
        self.quiet_since = quiet.then(|| self.quiet_since.unwrap_or(now));
        if busy || self.last_move.is_some_and(|at| now < at + MOVE_INTERVAL) {
            return None;
        }
        let settled = self.quiet_since.is_some_and(|since| now >= since + QUIET_BEFORE);
        let next = away_from_slow_disk(view)
            .or_else(|| if settled { towards_balance(view) } else { None })?;
        self.last_move = Some(now);
        Some(next)
    }
}

/// A transfer for an operator; `to_node` 0 means the best replica.
pub fn planned(view: &ClusterView, shard: u32, to_node: u64) -> Result<Transfer, NoTransfer> {
    let info = view.shard(shard).ok_or(NoTransfer::UnknownShard(shard))?;
    let from = view.serving(shard).ok_or(NoTransfer::NoPrimary(shard))?.node;
    if from == to_node {
        return Err(NoTransfer::AlreadyPrimary { shard, node: to_node });
    }
    let chosen = if to_node == 0 {
        best_target(view, info, from).ok_or(NoTransfer::NoCandidate(shard))?
    } else {
        let unfit = |reason| NoTransfer::Unfit { shard, node: to_node, reason };
        let replica = info.replicas.iter().find(|r| r.node == to_node);
        let replica = replica.ok_or_else(|| unfit("it hosts none"))?;
        check_target(view, info, from, replica).map_err(unfit)?;
        (to_node, replica.raft_id)
    };
    let (to_node, to_raft_id) = chosen;
    Ok(Transfer { shard, from_node: from, to_node, to_raft_id, reason: Reason::Planned })
}

fn check_target(
    view: &ClusterView,
    shard: &v1::ShardInfo,
    from: u64,
    replica: &v1::ReplicaInfo,
) -> Result<(), &'static str> {
    if !view.is_live(replica.node) {
        return Err("the node is down");
    }
    if replica.role() != v1::ReplicaRole::Voter {
        return Err("it does not vote yet");
    }
    let status = view.status(replica.node, shard.id, replica.raft_id);
    let status = status.ok_or("it has not started")?;
    let primary = shard.replicas.iter().find(|r| r.node == from);
    let primary = primary.and_then(|p| view.status(from, shard.id, p.raft_id));
    let goal = primary.map_or(0, |p| p.last_index);
    if status.last_index + LAG_ENTRIES_MAX < goal {
        return Err("it has not caught up");
    }
    Ok(())
}

/// The fit replica with the most applied entries on the node that leads the fewest shards.
fn best_target(view: &ClusterView, shard: &v1::ShardInfo, from: u64) -> Option<(u64, u64)> {
    let leads = primaries(view);
    let fit = shard
        .replicas
        .iter()
        .filter(|r| r.node != from && check_target(view, shard, from, r).is_ok());
    let best = fit.min_by_key(|r| {
        let applied = view.status(r.node, shard.id, r.raft_id).map_or(0, |s| s.applied_index);
        (leads.get(&r.node).copied().unwrap_or(0), std::cmp::Reverse(applied), r.node)
    });
    best.map(|r| (r.node, r.raft_id))
}

/// How many shards each live node leads.
fn primaries(view: &ClusterView) -> BTreeMap<u64, u32> {
    let live = view.nodes.keys().filter(|node| view.is_live(**node));
    let mut leads: BTreeMap<u64, u32> = live.map(|node| (*node, 0)).collect();
    for shard in &view.topology.shards {
        if let Some(primary) = view.serving(shard.id) {
            *leads.entry(primary.node).or_default() += 1;
        }
    }
    leads
}

fn towards_balance(view: &ClusterView) -> Option<Transfer> {
    let leads = primaries(view);
    let mut moves = Vec::new();
    for shard in &view.topology.shards {
        let Some(primary) = view.serving(shard.id) else { continue };
        for replica in &shard.replicas {
            let (most, least) = (leads.get(&primary.node)?, leads.get(&replica.node));
            let gain = most.saturating_sub(*least.unwrap_or(most));
            // A difference of one would only move the difference.
            if gain >= 2 && check_target(view, shard, primary.node, replica).is_ok() {
                moves.push((std::cmp::Reverse(gain), shard.id, primary.node, replica));
            }
        }
    }
    let best = moves.into_iter().min_by_key(|(gain, shard, _, r)| (*gain, *shard, r.node));
    best.map(|(_, shard, from_node, replica)| Transfer {
        shard,
        from_node,
        to_node: replica.node,
        to_raft_id: replica.raft_id,
        reason: Reason::Balance,
    })
}

fn away_from_slow_disk(view: &ClusterView) -> Option<Transfer> {
    let slow = |node: u64| view.nodes.get(&node).is_some_and(|n| n.fsync_latency >= SLOW_FSYNC);
    view.topology.shards.iter().find_map(|shard| {
        let from_node = view.serving(shard.id).filter(|p| slow(p.node))?.node;
        let (to_node, to_raft_id) = best_target(view, shard, from_node).filter(|t| !slow(t.0))?;
        let reason = Reason::SlowDisk;
        Some(Transfer { shard: shard.id, from_node, to_node, to_raft_id, reason })
    })
}

#[cfg(test)]
mod tests {
    use super::super::view::testing::*;
    use super::*;

    /// Three shards, all led by node 1.
    fn unbalanced() -> ClusterView {
        let mut view = three_nodes();
        let topology = topology_mut(&mut view);
        for node in &mut topology.nodes {
            node.heartbeat_addr = "127.0.0.1:1".to_owned();
        }
        for id in [2, 3] {
            let shard = v1::ShardInfo { id, ..topology.shards[0].clone() };
            topology.shards.push(shard);
        }
        for node in view.nodes.values_mut() {
            for shard in [2, 3] {
                let status = v1::ReplicaStatus { shard, ..node.replicas[0].clone() };
                node.replicas.push(status);
            }
        }
        view
    }

    #[test]
    fn primaries_are_spread_after_a_quiet_while_and_one_at_a_time() {
        let view = unbalanced();
        let mut balancer = Balancer::default();
        assert_eq!(balancer.next(ms(0), &view, false), None);
        assert_eq!(balancer.next(ms(9_999), &view, false), None);
        let first = balancer.next(ms(10_000), &view, false).unwrap();
        assert_eq!((first.shard, first.from_node, first.to_node), (1, 1, 2));
        assert_eq!(balancer.next(ms(14_999), &view, false), None);
        assert!(balancer.next(ms(15_000), &view, false).is_some());
    }

    #[test]
    fn a_failover_or_a_dead_node_starts_the_quiet_time_again() {
        let mut view = unbalanced();
        let mut balancer = Balancer::default();
        balancer.next(ms(0), &view, false);
        balancer.next(ms(9_000), &view, true);
        assert_eq!(balancer.next(ms(10_000), &view, false), None);
        verdict(&mut view, 3, Verdict::SubjectivelyDown);
        assert_eq!(balancer.next(ms(25_000), &view, false), None);
    }

    #[test]
    fn one_shard_is_left_where_it_is() {
        let view = three_nodes();
        assert_eq!(towards_balance(&view), None);
    }

    #[test]
    fn a_replica_that_lags_gets_nothing() {
        let mut view = unbalanced();
        for node in [2, 3] {
            for status in &mut view.nodes.get_mut(&node).unwrap().replicas {
                status.last_index = 0;
            }
        }
        for status in &mut view.nodes.get_mut(&1).unwrap().replicas {
            status.last_index = 129;
        }
        assert_eq!(towards_balance(&view), None);
        let lag = NoTransfer::Unfit { shard: 1, node: 2, reason: "it has not caught up" };
        assert_eq!(planned(&view, 1, 2), Err(lag));
        assert_eq!(planned(&view, 1, 0), Err(NoTransfer::NoCandidate(1)));
    }

    #[test]
    fn operators_are_told_what_is_wrong() {
        let view = three_nodes();
        assert_eq!(planned(&view, 9, 0), Err(NoTransfer::UnknownShard(9)));
        let already = NoTransfer::AlreadyPrimary { shard: 1, node: 1 };
        assert_eq!(planned(&view, 1, 1), Err(already));
        let none = NoTransfer::Unfit { shard: 1, node: 9, reason: "it hosts none" };
        assert_eq!(planned(&view, 1, 9), Err(none));
        assert_eq!(planned(&view, 1, 3).map(|t| t.to_raft_id), Ok(13));
    }

    #[test]
    fn a_slow_disk_is_left_at_once() {
        let mut view = three_nodes();
        view.nodes.get_mut(&1).unwrap().fsync_latency = SLOW_FSYNC;
        let next = Balancer::default().next(ms(0), &view, false).unwrap();
        assert_eq!((next.from_node, next.reason), (1, Reason::SlowDisk));
    }
}
