use super::*;
use crate::random::Rng;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[allow(clippy::box_collection, reason = "a table holds pointers")]
struct Word(Box<Vec<u8>>);

impl Word {
    fn new(key: u32) -> Self {
        Self(Box::new(key.to_string().into_bytes()))
    }
}

impl Keyed for Word {
    fn key(&self) -> &[u8] {
        &self.0
    }
}

fn keys(table: &Table<Word>) -> BTreeSet<Vec<u8>> {
    table.iter().map(|word| word.key().to_vec()).collect()
}

fn successors(table: &Table<Word>, point: u64, count: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    table.successors(point, count, |word| found.push(word.key().to_vec()));
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_a_model(ops in prop::collection::vec((0u8..10, 0u32..400), 0..1500)) {
        let mut table = Table::with_seed(5);
        let mut model = BTreeSet::new();
        for (op, key) in ops {
            let bytes = key.to_string().into_bytes();
            // Phases of growth and of decline, so that both kinds of rehash happen.
            if op < 6 {
                if table.get_mut_hashed(table.hash(&bytes), &bytes).is_none() {
                    table.insert(Word::new(key));
                }
                model.insert(bytes);
            } else {
                prop_assert_eq!(table.remove(&bytes).is_some(), model.remove(&bytes));
            }
            prop_assert_eq!(table.len(), model.len());
        }
        prop_assert_eq!(keys(&table), model);
        let chained = table.memory();
        for key in keys(&table) {
            prop_assert!(table.remove(&key).is_some());
        }
        prop_assert!(table.memory() <= chained);
        while table.is_rehashing() {
            table.step();
        }
        table.shrink_if_needed();
        prop_assert_eq!(table.memory(), 0);
    }

    #[test]
    fn scans_miss_nothing_that_stays(
        stay in prop::collection::btree_set(0u32..1000, 0..300),
        change in prop::collection::vec((any::<bool>(), 1000u32..3000), 0..2000),
    ) {
        let mut table = Table::with_seed(9);
        for &key in &stay {
            table.insert(Word::new(key));
        }
        let mut seen = BTreeSet::new();
        let mut cursor = 0;
        let mut changes = change.into_iter();
        loop {
            cursor = table.scan(cursor, |word| { seen.insert(word.key().to_vec()); });
            if cursor == 0 {
                break;
            }
            for (insert, key) in changes.by_ref().take(20) {
                let bytes = key.to_string().into_bytes();
                if !insert {
                    table.remove(&bytes);
                } else if !table.contains(&bytes) {
                    table.insert(Word::new(key));
                }
            }
        }
        for key in stay {
            prop_assert!(seen.contains(key.to_string().as_bytes()), "{} was missed", key);
        }
    }

    #[test]
    fn successors_do_not_depend_on_layout(
        stay in prop::collection::btree_set(0u32..1000, 1..200),
        gone in prop::collection::btree_set(1000u32..3000, 0..1500),
        point in any::<u64>(),
        count in 1usize..300,
    ) {
        let mut plain = Table::with_seed(3);
        for &key in &stay {
            plain.insert(Word::new(key));
        }
        let mut other = Table::with_seed(3);
        for &key in &gone {
            other.insert(Word::new(key));
        }
        for &key in stay.iter().rev() {
            other.insert(Word::new(key));
        }
        for &key in &gone {
            other.remove(key.to_string().as_bytes());
        }
        let mut model: Vec<(u64, Vec<u8>)> = stay
            .iter()
            .map(|key| key.to_string().into_bytes())
            .map(|key| (plain.hash(&key).reverse_bits(), key))
            .collect();
        model.sort();
        let split = model.partition_point(|(order, _)| *order < point);
        model.rotate_left(split);
        let expected: Vec<Vec<u8>> = model.into_iter().take(count).map(|(_, key)| key).collect();
        prop_assert_eq!(&successors(&plain, point, count), &expected);
        prop_assert_eq!(&successors(&other, point, count), &expected);
    }
}

#[test]
fn random_is_close_to_uniform() {
    let mut table = Table::with_seed(1);
    for key in 0..50 {
        table.insert(Word::new(key));
    }
    let mut counts = BTreeMap::new();
    let mut rng = Rng::new(1, 2, 3);
    for _ in 0..50_000 {
        let word = table.random(&mut rng).expect("not empty");
        *counts.entry(word.key().to_vec()).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 50);
    // Choosing among 8 successors leaves a deviation of about a third of the gaps' spread.
    assert!(counts.values().all(|&count| (200..3000).contains(&count)), "{counts:?}");
}
