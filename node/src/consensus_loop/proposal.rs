//! What becomes a log entry.

use crate::link_server::CHUNK_BYTES_MAX;
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::frame::{
    BATCH_HEADER_LEN, BatchHeader, RECORD_HEADER_LEN, RecordHeader, RecordOp, UnblockReason,
};
use holdfast_proto::ids::{ShardId, WorkerId};
use holdfast_proto::resp::encode;
use holdfast_proto::slot::Slot;
use std::collections::VecDeque;

/// Writes for one shard as a link handed them over: room for a batch header, then whole records.
pub(crate) struct WriteChunk {
    pub(crate) shard: ShardId,
    pub(crate) data: BytesMut,
    pub(crate) count: u32,
}

impl WriteChunk {
    /// Room for the header and for a first record.
    pub(crate) fn begin(record_len: usize) -> BytesMut {
        let mut data = BytesMut::with_capacity(BATCH_HEADER_LEN + record_len.max(4096));
        data.put_bytes(0, BATCH_HEADER_LEN);
        data
    }

    pub(crate) fn records(&self) -> &[u8] {
        &self.data[BATCH_HEADER_LEN..]
    }
}

/// A record of [`WorkerId::SHARD`].
pub(crate) struct InternalRecord(Vec<u8>);

impl InternalRecord {
    pub(crate) fn tick() -> Self {
        Self::new(RecordOp::Tick, 0, Slot::default(), 0, &[])
    }

    /// Ends the wait of (`worker`, `slot`, `seq`), whose time is over.
    pub(crate) fn unblock(worker: WorkerId, slot: Slot, seq: u64) -> Self {
        let mut body = [0; 9];
        body[..8].copy_from_slice(&seq.to_le_bytes());
        body[8] = UnblockReason::Timeout as u8;
        Self::new(RecordOp::Unblock, 0, slot, worker.0, &body)
    }

    pub(crate) fn expire<'a>(
        db: u16,
        slot: Slot,
        keys: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut body = Vec::new();
        encode::command(&mut body, keys);
        Self::new(RecordOp::Expire, db, slot, 0, &body)
    }

    /// Gives up keys of one slot.
    pub(crate) fn evict<'a>(
        db: u16,
        slot: Slot,
        keys: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut body = Vec::new();
        encode::command(&mut body, keys);
        Self::new(RecordOp::Evict, db, slot, 0, &body)
    }

    pub(crate) fn retire(worker: u64) -> Self {
        Self::new(RecordOp::RetireWorker, 0, Slot::default(), 0, &worker.to_le_bytes())
    }

    fn new(op: RecordOp, db: u16, slot: Slot, tag: u64, body: &[u8]) -> Self {
        let header = RecordHeader {
            op,
            flags: 0,
            db,
            slot,
            worker: WorkerId::SHARD,
            seq: 0,
            first_unacked: 0,
            tag,
            body_len: body.len() as u32,
        };
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + body.len());
        header.encode(&mut record);
        record.extend_from_slice(body);
        Self(record)
    }
}

/// What waits to be proposed for one shard, in order of arrival.
#[derive(Default)]
pub(crate) struct Pending {
    chunks: VecDeque<WriteChunk>,
    /// Records in all of them.
    count: u32,
}

/// A log entry's payload.
pub(crate) struct NextEntry {
    pub(crate) data: Bytes,
    pub(crate) count: u32,
}

impl Pending {
    pub(crate) fn push(&mut self, chunk: WriteChunk) {
        self.count += chunk.count;
        self.chunks.push_back(chunk);
    }

    pub(crate) fn push_internal(&mut self, shard: ShardId, records: &[InternalRecord]) {
        let len = records.iter().map(|record| record.0.len()).sum();
        let mut data = WriteChunk::begin(len);
        for record in records {
            data.extend_from_slice(&record.0);
        }
        self.push(WriteChunk { shard, data, count: records.len() as u32 });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many records wait.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Everything, not to be proposed.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = WriteChunk> {
        self.count = 0;
        self.chunks.drain(..)
    }

    /// The next entry: as many chunks as fit in [`CHUNK_BYTES_MAX`], at least one. A chunk that
    /// goes alone is not copied.
    pub(crate) fn next_entry(&mut self, time_ms: u64, seed: u64) -> Option<NextEntry> {
        let mut chunk = self.chunks.pop_front()?;
        let mut len = chunk.data.len();
        let mut more = 0;
        for next in &self.chunks {
            if len + next.records().len() > CHUNK_BYTES_MAX {
                break;
            }
            len += next.records().len();
            more += 1;
        }
        if more > 0 {
            chunk.data.reserve(len - chunk.data.len());
            for next in self.chunks.drain(..more) {
                chunk.data.extend_from_slice(next.records());
                chunk.count += next.count;
            }
        }
        let header = BatchHeader { count: chunk.count, time_ms, seed };
        header.encode(&mut &mut chunk.data[..BATCH_HEADER_LEN]);
        self.count -= chunk.count;
        Some(NextEntry { data: chunk.data.freeze(), count: chunk.count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;
    use holdfast_proto::frame::split_record;

    #[test]
    fn what_waits_becomes_one_entry_in_order() {
        let mut pending = Pending::default();
        let shard = ShardId(1);
        pending.push_internal(shard, &[InternalRecord::tick(), InternalRecord::retire(9)]);
        let keys: [&[u8]; 2] = [b"a", b"bc"];
        let slot = Slot::of_key(b"a");
        pending.push_internal(shard, &[InternalRecord::expire(3, slot, keys.into_iter())]);
        let NextEntry { data: mut entry, count } = pending.next_entry(77, 5).unwrap();
        assert!(pending.is_empty());
        assert_eq!((count, pending.count()), (3, 0));
        let header = BatchHeader::decode(&entry).unwrap();
        assert_eq!(header, BatchHeader { count: 3, time_ms: 77, seed: 5 });
        entry.advance(BATCH_HEADER_LEN);
        let ops: Vec<RecordOp> = (0..3).map(|_| split_record(&mut entry).unwrap().0.op).collect();
        assert_eq!(ops, [RecordOp::Tick, RecordOp::RetireWorker, RecordOp::Expire]);
        assert!(entry.is_empty());
    }

    #[test]
    fn an_entry_has_a_bound_but_takes_one_chunk_of_any_size() {
        let mut pending = Pending::default();
        for _ in 0..3 {
            let mut data = WriteChunk::begin(0);
            data.put_bytes(0, CHUNK_BYTES_MAX * 2 / 3);
            pending.push(WriteChunk { shard: ShardId(1), data, count: 1 });
        }
        for _ in 0..3 {
            let entry = pending.next_entry(1, 1).unwrap();
            assert_eq!(BatchHeader::decode(&entry.data).unwrap().count, 1);
        }
        assert!(pending.next_entry(1, 1).is_none());
    }
}
