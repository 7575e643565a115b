//! The discrete-event loop: one queue of what happens next, one thread, one seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::testing::Rng;
use holdfast_node::sim::Part;
use holdfast_proto::ids::{LogIndex, ShardId};
use holdfast_proto::v1;

use super::clients::{Clients, Violations};
use super::links::{Conn, Proxy};
use super::machine::{Clock, Machine};
use super::oracle::{Oracle, Violation};
use super::orders::Rpc;
use super::plan::{Plan, Proc};
use super::scenes::Armed;
use super::sentinels::Sentinel;

/// Boot: the first elections are over by then.
const BOOT: Duration = Duration::from_millis(1_500);
/// Clients go on for this long after everything is healed.
const AFTERMATH: Duration = Duration::from_millis(700);
/// After healing everything must be answered, and all replicas equal, within this time.
pub(crate) const LIVENESS: Duration = Duration::from_secs(40);

/// What happens at a time.
pub(crate) enum Event {
    /// A thread of a node takes a turn.
    Turn {
        node: usize,
        inc: u64,
        part: Part,
        appointment: u64,
    },
    /// The log write under way is done.
    LogDone {
        node: usize,
        inc: u64,
    },
    /// The log is synced once per second.
    LogSync {
        node: usize,
        inc: u64,
    },
    /// The disk works on a checkpoint.
    CheckpointWork {
        node: usize,
        inc: u64,
    },
    /// A message of another node's replica.
    Peer {
        node: usize,
        inc: u64,
        from: usize,
        shard: ShardId,
        message: Box<v1::RaftMessage>,
    },
    Unreachable {
        node: usize,
        inc: u64,
        peer: u64,
    },
    /// A checkpoint was pulled from a node, or not.
    Pulled {
        node: usize,
        inc: u64,
        shard: ShardId,
        index: LogIndex,
        bytes: Option<Vec<u8>>,
    },
    /// A proxy tries to connect a link.
    Connect {
        proxy: usize,
        inc: u64,
        link: usize,
    },
    Connected {
        conn: u64,
    },
    ConnectFailed {
        proxy: usize,
        inc: u64,
        link: usize,
    },
    LinkData {
        conn: u64,
        to_node: bool,
    },
    /// One side learns that a connection is gone.
    LinkGone {
        conn: u64,
        to_node: bool,
    },
    ProxyTick {
        proxy: usize,
        inc: u64,
        appointment: u64,
    },
    /// Bytes of a client reach its proxy, or the other way.
    Request {
        client: usize,
        session: u64,
        bytes: Vec<u8>,
    },
    Reply {
        client: usize,
        session: u64,
        bytes: Vec<u8>,
    },
    ClientGone {
        client: usize,
        session: u64,
    },
    ClientWake {
        client: usize,
        session: u64,
    },
    /// Something of the control plane: to this process.
    Rpc {
        to: Proc,
        inc: u64,
        rpc: Box<Rpc>,
    },
    SentinelTick {
        sentinel: usize,
        inc: u64,
    },
    /// A fault of the plan begins, or ends.
    Begin {
        fault: usize,
    },
    End {
        fault: usize,
    },
    /// A process starts (again).
    Start {
        proc: Proc,
    },
    Heal,
    /// Looks whether everything is answered and equal.
    Settled,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub operations: u64,
    pub answered: u64,
    pub failed: u64,
    pub events: u64,
    pub elections: u64,
    pub entries: u64,
    pub checkpoints: u64,
    pub snapshots: u64,
    pub replaced: u64,
    pub faults: BTreeMap<&'static str, u64>,
    /// Virtual time.
    pub simulated: Duration,
}

