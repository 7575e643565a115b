//! From a routed request to its answer: sending, holding, sending again.
//!
//! The rules, in the order of a request's life:
//! - It is appended to the list of its shard. If the shard flows (its primary's link is ready and
//!   nothing pauses it) it is sent at once, and so is everything before it in the list.
//! - A write gets its place in the lane when it is sent first, and keeps it.
//! - When the link breaks, a newer primary appears or the primary refuses, the unanswered requests
//!   of the shard become "waiting" and are sent again in list order once a primary is known, writes
//!   with the same lane and seq, so that each runs once.
//! - A stuck link (no pongs) alone proves nothing: its requests stay sent until it breaks or a newer
//!   primary appears; only the hold deadline starts to count.
//! - Past the deadline the owner gets an error that says whether the command surely did not run. A
//!   sent write stays in the list as a command without effect under the same seq: the lane has no
//!   hole then, and the command can no longer run afterwards unless it already did.
//!
//! Hot path: no allocation per request here, nothing blocks.

use super::link::LinkState;
use super::request::{Handle, Kind, NONE, Owner, Progress, Request};
use super::respond;
use super::router::Primary;
use super::session::is_single_key;
use super::{Action, Session, WorkerCore};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_proto::bugs;
use holdfast_proto::frame::{
    AnswerRef, AnswerStatus, FrameError, ReadOp, ReadRequest, RecordHeader, RecordOp, Response,
    UnblockReason, begin_write, flags,
};
use holdfast_proto::ids::{NodeId, ShardId, Term};
use holdfast_proto::slot::Slot;

/// What an entry of the list costs besides its body, for the bound on held bytes.
const REQUEST_OVERHEAD_BYTES: usize = 160;
/// Pause after "queues full": a guess, about the time of a few batches.
const BUSY_PAUSE_US: u64 = 2_000;
/// Pause after a gap: its predecessor is on the way.
const GAP_PAUSE_US: u64 = 1_000;
/// Pause after "slot frozen"; a freeze is to last under 50 ms.
const FROZEN_PAUSE_US: u64 = 3_000;
/// Pause after the primary said that it is not serving yet; it announces itself when it does.
const NOT_READY_PAUSE_US: u64 = 50_000;
/// While no primary is known, one request is tried on the next replica this often.
const PROBE_INTERVAL_US: u64 = 300_000;
/// A new session replaces the old one after at most this long, so that other shards can answer
/// what was sent under the old one.
const SESSION_DRAIN_US: u64 = 500_000;

/// A command without effect: takes the place of a given-up write in its lane.
const FILLER: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// What the caller of [`WorkerCore::submit`] knows of a request.
pub(crate) struct Draft {
    pub(crate) owner: Owner,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) db: u16,
    pub(crate) slot: Slot,
    pub(crate) shard: u32,
    pub(crate) depends_on: Handle,
    pub(crate) command: u16,
    pub(crate) body: Bytes,
}

impl WorkerCore {
    /// Queues a request for its shard and sends it if the shard flows.
    pub(crate) fn submit(&mut self, draft: Draft) -> Handle {
        let shard_index = draft.shard;
        let size = draft.body.len() + REQUEST_OVERHEAD_BYTES;
        self.next_order += 1;
        let index = self.requests.insert(Request {
            owner: draft.owner,
            kind: draft.kind,
            progress: Progress::Waiting,
            flags: draft.flags,
            db: draft.db,
            slot: draft.slot,
            shard: shard_index,
            attempts: 0,
            seq: 0,
            worker: self.lanes.worker,
            order: self.next_order,
            depends_on: draft.depends_on,
            received_us: self.now_us,
            command: draft.command,
            in_lane: false,
            was_blocked: false,
            refused_unexecuted: false,
            body: draft.body,
        });
        let shard = &mut self.router.shards[shard_index as usize];
        self.requests.push_to_shard(&mut shard.list, index);
        shard.unanswered += 1;
        shard.unanswered_bytes += size;
        if let Some(link) = self.flowing_link(shard_index) {
            self.send(index, link);
        } else {
            self.router.shards[shard_index as usize].outage.held += 1;
        }
        self.requests.handle(index)
    }

