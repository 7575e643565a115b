//! The core: one replica, driven by its shell.
//!
//! The shell calls the verbs (`tick`, `step`, `propose`, …) with the monotonic time, then
//! [`Replica::ready`] once per turn and does what [`Outputs`] says. Nothing here blocks, except
//! that entries which a lagging follower needs are read through [`LogReader`].
//!
//! **Time.** `now` must have been read *after* the message was taken from its queue and *before*
//! anything in the outputs is sent. With an older `now` for a received heartbeat, the promise not
//! to vote would end before the lease that the heartbeat's answer confirms.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::bugs;
use holdfast_proto::ids::{LogIndex, RaftId, Term};
use holdfast_proto::v1;
use raft::eraftpb::{ConfChangeV2, EntryType, Message, MessageType};
use raft::{INVALID_ID, ProgressState, RawNode, StateRole};

use crate::config::{Bug, ReplicaConfig};
use crate::convert::{membership_to_wire, message_from_wire};
use crate::effects::InFlight;
use crate::error::{
    CampaignError, ChangeError, ForgetError, OpenError, ProposeError, StepError, TransferError,
};
use crate::lease::Rounds;
use crate::log::LogReader;
use crate::membership::{self, MembershipChange};
use crate::output::{Outputs, Role, RoleChange};
use crate::snapshot::Incoming;
use crate::state::{Entry, HardState, StoredState};
use crate::storage::GroupStorage;

/// A hand-over waits until the target misses at most this many entries.
const TRANSFER_LAG_MAX: u64 = 1024;

/// Ticks between the campaigns of the first voter of a new group.
const FOUNDING_TICKS: u32 = 3;

/// One member of one Raft group.
pub struct Replica {
    pub(crate) cfg: ReplicaConfig,
    pub(crate) raw: RawNode<GroupStorage>,
    rng: u64,
    /// Gathered until the next `ready`.
    pub(crate) out: Outputs,

    pub(crate) last_tick: Duration,
    pub(crate) lease_wanted: bool,
    /// When the current leader was last heard, or the start; `None` in the first run of a replica.
    heard_leader: Option<Duration>,
    pub(crate) seen: RoleChange,
    /// The leader of `seen.term`, once known. Two different ones would be a broken election.
    leader_of_term: RaftId,
    /// The election timeout in force, in ticks.
    election_timeout: usize,

    /// First entry of this leader's own term.
    term_start: u64,
    serving: bool,
    transfer: Option<Transfer>,
    pub(crate) rounds: Rounds,

    pub(crate) write_number: u64,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// The hard state that is stored.
    pub(crate) durable: HardState,
    /// The commit index that is synced, whatever the persistence mode.
    pub(crate) synced_commit: LogIndex,
    /// The hard state in the newest write.
    pub(crate) written: HardState,

    /// Committed entries not handed over yet: a membership change waits until its commit is durable.
    pub(crate) backlog: VecDeque<Entry>,
    /// Last entry handed to the executor.
    pub(crate) handed_over: u64,
    /// Last entry that the executor reported as applied; `applied <= handed_over`.
    pub(crate) applied: u64,
    /// Memberships by the index from which they hold, ascending; the first one holds at the
    /// recorded checkpoint.
    pub(crate) memberships: VecDeque<(u64, v1::Membership)>,

    /// Ticks until this replica, the first voter of a group that was just founded, campaigns
    /// again. `None`: it is not, or there was a leader.
    founding_campaign: Option<u32>,

    /// The leader's order to take over, waiting for writes.
    hand_over_order: Option<Message>,

    pub(crate) incoming: Option<Incoming>,
    /// Followers being sent a snapshot, and since when.
    pub(crate) snapshots_sent: Vec<(u64, Duration)>,
    stopped: bool,
}

#[derive(Debug)]
struct Transfer {
    to: RaftId,
    abort_at: Duration,
}

/// What a leader knows of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    pub raft_id: RaftId,
    /// The last entry known to be stored there.
    pub matched: LogIndex,
    /// Heard since the last check of the quorum (about one election timeout).
    pub active: bool,
    /// Being sent a snapshot.
    pub snapshot: bool,
    pub voter: bool,
}

