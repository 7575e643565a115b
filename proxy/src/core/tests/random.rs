//! Random schedules: links break with everything on them, primaries change, queues fill up. Every
//! command must be executed once, in the order of its connection, and its answer must arrive.

use super::*;
use holdfast_proto::frame::{RecordOp, UnblockReason};
use std::collections::BTreeMap;

/// xorshift64: one seed decides everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// The replicated state of a shard, as the state machine's rules say.
#[derive(Default)]
struct Shard {
    counters: BTreeMap<String, i64>,
    lanes: BTreeMap<u16, Lane>,
    executed: usize,
}

#[derive(Default)]
struct Lane {
    next: u64,
    kept: BTreeMap<u64, String>,
}

impl Shard {
    /// The answer to a write, by the rules of the lane.
    fn write(&mut self, header: &RecordHeader, text: &str) -> Result<String, u64> {
        let lane = self.lanes.entry(header.slot.get()).or_default();
        lane.next = lane.next.max(1);
        lane.kept.retain(|seq, _| *seq >= header.first_unacked);
        if header.seq > lane.next {
            return Err(lane.next);
        }
        if header.seq < lane.next {
            // A late copy of a write whose reply the proxy has: nobody may be told this.
            let kept = lane.kept.get(&header.seq).map_or("-FORGOTTEN\r\n", String::as_str);
            return Ok(kept.to_owned());
        }
        lane.next += 1;
        let reply = match text.split_once(' ') {
            Some(("INCR", key)) => {
                self.executed += 1;
                let value = self.counters.entry(key.to_owned()).or_default();
                *value += 1;
                format!(":{value}\r\n")
            }
            _ => "+OK\r\n".to_owned(),
        };
        self.lanes.entry(header.slot.get()).or_default().kept.insert(header.seq, reply.clone());
        Ok(reply)
    }
}

struct Chaos {
    world: World,
    dice: Dice,
    shard: Shard,
    primary: usize,
    term: u64,
    up: [bool; 3],
    /// What is on its way to each node and back.
    requests: [VecDeque<Received>; 3],
    answers: [VecDeque<Response>; 3],
}

impl Chaos {
    fn new(seed: u64) -> Self {
        Self {
            world: World::new(1),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            shard: Shard::default(),
            primary: 0,
            term: 1,
            up: [true; 3],
            requests: Default::default(),
            answers: Default::default(),
        }
    }

    fn collect(&mut self) {
        for link in 0..3 {
            if self.up[link] {
                let received = self.world.received(link);
                self.requests[link].extend(received);
            }
        }
    }

    /// A node handles the next request on its way to it.
    fn node_step(&mut self, link: usize) {
        let Some(request) = self.requests[link].pop_front() else { return };
        let answer = |status, payload: Vec<u8>| Response::Answer {
            tag: request.tag(),
            status,
            payload: payload.into(),
        };
        let answer = if link != self.primary {
            let mut payload = Vec::new();
            payload.put_u64_le(self.term);
            // Sometimes it does not know yet.
            let hint = if self.dice.below(2) == 0 { 0 } else { self.primary as u64 + 1 };
            payload.put_u64_le(hint);
            answer(AnswerStatus::NotPrimary, payload)
        } else if self.dice.below(20) == 0 {
            answer(AnswerStatus::Busy, Vec::new())
        } else {
            match &request {
                Received::Write { header, .. } => match self.shard.write(header, &request.text()) {
                    Ok(reply) => answer(AnswerStatus::Reply, reply.into_bytes()),
                    Err(next) => answer(AnswerStatus::Gap, next.to_le_bytes().to_vec()),
                },
                Received::Read(read) => {
                    // The write that it depends on must have been executed; a real node waits.
                    let lane = self.shard.lanes.get(&read.depends_on_slot.get());
                    let next = lane.map_or(1, |lane| lane.next);
                    if read.depends_on_seq >= next {
                        self.requests[link].push_back(request);
                        return;
                    }
                    let text = request.text();
                    let value =
                        |key: &str| self.shard.counters.get(key).copied().unwrap_or(0).to_string();
                    let values: Vec<String> = text.split(' ').skip(1).map(value).collect();
                    answer(AnswerStatus::Reply, format!("={}\r\n", values.join(" ")).into_bytes())
                }
            }
        };
        self.answers[link].push_back(answer);
    }

    fn deliver(&mut self, link: usize) {
        if let Some(answer) = self.answers[link].pop_front() {
            self.world.push(link, answer);
        }
    }

    fn cut(&mut self, link: usize) {
        if self.up[link] {
            self.up[link] = false;
            self.collect();
            // Some of what was sent still reaches the node; its answers are lost.
            for _ in 0..self.dice.below(4) {
                self.node_step(link);
            }
            self.requests[link].clear();
            self.answers[link].clear();
            self.world.disconnect(link);
        }
    }

