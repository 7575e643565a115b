//! RDB files and DUMP payloads against a real `redis-server`, in both directions.

#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.

mod common;

use common::{Local, Redis, Target, assert_same, keys, populate};
use holdfast_proto::resp::reply::Value;
use std::fs::File;

/// Options that make the server use the big encodings for everything.
const BIG: &[&str] = &[
    "--hash-max-listpack-entries",
    "0",
    "--zset-max-listpack-entries",
    "0",
    "--set-max-intset-entries",
    "0",
    "--list-max-listpack-size",
    "3",
    "--stream-node-max-entries",
    "7",
    "--rdbcompression",
    "no",
];

#[test]
fn redis_loads_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut local = Local::new();
    populate(&mut local);
    std::fs::write(folder.path().join("dump.rdb"), local.checkpoint()).unwrap();
    let Some(mut redis) = Redis::start(folder.path(), &["--sanitize-dump-payload", "yes"]) else {
        return;
    };
    assert_same(&mut local, &mut redis);
}

#[test]
fn a_file_of_redis_loads_here() {
    for options in [&[][..], BIG] {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut redis) = Redis::start(folder.path(), options) else { return };
        populate(&mut redis);
        assert_eq!(redis.run("SAVE"), Value::Simple("OK".into()));
        let mut local = Local::load(File::open(folder.path().join("dump.rdb")).unwrap());
        assert_same(&mut local, &mut redis);
    }
}

#[test]
fn dumps_restore_on_the_other_side() {
    for options in [&[][..], BIG] {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut redis) = Redis::start(folder.path(), options) else { return };
        redis.run("CONFIG SET sanitize-dump-payload yes");
        populate(&mut redis);
        let mut local = Local::new();
        transfer(&mut redis, &mut local);
        assert_same(&mut local, &mut redis);
        redis.run("FLUSHALL");
        transfer(&mut local, &mut redis);
        assert_same(&mut local, &mut redis);
    }
}

fn transfer(from: &mut impl Target, to: &mut impl Target) {
    for db in ["0", "3"] {
        from.call(&[b"SELECT", db.as_bytes()]);
        to.call(&[b"SELECT", db.as_bytes()]);
        for key in keys(from) {
            let payload = from.call(&[b"DUMP", &key]);
            let expires = from.call(&[b"PEXPIRETIME", &key]).as_integer().unwrap().max(0);
            let restored = to.call(&[
                b"RESTORE",
                &key,
                expires.to_string().as_bytes(),
                payload.as_bytes().unwrap(),
                b"ABSTTL",
            ]);
            assert_eq!(restored, Value::Simple("OK".into()), "{key:?}");
        }
    }
}

/// The errors of RESTORE, and in which order they are found.
#[test]
fn restore_fails_as_in_redis() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut redis) = Redis::start(folder.path(), &[]) else { return };
    let mut local = Local::new();
    redis.run("SET source hello");
    let payload = redis.run("DUMP source").as_bytes().unwrap().to_vec();
    let mut damaged = payload.clone();
    damaged[2] ^= 1;
    let mut newer = payload.clone();
    let version_at = newer.len() - 10;
    newer[version_at] = 200;
    let unknown_type = signed(&[99, 5, 1, 2]);
    // Longer than the footer: Redis would read on into that.
    let cut = signed(&[0, 40, b'h']);
    let empty_list = signed(&[1, 0]);
    let duplicate_member = signed(b"\x02\x02\x01a\x01a");
    let cases: &[&[&[u8]]] = &[
        &[b"RESTORE", b"new", b"0", &payload],
        &[b"RESTORE", b"new", b"0", &payload],
        &[b"RESTORE", b"new", b"x", b"garbage"],
        &[b"RESTORE", b"new", b"0", &payload, b"replace"],
        &[b"RESTORE", b"other", b"x", &payload],
        &[b"RESTORE", b"other", b"-1", b"garbage"],
        &[b"RESTORE", b"other", b"0", b"garbage"],
        &[b"RESTORE", b"other", b"0", b""],
        &[b"RESTORE", b"other", b"0", &damaged],
        &[b"RESTORE", b"other", b"0", &newer],
        &[b"RESTORE", b"other", b"0", &unknown_type],
        &[b"RESTORE", b"other", b"0", &cut],
        &[b"RESTORE", b"other", b"0", &empty_list],
        &[b"RESTORE", b"other", b"0", &duplicate_member],
        &[b"RESTORE", b"other", b"0", &payload, b"IDLETIME"],
        &[b"RESTORE", b"other", b"0", &payload, b"IDLETIME", b"-1"],
        &[b"RESTORE", b"other", b"0", &payload, b"IDLETIME", b"5", b"FREQ", b"5"],
        &[b"RESTORE", b"other", b"0", &payload, b"FREQ", b"256"],
        &[b"RESTORE", b"other", b"0", &payload, b"FREQ", b"x"],
        &[b"RESTORE", b"other", b"0", &payload, b"FREQ", b"7"],
        &[b"RESTORE", b"other", b"0", &payload, b"NONSENSE"],
        &[b"RESTORE", b"past", b"1", &payload, b"ABSTTL"],
        &[b"EXISTS", b"past"],
        &[b"RESTORE", b"new", b"1", &payload, b"ABSTTL", b"REPLACE"],
        &[b"EXISTS", b"new"],
        &[b"GET", b"other"],
        &[b"DUMP", b"missing"],
        &[b"RESTORE", b"few"],
        &[b"DUMP"],
    ];
    for case in cases {
        let shown: Vec<_> = case.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        assert_eq!(local.call(case), redis.call(case), "{shown:?}");
    }
}

/// A payload with a right footer.
fn signed(body: &[u8]) -> Vec<u8> {
    use holdfast_engine::rdb;
    let mut payload = body.to_vec();
    payload.extend_from_slice(&rdb::VERSION.to_le_bytes());
    let crc = rdb::crc64::update(0, &payload);
    payload.extend_from_slice(&crc.to_le_bytes());
    payload
}
