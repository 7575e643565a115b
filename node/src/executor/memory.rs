//! `maxmemory`: while this replica is the primary it gives up keys, by records of its own, or has
//! commands refused that need memory.
//!
//! The limit is the cluster's and each shard has an equal share of it. Measured is the engine's own
//! account of its data, which all replicas agree on; what is refused is decided before a record is
//! proposed and stands in the record, so that every replica refuses the same.

use super::Executor;
use super::duties::may_propose;
use crate::clock;
use crate::consensus_loop::{Input as ToConsensus, InternalRecord};
use holdfast_engine::{EvictPolicy, EvictionConfig, Victim};
use holdfast_proto::v1;
use std::time::Instant;

/// Keys given up by one proposal: a few milliseconds of choosing and applying.
const VICTIMS_MAX: usize = 1024;
/// Each proposal frees this part of the limit more than needed, so that not every write needs one.
const SLACK_PART: usize = 256;

/// The limit and how it is kept.
#[derive(Default)]
pub(super) struct MemoryLimit {
    /// Bytes that this shard may use; `None`: no limit.
    max: Option<usize>,
    eviction: EvictionConfig,
    /// Since when a proposal is under way.
    proposed: Option<Instant>,
}

impl MemoryLimit {
    fn new(spec: &v1::ClusterSpec, shards: usize) -> Self {
        let setting = |name: &str| spec.settings.get(name).map(String::as_str);
        let number = |name: &str, default| {
            setting(name).and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        let default = EvictionConfig::default();
        let eviction = EvictionConfig {
            policy: setting("maxmemory-policy")
                .and_then(|name| name.parse().ok())
                .unwrap_or_default(),
            samples: number("maxmemory-samples", default.samples),
            lfu_log_factor: number("lfu-log-factor", default.lfu_log_factor),
            lfu_decay_minutes: number("lfu-decay-time", default.lfu_decay_minutes),
        };
        let max = setting("maxmemory").and_then(bytes_of).filter(|&bytes| bytes > 0);
        let max = max.map(|bytes| bytes / shards.max(1) as u64);
        Self { max: max.map(|bytes| bytes as usize), eviction, proposed: None }
    }

    /// An Evict record was applied.
    pub(super) fn applied(&mut self) {
        self.proposed = None;
    }
}

/// A size as Redis's configuration has it: a number, then maybe `k`, `kb`, `m`, `mb`, `g` or `gb`.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl Executor {
    pub(super) fn configure_memory(&mut self, spec: &v1::ClusterSpec) {
        let under_way = self.memory.proposed;
        self.memory = MemoryLimit::new(spec, spec.shards as usize);
        self.memory.proposed = under_way;
        self.engine.set_eviction(self.memory.eviction);
    }

    /// The engine is another one.
    pub(super) fn reconfigure_engine(&mut self) {
        self.engine.set_eviction(self.memory.eviction);
    }

    /// Gives up keys if there is too much data. At most one proposal is under way.
    pub(super) fn keep_within_memory(&mut self) {
        let used = self.engine.memory_used();
        let excess = self.memory.max.map_or(0, |max| used.saturating_sub(max));
        if excess == 0 || !self.primary {
            return self.shared.set_out_of_memory(false);
        }
        if self.memory.eviction.policy == EvictPolicy::NoEviction {
            return self.shared.set_out_of_memory(true);
        }
        if !self.shared.is_serving() || !may_propose(self.memory.proposed) {
            return;
        }
        let now_ms = self.shared.now_ms().max(self.engine.time_ms());
        let wanted = excess + self.memory.max.unwrap_or(0) / SLACK_PART;
        let mut victims = Vec::new();
        let freed = self.engine.choose_victims(now_ms, wanted, VICTIMS_MAX, &mut victims);
        // Nothing may go: as without eviction.
        self.shared.set_out_of_memory(freed == 0);
        if !victims.is_empty() {
            self.memory.proposed = Some(clock::instant());
            let shard = self.shared.shard;
            self.node.consensus.send(ToConsensus::Internal { shard, records: records(victims) });
        }
    }
}

/// One record per database and slot, of which a record has one each.
fn records(mut victims: Vec<Victim>) -> Vec<InternalRecord> {
    victims.sort_unstable();
    let groups = victims.chunk_by(|a, b| (a.db, a.slot) == (b.db, b.slot));
    groups
        .map(|group| {
            let keys = group.iter().map(|victim| &victim.key[..]);
            InternalRecord::evict(group[0].db, group[0].slot, keys)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_shared_among_shards() {
        let mut spec = v1::ClusterSpec::default();
        assert_eq!(MemoryLimit::new(&spec, 3).max, None);
        spec.settings.insert("maxmemory".to_owned(), "300mb".to_owned());
        spec.settings.insert("maxmemory-policy".to_owned(), "allkeys-lfu".to_owned());
        spec.settings.insert("lfu-decay-time".to_owned(), "0".to_owned());
        let limit = MemoryLimit::new(&spec, 3);
        assert_eq!(limit.max, Some(100 << 20));
        assert_eq!(limit.eviction.policy, EvictPolicy::AllKeysLfu);
        assert_eq!((limit.eviction.samples, limit.eviction.lfu_decay_minutes), (5, 0));
        spec.settings.insert("maxmemory".to_owned(), "0".to_owned());
        assert_eq!(MemoryLimit::new(&spec, 3).max, None);
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1000", Some(1000)),
            ("1k", Some(1000)),
            ("2KB", Some(2048)),
            ("3gb", Some(3 << 30)),
            ("", None),
            ("-1", None),
            ("1tb", None),
            ("99999999999gb", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }
}
