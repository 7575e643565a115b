//! Strict serializability of transactions over several lists, by cycles, as Elle does.
//!
//! Appended values are unique, so a list that was read tells in which order its elements came, and
//! who depends on whom: `ww` (wrote the next element), `wr` (read what the other wrote last), `rw`
//! (read the list before the other appended). Together with real time (`rt`: ended before the other
//! started) these must not form a cycle. The names of the cycles are Adya's: G0 (writes only), G1c
//! (information flow), G-single (one anti-dependency), G2-item (several), each with `-realtime` if it
//! needs real time.

use super::history::{Operation, Outcome, Reply};
use super::{Fault, Kind};
use std::collections::{HashMap, HashSet, VecDeque};

const WW: u8 = 1;
const WR: u8 = 2;
const RW: u8 = 4;
const RT: u8 = 8;

/// Checks the transactions of one group of keys.
pub(super) fn check(key: &str, operations: &[&Operation], faults: &mut Vec<Fault>) {
    let before = faults.len();
    let mut group = Group::new(key, operations);
    group.find_orders(faults);
    group.check_reads(faults);
    if faults.len() > before {
        // The graph means nothing if the lists contradict each other.
        return;
    }
    group.drop_unseen();
    let graph = group.graph();
    if let Some((name, cycle)) = graph.worst_cycle() {
        let operations: Vec<&Operation> =
            cycle.iter().filter_map(|node| group.transactions.get(*node).copied()).collect();
        faults.push(Fault::new(Kind::Cycle, key, name.to_owned(), &operations));
    }
}

/// A step of a transaction: key, and what was appended or read.
type Done<'a> = (u32, Option<i64>, Option<&'a [i64]>);

struct Group<'a> {
    key: &'a str,
    transactions: Vec<&'a Operation>,
    /// Values whose transaction was refused.
    refused: HashSet<(u32, i64)>,
    /// Who appended what, and whether it was that transaction's last append to the list.
    writers: HashMap<(u32, i64), (usize, bool)>,
    /// The longest list read of each key.
    orders: HashMap<u32, Vec<i64>>,
}

