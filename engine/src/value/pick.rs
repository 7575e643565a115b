//! Random members of small collections, by the same rule as [`Table::random`] has for big ones:
//! which member is chosen depends on the members only, not on how they are stored.
//!
//! The rule: a random point in the order of (bit-reversed hash, member), then one of the first
//! [`PICK_AMONG`] members that follow it, wrapping around.

use crate::hash;
use crate::random::Rng;
use crate::table::PICK_AMONG;
#[cfg(doc)]
use crate::table::Table;

/// Members in the order of the rule.
pub(crate) struct Candidates(Vec<(u64, Vec<u8>)>);

impl Candidates {
    pub(crate) fn new(members: impl Iterator<Item = Vec<u8>>) -> Self {
        let seed = hash::current_seed();
        let mut sorted: Vec<_> =
            members.map(|member| (hash::hash(seed, &member).reverse_bits(), member)).collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Chooses one member; there is at least one.
    #[cfg(test)]
    pub(crate) fn choose(&self, rng: &mut Rng) -> &[u8] {
        &self.0[self.index(rng)].1
    }

    /// Chooses one member and takes it out; there is at least one.
    pub(crate) fn take(&mut self, rng: &mut Rng) -> Vec<u8> {
        self.0.remove(self.index(rng)).1
    }

    fn index(&self, rng: &mut Rng) -> usize {
        let point = rng.next();
        let chosen = rng.below(self.len().min(PICK_AMONG));
        let first = self.0.partition_point(|(order, _)| *order < point);
        (first + chosen) % self.len()
    }
}

/// One member of a small collection; there is at least one. As [`Candidates::choose`], without the
/// sorting.
pub(crate) fn one(members: impl Iterator<Item = Vec<u8>>, len: usize, rng: &mut Rng) -> Vec<u8> {
    let seed = hash::current_seed();
    let point = rng.next();
    let chosen = rng.below(len.min(PICK_AMONG));
    // The nearest members after the point, in order.
    let mut nearest: Vec<(u64, Vec<u8>)> = Vec::with_capacity(chosen + 2);
    for member in members {
        let distance = hash::hash(seed, &member).reverse_bits().wrapping_sub(point);
        if nearest.len() > chosen && nearest[chosen].0 < distance {
            continue;
        }
        let candidate = (distance, member);
        let at = nearest.partition_point(|other| *other < candidate);
        nearest.insert(at, candidate);
        nearest.truncate(chosen + 1);
    }
    nearest.swap_remove(chosen).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Keyed, Table};
    use crate::value::record::Member;

    #[test]
    fn picks_are_those_of_a_table() {
        hash::enter(77);
        for len in [1usize, 2, 7, 8, 9, 100, 500] {
            let members: Vec<Vec<u8>> =
                (0..len).map(|member| member.to_string().into_bytes()).collect();
            let mut table = Table::new();
            for member in &members {
                table.insert(Member::new(member));
            }
            let mut candidates = Candidates::new(members.iter().cloned());
            for round in 0..200 {
                let mut rngs = [(); 3].map(|()| Rng::new(9, round, len as u32));
                let expected = table.random(&mut rngs[0]).expect("not empty").key().to_vec();
                assert_eq!(candidates.choose(&mut rngs[1]), expected);
                assert_eq!(one(members.iter().cloned(), len, &mut rngs[2]), expected);
            }
            let mut rngs = [(); 2].map(|()| Rng::new(9, 0, 1));
            while !table.is_empty() {
                let expected = table.random(&mut rngs[0]).expect("not empty").key().to_vec();
                assert_eq!(candidates.take(&mut rngs[1]), expected);
                table.remove(&expected);
            }
        }
    }
}
