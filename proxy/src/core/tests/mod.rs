//! The core against scripted nodes: no sockets, a clock that the test moves.

mod acl;
mod commands;
mod failover;
mod placement;
mod pubsub;
mod random;
mod scatter;
mod script;
mod tracking;
mod transaction;

use super::*;
use bytes::{BufMut, Bytes};
use holdfast_proto::frame::push::Registration;
use holdfast_proto::frame::{
    AnswerStatus, RECORD_HEADER_LEN, ReadRequest, RecordHeader, Request as Frame, split_record,
};
use holdfast_proto::slot::Slot;
use std::collections::VecDeque;

/// What a node received.
#[derive(Debug, Clone)]
pub(super) enum Received {
    Write { shard: ShardId, header: RecordHeader, body: Bytes },
    Read(ReadRequest),
}

impl Received {
    pub(super) fn tag(&self) -> u64 {
        match self {
            Self::Write { header, .. } => header.tag,
            Self::Read(read) => read.tag,
        }
    }

    /// The command's words, or the record's body if it is not a command.
    pub(super) fn text(&self) -> String {
        let body = match self {
            Self::Write { body, .. } => body,
            Self::Read(read) => &read.body,
        };
        let mut args = smallvec::SmallVec::new();
        match holdfast_proto::resp::parse_array(body, &mut args) {
            Ok(_) => args
                .iter()
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect::<Vec<_>>()
                .join(" "),
            Err(_) => format!("{body:?}"),
        }
    }

    pub(super) fn seq(&self) -> u64 {
        match self {
            Self::Write { header, .. } => header.seq,
            Self::Read(_) => 0,
        }
    }

    pub(super) fn header(&self) -> RecordHeader {
        match self {
            Self::Write { header, .. } => *header,
            Self::Read(_) => panic!("not a write"),
        }
    }
}

/// A core and its surroundings.
pub(super) struct World {
    pub(super) core: WorkerCore,
    pub(super) now_ms: u64,
    pub(super) actions: Vec<Action>,
    greeted: Vec<bool>,
    /// Registrations of subscriptions by link: topic, name and clients, in words.
    pub(super) registered: Vec<(usize, u64, String)>,
}

/// Shards `1..=shards` over the slots in equal parts, shard `n`'s primary on node `n`; nodes 1 to 3.
pub(super) fn topology(shards: u32, password: &str) -> v1::Topology {
    let nodes = (1..=3u64)
        .map(|id| v1::NodeInfo { id, link_addr: format!("node{id}:1"), ..Default::default() })
        .collect();
    let share = 16384 / shards;
    let shards = (1..=shards)
        .map(|id| v1::ShardInfo {
            id,
            primary_node: u64::from(id),
            term: 1,
            replicas: (1..=3)
                .map(|node| v1::ReplicaInfo { raft_id: node, node, role: 1, founding: true })
                .collect(),
            slots: vec![v1::SlotRange {
                first: (id - 1) * share,
                last: if id == shards { 16383 } else { id * share - 1 },
            }],
            epoch: 1,
        })
        .collect();
    let spec = v1::ClusterSpec { password: password.to_owned(), ..Default::default() };
    v1::Topology { version: 1, nodes, shards, spec: Some(spec), ..Default::default() }
}

impl World {
    pub(super) fn new(shards: u32) -> Self {
        Self::with(topology(shards, ""))
    }

    pub(super) fn with(topology: v1::Topology) -> Self {
        Self::of_worker(topology, 0, 1)
    }

