//! The hash type: packed pairs while it is small, then a table with one allocation per field.

use super::Aggregate;
use super::packed::{Item, Packed};
use super::pick::{self, Candidates};
use super::record::Field;
use crate::config::EncodingLimits;
use crate::digest::Digest;
use crate::memory::allocated;
use crate::random::Rng;
use crate::table::{Keyed, Table};

/// Fields with values.
#[derive(Clone, Debug)]
pub struct Hash(Repr);

#[derive(Clone, Debug)]
enum Repr {
    /// Field, value, field, value, in the order in which they were added.
    Packed(Packed),
    Table(Box<Fields>),
}

#[derive(Debug)]
struct Fields {
    table: Table<Field>,
    /// Bytes of all elements.
    memory: usize,
}

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

impl Hash {
    pub fn new() -> Self {
        Self(Repr::Packed(Packed::new()))
    }

    /// Takes over packed pairs: for loading. `None` if they are not pairs, if a field comes twice,
    /// or if they are over the limits.
    pub(crate) fn from_packed(packed: Packed, limits: &EncodingLimits) -> Option<Self> {
        let mut fields: Vec<_> = packed.pairs().map(|(field, _)| field.to_vec()).collect();
        let count = fields.len();
        fields.sort_unstable();
        fields.dedup();
        let small = count <= limits.hash_max_listpack_entries
            && packed.iter().all(|item| item.text_len() <= limits.hash_max_listpack_value);
        let valid = packed.len().is_multiple_of(2) && fields.len() == count;
        (valid && small).then_some(Self(Repr::Packed(packed)))
    }

    /// The packed pairs of a small hash.
    pub(crate) fn as_packed(&self) -> Option<&Packed> {
        match &self.0 {
            Repr::Packed(packed) => Some(packed),
            Repr::Table(_) => None,
        }
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Packed(packed) => packed.len() / 2,
            Repr::Table(fields) => fields.table.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, field: &[u8]) -> Option<Item<'_>> {
        match &self.0 {
            Repr::Packed(packed) => {
                let at = find(packed, field)?;
                Some(packed.get(packed.next(at)?))
            }
            Repr::Table(fields) => fields.table.get(field).map(|entry| Item::Bytes(entry.value())),
        }
    }

    pub(crate) fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Sets a field; `true` if it is new.
    pub(crate) fn set(&mut self, field: &[u8], value: &[u8], limits: &EncodingLimits) -> bool {
        let max = limits.hash_max_listpack_value;
        if let Repr::Packed(packed) = &mut self.0 {
            if field.len() <= max && value.len() <= max {
                if let Some(at) = find(packed, field) {
                    let at = packed.next(at).expect("a field has a value");
                    packed.replace(at, value);
                    return false;
                }
                if packed.len() / 2 < limits.hash_max_listpack_entries {
                    packed.push_back(field);
                    packed.push_back(value);
                    return true;
                }
            }
            self.convert();
        }
        match &mut self.0 {
            Repr::Table(fields) => fields.set(field, value),
            Repr::Packed(_) => unreachable!("converted above"),
        }
    }

    /// Removes a field; `false` if it was not there.
    pub(crate) fn remove(&mut self, field: &[u8]) -> bool {
        match &mut self.0 {
            Repr::Packed(packed) => {
                let Some(at) = find(packed, field) else { return false };
                packed.remove_run(at, 2);
                true
            }
            Repr::Table(fields) => fields.remove(field),
        }
    }

    /// Fields with their values, in no meaningful order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
        let packed = self.as_packed().map(Packed::pairs);
        let table = match &self.0 {
            Repr::Packed(_) => None,
            Repr::Table(fields) => Some(&fields.table),
        };
        let table = table.map(|table| {
            table.iter().map(|entry| (Item::Bytes(entry.key()), Item::Bytes(entry.value())))
        });
        packed.into_iter().flatten().chain(table.into_iter().flatten())
    }

    /// One step of HSCAN: visits some fields, returns the next cursor. See [`Table::scan`].
    pub(crate) fn scan<'t>(
        &'t self,
        cursor: u64,
        mut visit: impl FnMut(Item<'t>, Item<'t>),
    ) -> u64 {
        match &self.0 {
            Repr::Packed(packed) => {
                packed.pairs().for_each(|(field, value)| visit(field, value));
                0
            }
            Repr::Table(fields) => fields.table.scan(cursor, |entry| {
                visit(Item::Bytes(entry.key()), Item::Bytes(entry.value()));
            }),
        }
    }

    /// A random field of a hash that is not empty, the same for any encoding.
    pub(crate) fn random(&self, rng: &mut Rng) -> Vec<u8> {
        match &self.0 {
            Repr::Packed(_) => pick::one(self.fields(), self.len(), rng),
            Repr::Table(fields) => {
                fields.table.random(rng).expect("the hash is not empty").key().to_vec()
            }
        }
    }

    /// All fields as candidates for random picks.
    pub(crate) fn candidates(&self) -> Candidates {
        Candidates::new(self.fields())
    }

    fn fields(&self) -> impl Iterator<Item = Vec<u8>> {
        self.iter().map(|(field, _)| field.to_vec())
    }

    fn convert(&mut self) {
        let Repr::Packed(packed) = &self.0 else { return };
        let mut fields = Box::new(Fields { table: Table::new(), memory: 0 });
        fields.table.reserve(packed.len() / 2 + 1);
        for (field, value) in packed.pairs() {
            fields
                .add(field.bytes(&mut itoa::Buffer::new()), value.bytes(&mut itoa::Buffer::new()));
        }
        self.0 = Repr::Table(fields);
    }
}

