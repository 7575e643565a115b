//! The life of a node: open the data directory, bind, register, start the threads, stop.

use crate::clock;
use crate::config::Config;
use crate::consensus_loop::{ConsensusLoop, FromPeers, Input, Shell};
use crate::control::{Control, Services};
use crate::host::Host;
use crate::identity::{DataDir, Identity};
use crate::links::{LinkTable, Replies};
use crate::mailbox::Mailbox;
use crate::shared::{NodeShared, Registry, Stop, StopReason};
use crate::{executor, heartbeat, link_server, metrics, topology_cache};
use anyhow::Context;
use bytes::Bytes;
use holdfast_consensus::LogStore;
use holdfast_consensus::faults;
use holdfast_consensus::log::engine::{RaftEngineOptions, RaftEngineStore};
use holdfast_consensus::log::side_record::{Decision, SideRecord, boot_id};
use holdfast_consensus::log::writer::{LogWriter, LogWriterConfig, SyncPolicy};
use holdfast_consensus::transport::{Transport, TransportConfig};
use holdfast_proto::ids::{LogIndex, NodeId, RaftId, ShardId};
use holdfast_proto::sentinel_client::{ClientError, SentinelClient};
use holdfast_proto::v1;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;

/// Threads of the runtime for orders, checkpoint transfers, metrics and the host: one may be busy
/// with a file while the other answers an order.
const CONTROL_THREADS: usize = 2;
/// Without an answer of a sentinel for this long a node starts with what it knows.
const SENTINELS_TIMEOUT: Duration = Duration::from_secs(1);
/// For what is under way when the process is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Who says what the cluster looks like.
pub enum Source {
    /// The sentinels of the configuration: register with them, follow their topology.
    Sentinels,
    /// A topology given from outside, and this node's id in it: for tests without sentinels.
    Fixed { node: NodeId, topology: watch::Receiver<Arc<v1::Topology>> },
}

/// The listening sockets, bound before anything is started.
pub struct Bound {
    link: TcpListener,
    peer: TcpListener,
    heartbeat: TcpListener,
    control: TcpListener,
    metrics: TcpListener,
}

impl Bound {
    /// Binds every address of the configuration.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let bind = |name: &str, address: SocketAddr| {
            TcpListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .with_context(|| format!("{name}: bind {address}"))
        };
        Ok(Self {
            link: bind("link-listen", config.link_listen)?,
            peer: bind("peer-listen", config.peer_listen)?,
            heartbeat: bind("heartbeat-listen", config.heartbeat_listen)?,
            control: bind("control-listen", config.control_listen)?,
            metrics: bind("metrics-listen", config.metrics_listen)?,
        })
    }

    /// What others use to reach this node.
    pub fn info(&self, config: &Config) -> anyhow::Result<v1::NodeInfo> {
        let address =
            |listener: &TcpListener| listener.local_addr().map(|bound| config.advertised(bound));
        Ok(v1::NodeInfo {
            link_addr: address(&self.link)?,
            peer_addr: address(&self.peer)?,
            heartbeat_addr: address(&self.heartbeat)?,
            control_addr: address(&self.control)?,
            metrics_addr: address(&self.metrics)?,
            zone: config.zone.clone(),
            ..v1::NodeInfo::default()
        })
    }
}

/// Runs a node until SIGTERM or SIGINT, or until it cannot go on.
pub fn run(config: Config) -> anyhow::Result<()> {
    let bound = Bound::new(&config)?;
    let node = Node::start(config, bound, Source::Sentinels)?;
    node.wait_for_signal();
    node.stop()
}

