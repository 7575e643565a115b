//! Inputs to begin with, made by the code that writes what the targets read.

use crate::engine::Client;
use bytes::BytesMut;
use holdfast_proto::command::{self, Support};
use holdfast_proto::frame::{
    AnswerStatus, BatchHeader, ReadOp, ReadRequest, RecordHeader, RecordOp, Request, Response,
};
use holdfast_proto::ids::{ShardId, WorkerId};
use holdfast_proto::resp::encode;
use holdfast_proto::slot::Slot;

/// Commands that make keys of every type in every encoding and use them.
const SCRIPTS: &[&str] = &[
    "SET s 1; INCR s; APPEND s abc; GETRANGE s 0 -1; SETRANGE s 5 xyz; STRLEN s; GETEX s EX 100",
    "SETBIT b 100 1; BITCOUNT b 0 -1 BIT; BITPOS b 1; BITFIELD b SET u8 #1 200 INCRBY i5 3 9; \
     BITOP NOT c b; BITFIELD_RO b GET u63 0",
    "PFADD h a b c; PFCOUNT h; PFMERGE g h; PFCOUNT g h; PFDEBUG DECODE h; PFDEBUG TODENSE h",
    "GEOADD g 13.36 38.11 p 15.08 37.50 c; GEODIST g p c km; GEOHASH g p; GEOPOS g c; \
     GEOSEARCH g FROMMEMBER p BYRADIUS 200 km ASC COUNT 1 WITHDIST WITHCOORD; \
     GEORADIUS g 15 37 100 mi STOREDIST d",
    "RPUSH l a b c 1 2 3; LINSERT l BEFORE b x; LPOS l 1 RANK -1; LMOVE l m LEFT RIGHT; LTRIM l 1 -2; \
     SORT l ALPHA DESC LIMIT 0 3 STORE q; LMPOP 2 l m LEFT COUNT 2; BLPOP nothing 1",
    "SADD i 1 2 3; SADD i 99999999999; SADD e a b c; SINTERSTORE x e i; SDIFF e x; SPOP e; \
     SMOVE i e 1; SINTERCARD 2 i e LIMIT 1; SSCAN e 0 COUNT 5",
    "HSET f a 1 b 2; HINCRBY f a 5; HINCRBYFLOAT f b 0.1; HRANDFIELD f -3 WITHVALUES; HSCAN f 0; \
     HSETNX f c x; HDEL f a",
    "ZADD z 1 a 2 b 3.5 c; ZADD z GT CH 5 a; ZRANGE z 0 -1 REV WITHSCORES; ZRANGE z (1 +inf BYSCORE \
     LIMIT 0 2; ZINTERSTORE y 2 z z WEIGHTS 2 3 AGGREGATE MAX; ZRANK z a; ZMPOP 1 z MIN; ZRANGESTORE \
     w z 0 1; ZRANDMEMBER z -2",
    "SET k v PX 100000; EXPIRE k 10 NX; PERSIST k; COPY k n REPLACE; RENAME n o; OBJECT ENCODING o; \
     DUMP o; TYPE o; SCAN 0 MATCH *; KEYS *; LCS k o IDX; MOVE o 1; SWAPDB 0 1; FLUSHDB",
    "XADD x 1-1 f v; XADD x * f v g w; XRANGE x - +; XGROUP CREATE x g 0; XREADGROUP GROUP g c COUNT 1 \
     STREAMS x >; XPENDING x g; XCLAIM x g d 0 1-1; XACK x g 1-1; XAUTOCLAIM x g d 0 0; XTRIM x MAXLEN \
     1; XINFO STREAM x FULL; XDEL x 1-1",
    "EVAL return{KEYS[1],ARGV[1]} 1 k v; EVAL return(redis.call('set',KEYS[1],1)) 1 k; SCRIPT LOAD \
     return(1); FUNCTION LIST",
];

fn encoded(script: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for command in script.split(';') {
        let args: Vec<&[u8]> = command.split_whitespace().map(str::as_bytes).collect();
        encode::command(&mut out, args.into_iter());
    }
    out
}

/// Requests of every family, and each command of the table once.
pub fn requests() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = SCRIPTS.iter().map(|script| encoded(script)).collect();
    let mut every = Vec::new();
    for spec in command::all().filter(|spec| spec.support == Support::Supported) {
        let mut args = vec![spec.name.as_bytes()];
        args.resize(spec.arity.unsigned_abs() as usize, b"1");
        encode::command(&mut every, args.into_iter());
        if every.len() > 800 {
            seeds.push(std::mem::take(&mut every));
        }
    }
    seeds.push(every);
    seeds.push(b"PING\r\nSET a \"quo ted\\x41\" \r\n*0\r\n*-1\r\n\r\n".to_vec());
    seeds
}

