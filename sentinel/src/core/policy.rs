//! When to fail over: runs one [`Election`] per shard that needs it, and keeps the record true.
//!
//! Only the leader of the sentinels runs a policy; a new leader starts with an empty one. Nothing
//! here waits for the metadata log: a failover is Raft's business and is recorded afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_proto::v1;

use super::election::{self, Cause, Election};
use super::quorum::Verdict;
use super::view::{ClusterView, Primary, Restarted, quorum};

/// A shard may be without a serving primary for this long before it is helped: twice a planned
/// hand-over or a start of its own.
const LEADERLESS_MAX: Duration = Duration::from_secs(1);
/// After a failover of a shard, silence alone does not cause another one for this long.
const FLAP_DAMPING: Duration = Duration::from_secs(5);
/// A node that this sentinel has never heard is not recorded as down before this: a whole cluster
/// may be starting.
const UNHEARD_GRACE: Duration = Duration::from_secs(10);
/// A primary not heard for this long (three heartbeats) when another one serves was lost: the replicas
/// elected the new one before this sentinel acted. One that is heard handed over.
const LOST_AFTER: Duration = Duration::from_millis(300);
/// A record that was asked for and did not appear is asked for again after this long.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// What the policy can learn. The view is a separate argument.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed or the view has changed.
    Wake,
    /// A process was replaced by a new one: what it led is gone.
    Restarted(Restarted),
    /// For the running election of this shard.
    Election { shard: u32, input: election::Input },
}

/// What the policy wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// An order to the replica of `shard` on `node`; the answer comes back as an input.
    Forget { shard: u32, node: u64, term: u64, leader_raft_id: u64 },
    /// Likewise.
    Campaign { shard: u32, node: u64, term: u64 },
    /// Propose `PrimaryIs`.
    RecordPrimary { shard: u32, primary: Primary },
    /// Propose `RecordFailover`; `ago` is the time since the old primary was last alive.
    RecordFailover { report: v1::FailoverReport, ago: Duration },
    /// Propose `SetHealth`.
    RecordHealth { node: u64, up: bool, incarnation: u64, reason: &'static str },
    /// A failover begins (for the log).
    Started { shard: u32, cause: Cause, old: Option<Primary> },
}

/// All running failovers and what is being recorded.
#[derive(Debug, Default)]
pub struct Policy {
    elections: BTreeMap<u32, Election>,
    /// Since when a shard has nobody who serves.
    leaderless: BTreeMap<u32, Duration>,
    /// Shards that somebody has served since this policy began. When a whole cluster starts, its
    /// shards need primaries too, but that is no failover.
    served: BTreeSet<u32>,
    last_served: BTreeMap<u32, Primary>,
    last_failover: BTreeMap<u32, Duration>,
    primaries_asked: BTreeMap<u32, (Primary, Duration)>,
    health_asked: BTreeMap<u64, ((bool, u64), Duration)>,
    scratch: Vec<election::Effect>,
}

impl Policy {
    /// Shards with a failover under way.
    pub fn busy(&self) -> usize {
        self.elections.len()
    }

    pub fn is_busy(&self, shard: u32) -> bool {
        self.elections.contains_key(&shard)
    }

    /// When [`Input::Wake`] is due, if nothing else comes first.
    pub fn next_wake(&self) -> Option<Duration> {
        let waiting = self.leaderless.iter().filter(|(shard, _)| !self.is_busy(**shard));
        let waiting = waiting.map(|(_, since)| *since + LEADERLESS_MAX);
        self.elections.values().filter_map(Election::next_wake).chain(waiting).min()
    }

