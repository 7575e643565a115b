//! An ordered sequence with ranks: a B+tree whose inner nodes count what is below them.
//!
//! The keys are small and `Copy`; what order they have is the caller's business, who passes a
//! predicate to every search (as in `slice::partition_point`). A skip list as in Redis would cost
//! about 48 bytes per element more than its key, this costs about 6.

/// Keys per leaf and children per inner node. A leaf of 16-byte keys is 1 KiB: an insertion moves
/// half of that at most, and a search touches five or six cache lines of it.
const FANOUT: usize = 64;
/// Two neighbours are merged when one has fewer than this and both fit into three quarters of one.
const SPARSE: usize = FANOUT / 4;
/// Leaves grow by this many keys at a time.
const GROWTH: usize = 8;

/// A sequence of keys in the caller's order.
pub(crate) struct Ordered<K> {
    root: Node<K>,
    len: usize,
    /// Bytes of all nodes.
    memory: usize,
}

enum Node<K> {
    Leaf(Vec<K>),
    Inner(Vec<Child<K>>),
}

struct Child<K> {
    /// The first key below.
    first: K,
    /// How many keys are below.
    count: usize,
    node: Node<K>,
}

impl<K: Copy> Ordered<K> {
    pub(crate) fn new() -> Self {
        Self { root: Node::Leaf(Vec::new()), len: 0, memory: 0 }
    }

    /// Builds the sequence from keys in order.
    #[cfg(test)]
    pub(crate) fn from_sorted(keys: impl ExactSizeIterator<Item = K>) -> Self {
        let mut ordered = Self::new();
        for key in keys {
            ordered.insert_at(ordered.len, key);
        }
        ordered
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the nodes.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// How many keys `before` holds for; it must hold for a prefix of the sequence.
    pub(crate) fn partition_point(&self, mut before: impl FnMut(&K) -> bool) -> usize {
        let mut rank = 0;
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(keys) => return rank + keys.partition_point(before),
                Node::Inner(children) => {
                    let after = children.partition_point(|child| before(&child.first));
                    let Some(index) = after.checked_sub(1) else { return rank };
                    rank += children[..index].iter().map(|child| child.count).sum::<usize>();
                    node = &children[index].node;
                }
            }
        }
    }

    /// The key with this rank, counted from 0.
    pub(crate) fn get(&self, rank: usize) -> Option<K> {
        let (leaf, at) = self.leaf(rank)?;
        Some(leaf[at])
    }

    /// Inserts in front of the key with this rank.
    pub(crate) fn insert_at(&mut self, rank: usize, key: K) {
        assert!(rank <= self.len);
        let before = self.root.own_memory();
        let mut added = 0isize;
        let split = self.root.insert(rank, key, &mut added);
        self.len += 1;
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::with_capacity(2)));
            added += left.own_memory() as isize;
            if let Node::Inner(children) = &mut self.root {
                let count = self.len - right.count;
                children.push(Child { first: left.first_key(), count, node: left });
                children.push(right);
            }
        }
        added += self.root.own_memory() as isize - before as isize;
        self.memory = self.memory.wrapping_add_signed(added);
    }

    /// Removes and returns the key with this rank.
    pub(crate) fn remove_at(&mut self, rank: usize) -> K {
        assert!(rank < self.len);
        let mut added = 0;
        let key = self.root.remove(rank, &mut added);
        self.len -= 1;
        while let Node::Inner(children) = &mut self.root {
            if children.len() > 1 {
                break;
            }
            let child = children.pop().expect("an inner node has children");
            added -= self.root.own_memory() as isize;
            self.root = child.node;
        }
        self.memory = self.memory.wrapping_add_signed(added);
        key
    }

    /// Replaces the key with this rank by one that has the same place in the caller's order.
    pub(crate) fn replace_at(&mut self, mut rank: usize, key: K) {
        assert!(rank < self.len);
        let mut node = &mut self.root;
        loop {
            match node {
                Node::Leaf(keys) => {
                    keys[rank] = key;
                    return;
                }
                Node::Inner(children) => {
                    let index = child_of(children, &mut rank, false);
                    if rank == 0 {
                        children[index].first = key;
                    }
                    node = &mut children[index].node;
                }
            }
        }
    }

    /// Calls `visit` with the keys of ranks `from..until`, upwards, until it returns false.
    pub(crate) fn visit(&self, from: usize, until: usize, mut visit: impl FnMut(K) -> bool) {
        let mut rank = from;
        let until = until.min(self.len);
        while rank < until {
            let Some((leaf, at)) = self.leaf(rank) else { return };
            for &key in &leaf[at..leaf.len().min(at + until - rank)] {
                if !visit(key) {
                    return;
                }
                rank += 1;
            }
        }
    }

    /// Calls `visit` with the keys of ranks `from..until`, downwards, until it returns false.
    pub(crate) fn visit_back(&self, from: usize, until: usize, mut visit: impl FnMut(K) -> bool) {
        let mut rank = until.min(self.len);
        while rank > from {
            let Some((leaf, at)) = self.leaf(rank - 1) else { return };
            for &key in leaf[(at + 1).saturating_sub(rank - from)..=at].iter().rev() {
                if !visit(key) {
                    return;
                }
                rank -= 1;
            }
        }
    }

    /// The leaf that has the key of this rank, and where in it.
    fn leaf(&self, mut rank: usize) -> Option<(&[K], usize)> {
        if rank >= self.len {
            return None;
        }
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(keys) => return Some((keys, rank)),
                Node::Inner(children) => {
                    let index = child_of(children, &mut rank, false);
                    node = &children[index].node;
                }
            }
        }
    }
}

