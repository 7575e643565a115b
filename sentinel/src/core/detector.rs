//! One sentinel's opinion of each node, from heartbeats on a small connection of their own.
//!
//! Two kinds of evidence (notes on false positives: Lifeguard, arXiv 1707.00788; TiKV #1272, #1275):
//! - *hard*: the kernel closed the connection and refuses new ones, or a new incarnation answers.
//!   The process that was there is gone. Acted upon at once.
//! - *silence*: no reply for longer than a multiple of what this node ever takes. The process may
//!   be stopped, cut off, or just slow.
//!
//! An observer that is itself starved must not blame others: a timer that fires late excuses the
//! nodes for as long as it was late, and raises the thresholds for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_proto::v1;

/// How often every node is asked.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// Silence is never shorter than this: five heartbeats, and more than a TCP retransmission (200 ms).
pub const SILENCE_MIN: Duration = Duration::from_millis(500);
/// Silence is never longer, unless the observer itself is impaired: with the election, writes then go
/// on within two seconds. A wrong verdict costs little: replicas that hear their leader refuse.
pub const SILENCE_MAX: Duration = Duration::from_millis(1200);
/// Multiple of the 99.9th percentile of the gaps between replies that counts as silence.
const SILENCE_FACTOR: u32 = 3;
/// Between the two refused connections that make hard evidence. One refusal may be a listener's
/// full queue or a restart in progress.
pub const REFUSAL_SPACING: Duration = Duration::from_millis(20);
/// A timer this late makes the observer impaired...
const LATE: Duration = Duration::from_millis(300);
/// ...for this long.
const IMPAIRED_FOR: Duration = Duration::from_secs(2);
/// An impaired observer waits up to this many times longer.
const IMPAIRMENT_FACTOR_MAX: u32 = 4;

/// What the shell saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A heartbeat was answered by this incarnation of the node.
    Replied { incarnation: u64 },
    /// An established connection was closed by the other side.
    Reset,
    /// A new connection was refused.
    Refused,
}

/// What changed in this sentinel's opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Up {
        node: u64,
    },
    SubjectivelyDown {
        node: u64,
        hard: bool,
    },
    /// Another incarnation answers: the former process is gone, and so is all that it led.
    Restarted {
        node: u64,
        former: u64,
    },
}

/// The opinion of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// Nothing heard yet, and not for long enough to say more.
    Unknown,
    Up,
    Down {
        hard: bool,
    },
}

#[derive(Debug)]
struct Watched {
    opinion: Opinion,
    /// Last reply, or the start of the watch; moved forward by what the observer was late.
    heard: Duration,
    /// Last reply without any excuse; `None` before the first.
    replied: Option<Duration>,
    incarnation: u64,
    first_refusal: Option<Duration>,
    gaps: Gaps,
}

/// All opinions of one sentinel.
#[derive(Debug, Default)]
pub struct Detector {
    nodes: BTreeMap<u64, Watched>,
    impaired_until: Duration,
    impairment: u32,
}

impl Detector {
    /// Watches exactly these nodes.
    pub fn watch(&mut self, now: Duration, nodes: impl IntoIterator<Item = u64>) {
        let mut former = std::mem::take(&mut self.nodes);
        for node in nodes {
            let watched = former.remove(&node).unwrap_or_else(|| Watched::new(now));
            self.nodes.insert(node, watched);
        }
    }

    /// Something happened on the connection to `node`.
    pub fn input(&mut self, now: Duration, node: u64, input: Input, out: &mut Vec<Change>) {
        let Some(watched) = self.nodes.get_mut(&node) else { return };
        match input {
            Input::Replied { incarnation } => watched.replied(now, node, incarnation, out),
            Input::Reset => watched.first_refusal = None,
            Input::Refused => watched.refused(now, node, out),
        }
    }

    /// Once per interval. `late` is by how much the timer missed its time.
    pub fn tick(&mut self, now: Duration, late: Duration, out: &mut Vec<Change>) {
        if late >= LATE {
            self.impaired_until = now + IMPAIRED_FOR;
            let h = late.as_millis() / HEARTBEAT_INTERVAL.as_millis();
            self.impairment = (h as u32).clamp(1, IMPAIRMENT_FACTOR_MAX - 1);
        }
        let factor = if self.is_impaired(now) { 1 + self.impairment } else { 1 };
        for (node, watched) in &mut self.nodes {
            // What we slept through is no silence of theirs; their answers may still be unread.
            watched.heard = (watched.heard + late).min(now);
            watched.check_silence(now, factor, *node, out);
        }
    }

    /// This sentinel's own timers ran late recently.
    pub fn is_impaired(&self, now: Duration) -> bool {
        now < self.impaired_until
    }

    pub fn opinion(&self, node: u64) -> Opinion {
        self.nodes.get(&node).map_or(Opinion::Unknown, |w| w.opinion)
    }

