//! Changes of the cluster's metadata that a client asked for (CONFIG SET, ACL SETUSER …).
//!
//! The shell brings them to the sentinels. The client is answered when this worker has the changed
//! metadata itself, so that it reads what it wrote; until then none of its later commands runs.

use super::client::Stall;
use super::{Action, Now, WorkerCore};
use bytes::BytesMut;
use holdfast_proto::resp::{RawRequest, encode};
use holdfast_proto::v1;
use std::collections::BTreeMap;

/// A change is answered after at most this long once the sentinels have it, even when the changed
/// metadata has not come: it will.
const ARRIVAL_MAX_US: u64 = 2_000_000;
/// How often a change of a user is tried again because another client was faster.
const ATTEMPTS_MAX: u32 = 10;

/// What is to be changed, all of it or nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Settings(BTreeMap<String, String>),
    Users(Vec<v1::UserChange>),
}

/// Why the sentinels did not make a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// What it was based on has changed meanwhile.
    Stale,
    /// It will never be accepted.
    Refused(String),
    /// No sentinel could be asked, or none answered in time: it may have been made.
    Unavailable,
}

/// The error of a change that no sentinel has answered.
const UNAVAILABLE: &str = "ERR the sentinels do not answer; the change may or may not be made";

/// A change on its way.
pub(super) struct Proposal {
    client: u32,
    generation: u32,
    reply: u32,
    /// The command, to be run again when its change was based on old metadata.
    request: RawRequest,
    attempts: u32,
    /// Answered from this version of the metadata on, or after this time.
    arrived: Option<(u64, u64)>,
    /// The reply in RESP once it is made.
    answer: Vec<u8>,
}

impl WorkerCore {
    /// Proposes a change in the name of a client; its reply will be `answer`.
    pub(super) fn propose(
        &mut self,
        index: u32,
        request: &RawRequest,
        change: Change,
        answer: Vec<u8>,
    ) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let reply = match client.proposal_reply.take() {
            Some(reply) => reply,
            None => client.expect_reply(),
        };
        client.stall = Stall::Reply(reply);
        let proposal = Proposal {
            client: index,
            generation: client.generation,
            reply,
            request: request.clone(),
            attempts: 1,
            arrived: None,
            answer,
        };
        let ask = self.proposals.insert(proposal);
        self.actions.push(Action::Propose { ask, change });
    }

    /// The sentinels' answer to [`Action::Propose`]: a version of the metadata that has the change.
    pub fn proposed(&mut self, ask: usize, result: Result<u64, ChangeError>, now: Now) {
        self.set_now(now);
        match result {
            Ok(version) => {
                if let Some(proposal) = self.proposals.get_mut(ask) {
                    proposal.arrived = Some((version, self.now_us + ARRIVAL_MAX_US));
                }
                self.finish_proposals();
            }
            Err(ChangeError::Stale) => self.propose_again(ask),
            Err(ChangeError::Refused(text)) => self.end_proposal(ask, &format!("ERR {text}")),
            Err(ChangeError::Unavailable) => self.end_proposal(ask, UNAVAILABLE),
        }
        self.settle();
    }

    /// Answers the changes that this worker's metadata has by now.
    pub(super) fn finish_proposals(&mut self) {
        if self.proposals.is_empty() {
            return;
        }
        let (version, now_us) = (self.router.version, self.now_us);
        let done: Vec<usize> = self
            .proposals
            .iter()
            .filter(|(_, p)| p.arrived.is_some_and(|(at, until)| version >= at || now_us >= until))
            .map(|(ask, _)| ask)
            .collect();
        for ask in done {
            let proposal = self.proposals.remove(ask);
            if self.clients.of_generation(proposal.client, proposal.generation).is_some() {
                self.answer_client(proposal.client, proposal.reply, &proposal.answer);
            }
        }
    }

    fn end_proposal(&mut self, ask: usize, error: &str) {
        let Some(proposal) = self.proposals.try_remove(ask) else { return };
        if self.clients.of_generation(proposal.client, proposal.generation).is_some() {
            let mut out = BytesMut::new();
            encode::error(&mut out, error);
            self.answer_client(proposal.client, proposal.reply, &out);
        }
    }

    /// Runs the command again on the newest metadata.
    fn propose_again(&mut self, ask: usize) {
        let Some(proposal) = self.proposals.get(ask) else { return };
        if proposal.attempts >= ATTEMPTS_MAX {
            return self.end_proposal(ask, "ERR the users are being changed by others, try again");
        }
        let Proposal { client: index, generation, reply, request, attempts, .. } =
            self.proposals.remove(ask);
        let Some(client) = self.clients.of_generation(index, generation) else { return };
        client.proposal_reply = Some(reply);
        let before = self.actions.len();
        let mut out = BytesMut::new();
        if let Some(run) = super::local::run_of(request.arg(0)) {
            run(self, index, &request, &mut out);
        }
        if self.actions.len() > before {
            if let Some((_, proposal)) =
                self.proposals.iter_mut().find(|(_, p)| p.client == index && p.reply == reply)
            {
                proposal.attempts = attempts + 1;
            }
            return;
        }
        if let Some(client) = self.clients.get_mut(index) {
            client.proposal_reply = None;
        }
        self.answer_client(index, reply, &out);
    }
}
