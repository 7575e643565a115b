//! Scripts on a cluster of real processes: found everywhere, and each run exactly once.

use holdfast_chaos_tests::harness::{Cluster, ClusterOptions};
use holdfast_cli::client::Connection;
use holdfast_proto::resp::reply::Value;
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ADD: &str =
    "redis.call('RPUSH', KEYS[1] .. ':log', ARGV[1]) return redis.call('INCR', KEYS[1])";

fn bulk(value: &Value) -> String {
    String::from_utf8_lossy(value.as_bytes().expect("a string")).into_owned()
}

/// Calls a script once for each number until told to stop; how many calls were acknowledged.
async fn add_for_ever(
    index: usize,
    mut client: Connection,
    sha: String,
    stop: Arc<AtomicBool>,
) -> u64 {
    let key = format!("{{counter:{index}}}");
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        calls += 1;
        let number = calls.to_string();
        let reply = client.call(&["EVALSHA", &sha, "1", &key, &number]).await;
        assert_eq!(reply.expect("the connection lives"), Value::Integer(calls as i64), "{key}");
    }
    calls
}

#[tokio::test]
async fn scripts_run_exactly_once_through_kills_of_primaries() {
    let folder = tempfile::tempdir().unwrap();
    let options = ClusterOptions {
        shards: 2,
        replicas: 3,
        persistence: "aof-everysec".to_owned(),
        port: 20_060,
        internal_port: 26_100,
        binary: PathBuf::from(env!("CARGO_BIN_EXE_holdfast")),
    };
    let cluster = Cluster::start(folder.path(), &options).await.unwrap();
    cluster.wait_healthy(Duration::from_secs(60)).await.unwrap();
    let mut client = cluster.connect().await.unwrap();
    let sha = bulk(&client.call(&["SCRIPT", "LOAD", ADD]).await.unwrap());
    let library = "#!lua name=lib\nredis.register_function('twice', function(keys) redis.call('INCR', keys[1]) return redis.call('INCR', keys[1]) end)";
    assert_eq!(bulk(&client.call(&["FUNCTION", "LOAD", library]).await.unwrap()), "lib");

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for index in 0..4 {
        let connection = cluster.connect().await.unwrap();
        writers.push(tokio::spawn(add_for_ever(index, connection, sha.clone(), stop.clone())));
    }
    for shard in [1, 2] {
        cluster.wait_healthy(Duration::from_secs(60)).await.unwrap();
        let primary = cluster.primary(shard).await.unwrap();
        let name = cluster.node_name(primary).await.unwrap();
        cluster.signal(&name, Signal::KILL).unwrap();
        // The writers go on while another primary takes over.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for (index, writer) in writers.into_iter().enumerate() {
        let calls = writer.await.expect("every call was answered in order");
        assert!(calls > 20, "{calls} calls");
        let key = format!("{{counter:{index}}}");
        let stored = bulk(&client.call(&["GET", &key]).await.unwrap());
        assert_eq!(stored, calls.to_string());
        let log = client.call(&["LRANGE", &format!("{key}:log"), "0", "-1"]).await.unwrap();
        let log: Vec<_> = log.as_array().unwrap().iter().map(bulk).collect();
        assert!(log.iter().cloned().eq((1..=calls).map(|call| call.to_string())), "{key}");
    }

    // Both shards have what only one connection loaded, in transactions too.
    for index in 0..8 {
        let key = format!("{{f:{index}}}");
        let reply = client.call(&["FCALL", "twice", "1", &key]).await.unwrap();
        assert_eq!(reply, Value::Integer(2));
        client.call(&["MULTI"]).await.unwrap();
        client.call(&["EVALSHA", &sha, "1", &key, "x"]).await.unwrap();
        client.call(&["FCALL", "twice", "1", &key]).await.unwrap();
        let reply = client.call(&["EXEC"]).await.unwrap();
        assert_eq!(reply, Value::Array(vec![Value::Integer(3), Value::Integer(5)]));
    }
    // A script that only an EVAL brought to one shard, through connections that never saw it.
    let body = "return ARGV[1] .. KEYS[1]";
    let mut seen = client.call(&["EVAL", body, "1", "a", "x"]).await.unwrap();
    assert_eq!(bulk(&seen), "xa");
    let sha = holdfast_proto::sha1::hex(body.as_bytes());
    for index in 0..8 {
        let mut other = cluster.connect().await.unwrap();
        let key = format!("k:{index}");
        seen = other.call(&["EVALSHA", &sha, "1", &key, "x"]).await.unwrap();
        assert_eq!(bulk(&seen), format!("x{key}"));
    }
}
