//! The list type: one packed sequence while it is small, then a deque of them (Redis's
//! *quicklist*), so that both ends are cheap and the middle is not far.

use super::Aggregate;
use super::packed::{Item, Packed};
use crate::config::EncodingLimits;
use crate::digest::Digest;
use crate::memory::allocated;
use std::collections::VecDeque;

/// A list of byte strings.
#[derive(Clone, Debug)]
pub struct List(Repr);

#[derive(Clone, Debug)]
enum Repr {
    Packed(Packed),
    Nodes(Box<Nodes>),
}

/// At least one node; no node is empty.
#[derive(Clone, Debug)]
struct Nodes {
    nodes: VecDeque<Node>,
    len: usize,
    /// Bytes of all packed sequences.
    memory: usize,
}

#[derive(Clone, Debug)]
struct Node {
    packed: Packed,
    /// Elements of `packed`. Kept beside the pointer, so that finding an index reads only the
    /// deque.
    count: u32,
}

/// Either end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

impl Default for List {
    fn default() -> Self {
        Self::new()
    }
}

impl List {
    pub fn new() -> Self {
        Self(Repr::Packed(Packed::new()))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Packed(packed) => packed.len(),
            Repr::Nodes(nodes) => nodes.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&mut self, end: End, bytes: &[u8], limits: &EncodingLimits) {
        let max = limits.list_max_listpack_bytes;
        if let Repr::Packed(packed) = &mut self.0 {
            if fits(packed, bytes, max) {
                return packed.push(end, bytes);
            }
            if packed.is_empty() {
                packed.push(end, bytes);
                return;
            }
        }
        self.nodes_mut().push(end, bytes, max);
    }

    /// Appends all elements of `packed` as one node: for loading.
    pub(crate) fn append_packed(&mut self, packed: Packed) {
        if packed.is_empty() {
            return;
        }
        if self.is_empty() {
            self.0 = Repr::Packed(packed);
        } else {
            let nodes = self.nodes_mut();
            nodes.insert_node(nodes.nodes.len(), packed);
        }
    }

    pub(crate) fn pop(&mut self, end: End) -> Option<Vec<u8>> {
        let index = match end {
            End::Front => 0,
            End::Back => self.len().checked_sub(1)?,
        };
        let bytes = self.get(index)?.to_vec();
        self.remove_run(index, 1);
        Some(bytes)
    }