impl Totals {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.answered += other.answered;
        self.failed += other.failed;
        self.events += other.events;
        self.elections += other.elections;
        self.entries += other.entries;
        self.checkpoints += other.checkpoints;
        self.snapshots += other.snapshots;
        self.replaced += other.replaced;
        self.simulated += other.simulated;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub violation: Option<Violation>,
    pub totals: Totals,
    /// Equal for equal seeds and plans.
    pub trace: u64,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Duration,
    pub(crate) rng: Rng,
    queue: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) sentinels: Vec<Sentinel>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) next_conn: u64,
    pub(crate) clients: Clients,
    pub(crate) oracle: Oracle,
    pub(crate) totals: Totals,
    /// How many faults cut each direction.
    pub(crate) cuts: BTreeMap<(Proc, Proc), u32>,
    /// Messages that wait for a cut to end.
    pub(crate) stuck: Vec<(Proc, Proc, Event)>,
    /// The last delivery on each connection between nodes: (from, to, urgent).
    pub(crate) last_peer: BTreeMap<(usize, usize, bool), Duration>,
    /// What was for processes that are paused.
    pub(crate) held: BTreeMap<Proc, Vec<Event>>,
    pub(crate) storms: u32,
    /// What scenes wait for.
    pub(crate) armed: Vec<Armed>,
    pub(crate) next_appointment: u64,
    /// Without sentinels: what everybody knows.
    pub(crate) fixed: Arc<v1::Topology>,
    pub(crate) next_worker: u64,
    pub(crate) healed_at: Option<Duration>,
    done: bool,
    trace: u64,
    pub(crate) verbose: bool,
}

impl World {
    pub(crate) fn new(plan: Plan, verbose: bool) -> Self {
        let mut rng = Rng(plan.seed ^ 0xc0ff_ee00);
        let mut clock = |_| {
            let per_mille = 960 + rng.below(81);
            Clock::new(&mut rng, per_mille)
        };
        let machines = (0..plan.nodes).map(|at| Machine::new(clock(at))).collect();
        let proxies = (0..plan.proxies).map(|at| Proxy::new(clock(at))).collect();
        let sentinels: Vec<_> =
            (0..plan.sentinels).map(|at| Sentinel::new(at, plan.sentinels, clock(at))).collect();
        let mut world = Self {
            clients: Clients::new(&plan),
            fixed: Arc::new(fixed_topology(&plan)),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            machines,
            proxies,
            sentinels,
            conns: BTreeMap::new(),
            next_conn: 0,
            oracle: Oracle::default(),
            totals: Totals::default(),
            cuts: BTreeMap::new(),
            stuck: Vec::new(),
            last_peer: BTreeMap::new(),
            held: BTreeMap::new(),
            storms: 0,
            armed: Vec::new(),
            next_appointment: 0,
            next_worker: 1,
            healed_at: None,
            done: false,
            trace: 0xcbf2_9ce4_8422_2325,
            verbose,
            rng,
            plan,
        };
        world.boot();
        world
    }

    fn boot(&mut self) {
        for at in 0..self.sentinels.len() {
            self.at(Duration::ZERO, Event::Start { proc: Proc::Sentinel(at) });
        }
        for at in 0..self.machines.len() {
            let delay = Duration::from_millis(self.rng.below(50));
            self.at(delay, Event::Start { proc: Proc::Node(at) });
        }
        for at in 0..self.proxies.len() {
            let delay = Duration::from_millis(50 + self.rng.below(50));
            self.at(delay, Event::Start { proc: Proc::Proxy(at) });
        }
        for client in 0..self.plan.clients {
            let delay = Duration::from_millis(400 + self.rng.below(800));
            self.at(delay, Event::ClientWake { client, session: 0 });
        }
        for fault in 0..self.plan.faults.len() {
            self.at(self.plan.faults[fault].0, Event::Begin { fault });
        }
        self.at(BOOT + self.plan.length, Event::Heal);
    }