impl Replica {
    /// A replica over what is stored of it; `None` starts a founding member or a joining replica,
    /// whose first output is a synced write. `cfg.start` is `now`.
    pub fn new(
        cfg: ReplicaConfig,
        stored: Option<StoredState>,
        reader: Box<dyn LogReader>,
    ) -> Result<Self, OpenError> {
        check_config(&cfg)?;
        let fresh = stored.is_none();
        let stored = match stored {
            Some(stored) => stored,
            None if cfg.founding_voters.is_empty() => StoredState::joining(cfg.raft_id),
            None => StoredState::founding(cfg.raft_id, &cfg.founding_voters),
        };
        check_stored(&cfg, &stored)?;
        let mut hard_state = stored.hard_state;
        // The stored commit index lags; a checkpoint is made of committed entries.
        hard_state.commit = hard_state.commit.max(stored.checkpoint.index);
        let storage = GroupStorage::new(cfg.shard, &stored, hard_state, reader);
        let checkpoint = stored.checkpoint;
        let raw = RawNode::new(
            &cfg.raft_config(checkpoint.index.0),
            storage,
            &crate::effects::logger(cfg.shard),
        )?;
        let mut replica = Self {
            rng: cfg.seed ^ cfg.raft_id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            out: Outputs::default(),
            last_tick: cfg.start,
            lease_wanted: true,
            heard_leader: Some(cfg.start),
            seen: RoleChange { term: hard_state.term, ..Default::default() },
            leader_of_term: RaftId(0),
            election_timeout: 0,
            term_start: u64::MAX,
            serving: false,
            transfer: None,
            rounds: Rounds::default(),
            // Grows from one incarnation to the next of the same process: a late report of a write
            // of the former one is then no report of ours.
            write_number: cfg.start.as_micros() as u64,
            in_flight: VecDeque::new(),
            durable: hard_state,
            synced_commit: checkpoint.index,
            written: hard_state,
            backlog: VecDeque::new(),
            handed_over: checkpoint.index.0,
            applied: checkpoint.index.0,
            memberships: VecDeque::from([(checkpoint.index.0, checkpoint.membership.clone())]),
            founding_campaign: None,
            hand_over_order: None,
            incoming: None,
            snapshots_sent: Vec::new(),
            stopped: false,
            raw,
            cfg,
        };
        replica.draw_election_timeout();
        if fresh {
            let first = replica.cfg.founding_voters.iter().min();
            replica.founding_campaign = (first == Some(&replica.cfg.raft_id)).then_some(0);
            // It never ran before, so it confirmed no lease.
            replica.heard_leader = None;
            replica.write_initial(checkpoint, hard_state);
        }
        replica.after_step();
        Ok(replica)
    }

    /// Periodic work, every `cfg.tick`. A tick that comes too early is ignored, so that a process
    /// that was paused does not run the ticks it missed in a burst and start an election at once.
    pub fn tick(&mut self, now: Duration) {
        let early = now < self.last_tick + self.cfg.tick / 2;
        if self.stopped || (early && !bugs::active(bugs::Bug::TickBurst)) {
            return;
        }
        self.last_tick = now;
        // Raft's tick may campaign: nothing that was stepped before may still be unprocessed.
        self.pump();
        let elapsed = self.raw.raft.election_elapsed;
        let leads = self.raw.raft.state == StateRole::Leader;
        let may_campaign = self.may_campaign(now).is_ok();
        if leads || may_campaign || elapsed + 1 < self.election_timeout {
            self.raw.tick();
            if self.raw.raft.election_elapsed < elapsed {
                self.draw_election_timeout();
            }
        }
        let alone = self.raw.raft.state == StateRole::Follower && self.is_alone();
        if may_campaign && !leads && (alone || self.founding_campaign_due()) {
            let _ = self.raw.campaign();
        }
        self.after_step();
        if self.raw.raft.state == StateRole::Leader {
            self.tick_leader(now);
        }
        self.retry_install();
        self.flush_commit();
        self.after_step();
    }

    /// A group that was just founded need not wait for an election timeout: its first voter asks
    /// again and again. Being a pre-vote that disturbs nobody.
    fn founding_campaign_due(&mut self) -> bool {
        let raft = &self.raw.raft;
        if raft.leader_id != INVALID_ID || raft.term != StoredState::GENESIS_TERM.0 {
            self.founding_campaign = None;
        }
        let Some(ticks) = &mut self.founding_campaign else {
            return false;
        };
        let due = *ticks == 0;
        *ticks = if due { FOUNDING_TICKS } else { *ticks - 1 };
        due
    }

