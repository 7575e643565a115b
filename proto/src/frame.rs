//! The link protocol (proxy worker ↔ node) and the command record.
//!
//! A link is one TCP connection between one proxy worker and one node, used for every shard that
//! the node hosts. Frames flow in both directions without waiting; within a link, the requests of
//! one shard are handled in the order sent, answers may come out of order.
//!
//! Every frame is `len: u32` (bytes that follow) `kind: u8` and a body by kind; integers are little
//! endian. A write's body is `shard: u32` and a *command record*; the record's bytes go into the
//! log entry as they are, so neither the proxy's nor the primary's CPU encodes a command twice.
//!
//! Sizes: a frame is at most [`FRAME_LEN_MAX`]; a longer length closes the link.

pub mod push;

use crate::ids::{NodeId, ShardId, Term, WorkerId};
use crate::slot::Slot;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest frame body: Redis's query buffer limit (1 GiB) would be larger, but no single command
/// may exceed 512 MiB of arguments here; the rest is room for headers.
pub const FRAME_LEN_MAX: usize = 512 * 1024 * 1024 + 64 * 1024;

/// Version of the link protocol and of the record layout; both sides must match.
pub const LINK_VERSION: u16 = 2;

/// Bytes of a command record before its body.
pub const RECORD_HEADER_LEN: usize = 48;

/// What a record asks the state machine to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RecordOp {
    /// Body: one command as a RESP array of bulk strings.
    Command = 0,
    /// MULTI/EXEC. Body: `watch_count: u16`, then per watch `index: u32, version: u64` (see
    /// [`Watch`]), then `command_count: u32`, then each command as a RESP array.
    Exec = 1,
    /// Ends the wait of a blocked command of the same lane. Body: `seq: u64` of the blocked command,
    /// `reason: u8` ([`UnblockReason`]). Proposed by the primary on time-out (worker 0, the lane's
    /// worker in `tag`), or by the proxy worker when its client went away or was unblocked; and by
    /// the worker with [`UnblockReason::Gone`] once it has the final answer of a command that had
    /// been answered [`AnswerStatus::Blocked`], so that the kept reply can be forgotten.
    Unblock = 2,
    /// Deletes keys whose time has come. Body: RESP array of keys. Each is deleted only if its
    /// expiry is at or before the entry's time. Worker 0.
    Expire = 3,
    /// Deletes keys to free memory. Body: RESP array of keys. Worker 0.
    Evict = 4,
    /// Drops every lane of a worker and refuses it from now on. Body: `worker: u64`. Worker 0.
    RetireWorker = 5,
    /// Nothing; moves the cluster time forward. Empty body. Worker 0.
    Tick = 6,
}

impl RecordOp {
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Command,
            1 => Self::Exec,
            2 => Self::Unblock,
            3 => Self::Expire,
            4 => Self::Evict,
            5 => Self::RetireWorker,
            6 => Self::Tick,
            _ => return None,
        })
    }
}

/// Why a blocked command stops waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum UnblockReason {
    /// Its timeout passed: answered as Redis does (null).
    Timeout = 0,
    /// `CLIENT UNBLOCK id ERROR`: answered `-UNBLOCKED client unblocked via CLIENT UNBLOCK`.
    Error = 1,
    /// The client is gone: no answer is kept.
    Gone = 2,
}

/// Flags of records and read requests.
pub mod flags {
    /// Encode the reply as RESP3.
    pub const RESP3: u8 = 1 << 0;
    /// The command has no key; `slot` only names the lane (slot 0 by convention).
    pub const KEYLESS: u8 = 1 << 1;
    /// The client asked for no reply (CLIENT REPLY OFF/SKIP); the state machine may answer empty.
    pub const NO_REPLY: u8 = 1 << 2;
    /// Set by the primary before it proposes the record: memory is short and nothing can be evicted,
    /// so commands that need memory are answered with an error. Part of the record, for every
    /// replica must decide alike.
    pub const OUT_OF_MEMORY: u8 = 1 << 3;
    /// Scripts may touch only keys of the frame's slot (with [`KEYLESS`]: none): keys of other
    /// slots may live on other shards.
    pub const ONE_SLOT: u8 = 1 << 4;
    /// This read was sent before ([`super::ReadOp::Publish`]).
    pub const RESENT: u8 = 1 << 5;
    /// The keys of this read are remembered for the worker: it is told when one changes.
    pub const TRACK: u8 = 1 << 6;
    /// CLIENT NO-TOUCH: the command's look-ups are no uses of the keys (LRU, LFU).
    pub const NO_TOUCH: u8 = 1 << 7;
}

