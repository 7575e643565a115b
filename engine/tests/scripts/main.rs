//! Scripts and functions, beside a stock redis-server: equal replies, errors to the letter.
//!
//! Without a redis-server in PATH the comparisons say so and pass.

#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.

#[path = "../common/mod.rs"]
mod common;
mod corpus;
mod functions;
mod limits;
mod memory;
mod random;
mod replicas;
mod users;

use common::{Redis, TIME_MS, Target};
use holdfast_engine::{Engine, EngineConfig, Outcomes, ReadOutcome};
use holdfast_proto::acl::Caller;
use holdfast_proto::frame::{AnswerStatus, BatchHeader, ReadOp, RecordHeader, RecordOp, flags};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::encode;
use holdfast_proto::resp::reply::{Value, parse};
use holdfast_proto::slot::Slot;

/// An engine that is sent every command through the log.
pub(crate) struct Logged {
    pub(crate) engine: Engine,
    pub(crate) resp3: bool,
    pub(crate) frame_flags: u8,
    pub(crate) slot: Slot,
    /// Name and permissions of the user who sends the commands; `None` may do everything.
    pub(crate) user: Option<(String, String)>,
    seq: u64,
}

impl Logged {
    pub(crate) fn new() -> Self {
        Self::of(EngineConfig::default())
    }

    pub(crate) fn of(config: EngineConfig) -> Self {
        Self::with(Engine::new(config))
    }

    pub(crate) fn with(engine: Engine) -> Self {
        let seq = engine.lane_next(Slot::default(), WorkerId(1)).unwrap_or(1);
        Self { engine, resp3: false, frame_flags: 0, slot: Slot::default(), user: None, seq }
    }

    /// The reply's bytes.
    pub(crate) fn raw(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        encode::command(&mut body, args.iter().copied());
        if let Some((name, permissions)) = &self.user {
            let (name, permissions) = (name.as_bytes(), permissions.as_bytes());
            body = Caller { name, permissions }.wrap(&body, args.len()).to_vec();
        }
        let resp3 = if self.resp3 { flags::RESP3 } else { 0 };
        let seq = self.engine.lane_next(self.slot, WorkerId(1)).unwrap_or(1);
        self.seq += 1;
        let header = RecordHeader {
            op: RecordOp::Command,
            flags: resp3 | self.frame_flags,
            db: 0,
            slot: self.slot,
            worker: WorkerId(1),
            seq,
            first_unacked: seq,
            tag: seq,
            body_len: body.len() as u32,
        };
        let batch = BatchHeader { count: 1, time_ms: TIME_MS + self.seq, seed: self.seq };
        let mut out = Outcomes::new();
        self.engine.apply(&batch, 0, &header, &body, &mut out);
        let (completion, payload) = out.iter().next().expect("a record is answered");
        assert_eq!(completion.status, AnswerStatus::Reply);
        payload.to_vec()
    }

    /// The reply of a read; `None` if the command has to be logged.
    pub(crate) fn read(&mut self, args: &[&[u8]]) -> Option<Value> {
        let mut body = Vec::new();
        encode::command(&mut body, args.iter().copied());
        let mut out = Vec::new();
        let now_ms = TIME_MS + self.seq;
        match self.engine.read(now_ms, 0, self.resp3, ReadOp::Command, &body, &mut out) {
            ReadOutcome::Done => Some(parse(&out.into()).expect("one reply")),
            _ => None,
        }
    }

    pub(crate) fn eval(&mut self, script: &str) -> Value {
        self.call(&[b"EVAL", script.as_bytes(), b"0"])
    }

    /// A string reply, or the text of an error.
    pub(crate) fn text(&mut self, script: &str) -> String {
        let reply = self.eval(script);
        let bytes = reply.as_bytes().unwrap_or_else(|| panic!("{script}: {reply:?}"));
        String::from_utf8_lossy(bytes).into_owned()
    }
}

impl Target for Logged {
    fn call(&mut self, args: &[&[u8]]) -> Value {
        parse(&self.raw(args).into()).expect("one reply")
    }
}

/// A stock server to compare with.
pub(crate) fn stock() -> Option<(tempfile::TempDir, Redis)> {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path(), &[])?;
    Some((folder, redis))
}

/// Runs a test on a stack like an executor's: values may nest a thousand deep.
pub(crate) fn on_large_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(16 * 1024 * 1024);
    if let Err(panic) = thread.spawn(test).unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Bytes as a person reads them.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Value::Simple(bytes) => format!("+{}", bytes.escape_ascii()),
        Value::Error(bytes) => format!("-{}", bytes.escape_ascii()),
        Value::Array(elements) => {
            format!("[{}]", elements.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    }
}