    /// The element with this index.
    pub(crate) fn get(&self, index: usize) -> Option<Item<'_>> {
        match &self.0 {
            Repr::Packed(packed) => Some(packed.get(packed.seek(index as i64)?)),
            Repr::Nodes(nodes) => {
                let (node, at) = nodes.locate(index)?;
                let packed = &nodes.nodes[node].packed;
                Some(packed.get(packed.seek(at as i64)?))
            }
        }
    }

    /// Replaces the element with this index, which exists.
    pub(crate) fn set(&mut self, index: usize, bytes: &[u8], limits: &EncodingLimits) {
        let max = limits.list_max_listpack_bytes;
        match &mut self.0 {
            Repr::Packed(packed) if packed.len() == 1 || fits(packed, bytes, max) => {
                let at = packed.seek(index as i64).expect("the caller checked the index");
                packed.replace(at, bytes);
            }
            _ => {
                let nodes = self.nodes_mut();
                let (node, at) = nodes.locate(index).expect("the caller checked the index");
                let packed = &nodes.nodes[node].packed;
                if packed.len() == 1 || fits(packed, bytes, max) {
                    nodes.change(node, |packed| {
                        let at = packed.seek(at as i64).expect("located above");
                        packed.replace(at, bytes);
                    });
                } else {
                    self.remove_run(index, 1);
                    self.insert(index, bytes, limits);
                }
            }
        }
    }

    /// Inserts in front of the element with this index, or at the end.
    pub(crate) fn insert(&mut self, index: usize, bytes: &[u8], limits: &EncodingLimits) {
        if index == self.len() {
            return self.push(End::Back, bytes, limits);
        }
        let max = limits.list_max_listpack_bytes;
        match &mut self.0 {
            Repr::Packed(packed) if fits(packed, bytes, max) => {
                let at = packed.seek(index as i64).expect("the caller checked the index");
                packed.insert(at, bytes);
            }
            _ => self.nodes_mut().insert(index, bytes, max),
        }
    }

    /// Removes `count` elements from `index` on (fewer if there are not as many).
    pub(crate) fn remove_run(&mut self, index: usize, count: usize) {
        match &mut self.0 {
            Repr::Packed(packed) => {
                if let Some(at) = packed.seek(index as i64) {
                    packed.remove_run(at, count);
                }
            }
            Repr::Nodes(nodes) => {
                nodes.remove_run(index, count);
                self.repack();
            }
        }
    }

    /// Removes elements equal to `bytes`: at most `limit`, from the `end` inwards. Returns how many.
    pub(crate) fn remove_equal(&mut self, bytes: &[u8], limit: usize, end: End) -> usize {
        let item = Item::of(bytes);
        match &mut self.0 {
            Repr::Packed(packed) => remove_equal(packed, item, limit, end),
            Repr::Nodes(nodes) => {
                let mut removed = 0;
                let mut rest = nodes.nodes.len();
                let mut node = if end == End::Front { 0 } else { rest - 1 };
                while rest > 0 && removed < limit {
                    let left = limit - removed;
                    let emptied = nodes.change(node, |packed| {
                        removed += remove_equal(packed, item, left, end);
                    });
                    rest -= 1;
                    match end {
                        End::Front if !emptied => node += 1,
                        End::Back => node = node.saturating_sub(1),
                        End::Front => {}
                    }
                }
                self.repack();
                removed
            }
        }
    }

    /// Elements `from..from + count` in order.
    pub(crate) fn range(&self, from: usize, count: usize) -> impl Iterator<Item = Item<'_>> {
        let (first, at) = self.locate(from);
        self.packs(first..usize::MAX)
            .enumerate()
            .flat_map(move |(index, packed)| match index {
                0 => packed
                    .seek(at as i64)
                    .map_or_else(|| packed.iter_from(packed.end()), |at| packed.iter_from(at)),
                _ => packed.iter(),
            })
            .take(count)
    }

    /// The elements of indexes `0..until`, backwards.
    pub(crate) fn range_back(&self, until: usize) -> impl Iterator<Item = Item<'_>> {
        let (last, at) = self.locate(until);
        self.packs(0..last + 1).rev().enumerate().flat_map(move |(index, packed)| {
            match index {
                0 => {
                    packed.seek(at as i64).map_or_else(|| packed.iter(), |at| packed.iter_until(at))
                }
                _ => packed.iter(),
            }
            .rev()
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.packs(0..usize::MAX).flat_map(Packed::iter)
    }

    /// The packed sequences that make up the list.
    pub(crate) fn packs(
        &self,
        range: std::ops::Range<usize>,
    ) -> impl DoubleEndedIterator<Item = &Packed> + ExactSizeIterator {
        Packs { list: self, front: range.start, back: range.end.min(self.pack_count()) }
    }

    fn pack_count(&self) -> usize {
        match &self.0 {
            Repr::Packed(_) => 1,
            Repr::Nodes(nodes) => nodes.nodes.len(),
        }
    }

    fn pack(&self, index: usize) -> &Packed {
        match &self.0 {
            Repr::Packed(packed) => packed,
            Repr::Nodes(nodes) => &nodes.nodes[index].packed,
        }
    }

    /// Which packed sequence has an index, and where in it. For the length of the list, the end of
    /// the last one.
    fn locate(&self, index: usize) -> (usize, usize) {
        match &self.0 {
            Repr::Packed(_) => (0, index),
            Repr::Nodes(nodes) => nodes.locate(index).unwrap_or_else(|| {
                let last = nodes.nodes.len() - 1;
                (last, nodes.nodes[last].count as usize)
            }),
        }
    }

    fn nodes_mut(&mut self) -> &mut Nodes {
        if let Repr::Packed(packed) = &mut self.0 {
            let packed = std::mem::replace(packed, Packed::new());
            let mut nodes = Nodes { nodes: VecDeque::new(), len: 0, memory: 0 };
            if !packed.is_empty() {
                nodes.insert_node(0, packed);
            }
            self.0 = Repr::Nodes(Box::new(nodes));
        }
        match &mut self.0 {
            Repr::Nodes(nodes) => nodes,
            Repr::Packed(_) => unreachable!("converted above"),
        }
    }

    /// Gives up the deque when one small node is left, or none.
    fn repack(&mut self) {
        let Repr::Nodes(nodes) = &mut self.0 else { return };
        if nodes.nodes.len() <= 1 {
            let packed = nodes.nodes.pop_front().map_or_else(Packed::new, |node| node.packed);
            self.0 = Repr::Packed(packed);
        }
    }
}

impl Nodes {
    /// The node that has this index, and the index in it.
    fn locate(&self, mut index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index > self.len / 2 {
            let mut from_end = self.len - index;
            for (node, Node { count, .. }) in self.nodes.iter().enumerate().rev() {
                let count = *count as usize;
                if from_end <= count {
                    return Some((node, count - from_end));
                }
                from_end -= count;
            }
        }
        for (node, Node { count, .. }) in self.nodes.iter().enumerate() {
            let count = *count as usize;
            if index < count {
                return Some((node, index));
            }
            index -= count;
        }
        None
    }