impl<'a> Group<'a> {
    fn new(key: &'a str, operations: &[&'a Operation]) -> Self {
        let mut group = Self {
            key,
            transactions: Vec::new(),
            refused: HashSet::new(),
            writers: HashMap::new(),
            orders: HashMap::new(),
        };
        for operation in operations {
            let super::history::Call::Transaction { steps } = &operation.call else { continue };
            let appends: Vec<(u32, i64)> =
                steps.iter().filter_map(|step| Some((step.key, step.append?))).collect();
            if operation.outcome == Outcome::Failed {
                group.refused.extend(appends);
                continue;
            }
            let index = group.transactions.len();
            for (at, append) in appends.iter().enumerate() {
                let is_last = !appends[at + 1..].iter().any(|(key, _)| *key == append.0);
                group.writers.insert(*append, (index, is_last));
            }
            group.transactions.push(operation);
        }
        group
    }

    fn steps(&self, index: usize) -> Vec<Done<'a>> {
        let operation = self.transactions[index];
        let super::history::Call::Transaction { steps } = &operation.call else {
            return Vec::new();
        };
        let reads = match &operation.outcome {
            Outcome::Ok(Reply::Lists(reads)) => Some(reads),
            _ => None,
        };
        let step = |(at, step): (usize, &super::history::Step)| {
            let read = reads.and_then(|reads| reads.get(at)?.as_deref());
            (step.key, step.append, read)
        };
        steps.iter().enumerate().map(step).collect()
    }

    fn find_orders(&mut self, faults: &mut Vec<Fault>) {
        for index in 0..self.transactions.len() {
            for (key, _, read) in self.steps(index) {
                let Some(read) = read else { continue };
                let order = self.orders.entry(key).or_default();
                if read.len() > order.len() {
                    *order = read.to_vec();
                }
            }
        }
        for (key, order) in &self.orders {
            let mut seen = HashSet::new();
            if let Some(twice) = order.iter().find(|value| !seen.insert(**value)) {
                let text = format!("list {key} holds {twice} twice");
                faults.push(Fault::new(Kind::Doubled, self.key, text, &[]));
            }
        }
    }

    fn check_reads(&self, faults: &mut Vec<Fault>) {
        for (index, operation) in self.transactions.iter().enumerate() {
            let mut fault = |kind, text: String| {
                faults.push(Fault::new(kind, self.key, text, &[*operation]));
            };
            // What this transaction must see of each list, once it has read or appended to it.
            let mut own: HashMap<u32, (Option<Vec<i64>>, Vec<i64>)> = HashMap::new();
            for (key, append, read) in self.steps(index) {
                let (known, appended) = own.entry(key).or_default();
                if let Some(value) = append {
                    appended.push(value);
                    continue;
                }
                let Some(read) = read else { continue };
                if !self.orders[&key].starts_with(read) {
                    fault(Kind::Cycle, format!("lists of {key} contradict each other"));
                }
                let fits = match known {
                    Some(known) => {
                        known.len() + appended.len() == read.len() && read.starts_with(known)
                    }
                    None => true,
                };
                if !fits || !read.ends_with(appended) {
                    fault(Kind::Cycle, format!("does not see its own appends to {key}"));
                }
                let outside = &read[..read.len().saturating_sub(appended.len())];
                *known = Some(outside.to_vec());
                for value in outside {
                    match self.writers.get(&(key, *value)) {
                        None if self.refused.contains(&(key, *value)) => {
                            fault(Kind::Phantom, format!("G1a: reads {value}, which was refused"));
                        }
                        None => {
                            let text = format!("reads {value}, which was never appended");
                            fault(Kind::Phantom, text);
                        }
                        Some(_) => {}
                    }
                }
                if let Some((writer, is_last)) =
                    outside.last().and_then(|value| self.writers.get(&(key, *value)))
                    && *writer != index
                    && !is_last
                {
                    fault(Kind::Cycle, format!("G1b: reads {key} in the middle of a transaction"));
                }
            }
        }
    }

    /// A transaction of unknown outcome that no read shows need not have happened.
    fn drop_unseen(&mut self) {
        let mut seen: HashSet<usize> = HashSet::new();
        for (key, order) in &self.orders {
            for value in order {
                seen.extend(self.writers.get(&(*key, *value)).map(|(writer, _)| *writer));
            }
        }
        let transactions = &self.transactions;
        self.writers.retain(|_, (writer, _)| {
            transactions[*writer].reply().is_some() || seen.contains(writer)
        });
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new(self.transactions.len());
        for (key, order) in &self.orders {
            for pair in order.windows(2) {
                let (first, _) = self.writers[&(*key, pair[0])];
                let (second, _) = self.writers[&(*key, pair[1])];
                graph.add(first, second, WW);
            }
        }
        // Appends that no read shows come after all that were read.
        let mut unread: HashMap<u32, Vec<usize>> = HashMap::new();
        for ((key, value), (writer, _)) in &self.writers {
            if !self.orders.get(key).is_some_and(|order| order.contains(value)) {
                unread.entry(*key).or_default().push(*writer);
            }
        }
        for (key, writers) in &mut unread {
            writers.sort_unstable();
            let last = self.orders.get(key).and_then(|order| order.last());
            for writer in writers.iter() {
                if let Some(last) = last {
                    graph.add(self.writers[&(*key, *last)].0, *writer, WW);
                }
            }
        }
        for index in 0..self.transactions.len() {
            let mut appended: HashMap<u32, usize> = HashMap::new();
            for (key, append, read) in self.steps(index) {
                let count = appended.entry(key).or_default();
                if append.is_some() {
                    *count += 1;
                }
                let Some(read) = read else { continue };
                let outside = read.len() - *count;
                if let Some(value) = outside.checked_sub(1).map(|at| read[at]) {
                    graph.add(self.writers[&(key, value)].0, index, WR);
                }
                if *count > 0 {
                    continue;
                }
                match self.orders[&key].get(outside) {
                    Some(next) => graph.add(index, self.writers[&(key, *next)].0, RW),
                    None => {
                        for writer in unread.get(&key).into_iter().flatten() {
                            graph.add(index, *writer, RW);
                        }
                    }
                }
            }
        }
        graph.add_real_time(&self.transactions);
        graph
    }
}

/// Who comes before whom. Nodes from `transactions` on stand for instants, so that real time needs
/// two edges per transaction and not one per pair.
struct Graph {
    transactions: usize,
    edges: Vec<Vec<(usize, u8)>>,
}

impl Graph {
    fn new(transactions: usize) -> Self {
        Self { transactions, edges: vec![Vec::new(); transactions] }
    }

    fn add(&mut self, from: usize, to: usize, kind: u8) {
        if from != to {
            self.edges[from].push((to, kind));
        }
    }