/// A running node.
pub struct Node {
    shared: Arc<NodeShared>,
    control: tokio::runtime::Runtime,
    host: tokio::task::JoinHandle<()>,
    log: LogWriter,
    transport: Transport,
    /// Keeps the lock.
    _data: Arc<DataDir>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts a node: from here on it serves what the topology places on it.
    pub fn start(config: Config, bound: Bound, source: Source) -> anyhow::Result<Self> {
        let secret = config.load_secret()?;
        let data = Arc::new(DataDir::open(&config.data_dir)?);
        faults::start(&config.data_dir).map_err(anyhow::Error::msg)?;
        let identity = data.identity(&config.cluster_id.0)?;
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name("control")
            .enable_all()
            .build()
            .context("start the control runtime")?;
        let incarnation = clock::wall_us();
        let stop = Stop::new();
        let joining =
            Joining { config: &config, secret: &secret, bound: &bound, data: &data, stop: &stop };
        let cluster = control.block_on(joining.join(identity, incarnation, source))?;
        let consensus = Mailbox::new();
        let (log, amnesiacs) = open_log(&control, &data, &cluster, &consensus)?;
        let shared = Arc::new(NodeShared {
            cluster_id: config.cluster_id.0,
            secret,
            node: cluster.node,
            incarnation,
            consensus,
            links: LinkTable::default(),
            shards: Registry::default(),
            log: log.handle(),
            checkpoints: Box::new(executor::checkpoint::Files),
            stop,
        });
        let starter = Starter { shared, data, control, bound, threads: Vec::new() };
        starter.start(cluster, log, amnesiacs)
    }

    pub fn id(&self) -> NodeId {
        self.shared.node
    }

    /// Digest of a replica's state and the index that it belongs to: equal on all replicas.
    pub fn digest(&self, shard: ShardId) -> Option<(Vec<u8>, LogIndex)> {
        let handle = self.shared.shards.get(shard)?;
        let (answer, digest) = tokio::sync::oneshot::channel();
        handle.executor.send(executor::Input::Digest(answer));
        self.control.block_on(digest).ok()
    }

    /// Until SIGTERM, SIGINT, or a reason of this node's own.
    pub fn wait_for_signal(&self) {
        let stop = self.shared.stop.clone();
        self.control.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut term), Ok(mut int)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                return stop.fatal("signal handlers cannot be set");
            };
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                () = stop.stopped() => {}
            }
        });
    }

    /// Ends the node: replicas are closed and the log is flushed. An error says why the node could
    /// not go on.
    pub fn stop(self) -> anyhow::Result<()> {
        let Self { shared, control, host, log, transport, threads, .. } = self;
        shared.stop.stop(StopReason::Asked);
        // What does not end in time has nothing durable to lose.
        let _ = control.block_on(async { tokio::time::timeout(STOP_GRACE, host).await });
        shared.consensus.send(Input::Stop);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread ended by a panic");
            }
        }
        drop(transport);
        // Nobody writes any more.
        log.close();
        control.shutdown_timeout(Duration::from_millis(100));
        match shared.stop.reason() {
            Some(StopReason::Fatal(reason)) => anyhow::bail!(reason),
            _ => Ok(()),
        }
    }
}

/// What joining gave.
struct Cluster {
    node: NodeId,
    topology: watch::Receiver<Arc<v1::Topology>>,
    sentinels: Option<SentinelClient>,
}

/// What a node needs to find its cluster.
struct Joining<'a> {
    config: &'a Config,
    secret: &'a [u8; 32],
    bound: &'a Bound,
    data: &'a DataDir,
    stop: &'a Stop,
}

impl Joining<'_> {
    async fn join(
        self,
        mut identity: Identity,
        incarnation: u64,
        source: Source,
    ) -> anyhow::Result<Cluster> {
        let Self { config, secret, bound, data, stop } = self;
        if let Source::Fixed { node, topology } = source {
            return Ok(Cluster { node, topology, sentinels: None });
        }
        let sentinels = SentinelClient::new(
            config.cluster_id.0.to_vec(),
            secret.to_vec(),
            config.sentinels.iter().cloned(),
        );
        let info = v1::NodeInfo {
            id: identity.node_id,
            instance: identity.instance.clone(),
            incarnation,
            ..bound.info(config)?
        };
        let known = topology_cache::load(&data.topology_file(), &config.cluster_id.0);
        let reply = match known.filter(|_| identity.node_id != 0) {
            None => register(&sentinels, &info).await?,
            Some(known) => {
                let registered = register(&sentinels, &info);
                match tokio::time::timeout(SENTINELS_TIMEOUT, registered).await {
                    Ok(reply) => reply?,
                    Err(_) => {
                        let version = known.version;
                        tracing::warn!(
                            version,
                            "no sentinel answers: starting with the last topology"
                        );
                        tokio::spawn(register_later(sentinels.clone(), info, stop.clone()));
                        v1::RegisterNodeReply { id: identity.node_id, topology: Some(known) }
                    }
                }
            }
        };
        if identity.node_id != reply.id {
            identity.node_id = reply.id;
            data.record(&identity)?;
        }
        tracing::info!(node = reply.id, "registered");
        let topology = sentinels.watch_topology(reply.topology);
        Ok(Cluster { node: NodeId(reply.id), topology, sentinels: Some(sentinels) })
    }
}

