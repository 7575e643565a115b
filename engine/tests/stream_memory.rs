//! What streams take beside what they take in a real `redis-server`.

#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.

mod common;

use common::{Local, Redis, Target};

fn usage(target: &mut impl Target, key: &str) -> i64 {
    target.run(&format!("MEMORY USAGE {key} SAMPLES 0")).as_integer().unwrap()
}

/// `entries` of `fields` with values of 16 bytes, and what is pending of the first of them.
fn fill(target: &mut impl Target, key: &str, entries: u64, fields: usize, pending: u64) {
    for n in 0..entries {
        let mut command = format!("XADD {key} {}-0", 1_700_000_000_000 + n * 7);
        for field in 0..fields {
            command.push_str(&format!(" field:{field} value:{n:010}"));
        }
        target.run(&command);
    }
    if pending > 0 {
        target.run(&format!("XGROUP CREATE {key} group 0"));
        target.run(&format!("XREADGROUP GROUP group one COUNT {pending} STREAMS {key} >"));
    }
}

#[test]
fn streams_take_no_more_than_in_redis() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut redis) = Redis::start(folder.path(), &[]) else { return };
    let mut local = Local::new();
    for (entries, fields, pending) in
        [(1, 1, 0), (10, 1, 0), (100, 3, 0), (5000, 1, 0), (5000, 5, 0), (3000, 1, 3000)]
    {
        let key = format!("stream:{entries}:{fields}:{pending}");
        fill(&mut local, &key, entries, fields, pending);
        fill(&mut redis, &key, entries, fields, pending);
        let (ours, theirs) = (usage(&mut local, &key), usage(&mut redis, &key));
        eprintln!(
            "{entries} entries of {fields} fields, {pending} pending: {ours}, Redis {theirs}"
        );
        assert!(ours <= theirs, "{key}: {ours} bytes, in Redis {theirs}");
    }
}