    fn join(&mut self, link: usize) {
        if !self.up[link] {
            self.up[link] = true;
            self.world.core.link_output(link).clear();
            self.world.connect(link);
            if link == self.primary {
                self.world.primary_is(link, 1, self.term);
            }
        }
    }

    fn fail_over(&mut self) {
        self.primary = (self.primary + 1 + self.dice.below(2)) % 3;
        self.term += 1;
        if self.up[self.primary] {
            self.announce();
        }
    }

    fn announce(&mut self) {
        let (shard, term) = (ShardId(1), Term(self.term));
        let node = NodeId(self.primary as u64 + 1);
        self.answers[self.primary].push_back(Response::PrimaryIs { shard, term, node });
    }

    fn step(&mut self) {
        self.collect();
        let link = self.dice.below(3);
        match self.dice.below(100) {
            0 => self.cut(link),
            1..=3 => self.join(link),
            4 if self.dice.below(4) == 0 => self.fail_over(),
            5..=30 => self.deliver(link),
            31..=55 => self.deliver(self.primary),
            56..=85 => self.node_step(self.primary),
            86..=97 => self.node_step(link),
            _ => self.world.pass(1, &[]),
        }
    }

    /// Everything works again until nothing is left to do.
    fn settle(&mut self) {
        for round in 0.. {
            for link in 0..3 {
                self.join(link);
                self.collect();
                // A read may have to wait for a write that comes in a later round.
                for _ in 0..2 * self.requests[link].len() + self.answers[link].len() {
                    self.node_step(link);
                    self.deliver(link);
                }
                while !self.answers[link].is_empty() {
                    self.deliver(link);
                }
            }
            self.world.pass(20, &[0, 1, 2]);
            self.collect();
            if self.world.core.requests.len() == 0 {
                return;
            }
            assert!(round < 500, "the cluster works, yet requests stay unanswered");
        }
    }
}

/// Runs one schedule; returns how many commands there were.
fn run(seed: u64) -> usize {
    let mut chaos = Chaos::new(seed);
    let clients: Vec<ClientKey> = (0..4).map(|_| chaos.world.client()).collect();
    let mut expected: Vec<String> = vec![String::new(); clients.len()];
    let mut counts = vec![[0i64; 2]; clients.len()];
    let mut told: Vec<String> = vec![String::new(); clients.len()];
    let mut writes = 0;
    for _ in 0..3_000 {
        if chaos.dice.below(10) == 0 {
            let who = chaos.dice.below(clients.len());
            let which = chaos.dice.below(2);
            let [zero, one] = counts[who];
            match chaos.dice.below(8) {
                0 => {
                    chaos.world.send(clients[who], &format!("GET c{who}{which}"));
                    expected[who].push_str(&format!("={}\r\n", counts[who][which]));
                }
                1 => {
                    chaos.world.send(clients[who], &format!("MGET c{who}0 c{who}1"));
                    expected[who].push_str(&format!("={zero} {one}\r\n"));
                }
                _ => {
                    chaos.world.send(clients[who], &format!("INCR c{who}{which}"));
                    counts[who][which] += 1;
                    writes += 1;
                    expected[who].push_str(&format!(":{}\r\n", counts[who][which]));
                }
            }
        }
        chaos.step();
        for (who, client) in clients.iter().enumerate() {
            let text = chaos.world.told(*client);
            told[who].push_str(&text);
        }
    }
    chaos.settle();
    for (who, client) in clients.iter().enumerate() {
        let text = chaos.world.told(*client);
        told[who].push_str(&text);
    }
    assert_eq!(chaos.shard.executed, writes, "each INCR runs once (seed {seed})");
    // Reads answer what the connection had written before them: no less, and nothing of what it
    // sent after them.
    for (got, wanted) in told.iter().zip(&expected) {
        assert_eq!(got, wanted, "seed {seed}");
    }
    writes
}

#[test]
fn every_command_runs_once_whatever_happens() {
    let total: usize = (1..=150).map(run).sum();
    assert!(total > 20_000, "the schedules hardly do anything: {total}");
}

#[test]
fn unblock_records_say_why() {
    // The layout that the state machine reads.
    let mut world = World::new(1);
    let client = world.client();
    world.send(client, "BRPOP q 0");
    let sent = world.received_one(0);
    world.answer(0, sent.tag(), AnswerStatus::Blocked, b"");
    world.reply(0, &sent, "*-1\r\n");
    let Received::Write { header, body, .. } = world.received_one(0) else { panic!() };
    assert_eq!(header.op, RecordOp::Unblock);
    assert_eq!((body.len(), body[8]), (9, UnblockReason::Gone as u8));
}
