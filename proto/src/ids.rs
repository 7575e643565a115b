//! Newtypes for everything that would otherwise be "some integer".

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A storage node process, named by the sentinel group when it first registers; 0 is nobody.
    NodeId, u64, "n"
);
id!(
    /// One Raft group and the slots it owns. The sentinels' own metadata group is [`ShardId::METADATA`].
    ShardId, u32, "s"
);
id!(
    /// One member of one Raft group. Never reused, not even after its disk was lost.
    RaftId, u64, "r"
);
id!(
    /// One proxy worker (a thread of a proxy process). Given by the sentinel group at start, never
    /// reused; 0 is the shard itself (commands that the primary puts into the log on its own).
    WorkerId, u64, "w"
);
id!(
    /// A Raft term.
    Term, u64, "t"
);
id!(
    /// A position in a Raft log; 0 is "before the first entry".
    LogIndex, u64, "i"
);
id!(
    /// Version of the cluster's metadata value; grows by one with each applied change.
    MetaVersion, u64, "v"
);

impl ShardId {
    /// The Raft group of the sentinels. Data shards count from 1.
    pub const METADATA: Self = Self(0);
}

impl WorkerId {
    /// The author of commands that a primary proposes by itself (expiry, unblocking, retirement).
    pub const SHARD: Self = Self(0);
}
