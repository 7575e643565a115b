//! Streams against a plain list of entries.

use super::group::{Group, Pending};
use super::log::{Log, Trim, TrimUntil};
use super::node::Node;
use super::*;
use crate::value::packed::{Item, Packed};
use proptest::prelude::*;
use std::collections::VecDeque;

type Model = Vec<(StreamId, Vec<Vec<u8>>)>;

fn id(ms: u64, seq: u64) -> StreamId {
    StreamId::new(ms, seq)
}

fn texts(entry: &node::Entry<'_>) -> Vec<Vec<u8>> {
    entry.pairs().flat_map(|(field, value)| [field.to_vec(), value.to_vec()]).collect()
}

fn contents(log: &Log) -> Model {
    log.range(StreamId::MIN, StreamId::MAX).map(|entry| (entry.id, texts(&entry))).collect()
}

fn append(log: &mut Log, at: StreamId, pairs: &[Vec<u8>]) {
    let pairs: Vec<&[u8]> = pairs.iter().map(Vec::as_slice).collect();
    log.append(at, &pairs);
}

#[derive(Clone, Debug)]
enum Op {
    Add(u64, u64, Vec<Vec<u8>>),
    Delete(usize),
    MaxLen(usize),
    MinId(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let text = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "17", "-1", "9223372036854775807"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..900),
    ];
    let pair = (prop::sample::select(vec!["f", "g", "1"]), text)
        .prop_map(|(field, value)| [field.as_bytes().to_vec(), value]);
    let pairs = prop::collection::vec(pair, 1..4).prop_map(|pairs| pairs.concat());
    prop_oneof![
        12 => (prop_oneof![Just(0u64), 0u64..5, any::<u32>().prop_map(u64::from)], 1u64..9, pairs)
            .prop_map(|(ms, seq, pairs)| Op::Add(ms, seq, pairs)),
        4 => any::<usize>().prop_map(Op::Delete),
        1 => any::<usize>().prop_map(Op::MaxLen),
        1 => any::<usize>().prop_map(Op::MinId),
    ]
}

fn exact(until: TrimUntil) -> Trim {
    Trim { until, approximate: false, limit: 0 }
}

fn apply(log: &mut Log, model: &mut Model, op: Op) {
    match op {
        Op::Add(ms, seq, pairs) => {
            let last = log.last_id;
            let new = if ms == 0 { id(last.ms, last.seq + seq) } else { id(last.ms + ms, seq) };
            append(log, new, &pairs);
            model.push((new, pairs));
        }
        Op::Delete(at) if !model.is_empty() => {
            let (gone, _) = model.remove(at % model.len());
            assert_eq!(log.delete(&[gone, gone]), 1);
            assert!(log.max_deleted_id >= gone);
        }
        Op::MaxLen(len) => {
            let len = len % (model.len() + 2);
            let removed = model.len().saturating_sub(len);
            assert_eq!(log.trim(exact(TrimUntil::MaxLen(len as u64))), removed as u64);
            model.drain(..removed);
        }
        Op::MinId(at) if !model.is_empty() => {
            let min = model[at % model.len()].0;
            let removed = at % model.len();
            assert_eq!(log.trim(exact(TrimUntil::MinId(min))), removed as u64);
            model.drain(..removed);
        }
        Op::Delete(_) | Op::MinId(_) => {}
    }
}

fn check(log: &Log, model: &Model) {
    assert_eq!(&contents(log), model);
    assert_eq!(log.len(), model.len() as u64);
    assert_eq!(log.first_id, model.first().map_or(StreamId::MIN, |first| first.0));
    assert_eq!(log.last_live_id(), model.last().map(|last| last.0));
    let nodes: usize = log.nodes().iter().map(Node::memory).sum();
    let ring = crate::memory::allocated(log.nodes.capacity() * size_of::<Node>());
    assert_eq!(log.memory(), nodes + ring);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equals_a_list(ops in prop::collection::vec(op(), 0..400), from in any::<usize>()) {
        let (mut log, mut model) = (Log::default(), Model::new());
        for op in ops {
            apply(&mut log, &mut model, op);
        }
        check(&log, &model);
        let back: Vec<_> =
            log.range_back(StreamId::MIN, StreamId::MAX).map(|entry| entry.id).collect();
        prop_assert!(back.into_iter().rev().eq(model.iter().map(|entry| entry.0)));
        if !model.is_empty() {
            let (from, to) = (from % model.len(), from / 7 % model.len());
            let (start, end) = (model[from].0, model[to].0);
            let forwards: Vec<_> = log.range(start, end).map(|entry| entry.id).collect();
            let mut backwards: Vec<_> = log.range_back(start, end).map(|entry| entry.id).collect();
            backwards.reverse();
            let expected: Vec<_> =
                model.iter().map(|e| e.0).filter(|id| (start..=end).contains(id)).collect();
            prop_assert_eq!(&forwards, &expected);
            prop_assert_eq!(&backwards, &expected);
            prop_assert!(log.contains(start));
        }
        // What comes from a file is checked, and every node of ours passes.
        let nodes: VecDeque<Node> = log
            .nodes()
            .iter()
            .map(|node| Node::checked(node.first(), node.packed().clone()).expect("a valid node"))
            .collect();
        let copy = Log::from_nodes(nodes, log.len()).expect("valid nodes");
        prop_assert_eq!(contents(&copy), model);
    }

    #[test]
    fn hostile_nodes_are_refused_or_safe(
        numbers in prop::collection::vec(prop_oneof![-2i64..6, any::<i64>()], 0..24),
    ) {
        let mut packed = Packed::new();
        numbers.iter().for_each(|&number| packed.push_int(number));
        if let Some(node) = Node::checked(id(5, 5), packed) {
            let live = node.entries().filter(|entry| !entry.is_deleted()).count() as u64;
            prop_assert_eq!(live, node.head().live);
            prop_assert_eq!(node.entries().count(), node.entries_back().count());
            let mut log = Log::from_nodes([node].into(), live).expect("one node");
            log.trim(exact(TrimUntil::MaxLen(0)));
            prop_assert_eq!(contents(&log).len(), 0);
        }
    }

    #[test]
    fn pending_entries_equal_a_map(
        ops in prop::collection::vec((0u8..5, 0u64..40, 0u8..4), 0..300),
    ) {
        let mut group = Group::new(b"g", StreamId::MIN, None);
        let mut model = std::collections::BTreeMap::new();
        for (op, n, who) in ops {
            let name = [b'a' + who];
            match op {
                0 => {
                    prop_assert_eq!(group.remove_pending(id(n, 0)), model.remove(&n).is_some());
                }
                1 if n < 4 => {
                    let before = model.len();
                    model.retain(|_, &mut owner| owner != who);
                    prop_assert_eq!(group.delete_consumer(&name).unwrap_or(0), before - model.len());
                }
                _ => {
                    let (consumer, _) = group.see_consumer(&name, n);
                    let pending =
                        Pending { id: id(n, 0), delivered_ms: n, deliveries: 1, consumer };
                    group.set_pending(pending);
                    model.insert(n, who);
                }
            }
        }
        for group in [&group, &group.clone()] {
            let mut found = Vec::new();
            group.visit_pending(StreamId::MIN, |pending| {
                let name = group.consumer(pending.consumer).name[0] - b'a';
                found.push((pending.id.ms, name));
                true
            });
            prop_assert!(found.into_iter().eq(model.iter().map(|(&n, &who)| (n, who))));
            for consumer in group.consumers() {
                let who = consumer.name[0] - b'a';
                let ids = consumer.pending_from(StreamId::MIN, usize::MAX);
                let expected = model.iter().filter(|(_, owner)| **owner == who);
                prop_assert!(ids.iter().map(|id| id.ms).eq(expected.map(|(&n, _)| n)));
            }
        }
    }
}