    /// The link to send on, if the shard takes requests now.
    fn flowing_link(&self, shard: u32) -> Option<usize> {
        let shard = &self.router.shards[shard as usize];
        if shard.paused_until_us.is_some() || !matches!(self.session, Session::Active) {
            return None;
        }
        let link = self.link_index(shard.primary.node?)?;
        (self.links[link].state == LinkState::Ready).then_some(link)
    }

    pub(crate) fn link_index(&self, node: NodeId) -> Option<usize> {
        self.links.iter().position(|link| link.node == node)
    }

    fn send(&mut self, index: u32, link_index: usize) {
        let tag = self.requests.renew_tag(index);
        let anew = self.requests.get(index).attempts == 0;
        if anew || bugs::active(bugs::Bug::NewSeqOnResend) {
            self.take_seq(index);
        }
        let request = self.requests.get(index);
        let shard = &mut self.router.shards[request.shard as usize];
        let link = &mut self.links[link_index];
        if request.attempts > 0 {
            shard.outage.retried += 1;
            self.stats.requests_resent += 1;
        }
        match request.kind {
            Kind::Write(op) => {
                let current = request.worker == self.lanes.worker;
                let first_unacked = if current {
                    self.requests.first_unacked(&self.lanes, request.slot)
                } else {
                    0
                };
                let header = RecordHeader {
                    op,
                    flags: request.flags,
                    db: request.db,
                    slot: request.slot,
                    worker: request.worker,
                    seq: request.seq,
                    first_unacked: first_unacked.min(request.seq),
                    tag,
                    body_len: request.body.len() as u32,
                };
                begin_write(shard.id, &header, &mut link.out);
            }
            Kind::Read(op) => {
                let (depends_on_slot, depends_on_seq) =
                    match self.requests.dependency(&self.lanes, request) {
                        Some(write) => (write.slot, write.seq),
                        None => (Slot::default(), 0),
                    };
                let again = op == ReadOp::Publish && request.attempts > 0;
                let read = ReadRequest {
                    shard: shard.id,
                    flags: request.flags | if again { flags::RESENT } else { 0 },
                    db: request.db,
                    slot: request.slot,
                    tag,
                    depends_on_slot,
                    depends_on_seq,
                    op,
                    body: Bytes::new(),
                };
                read.begin(request.body.len(), &mut link.out);
            }
        }
        link.out.extend_from_slice(&request.body);
        let request = self.requests.get_mut(index);
        request.attempts += 1;
        request.progress = Progress::Sent;
        self.mark_link(link_index);
    }

    /// Gives a write its place in its lane.
    fn take_seq(&mut self, index: u32) {
        let request = self.requests.get_mut(index);
        if matches!(request.kind, Kind::Read(_)) {
            return;
        }
        request.seq = self.lanes.take_seq(request.slot);
        request.worker = self.lanes.worker;
        request.in_lane = true;
        let slot = request.slot;
        self.requests.push_to_lane(&mut self.lanes.lane_mut(slot).unanswered, index);
    }

    /// Sends everything of a shard that waits, in order, if the shard flows.
    pub(crate) fn flush(&mut self, shard_index: u32) {
        let Some(link) = self.flowing_link(shard_index) else { return };
        let shard = &mut self.router.shards[shard_index as usize];
        if !self.links[link].stuck {
            shard.down_since_us = None;
        }
        let mut index = shard.list.head;
        while index != NONE {
            let next = self.requests.next_in_shard(index);
            if self.requests.get(index).progress == Progress::Waiting {
                self.send(index, link);
            }
            index = next;
        }
    }

    /// The primary of a shard is gone or refuses: all that was sent to it waits for another.
    fn hold(&mut self, shard_index: u32) {
        // What it knew of tracked keys is lost, or soon not complete any more.
        self.flush_tracking();
        let shard = &mut self.router.shards[shard_index as usize];
        shard.down_since_us.get_or_insert(self.now_us);
        shard.probed_us = self.now_us;
        shard.paused_until_us = None;
        if !shard.outage.open {
            shard.begin_outage();
        }
        let mut index = shard.list.head;
        while index != NONE {
            self.requests.get_mut(index).progress = Progress::Waiting;
            index = self.requests.next_in_shard(index);
        }
    }

