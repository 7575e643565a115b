//! A whole cluster as processes of this machine, each with an address of its own.

use super::network::{LinkFault, Network};
use super::processes::{Processes, Spec, Supervisor};
use crate::harness::unhealthy;
use crate::random::Random;
use crate::target::{
    Ability, ClusterEvent, Death, Endpoint, ErrorMeaning, Later, Role, Subject, Target, meaning,
};
use anyhow::{Context, bail};
use holdfast_cli::client::{ClientTls, Connection, Uri};
use holdfast_cli::cluster::{ClusterAccess, ClusterFile};
use holdfast_proto::v1;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const TLS: u16 = 6379;
const ADMIN: u16 = 9100;
const SENTINEL_API: u16 = 26_400;
const SENTINEL_PEER: u16 = 26_401;
const NODE_LINK: u16 = 7000;
const NODE_PEER: u16 = 7001;
const NODE_HEARTBEAT: u16 = 7002;
const NODE_CONTROL: u16 = 7003;

/// The cluster's shape.
#[derive(Clone, Debug)]
pub struct Shape {
    pub nodes: usize,
    pub sentinels: usize,
    pub proxies: usize,
    pub shards: u32,
    pub replicas: u32,
    pub persistence: String,
}

/// A running cluster. Dropped, its processes are killed.
pub struct LocalCluster {
    shape: Shape,
    network: Arc<Network>,
    data: PathBuf,
    uris: Vec<(String, Uri)>,
    tls: ClientTls,
    access_file: PathBuf,
    /// Node names by link address.
    by_link_addr: BTreeMap<String, String>,
    next_proxy: AtomicUsize,
    // Dropped before the processes, so that it starts none of them again.
    _supervisor: Supervisor,
    processes: Arc<Processes>,
}

fn names(role: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{role}-{number}")).collect()
}

impl LocalCluster {
    /// Starts everything. `data` gets the processes' folders, `logs` their output.
    pub fn start(shape: Shape, binary: &Path, data: &Path, logs: &Path) -> anyhow::Result<Self> {
        let sentinels = names("sentinel", shape.sentinels);
        let nodes = names("node", shape.nodes);
        let proxies = names("proxy", shape.proxies);
        let all = [sentinels.clone(), nodes.clone(), proxies.clone()].concat();
        let network = Arc::new(Network::new(&all)?);
        std::fs::create_dir_all(data)?;
        std::fs::create_dir_all(logs)?;
        let tls_folder = data.join("tls");
        std::fs::create_dir_all(&tls_folder)?;
        let certified: Vec<String> =
            proxies.iter().map(|name| network.addr(name).to_string()).collect();
        holdfast_cli::create_certificates(&tls_folder, &certified)?;
        let configs = Configs::new(&shape, &network, data, &sentinels);

        let processes = Arc::new(Processes::new(network.clone()));
        for (role, names) in [("sentinel", &sentinels), ("node", &nodes), ("proxy", &proxies)] {
            for (index, name) in names.iter().enumerate() {
                let path = data.join(format!("{name}.toml"));
                let folder = data.join(name);
                std::fs::create_dir_all(&folder)?;
                let value = match role {
                    "sentinel" => configs.sentinel(index, name, &folder),
                    "node" => configs.node(name, &folder),
                    _ => configs.proxy(name),
                };
                std::fs::write(&path, toml::to_string(&value)?)?;
                processes.add(Spec {
                    name: name.clone(),
                    command: [
                        binary.to_str().context("a plain path")?,
                        role,
                        "--config",
                        path.to_str().context("a plain path")?,
                    ]
                    .map(str::to_owned)
                    .to_vec(),
                    environment: vec![("HOLDFAST_FAULTS".to_owned(), "1".to_owned())],
                    log: logs.join(format!("{name}.log")),
                })?;
            }
        }
        let mut uris = Vec::new();
        for name in &proxies {
            let addr = network.addr(name);
            let text = format!("rediss://default:{}@{addr}:{TLS}", configs.password);
            uris.push((name.clone(), Uri::parse(&text)?));
        }
        let access_file = data.join(ClusterFile::NAME);
        let file = ClusterFile {
            cluster_id: configs.cluster_id.clone(),
            secret: configs.secret.clone(),
            sentinels: configs.sentinel_apis,
            uris: uris
                .iter()
                .map(|(_, uri)| format!("rediss://{}:{}", uri.host, uri.port))
                .collect(),
            ca_cert: tls_folder.join("ca.crt"),
        };
        std::fs::write(&access_file, toml::to_string(&file)?)?;
        let by_link_addr = nodes
            .iter()
            .map(|name| (format!("{}:{NODE_LINK}", network.addr(name)), name.clone()))
            .collect();
        let supervisor = Supervisor::start(processes.clone())?;
        let tls = ClientTls::new(Some(&tls_folder.join("ca.crt")), false)?;
        let cluster = Self {
            shape,
            network,
            processes,
            data: data.to_owned(),
            uris,
            tls,
            access_file,
            by_link_addr,
            next_proxy: AtomicUsize::new(0),
            _supervisor: supervisor,
        };
        cluster.wait_serving(Duration::from_secs(60))?;
        Ok(cluster)
    }

