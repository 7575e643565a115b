//! How fast checkpoints are written and loaded.
//!
//! `rdb_load FILE`: loads an RDB file, prints the time.
//! `rdb_load FILE KEYS VALUE_LEN`: first makes the file, from an engine with that many strings.
//!
//! To compare: `redis-server --dbfilename FILE --save ""` logs how long it takes for the same file.

use holdfast_engine::{CheckpointStep, Engine, EngineConfig, Outcomes};
use holdfast_proto::frame::{BatchHeader, RecordHeader, RecordOp};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::slot::Slot;
use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// Bytes per step, as a node takes them between two batches.
const STEP_BYTES: usize = 256 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, rest @ ..] = &args[..] else { return Err("usage: rdb_load FILE [KEYS LEN]".into()) };
    if let [keys, len] = rest {
        make(file, keys.parse()?, len.parse()?)?;
    }
    let begun = Instant::now();
    let engine = Engine::load(EngineConfig::default(), File::open(file)?)?;
    let elapsed = begun.elapsed();
    let (keys, bytes) = (engine.key_count(0), std::fs::metadata(file)?.len());
    let rate = keys as f64 / elapsed.as_secs_f64() / 1e6;
    let memory = engine.memory_used();
    println!(
        "loaded {keys} keys, {bytes} bytes in {elapsed:.2?}: {rate:.2} M keys/s, {memory} bytes used"
    );
    // Freeing everything takes a while and says nothing.
    std::mem::forget(engine);
    Ok(())
}

fn make(file: &str, keys: u64, len: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut engine = Engine::new(EngineConfig::default());
    let mut out = Outcomes::new();
    let mut body = Vec::new();
    for i in 0..keys {
        let key = format!("key:{i:012}");
        let mut value = format!("{:x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes();
        value.resize(len, b'v');
        body.clear();
        let args: [&[u8]; 3] = [b"SET", key.as_bytes(), &value];
        holdfast_proto::resp::encode::command(&mut body, args.iter().copied());
        let header = RecordHeader {
            op: RecordOp::Command,
            flags: 0,
            db: 0,
            slot: Slot::default(),
            worker: WorkerId(1),
            seq: i + 1,
            first_unacked: i + 1,
            tag: 0,
            body_len: body.len() as u32,
        };
        let batch = BatchHeader { count: 1, time_ms: 1_700_000_000_000 + i, seed: i };
        engine.apply(&batch, 0, &header, &body, &mut out);
        out.clear();
    }
    let mut output = File::create(file)?;
    let mut bytes = Vec::new();
    let (mut longest, mut engine_time) = (0, std::time::Duration::ZERO);
    let begun = Instant::now();
    engine.checkpoint_begin();
    let begin_us = begun.elapsed().as_micros();
    loop {
        let begun = Instant::now();
        let step = engine.checkpoint_step(STEP_BYTES, &mut bytes);
        longest = longest.max(begun.elapsed().as_micros());
        engine_time += begun.elapsed();
        output.write_all(&bytes)?;
        bytes.clear();
        if step == CheckpointStep::Done {
            break;
        }
    }
    println!(
        "wrote {keys} keys in {engine_time:.2?} of the engine's time; begin {begin_us} us, longest step {longest} us"
    );
    std::mem::forget(engine);
    Ok(())
}
