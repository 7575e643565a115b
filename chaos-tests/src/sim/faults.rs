//! What each fault of a plan does, and how it ends.

use std::time::Duration;

use holdfast_consensus::Role;
use holdfast_proto::ids::ShardId;

use super::machine::Clock;
use super::plan::{Clocks, Cut, Fault, Proc};
use super::world::{Event, World};

impl World {
    pub(crate) fn begin(&mut self, fault: usize) {
        if self.healed_at.is_some() {
            return;
        }
        let what = self.plan.faults[fault].1.clone();
        if !self.inject(fault, &what) {
            return;
        }
        *self.totals.faults.entry(what.kind()).or_default() += 1;
        self.note(|| format!("FAULT {what:?}"));
        self.mix(fault as u64);
    }

    /// False if it does not apply now.
    fn inject(&mut self, fault: usize, what: &Fault) -> bool {
        let mut lasts = None;
        match *what {
            Fault::Kill { proc, down } => {
                if !self.is_running(proc) {
                    return false;
                }
                self.kill(proc);
                self.hold_down(proc);
                lasts = Some(down);
            }
            Fault::Stop { node, down } => {
                if !self.is_running(Proc::Node(node)) || self.machines[node].paused {
                    return false;
                }
                self.stop_node(node);
                lasts = Some(down + Duration::from_millis(150));
            }
            Fault::PowerLoss { node, down } => {
                self.power_loss(node);
                self.hold_down(Proc::Node(node));
                lasts = Some(down);
            }
            Fault::PowerLossEverywhere { down } => {
                for node in 0..self.machines.len() {
                    self.power_loss(node);
                    self.hold_down(Proc::Node(node));
                }
                lasts = Some(down);
            }
            Fault::Pause { proc, length } => {
                if !self.is_running(proc) || self.is_paused(proc) {
                    return false;
                }
                self.set_paused(proc, true);
                lasts = Some(length);
            }
            Fault::Isolate { length, .. }
            | Fault::CutPair { length, .. }
            | Fault::Bridge { length, .. }
            | Fault::Split { length, .. } => {
                self.cut(what, true);
                lasts = Some(length);
            }
            Fault::Reset { proc } => self.reset(proc),
            Fault::Storm { length } => {
                self.storms += 1;
                lasts = Some(length);
            }
            Fault::DiskStall { node, length } => {
                let until = self.now + length;
                self.machines[node].stalled_until = self.machines[node].stalled_until.max(until);
            }
            Fault::DiskFull { node, length } => {
                self.machines[node].full_until = self.now + length;
            }
            Fault::SyncError { node, .. } => self.machines[node].sync_fails = true,
            Fault::FlipLog { node, back } => {
                // The damage is found when the log is read, which is at the next start.
                self.kill(Proc::Node(node));
                self.machines[node].damage_log(back);
                self.hold_down(Proc::Node(node));
                lasts = Some(Duration::from_millis(100));
            }
            Fault::FlipCheckpoint { node, bit } => {
                let files = self.machines[node].checkpoints.list();
                if files.is_empty() {
                    return false;
                }
                let (shard, index, _) = files[(bit as usize / 7) % files.len()];
                self.machines[node].may_forget = true;
                self.machines[node].checkpoints.flip(shard, index, bit);
            }
            Fault::WallClock { proc, by } => self.clock_of(proc).set_wall(by),
            Fault::ClockRate { proc, per_mille } => {
                let now = self.now;
                self.clock_of(proc).set_rate(now, per_mille);
            }
            Fault::Checkpoint { node } => self.want_checkpoints(node),
            Fault::Transfer { shard, node } => return self.order_transfer(shard, node),
            Fault::WrongOrder { shard, node } => self.wrong_order(shard, node),
            Fault::Replace { shard, node } => return self.order_replacement(shard, node),
            Fault::Scene(ref scene) => return self.play(scene),
        }
        if let Some(lasts) = lasts {
            self.after(lasts, Event::End { fault });
        }
        true
    }

    /// A part of a scene.
    pub(crate) fn soon(&mut self, delay: Duration, what: Fault) {
        let fault = self.plan.faults.len();
        self.plan.faults.push((self.now + delay, what));
        self.after(delay, Event::Begin { fault });
    }

    pub(crate) fn end(&mut self, fault: usize) {
        let what = self.plan.faults[fault].1.clone();
        if self.healed_at.is_some() {
            if let Fault::Stop { node, .. } = what {
                // It was asked to end shortly before, and did so afterwards.
                self.start(Proc::Node(node));
            }
            return;
        }
        self.note(|| format!("end of {what:?}"));
        match what {
            Fault::Kill { proc, .. } => self.release_down(proc),
            Fault::Stop { node, .. }
            | Fault::PowerLoss { node, .. }
            | Fault::FlipLog { node, .. } => self.release_down(Proc::Node(node)),
            Fault::PowerLossEverywhere { .. } => {
                for node in 0..self.machines.len() {
                    self.release_down(Proc::Node(node));
                }
            }
            Fault::Pause { proc, .. } => self.set_paused(proc, false),
            Fault::Isolate { .. }
            | Fault::CutPair { .. }
            | Fault::Bridge { .. }
            | Fault::Split { .. } => self.cut(&what, false),
            Fault::Storm { .. } => self.storms = self.storms.saturating_sub(1),
            _ => {}
        }
    }

    pub(crate) fn hold_down(&mut self, proc: Proc) {
        *self.down_of(proc) += 1;
    }

    fn release_down(&mut self, proc: Proc) {
        let down = self.down_of(proc);
        *down = down.saturating_sub(1);
        if *down == 0 {
            self.start(proc);
        }
    }

