//! What goes wrong during a run, and when.
//!
//! Faults come in *lanes*: one for nodes, one for sentinels, one for proxies, one for the machine. Each
//! lane has one fault at a time and chooses from the seed alone what comes next; the lanes overlap. So
//! at most one node, one sentinel and one proxy are hurt at any time, which is a minority of each; the
//! node lane also waits until the cluster is in full health before it hurts the next node. Only the
//! fault `majority` takes more than a minority, and says so ([`Episode::majority`]).

mod faults;

pub use faults::FaultKind;

use crate::random::Random;
use crate::target::{LinkFault, Role, Target};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How the run is hurt.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub kinds: Vec<FaultKind>,
    /// Pause between two faults of a lane, from and to.
    pub pause_ms: (u64, u64),
    /// How long a fault lasts, from and to.
    pub lasts_ms: (u64, u64),
    /// How far clocks are put off, at most.
    pub clock_offset_ms: u64,
    /// After a fault is undone, the cluster must be in full health within this.
    pub recovery_limit: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            kinds: FaultKind::MIX.to_vec(),
            pause_ms: (500, 4000),
            lasts_ms: (300, 5000),
            clock_offset_ms: 2000,
            recovery_limit: Duration::from_secs(60),
        }
    }
}

/// One fault from its start until it was undone.
#[derive(Clone, Debug, Serialize)]
pub struct Episode {
    pub lane: &'static str,
    pub kind: FaultKind,
    /// The processes concerned.
    pub targets: Vec<String>,
    pub detail: String,
    /// ns since the run's start.
    pub start: u64,
    pub end: u64,
    /// When the cluster was in full health again; `None` if nobody waited for that.
    pub healthy: Option<u64>,
    /// More than a minority of a group was down.
    pub majority: bool,
    /// What went wrong with the fault itself or after it.
    pub trouble: Option<String>,
}

/// The lanes at work.
pub struct Nemesis {
    shared: Arc<Shared>,
    lanes: Vec<JoinHandle<()>>,
}

struct Shared {
    target: Arc<dyn Target>,
    plan: Plan,
    epoch: Instant,
    stop: AtomicBool,
    episodes: Mutex<Vec<Episode>>,
    /// Link faults of each lane.
    links: Mutex<BTreeMap<&'static str, Vec<LinkFault>>>,
}

impl Shared {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits, but not beyond the end of the run.
    fn wait(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while !self.stopped() && Instant::now() < until {
            // The schedule is made of such waits.
            std::thread::sleep(Duration::from_millis(20).min(until - Instant::now()));
        }
    }

    /// Replaces the link faults of a lane.
    fn set_links(&self, lane: &'static str, faults: Vec<LinkFault>) -> anyhow::Result<()> {
        let mut links = self.links.lock().expect("no lane panics with the lock");
        links.insert(lane, faults);
        let all: BTreeSet<LinkFault> = links.values().flatten().cloned().collect();
        self.target.set_links(&all)
    }

