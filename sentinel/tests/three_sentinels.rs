//! Three sentinels in one process, over real sockets, and clients that follow the leader.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_proto::sentinel_client::{ClientError, SentinelClient};
use holdfast_proto::settings::Hex;
use holdfast_proto::v1;
use holdfast_sentinel::Config;
use holdfast_sentinel::config::{ClusterConfig, Member, Password, Persistence};
use tokio::sync::oneshot;

const CLUSTER: [u8; 16] = [10; 16];
const SECRET: [u8; 32] = [11; 32];

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

fn start(config: Config) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        holdfast_sentinel::run_until(config, async {
            let _ = stopped.await;
        })
    });
    Running { stop, thread }
}

impl Running {
    fn end(self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap().unwrap();
    }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|l| l.local_addr().unwrap().port())
}

fn configs(dir: &Path) -> Vec<Config> {
    let ports = free_ports::<6>();
    let member = |at: usize| Member {
        id: at as u64 + 1,
        api_addr: format!("127.0.0.1:{}", ports[2 * at]),
        peer_addr: format!("127.0.0.1:{}", ports[2 * at + 1]),
    };
    let members: Vec<Member> = (0..3).map(member).collect();
    let config = |m: &Member| Config {
        id: m.id,
        cluster_id: Hex(CLUSTER),
        secret: Some(Hex(SECRET)),
        secret_file: None,
        data_dir: dir.join(format!("sentinel-{}", m.id)),
        api_listen: m.api_addr.parse().unwrap(),
        peer_listen: m.peer_addr.parse().unwrap(),
        metrics_listen: None,
        expected_nodes: None,
        log_level: "info".to_owned(),
        cluster: ClusterConfig {
            shards: 4,
            replicas: 2,
            databases: 16,
            persistence: Persistence::AofAlways,
            password: Password("s3cret".to_owned()),
            settings: Default::default(),
        },
        members: members.clone(),
    };
    members.iter().map(config).collect()
}

fn client(configs: &[Config]) -> SentinelClient {
    let addrs = configs[0].members.iter().map(|m| m.api_addr.clone());
    SentinelClient::new(CLUSTER.to_vec(), SECRET.to_vec(), addrs)
}

fn node(instance: &str, port: u16) -> v1::NodeInfo {
    v1::NodeInfo {
        instance: instance.to_owned(),
        link_addr: format!("127.0.0.1:{port}"),
        peer_addr: format!("127.0.0.1:{port}"),
        // Port 1 refuses: to these sentinels all nodes are down.
        heartbeat_addr: "127.0.0.1:1".to_owned(),
        control_addr: "127.0.0.1:1".to_owned(),
        incarnation: 5,
        ..Default::default()
    }
}

async fn until_leader(client: &SentinelClient, but: u64) -> u64 {
    let began = Instant::now();
    loop {
        if let Ok(status) = client.status().await {
            let leader = status.topology.unwrap_or_default().sentinel_leader;
            if leader != 0 && leader != but {
                return leader;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(10), "no leader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_survive_the_leader_and_a_restart_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path());
    let mut running: Vec<Option<Running>> =
        configs.iter().map(|c| Some(start(c.clone()))).collect();
    let client = client(&configs);
    let mut topology = client.watch_topology(None);

    let first = client.register_node(node("a", 1001)).await.unwrap();
    let second = client.register_node(node("b", 1002)).await.unwrap();
    assert_eq!((first.id, second.id), (1, 2));
    let again = client.register_node(node("a", 1001)).await.unwrap();
    assert_eq!(again.id, 1);
    let clone = v1::NodeInfo { id: 1, ..node("copied", 1003) };
    let refused = client.register_node(clone).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(s) if s.message().contains("copied")));

    topology.wait_for(|t| t.shards.len() == 4).await.unwrap();
    let placed = topology.borrow().clone();
    assert!(placed.shards.iter().all(|s| s.replicas.len() == 2));
    assert_eq!(placed.spec.as_ref().unwrap().password, "s3cret");

    let proxy = client.register_proxy("127.0.0.1:6380", "127.0.0.1:9000", 2).await.unwrap();
    assert_eq!(proxy.workers, [1, 2]);
    assert!(client.proxy_heartbeat(proxy.proxy_id, vec![]).await.unwrap().known);

    // The leader goes; the next proxy gets other worker ids from another sentinel.
    let leader = until_leader(&client, 0).await;
    running[leader as usize - 1].take().unwrap().end();
    let began = Instant::now();
    let next = client.register_proxy("127.0.0.1:6381", "127.0.0.1:9001", 1).await.unwrap();
    eprintln!("a change was possible {:?} after the leader had gone", began.elapsed());
    assert_eq!(next.workers, [3]);
    assert_ne!(until_leader(&client, leader).await, leader);
    let settings = [("timeout".to_owned(), "30".to_owned())];
    client.set_settings(settings).await.unwrap();
    let has_setting = |t: &std::sync::Arc<v1::Topology>| {
        t.spec.as_ref().is_some_and(|s| s.settings.contains_key("timeout"))
    };
    topology.wait_for(has_setting).await.unwrap();

    // All go and come back: nothing is lost, ids go on.
    running.into_iter().flatten().for_each(Running::end);
    let unavailable = client.register_proxy("", "", 1);
    assert!(matches!(unavailable.await, Err(ClientError::Unavailable { .. })));
    assert_eq!(topology.borrow().proxies.len(), 2, "the watch keeps what it knew");
    let running: Vec<Running> = configs.iter().map(|c| start(c.clone())).collect();
    let last = client.register_proxy("127.0.0.1:6382", "127.0.0.1:9002", 1).await.unwrap();
    assert_eq!(last.workers, [4]);
    let events = client.events(0, 0).await.unwrap().events;
    assert!(events.iter().any(|e| e.kind == "shard-created"));
    running.into_iter().for_each(Running::end);
}

#[test]
fn a_data_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path());
    let running = start(configs[0].clone());
    let began = Instant::now();
    while !configs[0].data_dir.join("identity.json").exists() {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(5));
    }
    let twice = holdfast_sentinel::run_until(configs[0].clone(), async {});
    assert!(format!("{:#}", twice.unwrap_err()).contains("used by another process"));
    running.end();
    let mut other = configs[1].clone();
    other.data_dir.clone_from(&configs[0].data_dir);
    let other = holdfast_sentinel::run_until(other, async {});
    assert!(other.unwrap_err().to_string().contains("belongs to sentinel 1"));
}