    /// Runs to the end: everything healed and answered, or a promise broken.
    pub(crate) fn run(&mut self) -> Report {
        while !self.done && self.oracle.violation().is_none() {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                self.oracle.report("liveness", "nothing happens any more");
                break;
            };
            self.now = self.now.max(at);
            self.totals.events += 1;
            self.dispatch(event);
            if let Some(healed) = self.healed_at
                && self.now > healed + LIVENESS
            {
                let why = self.unsettled().unwrap_or_default();
                self.oracle.report("liveness", format!("after {LIVENESS:?}: {why}"));
            }
        }
        self.totals.simulated = self.now;
        self.totals.elections = self.oracle.elections;
        let shards = 1..=self.plan.shards;
        self.totals.entries = shards.map(|s| self.oracle.committed(ShardId(s))).sum();
        if let Some(violation) = self.oracle.violation().cloned() {
            self.note(|| format!("VIOLATION: {}: {}", violation.invariant, violation.text));
        }
        Report {
            violation: self.oracle.violation().cloned(),
            totals: self.totals.clone(),
            trace: self.trace,
        }
    }

    /// Something happens after a while.
    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    /// A line of the trace.
    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10.3} ms  {}", self.now.as_secs_f64() * 1000.0, text());
        }
    }

    /// Makes the trace's hash depend on something.
    pub(crate) fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x100_0000_01b3);
    }

    pub(crate) fn latency(&mut self) -> Duration {
        let (least, most) = self.plan.latency;
        self.rng.between(least, most)
    }

    pub(crate) fn is_cut(&self, from: Proc, to: Proc) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    pub(crate) fn is_paused(&self, proc: Proc) -> bool {
        match proc {
            Proc::Node(at) => self.machines[at].paused,
            Proc::Proxy(at) => self.proxies[at].paused,
            Proc::Sentinel(at) => self.sentinels[at].paused,
        }
    }

    pub(crate) fn is_running(&self, proc: Proc) -> bool {
        match proc {
            Proc::Node(at) => self.machines[at].process.is_some(),
            Proc::Proxy(at) => self.proxies[at].core.is_some(),
            Proc::Sentinel(at) => self.sentinels[at].is_running(),
        }
    }

    pub(crate) fn incarnation(&self, proc: Proc) -> u64 {
        match proc {
            Proc::Node(at) => self.machines[at].incarnation,
            Proc::Proxy(at) => self.proxies[at].incarnation,
            Proc::Sentinel(at) => self.sentinels[at].incarnation,
        }
    }

    /// Whose process an event is for, and of which incarnation.
    fn receiver(&self, event: &Event) -> Option<(Proc, u64)> {
        match event {
            Event::Turn { node, inc, .. }
            | Event::CheckpointWork { node, inc }
            | Event::Peer { node, inc, .. }
            | Event::Unreachable { node, inc, .. }
            | Event::Pulled { node, inc, .. }
            | Event::LogDone { node, inc }
            | Event::LogSync { node, inc } => Some((Proc::Node(*node), *inc)),
            Event::Connect { proxy, inc, .. }
            | Event::ConnectFailed { proxy, inc, .. }
            | Event::ProxyTick { proxy, inc, .. } => Some((Proc::Proxy(*proxy), *inc)),
            // The answer to a proxy that starts: its process counts as running from then on.
            Event::Rpc { rpc, .. } if matches!(**rpc, Rpc::Registered { .. }) => None,
            Event::Rpc { to, inc, .. } => Some((*to, *inc)),
            Event::SentinelTick { sentinel, inc } => Some((Proc::Sentinel(*sentinel), *inc)),
            Event::Connected { conn } => {
                let conn = self.conns.get(conn)?;
                Some((Proc::Proxy(conn.proxy), conn.proxy_inc))
            }
            Event::LinkData { conn, to_node } | Event::LinkGone { conn, to_node } => {
                let conn = self.conns.get(conn)?;
                Some(match to_node {
                    true => (Proc::Node(conn.node), conn.node_inc),
                    false => (Proc::Proxy(conn.proxy), conn.proxy_inc),
                })
            }
            Event::Request { client, session, .. } => {
                let proxy = self.clients.proxy_of(*client, *session)?;
                Some((Proc::Proxy(proxy), self.proxies[proxy].incarnation))
            }
            _ => None,
        }
    }

    fn dispatch(&mut self, event: Event) {
        if let Some((proc, inc)) = self.receiver(&event) {
            if self.incarnation(proc) != inc || !self.is_running(proc) {
                return;
            }
            if self.is_paused(proc) {
                self.held.entry(proc).or_default().push(event);
                return;
            }
        }
        let at = self.now.as_nanos() as u64;
        self.mix(at);
        match event {
            Event::Turn { node, part, appointment, .. } => self.turn(node, part, appointment),
            Event::LogDone { node, .. } => self.log_done(node),
            Event::LogSync { node, .. } => self.log_sync(node),
            Event::CheckpointWork { node, .. } => self.checkpoint_work(node),
            Event::Peer { node, from, shard, message, .. } => {
                self.peer(node, from, shard, *message);
            }
            Event::Unreachable { node, peer, .. } => self.unreachable(node, peer),
            Event::Pulled { node, shard, index, bytes, .. } => {
                self.pulled(node, shard, index, bytes);
            }
            Event::Connect { proxy, link, .. } => self.connect(proxy, link),
            Event::Connected { conn } => self.connected(conn),
            Event::ConnectFailed { proxy, link, .. } => self.connect_failed(proxy, link),
            Event::LinkData { conn, to_node } => self.link_data(conn, to_node),
            Event::LinkGone { conn, to_node } => self.link_gone(conn, to_node),
            Event::ProxyTick { proxy, appointment, .. } => self.proxy_tick(proxy, appointment),
            Event::Request { client, session, bytes } => self.request(client, session, bytes),
            Event::Reply { client, session, bytes } => self.reply(client, session, &bytes),
            Event::ClientGone { client, session } => self.client_gone(client, session),
            Event::ClientWake { client, session } => self.client_wake(client, session),
            Event::Rpc { to, rpc, .. } => self.rpc(to, *rpc),
            Event::SentinelTick { sentinel, .. } => self.sentinel_tick(sentinel),
            Event::Begin { fault } => self.begin(fault),
            Event::End { fault } => self.end(fault),
            Event::Start { proc } => self.start(proc),
            Event::Heal => self.heal(),
            Event::Settled => self.check_settled(),
        }
    }

    // ----- the end ----------------------------------------------------------------------------

    fn heal(&mut self) {
        self.note(|| "everything is healed".to_owned());
        self.healed_at = Some(self.now);
        self.armed.clear();
        self.cuts.clear();
        self.unstick();
        self.storms = 0;
        self.plan.loss = 0;
        self.plan.duplicates = 0;
        for machine in &mut self.machines {
            machine.stalled_until = Duration::ZERO;
            machine.full_until = Duration::ZERO;
            machine.sync_fails = false;
        }
        for proc in self.all_procs() {
            let now = self.now;
            let clock = self.clock_of(proc);
            if !(960..=1040).contains(&clock.per_mille) {
                clock.set_rate(now, 1000);
            }
            *self.down_of(proc) = 0;
            if self.is_paused(proc) {
                self.set_paused(proc, false);
            }
            self.start(proc);
        }
        self.clients.stop_at = self.now + AFTERMATH;
        self.after(AFTERMATH, Event::Settled);
    }

    fn check_settled(&mut self) {
        if let Some(_why) = self.unsettled() {
            return self.after(Duration::from_millis(100), Event::Settled);
        }
        if !self.clients.scanning {
            self.note(|| "all is answered and equal: scan".to_owned());
            self.clients.begin_scan();
            let session = self.clients.session(0);
            self.after(Duration::ZERO, Event::ClientWake { client: 0, session });
            return self.after(Duration::from_millis(100), Event::Settled);
        }
        for node in 0..self.machines.len() {
            self.check_digests(node);
        }
        let mut found = Violations::default();
        let stale_allowed = self.plan.clocks == super::plan::Clocks::Wild;
        self.clients.verify(stale_allowed, &mut found);
        for (invariant, text) in found.0 {
            self.oracle.report(invariant, text);
        }
        self.done = true;
    }

    /// What is still missing before the cluster counts as recovered.
    fn unsettled(&mut self) -> Option<String> {
        self.clients.waiting().or_else(|| self.unequal())
    }
}

