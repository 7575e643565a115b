//! A sorted array of integers, all of the narrowest width that holds them: Redis's *intset*.

use super::blob::Blob;

/// Total length and width.
const HEADER: usize = 8;

/// A small set of integers in one allocation.
#[derive(Clone)]
pub(crate) struct IntSet(Blob);

impl IntSet {
    pub(crate) fn new() -> Self {
        let mut empty = [0; HEADER];
        empty[4] = 2;
        Self(Blob::new(&empty))
    }

    pub(crate) fn len(&self) -> usize {
        (self.0.len() - HEADER) / self.width()
    }

    /// Bytes that the allocation takes.
    pub(crate) fn memory(&self) -> usize {
        self.0.memory()
    }

    /// Bytes per integer: 2, 4 or 8.
    pub(crate) fn width(&self) -> usize {
        usize::from(self.0[4])
    }

    /// The integers, little-endian, [`IntSet::width`] bytes each, ascending.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    /// The integer with this index in ascending order.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> i64 {
        let width = self.width();
        let at = HEADER + index * width;
        read(&self.0[at..at + width])
    }

    pub(crate) fn contains(&self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    /// Adds an integer; false if it was there.
    pub(crate) fn insert(&mut self, value: i64) -> bool {
        let Err(index) = self.search(value) else { return false };
        if width_of(value) > self.width() {
            self.widen(width_of(value));
        }
        let width = self.width();
        let at = HEADER + index * width;
        self.0.splice(at, 0, width);
        self.0[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        true
    }

    /// Removes an integer; false if it was not there.
    pub(crate) fn remove(&mut self, value: i64) -> bool {
        let Ok(index) = self.search(value) else { return false };
        let width = self.width();
        self.0.splice(HEADER + index * width, width, 0);
        true
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = i64> + ExactSizeIterator + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    fn search(&self, value: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        // Appending in ascending order is common.
        if high > 0 && self.get(high - 1) < value {
            return Err(high);
        }
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(&value) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    fn widen(&mut self, width: usize) {
        let mut wider = Vec::with_capacity(HEADER + self.len() * width);
        wider.extend_from_slice(&[0, 0, 0, 0, width as u8, 0, 0, 0]);
        for value in self.iter() {
            wider.extend_from_slice(&value.to_le_bytes()[..width]);
        }
        self.0 = Blob::new(&wider);
    }
}

impl std::fmt::Debug for IntSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn width_of(value: i64) -> usize {
    if i16::try_from(value).is_ok() {
        2
    } else if i32::try_from(value).is_ok() {
        4
    } else {
        8
    }
}

#[inline]
fn read(bytes: &[u8]) -> i64 {
    match *bytes {
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        _ => i64::from_le_bytes(*bytes.first_chunk().expect("widths are 2, 4 and 8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn equals_a_sorted_set(ops in prop::collection::vec(
            (any::<bool>(), prop_oneof![-50i64..50, -70_000i64..70_000, any::<i64>()]), 0..200,
        )) {
            let mut set = IntSet::new();
            let mut model = BTreeSet::new();
            for (insert, value) in ops {
                if insert {
                    prop_assert_eq!(set.insert(value), model.insert(value));
                } else {
                    prop_assert_eq!(set.remove(value), model.remove(&value));
                }
                prop_assert_eq!(set.contains(value), insert);
                prop_assert_eq!(set.len(), model.len());
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }
}
