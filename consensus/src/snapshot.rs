//! Snapshots and checkpoints. A Raft snapshot message carries only index, term, membership and
//! where to pull from; the shell pulls the checkpoint itself, and raft hears of the snapshot only
//! when the checkpoint is durable on this replica's disk. So there is no half installed state.

use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::ids::{LogIndex, RaftId, Term};
use holdfast_proto::v1;
use raft::eraftpb::{Message, MessageType};
use raft::{INVALID_ID, ProgressState, SnapshotStatus, StateRole, Storage};

use crate::config::Bug;
use crate::convert::membership_to_wire;
use crate::error::{InstallError, StepError};
use crate::output::SnapshotToInstall;
use crate::replica::Replica;
use crate::state::CheckpointMeta;

/// A live follower may hold back truncation until the log is this many times `log_tail_bytes`.
const LAG_FACTOR: u64 = 4;

/// A snapshot offered by a leader, kept until its checkpoint is on disk.
#[derive(Debug)]
pub(crate) struct Incoming {
    message: Message,
    on_disk: bool,
}

impl Incoming {
    fn place(&self) -> (u64, u64) {
        let meta = self.message.get_snapshot().get_metadata();
        (meta.index, meta.term)
    }
}

impl Replica {
    pub(crate) fn step_snapshot(
        &mut self,
        now: Duration,
        message: Message,
    ) -> Result<(), StepError> {
        let meta = message.get_snapshot().get_metadata();
        let members = membership_to_wire(meta.get_conf_state());
        let own = self.cfg.raft_id.0;
        if meta.index == 0 || meta.term == 0 || members.voters.is_empty() {
            return Err(StepError::Invalid("empty snapshot"));
        }
        let lists = [&members.voters, &members.learners, &members.voters_outgoing];
        if lists.iter().all(|list| !list.contains(&own)) {
            return Err(StepError::Invalid("snapshot without this replica"));
        }
        if message.term < self.raw.raft.term {
            return Ok(());
        }
        self.step_raft(heartbeat_of(&message))?;
        self.note_leader(now, MessageType::MsgSnapshot, message.from, message.term);
        let log = &self.raw.raft.raft_log;
        if meta.index <= log.committed || log.match_term(meta.index, meta.term) {
            // Nothing to install: raft acknowledges it.
            self.step_raft(message)?;
        } else if self.incoming.is_none() {
            self.out.install = Some(SnapshotToInstall {
                meta: CheckpointMeta {
                    index: LogIndex(meta.index),
                    term: Term(meta.term),
                    membership: members,
                },
                from: RaftId(message.from),
                data: message.get_snapshot().data.clone(),
            });
            self.incoming =
                Some(Incoming { message, on_disk: self.cfg.has(Bug::SnapshotBeforeDisk) });
        }
        self.after_step();
        Ok(())
    }

    /// The checkpoint named in `Outputs::install` is durable on disk. `Outputs::restored` follows
    /// once the log says so as well; only then may the executor load it.
    pub fn install_snapshot(
        &mut self,
        _now: Duration,
        index: LogIndex,
    ) -> Result<(), InstallError> {
        match &mut self.incoming {
            Some(incoming) if incoming.place().0 == index.0 => incoming.on_disk = true,
            _ => return Err(InstallError::NotAwaited(index)),
        }
        self.retry_install();
        self.after_step();
        Ok(())
    }

    /// The checkpoint named in `Outputs::install` could not be pulled. The leader will offer one
    /// again.
    pub fn install_failed(&mut self, _now: Duration, index: LogIndex) {
        self.incoming.take_if(|incoming| incoming.place().0 == index.0);
    }

    /// Raft takes a snapshot only from the leader of its current term. What is on disk consists of
    /// committed entries, so it is valid under any later leader.
    pub(crate) fn retry_install(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Follower || raft.leader_id == INVALID_ID {
            return;
        }
        let (term, leader) = (raft.term, raft.leader_id);
        if let Some(mut incoming) = self.incoming.take_if(|incoming| incoming.on_disk) {
            incoming.message.term = term;
            incoming.message.from = leader;
            let _ = self.step_raft(incoming.message);
        }
    }

