//! `maxmemory` under write load, with real processes.

#![allow(clippy::unwrap_used)] // Helpers outside of test functions.

mod common;

use bytes::BytesMut;
use common::{Client, Cluster, wait_until};
use holdfast_proto::frame::{AnswerStatus, Response};
use holdfast_proto::v1::PersistenceMode;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 24 * MIB;
/// Writes under way at a time.
const PIPELINE: usize = 200;

#[test]
fn node_process() {
    common::maybe_run_node();
}

fn limit(cluster: &mut Cluster, policy: &str) {
    let settings = [("maxmemory", LIMIT.to_string()), ("maxmemory-policy", policy.to_owned())];
    cluster.change_topology(|topology| {
        let spec = topology.spec.as_mut().unwrap();
        spec.shards = 1;
        spec.settings.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    });
}

/// Sends `count` SETs of 1000 bytes, many at a time; the answers that are not OK.
fn load(client: &mut Client<'_>, first: usize, count: usize, expire: bool) -> Vec<String> {
    let value = vec![b'x'; 1000];
    let mut refused = Vec::new();
    for batch in (first..first + count).collect::<Vec<_>>().chunks(PIPELINE) {
        let mut frames = BytesMut::new();
        let mut last = 0;
        for number in batch {
            let key = format!("key:{number}").into_bytes();
            let mut args = vec![b"SET".as_slice(), key.as_slice(), value.as_slice()];
            if expire {
                args.extend([b"EX".as_slice(), b"10000".as_slice()]);
            }
            let write = client.next_write(&key, &args);
            write.encode(&mut frames);
            last = write.header.tag;
        }
        refused.extend(answers(client, &frames, last, batch.len()));
    }
    refused
}

/// Sends writes to the primary and takes all answers: those that are not OK.
fn answers(client: &mut Client<'_>, frames: &[u8], last: u64, count: usize) -> Vec<String> {
    let link = client.link.as_mut().unwrap();
    link.send_bytes(frames).unwrap();
    let first = last + 1 - count as u64;
    let mut refused = Vec::new();
    let mut left = count;
    while left > 0 {
        match link.receive(Duration::from_secs(10)).unwrap() {
            Response::Answer { tag, status: AnswerStatus::Reply, payload } if tag >= first => {
                left -= 1;
                if payload != "+OK\r\n" {
                    refused.push(String::from_utf8(payload.to_vec()).unwrap());
                }
            }
            Response::PrimaryIs { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    refused
}

#[test]
fn a_primary_keeps_within_the_limit_under_load() {
    let mut cluster = Cluster::start(3, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    for (round, policy) in ["allkeys-lru", "allkeys-lfu", "volatile-ttl"].iter().enumerate() {
        limit(&mut cluster, policy);
        assert_eq!(client.write(&[b"FLUSHALL", b"SYNC"]), "+OK\r\n");
        let mut greatest = 0;
        for part in 0..12 {
            let first = (round * 12 + part) * 4000;
            assert_eq!(load(&mut client, first, 4000, true), [] as [&str; 0], "{policy}");
            greatest = greatest.max(cluster.metric(client.primary(), "redis_memory_used_bytes"));
        }
        assert!(greatest > LIMIT * 9 / 10, "{policy}: only {greatest} bytes were used");
        assert!(greatest < LIMIT * 105 / 100, "{policy}: {greatest} bytes were used");
        let evicted = cluster.metric(client.primary(), "redis_evicted_keys_total");
        assert!(evicted > 20_000 * (round as u64 + 1), "{policy}: {evicted} evicted");
    }
    // Every replica has given up the same keys.
    wait_until("the replicas to agree", Duration::from_secs(10), || {
        let keys = cluster.metric(1, "redis_db_keys");
        keys > 0 && (2..=3).all(|id| cluster.metric(id, "redis_db_keys") == keys)
    });
}

#[test]
fn without_eviction_what_needs_memory_is_refused() {
    let mut cluster = Cluster::start(3, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    for policy in ["noeviction", "volatile-lru"] {
        limit(&mut cluster, policy);
        assert_eq!(client.write(&[b"FLUSHALL", b"SYNC"]), "+OK\r\n");
        let refused = load(&mut client, 0, 30_000, false);
        assert!(refused.len() > 2000, "{policy}: {} refused", refused.len());
        let error = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
        assert!(refused.iter().all(|answer| answer == error), "{policy}: {}", refused[0]);
        let used = cluster.metric(client.primary(), "redis_memory_used_bytes");
        assert!(used < LIMIT * 105 / 100, "{policy}: {used} bytes were used");
        assert_eq!(client.write(&[b"INCR", b"counter"]), error);
        let script = b"return redis.call('INCR', 'counter')".as_slice();
        let reply = client.write(&[b"EVAL", script, b"0"]);
        assert!(reply.starts_with(b"-OOM command not allowed"), "{reply:?}");
        let frees = b"redis.call('DEL', 'key:1000') return redis.call('SET', 'room', 1)".as_slice();
        assert_eq!(client.write(&[b"EVAL", frees, b"0"]), "+OK\r\n");
        // What frees memory works, and then everything does.
        assert_eq!(client.read(&[b"EXISTS", b"key:1"]), ":1\r\n");
        for number in 0..1000 {
            let key = format!("key:{number}");
            assert_eq!(client.write(&[b"DEL", key.as_bytes()]), ":1\r\n");
        }
        wait_until("writes to be accepted", Duration::from_secs(5), || {
            client.write(&[b"INCR", b"counter"]).starts_with(b":")
        });
    }
}