    fn tick_leader(&mut self, now: Duration) {
        if let Some(transfer) = &self.transfer
            && now >= transfer.abort_at
        {
            tracing::info!(shard = %self.cfg.shard, to = %transfer.to, "hand-over timed out");
            self.raw.raft.abort_leader_transfer();
            self.transfer = None;
        }
        let due = self.lease_wanted && now >= self.rounds.last_sent() + self.cfg.lease_renewal;
        if self.transfer.is_none() && due {
            self.start_round(now);
        }
        self.retry_snapshots(now);
        self.leave_joint();
        let stalled =
            self.in_flight.front().is_some_and(|w| now >= w.since(now) + self.cfg.disk_stall);
        if stalled && self.transfer.is_none() {
            self.flee_stalled_disk(now);
        }
    }

    /// A stalled log stops a leader from applying what the majority has stored (raft 0.7 applies
    /// only what is persisted locally), so it hands leadership away. That works without its disk.
    fn flee_stalled_disk(&mut self, now: Duration) {
        let best = self
            .progress()
            .into_iter()
            .filter(|p| p.raft_id != self.cfg.raft_id && p.voter && p.active && !p.snapshot)
            .max_by_key(|p| p.matched);
        if let Some(best) = best {
            tracing::warn!(shard = %self.cfg.shard, to = %best.raft_id, "log write stalls, handing leadership over");
            let _ = self.transfer_leader(now, best.raft_id);
        }
    }

