//! What checkpoints hold beyond Redis's data: sections, each in an auxiliary field of the file.
//!
//! The field's name says which; its value is the section's content, then the CRC-32 of the content.
//! Numbers are RDB lengths, strings RDB strings, unless said otherwise. `docs/formats.md` lists them.

use super::load::LoadError;
use crate::blocking::{BlockKind, BlockRequest, Waiter, WaiterName};
use crate::engine::Engine;
use crate::lane::{BlockedCommand, Kept, Lane, Payload, Replies};
use crate::rdb::decode::{Decoder, Slice};
use crate::rdb::encode::{self, length, plain_string};
use crate::rdb::{self, opcode};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::slot::Slot;

/// Version of the sections' layout.
const SECTIONS_VERSION: u64 = 1;

/// First section of a checkpoint: version, cluster time, hash seed, number of databases.
pub(super) const HEAD: &[u8] = b"holdfast-checkpoint";
/// Counters of WATCH that are not zero: count, then per counter its index and value.
pub(super) const WATCH: &[u8] = b"holdfast-watch";
/// Retired workers: count, then ids.
pub(super) const RETIRED: &[u8] = b"holdfast-retired-workers";
/// Scripts: count, then per script whether SCRIPT LOAD asked for it, and its body.
pub(super) const SCRIPTS: &[u8] = b"holdfast-scripts";
/// Blocked commands in the order in which they blocked.
pub(super) const WAITERS: &[u8] = b"holdfast-waiters";
/// The lanes of one slot.
pub(super) const LANES: &[u8] = b"holdfast-lanes";
/// Database, slot, and about how many keys it has: only a hint.
pub(super) const SLOT_SIZE: &[u8] = b"holdfast-slot-size";
/// Last section: how many keys and lanes there are.
pub(super) const END: &[u8] = b"holdfast-end";

/// What the last section says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) keys: u64,
    pub(super) lanes: u64,
}

/// What the first section says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) time_ms: u64,
    pub(super) hash_seed: u64,
    pub(super) databases: u16,
}

// ---- writing -------------------------------------------------------------------------------------

/// The file's magic, Redis's auxiliary fields, and the sections that are written at the beginning.
pub(super) fn write_head(engine: &Engine, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("REDIS{:04}", rdb::VERSION).as_bytes());
    // Redis logs these when it loads the file; the version is that of the format's first writer.
    encode::aux(b"redis-ver", b"7.0.0", out);
    encode::aux(b"redis-bits", b"64", out);
    let seconds = engine.time_ms / 1000;
    encode::aux(b"ctime", itoa::Buffer::new().format(seconds).as_bytes(), out);
    section(HEAD, out, |out| {
        length(SECTIONS_VERSION, out);
        length(engine.time_ms, out);
        length(engine.cfg.hash_seed, out);
        length(engine.cfg.databases.into(), out);
    });
    section(WATCH, out, |out| {
        let counters = engine.space.versions().iter().enumerate().filter(|(_, value)| **value != 0);
        length(counters.clone().count() as u64, out);
        for (index, &value) in counters {
            length(index as u64, out);
            length(value, out);
        }
    });
    section(RETIRED, out, |out| {
        length(engine.lanes.retired().count() as u64, out);
        for worker in engine.lanes.retired() {
            length(worker.0, out);
        }
    });
    section(SCRIPTS, out, |out| {
        let cache = &engine.space.scripting.cache;
        length(cache.len() as u64, out);
        for (body, loaded) in cache.bodies() {
            out.push(loaded.into());
            plain_string(body, out);
        }
    });
    engine.space.scripting.libraries.write(out);
    section(WAITERS, out, |out| {
        length(engine.space.waiters.len() as u64, out);
        for waiter in engine.space.waiters.iter() {
            write_waiter(waiter, out);
        }
    });
}

pub(super) fn write_lanes(slot: Slot, lanes: &[Lane], out: &mut Vec<u8>) {
    section(LANES, out, |out| {
        length(slot.get().into(), out);
        length(lanes.len() as u64, out);
        for lane in lanes {
            write_lane(lane, out);
        }
    });
}

