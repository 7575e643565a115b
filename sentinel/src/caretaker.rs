//! The slow loop of the leader: founds the cluster, places shards, retires silent proxies, replaces
//! lost replicas, spreads primaries. One step at a time; each waits for its outcome.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::v1;
use tokio::time::{Instant, sleep, timeout};

use crate::core::balance::{Balancer, Reason, Transfer};
use crate::core::metadata::Command;
use crate::core::metadata::command::{
    CreateShards, Found, LeaderIs, PlacedShard, PrimaryIs, PromoteReplica, RecordFailover,
    ReplaceReplica, RetireProxy,
};
use crate::core::placement::{Site, place};
use crate::core::quorum::Verdict;
use crate::core::repair::{self, Step};
use crate::group::ProposeResult;
use crate::shared::Sentinel;
use holdfast_consensus::clock;

/// Between rounds when nothing is registered.
const ROUND: Duration = Duration::from_secs(1);
/// Between the steps of a repair: two heartbeats, which show what the last step changed.
const REPAIR_ROUND: Duration = Duration::from_millis(200);
/// Far beyond every hold deadline of a proxy (10 s), after which its workers cannot resend.
const PROXY_SILENCE_MAX: Duration = Duration::from_secs(60);
/// A refused hand-over is ordered again this long, as its target may catch up or be heard again: a
/// primary forgets at each check of its quorum (1 s) whom it has heard, until the next heartbeat.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);
const HAND_OVER_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn run(sentinel: Arc<Sentinel>) {
    let mut balancer = Balancer::default();
    let mut pause = ROUND;
    loop {
        // Woken or not, look around.
        let _ = timeout(pause, sentinel.chores.notified()).await;
        pause = ROUND;
        if !sentinel.group.leads() {
            balancer = Balancer::default();
        } else if round(&sentinel, &mut balancer).await {
            pause = REPAIR_ROUND;
        }
    }
}

/// True if a repair made a step.
async fn round(sentinel: &Arc<Sentinel>, balancer: &mut Balancer) -> bool {
    let published = sentinel.group.published();
    if !published.metadata.is_founded() {
        let cluster_id = sentinel.cluster_id.clone();
        let spec = Some(sentinel.config.spec());
        log(
            "found the cluster",
            sentinel.propose(Command::Found(Found { cluster_id, spec })).await,
        );
    }
    lead(sentinel).await;
    place_shards(sentinel).await;
    retire_proxies(sentinel).await;
    replace_gone(sentinel).await;
    let repairing = repair_shards(sentinel).await;
    let now = clock::monotonic();
    let next = {
        let busy = !sentinel.busy_shards().is_empty();
        balancer.next(now, &sentinel.view(), busy)
    };
    if let Some(transfer) = next {
        tracing::info!(?transfer, "primary is moved");
        if let Err(error) = hand_over(sentinel, transfer).await {
            tracing::info!(shard = transfer.shard, error, "primary was not moved");
        }
    }
    repairing
}

/// Says in the metadata who leads the sentinels.
async fn lead(sentinel: &Sentinel) {
    let topology = sentinel.group.published().topology;
    let sentinels = sentinel.config.sentinels();
    let own = sentinel.config.id;
    if topology.version > 0 && (topology.sentinel_leader != own || topology.sentinels != sentinels)
    {
        let command = Command::LeaderIs(LeaderIs { sentinel: own, sentinels });
        log("record the leader", sentinel.propose(command).await);
    }
}

async fn place_shards(sentinel: &Sentinel) {
    let topology = sentinel.group.published().topology;
    if topology.version == 0 || !topology.shards.is_empty() {
        return;
    }
    let spec = topology.spec.clone().unwrap_or_default();
    let usable = topology.nodes.iter().filter(|n| n.health() == v1::NodeHealth::Up);
    let sites: Vec<Site> = usable.map(|n| Site { node: n.id, zone: n.zone.clone() }).collect();
    if sites.len() < sentinel.config.founding_nodes() as usize {
        return;
    }
    let Some(placed) = place(&sites, spec.shards, spec.replicas) else { return };
    let shards = placed.into_iter().map(|nodes| PlacedShard { nodes }).collect();
    log(
        "create the shards",
        sentinel.propose(Command::CreateShards(CreateShards { shards })).await,
    );
}

async fn retire_proxies(sentinel: &Sentinel) {
    let topology = sentinel.group.published().topology;
    let now = clock::monotonic();
    let silent: Vec<u64> = {
        let mut seen = sentinel.proxies_seen();
        seen.retain(|id, _| topology.proxies.iter().any(|p| p.id == *id));
        let ids = topology.proxies.iter().map(|p| p.id);
        // A new leader gives everybody the full time.
        ids.filter(|id| now > *seen.entry(*id).or_insert(now) + PROXY_SILENCE_MAX).collect()
    };
    for proxy in silent {
        let reason = format!("not heard for {} s", PROXY_SILENCE_MAX.as_secs());
        let command = Command::RetireProxy(RetireProxy { proxy, reason });
        log("retire a proxy", sentinel.propose(command).await);
    }
}

/// Replicas of nodes whose directory is gone move to the node that has their address now, or to
/// any other that is up.
async fn replace_gone(sentinel: &Sentinel) {
    let Some(command) = replacement_of_gone(&sentinel.group.published().topology, |node| {
        sentinel.view().verdict(node) == Verdict::Up
    }) else {
        return;
    };
    log(
        "replace a replica of a lost node",
        sentinel.propose(Command::ReplaceReplica(command)).await,
    );
}

