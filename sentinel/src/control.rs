//! The fast loop: takes what was seen and told, steps the policy, carries out its effects.
//!
//! One task owns the policy and the opinions; nothing in it waits for the network or for the
//! metadata log. It is woken by news and by the policy's own timer, and otherwise twice a second.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::core::detector::Change;
use crate::core::election::{self, Cause};
use crate::core::metadata::Command;
use crate::core::metadata::command::{PrimaryIs, RecordFailover, SetHealth};
use crate::core::policy::{Effect, Input, Policy};
use crate::core::quorum::{OPINION_REPEAT, Opinions};
use crate::core::view::Restarted;
use crate::group::Published;
use crate::shared::{Sentinel, Told};
use crate::sight::Seen;
use holdfast_consensus::clock;

/// Without news the loop looks around this often: opinions age, damping ends.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// Timers of tokio have a granularity of a millisecond; asking for less only spins.
const SLEEP_MIN: Duration = Duration::from_millis(1);

pub(crate) struct Control {
    sentinel: Arc<Sentinel>,
    told: mpsc::Receiver<Told>,
    published: watch::Receiver<Published>,
    policy: Policy,
    opinions: Opinions,
    /// The opinion that the others were last told, without its figures.
    shared: Vec<(u64, i32, bool, u64)>,
    shared_at: Duration,
    led: bool,
}

