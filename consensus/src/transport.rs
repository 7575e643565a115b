//! Raft messages between processes, over TCP. Used by nodes and by sentinels.
//!
//! Each process dials each peer twice: a *bulk* connection for appends and snapshots, and an
//! *urgent* one for heartbeats, votes and acknowledgements, which so never queue behind payloads.
//! Connections carry messages one way, from the dialer. Every connection has an epoch; the receiver
//! drops the connections that a newer one of the same process has superseded, so that messages of
//! one sender never arrive twice or in the wrong order.
//!
//! Messages are dropped when a queue is full or a connection breaks, and the peer is reported as
//! unreachable: Raft repeats what matters.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_proto::ids::ShardId;
use holdfast_proto::v1::{GroupMessage, PeerFrame, PeerHello, RaftMessage};
use prost::Message;
use raft::eraftpb::MessageType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

/// Length of a frame's header: the length of its body, big endian.
const HEADER_LEN: usize = 4;
/// Largest frame that is accepted. A message holds at most `max_size_per_msg` plus one entry, and an
/// entry at most one huge command.
const FRAME_LEN_MAX: usize = 1 << 30;
/// Largest hello that is accepted: before it, nothing is known about the dialer.
const HELLO_LEN_MAX: usize = 4 << 10;
/// Payload put into one frame; a larger single message gets its own.
const FRAME_FILL: usize = 1 << 20;
/// Payload encoded for one write.
const WRITE_FILL: usize = 4 << 20;
/// Pause before dialing again, doubled after each failure up to the maximum.
const REDIAL_MIN: Duration = Duration::from_millis(20);
const REDIAL_MAX: Duration = Duration::from_millis(500);
/// Below the second after which TCP repeats a lost SYN: the next dial comes sooner.
const DIAL_MAX: Duration = Duration::from_millis(500);
/// Limits how long a hello may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);

/// Options of the transport.
#[derive(Clone)]
pub struct TransportConfig {
    /// 16 bytes; peers of another cluster are refused.
    pub cluster_id: Bytes,
    /// Shared by the processes of the cluster.
    pub secret: Bytes,
    /// This process: node id, or sentinel id.
    pub own: u64,
    /// Start time in microseconds since the Unix epoch: grows with each start.
    pub incarnation: u64,
    /// Payload that may wait for one peer on its bulk connection; more is dropped.
    pub queue_bytes_max: usize,
    /// Messages that may wait for one peer on either connection.
    pub queue_messages_max: usize,
}

impl TransportConfig {
    /// Default limits: 128 MiB and 65,536 messages for each peer.
    pub fn new(cluster_id: Bytes, secret: Bytes, own: u64, incarnation: u64) -> Self {
        Self {
            cluster_id,
            secret,
            own,
            incarnation,
            queue_bytes_max: 128 << 20,
            queue_messages_max: 1 << 16,
        }
    }
}

/// What the transport tells the shell, on its own thread: only pass it on.
pub trait TransportEvents: Send + Sync + 'static {
    /// Messages of one peer, in its order.
    fn received(&self, from_node: u64, messages: Vec<(ShardId, RaftMessage)>);
    /// Messages to this peer were dropped: call `report_unreachable` on the leaders among the
    /// replicas, for their member on that node.
    fn unreachable(&self, node: u64);
}

