//! Scenes: short sequences of faults that are aimed at whoever leads, and at the moments in which a
//! rule matters. Each is a situation that some rule exists for; drawn at random its parts would meet
//! in one of thousands of seeds.

use std::time::Duration;

use holdfast_consensus::testing::Rng;
use holdfast_proto::ids::ShardId;

use super::plan::{Cut, Fault, Proc, ms};
use super::world::World;

/// Who is meant is decided when it begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Scene {
    /// The leader and a proxy on one side, everybody else on the other: the old leader is asked
    /// while a new one takes writes.
    Minority { shard: u32, proxy: usize, length: Duration },
    /// Leadership is handed to a follower that cannot be reached: the leader refuses writes until
    /// it gives up, and then takes those that are under way.
    VainHandOver { shard: u32, length: Duration },
    /// Leadership is handed over while the leader hears nothing, so that it does not learn of it.
    DeafHandOver { shard: u32, length: Duration },
    /// The leader hears nothing for `deaf`, then nobody hears it for `length`. Then old answers to
    /// its rounds arrive.
    LateAnswers { shard: u32, deaf: Duration, length: Duration },
    /// One follower lags behind for `lag`, the other then loses the end of its log, and the leader
    /// is cut off: the two must not elect.
    LostTail { shard: u32, lag: Duration, back: u64, length: Duration },
    /// Leadership is handed over, one follower does not hear of it, and as soon as the new leader
    /// has won it is cut off for `apart` and its voter dies for `down`.
    SplitElection { shard: u32, apart: Duration, down: Duration },
    /// A follower needs a checkpoint and dies while it installs it.
    DiesInstalling { shard: u32, behind: Duration, after: Duration, down: Duration, power: bool },
    /// Leadership is handed over and, soon after the election, back again, and so on: proxies that
    /// still ask the old leader are refused, and then not.
    ThereAndBack { shard: u32, hops: u64, stay: Duration },
    /// A node dies while its log is about to record a checkpoint.
    DiesRecording { shard: u32, leader: bool, after: Duration, down: Duration },
    /// A follower does not run for so long that it misses many ticks.
    LongPause { shard: u32, length: Duration },
}

/// What a scene waits for.
pub(crate) struct Armed {
    until: Duration,
    trigger: Trigger,
}

#[derive(Clone, Copy)]
enum Trigger {
    /// Somebody but `spare` is elected.
    Elected {
        shard: ShardId,
        spare: usize,
        apart: Duration,
        down: Duration,
    },
    /// Somebody but `from` is elected.
    ElectedAway {
        shard: ShardId,
        from: usize,
        hops: u64,
        stay: Duration,
    },
    Installing {
        node: usize,
        after: Duration,
        down: Duration,
        power: bool,
    },
}

impl Scene {
    /// Kinds that [`Scene::draw`] knows.
    pub(crate) const KINDS: u64 = 10;