    /// When the node last replied.
    pub fn last_reply(&self, node: u64) -> Option<Duration> {
        self.nodes.get(&node).and_then(|w| w.replied)
    }

    /// For the other sentinels.
    pub fn opinions(&self, now: Duration) -> Vec<v1::NodeOpinion> {
        let known = self.nodes.iter().filter(|(_, w)| w.opinion != Opinion::Unknown);
        known
            .map(|(node, w)| v1::NodeOpinion {
                node: *node,
                health: match w.opinion {
                    Opinion::Down { .. } => v1::NodeHealth::SubjectivelyDown.into(),
                    _ => v1::NodeHealth::Up.into(),
                },
                hard_evidence: w.opinion == Opinion::Down { hard: true },
                incarnation: w.incarnation,
                silent_for_us: now.saturating_sub(w.heard).as_micros() as u64,
            })
            .collect()
    }
}

impl Watched {
    fn new(now: Duration) -> Self {
        Self {
            opinion: Opinion::Unknown,
            heard: now,
            replied: None,
            incarnation: 0,
            first_refusal: None,
            gaps: Gaps::default(),
        }
    }

    fn replied(&mut self, now: Duration, node: u64, incarnation: u64, out: &mut Vec<Change>) {
        if let (Some(replied), Opinion::Up) = (self.replied, self.opinion) {
            self.gaps.record(now.saturating_sub(replied));
        }
        self.heard = now;
        self.replied = Some(now);
        self.first_refusal = None;
        let former = std::mem::replace(&mut self.incarnation, incarnation);
        if former != 0 && former != incarnation {
            self.gaps = Gaps::default();
            out.push(Change::Restarted { node, former });
        }
        self.become_(Opinion::Up, node, out);
    }

    fn refused(&mut self, now: Duration, node: u64, out: &mut Vec<Change>) {
        let first = *self.first_refusal.get_or_insert(now);
        if now.saturating_sub(first) >= REFUSAL_SPACING {
            self.become_(Opinion::Down { hard: true }, node, out);
        }
    }

    fn check_silence(&mut self, now: Duration, factor: u32, node: u64, out: &mut Vec<Change>) {
        if matches!(self.opinion, Opinion::Down { .. }) {
            return;
        }
        let threshold = (self.gaps.p999() * SILENCE_FACTOR).clamp(SILENCE_MIN, SILENCE_MAX);
        if now.saturating_sub(self.heard) >= threshold * factor {
            self.become_(Opinion::Down { hard: false }, node, out);
        }
    }

    fn become_(&mut self, opinion: Opinion, node: u64, out: &mut Vec<Change>) {
        if self.opinion == opinion {
            return;
        }
        self.opinion = opinion;
        out.push(match opinion {
            Opinion::Down { hard } => Change::SubjectivelyDown { node, hard },
            Opinion::Up | Opinion::Unknown => Change::Up { node },
        });
    }
}

/// Histogram of the gaps between replies, in buckets of 10 ms up to [`SILENCE_MAX`]; old samples fade.
#[derive(Debug, Default)]
struct Gaps {
    buckets: Vec<u16>,
    total: u32,
}

const BUCKET_MS: u128 = 10;
/// At this many samples (about seven minutes) all counts are halved.
const SAMPLES_MAX: u32 = 4096;

impl Gaps {
    fn record(&mut self, gap: Duration) {
        let last = (SILENCE_MAX.as_millis() / BUCKET_MS) as usize;
        self.buckets.resize(last + 1, 0);
        let bucket = ((gap.as_millis() / BUCKET_MS) as usize).min(last);
        self.buckets[bucket] += 1;
        self.total += 1;
        if self.total >= SAMPLES_MAX {
            self.buckets.iter_mut().for_each(|count| *count /= 2);
            self.total = self.buckets.iter().map(|count| u32::from(*count)).sum();
        }
    }