impl Fields {
    fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        let hash = self.table.hash(field);
        let Some(entry) = self.table.get_mut_hashed(hash, field) else {
            let entry = Field::new(field, value);
            self.memory += entry.memory();
            self.table.insert_hashed(hash, entry);
            return true;
        };
        self.memory -= entry.memory();
        entry.set_value(value);
        self.memory += entry.memory();
        false
    }

    /// Adds a field that is not there.
    fn add(&mut self, field: &[u8], value: &[u8]) {
        let entry = Field::new(field, value);
        self.memory += entry.memory();
        self.table.insert(entry);
    }

    fn remove(&mut self, field: &[u8]) -> bool {
        let removed = self.table.remove(field);
        self.memory -= removed.as_ref().map_or(0, Field::memory);
        removed.is_some()
    }
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut copy = Self { table: Table::new(), memory: 0 };
        copy.table.reserve(self.table.len());
        for entry in self.table.iter() {
            copy.add(entry.key(), entry.value());
        }
        copy
    }
}

impl Aggregate for Hash {
    fn len(&self) -> usize {
        self.len()
    }

    fn memory(&self) -> usize {
        allocated(size_of::<Self>())
            + match &self.0 {
                Repr::Packed(packed) => packed.memory(),
                Repr::Table(fields) => {
                    allocated(size_of::<Fields>()) + fields.table.memory() + fields.memory
                }
            }
    }

    fn encoding(&self) -> &'static str {
        match &self.0 {
            Repr::Packed(_) => "listpack",
            Repr::Table(_) => "hashtable",
        }
    }

    fn digest(&self, digest: &mut Digest) {
        digest.unordered(self.iter(), |digest, (field, value)| {
            digest.bytes(field.bytes(&mut itoa::Buffer::new()));
            digest.bytes(value.bytes(&mut itoa::Buffer::new()));
        });
    }
}

/// Position of a field in packed pairs.
fn find(packed: &Packed, field: &[u8]) -> Option<usize> {
    packed.find(packed.first()?, Item::of(field), 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const PACKED: EncodingLimits =
        EncodingLimits { hash_max_listpack_entries: 1000, ..EncodingLimits::REDIS };
    const TABLE: EncodingLimits =
        EncodingLimits { hash_max_listpack_entries: 0, ..EncodingLimits::REDIS };

    fn contents(hash: &Hash) -> BTreeMap<Vec<u8>, Vec<u8>> {
        hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect()
    }

    fn digest_of(hash: &Hash) -> [u8; 16] {
        let mut digest = Digest::new();
        hash.digest(&mut digest);
        digest.finish()
    }

    proptest! {
        #[test]
        fn encodings_equal_a_map(ops in prop::collection::vec(
            (0u8..4, 0u8..60, prop_oneof![
                any::<i64>().prop_map(|value| value.to_string().into_bytes()),
                prop::collection::vec(any::<u8>(), 0..60),
            ]), 0..200,
        )) {
            crate::hash::enter(3);
            let limits = [&PACKED, &EncodingLimits::REDIS, &TABLE];
            let mut hashes = [(); 3].map(|()| Hash::new());
            let mut model = BTreeMap::new();
            for (op, field, value) in ops {
                let field = field.to_string().into_bytes();
                for (hash, limits) in hashes.iter_mut().zip(limits) {
                    if op == 0 {
                        prop_assert_eq!(hash.remove(&field), model.contains_key(&field));
                    } else {
                        prop_assert_eq!(hash.set(&field, &value, limits), !model.contains_key(&field));
                    }
                }
                if op == 0 {
                    model.remove(&field);
                } else {
                    model.insert(field, value);
                }
            }
            for hash in &hashes {
                prop_assert_eq!(hash.len(), model.len());
                prop_assert_eq!(&contents(hash), &model);
                prop_assert_eq!(contents(&hash.clone()), contents(hash));
                prop_assert_eq!(digest_of(hash), digest_of(&hashes[0]));
                if !model.is_empty() {
                    let pick = hash.random(&mut Rng::new(1, 2, 3));
                    prop_assert_eq!(pick, hashes[0].random(&mut Rng::new(1, 2, 3)));
                }
                for (field, value) in &model {
                    prop_assert_eq!(hash.get(field).map(Item::to_vec), Some(value.clone()));
                }
            }
        }
    }

    #[test]
    fn accounts_for_every_byte() {
        let mut hash = Hash::new();
        for round in 0..3 {
            for field in 0..1000usize {
                let value = vec![b'x'; (field * 7 + round * 31) % 300];
                hash.set(field.to_string().as_bytes(), &value, &EncodingLimits::REDIS);
            }
        }
        for field in 0..500 {
            hash.remove(field.to_string().as_bytes());
        }
        let Repr::Table(fields) = &hash.0 else { panic!("too big to be packed") };
        assert_eq!(fields.memory, fields.table.iter().map(Field::memory).sum::<usize>());
    }
}
