//! Real node processes on the loopback, without sentinels: this test binary starts itself again as
//! a node, so that nodes can be killed.

#![allow(dead_code)] // Not every test uses everything.
#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.
#![allow(unreachable_pub)] // A module of each test binary.

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_node::{Bound, Config, Hex, Node, Source};
use holdfast_proto::frame::{
    AnswerStatus, LINK_VERSION, ReadOp, ReadRequest, RecordHeader, RecordOp, Request, Response,
    begin_write,
};
use holdfast_proto::ids::{NodeId, ShardId, WorkerId};
use holdfast_proto::resp::encode;
use holdfast_proto::slot::Slot;
use holdfast_proto::v1;
use holdfast_proto::v1::node_control_client::NodeControlClient;
use prost::Message;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

pub const CLUSTER: [u8; 16] = [7; 16];
pub const SECRET: [u8; 32] = [9; 32];
const NODE_ENV: &str = "HOLDFAST_TEST_NODE";

/// Must be called by a test named `node_process`: it is the node when the environment says so.
pub fn maybe_run_node() {
    let Ok(folder) = std::env::var(NODE_ENV) else { return };
    let folder = PathBuf::from(folder);
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let level = std::env::var("HOLDFAST_TEST_LOG").ok().and_then(|l| l.parse().ok());
    let level = level.unwrap_or(tracing_subscriber::filter::LevelFilter::INFO);
    tracing_subscriber::fmt().with_max_level(level).with_writer(log).with_ansi(false).init();
    let config = Config::from_file(&folder.join("node.toml")).unwrap();
    let topology = read_topology(&folder);
    let id = std::fs::read_to_string(folder.join("id")).unwrap().parse().unwrap();
    let (sender, topology) = tokio::sync::watch::channel(Arc::new(topology));
    let watched = folder;
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let topology = read_topology(&watched);
            sender.send_if_modified(|known| {
                let newer = topology.version > known.version;
                if newer {
                    *known = Arc::new(topology);
                }
                newer
            });
        }
    });
    let bound = Bound::new(&config).unwrap();
    let source = Source::Fixed { node: NodeId(id), topology };
    let node = Node::start(config, bound, source).unwrap();
    node.wait_for_signal();
    let stopped = node.stop();
    std::process::exit(i32::from(stopped.is_err()));
}

fn read_topology(folder: &Path) -> v1::Topology {
    v1::Topology::decode(&std::fs::read(folder.join("topology")).unwrap()[..]).unwrap()
}

/// Below the ports that the kernel gives to outgoing connections: one of those could be taken again
/// before the node binds it.
fn free_addr() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() * 61 + NEXT.fetch_add(1, Ordering::Relaxed);
        let addr = SocketAddr::from(([127, 0, 0, 1], (10_000 + number % 9_000) as u16));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

pub struct Cluster {
    pub folder: tempfile::TempDir,
    pub topology: v1::Topology,
    pub nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// Every node has a replica of every shard.
    pub fn start(nodes: u64, shards: u32, mode: v1::PersistenceMode) -> Self {
        Self::start_with_spares(nodes, 0, shards, mode)
    }

    /// The last `spares` nodes have no replica.
    pub fn start_with_spares(
        nodes: u64,
        spares: u64,
        shards: u32,
        mode: v1::PersistenceMode,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut infos = Vec::new();
        for id in 1..=nodes {
            let dir = folder.path().join(format!("n{id}"));
            std::fs::create_dir_all(&dir).unwrap();
            let config = Config {
                cluster_id: Hex(CLUSTER),
                secret: Some(Hex(SECRET)),
                secret_file: None,
                sentinels: vec!["127.0.0.1:1".to_owned()],
                data_dir: dir.join("data"),
                link_listen: free_addr(),
                peer_listen: free_addr(),
                heartbeat_listen: free_addr(),
                control_listen: free_addr(),
                metrics_listen: free_addr(),
                advertise_host: None,
                zone: String::new(),
                log_level: "info".to_owned(),
            };
            std::fs::write(dir.join("node.toml"), config.to_toml()).unwrap();
            std::fs::write(dir.join("id"), id.to_string()).unwrap();
            infos.push(v1::NodeInfo {
                id,
                link_addr: config.link_listen.to_string(),
                peer_addr: config.peer_listen.to_string(),
                heartbeat_addr: config.heartbeat_listen.to_string(),
                control_addr: config.control_listen.to_string(),
                metrics_addr: config.metrics_listen.to_string(),
                ..Default::default()
            });
        }
        let shards = (1..=shards).map(|id| v1::ShardInfo {
            id,
            replicas: (1..=nodes - spares)
                .map(|node| v1::ReplicaInfo {
                    raft_id: u64::from(id) * 100 + node,
                    node,
                    role: v1::ReplicaRole::Voter as i32,
                    founding: true,
                })
                .collect(),
            slots: vec![v1::SlotRange { first: 0, last: 16383 }],
            ..Default::default()
        });
        let topology = v1::Topology {
            cluster_id: CLUSTER.to_vec().into(),
            version: 1,
            spec: Some(v1::ClusterSpec {
                persistence: mode as i32,
                databases: 16,
                ..Default::default()
            }),
            shards: shards.collect(),
            nodes: infos,
            ..Default::default()
        };
        let count = nodes as usize;
        let mut cluster = Self { folder, topology, nodes: (0..count).map(|_| None).collect() };
        cluster.write_topology();
        for id in 1..=nodes {
            cluster.start_node(id);
        }
        cluster
    }