    fn push(&mut self, end: End, bytes: &[u8], max: usize) {
        let node = match end {
            End::Front => 0,
            End::Back => self.nodes.len().saturating_sub(1),
        };
        if self.nodes.get(node).is_some_and(|node| fits(&node.packed, bytes, max)) {
            self.change(node, |packed| packed.push(end, bytes));
        } else {
            let node = if end == End::Front { 0 } else { self.nodes.len() };
            self.insert_node(node, single(bytes));
        }
    }

    fn insert(&mut self, index: usize, bytes: &[u8], max: usize) {
        let (node, at) = self.locate(index).expect("the caller checked the index");
        let position = |packed: &Packed| packed.seek(at as i64).expect("located above");
        if fits(&self.nodes[node].packed, bytes, max) {
            self.change(node, |packed| packed.insert(position(packed), bytes));
            return;
        }
        if at > 0 {
            let mut tail = Packed::new();
            self.change(node, |packed| tail = packed.split_off(position(packed)));
            self.insert_node(node + 1, tail);
            if fits(&self.nodes[node].packed, bytes, max) {
                self.change(node, |packed| packed.push_back(bytes));
                return;
            }
        } else if node > 0 && fits(&self.nodes[node - 1].packed, bytes, max) {
            self.change(node - 1, |packed| packed.push_back(bytes));
            return;
        }
        self.insert_node(node + usize::from(at > 0), single(bytes));
    }

    fn remove_run(&mut self, index: usize, count: usize) {
        let Some((mut node, mut at)) = self.locate(index) else { return };
        let mut left = count.min(self.len - index);
        while left > 0 {
            let here = (self.nodes[node].count as usize - at).min(left);
            left -= here;
            if here == self.nodes[node].count as usize {
                self.remove_node(node);
                continue;
            }
            self.change(node, |packed| {
                let position = packed.seek(at as i64).expect("located above");
                packed.remove_run(position, here);
            });
            node += 1;
            at = 0;
        }
        self.merge_around(node.min(self.nodes.len()));
    }

    /// Joins the nodes on both sides of a boundary when together they are half of what was there.
    fn merge_around(&mut self, boundary: usize) {
        if boundary == 0 || boundary >= self.nodes.len() {
            return;
        }
        let (left, right) = (&self.nodes[boundary - 1].packed, &self.nodes[boundary].packed);
        if left.byte_len() + right.byte_len() > EncodingLimits::REDIS.list_max_listpack_bytes / 4 {
            return;
        }
        let right = self.remove_node(boundary);
        self.change(boundary - 1, |packed| packed.append(&right));
    }

    /// Changes one node and keeps the sums; a node that became empty is removed. Returns whether.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Packed)) -> bool {
        let node = &mut self.nodes[index];
        self.memory -= node.packed.memory();
        self.len -= node.count as usize;
        change(&mut node.packed);
        node.count = node.packed.len() as u32;
        self.memory += node.packed.memory();
        self.len += node.count as usize;
        let emptied = node.count == 0;
        if emptied {
            self.remove_node(index);
        }
        emptied
    }

    fn insert_node(&mut self, index: usize, packed: Packed) {
        let count = packed.len() as u32;
        self.memory += packed.memory();
        self.len += count as usize;
        self.nodes.insert(index, Node { packed, count });
    }

    fn remove_node(&mut self, index: usize) -> Packed {
        let node = self.nodes.remove(index).expect("the caller has the index of a node");
        self.memory -= node.packed.memory();
        self.len -= node.count as usize;
        node.packed
    }
}

impl Packed {
    fn push(&mut self, end: End, bytes: &[u8]) {
        match end {
            End::Front => self.push_front(bytes),
            End::Back => self.push_back(bytes),
        }
    }
}

/// Packed sequences of a list, from either end.
struct Packs<'a> {
    list: &'a List,
    front: usize,
    back: usize,
}

impl<'a> Iterator for Packs<'a> {
    type Item = &'a Packed;

    fn next(&mut self) -> Option<&'a Packed> {
        if self.front >= self.back {
            return None;
        }
        self.front += 1;
        Some(self.list.pack(self.front - 1))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.back.saturating_sub(self.front);
        (left, Some(left))
    }
}

impl DoubleEndedIterator for Packs<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.back -= 1;
        Some(self.list.pack(self.back))
    }
}

impl ExactSizeIterator for Packs<'_> {}

impl Aggregate for List {
    fn len(&self) -> usize {
        self.len()
    }

