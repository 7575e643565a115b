//! Node processes that replicate, fail over and restart.

#![allow(clippy::unwrap_used)] // Helpers outside of test functions.

mod common;

use bytes::BytesMut;
use common::{Client, Cluster, Link, wait_until};
use holdfast_proto::frame::{AnswerStatus, Response};
use holdfast_proto::v1::PersistenceMode;
use std::time::Duration;

#[test]
fn node_process() {
    common::maybe_run_node();
}

#[test]
fn a_shard_serves_and_outlives_its_primary() {
    let mut cluster = Cluster::start(3, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    assert_eq!(client.write(&[b"SET", b"k", b"v"]), "+OK\r\n");
    assert_eq!(client.read(&[b"GET", b"k"]), "$1\r\nv\r\n");
    for i in 1..=20 {
        assert_eq!(client.write(&[b"INCR", b"n"]), format!(":{i}\r\n"));
    }
    // The same write once more, at the same primary: its kept answer, nothing executed.
    let write = client.next_write(b"n", &[b"INCR", b"n"]);
    let mut frame = BytesMut::new();
    write.encode(&mut frame);
    assert_eq!(client.until_reply(&frame, write.header.tag), ":21\r\n");
    assert_eq!(client.until_reply(&frame, write.header.tag), ":21\r\n");
    // And at the next one.
    let old = client.primary();
    cluster.kill(old);
    client.link = None;
    assert_eq!(client.until_reply(&frame, write.header.tag), ":21\r\n");
    assert_ne!(client.primary(), old);
    assert_eq!(client.write(&[b"INCR", b"n"]), ":22\r\n");
    assert_eq!(client.read(&[b"GET", b"k"]), "$1\r\nv\r\n");
    // The old one comes back and catches up.
    cluster.start_node(old);
    let applied = "holdfast_applied_log_index";
    let primary = client.primary();
    wait_until("the restarted node to catch up", Duration::from_secs(10), || {
        cluster.metric(old, applied) >= cluster.metric(primary, applied)
    });
}

#[test]
fn all_killed_at_once_come_back_with_everything() {
    for mode in [PersistenceMode::AofEverysec, PersistenceMode::AofAlways] {
        let mut cluster = Cluster::start(3, 2, mode);
        let topology = cluster.topology.clone();
        let mut clients = [Client::new(&topology, 1, 1), Client::new(&topology, 2, 2)];
        for client in &mut clients {
            for i in 1..=50 {
                assert_eq!(client.write(&[b"INCR", b"n"]), format!(":{i}\r\n"));
            }
        }
        for id in 1..=3 {
            cluster.kill(id);
        }
        for id in 1..=3 {
            cluster.start_node(id);
        }
        for client in &mut clients {
            client.link = None;
            assert_eq!(client.read(&[b"GET", b"n"]), "$2\r\n50\r\n");
            assert_eq!(client.write(&[b"INCR", b"n"]), ":51\r\n");
        }
    }
}

#[test]
fn a_pipeline_is_answered_in_full_and_strangers_are_refused() {
    let cluster = Cluster::start(1, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    assert_eq!(client.write(&[b"SET", b"n", b"0"]), "+OK\r\n");
    let mut frames = BytesMut::new();
    for _ in 0..20_000 {
        client.next_write(b"n", &[b"INCR", b"n"]).encode(&mut frames);
    }
    let link = client.link.as_mut().unwrap();
    link.send_bytes(&frames).unwrap();
    for i in 1..=20_000 {
        let response = link.receive(Duration::from_secs(10)).unwrap();
        let Response::Answer { status: AnswerStatus::Reply, payload, .. } = response else {
            panic!("{response:?}");
        };
        assert_eq!(payload, format!(":{i}\r\n"));
    }
    let mut stranger = std::net::TcpStream::connect(cluster.link_addr(1)).unwrap();
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stranger, &mut answer).ok();
    assert!(!answer.is_empty());
    assert!(Link::connect(cluster.link_addr(1), 1, 9).is_ok());
    assert!(cluster.metrics(1).contains("redis_up 1"));
}
