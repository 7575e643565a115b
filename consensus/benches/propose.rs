//! CPU cost of the replicas alone: three of them in one thread, messages and writes passed on
//! directly, no disk and no network. `cargo bench -p holdfast-consensus`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_consensus::log::memory::MemoryStore;
use holdfast_consensus::{LogStore, Outputs, Replica, ReplicaConfig};
use holdfast_proto::ids::{LogIndex, RaftId, ShardId};
use holdfast_proto::v1::RaftMessage;

const SHARD: ShardId = ShardId(1);

struct Group {
    replicas: Vec<Replica>,
    now: Duration,
    mail: VecDeque<RaftMessage>,
    out: Outputs,
    committed: u64,
}

impl Group {
    fn new(count: u64) -> Self {
        let voters: Vec<_> = (1..=count).map(RaftId).collect();
        let replicas = voters.iter().map(|id| {
            let mut cfg = ReplicaConfig::new(SHARD, *id, Duration::from_secs(1), id.0);
            cfg.founding_voters = voters.clone();
            // The followers keep up: nothing is read back from the store, which stays empty.
            cfg.cache_bytes = 64 << 20;
            Replica::new(cfg, None, LogStore::reader(&MemoryStore::new())).expect("a new replica")
        });
        let mut group = Self {
            replicas: replicas.collect(),
            now: Duration::from_secs(1),
            mail: VecDeque::new(),
            out: Outputs::default(),
            committed: 0,
        };
        while !group.replicas[0].is_serving() {
            group.tick();
        }
        group
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(50);
        for at in 0..self.replicas.len() {
            self.replicas[at].tick(self.now);
            self.turn(at);
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(message) = self.mail.pop_front() {
            let at = message.to as usize - 1;
            let _ = self.replicas[at].step(self.now, message);
            // Whatever waits for the same replica joins its turn, as in a node.
            while self.mail.front().is_some_and(|m| m.to as usize == at + 1) {
                let message = self.mail.pop_front().expect("checked to be there");
                let _ = self.replicas[at].step(self.now, message);
            }
            self.turn(at);
        }
    }

    fn turn(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        loop {
            replica.ready(self.now, &mut self.out);
            if self.out.is_empty() {
                return;
            }
            self.mail.extend(self.out.messages.drain(..));
            if let Some(last) = self.out.writes.last() {
                replica.persisted(self.now, last.number);
            }
            if let Some(last) = self.out.committed.last() {
                replica.applied(self.now, LogIndex(last.index.0));
                self.committed += self.out.committed.len() as u64;
            }
            self.out = Outputs::default();
        }
    }
}

fn measure(count: u64, per_turn: usize, bytes: usize) {
    let mut group = Group::new(count);
    let data = Bytes::from(vec![7; bytes]);
    let before = group.committed;
    let start = Instant::now();
    let mut proposed = 0u64;
    while start.elapsed() < Duration::from_secs(2) {
        for _ in 0..100 {
            for _ in 0..per_turn {
                let now = group.now;
                group.replicas[0].propose(now, data.clone()).expect("it leads and nothing waits");
            }
            proposed += per_turn as u64;
            group.turn(0);
            group.settle();
        }
        group.tick();
    }
    let took = start.elapsed();
    assert_eq!(group.committed - before, proposed * count);
    println!(
        "{count} replicas, {per_turn:>3} entries of {bytes:>5} bytes a turn: {:>7.0} ns for each entry, {:>8.0} entries/s",
        took.as_nanos() as f64 / proposed as f64,
        proposed as f64 / took.as_secs_f64(),
    );
}

fn main() {
    for count in [1, 3] {
        for (per_turn, bytes) in [(1, 100), (1, 10_000), (16, 100), (16, 10_000)] {
            measure(count, per_turn, bytes);
        }
    }
}
