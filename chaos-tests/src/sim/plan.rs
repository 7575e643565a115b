//! What a seed stands for: the size of the cluster, the quality of network, disks and clocks, the
//! workload, and the list of faults with their times. The list can be cut down, which is how a
//! failing run is made short.

use std::fmt;
use std::time::Duration;

use holdfast_consensus::testing::Rng;

use super::scenes::Scene;

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A process of the cluster, by kind and place in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proc {
    Node(usize),
    Proxy(usize),
    Sentinel(usize),
}

impl fmt::Display for Proc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(at) => write!(f, "node {}", at + 1),
            Self::Proxy(at) => write!(f, "proxy {}", at + 1),
            Self::Sentinel(at) => write!(f, "sentinel {}", at + 1),
        }
    }
}

/// How a cut separates a process from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing in either direction.
    Full,
    /// What it sends is lost.
    Outbound,
    /// What is sent to it is lost.
    Inbound,
}

/// One fault. Those with a length end by themselves.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The process dies and starts again after some time.
    Kill {
        proc: Proc,
        down: Duration,
    },
    /// The process is asked to end and hands its leaderships over.
    Stop {
        node: usize,
        down: Duration,
    },
    /// The machine dies: writes that were not synced are lost, all or some of the last.
    PowerLoss {
        node: usize,
        down: Duration,
    },
    /// Every node's machine dies at the same time.
    PowerLossEverywhere {
        down: Duration,
    },
    Pause {
        proc: Proc,
        length: Duration,
    },
    /// Between a process and all others.
    Isolate {
        proc: Proc,
        cut: Cut,
        length: Duration,
    },
    /// Between two processes.
    CutPair {
        from: Proc,
        to: Proc,
        cut: Cut,
        length: Duration,
    },
    /// All processes but one are in two halves; that one reaches both.
    Bridge {
        bridge: usize,
        length: Duration,
    },
    /// These processes on one side, all others on the other.
    Split {
        side: Vec<Proc>,
        length: Duration,
    },
    /// All connections of a process break; nothing else happens to it.
    Reset {
        proc: Proc,
    },
    /// Many messages are lost and connections break.
    Storm {
        length: Duration,
    },
    /// The node's log writes take this long.
    DiskStall {
        node: usize,
        length: Duration,
    },
    /// No write succeeds: the log writer ends the process, checkpoints fail.
    DiskFull {
        node: usize,
        length: Duration,
    },
    /// The next sync fails: the process ends; what it had not synced may be lost.
    SyncError {
        node: usize,
        down: Duration,
    },
    /// A record of a stopped node's log is damaged.
    FlipLog {
        node: usize,
        back: u64,
    },
    /// A bit of a stored checkpoint is wrong.
    FlipCheckpoint {
        node: usize,
        bit: u64,
    },
    /// The wall clock is set, by seconds.
    WallClock {
        proc: Proc,
        by: i64,
    },
    /// The clocks run at another speed from now on, per mille of true time.
    ClockRate {
        proc: Proc,
        per_mille: u64,
    },
    /// Checkpoints are taken, and the log is cut.
    Checkpoint {
        node: usize,
    },
    /// Leadership of a shard is handed to the replica on this node.
    Transfer {
        shard: u32,
        node: usize,
    },
    /// A sentinel errs: it orders a replica to forget its leader and to campaign.
    WrongOrder {
        shard: u32,
        node: usize,
    },
    /// The replica of a shard on a node is replaced by a new one.
    Replace {
        shard: u32,
        node: usize,
    },
    /// Several of these, aimed at whoever leads when it begins.
    Scene(Scene),
}

