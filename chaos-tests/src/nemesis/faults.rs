//! Each kind of fault.

use super::{Episode, Lane};
use crate::target::{Ability, LinkFault, Role, Target};
use anyhow::ensure;
use serde::Serialize;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL of a node.
    Kill,
    /// SIGSTOP of a node, then SIGCONT.
    Pause,
    /// A node is cut off from others, both ways.
    Cut,
    /// A node is taken off its network.
    Isolate,
    /// A node sends or receives, not both.
    OneWay,
    /// A node dies and comes back while it is cut off: its old connections stay half open.
    HalfOpen,
    /// Two nodes do not hear each other, all others do.
    Bridge,
    /// What a node sends goes through a thin line.
    Slow,
    /// Packets from and to a node get lost.
    Lossy,
    /// Each write to a node's disk fails: no space.
    DiskFull,
    /// Each fsync of a node fails.
    DiskError,
    /// Each fsync of a node takes long.
    DiskSlow,
    /// A node's clock is put off.
    ClockOffset,
    /// A node's clock runs too fast or too slow.
    ClockRate,
    /// A node dies at a chosen step of a write.
    FailPoint,
    /// SIGTERM and start of every node, one after the other.
    RollingRestart,
    /// One replica is stopped and started.
    ReplicaRestart,
    /// A planned hand-over.
    HandOver,
    /// Most nodes die at once. Not part of the mix.
    Majority,
    /// All sentinels die, then a node. Not part of the mix, but no excuse for an error either: the
    /// shards elect by themselves.
    SentinelsDown,
    SentinelKill,
    SentinelPause,
    SentinelCut,
    SentinelIsolate,
    /// Breaks the connections of the clients that use this proxy.
    ProxyKill,
    ProxyPause,
    /// A proxy does not reach one node.
    ProxyCut,
    /// Threads that do nothing but use all cores.
    Starve,
}

/// Kinds that are not part of the mix.
const APART: [FaultKind; 2] = [FaultKind::Majority, FaultKind::SentinelsDown];

/// How far off a clock may run: within the drift that leases allow for.
const CLOCK_RATE_PPM_MAX: u64 = 20_000;

impl FaultKind {
    /// All that a run may do without taking more than a minority.
    pub const MIX: [Self; 26] = [
        Self::Kill,
        Self::Pause,
        Self::Cut,
        Self::Isolate,
        Self::OneWay,
        Self::HalfOpen,
        Self::Bridge,
        Self::Slow,
        Self::Lossy,
        Self::DiskFull,
        Self::DiskError,
        Self::DiskSlow,
        Self::ClockOffset,
        Self::ClockRate,
        Self::FailPoint,
        Self::RollingRestart,
        Self::ReplicaRestart,
        Self::HandOver,
        Self::SentinelKill,
        Self::SentinelPause,
        Self::SentinelCut,
        Self::SentinelIsolate,
        Self::ProxyKill,
        Self::ProxyPause,
        Self::ProxyCut,
        Self::Starve,
    ];

    pub(super) fn lane(self) -> &'static str {
        match self {
            Self::SentinelKill
            | Self::SentinelPause
            | Self::SentinelCut
            | Self::SentinelIsolate => "sentinels",
            Self::ProxyKill | Self::ProxyPause | Self::ProxyCut => "proxies",
            Self::Starve => "machine",
            _ => "nodes",
        }
    }

    pub(super) fn is_possible(self, target: &dyn Target) -> bool {
        match self {
            Self::Cut | Self::OneWay | Self::HalfOpen | Self::Bridge => {
                target.can(Ability::CutLinks)
            }
            Self::SentinelCut | Self::ProxyCut => target.can(Ability::CutLinks),
            Self::Isolate | Self::SentinelIsolate => target.can(Ability::Isolate),
            Self::Slow | Self::Lossy => target.can(Ability::SlowLinks),
            Self::ReplicaRestart | Self::HandOver => target.can(Ability::HandOver),
            kind => !kind.is_injected() || target.can(Ability::Inject),
        }
    }

    pub(super) fn is_injected(self) -> bool {
        matches!(
            self,
            Self::DiskFull
                | Self::DiskError
                | Self::DiskSlow
                | Self::ClockOffset
                | Self::ClockRate
                | Self::FailPoint
        )
    }

    fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Self::MIX.into_iter().chain(APART);
        all().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<String> = all().map(Self::name).collect();
            format!("unknown fault {text:?}; known are {}", names.join(", "))
        })
    }
}