    /// Learns of a primary. The greater term wins; within a term there is only one.
    pub(crate) fn learn_primary(&mut self, id: ShardId, term: Term, node: NodeId) {
        let Some(shard_index) = self.router.index_of(id) else { return };
        let known = self.router.shards[shard_index as usize].primary;
        if term == known.term && known.node == Some(node) {
            // It serves now: what it had refused so far need not wait any longer.
            self.router.shards[shard_index as usize].paused_until_us = None;
            return self.flush(shard_index);
        }
        if term < known.term {
            return;
        }
        if term == known.term && known.node.is_some() {
            return;
        }
        if known.node.is_some() || known.term > Term(0) {
            self.hold(shard_index);
        }
        self.router.shards[shard_index as usize].primary = Primary { term, node: Some(node) };
        self.flush(shard_index);
    }

    /// One frame from a node.
    pub(crate) fn handle_frame(&mut self, link_index: usize, frame: Response) {
        self.note_heard(link_index);
        match frame {
            Response::Answer { tag, status, payload } => {
                self.handle_answer(link_index, &AnswerRef { tag, status, payload: &payload });
            }
            Response::PrimaryIs { shard, term, node } => self.learn_primary(shard, term, node),
            Response::HelloOk { node } => self.handle_hello_ok(link_index, node),
            Response::HelloRefused { reason } => {
                tracing::warn!(
                    node = %self.links[link_index].node,
                    reason = %String::from_utf8_lossy(&reason),
                    "node refuses the link"
                );
                self.actions.push(Action::CloseLink { link: link_index });
            }
            Response::Pong { .. } => {}
            Response::Registered { number } => self.handle_registered(link_index, number),
            Response::Message { message } => self.handle_message(&message),
            Response::Invalidate { keys } => self.handle_invalidate(keys),
        }
    }

    fn handle_hello_ok(&mut self, link_index: usize, node: NodeId) {
        if node != self.links[link_index].node {
            tracing::warn!(expected = %self.links[link_index].node, found = %node, "wrong node at address");
            self.actions.push(Action::CloseLink { link: link_index });
            return;
        }
        self.links[link_index].state = LinkState::Ready;
        self.register_everything(link_index);
        for shard in 0..self.router.shards.len() as u32 {
            if self.router.shards[shard as usize].primary.node == Some(node) {
                self.flush(shard);
            }
        }
    }

    /// The connection of a link is gone.
    pub(crate) fn handle_link_lost(&mut self, link_index: usize) {
        let node = self.links[link_index].node;
        self.links[link_index].lost();
        for shard in 0..self.router.shards.len() as u32 {
            if self.router.shards[shard as usize].primary.node == Some(node) {
                self.hold(shard);
            }
        }
    }

    /// A stuck link answers again: its shards are up, nothing needs to be sent twice.
    fn link_recovered(&mut self, link_index: usize) {
        self.links[link_index].stuck = false;
        let node = self.links[link_index].node;
        for shard in &mut self.router.shards {
            if shard.primary.node == Some(node) {
                shard.down_since_us = None;
            }
        }
    }

    fn note_heard(&mut self, link_index: usize) {
        self.links[link_index].last_heard_us = self.now_us;
        if self.links[link_index].stuck {
            self.link_recovered(link_index);
        }
    }

