//! Streams, written and read.
//!
//! The form of Redis 7.2 differs from that of 7.0 in one number per consumer: when it last got
//! something, which 7.2 takes to be when it was last seen if the file does not say. So the older form is
//! written where the two are the same, and both versions load it; the newer one is for the rest.

use super::decode::{Decoder, Source};
use super::encode::{StringWriter, length};
use super::{Error, kind};
use crate::value::packed::Packed;
use crate::value::stream::group::{Group, Groups, Pending};
use crate::value::stream::log::Log;
use crate::value::stream::node::Node;
use crate::value::stream::{Stream, StreamId};
use std::collections::VecDeque;

/// `entries_read` when it is not known.
const NOT_KNOWN: u64 = u64::MAX;
/// The time of a consumer that never got anything.
const NEVER: u64 = u64::MAX;

pub(super) fn kind_of(stream: &Stream) -> u8 {
    let mut consumers =
        stream.groups().into_iter().flat_map(Groups::iter).flat_map(Group::consumers);
    if consumers.all(|consumer| consumer.active_ms == Some(consumer.seen_ms)) {
        kind::STREAM_LISTPACKS_2
    } else {
        kind::STREAM_LISTPACKS_3
    }
}

pub(super) fn write(stream: &Stream, strings: &mut StringWriter, out: &mut Vec<u8>) {
    length(stream.log.nodes().len() as u64, out);
    for node in stream.log.nodes() {
        write_node(node, strings, out);
    }
    write_tail(stream, strings, out);
}

pub(super) fn write_node(node: &Node, strings: &mut StringWriter, out: &mut Vec<u8>) {
    strings.string(&node.first().to_bytes(), out);
    strings.string(node.packed().as_listpack(), out);
}

/// Writes what follows the nodes.
pub(super) fn write_tail(stream: &Stream, strings: &mut StringWriter, out: &mut Vec<u8>) {
    let log = &stream.log;
    length(log.len(), out);
    write_id(log.last_id, out);
    write_id(log.first_id, out);
    write_id(log.max_deleted_id, out);
    length(log.entries_added, out);
    length(stream.groups().map_or(0, Groups::len) as u64, out);
    let with_active = kind_of(stream) == kind::STREAM_LISTPACKS_3;
    for group in stream.groups().into_iter().flat_map(Groups::iter) {
        write_group(group, with_active, strings, out);
    }
}

fn write_group(group: &Group, with_active: bool, strings: &mut StringWriter, out: &mut Vec<u8>) {
    strings.string(&group.name, out);
    write_id(group.last_id, out);
    length(group.entries_read.unwrap_or(NOT_KNOWN), out);
    length(group.pending_len() as u64, out);
    group.visit_pending(StreamId::MIN, |pending| {
        out.extend_from_slice(&pending.id.to_bytes());
        out.extend_from_slice(&pending.delivered_ms.to_le_bytes());
        length(pending.deliveries, out);
        true
    });
    length(group.consumer_count() as u64, out);
    for consumer in group.consumers() {
        strings.string(&consumer.name, out);
        out.extend_from_slice(&consumer.seen_ms.to_le_bytes());
        if with_active {
            out.extend_from_slice(&consumer.active_ms.unwrap_or(NEVER).to_le_bytes());
        }
        length(consumer.pending_len() as u64, out);
        for id in consumer.pending_from(StreamId::MIN, usize::MAX) {
            out.extend_from_slice(&id.to_bytes());
        }
    }
}

fn write_id(id: StreamId, out: &mut Vec<u8>) {
    length(id.ms, out);
    length(id.seq, out);
}

