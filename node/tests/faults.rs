//! Disks that fail and processes that die between two steps of a write: the others go on, and
//! nothing acknowledged is lost or done twice.

#![allow(clippy::unwrap_used)] // Helpers outside of test functions.

mod common;

use common::{Client, Cluster, Link, SECRET, command, wait_until};
use holdfast_consensus::durable::EXIT_CODE;
use holdfast_proto::frame::{AnswerStatus, ReadOp, ReadRequest, Request, Response};
use holdfast_proto::ids::ShardId;
use holdfast_proto::slot::Slot;
use holdfast_proto::v1;
use holdfast_proto::v1::PersistenceMode;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

#[test]
fn node_process() {
    common::maybe_run_node();
}

/// Counts to `to` whatever happens, each step exactly once.
fn count(client: &mut Client, from: u64, to: u64) {
    for i in from..=to {
        assert_eq!(client.write(&[b"INCR", b"n"]), format!(":{i}\r\n"));
    }
}

fn caught_up(cluster: &Cluster, node: u64, primary: u64) {
    let applied = "holdfast_applied_log_index";
    wait_until("the restarted node to catch up", Duration::from_secs(10), || {
        let wanted = cluster.metric(primary, applied);
        wanted > 0 && cluster.metric(node, applied) >= wanted
    });
}

/// The primary's disk fails under writes: it says why and ends, and another one goes on.
fn a_disk_fails(mode: PersistenceMode, fault: &str, reason: &str) {
    let mut cluster = Cluster::start(3, 1, mode);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    count(&mut client, 1, 20);
    let old = client.primary();
    cluster.faults(old, fault);
    let mut done = 20;
    // Written to until it ends: only a write finds out that a disk is full.
    while client.primary() == old {
        count(&mut client, done + 1, done + 1);
        done += 1;
    }
    let status = cluster.ended(old);
    assert_eq!(status.code(), Some(EXIT_CODE), "{status:?}");
    let log = cluster.log(old);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(reason) && lines[0].contains("the process ends"), "{lines:?}");
    count(&mut client, done + 1, done + 20);
    cluster.faults(old, "");
    cluster.start_node(old);
    caught_up(&cluster, old, client.primary());
    assert_eq!(client.read(&[b"GET", b"n"]).len(), format!("$2\r\n{}\r\n", done + 20).len());
    count(&mut client, done + 21, done + 21);
}

#[test]
fn a_failed_sync_ends_the_process_before_it_acknowledges() {
    a_disk_fails(PersistenceMode::AofAlways, "fail-sync", "cannot sync the log");
}

#[test]
fn a_failed_sync_once_a_second_ends_the_process() {
    a_disk_fails(PersistenceMode::AofEverysec, "fail-sync", "cannot sync the log");
}