impl Fault {
    /// The kind, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { proc: Proc::Node(_), .. } => "kill node",
            Self::Kill { proc: Proc::Proxy(_), .. } => "kill proxy",
            Self::Kill { proc: Proc::Sentinel(_), .. } => "kill sentinel",
            Self::Stop { .. } => "planned stop",
            Self::PowerLoss { .. } | Self::PowerLossEverywhere { .. } => "power loss",
            Self::Pause { .. } => "pause",
            Self::Isolate { cut: Cut::Full, .. } => "isolation",
            Self::Isolate { .. } | Self::CutPair { .. } => "one-way or pair cut",
            Self::Bridge { .. } => "bridge partition",
            Self::Split { .. } => "split in two",
            Self::Reset { .. } => "connections reset",
            Self::Storm { .. } => "loss storm",
            Self::DiskStall { .. } => "disk stall",
            Self::DiskFull { .. } => "disk full",
            Self::SyncError { .. } => "fsync error",
            Self::FlipLog { .. } => "bit flip in log",
            Self::FlipCheckpoint { .. } => "bit flip in checkpoint",
            Self::WallClock { .. } => "wall clock set",
            Self::ClockRate { .. } => "clock rate",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Transfer { .. } => "hand-over",
            Self::WrongOrder { .. } => "wrong order",
            Self::Replace { .. } => "replacement",
            Self::Scene(scene) => scene.name(),
        }
    }

    /// Bounds how long it lasts.
    fn shorten(&mut self, most: Duration) {
        match self {
            Self::Kill { down: length, .. }
            | Self::Stop { down: length, .. }
            | Self::PowerLoss { down: length, .. }
            | Self::PowerLossEverywhere { down: length }
            | Self::SyncError { down: length, .. }
            | Self::Pause { length, .. }
            | Self::Isolate { length, .. }
            | Self::CutPair { length, .. }
            | Self::Bridge { length, .. }
            | Self::Split { length, .. }
            | Self::Storm { length }
            | Self::DiskStall { length, .. }
            | Self::DiskFull { length, .. } => *length = (*length).min(most),
            _ => {}
        }
    }

    /// May cost a replica its identity, so that it must be replaced.
    pub fn costs_a_replica(&self, synced: bool) -> bool {
        match self {
            Self::FlipLog { .. } | Self::FlipCheckpoint { .. } | Self::Replace { .. } => true,
            Self::PowerLoss { .. } | Self::SyncError { .. } => !synced,
            Self::Scene(scene) => scene.costs_a_replica(synced),
            _ => false,
        }
    }
}

/// How clocks may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// Speeds differ by less than the margin that leases allow for.
    WithinMargin,
    /// Speeds differ by far more: reads may be stale, writes must not suffer.
    Wild,
}

/// How a seed becomes a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanKind {
    /// [`Plan::new`].
    Plain,
    /// [`Plan::rush`].
    Rush,
    /// [`Plan::staged`].
    Staged,
}

impl PlanKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Staged, Self::Rush];

    /// What the seed stands for.
    pub fn plan(self, seed: u64) -> Plan {
        match self {
            Self::Plain => Plan::new(seed),
            Self::Rush => Plan::rush(seed),
            Self::Staged => Plan::staged(seed),
        }
    }

    /// The option of `chaos sim` that chooses it, with a blank before it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Rush => " --rush",
            Self::Staged => " --staged",
        }
    }
}

/// Everything that a seed decides before the run begins.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub shards: u32,
    pub replicas: usize,
    pub proxies: usize,
    pub sentinels: usize,
    pub clients: usize,
    /// Every write is synced before it is acknowledged.
    pub synced: bool,
    pub clocks: Clocks,
    /// One way.
    pub latency: (Duration, Duration),
    /// Besides, between proxies and nodes, one way.
    pub far: Duration,
    /// Of 10,000 messages between nodes.
    pub loss: u64,
    /// Of 10,000 messages between nodes.
    pub duplicates: u64,
    /// A log write with its sync.
    pub write: (Duration, Duration),
    /// A turn of a thread begins at most this long after its wake-up.
    pub scheduling: Duration,
    /// Between two requests of a client, at most.
    pub think: Duration,
    /// How long faults happen.
    pub length: Duration,
    pub faults: Vec<(Duration, Fault)>,
}