impl Control {
    pub(crate) fn new(sentinel: Arc<Sentinel>, told: mpsc::Receiver<Told>) -> Self {
        let members = sentinel.config.members.len();
        Self {
            published: sentinel.group.watch(),
            sentinel,
            told,
            policy: Policy::default(),
            opinions: Opinions::new(members),
            shared: Vec::new(),
            shared_at: Duration::ZERO,
            led: false,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut told = Vec::new();
        loop {
            let now = clock::monotonic();
            let wake = self.policy.next_wake().unwrap_or(now + LOOK_AROUND);
            let pause = wake.saturating_sub(now).clamp(SLEEP_MIN, LOOK_AROUND);
            let sentinel = Arc::clone(&self.sentinel);
            let news = async {
                tokio::select! {
                    () = sentinel.sight.news() => true,
                    changed = self.published.changed() => changed.is_ok(),
                    count = self.told.recv_many(&mut told, 64) => count > 0,
                }
            };
            if timeout(pause, news).await == Ok(false) {
                return;
            }
            self.turn(&mut told);
        }
    }

    fn turn(&mut self, told: &mut Vec<Told>) {
        let now = clock::monotonic();
        let seen = self.sentinel.sight.take(now);
        let published = self.published.borrow_and_update().clone();
        log_changes(&seen.changes);
        let mut inputs = Vec::new();
        for item in told.drain(..) {
            match item {
                Told::Opinion(opinion) => self.opinions.hear(now, &opinion),
                Told::Primary { shard, primary } => {
                    self.sentinel.view().primary_reported(shard, primary);
                }
                Told::Election { shard, input } => inputs.push(Input::Election { shard, input }),
            }
        }
        self.form_opinion(now, &seen);
        let restarts = self.update_view(now, seen, &published);
        inputs.extend(restarts.into_iter().map(Input::Restarted));
        inputs.push(Input::Wake);
        self.decide(now, &published, inputs);
    }

    /// Tells the others at once when the opinion changed, and the leader every second anyway.
    fn form_opinion(&mut self, now: Duration, seen: &Seen) {
        let opinion = v1::SentinelOpinion {
            secret: self.sentinel.secret.clone(),
            sentinel: self.sentinel.config.id,
            sequence: clock::wall_us(),
            impaired: seen.impaired,
            nodes: seen.opinions.clone(),
        };
        self.opinions.hear(now, &opinion);
        self.sentinel.own_opinion().clone_from(&opinion);
        let essence = |n: &v1::NodeOpinion| (n.node, n.health, n.hard_evidence, n.incarnation);
        let essence: Vec<_> = opinion.nodes.iter().map(essence).collect();
        let changed = essence != self.shared;
        if changed || now >= self.shared_at + OPINION_REPEAT {
            self.shared = essence;
            self.shared_at = now;
            self.share(&opinion, changed);
        }
    }

    fn share(&self, opinion: &v1::SentinelOpinion, with_all: bool) {
        let leader = self.published.borrow().leader;
        let own = self.sentinel.config.id;
        let others = self.sentinel.config.members.iter().filter(|m| m.id != own);
        for member in others.filter(|m| with_all || leader == Some(m.id) || leader.is_none()) {
            let (sentinel, opinion) = (Arc::clone(&self.sentinel), opinion.clone());
            let addr = member.api_addr.clone();
            self.sentinel.counters().opinions_sent += 1;
            tokio::spawn(async move {
                if let Ok(theirs) = sentinel.orders.share_opinion(&addr, opinion).await {
                    // Full only when the control task is stuck; opinions are repeated.
                    let _ = sentinel.told.try_send(Told::Opinion(theirs));
                }
            });
        }
    }

    fn update_view(&mut self, now: Duration, seen: Seen, published: &Published) -> Vec<Restarted> {
        let mut view = self.sentinel.view();
        view.adopt(now, &published.topology);
        let fresh = seen.fresh.into_iter();
        let restarts = fresh.filter_map(|(at, reply)| view.heartbeat(at, reply)).collect();
        for (id, node) in &mut view.nodes {
            node.verdict = self.opinions.judge(now, *id, node.incarnation);
        }
        restarts
    }

    fn decide(&mut self, now: Duration, published: &Published, inputs: Vec<Input>) {
        if published.leads != self.led {
            self.led = published.leads;
            // What a former leader had begun is its own or void; begin from what is seen now.
            self.policy = Policy::default();
            self.sentinel.proxies_seen().clear();
            self.sentinel.busy_shards().clear();
            self.sentinel.chores.notify_one();
        }
        if !published.leads {
            return;
        }
        let mut effects = Vec::new();
        {
            let view = self.sentinel.view();
            for input in inputs {
                self.policy.step(now, &view, input, &mut effects);
            }
            let busy = view.topology.shards.iter().map(|s| s.id);
            *self.sentinel.busy_shards() = busy.filter(|s| self.policy.is_busy(*s)).collect();
        }
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Started { shard, cause: Cause::Founding { preferred }, .. } => {
                tracing::info!(shard, preferred, "a new shard gets its first primary");
            }
            Effect::Started { shard, cause, old } => {
                tracing::warn!(shard, ?cause, ?old, "failover begins");
            }
            Effect::Forget { shard, node, term, leader_raft_id } => {
                self.order(shard, node, move |sentinel, addr| async move {
                    let reply =
                        sentinel.orders.forget_leader(&addr, shard, term, leader_raft_id).await;
                    tracing::debug!(shard, node, term, ?reply, "forget-leader answered");
                    election::Input::ForgetReply { node, reply: reply.ok().map(Box::new) }
                });
            }
            Effect::Campaign { shard, node, term } => {
                tracing::debug!(shard, node, term, "campaign ordered");
                self.order(shard, node, move |sentinel, addr| async move {
                    let reply = sentinel.orders.campaign(&addr, shard, term).await;
                    tracing::debug!(shard, node, term, ?reply, "campaign answered");
                    // Without an answer it may have started: wait for the outcome.
                    let started = reply.map_or(true, |r| r.started);
                    election::Input::CampaignReply { node, started }
                });
            }
            Effect::RecordPrimary { shard, primary } => {
                let (term, node) = (primary.term, primary.node);
                self.record(Command::PrimaryIs(PrimaryIs { shard, term, node }));
            }
            Effect::RecordFailover { report, ago } => {
                tracing::warn!(
                    shard = report.shard,
                    old_node = report.old_node,
                    new_node = report.new_node,
                    term = report.term,
                    detected_ms = report.detected_ms,
                    elected_ms = report.elected_ms,
                    "failover done"
                );
                {
                    let mut counters = self.sentinel.counters();
                    counters.failovers += 1;
                    counters.last_failover_ms = report.elected_ms;
                }
                let last_alive_ms = clock::wall_ms().saturating_sub(ago.as_millis() as u64);
                let report = Some(report);
                self.record(Command::RecordFailover(RecordFailover { report, last_alive_ms }));
            }
            Effect::RecordHealth { node, up, incarnation, reason } => {
                tracing::info!(node, up, reason, "node health");
                let health = match up {
                    true => v1::NodeHealth::Up,
                    false => v1::NodeHealth::ObjectivelyDown,
                };
                self.record(Command::SetHealth(SetHealth {
                    node,
                    health: health.into(),
                    incarnation,
                    reason: reason.to_owned(),
                }));
            }
        }
    }

    /// Sends an order to a node; its answer comes back to the running election.
    fn order<F, Fut>(&self, shard: u32, node: u64, send: F)
    where
        F: FnOnce(Arc<Sentinel>, String) -> Fut + Send + 'static,
        Fut: Future<Output = election::Input> + Send,
    {
        let Some(addr) = self.sentinel.control_addr(node) else { return };
        let sentinel = Arc::clone(&self.sentinel);
        tokio::spawn(async move {
            let input = send(Arc::clone(&sentinel), addr).await;
            let _ = sentinel.told.send(Told::Election { shard, input }).await;
        });
    }

    fn record(&self, command: Command) {
        let sentinel = Arc::clone(&self.sentinel);
        tokio::spawn(async move {
            if let Err(error) = sentinel.propose(command).await {
                tracing::debug!(%error, "not recorded");
            }
        });
    }
}

fn log_changes(changes: &[Change]) {
    for change in changes {
        match change {
            Change::Up { node } => tracing::info!(node, "node answers"),
            Change::Restarted { node, .. } => tracing::info!(node, "node runs a new process"),
            Change::SubjectivelyDown { node, hard } => {
                tracing::warn!(node, hard, "node is subjectively down");
            }
        }
    }
}