    pub(crate) fn draw(rng: &mut Rng, kind: u64, proxies: usize) -> Self {
        let shard = 1;
        let mut span = |least, most| ms(least + rng.below(most - least));
        match kind {
            0 => {
                let length = span(400, 2_500);
                Self::Minority { shard, proxy: rng.below(proxies as u64) as usize, length }
            }
            1 => Self::VainHandOver { shard, length: span(400, 700) },
            2 => Self::DeafHandOver { shard, length: span(50, 600) },
            3 => Self::LateAnswers { shard, deaf: span(50, 250), length: span(300, 1_200) },
            4 => {
                let (lag, length) = (span(30, 350), span(1_200, 2_500));
                Self::LostTail { shard, lag, back: 30 + rng.below(200), length }
            }
            5 => Self::SplitElection { shard, apart: span(800, 3_000), down: span(5, 200) },
            6 => {
                let (behind, after, down) = (span(300, 900), span(0, 60), span(20, 300));
                Self::DiesInstalling { shard, behind, after, down, power: rng.chance(50) }
            }
            7 => {
                let stay = span(0, 30);
                Self::ThereAndBack { shard, hops: 1 + rng.below(8), stay }
            }
            8 => {
                let (after, down) = (span(5, 190), span(20, 300));
                Self::DiesRecording { shard, leader: rng.chance(50), after, down }
            }
            _ => Self::LongPause { shard, length: span(900, 3_000) },
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Minority { .. } => "scene: old leader with a proxy",
            Self::VainHandOver { .. } => "scene: hand-over in vain",
            Self::DeafHandOver { .. } => "scene: deaf hand-over",
            Self::LateAnswers { .. } => "scene: late answers",
            Self::LostTail { .. } => "scene: lost tail",
            Self::SplitElection { .. } => "scene: split election",
            Self::DiesInstalling { .. } => "scene: dies installing",
            Self::ThereAndBack { .. } => "scene: there and back",
            Self::DiesRecording { .. } => "scene: dies recording",
            Self::LongPause { .. } => "scene: long pause",
        }
    }

    pub(crate) fn costs_a_replica(&self, synced: bool) -> bool {
        match self {
            Self::LostTail { .. } => true,
            Self::DiesInstalling { power, .. } => *power && !synced,
            _ => false,
        }
    }
}

impl World {
    /// Begins a scene; false if nobody leads.
    pub(crate) fn play(&mut self, scene: &Scene) -> bool {
        let (Scene::Minority { shard, .. }
        | Scene::VainHandOver { shard, .. }
        | Scene::DeafHandOver { shard, .. }
        | Scene::LateAnswers { shard, .. }
        | Scene::LostTail { shard, .. }
        | Scene::SplitElection { shard, .. }
        | Scene::DiesInstalling { shard, .. }
        | Scene::ThereAndBack { shard, .. }
        | Scene::DiesRecording { shard, .. }
        | Scene::LongPause { shard, .. }) = *scene;
        let Some(leader) = self.leader_of(shard) else { return false };
        let mut followers: Vec<usize> = (0..self.machines.len())
            .filter(|at| *at != leader && self.replica_on(shard, *at).is_some())
            .collect();
        if followers.len() < 2 {
            return false;
        }
        let first = self.rng.below(followers.len() as u64) as usize;
        followers.swap(0, first);
        let (one, other) = (followers[0], followers[1]);
        let (l, f, g) = (Proc::Node(leader), Proc::Node(one), Proc::Node(other));
        let pair = |from, to, length| Fault::CutPair { from, to, cut: Cut::Full, length };
        let now = Duration::ZERO;
        match *scene {
            Scene::Minority { proxy, length, .. } => {
                self.soon(now, Fault::Split { side: vec![l, Proc::Proxy(proxy)], length });
            }
            Scene::VainHandOver { length, .. } => {
                self.soon(now, pair(l, f, length));
                self.soon(ms(1), Fault::Transfer { shard, node: one });
            }
            Scene::DeafHandOver { length, .. } => {
                self.soon(now, Fault::Isolate { proc: l, cut: Cut::Inbound, length });
                self.soon(now, Fault::Transfer { shard, node: one });
            }
            Scene::LateAnswers { deaf, length, .. } => {
                for proc in self.all_procs().into_iter().filter(|proc| *proc != l) {
                    let jitter = ms(self.rng.below(80));
                    let cut = Cut::Outbound;
                    let inbound =
                        Fault::CutPair { from: proc, to: l, cut, length: deaf + length + jitter };
                    let outbound = Fault::CutPair { from: l, to: proc, cut, length };
                    self.soon(now, inbound);
                    self.soon(deaf, outbound);
                }
            }
            Scene::LostTail { lag, back, length, .. } => {
                self.soon(now, pair(l, g, lag));
                let before = lag.saturating_sub(ms(1));
                self.soon(before, Fault::FlipLog { node: one, back });
                self.soon(before, Fault::Isolate { proc: l, cut: Cut::Full, length });
            }
            Scene::SplitElection { apart, down, .. } => {
                let lasts = ms(150);
                self.soon(now, pair(f, g, lasts));
                self.soon(now, Fault::Transfer { shard, node: one });
                let shard = ShardId(shard);
                self.arm(lasts, Trigger::Elected { shard, spare: other, apart, down });
            }
            Scene::DiesInstalling { behind, after, down, power, .. } => {
                self.soon(now, pair(l, f, behind));
                self.soon(behind / 2, Fault::Checkpoint { node: leader });
                self.soon(behind.saturating_sub(ms(50)), Fault::Checkpoint { node: leader });
                let trigger = Trigger::Installing { node: one, after, down, power };
                self.arm(behind + ms(2_000), trigger);
            }
            Scene::ThereAndBack { hops, stay, .. } => {
                self.soon(now, Fault::Transfer { shard, node: one });
                let shard = ShardId(shard);
                self.arm(ms(150), Trigger::ElectedAway { shard, from: leader, hops, stay });
            }
            Scene::DiesRecording { leader: leads, after, down, .. } => {
                let node = if leads { leader } else { one };
                self.soon(now, Fault::Checkpoint { node });
                let then = ms(400);
                self.soon(then, Fault::DiskStall { node, length: ms(200) });
                self.soon(then, Fault::Checkpoint { node });
                self.soon(then + after, Fault::Kill { proc: Proc::Node(node), down });
            }
            Scene::LongPause { length, .. } => self.soon(now, Fault::Pause { proc: f, length }),
        }
        true
    }

