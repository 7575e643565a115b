//! The sorted set type: packed pairs in order while it is small, then a table of members beside an
//! ordered sequence of the same elements.
//!
//! The order is by score, then by the member's bytes. Ranks count from 0 in that order. Scores are
//! never NaN, and minus zero is stored as zero: Redis's small encoding loses its sign and its big
//! one keeps it, and here the encoding must not show.

use super::Aggregate;
use super::ordered::Ordered;
use super::packed::{Item, Packed};
use super::record::{Scored, ScoredPointer};
use crate::config::EncodingLimits;
use crate::digest::Digest;
use crate::memory::allocated;
use crate::num;
use crate::table::{Keyed, Table};
use holdfast_proto::resp::encode::{DoubleBuffer, format_double};
use std::cmp::Ordering;
use std::ops::{Bound, Range};

/// Members with scores.
#[derive(Clone, Debug)]
pub struct ZSet(Repr);

#[derive(Clone, Debug)]
enum Repr {
    /// Member, score, member, score, in order.
    Packed(Packed),
    Big(Box<Big>),
}

#[derive(Debug)]
struct Big {
    table: Table<Scored>,
    /// The same elements in order.
    order: Ordered<Place>,
    /// Bytes of all elements.
    memory: usize,
}

/// An element in the order. The score is the element's, kept here because almost every comparison
/// ends with it.
#[derive(Clone, Copy)]
struct Place {
    score: f64,
    element: ScoredPointer,
}

/// What [`ZSet::insert`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    Added,
    Moved,
    /// The member had this score already.
    Same,
}

/// Scores from a lower to an upper bound.
pub(crate) type ScoreRange = (Bound<f64>, Bound<f64>);