pub(super) fn write_slot_size(slot: Slot, db: u16, keys: usize, out: &mut Vec<u8>) {
    section(SLOT_SIZE, out, |out| {
        length(db.into(), out);
        length(slot.get().into(), out);
        length(keys as u64, out);
    });
}

/// The last section and the end mark; the file's checksum follows.
pub(super) fn write_end(totals: &Totals, out: &mut Vec<u8>) {
    section(END, out, |out| {
        length(totals.keys, out);
        length(totals.lanes, out);
    });
    out.push(opcode::EOF);
}

fn section(name: &[u8], out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    write(&mut content);
    let crc = crc32fast::hash(&content);
    content.extend_from_slice(&crc.to_le_bytes());
    encode::aux(name, &content, out);
}

fn write_lane(lane: &Lane, out: &mut Vec<u8>) {
    length(lane.worker.0, out);
    length(lane.next, out);
    length(lane.replies.len() as u64, out);
    for reply in &lane.replies {
        write_kept(Some(reply), out);
    }
    length(lane.blocked.len() as u64, out);
    for blocked in &lane.blocked {
        length(blocked.seq, out);
        write_kept(blocked.reply.as_ref(), out);
    }
}

const KEPT_NOTHING: u8 = 0;
const KEPT_OK: u8 = 1;
const KEPT_INT: u8 = 2;
const KEPT_BYTES: u8 = 3;
const KEPT_BLOCKED: u8 = 4;

fn write_kept(kept: Option<&Kept>, out: &mut Vec<u8>) {
    match kept {
        None => out.push(KEPT_NOTHING),
        Some(Kept::Ok) => out.push(KEPT_OK),
        Some(Kept::Int(value)) => {
            out.push(KEPT_INT);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Some(Kept::Bytes(payload)) => {
            out.push(KEPT_BYTES);
            plain_string(&payload.0, out);
        }
        Some(Kept::Blocked) => out.push(KEPT_BLOCKED),
    }
}

fn write_waiter(waiter: &Waiter, out: &mut Vec<u8>) {
    let WaiterName { worker, slot, seq } = waiter.name;
    length(worker.0, out);
    length(slot.get().into(), out);
    length(seq, out);
    length(waiter.db.into(), out);
    out.push(waiter.resp3.into());
    length(waiter.tag, out);
    out.push(match waiter.request.kind {
        BlockKind::List => 0,
        BlockKind::ZSet => 1,
        BlockKind::Stream => 2,
        BlockKind::StreamGroup => 3,
    });
    length(waiter.request.deadline_ms.map_or(0, |at| at.saturating_add(1)), out);
    length(waiter.request.keys.len() as u64, out);
    for key in &waiter.request.keys {
        plain_string(key, out);
    }
    plain_string(&waiter.command, out);
}

// ---- reading -------------------------------------------------------------------------------------

/// A script's body, and whether SCRIPT LOAD asked for it.
pub(super) type ScriptBody = (Box<[u8]>, bool);

/// A section's content, checked.
pub(super) struct Section<'a>(Decoder<Slice<'a>>);