    /// The answer to a request.
    pub(crate) fn handle_answer(&mut self, link: usize, answer: &AnswerRef<'_>) {
        self.note_heard(link);
        self.answering = Some(link);
        let AnswerRef { tag, status, payload } = *answer;
        // Answers to an earlier sending are ignored: the present sending is answered too.
        let Some(index) = self.requests.of_tag(tag) else { return };
        match status {
            AnswerStatus::Reply | AnswerStatus::WatchVersions => {
                self.note_alive(index, link);
                match self.overlooked(index) {
                    Some(write) => self.ask_after(index, write),
                    None => self.complete(index, status, payload),
                }
            }
            AnswerStatus::Blocked => {
                self.note_alive(index, link);
                let request = self.requests.get_mut(index);
                request.progress = Progress::Blocked;
                request.was_blocked = true;
                // It may wait for hours: the buffer that it came in with others must not.
                request.body = Bytes::copy_from_slice(&request.body);
                self.leave_lane(index);
            }
            AnswerStatus::NotPrimary => self.handle_not_primary(index, link, payload),
            AnswerStatus::Gap => self.handle_gap(index, payload),
            AnswerStatus::SessionExpired => self.handle_session_expired(index),
            AnswerStatus::Busy => self.wait_and_pause(index, BUSY_PAUSE_US),
            AnswerStatus::Frozen => self.wait_and_pause(index, FROZEN_PAUSE_US),
            AnswerStatus::Moved => self.handle_moved(index, payload),
        }
    }

    /// The client's first unanswered write that a read over several slots may have been answered
    /// without. Such a read names one write to wait for, and of the others a shard may have refused
    /// some for a moment.
    fn overlooked(&self, index: u32) -> Option<Handle> {
        let read = self.requests.get(index);
        if matches!(read.kind, Kind::Write(_)) || read.depends_on == Handle::NOWHERE {
            return None;
        }
        let spec = holdfast_proto::command::all().nth(read.command as usize)?;
        if is_single_key(spec) {
            return None;
        }
        let (client, reply) = self.asker(read.owner)?;
        if !self.clients.get(client)?.waits_before(reply) {
            return None;
        }
        let mut earlier = self.router.shards[read.shard as usize].list.head;
        while earlier != NONE {
            let write = self.requests.get(earlier);
            let unsettled = matches!(write.kind, Kind::Write(_))
                && write.order < read.order
                && write.progress != Progress::Blocked;
            if unsettled && self.asker(write.owner).is_some_and(|(asker, _)| asker == client) {
                return Some(self.requests.handle(earlier));
            }
            earlier = self.requests.next_in_shard(earlier);
        }
        None
    }

    /// The client that gets an answer, and as which of its replies.
    fn asker(&self, owner: Owner) -> Option<(u32, u32)> {
        let (client, generation, reply) = match owner {
            Owner::Client { client, generation, reply } => (client, generation, reply),
            Owner::Scatter { index, .. } => {
                let scatter = self.scatters.slab.get(index as usize)?;
                (scatter.client, scatter.generation, scatter.reply)
            }
            Owner::Nobody | Owner::Lookup { .. } | Owner::Queued { .. } => return None,
        };
        self.clients.get(client).filter(|c| c.generation == generation).map(|_| (client, reply))
    }

    /// Asks a read again, behind a write.
    fn ask_after(&mut self, index: u32, write: Handle) {
        let request = self.requests.get_mut(index);
        request.depends_on = write;
        request.progress = Progress::Waiting;
        let shard = request.shard;
        self.flush(shard);
    }

    /// An answer that only a primary gives: closes the outage of its shard.
    fn note_alive(&mut self, index: u32, link: usize) {
        let shard_index = self.requests.get(index).shard;
        let shard = &mut self.router.shards[shard_index as usize];
        if shard.primary.node.is_none() {
            shard.primary.node = Some(self.links[link].node);
            shard.down_since_us = None;
            self.flush(shard_index);
        }
        let shard = &mut self.router.shards[shard_index as usize];
        if shard.outage.open {
            shard.outage.open = false;
            if shard.primary.term == shard.outage_term {
                // The old primary after all: no failover to report.
                return;
            }
            self.actions.push(Action::OutageOver {
                shard: shard.id,
                term: shard.primary.term,
                outage: shard.outage,
            });
        }
    }