/// A bound in the order of members' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LexBound<'a> {
    /// `-`: before every member.
    Lowest,
    /// `+`: after every member.
    Highest,
    Included(&'a [u8]),
    Excluded(&'a [u8]),
}

impl Default for ZSet {
    fn default() -> Self {
        Self::new()
    }
}

impl ZSet {
    pub fn new() -> Self {
        Self(Repr::Packed(Packed::new()))
    }

    /// Takes over packed pairs: for loading. `None` if they are not pairs of members and scores in
    /// order, if a member comes twice, or if they are over the limits.
    pub(crate) fn from_packed(packed: Packed, limits: &EncodingLimits) -> Option<Self> {
        if !packed.len().is_multiple_of(2) || packed.len() / 2 > limits.zset_max_listpack_entries {
            return None;
        }
        let mut members = Vec::with_capacity(packed.len() / 2);
        let mut last: Option<(f64, Vec<u8>)> = None;
        for (member, score) in packed.pairs() {
            let score = match score {
                Item::Int(value) => value as f64,
                Item::Bytes(text) => num::parse_f64(text).filter(|score| !is_minus_zero(*score))?,
            };
            let element = (score, member.to_vec());
            let in_order = last.is_none_or(|last| {
                compare(last.0, &last.1, element.0, &element.1) == Ordering::Less
            });
            if !in_order || element.1.len() > limits.zset_max_listpack_value {
                return None;
            }
            members.push(element.1.clone());
            last = Some(element);
        }
        members.sort_unstable();
        let count = members.len();
        members.dedup();
        (members.len() == count).then_some(Self(Repr::Packed(packed)))
    }

    /// The packed pairs of a small sorted set.
    pub(crate) fn as_packed(&self) -> Option<&Packed> {
        match &self.0 {
            Repr::Packed(packed) => Some(packed),
            Repr::Big(_) => None,
        }
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Packed(packed) => packed.len() / 2,
            Repr::Big(big) => big.table.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.0 {
            Repr::Packed(packed) => find(packed, member).map(|(_, score)| score),
            Repr::Big(big) => big.table.get(member).map(Scored::score),
        }
    }

    /// Sets the score of a member, which is not NaN.
    pub(crate) fn insert(
        &mut self,
        member: &[u8],
        score: f64,
        limits: &EncodingLimits,
    ) -> Inserted {
        debug_assert!(!score.is_nan());
        let score = if score == 0.0 { 0.0 } else { score };
        if let Repr::Packed(packed) = &mut self.0 {
            if let Some((at, old)) = find(packed, member) {
                if old == score {
                    return Inserted::Same;
                }
                packed.remove_run(at, 2);
                insert_packed(packed, member, score);
                return Inserted::Moved;
            }
            if packed.len() / 2 < limits.zset_max_listpack_entries
                && member.len() <= limits.zset_max_listpack_value
            {
                insert_packed(packed, member, score);
                return Inserted::Added;
            }
        }
        self.big_mut().insert(member, score)
    }

    /// Removes a member; returns its score.
    pub(crate) fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match &mut self.0 {
            Repr::Packed(packed) => {
                let (at, score) = find(packed, member)?;
                packed.remove_run(at, 2);
                Some(score)
            }
            Repr::Big(big) => big.remove(member),
        }
    }

    /// Removes the members of these ranks.
    pub(crate) fn remove_ranks(&mut self, ranks: Range<usize>) {
        match &mut self.0 {
            Repr::Packed(packed) => {
                if let Some(at) = packed.seek(2 * ranks.start as i64) {
                    packed.remove_run(at, 2 * ranks.len());
                }
            }
            Repr::Big(big) => {
                for _ in ranks.start..ranks.end.min(big.table.len()) {
                    big.remove_rank(ranks.start);
                }
            }
        }
    }

    /// Rank and score of a member.
    pub(crate) fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        match &self.0 {
            Repr::Packed(packed) => {
                let item = Item::of(member);
                let (rank, (_, score)) =
                    packed.pairs().enumerate().find(|(_, (other, _))| *other == item)?;
                Some((rank, decode_score(score)))
            }
            Repr::Big(big) => {
                let score = big.table.get(member)?.score();
                Some((big.rank(member, score), score))
            }
        }
    }

    /// The member of a rank with its score.
    pub(crate) fn get(&self, rank: usize) -> Option<(Item<'_>, f64)> {
        match &self.0 {
            Repr::Packed(packed) => {
                let at = packed.seek(2 * rank as i64)?;
                Some((packed.get(at), decode_score(packed.get(packed.next(at)?))))
            }
            Repr::Big(big) => big.order.get(rank).map(|place| big.element(place)),
        }
    }

    /// The ranks of the members with scores in a range.
    pub(crate) fn score_ranks(&self, (low, high): ScoreRange) -> Range<usize> {
        let start = self.partition_by_score(|score| match low {
            Bound::Included(low) => score < low,
            Bound::Excluded(low) => score <= low,
            Bound::Unbounded => false,
        });
        let end = self.partition_by_score(|score| match high {
            Bound::Included(high) => score <= high,
            Bound::Excluded(high) => score < high,
            Bound::Unbounded => true,
        });
        start..end.max(start)
    }

    /// The ranks of the members between two bounds, if all scores are equal. If they are not, the
    /// result means nothing, but it is the same for every encoding: the search only looks at ranks.
    pub(crate) fn lex_ranks(&self, low: LexBound<'_>, high: LexBound<'_>) -> Range<usize> {
        let start = self.partition_by_member(|member| match low {
            LexBound::Lowest => false,
            LexBound::Highest => true,
            LexBound::Included(low) => member < low,
            LexBound::Excluded(low) => member <= low,
        });
        let end = self.partition_by_member(|member| match high {
            LexBound::Lowest => false,
            LexBound::Highest => true,
            LexBound::Included(high) => member <= high,
            LexBound::Excluded(high) => member < high,
        });
        start..end.max(start)
    }

    /// Calls `visit` with members and scores of these ranks, upwards or downwards.
    pub(crate) fn visit<'t>(
        &'t self,
        ranks: Range<usize>,
        reverse: bool,
        mut visit: impl FnMut(Item<'t>, f64),
    ) {
        if ranks.is_empty() {
            return;
        }
        match &self.0 {
            Repr::Packed(packed) if reverse => {
                let until = packed.seek(2 * ranks.end as i64).unwrap_or_else(|| packed.end());
                let mut items = packed.iter_until(until).rev();
                for _ in ranks {
                    let (Some(score), Some(member)) = (items.next(), items.next()) else { return };
                    visit(member, decode_score(score));
                }
            }
            Repr::Packed(packed) => {
                let Some(at) = packed.seek(2 * ranks.start as i64) else { return };
                let mut items = packed.iter_from(at);
                for _ in ranks {
                    let (Some(member), Some(score)) = (items.next(), items.next()) else { return };
                    visit(member, decode_score(score));
                }
            }
            Repr::Big(big) => {
                let visit = |place| {
                    let (member, score) = big.element(place);
                    visit(member, score);
                    true
                };
                if reverse {
                    big.order.visit_back(ranks.start, ranks.end, visit);
                } else {
                    big.order.visit(ranks.start, ranks.end, visit);
                }
            }
        }
    }

    /// All members with their scores, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Item<'_>, f64)> {
        let mut elements = Vec::with_capacity(self.len());
        self.visit(0..self.len(), false, |member, score| elements.push((member, score)));
        elements.into_iter()
    }

    /// One step of ZSCAN: visits some members, returns the next cursor. See [`Table::scan`].
    pub(crate) fn scan<'t>(&'t self, cursor: u64, mut visit: impl FnMut(Item<'t>, f64)) -> u64 {
        match &self.0 {
            Repr::Packed(_) => {
                self.visit(0..self.len(), false, visit);
                0
            }
            Repr::Big(big) => {
                big.table.scan(cursor, |element| visit(Item::Bytes(element.key()), element.score()))
            }
        }
    }

    fn partition_by_score(&self, before: impl Fn(f64) -> bool) -> usize {
        match &self.0 {
            Repr::Packed(packed) => {
                packed.pairs().take_while(|(_, score)| before(decode_score(*score))).count()
            }
            Repr::Big(big) => big.order.partition_point(|place| before(place.score)),
        }
    }

    /// A binary search by rank: see [`ZSet::lex_ranks`].
    fn partition_by_member(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            let (member, _) = self.get(middle).expect("the rank is below the length");
            if before(member.bytes(&mut itoa::Buffer::new())) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn big_mut(&mut self) -> &mut Big {
        if let Repr::Packed(packed) = &self.0 {
            let mut big = Box::new(Big::new(packed.len() / 2 + 1));
            for (member, score) in packed.pairs() {
                big.append(member.bytes(&mut itoa::Buffer::new()), decode_score(score));
            }
            self.0 = Repr::Big(big);
        }
        match &mut self.0 {
            Repr::Big(big) => big,
            Repr::Packed(_) => unreachable!("converted above"),
        }
    }
}

