//! Real clusters under load while parts of them stop or die: clients see no error, no stale read and
//! no write lost or done twice, and the pause stays short. Times are printed; the tests only assert
//! generous bounds on them, the rest strictly.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use holdfast_chaos_tests::harness::{Cluster, ClusterOptions};
use holdfast_cli::client::Connection;
use holdfast_proto::resp::reply::Value;
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const CLIENTS: usize = 4;
/// Half of the time for which the proxies hold requests: beyond it clients would see errors.
const PAUSE_MAX: Duration = Duration::from_secs(5);

fn options(index: u16, shards: u32) -> ClusterOptions {
    ClusterOptions {
        shards,
        replicas: 3,
        persistence: "aof-everysec".to_owned(),
        port: 20_050 + index,
        internal_port: 23_000 + index * 100,
        binary: PathBuf::from(env!("CARGO_BIN_EXE_holdfast")),
    }
}

/// Clients that count, each on a key of its own, and clients that read these keys.
struct Load {
    stop: Arc<AtomicBool>,
    longest_us: Arc<AtomicU64>,
    counts: Vec<Arc<AtomicU64>>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<u64>>,
}

impl Load {
    async fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let longest_us = Arc::new(AtomicU64::new(0));
        let counts: Vec<Arc<AtomicU64>> = (0..CLIENTS).map(|_| Arc::default()).collect();
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for (index, count) in counts.iter().enumerate() {
            let key = format!("count:{index}");
            let connection = cluster.connect().await.unwrap();
            let writer =
                count_up(connection, key.clone(), count.clone(), stop.clone(), longest_us.clone());
            writers.push(tokio::spawn(writer));
            let connection = cluster.connect().await.unwrap();
            readers.push(tokio::spawn(read_on(connection, key, count.clone(), stop.clone())));
        }
        let load = Self { stop, longest_us, counts, writers, readers };
        // Everybody has begun.
        while load.counts.iter().any(|count| count.load(Ordering::SeqCst) < 10) {
            load.check_alive();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        load.take_longest();
        load
    }

    fn check_alive(&self) {
        assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a writer failed");
        assert!(self.readers.iter().all(|reader| !reader.is_finished()), "a reader failed");
    }

    fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::SeqCst))
    }

    /// Every writer has had a write acknowledged that it began after now; how long that took.
    async fn all_write_on(&self) -> Duration {
        let begun = Instant::now();
        let wanted: Vec<u64> = self.counts.iter().map(|c| c.load(Ordering::SeqCst) + 2).collect();
        while self.counts.iter().zip(&wanted).any(|(c, w)| c.load(Ordering::SeqCst) < *w) {
            self.check_alive();
            assert!(begun.elapsed() < 2 * PAUSE_MAX, "writes do not go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    /// Stops the load; every counter must be what its writer was told.
    async fn end(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::SeqCst);
        let mut reads = 0;
        for writer in self.writers {
            writer.await.unwrap();
        }
        for reader in self.readers {
            reads += reader.await.unwrap();
        }
        let mut connection = cluster.connect().await.unwrap();
        for (index, count) in self.counts.iter().enumerate() {
            let stored = integer(&mut connection, &["GET", &format!("count:{index}")]).await;
            assert_eq!(stored, count.load(Ordering::SeqCst));
        }
        assert!(reads > 100, "only {reads} reads");
    }
}

async fn integer(connection: &mut Connection, words: &[&str]) -> u64 {
    match connection.call(words).await.expect("the connection lives") {
        Value::Integer(value) => value as u64,
        Value::Bulk(text) => std::str::from_utf8(&text).unwrap().parse().unwrap(),
        Value::Null => 0,
        other => panic!("{words:?}: {other:?}"),
    }
}

async fn count_up(
    mut connection: Connection,
    key: String,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    longest_us: Arc<AtomicU64>,
) {
    while !stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let value = integer(&mut connection, &["INCR", &key]).await;
        longest_us.fetch_max(begun.elapsed().as_micros() as u64, Ordering::SeqCst);
        assert_eq!(value, count.load(Ordering::SeqCst) + 1, "{key}: lost or doubled");
        count.store(value, Ordering::SeqCst);
        // A thousand writes per second and client are load enough for a shared machine.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Never sees less than what was acknowledged before it asked.
async fn read_on(
    mut connection: Connection,
    key: String,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> u64 {
    let mut reads = 0;
    while !stop.load(Ordering::SeqCst) {
        let acknowledged = count.load(Ordering::SeqCst);
        let seen = integer(&mut connection, &["GET", &key]).await;
        assert!(seen >= acknowledged, "{key}: stale read, {seen} after {acknowledged}");
        reads += 1;
        // As above.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reads
}

async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn primary_name(cluster: &Cluster) -> String {
    cluster.wait_healthy(Duration::from_secs(30)).await.unwrap();
    let primary = cluster.primary(1).await.unwrap();
    cluster.node_name(primary).await.unwrap()
}

#[tokio::test]
async fn a_primary_that_sleeps_serves_nothing_stale_when_it_wakes() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(1, 1)).await.unwrap();
    let load = Load::start(&cluster).await;
    let name = primary_name(&cluster).await;
    cluster.signal(&name, Signal::STOP).unwrap();
    let stopped = Instant::now();
    let took = load.all_write_on().await;
    println!("SIGSTOP of the primary: all writers go on after {took:?}");
    assert!(took < PAUSE_MAX, "{took:?}");
    // The ten seconds of the fault.
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(stopped.elapsed())).await;
    load.take_longest();
    cluster.signal(&name, Signal::CONT).unwrap();
    // Long enough for the former primary to answer what it had received, and to be told.
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("its wake-up: longest wait {:?}", load.take_longest());
    cluster.wait_healthy(Duration::from_secs(30)).await.unwrap();
    load.end(&cluster).await;
}

#[tokio::test]
async fn traffic_goes_on_without_sentinels() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(2, 2)).await.unwrap();
    let load = Load::start(&cluster).await;
    let sentinels = cluster.names("sentinel");
    for name in &sentinels {
        cluster.signal(name, Signal::KILL).unwrap();
    }
    // They start again and find each other meanwhile.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let longest = load.take_longest();
    println!("all sentinels killed: longest wait {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // Away for good (a killed one would be started again), and a primary dies: Raft's own election.
    let name = primary_name(&cluster).await;
    for name in &sentinels {
        cluster.signal(name, Signal::STOP).unwrap();
    }
    cluster.signal(&name, Signal::KILL).unwrap();
    let took = load.all_write_on().await;
    println!("a primary killed while no sentinel answers: all writers go on after {took:?}");
    assert!(took < PAUSE_MAX, "{took:?}");
    // The killed one comes back with the topology that it knew, and the next to die needs it.
    let log = cluster.folder.join("logs").join(format!("{name}.log"));
    wait_for("the killed node to serve again", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let restarted = text.split("starting with the last topology").nth(1);
        restarted.is_some_and(|text| text.contains("replica opened"))
    })
    .await;
    for name in &sentinels {
        cluster.signal(name, Signal::CONT).unwrap();
    }
    cluster.wait_healthy(Duration::from_secs(30)).await.unwrap();
    load.end(&cluster).await;
}

#[tokio::test]
async fn the_leading_sentinel_and_a_primary_die_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), &options(3, 1)).await.unwrap();
    let load = Load::start(&cluster).await;
    for _ in 0..3 {
        let name = primary_name(&cluster).await;
        let leader = cluster.status().await.unwrap().topology.unwrap().sentinel_leader;
        assert!((1..=3).contains(&leader), "{leader}");
        load.take_longest();
        cluster.signal(&format!("sentinel-{leader}"), Signal::KILL).unwrap();
        cluster.signal(&name, Signal::KILL).unwrap();
        let took = load.all_write_on().await;
        println!("sentinel leader and primary killed: all writers go on after {took:?}");
        assert!(took < PAUSE_MAX, "{took:?}");
    }
    cluster.wait_healthy(Duration::from_secs(30)).await.unwrap();
    load.end(&cluster).await;
}
