//! What is fixed when an engine is made.

/// Settings of an engine. All replicas of a shard must have the same: they decide results
/// (`hash_seed` decides random picks, the limits only decide encodings).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// How many logical databases there are (`SELECT 0` to `databases - 1`).
    pub databases: u16,
    /// Secret key of every hash table, against crafted collisions. Part of the replicated state.
    pub hash_seed: u64,
    /// Instructions after which a script is stopped. All replicas count alike; a figure that differs
    /// between them would let their states differ. Larger lets one client hold up a shard for longer.
    pub script_budget: u64,
    /// When the packed encodings give way to the big ones; the defaults are those of Redis 7.2.
    pub limits: EncodingLimits,
}

/// Thresholds between the packed and the big encodings, named after Redis's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodingLimits {
    /// `list-max-listpack-size` when negative: bytes per node; Redis's default -2 means 8 KiB.
    pub list_max_listpack_bytes: usize,
    pub hash_max_listpack_entries: usize,
    pub hash_max_listpack_value: usize,
    pub set_max_intset_entries: usize,
    pub set_max_listpack_entries: usize,
    pub set_max_listpack_value: usize,
    pub zset_max_listpack_entries: usize,
    pub zset_max_listpack_value: usize,
}

/// About five seconds of a core of today (1e8 instructions per second), like the five seconds after
/// which Redis calls itself busy.
pub const SCRIPT_BUDGET_DEFAULT: u64 = 500_000_000;

impl EncodingLimits {
    /// The defaults of Redis 7.2.
    pub const REDIS: Self = Self {
        list_max_listpack_bytes: 8 * 1024,
        hash_max_listpack_entries: 512,
        hash_max_listpack_value: 64,
        set_max_intset_entries: 512,
        set_max_listpack_entries: 128,
        set_max_listpack_value: 64,
        zset_max_listpack_entries: 128,
        zset_max_listpack_value: 64,
    };
}

impl Default for EncodingLimits {
    fn default() -> Self {
        Self::REDIS
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            databases: 16,
            hash_seed: 0x9e37_79b9_7f4a_7c15,
            script_budget: SCRIPT_BUDGET_DEFAULT,
            limits: EncodingLimits::REDIS,
        }
    }
}
