//! Classes of keyspace notifications (`notify-keyspace-events`).

/// A set of classes, as the parameter's letters name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventClasses(u16);

impl EventClasses {
    /// `K`: published on `__keyspace@<db>__:<key>`.
    pub const KEYSPACE: Self = Self(1 << 0);
    /// `E`: published on `__keyevent@<db>__:<event>`.
    pub const KEYEVENT: Self = Self(1 << 1);
    /// `g`: DEL, EXPIRE, RENAME and other commands of no type.
    pub const GENERIC: Self = Self(1 << 2);
    /// `$`
    pub const STRING: Self = Self(1 << 3);
    /// `l`
    pub const LIST: Self = Self(1 << 4);
    /// `s`
    pub const SET: Self = Self(1 << 5);
    /// `h`
    pub const HASH: Self = Self(1 << 6);
    /// `z`
    pub const ZSET: Self = Self(1 << 7);
    /// `x`: a key whose time had come was deleted.
    pub const EXPIRED: Self = Self(1 << 8);
    /// `e`: a key was deleted to free memory.
    pub const EVICTED: Self = Self(1 << 9);
    /// `t`
    pub const STREAM: Self = Self(1 << 10);
    /// `m`: a read found no key. Not part of `A`.
    pub const KEY_MISS: Self = Self(1 << 11);
    /// `d`: of modules; there are none.
    pub const MODULE: Self = Self(1 << 12);
    /// `n`: a key came into being. Not part of `A`.
    pub const NEW: Self = Self(1 << 13);
    /// `A`: every class but `m` and `n`.
    pub const ALL: Self = Self(0b1_0111_1111_1100);

    /// Letters in the order in which CONFIG GET shows them.
    const LETTERS: [(u8, Self); 14] = [
        (b'g', Self::GENERIC),
        (b'$', Self::STRING),
        (b'l', Self::LIST),
        (b's', Self::SET),
        (b'h', Self::HASH),
        (b'z', Self::ZSET),
        (b'x', Self::EXPIRED),
        (b'e', Self::EVICTED),
        (b't', Self::STREAM),
        (b'd', Self::MODULE),
        (b'n', Self::NEW),
        (b'K', Self::KEYSPACE),
        (b'E', Self::KEYEVENT),
        (b'm', Self::KEY_MISS),
    ];

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Any class of `other`?
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set without its classes that can never be seen: events need a class of their own and a
    /// place (`K` or `E`) to be published at.
    #[must_use]
    pub fn effective(self) -> Self {
        let places = Self::KEYSPACE.with(Self::KEYEVENT);
        if self.intersects(places) { self } else { Self::default() }
    }

    /// Reads the parameter's value; `None` if a letter is unknown.
    pub fn parse(text: &str) -> Option<Self> {
        text.bytes().try_fold(Self::default(), |set, letter| {
            if letter == b'A' {
                return Some(set.with(Self::ALL));
            }
            let (_, class) = Self::LETTERS.iter().find(|(known, _)| *known == letter)?;
            Some(set.with(*class))
        })
    }
}

/// As CONFIG GET shows it.
impl std::fmt::Display for EventClasses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.0 & Self::ALL.0 == Self::ALL.0;
        if all {
            f.write_str("A")?;
        }
        for (letter, class) in Self::LETTERS {
            let shown_by_a = all && class.0 & Self::ALL.0 != 0;
            if self.intersects(class) && !shown_by_a {
                write!(f, "{}", char::from(letter))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_a_server_shows_them() {
        // Pairs from `CONFIG SET notify-keyspace-events x` and `CONFIG GET` on Redis 7.0.15, but
        // for the last: there Redis does not show the `n` that is set.
        let pairs =
            [("", ""), ("KEA", "AKE"), ("Elg", "glE"), ("g$lshzxetd", "A"), ("KEAmn", "AnKEm")];
        for (set, shown) in pairs {
            assert_eq!(EventClasses::parse(set).unwrap().to_string(), shown, "{set}");
        }
        assert_eq!(EventClasses::parse("Kq"), None);
    }

    #[test]
    fn classes_without_a_place_cost_nothing() {
        assert!(EventClasses::parse("A").unwrap().effective().is_empty());
        assert!(!EventClasses::parse("KA").unwrap().effective().is_empty());
    }
}
