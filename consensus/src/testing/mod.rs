//! A deterministic cluster of replicas for tests: virtual time, a network that delays, loses and
//! duplicates, machines that pause, die and lose what they had not synced, clocks that run at
//! different speeds. One seed decides everything. The invariants in [`oracle`] are checked at every
//! step.

pub mod oracle;
pub mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use holdfast_proto::v1;

use crate::log::memory::MemoryStore;
use crate::log::{LogStore, LogWrite};
use crate::output::{EntryKind, Role};
use crate::state::StoredState;
use crate::{OpenError, Outputs, ProposeError, Replica, ReplicaConfig, StepError};
use oracle::Oracle;

/// The group that all replicas of a cluster belong to.
pub const SHARD: ShardId = ShardId(1);

/// A small generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration in [from, to].
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = (to - from).as_micros() as u64;
        from + Duration::from_micros(self.below(span + 1))
    }
}

/// What the world is like.
#[derive(Clone, Debug)]
pub struct World {
    pub seed: u64,
    /// One way.
    pub latency: (Duration, Duration),
    /// Percent of messages lost.
    pub loss: u64,
    /// Percent of messages that arrive twice.
    pub duplicates: u64,
    /// How long a log write takes.
    pub write: (Duration, Duration),
    /// Sync each write; otherwise once per second.
    pub sync_always: bool,
    /// Clocks run at 1000 ± this many per mille.
    pub drift: u64,
    /// Percent of applied entries after which a checkpoint is taken.
    pub checkpoints: u64,
    /// Changes the options of every replica.
    pub tune: fn(&mut ReplicaConfig),
    #[cfg(feature = "deliberate-bugs")]
    pub bug: Option<crate::Bug>,
}

impl World {
    /// A good network, fast disks, exact clocks.
    pub fn calm(seed: u64) -> Self {
        let ms = Duration::from_millis;
        Self {
            seed,
            latency: (ms(1), ms(2)),
            loss: 0,
            duplicates: 0,
            write: (ms(1), ms(1)),
            sync_always: true,
            drift: 0,
            checkpoints: 0,
            tune: |_| {},
            #[cfg(feature = "deliberate-bugs")]
            bug: None,
        }
    }

    /// Delays, losses, duplicates, slow disks, drifting clocks, checkpoints.
    pub fn rough(seed: u64) -> Self {
        let ms = Duration::from_millis;
        Self {
            latency: (ms(1), ms(40)),
            loss: 5,
            duplicates: 5,
            write: (ms(0), ms(20)),
            drift: 40,
            checkpoints: 3,
            tune: |cfg| {
                cfg.log_tail_bytes = 512;
                cfg.cache_bytes = 512;
                cfg.snapshot_retry = Duration::from_millis(700);
            },
            ..Self::calm(seed)
        }
    }
}

/// A state machine: what was applied, in order.
pub type State = Vec<(LogIndex, Bytes)>;

/// One machine.
pub struct Machine {
    pub raft_id: RaftId,
    /// `None`: not running.
    pub replica: Option<Replica>,
    pub store: MemoryStore,
    pub state: State,
    /// Checkpoints on its disk by index.
    pub checkpoints: BTreeMap<LogIndex, State>,
    pub paused: bool,
    /// Refuses to run: it may have lost something.
    pub amnesiac: bool,
    founding: Vec<RaftId>,
    incarnation: u64,
    /// What arrived while it was paused.
    held: Vec<Event>,
    writer_free_at: Duration,
    clock_per_mille: u64,
    clock_offset: Duration,
    /// The newest output of `Outputs::serving`.
    pub serving: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Tick,
    Deliver(v1::RaftMessage),
    Write(LogWrite),
    Sync,
    Install(LogIndex, RaftId),
}