    pub(crate) fn down_of(&mut self, proc: Proc) -> &mut u32 {
        match proc {
            Proc::Node(at) => &mut self.machines[at].down,
            Proc::Proxy(at) => &mut self.proxies[at].down,
            Proc::Sentinel(at) => &mut self.sentinels[at].down,
        }
    }

    pub(crate) fn clock_of(&mut self, proc: Proc) -> &mut Clock {
        match proc {
            Proc::Node(at) => &mut self.machines[at].clock,
            Proc::Proxy(at) => &mut self.proxies[at].clock,
            Proc::Sentinel(at) => &mut self.sentinels[at].clock,
        }
    }

    pub(crate) fn set_paused(&mut self, proc: Proc, paused: bool) {
        let state = match proc {
            Proc::Node(at) => &mut self.machines[at].paused,
            Proc::Proxy(at) => &mut self.proxies[at].paused,
            Proc::Sentinel(at) => &mut self.sentinels[at].paused,
        };
        *state = paused;
        if let Proc::Node(at) = proc {
            // Not one that only has yet to learn that it leads no more.
            let led = self.machines.iter().any(|machine| {
                let role = machine.process.as_ref().and_then(|process| process.role(ShardId(1)));
                !machine.paused && role.is_some_and(|(_, _, role)| role == Role::Leader)
            });
            let machine = &mut self.machines[at];
            if paused {
                let heard = self.now - machine.heard_leader_at;
                // One that campaigns before goes on with that, perhaps behind a stalled disk.
                let role = machine.process.as_ref().and_then(|process| process.role(ShardId(1)));
                let follows = role.is_some_and(|(_, _, role)| role == Role::Follower);
                machine.rested = led
                    && follows
                    && self.plan.shards == 1
                    && self.plan.clocks == Clocks::WithinMargin
                    && heard < Duration::from_millis(150);
            } else {
                machine.resumed_at = self.now;
            }
        }
        if paused {
            return;
        }
        // Everything that waited happens at once; which thread runs first is chance. Now and then
        // those that slept until some time are all before those that read sockets.
        let timers_first = self.rng.chance(30);
        for event in self.held.remove(&proc).unwrap_or_default() {
            let ordered = matches!(event, Event::LinkData { .. } | Event::Request { .. });
            let timer = timers_first && matches!(event, Event::Turn { .. });
            let delay = if ordered || timer { 0 } else { self.rng.below(500) };
            self.after(Duration::from_micros(delay), event);
        }
    }

    pub(crate) fn kill(&mut self, proc: Proc) {
        if !self.is_running(proc) {
            return;
        }
        self.held.remove(&proc);
        match proc {
            Proc::Node(at) => self.kill_node(at),
            Proc::Proxy(at) => self.kill_proxy(at),
            Proc::Sentinel(at) => self.sentinels[at].kill(),
        }
        // What is on its way to it finds a closed socket.
        self.stuck.retain(|(from, to, _)| *from != proc && *to != proc);
    }

    pub(crate) fn start(&mut self, proc: Proc) {
        if self.is_running(proc) || *self.down_of(proc) > 0 {
            return;
        }
        match proc {
            Proc::Node(at) => self.start_node(at),
            Proc::Proxy(at) => self.start_proxy(at),
            Proc::Sentinel(at) => self.start_sentinel(at),
        }
    }

    pub(crate) fn all_procs(&self) -> Vec<Proc> {
        let nodes = (0..self.machines.len()).map(Proc::Node);
        let proxies = (0..self.proxies.len()).map(Proc::Proxy);
        nodes.chain(proxies).chain((0..self.sentinels.len()).map(Proc::Sentinel)).collect()
    }

    fn cut(&mut self, fault: &Fault, on: bool) {
        let mut pairs = Vec::new();
        let mut add = |a: Proc, b: Proc, cut: Cut| {
            if cut != Cut::Inbound {
                pairs.push((a, b));
            }
            if cut != Cut::Outbound {
                pairs.push((b, a));
            }
        };
        match fault.clone() {
            Fault::Isolate { proc, cut, .. } => {
                for other in self.all_procs().into_iter().filter(|p| *p != proc) {
                    add(proc, other, cut);
                }
            }
            Fault::CutPair { from, to, cut, .. } => add(from, to, cut),
            Fault::Split { side, .. } => {
                for a in &side {
                    for b in self.all_procs().into_iter().filter(|p| !side.contains(p)) {
                        add(*a, b, Cut::Full);
                    }
                }
            }
            Fault::Bridge { bridge, .. } => {
                let side = |p: Proc| match p {
                    Proc::Node(at) | Proc::Proxy(at) | Proc::Sentinel(at) => at % 2 == 0,
                };
                let all = self.all_procs();
                for a in &all {
                    for b in &all {
                        let touches = [*a, *b].contains(&Proc::Node(bridge));
                        if !touches && side(*a) && !side(*b) {
                            add(*a, *b, Cut::Full);
                        }
                    }
                }
            }
            _ => {}
        }
        for pair in pairs {
            let count = self.cuts.entry(pair).or_default();
            *count = if on { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.cuts.remove(&pair);
            }
        }
        if !on {
            self.unstick();
        }
    }

    /// Sends what waited for a cut to end.
    pub(crate) fn unstick(&mut self) {
        for (from, to, event) in std::mem::take(&mut self.stuck) {
            if self.is_cut(from, to) {
                self.stuck.push((from, to, event));
            } else {
                let delay = self.latency();
                self.after(delay, event);
            }
        }
    }

    fn reset(&mut self, proc: Proc) {
        let conns: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, c)| proc == Proc::Node(c.node) || proc == Proc::Proxy(c.proxy))
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            self.break_conn(conn);
        }
        self.stuck.retain(|(from, to, _)| *from != proc && *to != proc);
    }
}