impl Lane {
    /// Does it and waits until it is to be undone.
    pub(super) fn inflict(&mut self, kind: FaultKind, episode: &mut Episode) -> anyhow::Result<()> {
        let lasts = self.lasts();
        let target = self.shared.target.clone();
        match kind {
            FaultKind::Kill | FaultKind::SentinelKill | FaultKind::ProxyKill => {
                let name = self.victim(kind)?;
                episode.targets.push(name.clone());
                target.kill(&name)?;
                self.shared.wait(lasts);
            }
            FaultKind::Pause | FaultKind::SentinelPause | FaultKind::ProxyPause => {
                let name = self.victim(kind)?;
                episode.targets.push(name.clone());
                target.pause(&name)?;
                self.shared.wait(lasts);
            }
            FaultKind::Cut
            | FaultKind::OneWay
            | FaultKind::Bridge
            | FaultKind::SentinelCut
            | FaultKind::ProxyCut => {
                let links = self.cut(kind, episode)?;
                self.shared.set_links(self.name, links)?;
                self.shared.wait(lasts);
            }
            FaultKind::Isolate | FaultKind::SentinelIsolate => {
                let name = self.victim(kind)?;
                episode.targets.push(name.clone());
                let others = self.others(&name);
                self.shared.set_links(self.name, both_ways(&name, &others))?;
                self.shared.wait(lasts);
            }
            FaultKind::HalfOpen => {
                let name = self.pick_node()?;
                episode.targets.push(name.clone());
                let others = self.others(&name);
                self.shared.set_links(self.name, both_ways(&name, &others))?;
                target.kill(&name)?;
                self.shared.wait(lasts / 2);
                target.start(&name)?;
                self.shared.wait(lasts / 2);
            }
            FaultKind::Slow => {
                let name = self.pick_node()?;
                let kbit = self.random.between(500, 4000) as u32;
                episode.targets.push(name.clone());
                episode.detail = format!("{kbit} kbit/s");
                let slow = LinkFault::Slow { process: name, kbit };
                self.shared.set_links(self.name, vec![slow])?;
                self.shared.wait(lasts);
            }
            FaultKind::Lossy => {
                let name = self.pick_node()?;
                let percent = self.random.between(2, 30) as u8;
                episode.targets.push(name.clone());
                episode.detail = format!("{percent} % of packets");
                let lose = |from: &str, to: &str| LinkFault::Lose {
                    from: from.to_owned(),
                    to: to.to_owned(),
                    percent,
                };
                let others = self.others(&name);
                let links =
                    others.iter().flat_map(|other| [lose(&name, other), lose(other, &name)]);
                self.shared.set_links(self.name, links.collect())?;
                self.shared.wait(lasts);
            }
            kind if kind.is_injected() => self.inject(kind, episode, lasts)?,
            FaultKind::RollingRestart => self.rolling_restart(episode)?,
            FaultKind::ReplicaRestart => {
                let name = self.pick_node()?;
                let shard = 1 + self.random.below(u64::from(target.shards())) as u32;
                episode.detail = format!("shard {shard} on {name}");
                target.restart_replica(shard, &name)?;
            }
            FaultKind::HandOver => {
                let shard = 1 + self.random.below(u64::from(target.shards())) as u32;
                episode.detail = format!("shard {shard}");
                target.hand_over(shard)?;
            }
            FaultKind::Majority => {
                episode.majority = true;
                let mut nodes = self.names(Role::Node);
                let spared = self.random.below(2 * nodes.len() as u64) as usize;
                if spared < nodes.len() {
                    nodes.remove(spared);
                }
                episode.targets.clone_from(&nodes);
                for name in &nodes {
                    target.kill(name)?;
                }
                self.shared.wait(lasts);
            }
            FaultKind::SentinelsDown => {
                let node = self.pick_node()?;
                episode.targets = self.names(Role::Sentinel);
                episode.targets.push(node);
                for name in &episode.targets {
                    target.kill(name)?;
                }
                self.shared.wait(lasts);
            }
            _ => self.starve(lasts, episode),
        }
        Ok(())
    }

    fn victim(&mut self, kind: FaultKind) -> anyhow::Result<String> {
        match kind.lane() {
            "sentinels" => self.pick(Role::Sentinel),
            "proxies" => self.pick(Role::Proxy),
            _ => self.pick_node(),
        }
    }

    /// All processes but one.
    fn others(&self, name: &str) -> Vec<String> {
        let roles = [Role::Node, Role::Sentinel, Role::Proxy];
        let all = roles.into_iter().flat_map(|role| self.names(role));
        all.filter(|other| other != name).collect()
    }