/// Until a sentinel has registered this node.
async fn register(
    sentinels: &SentinelClient,
    info: &v1::NodeInfo,
) -> anyhow::Result<v1::RegisterNodeReply> {
    loop {
        match sentinels.register_node(info.clone()).await {
            Ok(reply) => return Ok(reply),
            Err(error @ ClientError::Refused(_)) => return Err(error).context("register"),
            Err(error) => tracing::warn!(%error, "no sentinel to register with, trying again"),
        }
    }
}

/// The sentinels must hear of this incarnation, and may know better who this node is.
async fn register_later(sentinels: SentinelClient, info: v1::NodeInfo, stop: Stop) {
    match register(&sentinels, &info).await {
        Ok(reply) if reply.id == info.id => tracing::info!(node = reply.id, "registered"),
        Ok(reply) => stop.fatal(format!("the sentinels call this node {}", reply.id)),
        Err(error) => stop.fatal(format!("{error:#}")),
    }
}

/// What is there while the threads start.
struct Starter {
    shared: Arc<NodeShared>,
    data: Arc<DataDir>,
    control: tokio::runtime::Runtime,
    bound: Bound,
    threads: Vec<JoinHandle<()>>,
}

impl Starter {
    fn start(
        mut self,
        cluster: Cluster,
        log: LogWriter,
        amnesiacs: BTreeMap<RaftId, String>,
    ) -> anyhow::Result<Node> {
        let (events, host_events) = mpsc::unbounded_channel();
        let transport = self.start_transport()?;
        let shell = Shell {
            node: Arc::clone(&self.shared),
            transport: Box::new(transport.handle()),
            log: log.handle(),
            events: events.clone(),
            replies: Replies::default(),
            places: BTreeMap::new(),
        };
        self.thread("consensus", move || ConsensusLoop::new(shell).run())?;
        let host = Host {
            node: Arc::clone(&self.shared),
            data: Arc::clone(&self.data),
            log: log.handle(),
            amnesiacs,
            topology: cluster.topology,
            sentinels: cluster.sentinels,
            open: BTreeMap::new(),
            kept_version: 0,
        };
        let host = self.control.spawn(host.run(host_events));
        let control =
            Control { node: Arc::clone(&self.shared), data: Arc::clone(&self.data), events };
        self.serve(control)?;
        let Self { shared, data, control, threads, .. } = self;
        Ok(Node { shared, control, host, log, transport, _data: data, threads })
    }

    fn start_transport(&self) -> anyhow::Result<Transport> {
        let node = &self.shared;
        let config = TransportConfig::new(
            Bytes::copy_from_slice(&node.cluster_id),
            Bytes::copy_from_slice(&node.secret),
            node.node.0,
            node.incarnation,
        );
        let events = FromPeers(node.consensus.clone());
        Transport::start(config, self.bound.peer.try_clone()?, events)
            .context("start the transport to the other nodes")
    }