    /// What a checkpoint of the state at `index` must record; `index` was reported as applied and is
    /// not before the last checkpoint.
    pub fn checkpoint_meta(&self, index: LogIndex) -> Result<CheckpointMeta, InstallError> {
        let oldest = self.raw.store().checkpoint().index;
        if index < oldest || index.0 > self.applied {
            return Err(InstallError::OutOfRange(index));
        }
        let term = self.raw.store().term(index.0).map_err(|_| InstallError::OutOfRange(index))?;
        Ok(CheckpointMeta { index, term: Term(term), membership: self.membership_at(index.0) })
    }

    pub(crate) fn membership_at(&self, index: u64) -> v1::Membership {
        let place = self.memberships.partition_point(|m| m.0 <= index);
        let place = place.saturating_sub(1);
        self.memberships.get(place).map(|m| m.1.clone()).unwrap_or_default()
    }

    /// The checkpoint at `index` is durable on disk. The log records it and drops what no live
    /// follower needs, but keeps `cfg.log_tail_bytes`. `Outputs::checkpoint_recorded` says when
    /// older checkpoints may be deleted: after a restart the recorded one is loaded.
    pub fn checkpoint_taken(
        &mut self,
        _now: Duration,
        index: LogIndex,
    ) -> Result<(), InstallError> {
        let meta = self.checkpoint_meta(index)?;
        if self.raw.store().checkpoint().index == index {
            // Recorded, or being recorded: not for us to say that it is durable.
            return Ok(());
        }
        self.pump();
        let place = self.memberships.partition_point(|m| m.0 <= index.0);
        self.memberships.drain(..place.saturating_sub(1));
        self.raw.mut_store().set_checkpoint(meta.clone());
        let mut write = self.new_write();
        write.checkpoint = Some(meta);
        write.sync = true;
        let to = self.truncation_bound();
        if to > self.raw.store().truncated().0.0
            && let Ok(truncated) = self.raw.mut_store().truncate(to)
        {
            write.truncate = Some(truncated);
        }
        write.hard_state = Some(self.hard_state());
        self.push_write(write, 0, Vec::new(), None);
        if self.cfg.has(Bug::CheckpointBeforeRecord) {
            self.out.checkpoint_recorded = Some(index);
        }
        Ok(())
    }

    fn truncation_bound(&self) -> u64 {
        let store = self.raw.store();
        let tail = self.cfg.log_tail_bytes;
        let mut needed = u64::MAX;
        if self.raw.raft.state == StateRole::Leader {
            for (id, pr) in self.raw.raft.prs().iter() {
                if pr.state == ProgressState::Snapshot {
                    needed = needed.min(pr.pending_snapshot);
                } else if pr.recent_active && *id != self.cfg.raft_id.0 {
                    needed = needed.min(pr.matched);
                }
            }
        }
        store
            .checkpoint()
            .index
            .0
            .min(store.tail_start(tail))
            .min(needed.max(store.tail_start(tail.saturating_mul(LAG_FACTOR))))
    }

    /// What followers are told when they need a snapshot: where to pull the checkpoint from. Opaque
    /// here; comes out at the other end in `SnapshotToInstall::data`.
    pub fn set_snapshot_data(&mut self, data: Bytes) {
        self.raw.mut_store().set_snapshot_data(data);
    }

    /// A follower's pull of a checkpoint ended. Without this the leader offers a snapshot again
    /// after `cfg.snapshot_retry`.
    pub fn report_snapshot(&mut self, id: RaftId, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.snapshots_sent.retain(|(to, _)| *to != id.0);
        self.raw.report_snapshot(id.0, status);
        self.after_step();
    }

    pub(crate) fn note_snapshot_sent(&mut self, now: Duration, to: u64) {
        self.snapshots_sent.retain(|(id, _)| *id != to);
        self.snapshots_sent.push((to, now));
    }

    pub(crate) fn retry_snapshots(&mut self, now: Duration) {
        let due = now.saturating_sub(self.cfg.snapshot_retry);
        let mut failed = Vec::new();
        self.snapshots_sent.retain(|(to, since)| {
            if *since <= due {
                failed.push(*to);
            }
            *since > due
        });
        for to in failed {
            let stuck =
                self.raw.raft.prs().get(to).is_some_and(|pr| pr.state == ProgressState::Snapshot);
            if stuck {
                self.raw.report_snapshot(to, SnapshotStatus::Failure);
            }
        }
    }
}

/// Being offered a snapshot is hearing the leader, also while the checkpoint is being pulled.
fn heartbeat_of(snapshot: &Message) -> Message {
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    heartbeat.to = snapshot.to;
    heartbeat.from = snapshot.from;
    heartbeat.term = snapshot.term;
    heartbeat
}
