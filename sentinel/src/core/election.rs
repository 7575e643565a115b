//! Fails one shard over to another replica, without ever deciding who may lead: Raft's vote does.
//!
//! A voter under check-quorum ignores candidates while it remembers a leader, so the order is:
//! *ForgetLeader* to every live replica in parallel; each obeys only if term and leader match and it
//! has itself not heard that leader for lease + margin, and otherwise says when to ask again. As soon
//! as a majority with the best log among it has forgotten, that replica campaigns. If it does not
//! win, the next best does. A wrong order costs nothing: a leader that lives is heard again.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_proto::v1;

use super::view::{ClusterView, Primary, quorum};

/// An order without answer is repeated after this long: ten times a slow round trip in one region.
const ORDER_TIMEOUT: Duration = Duration::from_millis(200);
/// Without a usable status of a replica, or told of another leader: look again this soon.
const RETRY: Duration = Duration::from_millis(20);
/// Added to a veto's time so that the next question does not come a scheduling delay too early.
const VETO_SLACK: Duration = Duration::from_millis(1);
/// After this many vetoes of a replica the leader lives, whatever we think: ask it rarely.
const VETOES_FAST_MAX: u32 = 6;
const VETO_PAUSE: Duration = Duration::from_millis(500);
/// How long a majority waits for a better log to join it. Its owner must be slow or cut off, for
/// the question went out to all at once.
const BETTER_LOG_PATIENCE: Duration = Duration::from_millis(60);
/// A new shard waits this long for the node that was chosen to be its first primary.
const FOUNDING_PATIENCE: Duration = Duration::from_millis(1500);
/// A replica that refuses to campaign this often counts as one that campaigned in vain.
const REFUSALS_MAX: u32 = 8;
/// The preferred first primary may campaign in vain this often before another one is tried: the
/// other replicas refuse votes for lease + margin after their own start.
const FOUNDING_TRIES: u32 = 4;
/// Pre-vote, vote, and an own entry take three round trips and three fsyncs, some 10 ms; much more
/// than that and another candidate may try.
const CAMPAIGN_TIMEOUT: Duration = Duration::from_millis(300);

/// Why a shard needs another primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The primary's node is objectively down.
    NodeDown { hard: bool },
    /// The primary's process was replaced by a new one.
    Restarted,
    /// Nobody has served for a while though a majority lives.
    Leaderless,
    /// The shard is new: this node should lead first.
    Founding { preferred: u64 },
}

/// What a running failover can learn.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed or the view has changed.
    Wake,
    /// Answer to [`Effect::Forget`]; `None` if there was none.
    ForgetReply { node: u64, reply: Option<Box<v1::ForgetLeaderReply>> },
    /// Answer to [`Effect::Campaign`].
    CampaignReply { node: u64, started: bool },
}

/// What a running failover wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Order the replica on `node` to forget this leader.
    Forget { node: u64, term: u64, leader_raft_id: u64 },
    /// Order the replica on `node` to campaign if its term is still this.
    Campaign { node: u64, term: u64 },
    /// Somebody serves: over.
    Won { primary: Primary, report: v1::FailoverReport, last_alive: Duration },
    /// The old primary serves on: over, nothing happened.
    CalledOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// To be asked at this time.
    AskAt(Duration),
    Asked {
        since: Duration,
    },
    Obeyed,
}

#[derive(Debug)]
struct Candidate {
    raft_id: u64,
    standing: Standing,
    vetoes: u32,
    /// How often it campaigned in vain.
    tried: u32,
    /// How often it did not want to campaign.
    refused: u32,
    /// From its last answer; heartbeats may be newer.
    status: Option<v1::ReplicaStatus>,
}

#[derive(Debug)]
enum Phase {
    /// Until a majority has forgotten the leader.
    Gathering {
        majority_since: Option<Duration>,
    },
    Campaigning {
        node: u64,
        until: Duration,
    },
}

/// One failover of one shard.
#[derive(Debug)]
pub struct Election {
    shard: u32,
    cause: Cause,
    old: Option<Primary>,
    last_alive: Duration,
    detected: Duration,
    candidates: BTreeMap<u64, Candidate>,
    phase: Phase,
}

impl Election {
    /// `last_alive` is when the old primary was last heard; `now` is when it was found missing.
    pub fn new(
        now: Duration,
        shard: u32,
        cause: Cause,
        old: Option<Primary>,
        last_alive: Duration,
    ) -> Self {
        Self {
            shard,
            cause,
            old,
            last_alive,
            detected: now,
            candidates: BTreeMap::new(),
            phase: Phase::Gathering { majority_since: None },
        }
    }

    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// When [`Input::Wake`] is due, if nothing else comes first.
    pub fn next_wake(&self) -> Option<Duration> {
        match self.phase {
            Phase::Campaigning { until, .. } => Some(until),
            Phase::Gathering { majority_since } => {
                let asks = self.candidates.values().filter_map(|c| match c.standing {
                    Standing::AskAt(at) => Some(at),
                    Standing::Asked { since } => Some(since + ORDER_TIMEOUT),
                    Standing::Obeyed => None,
                });
                asks.chain(majority_since.map(|since| since + self.patience())).min()
            }
        }
    }

