//! Nanoseconds per command and bytes per element of every family, for `bench/engine-vs-redis`, which
//! writes the script that this reads and does the same with a stock server.
//!
//! `cargo bench -p holdfast-engine --bench families -- SCRIPT`. A line of the script is one of:
//!
//! - `setup COUNT COMMAND`: executes the command so often; `__i__` is the number of the round,
//!   `__i12__` the same with 12 digits, `__i20000__` its remainder by 20,000;
//! - `case NAME COUNT RANGE COMMAND`: measures; `__rand_int__` is a random number below RANGE with 12
//!   digits, as redis-benchmark writes it. Prints `case NAME NANOSECONDS`;
//! - `memory NAME ELEMENTS`: prints `memory NAME BYTES`, bytes per element since the last `reset`;
//! - `reset`: begins anew with an empty engine.
//!
//! Commands go the way that they go on a node: writes are records of the log, with lanes and kept
//! replies, 64 to a batch; reads are requests. Time is this thread's CPU time.

use holdfast_engine::{Engine, EngineConfig, Outcomes, ReadOutcome};
use holdfast_proto::frame::{BatchHeader, ReadOp, RecordHeader, RecordOp};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::encode;
use holdfast_proto::slot::Slot;
use std::collections::HashMap;
use std::time::Duration;

/// Records per batch.
const BATCH: usize = 64;

fn main() {
    let Some(script) = std::env::args().skip(1).find(|arg| !arg.starts_with('-')) else {
        // `cargo test --benches` and `cargo bench` without arguments: nothing to do.
        return;
    };
    let script = std::fs::read_to_string(&script).expect("the script can be read");
    let mut bench = Bench::new();
    for line in script.lines() {
        let mut words = line.split_whitespace();
        let number = |words: &mut std::str::SplitWhitespace<'_>| -> u64 {
            words.next().and_then(|word| word.parse().ok()).expect("a number")
        };
        match words.next() {
            Some("reset") => bench = Bench::new(),
            Some("setup") => {
                let count = number(&mut words);
                bench.setup(count, &words.collect::<Vec<_>>());
            }
            Some("case") => {
                let name = words.next().expect("a name").to_owned();
                let (count, range) = (number(&mut words), number(&mut words));
                let nanos = bench.case(count, range, &words.collect::<Vec<_>>());
                println!("case {name} {nanos:.1}");
            }
            Some("memory") => {
                let name = words.next().expect("a name").to_owned();
                let elements = number(&mut words);
                let bytes = bench.engine.memory_used() - bench.memory_before;
                println!("memory {name} {:.2}", bytes as f64 / elements as f64);
            }
            _ => {}
        }
    }
}

struct Bench {
    engine: Engine,
    memory_before: usize,
    time_ms: u64,
    /// Next seq of each slot's lane.
    seqs: HashMap<u16, u64>,
    random: u64,
    out: Outcomes,
}

impl Bench {
    fn new() -> Self {
        let engine = Engine::new(EngineConfig::default());
        let memory_before = engine.memory_used();
        let (time_ms, out) = (1_700_000_000_000, Outcomes::new());
        Self { engine, memory_before, time_ms, seqs: HashMap::new(), random: 1, out }
    }

    fn setup(&mut self, count: u64, words: &[&str]) {
        let mut records = Vec::with_capacity(BATCH);
        for round in 0..count {
            let fill = |word: &&str| {
                word.replace("__i12__", &format!("{round:012}"))
                    .replace("__i20000__", &(round % 20_000).to_string())
                    .replace("__i__", &round.to_string())
            };
            let args: Vec<_> = words.iter().map(fill).collect();
            records.push(self.record(&args));
            if records.len() == BATCH || round == count - 1 {
                self.apply(&records);
                assert!(!self.out_has_error(), "{args:?}");
                records.clear();
            }
        }
    }

    /// Nanoseconds per command.
    fn case(&mut self, count: u64, range: u64, words: &[&str]) -> f64 {
        let commands: Vec<Vec<String>> =
            (0..count).map(|_| words.iter().map(|word| self.fill(word, range)).collect()).collect();
        let first = body(&commands[0]);
        let mut reply = Vec::new();
        let read = self.engine.read(self.time_ms, 0, false, ReadOp::Command, &first, &mut reply);
        assert_ne!(reply.first(), Some(&b'-'), "{words:?}: {}", reply.escape_ascii());
        let spent = if read == ReadOutcome::Done {
            let bodies: Vec<_> = commands.iter().map(|command| body(command)).collect();
            let start = cpu_time();
            for body in &bodies {
                reply.clear();
                self.engine.read(self.time_ms, 0, false, ReadOp::Command, body, &mut reply);
            }
            cpu_time() - start
        } else {
            let records: Vec<_> = commands.iter().map(|command| self.record(command)).collect();
            let start = cpu_time();
            for batch in records.chunks(BATCH) {
                self.apply(batch);
            }
            cpu_time() - start
        };
        assert!(!self.out_has_error(), "{words:?}");
        spent.as_nanos() as f64 / count as f64
    }

    fn fill(&mut self, word: &str, range: u64) -> String {
        if !word.contains("__rand_int__") {
            return word.to_owned();
        }
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.replace("__rand_int__", &format!("{:012}", (self.random >> 33) % range.max(1)))
    }

    fn record(&mut self, command: &[String]) -> (RecordHeader, Vec<u8>) {
        let slot = Slot::of_key(command.get(1).map_or(&b""[..], |key| key.as_bytes()));
        let seq = self.seqs.entry(slot.get()).or_insert(0);
        *seq += 1;
        let body = body(command);
        let header = RecordHeader {
            op: RecordOp::Command,
            flags: 0,
            db: 0,
            slot,
            worker: WorkerId(7),
            seq: *seq,
            first_unacked: *seq,
            tag: 0,
            body_len: body.len() as u32,
        };
        (header, body)
    }

    fn apply(&mut self, records: &[(RecordHeader, Vec<u8>)]) {
        self.time_ms += 1;
        let count = records.len() as u32;
        let batch = BatchHeader { count, time_ms: self.time_ms, seed: self.time_ms };
        self.out.clear();
        for (index, (header, body)) in records.iter().enumerate() {
            self.engine.apply(&batch, index as u32, header, body, &mut self.out);
        }
    }

    /// Whether a command of the last batch failed.
    fn out_has_error(&self) -> bool {
        self.out.iter().any(|(_, reply)| reply.first() == Some(&b'-'))
    }
}

fn body(command: &[String]) -> Vec<u8> {
    let mut body = Vec::new();
    encode::command(&mut body, command.iter().map(String::as_bytes));
    body
}

/// CPU time of this thread, from the kernel's accounts: other processes do not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}