impl Big {
    fn new(room: usize) -> Self {
        let mut table = Table::new();
        table.reserve(room);
        Self { table, order: Ordered::new(), memory: 0 }
    }

    /// Adds an element that is greater than all others.
    fn append(&mut self, member: &[u8], score: f64) {
        let hash = self.table.hash(member);
        self.add(hash, member, score, self.order.len());
    }

    fn insert(&mut self, member: &[u8], score: f64) -> Inserted {
        let hash = self.table.hash(member);
        let Some(old) = self.table.get_hashed(hash, member).map(Scored::score) else {
            let rank = self.rank(member, score);
            self.add(hash, member, score, rank);
            return Inserted::Added;
        };
        if old == score {
            return Inserted::Same;
        }
        let mut place = self.order.remove_at(self.rank(member, old));
        let element = self.table.get_mut_hashed(hash, member).expect("found above");
        element.set_score(score);
        place.score = score;
        self.order.insert_at(self.rank(member, score), place);
        Inserted::Moved
    }

    fn add(&mut self, hash: u64, member: &[u8], score: f64, rank: usize) {
        let element = Scored::new(member, score);
        self.memory += element.memory();
        self.order.insert_at(rank, Place { score, element: element.pointer() });
        self.table.insert_hashed(hash, element);
    }

    fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let hash = self.table.hash(member);
        let score = self.table.get_hashed(hash, member)?.score();
        self.order.remove_at(self.rank(member, score));
        self.drop_element(hash, member);
        Some(score)
    }

    fn remove_rank(&mut self, rank: usize) {
        let place = self.order.remove_at(rank);
        let (Item::Bytes(member), _) = self.element(place) else {
            unreachable!("members of a table are bytes")
        };
        let member = member.to_vec();
        self.drop_element(self.table.hash(&member), &member);
    }

    /// Frees an element that is not in the order any more.
    fn drop_element(&mut self, hash: u64, member: &[u8]) {
        let element = self.table.remove_hashed(hash, member);
        self.memory -= element.map_or(0, |element| element.memory());
    }

    /// How many elements come before this one, which need not be there.
    fn rank(&self, member: &[u8], score: f64) -> usize {
        self.order.partition_point(|place| {
            place.score < score || (place.score == score && self.member(*place) < member)
        })
    }

    fn element(&self, place: Place) -> (Item<'_>, f64) {
        (Item::Bytes(self.member(place)), place.score)
    }

    fn member(&self, place: Place) -> &[u8] {
        // SAFETY: every place in `order` points at an element that `table` owns: elements are added
        // to both, and taken out of the order before the table frees them. Rehashing moves the
        // pointers of elements, not the elements. `remove_rank` reads the member before that.
        unsafe { place.element.member() }
    }
}

impl Clone for Big {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.table.len());
        self.order.visit(0, self.order.len(), |place| {
            copy.append(self.member(place), place.score);
            true
        });
        copy
    }
}

impl std::fmt::Debug for Ordered<Place> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ordered({} elements)", self.len())
    }
}

impl Aggregate for ZSet {
    fn len(&self) -> usize {
        self.len()
    }

    fn memory(&self) -> usize {
        allocated(size_of::<Self>())
            + match &self.0 {
                Repr::Packed(packed) => packed.memory(),
                Repr::Big(big) => {
                    let shared = big.table.memory() + big.order.memory();
                    allocated(size_of::<Big>()) + shared + big.memory
                }
            }
    }

    fn encoding(&self) -> &'static str {
        match &self.0 {
            Repr::Packed(_) => "listpack",
            Repr::Big(_) => "skiplist",
        }
    }

    fn digest(&self, digest: &mut Digest) {
        self.visit(0..self.len(), false, |member, score| {
            digest.bytes(member.bytes(&mut itoa::Buffer::new()));
            digest.double(score);
        });
    }
}

/// The order of elements. Scores are not NaN.
pub(crate) fn compare(score: f64, member: &[u8], other: f64, other_member: &[u8]) -> Ordering {
    score.partial_cmp(&other).unwrap_or(Ordering::Equal).then_with(|| member.cmp(other_member))
}

fn is_minus_zero(score: f64) -> bool {
    score == 0.0 && score.is_sign_negative()
}

/// Position and score of a member in packed pairs.
fn find(packed: &Packed, member: &[u8]) -> Option<(usize, f64)> {
    let at = packed.find(packed.first()?, Item::of(member), 2)?;
    Some((at, decode_score(packed.get(packed.next(at)?))))
}

/// Inserts a pair whose member is not there.
fn insert_packed(packed: &mut Packed, member: &[u8], score: f64) {
    let mut at = packed.end();
    let mut next = packed.first();
    while let Some(here) = next {
        let score_at = packed.next(here).expect("a member has a score");
        let other = decode_score(packed.get(score_at));
        let other_member = packed.get(here);
        let other_member = other_member.bytes(&mut itoa::Buffer::new()).cmp(member);
        if other > score || (other == score && other_member == Ordering::Greater) {
            at = here;
            break;
        }
        next = packed.next(score_at);
    }
    let mut text = DoubleBuffer::default();
    let text = format_double(score, &mut text);
    packed.insert(at, member);
    let at = packed.after(at);
    packed.insert(at, text);
}

fn decode_score(item: Item<'_>) -> f64 {
    match item {
        Item::Int(value) => value as f64,
        Item::Bytes(text) => num::parse_f64(text).expect("scores are checked when they are stored"),
    }
}

#[cfg(test)]
#[path = "zset_tests.rs"]
mod tests;
