//! What a command tells others than its client: publications, keyspace events, changed keys.
//!
//! Effects are not replicated state: every replica may gather them, only the primary's executor
//! delivers them. While nobody listens, gathering costs a comparison per change.

use holdfast_proto::events::EventClasses;

/// What an executor wants to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Events of these classes.
    pub events: EventClasses,
    /// Keys that change, whatever their database (client tracking).
    pub keys: bool,
    /// PUBLISH inside transactions and scripts.
    pub publications: bool,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// PUBLISH, or SPUBLISH if `sharded`.
    Published { channel: Box<[u8]>, message: Box<[u8]>, sharded: bool },
    /// A keyspace event: what happened, to which key.
    Event { class: EventClasses, event: &'static str, db: u16, key: Box<[u8]> },
    /// A key changed, expired, was evicted or deleted.
    Changed { key: Box<[u8]> },
    /// Every key of a database may have changed (FLUSHALL, FLUSHDB, SWAPDB).
    AllChanged,
}

/// Effects gathered by the keyspace until the record or read ends.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) watched: Watched,
    pub(crate) list: Vec<Effect>,
}

impl Effects {
    #[inline]
    pub(crate) fn event(&mut self, class: EventClasses, event: &'static str, db: u16, key: &[u8]) {
        if self.watched.events.intersects(class) {
            self.list.push(Effect::Event { class, event, db, key: key.into() });
        }
    }

    #[inline]
    pub(crate) fn changed(&mut self, key: &[u8]) {
        if self.watched.keys {
            self.list.push(Effect::Changed { key: key.into() });
        }
    }

    pub(crate) fn all_changed(&mut self) {
        if self.watched.keys {
            self.list.push(Effect::AllChanged);
        }
    }

    pub(crate) fn published(&mut self, channel: &[u8], message: &[u8], sharded: bool) {
        if self.watched.publications {
            let (channel, message) = (channel.into(), message.into());
            self.list.push(Effect::Published { channel, message, sharded });
        }
    }
}