    /// Lower edge of the bucket of the 99.9th percentile; with few samples that is the greatest gap.
    fn p999(&self) -> Duration {
        let mut above = self.total / 1000;
        for (bucket, count) in self.buckets.iter().enumerate().rev() {
            if u32::from(*count) > above {
                return Duration::from_millis((bucket as u128 * BUCKET_MS) as u64);
            }
            above -= u32::from(*count);
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: u64 = 7;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn watching() -> Detector {
        let mut detector = Detector::default();
        detector.watch(ms(0), [NODE]);
        detector
    }

    fn input(detector: &mut Detector, at: u64, input: Input) -> Vec<Change> {
        let mut out = Vec::new();
        detector.input(ms(at), NODE, input, &mut out);
        out
    }

    fn tick(detector: &mut Detector, at: u64, late: u64) -> Vec<Change> {
        let mut out = Vec::new();
        detector.tick(ms(at), ms(late), &mut out);
        out
    }

    fn alive_until(detector: &mut Detector, end: u64) {
        for at in (0..=end).step_by(100) {
            input(detector, at, Input::Replied { incarnation: 1 });
        }
    }

    #[test]
    fn the_first_reply_makes_a_node_up_and_the_next_says_nothing_new() {
        let mut d = watching();
        let reply = Input::Replied { incarnation: 1 };
        assert_eq!(input(&mut d, 10, reply), [Change::Up { node: NODE }]);
        assert_eq!(input(&mut d, 110, reply), []);
    }

    #[test]
    fn two_refusals_apart_are_hard_evidence() {
        let mut d = watching();
        alive_until(&mut d, 1000);
        assert_eq!(input(&mut d, 1005, Input::Reset), []);
        assert_eq!(input(&mut d, 1005, Input::Refused), []);
        assert_eq!(input(&mut d, 1015, Input::Refused), [], "too soon after the first");
        let down = Change::SubjectivelyDown { node: NODE, hard: true };
        assert_eq!(input(&mut d, 1025, Input::Refused), [down]);
        assert_eq!(input(&mut d, 1045, Input::Refused), []);
    }

    #[test]
    fn a_reply_between_refusals_takes_the_first_back() {
        let mut d = watching();
        alive_until(&mut d, 1000);
        input(&mut d, 1005, Input::Refused);
        input(&mut d, 1010, Input::Replied { incarnation: 1 });
        assert_eq!(input(&mut d, 1030, Input::Refused), []);
    }

    #[test]
    fn a_new_incarnation_says_that_the_former_is_gone() {
        let mut d = watching();
        alive_until(&mut d, 1000);
        let restarted = Change::Restarted { node: NODE, former: 1 };
        assert_eq!(input(&mut d, 1100, Input::Replied { incarnation: 2 }), [restarted]);
        assert_eq!(d.opinion(NODE), Opinion::Up);
    }

    #[test]
    fn silence_counts_after_five_heartbeats_on_a_quiet_network() {
        let mut d = watching();
        alive_until(&mut d, 1000);
        assert_eq!(tick(&mut d, 1499, 0), []);
        let down = Change::SubjectivelyDown { node: NODE, hard: false };
        assert_eq!(tick(&mut d, 1500, 0), [down]);
        assert_eq!(
            input(&mut d, 1600, Input::Replied { incarnation: 1 }),
            [Change::Up { node: NODE }]
        );
    }

    #[test]
    fn a_node_known_to_stutter_gets_more_time_but_not_for_ever() {
        let mut d = watching();
        let reply = Input::Replied { incarnation: 1 };
        input(&mut d, 0, reply);
        input(&mut d, 300, reply);
        assert_eq!(tick(&mut d, 1199, 0), [], "three times 300 ms");
        assert_eq!(tick(&mut d, 1200, 0).len(), 1);
        let mut d = watching();
        input(&mut d, 0, reply);
        input(&mut d, 480, reply);
        assert_eq!(tick(&mut d, 1679, 0), []);
        assert_eq!(tick(&mut d, 1680, 0).len(), 1);
    }

    #[test]
    fn a_starved_observer_excuses_the_others_and_doubts_itself() {
        let mut d = watching();
        alive_until(&mut d, 1000);
        // Stopped for ten seconds; the answers are still in the socket.
        assert_eq!(tick(&mut d, 11_000, 9_900), []);
        assert!(d.is_impaired(ms(11_000)));
        // 500 ms would do for a healthy observer; now it takes four times as long.
        assert_eq!(tick(&mut d, 11_900, 0), []);
        assert!(!d.is_impaired(ms(13_001)));
        assert_eq!(tick(&mut d, 13_001, 0).len(), 1);
    }

    #[test]
    fn a_node_never_seen_is_down_after_silence_too() {
        let mut d = watching();
        assert_eq!(tick(&mut d, 400, 0), []);
        assert_eq!(d.opinion(NODE), Opinion::Unknown);
        let down = Change::SubjectivelyDown { node: NODE, hard: false };
        assert_eq!(tick(&mut d, 500, 0), [down]);
    }

    #[test]
    fn one_odd_gap_in_a_thousand_does_not_raise_the_threshold() {
        let mut gaps = Gaps::default();
        for _ in 0..2000 {
            gaps.record(ms(100));
        }
        gaps.record(ms(1500));
        assert_eq!(gaps.p999(), ms(100));
        for _ in 0..5000 {
            gaps.record(ms(40));
        }
        assert!(gaps.total <= SAMPLES_MAX);
    }

    #[test]
    fn opinions_for_others_leave_out_what_is_unknown() {
        let mut d = watching();
        assert_eq!(d.opinions(ms(10)), []);
        alive_until(&mut d, 1000);
        let opinion = d.opinions(ms(1250))[0];
        assert_eq!(opinion.silent_for_us, 250_000);
        assert_eq!(opinion.health(), v1::NodeHealth::Up);
    }
}
