//! Which keys to give up when memory is short, and what is known about their use.
//!
//! Only the primary chooses; it proposes what it chose, and every replica deletes it when that
//! record is applied. So the choice may use what replicas do not share: when and how often each
//! of them saw a key used, and a generator.

use crate::entry::Entry;
use crate::keyspace::{Db, Keyspace};
use crate::random::Rng;
use crate::table::Keyed;
use holdfast_proto::slot::{SLOT_COUNT, Slot};
use std::collections::BTreeSet;
use std::str::FromStr;

/// Redis's `maxmemory-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictPolicy {
    #[default]
    NoEviction,
    AllKeysLru,
    AllKeysLfu,
    AllKeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    /// The nearest expiry first.
    VolatileTtl,
}

impl FromStr for EvictPolicy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Ok(match name {
            "noeviction" => Self::NoEviction,
            "allkeys-lru" => Self::AllKeysLru,
            "allkeys-lfu" => Self::AllKeysLfu,
            "allkeys-random" => Self::AllKeysRandom,
            "volatile-lru" => Self::VolatileLru,
            "volatile-lfu" => Self::VolatileLfu,
            "volatile-random" => Self::VolatileRandom,
            "volatile-ttl" => Self::VolatileTtl,
            _ => return Err(UnknownPolicy),
        })
    }
}

/// Not the name of an [`EvictPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such maxmemory-policy")]
pub struct UnknownPolicy;

impl EvictPolicy {
    /// Only keys with an expiry may go.
    fn is_volatile(self) -> bool {
        matches!(
            self,
            Self::VolatileLru | Self::VolatileLfu | Self::VolatileRandom | Self::VolatileTtl
        )
    }

    /// Goes by how often keys are used.
    pub(crate) fn is_lfu(self) -> bool {
        matches!(self, Self::AllKeysLfu | Self::VolatileLfu)
    }
}

/// How this replica keeps track of keys' use and chooses among them. Not replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictionConfig {
    pub policy: EvictPolicy,
    /// `maxmemory-samples`: keys looked at for each that is chosen; 1 to 64.
    pub samples: u32,
    /// `lfu-log-factor`: how many uses it takes to count further.
    pub lfu_log_factor: u32,
    /// `lfu-decay-time`: minutes without use that take one off; 0 is never.
    pub lfu_decay_minutes: u32,
}

impl Default for EvictionConfig {
    fn default() -> Self {
        Self {
            policy: EvictPolicy::NoEviction,
            samples: 5,
            lfu_log_factor: 10,
            lfu_decay_minutes: 1,
        }
    }
}

/// When and how often a key was used, as Redis keeps it: the last use in seconds (24 bits, which wrap
/// after 194 days) and a logarithmic counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access(u32);

/// The counter of a new key, so that it is not the first to go.
const COUNTER_INIT: u32 = 5;

impl Access {
    pub(crate) const NEW: Self = Self(COUNTER_INIT);

    /// Used now. `random` decides whether that counts, if frequencies are kept.
    #[inline]
    pub(crate) fn touched(self, now_s: u32, config: &EvictionConfig, random: u64) -> Self {
        let mut counter = self.0 & 0xff;
        if config.policy.is_lfu() {
            counter = self.frequency(now_s, config).into();
            let base = counter.saturating_sub(COUNTER_INIT);
            let odds = u64::from(base) * u64::from(config.lfu_log_factor) + 1;
            if counter < 255 && random.is_multiple_of(odds) {
                counter += 1;
            }
        }
        Self(now_s << 8 | counter)
    }

    /// As it was, but used last at another time.
    #[inline]
    pub(crate) fn at(self, now_s: u32) -> Self {
        Self(now_s << 8 | self.0 & 0xff)
    }

    /// As RESTORE says: not used for so long, or with this counter.
    pub(crate) fn restored(now_s: u32, idle_s: Option<u32>, frequency: Option<u8>) -> Self {
        const IDLE_MAX: u32 = 0xff_ffff;
        let used_s = now_s.wrapping_sub(idle_s.unwrap_or(0).min(IDLE_MAX));
        Self(used_s << 8 | frequency.map_or(COUNTER_INIT, u32::from))
    }

