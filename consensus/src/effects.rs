//! From raft's `Ready` to [`Outputs`](crate::Outputs): what is written, what may be sent when, and
//! what is handed to the executor.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_proto::bugs;
use holdfast_proto::ids::{LogIndex, RaftId, ShardId, Term};
use raft::eraftpb::{EntryType, Message, MessageType};
use raft::{INVALID_ID, Ready, StateRole};

use crate::config::Bug;
use crate::convert::{decode_change, membership_to_wire, message_to_wire};
use crate::log::LogWrite;
use crate::output::{Committed, EntryKind};
use crate::replica::Replica;
use crate::state::{CheckpointMeta, Entry, HardState};

/// A write that the log has not reported as done.
#[derive(Debug)]
pub(crate) struct InFlight {
    number: u64,
    /// Raft's number of the last `Ready` that it covers; 0: none.
    ready: u64,
    hard_state: HardState,
    /// Messages that promise what this write stores.
    messages: Vec<Message>,
    restored: Option<CheckpointMeta>,
    checkpoint: Option<LogIndex>,
    sync: bool,
    since: Option<Duration>,
}

impl InFlight {
    /// When the write was handed out.
    pub(crate) fn since(&self, now: Duration) -> Duration {
        self.since.unwrap_or(now)
    }

    pub(crate) fn issued(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }
}

impl Replica {
    /// Takes everything out of raft.
    pub(crate) fn pump(&mut self) {
        loop {
            self.observe();
            while self.raw.has_ready() && !self.is_stopped() {
                self.take_ready();
                self.observe();
            }
            if self.raw.store().take_snapshot_wanted() {
                self.out.checkpoint_wanted = true;
            }
            if !self.hand_over() {
                break;
            }
        }
        let stored = self.raw.raft.raft_log.persisted.min(self.handed_over);
        let limit = self.cfg.cache_bytes as u64;
        self.raw.mut_store().evict(stored, limit);
        self.after_step();
    }

    fn take_ready(&mut self) {
        let mut ready = self.raw.ready();
        for state in ready.take_read_states() {
            self.rounds.confirmed(
                &state.request_ctx,
                state.index,
                Term(self.raw.raft.term),
                self.cfg.raft_id,
                self.cfg.lease,
                &mut self.out.reads,
            );
        }
        for message in ready.take_messages() {
            self.send(message);
        }
        let promises = ready.take_persisted_messages();
        self.check_hard_state(&ready);
        self.backlog.extend(ready.take_committed_entries());
        let writes = !ready.entries().is_empty() || !ready.snapshot().is_empty();
        if writes || ready.must_sync() {
            self.write_ready(&mut ready, promises);
            self.raw.advance_append_async(ready);
            return;
        }
        let number = ready.number();
        self.raw.advance_append_async(ready);
        let (now, later) = self.split_promises(promises);
        for message in now {
            self.send(message);
        }
        match self.in_flight.back_mut() {
            // What these messages promise may be in a write that is still outstanding.
            Some(last) => {
                last.ready = number;
                last.messages.extend(later);
            }
            None => {
                debug_assert!(later.is_empty());
                self.raw.on_persist_ready(number);
            }
        }
    }

    /// Without writes outstanding nothing needs to wait. With some, an answer to a heartbeat still
    /// need not: it promises no more than the term, and must not queue behind a slow disk.
    fn split_promises(&self, promises: Vec<Message>) -> (Vec<Message>, Vec<Message>) {
        if self.in_flight.is_empty() || self.cfg.has(Bug::PromiseBeforePersisted) {
            return (promises, Vec::new());
        }
        let term = self.durable.term.0;
        promises
            .into_iter()
            .partition(|m| m.get_msg_type() == MessageType::MsgHeartbeatResponse && m.term == term)
    }

