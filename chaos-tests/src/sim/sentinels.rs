//! The sentinels: their cores (metadata over a raft group, detector, quorum, election policy, repair,
//! balance) in a shell that does what the sentinel's own does, without its tasks and gRPC.
//!
//! Simplified: nodes are registered by the founding sentinel, topologies are pushed instead of
//! watched, and the leader sees directly which proxies it would hear.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::log::LogStore;
use holdfast_consensus::log::memory::MemoryStore;
use holdfast_consensus::{
    EntryKind, MembershipChange, Outputs, Replica, ReplicaConfig, Role, StoredState,
};
use holdfast_node::sim::Ordered;
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term, WorkerId};
use holdfast_proto::v1;
use holdfast_sentinel::core::balance::Balancer;
use holdfast_sentinel::core::detector::{self, Change, Detector, HEARTBEAT_INTERVAL};
use holdfast_sentinel::core::election;
use holdfast_sentinel::core::metadata::command::{
    CreateShards, Found, PlacedShard, PrimaryIs, PromoteReplica, RecordFailover, RegisterNode,
    RegisterProxy, ReplaceReplica, RetireProxy, SetHealth,
};
use holdfast_sentinel::core::metadata::{Command, LogRecord, Metadata, Outcome};
use holdfast_sentinel::core::placement::{Site, place};
use holdfast_sentinel::core::policy::{Effect, Input, Policy};
use holdfast_sentinel::core::quorum::{OPINION_REPEAT, Opinions};
use holdfast_sentinel::core::repair::{self, Step};
use holdfast_sentinel::core::view::{ClusterView, Primary};
use prost::Message as _;

use super::CLUSTER;
use super::machine::Clock;
use super::orders::{Order, Rpc, forget_reply};
use super::plan::Proc;
use super::world::{Event, World, spec};

/// As the sentinel's driver has them; the log is cut much earlier.
const TICK_EVERY: u64 = 1;
/// As `sentinel/src/driver.rs` sets them.
const HEARTBEAT_TICKS: usize = 2;
const ELECTION_TICKS: usize = 7;
const LEASE_RENEWAL: Duration = Duration::from_secs(3600);
const SNAPSHOT_EVERY: u64 = 24;
/// The caretaker's rounds, and those of a repair.
const ROUND: Duration = Duration::from_secs(1);
const REPAIR_ROUND: Duration = Duration::from_millis(200);
/// Beyond the hold deadline of the simulated proxies, as in the product.
const PROXY_SILENCE_MAX: Duration = Duration::from_secs(5);
const REFUSAL_SPACING: Duration = Duration::from_millis(20);
/// Topologies are pushed again this often.
const PUSH_EVERY: Duration = Duration::from_millis(500);
/// A step of the caretaker whose answer does not come is given up.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Whom the outcome of a change is for.
enum Ticket {
    Nobody,
    Proxy { proxy: usize },
}

/// A machine with a sentinel on it.
pub(crate) struct Sentinel {
    id: u64,
    members: usize,
    pub(crate) process: Option<Process>,
    pub(crate) incarnation: u64,
    pub(crate) paused: bool,
    pub(crate) down: u32,
    pub(crate) clock: Clock,
    store: MemoryStore,
    snapshots: BTreeMap<LogIndex, Bytes>,
}

pub(crate) struct Process {
    replica: Replica,
    metadata: Metadata,
    topology: Arc<v1::Topology>,
    applied: LogIndex,
    snapshot_index: LogIndex,
    waiting: BTreeMap<LogIndex, (Term, Ticket)>,
    role: Role,
    leader: u64,
    pub(crate) serves: bool,
    detector: Detector,
    changes: Vec<Change>,
    fresh: BTreeMap<u64, (Duration, v1::HeartbeatReply)>,
    opinions: Opinions,
    shared: Vec<(u64, i32, bool, u64)>,
    shared_at: Duration,
    policy: Policy,
    view: ClusterView,
    balancer: Balancer,
    led: bool,
    proxies_seen: BTreeMap<u64, Duration>,
    next_tick: Duration,
    next_round: Duration,
    next_push: Duration,
    pushed: u64,
    /// The caretaker waits for the outcome of a step until then.
    step_until: Option<Duration>,
    wake_at: Option<Duration>,
    ticks: u64,
    sequence: u64,
}

