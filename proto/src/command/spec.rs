//! What the table says about one command.

use super::docs::Docs;

/// One command or subcommand.
#[derive(Debug)]
pub struct CommandSpec {
    /// Lower case; of a subcommand with its container: `client|list`.
    pub name: &'static str,
    /// Rank of the command's name among all ([`all`](super::all)), below
    /// [`COMMAND_COUNT`](super::COMMAND_COUNT): for tables of handlers. A subcommand has its container's.
    pub index: u16,
    /// Number of arguments with the name (and the container's name); if negative, at least so many.
    pub arity: i32,
    pub group: Group,
    pub flags: CommandFlags,
    pub categories: AclCategories,
    /// Position of the first key, 0 if there is none that is always at the same place. With
    /// `last_key` (negative: counted from the end) and `step` the old way of saying where keys are.
    pub first_key: i32,
    pub last_key: i32,
    pub step: i32,
    pub key_specs: &'static [KeySpec],
    /// Hints for clients (`request_policy:all_shards`).
    pub tips: &'static [&'static str],
    pub support: Support,
    pub docs: Docs,
    /// Sorted by name.
    pub subcommands: &'static [Self],
}

impl CommandSpec {
    /// The last part of the name: `list` of `client|list`.
    pub fn own_name(&self) -> &'static str {
        self.name.rsplit('|').next().unwrap_or(self.name)
    }

    /// May be called with so many arguments, its names included.
    pub fn arity_fits(&self, argument_count: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { argument_count >= arity } else { argument_count == arity }
    }

    pub fn is_write(&self) -> bool {
        self.flags.has(flag::WRITE)
    }

    /// Changes the replicated state, or may: it has to go through the log. Besides writes these are
    /// scripts that are not declared read-only, and what changes the cache of scripts.
    pub fn is_logged(&self) -> bool {
        self.is_write()
            || matches!(self.name, "eval" | "evalsha" | "fcall" | "script|load" | "script|flush")
    }

    pub fn is_readonly(&self) -> bool {
        self.flags.has(flag::READONLY)
    }

    pub fn is_blocking(&self) -> bool {
        self.flags.has(flag::BLOCKING)
    }

    /// Has keys, if called in the right way.
    pub fn takes_keys(&self) -> bool {
        self.key_specs.iter().any(|spec| !spec.flags.has(key::NOT_KEY))
    }
}

/// Which part of Redis a command belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    Bitmap,
    Cluster,
    Connection,
    Generic,
    Geo,
    Hash,
    Hyperloglog,
    List,
    Pubsub,
    Scripting,
    Server,
    Set,
    SortedSet,
    Stream,
    String,
    Transactions,
}

impl Group {
    /// As COMMAND DOCS names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bitmap => "bitmap",
            Self::Cluster => "cluster",
            Self::Connection => "connection",
            Self::Generic => "generic",
            Self::Geo => "geo",
            Self::Hash => "hash",
            Self::Hyperloglog => "hyperloglog",
            Self::List => "list",
            Self::Pubsub => "pubsub",
            Self::Scripting => "scripting",
            Self::Server => "server",
            Self::Set => "set",
            Self::SortedSet => "sorted-set",
            Self::Stream => "stream",
            Self::String => "string",
            Self::Transactions => "transactions",
        }
    }
}

/// Whether Holdfast executes a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    Supported,
    /// Its family is not built yet.
    NotYet,
    /// Will not be: replication, persistence and slots are the cluster's own business.
    Refused,
}

/// A named set of bits whose names are what COMMAND shows, in the order of Redis's source.
macro_rules! bit_set {
    ($(#[$doc:meta])* $type:ident($repr:ty), $module:ident, $($name:ident = $shown:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $type(pub $repr);

        impl $type {
            /// Every bit and its name.
            pub const NAMES: &'static [($repr, &'static str)] = &[$(($module::$name, $shown)),+];

            /// All of `bits`?
            pub const fn has(self, bits: $repr) -> bool {
                self.0 & bits == bits
            }

            /// Any of `bits`?
            pub const fn has_any(self, bits: $repr) -> bool {
                self.0 & bits != 0
            }

            pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
                Self::NAMES.iter().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| *name)
            }

            /// The bit of a name, in any case.
            pub fn bit(name: &[u8]) -> Option<$repr> {
                let same = |(_, n): &&($repr, &str)| n.as_bytes().eq_ignore_ascii_case(name);
                Self::NAMES.iter().find(same).map(|(bit, _)| *bit)
            }
        }

        /// Bits of the set named alike.
        pub mod $module {
            #[allow(clippy::upper_case_acronyms, non_camel_case_types)]
            enum Position { $($name),+ }
            $(pub const $name: $repr = 1 << Position::$name as u32;)+
        }
    };
}

bit_set! {
    /// What kind of command it is.
    CommandFlags(u32), flag,
    WRITE = "write", READONLY = "readonly", DENYOOM = "denyoom", MODULE = "module", ADMIN = "admin",
    PUBSUB = "pubsub", NOSCRIPT = "noscript", BLOCKING = "blocking", LOADING = "loading",
    STALE = "stale", SKIP_MONITOR = "skip_monitor", SKIP_SLOWLOG = "skip_slowlog", ASKING = "asking",
    FAST = "fast", NO_AUTH = "no_auth", MAY_REPLICATE = "may_replicate",
    NO_MANDATORY_KEYS = "no_mandatory_keys", NO_ASYNC_LOADING = "no_async_loading",
    NO_MULTI = "no_multi", MOVABLEKEYS = "movablekeys", ALLOW_BUSY = "allow_busy",
}

bit_set! {
    /// The categories of ACL rules that a command belongs to.
    AclCategories(u32), cat,
    KEYSPACE = "@keyspace", READ = "@read", WRITE = "@write", SET = "@set", SORTEDSET = "@sortedset",
    LIST = "@list", HASH = "@hash", STRING = "@string", BITMAP = "@bitmap",
    HYPERLOGLOG = "@hyperloglog", GEO = "@geo", STREAM = "@stream", PUBSUB = "@pubsub",
    ADMIN = "@admin", FAST = "@fast", SLOW = "@slow", BLOCKING = "@blocking",
    DANGEROUS = "@dangerous", CONNECTION = "@connection", TRANSACTION = "@transaction",
    SCRIPTING = "@scripting",
}

bit_set! {
    /// What a command does with a key.
    KeyFlags(u16), key,
    RO = "RO", RW = "RW", OW = "OW", RM = "RM", ACCESS = "access", UPDATE = "update",
    INSERT = "insert", DELETE = "delete", NOT_KEY = "not_key", INCOMPLETE = "incomplete",
    VARIABLE_FLAGS = "variable_flags",
}

/// How to find some of a command's keys
/// ([key specifications](https://redis.io/docs/reference/key-specs/)).
#[derive(Debug)]
pub struct KeySpec {
    pub flags: KeyFlags,
    pub begin: Begin,
    pub find: Find,
    pub notes: Option<&'static str>,
}

/// Where the search for keys begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// At this argument.
    Index(u32),
    /// After this word, looked for from this argument on (negative: from the end, backwards).
    Keyword(&'static str, i32),
    /// Not to be said in this way; see [`keys`](super::keys).
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Clone, Copy, Debug)]
pub enum Find {
    /// Each `step`-th up to `last`, relative to the first (negative: to the end). With `limit` n > 1
    /// only the first n-th of the rest.
    Range { last: i32, step: u32, limit: u32 },
    /// As many as the argument `index` says; the first is at `first`; both relative.
    KeyNum { index: u32, first: u32, step: u32 },
    /// Not to be said in this way.
    Unknown,
}
