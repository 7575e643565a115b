use super::*;
use crate::blocking::{BlockKind, BlockRequest, Waiter, WaiterName};
use crate::config::{EncodingLimits, EngineConfig};
use crate::keyspace::{Clock, Keys, NewExpiry};
use crate::lane::Lane;
use crate::outcome::Outcomes;
use crate::value::hash::Hash;
use crate::value::list::{End, List};
use crate::value::set::Set;
use crate::value::stream::group::{Group, Pending};
use crate::value::stream::{Stream, StreamId};
use crate::value::zset::ZSet;
use crate::value::{Value, ValueMut};
use holdfast_proto::frame::{BatchHeader, RecordHeader, RecordOp};
use holdfast_proto::ids::WorkerId;
use proptest::prelude::*;

const DATABASES: u16 = 4;

/// An engine with a way to change everything that a checkpoint holds.
struct World {
    engine: Engine,
    time_ms: u64,
    out: Outcomes,
}

#[derive(Clone, Debug)]
enum Change {
    Set {
        db: u16,
        key: u8,
        len: usize,
    },
    Expire {
        db: u16,
        key: u8,
        in_ms: Option<u64>,
    },
    Append {
        db: u16,
        key: u8,
    },
    /// A collection or a string that is written in parts.
    Large {
        db: u16,
        key: u8,
        kind: u8,
    },
    /// A change inside a collection.
    Touch {
        db: u16,
        key: u8,
    },
    Remove {
        db: u16,
        key: u8,
    },
    Rename {
        db: u16,
        from: u8,
        to: u8,
    },
    Flush {
        db: u16,
    },
    Swap {
        a: u16,
        b: u16,
    },
    /// A record of a worker in the slot of a key.
    Record {
        worker: u64,
        key: u8,
    },
    Retire {
        worker: u64,
    },
    /// Time passes and keys are looked at, which deletes those that are due.
    Look {
        db: u16,
        passed_ms: u64,
    },
}

impl World {
    fn new() -> Self {
        let cfg = EngineConfig { databases: DATABASES, hash_seed: 7, ..EngineConfig::default() };
        Self { engine: Engine::new(cfg), time_ms: 1_000_000, out: Outcomes::new() }
    }

    fn keys(&mut self, db: u16) -> Keys<'_> {
        hash::enter(7);
        let clock = Clock { now_ms: self.time_ms, applied_ms: self.time_ms, apply: true };
        self.engine.space.keys(db, clock)
    }

    fn change(&mut self, change: &Change) {
        match *change {
            Change::Set { db, key, len } => {
                let value = vec![key; len];
                self.keys(db).insert_string(&name(key), &value, NewExpiry::Keep);
            }
            Change::Expire { db, key, in_ms } => {
                let at = in_ms.map(|ms| self.time_ms + ms);
                self.keys(db).set_expire_at(&name(key), at);
            }
            Change::Append { db, key } => {
                let mut keys = self.keys(db);
                if let Ok(bytes) = keys.string_mut(&name(key)) {
                    bytes.extend_from_slice(b"+more");
                    keys.modified(&name(key));
                }
            }
            Change::Large { db, key, kind } => {
                self.keys(db).insert(&name(key), large(kind), None);
            }
            Change::Touch { db, key } => {
                let mut keys = self.keys(db);
                match keys.get_mut(&name(key)) {
                    Some(ValueMut::List(list)) => list.remove_run(3, 1),
                    Some(ValueMut::Set(set)) => {
                        set.add(b"new", &EncodingLimits::REDIS);
                    }
                    Some(ValueMut::ZSet(zset)) => {
                        zset.insert(b"new", 1.25, &EncodingLimits::REDIS);
                    }
                    Some(ValueMut::Hash(hash)) => {
                        hash.set(b"new", b"value", &EncodingLimits::REDIS);
                    }
                    Some(ValueMut::Stream(stream)) => {
                        let first = stream.log.first_id;
                        stream.log.delete(&[first]);
                        stream.groups_mut().remove(b"group");
                    }
                    Some(ValueMut::Str) | None => return,
                }
                keys.modified(&name(key));
            }
            Change::Remove { db, key } => {
                self.keys(db).remove(&name(key));
            }
            Change::Rename { db, from, to } => {
                let mut keys = self.keys(db);
                if let Some((value, expire_at)) = keys.take(&name(from)) {
                    keys.insert(&name(to), value, expire_at);
                }
            }
            Change::Flush { db } => self.engine.space.flush(db),
            Change::Swap { a, b } => self.engine.space.swap(a, b),
            Change::Record { worker, key } => self.record(WorkerId(worker), &name(key)),
            Change::Retire { worker } => self.engine.lanes.retire(WorkerId(worker)),
            Change::Look { db, passed_ms } => {
                self.time_ms += passed_ms;
                for key in 0..=255 {
                    self.keys(db).exists(&name(key));
                }
            }
        }
    }

    fn record(&mut self, worker: WorkerId, key: &[u8]) {
        let slot = Slot::of_key(key);
        let seq = self.engine.lane_next(slot, worker).unwrap_or(1);
        let header = RecordHeader {
            op: RecordOp::Command,
            flags: 0,
            db: 0,
            slot,
            worker,
            seq,
            first_unacked: seq.saturating_sub(3),
            tag: 5,
            body_len: 0,
        };
        self.time_ms += 1;
        let batch = BatchHeader { count: 1, time_ms: self.time_ms, seed: 1 };
        let mut body = Vec::new();
        let set: [&[u8]; 3] = [b"set", key, b"from a record"];
        let get: [&[u8]; 2] = [b"get", key];
        let args = if seq.is_multiple_of(3) { &get[..] } else { &set[..] };
        holdfast_proto::resp::encode::command(&mut body, args.iter().copied());
        self.engine.apply(&batch, 0, &header, &body, &mut self.out);
        self.out.clear();
    }

    fn image(&self) -> Image {
        Image {
            digest: self.engine.digest(),
            lanes: self.engine.lanes.iter().map(|(slot, lane)| (slot, lane.clone())).collect(),
            waiters: self.engine.space.waiters.iter().cloned().collect(),
        }
    }
}