    fn handle_not_primary(&mut self, index: u32, link: usize, payload: &[u8]) {
        let (mut term, mut node) = (Term(0), NodeId(0));
        if let Ok([a, b]) = words::<2>(payload) {
            (term, node) = (Term(a), NodeId(b));
        }
        let request = self.requests.get_mut(index);
        request.progress = Progress::Waiting;
        let shard_index = request.shard;
        let answering = self.links[link].node;
        let shard = &mut self.router.shards[shard_index as usize];
        if shard.primary.node != Some(answering) {
            // A late refusal of an older primary, or of a probe.
            if node != NodeId(0) && node != answering {
                let id = shard.id;
                self.learn_primary(id, term, node);
            }
            return;
        }
        if node == answering {
            // It leads but does not serve yet; it announces itself when it does.
            self.pause(shard_index, NOT_READY_PAUSE_US);
            return;
        }
        shard.primary.node = None;
        let id = shard.id;
        self.hold(shard_index);
        if node != NodeId(0) {
            self.learn_primary(id, term, node);
        }
    }

    fn handle_gap(&mut self, index: u32, payload: &[u8]) {
        let next = words::<1>(payload).map_or(0, |[next]| next);
        let request = self.requests.get_mut(index);
        request.progress = Progress::Waiting;
        let (slot, worker, shard) = (request.slot, request.worker, request.shard);
        let oldest = self.requests.first_unacked(&self.lanes, slot);
        if worker == self.lanes.worker && next < oldest {
            // The shard has forgotten writes that it answered: its lanes are not ours any more.
            tracing::error!(%slot, next, oldest, "shard lost writes that it had answered");
            self.renew_session();
            return;
        }
        self.pause(shard, GAP_PAUSE_US);
    }

    fn wait_and_pause(&mut self, index: u32, pause_us: u64) {
        let request = self.requests.get_mut(index);
        request.progress = Progress::Waiting;
        let shard = request.shard;
        self.pause(shard, pause_us);
    }

    fn pause(&mut self, shard: u32, pause_us: u64) {
        let shard = &mut self.router.shards[shard as usize];
        shard.paused_until_us.get_or_insert(self.now_us + pause_us);
        self.hurry = true;
    }

    /// The slot lives elsewhere now: the request goes there with the same lane and seq.
    fn handle_moved(&mut self, index: u32, payload: &[u8]) {
        let target = (payload.len() >= 4).then(|| ShardId((&payload[..4]).get_u32_le()));
        let Some(target) = target.and_then(|id| self.router.index_of(id)) else {
            // A shard that this worker has not heard of yet: the metadata will tell.
            self.wait_and_pause(index, NOT_READY_PAUSE_US);
            return;
        };
        let request = self.requests.get(index);
        self.router.assign(request.slot, target);
        self.requests.get_mut(index).progress = Progress::Waiting;
        self.move_to_shard(index, target);
        self.flush(target);
    }

    fn move_to_shard(&mut self, index: u32, target: u32) {
        let request = self.requests.get_mut(index);
        let source = std::mem::replace(&mut request.shard, target);
        let size = request.body.len() + REQUEST_OVERHEAD_BYTES;
        let from = &mut self.router.shards[source as usize];
        self.requests.unlink_from_shard(&mut from.list, index);
        from.unanswered -= 1;
        from.unanswered_bytes -= size;
        let to = &mut self.router.shards[target as usize];
        self.requests.push_to_shard(&mut to.list, index);
        to.unanswered += 1;
        to.unanswered_bytes += size;
    }

    /// Final answer: the owner gets it and the request is forgotten.
    fn complete(&mut self, index: u32, status: AnswerStatus, payload: &[u8]) {
        let request = self.take_out(index);
        let usec = self.now_us - request.received_us;
        self.stats.count_answer(request.command, usec, payload);
        if self.latency_threshold_us <= usec {
            self.note_latency(request.command, usec);
        }
        if request.was_blocked {
            self.release_kept_reply(&request);
        }
        self.deliver(&request, status, payload);
    }

    /// For the latency monitor: the command took as long as it asks for.
    #[cold]
    fn note_latency(&mut self, command: u16, usec: u64) {
        let Some(spec) = holdfast_proto::command::all().nth(command as usize) else { return };
        if spec.is_blocking() {
            return;
        }
        let fast = spec.flags.has(holdfast_proto::command::flag::FAST);
        let event = if fast { "fast-command" } else { "command" };
        self.latency_monitor.note(event, self.unix_us / 1_000_000, usec / 1000);
    }

