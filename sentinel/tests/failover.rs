//! Failover of real processes: this test's binary runs itself again as sentinels and nodes, which
//! are then killed, stopped, and started again.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast_proto::sentinel_client::SentinelClient;
use holdfast_proto::v1;
use rustix::process::{Pid, Signal, kill_process};

/// Names the role and the configuration file of a process that this binary is run as.
const ROLE: &str = "HOLDFAST_TEST_ROLE";
const CONFIG: &str = "HOLDFAST_TEST_CONFIG";

const CLUSTER: [u8; 16] = [10; 16];
const SECRET: [u8; 32] = [11; 32];

/// Not a test: the life of a process that a test below has started.
#[test]
fn process() {
    let (Ok(role), Ok(config)) = (std::env::var(ROLE), std::env::var(CONFIG)) else { return };
    let filter = std::env::var("HOLDFAST_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = Path::new(&config);
    let ended = match role.as_str() {
        "sentinel" => holdfast_sentinel::run(holdfast_sentinel::Config::from_file(config).unwrap()),
        _ => holdfast_node::run(holdfast_node::Config::from_file(config).unwrap()),
    };
    ended.unwrap();
    std::process::exit(0);
}

struct Process {
    role: &'static str,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    fn new(role: &'static str, dir: &Path, name: &str, text: &str) -> Self {
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, text).unwrap();
        Self { role, config, log: dir.join(format!("{name}.log")), child: None }
    }

    fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["process", "--exact", "--nocapture"])
            .env(ROLE, self.role)
            .env(CONFIG, &self.config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Cluster {
    dir: tempfile::TempDir,
    sentinels: Vec<Process>,
    /// By node id.
    nodes: BTreeMap<u64, Process>,
    client: SentinelClient,
}

/// Below the ports that the kernel gives to outgoing connections: one of those could be taken again
/// before the process binds it.
fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let numbers = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    let ports = numbers.map(|n| (5_000 + (std::process::id() * 61 + n) % 5_000) as u16);
    ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Cluster {
    async fn start(shards: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports(6);
        let api: Vec<String> = (0..3).map(|i| format!("127.0.0.1:{}", ports[2 * i])).collect();
        let member = |i: usize| {
            let (id, peer) = (i + 1, ports[2 * i + 1]);
            format!(
                "[[members]]\nid = {id}\napi-addr = \"{}\"\npeer-addr = \"127.0.0.1:{peer}\"\n",
                api[i]
            )
        };
        let members: String = (0..3).map(member).collect();
        let common = format!("cluster-id = \"{}\"\nsecret = \"{}\"\n", hex(&CLUSTER), hex(&SECRET));
        let sentinel = |i: usize| {
            let text = format!(
                "id = {}\n{common}data-dir = {:?}\napi-listen = \"{}\"\n\
                 peer-listen = \"127.0.0.1:{}\"\n\
                 [cluster]\nshards = {shards}\nreplicas = 3\n{members}",
                i + 1,
                dir.path().join(format!("s{i}")),
                api[i],
                ports[2 * i + 1],
            );
            let mut process = Process::new("sentinel", dir.path(), &format!("s{i}"), &text);
            process.start();
            process
        };
        let sentinels: Vec<Process> = (0..3).map(sentinel).collect();
        let client = SentinelClient::new(CLUSTER.to_vec(), SECRET.to_vec(), api.clone());
        let mut cluster = Self { dir, sentinels, nodes: BTreeMap::new(), client };
        for id in 1..=3 {
            let ports = free_ports(5);
            let text = format!(
                "{common}sentinels = {api:?}\ndata-dir = {:?}\nlink-listen = \"127.0.0.1:{}\"\n\
                 peer-listen = \"127.0.0.1:{}\"\nheartbeat-listen = \"127.0.0.1:{}\"\n\
                 control-listen = \"127.0.0.1:{}\"\nmetrics-listen = \"127.0.0.1:{}\"\n",
                cluster.data_dir(id),
                ports[0],
                ports[1],
                ports[2],
                ports[3],
                ports[4],
            );
            let mut node = Process::new("node", cluster.dir.path(), &format!("n{id}"), &text);
            node.start();
            cluster.nodes.insert(id, node);
            // One after the other, so that the ids are known.
            let registered = |s: &v1::StatusReply| topology(s).nodes.len() == id as usize;
            cluster.until("the node is registered", 10, registered).await;
        }
        cluster
    }

    fn data_dir(&self, node: u64) -> PathBuf {
        self.dir.path().join(format!("n{node}"))
    }

    fn node(&mut self, id: u64) -> &mut Process {
        self.nodes.get_mut(&id).unwrap()
    }

    async fn until(
        &self,
        what: &str,
        seconds: u64,
        done: impl Fn(&v1::StatusReply) -> bool,
    ) -> Duration {
        let began = Instant::now();
        loop {
            if let Ok(status) = self.client.status().await
                && done(&status)
            {
                return began.elapsed();
            }
            if began.elapsed() > Duration::from_secs(seconds) {
                self.show_logs();
                panic!("waited in vain until {what}: {:?}", self.client.status().await);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn show_logs(&self) {
        for process in self.sentinels.iter().chain(self.nodes.values()) {
            let log = std::fs::read_to_string(&process.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {}", process.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }

    async fn all_served(&self) -> Duration {
        let served = |s: &v1::StatusReply| {
            let topology = topology(s);
            !topology.shards.is_empty()
                && s.nodes.iter().filter(|n| n.health() == v1::NodeHealth::Up).count() == 3
                && topology.shards.iter().all(|shard| serving(s, shard.id).is_some())
        };
        self.until("all shards are served and all nodes up", 20, served).await
    }

    async fn primary(&self, shard: u32) -> (u64, u64) {
        let status = self.client.status().await.unwrap();
        serving(&status, shard).expect("the shard is served")
    }

    /// Waits for a later primary than the given one and returns the recorded report.
    async fn failed_over(&self, shard: u32, old: (u64, u64)) -> (Duration, v1::FailoverReport) {
        let newer = |s: &v1::StatusReply| serving(s, shard).is_some_and(|new| new.0 > old.0);
        let took = self.until("another primary serves", 15, newer).await;
        let began = Instant::now();
        loop {
            let events = self.client.events(0, 0).await.unwrap().events;
            let mut reports = events.into_iter().rev().filter_map(|e| e.failover);
            if let Some(report) = reports.find(|r| r.shard == shard && r.term > old.0) {
                return (took, report);
            }
            if began.elapsed() > Duration::from_secs(5) {
                self.show_logs();
                panic!("no report");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn topology(status: &v1::StatusReply) -> &v1::Topology {
    status.topology.as_ref().unwrap()
}

/// Term and node of the replica that serves on a node that is not down.
fn serving(status: &v1::StatusReply, shard: u32) -> Option<(u64, u64)> {
    let live = status.nodes.iter().filter(|n| n.health() != v1::NodeHealth::ObjectivelyDown);
    let serving = live.flat_map(|n| n.replicas.iter().map(move |r| (n.node, r)));
    let serving = serving.filter(|(_, r)| r.shard == shard && r.serving);
    serving.map(|(node, r)| (r.term, node)).max()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_stop_restart_and_hand_over() {
    let began = Instant::now();
    let mut cluster = Cluster::start(1).await;
    cluster.all_served().await;
    eprintln!("served after {:?}", began.elapsed());
    assert_eq!(cluster.primary(1).await.1, 1, "the preferred node leads first");

    for round in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let old = cluster.primary(1).await;
        cluster.node(old.1).kill();
        let (took, report) = cluster.failed_over(1, old).await;
        eprintln!(
            "kill -9, round {round}: seen after {took:?}; detected {:.0} ms, elected {:.0} ms",
            report.detected_ms, report.elected_ms
        );
        assert!(report.elected_ms < 1500.0, "{report:?}");
        cluster.node(old.1).start();
        eprintln!("all served again after {:?}", cluster.all_served().await);
    }

    tokio::time::sleep(Duration::from_secs(1)).await;
    let old = cluster.primary(1).await;
    cluster.node(old.1).signal(Signal::STOP);
    // On a busy machine silence is believed so late that the replicas' own election may come first;
    // then there is no report.
    let newer = |s: &v1::StatusReply| serving(s, 1).is_some_and(|new| new.0 > old.0);
    let took = cluster.until("another primary serves", 15, newer).await;
    eprintln!("SIGSTOP: seen after {took:?}");
    cluster.node(old.1).signal(Signal::CONT);
    cluster.all_served().await;

    tokio::time::sleep(Duration::from_secs(1)).await;
    let old = cluster.primary(1).await;
    let report = cluster.client.failover(1, 0).await.unwrap().report.unwrap();
    eprintln!("planned: {:.1} ms", report.elected_ms);
    assert!(report.planned && report.new_node != old.1 && report.elected_ms < 500.0, "{report:?}");
    let there = |s: &v1::StatusReply| serving(s, 1).is_some_and(|p| p.1 == report.new_node);
    cluster.until("the heartbeats tell of it", 5, there).await;

    // Without any sentinel the replicas elect among themselves.
    for sentinel in &mut cluster.sentinels {
        sentinel.kill();
    }
    let old = report.new_node;
    cluster.node(old).kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.sentinels.iter_mut().for_each(Process::start);
    cluster.until("sentinels work again", 10, |s| serving(s, 1).is_some()).await;
    let new = cluster.primary(1).await;
    assert!(new.0 > report.term && new.1 != old, "{new:?}");
    cluster.node(old).start();
    cluster.all_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_directory_is_replaced() {
    let mut cluster = Cluster::start(2).await;
    cluster.all_served().await;
    let mut primaries = [cluster.primary(1).await.1, cluster.primary(2).await.1];
    primaries.sort_unstable();
    assert_eq!(primaries, [1, 2], "primaries are spread");

    cluster.node(3).kill();
    std::fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    cluster.node(3).start();
    let replaced = |s: &v1::StatusReply| {
        topology(s).shards.iter().all(|shard| {
            shard.replicas.iter().all(|r| r.node != 3 && r.role() == v1::ReplicaRole::Voter)
        })
    };
    let took = cluster.until("its replicas are replaced", 30, replaced).await;
    eprintln!("replaced after {took:?}");
    let voters = |s: &v1::StatusReply| {
        let leads = s.nodes.iter().flat_map(|n| &n.replicas).filter(|r| r.serving);
        leads.into_iter().all(|r| {
            let membership = r.membership.clone().unwrap_or_default();
            membership.voters.len() == 3 && membership.voters_outgoing.is_empty()
        })
    };
    cluster.until("the groups have three voters", 10, voters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leading_sentinel_dies_with_a_primary_and_balance_returns() {
    let mut cluster = Cluster::start(3).await;
    cluster.all_served().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = cluster.client.status().await.unwrap();
    let leader = topology(&status).sentinel_leader as usize;
    let old = cluster.primary(1).await;
    let began = Instant::now();
    cluster.sentinels[leader - 1].kill();
    cluster.node(old.1).kill();
    let newer = |s: &v1::StatusReply| serving(s, 1).is_some_and(|new| new.0 > old.0);
    cluster.until("another primary serves", 10, newer).await;
    eprintln!(
        "sentinel leader and primary killed: another primary seen after {:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(5));

    cluster.sentinels[leader - 1].start();
    cluster.node(old.1).start();
    cluster.all_served().await;
    let balanced = |s: &v1::StatusReply| {
        let mut nodes: Vec<u64> =
            (1..=3).filter_map(|shard| serving(s, shard)).map(|p| p.1).collect();
        nodes.sort_unstable();
        nodes == [1, 2, 3]
    };
    let took = cluster.until("each node leads one shard again", 40, balanced).await;
    eprintln!("balanced again after {took:?}");
}

/// A replica is stopped and opened again by order; another one finds that it lost what it had
/// acknowledged while its node lives on, and is replaced by one with a new id on the same node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_restarts_by_order_and_an_amnesiac_one_is_replaced_where_it_is() {
    let mut cluster = Cluster::start(1).await;
    cluster.all_served().await;
    let (_, primary) = cluster.primary(1).await;
    let other = 1 + primary % 3;
    let old = cluster.primary(1).await;
    for node in [other, primary] {
        cluster.client.restart_replica(1, node).await.unwrap();
        cluster.all_served().await;
    }
    // Handed over before the restart, not elected after it.
    let newer = |s: &v1::StatusReply| serving(s, 1).is_some_and(|new| new.0 > old.0);
    cluster.until("another primary serves", 10, newer).await;
    let log = std::fs::read_to_string(&cluster.node(primary).log).unwrap();
    assert!(log.contains("handing leadership over"), "{log}");
    let opened = std::fs::read_to_string(&cluster.node(other).log).unwrap();
    assert_eq!(opened.matches("replica opened").count(), 2, "{opened}");

    // Its log goes while the process is down; the side record still says what it had acknowledged.
    let (_, primary) = cluster.primary(1).await;
    let victim = 1 + primary % 3;
    let raft_id = |s: &v1::StatusReply| {
        let replicas = &topology(s).shards[0].replicas;
        replicas.iter().find(|r| r.node == victim).map(|r| (r.raft_id, r.role()))
    };
    let status = cluster.client.status().await.unwrap();
    let old = raft_id(&status).unwrap().0;
    cluster.node(victim).kill();
    let log = cluster.data_dir(victim).join("raft");
    for file in std::fs::read_dir(&log).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "raftlog" || e == "rewrite") {
            std::fs::remove_file(path).unwrap();
        }
    }
    cluster.node(victim).start();
    let replaced = |s: &v1::StatusReply| {
        raft_id(s).is_some_and(|(id, role)| id != old && role == v1::ReplicaRole::Voter)
    };
    let took = cluster.until("the amnesiac replica is replaced", 30, replaced).await;
    eprintln!("an amnesiac replica was replaced after {took:?}");
    cluster.all_served().await;
    let events = cluster.client.events(0, 0).await.unwrap().events;
    assert!(events.iter().any(|e| e.node == victim && e.kind == "replica-replaced"), "{events:?}");
}
