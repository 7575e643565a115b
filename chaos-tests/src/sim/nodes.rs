//! The machines and node processes in the loop: turns, log writes, messages between replicas,
//! checkpoints, starts and deaths.

use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::Role;
use holdfast_consensus::log::LogStore;
use holdfast_node::sim::{self, Part, SimNode, SimStart};
use holdfast_proto::ids::{LogIndex, RaftId, ShardId};
use holdfast_proto::v1;

use super::orders::Rpc;
use super::plan::Proc;
use super::world::{Event, World};
use super::{CLUSTER, SECRET};

/// States are compared at these indexes, wherever an executor stops there.
const DIGEST_EVERY: u64 = 16;
/// A failed process is started again by its supervisor after this long.
pub(crate) const RESTART_AFTER: Duration = Duration::from_millis(300);
/// After a pause a replica that had heard its leader just before does not campaign by itself for this
/// long: it has not listened yet.
const REST: Duration = Duration::from_millis(400);
/// Kinds of messages by which a leader is heard, and by which it orders to campaign.
const APPEND: u32 = 3;
const SNAPSHOT: u32 = 7;
const HEARTBEAT: u32 = 8;
const TIMEOUT_NOW: u32 = 14;
/// Messages that a cut connection keeps; more are lost.
const STUCK_MAX: usize = 400;

fn tune(config: &mut holdfast_consensus::ReplicaConfig) {
    // A few seconds of work must be enough to cut logs and to need checkpoints.
    config.log_tail_bytes = 2_000;
    config.cache_bytes = 2_000;
    config.snapshot_retry = Duration::from_millis(900);
}

impl World {
    pub(crate) fn start_node(&mut self, at: usize) {
        let seed = self.rng.draw();
        let topology = if self.sentinels.is_empty() {
            Arc::clone(&self.fixed)
        } else {
            Arc::clone(&self.machines[at].topology)
        };
        let now = self.now;
        let machine = &mut self.machines[at];
        machine.incarnation += 1;
        machine.set_clock(now);
        let mut process = SimNode::new(SimStart {
            cluster_id: CLUSTER,
            secret: SECRET,
            node: at as u64 + 1,
            incarnation: machine.clock.wall_us(now).max(1) + machine.incarnation,
            seed,
            store: machine.store.clone(),
            checkpoints: machine.checkpoints.clone(),
            tune,
        });
        for raft_id in &machine.condemned {
            process.condemn(*raft_id, "the side record says that synced entries are lost");
        }
        process.topology(&topology);
        machine.process = Some(process);
        let inc = machine.incarnation;
        if !self.plan.synced {
            self.after(Duration::from_secs(1), Event::LogSync { node: at, inc });
        }
        self.note(|| format!("node {} starts", at + 1));
        self.settle_node(at);
    }

    /// A newer topology reaches a node.
    pub(crate) fn node_topology(&mut self, at: usize, topology: &Arc<v1::Topology>) {
        self.machines[at].topology = Arc::clone(topology);
        self.machines[at].set_clock(self.now);
        if let Some(process) = &mut self.machines[at].process {
            process.topology(topology);
        }
        self.settle_node(at);
    }