    /// Unlinks a request from everything and removes it.
    fn take_out(&mut self, index: u32) -> Request {
        self.leave_lane(index);
        let request = self.requests.get(index);
        let shard = &mut self.router.shards[request.shard as usize];
        shard.unanswered -= 1;
        shard.unanswered_bytes -= request.body.len() + REQUEST_OVERHEAD_BYTES;
        let room = shard.unanswered_bytes <= self.config.held_bytes_max / 2;
        self.requests.unlink_from_shard(&mut shard.list, index);
        if room && !shard.stalled_clients.is_empty() {
            self.freed.append(&mut shard.stalled_clients);
        }
        self.requests.remove(index)
    }

    fn leave_lane(&mut self, index: u32) {
        let request = self.requests.get_mut(index);
        if !std::mem::take(&mut request.in_lane) {
            return;
        }
        let slot = request.slot;
        self.requests.unlink_from_lane(&mut self.lanes.lane_mut(slot).unanswered, index);
    }

    /// Tells the shard that the reply of a command that had blocked arrived.
    fn release_kept_reply(&mut self, request: &Request) {
        if request.worker == self.lanes.worker {
            self.submit_unblock(request.shard, request.slot, request.seq, UnblockReason::Gone);
        }
    }

    fn submit_unblock(&mut self, shard: u32, slot: Slot, seq: u64, reason: UnblockReason) {
        let mut body = BytesMut::with_capacity(9);
        body.put_u64_le(seq);
        body.put_u8(reason as u8);
        self.submit(Draft {
            owner: Owner::Nobody,
            kind: Kind::Write(RecordOp::Unblock),
            flags: 0,
            db: 0,
            slot,
            shard,
            depends_on: Handle::NOWHERE,
            command: crate::core::stats::NO_COMMAND,
            body: body.freeze(),
        });
    }

    /// Ends the wait of a blocked command by order (CLIENT UNBLOCK): its answer comes as usual.
    pub(crate) fn unblock(&mut self, handle: Handle, reason: UnblockReason) -> bool {
        let Some(request) = self.requests.resolve(handle) else { return false };
        if !request.was_blocked {
            return false;
        }
        let (shard, slot, seq) = (request.shard, request.slot, request.seq);
        self.submit_unblock(shard, slot, seq, reason);
        true
    }

    /// The client of a blocking command left.
    pub(crate) fn abandon_blocked(&mut self, handle: Handle) {
        let Some(request) = self.requests.resolve(handle) else { return };
        if request.attempts == 0 {
            self.take_out(handle.index);
            return;
        }
        if request.was_blocked {
            let request = self.take_out(handle.index);
            self.release_kept_reply(&request);
        } else {
            // On its way: its answer, if it is "blocked", must be followed by the release.
            self.requests.get_mut(handle.index).owner = Owner::Nobody;
            self.orphans.push(handle);
        }
    }

    /// Blocked commands whose client left before the shard had said that they block.
    fn release_orphans(&mut self) {
        for handle in std::mem::take(&mut self.orphans) {
            match self.requests.resolve(handle) {
                Some(request) if request.was_blocked => {
                    let request = self.take_out(handle.index);
                    self.release_kept_reply(&request);
                }
                Some(_) => self.orphans.push(handle),
                None => {}
            }
        }
    }