impl<K: Copy> Node<K> {
    /// Inserts at `rank`; returns the right half if the node had to be split. `added` grows by the
    /// memory of nodes other than this one.
    fn insert(&mut self, mut rank: usize, key: K, added: &mut isize) -> Option<Child<K>> {
        match self {
            Self::Leaf(keys) => {
                if keys.len() < FANOUT {
                    if keys.len() == keys.capacity() {
                        keys.reserve_exact(GROWTH.min(FANOUT - keys.len()));
                    }
                    keys.insert(rank, key);
                    return None;
                }
                let mut right = split(keys, rank);
                if rank > keys.len() || (rank == keys.len() && right.is_empty()) {
                    right.insert(rank - keys.len(), key);
                } else {
                    keys.insert(rank, key);
                }
                let count = right.len();
                let node = Self::Leaf(right);
                *added += node.own_memory() as isize;
                Some(Child { first: node.first_key(), count, node })
            }
            Self::Inner(children) => {
                let index = child_of(children, &mut rank, true);
                let child = &mut children[index];
                *added -= child.node.own_memory() as isize;
                let new = child.node.insert(rank, key, added);
                *added += child.node.own_memory() as isize;
                child.first = child.node.first_key();
                child.count += 1;
                let new = new?;
                child.count -= new.count;
                if children.len() < FANOUT {
                    children.insert(index + 1, new);
                    return None;
                }
                let mut right = split(children, index + 1);
                if index + 1 > children.len() || right.is_empty() {
                    right.insert(index + 1 - children.len(), new);
                } else {
                    children.insert(index + 1, new);
                }
                let count = right.iter().map(|child| child.count).sum();
                let node = Self::Inner(right);
                *added += node.own_memory() as isize;
                Some(Child { first: node.first_key(), count, node })
            }
        }
    }

    /// Removes the key of `rank`; `added` changes by the memory of nodes other than this one.
    fn remove(&mut self, mut rank: usize, added: &mut isize) -> K {
        match self {
            Self::Leaf(keys) => keys.remove(rank),
            Self::Inner(children) => {
                let index = child_of(children, &mut rank, false);
                let child = &mut children[index];
                let key = child.node.remove(rank, added);
                child.count -= 1;
                if child.count == 0 {
                    *added -= child.node.own_memory() as isize;
                    children.remove(index);
                } else {
                    child.first = child.node.first_key();
                    merge_if_sparse(children, index, added);
                }
                key
            }
        }
    }

    fn first_key(&self) -> K {
        match self {
            Self::Leaf(keys) => keys[0],
            Self::Inner(children) => children[0].first,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Leaf(keys) => keys.len(),
            Self::Inner(children) => children.len(),
        }
    }

    fn own_memory(&self) -> usize {
        crate::memory::allocated(match self {
            Self::Leaf(keys) => keys.capacity() * size_of::<K>(),
            Self::Inner(children) => children.capacity() * size_of::<Child<K>>(),
        })
    }
}

/// The child that has the key of `rank`, which becomes the rank within it. For an insertion, the
/// end of a child is preferred to the beginning of the next.
fn child_of<K>(children: &[Child<K>], rank: &mut usize, insertion: bool) -> usize {
    for (index, child) in children.iter().enumerate() {
        if *rank < child.count || (insertion && *rank == child.count) {
            return index;
        }
        *rank -= child.count;
    }
    unreachable!("a rank is below the count of its node")
}