/// The cluster.
pub struct Cluster {
    pub world: World,
    pub rng: Rng,
    /// True time.
    pub now: Duration,
    pub machines: BTreeMap<RaftId, Machine>,
    pub oracle: Oracle,
    /// Links that carry nothing, from and to.
    pub cut: BTreeSet<(RaftId, RaftId)>,
    /// Drops a message if it says so.
    pub filter: Option<fn(&v1::RaftMessage) -> bool>,
    /// Answers to `read`: token to index.
    pub reads: BTreeMap<u64, Option<LogIndex>>,
    queue: BTreeMap<(Duration, u64), (RaftId, u64, Event)>,
    sequence: u64,
    next_token: u64,
    /// Changes with everything that happens: equal for equal seeds.
    pub trace: u64,
}

impl Cluster {
    /// A founding group of `count` voters with ids from 1.
    pub fn new(count: u64, world: World) -> Self {
        let mut cluster = Self {
            rng: Rng(world.seed),
            world,
            now: Duration::from_secs(1),
            machines: BTreeMap::new(),
            oracle: Oracle::default(),
            cut: BTreeSet::new(),
            filter: None,
            reads: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            next_token: 0,
            trace: 0,
        };
        let founding: Vec<_> = (1..=count).map(RaftId).collect();
        for id in &founding {
            cluster.add(*id, founding.clone());
        }
        cluster
    }

    /// Adds and starts a machine; `founding` is empty for one that joins.
    pub fn add(&mut self, raft_id: RaftId, founding: Vec<RaftId>) {
        let drift = self.world.drift;
        let clock_per_mille = 1000 - drift + self.rng.below(2 * drift + 1);
        let machine = Machine {
            raft_id,
            replica: None,
            store: MemoryStore::new(),
            state: State::new(),
            checkpoints: BTreeMap::new(),
            paused: false,
            amnesiac: false,
            founding,
            incarnation: 0,
            held: Vec::new(),
            writer_free_at: Duration::ZERO,
            clock_per_mille,
            clock_offset: Duration::from_millis(self.rng.below(100_000)),
            serving: false,
        };
        self.machines.insert(raft_id, machine);
        self.start(raft_id).expect("nothing is stored yet");
    }

    /// Starts a machine on what its disk holds.
    pub fn start(&mut self, id: RaftId) -> Result<(), OpenError> {
        let seed = self.rng.draw();
        let local = self.local_time(id);
        let machine = self.machine(id);
        assert!(machine.replica.is_none() && !machine.amnesiac);
        let mut cfg = ReplicaConfig::new(SHARD, id, local, seed);
        cfg.founding_voters = machine.founding.clone();
        (self.world.tune)(&mut cfg);
        #[cfg(feature = "deliberate-bugs")]
        {
            cfg.bug = self.world.bug;
        }
        let machine = self.machine(id);
        let stored = machine.store.load(SHARD)?;
        let reader = machine.store.reader();
        let base = stored.as_ref().map_or(LogIndex(0), |s| s.checkpoint.index);
        let replica = Replica::new(cfg, stored, reader)?;
        machine.state = if base <= StoredState::GENESIS {
            State::new()
        } else {
            machine.checkpoints[&base].clone()
        };
        machine.replica = Some(replica);
        machine.incarnation += 1;
        machine.serving = false;
        machine.writer_free_at = Duration::ZERO;
        let phase = self.rng.below(50);
        self.after(Duration::from_millis(phase), id, Event::Tick);
        if !self.world.sync_always {
            self.after(Duration::from_secs(1), id, Event::Sync);
        }
        self.settle(id);
        Ok(())
    }

    /// The process dies; what it had written survives.
    pub fn kill(&mut self, id: RaftId) {
        let machine = self.machine(id);
        machine.replica = None;
        machine.paused = false;
        machine.held.clear();
        machine.serving = false;
    }

    /// The machine dies: unsynced writes are lost but for some of the first. A replica that had
    /// acknowledged unsynced entries is amnesiac.
    pub fn power_loss(&mut self, id: RaftId) {
        self.kill(id);
        let unsynced = self.machine(id).store.unsynced() as u64;
        let kept = self.rng.below(unsynced + 1);
        let sync_always = self.world.sync_always;
        let machine = self.machine(id);
        machine.store.crash(kept as usize);
        machine.amnesiac |= !sync_always;
    }