    /// What the sentinels would do: a new version for every node.
    pub fn change_topology(&mut self, change: impl FnOnce(&mut v1::Topology)) {
        change(&mut self.topology);
        self.topology.version += 1;
        self.write_topology();
    }

    pub fn write_topology(&self) {
        for node in &self.topology.nodes {
            let path = self.dir(node.id).join("topology");
            std::fs::write(path.with_extension("new"), self.topology.encode_to_vec()).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }
    }

    pub fn dir(&self, id: u64) -> PathBuf {
        self.folder.path().join(format!("n{id}"))
    }

    pub fn start_node(&mut self, id: u64) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node_process", "--nocapture"])
            .env(NODE_ENV, self.dir(id))
            .env("HOLDFAST_FAULTS", "1")
            .stdout(Stdio::null())
            .stderr(
                std::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(self.dir(id).join("stderr"))
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        self.nodes[id as usize - 1] = Some(child);
    }

    /// kill -9.
    pub fn kill(&mut self, id: u64) {
        if let Some(mut child) = self.nodes[id as usize - 1].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What goes wrong in a node from now on, as in `holdfast_consensus::faults`.
    pub fn faults(&self, id: u64, faults: &str) {
        let changes = |log: &str| log.matches("faults changed").count();
        let before = changes(&self.log(id));
        std::fs::write(self.dir(id).join("data").join("faults"), faults).unwrap();
        if self.nodes[id as usize - 1].is_some() {
            wait_until("the fault to take effect", Duration::from_secs(5), || {
                changes(&self.log(id)) > before
            });
        }
    }

    /// How a node ended by itself.
    pub fn ended(&mut self, id: u64) -> std::process::ExitStatus {
        let child = self.nodes[id as usize - 1].as_mut().unwrap();
        let mut status = None;
        wait_until("the node to end", Duration::from_secs(10), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        self.nodes[id as usize - 1] = None;
        status.unwrap()
    }

    pub fn log(&self, id: u64) -> String {
        std::fs::read_to_string(self.dir(id).join("log")).unwrap_or_default()
    }

    pub fn signal(&self, id: u64, signal: rustix::process::Signal) {
        let child = self.nodes[id as usize - 1].as_ref().unwrap();
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self, id: u64) -> Option<i32> {
        let mut child = self.nodes[id as usize - 1].take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap().code()
    }

    /// Calls a node's control service.
    pub fn control<T>(
        &self,
        id: u64,
        call: impl AsyncFnOnce(NodeControlClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, tonic::Status> {
        let addr = format!("http://{}", self.topology.nodes[id as usize - 1].control_addr);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = NodeControlClient::connect(addr).await;
            let client = client.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
            Ok(call(client).await?.into_inner())
        })
    }

    pub fn checkpoint(&self, id: u64, shard: u32) -> u64 {
        let request = v1::CheckpointRequest { secret: SECRET.to_vec().into(), shard };
        self.control(id, async |mut client| client.checkpoint(request).await).unwrap().index
    }

    pub fn checkpoint_path(&self, id: u64, shard: u32, index: u64) -> PathBuf {
        self.dir(id).join(format!("data/shard-{shard}/checkpoint-{index}.rdb"))
    }

    pub fn link_addr(&self, id: u64) -> &str {
        &self.topology.nodes[id as usize - 1].link_addr
    }

    pub fn metrics(&self, id: u64) -> String {
        let addr = &self.topology.nodes[id as usize - 1].metrics_addr;
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(addr) {
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            stream.read_to_string(&mut text).unwrap();
        }
        text
    }

    /// The first sample of a metric; 0 without one.
    pub fn metric(&self, id: u64, name: &str) -> u64 {
        let text = self.metrics(id);
        let line = text.lines().find(|line| line.starts_with(name));
        line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    pub fn logs(&self) -> String {
        let read = |id: u64, name: &str| {
            let text = std::fs::read_to_string(self.dir(id).join(name)).unwrap_or_default();
            format!("--- node {id} {name}\n{text}")
        };
        self.topology.nodes.iter().map(|n| read(n.id, "log") + &read(n.id, "stderr")).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in 1..=self.nodes.len() as u64 {
            self.kill(id);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// One link to one node.
pub struct Link {
    stream: TcpStream,
    buffer: BytesMut,
    pub node: u64,
}

impl Link {
    pub fn connect(addr: &str, node: u64, worker: u64) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let mut link = Self { stream, buffer: BytesMut::new(), node };
        link.send(&Request::Hello {
            version: LINK_VERSION,
            cluster_id: CLUSTER,
            secret: SECRET,
            worker: WorkerId(worker),
        })?;
        match link.receive(Duration::from_secs(2))? {
            Response::HelloOk { .. } => Ok(link),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        }
    }

    pub fn send(&mut self, request: &Request) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn receive(&mut self, timeout: Duration) -> std::io::Result<Response> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(response) = Response::decode(&mut self.buffer).unwrap() {
                return Ok(response);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(e) => return Err(e),
            }
        }
    }
}

pub fn command(args: &[&[u8]]) -> Bytes {
    let mut out = BytesMut::new();
    encode::command(&mut out, args.iter().copied());
    out.freeze()
}

/// A write that can be sent again.
#[derive(Clone)]
pub struct Write1 {
    pub shard: ShardId,
    pub header: RecordHeader,
    pub body: Bytes,
}

impl Write1 {
    pub fn encode(&self, out: &mut BytesMut) {
        begin_write(self.shard, &self.header, out);
        out.put_slice(&self.body);
    }
}

/// A proxy worker in small: lanes, and resending until a primary answers.
pub struct Client<'a> {
    cluster: &'a v1::Topology,
    pub worker: u64,
    pub shard: ShardId,
    pub link: Option<Link>,
    seqs: HashMap<Slot, u64>,
    tag: u64,
    turn: u64,
    pub resent: u64,
}

impl<'a> Client<'a> {
    pub fn new(cluster: &'a v1::Topology, worker: u64, shard: u32) -> Self {
        let shard = ShardId(shard);
        Self {
            cluster,
            worker,
            shard,
            link: None,
            seqs: HashMap::new(),
            tag: 0,
            turn: 0,
            resent: 0,
        }
    }

    /// The node of the primary that answered last.
    pub fn primary(&self) -> u64 {
        self.link.as_ref().unwrap().node
    }

    pub fn next_write(&mut self, key: &[u8], args: &[&[u8]]) -> Write1 {
        let slot = Slot::of_key(key);
        let seq = self.seqs.entry(slot).or_default();
        *seq += 1;
        self.tag += 1;
        let body = command(args);
        let header = RecordHeader {
            op: RecordOp::Command,
            flags: 0,
            db: 0,
            slot,
            worker: WorkerId(self.worker),
            seq: *seq,
            first_unacked: *seq,
            tag: self.tag,
            body_len: body.len() as u32,
        };
        Write1 { shard: self.shard, header, body }
    }

    pub fn write(&mut self, args: &[&[u8]]) -> Bytes {
        let write = self.next_write(args[1], args);
        let mut frame = BytesMut::new();
        write.encode(&mut frame);
        self.until_reply(&frame, write.header.tag)
    }

    pub fn read(&mut self, args: &[&[u8]]) -> Bytes {
        self.tag += 1;
        let key = args.get(1).copied().unwrap_or_default();
        let read = ReadRequest {
            shard: self.shard,
            flags: 0,
            db: 0,
            slot: Slot::of_key(key),
            tag: self.tag,
            depends_on_slot: Slot::default(),
            depends_on_seq: 0,
            op: ReadOp::Command,
            body: command(args),
        };
        let mut frame = BytesMut::new();
        Request::Read(read).encode(&mut frame);
        let tag = self.tag;
        self.until_reply(&frame, tag)
    }

    /// Sends to one node after the other until one answers.
    pub fn until_reply(&mut self, frame: &[u8], tag: u64) -> Bytes {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            match self.try_once(frame, tag) {
                Ok(Some(payload)) => return payload,
                Ok(None) => {}
                Err(_) => self.link = None,
            }
            self.resent += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no primary answers");
    }

    fn try_once(&mut self, frame: &[u8], tag: u64) -> std::io::Result<Option<Bytes>> {
        if self.link.is_none() {
            self.turn += 1;
            let node = &self.cluster.nodes[(self.turn % self.cluster.nodes.len() as u64) as usize];
            self.link = Some(Link::connect(&node.link_addr, node.id, self.worker)?);
        }
        let link = self.link.as_mut().unwrap();
        link.send_bytes(frame)?;
        loop {
            match link.receive(Duration::from_secs(5))? {
                Response::Answer { tag: t, status: AnswerStatus::Reply, payload } if t == tag => {
                    return Ok(Some(payload));
                }
                Response::Answer { tag: t, status: AnswerStatus::NotPrimary, .. } if t == tag => {
                    self.link = None;
                    return Ok(None);
                }
                Response::Answer { tag: t, status, payload } if t == tag => {
                    panic!("{status:?} {payload:?}")
                }
                Response::PrimaryIs { .. } | Response::Answer { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

pub fn wait_until(what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