/// Header of a command record. The layout, in order: op u8, flags u8, db u16, slot u16, reserved
/// u16 (zero), worker u64, seq u64, first_unacked u64, tag u64, body_len u32, reserved u32 (zero).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    pub op: RecordOp,
    /// Of [`flags`].
    pub flags: u8,
    /// Logical database.
    pub db: u16,
    /// The slot of the (first) key, and with `worker` the lane.
    pub slot: Slot,
    pub worker: WorkerId,
    /// Position in the lane, from 1. 0 for records of [`WorkerId::SHARD`], which have no lane.
    pub seq: u64,
    /// The smallest seq of this lane that the worker has not got an answer of; an answer
    /// [`AnswerStatus::Blocked`] counts. Kept replies below it are forgotten, except those of
    /// commands that blocked, which are kept until an [`RecordOp::Unblock`] names them.
    pub first_unacked: u64,
    /// Opaque to the state machine; comes back in the answer.
    pub tag: u64,
    pub body_len: u32,
}

/// Where the flags stand in an encoded [`RecordHeader`].
pub const RECORD_FLAGS_AT: usize = 1;

impl RecordHeader {
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(self.op as u8);
        out.put_u8(self.flags);
        out.put_u16_le(self.db);
        out.put_u16_le(self.slot.get());
        out.put_u16_le(0);
        out.put_u64_le(self.worker.0);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.first_unacked);
        out.put_u64_le(self.tag);
        out.put_u32_le(self.body_len);
        out.put_u32_le(0);
    }

    /// Reads a header from the first [`RECORD_HEADER_LEN`] bytes.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < RECORD_HEADER_LEN {
            return Err(FrameError::Short);
        }
        let op = bytes.get_u8();
        let op = RecordOp::from_u8(op).ok_or(FrameError::UnknownRecordOp(op))?;
        let flags = bytes.get_u8();
        let db = bytes.get_u16_le();
        let slot = bytes.get_u16_le();
        let slot = Slot::new(slot).ok_or(FrameError::SlotOutOfRange(slot))?;
        bytes.advance(2);
        let worker = WorkerId(bytes.get_u64_le());
        let seq = bytes.get_u64_le();
        let first_unacked = bytes.get_u64_le();
        let tag = bytes.get_u64_le();
        let body_len = bytes.get_u32_le();
        Ok(Self { op, flags, db, slot, worker, seq, first_unacked, tag, body_len })
    }
}

/// Splits one record off the front of `bytes`: its header and its body.
pub fn split_record(bytes: &mut Bytes) -> Result<(RecordHeader, Bytes), FrameError> {
    let header = RecordHeader::decode(bytes)?;
    let end = RECORD_HEADER_LEN + header.body_len as usize;
    if bytes.len() < end {
        return Err(FrameError::Short);
    }
    let mut record = bytes.split_to(end);
    record.advance(RECORD_HEADER_LEN);
    Ok((header, record))
}

/// Header of a log entry's payload: a batch of records applied together.
/// Layout: version u8, reserved 3 bytes, count u32, time_ms u64, seed u64; then the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// How many records follow.
    pub count: u32,
    /// Cluster time in milliseconds since the Unix epoch: `max(previous + 1, primary's wall clock)`.
    pub time_ms: u64,
    /// Seed of every random choice in this batch.
    pub seed: u64,
}

/// Bytes of an encoded [`BatchHeader`].
pub const BATCH_HEADER_LEN: usize = 24;