    /// Takes one input and says what to do. After `Won` or `CalledOff` the election is dropped.
    pub fn step(&mut self, now: Duration, view: &ClusterView, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Wake => {}
            Input::ForgetReply { node, reply } => self.forget_reply(now, node, reply),
            Input::CampaignReply { node, started } => self.campaign_reply(now, node, started),
        }
        if self.is_over(now, view, out) {
            return;
        }
        let Some(shard) = view.shard(self.shard) else { return out.push(Effect::CalledOff) };
        self.follow_view(now, view, shard);
        if let Phase::Campaigning { until, .. } = self.phase {
            if now < until {
                return;
            }
            self.gather_again(now, true);
        }
        self.ask(now, view, out);
        self.campaign_if_ready(now, view, shard, out);
    }

    fn forget_reply(
        &mut self,
        now: Duration,
        node: u64,
        reply: Option<Box<v1::ForgetLeaderReply>>,
    ) {
        let Some(candidate) = self.candidates.get_mut(&node) else { return };
        let Some(reply) = reply else {
            candidate.standing = Standing::AskAt(now + RETRY);
            return;
        };
        if let Some(status) = reply.status {
            candidate.status = Some(status);
        }
        candidate.standing = if reply.obeyed {
            Standing::Obeyed
        } else if reply.retry_after_us > 0 {
            candidate.vetoes += 1;
            let mut pause = Duration::from_micros(reply.retry_after_us) + VETO_SLACK;
            if candidate.vetoes > VETOES_FAST_MAX {
                pause = pause.max(VETO_PAUSE);
            }
            Standing::AskAt(now + pause)
        } else {
            // Its term or leader is another one by now; the status in the answer says which.
            Standing::AskAt(now + RETRY)
        };
    }

    fn campaign_reply(&mut self, now: Duration, node: u64, started: bool) {
        if let Phase::Campaigning { node: candidate, .. } = self.phase
            && candidate == node
            && !started
        {
            // It has just started, or its log is being written: it is still the best one.
            let refused = self.candidates.get_mut(&node).map_or(0, |c| {
                c.refused += 1;
                c.refused
            });
            let in_vain = refused.is_multiple_of(REFUSALS_MAX);
            self.gather_again(now, in_vain);
            if let Some(candidate) = self.candidates.get_mut(&node) {
                candidate.standing = Standing::AskAt(now + RETRY);
            }
        }
    }

    /// After a campaign without success everything may have changed: ask everybody again.
    fn gather_again(&mut self, now: Duration, in_vain: bool) {
        if let Phase::Campaigning { node, .. } = self.phase
            && let Some(candidate) = self.candidates.get_mut(&node)
        {
            candidate.tried += u32::from(in_vain);
        }
        for candidate in self.candidates.values_mut() {
            candidate.standing = Standing::AskAt(now);
            candidate.status = None;
        }
        self.phase = Phase::Gathering { majority_since: None };
    }

    fn is_over(&self, now: Duration, view: &ClusterView, out: &mut Vec<Effect>) -> bool {
        let Some(primary) = view.serving(self.shard) else { return false };
        let old_term = self.old.map_or(0, |old| old.term);
        if self.old == Some(primary) {
            out.push(Effect::CalledOff);
            return true;
        }
        if primary.term <= old_term && self.old.is_some_and(|old| old.node != primary.node) {
            // An older leader that does not know yet that it was deposed.
            return false;
        }
        let since = |at: Duration| at.saturating_sub(self.last_alive).as_secs_f64() * 1000.0;
        let report = v1::FailoverReport {
            shard: self.shard,
            old_node: self.old.map_or(0, |old| old.node),
            new_node: primary.node,
            term: primary.term,
            detected_ms: since(self.detected),
            elected_ms: since(now),
            ..Default::default()
        };
        out.push(Effect::Won { primary, report, last_alive: self.last_alive });
        true
    }

    /// Candidates are the voters on live nodes.
    fn follow_view(&mut self, now: Duration, view: &ClusterView, shard: &v1::ShardInfo) {
        let live: BTreeMap<u64, u64> =
            view.live_voters(shard).map(|(replica, _)| (replica.node, replica.raft_id)).collect();
        self.candidates.retain(|node, c| live.get(node) == Some(&c.raft_id));
        for (node, raft_id) in live {
            self.candidates.entry(node).or_insert(Candidate {
                raft_id,
                standing: Standing::AskAt(now),
                vetoes: 0,
                tried: 0,
                refused: 0,
                status: None,
            });
        }
    }

    fn ask(&mut self, now: Duration, view: &ClusterView, out: &mut Vec<Effect>) {
        for (node, candidate) in &mut self.candidates {
            let due = match candidate.standing {
                Standing::AskAt(at) => at <= now,
                Standing::Asked { since } => since + ORDER_TIMEOUT <= now,
                Standing::Obeyed => false,
            };
            if !due {
                continue;
            }
            let heard = view.status(*node, self.shard, candidate.raft_id);
            let Some(status) = newer(candidate.status.as_ref(), heard) else { continue };
            candidate.standing = match status.leader_raft_id {
                0 => Standing::Obeyed,
                // It leads and has not served yet: it may be about to.
                id if id == candidate.raft_id => Standing::AskAt(now + RETRY),
                leader_raft_id => {
                    out.push(Effect::Forget { node: *node, term: status.term, leader_raft_id });
                    Standing::Asked { since: now }
                }
            };
        }
    }

    fn campaign_if_ready(
        &mut self,
        now: Duration,
        view: &ClusterView,
        shard: &v1::ShardInfo,
        out: &mut Vec<Effect>,
    ) {
        let obeyed = self.candidates.values().filter(|c| c.standing == Standing::Obeyed).count();
        let Phase::Gathering { majority_since } = &mut self.phase else { return };
        if obeyed < quorum(shard) {
            *majority_since = None;
            return;
        }
        let since = *majority_since.get_or_insert(now);
        let ranked = self.ranked(view, shard);
        let obeys = |node: &&(u64, u64)| {
            self.candidates.get(&node.0).is_some_and(|c| c.standing == Standing::Obeyed)
        };
        let patient = now < since + self.patience();
        let chosen = match ranked.first() {
            Some(best) if obeys(&best) || !patient => ranked.iter().find(obeys).copied(),
            _ => None,
        };
        if let Some((node, term)) = chosen {
            out.push(Effect::Campaign { node, term });
            self.phase = Phase::Campaigning { node, until: now + CAMPAIGN_TIMEOUT };
        }
    }

    /// Candidates with their terms, the best first: those that did not fail yet, then the preferred
    /// one of a new shard, then the log, then what is applied, the old primary's zone, and the order
    /// of placement.
    fn ranked(&self, view: &ClusterView, shard: &v1::ShardInfo) -> Vec<(u64, u64)> {
        let zone = |node: u64| {
            let info = view.topology.nodes.iter().find(|n| n.id == node);
            info.map(|n| n.zone.as_str())
        };
        let old_zone = self.old.and_then(|old| zone(old.node));
        let preferred = match self.cause {
            Cause::Founding { preferred } => Some(preferred),
            _ => None,
        };
        let mut ranked = Vec::new();
        for (at, replica) in shard.replicas.iter().enumerate() {
            let Some(candidate) = self.candidates.get(&replica.node) else { continue };
            let heard = view.status(replica.node, self.shard, replica.raft_id);
            let Some(status) = newer(candidate.status.as_ref(), heard) else { continue };
            let is_preferred = preferred == Some(replica.node);
            let tries = if is_preferred { FOUNDING_TRIES } else { 1 };
            let key = (
                std::cmp::Reverse(candidate.tried / tries),
                is_preferred,
                status.last_term,
                status.last_index,
                status.applied_index,
                old_zone.is_some() && zone(replica.node) == old_zone,
                std::cmp::Reverse(at),
            );
            ranked.push((key, (replica.node, status.term)));
        }
        // A founding preference that is not there yet keeps its place so that it is waited for.
        if let Some(node) = preferred
            && !self.candidates.contains_key(&node)
            && !view.verdict(node).is_down()
        {
            return std::iter::once((node, 0)).chain(sorted(ranked)).collect();
        }
        sorted(ranked)
    }

    fn patience(&self) -> Duration {
        match self.cause {
            Cause::Founding { .. } => FOUNDING_PATIENCE,
            _ => BETTER_LOG_PATIENCE,
        }
    }
}

fn sorted<K: Ord, V>(mut ranked: Vec<(K, V)>) -> Vec<V> {
    ranked.sort_by(|a, b| b.0.cmp(&a.0));
    ranked.into_iter().map(|(_, value)| value).collect()
}

/// The status that knows more: terms and logs only grow, except for a log's unacknowledged tail.
fn newer<'a>(
    answered: Option<&'a v1::ReplicaStatus>,
    heard: Option<&'a v1::ReplicaStatus>,
) -> Option<&'a v1::ReplicaStatus> {
    match (answered, heard) {
        (Some(a), Some(h)) => Some(if h.term > a.term { h } else { a }),
        (a, h) => a.or(h),
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