/// What must be equal after loading.
#[derive(Debug, PartialEq)]
struct Image {
    digest: [u8; 16],
    lanes: Vec<(Slot, Lane)>,
    waiters: Vec<Waiter>,
}

fn name(key: u8) -> Vec<u8> {
    // A few keys share one slot, the others are spread.
    if key < 40 { format!("{{tag}}{key}") } else { format!("key:{key}") }.into_bytes()
}

fn large(kind: u8) -> Value {
    let limits = EncodingLimits { list_max_listpack_bytes: 64, ..EncodingLimits::REDIS };
    let texts = (0..1200).map(|i| format!("element {i}").into_bytes());
    match kind {
        0 => Value::Str(vec![b's'; 200_000]),
        1 => {
            let mut list = List::new();
            texts.for_each(|text| list.push(End::Back, &text, &limits));
            Value::List(Box::new(list))
        }
        2 => {
            let mut set = Set::new();
            texts.for_each(|text| {
                set.add(&text, &limits);
            });
            Value::Set(Box::new(set))
        }
        3 => {
            let mut zset = ZSet::new();
            for (i, text) in texts.enumerate() {
                zset.insert(&text, (i % 7) as f64, &limits);
            }
            Value::ZSet(Box::new(zset))
        }
        4 => Value::Stream(Box::new(large_stream())),
        _ => {
            let mut hash = Hash::new();
            texts.for_each(|text| {
                hash.set(&text, &text, &limits);
            });
            Value::Hash(Box::new(hash))
        }
    }
}

fn large_stream() -> Stream {
    let mut stream = Stream::default();
    let mut group = Group::new(b"group", StreamId::MIN, Some(3));
    let (idle, _) = group.see_consumer(b"idle", 5);
    group.consumer_mut(idle).active_ms = None;
    let (consumer, _) = group.see_consumer(b"busy", 6);
    // Six entries to a node.
    for n in 1..600 {
        let id = StreamId::new(n, n % 3);
        stream.log.append(id, &[b"field", format!("{n:0600}").as_bytes()]);
        if n % 5 == 0 {
            group.set_pending(Pending { id, delivered_ms: n, deliveries: 2, consumer });
        }
    }
    stream.groups_mut().insert(group);
    stream
}

fn take_all(engine: &mut Engine) -> Vec<u8> {
    engine.checkpoint_begin();
    let mut bytes = Vec::new();
    while engine.checkpoint_step(1 << 20, &mut bytes) == CheckpointStep::More {}
    bytes
}

fn load(bytes: &[u8]) -> Result<World, LoadError> {
    let engine = Engine::load(EngineConfig::default(), bytes)?;
    let time_ms = engine.time_ms();
    Ok(World { engine, time_ms, out: Outcomes::new() })
}

