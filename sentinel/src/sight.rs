//! Watches the nodes, on a thread of its own with one small connection to each: nothing else that
//! this process does may make a node look dead.
//!
//! The thread steps the [`Detector`] and leaves what it heard in [`Sight`], from where the control
//! task takes it. The control task is woken only when something changed that could matter.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use holdfast_proto::v1;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};

use crate::core::detector::{
    Change, Detector, HEARTBEAT_INTERVAL, Input, Opinion, REFUSAL_SPACING,
};
use crate::group::Published;
use holdfast_consensus::clock;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Between attempts at a node that is known to be away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// A connection without an answer for this long is given up and made anew: the machine may have
/// been replaced under the same address without telling us.
const CONNECTION_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Answers list every replica of a node (some 150 bytes each); this is thousands.
const REPLY_LEN_MAX: usize = 1024 * 1024;

/// Who asks.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) sentinel: u64,
    pub(crate) cluster_id: bytes::Bytes,
    pub(crate) secret: bytes::Bytes,
}

/// Shared between the heartbeat thread and the control task.
pub(crate) struct Sight {
    inner: Mutex<Inner>,
    news: Notify,
    began: Instant,
}

#[derive(Default)]
struct Inner {
    detector: Detector,
    fresh: BTreeMap<u64, (Duration, v1::HeartbeatReply)>,
    last: BTreeMap<u64, Vec<Essence>>,
    changes: Vec<Change>,
}

/// The part of a replica's status whose change cannot wait: id, role, term, leader, serving.
type Essence = (u64, i32, u64, u64, bool);

/// What has been seen since the last look.
pub(crate) struct Seen {
    pub(crate) fresh: Vec<(Duration, v1::HeartbeatReply)>,
    pub(crate) changes: Vec<Change>,
    pub(crate) opinions: Vec<v1::NodeOpinion>,
    pub(crate) impaired: bool,
}

