//! The set type: sorted integers or packed members while it is small, then a table with one
//! allocation per member.

use super::Aggregate;
use super::intset::IntSet;
use super::packed::{Item, Packed};
use super::pick::{self, Candidates};
use super::record::Member;
use crate::config::EncodingLimits;
use crate::digest::Digest;
use crate::memory::allocated;
use crate::num::parse_i64;
use crate::random::Rng;
use crate::table::{Keyed, Table};

/// Members without order.
#[derive(Clone, Debug)]
pub struct Set(Repr);

#[derive(Clone, Debug)]
enum Repr {
    Ints(IntSet),
    Packed(Packed),
    Table(Box<Members>),
}

#[derive(Debug)]
struct Members {
    table: Table<Member>,
    /// Bytes of all elements.
    memory: usize,
}

impl Default for Set {
    fn default() -> Self {
        Self::new()
    }
}

impl Set {
    pub fn new() -> Self {
        Self(Repr::Ints(IntSet::new()))
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Ints(ints) => ints.len(),
            Repr::Packed(packed) => packed.len(),
            Repr::Table(members) => members.table.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The integers of a set that is stored as such.
    pub(crate) fn as_ints(&self) -> Option<&IntSet> {
        match &self.0 {
            Repr::Ints(ints) => Some(ints),
            Repr::Packed(_) | Repr::Table(_) => None,
        }
    }

    pub(crate) fn contains(&self, member: &[u8]) -> bool {
        match &self.0 {
            Repr::Ints(ints) => parse_i64(member).is_some_and(|value| ints.contains(value)),
            Repr::Packed(packed) => find(packed, member).is_some(),
            Repr::Table(members) => members.table.contains(member),
        }
    }

    /// Adds a member; `false` if it was there.
    pub(crate) fn add(&mut self, member: &[u8], limits: &EncodingLimits) -> bool {
        loop {
            match &mut self.0 {
                Repr::Ints(ints) => match parse_i64(member) {
                    Some(value) if ints.contains(value) => return false,
                    Some(value) if ints.len() < limits.set_max_intset_entries => {
                        return ints.insert(value);
                    }
                    Some(_) => self.become_table(),
                    None => self.leave_ints(member, limits),
                },
                Repr::Packed(packed) => {
                    if find(packed, member).is_some() {
                        return false;
                    }
                    if packed.len() < limits.set_max_listpack_entries
                        && member.len() <= limits.set_max_listpack_value
                    {
                        packed.push_back(member);
                        return true;
                    }
                    self.become_table();
                }
                Repr::Table(members) => return members.add(member),
            }
        }
    }

    /// Removes a member; `false` if it was not there.
    pub(crate) fn remove(&mut self, member: &[u8]) -> bool {
        match &mut self.0 {
            Repr::Ints(ints) => parse_i64(member).is_some_and(|value| ints.remove(value)),
            Repr::Packed(packed) => {
                let Some(at) = find(packed, member) else { return false };
                packed.remove(at);
                true
            }
            Repr::Table(members) => {
                let removed = members.table.remove(member);
                members.memory -= removed.as_ref().map_or(0, Member::memory);
                removed.is_some()
            }
        }
    }

    /// Members in no meaningful order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        let (ints, packed, table) = match &self.0 {
            Repr::Ints(ints) => (Some(ints), None, None),
            Repr::Packed(packed) => (None, Some(packed), None),
            Repr::Table(members) => (None, None, Some(&members.table)),
        };
        let ints = ints.into_iter().flat_map(|ints| ints.iter().map(Item::Int));
        let packed = packed.into_iter().flat_map(Packed::iter);
        let table = table.into_iter().flat_map(|table| table.iter());
        ints.chain(packed).chain(table.map(|member| Item::Bytes(member.key())))
    }

    /// One step of SSCAN: visits some members, returns the next cursor. See [`Table::scan`].
    pub(crate) fn scan<'t>(&'t self, cursor: u64, mut visit: impl FnMut(Item<'t>)) -> u64 {
        match &self.0 {
            Repr::Table(members) => {
                members.table.scan(cursor, |member| visit(Item::Bytes(member.key())))
            }
            _ => {
                self.iter().for_each(visit);
                0
            }
        }
    }

    /// A random member of a set that is not empty, the same for any encoding.
    pub(crate) fn random(&self, rng: &mut Rng) -> Vec<u8> {
        match &self.0 {
            Repr::Table(members) => {
                members.table.random(rng).expect("the set is not empty").key().to_vec()
            }
            _ => pick::one(self.iter().map(Item::to_vec), self.len(), rng),
        }
    }

    /// Takes out `count` random members, fewer than there are; the same for any encoding.
    pub(crate) fn take_random(&mut self, count: usize, rng: &mut Rng) -> Vec<Vec<u8>> {
        if matches!(self.0, Repr::Table(_)) {
            return (0..count)
                .map(|_| {
                    let member = self.random(rng);
                    self.remove(&member);
                    member
                })
                .collect();
        }
        let mut candidates = self.candidates();
        let taken: Vec<_> = (0..count).map(|_| candidates.take(rng)).collect();
        for member in &taken {
            self.remove(member);
        }
        taken
    }

    /// All members as candidates for random picks.
    pub(crate) fn candidates(&self) -> Candidates {
        Candidates::new(self.iter().map(Item::to_vec))
    }

    /// The integers get company that is none.
    fn leave_ints(&mut self, member: &[u8], limits: &EncodingLimits) {
        let Repr::Ints(ints) = &self.0 else { return };
        let fits = ints.len() < limits.set_max_listpack_entries
            && member.len() <= limits.set_max_listpack_value
            && limits.set_max_listpack_value >= 20;
        if !fits {
            return self.become_table();
        }
        let mut packed = Packed::new();
        for value in ints.iter() {
            packed.push_back(itoa::Buffer::new().format(value).as_bytes());
        }
        self.0 = Repr::Packed(packed);
    }

    fn become_table(&mut self) {
        let mut members = Box::new(Members { table: Table::new(), memory: 0 });
        members.table.reserve(self.len() + 1);
        for item in self.iter() {
            members.add_new(item.bytes(&mut itoa::Buffer::new()));
        }
        self.0 = Repr::Table(members);
    }
}