    /// One of several workers of a proxy.
    pub(super) fn of_worker(topology: v1::Topology, worker_index: u32, worker_count: u32) -> Self {
        let config = CoreConfig {
            cluster_id: [1; 16],
            secret: [2; 32],
            proxy_id: 1,
            worker_index,
            worker_count,
            announce_host: "proxy.example".to_owned(),
            announce_port: 6380,
            tls_port: 6380,
            plain_port: 0,
            clients_max: 100,
            clients_max_shown: 100,
            hold_deadline_us: 10_000_000,
            held_bytes_max: 1024 * 1024,
            seed: 7,
            process_id: 1,
        };
        let now = Now { monotonic: Duration::from_secs(1), unix_us: 1 };
        let core = WorkerCore::new(config, WorkerId(9), Arc::new(topology), now);
        let mut world = Self {
            core,
            now_ms: 1000,
            actions: Vec::new(),
            greeted: vec![false; 3],
            registered: Vec::new(),
        };
        for link in 0..3 {
            world.connect(link);
        }
        world
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic: Duration::from_millis(self.now_ms),
            unix_us: 1_700_000_000_000_000 + self.now_ms * 1000,
        }
    }

    /// Link `link` (to node `link + 1`) connects and is welcomed.
    pub(super) fn connect(&mut self, link: usize) {
        let now = self.now();
        self.core.link_up(link, now);
        self.greeted[link] = false;
        assert!(self.received(link).is_empty());
        assert!(self.greeted[link], "a link begins with Hello");
        self.push(link, Response::HelloOk { node: NodeId(link as u64 + 1) });
    }

    pub(super) fn disconnect(&mut self, link: usize) {
        let now = self.now();
        self.core.link_down(link, now);
    }

    /// A node sends a frame.
    pub(super) fn push(&mut self, link: usize, response: Response) {
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes);
        let now = self.now();
        self.core.link_data(link, &mut bytes, now).unwrap();
    }

    pub(super) fn answer(&mut self, link: usize, tag: u64, status: AnswerStatus, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        self.push(link, Response::Answer { tag, status, payload });
    }

    pub(super) fn reply(&mut self, link: usize, request: &Received, payload: &str) {
        self.answer(link, request.tag(), AnswerStatus::Reply, payload.as_bytes());
    }

    pub(super) fn refuse(&mut self, link: usize, request: &Received, term: u64, leader: u64) {
        let mut payload = Vec::new();
        payload.put_u64_le(term);
        payload.put_u64_le(leader);
        self.answer(link, request.tag(), AnswerStatus::NotPrimary, &payload);
    }

    pub(super) fn gap(&mut self, link: usize, request: &Received, next: u64) {
        self.answer(link, request.tag(), AnswerStatus::Gap, &next.to_le_bytes());
    }

    pub(super) fn primary_is(&mut self, link: usize, shard: u32, term: u64) {
        let node = NodeId(link as u64 + 1);
        self.push(link, Response::PrimaryIs { shard: ShardId(shard), term: Term(term), node });
    }

    /// Everything that the core wrote to a node since the last look.
    pub(super) fn received(&mut self, link: usize) -> Vec<Received> {
        let mut bytes = self.core.link_output(link).split();
        let mut all = Vec::new();
        while let Some(frame) = Frame::decode(&mut bytes).unwrap() {
            match frame {
                Frame::Hello { .. } => self.greeted[link] = true,
                Frame::Ping { .. } => {}
                Frame::Register { number, entries } => {
                    self.registered.push((link, number, words_of(&entries)));
                }
                Frame::Read(read) => all.push(Received::Read(read)),
                Frame::Write { shard, record } => {
                    let mut record = record;
                    assert!(record.len() >= RECORD_HEADER_LEN);
                    let (header, body) = split_record(&mut record).unwrap();
                    all.push(Received::Write { shard, header, body });
                }
            }
        }
        all
    }

    /// The one request that a node received since the last look.
    pub(super) fn received_one(&mut self, link: usize) -> Received {
        let mut all = self.received(link);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Lets time pass in steps of 20 ms; `alive` links answer pings.
    pub(super) fn pass(&mut self, milliseconds: u64, alive: &[usize]) {
        let end = self.now_ms + milliseconds;
        while self.now_ms < end {
            self.now_ms = (self.now_ms + 20).min(end);
            for &link in alive {
                self.push(link, Response::Pong { nonce: 0 });
            }
            let now = self.now();
            self.core.tick(now);
        }
    }

    pub(super) fn client(&mut self) -> ClientKey {
        let addr = "10.0.0.1:1234".parse().unwrap();
        let now = self.now();
        self.core.client_connected(addr, addr, now).unwrap()
    }

    /// The client sends commands, one per line, words separated by blanks.
    pub(super) fn send(&mut self, client: ClientKey, commands: &str) {
        let mut bytes = BytesMut::new();
        for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: VecDeque<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            holdfast_proto::resp::encode::command(&mut bytes, words.into_iter());
        }
        let now = self.now();
        self.core.client_data(client, bytes, now);
    }

    /// What the client was told since the last look.
    pub(super) fn told(&mut self, client: ClientKey) -> String {
        let (output, _) = self.core.client_output(client).expect("the client is connected");
        let text = String::from_utf8_lossy(output).into_owned();
        output.clear();
        text
    }

    pub(super) fn is_closing(&mut self, client: ClientKey) -> bool {
        self.core.client_output(client).is_none_or(|(_, closing)| closing)
    }

    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        self.core.take_dirty(&mut Vec::new(), &mut Vec::new(), &mut self.actions);
        std::mem::take(&mut self.actions)
    }
}

/// Registrations as "channel news 2, pattern n* 1".
fn words_of(mut entries: &[u8]) -> String {
    let mut words = Vec::new();
    while !entries.is_empty() {
        let Registration { topic, name, clients } = Registration::decode(&mut entries).unwrap();
        words.push(format!("{topic:?} {} {clients}", String::from_utf8_lossy(name)));
    }
    words.join(", ").to_lowercase()
}

pub(super) fn texts(received: &[Received]) -> Vec<String> {
    received.iter().map(Received::text).collect()
}

/// A key in a slot of the shard (1-based) of a cluster of `shards`.
pub(super) fn key_of_shard(shard: u32, shards: u32) -> String {
    let share = 16384 / shards;
    (0..)
        .map(|n| format!("k{n}"))
        .find(|key| {
            let index = u32::from(Slot::of_key(key.as_bytes()).get()) / share;
            index.min(shards - 1) + 1 == shard
        })
        .expect("some key hashes to each shard")
}