pub fn replies() -> Vec<Vec<u8>> {
    [
        "+OK\r\n-ERR x\r\n:12\r\n$3\r\nabc\r\n$-1\r\n*-1\r\n*2\r\n:1\r\n*0\r\n",
        "_\r\n#t\r\n,1.5\r\n,inf\r\n(12345678901234567890\r\n=7\r\ntxt:abc\r\n!5\r\nERR x\r\n",
        "%2\r\n+a\r\n:1\r\n+b\r\n~1\r\n:2\r\n>2\r\n+message\r\n$1\r\nx\r\n",
        "|1\r\n+ttl\r\n:5\r\n+OK\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn header(op: RecordOp, seq: u64, body_len: usize) -> RecordHeader {
    RecordHeader {
        op,
        flags: 0,
        db: 0,
        slot: Slot::default(),
        worker: WorkerId(1),
        seq,
        first_unacked: 1,
        tag: seq,
        body_len: body_len as u32,
    }
}

pub fn frames() -> Vec<Vec<u8>> {
    let body = encoded("SET k v");
    let mut record = BytesMut::new();
    header(RecordOp::Command, 1, body.len()).encode(&mut record);
    record.extend_from_slice(&body);
    let requests = [
        Request::Hello { version: 1, cluster_id: [1; 16], secret: [2; 32], worker: WorkerId(3) },
        Request::Write { shard: ShardId(1), record: record.freeze() },
        Request::Read(ReadRequest {
            shard: ShardId(1),
            flags: 0,
            op: ReadOp::Command,
            db: 0,
            slot: Slot::default(),
            depends_on_slot: Slot::default(),
            depends_on_seq: 0,
            tag: 5,
            body: encoded("GET k").into(),
        }),
        Request::Ping { nonce: 9 },
    ];
    let mut seeds = Vec::new();
    let mut all = BytesMut::new();
    for request in &requests {
        let mut one = BytesMut::new();
        request.encode(&mut one);
        all.extend_from_slice(&one);
        seeds.push(one.to_vec());
    }
    seeds.push(all.to_vec());
    let responses = [
        Response::Answer { tag: 1, status: AnswerStatus::Reply, payload: "+OK\r\n".into() },
        Response::Pong { nonce: 9 },
    ];
    for response in &responses {
        let mut one = BytesMut::new();
        response.encode(&mut one);
        seeds.push(one.to_vec());
    }
    seeds
}

/// Entries of the log: commands, a transaction, and what a primary does by itself.
pub fn batches() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for script in SCRIPTS {
        let commands = script.split(';').map(|command| (RecordOp::Command, encoded(command)));
        seeds.push(batch(commands.collect()));
    }
    let mut exec = vec![0, 0];
    exec.extend_from_slice(&2u32.to_le_bytes());
    exec.extend_from_slice(&encoded("SET k v;INCR k"));
    let unblock = [&2u64.to_le_bytes()[..], &[0]].concat();
    seeds.push(batch(vec![
        (RecordOp::Exec, exec),
        (RecordOp::Command, encoded("BLPOP l 0")),
        (RecordOp::Tick, Vec::new()),
        (RecordOp::Expire, encoded("k")),
        (RecordOp::Evict, encoded("k")),
        (RecordOp::Unblock, unblock),
        (RecordOp::RetireWorker, 1u64.to_le_bytes().to_vec()),
    ]));
    seeds
}

fn batch(records: Vec<(RecordOp, Vec<u8>)>) -> Vec<u8> {
    let mut out = BytesMut::new();
    let count = records.len() as u32;
    BatchHeader { count, time_ms: 1_800_000_000_000, seed: 7 }.encode(&mut out);
    for (index, (op, body)) in records.iter().enumerate() {
        header(*op, index as u64 + 1, body.len()).encode(&mut out);
        out.extend_from_slice(body);
    }
    out.to_vec()
}

/// Checkpoints of engines with some keys of every type.
pub fn rdb_files() -> Vec<Vec<u8>> {
    let mut seeds = vec![Client::default().checkpoint()];
    for script in SCRIPTS {
        let mut client = Client::default();
        for command in script.split(';').filter(|command| !command.contains("FLUSH")) {
            client.call_raw(&encoded(command));
        }
        seeds.push(client.checkpoint());
    }
    // The form that Redis writes, without our sections.
    let mut stock = b"REDIS0011\xfa\x09redis-ver\x057.2.0\xfe\x00\xfb\x02\x00".to_vec();
    stock.extend_from_slice(b"\x00\x01k\x01v\x04\x01h\x01\x01f\x01v\xff");
    stock.extend_from_slice(&[0; 8]);
    seeds.push(stock);
    seeds
}

/// DUMP payloads without their footers: of keys made here, and of older forms by hand.
pub fn payloads() -> Vec<Vec<u8>> {
    let mut client = Client::default();
    for script in SCRIPTS {
        for command in script.split(';').filter(|command| !command.contains("FLUSH")) {
            client.call_raw(&encoded(command));
        }
    }
    for i in 0..200 {
        client.call_raw(&encoded(&format!(
            "RPUSH L e{i};SADD S m{i};SADD I {i};HSET H f{i} {i};ZADD Z {i}.5 m{i}"
        )));
    }
    let mut seeds = Vec::new();
    for key in "s b h g d l m q i e x f z y w L S I H Z".split(' ') {
        let dump = client.call(&[b"DUMP", key.as_bytes()]);
        let start = dump.iter().position(|&b| b == b'\n').map_or(dump.len(), |at| at + 1);
        // The bulk string's end and the footer go.
        if let Some(payload) = dump[start..].len().checked_sub(12) {
            seeds.push(dump[start..start + payload].to_vec());
        }
    }
    seeds.extend(
        [
            &b"\x00\x05hello"[..],
            b"\x00\xc3\x04\x0a\x01aa\xe0\x00\x00",
            b"\x01\x02\x01a\x01b",
            b"\x02\x02\x01a\x01b",
            b"\x03\x01\x01a\x031.5",
            b"\x05\x01\x01a\x00\x00\x00\x00\x00\x00\xf8\x3f",
            b"\x04\x01\x01f\x01v",
            // A zipmap, a ziplist, an intset.
            b"\x09\x08\x01\x01f\x01\x00v\xff",
            b"\x0a\x0e\x0e\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\xf2\xff",
            b"\x0b\x0a\x02\x00\x00\x00\x01\x00\x00\x00\x05\x00",
            // A listpack as a hash.
            b"\x10\x0d\x0d\x00\x00\x00\x02\x00\x81f\x02\x01\x01\xff",
        ]
        .map(<[u8]>::to_vec),
    );
    seeds
}
