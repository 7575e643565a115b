//! Counts the sentinels' opinions: subjectively down becomes objectively down with a majority.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_proto::v1;

/// Sentinels repeat an unchanged opinion this often; changes are sent at once.
pub const OPINION_REPEAT: Duration = Duration::from_secs(1);
/// An opinion not repeated for this long no longer counts.
const OPINION_AGE_MAX: Duration = Duration::from_secs(3);

/// What the group thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few opinions either way.
    Unknown,
    Up,
    /// Somebody says down, no majority does.
    SubjectivelyDown,
    /// `hard`: a majority has hard evidence. With a mix of silence and hard evidence it is not.
    ObjectivelyDown {
        hard: bool,
    },
}

impl Verdict {
    pub fn is_down(self) -> bool {
        matches!(self, Self::ObjectivelyDown { .. })
    }
}

#[derive(Debug)]
struct Heard {
    sequence: u64,
    at: Duration,
    impaired: bool,
    nodes: BTreeMap<u64, v1::NodeOpinion>,
}

/// The latest opinion of each sentinel, this one's own included.
#[derive(Debug)]
pub struct Opinions {
    sentinels: usize,
    by_sentinel: BTreeMap<u64, Heard>,
}

impl Opinions {
    /// For a group of this many sentinels.
    pub fn new(sentinels: usize) -> Self {
        Self { sentinels, by_sentinel: BTreeMap::new() }
    }

    /// Takes an opinion; one that was overtaken on the way is dropped. A restarted sentinel counts
    /// from its boot time, so its sequence numbers go on growing.
    pub fn hear(&mut self, now: Duration, opinion: &v1::SentinelOpinion) {
        let known = self.by_sentinel.get(&opinion.sentinel);
        if known.is_some_and(|k| k.sequence > opinion.sequence) {
            return;
        }
        let heard = Heard {
            sequence: opinion.sequence,
            at: now,
            impaired: opinion.impaired,
            nodes: opinion.nodes.iter().map(|n| (n.node, *n)).collect(),
        };
        self.by_sentinel.insert(opinion.sentinel, heard);
    }

    /// Judges a node whose current incarnation (as far as the judge knows) is given: hard evidence
    /// against an earlier process says nothing about this one.
    pub fn judge(&self, now: Duration, node: u64, incarnation: u64) -> Verdict {
        let (mut up, mut down, mut hard) = (0, 0, 0);
        for heard in self.by_sentinel.values() {
            if now.saturating_sub(heard.at) > OPINION_AGE_MAX {
                continue;
            }
            let Some(opinion) = heard.nodes.get(&node) else { continue };
            let about_former = opinion.incarnation != 0 && opinion.incarnation < incarnation;
            match opinion.health() {
                v1::NodeHealth::Up => up += 1,
                _ if about_former => {}
                _ if opinion.hard_evidence => {
                    hard += 1;
                    down += 1;
                }
                // The silence that a starved sentinel hears is its own.
                _ if heard.impaired => {}
                _ => down += 1,
            }
        }
        let quorum = self.sentinels / 2 + 1;
        if down >= quorum {
            Verdict::ObjectivelyDown { hard: hard >= quorum }
        } else if down > 0 {
            Verdict::SubjectivelyDown
        } else if up > 0 {
            Verdict::Up
        } else {
            Verdict::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn down(sentinel: u64, hard: bool) -> v1::SentinelOpinion {
        opinion(sentinel, v1::NodeHealth::SubjectivelyDown, hard)
    }

    fn opinion(sentinel: u64, health: v1::NodeHealth, hard: bool) -> v1::SentinelOpinion {
        let node = v1::NodeOpinion {
            node: 7,
            health: health.into(),
            hard_evidence: hard,
            incarnation: 5,
            silent_for_us: 0,
        };
        v1::SentinelOpinion { sentinel, sequence: 1, nodes: vec![node], ..Default::default() }
    }

    fn group(opinions: &[v1::SentinelOpinion]) -> Opinions {
        let mut group = Opinions::new(3);
        opinions.iter().for_each(|o| group.hear(NOW, o));
        group
    }

    #[test]
    fn one_of_three_is_not_enough_and_two_are() {
        assert_eq!(group(&[]).judge(NOW, 7, 5), Verdict::Unknown);
        assert_eq!(group(&[down(1, true)]).judge(NOW, 7, 5), Verdict::SubjectivelyDown);
        let both = group(&[down(1, true), down(2, true)]);
        assert_eq!(both.judge(NOW, 7, 5), Verdict::ObjectivelyDown { hard: true });
        let mixed = group(&[down(1, true), down(2, false)]);
        assert_eq!(mixed.judge(NOW, 7, 5), Verdict::ObjectivelyDown { hard: false });
    }

    #[test]
    fn old_opinions_do_not_count() {
        let group = group(&[down(1, true), down(2, true)]);
        let later = NOW + OPINION_AGE_MAX + Duration::from_millis(1);
        assert_eq!(group.judge(later, 7, 5), Verdict::Unknown);
    }

    #[test]
    fn an_overtaken_opinion_is_dropped() {
        let mut group = group(&[down(1, true), down(2, true)]);
        let mut up = opinion(2, v1::NodeHealth::Up, false);
        up.sequence = 2;
        group.hear(NOW, &up);
        group.hear(NOW, &down(2, true));
        assert_eq!(group.judge(NOW, 7, 5), Verdict::SubjectivelyDown);
    }

    #[test]
    fn evidence_against_a_former_process_does_not_hurt_the_new_one() {
        let group = group(&[down(1, true), down(2, true), opinion(3, v1::NodeHealth::Up, false)]);
        assert_eq!(group.judge(NOW, 7, 6), Verdict::Up);
    }

    #[test]
    fn a_starved_sentinel_has_no_voice_about_silence() {
        let mut starved = down(2, false);
        starved.impaired = true;
        let group = group(&[down(1, false), starved]);
        assert_eq!(group.judge(NOW, 7, 5), Verdict::SubjectivelyDown);
    }

    #[test]
    fn a_single_sentinel_decides_alone() {
        let mut group = Opinions::new(1);
        group.hear(NOW, &down(1, false));
        assert_eq!(group.judge(NOW, 7, 5), Verdict::ObjectivelyDown { hard: false });
    }
}
