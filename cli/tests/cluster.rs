//! Whole clusters of real processes: what a user sees first, and what must never go wrong.

use holdfast_chaos_tests::failover::{self, FailoverOptions};
use holdfast_chaos_tests::harness::{Cluster, ClusterOptions};
use holdfast_cli::client::Connection;
use holdfast_proto::resp::reply::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Each test has its own ports, so that tests can run side by side.
fn options(index: u16, shards: u32, persistence: &str) -> ClusterOptions {
    ClusterOptions {
        shards,
        replicas: 3,
        persistence: persistence.to_owned(),
        port: 20_000 + index,
        internal_port: 20_100 + index * 100,
        binary: PathBuf::from(env!("CARGO_BIN_EXE_holdfast")),
    }
}

async fn text(connection: &mut Connection, words: &[&str]) -> String {
    match connection.call(words).await.expect("the connection lives") {
        Value::Simple(text) | Value::Bulk(text) | Value::Error(text) => {
            String::from_utf8_lossy(&text).into_owned()
        }
        Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn writes_survive_kills_of_primaries_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(1, 2, "aof-everysec")).await.unwrap();
    let options = FailoverOptions {
        kills: 4,
        planned: false,
        writers: 4,
        blocked: true,
        pause: Duration::from_millis(200),
    };
    let report = failover::run(&cluster, &options).await.unwrap();
    assert_eq!((report.errors, report.lost, report.doubled), (0, 0, 0), "{report:?}");
    assert!(report.writes > 100 && report.popped > 0 && report.transactions > 0, "{report:?}");
}

#[tokio::test]
async fn planned_failovers_are_invisible() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(2, 1, "aof-everysec")).await.unwrap();
    let options = FailoverOptions {
        kills: 4,
        planned: true,
        writers: 4,
        blocked: false,
        pause: Duration::from_millis(200),
    };
    let report = failover::run(&cluster, &options).await.unwrap();
    assert_eq!((report.errors, report.lost, report.doubled), (0, 0, 0), "{report:?}");
}

#[tokio::test]
async fn everything_acknowledged_survives_a_kill_of_all_processes() {
    for (index, mode) in [(3, "aof-always"), (4, "aof-everysec")] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(index, 2, mode);
        let cluster = Cluster::start(folder.path(), &options).await.unwrap();
        let mut client = cluster.connect().await.unwrap();
        for key in 0..500 {
            let reply = text(&mut client, &["SET", &format!("key:{key}"), &key.to_string()]).await;
            assert_eq!(reply, "OK");
        }
        drop(client);
        cluster.kill_all();
        let cluster = Cluster::start(folder.path(), &options).await.unwrap();
        let mut client = cluster.connect().await.unwrap();
        for key in 0..500 {
            let reply = text(&mut client, &["GET", &format!("key:{key}")]).await;
            assert_eq!(reply, key.to_string(), "key:{key} in {mode}");
        }
    }
}

#[tokio::test]
async fn redis_cli_works_through_tls() {
    if Command::new("redis-cli").arg("--version").output().is_err() {
        eprintln!("skipped: redis-cli is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(5, 2, "none")).await.unwrap();
    let uri = cluster.uri().to_owned();
    let ca = cluster.ca_cert().to_owned();
    let run = move |words: &[&str]| {
        let output = Command::new("redis-cli")
            .args(["-u", &uri, "--cacert"])
            .arg(&ca)
            .arg("--no-auth-warning")
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let replies = tokio::task::spawn_blocking(move || {
        [
            run(&["SET", "a", "1"]),
            run(&["INCR", "a"]),
            run(&["MSET", "x", "1", "y", "2", "z", "3"]),
            run(&["MGET", "x", "y", "z"]),
            run(&["DBSIZE"]),
            run(&["NOSUCH", "thing"]),
            run(&["-3", "HSET", "h", "f", "v"]),
        ]
    })
    .await
    .unwrap();
    assert_eq!(replies[..2], ["OK", "2"]);
    assert_eq!(replies[2..5], ["OK", "1\n2\n3", "4"]);
    assert!(replies[5].starts_with("ERR unknown command 'NOSUCH'"), "{}", replies[5]);
    assert_eq!(replies[6], "1");
}