impl<'a> Section<'a> {
    /// Takes the value of an auxiliary field.
    pub(super) fn open(value: &'a [u8]) -> Result<Self, LoadError> {
        let (content, crc) = value.split_last_chunk::<4>().ok_or(LoadError::Section)?;
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return Err(LoadError::Section);
        }
        Ok(Self(Decoder::new(Slice(content))))
    }

    pub(super) fn head(mut self) -> Result<Head, LoadError> {
        let version = self.number()?;
        if version != SECTIONS_VERSION {
            return Err(LoadError::SectionsVersion(version));
        }
        Ok(Head { time_ms: self.number()?, hash_seed: self.number()?, databases: self.narrow()? })
    }

    pub(super) fn totals(mut self) -> Result<Totals, LoadError> {
        Ok(Totals { keys: self.number()?, lanes: self.number()? })
    }

    /// Database, slot, number of keys.
    pub(super) fn slot_size(mut self) -> Result<(u16, Slot, u64), LoadError> {
        Ok((self.narrow()?, self.slot()?, self.number()?))
    }

    pub(super) fn watch(mut self, versions: &mut [u64]) -> Result<(), LoadError> {
        for _ in 0..self.0.count(2)? {
            let index = usize::try_from(self.number()?).map_err(|_| LoadError::Section)?;
            *versions.get_mut(index).ok_or(LoadError::Section)? = self.number()?;
        }
        Ok(())
    }

    pub(super) fn retired(mut self) -> Result<Vec<WorkerId>, LoadError> {
        (0..self.0.count(1)?).map(|_| Ok(WorkerId(self.number()?))).collect()
    }

    /// Bodies, and whether SCRIPT LOAD asked for them.
    pub(super) fn scripts(mut self) -> Result<Vec<ScriptBody>, LoadError> {
        let script = |section: &mut Self| {
            let loaded = section.0.byte()? != 0;
            Ok((section.bytes()?, loaded))
        };
        (0..self.0.count(2)?).map(|_| script(&mut self)).collect()
    }

    pub(super) fn waiters(mut self) -> Result<Vec<Waiter>, LoadError> {
        (0..self.0.count(8)?).map(|_| self.waiter()).collect()
    }

    pub(super) fn lanes(mut self) -> Result<(Slot, Vec<Lane>), LoadError> {
        let slot = self.slot()?;
        let lanes = (0..self.0.count(4)?).map(|_| self.lane()).collect::<Result<_, _>>()?;
        Ok((slot, lanes))
    }

    fn lane(&mut self) -> Result<Lane, LoadError> {
        let (worker, next) = (WorkerId(self.number()?), self.number()?);
        let replies: Replies = (0..self.0.count(1)?)
            .map(|_| self.kept()?.ok_or(LoadError::Section))
            .collect::<Result<_, LoadError>>()?;
        let blocked = (0..self.0.count(2)?)
            .map(|_| Ok(BlockedCommand { seq: self.number()?, reply: self.kept()? }))
            .collect::<Result<_, LoadError>>()?;
        // Lanes number from 1, and what is kept was executed.
        if next == 0 || replies.len() as u64 >= next {
            return Err(LoadError::Section);
        }
        Ok(Lane { worker, next, replies, blocked })
    }

    fn kept(&mut self) -> Result<Option<Kept>, LoadError> {
        Ok(Some(match self.0.byte()? {
            KEPT_NOTHING => return Ok(None),
            KEPT_OK => Kept::Ok,
            KEPT_INT => {
                use crate::rdb::decode::Source;
                Kept::Int(i64::from_le_bytes(self.0.source.array()?))
            }
            KEPT_BYTES => Kept::Bytes(Box::new(Payload(self.bytes()?))),
            KEPT_BLOCKED => Kept::Blocked,
            _ => return Err(LoadError::Section),
        }))
    }

    fn waiter(&mut self) -> Result<Waiter, LoadError> {
        let name = WaiterName {
            worker: WorkerId(self.number()?),
            slot: self.slot()?,
            seq: self.number()?,
        };
        let db = self.narrow()?;
        let resp3 = self.0.byte()? != 0;
        let tag = self.number()?;
        let kind = match self.0.byte()? {
            0 => BlockKind::List,
            1 => BlockKind::ZSet,
            2 => BlockKind::Stream,
            3 => BlockKind::StreamGroup,
            _ => return Err(LoadError::Section),
        };
        let deadline_ms = self.number()?.checked_sub(1);
        let keys = (0..self.0.count(1)?).map(|_| self.bytes()).collect::<Result<_, LoadError>>()?;
        let request = BlockRequest { keys, deadline_ms, kind, command: None };
        Ok(Waiter { name, db, resp3, tag, request, command: self.bytes()? })
    }

    fn number(&mut self) -> Result<u64, LoadError> {
        Ok(self.0.length()?)
    }

    fn narrow(&mut self) -> Result<u16, LoadError> {
        u16::try_from(self.number()?).map_err(|_| LoadError::Section)
    }

    fn slot(&mut self) -> Result<Slot, LoadError> {
        Slot::new(self.narrow()?).ok_or(LoadError::Section)
    }

    fn bytes(&mut self) -> Result<Box<[u8]>, LoadError> {
        Ok(self.0.string()?.into())
    }
}
