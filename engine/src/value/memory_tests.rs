//! What collections cost in memory, beside what the same data costs a stock Redis 7.0 (the growth of
//! `used_memory` per element or key, jemalloc). The numbers are printed with `--nocapture`.

use super::Aggregate;
use super::hash::Hash;
use super::list::{End, List};
use super::set::Set;
use super::zset::ZSet;
use crate::config::EncodingLimits;

const LIMITS: &EncodingLimits = &EncodingLimits::REDIS;
const BIG: usize = 100_000;

fn per_element(name: &str, memory: usize, count: usize, redis: f64) {
    let ours = memory as f64 / count as f64;
    println!("{name}: {ours:.1} bytes, Redis {redis:.1}");
    assert!(ours <= redis, "{name}: {ours:.1} bytes per element, Redis needs {redis}");
}

#[test]
fn big_collections_cost_less_than_in_redis() {
    let mut set = Set::new();
    let mut hash = Hash::new();
    let mut zset = ZSet::new();
    let mut list = List::new();
    for number in 0..BIG {
        set.add(format!("member:{number:09}").as_bytes(), LIMITS);
        let (field, value) = (format!("field:{number:06}"), format!("value:{number:010}"));
        hash.set(field.as_bytes(), value.as_bytes(), LIMITS);
        let score = (number * 7919 % BIG) as f64;
        zset.insert(format!("member:{number:09}").as_bytes(), score, LIMITS);
        list.push(End::Back, format!("element:{number:08}").as_bytes(), LIMITS);
    }
    per_element("set of 16-byte members", set.memory(), BIG, 80.1);
    per_element("hash of 12-byte fields with 16-byte values", hash.memory(), BIG, 90.7);
    per_element("sorted set of 16-byte members", zset.memory(), BIG, 128.1);
    per_element("list of 16-byte elements", list.memory(), BIG, 18.4);
}

/// Redis's numbers include the key (`dictEntry`, bucket, name: about 50 bytes), ours are the values
/// alone: small collections cost about the same on both sides.
#[test]
fn small_collections_cost_what_they_cost_in_redis() {
    let mut set = Set::new();
    for number in 0..100 {
        set.add(number.to_string().as_bytes(), LIMITS);
    }
    let mut hash = Hash::new();
    let mut zset = ZSet::new();
    let mut list = List::new();
    for number in 0..20 {
        let (field, value) = (format!("field{number}"), format!("value{number}"));
        hash.set(field.as_bytes(), value.as_bytes(), LIMITS);
        zset.insert(format!("member{number}").as_bytes(), f64::from(number), LIMITS);
        list.push(End::Back, format!("element{number}").as_bytes(), LIMITS);
    }
    per_element("set of 100 small integers", set.memory(), 1, 296.4);
    per_element("hash of 20 fields", hash.memory(), 1, 455.4);
    per_element("sorted set of 20 members", zset.memory(), 1, 327.4);
    per_element("list of 20 elements", list.memory(), 1, 391.4);
}