/// Reads a stream of any of the three forms.
pub(super) fn read<S: Source>(kind: u8, input: &mut Decoder<S>) -> Result<Stream, Error> {
    let mut nodes = VecDeque::new();
    for _ in 0..input.count(2)? {
        let first =
            input.string()?.try_into().map_err(|_| Error::Corrupt("id of a stream node"))?;
        let packed = Packed::from_listpack(input.string()?).ok_or(Error::Corrupt("listpack"))?;
        let node = Node::checked(StreamId::from_bytes(first), packed);
        nodes.push_back(node.ok_or(Error::Corrupt("node of a stream"))?);
    }
    nodes.shrink_to_fit();
    let mut log = Log::from_nodes(nodes, input.length()?).ok_or(Error::Corrupt("stream"))?;
    log.last_id = read_id(input)?;
    if kind == kind::STREAM_LISTPACKS {
        // As Redis fills in what the oldest form does not have.
        log.entries_added = log.len();
        log.find_first_id();
    } else {
        log.first_id = read_id(input)?;
        log.max_deleted_id = read_id(input)?;
        log.entries_added = input.length()?;
    }
    if log.last_live_id().is_some_and(|last| last > log.last_id) {
        return Err(Error::Corrupt("last id of a stream"));
    }
    let mut groups = Groups::default();
    for _ in 0..input.count(2)? {
        if !groups.insert(read_group(kind, input, &log)?) {
            return Err(Error::Corrupt("a consumer group stands twice"));
        }
    }
    Ok(Stream::new(log, groups))
}

fn read_group<S: Source>(kind: u8, input: &mut Decoder<S>, log: &Log) -> Result<Group, Error> {
    let name: Box<[u8]> = input.string()?.into();
    let last_id = read_id(input)?;
    let entries_read = if kind == kind::STREAM_LISTPACKS {
        log.count_until(last_id)
    } else {
        Some(input.length()?).filter(|&count| count != NOT_KNOWN)
    };
    let mut group = Group::new(&name, last_id, entries_read);
    // Pending entries get their consumers only afterwards.
    let mut pending = Vec::new();
    for _ in 0..input.count(24)? {
        let id = StreamId::from_bytes(input.source.array()?);
        let delivered_ms = u64::from_le_bytes(input.source.array()?);
        pending.push((id, delivered_ms, input.length()?));
    }
    if !pending.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Error::Corrupt("pending entries of a stream"));
    }
    for _ in 0..input.count(2)? {
        read_consumer(kind, input, &mut group, &pending)?;
    }
    // Each must belong to one consumer.
    if group.pending_len() != pending.len() {
        return Err(Error::Corrupt("pending entries of a stream"));
    }
    Ok(group)
}

fn read_consumer<S: Source>(
    kind: u8,
    input: &mut Decoder<S>,
    group: &mut Group,
    pending: &[(StreamId, u64, u64)],
) -> Result<(), Error> {
    let name: Box<[u8]> = input.string()?.into();
    let seen_ms = u64::from_le_bytes(input.source.array()?);
    let active_ms = if kind == kind::STREAM_LISTPACKS_3 {
        Some(u64::from_le_bytes(input.source.array()?)).filter(|&at| at != NEVER)
    } else {
        Some(seen_ms)
    };
    let consumer =
        group.create_consumer(&name, seen_ms).ok_or(Error::Corrupt("a consumer stands twice"))?;
    group.consumer_mut(consumer).active_ms = active_ms;
    for _ in 0..input.count(16)? {
        let id = StreamId::from_bytes(input.source.array()?);
        let known = pending.binary_search_by(|known| known.0.cmp(&id));
        let Ok(at) = known else {
            return Err(Error::Corrupt("pending entry of a consumer"));
        };
        if group.pending(id).is_some() {
            return Err(Error::Corrupt("an entry is pending for two consumers"));
        }
        let (id, delivered_ms, deliveries) = pending[at];
        group.set_pending(Pending { id, delivered_ms, deliveries, consumer });
    }
    Ok(())
}

fn read_id<S: Source>(input: &mut Decoder<S>) -> Result<StreamId, Error> {
    Ok(StreamId::new(input.length()?, input.length()?))
}