    /// Ends a request with an error made here. A write that was sent stays in its lane as a
    /// command without effect.
    fn give_up(&mut self, index: u32) {
        let request = self.requests.get(index);
        let read = matches!(request.kind, Kind::Read(_));
        let unexecuted =
            request.attempts == 0 || read && request.kind != Kind::Read(ReadOp::Publish);
        let unexecuted_text = unexecuted || bugs::active(bugs::Bug::UnknownCalledFailed);
        let text = if unexecuted_text { respond::SHARD_DOWN } else { respond::OUTCOME_UNKNOWN };
        self.router.shards[request.shard as usize].outage.failed += 1;
        self.stats.requests_failed += 1;
        if unexecuted || read || request.was_blocked {
            let request = self.take_out(index);
            if request.was_blocked {
                self.release_kept_reply(&request);
            }
            self.deliver(&request, AnswerStatus::Reply, &respond::error_bytes(text));
            return;
        }
        let old_size = request.body.len();
        let request = self.requests.get_mut(index);
        let owner = std::mem::replace(&mut request.owner, Owner::Nobody);
        let body = std::mem::replace(&mut request.body, Bytes::from_static(FILLER));
        let kind = std::mem::replace(&mut request.kind, Kind::Write(RecordOp::Command));
        let answered = Request {
            owner,
            kind,
            body,
            progress: request.progress,
            flags: request.flags,
            db: request.db,
            slot: request.slot,
            shard: request.shard,
            attempts: request.attempts,
            seq: request.seq,
            worker: request.worker,
            order: request.order,
            depends_on: request.depends_on,
            received_us: request.received_us,
            command: request.command,
            in_lane: false,
            was_blocked: false,
            refused_unexecuted: false,
        };
        let shard = &mut self.router.shards[answered.shard as usize];
        shard.unanswered_bytes = shard.unanswered_bytes + FILLER.len() - old_size;
        self.deliver(&answered, AnswerStatus::Reply, &respond::error_bytes(text));
    }

    /// Deadlines, pauses, pings, probes.
    pub(crate) fn tick_flow(&mut self) {
        self.hurry = false;
        self.release_orphans();
        self.tick_session();
        for link in 0..self.links.len() {
            if self.links[link].ping_if_due(self.now_us) {
                self.mark_link(link);
            }
            if !self.links[link].stuck && self.links[link].is_silent(self.now_us) {
                self.link_stuck(link);
            }
        }
        for shard in 0..self.router.shards.len() as u32 {
            self.tick_shard(shard);
        }
    }

    fn link_stuck(&mut self, link: usize) {
        self.links[link].stuck = true;
        let node = self.links[link].node;
        if self.router.shards.iter().any(|shard| shard.primary.node == Some(node)) {
            self.flush_tracking();
        }
        for shard in &mut self.router.shards {
            if shard.primary.node == Some(node) {
                shard.down_since_us.get_or_insert(self.now_us);
                if !shard.outage.open {
                    shard.begin_outage();
                }
            }
        }
    }

    fn tick_shard(&mut self, shard_index: u32) {
        let shard = &mut self.router.shards[shard_index as usize];
        if let Some(until) = shard.paused_until_us {
            if self.now_us >= until {
                shard.paused_until_us = None;
                self.flush(shard_index);
            } else {
                self.hurry = true;
            }
        }
        let shard = &mut self.router.shards[shard_index as usize];
        if !shard.list.is_empty() && self.flowing_link(shard_index).is_none() {
            let shard = &mut self.router.shards[shard_index as usize];
            shard.down_since_us.get_or_insert(self.now_us);
            self.probe(shard_index);
        }
        let shard = &self.router.shards[shard_index as usize];
        let Some(down_since) = shard.down_since_us else { return };
        if self.now_us < down_since + self.config.hold_deadline_us {
            return;
        }
        self.expire_held(shard_index);
    }

    /// Without a known primary: tries the first request on the next replica in turn. Primaries
    /// announce themselves on every link, so this only helps when that went wrong.
    fn probe(&mut self, shard_index: u32) {
        let shard = &mut self.router.shards[shard_index as usize];
        if shard.primary.node.is_some()
            || shard.replicas.is_empty()
            || self.now_us < shard.probed_us + PROBE_INTERVAL_US
            || !matches!(self.session, Session::Active)
        {
            return;
        }
        shard.probed_us = self.now_us;
        shard.probe_turn = (shard.probe_turn + 1) % shard.replicas.len();
        let node = shard.replicas[shard.probe_turn];
        let head = shard.list.head;
        if let Some(link) = self.link_index(node)
            && self.links[link].state == LinkState::Ready
        {
            self.send(head, link);
            self.requests.get_mut(head).progress = Progress::Waiting;
        }
    }