impl Sight {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), news: Notify::new(), began: Instant::now() }
    }

    /// Returns when something changed that could matter.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    pub(crate) fn take(&self, now: Duration) -> Seen {
        let mut inner = self.lock();
        Seen {
            fresh: std::mem::take(&mut inner.fresh).into_values().collect(),
            changes: std::mem::take(&mut inner.changes),
            opinions: inner.detector.opinions(now),
            impaired: inner.detector.is_impaired(now),
        }
    }

    /// The same instants for every connection, so that one wake-up serves them all. After a pause
    /// the missed ones are skipped.
    fn beats(&self) -> Interval {
        let passed = self.began.elapsed().as_millis() / HEARTBEAT_INTERVAL.as_millis();
        let next = self.began + HEARTBEAT_INTERVAL * (passed as u32 + 1);
        let mut beats = interval_at(next, HEARTBEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        beats
    }

    fn input(&self, node: u64, input: Input) {
        let mut inner = self.lock();
        let before = inner.changes.len();
        let Inner { detector, changes, .. } = &mut *inner;
        detector.input(clock::monotonic(), node, input, changes);
        if inner.changes.len() > before {
            self.news.notify_one();
        }
    }

    fn heard(&self, node: u64, reply: v1::HeartbeatReply) {
        self.input(node, Input::Replied { incarnation: reply.incarnation });
        let essence =
            |r: &v1::ReplicaStatus| (r.raft_id, r.role, r.term, r.leader_raft_id, r.serving);
        let essence: Vec<Essence> = reply.replicas.iter().map(essence).collect();
        let mut inner = self.lock();
        inner.fresh.insert(node, (clock::monotonic(), reply));
        if inner.last.get(&node) != Some(&essence) {
            inner.last.insert(node, essence);
            self.news.notify_one();
        }
    }

    fn tick(&self, late: Duration) {
        let mut inner = self.lock();
        let before = inner.changes.len();
        let Inner { detector, changes, .. } = &mut *inner;
        detector.tick(clock::monotonic(), late, changes);
        if inner.changes.len() > before {
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The heartbeat thread's life: watches the nodes of the topology until its sender is gone.
pub(crate) async fn watch_nodes(
    sight: Arc<Sight>,
    identity: Identity,
    mut published: watch::Receiver<Published>,
) {
    let mut watchers: BTreeMap<(u64, String), JoinHandle<()>> = BTreeMap::new();
    let mut beats = sight.beats();
    loop {
        let nodes: Vec<(u64, String)> = {
            let published = published.borrow_and_update();
            let reachable =
                published.topology.nodes.iter().filter(|n| !n.heartbeat_addr.is_empty());
            reachable.map(|n| (n.id, n.heartbeat_addr.clone())).collect()
        };
        watchers.retain(|node, task| {
            let keep = nodes.contains(node);
            if !keep {
                task.abort();
            }
            keep
        });
        sight.lock().detector.watch(clock::monotonic(), nodes.iter().map(|(id, _)| *id));
        for node in nodes {
            let (sight, identity) = (Arc::clone(&sight), identity.clone());
            let (id, addr) = node.clone();
            watchers
                .entry(node)
                .or_insert_with(|| tokio::spawn(watch_node(sight, identity, id, addr)));
        }
        loop {
            tokio::select! {
                changed = published.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                due = beats.tick() => sight.tick(due.elapsed()),
            }
        }
    }
}

async fn watch_node(sight: Arc<Sight>, identity: Identity, node: u64, addr: String) {
    loop {
        let began = Instant::now();
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(&addr)).await {
            Ok(Ok(stream)) => {
                let ended = converse(&sight, &identity, node, stream).await;
                if let Err(error) = ended {
                    tracing::debug!(node, %error, "heartbeat connection ended");
                    if error.kind() != io::ErrorKind::TimedOut {
                        sight.input(node, Input::Reset);
                    }
                }
                // Reconnect at once after a loss; slowly to somebody who only hangs up.
                if began.elapsed() < HEARTBEAT_INTERVAL {
                    sleep(RECONNECT_PAUSE).await;
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                sight.input(node, Input::Refused);
                let known =
                    matches!(sight.lock().detector.opinion(node), Opinion::Down { hard: true });
                sleep(if known { RECONNECT_PAUSE } else { REFUSAL_SPACING }).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(node, addr, %error, "heartbeat connection failed");
                sleep(RECONNECT_PAUSE).await;
            }
            Err(_) => {}
        }
    }
}

/// Asks and listens until the connection ends.
async fn converse(
    sight: &Sight,
    identity: &Identity,
    node: u64,
    mut stream: TcpStream,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = v1::HeartbeatRequest {
        cluster_id: identity.cluster_id.clone(),
        secret: identity.secret.clone(),
        sentinel: identity.sentinel,
        sequence: 0,
    };
    let (mut input, mut output) = (BytesMut::with_capacity(1024), BytesMut::new());
    let mut heard = Instant::now();
    let mut beats = sight.beats();
    beats.reset_immediately();
    loop {
        tokio::select! {
            _ = beats.tick() => {
                let now = Instant::now();
                if now > heard + CONNECTION_SILENCE_MAX {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                request.sequence += 1;
                encode(&request, &mut output);
                // A stopped process reads nothing, but 3 s of requests fit into its socket.
                stream.write_all(&output).await?;
                if request.sequence == 1 {
                    // From now on in step with the others.
                    request.secret = bytes::Bytes::new();
                    beats = sight.beats();
                }
            }
            read = stream.read_buf(&mut input) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                while let Some(reply) = decode(&mut input)? {
                    if reply.node != node {
                        let text = format!("node {} answers for node {node}", reply.node);
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                    heard = Instant::now();
                    sight.heard(node, reply);
                }
            }
        }
    }
}

fn encode(request: &v1::HeartbeatRequest, out: &mut BytesMut) {
    out.clear();
    out.extend_from_slice(&(request.encoded_len() as u32).to_le_bytes());
    request.encode(out).expect("a BytesMut grows");
}

fn decode(input: &mut BytesMut) -> io::Result<Option<v1::HeartbeatReply>> {
    let Some(len) = input.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    if len > REPLY_LEN_MAX {
        let text = format!("a heartbeat reply of {len} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if input.len() < 4 + len {
        return Ok(None);
    }
    input.advance(4);
    let reply = v1::HeartbeatReply::decode(input.split_to(len).freeze());
    reply.map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