fn changes(count: usize) -> impl Strategy<Value = Vec<Change>> {
    let db = || 0..DATABASES;
    let change = prop_oneof![
        20 => (db(), any::<u8>(), 0usize..100)
            .prop_map(|(db, key, len)| Change::Set { db, key, len }),
        1 => (db(), any::<u8>()).prop_map(|(db, key)| Change::Set { db, key, len: 10_000 }),
        6 => (db(), any::<u8>(), prop::option::of(1u64..1000))
            .prop_map(|(db, key, in_ms)| Change::Expire { db, key, in_ms }),
        4 => (db(), any::<u8>()).prop_map(|(db, key)| Change::Append { db, key }),
        1 => (db(), 30u8..50, 0u8..6).prop_map(|(db, key, kind)| Change::Large { db, key, kind }),
        4 => (db(), 30u8..50).prop_map(|(db, key)| Change::Touch { db, key }),
        8 => (db(), any::<u8>()).prop_map(|(db, key)| Change::Remove { db, key }),
        4 => (db(), any::<u8>(), any::<u8>())
            .prop_map(|(db, from, to)| Change::Rename { db, from, to }),
        1 => db().prop_map(|db| Change::Flush { db }),
        1 => (db(), db()).prop_map(|(a, b)| Change::Swap { a, b }),
        8 => (1u64..6, any::<u8>()).prop_map(|(worker, key)| Change::Record { worker, key }),
        1 => (1u64..6).prop_map(|worker| Change::Retire { worker }),
        1 => (db(), 1u64..500).prop_map(|(db, passed_ms)| Change::Look { db, passed_ms }),
    ];
    prop::collection::vec(change, 0..count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_checkpoint_is_the_state_at_its_beginning(
        before in changes(300),
        aborted in prop::option::of(changes(20)),
        during in changes(300),
        budget in prop_oneof![1usize..2000, 2000usize..50_000],
        changes_per_step in 1usize..20,
    ) {
        let mut world = World::new();
        for change in &before {
            world.change(change);
        }
        if let Some(changes) = aborted {
            world.engine.checkpoint_begin();
            for change in &changes {
                world.change(change);
                world.engine.checkpoint_step(50, &mut Vec::new());
            }
            world.engine.checkpoint_abort();
        }
        let expected = world.image();
        world.engine.checkpoint_begin();
        let mut bytes = Vec::new();
        let mut rest = &during[..];
        while world.engine.checkpoint_step(budget, &mut bytes) == CheckpointStep::More {
            let (now, later) = rest.split_at(changes_per_step.min(rest.len()));
            now.iter().for_each(|change| world.change(change));
            rest = later;
        }
        let loaded = load(&bytes).unwrap();
        prop_assert_eq!(loaded.image(), expected);
        // What was loaded can be written again, and both go on alike.
        let mut loaded = loaded;
        let again = take_all(&mut loaded.engine);
        let mut second = load(&again).unwrap();
        for change in &during {
            loaded.change(change);
            second.change(change);
        }
        prop_assert_eq!(loaded.image(), second.image());
    }

    #[test]
    fn damage_is_found(
        before in changes(60),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
        cut in any::<bool>(),
    ) {
        let mut world = World::new();
        before.iter().for_each(|change| world.change(change));
        let mut bytes = take_all(&mut world.engine);
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1u8 << bit;
        }
        prop_assert!(load(&bytes).is_err());
    }
}

#[test]
fn waiters_are_kept_in_order() {
    let mut world = World::new();
    for (seq, deadline_ms) in [(3, Some(2_000_000)), (1, None), (2, Some(1_500_000))] {
        world.engine.space.waiters.add(Waiter {
            name: WaiterName { worker: WorkerId(9), slot: Slot::of_key(b"list"), seq },
            db: 2,
            resp3: seq == 2,
            tag: 70 + seq,
            request: BlockRequest {
                keys: vec![b"list".as_slice().into(), b"{list}2".as_slice().into()],
                deadline_ms,
                kind: if seq == 1 { BlockKind::StreamGroup } else { BlockKind::List },
                command: None,
            },
            command: b"*1\r\n$4\r\nPING\r\n".as_slice().into(),
        });
    }
    let bytes = take_all(&mut world.engine);
    let loaded = load(&bytes).unwrap();
    assert_eq!(loaded.image(), world.image());
    assert_eq!(loaded.engine.next_unblock_at(), Some(1_500_000));
}

#[test]
fn an_empty_engine_and_many_keys_in_one_slot() {
    let mut world = World::new();
    let bytes = take_all(&mut world.engine);
    assert_eq!(load(&bytes).unwrap().image(), world.image());
    for i in 0..5000 {
        let key = format!("{{tag}}{i}");
        world.keys(0).insert_string(key.as_bytes(), b"v", NewExpiry::Never);
    }
    let bytes = take_all(&mut world.engine);
    let loaded = load(&bytes).unwrap();
    assert_eq!(loaded.image(), world.image());
    assert_eq!(loaded.engine.key_count(0), 5000);
}
