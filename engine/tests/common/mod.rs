//! What tests of whole engines share: a client of an engine, a client of a real `redis-server`.

#![allow(clippy::unwrap_used, unreachable_pub)] // Helpers of several test binaries.
#![allow(dead_code)]

use bytes::BytesMut;
use holdfast_engine::{CheckpointStep, Engine, EngineConfig, Outcomes, ReadOutcome};
use holdfast_proto::frame::{AnswerStatus, BatchHeader, ReadOp, RecordHeader, RecordOp};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::resp::encode;
use holdfast_proto::resp::reply::{Value, decode};
use holdfast_proto::slot::Slot;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Cluster time at which tests begin: 2033, so that expiry times lie in a real server's future.
pub const TIME_MS: u64 = 2_000_000_000_000;

/// Something that answers commands: an engine or a server.
pub trait Target {
    fn call(&mut self, args: &[&[u8]]) -> Value;

    fn run(&mut self, command: &str) -> Value {
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.call(&args)
    }
}

/// An engine with one worker, in one database at a time.
pub struct Local {
    pub engine: Engine,
    pub db: u16,
    pub time_ms: u64,
    out: Outcomes,
}

impl Local {
    pub fn new() -> Self {
        Self::of(Engine::new(EngineConfig::default()))
    }

    pub fn of(engine: Engine) -> Self {
        let time_ms = engine.time_ms().max(TIME_MS);
        Self { engine, db: 0, time_ms, out: Outcomes::new() }
    }

    pub fn load(file: impl Read) -> Self {
        Self::of(Engine::load(EngineConfig::default(), file).expect("loads"))
    }

    pub fn checkpoint(&mut self) -> Vec<u8> {
        self.engine.checkpoint_begin();
        let mut bytes = Vec::new();
        while self.engine.checkpoint_step(64 * 1024, &mut bytes) == CheckpointStep::More {}
        bytes
    }

    fn write(&mut self, body: &[u8]) -> Value {
        self.time_ms += 1;
        let (slot, worker) = (Slot::default(), WorkerId(1));
        let seq = self.engine.lane_next(slot, worker).unwrap_or(1);
        let header = RecordHeader {
            op: RecordOp::Command,
            flags: 0,
            db: self.db,
            slot,
            worker,
            seq,
            first_unacked: seq,
            tag: seq,
            body_len: body.len() as u32,
        };
        let batch = BatchHeader { count: 1, time_ms: self.time_ms, seed: seq };
        self.out.clear();
        self.engine.apply(&batch, 0, &header, body, &mut self.out);
        let (completion, payload) = self.out.iter().next().expect("a record is answered");
        assert_eq!(completion.status, AnswerStatus::Reply);
        parse(payload)
    }
}

impl Target for Local {
    fn call(&mut self, args: &[&[u8]]) -> Value {
        if args[0].eq_ignore_ascii_case(b"select") {
            self.db = std::str::from_utf8(args[1]).unwrap().parse().unwrap();
            return Value::Simple("OK".into());
        }
        let mut body = Vec::new();
        encode::command(&mut body, args.iter().copied());
        let mut reply = Vec::new();
        let read =
            self.engine.read(self.time_ms, self.db, false, ReadOp::Command, &body, &mut reply);
        match read {
            ReadOutcome::Done => parse(&reply),
            ReadOutcome::Expired | ReadOutcome::NotReadOnly => self.write(&body),
        }
    }
}

fn parse(bytes: &[u8]) -> Value {
    decode(&mut BytesMut::from(bytes)).expect("valid RESP").expect("a whole reply")
}

/// A `redis-server` of this machine, in a directory of its own; stopped when dropped.
pub struct Redis {
    child: Child,
    stream: TcpStream,
    buffer: BytesMut,
}

impl Redis {
    /// Starts a server whose file is `dump.rdb` in `folder`. `None`, with a note, if there is no
    /// `redis-server` on this machine.
    pub fn start(folder: &Path, options: &[&str]) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1", "--dir"])
            .arg(folder)
            .args(options)
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("skipped: there is no redis-server to compare with");
            return None;
        };
        let stream = (0..200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(25));
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let stream = stream.expect("redis-server starts");
        let mut redis = Self { child, stream, buffer: BytesMut::new() };
        for _ in 0..200 {
            // While it loads, it says so.
            if redis.run("PING") == Value::Simple("PONG".into()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        Some(redis)
    }
}