    fn write_ready(&mut self, ready: &mut Ready, promises: Vec<Message>) {
        let mut write = self.new_write();
        write.sync = ready
            .hs()
            .is_some_and(|hs| hs.term != self.written.term.0 || hs.vote != self.written.vote.0);
        let mut restored = None;
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().get_metadata();
            let meta = CheckpointMeta {
                index: LogIndex(snapshot.index),
                term: Term(snapshot.term),
                membership: membership_to_wire(snapshot.get_conf_state()),
            };
            // Entries that were committed before are part of the snapshot.
            self.backlog.clear();
            self.raw.mut_store().reset(meta.clone());
            self.memberships = VecDeque::from([(meta.index.0, meta.membership.clone())]);
            write.reset = Some(meta.clone());
            write.sync = true;
            restored = Some(meta);
        }
        write.entries = ready.take_entries();
        self.raw.mut_store().append(&write.entries);
        write.hard_state = Some(self.hard_state());
        let early = write.entries.is_empty() && !write.sync;
        let (now, later) = if early || self.cfg.has(Bug::PromiseBeforePersisted) {
            self.split_promises(promises)
        } else {
            (Vec::new(), promises)
        };
        for message in now {
            self.send(message);
        }
        self.push_write(write, ready.number(), later, restored);
    }

    pub(crate) fn new_write(&mut self) -> LogWrite {
        self.write_number += 1;
        LogWrite {
            shard: self.cfg.shard,
            raft_id: self.cfg.raft_id,
            number: self.write_number,
            ..Default::default()
        }
    }

    pub(crate) fn push_write(
        &mut self,
        write: LogWrite,
        ready: u64,
        messages: Vec<Message>,
        restored: Option<CheckpointMeta>,
    ) {
        if let Some(hard_state) = write.hard_state {
            self.written = hard_state;
        }
        self.in_flight.push_back(InFlight {
            number: write.number,
            ready,
            hard_state: self.written,
            messages,
            restored,
            checkpoint: write.checkpoint.as_ref().map(|c| c.index),
            sync: write.sync,
            since: None,
        });
        self.out.writes.push(write);
    }

    /// The first write of a replica: its identity and starting point.
    pub(crate) fn write_initial(&mut self, checkpoint: CheckpointMeta, hard_state: HardState) {
        let mut write = self.new_write();
        write.reset = Some(checkpoint);
        write.hard_state = Some(hard_state);
        write.sync = true;
        self.push_write(write, 0, Vec::new(), None);
    }

    /// Stores the commit index if it moved since the last write; only to have less to replay.
    pub(crate) fn flush_commit(&mut self) {
        let current = self.hard_state();
        if self.in_flight.is_empty() && current != self.written && !self.raw.has_ready() {
            let mut write = self.new_write();
            write.hard_state = Some(current);
            self.push_write(write, 0, Vec::new(), None);
        }
    }

    pub(crate) fn on_persisted(&mut self, number: u64) {
        assert!(
            number <= self.write_number,
            "write {number} was never issued, the last is {}",
            self.write_number
        );
        while self.in_flight.front().is_some_and(|w| w.number <= number) {
            let write = self.in_flight.pop_front().expect("checked to be there");
            self.durable = write.hard_state;
            if write.sync {
                self.synced_commit = write.hard_state.commit;
            }
            if write.ready != 0 {
                self.raw.on_persist_ready(write.ready);
            }
            for message in write.messages {
                self.send(message);
            }
            if let Some(meta) = write.restored {
                self.handed_over = meta.index.0;
                self.raw.advance_apply_to(meta.index.0);
                // The executor drops what was handed over before and loads the checkpoint.
                self.out.committed.clear();
                self.out.checkpoint_recorded = Some(meta.index);
                self.out.membership = Some((meta.index, meta.membership.clone()));
                self.out.restored = Some(meta);
            }
            if let Some(index) = write.checkpoint {
                self.out.checkpoint_recorded = Some(index);
            }
        }
    }

    /// Hands committed entries over, up to a membership change whose commit is not durable: after a
    /// restart this replica must not count votes by an older membership than it acted on before.
    /// True if a membership changed, so that raft may have something new.
    fn hand_over(&mut self) -> bool {
        let mut changed = false;
        while let Some(entry) = self.backlog.front() {
            let is_change = entry.get_entry_type() != EntryType::EntryNormal;
            if is_change && self.synced_commit.0 < entry.index {
                let index = entry.index;
                self.sync_commit(index);
                break;
            }
            let entry = self.backlog.pop_front().expect("checked to be there");
            assert_eq!(entry.index, self.handed_over + 1, "gap in the committed");
            self.handed_over = entry.index;
            let kind = if is_change {
                self.apply_membership(&entry);
                changed = true;
                EntryKind::Membership
            } else if entry.data.is_empty() {
                EntryKind::Empty
            } else {
                EntryKind::Normal
            };
            if is_change {
                self.raw.advance_apply_to(self.handed_over);
            }
            self.out.committed.push(Committed {
                index: LogIndex(entry.index),
                term: Term(entry.term),
                kind,
                data: if is_change { Default::default() } else { entry.data },
            });
        }
        if self.raw.raft.raft_log.applied < self.handed_over {
            // Raft's own "applied" only guards membership changes, which are applied here.
            self.raw.advance_apply_to(self.handed_over);
        }
        changed
    }

    /// Makes sure that a synced write covers the commit of `index`.
    fn sync_commit(&mut self, index: u64) {
        let covers = |w: &InFlight| w.sync && w.hard_state.commit.0 >= index;
        if self.in_flight.iter().any(covers) {
            return;
        }
        let mut write = self.new_write();
        write.hard_state = Some(self.hard_state());
        write.sync = true;
        self.push_write(write, 0, Vec::new(), None);
    }

    fn apply_membership(&mut self, entry: &Entry) {
        let Some(change) = decode_change(&entry.data) else {
            tracing::error!(shard = %self.cfg.shard, index = entry.index, "unreadable membership entry, ignored");
            return;
        };
        match self.raw.apply_conf_change(&change) {
            Ok(state) => {
                let membership = membership_to_wire(&state);
                tracing::info!(shard = %self.cfg.shard, index = entry.index, voters = ?membership.voters, learners = ?membership.learners, "membership changed");
                self.memberships.push_back((entry.index, membership.clone()));
                self.out.membership = Some((LogIndex(entry.index), membership));
                self.step_down_if_removed();
            }
            // The same on every replica: the change is a no-op.
            Err(error) => {
                tracing::warn!(shard = %self.cfg.shard, index = entry.index, %error, "membership entry has no effect");
            }
        }
    }

    /// Raft lets a removed leader go on: it would refuse every proposal while its heartbeats keep the
    /// others loyal, and it would panic at its next commit. A change does not remove its own leader,
    /// but a hand-over can make a leader of a replica whose removal is on its way.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.raw.raft;
        let stays = raft.promotable() || self.cfg.has(Bug::LeadAfterRemoval);
        if raft.state != StateRole::Leader || stays {
            return;
        }
        let prs = raft.prs();
        let voters = prs.iter().filter(|(id, _)| prs.conf().voters().contains(**id));
        let best = voters.max_by_key(|(id, pr)| (pr.matched, **id));
        if let Some((to, _)) = best {
            let to = *to;
            raft.send_timeout_now(to);
        }
        let term = raft.term;
        raft.become_follower(term, INVALID_ID);
        self.observe();
    }

    fn send(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.note_snapshot_sent(self.last_tick, message.to);
        }
        self.out.messages.push(message_to_wire(message));
    }

    pub(crate) fn hard_state(&self) -> HardState {
        let raft = &self.raw.raft;
        HardState {
            term: Term(raft.term),
            vote: if bugs::active(bugs::Bug::VoteNotStored) {
                RaftId(0)
            } else {
                RaftId(raft.vote)
            },
            commit: LogIndex(raft.raft_log.committed),
        }
    }

    fn check_hard_state(&self, ready: &Ready) {
        let Some(hs) = ready.hs() else { return };
        let before = self.written;
        assert!(hs.term >= before.term.0, "term went back");
        assert!(hs.commit >= before.commit.0, "commit index went back");
        assert!(
            hs.term > before.term.0 || before.vote.0 == 0 || hs.vote == before.vote.0,
            "second vote in {}",
            before.term
        );
    }
}

/// Raft's own log lines, warnings and errors as such, its many infos at debug.
pub(crate) fn logger(shard: ShardId) -> slog::Logger {
    slog::Logger::root(TracingDrain(shard), slog::o!())
}

struct TracingDrain(ShardId);

impl slog::Drain for TracingDrain {
    type Ok = ();
    type Err = slog::Never;

    fn log(
        &self,
        record: &slog::Record<'_>,
        _values: &slog::OwnedKVList,
    ) -> Result<(), slog::Never> {
        match record.level() {
            slog::Level::Critical | slog::Level::Error => {
                tracing::error!(shard = %self.0, "{}", record.msg());
            }
            slog::Level::Warning => tracing::warn!(shard = %self.0, "{}", record.msg()),
            slog::Level::Info => tracing::debug!(shard = %self.0, "{}", record.msg()),
            slog::Level::Debug | slog::Level::Trace => {}
        }
        Ok(())
    }

    fn is_enabled(&self, level: slog::Level) -> bool {
        level <= slog::Level::Info
    }
}