impl BatchHeader {
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(1);
        out.put_bytes(0, 3);
        out.put_u32_le(self.count);
        out.put_u64_le(self.time_ms);
        out.put_u64_le(self.seed);
    }

    pub fn decode(mut bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < BATCH_HEADER_LEN {
            return Err(FrameError::Short);
        }
        let version = bytes.get_u8();
        if version != 1 {
            return Err(FrameError::UnknownBatchVersion(version));
        }
        bytes.advance(3);
        Ok(Self {
            count: bytes.get_u32_le(),
            time_ms: bytes.get_u64_le(),
            seed: bytes.get_u64_le(),
        })
    }
}

/// One watched key: which counter of the shard's fixed table of versions, and what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    pub index: u32,
    pub version: u64,
}

/// A read as the proxy sends it; never logged, freely repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub shard: ShardId,
    pub flags: u8,
    pub db: u16,
    pub slot: Slot,
    pub tag: u64,
    /// The read waits until this write of the same client is applied: (slot, seq) of the worker's
    /// lane; seq 0 when there is none.
    pub depends_on_slot: Slot,
    pub depends_on_seq: u64,
    /// What to read.
    pub op: ReadOp,
    /// [`ReadOp::Command`]: one command as a RESP array. [`ReadOp::WatchVersions`]: RESP array of keys.
    pub body: Bytes,
}

/// Kinds of reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReadOp {
    /// A read-only command.
    Command = 0,
    /// WATCH: the answer's payload is per key `index: u32, version: u64` ([`Watch`]).
    WatchVersions = 1,
    /// PUBLISH. Body: an encoded [`push::Message`]. The answer's payload is how many clients
    /// receive it, as a RESP integer.
    Publish = 2,
}

impl ReadOp {
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Command,
            1 => Self::WatchVersions,
            2 => Self::Publish,
            _ => return None,
        })
    }
}

/// What a proxy worker sends to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// First frame of a link. `secret` is the cluster's internal secret.
    Hello {
        version: u16,
        cluster_id: [u8; 16],
        secret: [u8; 32],
        worker: WorkerId,
    },
    /// `record` is the encoded header and body ([`RecordHeader`]), not decoded here.
    Write {
        shard: ShardId,
        record: Bytes,
    },
    Read(ReadRequest),
    /// Answered at once by the node's network thread: tells a live link from a stuck one.
    Ping {
        nonce: u64,
    },
    /// What the worker's clients are subscribed to, from now on: [`push::Registration`]s, answered
    /// by [`Response::Registered`]. Kept as long as the link lives.
    Register {
        number: u64,
        entries: Bytes,
    },
}

/// How an answer ends a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AnswerStatus {
    /// Payload: the reply in RESP, for the client as it is.
    Reply = 0,
    /// This node is not, or no longer, the shard's primary. A write that it had proposed before it
    /// lost the leadership may still be committed: only the same lane and seq make sending it again
    /// safe. Payload: `term: u64, leader_node: u64` (0: unknown).
    NotPrimary = 1,
    /// `seq` was beyond the lane's next; not executed. Payload: `next: u64`.
    Gap = 2,
    /// The lane is unknown and seq is not 1, or the worker is retired; not executed *now*.
    SessionExpired = 3,
    /// The primary's queues are full; not proposed. Send again later.
    Busy = 4,
    /// The slot is frozen by a move; not executed, seq not used. Hold and send again.
    Frozen = 5,
    /// The slot belongs to another shard. Payload: `shard: u32, shard_epoch: u64`.
    Moved = 6,
    /// [`ReadOp::WatchVersions`]: payload as said there.
    WatchVersions = 7,
    /// The command blocks: it is registered in the state machine, the final answer comes later
    /// under the same tag. Payload: empty.
    Blocked = 8,
}

impl AnswerStatus {
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Reply,
            1 => Self::NotPrimary,
            2 => Self::Gap,
            3 => Self::SessionExpired,
            4 => Self::Busy,
            5 => Self::Frozen,
            6 => Self::Moved,
            7 => Self::WatchVersions,
            8 => Self::Blocked,
            _ => return None,
        })
    }
}

