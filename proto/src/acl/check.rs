//! May a user run a command with these arguments?

use super::{Selector, User};
use crate::command::{self, CommandSpec, flag, key};
use crate::glob;

/// What is not allowed. Of several selectors the one that allows most speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    Command,
    /// The key at this argument.
    Key(u32),
    /// The channel or pattern at this argument.
    Channel(u32),
}

impl Denied {
    /// As ACL LOG names it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key(_) => "key",
            Self::Channel(_) => "channel",
        }
    }

    /// What follows NOPERM.
    pub fn text(self, user: &str, spec: &CommandSpec) -> String {
        match self {
            Self::Command => {
                format!("User {user} has no permissions to run the '{}' command", spec.name)
            }
            Self::Key(_) => "No permissions to access a key".to_owned(),
            Self::Channel(_) => "No permissions to access a channel".to_owned(),
        }
    }

    /// As [`Denied::text`], with the key or channel: for who may know it (ACL DRYRUN).
    pub fn verbose_text<A: AsRef<[u8]>>(
        self,
        user: &str,
        spec: &CommandSpec,
        args: &[A],
    ) -> String {
        let (at, what) = match self {
            Self::Command => return self.text(user, spec),
            Self::Key(at) => (at, "key"),
            Self::Channel(at) => (at, "channel"),
        };
        let value = args.get(at as usize).map_or(&b""[..], AsRef::as_ref);
        let value = String::from_utf8_lossy(value);
        format!("User {user} has no permissions to access the '{value}' {what}")
    }
}

impl User {
    /// Checks a command whose name and number of arguments are right.
    pub fn check<A: AsRef<[u8]>>(&self, spec: &CommandSpec, args: &[A]) -> Result<(), Denied> {
        let mut denied = Denied::Command;
        for selector in std::iter::once(&self.root).chain(&self.selectors) {
            match selector.check(spec, args) {
                Ok(()) => return Ok(()),
                Err(other) => denied = denied.max(other),
            }
        }
        Err(denied)
    }

    /// May the command read keys that its arguments do not name (SORT with BY and GET)?
    fn may_read_all_keys<A: AsRef<[u8]>>(&self, spec: &CommandSpec, args: &[A]) -> bool {
        std::iter::once(&self.root).chain(&self.selectors).any(|selector| {
            let first_arg = args.get(1).map(AsRef::as_ref);
            let reads_all = |keys: &super::selector::KeyPattern| keys.read && keys.pattern == "*";
            selector.allows(spec, first_arg)
                && (selector.all_keys || selector.keys.iter().any(reads_all))
        })
    }

    /// BY and GET of SORT read keys that the arguments do not name: only for who may read them all.
    /// The error is the reply's.
    pub fn check_sort<A: AsRef<[u8]>>(
        &self,
        spec: &CommandSpec,
        args: &[A],
    ) -> Result<(), &'static str> {
        if !matches!(spec.name, "sort" | "sort_ro") || self.may_read_all_keys(spec, args) {
            return Ok(());
        }
        let mut at = 2;
        while at + 1 < args.len() {
            match args[at].as_ref().to_ascii_lowercase().as_slice() {
                b"by" if args[at + 1].as_ref().contains(&b'*') => {
                    return Err(
                        "ERR BY option of SORT denied due to insufficient ACL permissions.",
                    );
                }
                b"get" => {
                    return Err(
                        "ERR GET option of SORT denied due to insufficient ACL permissions.",
                    );
                }
                b"by" | b"store" => at += 2,
                b"limit" => at += 3,
                _ => at += 1,
            }
        }
        Ok(())
    }

    /// May the user still listen to this channel (or pattern, if `literally`)?
    pub fn may_listen(&self, channel: &[u8], literally: bool) -> bool {
        std::iter::once(&self.root)
            .chain(&self.selectors)
            .any(|selector| selector.has_channel(channel, literally))
    }
}

impl Selector {
    fn check<A: AsRef<[u8]>>(&self, spec: &CommandSpec, args: &[A]) -> Result<(), Denied> {
        let first_arg = args.get(1).map(AsRef::as_ref);
        if !spec.flags.has(flag::NO_AUTH) && !self.allows(spec, first_arg) {
            return Err(Denied::Command);
        }
        if !self.all_keys && spec.takes_keys() {
            // Arguments that make no sense name no key: the command fails by itself.
            for position in command::keys(spec, args).unwrap_or_default() {
                let key = args[position.index as usize].as_ref();
                let writes = key::INSERT | key::DELETE | key::UPDATE;
                let reads = position.flags.has(key::ACCESS);
                if !self.has_key(key, reads, position.flags.has_any(writes)) {
                    return Err(Denied::Key(position.index));
                }
            }
        }
        if !self.all_channels {
            for (index, literally) in channels(spec, args.len()) {
                if !self.has_channel(args[index].as_ref(), literally) {
                    return Err(Denied::Channel(index as u32));
                }
            }
        }
        Ok(())
    }

    fn has_key(&self, key: &[u8], reads: bool, writes: bool) -> bool {
        self.keys.iter().any(|known| {
            (known.read || !reads)
                && (known.write || !writes)
                && glob::matches(known.pattern.as_bytes(), key)
        })
    }

    fn has_channel(&self, channel: &[u8], literally: bool) -> bool {
        self.all_channels
            || self.channels.iter().any(|known| {
                if literally {
                    known.as_bytes() == channel
                } else {
                    glob::matches(known.as_bytes(), channel)
                }
            })
    }
}

/// Arguments that are channels, and whether they must be allowed to the letter (patterns).
fn channels(spec: &CommandSpec, count: usize) -> impl Iterator<Item = (usize, bool)> {
    let (range, literally) = match spec.name {
        "subscribe" | "ssubscribe" => (1..count, false),
        "psubscribe" => (1..count, true),
        "publish" | "spublish" => (1..count.min(2), false),
        _ => (0..0, false),
    };
    range.map(move |index| (index, literally))
}