#[test]
fn approximate_trimming_removes_whole_nodes() {
    let mut log = Log::default();
    for n in 1..=1000 {
        append(&mut log, id(n, 0), &[b"f".to_vec(), b"v".to_vec()]);
    }
    assert_eq!(log.nodes().len(), 10);
    let trim = |until, limit| Trim { until, approximate: true, limit };
    assert_eq!(log.trim(trim(TrimUntil::MaxLen(950), 0)), 0);
    assert_eq!(log.trim(trim(TrimUntil::MaxLen(850), 0)), 100);
    assert_eq!(log.trim(trim(TrimUntil::MaxLen(0), 250)), 200);
    assert_eq!(log.trim(trim(TrimUntil::MinId(id(501, 0)), 0)), 200);
    assert_eq!(log.len(), 500);
    assert_eq!(log.first_id, id(501, 0));
}

#[test]
fn a_node_of_only_deleted_entries_may_stay() {
    let mut log = Log::default();
    for n in 1..=3 {
        append(&mut log, id(n, 0), &[b"f".to_vec(), b"v".to_vec()]);
    }
    assert_eq!(log.delete(&[id(3, 0)]), 1);
    assert_eq!(log.trim(exact(TrimUntil::MinId(id(3, 0)))), 2);
    check(&log, &Model::new());
    append(&mut log, id(4, 0), &[b"f".to_vec(), b"v".to_vec()]);
    assert_eq!(log.len(), 1);
    assert_eq!(log.first_id, id(4, 0));
}

#[test]
fn entries_with_the_same_fields_are_small() {
    let mut log = Log::default();
    let mut bytes = 0;
    for n in 0..100_000u64 {
        let value = format!("value:{n:010}").into_bytes();
        bytes += value.len();
        append(&mut log, id(1_700_000_000_000 + n * 3, 0), &[b"field".to_vec(), value]);
    }
    let overhead = (log.memory() - bytes) as f64 / 100_000.0;
    assert!(overhead < 13.0, "{overhead} bytes per entry beside its value");
    let Some(entry) = log.get(id(1_700_000_000_300, 0)) else { panic!("it was added") };
    let (field, value) = entry.pairs().next().expect("one pair");
    assert_eq!((field, value), (Item::Bytes(b"field"), Item::Bytes(b"value:0000000100")));
}

#[test]
fn groups_account_for_their_memory() {
    let mut stream = Stream::default();
    for name in [&b"one"[..], b"two"] {
        assert!(stream.groups_mut().insert(Group::new(name, StreamId::MIN, None)));
    }
    let empty = stream.memory();
    let mut group = stream.groups_mut().get_mut(b"one").expect("made above");
    for n in 0..10_000u64 {
        let (consumer, _) = group.see_consumer(format!("consumer:{}", n % 10).as_bytes(), n);
        group.set_pending(Pending { id: id(n, 0), delivered_ms: n, deliveries: 1, consumer });
    }
    drop(group);
    let per_entry = (stream.memory() - empty) as f64 / 10_000.0;
    assert!((56.0..70.0).contains(&per_entry), "{per_entry} bytes per pending entry");
    for consumer in 0..10 {
        let mut group = stream.groups_mut().get_mut(b"one").expect("made above");
        let deleted = group.delete_consumer(format!("consumer:{consumer}").as_bytes());
        assert_eq!(deleted, Some(1000));
    }
    assert!(stream.groups_mut().remove(b"one"));
    assert!(stream.groups_mut().remove(b"two"));
    assert_eq!(stream.groups().map(group::Groups::len), Some(0));
}