/// What a node sends to a proxy worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Accepts a Hello.
    HelloOk {
        node: NodeId,
    },
    /// Refuses a Hello and closes. Text for the log.
    HelloRefused {
        reason: Bytes,
    },
    /// Ends (or, with [`AnswerStatus::Blocked`], marks) the request with this tag.
    Answer {
        tag: u64,
        status: AnswerStatus,
        payload: Bytes,
    },
    /// Sent when this node starts to serve the shard as primary, and for each such shard after
    /// HelloOk.
    PrimaryIs {
        shard: ShardId,
        term: Term,
        node: NodeId,
    },
    Pong {
        nonce: u64,
    },
    /// Everything published from now on reaches what [`Request::Register`] of this number named.
    Registered {
        number: u64,
    },
    /// An encoded [`push::Message`].
    Message {
        message: Bytes,
    },
    /// Keys that changed since the worker read them with [`flags::TRACK`], or under a registered
    /// prefix: the tag of the request that changed them (`u64`, 0 for none), then the keys
    /// ([`push::invalidated_keys`]); no key: any may have changed.
    Invalidate {
        keys: Bytes,
    },
}

/// A frame that cannot be understood; the link is closed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("frame of {0} bytes is over the limit")]
    TooLong(usize),
    #[error("frame ends early")]
    Short,
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    #[error("unknown record op {0}")]
    UnknownRecordOp(u8),
    #[error("unknown answer status {0}")]
    UnknownStatus(u8),
    #[error("unknown read op {0}")]
    UnknownReadOp(u8),
    #[error("unknown topic {0}")]
    UnknownTopic(u8),
    #[error("slot {0} out of range")]
    SlotOutOfRange(u16),
    #[error("unknown batch version {0}")]
    UnknownBatchVersion(u8),
}

const KIND_HELLO: u8 = 1;
const KIND_WRITE: u8 = 2;
const KIND_READ: u8 = 3;
const KIND_PING: u8 = 4;
const KIND_REGISTER: u8 = 5;
const KIND_HELLO_OK: u8 = 65;
const KIND_HELLO_REFUSED: u8 = 66;
const KIND_ANSWER: u8 = 67;
const KIND_PRIMARY_IS: u8 = 68;
const KIND_PONG: u8 = 69;
const KIND_REGISTERED: u8 = 70;
const KIND_MESSAGE: u8 = 71;
const KIND_INVALIDATE: u8 = 72;

/// Bytes of a write frame before its record.
pub const WRITE_PREFIX_LEN: usize = 4 + 1 + 4;
/// Bytes of an answer frame before its payload.
pub const ANSWER_PREFIX_LEN: usize = 4 + 1 + 8 + 1;
const READ_HEADER_LEN: usize = 1 + 4 + 1 + 1 + 2 + 2 + 2 + 8 + 8;

/// Appends a write frame's prefix and record header; the caller appends `header.body_len` bytes.
pub fn begin_write(shard: ShardId, header: &RecordHeader, out: &mut BytesMut) {
    out.put_u32_le((1 + 4 + RECORD_HEADER_LEN + header.body_len as usize) as u32);
    out.put_u8(KIND_WRITE);
    out.put_u32_le(shard.0);
    header.encode(out);
}

/// Appends an answer frame's prefix; the caller appends `payload_len` bytes.
pub fn begin_answer(tag: u64, status: AnswerStatus, payload_len: usize, out: &mut BytesMut) {
    out.put_u32_le((1 + 8 + 1 + payload_len) as u32);
    out.put_u8(KIND_ANSWER);
    out.put_u64_le(tag);
    out.put_u8(status as u8);
}

impl ReadRequest {
    /// Appends the frame's prefix; the caller appends `body_len` bytes (self.body is not written).
    pub fn begin(&self, body_len: usize, out: &mut BytesMut) {
        out.put_u32_le((READ_HEADER_LEN + body_len) as u32);
        out.put_u8(KIND_READ);
        out.put_u32_le(self.shard.0);
        out.put_u8(self.flags);
        out.put_u8(self.op as u8);
        out.put_u16_le(self.db);
        out.put_u16_le(self.slot.get());
        out.put_u16_le(self.depends_on_slot.get());
        out.put_u64_le(self.depends_on_seq);
        out.put_u64_le(self.tag);
    }
}