/// Takes the right half of a full node; nothing if the insertion is at its end, so that appending
/// leaves full nodes behind.
fn split<T>(full: &mut Vec<T>, at: usize) -> Vec<T> {
    let keep = if at == full.len() { full.len() } else { full.len() / 2 };
    let mut right = Vec::with_capacity((full.len() - keep + GROWTH).min(FANOUT));
    right.extend(full.drain(keep..));
    full.shrink_to(keep + GROWTH);
    right
}

/// Joins the child with a neighbour if they are nearly empty.
fn merge_if_sparse<K: Copy>(children: &mut Vec<Child<K>>, index: usize, added: &mut isize) {
    if children[index].node.width() >= SPARSE || children.len() == 1 {
        return;
    }
    let left = if index == 0 { 0 } else { index - 1 };
    if children[left].node.width() + children[left + 1].node.width() > FANOUT * 3 / 4 {
        return;
    }
    let right = children.remove(left + 1);
    let left = &mut children[left];
    left.count += right.count;
    *added -= (left.node.own_memory() + right.node.own_memory()) as isize;
    match (&mut left.node, right.node) {
        (Node::Leaf(keys), Node::Leaf(more)) => keys.extend(more),
        (Node::Inner(nodes), Node::Inner(more)) => nodes.extend(more),
        _ => unreachable!("all leaves are at the same depth"),
    }
    *added += left.node.own_memory() as isize;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total_memory(node: &Node<u32>) -> usize {
        let below = match node {
            Node::Leaf(_) => 0,
            Node::Inner(children) => children.iter().map(|child| total_memory(&child.node)).sum(),
        };
        node.own_memory() + below
    }

    fn all(ordered: &Ordered<u32>) -> Vec<u32> {
        let mut keys = Vec::new();
        ordered.visit(0, usize::MAX, |key| {
            keys.push(key);
            true
        });
        keys
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn equals_a_sorted_vector(
            grow in prop::collection::vec(0u32..100_000, 0..6000),
            shrink in prop::collection::vec(any::<usize>(), 0..6000),
        ) {
            let mut ordered = Ordered::new();
            let mut model: Vec<u32> = Vec::new();
            for key in grow {
                let rank = ordered.partition_point(|&other| other < key);
                prop_assert_eq!(rank, model.partition_point(|&other| other < key));
                ordered.insert_at(rank, key);
                model.insert(rank, key);
            }
            prop_assert_eq!(ordered.memory(), total_memory(&ordered.root));
            for rank in shrink {
                if model.is_empty() {
                    break;
                }
                let rank = rank % model.len();
                prop_assert_eq!(ordered.remove_at(rank), model.remove(rank));
            }
            prop_assert_eq!(ordered.memory(), total_memory(&ordered.root));
            prop_assert_eq!(ordered.len(), model.len());
            prop_assert_eq!(&all(&ordered), &model);
            for rank in (0..model.len()).step_by(37) {
                prop_assert_eq!(ordered.get(rank), Some(model[rank]));
                let until = (rank + 150).min(model.len());
                let mut back = Vec::new();
                ordered.visit_back(rank, until, |key| { back.push(key); true });
                back.reverse();
                prop_assert_eq!(&back[..], &model[rank..until]);
                let mut some = Vec::new();
                ordered.visit(rank, until, |key| { some.push(key); some.len() < 100 });
                prop_assert_eq!(&some[..], &model[rank..until.min(rank + 100)]);
            }
        }
    }

    #[test]
    fn appending_fills_the_leaves() {
        let ordered = Ordered::from_sorted(
            (0..100_000u64).map(|key| (key, key)).collect::<Vec<_>>().into_iter(),
        );
        assert_eq!(ordered.len(), 100_000);
        let per_key = ordered.memory() as f64 / 100_000.0;
        assert!(per_key < 18.0, "{per_key} bytes per 16-byte key");
    }

    #[test]
    fn random_order_costs_little() {
        let mut ordered = Ordered::new();
        let mut state = 1u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = (state >> 20, 0u64);
            let rank = ordered.partition_point(|&other| other < key);
            ordered.insert_at(rank, key);
        }
        let per_key = ordered.memory() as f64 / 100_000.0;
        assert!(per_key < 22.0, "{per_key} bytes per 16-byte key");
    }
}