    /// Sentinels of this cluster; a connection of its own per call, since sentinels come and go.
    fn ask<T>(
        &self,
        question: impl FnOnce(ClusterAccess) -> Later<'static, anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let access = ClusterAccess::from_file(&self.access_file)?;
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, question(access)).await.context("no sentinel answers")?
        })
    }

    fn status(&self) -> anyhow::Result<v1::StatusReply> {
        self.ask(|access| Box::pin(async move { access.status().await }))
    }

    fn wait_serving(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let serves = self.ask(|access| Box::pin(async move { Ok(access.is_serving().await) }));
            if serves? && self.ailment().is_none() {
                return Ok(());
            }
            if let Some(death) = self.deaths().first() {
                bail!("{} ended ({}): {}", death.name, death.status, death.last_words);
            }
            if Instant::now() > deadline {
                bail!("the cluster does not serve after {limit:?}");
            }
            // Polling a process that starts.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn node_id(&self, name: &str) -> anyhow::Result<u64> {
        let topology = self.status()?.topology.context("a topology")?;
        let named = |info: &&v1::NodeInfo| {
            self.by_link_addr.get(&info.link_addr).is_some_and(|known| known == name)
        };
        Ok(topology.nodes.iter().find(named).context("a registered node")?.id)
    }
}

/// What the configuration files are made of.
struct Configs<'a> {
    shape: &'a Shape,
    network: &'a Network,
    data: &'a Path,
    cluster_id: String,
    secret: String,
    password: String,
    sentinel_apis: Vec<String>,
    members: Vec<serde_json::Value>,
}

impl<'a> Configs<'a> {
    fn new(shape: &'a Shape, network: &'a Network, data: &'a Path, sentinels: &[String]) -> Self {
        // Nobody but the run itself reaches the cluster, so its secrets need not be secret.
        let mut random = Random::new(u64::from(std::process::id()));
        let mut hex = |bytes: usize| -> String {
            (0..bytes).map(|_| format!("{:02x}", random.below(256))).collect()
        };
        let at = |addr: Ipv4Addr, port: u16| format!("{addr}:{port}");
        let sentinel_apis: Vec<String> =
            sentinels.iter().map(|name| at(network.addr(name), SENTINEL_API)).collect();
        let member = |(index, name): (usize, &String)| {
            json!({
                "id": index + 1,
                "api-addr": at(network.addr(name), SENTINEL_API),
                "peer-addr": at(network.addr(name), SENTINEL_PEER),
            })
        };
        Self {
            shape,
            network,
            data,
            cluster_id: hex(16),
            secret: hex(32),
            password: hex(8),
            sentinel_apis,
            members: sentinels.iter().enumerate().map(member).collect(),
        }
    }

    fn at(&self, name: &str, port: u16) -> String {
        format!("{}:{port}", self.network.addr(name))
    }

    fn sentinel(&self, index: usize, name: &str, folder: &Path) -> serde_json::Value {
        json!({
            "id": index + 1,
            "cluster-id": self.cluster_id,
            "secret": self.secret,
            "data-dir": folder,
            "api-listen": self.at(name, SENTINEL_API),
            "peer-listen": self.at(name, SENTINEL_PEER),
            "metrics-listen": self.at(name, ADMIN),
            "expected-nodes": self.shape.nodes,
            "cluster": {
                "shards": self.shape.shards,
                "replicas": self.shape.replicas,
                "persistence": self.shape.persistence,
                "password": self.password,
            },
            "members": self.members,
        })
    }

    fn node(&self, name: &str, folder: &Path) -> serde_json::Value {
        json!({
            "cluster-id": self.cluster_id,
            "secret": self.secret,
            "sentinels": self.sentinel_apis,
            "data-dir": folder,
            "link-listen": self.at(name, NODE_LINK),
            "peer-listen": self.at(name, NODE_PEER),
            "heartbeat-listen": self.at(name, NODE_HEARTBEAT),
            "control-listen": self.at(name, NODE_CONTROL),
            "metrics-listen": self.at(name, ADMIN),
        })
    }

    fn proxy(&self, name: &str) -> serde_json::Value {
        let tls = self.data.join("tls");
        json!({
            "cluster-id": self.cluster_id,
            "secret": self.secret,
            "sentinels": self.sentinel_apis,
            "listen": self.at(name, TLS),
            "tls-cert-file": tls.join("proxy.crt"),
            "tls-key-file": tls.join("proxy.key"),
            "admin-listen": self.at(name, ADMIN),
        })
    }
}