    /// Stops the process from doing anything; messages wait in its sockets.
    pub fn pause(&mut self, id: RaftId) {
        self.machine(id).paused = true;
    }

    /// Lets it go on: it finds everything at once.
    pub fn resume(&mut self, id: RaftId) {
        let machine = self.machine(id);
        machine.paused = false;
        let incarnation = machine.incarnation;
        // Sockets first, as the shell drains its inbox before it ticks.
        let (mut held, ticks): (Vec<_>, Vec<_>) = std::mem::take(&mut machine.held)
            .into_iter()
            .partition(|event| !matches!(event, Event::Tick));
        held.extend(ticks);
        for event in held {
            self.schedule(self.now, id, incarnation, event);
        }
    }

    /// Cuts both directions between a machine and all others, or restores them.
    pub fn isolate(&mut self, id: RaftId, isolated: bool) {
        let others: Vec<_> = self.machines.keys().copied().filter(|o| *o != id).collect();
        for other in others {
            for link in [(id, other), (other, id)] {
                if isolated {
                    self.cut.insert(link);
                } else {
                    self.cut.remove(&link);
                }
            }
        }
    }

    /// Runs for some time.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(first) = self.queue.first_entry() {
            if first.key().0 > end {
                break;
            }
            self.step();
        }
        self.now = end;
    }

    /// Runs until `done`, at most `limit`. True if done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            match self.queue.first_entry() {
                Some(first) if first.key().0 <= end => self.step(),
                _ => return false,
            }
        }
        true
    }

    /// Runs the next event.
    pub fn step(&mut self) {
        let Some(((at, _), (id, incarnation, event))) = self.queue.pop_first() else {
            return;
        };
        self.now = self.now.max(at);
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        if machine.incarnation != incarnation || machine.replica.is_none() {
            return;
        }
        if machine.paused {
            machine.held.push(event);
            return;
        }
        self.trace =
            (self.trace ^ at.as_micros() as u64).wrapping_mul(0x100_0000_01b3).wrapping_add(id.0);
        match event {
            Event::Tick => {
                self.with(id, |replica, now| replica.tick(now));
                let per_mille = self.machine(id).clock_per_mille;
                let period = Duration::from_millis(50) * 1000 / per_mille as u32;
                self.after(period, id, Event::Tick);
            }
            Event::Deliver(message) => {
                let result = self.with(id, |replica, now| replica.step(now, message));
                if let Err(StepError::Amnesia { .. }) = result {
                    let machine = self.machine(id);
                    machine.amnesiac = true;
                    machine.replica = None;
                }
            }
            Event::Write(write) => {
                let number = write.number;
                let sync = self.world.sync_always && !write.entries.is_empty();
                let store = &mut self.machine(id).store;
                store.write(&[write], sync).expect("memory does not fail");
                self.with(id, |replica, now| replica.persisted(now, number));
            }
            Event::Sync => {
                self.machine(id).store.sync();
                self.after(Duration::from_secs(1), id, Event::Sync);
            }
            Event::Install(index, from) => self.install(id, index, from),
        }
    }

    fn install(&mut self, id: RaftId, index: LogIndex, from: RaftId) {
        let source = self.machines.get(&from);
        let reachable = source.is_some_and(|m| m.replica.is_some() && !m.paused)
            && !self.cut.contains(&(from, id));
        let checkpoint = source.and_then(|m| m.checkpoints.get(&index)).cloned();
        match checkpoint.filter(|_| reachable) {
            Some(state) => {
                self.machine(id).checkpoints.insert(index, state);
                self.with(id, |replica, now| {
                    let _ = replica.install_snapshot(now, index);
                });
            }
            None => self.with(id, |replica, now| replica.install_failed(now, index)),
        }
    }

    /// Calls a replica and does what it asks for then.
    pub fn with<T>(&mut self, id: RaftId, call: impl FnOnce(&mut Replica, Duration) -> T) -> T {
        let local = self.local_time(id);
        let replica = self.machine(id).replica.as_mut();
        let result = call(replica.expect("the machine runs"), local);
        self.settle(id);
        result
    }

    /// Performs a replica's outputs.
    fn settle(&mut self, id: RaftId) {
        let mut out = Outputs::default();
        loop {
            let local = self.local_time(id);
            let Some(replica) = self.machine(id).replica.as_mut() else {
                return;
            };
            replica.ready(local, &mut out);
            if out.is_empty() {
                break;
            }
            self.perform(id, &mut out);
        }
        self.check_leases(id);
    }

    fn perform(&mut self, id: RaftId, out: &mut Outputs) {
        for message in out.messages.drain(..) {
            self.send(id, message);
        }
        for write in out.writes.drain(..) {
            let (from, to) = self.world.write;
            let time = self.rng.between(from, to);
            let at = self.machine(id).writer_free_at.max(self.now) + time;
            self.machine(id).writer_free_at = at;
            let incarnation = self.machine(id).incarnation;
            self.schedule(at, id, incarnation, Event::Write(write));
        }
        if let Some(change) = out.role.take()
            && change.role == Role::Leader
        {
            self.check_new_leader(id, change.term);
        }
        if let Some(serving) = out.serving.take() {
            self.machine(id).serving = serving;
        }
        if let Some(meta) = out.restored.take() {
            let machine = self.machine(id);
            machine.state = machine.checkpoints[&meta.index].clone();
            self.oracle.restored(id, meta.index);
            self.with_applied(id, meta.index);
        }
        let committed = std::mem::take(&mut out.committed);
        if let Some(last) = committed.last().map(|c| c.index) {
            let status = self.status(id);
            let (term, leads) = (Term(status.term), status.role == v1::RaftRole::Leader as i32);
            for entry in committed {
                self.oracle.handed_over(id, term, &entry, leads);
                if entry.kind == EntryKind::Normal {
                    self.machine(id).state.push((entry.index, entry.data));
                }
            }
            self.with_applied(id, last);
            if self.rng.below(100) < self.world.checkpoints {
                self.checkpoint(id);
            }
        }
        for (token, index) in out.reads.drain(..) {
            self.oracle.read_answered(token, index);
            self.reads.insert(token, Some(index));
        }
        for token in out.reads_failed.drain(..) {
            self.reads.insert(token, None);
        }
        if let Some(install) = out.install.take() {
            let pull = self.rng.between(Duration::ZERO, Duration::from_millis(200));
            self.after(pull, id, Event::Install(install.meta.index, install.from));
        }
        if std::mem::take(&mut out.checkpoint_wanted) {
            self.checkpoint(id);
        }
        if let Some(recorded) = out.checkpoint_recorded.take() {
            let checkpoints = &mut self.machine(id).checkpoints;
            checkpoints.retain(|index, _| *index >= recorded);
        }
        out.membership.take();
    }

    fn with_applied(&mut self, id: RaftId, index: LogIndex) {
        let local = self.local_time(id);
        if let Some(replica) = &mut self.machine(id).replica {
            replica.applied(local, index);
        }
    }

    /// Takes a checkpoint of what a machine has applied.
    pub fn checkpoint(&mut self, id: RaftId) {
        let local = self.local_time(id);
        let machine = self.machine(id);
        let Some(replica) = &mut machine.replica else {
            return;
        };
        let index = replica.applied_index();
        if index > StoredState::GENESIS {
            machine.checkpoints.insert(index, machine.state.clone());
            let _ = replica.checkpoint_taken(local, index);
        }
    }

    fn send(&mut self, from: RaftId, message: v1::RaftMessage) {
        let to = RaftId(message.to);
        let lost = self.cut.contains(&(from, to))
            || self.rng.chance(self.world.loss)
            || self.filter.is_some_and(|drop| drop(&message));
        let Some(machine) = self.machines.get(&to) else {
            return;
        };
        let incarnation = machine.incarnation;
        if lost {
            return;
        }
        let copies = 1 + u32::from(self.rng.chance(self.world.duplicates));
        for _ in 0..copies {
            let (least, most) = self.world.latency;
            let at = self.now + self.rng.between(least, most);
            self.schedule(at, to, incarnation, Event::Deliver(message.clone()));
        }
    }

    fn after(&mut self, time: Duration, id: RaftId, event: Event) {
        let incarnation = self.machine(id).incarnation;
        self.schedule(self.now + time, id, incarnation, event);
    }

    fn schedule(&mut self, at: Duration, id: RaftId, incarnation: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (id, incarnation, event));
    }

    /// A machine's own monotonic clock.
    pub fn local_time(&self, id: RaftId) -> Duration {
        let machine = &self.machines[&id];
        machine.clock_offset + self.now * machine.clock_per_mille as u32 / 1000
    }

    fn machine(&mut self, id: RaftId) -> &mut Machine {
        self.machines.get_mut(&id).expect("a machine of the cluster")
    }

    fn check_new_leader(&mut self, id: RaftId, term: Term) {
        let log = self.machines[&id].store.entries(SHARD);
        self.oracle.elected(id, term, &log);
        // A vote that was delayed long enough can still make a leader of an older term; it commits
        // and serves nothing.
        for other in self.machines.values() {
            let older = other.replica.as_ref().is_some_and(|r| r.role().term < term);
            assert!(
                !older || !self.has_lease(other.raft_id),
                "{} holds a lease while {id} leads {term}",
                other.raft_id
            );
        }
    }

    fn check_leases(&self, id: RaftId) {
        if self.has_lease(id) {
            let machine = &self.machines[&id];
            let replica = machine.replica.as_ref().expect("it has a lease");
            self.oracle.local_read(id, replica.applied_index());
        }
    }

    /// May this machine serve local reads now?
    pub fn has_lease(&self, id: RaftId) -> bool {
        let machine = &self.machines[&id];
        machine
            .replica
            .as_ref()
            .and_then(Replica::lease_until)
            .is_some_and(|until| self.local_time(id) < until)
    }

    // ----- what tests ask and order ---------------------------------------------------------------

    /// The running leader of the highest term.
    pub fn leader(&self) -> Option<RaftId> {
        self.machines
            .values()
            .filter(|m| !m.paused)
            .filter_map(|m| m.replica.as_ref().map(|r| (r.role(), m.raft_id)))
            .filter(|(role, _)| role.role == Role::Leader)
            .max_by_key(|(role, _)| role.term)
            .map(|(_, id)| id)
    }

    /// The leader, once one serves.
    pub fn elect(&mut self) -> RaftId {
        let found = self.run_until(Duration::from_secs(20), |cluster| {
            cluster.leader().is_some_and(|id| cluster.machines[&id].serving)
        });
        assert!(found, "no leader within 20 s");
        self.leader().expect("found")
    }

    /// A machine's status; it runs.
    pub fn status(&self, id: RaftId) -> v1::ReplicaStatus {
        let replica = self.machines[&id].replica.as_ref();
        replica.expect("the machine runs").status()
    }

    /// Proposes on one machine.
    pub fn propose(
        &mut self,
        id: RaftId,
        data: impl Into<Bytes>,
    ) -> Result<(Term, LogIndex), ProposeError> {
        let data = data.into();
        self.with(id, |replica, now| replica.propose(now, data))
    }

    /// Asks one machine for a read point: the token under which `reads` has the answer.
    pub fn read(&mut self, id: RaftId) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        self.oracle.read_asked(token);
        self.with(id, |replica, now| replica.request_read(now, token));
        token
    }

    /// All running machines have applied the same, and as much as the leader has in its log.
    pub fn converged(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let last = self.status(leader).last_index;
        let state = &self.machines[&leader].state;
        self.running()
            .into_iter()
            .all(|id| self.status(id).applied_index == last && self.machines[&id].state == *state)
    }

    /// Machines whose process runs, paused ones included.
    pub fn running(&self) -> Vec<RaftId> {
        let running = self.machines.values().filter(|m| m.replica.is_some());
        running.map(|m| m.raft_id).collect()
    }

    /// Logs of all machines match wherever they hold the same term at the same index.
    pub fn check_logs(&self) {
        let logs: Vec<_> = self.machines.values().map(|m| m.store.entries(SHARD)).collect();
        oracle::check_log_matching(&logs);
    }
}
