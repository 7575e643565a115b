//! Checkpoints: restart from one, bring a new replica up with one, hand over and stop.

#![allow(clippy::unwrap_used)] // Helpers outside of test functions.

mod common;

use common::{Client, Cluster, SECRET, wait_until};
use holdfast_proto::v1;
use holdfast_proto::v1::PersistenceMode;
use std::time::Duration;

#[test]
fn node_process() {
    common::maybe_run_node();
}

#[test]
fn a_restart_loads_the_checkpoint_and_the_log_after_it() {
    let mut cluster = Cluster::start(3, 1, PersistenceMode::AofAlways);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    for i in 0..200 {
        let key = format!("key:{i}");
        client.write(&[b"SET", key.as_bytes(), b"before"]);
        client.write(&[b"APPEND", b"all", b"x"]);
    }
    let write = client.next_write(b"n", &[b"INCR", b"n"]);
    let mut resent = bytes::BytesMut::new();
    write.encode(&mut resent);
    assert_eq!(client.until_reply(&resent, write.header.tag), ":1\r\n");
    for id in 1..=3 {
        assert!(cluster.checkpoint(id, 1) > 100);
    }
    client.write(&[b"SET", b"key:0", b"after"]);
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.start_node(id);
    }
    client.link = None;
    assert_eq!(client.read(&[b"GET", b"key:0"]), "$5\r\nafter\r\n");
    assert_eq!(client.read(&[b"GET", b"key:199"]), "$6\r\nbefore\r\n");
    assert_eq!(client.read(&[b"STRLEN", b"all"]), ":200\r\n");
    // Lanes are in the checkpoint: the old write is known.
    assert_eq!(client.until_reply(&resent, write.header.tag), ":1\r\n");
    assert!(cluster.logs().contains("checkpoint loaded"));
}

fn change(
    cluster: &Cluster,
    primary: u64,
    add_voters: Vec<u64>,
    add_learners: Vec<u64>,
    remove: Vec<u64>,
) -> v1::ChangeMembershipReply {
    let secret = SECRET.to_vec().into();
    let request =
        v1::ChangeMembershipRequest { secret, shard: 1, add_voters, add_learners, remove };
    cluster.control(primary, async |mut client| client.change_membership(request).await).unwrap()
}

#[test]
fn a_new_replica_is_fetched_from_the_primary_and_replaces_a_lost_one() {
    replace_a_lost_replica(false);
}

#[test]
fn a_damaged_checkpoint_is_not_sent_but_taken_again() {
    let logs = replace_a_lost_replica(true);
    assert!(logs.contains("is damaged, another one is taken"), "{logs}");
    // The new replica never loaded it, which would have ended its process.
    assert!(!logs.contains("cannot be loaded"), "{logs}");
}

fn replace_a_lost_replica(damaged: bool) -> String {
    let mut cluster = Cluster::start_with_spares(4, 1, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    for i in 0..1000 {
        client.write(&[b"SET", format!("key:{i}").as_bytes(), &[b'x'; 1000]]);
    }
    let primary = client.primary();
    if damaged {
        // Before it can fetch anything.
        cluster.kill(4);
    }
    let lost = (1..=3).find(|id| *id != primary).unwrap();
    cluster.kill(lost);
    let new_id = 199;
    cluster.change_topology(|topology| {
        let shard = &mut topology.shards[0];
        shard.replicas.retain(|replica| replica.node != lost);
        shard.replicas.push(v1::ReplicaInfo {
            raft_id: new_id,
            node: 4,
            role: v1::ReplicaRole::Learner as i32,
            founding: false,
        });
    });
    let reply = change(&cluster, primary, vec![], vec![new_id], vec![]);
    assert!(reply.done, "{reply:?}");
    if damaged {
        client.write(&[b"INCR", b"newer"]);
        let index = cluster.checkpoint(primary, 1);
        let path = cluster.checkpoint_path(primary, 1, index);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        cluster.start_node(4);
    }
    let applied = "holdfast_applied_log_index";
    // The primary offers a snapshot again 10 s after one that was not taken.
    wait_until("the new replica to catch up", Duration::from_secs(60), || {
        cluster.metric(4, applied) >= cluster.metric(primary, applied)
    });
    let reply = change(&cluster, primary, vec![new_id], vec![], vec![100 + lost]);
    assert!(reply.done, "{reply:?}");
    // Now the new one is half of the majority.
    let other = (1..=3).find(|id| *id != primary && *id != lost).unwrap();
    cluster.kill(other);
    assert_eq!(client.write(&[b"INCR", b"n"]), ":1\r\n");
    // Before the killed replica comes back the new one cannot win alone.
    cluster.start_node(other);
    cluster.kill(primary);
    client.link = None;
    assert_eq!(client.write(&[b"INCR", b"n"]), ":2\r\n");
    assert_eq!(client.read(&[b"STRLEN", b"key:999"]), ":1000\r\n");
    cluster.logs()
}

#[test]
fn a_replica_restarts_in_place_and_orders_are_checked() {
    let cluster = Cluster::start(3, 2, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 2);
    assert_eq!(client.write(&[b"INCR", b"n"]), ":1\r\n");
    for id in 1..=3 {
        let request = v1::NodeRestartReplicaRequest { secret: SECRET.to_vec().into(), shard: 2 };
        cluster.control(id, async |mut c| c.restart_replica(request).await).unwrap();
        assert_eq!(client.write(&[b"INCR", b"n"]), format!(":{}\r\n", id + 1));
    }
    let request = v1::CheckpointRequest { secret: b"wrong".to_vec().into(), shard: 1 };
    let refused = cluster.control(1, async |mut c| c.checkpoint(request).await).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let request = v1::CheckpointRequest { secret: SECRET.to_vec().into(), shard: 9 };
    let refused = cluster.control(1, async |mut c| c.checkpoint(request).await).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
}

#[test]
fn a_planned_stop_hands_leadership_over_first() {
    let mut cluster = Cluster::start(3, 1, PersistenceMode::AofEverysec);
    let topology = cluster.topology.clone();
    let mut client = Client::new(&topology, 1, 1);
    assert_eq!(client.write(&[b"INCR", b"n"]), ":1\r\n");
    let old = client.primary();
    let begun = std::time::Instant::now();
    assert_eq!(cluster.terminate(old), Some(0));
    client.link = None;
    assert_eq!(client.write(&[b"INCR", b"n"]), ":2\r\n");
    // An election by time-out would take a second at least.
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_ne!(client.primary(), old);
    cluster.start_node(old);
    wait_until("the node to come back", Duration::from_secs(5), || {
        std::net::TcpStream::connect(cluster.link_addr(old)).is_ok()
    });
}