    /// Starts everything that listens.
    fn serve(&mut self, control: Control) -> anyhow::Result<()> {
        let node = Arc::clone(&self.shared);
        let listener = self.bound.link.try_clone()?;
        self.local_runtime("link-net", move || async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            link_server::serve(node, listener).await;
            Ok(())
        })?;
        let node = Arc::clone(&self.shared);
        let listener = self.bound.heartbeat.try_clone()?;
        self.local_runtime("heartbeat", move || async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            heartbeat::serve(node, listener).await;
            Ok(())
        })?;
        let _entered = self.control.enter();
        let listener = tokio::net::TcpListener::from_std(self.bound.metrics.try_clone()?)?;
        self.control.spawn(metrics::serve(Arc::clone(&self.shared), listener));
        let listener = tokio::net::TcpListener::from_std(self.bound.control.try_clone()?)?;
        let incoming = TcpListenerStream::new(listener)
            .map(|accepted| accepted.and_then(|stream| stream.set_nodelay(true).map(|()| stream)));
        let service = tonic::transport::Server::builder()
            .serve_with_incoming(Services::new(control), incoming);
        let stop = self.shared.stop.clone();
        self.control.spawn(async move {
            if let Err(error) = service.await {
                stop.fatal(format!("the control service ended: {error}"));
            }
        });
        Ok(())
    }

    /// A thread with a runtime of its own, which ends when the node stops.
    fn local_runtime<F, Fut>(&mut self, name: &'static str, serve: F) -> anyhow::Result<()>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = std::io::Result<()>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .with_context(|| format!("start the runtime of {name}"))?;
        let stop = self.shared.stop.clone();
        self.thread(name, move || {
            let local = tokio::task::LocalSet::new();
            let served = local.block_on(&runtime, async {
                tokio::select! {
                    served = serve() => served,
                    () = stop.stopped() => Ok(()),
                }
            });
            if let Err(error) = served {
                stop.fatal(format!("{name}: {error}"));
            }
        })
    }

    /// A thread whose panic ends the process: a node that lacks one is not a node.
    fn thread(
        &mut self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> anyhow::Result<()> {
        let stop = self.shared.stop.clone();
        let guarded = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            if result.is_err() {
                stop.fatal(format!("the {name} thread panicked"));
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
        self.threads.push(thread.with_context(|| format!("start the {name} thread"))?);
        Ok(())
    }
}

/// The cluster's persistence mode; waits for the first topology that has one.
fn wait_for_mode(
    control: &tokio::runtime::Runtime,
    cluster: &Cluster,
) -> anyhow::Result<v1::PersistenceMode> {
    let mut topology = cluster.topology.clone();
    let known = control.block_on(topology.wait_for(|topology| topology.spec.is_some()));
    let topology = known.context("wait for the topology")?;
    Ok(topology.spec.as_ref().map_or(v1::PersistenceMode::Unspecified, |spec| spec.persistence()))
}

/// Opens the log and starts its writer. Also says which of this node's replicas must not run on it
/// and why.
///
/// In the mode `none` the log is in files too, never synced: a killed process finds it in the page
/// cache.
fn open_log(
    control: &tokio::runtime::Runtime,
    data: &DataDir,
    cluster: &Cluster,
    consensus: &Mailbox<Input>,
) -> anyhow::Result<(LogWriter, BTreeMap<RaftId, String>)> {
    use v1::PersistenceMode as Mode;
    let policy = match wait_for_mode(control, cluster)? {
        Mode::None | Mode::Rdb => SyncPolicy::Os,
        Mode::AofAlways => SyncPolicy::Always,
        Mode::AofEverysec | Mode::Unspecified => SyncPolicy::EverySecond,
    };
    let folder = data.raft_dir();
    let mut store = RaftEngineStore::open(&folder, &RaftEngineOptions::default())
        .with_context(|| format!("open the log in {}", folder.display()))?;
    let side = SideRecord::open(&folder, &boot_id()?, policy)
        .with_context(|| format!("open the record of the log in {}", folder.display()))?;
    let mut amnesiacs = BTreeMap::new();
    for (shard, raft_id) in replicas_of(&cluster.topology.borrow(), cluster.node) {
        let stored = store.load(shard).with_context(|| format!("read the log of {shard}"))?;
        if let Decision::Amnesiac(reason) = side.decide(shard, raft_id, stored.as_ref()) {
            amnesiacs.insert(raft_id, reason);
        }
    }
    let consensus = consensus.clone();
    let on_persisted = move |written: &[(ShardId, u64)]| {
        let mut inputs =
            written.iter().map(|&(shard, number)| Input::Persisted { shard, number }).collect();
        consensus.send_all(&mut inputs);
    };
    let config = LogWriterConfig::new(policy);
    let log = LogWriter::start(Box::new(store), Some(side), config, on_persisted)
        .context("start the log writer")?;
    Ok((log, amnesiacs))
}

fn replicas_of(topology: &v1::Topology, node: NodeId) -> Vec<(ShardId, RaftId)> {
    let of_shard = |shard: &v1::ShardInfo| {
        let shard_id = ShardId(shard.id);
        let mine = shard.replicas.iter().filter(|replica| replica.node == node.0);
        mine.map(|replica| (shard_id, RaftId(replica.raft_id))).collect::<Vec<_>>()
    };
    topology.shards.iter().flat_map(of_shard).collect()
}
