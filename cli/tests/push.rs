//! What clients are told without asking, through real processes and failovers: messages, keyspace
//! events, invalidations.

use holdfast_chaos_tests::harness::{Cluster, ClusterOptions};
use holdfast_cli::client::Connection;
use holdfast_proto::resp::reply::Value;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn options(index: u16, shards: u32) -> ClusterOptions {
    ClusterOptions {
        shards,
        replicas: 3,
        persistence: "none".to_owned(),
        port: 23_000 + index,
        internal_port: 23_100 + index * 100,
        binary: PathBuf::from(env!("CARGO_BIN_EXE_holdfast")),
    }
}

/// A value in one line, to be compared.
fn show(value: &Value) -> String {
    match value {
        Value::Push(all) | Value::Array(all) => all.iter().map(show).collect::<Vec<_>>().join(" "),
        Value::Integer(number) => number.to_string(),
        Value::Null | Value::NullArray => "null".to_owned(),
        other => String::from_utf8_lossy(other.as_bytes().unwrap_or(b"?")).into_owned(),
    }
}

async fn call(connection: &mut Connection, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    show(&timeout(PATIENCE, connection.call(&words)).await.expect("in time").expect("a reply"))
}

async fn next(connection: &mut Connection) -> String {
    show(&timeout(PATIENCE, connection.reply()).await.expect("in time").expect("a push"))
}

async fn kill_primary(cluster: &Cluster, shard: u32) {
    let node = cluster.primary(shard).await.expect("the cluster answers");
    let name = cluster.node_name(node).await.expect("the cluster answers");
    cluster.signal(&name, Signal::KILL).expect("the cluster answers");
}

/// A channel or key whose slot is the shard's: the first half of the slots is shard 1's.
fn name_of(shard: u32, prefix: &str) -> String {
    let of = |name: &str| {
        let slot = holdfast_proto::slot::Slot::of_key(name.as_bytes()).get();
        u32::from(slot >= 8192) + 1
    };
    (0..).map(|n| format!("{prefix}{n}")).find(|name| of(name) == shard).expect("some key is there")
}

#[tokio::test]
async fn messages_go_on_through_failovers_each_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(1, 2)).await.unwrap();
    let channels = [name_of(1, "news"), name_of(2, "news")];
    let mut subscriber = cluster.connect().await.unwrap();
    let mut by_pattern = cluster.connect().await.unwrap();
    for (count, channel) in channels.iter().enumerate() {
        let told = call(&mut subscriber, &format!("SUBSCRIBE {channel}")).await;
        assert_eq!(told, format!("subscribe {channel} {}", count + 1));
    }
    assert_eq!(call(&mut by_pattern, "PSUBSCRIBE news*").await, "psubscribe news* 1");
    let read = |mut connection: Connection, at: usize| {
        tokio::spawn(async move {
            let mut got = Vec::new();
            loop {
                let message = next(&mut connection).await;
                let words: Vec<&str> = message.split(' ').collect();
                if words[at + 1] == "end" {
                    return got;
                }
                got.push((words[at].to_owned(), words[at + 1].parse::<u64>().unwrap()));
            }
        })
    };
    let (direct, matched) = (read(subscriber, 1), read(by_pattern, 2));
    let mut publisher = cluster.connect().await.unwrap();
    let mut number = 0;
    for kill in 0..3 {
        for round in 0..150 {
            number += 1;
            for channel in &channels {
                let reply = call(&mut publisher, &format!("PUBLISH {channel} {number}")).await;
                assert_eq!(reply, "2", "message {number}");
            }
            if round == 50 {
                kill_primary(&cluster, kill % 2 + 1).await;
            }
        }
        cluster.wait_healthy(PATIENCE).await.unwrap();
    }
    call(&mut publisher, &format!("PUBLISH {} end", channels[0])).await;
    for got in [direct.await.unwrap(), matched.await.unwrap()] {
        for channel in &channels {
            let of_channel: Vec<u64> =
                got.iter().filter(|(name, _)| name == channel).map(|(_, n)| *n).collect();
            assert!(of_channel.is_sorted_by(|a, b| a < b), "{channel}: {of_channel:?}");
            // A message that was answered may die with the primary, as with a Redis server; the
            // one under way at each kill of its shard at most.
            let missing = number as usize - of_channel.len();
            assert!(missing <= 2, "{channel}: {missing} of {number} are missing");
        }
    }
}