    /// Answers with an error what has waited for the hold deadline without a primary.
    fn expire_held(&mut self, shard_index: u32) {
        let deadline_us = self.config.hold_deadline_us;
        let mut index = self.router.shards[shard_index as usize].list.head;
        while index != NONE {
            let next = self.requests.next_in_shard(index);
            let request = self.requests.get(index);
            if request.owner != Owner::Nobody && self.now_us >= request.received_us + deadline_us {
                self.give_up(index);
            }
            index = next;
        }
    }

    fn handle_session_expired(&mut self, index: u32) {
        let request = self.requests.get_mut(index);
        request.progress = Progress::Waiting;
        request.refused_unexecuted = request.attempts == 1;
        if request.worker == self.lanes.worker {
            self.renew_session();
        }
    }

    /// Asks for a new worker id; nothing is sent until it is there.
    fn renew_session(&mut self) {
        if matches!(self.session, Session::Active) {
            tracing::warn!(worker = %self.lanes.worker, "session expired, a new one is needed");
            self.session = Session::Renewing;
            self.actions.push(Action::RenewSession);
        }
    }

    fn tick_session(&mut self) {
        let Session::Draining { worker, since_us } = self.session else { return };
        self.hurry = true;
        let outstanding = (0..self.router.shards.len() as u32)
            .any(|shard| self.flowing_but_for_session(shard) && self.has_sent(shard));
        if outstanding && self.now_us < since_us + SESSION_DRAIN_US {
            return;
        }
        self.switch_session(worker);
    }

    fn flowing_but_for_session(&self, shard: u32) -> bool {
        let node = self.router.shards[shard as usize].primary.node;
        node.and_then(|node| self.link_index(node))
            .is_some_and(|link| self.links[link].state == LinkState::Ready)
    }

    fn has_sent(&self, shard: u32) -> bool {
        let mut index = self.router.shards[shard as usize].list.head;
        while index != NONE {
            if self.requests.get(index).progress == Progress::Sent {
                return true;
            }
            index = self.requests.next_in_shard(index);
        }
        false
    }

    /// Starts over with fresh lanes. Writes sent under the old session end with "outcome unknown",
    /// but for those that were refused at their only sending.
    fn switch_session(&mut self, worker: holdfast_proto::ids::WorkerId) {
        for shard in 0..self.router.shards.len() as u32 {
            let mut index = self.router.shards[shard as usize].list.head;
            while index != NONE {
                let next = self.requests.next_in_shard(index);
                self.detach_from_session(index);
                index = next;
            }
        }
        self.lanes = super::lane::Lanes::new(worker);
        self.session = Session::Active;
        for link in 0..self.links.len() {
            self.actions.push(Action::CloseLink { link });
            self.handle_link_lost(link);
        }
        tracing::info!(%worker, "new session");
    }

    fn detach_from_session(&mut self, index: u32) {
        let request = self.requests.get(index);
        if request.seq == 0 {
            return;
        }
        self.leave_lane(index);
        let request = self.requests.get_mut(index);
        if request.refused_unexecuted && request.owner != Owner::Nobody {
            request.attempts = 0;
            request.seq = 0;
            request.refused_unexecuted = false;
            return;
        }
        let request = self.take_out(index);
        self.stats.requests_failed += 1;
        let error = respond::error_bytes(respond::OUTCOME_UNKNOWN);
        self.deliver(&request, AnswerStatus::Reply, &error);
    }
}

fn words<const N: usize>(mut payload: &[u8]) -> Result<[u64; N], FrameError> {
    if payload.len() < N * 8 {
        return Err(FrameError::Short);
    }
    Ok(std::array::from_fn(|_| payload.get_u64_le()))
}

/// The read operation that a plain command travels as.
pub(crate) const READ_COMMAND: Kind = Kind::Read(ReadOp::Command);
/// The write operation that a plain command travels as.
pub(crate) const WRITE_COMMAND: Kind = Kind::Write(RecordOp::Command);
