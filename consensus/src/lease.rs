//! ReadIndex rounds and the lease they give a leader.
//!
//! A round has a context (term, counter, raft id) that is never used twice, is made by the leader
//! for itself and never accepted from the network: raft-rs confirms a later read with a delayed
//! answer if a context is used again (etcd-io/raft#397). A round that a majority confirms extends
//! the lease to *the time it was sent* plus the lease; voters refuse votes for lease and drift
//! margin from when they heard it, which is later.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_proto::bugs;
use holdfast_proto::ids::{LogIndex, RaftId, Term};

/// A round in flight.
#[derive(Debug)]
struct Round {
    counter: u64,
    sent_at: Duration,
    tokens: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Rounds {
    counter: u64,
    in_flight: VecDeque<Round>,
    /// Reads that arrived after the last round was sent. They join the next one.
    waiting: Vec<u64>,
    last_sent: Duration,
    /// Zero: no lease.
    lease_until: Duration,
    /// Leadership was being handed over in this term: no lease in it any more.
    barred: Term,
}

impl Rounds {
    pub(crate) fn wait(&mut self, token: u64) {
        self.waiting.push(token);
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn last_sent(&self) -> Duration {
        self.last_sent
    }

    /// Starts a round for everything that waits and returns its context.
    pub(crate) fn start(&mut self, now: Duration, term: Term, own: RaftId) -> Vec<u8> {
        self.counter += 1;
        self.last_sent = now;
        self.in_flight.push_back(Round {
            counter: self.counter,
            sent_at: now,
            tokens: std::mem::take(&mut self.waiting),
        });
        let reused = bugs::active(bugs::Bug::ReadContextReused);
        context(term, if reused { u64::MAX } else { self.counter }, own)
    }

    /// Raft confirmed a round (and with it the earlier ones). Pushes the reads it answers.
    pub(crate) fn confirmed(
        &mut self,
        ctx: &[u8],
        index: u64,
        term: Term,
        own: RaftId,
        lease: Duration,
        reads: &mut Vec<(u64, LogIndex)>,
    ) {
        let Some(counter) = parse(ctx, term, own) else {
            return;
        };
        while self.in_flight.front().is_some_and(|r| r.counter <= counter) {
            let round = self.in_flight.pop_front().expect("checked to be there");
            if self.barred != term {
                self.lease_until = self.lease_until.max(round.sent_at + lease);
            }
            reads.extend(round.tokens.into_iter().map(|t| (t, LogIndex(index))));
        }
    }

    /// Until when local reads are allowed, if at all.
    pub(crate) fn lease_until(&self) -> Option<Duration> {
        (self.lease_until > Duration::ZERO).then_some(self.lease_until)
    }

    /// Gives the lease up for the rest of this term: a hand-over may be under way, even if it is
    /// aborted later.
    pub(crate) fn bar(&mut self, term: Term) {
        self.barred = term;
        self.lease_until = Duration::ZERO;
    }

    /// Leadership is lost or new: no lease, and nothing in flight will be answered.
    pub(crate) fn clear(&mut self, failed: &mut Vec<u64>) {
        self.lease_until = Duration::ZERO;
        for round in self.in_flight.drain(..) {
            failed.extend(round.tokens);
        }
        failed.append(&mut self.waiting);
    }
}

fn context(term: Term, counter: u64, own: RaftId) -> Vec<u8> {
    let mut ctx = Vec::with_capacity(24);
    for part in [term.0, counter, own.0] {
        ctx.extend_from_slice(&part.to_be_bytes());
    }
    ctx
}

fn parse(ctx: &[u8], term: Term, own: RaftId) -> Option<u64> {
    let ctx: &[u8; 24] = ctx.try_into().ok()?;
    let part = |at: usize| u64::from_be_bytes(ctx[at..at + 8].try_into().expect("8 bytes"));
    (part(0) == term.0 && part(16) == own.0).then(|| part(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn lease_counts_from_the_sending_time_and_later_reads_do_not_join() {
        let (mut rounds, mut reads) = (Rounds::default(), Vec::new());
        let (term, own) = (Term(3), RaftId(1));
        rounds.wait(1);
        let first = rounds.start(MS(100), term, own);
        rounds.wait(2);
        rounds.confirmed(&first, 7, term, own, MS(250), &mut reads);
        assert_eq!(reads, [(1, LogIndex(7))]);
        assert_eq!(rounds.lease_until(), Some(MS(350)));
        // The same answer again, or one of another term, does nothing.
        rounds.confirmed(&first, 9, term, own, MS(250), &mut reads);
        let second = rounds.start(MS(200), term, own);
        rounds.confirmed(&second, 9, Term(4), own, MS(250), &mut reads);
        assert_eq!(reads.len(), 1);
        rounds.confirmed(&second, 9, term, own, MS(250), &mut reads);
        assert_eq!(reads[1], (2, LogIndex(9)));
        assert_eq!(rounds.lease_until(), Some(MS(450)));
    }

    #[test]
    fn no_lease_after_a_hand_over_began() {
        let (mut rounds, mut reads) = (Rounds::default(), Vec::new());
        let ctx = rounds.start(MS(100), Term(3), RaftId(1));
        rounds.bar(Term(3));
        rounds.confirmed(&ctx, 7, Term(3), RaftId(1), MS(250), &mut reads);
        assert_eq!(rounds.lease_until(), None);
    }
}