impl Endpoint for LocalCluster {
    fn connect(&self, client: u32) -> Later<'_, anyhow::Result<(Connection, String)>> {
        // Clients are spread evenly, and one whose proxy died tries the next one.
        let turn = self.next_proxy.fetch_add(1, Ordering::Relaxed);
        let (name, uri) = &self.uris[(client as usize + turn) % self.uris.len()];
        Box::pin(async move {
            let limit = Duration::from_secs(5);
            let connection = tokio::time::timeout(limit, Connection::open(uri, Some(&self.tls)))
                .await
                .with_context(|| format!("{name} does not answer"))??;
            Ok((connection, name.clone()))
        })
    }

    fn meaning(&self, error: &str) -> ErrorMeaning {
        meaning(error)
    }
}

impl Target for LocalCluster {
    fn names(&self, role: Role) -> Vec<String> {
        match role {
            Role::Node => names("node", self.shape.nodes),
            Role::Sentinel => names("sentinel", self.shape.sentinels),
            Role::Proxy => names("proxy", self.shape.proxies),
        }
    }

    fn can(&self, ability: Ability) -> bool {
        match ability {
            Ability::CutLinks | Ability::SlowLinks => self.network.cuts(),
            Ability::Inject | Ability::HandOver => true,
            // A cut from everybody is the same here.
            Ability::Isolate => false,
        }
    }

    fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.processes.kill(name)
    }

    fn stop(&self, name: &str) -> anyhow::Result<bool> {
        self.processes.stop(name)
    }

    fn start(&self, name: &str) -> anyhow::Result<()> {
        self.processes.start(name)
    }

    fn pause(&self, name: &str) -> anyhow::Result<()> {
        self.processes.signal(name, rustix::process::Signal::STOP)
    }

    fn resume(&self, name: &str) -> anyhow::Result<()> {
        self.processes.signal(name, rustix::process::Signal::CONT)
    }

    fn set_links(&self, faults: &BTreeSet<LinkFault>) -> anyhow::Result<()> {
        self.network.set(faults)
    }

    fn inject(&self, name: &str, faults: &str) -> anyhow::Result<()> {
        // Whoever is told to fail its disk or to die at a point ends of itself, and may do so again
        // at its start until the fault is gone.
        if !faults.is_empty() {
            self.processes.set_may_die(name, true)?;
        }
        let path = self.data.join(name).join("faults");
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, faults)?;
        std::fs::rename(&temporary, &path).with_context(|| format!("write {}", path.display()))?;
        if faults.is_empty() {
            // The process looks at the file every 20 ms; until then it may still die of the fault.
            std::thread::sleep(Duration::from_millis(300));
            self.processes.set_may_die(name, false)?;
        }
        Ok(())
    }

    fn primary(&self, shard: u32) -> anyhow::Result<String> {
        let topology = self.status()?.topology.context("a topology")?;
        let shard = topology.shards.iter().find(|info| info.id == shard).context("a shard")?;
        let node = topology.nodes.iter().find(|node| node.id == shard.primary_node);
        let node = node.context("a shard with a primary")?;
        self.by_link_addr.get(&node.link_addr).cloned().context("a node of this cluster")
    }

    fn shards(&self) -> u32 {
        self.shape.shards
    }

    fn hand_over(&self, shard: u32) -> anyhow::Result<()> {
        self.ask(move |access| {
            Box::pin(async move { access.failover(shard, 0).await.map(|_report| ()) })
        })
    }

    fn restart_replica(&self, shard: u32, node: &str) -> anyhow::Result<()> {
        let node = self.node_id(node)?;
        self.ask(move |access| Box::pin(async move { access.restart_replica(shard, node).await }))
    }

    fn ailment(&self) -> Option<String> {
        match self.status() {
            Ok(status) => unhealthy(&status, self.shape.replicas as usize),
            Err(error) => Some(format!("{error:#}")),
        }
    }
}

impl Subject for LocalCluster {
    fn deaths(&self) -> Vec<Death> {
        self.processes.deaths()
    }

    fn events(&self) -> anyhow::Result<Vec<ClusterEvent>> {
        let events = self.ask(|access| Box::pin(async move { access.events_after(0).await }))?;
        let event = |event: v1::Event| ClusterEvent {
            unix_ms: event.time_ms as i64,
            kind: event.kind,
            text: event.text,
        };
        Ok(events.into_iter().map(event).collect())
    }

    fn held_requests(&self) -> u64 {
        let held = |name: &String| held_by(SocketAddr::from((self.network.addr(name), ADMIN)));
        // A proxy that does not answer in time counts as holding none.
        names("proxy", self.shape.proxies).iter().filter_map(|name| held(name).ok()).sum()
    }
}

/// Requests that a proxy holds, from its metrics.
pub(crate) fn held_by(addr: SocketAddr) -> std::io::Result<u64> {
    let limit = Duration::from_millis(200);
    let mut stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let held = text
        .lines()
        .filter_map(|line| line.strip_prefix("holdfast_proxy_requests_held "))
        .filter_map(|value| value.trim().parse::<f64>().ok());
    Ok(held.sum::<f64>() as u64)
}