impl Sentinel {
    pub(crate) fn new(at: usize, members: usize, clock: Clock) -> Self {
        Self {
            id: at as u64 + 1,
            members,
            process: None,
            incarnation: 0,
            paused: false,
            down: 0,
            clock,
            store: MemoryStore::new(),
            snapshots: BTreeMap::new(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
        self.paused = false;
        self.incarnation += 1;
    }

    pub(crate) fn topology(&self) -> Arc<v1::Topology> {
        self.process.as_ref().map(|p| Arc::clone(&p.topology)).unwrap_or_default()
    }

    fn open(&mut self, now: Duration, seed: u64) -> Process {
        let own = RaftId(self.id);
        let local = self.clock.monotonic(now);
        let mut config = ReplicaConfig::new(ShardId::METADATA, own, local, seed);
        config.founding_voters = (1..=self.members as u64).map(RaftId).collect();
        config.tick = HEARTBEAT_INTERVAL;
        config.heartbeat_ticks = HEARTBEAT_TICKS;
        config.election_ticks = ELECTION_TICKS;
        config.lease_renewal = LEASE_RENEWAL;
        config.cache_bytes = 4_000;
        config.log_tail_bytes = 4_000;
        let stored = self.store.load(ShardId::METADATA).expect("memory does not fail");
        let genesis = StoredState::GENESIS;
        let index = stored.as_ref().map_or(genesis, |s| s.checkpoint.index);
        let metadata = match self.snapshots.get(&index) {
            Some(bytes) => Metadata::decode_snapshot(bytes).expect("a whole snapshot"),
            None => Metadata::default(),
        };
        let mut replica = Replica::new(config, stored, self.store.reader())
            .expect("what a sentinel synced is consistent");
        if index > genesis {
            replica.set_snapshot_data(metadata.encode_snapshot());
        }
        let topology = Arc::new(metadata.topology().cloned().unwrap_or_default());
        Process {
            replica,
            metadata,
            topology,
            applied: index,
            snapshot_index: index,
            waiting: BTreeMap::new(),
            role: Role::default(),
            leader: 0,
            serves: false,
            detector: Detector::default(),
            changes: Vec::new(),
            fresh: BTreeMap::new(),
            opinions: Opinions::new(self.members),
            shared: Vec::new(),
            shared_at: Duration::ZERO,
            policy: Policy::default(),
            view: ClusterView::default(),
            balancer: Balancer::default(),
            led: false,
            proxies_seen: BTreeMap::new(),
            next_tick: local,
            next_round: local,
            next_push: local,
            pushed: 0,
            step_until: None,
            wake_at: None,
            ticks: 0,
            sequence: 0,
        }
    }
}

impl World {
    pub(crate) fn start_sentinel(&mut self, at: usize) {
        let (now, seed) = (self.now, self.rng.draw());
        let sentinel = &mut self.sentinels[at];
        sentinel.incarnation += 1;
        sentinel.process = Some(sentinel.open(now, seed));
        let inc = sentinel.incarnation;
        self.note(|| format!("sentinel {} starts", at + 1));
        self.after(Duration::from_millis(1), Event::SentinelTick { sentinel: at, inc });
    }

    /// To another process; lost where a cut is.
    pub(crate) fn send(&mut self, from: Proc, to: Proc, rpc: Rpc) {
        if self.is_cut(from, to) {
            return;
        }
        let delay = self.latency();
        let inc = self.incarnation(to);
        self.after(delay, Event::Rpc { to, inc, rpc: Box::new(rpc) });
    }

    pub(crate) fn tell_sentinels(&mut self, from: Proc, rpc: impl Fn() -> Rpc) {
        for at in 0..self.sentinels.len() {
            if from != Proc::Sentinel(at) {
                self.send(from, Proc::Sentinel(at), rpc());
            }
        }
    }

    pub(crate) fn rpc(&mut self, to: Proc, rpc: Rpc) {
        match to {
            Proc::Node(at) => self.rpc_to_node(at, rpc),
            Proc::Proxy(at) => self.rpc_to_proxy(at, rpc),
            Proc::Sentinel(at) => self.rpc_to_sentinel(at, rpc),
        }
    }

    // ----- sentinels --------------------------------------------------------------------------

    pub(crate) fn with_sentinel<T>(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut Process, Duration) -> T,
    ) -> Option<T> {
        let local = self.sentinels[at].clock.monotonic(self.now);
        self.sentinels[at].process.as_mut().map(|process| act(process, local))
    }

    fn rpc_to_sentinel(&mut self, at: usize, rpc: Rpc) {
        match rpc {
            Rpc::Raft(message) => {
                self.mix(message.index << 8 | u64::from(message.kind));
                self.with_sentinel(at, |p, now| p.replica.step(now, message));
                return self.drive(at);
            }
            Rpc::Opinion(opinion) => {
                self.with_sentinel(at, |p, now| p.opinions.hear(now, &opinion));
            }
            Rpc::HeartbeatReply(reply) => {
                self.with_sentinel(at, |p, now| {
                    let input = detector::Input::Replied { incarnation: reply.incarnation };
                    p.detector.input(now, reply.node, input, &mut p.changes);
                    p.fresh.insert(reply.node, (now, reply));
                });
            }
            Rpc::NodeGone { node, first } => {
                // Unless it runs again: then the connection is made anew.
                if self.is_running(Proc::Node(node)) {
                    return;
                }
                self.with_sentinel(at, |p, now| {
                    let id = node as u64 + 1;
                    if first {
                        p.detector.input(now, id, detector::Input::Reset, &mut p.changes);
                    }
                    p.detector.input(now, id, detector::Input::Refused, &mut p.changes);
                });
                if first {
                    let inc = self.sentinels[at].incarnation;
                    let rpc = Box::new(Rpc::NodeGone { node, first: false });
                    let to = Proc::Sentinel(at);
                    self.after(REFUSAL_SPACING, Event::Rpc { to, inc, rpc });
                }
            }
            Rpc::Ordered { order, result } => return self.ordered(at, order, result),
            Rpc::ReportPrimary { shard, term, node } => {
                self.with_sentinel(at, |p, _| {
                    p.view.primary_reported(shard, Primary { term, node });
                });
            }
            Rpc::ReportAmnesia { shard, raft_id, node, reason } => {
                self.replace(at, shard, raft_id, node, reason);
                return self.drive(at);
            }
            Rpc::RegisterProxy { proxy } => {
                let command = Command::RegisterProxy(RegisterProxy {
                    client_addr: format!("proxy:{proxy}"),
                    admin_addr: format!("admin:{proxy}"),
                    workers: 1,
                });
                self.propose(at, command, Ticket::Proxy { proxy });
                return self.drive(at);
            }
            Rpc::Wake => {
                self.with_sentinel(at, |p, _| p.wake_at = None);
            }
            _ => return,
        }
        self.control(at, Vec::new());
    }

    pub(crate) fn sentinel_tick(&mut self, at: usize) {
        let Some((late, nodes, tick)) = self.with_sentinel(at, |p, now| {
            let late = now.saturating_sub(p.next_tick);
            p.next_tick = if late > HEARTBEAT_INTERVAL {
                now + HEARTBEAT_INTERVAL
            } else {
                p.next_tick + HEARTBEAT_INTERVAL
            };
            p.ticks += 1;
            p.sequence += 1;
            p.detector.tick(now, late, &mut p.changes);
            if p.ticks.is_multiple_of(TICK_EVERY) {
                p.replica.tick(now);
            }
            let nodes: Vec<u64> = p.topology.nodes.iter().map(|n| n.id).collect();
            p.detector.watch(now, nodes.iter().copied());
            (late, nodes, p.sequence)
        }) else {
            return;
        };
        let _ = late;
        let inc = self.sentinels[at].incarnation;
        let wait = self.sentinels[at].clock.truly(HEARTBEAT_INTERVAL);
        self.after(wait, Event::SentinelTick { sentinel: at, inc });
        for node in nodes {
            let node = node as usize - 1;
            let (own, to) = (Proc::Sentinel(at), Proc::Node(node));
            if self.is_running(to) {
                self.send(own, to, Rpc::Heartbeat { from: at, sequence: tick });
            } else if !self.is_cut(own, to) && !self.is_cut(to, own) {
                let rpc = Box::new(Rpc::NodeGone { node, first: false });
                let delay = self.latency();
                self.after(delay, Event::Rpc { to: own, inc, rpc });
            }
        }
        self.drive(at);
        self.push_topology(at);
        self.care(at);
        self.control(at, Vec::new());
    }

    fn push_topology(&mut self, at: usize) {
        let pushed = self.with_sentinel(at, |p, now| {
            let due =
                p.topology.version > 0 && (p.topology.version > p.pushed || now >= p.next_push);
            if due {
                p.pushed = p.topology.version;
                p.next_push = now + PUSH_EVERY;
            }
            due.then(|| Arc::clone(&p.topology))
        });
        let Some(Some(topology)) = pushed else { return };
        let own = Proc::Sentinel(at);
        for node in 0..self.machines.len() {
            self.send(own, Proc::Node(node), Rpc::Topology(Arc::clone(&topology)));
        }
        for proxy in 0..self.proxies.len() {
            self.send(own, Proc::Proxy(proxy), Rpc::Topology(Arc::clone(&topology)));
        }
    }

    /// Carries out what the metadata group's replica wants, as the sentinel's driver does.
    pub(crate) fn drive(&mut self, at: usize) {
        let now = self.now;
        let mut out = Outputs::default();
        let mut outcomes = Vec::new();
        let before = self.sentinels[at].topology().version;
        loop {
            let sentinel = &mut self.sentinels[at];
            let local = sentinel.clock.monotonic(now);
            let Some(process) = &mut sentinel.process else { return };
            process.replica.ready(local, &mut out);
            if out.is_empty() {
                break;
            }
            if let Some(last) = out.writes.last() {
                let number = last.number;
                sentinel.store.write(&out.writes, true).expect("memory does not fail");
                out.writes.clear();
                process.replica.persisted(local, number);
            }
            if let Some(meta) = out.restored.take() {
                let bytes = sentinel.snapshots.get(&meta.index).expect("saved before");
                process.metadata = Metadata::decode_snapshot(bytes).expect("a whole snapshot");
                process.applied = meta.index;
                process.snapshot_index = meta.index;
                process.replica.set_snapshot_data(process.metadata.encode_snapshot());
                process.replica.applied(local, meta.index);
            }
            let any = !out.committed.is_empty();
            for entry in out.committed.drain(..) {
                process.applied = entry.index;
                let outcome = (entry.kind == EntryKind::Normal).then(|| {
                    let record = LogRecord::decode(entry.data).expect("we wrote it");
                    process.metadata.apply(&record)
                });
                if let Some((term, ticket)) = process.waiting.remove(&entry.index)
                    && term == entry.term
                    && let Some(Ok(outcome)) = outcome
                {
                    outcomes.push((ticket, outcome));
                }
            }
            if any {
                process.replica.applied(local, process.applied);
            }
            if let Some(role) = out.role.take() {
                if process.role == Role::Leader && role.role != Role::Leader {
                    process.waiting.clear();
                }
                process.role = role.role;
                process.leader = role.leader.0;
            }
            if let Some(serving) = out.serving.take() {
                process.serves = serving;
            }
            if let Some(install) = out.install.take() {
                let index = install.meta.index;
                if Metadata::decode_snapshot(&install.data).is_ok() {
                    sentinel.snapshots.insert(index, install.data);
                    let _ = process.replica.install_snapshot(local, index);
                } else {
                    process.replica.install_failed(local, index);
                }
            }
            if let Some(index) = out.checkpoint_recorded.take() {
                sentinel.snapshots.retain(|at, _| *at >= index);
            }
            let wanted = std::mem::take(&mut out.checkpoint_wanted);
            let grown = process.applied.0 >= process.snapshot_index.0 + SNAPSHOT_EVERY;
            if grown || (wanted && process.applied > process.snapshot_index) {
                let state = process.metadata.encode_snapshot();
                sentinel.snapshots.insert(process.applied, state.clone());
                process.snapshot_index = process.applied;
                process.replica.set_snapshot_data(state);
                process
                    .replica
                    .checkpoint_taken(local, process.applied)
                    .expect("the applied state can be recorded");
            }
            out.reads.clear();
            out.reads_failed.clear();
            out.membership = None;
            for message in std::mem::take(&mut out.messages) {
                let to = Proc::Sentinel(message.to as usize - 1);
                if self.is_running(to) {
                    self.send(Proc::Sentinel(at), to, Rpc::Raft(message));
                }
            }
        }
        let Some(process) = &mut self.sentinels[at].process else { return };
        if process.metadata.version() != before {
            process.topology = Arc::new(process.metadata.topology().cloned().unwrap_or_default());
        }
        let topology = Arc::clone(&process.topology);
        if topology.version != before {
            self.push_topology(at);
        }
        for (ticket, outcome) in outcomes {
            if let (Ticket::Proxy { proxy }, Outcome::ProxyRegistered { id, workers }) =
                (ticket, outcome)
            {
                let rpc = Rpc::Registered {
                    proxy_id: id,
                    worker: WorkerId(workers[0]),
                    topology: Arc::clone(&topology),
                };
                self.send(Proc::Sentinel(at), Proc::Proxy(proxy), rpc);
            }
        }
    }

    fn propose(&mut self, at: usize, command: Command, ticket: Ticket) {
        let time_ms = self.sentinels[at].clock.wall_us(self.now) / 1000;
        self.with_sentinel(at, |p, now| {
            let record = LogRecord { time_ms, command: Some(command) };
            if let Ok((term, index)) = p.replica.propose(now, record.encode_to_vec().into()) {
                p.waiting.insert(index, (term, ticket));
            }
        });
    }

    /// The fast loop, as `Control::turn`.
    fn control(&mut self, at: usize, mut inputs: Vec<Input>) {
        let members = self.sentinels[at].members;
        let id = self.sentinels[at].id;
        let sequence = self.sentinels[at].clock.wall_us(self.now);
        let mut effects = Vec::new();
        let mut share = None;
        self.with_sentinel(at, |p, now| {
            p.changes.clear();
            let opinion = v1::SentinelOpinion {
                sentinel: id,
                sequence,
                impaired: p.detector.is_impaired(now),
                nodes: p.detector.opinions(now),
                ..Default::default()
            };
            p.opinions.hear(now, &opinion);
            let essence: Vec<_> = opinion
                .nodes
                .iter()
                .map(|n| (n.node, n.health, n.hard_evidence, n.incarnation))
                .collect();
            let changed = essence != p.shared;
            if changed || now >= p.shared_at + OPINION_REPEAT {
                p.shared = essence;
                p.shared_at = now;
                share = Some((opinion, changed, p.leader));
            }
            p.view.adopt(now, &p.topology);
            for (at, reply) in std::mem::take(&mut p.fresh).into_values() {
                if let Some(restarted) = p.view.heartbeat(at, reply) {
                    inputs.push(Input::Restarted(restarted));
                }
            }
            for (node, known) in &mut p.view.nodes {
                known.verdict = p.opinions.judge(now, *node, known.incarnation);
            }
            inputs.push(Input::Wake);
            if p.serves != p.led {
                p.led = p.serves;
                p.policy = Policy::default();
                p.balancer = Balancer::default();
                p.proxies_seen.clear();
                p.step_until = None;
                p.next_round = now;
            }
            if p.serves {
                for input in inputs {
                    p.policy.step(now, &p.view, input, &mut effects);
                }
            }
        });
        if let Some((opinion, changed, leader)) = share {
            for to in (0..members).filter(|to| *to != at) {
                if changed || leader == to as u64 + 1 || leader == 0 {
                    self.send(
                        Proc::Sentinel(at),
                        Proc::Sentinel(to),
                        Rpc::Opinion(opinion.clone()),
                    );
                }
            }
        }
        for effect in effects {
            self.perform(at, effect);
        }
        self.drive(at);
        self.arrange_wake(at);
    }

    fn arrange_wake(&mut self, at: usize) {
        let wake = self.with_sentinel(at, |p, now| {
            let wake = p.policy.next_wake().filter(|_| p.serves)?;
            let wake = wake.max(now + Duration::from_millis(1));
            if p.wake_at.is_some_and(|at| at <= wake && at > now) {
                return None;
            }
            p.wake_at = Some(wake);
            Some(wake - now)
        });
        if let Some(Some(wait)) = wake {
            let sentinel = &self.sentinels[at];
            let (wait, inc) = (sentinel.clock.truly(wait), sentinel.incarnation);
            let rpc = Box::new(Rpc::Wake);
            self.after(wait, Event::Rpc { to: Proc::Sentinel(at), inc, rpc });
        }
    }

    fn perform(&mut self, at: usize, effect: Effect) {
        self.note(|| format!("sentinel {}: {effect:?}", at + 1));
        match effect {
            Effect::Started { .. } => {}
            Effect::Forget { shard, node, term, leader_raft_id } => {
                self.order(at, Order::Forget { shard, node, term, leader: leader_raft_id });
            }
            Effect::Campaign { shard, node, term } => {
                self.order(at, Order::Campaign { shard, node, term });
            }
            Effect::RecordPrimary { shard, primary } => {
                let record = PrimaryIs { shard, term: primary.term, node: primary.node };
                self.propose(at, Command::PrimaryIs(record), Ticket::Nobody);
            }
            Effect::RecordFailover { report, .. } => {
                let record = RecordFailover { report: Some(report), last_alive_ms: 0 };
                self.propose(at, Command::RecordFailover(record), Ticket::Nobody);
            }
            Effect::RecordHealth { node, up, incarnation, reason } => {
                let health = match up {
                    true => v1::NodeHealth::Up,
                    false => v1::NodeHealth::ObjectivelyDown,
                };
                let record = SetHealth {
                    node,
                    health: health.into(),
                    incarnation,
                    reason: reason.to_owned(),
                };
                self.propose(at, Command::SetHealth(record), Ticket::Nobody);
            }
        }
    }

    fn order(&mut self, at: usize, order: Order) {
        let to = Proc::Node(order.node() as usize - 1);
        if self.is_running(to) {
            return self.send(Proc::Sentinel(at), to, Rpc::Order { from: at, order });
        }
        let refused = Rpc::Ordered { order, result: None };
        let inc = self.sentinels[at].incarnation;
        let delay = self.latency();
        let to = Proc::Sentinel(at);
        self.after(delay, Event::Rpc { to, inc, rpc: Box::new(refused) });
    }

    fn ordered(&mut self, at: usize, order: Order, result: Option<Ordered>) {
        let done = matches!(result, Some(Ordered::Done { .. }));
        let input = match order {
            Order::Forget { shard, node, .. } => {
                let reply = result.and_then(forget_reply).map(Box::new);
                Input::Election { shard, input: election::Input::ForgetReply { node, reply } }
            }
            Order::Campaign { shard, node, .. } => {
                let started = done || result.is_none();
                Input::Election { shard, input: election::Input::CampaignReply { node, started } }
            }
            Order::Transfer(transfer) => {
                self.with_sentinel(at, |p, _| p.step_until = None);
                if let Some(Ordered::Done { status }) = result {
                    let primary = PrimaryIs {
                        shard: transfer.shard,
                        term: status.term,
                        node: transfer.to_node,
                    };
                    self.propose(at, Command::PrimaryIs(primary), Ticket::Nobody);
                }
                Input::Wake
            }
            Order::Change { .. } => {
                self.with_sentinel(at, |p, now| {
                    p.step_until = None;
                    p.next_round = now + REPAIR_ROUND;
                });
                Input::Wake
            }
        };
        self.control(at, vec![input]);
    }

    /// The slow loop, as the caretaker's.
    fn care(&mut self, at: usize) {
        let due = self.with_sentinel(at, |p, now| {
            let busy = p.step_until.is_some_and(|until| now < until);
            let due = p.serves && p.led && now >= p.next_round && !busy;
            if due {
                p.step_until = None;
                p.next_round = now + ROUND;
            }
            due.then(|| Arc::clone(&p.topology))
        });
        let Some(Some(topology)) = due else { return };
        if !self.found(at, &topology) {
            return;
        }
        self.retire_proxies(at, &topology);
        let steps = self.with_sentinel(at, |p, _| repair::plan(&p.view)).unwrap_or_default();
        for step in steps {
            self.note(|| format!("sentinel {}: {step:?}", at + 1));
            match step {
                Step::Promote { shard, epoch, raft_id } => {
                    let promote = PromoteReplica { shard, expected_epoch: epoch, raft_id };
                    self.propose(at, Command::PromoteReplica(promote), Ticket::Nobody);
                    self.with_sentinel(at, |p, now| p.next_round = now + REPAIR_ROUND);
                }
                Step::Change { shard, node, add_learners, add_voters, remove } => {
                    let ids = |ids: Vec<u64>| ids.into_iter().map(RaftId).collect();
                    let change = MembershipChange {
                        add_voters: ids(add_voters),
                        add_learners: ids(add_learners),
                        remove: ids(remove),
                    };
                    self.with_sentinel(at, |p, now| p.step_until = Some(now + STEP_TIMEOUT));
                    self.order(at, Order::Change { shard, node, change });
                }
            }
        }
        let next = self.with_sentinel(at, |p, now| {
            let busy = p.topology.shards.iter().any(|s| p.policy.is_busy(s.id));
            p.balancer.next(now, &p.view, busy)
        });
        if let Some(Some(transfer)) = next {
            self.note(|| format!("sentinel {}: {transfer:?}", at + 1));
            self.with_sentinel(at, |p, now| p.step_until = Some(now + STEP_TIMEOUT));
            self.order(at, Order::Transfer(transfer));
        }
        self.drive(at);
    }

    /// True once the cluster is complete; otherwise one more step is proposed.
    fn found(&mut self, at: usize, topology: &v1::Topology) -> bool {
        let command = if topology.version == 0 {
            let cluster_id = Bytes::copy_from_slice(&CLUSTER);
            Command::Found(Found { cluster_id, spec: Some(spec(&self.plan)) })
        } else if topology.nodes.len() < self.plan.nodes {
            let id = topology.nodes.len() + 1;
            let node = v1::NodeInfo {
                instance: format!("instance-{id}"),
                link_addr: format!("node:{id}"),
                peer_addr: format!("peer:{id}"),
                heartbeat_addr: format!("heartbeat:{id}"),
                control_addr: format!("control:{id}"),
                metrics_addr: format!("metrics:{id}"),
                ..Default::default()
            };
            Command::RegisterNode(RegisterNode { node: Some(node) })
        } else if topology.shards.is_empty() {
            let sites: Vec<Site> =
                topology.nodes.iter().map(|n| Site { node: n.id, zone: n.zone.clone() }).collect();
            let placed = place(&sites, self.plan.shards, self.plan.replicas as u32);
            let shards = placed.unwrap_or_default();
            let shards = shards.into_iter().map(|nodes| PlacedShard { nodes }).collect();
            Command::CreateShards(CreateShards { shards })
        } else {
            return true;
        };
        self.propose(at, command, Ticket::Nobody);
        self.with_sentinel(at, |p, now| p.next_round = now);
        self.drive(at);
        false
    }

    fn retire_proxies(&mut self, at: usize, topology: &v1::Topology) {
        let own = Proc::Sentinel(at);
        let heard: Vec<u64> = (0..self.proxies.len())
            .filter(|proxy| {
                let proxy = Proc::Proxy(*proxy);
                self.is_running(proxy)
                    && !self.is_paused(proxy)
                    && !self.is_cut(proxy, own)
                    && !self.is_cut(own, proxy)
            })
            .map(|proxy| self.proxies[proxy].proxy_id)
            .collect();
        let silent = self.with_sentinel(at, |p, now| {
            p.proxies_seen.retain(|id, _| topology.proxies.iter().any(|known| known.id == *id));
            for proxy in &topology.proxies {
                let seen = p.proxies_seen.entry(proxy.id).or_insert(now);
                if heard.contains(&proxy.id) {
                    *seen = now;
                }
            }
            let silent = p.proxies_seen.iter().filter(|(_, at)| now > **at + PROXY_SILENCE_MAX);
            silent.map(|(id, _)| *id).collect::<Vec<_>>()
        });
        for proxy in silent.unwrap_or_default() {
            self.note(|| format!("sentinel {}: proxy id {proxy} is retired", at + 1));
            let command = RetireProxy { proxy, reason: "silent".to_owned() };
            self.propose(at, Command::RetireProxy(command), Ticket::Nobody);
        }
    }

    pub(crate) fn replace(
        &mut self,
        at: usize,
        shard: u32,
        raft_id: u64,
        node: u64,
        reason: String,
    ) {
        let command = self.with_sentinel(at, |p, _| {
            let known = p.topology.shards.iter().find(|s| s.id == shard)?;
            let lost = known.replicas.iter().any(|r| r.raft_id == raft_id && r.node == node);
            (lost && p.serves).then_some(ReplaceReplica {
                shard,
                expected_epoch: known.epoch,
                old_raft_id: raft_id,
                node,
                reason,
            })
        });
        if let Some(Some(command)) = command {
            self.totals.replaced += 1;
            self.propose(at, Command::ReplaceReplica(command), Ticket::Nobody);
        }
    }
}
