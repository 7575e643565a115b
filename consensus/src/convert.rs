//! Raft messages at the edge, field by field: the raft crate's own protobuf code never parses bytes
//! that came from the network.

use bytes::Bytes;
use holdfast_proto::v1;
use protobuf::ProtobufEnum;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, EntryType, Message, MessageType,
    Snapshot,
};

use crate::error::StepError;
use crate::state::Entry;

/// Changes in one membership entry. Bounds what a damaged message may make us allocate.
const CHANGES_MAX: usize = 64;

pub(crate) fn message_to_wire(mut m: Message) -> v1::RaftMessage {
    let mut wire = v1::RaftMessage {
        kind: m.get_msg_type().value() as u32,
        to: m.to,
        from: m.from,
        term: m.term,
        log_term: m.log_term,
        index: m.index,
        entries: m.take_entries().into_iter().map(entry_to_wire).collect(),
        commit: m.commit,
        commit_term: m.commit_term,
        request_snapshot: m.request_snapshot,
        reject: m.reject,
        reject_hint: m.reject_hint,
        context: m.take_context(),
        priority_bits: m.priority as u64,
        ..Default::default()
    };
    if m.has_snapshot() {
        let mut snapshot = m.take_snapshot();
        wire.has_snapshot = true;
        wire.snapshot_data = snapshot.take_data();
        let meta = snapshot.get_metadata();
        wire.snapshot_index = meta.index;
        wire.snapshot_term = meta.term;
        wire.snapshot_membership = Some(membership_to_wire(meta.get_conf_state()));
    }
    wire
}

pub(crate) fn message_from_wire(wire: v1::RaftMessage) -> Result<Message, StepError> {
    let kind = i32::try_from(wire.kind)
        .ok()
        .and_then(MessageType::from_i32)
        .ok_or(StepError::Invalid("unknown kind"))?;
    let mut m = Message::default();
    m.set_msg_type(kind);
    m.to = wire.to;
    m.from = wire.from;
    m.term = wire.term;
    m.log_term = wire.log_term;
    m.index = wire.index;
    m.commit = wire.commit;
    m.commit_term = wire.commit_term;
    m.request_snapshot = wire.request_snapshot;
    m.reject = wire.reject;
    m.reject_hint = wire.reject_hint;
    m.context = wire.context;
    m.priority = wire.priority_bits as i64;
    let mut previous = m.index;
    let mut entries = Vec::with_capacity(wire.entries.len());
    for entry in wire.entries {
        if entry.index != previous + 1 || entry.term == 0 || entry.term > m.term {
            return Err(StepError::Invalid("entries out of order"));
        }
        previous = entry.index;
        entries.push(entry_from_wire(entry)?);
    }
    m.set_entries(entries.into());
    if wire.has_snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.data = wire.snapshot_data;
        let meta = snapshot.mut_metadata();
        meta.index = wire.snapshot_index;
        meta.term = wire.snapshot_term;
        let membership = wire.snapshot_membership.unwrap_or_default();
        meta.set_conf_state(membership_from_wire(&membership));
        m.set_snapshot(snapshot);
    }
    Ok(m)
}

fn entry_to_wire(mut entry: Entry) -> v1::RaftEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => v1::EntryKind::Normal,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => v1::EntryKind::Membership,
    };
    v1::RaftEntry {
        term: entry.term,
        index: entry.index,
        kind: kind as i32,
        data: entry.take_data(),
        context: entry.take_context(),
    }
}

fn entry_from_wire(wire: v1::RaftEntry) -> Result<Entry, StepError> {
    let mut entry = Entry::default();
    match v1::EntryKind::try_from(wire.kind) {
        Ok(v1::EntryKind::Normal) => {}
        Ok(v1::EntryKind::Membership) => {
            decode_change(&wire.data).ok_or(StepError::Invalid("membership entry"))?;
            entry.set_entry_type(EntryType::EntryConfChangeV2);
        }
        Err(_) => return Err(StepError::Invalid("unknown entry kind")),
    }
    entry.term = wire.term;
    entry.index = wire.index;
    entry.data = wire.data;
    entry.context = wire.context;
    Ok(entry)
}

pub(crate) fn membership_to_wire(state: &ConfState) -> v1::Membership {
    v1::Membership {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
    }
}

pub(crate) fn membership_from_wire(membership: &v1::Membership) -> ConfState {
    let mut state = ConfState::default();
    state.voters = membership.voters.clone();
    state.learners = membership.learners.clone();
    state.voters_outgoing = membership.voters_outgoing.clone();
    state.learners_next = membership.learners_next.clone();
    state.auto_leave = membership.auto_leave;
    state
}

/// The body of a membership entry: what protobuf 2 writes for a `ConfChangeV2`, because raft itself
/// reads it back when it is proposed.
pub(crate) fn decode_change(data: &Bytes) -> Option<ConfChangeV2> {
    // Raft appends an entry without data to leave a joint state.
    if data.is_empty() {
        return Some(ConfChangeV2::default());
    }
    // A few varint fields; the length bound keeps hostile input small before it is parsed.
    if data.len() > CHANGES_MAX * 16 {
        return None;
    }
    let mut change = ConfChangeV2::default();
    protobuf::Message::merge_from_bytes(&mut change, data).ok()?;
    (change.get_changes().len() <= CHANGES_MAX).then_some(change)
}

pub(crate) fn single_change(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    let mut change = ConfChangeSingle::default();
    change.set_change_type(kind);
    change.node_id = id;
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let mut m = Message::default();
        m.set_msg_type(MessageType::MsgAppend);
        (m.to, m.from, m.term, m.log_term, m.index) = (1, 2, 7, 6, 10);
        (m.commit, m.commit_term, m.request_snapshot) = (9, 6, 3);
        (m.reject, m.reject_hint, m.priority) = (true, 5, -1);
        m.context = Bytes::from_static(b"ctx");
        let mut entry = Entry::default();
        (entry.term, entry.index) = (7, 11);
        entry.data = Bytes::from_static(b"data");
        let mut change = Entry::default();
        (change.term, change.index) = (7, 12);
        change.set_entry_type(EntryType::EntryConfChangeV2);
        m.set_entries(vec![entry, change].into());
        assert_eq!(message_from_wire(message_to_wire(m.clone())).unwrap(), m, "append");

        let mut m = Message::default();
        m.set_msg_type(MessageType::MsgSnapshot);
        let mut snapshot = Snapshot::default();
        snapshot.data = Bytes::from_static(b"where");
        snapshot.mut_metadata().index = 5;
        snapshot.mut_metadata().term = 2;
        snapshot.mut_metadata().mut_conf_state().voters = vec![1, 2];
        m.set_snapshot(snapshot);
        assert_eq!(message_from_wire(message_to_wire(m.clone())).unwrap(), m, "snapshot");
    }

    #[test]
    fn gaps_and_unknown_kinds_are_refused() {
        let unknown = v1::RaftMessage { kind: 99, ..Default::default() };
        assert!(message_from_wire(unknown).is_err());
        let gap = v1::RaftMessage {
            kind: MessageType::MsgAppend.value() as u32,
            term: 2,
            index: 5,
            entries: vec![v1::RaftEntry { term: 1, index: 7, ..Default::default() }],
            ..Default::default()
        };
        assert!(message_from_wire(gap).is_err());
    }
}