    fn memory(&self) -> usize {
        allocated(size_of::<Self>())
            + match &self.0 {
                Repr::Packed(packed) => packed.memory(),
                Repr::Nodes(nodes) => {
                    allocated(size_of::<Nodes>())
                        + allocated(nodes.nodes.capacity() * size_of::<Node>())
                        + nodes.memory
                }
            }
    }

    fn encoding(&self) -> &'static str {
        match &self.0 {
            Repr::Packed(_) => "listpack",
            Repr::Nodes(_) => "quicklist",
        }
    }

    fn digest(&self, digest: &mut Digest) {
        let mut text = itoa::Buffer::new();
        for item in self.iter() {
            digest.bytes(item.bytes(&mut text));
        }
    }
}

fn fits(packed: &Packed, bytes: &[u8], max: usize) -> bool {
    packed.byte_len() + Packed::cost(bytes) <= max
}

fn single(bytes: &[u8]) -> Packed {
    let mut packed = Packed::new();
    packed.push_back(bytes);
    packed
}

fn remove_equal(packed: &mut Packed, item: Item<'_>, limit: usize, end: End) -> usize {
    let mut removed = 0;
    match end {
        End::Front => {
            let mut from = packed.first();
            while removed < limit
                && let Some(at) = from.and_then(|from| packed.find(from, item, 1))
            {
                packed.remove(at);
                removed += 1;
                from = Some(at);
            }
        }
        End::Back => {
            let mut from = packed.last();
            while removed < limit
                && let Some(at) = from
            {
                from = packed.prev(at);
                if packed.get(at) == item {
                    packed.remove(at);
                    removed += 1;
                }
            }
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts<'a>(items: impl Iterator<Item = Item<'a>>) -> Vec<Vec<u8>> {
        items.map(Item::to_vec).collect()
    }

    fn element() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            8 => (0i64..5).prop_map(|value| value.to_string().into_bytes()),
            4 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::collection::vec(any::<u8>(), 250..300),
        ]
    }

    fn check(list: &List, model: &[Vec<u8>]) {
        assert_eq!(list.len(), model.len());
        assert_eq!(texts(list.iter()), model);
        if let Repr::Nodes(nodes) = &list.0 {
            assert!(nodes.nodes.len() > 1);
            assert!(nodes.nodes.iter().all(|node| node.count > 0));
            let memory: usize = nodes.nodes.iter().map(|node| node.packed.memory()).sum();
            assert_eq!(nodes.memory, memory);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn equals_a_vector(ops in prop::collection::vec(
            (0u8..9, any::<usize>(), 0usize..12, element()), 0..150,
        )) {
            let limits = EncodingLimits { list_max_listpack_bytes: 200, ..EncodingLimits::REDIS };
            let mut list = List::new();
            let mut model: Vec<Vec<u8>> = Vec::new();
            for (op, at, count, bytes) in ops {
                let len = model.len();
                match op {
                    0..=2 => {
                        list.push(End::Back, &bytes, &limits);
                        model.push(bytes);
                    }
                    3 => {
                        list.push(End::Front, &bytes, &limits);
                        model.insert(0, bytes);
                    }
                    4 => {
                        list.insert(at % (len + 1), &bytes, &limits);
                        model.insert(at % (len + 1), bytes);
                    }
                    5 if len > 0 => {
                        list.set(at % len, &bytes, &limits);
                        model[at % len] = bytes;
                    }
                    6 if len > 0 => {
                        list.remove_run(at % len, count);
                        model.drain(at % len..(at % len + count).min(len));
                    }
                    7 => {
                        let end = if at.is_multiple_of(2) { End::Front } else { End::Back };
                        let mut expected = 0;
                        while expected < count {
                            let found = match end {
                                End::Front => model.iter().position(|other| *other == bytes),
                                End::Back => model.iter().rposition(|other| *other == bytes),
                            };
                            let Some(found) = found else { break };
                            model.remove(found);
                            expected += 1;
                        }
                        prop_assert_eq!(list.remove_equal(&bytes, count, end), expected);
                    }
                    8 if len > 0 => {
                        prop_assert_eq!(list.pop(End::Front), Some(model.remove(0)));
                        prop_assert_eq!(list.pop(End::Back), model.pop());
                    }
                    _ => {}
                }
                check(&list, &model);
            }
            for index in 0..model.len() {
                prop_assert_eq!(list.get(index).map(Item::to_vec), Some(model[index].clone()));
                prop_assert_eq!(texts(list.range(index, 7)), &model[index..model.len().min(index + 7)]);
                let mut back = texts(list.range_back(index));
                back.reverse();
                prop_assert_eq!(&back[..], &model[..index]);
            }
            prop_assert_eq!(list.range(model.len(), 5).count(), 0);
            prop_assert_eq!(list.range_back(model.len()).count(), model.len());
        }
    }
}