    fn cut(&mut self, kind: FaultKind, episode: &mut Episode) -> anyhow::Result<Vec<LinkFault>> {
        let (name, others, what) = match kind {
            FaultKind::SentinelCut => {
                let name = self.pick(Role::Sentinel)?;
                let others = self.others(&name);
                (name, others, "everybody")
            }
            FaultKind::ProxyCut => {
                let name = self.pick(Role::Proxy)?;
                let node = self.pick(Role::Node)?;
                (name, vec![node], "one node")
            }
            FaultKind::Bridge => {
                let name = self.pick_node()?;
                let mut nodes = self.names(Role::Node);
                nodes.retain(|other| *other != name);
                let other = self.random.pick(&nodes).cloned();
                (name, other.into_iter().collect(), "one other node")
            }
            _ => {
                let name = self.pick_node()?;
                let choice = self.random.below(4);
                let nodes = || self.names(Role::Node).into_iter().filter(|other| *other != name);
                let (others, what): (Vec<String>, _) = match choice {
                    0 => (nodes().collect(), "the other nodes"),
                    1 => (self.names(Role::Sentinel), "the sentinels"),
                    2 => (nodes().chain(self.names(Role::Sentinel)).collect(), "all but proxies"),
                    _ => (self.others(&name), "everybody"),
                };
                (name, others, what)
            }
        };
        ensure!(!others.is_empty(), "nobody to cut {name} off from");
        episode.targets.push(name.clone());
        episode.detail = format!("from {what}");
        if what.starts_with("one") {
            episode.detail = format!("from {}", others.join(", "));
        }
        if kind != FaultKind::OneWay {
            return Ok(both_ways(&name, &others));
        }
        let hears = self.random.chance(1, 2);
        let word = if hears { "hears, is not heard by" } else { "is heard by, does not hear" };
        episode.detail = format!("{word} {what}");
        let link = |other: &String| {
            let (from, to) = if hears { (&name, other) } else { (other, &name) };
            LinkFault::Drop { from: from.clone(), to: to.clone() }
        };
        Ok(others.iter().map(link).collect())
    }

    fn inject(
        &mut self,
        kind: FaultKind,
        episode: &mut Episode,
        lasts: Duration,
    ) -> anyhow::Result<()> {
        let name = self.pick_node()?;
        let fault = match kind {
            FaultKind::DiskFull => "full".to_owned(),
            FaultKind::DiskError => "fail-sync".to_owned(),
            FaultKind::DiskSlow => format!("slow-sync {}", self.random.between(50, 2500)),
            FaultKind::ClockOffset => {
                let most = self.shared.plan.clock_offset_ms;
                let offset = self.random.between(0, 2 * most) as i64 - most as i64;
                format!("clock-offset-ms {offset}")
            }
            FaultKind::ClockRate => {
                let rate = self.random.between(0, 2 * CLOCK_RATE_PPM_MAX) as i64;
                format!("clock-rate-ppm {}", rate - CLOCK_RATE_PPM_MAX as i64)
            }
            _ => {
                const POINTS: [&str; 6] = [
                    "before-propose",
                    "after-append",
                    "after-fsync",
                    "after-commit",
                    "after-apply",
                    "after-reply",
                ];
                let point = POINTS[self.random.below(POINTS.len() as u64) as usize];
                format!("failpoint {point}:{}", self.random.between(1, 500))
            }
        };
        episode.targets.push(name.clone());
        episode.detail.clone_from(&fault);
        self.shared.target.inject(&name, &fault)?;
        self.shared.wait(lasts);
        Ok(())
    }

    /// Each node in turn, the next one when all are in health again.
    fn rolling_restart(&mut self, episode: &mut Episode) -> anyhow::Result<()> {
        for name in self.names(Role::Node) {
            if self.shared.stopped() {
                return Ok(());
            }
            episode.targets.push(name.clone());
            let clean = self.shared.target.stop(&name)?;
            self.shared.target.start(&name)?;
            ensure!(clean, "{name} did not end in time and cleanly on SIGTERM");
            if let Some(ailment) = self.shared.wait_healthy() {
                anyhow::bail!("after the restart of {name}: {ailment}");
            }
        }
        Ok(())
    }

    fn starve(&self, lasts: Duration, episode: &mut Episode) {
        let threads = 2 * std::thread::available_parallelism().map_or(1, |count| count.get());
        episode.detail = format!("{threads} threads");
        let stop = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let stop = stop.clone();
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            self.shared.wait(lasts);
            stop.store(true, Ordering::Relaxed);
        });
    }
}

fn both_ways(name: &str, others: &[String]) -> Vec<LinkFault> {
    let drop = |from: &str, to: &str| LinkFault::Drop { from: from.to_owned(), to: to.to_owned() };
    others.iter().flat_map(|other| [drop(name, other), drop(other, name)]).collect()
}
