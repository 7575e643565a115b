//! The link protocol's server: one thread, two tasks per proxy worker's connection.
//!
//! The reader takes what the socket has, finds the whole frames in it, and hands the batch on:
//! writes as one chunk per shard to the consensus thread (their records copied once, behind room
//! for the batch header, so that a chunk can become a log entry as it is), reads as one list per
//! shard to the executor, still in the buffer they were received in. Nothing is sent, locked or
//! allocated per request.

use crate::consensus_loop::{Input, WriteChunk};
use crate::executor::{self, ReadBatch, ReadItem};
use crate::links::{Link, Replies};
use crate::shared::{NodeShared, ShardHandle};
use anyhow::Context;
use bytes::{Bytes, BytesMut};
use holdfast_consensus::faults::{self, Point};
use holdfast_proto::frame::{
    AnswerStatus, FrameError, LINK_VERSION, RECORD_FLAGS_AT, RecordHeader, RequestRef, Response,
    flags, whole_frames_len,
};
use holdfast_proto::ids::{NodeId, ShardId, Term, WorkerId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Room kept free for each read of the socket: what a pipelining proxy sends in one turn.
const READ_BYTES: usize = 256 * 1024;
/// Reading from a link pauses while a shard has this much waiting for consensus, or while this
/// much waits to be written to the link: back-pressure reaches the clients through the proxy.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(1);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A chunk is closed when it has this much: the bound of a log entry (which a single larger
/// record may exceed).
pub(crate) const CHUNK_BYTES_MAX: usize = 1024 * 1024;
pub(crate) const CHUNK_RECORDS_MAX: u32 = 8192;

/// Serves links until the process stops.
pub(crate) async fn serve(node: Arc<NodeShared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = Arc::clone(&node);
                tokio::task::spawn_local(async move {
                    if let Err(error) = run_link(node, stream).await {
                        tracing::debug!(error = format!("{error:#}"), "link closed");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: give the process a moment to close some.
                tracing::warn!(%error, "accepting a link failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn run_link(node: Arc<NodeShared>, stream: TcpStream) -> anyhow::Result<()> {
    holdfast_proto::tcp::prepare_internal(&stream)?;
    let (mut read, mut write) = stream.into_split();
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let hello = tokio::time::timeout(HELLO_TIMEOUT, read_hello(&node, &mut read, &mut buffer));
    let worker = match hello.await.context("no hello in time")? {
        Ok(worker) => worker,
        Err(error) => {
            let mut refusal = BytesMut::new();
            let reason = Bytes::from(error.to_string());
            Response::HelloRefused { reason }.encode(&mut refusal);
            write.write_all(&refusal).await?;
            return Err(error);
        }
    };
    let link = welcome(&node, worker);
    tracing::debug!(%worker, "link opened");
    let writer = tokio::task::spawn_local(write_link(Arc::clone(&link), write));
    let mut reader = Reader::new(&node, &link, worker);
    let result = tokio::select! {
        result = reader.run(&mut read, buffer) => result,
        _ = writer => Ok(()),
    };
    node.links.remove(&link);
    result
}

/// Opens the link of a worker and says which shards are served here.
pub(crate) fn welcome(node: &NodeShared, worker: WorkerId) -> Arc<Link> {
    let link = node.links.open(worker);
    link.push_response(&Response::HelloOk { node: node.node });
    for handle in node.shards.all() {
        if handle.shared.is_serving() {
            let (shard, term) = (handle.shared.shard, handle.shared.term());
            link.push_response(&Response::PrimaryIs { shard, term, node: node.node });
        }
    }
    link
}

async fn read_hello(
    node: &NodeShared,
    read: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
) -> anyhow::Result<WorkerId> {
    while buffer.first_chunk::<4>().is_none_or(|len| {
        // A hello is 59 bytes; anything long is another protocol.
        let len = u32::from_le_bytes(*len) as usize;
        len < 256 && buffer.len() < 4 + len
    }) {
        anyhow::ensure!(read.read_buf(buffer).await? > 0, "closed before the hello");
    }
    take_hello(node, buffer)
}

/// Checks the first frame, which is whole, and takes it off.
pub(crate) fn take_hello(node: &NodeShared, buffer: &mut BytesMut) -> anyhow::Result<WorkerId> {
    let whole = whole_frames_len(&buffer[..buffer.len().min(260)])?;
    anyhow::ensure!(whole > 0, "the first frame is not a hello");
    let (request, len) = RequestRef::decode(buffer)?;
    let RequestRef::Hello { version, cluster_id, secret, worker } = request else {
        anyhow::bail!("the first frame is not a hello");
    };
    anyhow::ensure!(version == LINK_VERSION, "link version {version} is not {LINK_VERSION}");
    anyhow::ensure!(*cluster_id == node.cluster_id, "another cluster");
    anyhow::ensure!(same_secret(secret, &node.secret), "wrong secret");
    let _ = buffer.split_to(len);
    Ok(worker)
}

/// Compares without telling by its duration where the first difference is.
pub(crate) fn same_secret(given: &[u8], ours: &[u8]) -> bool {
    given.len() == ours.len() && given.iter().zip(ours).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

async fn write_link(link: Arc<Link>, mut write: OwnedWriteHalf) {
    let mut spare = Vec::new();
    while let Some(frames) = link.take(spare).await {
        if write.write_all(&frames).await.is_err() {
            return;
        }
        faults::reach(Point::AfterReply);
        spare = frames;
        spare.clear();
        if spare.capacity() > 4 * 1024 * 1024 {
            spare = Vec::new();
        }
    }
}

pub(crate) struct Reader<'a> {
    node: &'a NodeShared,
    link: &'a Arc<Link>,
    worker: WorkerId,
    /// One per hosted shard, as of `registry_version`.
    stages: Vec<Stage>,
    registry_version: usize,
    /// Answers that need no other thread: refusals of shards that are not here.
    refusals: Replies,
    pongs: Vec<u64>,
}

/// What one turn of reading gathered for one shard.
struct Stage {
    handle: ShardHandle,
    writes: BytesMut,
    write_count: u32,
    reads: Vec<ReadItem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(node: &'a NodeShared, link: &'a Arc<Link>, worker: WorkerId) -> Self {
        Self {
            node,
            link,
            worker,
            stages: Vec::new(),
            registry_version: usize::MAX,
            refusals: Replies::default(),
            pongs: Vec::new(),
        }
    }

    async fn run(&mut self, read: &mut OwnedReadHalf, mut buffer: BytesMut) -> anyhow::Result<()> {
        loop {
            self.handle(&mut buffer)?;
            while self.must_pause() {
                tokio::time::sleep(PAUSE).await;
            }
            buffer.reserve(READ_BYTES);
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    fn must_pause(&self) -> bool {
        let queued = |stage: &Stage| stage.handle.shared.queued_bytes.load(Ordering::Relaxed);
        self.link.backlog() > QUEUED_BYTES_MAX
            || self.stages.iter().any(|stage| queued(stage) > QUEUED_BYTES_MAX)
    }

    /// Takes all whole frames off the buffer and hands them on.
    pub(crate) fn handle(&mut self, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let whole = whole_frames_len(buffer)?;
        if whole == 0 {
            return Ok(());
        }
        self.refresh();
        let frames = buffer.split_to(whole).freeze();
        let mut at = 0;
        while at < whole {
            let (request, len) = RequestRef::decode(&frames[at..])?;
            at += len;
            match request {
                RequestRef::Write { shard, record } => self.stage_write(shard, record)?,
                RequestRef::Read { shard, header, body } => {
                    let body = (at - body.len()) as u32..at as u32;
                    match self.stage(shard) {
                        Some(stage) => stage.reads.push(ReadItem { header, body }),
                        None => self.refuse(header.tag),
                    }
                }
                RequestRef::Ping { nonce } => self.pongs.push(nonce),
                RequestRef::Register { number, entries } => {
                    let subscribers = &self.node.links.subscribers;
                    subscribers.register(self.worker, self.link.id(), entries)?;
                    self.link.push_response(&Response::Registered { number });
                }
                RequestRef::Hello { .. } => return Err(FrameError::UnknownKind(1)),
            }
        }
        self.hand_on(&frames);
        Ok(())
    }

    fn stage_write(&mut self, shard: ShardId, record: &[u8]) -> Result<(), FrameError> {
        let consensus = &self.node.consensus;
        let Some(stage) = stage_of(&mut self.stages, shard) else {
            self.refuse(RecordHeader::decode(record)?.tag);
            return Ok(());
        };
        let full = stage.writes.len() + record.len() > CHUNK_BYTES_MAX;
        if stage.write_count > 0 && (full || stage.write_count == CHUNK_RECORDS_MAX) {
            consensus.send(Input::Writes(stage.take_writes()));
        }
        if stage.write_count == 0 {
            stage.writes = WriteChunk::begin(record.len());
        }
        let flags_at = stage.writes.len() + RECORD_FLAGS_AT;
        stage.writes.extend_from_slice(record);
        if stage.handle.shared.is_out_of_memory() {
            stage.writes[flags_at] |= flags::OUT_OF_MEMORY;
        }
        stage.write_count += 1;
        Ok(())
    }

    fn hand_on(&mut self, frames: &Bytes) {
        for stage in &mut self.stages {
            if stage.write_count > 0 {
                self.node.consensus.send(Input::Writes(stage.take_writes()));
            }
            if !stage.reads.is_empty() {
                let batch = ReadBatch {
                    worker: self.worker,
                    frames: frames.clone(),
                    items: std::mem::take(&mut stage.reads),
                };
                stage.handle.executor.send(executor::Input::Reads(batch));
            }
        }
        self.refusals.flush();
        for nonce in self.pongs.drain(..) {
            self.link.push_response(&Response::Pong { nonce });
        }
    }

    fn refuse(&mut self, tag: u64) {
        self.refusals.refresh(&self.node.links);
        self.refusals.not_primary(self.worker, tag, Term(0), NodeId(0));
    }

    fn stage(&mut self, shard: ShardId) -> Option<&mut Stage> {
        stage_of(&mut self.stages, shard)
    }

    fn refresh(&mut self) {
        let version = self.node.shards.version();
        if version == self.registry_version {
            return;
        }
        self.registry_version = version;
        let stage =
            |handle| Stage { handle, writes: BytesMut::new(), write_count: 0, reads: Vec::new() };
        self.stages = self.node.shards.all().into_iter().map(stage).collect();
    }
}

impl Stage {
    fn take_writes(&mut self) -> WriteChunk {
        let data = std::mem::take(&mut self.writes);
        let count = std::mem::take(&mut self.write_count);
        self.handle.shared.queued_bytes.fetch_add(data.len(), Ordering::Relaxed);
        WriteChunk { shard: self.handle.shared.shard, data, count }
    }
}

fn stage_of(stages: &mut [Stage], shard: ShardId) -> Option<&mut Stage> {
    stages.iter_mut().find(|stage| stage.handle.shared.shard == shard)
}

/// Answers every record of a chunk alike; used where a chunk cannot be proposed.
pub(crate) fn answer_chunk(
    replies: &mut Replies,
    mut records: &[u8],
    status: AnswerStatus,
    payload: &[u8],
) {
    while let Ok(header) = RecordHeader::decode(records) {
        let len = holdfast_proto::frame::RECORD_HEADER_LEN + header.body_len as usize;
        replies.answer(header.worker, header.tag, status, payload);
        records = &records[len.min(records.len())..];
    }
}