fn replacement_of_gone(
    topology: &v1::Topology,
    is_up: impl Fn(u64) -> bool,
) -> Option<ReplaceReplica> {
    let gone = |id: u64| {
        let node = topology.nodes.iter().find(|n| n.id == id);
        node.is_some_and(|n| n.heartbeat_addr.is_empty())
    };
    for shard in &topology.shards {
        let Some(lost) = shard.replicas.iter().find(|r| gone(r.node)) else { continue };
        let hosts = |node: u64| shard.replicas.iter().any(|r| r.node == node);
        let mut free = topology.nodes.iter().filter(|n| !hosts(n.id) && is_up(n.id));
        let Some(node) = free.next_back() else { continue };
        return Some(ReplaceReplica {
            shard: shard.id,
            expected_epoch: shard.epoch,
            old_raft_id: lost.raft_id,
            node: node.id,
            reason: format!("node {} is gone", lost.node),
        });
    }
    None
}

async fn repair_shards(sentinel: &Sentinel) -> bool {
    let steps = repair::plan(&sentinel.view());
    let mut any = false;
    for step in steps {
        match step {
            Step::Promote { shard, epoch, raft_id } => {
                let promote = PromoteReplica { shard, expected_epoch: epoch, raft_id };
                let command = Command::PromoteReplica(promote);
                log("promote a replica", sentinel.propose(command).await);
                any = true;
            }
            Step::Change { shard, node, add_learners, add_voters, remove } => {
                let Some(addr) = sentinel.control_addr(node) else { continue };
                tracing::info!(
                    shard,
                    node,
                    ?add_learners,
                    ?add_voters,
                    ?remove,
                    "membership change"
                );
                let request = v1::ChangeMembershipRequest {
                    shard,
                    add_voters,
                    add_learners,
                    remove,
                    ..Default::default()
                };
                match sentinel.orders.change_membership(&addr, request).await {
                    Ok(reply) if reply.done => any = true,
                    Ok(reply) => tracing::info!(shard, reason = reply.reason, "not changed"),
                    Err(error) => tracing::info!(shard, %error, "not changed"),
                }
            }
        }
    }
    any
}

/// Carries out a planned transfer and records it. One that the primary refuses is ordered again for a
/// while.
pub(crate) async fn hand_over(
    sentinel: &Sentinel,
    transfer: Transfer,
) -> Result<v1::FailoverReport, String> {
    let Transfer { shard, from_node, to_node, to_raft_id, reason } = transfer;
    let addr = sentinel.control_addr(from_node).ok_or("the primary's address is not known")?;
    let asked = Instant::now();
    let (began, reply) = loop {
        let began = Instant::now();
        let reply = sentinel.orders.transfer_leader(&addr, shard, to_raft_id).await;
        let reply = reply.map_err(|e| format!("node {from_node}: {}", e.message()))?;
        if reply.done {
            break (began, reply);
        }
        if asked.elapsed() >= HAND_OVER_PATIENCE {
            return Err(format!("node {from_node}: {}", reply.reason));
        }
        sleep(HAND_OVER_PAUSE).await;
    };
    let took = began.elapsed();
    let report = v1::FailoverReport {
        shard,
        old_node: from_node,
        new_node: to_node,
        term: reply.term,
        elected_ms: took.as_secs_f64() * 1000.0,
        planned: true,
        ..Default::default()
    };
    if reason == Reason::SlowDisk {
        tracing::warn!(shard, from_node, "primary moved away from a slow disk");
    }
    sentinel.counters().transfers += 1;
    let primary = PrimaryIs { shard, term: reply.term, node: to_node };
    log("record the new primary", sentinel.propose(Command::PrimaryIs(primary)).await);
    let last_alive_ms = clock::wall_ms().saturating_sub(took.as_millis() as u64);
    let record = RecordFailover { report: Some(report), last_alive_ms };
    log("record the hand-over", sentinel.propose(Command::RecordFailover(record)).await);
    Ok(report)
}

fn log(what: &str, outcome: ProposeResult) {
    match outcome {
        Ok(outcome) => tracing::debug!(what, ?outcome, "change made"),
        Err(error) => tracing::info!(what, %error, "change not made"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_of_a_lost_node_goes_to_the_latest_free_one() {
        let node = |id: u64, addr: &str| v1::NodeInfo {
            id,
            heartbeat_addr: addr.to_owned(),
            ..Default::default()
        };
        let replica = |node| v1::ReplicaInfo { node, raft_id: node + 10, ..Default::default() };
        let shard = v1::ShardInfo {
            id: 1,
            epoch: 3,
            replicas: vec![replica(1), replica(2)],
            ..Default::default()
        };
        let mut topology = v1::Topology {
            nodes: vec![node(1, "a:1"), node(2, "b:1"), node(3, "c:1")],
            shards: vec![shard],
            ..Default::default()
        };
        assert_eq!(replacement_of_gone(&topology, |_| true), None);
        topology.nodes[1].heartbeat_addr.clear();
        topology.nodes.push(node(4, "b:1"));
        let found = replacement_of_gone(&topology, |_| true).unwrap();
        assert_eq!((found.old_raft_id, found.node, found.expected_epoch), (12, 4, 3));
        assert_eq!(replacement_of_gone(&topology, |_| false), None);
    }
}