    /// Waits for full health. Returns what is wrong if it does not come.
    fn wait_healthy(&self) -> Option<String> {
        let deadline = Instant::now() + self.plan.recovery_limit;
        loop {
            let ailment = self.target.ailment()?;
            if Instant::now() > deadline {
                let limit = self.plan.recovery_limit;
                return Some(format!("not in full health {limit:?} after the fault: {ailment}"));
            }
            // Polling a cluster that recovers.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Nemesis {
    /// Starts the lanes. `epoch` is the instant that times are counted from.
    pub fn start(target: Arc<dyn Target>, plan: Plan, epoch: Instant) -> anyhow::Result<Self> {
        let random = Random::new(plan.seed);
        let shared = Arc::new(Shared {
            target,
            plan,
            epoch,
            stop: AtomicBool::new(false),
            episodes: Mutex::default(),
            links: Mutex::default(),
        });
        let mut lanes = Vec::new();
        for (part, lane) in ["nodes", "sentinels", "proxies", "machine"].into_iter().enumerate() {
            let kinds: Vec<FaultKind> = shared
                .plan
                .kinds
                .iter()
                .copied()
                .filter(|kind| kind.lane() == lane && kind.is_possible(shared.target.as_ref()))
                .collect();
            if kinds.is_empty() {
                continue;
            }
            let (shared, random) = (shared.clone(), random.fork(part as u64));
            let run = move || Lane { name: lane, shared, random, kinds }.run();
            lanes.push(std::thread::Builder::new().name(lane.to_owned()).spawn(run)?);
        }
        Ok(Self { shared, lanes })
    }

    /// How many faults have ended.
    pub fn count(&self) -> usize {
        self.shared.episodes.lock().expect("no lane panics with the lock").len()
    }

    /// Ends all faults, waits for full health and tells what happened.
    pub fn finish(self) -> (Vec<Episode>, Option<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes {
            if let Err(panic) = lane.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let ailment = self.shared.wait_healthy();
        let mut episodes =
            self.shared.episodes.lock().expect("no lane panics with the lock").clone();
        episodes.sort_by_key(|episode| episode.start);
        (episodes, ailment)
    }
}

struct Lane {
    name: &'static str,
    shared: Arc<Shared>,
    random: Random,
    kinds: Vec<FaultKind>,
}

impl Lane {
    fn run(mut self) {
        // Every kind once before any comes again, so that a short run sees them all.
        let mut left: Vec<FaultKind> = Vec::new();
        while !self.shared.stopped() {
            let (low, high) = self.shared.plan.pause_ms;
            let pause = Duration::from_millis(self.random.between(low, high));
            self.shared.wait(pause);
            if self.shared.stopped() {
                return;
            }
            if left.is_empty() {
                left.clone_from(&self.kinds);
            }
            let kind = left.swap_remove(self.random.below(left.len() as u64) as usize);
            let episode = self.episode(kind);
            self.shared.episodes.lock().expect("no lane panics with the lock").push(episode);
        }
    }

    fn episode(&mut self, kind: FaultKind) -> Episode {
        let start = self.shared.now();
        let mut episode = Episode {
            lane: self.name,
            kind,
            targets: Vec::new(),
            detail: String::new(),
            start,
            end: start,
            healthy: None,
            majority: false,
            trouble: None,
        };
        if let Err(error) = self.inflict(kind, &mut episode) {
            episode.trouble = Some(format!("{error:#}"));
        }
        // Whatever happened to the fault, nothing of it may stay.
        if let Err(error) = self.undo(&episode) {
            episode.trouble.get_or_insert_with(|| format!("undoing it: {error:#}"));
        }
        episode.end = self.shared.now();
        if self.name == "nodes" {
            match self.shared.wait_healthy() {
                None => episode.healthy = Some(self.shared.now()),
                Some(ailment) => episode.trouble = Some(ailment),
            }
        }
        episode
    }

    fn undo(&self, episode: &Episode) -> anyhow::Result<()> {
        let target = &self.shared.target;
        if self.shared.links.lock().expect("no lane panics with the lock").contains_key(self.name) {
            self.shared.set_links(self.name, Vec::new())?;
        }
        for name in &episode.targets {
            if episode.kind.is_injected() {
                target.inject(name, "")?;
            }
            target.resume(name)?;
            target.start(name)?;
        }
        Ok(())
    }

    fn lasts(&mut self) -> Duration {
        let (low, high) = self.shared.plan.lasts_ms;
        Duration::from_millis(self.random.between(low, high))
    }

    fn names(&self, role: Role) -> Vec<String> {
        self.shared.target.names(role)
    }

    fn pick(&mut self, role: Role) -> anyhow::Result<String> {
        let names = self.names(role);
        self.random.pick(&names).cloned().ok_or_else(|| anyhow::anyhow!("no {role:?} at all"))
    }

    /// A node: two times in three the primary of some shard.
    fn pick_node(&mut self) -> anyhow::Result<String> {
        let wants_primary = self.random.chance(2, 3);
        let shard = 1 + self.random.below(u64::from(self.shared.target.shards())) as u32;
        let any = self.pick(Role::Node)?;
        // Between two primaries, which another lane's fault may have caused, a shard has none.
        let primary = wants_primary.then(|| self.shared.target.primary(shard).ok()).flatten();
        Ok(primary.unwrap_or(any))
    }
}