impl Plan {
    /// What a seed stands for.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        let big = rng.chance(25);
        let nodes = if big { 3 + rng.below(3) as usize } else { 3 };
        let replicas = if nodes == 5 && rng.chance(50) { 5 } else { 3 };
        let slow = rng.chance(25);
        let lossy = rng.chance(60);
        let mut plan = Self {
            seed,
            nodes,
            shards: if big { 1 + rng.below(3) as u32 } else { 1 + u32::from(rng.chance(25)) },
            replicas,
            proxies: 1 + usize::from(rng.chance(50)),
            sentinels: if rng.chance(80) { 3 } else { 0 },
            clients: 2 + rng.below(4) as usize,
            synced: rng.chance(60),
            clocks: if rng.chance(8) { Clocks::Wild } else { Clocks::WithinMargin },
            latency: if slow { (ms(1), ms(30)) } else { (Duration::from_micros(50), ms(2)) },
            far: Duration::ZERO,
            loss: if lossy { rng.below(300) } else { 0 },
            duplicates: if lossy { rng.below(300) } else { 0 },
            write: if rng.chance(30) {
                (ms(0), ms(20))
            } else {
                (Duration::from_micros(50), ms(2))
            },
            scheduling: if rng.chance(20) { ms(5) } else { Duration::from_micros(200) },
            think: ms(30 + rng.below(90)),
            length: ms(4_000 + rng.below(5_000)),
            faults: Vec::new(),
        };
        plan.draw_faults(&mut rng);
        plan
    }

    /// A small cluster under much load whose faults are short and come within milliseconds of each
    /// other: elections meet restarts, pauses and cuts.
    pub fn rush(seed: u64) -> Self {
        let mut plan = Self::new(seed);
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7254);
        (plan.nodes, plan.replicas, plan.shards, plan.clients) = (3, 3, 1, 5);
        plan.clocks = Clocks::WithinMargin;
        plan.think = ms(3 + rng.below(20));
        plan.latency = (Duration::from_micros(50), ms(1 + rng.below(5)));
        plan.length = ms(3_000);
        plan.faults.clear();
        // Deaths, pauses, cuts, disks, checkpoints and orders, no clocks.
        const KINDS: [u64; 16] = [0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23];
        let kinds: Vec<u64> =
            (0..3 + rng.below(4)).map(|_| KINDS[rng.below(16) as usize]).collect();
        let between = 20 + rng.below(150);
        plan.place_faults(&mut rng, BEGIN, &kinds, between, Some(400));
        plan
    }

    /// A small cluster under much load, with scenes: sequences of faults that are aimed at the leader
    /// and at the moments that matter, which chance alone would meet in one seed of thousands.
    pub fn staged(seed: u64) -> Self {
        let mut plan = Self::new(seed);
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5ce9e);
        (plan.nodes, plan.replicas, plan.shards, plan.clients) = (3, 3, 1, 6);
        plan.proxies = 1 + usize::from(rng.chance(60));
        plan.clocks = Clocks::WithinMargin;
        plan.think = ms(3 + rng.below(20));
        if rng.chance(30) {
            plan.latency = (ms(1), ms(30));
        } else if rng.chance(50) {
            plan.far = ms(5 + rng.below(50));
        }
        plan.length = ms(5_000);
        plan.faults.clear();
        // Most runs repeat one or two scenes; some have other faults between them.
        let kinds: Vec<u64> = (0..1 + rng.below(2)).map(|_| rng.below(Scene::KINDS)).collect();
        let (end, between) = (BEGIN + plan.length, 600 + rng.below(900));
        let mut at = BEGIN + ms(rng.below(500));
        let mut replicas_lost = 0;
        while at < end {
            let kind = kinds[rng.below(kinds.len() as u64) as usize];
            let scene = Scene::draw(&mut rng, kind, plan.proxies);
            let costly = scene.costs_a_replica(plan.synced);
            if !costly || (plan.sentinels > 0 && replicas_lost == 0) {
                replicas_lost += u32::from(costly);
                plan.faults.push((at, Fault::Scene(scene)));
            }
            at += ms(300 + rng.below(2 * between));
        }
        if rng.chance(30) {
            const KINDS: [u64; 8] = [3, 7, 9, 10, 11, 18, 19, 23];
            let kinds = [KINDS[rng.below(8) as usize], KINDS[rng.below(8) as usize]];
            plan.place_faults(&mut rng, BEGIN, &kinds, 1_200, Some(400));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        // Most runs concentrate on a few kinds of faults, so that these meet each other.
        let kinds: Vec<u64> = match rng.below(4) {
            0 => (0..KINDS).collect(),
            _ => (0..2 + rng.below(4)).map(|_| rng.below(KINDS)).collect(),
        };
        let between = 150 + rng.below(1200);
        let at = ms(1_500 + rng.below(1_000));
        self.place_faults(rng, at, &kinds, between, None);
    }

    /// Faults of these kinds from `at` on, `between` milliseconds from one to the next on average,
    /// each no longer than `longest` milliseconds.
    fn place_faults(
        &mut self,
        rng: &mut Rng,
        mut at: Duration,
        kinds: &[u64],
        between: u64,
        longest: Option<u64>,
    ) {
        let end = BEGIN + self.length;
        let mut replicas_lost = 0;
        while at < end {
            let kind = kinds[rng.below(kinds.len() as u64) as usize];
            if let Some(mut fault) = self.draw_fault(rng, kind) {
                if let Some(longest) = longest {
                    fault.shorten(ms(rng.below(longest)));
                }
                // Without sentinels nobody replaces a replica; and a majority must never be lost.
                let costly = fault.costs_a_replica(self.synced);
                let allowed = !costly || (self.sentinels > 0 && replicas_lost == 0);
                if allowed {
                    replicas_lost += u32::from(costly);
                    self.faults.push((at, fault));
                }
            }
            at += ms(rng.below(2 * between));
        }
    }

    fn some_proc(&self, rng: &mut Rng) -> Proc {
        match rng.below(10) {
            0 if self.proxies > 0 => Proc::Proxy(rng.below(self.proxies as u64) as usize),
            1 | 2 if self.sentinels > 0 => {
                Proc::Sentinel(rng.below(self.sentinels as u64) as usize)
            }
            _ => Proc::Node(rng.below(self.nodes as u64) as usize),
        }
    }

    fn draw_fault(&self, rng: &mut Rng, kind: u64) -> Option<Fault> {
        let node = rng.below(self.nodes as u64) as usize;
        let proc = self.some_proc(rng);
        let shard = 1 + rng.below(u64::from(self.shards)) as u32;
        let short = ms(rng.below(300));
        let length = if rng.chance(30) { short } else { ms(200 + rng.below(3_000)) };
        let cut = match rng.below(3) {
            0 => Cut::Inbound,
            1 => Cut::Outbound,
            _ => Cut::Full,
        };
        Some(match kind {
            0 => Fault::Kill { proc, down: length },
            1 if self.synced => Fault::PowerLossEverywhere { down: short },
            1 | 2 => Fault::PowerLoss { node, down: length },
            3 | 4 => Fault::Pause { proc, length },
            5 | 6 => Fault::Isolate { proc, cut, length },
            7 => {
                let to = self.some_proc(rng);
                (to != proc).then_some(Fault::CutPair { from: proc, to, cut, length })?
            }
            8 => Fault::Bridge { bridge: node, length },
            9 => Fault::Reset { proc },
            10 => Fault::Storm { length },
            11 => Fault::DiskStall { node, length },
            12 => Fault::DiskFull { node, length },
            13 => Fault::SyncError { node, down: length },
            14 => Fault::FlipLog { node, back: rng.below(30) },
            15 => Fault::FlipCheckpoint { node, bit: rng.draw() },
            16 => Fault::WallClock { proc, by: rng.below(20_000) as i64 - 10_000 },
            17 => {
                let per_mille = match self.clocks {
                    Clocks::WithinMargin => 960 + rng.below(81),
                    Clocks::Wild => 100 + rng.below(2_900),
                };
                Fault::ClockRate { proc, per_mille }
            }
            18 => Fault::Checkpoint { node },
            19 => Fault::Transfer { shard, node },
            20 => Fault::WrongOrder { shard, node },
            21 => Fault::Replace { shard, node },
            22 => Fault::Stop { node, down: length },
            _ => Fault::Kill { proc: Proc::Node(node), down: length },
        })
    }
}

/// Clients and replicas are at work by then.
const BEGIN: Duration = ms(1_500);

/// Kinds that [`Plan::draw_fault`] knows.
const KINDS: u64 = 24;
