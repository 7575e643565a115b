//! Which messages have been delivered already.
//!
//! A publication that is sent again after a failover may reach the subscribers twice: the old
//! primary may have handed it to some links before it died. A message is new if its source and
//! number were not seen. What is remembered:
//! - of a worker, the numbers not below its oldest unanswered one (others are not sent again), and
//!   all of the last seconds;
//! - messages that came as a repetition, longer: the first copy may still lie in the buffers of a
//!   node that was stopped and wakes up;
//! - of a shard's log, the last position: its messages come in order.

use holdfast_proto::frame::push::{Message, Source};
use holdfast_proto::ids::ShardId;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers are sorted out this often.
const ROTATE_AFTER_US: u64 = 2_000_000;
/// Repetitions, and publishers that say nothing, are forgotten after this long: well above the
/// hold deadline (10 s), after which nothing is sent again.
const KEEP_US: u64 = 60_000_000;

#[derive(Default)]
pub(super) struct Seen {
    young: BTreeSet<(u64, u64)>,
    old: BTreeSet<(u64, u64)>,
    rotated_us: u64,
    publishers: BTreeMap<u64, Publisher>,
    /// With the time at which each came.
    repeated: BTreeMap<(u64, u64), u64>,
    logs: BTreeMap<ShardId, (u64, u64)>,
}

struct Publisher {
    oldest: u64,
    heard_us: u64,
}

impl Seen {
    /// Whether the message is to be delivered; from then on it is not new.
    pub(super) fn is_new(&mut self, message: &Message<'_>, now_us: u64) -> bool {
        let (worker, number, oldest) = match message.source {
            Source::Nowhere => return true,
            Source::Log { shard, index, ordinal } => {
                let last = self.logs.entry(shard).or_default();
                let new = (index, ordinal) > *last;
                *last = (index, ordinal).max(*last);
                return new;
            }
            Source::Worker { worker, number, oldest } => (worker, number, oldest),
        };
        if now_us >= self.rotated_us + ROTATE_AFTER_US {
            self.rotate(now_us);
        }
        let publisher = self.publishers.entry(worker).or_insert(Publisher { oldest, heard_us: 0 });
        publisher.oldest = publisher.oldest.max(oldest);
        publisher.heard_us = now_us;
        let id = (worker, number);
        if self.old.contains(&id) || self.repeated.contains_key(&id) || !self.young.insert(id) {
            return false;
        }
        if message.resent {
            self.repeated.insert(id, now_us);
        }
        true
    }

    fn rotate(&mut self, now_us: u64) {
        self.rotated_us = now_us;
        self.publishers.retain(|_, publisher| now_us < publisher.heard_us + KEEP_US);
        self.repeated.retain(|_, since_us| now_us < *since_us + KEEP_US);
        let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        let publishers = &self.publishers;
        let may_come = |(worker, number): &(u64, u64)| {
            publishers.get(worker).is_some_and(|publisher| *number >= publisher.oldest)
        };
        self.young = old.into_iter().filter(may_come).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(seen: &mut Seen, number: u64, oldest: u64, resent: bool, now_s: u64) -> bool {
        let source = Source::Worker { worker: 1, number, oldest };
        let message = Message { source, sharded: false, resent, channel: b"c", payload: b"" };
        seen.is_new(&message, now_s * 1_000_000)
    }

    #[test]
    fn a_repetition_is_delivered_once_in_either_order() {
        let mut seen = Seen::default();
        assert!(new(&mut seen, 1, 1, false, 10));
        assert!(!new(&mut seen, 1, 1, true, 10));
        // The repetition overtakes the original, which comes half a minute later.
        assert!(new(&mut seen, 2, 1, true, 11));
        assert!(new(&mut seen, 9, 9, false, 20));
        assert!(new(&mut seen, 10, 10, false, 30));
        assert!(!new(&mut seen, 2, 1, false, 40));
    }

    #[test]
    fn what_may_be_sent_again_is_remembered_and_the_rest_forgotten() {
        let mut seen = Seen::default();
        for number in 1..=1000 {
            assert!(new(&mut seen, number, 700, false, 10));
        }
        for second in [13, 16, 19] {
            assert!(new(&mut seen, 10_000 + second, 700, false, second));
        }
        assert!(seen.young.len() + seen.old.len() < 400);
        assert!(!new(&mut seen, 700, 700, true, 20));
        for second in [200, 203, 206] {
            new(&mut seen, second * 1000, second * 1000, false, second);
        }
        assert!(seen.young.len() + seen.old.len() <= 3);
    }

    #[test]
    fn a_log_is_heard_in_order_and_once() {
        let mut seen = Seen::default();
        let mut new = |shard, index, ordinal| {
            let source = Source::Log { shard: ShardId(shard), index, ordinal };
            let message =
                Message { source, sharded: false, resent: false, channel: b"c", payload: b"" };
            seen.is_new(&message, 0)
        };
        assert!(new(1, 5, 1) && new(1, 5, 2) && new(2, 3, 1) && new(1, 6, 1));
        assert!(!new(1, 5, 2) && !new(1, 6, 1) && !new(2, 3, 1));
    }
}