#[tokio::test]
async fn introspection_transactions_and_keyspace_events_speak_for_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(2, 2)).await.unwrap();
    let mut subscriber = cluster.connect().await.unwrap();
    let mut client = cluster.connect().await.unwrap();
    assert_eq!(call(&mut subscriber, "SUBSCRIBE news").await, "subscribe news 1");
    assert_eq!(call(&mut subscriber, "SSUBSCRIBE part").await, "ssubscribe part 1");
    assert_eq!(call(&mut subscriber, "PSUBSCRIBE n*").await, "psubscribe n* 2");
    assert_eq!(call(&mut client, "PUBSUB CHANNELS").await, "news");
    assert_eq!(call(&mut client, "PUBSUB NUMSUB news other").await, "news 1 other 0");
    assert_eq!(call(&mut client, "PUBSUB NUMPAT").await, "1");
    assert_eq!(call(&mut client, "PUBSUB SHARDCHANNELS").await, "part");
    assert_eq!(call(&mut client, "SPUBLISH part hello").await, "1");
    assert_eq!(next(&mut subscriber).await, "smessage part hello");
    // From inside a transaction, on whatever shard it runs: once, although it is logged.
    for shard in [1, 2] {
        let key = name_of(shard, "k");
        assert_eq!(call(&mut client, "MULTI").await, "OK");
        assert_eq!(call(&mut client, &format!("SET {key} v")).await, "QUEUED");
        assert_eq!(call(&mut client, "PUBLISH news inside").await, "QUEUED");
        assert_eq!(call(&mut client, "EXEC").await, "OK 0");
        assert_eq!(next(&mut subscriber).await, "message news inside");
        assert_eq!(next(&mut subscriber).await, "pmessage n* news inside");
    }
}

#[tokio::test]
async fn a_tracking_client_is_told_through_failovers() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(3, 1)).await.unwrap();
    let mut reader = cluster.connect().await.unwrap();
    let mut writer = cluster.connect().await.unwrap();
    assert_eq!(call(&mut writer, "MSET a 1 b 1").await, "OK");
    timeout(PATIENCE, reader.call(&["HELLO", "3"])).await.unwrap().unwrap();
    assert_eq!(call(&mut reader, "CLIENT TRACKING ON").await, "OK");
    assert_eq!(call(&mut reader, "GET a").await, "1");
    assert_eq!(call(&mut writer, "INCR a").await, "2");
    assert_eq!(next(&mut reader).await, "invalidate a");
    // Told once: the key was not read since.
    assert_eq!(call(&mut writer, "INCR a").await, "3");
    assert_eq!(call(&mut reader, "GET b").await, "1");
    assert_eq!(call(&mut writer, "DEL b").await, "1");
    assert_eq!(next(&mut reader).await, "invalidate b");
    assert_eq!(call(&mut reader, "GET a").await, "3");
    kill_primary(&cluster, 1).await;
    // Whatever was read from the dead primary is to be forgotten.
    assert_eq!(next(&mut reader).await, "invalidate null");
    let mut flushes = BTreeSet::new();
    let value = loop {
        let words: Vec<&str> = vec!["GET", "a"];
        reader.push(&words);
        reader.flush().await.unwrap();
        let value = loop {
            match next(&mut reader).await {
                told if told.starts_with("invalidate") => flushes.insert(told),
                value => break value,
            };
        };
        if value == "3" {
            break value;
        }
    };
    assert_eq!(value, "3");
    assert!(flushes.iter().all(|told| told == "invalidate null"), "{flushes:?}");
    // The new primary remembers what is read from it.
    assert_eq!(call(&mut writer, "INCR a").await, "4");
    assert_eq!(next(&mut reader).await, "invalidate a");
}