    /// Seconds since the last use.
    pub(crate) fn idle_s(self, now_s: u32) -> u32 {
        (now_s << 8).wrapping_sub(self.0 & !0xff) >> 8
    }

    /// The counter less what the time without use takes off.
    pub(crate) fn frequency(self, now_s: u32, config: &EvictionConfig) -> u8 {
        let idle_minutes = self.idle_s(now_s) / 60;
        let lost = idle_minutes.checked_div(config.lfu_decay_minutes).unwrap_or(0);
        (self.0 & 0xff).saturating_sub(lost) as u8
    }

    #[cfg(test)]
    pub(crate) fn of(used_s: u32, counter: u8) -> Self {
        Self(used_s << 8 | u32::from(counter))
    }
}

/// A key to be given up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Victim {
    pub db: u16,
    pub slot: Slot,
    pub key: Vec<u8>,
}

/// Keys that look best are kept from one choice to the next, as in Redis (`EVPOOL_SIZE`).
const POOL_LEN: usize = 16;
/// Slots tried at random before the next one with keys will do.
const SLOT_TRIES: usize = 32;

/// What one search for victims has found.
struct Pool {
    /// The best last.
    samples: Vec<Sample>,
}

struct Sample {
    rank: u64,
    bytes: usize,
    victim: Victim,
}

impl Pool {
    fn offer(&mut self, sample: Sample) {
        let at = self.samples.partition_point(|other| other.rank < sample.rank);
        if self.samples.iter().any(|other| other.victim == sample.victim) {
            return;
        }
        self.samples.insert(at, sample);
        if self.samples.len() > POOL_LEN {
            self.samples.remove(0);
        }
    }
}

/// Chooses keys that free at least `bytes` together, at most `count`. Adds to `victims` and returns
/// about how many bytes they free: 0 if no key may go.
pub(crate) fn choose(
    space: &Keyspace,
    config: &EvictionConfig,
    now_ms: u64,
    (bytes, count): (usize, usize),
    rng: &mut Rng,
    victims: &mut Vec<Victim>,
) -> usize {
    let mut freed = 0;
    let mut chosen = BTreeSet::new();
    let mut pool = Pool { samples: Vec::new() };
    // Samples may repeat: with few keys left a search must end.
    let mut misses = 0;
    while freed < bytes && chosen.len() < count && misses < 64 {
        for _ in 0..config.samples.clamp(1, 64) {
            match sample(space, config, now_ms, rng) {
                None => return freed,
                Some(sample) if chosen.contains(&sample.victim) => {}
                Some(sample) => pool.offer(sample),
            }
        }
        let Some(best) = pool.samples.pop() else {
            misses += 1;
            continue;
        };
        freed += best.bytes;
        chosen.insert(best.victim.clone());
        victims.push(best.victim);
    }
    freed
}

fn sample(space: &Keyspace, config: &EvictionConfig, now_ms: u64, rng: &mut Rng) -> Option<Sample> {
    let policy = config.policy;
    let dbs = space.dbs.len();
    let first = rng.below(dbs);
    (0..dbs).find_map(|step| {
        let db = (first + step) % dbs;
        let (slot, entry) = random_entry(&space.dbs[db], policy.is_volatile(), rng)?;
        let slot = Slot::new(slot as u16).expect("databases have as many slots");
        let victim = Victim { db: db as u16, slot, key: entry.key().to_vec() };
        let bytes = entry.own_memory() + entry.accounted();
        Some(Sample { rank: rank(entry, config, now_ms, rng), bytes, victim })
    })
}

/// The greater, the sooner the key goes.
fn rank(entry: &Entry, config: &EvictionConfig, now_ms: u64, rng: &mut Rng) -> u64 {
    let now_s = (now_ms / 1000) as u32;
    match config.policy {
        EvictPolicy::AllKeysLru | EvictPolicy::VolatileLru => {
            u64::from(entry.access().idle_s(now_s))
        }
        EvictPolicy::AllKeysLfu | EvictPolicy::VolatileLfu => {
            u64::from(255 - entry.access().frequency(now_s, config))
        }
        EvictPolicy::VolatileTtl => u64::MAX - entry.expire_at().unwrap_or(u64::MAX),
        EvictPolicy::AllKeysRandom | EvictPolicy::VolatileRandom | EvictPolicy::NoEviction => {
            rng.next()
        }
    }
}