    fn add_real_time(&mut self, transactions: &[&Operation]) {
        let mut ends: Vec<(u64, usize)> = transactions
            .iter()
            .enumerate()
            .filter(|(_, operation)| operation.reply().is_some())
            .map(|(index, operation)| (operation.end, index))
            .collect();
        ends.sort_unstable();
        for (at, (_, index)) in ends.iter().enumerate() {
            let instant = self.edges.len();
            self.edges.push(Vec::new());
            self.edges[*index].push((instant, RT));
            if at > 0 {
                self.edges[instant - 1].push((instant, RT));
            }
        }
        for (index, operation) in transactions.iter().enumerate() {
            let ended = ends.partition_point(|(end, _)| *end < operation.start);
            if let Some(last) = ended.checked_sub(1) {
                self.edges[self.transactions + last].push((index, RT));
            }
        }
    }

    /// The first of G0, G1c, G-single, G2-item, then the same with real time, that there is.
    fn worst_cycle(&self) -> Option<(&'static str, Vec<usize>)> {
        // Nearly always there is none at all, which one pass shows.
        if self.components(WW | WR | RW | RT).is_empty() {
            return None;
        }
        for (time, names) in [
            (0, ["G0", "G1c", "G-single", "G2-item"]),
            (RT, ["G0-realtime", "G1c-realtime", "G-single-realtime", "G2-item-realtime"]),
        ] {
            for (kinds, name) in [(WW, names[0]), (WW | WR, names[1])] {
                if let Some(component) = self.components(kinds | time).first() {
                    let start = component[0];
                    return Some((name, self.path(start, start, kinds | time)?));
                }
            }
            let components = self.components(WW | WR | RW | time);
            for component in &components {
                let members: HashSet<usize> = component.iter().copied().collect();
                for from in component {
                    for (to, kind) in &self.edges[*from] {
                        if kind & RW != 0
                            && members.contains(to)
                            && let Some(mut cycle) = self.path(*to, *from, WW | WR | time)
                        {
                            cycle.push(*to);
                            return Some((names[2], cycle));
                        }
                    }
                }
            }
            if let Some(component) = components.first() {
                let start = component[0];
                return Some((names[3], self.path(start, start, WW | WR | RW | time)?));
            }
        }
        None
    }

    /// Shortest way from `from` to `to` (at least one edge), both included.
    fn path(&self, from: usize, to: usize, kinds: u8) -> Option<Vec<usize>> {
        let mut came_from: HashMap<usize, usize> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for (next, kind) in &self.edges[node] {
                if kind & kinds == 0 || came_from.contains_key(next) {
                    continue;
                }
                came_from.insert(*next, node);
                if *next == to {
                    let mut path = vec![to];
                    let mut at = came_from[&to];
                    while at != from {
                        path.push(at);
                        at = came_from[&at];
                    }
                    path.push(from);
                    path.reverse();
                    return Some(path);
                }
                queue.push_back(*next);
            }
        }
        None
    }

    /// Strongly connected components of more than one node (Tarjan, without recursion).
    fn components(&self, kinds: u8) -> Vec<Vec<usize>> {
        const UNSEEN: usize = usize::MAX;
        let count = self.edges.len();
        let (mut index, mut low) = (vec![UNSEEN; count], vec![0; count]);
        let mut on_stack = vec![false; count];
        let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0);
        for root in 0..count {
            if index[root] != UNSEEN {
                continue;
            }
            let mut work = vec![(root, 0)];
            while let Some((node, edge)) = work.pop() {
                if edge == 0 {
                    index[node] = next;
                    low[node] = next;
                    next += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                let mut descended = false;
                for at in edge..self.edges[node].len() {
                    let (to, kind) = self.edges[node][at];
                    if kind & kinds == 0 {
                        continue;
                    }
                    if index[to] == UNSEEN {
                        work.push((node, at + 1));
                        work.push((to, 0));
                        descended = true;
                        break;
                    }
                    if on_stack[to] {
                        low[node] = low[node].min(index[to]);
                    }
                }
                if descended {
                    continue;
                }
                if low[node] == index[node] {
                    let mut component = Vec::new();
                    while let Some(member) = stack.pop() {
                        on_stack[member] = false;
                        component.push(member);
                        if member == node {
                            break;
                        }
                    }
                    if component.len() > 1 {
                        component.sort_unstable();
                        found.push(component);
                    }
                }
                if let Some((parent, _)) = work.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
            }
        }
        found
    }
}