impl Request {
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Hello { version, cluster_id, secret, worker } => {
                out.put_u32_le(1 + 2 + 16 + 32 + 8);
                out.put_u8(KIND_HELLO);
                out.put_u16_le(*version);
                out.put_slice(cluster_id);
                out.put_slice(secret);
                out.put_u64_le(worker.0);
            }
            Self::Write { shard, record } => {
                out.put_u32_le((1 + 4 + record.len()) as u32);
                out.put_u8(KIND_WRITE);
                out.put_u32_le(shard.0);
                out.put_slice(record);
            }
            Self::Read(read) => {
                read.begin(read.body.len(), out);
                out.put_slice(&read.body);
            }
            Self::Ping { nonce } => {
                out.put_u32_le(9);
                out.put_u8(KIND_PING);
                out.put_u64_le(*nonce);
            }
            Self::Register { number, entries } => {
                out.put_u32_le((1 + 8 + entries.len()) as u32);
                out.put_u8(KIND_REGISTER);
                out.put_u64_le(*number);
                out.put_slice(entries);
            }
        }
    }

    /// Takes one frame off the front of `bytes`; `None` when more bytes are needed.
    pub fn decode(bytes: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(mut body) = take_frame(bytes)? else { return Ok(None) };
        let kind = take::<1>(&mut body)?[0];
        Ok(Some(match kind {
            KIND_HELLO => Self::Hello {
                version: u16::from_le_bytes(take(&mut body)?),
                cluster_id: take(&mut body)?,
                secret: take(&mut body)?,
                worker: WorkerId(u64::from_le_bytes(take(&mut body)?)),
            },
            KIND_WRITE => {
                let shard = ShardId(u32::from_le_bytes(take(&mut body)?));
                let header = RecordHeader::decode(&body)?;
                if body.len() != RECORD_HEADER_LEN + header.body_len as usize {
                    return Err(FrameError::Short);
                }
                Self::Write { shard, record: body }
            }
            KIND_READ => Self::Read(ReadRequest {
                shard: ShardId(u32::from_le_bytes(take(&mut body)?)),
                flags: take::<1>(&mut body)?[0],
                op: read_op(take::<1>(&mut body)?[0])?,
                db: u16::from_le_bytes(take(&mut body)?),
                slot: take_slot(&mut body)?,
                depends_on_slot: take_slot(&mut body)?,
                depends_on_seq: u64::from_le_bytes(take(&mut body)?),
                tag: u64::from_le_bytes(take(&mut body)?),
                body,
            }),
            KIND_PING => Self::Ping { nonce: u64::from_le_bytes(take(&mut body)?) },
            KIND_REGISTER => {
                Self::Register { number: u64::from_le_bytes(take(&mut body)?), entries: body }
            }
            other => return Err(FrameError::UnknownKind(other)),
        }))
    }
}