    /// A message from another member. Errors other than [`StepError::Amnesia`] mean that it was
    /// dropped and need no action.
    pub fn step(&mut self, now: Duration, message: v1::RaftMessage) -> Result<(), StepError> {
        if self.stopped {
            return Err(StepError::Stopped);
        }
        let message = message_from_wire(message)?;
        if message.to != self.cfg.raft_id.0 {
            return Err(StepError::Invalid("for another replica"));
        }
        if message.from == INVALID_ID || message.from == self.cfg.raft_id.0 || message.term == 0 {
            return Err(StepError::Invalid("no sender or no term"));
        }
        let (kind, from, term) = (message.get_msg_type(), message.from, message.term);
        match kind {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                if !self.may_vote(now, &message) {
                    return Ok(());
                }
            }
            MessageType::MsgHeartbeat => self.check_not_amnesiac(&message)?,
            MessageType::MsgAppendResponse
                if message.index > self.raw.raft.raft_log.last_index() =>
            {
                return Err(StepError::Invalid("acknowledges what was never sent"));
            }
            // A campaign with writes outstanding could win before they are persisted.
            MessageType::MsgTimeoutNow if !self.in_flight.is_empty() => {
                self.hand_over_order = Some(message);
                return Ok(());
            }
            MessageType::MsgAppend
            | MessageType::MsgAppendResponse
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTimeoutNow => {}
            MessageType::MsgSnapshot => return self.step_snapshot(now, message),
            // Local kinds, and those by which followers would forward proposals and reads.
            _ => return Err(StepError::Invalid("not accepted from the network")),
        }
        if kind == MessageType::MsgTimeoutNow {
            self.pump();
        }
        self.step_raft(message)?;
        self.note_leader(now, kind, from, term);
        self.after_step();
        Ok(())
    }

    pub(crate) fn step_raft(&mut self, message: Message) -> Result<(), StepError> {
        let from = RaftId(message.from);
        match self.raw.step(message) {
            Ok(()) => Ok(()),
            Err(raft::Error::StepPeerNotFound) => Err(StepError::UnknownPeer(from)),
            Err(_) => Err(StepError::Invalid("refused by raft")),
        }
    }

    pub(crate) fn note_leader(&mut self, now: Duration, kind: MessageType, from: u64, term: u64) {
        let leads = matches!(
            kind,
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if leads && term == self.raw.raft.term && self.raw.raft.leader_id == from {
            self.heard_leader = self.heard_leader.max(Some(now));
        }
    }

    /// Raft would abort the process when a leader commits beyond our log. It can only happen if we
    /// lost entries that we had acknowledged.
    fn check_not_amnesiac(&mut self, heartbeat: &Message) -> Result<(), StepError> {
        let last = self.raw.raft.raft_log.last_index();
        if heartbeat.term < self.raw.raft.term || heartbeat.commit <= last {
            return Ok(());
        }
        self.stopped = true;
        Err(StepError::Amnesia { commit: LogIndex(heartbeat.commit), last: LogIndex(last) })
    }

    /// Until the vote refusal window closes, a leader may hold a lease that this replica confirmed.
    /// The only exception is the election of a planned hand-over: its leader gave the lease up for
    /// the rest of its term before it began.
    fn may_vote(&self, now: Duration, request: &Message) -> bool {
        let hand_over = request.get_msg_type() == MessageType::MsgRequestVote
            && request.context == raft::CAMPAIGN_TRANSFER;
        hand_over || self.vote_refused_for(now).is_none()
    }

    /// How much longer votes are refused.
    fn vote_refused_for(&self, now: Duration) -> Option<Duration> {
        let until = self.heard_leader? + self.cfg.vote_refusal();
        (now < until && !self.cfg.has(Bug::NoVoteRefusal)).then(|| until - now)
    }

    fn may_campaign(&self, now: Duration) -> Result<(), CampaignError> {
        if self.stopped {
            return Err(CampaignError::Stopped);
        }
        if !self.raw.raft.promotable() {
            return Err(CampaignError::NotVoter);
        }
        if let Some(retry_after) = self.vote_refused_for(now)
            && !self.is_alone()
        {
            return Err(CampaignError::Veto { retry_after });
        }
        // Raft asserts that a winner's log is persisted, and a disk that stalls should not lead.
        if !self.in_flight.is_empty() {
            return Err(CampaignError::WritesOutstanding);
        }
        Ok(())
    }

    fn is_alone(&self) -> bool {
        self.raw.raft.promotable() && self.raw.raft.prs().is_singleton()
    }

    /// Appends `data` (not empty) to the log if this replica leads: its place. Committed and applied
    /// only if that very (term, index) appears in `Outputs::committed`.
    pub fn propose(
        &mut self,
        _now: Duration,
        data: Bytes,
    ) -> Result<(Term, LogIndex), ProposeError> {
        assert!(!data.is_empty(), "an entry without data is a term's first");
        self.check_leads()?;
        let mut entry = Entry::default();
        entry.data = data;
        self.propose_entry(entry)
    }

    fn check_leads(&self) -> Result<(), ProposeError> {
        if self.stopped || self.raw.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader { term: self.seen.term, leader: self.seen.leader });
        }
        if let Some(to) = self.raw.raft.lead_transferee {
            return Err(ProposeError::Transferring { to: RaftId(to) });
        }
        Ok(())
    }

    fn propose_entry(&mut self, entry: Entry) -> Result<(Term, LogIndex), ProposeError> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.cfg.raft_id.0;
        message.set_entries(vec![entry].into());
        match self.raw.raft.step(message) {
            Ok(()) => Ok((Term(self.raw.raft.term), LogIndex(self.raw.raft.raft_log.last_index()))),
            Err(_) => Err(ProposeError::Busy),
        }
    }

    /// Asks for a point from which a read is linearizable: `token` comes back in `Outputs::reads`
    /// from a ReadIndex round sent after this call, or in `reads_failed`. Leader only.
    pub fn request_read(&mut self, _now: Duration, token: u64) {
        if self.stopped || self.raw.raft.state != StateRole::Leader {
            self.out.reads_failed.push(token);
        } else if self.cfg.has(Bug::ReadWithoutRound) {
            let commit = self.raw.raft.raft_log.committed;
            self.out.reads.push((token, LogIndex(commit)));
        } else {
            self.rounds.wait(token);
        }
    }

    /// Local reads are linearizable while `now` is before this. `None` unless this replica leads,
    /// an entry of its own term is applied, and no hand-over was begun in this term.
    pub fn lease_until(&self) -> Option<Duration> {
        let handing_over = self.transfer.is_some() && !bugs::active(bugs::Bug::LeaseKeptInHandOver);
        if self.serving && !handing_over { self.rounds.lease_until() } else { None }
    }

    /// All writes up to `number` are done under the sync policy (synced if they said `sync`).
    pub fn persisted(&mut self, _now: Duration, number: u64) {
        self.on_persisted(number);
        if self.in_flight.is_empty()
            && let Some(order) = self.hand_over_order.take()
        {
            self.pump();
            // Raft ignores it if the term has passed.
            let _ = self.step_raft(order);
        }
        self.after_step();
    }

    /// The executor has applied everything handed over up to `index`.
    pub fn applied(&mut self, _now: Duration, index: LogIndex) {
        assert!(index.0 <= self.handed_over, "applied {index}, handed over {}", self.handed_over);
        self.applied = self.applied.max(index.0);
        self.update_serving();
    }

    /// Obeys the sentinels' order to forget a leader that they take for dead, so that this replica
    /// can vote before its election timeout. Refused while the leader may hold a lease.
    pub fn forget_leader(
        &mut self,
        now: Duration,
        term: Term,
        leader: RaftId,
    ) -> Result<(), ForgetError> {
        let raft = &self.raw.raft;
        if raft.state == StateRole::Leader {
            return Err(ForgetError::Leading);
        }
        let known = RaftId(raft.leader_id);
        if raft.term != term.0 || (known != leader && known.0 != INVALID_ID) {
            return Err(ForgetError::Mismatch { term: Term(raft.term), leader: known });
        }
        if let Some(retry_after) = self.vote_refused_for(now) {
            return Err(ForgetError::Veto { retry_after });
        }
        self.raw.raft.leader_id = INVALID_ID;
        self.after_step();
        Ok(())
    }

    /// Starts an election with pre-vote. Voters that still remember a leader ignore it: see
    /// [`Replica::forget_leader`].
    pub fn campaign(&mut self, now: Duration) -> Result<(), CampaignError> {
        if self.raw.raft.state == StateRole::Leader {
            return Err(CampaignError::Leading);
        }
        self.pump();
        self.may_campaign(now)?;
        let before = self.raw.raft.term;
        let _ = self.raw.campaign();
        let started = self.raw.raft.state != StateRole::Follower || self.raw.raft.term != before;
        self.raw.raft.election_elapsed = 0;
        self.draw_election_timeout();
        self.after_step();
        if started { Ok(()) } else { Err(CampaignError::MembershipPending) }
    }

    /// Hands leadership to `to`. Refuses proposals until it happened or was aborted after
    /// `cfg.transfer_timeout`; the lease ends now, and for the rest of this term.
    pub fn transfer_leader(&mut self, now: Duration, to: RaftId) -> Result<(), TransferError> {
        if self.stopped || self.raw.raft.state != StateRole::Leader {
            return Err(TransferError::NotLeader);
        }
        if to == self.cfg.raft_id {
            return Err(TransferError::Itself);
        }
        if self.transfer.is_some() {
            return Err(TransferError::InProgress);
        }
        if self.raw.raft.has_pending_conf() {
            return Err(TransferError::MembershipPending);
        }
        let target = self.progress().into_iter().find(|p| p.raft_id == to);
        let Some(target) = target.filter(|p| p.voter) else {
            return Err(TransferError::NotVoter(to));
        };
        let why = if !target.active {
            "not heard recently"
        } else if target.snapshot {
            "needs a snapshot"
        } else if target.matched.0 + TRANSFER_LAG_MAX < self.raw.raft.raft_log.last_index() {
            "too far behind"
        } else {
            ""
        };
        if !why.is_empty() {
            return Err(TransferError::NotReady { to, why });
        }
        if !bugs::active(bugs::Bug::LeaseKeptInHandOver) {
            self.rounds.bar(Term(self.raw.raft.term));
        }
        self.transfer = Some(Transfer { to, abort_at: now + self.cfg.transfer_timeout });
        self.raw.transfer_leader(to.0);
        self.after_step();
        Ok(())
    }

    /// Proposes a membership change: its place. It took effect if a membership entry is committed
    /// at that very (term, index).
    pub fn change_membership(
        &mut self,
        _now: Duration,
        change: &MembershipChange,
    ) -> Result<(Term, LogIndex), ChangeError> {
        self.check_leads().map_err(|e| match e {
            ProposeError::NotLeader { term, leader } => ChangeError::NotLeader { term, leader },
            _ => ChangeError::Busy,
        })?;
        let entry = membership::plan(&self.membership(), self.cfg.raft_id, change)?;
        self.propose_change(&entry)
    }

    fn propose_change(&mut self, change: &ConfChangeV2) -> Result<(Term, LogIndex), ChangeError> {
        if self.raw.raft.has_pending_conf() {
            return Err(ChangeError::Pending);
        }
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data =
            protobuf::Message::write_to_bytes(change).expect("a change is a few integers").into();
        let place = self.propose_entry(entry).map_err(|_| ChangeError::Busy)?;
        // Raft replaces a change it does not like by an empty entry and says nothing.
        let kept = self.raw.raft.raft_log.unstable_entries().last();
        match kept {
            Some(e) if e.get_entry_type() == EntryType::EntryConfChangeV2 => Ok(place),
            _ => Err(ChangeError::Pending),
        }
    }

    /// Raft may never leave a joint state by itself if the leader changed before the entry that
    /// enters it was applied.
    fn leave_joint(&mut self) {
        let joint = !self.membership().voters_outgoing.is_empty();
        if joint && !self.raw.raft.has_pending_conf() && self.transfer.is_none() {
            let _ = self.propose_change(&ConfChangeV2::default());
        }
    }

    /// A message to `id` was dropped or its connection broke: stop sending ahead into a hole.
    pub fn report_unreachable(&mut self, id: RaftId) {
        self.raw.report_unreachable(id.0);
        self.after_step();
    }

    /// Gathers what is to be done, at the end of `out`. Call after any of the above; cheap when
    /// there is nothing.
    pub fn ready(&mut self, now: Duration, out: &mut Outputs) {
        if self.rounds.has_waiting() && !self.stopped {
            self.start_round(now);
        }
        self.after_step();
        self.pump();
        for write in &mut self.in_flight {
            write.issued(now);
        }
        self.out.move_to(out);
    }

    /// Raft drops a round silently before the leader has committed in its term: then reads wait.
    fn start_round(&mut self, now: Duration) {
        if self.raw.raft.state == StateRole::Leader && self.raw.raft.commit_to_current_term() {
            let ctx = self.rounds.start(now, self.seen.term, self.cfg.raft_id);
            self.raw.read_index(ctx);
        }
    }

    /// Role, indexes and membership.
    pub fn status(&self) -> v1::ReplicaStatus {
        let log = &self.raw.raft.raft_log;
        v1::ReplicaStatus {
            shard: self.cfg.shard.0,
            raft_id: self.cfg.raft_id.0,
            role: v1::RaftRole::from(self.seen.role) as i32,
            term: self.raw.raft.term,
            leader_raft_id: self.raw.raft.leader_id,
            last_term: log.last_term(),
            last_index: log.last_index(),
            commit_index: log.committed,
            applied_index: self.applied,
            serving: self.serving,
            checkpoint_index: self.raw.store().checkpoint().index.0,
            membership: Some(self.membership_at(self.applied)),
            ..Default::default()
        }
    }

    /// The membership in force (as of the last entry handed over).
    pub fn membership(&self) -> v1::Membership {
        membership_to_wire(&self.raw.raft.prs().conf().to_conf_state())
    }

    /// What this leader knows of the members, itself included; empty on others.
    pub fn progress(&self) -> Vec<PeerProgress> {
        if self.raw.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let prs = self.raw.raft.prs();
        let mut all: Vec<_> = prs
            .iter()
            .map(|(id, pr)| PeerProgress {
                raft_id: RaftId(*id),
                matched: LogIndex(pr.matched),
                active: pr.recent_active || *id == self.cfg.raft_id.0,
                snapshot: pr.state == ProgressState::Snapshot,
                voter: prs.conf().voters().contains(*id),
            })
            .collect();
        all.sort_by_key(|p| p.raft_id);
        all
    }

    /// The options this replica runs with.
    pub fn config(&self) -> &ReplicaConfig {
        &self.cfg
    }

    /// Whether a leader is to keep its lease (it does from the start). Without reads nobody needs
    /// one, and the rounds that renew it are most of what an idle group costs; the first read then
    /// waits for a round.
    pub fn want_lease(&mut self, wanted: bool) {
        self.lease_wanted = wanted;
    }

    /// Role, term and known leader.
    pub fn role(&self) -> RoleChange {
        self.seen
    }

    /// Leader with an entry of its own term applied.
    pub fn is_serving(&self) -> bool {
        self.serving
    }

    /// Last entry that the executor reported as applied.
    pub fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied)
    }

    // ----- helpers of every verb ---------------------------------------------------------------

    /// After anything that may have changed raft's state: role, invariants, timeouts, effects.
    pub(crate) fn after_step(&mut self) {
        self.observe();
        // The crate draws election timeouts from the thread's generator. It reads the value only in
        // `tick`, so ours is always in force.
        let timeout = self.election_timeout;
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    pub(crate) fn observe(&mut self) {
        let raft = &self.raw.raft;
        let now = RoleChange {
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
                StateRole::Follower if raft.promotable() => Role::Follower,
                StateRole::Follower => Role::Learner,
            },
            term: Term(raft.term),
            leader: RaftId(raft.leader_id),
        };
        if now == self.seen {
            return;
        }
        assert!(now.term >= self.seen.term, "term went back");
        if now.term > self.seen.term {
            self.leader_of_term = RaftId(0);
        }
        if now.leader.0 != INVALID_ID {
            assert!(
                self.leader_of_term.0 == 0 || self.leader_of_term == now.leader,
                "two leaders in {}: {} and {}",
                now.term,
                self.leader_of_term,
                now.leader
            );
            self.leader_of_term = now.leader;
        }
        let was_leader = self.seen.role == Role::Leader;
        if was_leader && (now.role != Role::Leader || now.term != self.seen.term) {
            self.rounds.clear(&mut self.out.reads_failed);
            self.transfer = None;
            self.snapshots_sent.clear();
            self.term_start = u64::MAX;
        }
        if now.role == Role::Leader && (!was_leader || now.term != self.seen.term) {
            self.term_start = self.raw.raft.raft_log.last_index();
            self.incoming = None;
        }
        self.seen = now;
        self.out.role = Some(now);
        self.draw_election_timeout();
        self.update_serving();
    }

    pub(crate) fn update_serving(&mut self) {
        let own = self.applied >= self.term_start || bugs::active(bugs::Bug::ServeBeforeOwnEntry);
        let serving = self.seen.role == Role::Leader && own;
        if serving != self.serving {
            self.serving = serving;
            self.out.serving = Some(serving);
        }
    }

    /// A new election timeout in [n, 2n) ticks, from the seed.
    fn draw_election_timeout(&mut self) {
        // splitmix64
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let n = self.cfg.election_ticks;
        self.election_timeout = n + ((z ^ (z >> 31)) % n as u64) as usize;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }
}