    fn arm(&mut self, lasts: Duration, trigger: Trigger) {
        self.armed.push(Armed { until: self.now + lasts, trigger });
    }

    /// Takes what was armed for something that happens now.
    fn triggered(&mut self, wanted: impl Fn(&Trigger) -> bool) -> Option<Trigger> {
        let now = self.now;
        self.armed.retain(|armed| now <= armed.until);
        let at = self.armed.iter().position(|armed| wanted(&armed.trigger))?;
        Some(self.armed.swap_remove(at).trigger)
    }

    /// A replica has just been elected.
    pub(crate) fn elected(&mut self, winner: usize, of: ShardId) {
        let wanted = |trigger: &Trigger| match trigger {
            Trigger::Elected { shard, spare: not, .. }
            | Trigger::ElectedAway { shard, from: not, .. } => *shard == of && *not != winner,
            Trigger::Installing { .. } => false,
        };
        match self.triggered(wanted) {
            Some(Trigger::Elected { spare, apart, down, .. }) => {
                let proc = Proc::Node(winner);
                let cut = Fault::Isolate { proc, cut: Cut::Full, length: apart };
                self.soon(Duration::ZERO, cut);
                for at in (0..self.machines.len()).filter(|at| *at != winner && *at != spare) {
                    self.soon(Duration::ZERO, Fault::Kill { proc: Proc::Node(at), down });
                }
            }
            Some(Trigger::ElectedAway { shard, from, hops, stay }) => {
                self.soon(stay, Fault::Transfer { shard: shard.0, node: from });
                if hops > 1 {
                    let back = Trigger::ElectedAway { shard, from: winner, hops: hops - 1, stay };
                    self.arm(stay + ms(150), back);
                }
            }
            _ => {}
        }
    }

    /// A replica on this node begins to pull a checkpoint.
    pub(crate) fn installing(&mut self, at: usize) {
        let wanted =
            |trigger: &Trigger| matches!(trigger, Trigger::Installing { node, .. } if *node == at);
        let Some(Trigger::Installing { node, after, down, power }) = self.triggered(wanted) else {
            return;
        };
        let fault = match power {
            true => Fault::PowerLoss { node, down },
            false => Fault::Kill { proc: Proc::Node(node), down },
        };
        self.soon(after, fault);
    }
}
