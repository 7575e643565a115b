//! HyperLogLog values are byte for byte those of a stock server, sparse, at the turn and dense.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Local, Redis, Target};

/// Both answer the same; returns the answer.
fn both(ours: &mut Local, theirs: &mut Redis, args: &[&[u8]]) {
    let shown = args[0].escape_ascii();
    assert_eq!(ours.call(args), theirs.call(args), "{shown}");
}

#[test]
fn values_are_byte_for_byte_those_of_redis() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut theirs) = Redis::start(folder.path(), &[]) else { return };
    let mut ours = Local::new();
    let mut state = 11u64;
    let mut random = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % bound
    };
    for key in [&b"few"[..], b"some", b"many"] {
        let (rounds, elements) = match key {
            b"few" => (60, 3),
            b"some" => (700, 4),
            _ => (300, 100),
        };
        for _ in 0..rounds {
            let elements: Vec<_> =
                (0..random(elements) + 1).map(|_| random(1 << 40).to_string()).collect();
            let mut add = vec![&b"PFADD"[..], key];
            add.extend(elements.iter().map(String::as_bytes));
            both(&mut ours, &mut theirs, &add);
            // No PFCOUNT in between: Redis would store what it computed.
            both(&mut ours, &mut theirs, &[b"GET", key]);
        }
        both(&mut ours, &mut theirs, &[b"PFDEBUG", b"ENCODING", key]);
    }
    let encoding = ours.run("PFDEBUG ENCODING few");
    assert_eq!(encoding.as_bytes(), Some(&b"sparse"[..]));
    for (destination, sources) in
        [("a", "few"), ("b", "few some"), ("few", "some"), ("c", "many few")]
    {
        let merge = format!("PFMERGE {destination} {sources}");
        assert_eq!(ours.run(&merge), theirs.run(&merge));
        both(&mut ours, &mut theirs, &[b"GET", destination.as_bytes()]);
    }
    for keys in ["few", "some", "many", "a", "b", "c", "few some", "many few a", "none"] {
        let count = format!("PFCOUNT {keys}");
        assert_eq!(ours.run(&count), theirs.run(&count), "{keys}");
    }
    // A count stored by Redis is believed, until the value changes.
    let stored = theirs.run("GET many");
    both(&mut ours, &mut theirs, &[b"SET", b"stored", stored.as_bytes().unwrap()]);
    both(&mut ours, &mut theirs, &[b"PFCOUNT", b"stored"]);
    both(&mut ours, &mut theirs, &[b"PFADD", b"stored", b"a new element"]);
    both(&mut ours, &mut theirs, &[b"PFCOUNT", b"stored"]);
    both(&mut ours, &mut theirs, &[b"PFSELFTEST"]);
}

#[test]
fn a_count_is_remembered_until_the_key_changes() {
    let mut ours = Local::new();
    let count = |ours: &mut Local, keys: &str| {
        let reply = ours.run(&format!("PFCOUNT {keys}"));
        match reply {
            holdfast_proto::resp::reply::Value::Integer(count) => count,
            other => panic!("{other:?}"),
        }
    };
    ours.run("PFADD k a b c");
    assert_eq!((count(&mut ours, "k"), count(&mut ours, "k")), (3, 3));
    ours.run("PFADD k d");
    assert_eq!(count(&mut ours, "k"), 4);
    ours.run("DEL k");
    assert_eq!(count(&mut ours, "k"), 0);
    ours.run("PFADD k z");
    assert_eq!(count(&mut ours, "k"), 1);
    ours.run("FLUSHALL");
    assert_eq!(count(&mut ours, "k"), 0);
    ours.run("PFADD k a b");
    assert_eq!(count(&mut ours, "k"), 2);
    ours.run("SELECT 3");
    ours.run("PFADD k z");
    assert_eq!(count(&mut ours, "k"), 1);
}