/// Shards over all nodes, for a cluster without sentinels.
fn fixed_topology(plan: &Plan) -> v1::Topology {
    let nodes = (1..=plan.nodes as u64)
        .map(|id| v1::NodeInfo { id, link_addr: format!("node:{id}"), ..Default::default() })
        .collect();
    let mut raft_id = 0;
    let shards = (1..=plan.shards)
        .map(|id| {
            let places = (0..plan.replicas).map(|at| 1 + (at + id as usize) % plan.nodes);
            let replicas = places
                .map(|node| {
                    raft_id += 1;
                    let role = v1::ReplicaRole::Voter as i32;
                    v1::ReplicaInfo { raft_id, node: node as u64, role, founding: true }
                })
                .collect();
            v1::ShardInfo {
                id,
                replicas,
                slots: vec![holdfast_sentinel::core::metadata::state::even_slots(
                    id - 1,
                    plan.shards,
                )],
                epoch: 1,
                ..Default::default()
            }
        })
        .collect();
    v1::Topology {
        version: 1,
        cluster_id: super::CLUSTER.to_vec().into(),
        nodes,
        shards,
        spec: Some(spec(plan)),
        ..Default::default()
    }
}

/// The cluster's specification.
pub(crate) fn spec(plan: &Plan) -> v1::ClusterSpec {
    let persistence = match plan.synced {
        true => v1::PersistenceMode::AofAlways,
        false => v1::PersistenceMode::AofEverysec,
    };
    v1::ClusterSpec {
        shards: plan.shards,
        replicas: plan.replicas as u32,
        databases: 16,
        persistence: persistence as i32,
        ..Default::default()
    }
}
