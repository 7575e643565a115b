//! An engine as a target uses it: commands in, replies out, and what must hold afterwards.

use holdfast_engine::{CheckpointStep, Engine, EngineConfig, Outcomes, ReadOutcome};
use holdfast_proto::frame::{AnswerStatus, BatchHeader, ReadOp, RecordHeader, RecordOp};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::encode;
use holdfast_proto::slot::Slot;

/// Cluster time at which a run begins.
const TIME_MS: u64 = 1_800_000_000_000;

/// An engine with one client.
pub struct Client {
    pub engine: Engine,
    time_ms: u64,
    seq: u64,
    out: Outcomes,
}

impl Default for Client {
    fn default() -> Self {
        Self::of(Engine::new(EngineConfig::default()))
    }
}

impl Client {
    pub fn of(engine: Engine) -> Self {
        let time_ms = engine.time_ms().max(TIME_MS);
        let seq = engine.lane_next(Slot::default(), WORKER).unwrap_or(1);
        Self { engine, time_ms, seq, out: Outcomes::new() }
    }

    /// Executes a command; its reply, empty if it blocks.
    pub fn call(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        encode::command(&mut body, args.iter().copied());
        self.call_raw(&body)
    }

    /// Executes a command given as RESP.
    pub fn call_raw(&mut self, body: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        let read = self.engine.read(self.time_ms, 0, false, ReadOp::Command, body, &mut reply);
        match read {
            ReadOutcome::Done => reply,
            ReadOutcome::Expired | ReadOutcome::NotReadOnly => self.apply(body),
        }
    }

    /// Applies a command as a record of the log, even one that only reads.
    pub fn apply(&mut self, body: &[u8]) -> Vec<u8> {
        self.time_ms += 1;
        let header = RecordHeader {
            op: RecordOp::Command,
            flags: 0,
            db: 0,
            slot: Slot::default(),
            worker: WORKER,
            seq: self.seq,
            first_unacked: self.seq,
            tag: self.seq,
            body_len: body.len() as u32,
        };
        let batch = BatchHeader { count: 1, time_ms: self.time_ms, seed: self.seq };
        self.out.clear();
        self.engine.apply(&batch, 0, &header, body, &mut self.out);
        let (completion, payload) = self.out.iter().next().expect("a record is answered");
        if completion.status == AnswerStatus::SessionExpired {
            // The file that was loaded has retired the worker.
            return Vec::new();
        }
        self.seq += 1;
        payload.to_vec()
    }

    /// A checkpoint of the whole state.
    pub fn checkpoint(&mut self) -> Vec<u8> {
        self.engine.checkpoint_begin();
        let mut bytes = Vec::new();
        while self.engine.checkpoint_step(1 << 16, &mut bytes) == CheckpointStep::More {}
        bytes
    }

    /// A checkpoint must load, and give the same state.
    pub fn check_restart(&mut self) {
        let file = self.checkpoint();
        let again = Engine::load(EngineConfig::default(), file.as_slice())
            .unwrap_or_else(|error| panic!("a checkpoint does not load: {error}"));
        assert_eq!(again.digest(), self.engine.digest(), "a restart changes the state");
    }
}

const WORKER: WorkerId = WorkerId(1);