    pub(crate) fn kill_node(&mut self, at: usize) {
        let Some(process) = self.machines[at].end_process(&mut self.rng) else { return };
        self.note(|| format!("node {} dies", at + 1));
        for (_, raft_id) in process.replicas() {
            self.oracle.forget(raft_id);
        }
        self.node_gone(at);
        let conns: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.node == at).map(|(id, _)| *id).collect();
        for conn in conns {
            self.break_conn(conn);
        }
    }

    pub(crate) fn power_loss(&mut self, at: usize) {
        self.kill(Proc::Node(at));
        let synced = self.plan.synced;
        self.machines[at].lose_power(&mut self.rng, synced);
    }

    /// The process ends by itself; its supervisor starts it again.
    fn fail_node(&mut self, at: usize, why: &str) {
        self.note(|| format!("node {} ends itself: {why}", at + 1));
        self.kill(Proc::Node(at));
        let wait = self.machines[at].full_until.saturating_sub(self.now) + RESTART_AFTER;
        self.after(wait, Event::Start { proc: Proc::Node(at) });
    }

    /// Asked to end: leaderships are handed over, then it stops.
    pub(crate) fn stop_node(&mut self, at: usize) {
        self.machines[at].set_clock(self.now);
        if let Some(process) = &mut self.machines[at].process {
            for (shard, _) in process.replicas().collect::<Vec<_>>() {
                drop(process.hand_over(shard));
            }
        }
        self.settle_node(at);
        self.hold_down(Proc::Node(at));
        let inc = self.machines[at].incarnation;
        let to = Proc::Node(at);
        let delay = Duration::from_millis(100);
        self.after(delay, Event::Rpc { to, inc, rpc: Box::new(Rpc::EndProcess) });
    }

    pub(crate) fn turn(&mut self, at: usize, part: Part, appointment: u64) {
        let machine = &mut self.machines[at];
        if machine.turns.get(&part).is_none_or(|(_, number)| *number != appointment) {
            return;
        }
        machine.turns.remove(&part);
        machine.set_clock(self.now);
        if let Some(process) = &mut machine.process {
            process.turn(part);
        }
        if let Part::Executor(shard) = part {
            self.check_digest(at, shard, false);
        }
        self.settle_node(at);
    }

    /// Carries out what a node wants, and makes its next appointments.
    pub(crate) fn settle_node(&mut self, at: usize) {
        let now = self.now;
        let machine = &mut self.machines[at];
        machine.set_clock(now);
        let Some(process) = &mut machine.process else { return };
        let (mut messages, mut writes, mut events) = (Vec::new(), Vec::new(), Vec::new());
        let mut history = Vec::new();
        process.take_messages(&mut messages);
        process.take_writes(&mut writes);
        process.take_events(&mut events);
        process.take_history(&mut history);
        let ids: Vec<(ShardId, RaftId)> = process.replicas().collect();
        for done in history {
            match done {
                sim::History::Loaded { shard, raft_id, index } => {
                    self.totals.snapshots += u64::from(index.0 > 1);
                    self.oracle.restored(shard, raft_id, index);
                }
                sim::History::Applied { shard, raft_id, entry } => {
                    let term = process.role(shard).map_or(u64::MAX, |(_, term, _)| term);
                    self.oracle.applied(shard, raft_id, term, &entry);
                }
            }
        }
        machine.queued.extend(writes);
        let fatal = process.fatal();
        for (to, shard, message) in messages {
            self.send_peer(at, to as usize - 1, shard, message);
        }
        if let Some(why) = fatal {
            return self.fail_node(at, &why);
        }
        for (shard, _) in &ids {
            self.check_leader(at, *shard);
        }
        self.flush_links_of_node(at);
        self.write_log(at);
        for event in events {
            self.node_event(at, event);
        }
        self.poll_orders(at);
        self.arrange(at);
    }

    /// When each part takes its next turn.
    fn arrange(&mut self, at: usize) {
        let now = self.now;
        let machine = &mut self.machines[at];
        let Some(process) = &machine.process else { return };
        machine.set_clock(now);
        let inc = machine.incarnation;
        let mut appointments = Vec::new();
        for part in process.parts() {
            let due = if process.has_input(part) {
                let most = self.plan.scheduling.as_micros() as u64;
                now + Duration::from_micros(1 + self.rng.below(most))
            } else {
                let Some(sleep) = process.sleeps_for(part) else { continue };
                now + machine.clock.truly(sleep) + Duration::from_micros(1)
            };
            if machine.turns.get(&part).is_some_and(|(at, _)| *at <= due) {
                continue;
            }
            self.next_appointment += 1;
            machine.turns.insert(part, (due, self.next_appointment));
            appointments.push((due, part, self.next_appointment));
        }
        if process_writes_checkpoint(machine) && !machine.checkpoint_work_due {
            machine.checkpoint_work_due = true;
            let delay = Duration::from_micros(100 + self.rng.below(8_000));
            self.after(delay, Event::CheckpointWork { node: at, inc });
        }
        for (due, part, appointment) in appointments {
            self.at(due, Event::Turn { node: at, inc, part, appointment });
        }
    }

    fn node_event(&mut self, at: usize, event: sim::Event) {
        self.note(|| format!("node {}: {event:?}", at + 1));
        match event {
            sim::Event::Serving { shard, term } => {
                self.report(
                    at,
                    Rpc::ReportPrimary { shard: shard.0, term: term.0, node: at as u64 + 1 },
                );
            }
            sim::Event::Amnesia { shard, raft_id, reason } => {
                if !self.machines[at].may_forget {
                    let text = format!("{shard}: replica {raft_id} on node {}: {reason}", at + 1);
                    self.oracle.report("no replica forgets without a cause", text);
                }
                self.machines[at].condemned.insert(raft_id);
                self.report(
                    at,
                    Rpc::ReportAmnesia {
                        shard: shard.0,
                        raft_id: raft_id.0,
                        node: at as u64 + 1,
                        reason,
                    },
                );
            }
            sim::Event::Install { shard, leader, index, .. } => {
                self.installing(at);
                let inc = self.machines[at].incarnation;
                let from = leader as usize;
                let reachable = from > 0
                    && from <= self.machines.len()
                    && self.is_running(Proc::Node(from - 1))
                    && !self.is_paused(Proc::Node(from - 1))
                    && !self.is_cut(Proc::Node(at), Proc::Node(from - 1))
                    && !self.is_cut(Proc::Node(from - 1), Proc::Node(at));
                let bytes = reachable
                    .then(|| {
                        let process = self.machines[from - 1].process.as_ref()?;
                        process.serve_checkpoint(shard, index)
                    })
                    .flatten();
                if reachable {
                    self.arrange(from - 1);
                }
                let delay = Duration::from_micros(500 + self.rng.below(40_000));
                self.after(delay, Event::Pulled { node: at, inc, shard, index, bytes });
            }
        }
    }

    pub(crate) fn pulled(
        &mut self,
        at: usize,
        shard: ShardId,
        index: LogIndex,
        bytes: Option<Vec<u8>>,
    ) {
        let ok = bytes.is_some();
        if let Some(bytes) = bytes {
            self.machines[at].checkpoints.save(shard, index, bytes);
        }
        self.with_node(at, |process| process.fetched(shard, index, ok));
    }

    fn with_node(&mut self, at: usize, act: impl FnOnce(&mut SimNode)) {
        self.machines[at].set_clock(self.now);
        if let Some(process) = &mut self.machines[at].process {
            act(process);
        }
        self.settle_node(at);
    }

    pub(crate) fn want_checkpoints(&mut self, at: usize) {
        self.with_node(at, |process| {
            for (shard, _) in process.replicas().collect::<Vec<_>>() {
                process.want_checkpoint(shard);
            }
        });
    }

    // ----- disk -------------------------------------------------------------------------------

    fn write_log(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if !machine.writing.is_empty() || machine.queued.is_empty() {
            return;
        }
        machine.writing = machine.queued.drain(..).collect();
        machine.write_began = self.now;
        let (least, most) = self.plan.write;
        let stall = machine.stalled_until.saturating_sub(self.now);
        let took = self.rng.between(least, most) + stall;
        let inc = machine.incarnation;
        self.after(took, Event::LogDone { node: at, inc });
    }

    pub(crate) fn log_done(&mut self, at: usize) {
        let (now, synced) = (self.now, self.plan.synced);
        let machine = &mut self.machines[at];
        if now < machine.stalled_until {
            // The stall began while the write was under way.
            let (until, inc) = (machine.stalled_until, machine.incarnation);
            return self.at(until, Event::LogDone { node: at, inc });
        }
        if now < machine.full_until {
            return self.fail_node(at, "no space left on device");
        }
        if machine.sync_fails {
            machine.sync_fails = false;
            self.fail_node(at, "fsync failed");
            // The kernel may have dropped the pages that it could not write.
            return self.machines[at].lose_power(&mut self.rng, synced);
        }
        let batch = std::mem::take(&mut machine.writing);
        let sync = synced && batch.iter().any(|w| !w.entries.is_empty() || w.sync);
        let syncs = sync || batch.iter().any(|w| w.sync);
        machine.store.write(&batch, sync).expect("memory does not fail");
        if syncs {
            machine.note_synced();
        }
        let took = now - machine.write_began;
        let mut last: Vec<(ShardId, u64)> = Vec::new();
        for write in &batch {
            match last.iter_mut().find(|(shard, _)| *shard == write.shard) {
                Some(known) => known.1 = write.number,
                None => last.push((write.shard, write.number)),
            }
        }
        self.with_node(at, |process| {
            for (shard, number) in last {
                process.persisted(shard, number, took);
            }
        });
    }

    pub(crate) fn log_sync(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.store.sync();
        machine.note_synced();
        let inc = machine.incarnation;
        self.after(Duration::from_secs(1), Event::LogSync { node: at, inc });
    }

    pub(crate) fn checkpoint_work(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.checkpoint_work_due = false;
        if machine.checkpoints.work(self.now < machine.full_until) {
            self.totals.checkpoints += 1;
        }
        self.settle_node(at);
    }

    // ----- messages between replicas ----------------------------------------------------------

    fn send_peer(&mut self, from: usize, to: usize, shard: ShardId, message: v1::RaftMessage) {
        if to >= self.machines.len() {
            return;
        }
        let inc = self.machines[to].incarnation;
        let (a, b) = (Proc::Node(from), Proc::Node(to));
        // As the transport: appends and snapshots have a connection of their own.
        let urgent = ![APPEND, SNAPSHOT].contains(&message.kind);
        let lost = self.plan.loss + if self.storms > 0 { 2_500 } else { 0 };
        let message = Box::new(message);
        let event = Event::Peer { node: to, inc, from, shard, message };
        if !self.is_running(b) || self.rng.below(10_000) < lost {
            // The connection breaks: the sender notices now and then.
            if self.rng.chance(20) {
                let inc = self.machines[from].incarnation;
                let delay = self.latency();
                let peer = to as u64 + 1;
                self.after(delay, Event::Unreachable { node: from, inc, peer });
            }
            return;
        }
        if self.is_cut(a, b) {
            // What is in the sender's socket arrives when the cut ends.
            if self.stuck.len() < STUCK_MAX && self.rng.chance(50) {
                self.stuck.push((a, b, event));
            }
            return;
        }
        if self.rng.below(10_000) < self.plan.duplicates
            && let Event::Peer { message, .. } = &event
        {
            let again = Event::Peer { node: to, inc, from, shard, message: message.clone() };
            let delay = self.latency() * 20;
            self.after(delay, again);
        }
        let arrival = self.now + self.latency();
        let last = self.last_peer.entry((from, to, urgent)).or_default();
        *last = arrival.max(*last);
        let arrival = *last;
        self.at(arrival, event);
    }

    pub(crate) fn peer(
        &mut self,
        at: usize,
        from: usize,
        shard: ShardId,
        message: v1::RaftMessage,
    ) {
        if self.is_cut(Proc::Node(from), Proc::Node(at)) {
            return;
        }
        self.mix(message.index << 8 | u64::from(message.kind));
        let machine = &mut self.machines[at];
        if [APPEND, HEARTBEAT].contains(&message.kind) {
            machine.heard_leader_at = self.now;
        }
        machine.rested &= message.kind != TIMEOUT_NOW;
        if let Some(process) = &mut machine.process {
            process.deliver(shard, message);
        }
        self.arrange(at);
    }

    pub(crate) fn unreachable(&mut self, at: usize, peer: u64) {
        self.with_node(at, |process| process.unreachable(peer));
    }

    // ----- checks -----------------------------------------------------------------------------

    fn check_leader(&mut self, at: usize, shard: ShardId) {
        let machine = &self.machines[at];
        let Some(process) = &machine.process else { return };
        let Some((id, term, role)) = process.role(shard) else { return };
        if role == Role::Candidate && machine.rested && self.now < machine.resumed_at + REST {
            let text = format!("{shard}: node {} campaigns just after a pause", at + 1);
            self.oracle.report("a pause is no silence of the leader", text);
        }
        if role != Role::Leader {
            return;
        }
        let store = &machine.store;
        let lease = process.lease_holds(shard);
        let before = self.oracle.elections;
        self.oracle.leads(shard, id, term, || store.entries(shard));
        if self.oracle.elections > before {
            self.elected(at, shard);
        }
        if self.plan.clocks == super::plan::Clocks::Wild || !lease {
            return;
        }
        for other in 0..self.machines.len() {
            if other == at {
                continue;
            }
            self.machines[other].set_clock(self.now);
            let holds = self.machines[other].process.as_ref().is_some_and(|p| p.lease_holds(shard));
            if holds {
                let text = format!("{shard}: nodes {} and {} hold a lease", at + 1, other + 1);
                self.oracle.report("one valid lease", text);
            }
        }
        self.machines[at].set_clock(self.now);
    }

    fn check_digest(&mut self, at: usize, shard: ShardId, always: bool) {
        let Some(process) = &self.machines[at].process else { return };
        let Some((_, index)) = process.engine(shard) else { return };
        if !always && !index.0.is_multiple_of(DIGEST_EVERY) {
            return;
        }
        let id = process.replicas().find(|(s, _)| *s == shard).map(|(_, id)| id);
        if let (Some(id), Some((index, digest))) = (id, process.digest(shard)) {
            self.mix(u64::from(digest[0]) << 32 | index.0);
            self.oracle.digest(shard, id, index, digest);
        }
    }

    pub(crate) fn check_digests(&mut self, at: usize) {
        let Some(process) = &self.machines[at].process else { return };
        for (shard, _) in process.replicas().collect::<Vec<_>>() {
            self.check_digest(at, shard, true);
        }
    }

    /// What replicas still lack to be complete and equal.
    pub(crate) fn unequal(&self) -> Option<String> {
        let topology = self.newest_topology();
        if topology.shards.is_empty() {
            return Some("no shard exists".to_owned());
        }
        for info in &topology.shards {
            let shard = ShardId(info.id);
            let mut goal = None;
            for machine in &self.machines {
                let Some(status) = machine.process.as_ref().and_then(|p| p.status(shard)) else {
                    continue;
                };
                let newer = goal
                    .as_ref()
                    .is_none_or(|(_, known): &(u64, v1::ReplicaStatus)| known.term < status.term);
                if status.serving && newer {
                    goal = Some((status.last_index, status));
                }
            }
            let Some((goal, leader)) = goal else { return Some(format!("{shard}: nobody serves")) };
            let members = leader.membership.unwrap_or_default();
            for replica in &info.replicas {
                let at = replica.node as usize - 1;
                let status = self.machines[at].process.as_ref().and_then(|p| p.status(shard));
                let applied = self.machines[at]
                    .process
                    .as_ref()
                    .and_then(|p| p.engine(shard))
                    .map_or(0, |(_, applied)| applied.0);
                let there = status.is_some_and(|s| s.raft_id == replica.raft_id);
                if !there || applied < goal {
                    let id = replica.raft_id;
                    let text = format!(
                        "{shard}: replica {id} on node {} is at {applied} of {goal} (runs: {there})",
                        replica.node
                    );
                    return Some(text);
                }
                if !members.voters.contains(&replica.raft_id) {
                    return Some(format!("{shard}: replica {} does not vote", replica.raft_id));
                }
            }
        }
        None
    }

    /// The newest topology that anybody has.
    pub(crate) fn newest_topology(&self) -> Arc<v1::Topology> {
        let known = self.sentinels.iter().map(|s| s.topology());
        known.max_by_key(|t| t.version).unwrap_or_else(|| Arc::clone(&self.fixed))
    }
}

fn process_writes_checkpoint(machine: &super::machine::Machine) -> bool {
    machine.checkpoints.is_writing()
}