impl Target for Redis {
    fn call(&mut self, args: &[&[u8]]) -> Value {
        let mut request = Vec::new();
        encode::command(&mut request, args.iter().copied());
        self.stream.write_all(&request).expect("redis-server reads");
        loop {
            if let Some(reply) = decode(&mut self.buffer).expect("valid RESP") {
                return reply;
            }
            let mut chunk = [0; 65536];
            let count = self.stream.read(&mut chunk).expect("redis-server answers");
            assert_ne!(count, 0, "redis-server hung up");
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have stopped by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Commands that make keys of every type in every encoding, in databases 0 and 3.
pub fn populate(target: &mut impl Target) {
    let mut run = |command: String| {
        let reply = target.run(&command);
        assert!(!reply.is_error(), "{command}: {reply:?}");
    };
    for db in [0, 3] {
        run(format!("SELECT {db}"));
        for i in 0..300 {
            run(format!("SET string:{i} value-{i}-{}", "x".repeat(i)));
        }
        for value in ["0", "-1", "127", "-32768", "2147483648", "9223372036854775807", "007", ""] {
            run(format!("SET number:{value} {value}"));
        }
        run(format!("SET large {}", "0123456789abcdef".repeat(20_000)));
        run("SET expires:1 soon PXAT 2000000600000".to_owned());
        run("RPUSH expires:2 a b c".to_owned());
        run("PEXPIREAT expires:2 2999999999999".to_owned());
        for count in [1, 5, 100, 3000] {
            for i in 0..count {
                let text =
                    if i % 3 == 0 { format!("{}", i * 7919 - 5000) } else { format!("e{i}") };
                run(format!("RPUSH list:{count} {text}"));
                run(format!("SADD ints:{count} {}", (i as i64 - 40) * (1 << (i % 40))));
                run(format!("SADD set:{count} {text} member:{i}"));
                run(format!("HSET hash:{count} field:{i} {text}"));
                run(format!("ZADD zset:{count} {} member:{i} {i} {text}", i as f64 / 7.0));
            }
        }
        run(format!("RPUSH list:large a {} b", "L".repeat(100_000)));
        run(format!("HSET hash:large f {}", "H".repeat(5_000)));
        run(format!("SADD set:large {} 1", "S".repeat(200)));
        for count in [1, 5, 100, 3000] {
            let key = format!("stream:{count}");
            for i in 0..count {
                let fields = match i % 3 {
                    0 => format!("other {i} field:2 {}", i * 7919 - 5000),
                    _ => format!("field:1 value:{i} field:2 {i}"),
                };
                run(format!("XADD {key} {}-{} {fields}", 5 + i / 7, i % 7));
            }
            run(format!("XDEL {key} 5-3 6-1"));
            run(format!("XGROUP CREATE {key} group:1 0"));
            run(format!("XGROUP CREATE {key} group:2 5-5 ENTRIESREAD 5"));
            run(format!("XREADGROUP GROUP group:1 one COUNT 50 STREAMS {key} >"));
            if count > 50 {
                // A consumer that gets nothing has no place in the files of 7.0.
                run(format!("XREADGROUP GROUP group:1 two COUNT 70 STREAMS {key} >"));
            }
            run(format!("XACK {key} group:1 5-1 5-2"));
        }
        run("XADD stream:empty 7-7 f v".to_owned());
        run("XDEL stream:empty 7-7".to_owned());
        run("ZADD zset:scores 1.5 a -inf b inf c -0 d 1e300 e 3 f 123456789012345678 g".to_owned());
    }
    run("SELECT 0".to_owned());
}

/// Every key of a database in order.
pub fn keys(target: &mut impl Target) -> Vec<Vec<u8>> {
    let reply = target.run("KEYS *");
    let mut keys: Vec<Vec<u8>> =
        reply.as_array().unwrap().iter().map(|key| key.as_bytes().unwrap().to_vec()).collect();
    keys.sort();
    keys
}

/// What a key holds, in a form that does not depend on its encoding.
pub fn content(target: &mut impl Target, key: &[u8]) -> (Value, Vec<Value>, Value) {
    let kind = target.call(&[b"TYPE", key]);
    let expires = target.call(&[b"PEXPIRETIME", key]);
    let mut sorted = false;
    let mut pairs = false;
    let mut scores = false;
    let reply = match kind.as_bytes().unwrap() {
        b"string" => target.call(&[b"GET", key]),
        b"list" => target.call(&[b"LRANGE", key, b"0", b"-1"]),
        b"set" => {
            sorted = true;
            target.call(&[b"SMEMBERS", key])
        }
        b"zset" => {
            scores = true;
            target.call(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"])
        }
        b"hash" => {
            (sorted, pairs) = (true, true);
            target.call(&[b"HGETALL", key])
        }
        b"stream" => target.call(&[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]),
        other => panic!("type {other:?}"),
    };
    let mut elements = match reply.as_array() {
        Some(elements) => elements.to_vec(),
        None => vec![reply],
    };
    if kind.as_bytes() == Some(b"stream") {
        elements = without_own(&elements);
    }
    if pairs {
        elements = elements.chunks(2).map(|pair| Value::Array(pair.to_vec())).collect();
    }
    if scores {
        // Redis 7.0 writes them with 17 digits.
        for score in elements.iter_mut().skip(1).step_by(2) {
            let text = std::str::from_utf8(score.as_bytes().unwrap()).unwrap();
            *score = Value::Double(text.parse().unwrap());
        }
    }
    if sorted {
        elements.sort_by_key(|element| format!("{element:?}"));
    }
    (kind, elements, expires)
}

/// XINFO's labels and values without those that are new in 7.2 or about the inner structure.
fn without_own(elements: &[Value]) -> Vec<Value> {
    let own =
        |value: &Value| matches!(value.as_bytes(), Some(b"active-time" | b"radix-tree-nodes"));
    let mut kept = Vec::new();
    let mut rest = elements.iter();
    while let Some(element) = rest.next() {
        match element {
            label if own(label) => drop(rest.next()),
            Value::Array(inner) => kept.push(Value::Array(without_own(inner))),
            other => kept.push(other.clone()),
        }
    }
    kept
}

/// Both hold the same keys with the same contents and expiry times.
pub fn assert_same(a: &mut impl Target, b: &mut impl Target) {
    for db in [0, 1, 3] {
        a.run(&format!("SELECT {db}"));
        b.run(&format!("SELECT {db}"));
        let names = keys(a);
        assert_eq!(names, keys(b), "database {db}");
        for key in names {
            let shown = String::from_utf8_lossy(&key).into_owned();
            assert!(content(a, &key) == content(b, &key), "database {db}, key {shown}");
        }
    }
    a.run("SELECT 0");
    b.run("SELECT 0");
}