impl Members {
    fn add(&mut self, member: &[u8]) -> bool {
        let hash = self.table.hash(member);
        if self.table.get_hashed(hash, member).is_some() {
            return false;
        }
        let entry = Member::new(member);
        self.memory += entry.memory();
        self.table.insert_hashed(hash, entry);
        true
    }

    /// Adds a member that is not there.
    fn add_new(&mut self, member: &[u8]) {
        let entry = Member::new(member);
        self.memory += entry.memory();
        self.table.insert(entry);
    }
}

impl Clone for Members {
    fn clone(&self) -> Self {
        let mut copy = Self { table: Table::new(), memory: 0 };
        copy.table.reserve(self.table.len());
        for member in self.table.iter() {
            copy.add_new(member.key());
        }
        copy
    }
}

impl Aggregate for Set {
    fn len(&self) -> usize {
        self.len()
    }

    fn memory(&self) -> usize {
        allocated(size_of::<Self>())
            + match &self.0 {
                Repr::Ints(ints) => ints.memory(),
                Repr::Packed(packed) => packed.memory(),
                Repr::Table(members) => {
                    allocated(size_of::<Members>()) + members.table.memory() + members.memory
                }
            }
    }

    fn encoding(&self) -> &'static str {
        match &self.0 {
            Repr::Ints(_) => "intset",
            Repr::Packed(_) => "listpack",
            Repr::Table(_) => "hashtable",
        }
    }

    fn digest(&self, digest: &mut Digest) {
        digest.unordered(self.iter(), |digest, member| {
            digest.bytes(member.bytes(&mut itoa::Buffer::new()));
        });
    }
}

fn find(packed: &Packed, member: &[u8]) -> Option<usize> {
    packed.find(packed.first()?, Item::of(member), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const TABLE: EncodingLimits = EncodingLimits {
        set_max_intset_entries: 0,
        set_max_listpack_entries: 0,
        ..EncodingLimits::REDIS
    };
    const PACKED: EncodingLimits =
        EncodingLimits { set_max_listpack_entries: 5000, ..EncodingLimits::REDIS };
    const SMALL: EncodingLimits = EncodingLimits {
        set_max_intset_entries: 20,
        set_max_listpack_entries: 30,
        ..EncodingLimits::REDIS
    };

    fn contents(set: &Set) -> BTreeSet<Vec<u8>> {
        set.iter().map(Item::to_vec).collect()
    }

    fn digest_of(set: &Set) -> [u8; 16] {
        let mut digest = Digest::new();
        set.digest(&mut digest);
        digest.finish()
    }

    proptest! {
        #[test]
        fn encodings_equal_a_set(
            ops in prop::collection::vec((0u8..4, prop_oneof![
                8 => (-30i64..30).prop_map(|value| value.to_string().into_bytes()),
                1 => "[a-c]{1,2}".prop_map(String::into_bytes),
            ]), 0..200),
            take in 0usize..20,
        ) {
            crate::hash::enter(3);
            let limits = [&EncodingLimits::REDIS, &PACKED, &SMALL, &TABLE];
            let mut sets = [(); 4].map(|()| Set::new());
            let mut model = BTreeSet::new();
            for (op, member) in ops {
                for (set, limits) in sets.iter_mut().zip(limits) {
                    if op == 0 {
                        prop_assert_eq!(set.remove(&member), model.contains(&member));
                    } else {
                        prop_assert_eq!(set.add(&member, limits), !model.contains(&member));
                    }
                    prop_assert_eq!(set.contains(&member), op != 0);
                }
                if op == 0 {
                    model.remove(&member);
                } else {
                    model.insert(member);
                }
            }
            for set in &sets {
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(&contents(set), &model);
                prop_assert_eq!(&contents(&set.clone()), &model);
                prop_assert_eq!(digest_of(set), digest_of(&sets[0]));
            }
            if take < model.len() {
                let taken = sets.each_mut().map(|set| set.take_random(take, &mut Rng::new(5, 6, 7)));
                for (set, taken_here) in sets.iter().zip(&taken) {
                    prop_assert_eq!(taken_here, &taken[0]);
                    prop_assert_eq!(contents(set), contents(&sets[0]));
                    prop_assert_eq!(set.len(), model.len() - take);
                }
            }
        }
    }

    #[test]
    fn encodings_follow_redis() {
        let limits = &EncodingLimits::REDIS;
        let mut set = Set::new();
        for member in 0..512 {
            set.add(member.to_string().as_bytes(), limits);
        }
        assert_eq!(set.encoding(), "intset");
        set.add(b"512", limits);
        assert_eq!(set.encoding(), "hashtable");
        let mut set = Set::new();
        set.add(b"1", limits);
        set.add(b"a", limits);
        assert_eq!(set.encoding(), "listpack");
        set.add(&[b'x'; 65], limits);
        assert_eq!(set.encoding(), "hashtable");
    }
}