impl Response {
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::HelloOk { node } => {
                out.put_u32_le(9);
                out.put_u8(KIND_HELLO_OK);
                out.put_u64_le(node.0);
            }
            Self::HelloRefused { reason } => {
                out.put_u32_le((1 + reason.len()) as u32);
                out.put_u8(KIND_HELLO_REFUSED);
                out.put_slice(reason);
            }
            Self::Answer { tag, status, payload } => {
                begin_answer(*tag, *status, payload.len(), out);
                out.put_slice(payload);
            }
            Self::PrimaryIs { shard, term, node } => {
                out.put_u32_le(1 + 4 + 8 + 8);
                out.put_u8(KIND_PRIMARY_IS);
                out.put_u32_le(shard.0);
                out.put_u64_le(term.0);
                out.put_u64_le(node.0);
            }
            Self::Pong { nonce } => {
                out.put_u32_le(9);
                out.put_u8(KIND_PONG);
                out.put_u64_le(*nonce);
            }
            Self::Registered { number } => {
                out.put_u32_le(9);
                out.put_u8(KIND_REGISTERED);
                out.put_u64_le(*number);
            }
            Self::Message { message: body } | Self::Invalidate { keys: body } => {
                let message = matches!(self, Self::Message { .. });
                out.put_u32_le((1 + body.len()) as u32);
                out.put_u8(if message { KIND_MESSAGE } else { KIND_INVALIDATE });
                out.put_slice(body);
            }
        }
    }

    /// Takes one frame off the front of `bytes`; `None` when more bytes are needed.
    pub fn decode(bytes: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(mut body) = take_frame(bytes)? else { return Ok(None) };
        let kind = take::<1>(&mut body)?[0];
        Ok(Some(match kind {
            KIND_HELLO_OK => Self::HelloOk { node: NodeId(u64::from_le_bytes(take(&mut body)?)) },
            KIND_HELLO_REFUSED => Self::HelloRefused { reason: body },
            KIND_ANSWER => {
                let tag = u64::from_le_bytes(take(&mut body)?);
                let status = take::<1>(&mut body)?[0];
                let status =
                    AnswerStatus::from_u8(status).ok_or(FrameError::UnknownStatus(status))?;
                Self::Answer { tag, status, payload: body }
            }
            KIND_PRIMARY_IS => Self::PrimaryIs {
                shard: ShardId(u32::from_le_bytes(take(&mut body)?)),
                term: Term(u64::from_le_bytes(take(&mut body)?)),
                node: NodeId(u64::from_le_bytes(take(&mut body)?)),
            },
            KIND_PONG => Self::Pong { nonce: u64::from_le_bytes(take(&mut body)?) },
            KIND_REGISTERED => Self::Registered { number: u64::from_le_bytes(take(&mut body)?) },
            KIND_MESSAGE => Self::Message { message: body },
            KIND_INVALIDATE => Self::Invalidate { keys: body },
            other => return Err(FrameError::UnknownKind(other)),
        }))
    }
}

/// A request that borrows its bytes: for the node, which reads many frames from one buffer and
/// must not count references once per frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestRef<'a> {
    Hello {
        version: u16,
        cluster_id: &'a [u8; 16],
        secret: &'a [u8; 32],
        worker: WorkerId,
    },
    /// `record` is a whole record: header and body.
    Write {
        shard: ShardId,
        record: &'a [u8],
    },
    /// The fields are those of [`ReadRequest`].
    Read {
        shard: ShardId,
        header: ReadHeader,
        body: &'a [u8],
    },
    Ping {
        nonce: u64,
    },
    Register {
        number: u64,
        entries: &'a [u8],
    },
}

/// An answer that borrows its bytes: for the proxy, which reads many from one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerRef<'a> {
    pub tag: u64,
    pub status: AnswerStatus,
    pub payload: &'a [u8],
}

impl<'a> AnswerRef<'a> {
    /// The answer at the front of `bytes`, and how long its frame is; `None` if what is there is
    /// not whole or another kind of frame ([`Response::decode`] is for those).
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(prefix) = bytes.first_chunk::<ANSWER_PREFIX_LEN>() else { return Ok(None) };
        let [len @ .., _, _, _, _, _, _, _, _, _, _] = *prefix;
        let len = u32::from_le_bytes(len) as usize;
        if prefix[4] != KIND_ANSWER || len > FRAME_LEN_MAX || bytes.len() < 4 + len {
            return Ok(None);
        }
        let payload = bytes.get(ANSWER_PREFIX_LEN..4 + len).ok_or(FrameError::Short)?;
        let mut fields = &prefix[5..];
        let tag = fields.get_u64_le();
        let status = fields.get_u8();
        let status = AnswerStatus::from_u8(status).ok_or(FrameError::UnknownStatus(status))?;
        Ok(Some((Self { tag, status, payload }, 4 + len)))
    }
}

/// [`ReadRequest`] without shard and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadHeader {
    pub flags: u8,
    pub db: u16,
    pub slot: Slot,
    pub tag: u64,
    pub depends_on_slot: Slot,
    pub depends_on_seq: u64,
    pub op: ReadOp,
}