    pub fn step(&mut self, now: Duration, view: &ClusterView, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Wake => {}
            Input::Restarted(restarted) => self.restarted(now, view, restarted, out),
            Input::Election { shard, input } => self.run(now, view, shard, input, out),
        }
        self.record_health(now, view, out);
        for shard in &view.topology.shards {
            self.look_after(now, view, shard, out);
        }
    }

    fn restarted(
        &mut self,
        now: Duration,
        view: &ClusterView,
        restarted: Restarted,
        out: &mut Vec<Effect>,
    ) {
        for shard in &view.topology.shards {
            let old = view.last_primary(shard.id).filter(|p| p.node == restarted.node);
            if old.is_some() && view.serving(shard.id).is_none() && shard.term > 0 {
                self.start(now, view, shard.id, Cause::Restarted, old, restarted.last_alive, out);
            }
        }
    }

    fn look_after(
        &mut self,
        now: Duration,
        view: &ClusterView,
        shard: &v1::ShardInfo,
        out: &mut Vec<Effect>,
    ) {
        let serving = view.serving(shard.id);
        if let Some(primary) = serving {
            self.record_primary(now, shard, primary, out);
            self.leaderless.remove(&shard.id);
            if !self.is_busy(shard.id) {
                self.served.insert(shard.id);
                self.note_own_election(now, view, shard.id, primary, out);
            }
        }
        if self.is_busy(shard.id) {
            return self.run(now, view, shard.id, election::Input::Wake, out);
        }
        if serving.is_some() {
            return;
        }
        let since = *self.leaderless.entry(shard.id).or_insert(now);
        let old = view.last_primary(shard.id);
        let last_alive = old.and_then(|p| view.nodes.get(&p.node)).map_or(since, |n| n.last_reply);
        let old_verdict = old.map_or(Verdict::Unknown, |p| view.verdict(p.node));
        let majority_lives = view.live_voters(shard).count() >= quorum(shard);
        let damped = self.last_failover.get(&shard.id).is_some_and(|at| now < *at + FLAP_DAMPING);
        let cause = match old_verdict {
            _ if !majority_lives => return,
            Verdict::ObjectivelyDown { hard } if hard || !damped => Cause::NodeDown { hard },
            _ if shard.term == 0 && old.is_none() => {
                let preferred = shard.replicas.first().map_or(0, |r| r.node);
                Cause::Founding { preferred }
            }
            _ if now.saturating_sub(since) >= LEADERLESS_MAX => Cause::Leaderless,
            _ => return,
        };
        self.start(now, view, shard.id, cause, old, last_alive, out);
    }

    /// The replicas may have elected a primary by themselves.
    fn note_own_election(
        &mut self,
        now: Duration,
        view: &ClusterView,
        shard: u32,
        primary: Primary,
        out: &mut Vec<Effect>,
    ) {
        let Some(old) = self.last_served.insert(shard, primary) else { return };
        if old.term >= primary.term || old.node == primary.node {
            return;
        }
        let Some(node) = view.nodes.get(&old.node) else { return };
        let ago = now.saturating_sub(node.last_reply);
        if ago < LOST_AFTER && !view.verdict(old.node).is_down() {
            return;
        }
        let elected_ms = ago.as_secs_f64() * 1000.0;
        let report = v1::FailoverReport {
            shard,
            old_node: old.node,
            new_node: primary.node,
            term: primary.term,
            detected_ms: elected_ms,
            elected_ms,
            ..Default::default()
        };
        self.last_failover.insert(shard, now);
        out.push(Effect::RecordFailover { report, ago });
    }

    #[allow(clippy::too_many_arguments)]
    fn start(
        &mut self,
        now: Duration,
        view: &ClusterView,
        shard: u32,
        cause: Cause,
        old: Option<Primary>,
        last_alive: Duration,
        out: &mut Vec<Effect>,
    ) {
        if self.is_busy(shard) {
            return;
        }
        out.push(Effect::Started { shard, cause, old });
        self.elections.insert(shard, Election::new(now, shard, cause, old, last_alive));
        self.run(now, view, shard, election::Input::Wake, out);
    }

    fn run(
        &mut self,
        now: Duration,
        view: &ClusterView,
        shard: u32,
        input: election::Input,
        out: &mut Vec<Effect>,
    ) {
        let Some(running) = self.elections.get_mut(&shard) else { return };
        let cause = running.cause();
        let mut effects = std::mem::take(&mut self.scratch);
        running.step(now, view, input, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                election::Effect::Forget { node, term, leader_raft_id } => {
                    out.push(Effect::Forget { shard, node, term, leader_raft_id });
                }
                election::Effect::Campaign { node, term } => {
                    out.push(Effect::Campaign { shard, node, term });
                }
                election::Effect::CalledOff => drop(self.elections.remove(&shard)),
                election::Effect::Won { primary, report, last_alive } => {
                    self.elections.remove(&shard);
                    self.won(now, view, cause, primary, report, last_alive, out);
                }
            }
        }
        self.scratch = effects;
    }

    #[allow(clippy::too_many_arguments)]
    fn won(
        &mut self,
        now: Duration,
        view: &ClusterView,
        cause: Cause,
        primary: Primary,
        report: v1::FailoverReport,
        last_alive: Duration,
        out: &mut Vec<Effect>,
    ) {
        self.leaderless.remove(&report.shard);
        self.last_served.insert(report.shard, primary);
        if let Some(shard) = view.shard(report.shard) {
            self.record_primary(now, shard, primary, out);
        }
        let is_failover = match cause {
            Cause::Founding { .. } => false,
            Cause::Leaderless => self.served.contains(&report.shard),
            Cause::NodeDown { .. } | Cause::Restarted => true,
        };
        if is_failover {
            self.last_failover.insert(report.shard, now);
            out.push(Effect::RecordFailover { report, ago: now.saturating_sub(last_alive) });
        }
    }

    fn record_primary(
        &mut self,
        now: Duration,
        shard: &v1::ShardInfo,
        primary: Primary,
        out: &mut Vec<Effect>,
    ) {
        if primary.term <= shard.term {
            return;
        }
        let asked = self.primaries_asked.get(&shard.id);
        if asked.is_some_and(|(p, at)| *p == primary && now < *at + RECORD_RETRY) {
            return;
        }
        self.primaries_asked.insert(shard.id, (primary, now));
        out.push(Effect::RecordPrimary { shard: shard.id, primary });
    }

    fn record_health(&mut self, now: Duration, view: &ClusterView, out: &mut Vec<Effect>) {
        for info in &view.topology.nodes {
            let Some(node) = view.nodes.get(&info.id) else { continue };
            let (up, reason) = match node.verdict {
                Verdict::ObjectivelyDown { hard: true } => (false, "its process is gone"),
                Verdict::ObjectivelyDown { hard: false } => (false, "it does not answer"),
                Verdict::Up => (true, "it answers"),
                Verdict::SubjectivelyDown | Verdict::Unknown => continue,
            };
            if !up && node.incarnation == 0 && now < node.last_reply + UNHEARD_GRACE {
                continue;
            }
            let recorded_up = info.health() == v1::NodeHealth::Up;
            let incarnation = node.incarnation.max(info.incarnation);
            if recorded_up == up && info.incarnation == incarnation {
                continue;
            }
            let asked = self.health_asked.get(&info.id);
            let this = (up, incarnation);
            if asked.is_some_and(|(a, at)| *a == this && now < *at + RECORD_RETRY) {
                continue;
            }
            self.health_asked.insert(info.id, (this, now));
            out.push(Effect::RecordHealth { node: info.id, up, incarnation, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::testing::*;
    use super::*;

    fn step(policy: &mut Policy, at: u64, view: &ClusterView, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        policy.step(ms(at), view, input, &mut out);
        out
    }

    fn dead(view: &mut ClusterView, node: u64, hard: bool) {
        verdict(view, node, Verdict::ObjectivelyDown { hard });
    }

    fn forget(node: u64) -> Effect {
        Effect::Forget { shard: SHARD, node, term: 5, leader_raft_id: 11 }
    }

    fn started(cause: Cause) -> Effect {
        Effect::Started { shard: SHARD, cause, old: Some(Primary { term: 5, node: 1 }) }
    }

    fn won_by_2(view: &mut ClusterView) {
        view.primary_reported(SHARD, Primary { term: 6, node: 2 });
        let shard = &mut topology_mut(view).shards[0];
        (shard.term, shard.primary_node) = (6, 2);
    }

    #[test]
    fn a_healthy_cluster_needs_nothing() {
        let mut policy = Policy::default();
        assert_eq!(step(&mut policy, 1050, &three_nodes(), Input::Wake), []);
        assert_eq!(policy.next_wake(), None);
    }

    #[test]
    fn a_dead_primary_is_failed_over_and_recorded() {
        let mut view = three_nodes();
        dead(&mut view, 1, true);
        let mut policy = Policy::default();
        let effects = step(&mut policy, 1030, &view, Input::Wake);
        let down = Effect::RecordHealth {
            node: 1,
            up: false,
            incarnation: 100,
            reason: "its process is gone",
        };
        let cause = Cause::NodeDown { hard: true };
        assert_eq!(effects, [down, started(cause), forget(2), forget(3)]);

        view.primary_reported(SHARD, Primary { term: 6, node: 2 });
        let effects = step(&mut policy, 1300, &view, Input::Wake);
        let primary = Primary { term: 6, node: 2 };
        assert_eq!(effects[0], Effect::RecordPrimary { shard: SHARD, primary });
        let Effect::RecordFailover { report, ago } = &effects[1] else { panic!("{effects:?}") };
        assert_eq!((report.old_node, report.new_node, report.term), (1, 2, 6));
        assert_eq!(*ago, ms(300));
        assert_eq!(effects.len(), 2);
        assert_eq!(policy.busy(), 0);
    }

    #[test]
    fn an_election_of_the_replicas_own_is_reported_and_a_hand_over_is_not() {
        for heard_ago in [100, 700] {
            let mut view = three_nodes();
            let mut policy = Policy::default();
            step(&mut policy, 1000, &view, Input::Wake);
            view.heartbeat(ms(2000 - heard_ago), reply(1));
            won_by_2(&mut view);
            let effects = step(&mut policy, 2000, &view, Input::Wake);
            let report = v1::FailoverReport {
                shard: SHARD,
                old_node: 1,
                new_node: 2,
                term: 6,
                detected_ms: 700.0,
                elected_ms: 700.0,
                ..Default::default()
            };
            let reported = Effect::RecordFailover { report, ago: ms(700) };
            let expected = if heard_ago < 300 { vec![] } else { vec![reported] };
            assert_eq!(effects, expected);
            assert_eq!(step(&mut policy, 2100, &view, Input::Wake), [], "once");
        }
    }

    #[test]
    fn a_dead_replica_is_no_reason() {
        let mut view = three_nodes();
        dead(&mut view, 2, true);
        let effects = step(&mut Policy::default(), 1030, &view, Input::Wake);
        assert!(matches!(effects[..], [Effect::RecordHealth { node: 2, up: false, .. }]));
    }

    #[test]
    fn records_that_do_not_appear_are_asked_for_again() {
        let mut view = three_nodes();
        dead(&mut view, 2, true);
        let mut policy = Policy::default();
        assert_eq!(step(&mut policy, 1030, &view, Input::Wake).len(), 1);
        assert_eq!(step(&mut policy, 1500, &view, Input::Wake), []);
        assert_eq!(step(&mut policy, 2030, &view, Input::Wake).len(), 1);
    }

    #[test]
    fn a_node_that_was_never_heard_gets_time_to_start() {
        let mut view = three_nodes();
        dead(&mut view, 2, true);
        view.nodes.get_mut(&2).unwrap().incarnation = 0;
        let mut policy = Policy::default();
        assert_eq!(step(&mut policy, 1030, &view, Input::Wake), []);
        assert_eq!(step(&mut policy, 10_999, &view, Input::Wake), []);
        let effects = step(&mut policy, 11_000, &view, Input::Wake);
        assert!(matches!(effects[..], [Effect::RecordHealth { node: 2, up: false, .. }]));
    }

    #[test]
    fn a_restarted_primary_is_failed_over_at_once() {
        let mut view = three_nodes();
        let mut again = reply(1);
        again.incarnation = 101;
        again.replicas[0].role = v1::RaftRole::Follower.into();
        again.replicas[0].leader_raft_id = 0;
        again.replicas[0].serving = false;
        let restarted = view.heartbeat(ms(1100), again).unwrap();
        verdict(&mut view, 1, Verdict::Up);
        let effects = step(&mut Policy::default(), 1100, &view, Input::Restarted(restarted));
        assert_eq!(effects[..3], [started(Cause::Restarted), forget(2), forget(3)]);
    }

    #[test]
    fn a_restarted_replica_is_no_reason() {
        let mut view = three_nodes();
        let mut again = reply(2);
        again.incarnation = 101;
        let restarted = view.heartbeat(ms(1100), again).unwrap();
        let effects = step(&mut Policy::default(), 1100, &view, Input::Restarted(restarted));
        assert!(matches!(effects[..], [Effect::RecordHealth { node: 2, up: true, .. }]));
    }

    #[test]
    fn a_shard_without_primary_is_helped_after_a_second() {
        let mut view = three_nodes();
        status_mut(&mut view, 1).role = v1::RaftRole::Follower.into();
        status_mut(&mut view, 1).serving = false;
        for node in 1..=3 {
            status_mut(&mut view, node).leader_raft_id = 0;
        }
        let mut policy = Policy::default();
        assert_eq!(step(&mut policy, 1030, &view, Input::Wake), []);
        assert_eq!(policy.next_wake(), Some(ms(2030)));
        let effects = step(&mut policy, 2030, &view, Input::Wake);
        let campaign = Effect::Campaign { shard: SHARD, node: 1, term: 5 };
        assert_eq!(effects, [started(Cause::Leaderless), campaign]);
    }

    #[test]
    fn a_start_of_the_whole_cluster_is_no_failover() {
        let mut view = three_nodes();
        status_mut(&mut view, 1).role = v1::RaftRole::Follower.into();
        status_mut(&mut view, 1).serving = false;
        let mut policy = Policy::default();
        step(&mut policy, 1000, &view, Input::Wake);
        step(&mut policy, 2000, &view, Input::Wake);
        assert_eq!(policy.busy(), 1);
        let primary = Primary { term: 6, node: 1 };
        view.primary_reported(SHARD, primary);
        let effects = step(&mut policy, 2100, &view, Input::Wake);
        assert_eq!(effects, [Effect::RecordPrimary { shard: SHARD, primary }]);
    }

    #[test]
    fn no_majority_no_attempt() {
        let mut view = three_nodes();
        dead(&mut view, 1, true);
        dead(&mut view, 2, true);
        let mut policy = Policy::default();
        let effects = step(&mut policy, 1030, &view, Input::Wake);
        assert!(effects.iter().all(|e| matches!(e, Effect::RecordHealth { .. })));
        assert_eq!(policy.busy(), 0);
    }

    #[test]
    fn silence_soon_after_a_failover_is_damped_and_hard_evidence_is_not() {
        for (hard, expected) in [(false, 0), (true, 1)] {
            let mut view = three_nodes();
            dead(&mut view, 1, true);
            let mut policy = Policy::default();
            step(&mut policy, 1030, &view, Input::Wake);
            won_by_2(&mut view);
            step(&mut policy, 1300, &view, Input::Wake);
            view.heartbeat(ms(1900), reply(1));
            verdict(&mut view, 1, Verdict::Up);
            status_mut(&mut view, 1).role = v1::RaftRole::Follower.into();
            dead(&mut view, 2, hard);
            step(&mut policy, 2000, &view, Input::Wake);
            assert_eq!(policy.busy(), expected, "hard: {hard}");
        }
    }

    #[test]
    fn a_new_shard_gets_its_first_primary_without_a_failover_report() {
        let mut view = three_nodes();
        let shard = &mut topology_mut(&mut view).shards[0];
        (shard.term, shard.primary_node) = (0, 0);
        for node in 1..=3 {
            let status = status_mut(&mut view, node);
            status.role = v1::RaftRole::Follower.into();
            (status.term, status.leader_raft_id, status.serving) = (1, 0, false);
        }
        let mut policy = Policy::default();
        let effects = step(&mut policy, 1030, &view, Input::Wake);
        assert!(effects.contains(&Effect::Campaign { shard: SHARD, node: 1, term: 1 }));
        let primary = Primary { term: 2, node: 1 };
        view.primary_reported(SHARD, primary);
        let effects = step(&mut policy, 1100, &view, Input::Wake);
        assert_eq!(effects, [Effect::RecordPrimary { shard: SHARD, primary }]);
    }
}
