//! What a command costs inside the engine: nanoseconds per operation and bytes per key.
//!
//! `cargo bench -p holdfast-engine`. No framework: the numbers wanted are means over millions of
//! commands as they come from the log, parsing and lanes included.

use holdfast_engine::{Engine, EngineConfig, Outcomes};
use holdfast_proto::frame::{BatchHeader, ReadOp, RecordHeader, RecordOp};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::encode;
use holdfast_proto::slot::Slot;
use std::collections::HashMap;

/// Distinct keys by default; their entries (112 MB) are far beyond the caches. The first argument
/// that is a number overrides it: with 10000, what is measured is computation.
const KEYS: usize = 1_000_000;
const OPERATIONS: usize = 1_000_000;
/// Records per batch.
const BATCH: u32 = 64;

fn main() {
    let keys = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(KEYS);
    let mut bench = Bench::new(keys);
    bench.fill();
    bench.report("SET, same length", |key| vec![b"SET".to_vec(), key, vec![b'y'; 64]]);
    bench.report("SET, other length", |key| {
        let len = 40 + key[15] as usize % 7 * 16;
        vec![b"SET".to_vec(), key, vec![b'z'; len]]
    });
    bench.report("SET with EX", |key| {
        vec![b"SET".to_vec(), key, vec![b'y'; 64], b"EX".to_vec(), b"1000".to_vec()]
    });
    bench.report("INCR", |key| vec![b"INCR".to_vec(), [b"n".as_slice(), &key[1..]].concat()]);
    bench.reads("GET", |key| vec![b"GET".to_vec(), key]);
}

struct Bench {
    keys: usize,
    engine: Engine,
    time_ms: u64,
    seqs: HashMap<u16, u64>,
    random: u64,
}

impl Bench {
    fn new(keys: usize) -> Self {
        let engine = Engine::new(EngineConfig::default());
        Self { keys, engine, time_ms: 1_700_000_000_000, seqs: HashMap::new(), random: 1 }
    }

    fn key(&mut self) -> Vec<u8> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("key:{:012}", (self.random >> 33) as usize % self.keys).into_bytes()
    }

    fn fill(&mut self) {
        let before = (self.engine.memory_used(), resident_bytes());
        let records: Vec<_> = (0..self.keys)
            .map(|key| format!("key:{key:012}").into_bytes())
            .map(|key| self.record(&[b"SET".to_vec(), key, vec![b'x'; 64]]))
            .collect();
        let held = resident_bytes();
        let start = cpu_nanos();
        self.apply(&records);
        let nanos = (cpu_nanos() - start) as f64 / self.keys as f64;
        let used = (self.engine.memory_used() - before.0) / self.keys;
        let resident = (resident_bytes() - held) / self.keys;
        println!("fill: {nanos:.0} ns per SET of a new key");
        println!("bytes per key: {used} accounted, {resident} resident (lanes included)");
        println!("  (16 bytes of key, 64 of value)");
    }

    fn report(&mut self, name: &str, mut command: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>) {
        let records: Vec<_> = (0..OPERATIONS)
            .map(|_| {
                let key = self.key();
                self.record(&command(key))
            })
            .collect();
        let start = cpu_nanos();
        self.apply(&records);
        println!("{name}: {:.0} ns", (cpu_nanos() - start) as f64 / OPERATIONS as f64);
    }

    fn reads(&mut self, name: &str, command: impl Fn(Vec<u8>) -> Vec<Vec<u8>>) {
        let bodies: Vec<_> = (0..OPERATIONS)
            .map(|_| {
                let key = self.key();
                body(&command(key))
            })
            .collect();
        let mut out = Vec::new();
        let start = cpu_nanos();
        for body in &bodies {
            out.clear();
            self.engine.read(self.time_ms, 0, false, ReadOp::Command, body, &mut out);
        }
        println!("{name}: {:.0} ns", (cpu_nanos() - start) as f64 / OPERATIONS as f64);
    }

    fn record(&mut self, command: &[Vec<u8>]) -> (RecordHeader, Vec<u8>) {
        let slot = Slot::of_key(&command[1]);
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
        let mut out = Outcomes::new();
        for batch in records.chunks(BATCH as usize) {
            self.time_ms += 1;
            let header = BatchHeader { count: BATCH, time_ms: self.time_ms, seed: self.time_ms };
            out.clear();
            for (index, (record, body)) in batch.iter().enumerate() {
                self.engine.apply(&header, index as u32, record, body, &mut out);
            }
        }
    }
}

fn body(command: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    encode::command(&mut body, command.iter().map(Vec::as_slice));
    body
}

/// Resident memory of this process, from /proc; 0 where there is none.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// Processor time of this thread, so that a busy machine does not distort the numbers.
fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}