/// How many bytes at the front of `bytes` are whole frames.
pub fn whole_frames_len(bytes: &[u8]) -> Result<usize, FrameError> {
    let mut end = 0;
    while let Some(len) = bytes[end..].first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        if len > FRAME_LEN_MAX {
            return Err(FrameError::TooLong(len));
        }
        if bytes.len() - end < 4 + len {
            break;
        }
        end += 4 + len;
    }
    Ok(end)
}

impl<'a> RequestRef<'a> {
    /// Reads the whole frame at the front of `bytes`; also how long the frame is.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), FrameError> {
        let mut rest = bytes;
        let len = u32::from_le_bytes(*take_ref(&mut rest)?) as usize;
        let mut body = rest.get(..len).ok_or(FrameError::Short)?;
        let [kind] = *take_ref::<1>(&mut body)?;
        let request = match kind {
            KIND_HELLO => Self::Hello {
                version: u16::from_le_bytes(*take_ref(&mut body)?),
                cluster_id: take_ref(&mut body)?,
                secret: take_ref(&mut body)?,
                worker: WorkerId(u64::from_le_bytes(*take_ref(&mut body)?)),
            },
            KIND_WRITE => {
                let shard = ShardId(u32::from_le_bytes(*take_ref(&mut body)?));
                let header = RecordHeader::decode(body)?;
                if body.len() != RECORD_HEADER_LEN + header.body_len as usize {
                    return Err(FrameError::Short);
                }
                Self::Write { shard, record: body }
            }
            KIND_READ => {
                let fields: &[u8; READ_HEADER_LEN - 1] = take_ref(&mut body)?;
                let (shard, header) = ReadHeader::decode(fields)?;
                Self::Read { shard, header, body }
            }
            KIND_PING => Self::Ping { nonce: u64::from_le_bytes(*take_ref(&mut body)?) },
            KIND_REGISTER => {
                Self::Register { number: u64::from_le_bytes(*take_ref(&mut body)?), entries: body }
            }
            other => return Err(FrameError::UnknownKind(other)),
        };
        Ok((request, 4 + len))
    }
}

impl ReadHeader {
    fn decode(mut fields: &[u8]) -> Result<(ShardId, Self), FrameError> {
        let slot = |value: u16| Slot::new(value).ok_or(FrameError::SlotOutOfRange(value));
        let shard = ShardId(fields.get_u32_le());
        let flags = fields.get_u8();
        let op = read_op(fields.get_u8())?;
        let header = Self {
            flags,
            op,
            db: fields.get_u16_le(),
            slot: slot(fields.get_u16_le())?,
            depends_on_slot: slot(fields.get_u16_le())?,
            depends_on_seq: fields.get_u64_le(),
            tag: fields.get_u64_le(),
        };
        Ok((shard, header))
    }
}

fn read_op(value: u8) -> Result<ReadOp, FrameError> {
    ReadOp::from_u8(value).ok_or(FrameError::UnknownReadOp(value))
}

fn take_ref<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], FrameError> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(FrameError::Short)?;
    *bytes = rest;
    Ok(taken)
}

/// Takes a whole frame (without its length) off the front, once it is all there.
fn take_frame(bytes: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
    let Some(len) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    if len > FRAME_LEN_MAX {
        return Err(FrameError::TooLong(len));
    }
    if bytes.len() < 4 + len {
        bytes.reserve(4 + len - bytes.len());
        return Ok(None);
    }
    bytes.advance(4);
    Ok(Some(bytes.split_to(len).freeze()))
}

fn take<const N: usize>(body: &mut Bytes) -> Result<[u8; N], FrameError> {
    let taken = *body.first_chunk::<N>().ok_or(FrameError::Short)?;
    body.advance(N);
    Ok(taken)
}

fn take_slot(body: &mut Bytes) -> Result<Slot, FrameError> {
    let value = u16::from_le_bytes(take(body)?);
    Slot::new(value).ok_or(FrameError::SlotOutOfRange(value))
}

#[cfg(test)]
mod tests;