fn check_config(cfg: &ReplicaConfig) -> Result<(), OpenError> {
    if cfg.raft_id.0 == 0 {
        return Err(OpenError::Config("raft id 0 is nobody"));
    }
    if cfg.tick.is_zero() || cfg.heartbeat_ticks == 0 {
        return Err(OpenError::Config("tick and heartbeat must not be zero"));
    }
    if cfg.election_ticks <= 2 * cfg.heartbeat_ticks {
        return Err(OpenError::Config("the election timeout must be over two heartbeats"));
    }
    // Otherwise raft's own elections would run into the refusal of votes.
    if cfg.tick * cfg.election_ticks as u32 <= cfg.vote_refusal() {
        return Err(OpenError::Config(
            "the election timeout must be longer than lease and drift margin",
        ));
    }
    let founding = &cfg.founding_voters;
    if !founding.is_empty() && !founding.contains(&cfg.raft_id) {
        return Err(OpenError::Config("not among the founding voters"));
    }
    Ok(())
}

/// Raft aborts the process on a state that contradicts itself: find out before.
fn check_stored(cfg: &ReplicaConfig, stored: &StoredState) -> Result<(), OpenError> {
    if stored.raft_id != cfg.raft_id {
        return Err(OpenError::WrongReplica { stored: stored.raft_id, configured: cfg.raft_id });
    }
    let (last, last_term) = stored.last;
    let amnesia = |what: String| Err(OpenError::Amnesia(what));
    if stored.hard_state.commit > last {
        return amnesia(format!(
            "commit index {} is beyond the log's end {last}",
            stored.hard_state.commit
        ));
    }
    if stored.checkpoint.index > last {
        return amnesia(format!(
            "checkpoint {} is beyond the log's end {last}",
            stored.checkpoint.index
        ));
    }
    if stored.truncated.0 > stored.checkpoint.index {
        return amnesia(format!(
            "the log starts after {}, the checkpoint is at {}",
            stored.truncated.0, stored.checkpoint.index
        ));
    }
    if stored.hard_state.term < last_term {
        return amnesia(format!(
            "{} is stored, but the last entry is of {last_term}",
            stored.hard_state.term
        ));
    }
    Ok(())
}