/// The transport's thread; ends when this is dropped.
pub struct Transport {
    handle: TransportHandle,
    local_addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Sends messages from any thread, without blocking. Cheap to clone.
#[derive(Clone)]
pub struct TransportHandle {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

struct Shared {
    cfg: TransportConfig,
    events: Box<dyn TransportEvents>,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    /// Newest connection of each (process, urgent): (incarnation, epoch).
    newest: Mutex<BTreeMap<(u64, bool), (u64, u64)>>,
    epoch: AtomicU64,
}

struct Peer {
    node: u64,
    addr: String,
    bulk: Lane,
    urgent: Lane,
    closed: AtomicBool,
}

/// The queue of one connection.
#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<GroupMessage>,
    bytes: usize,
}

impl Transport {
    /// Starts the thread, which accepts peers on `listener` from now on.
    pub fn start(
        cfg: TransportConfig,
        listener: StdListener,
        events: impl TransportEvents,
    ) -> io::Result<Self> {
        let local_addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = TransportHandle {
            shared: Arc::new(Shared {
                cfg,
                events: Box::new(events),
                peers: Mutex::default(),
                newest: Mutex::default(),
                epoch: AtomicU64::new(0),
            }),
            runtime: runtime.handle().clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::clone(&handle.shared);
        let thread =
            std::thread::Builder::new().name("peer-transport".into()).spawn(move || {
                runtime.block_on(async move {
                    let listener = match TcpListener::from_std(listener) {
                        Ok(listener) => listener,
                        Err(error) => {
                            tracing::error!(%error, "cannot listen for peers");
                            return;
                        }
                    };
                    tokio::select! {
                        () = accept(shared, listener) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Self { handle, local_addr, stop: Some(stop), thread: Some(thread) })
    }

    pub fn handle(&self) -> TransportHandle {
        self.handle.clone()
    }

    /// Where peers are accepted.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl TransportHandle {
    /// Who there is and where (host:port). Connections to others, and to changed addresses, are
    /// closed; this process itself is ignored.
    pub fn set_peers(&self, addrs: &BTreeMap<u64, String>) {
        let mut peers = lock(&self.shared.peers);
        peers.retain(|node, peer| {
            let keep = addrs.get(node) == Some(&peer.addr);
            if !keep {
                peer.close();
            }
            keep
        });
        for (node, addr) in addrs {
            if *node == self.shared.cfg.own || peers.contains_key(node) {
                continue;
            }
            let peer = Arc::new(Peer {
                node: *node,
                addr: addr.clone(),
                bulk: Lane::default(),
                urgent: Lane::default(),
                closed: AtomicBool::new(false),
            });
            peers.insert(*node, Arc::clone(&peer));
            for urgent in [true, false] {
                let dialer =
                    Dialer { shared: Arc::clone(&self.shared), peer: Arc::clone(&peer), urgent };
                self.runtime.spawn(dialer.run());
            }
        }
    }

    /// Queues one message.
    pub fn send(&self, node: u64, shard: ShardId, message: RaftMessage) {
        self.send_batch(node, std::iter::once((shard, message)));
    }

    /// Queues messages to one peer, in order.
    pub fn send_batch(
        &self,
        node: u64,
        messages: impl IntoIterator<Item = (ShardId, RaftMessage)>,
    ) {
        let peer = lock(&self.shared.peers).get(&node).cloned();
        let Some(peer) = peer else {
            self.shared.events.unreachable(node);
            return;
        };
        let mut dropped = false;
        for (shard, message) in messages {
            let lane = peer.lane(is_urgent(&message));
            let message = GroupMessage { shard: shard.0, message: Some(message) };
            dropped |= !lane.push(message, &self.shared.cfg);
        }
        if dropped {
            self.shared.events.unreachable(node);
        }
    }
}

impl Peer {
    fn lane(&self, urgent: bool) -> &Lane {
        if urgent { &self.urgent } else { &self.bulk }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.bulk.wake.notify_one();
        self.urgent.wake.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Lane {
    /// False if the queue is full: the message was dropped.
    fn push(&self, message: GroupMessage, cfg: &TransportConfig) -> bool {
        let bytes = payload(&message);
        let mut queue = lock(&self.queue);
        let full = queue.messages.len() >= cfg.queue_messages_max
            || queue.bytes + bytes > cfg.queue_bytes_max && !queue.messages.is_empty();
        if full {
            return false;
        }
        let wake = queue.messages.is_empty();
        queue.bytes += bytes;
        queue.messages.push_back(message);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
        true
    }

    /// Everything that waits, up to what one write should hold.
    fn take(&self, out: &mut Vec<GroupMessage>) {
        let mut queue = lock(&self.queue);
        let mut taken = 0;
        while taken < WRITE_FILL {
            let Some(message) = queue.messages.pop_front() else {
                break;
            };
            let bytes = payload(&message);
            queue.bytes -= bytes;
            taken += bytes;
            out.push(message);
        }
    }

    fn clear(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.bytes = 0;
        let had = !queue.messages.is_empty();
        queue.messages.clear();
        had
    }
}

/// What a message costs in memory, about.
fn payload(message: &GroupMessage) -> usize {
    let Some(message) = &message.message else {
        return 0;
    };
    let entries: usize = message.entries.iter().map(|e| e.data.len() + 32).sum();
    entries + 64
}

/// Everything small: it must not wait behind payloads. Acknowledgements are all here, so they keep
/// their order.
fn is_urgent(message: &RaftMessage) -> bool {
    const BULK: [MessageType; 2] = [MessageType::MsgAppend, MessageType::MsgSnapshot];
    !BULK.iter().any(|kind| *kind as u32 == message.kind)
}

/// Keeps one connection to one peer.
struct Dialer {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    urgent: bool,
}

impl Dialer {
    async fn run(self) {
        let mut pause = REDIAL_MIN;
        while !self.peer.is_closed() {
            match self.dial().await {
                Ok(stream) => {
                    pause = REDIAL_MIN;
                    if let Err(error) = self.serve(stream).await {
                        tracing::debug!(peer = self.peer.node, urgent = self.urgent, %error, "lost a peer");
                    }
                }
                Err(error) => {
                    tracing::trace!(peer = self.peer.node, urgent = self.urgent, %error, "cannot reach a peer");
                }
            }
            if self.peer.lane(self.urgent).clear() {
                self.shared.events.unreachable(self.peer.node);
            }
            sleep(pause).await;
            pause = (pause * 2).min(REDIAL_MAX);
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let dial = TcpStream::connect(self.peer.addr.as_str());
        let mut stream = timeout(DIAL_MAX, dial).await??;
        holdfast_proto::tcp::prepare_internal(&stream)?;
        let cfg = &self.shared.cfg;
        let hello = PeerHello {
            cluster_id: cfg.cluster_id.clone(),
            secret: cfg.secret.clone(),
            from_node: cfg.own,
            incarnation: cfg.incarnation,
            epoch: self.shared.epoch.fetch_add(1, Ordering::Relaxed) + 1,
            urgent: self.urgent,
        };
        let mut out = BytesMut::new();
        put_frame(&mut out, &hello);
        stream.write_all(&out).await?;
        Ok(stream)
    }

    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let (mut read, mut write) = stream.into_split();
        let lane = self.peer.lane(self.urgent);
        let mut messages = Vec::new();
        let mut out = BytesMut::new();
        let mut byte = [0; 1];
        loop {
            lane.take(&mut messages);
            if messages.is_empty() {
                // The peer never sends: whatever happens on the reading side is the end.
                tokio::select! {
                    () = lane.wake.notified() => {}
                    end = read.read(&mut byte) => {
                        end?;
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                if self.peer.is_closed() {
                    return Ok(());
                }
                continue;
            }
            encode(&mut messages, &mut out);
            if let Err(error) = write.write_all_buf(&mut out).await {
                self.shared.events.unreachable(self.peer.node);
                return Err(error);
            }
            // One huge entry must not pin its size for good.
            if out.capacity() > 2 * WRITE_FILL {
                out = BytesMut::new();
            }
        }
    }
}

/// Frames of about [`FRAME_FILL`] each.
fn encode(messages: &mut Vec<GroupMessage>, out: &mut BytesMut) {
    let mut frame = PeerFrame::default();
    let mut fill = 0;
    for message in messages.drain(..) {
        fill += payload(&message);
        frame.messages.push(message);
        if fill >= FRAME_FILL {
            put_frame(out, &frame);
            frame.messages.clear();
            fill = 0;
        }
    }
    if !frame.messages.is_empty() {
        put_frame(out, &frame);
    }
}

fn put_frame(out: &mut BytesMut, message: &impl Message) {
    let len = message.encoded_len();
    out.reserve(HEADER_LEN + len);
    out.put_u32(u32::try_from(len).expect("a frame is bounded by its messages"));
    message.encode(out).expect("space was reserved");
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = receive(&shared, stream).await {
                        tracing::debug!(%addr, %error, "a peer's connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer");
                sleep(REDIAL_MAX).await;
            }
        }
    }
}

async fn receive(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    holdfast_proto::tcp::prepare_internal(&stream)?;
    let mut buf = BytesMut::with_capacity(64 << 10);
    let hello = read_frame(&mut stream, &mut buf, HELLO_LEN_MAX);
    let hello = timeout(HANDSHAKE_MAX, hello).await??;
    let hello = PeerHello::decode(hello).map_err(invalid)?;
    let cfg = &shared.cfg;
    if hello.cluster_id != cfg.cluster_id || !same_secret(&hello.secret, &cfg.secret) {
        return Err(invalid("wrong cluster or secret"));
    }
    let from = hello.from_node;
    let place = (from, hello.urgent);
    let epoch = (hello.incarnation, hello.epoch);
    {
        let mut newest = lock(&shared.newest);
        let newest = newest.entry(place).or_default();
        if epoch <= *newest {
            return Err(invalid("superseded by a newer connection"));
        }
        *newest = epoch;
    }
    loop {
        let frame = read_frame(&mut stream, &mut buf, FRAME_LEN_MAX).await?;
        let mut messages = Vec::new();
        decode_messages(frame, &mut messages)?;
        // Whatever else has arrived goes in the same batch.
        while let Some(frame) = take_frame(&mut buf, FRAME_LEN_MAX)? {
            decode_messages(frame, &mut messages)?;
        }
        if lock(&shared.newest).get(&place) != Some(&epoch) {
            return Err(invalid("superseded by a newer connection"));
        }
        shared.events.received(from, messages);
    }
}

fn decode_messages(frame: Bytes, out: &mut Vec<(ShardId, RaftMessage)>) -> io::Result<()> {
    let frame = PeerFrame::decode(frame).map_err(invalid)?;
    out.extend(frame.messages.into_iter().filter_map(|m| Some((ShardId(m.shard), m.message?))));
    Ok(())
}

async fn read_frame(
    stream: &mut TcpStream,
    buf: &mut BytesMut,
    len_max: usize,
) -> io::Result<Bytes> {
    loop {
        if let Some(frame) = take_frame(buf, len_max)? {
            return Ok(frame);
        }
        if stream.read_buf(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A complete frame at the front of `buf`. Reserves memory for the rest of an incomplete one only
/// step by step, as it arrives.
fn take_frame(buf: &mut BytesMut, len_max: usize) -> io::Result<Option<Bytes>> {
    let Some(header) = buf.first_chunk::<HEADER_LEN>() else {
        buf.reserve(64 << 10);
        return Ok(None);
    };
    let len = u32::from_be_bytes(*header) as usize;
    if len > len_max {
        return Err(invalid("frame too long"));
    }
    if buf.len() < HEADER_LEN + len {
        buf.reserve((HEADER_LEN + len - buf.len()).min(1 << 20));
        return Ok(None);
    }
    buf.advance(HEADER_LEN);
    Ok(Some(buf.split_to(len).freeze()))
}

fn same_secret(a: &[u8], b: &[u8]) -> bool {
    // Time does not depend on where they differ.
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while locked")
}