#[test]
fn a_full_disk_ends_the_process() {
    a_disk_fails(PersistenceMode::AofEverysec, "full", "cannot write the log");
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_process() {
    let mut cluster = Cluster::start(1, 1, PersistenceMode::AofAlways);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    count(&mut client, 1, 5);
    cluster.faults(1, "full");
    let request = v1::CheckpointRequest { secret: SECRET.to_vec().into(), shard: 1 };
    let asked = cluster.control(1, async |mut control| control.checkpoint(request).await);
    assert!(asked.is_err(), "{asked:?}");
    assert_eq!(cluster.ended(1).code(), Some(EXIT_CODE));
    assert!(cluster.log(1).contains("taken.tmp"), "{}", cluster.log(1));
    cluster.faults(1, "");
    cluster.start_node(1);
    client.link = None;
    count(&mut client, 6, 6);
}

#[test]
fn a_slow_disk_delays_and_loses_nothing() {
    let cluster = Cluster::start(3, 1, PersistenceMode::AofAlways);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    count(&mut client, 1, 5);
    for id in 1..=3 {
        cluster.faults(id, "slow-sync 100");
    }
    count(&mut client, 6, 15);
    let begun = std::time::Instant::now();
    count(&mut client, 16, 16);
    assert!(begun.elapsed() >= Duration::from_millis(90), "{:?}", begun.elapsed());
}

#[test]
fn death_at_any_step_of_a_write_does_it_exactly_once() {
    let points = [
        "before-propose",
        "after-append",
        "after-fsync",
        "after-commit",
        "after-apply",
        "after-reply",
    ];
    let mut cluster = Cluster::start(3, 1, PersistenceMode::AofAlways);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    let mut done = 10;
    count(&mut client, 1, done);
    for point in points {
        let old = client.primary();
        cluster.faults(old, &format!("failpoint {point}:7"));
        while client.primary() == old {
            count(&mut client, done + 1, done + 1);
            done += 1;
        }
        assert_eq!(cluster.ended(old).signal(), Some(9), "{point}");
        cluster.faults(old, "");
        cluster.start_node(old);
        count(&mut client, done + 1, done + 5);
        done += 5;
        caught_up(&cluster, old, client.primary());
    }
}

#[test]
fn wrong_clocks_bend_neither_leases_nor_time() {
    let cluster = Cluster::start(3, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    count(&mut client, 1, 1);
    let ahead = client.primary();
    cluster.faults(ahead, "clock-offset-ms 3600000\nclock-rate-ppm 20000");
    assert_eq!(client.write(&[b"SET", b"k", b"v", b"EX", b"60"]), "+OK\r\n");
    let far = client.read(&[b"EXPIRETIME", b"k"]);
    // The clock goes back; the cluster's time does not: the key still has its minute.
    cluster.faults(ahead, "clock-offset-ms -3600000");
    count(&mut client, 2, 20);
    assert_eq!(client.read(&[b"EXPIRETIME", b"k"]), far);
    assert_eq!(client.read(&[b"GET", b"k"]), "$1\r\nv\r\n");
    assert_eq!(client.read(&[b"GET", b"n"]), "$2\r\n20\r\n");
}

/// Reads that waited in the socket of a primary that was stopped while another took over.
#[test]
fn a_primary_that_slept_answers_no_stale_read() {
    let cluster = Cluster::start(3, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    count(&mut client, 1, 5);
    let old = client.primary();
    let mut link = Link::connect(cluster.link_addr(old), old, 2).unwrap();
    let read = |link: &mut Link, tag| {
        let body = command(&[b"GET", b"n"]);
        let read = ReadRequest {
            shard: ShardId(1),
            flags: 0,
            db: 0,
            slot: Slot::of_key(b"n"),
            tag,
            depends_on_slot: Slot::default(),
            depends_on_seq: 0,
            op: ReadOp::Command,
            body,
        };
        link.send(&Request::Read(read)).unwrap();
    };
    read(&mut link, 1);
    assert!(answer(&mut link, 1).is_some_and(|reply| reply == "$1\r\n5\r\n"));
    cluster.signal(old, rustix::process::Signal::STOP);
    client.link = None;
    count(&mut client, 6, 30);
    assert_ne!(client.primary(), old);
    // Asked after all that was acknowledged.
    for tag in 2..50 {
        read(&mut link, tag);
    }
    cluster.signal(old, rustix::process::Signal::CONT);
    for tag in 2..50 {
        let reply = answer(&mut link, tag);
        assert!(reply.as_ref().is_none_or(|reply| reply == "$2\r\n30\r\n"), "{tag}: {reply:?}");
    }
}

/// The answer to a read; `None`: the node refused it.
fn answer(link: &mut Link, wanted: u64) -> Option<bytes::Bytes> {
    loop {
        if let Response::Answer { tag, status, payload } =
            link.receive(Duration::from_secs(10)).unwrap()
            && tag == wanted
        {
            return (status == AnswerStatus::Reply).then_some(payload);
        }
    }
}