/// An entry of a random slot that has one. Keys of thinly used slots come somewhat more often, which
/// is good enough for a choice among samples.
fn random_entry<'a>(db: &'a Db, volatile: bool, rng: &mut Rng) -> Option<(usize, &'a Entry)> {
    let keys = if volatile { db.expires_count() } else { db.key_count() };
    if keys == 0 {
        return None;
    }
    let slots = usize::from(SLOT_COUNT);
    for _ in 0..SLOT_TRIES {
        let slot = rng.below(slots);
        if let Some(entry) = entry_of(db, slot, volatile, rng) {
            return Some((slot, entry));
        }
    }
    let mut from = rng.below(slots);
    for _ in 0..slots {
        let slot = db.next_occupied(from).or_else(|| db.next_occupied(0))?;
        if let Some(entry) = entry_of(db, slot, volatile, rng) {
            return Some((slot, entry));
        }
        from = slot + 1;
    }
    None
}

fn entry_of<'a>(db: &'a Db, slot: usize, volatile: bool, rng: &mut Rng) -> Option<&'a Entry> {
    let keys = db.slot(slot)?;
    if volatile {
        let found = keys.expires.random(rng)?;
        return keys.entries.get(found.key());
    }
    keys.entries.random(rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LFU: EvictionConfig = EvictionConfig {
        policy: EvictPolicy::AllKeysLfu,
        samples: 5,
        lfu_log_factor: 10,
        lfu_decay_minutes: 1,
    };

    #[test]
    fn idle_time_survives_a_wrap_of_24_bits() {
        let now_s = 1_700_000_000;
        let access = Access::restored(now_s, Some(77), None);
        assert_eq!((access.idle_s(now_s), access.frequency(now_s + 100, &LFU)), (77, 3));
        assert_eq!(Access::restored(now_s, None, Some(200)).frequency(now_s, &LFU), 200);
        let access = Access::NEW.touched(now_s, &EvictionConfig::default(), 0);
        assert_eq!(access.idle_s(now_s), 0);
        assert_eq!(access.idle_s(now_s + 3_000_000), 3_000_000);
        assert_eq!(access.frequency(now_s, &LFU), 5);
    }

    #[test]
    fn frequencies_grow_like_a_logarithm_and_decay() {
        let mut rng = Rng::new(1, 2, 3);
        let count = |uses: usize, rng: &mut Rng| {
            let used = |access: Access| access.touched(1000, &LFU, rng.next());
            let mut use_it = used;
            (0..uses).fold(Access::of(1000, 5), |access, _| use_it(access)).frequency(1000, &LFU)
        };
        // redis.conf: with factor 10 about 10 after 100 hits, 18 after 1000, 142 after 100,000.
        assert!((8..14).contains(&count(100, &mut rng)));
        assert!((14..24).contains(&count(1000, &mut rng)));
        assert!((125..160).contains(&count(100_000, &mut rng)));
        let access = Access::of(1000, 100);
        assert_eq!(access.frequency(1000 + 59, &LFU), 100);
        assert_eq!(access.frequency(1000 + 30 * 60, &LFU), 70);
        assert_eq!(access.frequency(1000 + 300 * 60, &LFU), 0);
        let never = EvictionConfig { lfu_decay_minutes: 0, ..LFU };
        assert_eq!(access.frequency(1_000_000, &never), 100);
    }

    #[test]
    fn policies_have_redis_names() {
        assert_eq!("volatile-ttl".parse(), Ok(EvictPolicy::VolatileTtl));
        assert_eq!("allkeys-lfu".parse(), Ok(EvictPolicy::AllKeysLfu));
        assert_eq!("lru".parse::<EvictPolicy>(), Err(UnknownPolicy));
    }
}
