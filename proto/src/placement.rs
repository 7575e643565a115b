//! Co-location rules: whole databases, or all keys with a prefix, in one hash slot.
//!
//! Queue frameworks name many keys in one command without hash tags; a rule puts all of them on one
//! shard. Every proxy must follow the same rules, so they are a setting of the cluster
//! ([`SETTING`]), and a rule may change only while no key that it concerns exists: nothing moves keys.

use crate::slot::Slot;
use std::fmt::Write as _;

/// The parameter that holds the rules.
pub const SETTING: &str = "colocation-rules";
/// More would make routing slow: each key is compared with each prefix.
const RULES_MAX: usize = 64;

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Database(u16),
    Prefix(String),
}

/// One rule: all keys of the subject are in this slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub subject: Subject,
    pub slot: Slot,
    /// The slot was given; otherwise it follows from the subject.
    explicit: bool,
}

/// The rules of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    rules: Vec<Rule>,
}

impl Placement {
    /// Reads `database 3; prefix bull:; prefix celery slot 77`. Words are separated by blanks, rules
    /// by semicolons.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules: Vec<Rule> = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let rule = parse_rule(part)?;
            if rules.iter().any(|known| known.subject == rule.subject) {
                return Err(format!("two rules for the same keys: '{part}'"));
            }
            rules.push(rule);
        }
        if rules.len() > RULES_MAX {
            return Err(format!("more than {RULES_MAX} co-location rules"));
        }
        Ok(Self { rules })
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Where a key lives: in its database's slot, else in that of the longest prefix that it begins
    /// with, else in its own.
    pub fn slot_of(&self, db: u16, key: &[u8]) -> Slot {
        if self.rules.is_empty() {
            return Slot::of_key(key);
        }
        if let Some(slot) = self.slot_of_database(db) {
            return slot;
        }
        let mut longest: Option<(usize, Slot)> = None;
        for rule in &self.rules {
            if let Subject::Prefix(prefix) = &rule.subject
                && key.starts_with(prefix.as_bytes())
                && longest.is_none_or(|(len, _)| prefix.len() > len)
            {
                longest = Some((prefix.len(), rule.slot));
            }
        }
        longest.map_or_else(|| Slot::of_key(key), |(_, slot)| slot)
    }

    /// The slot of a whole database, if a rule pins it.
    pub fn slot_of_database(&self, db: u16) -> Option<Slot> {
        let rule = self.rules.iter().find(|rule| rule.subject == Subject::Database(db))?;
        Some(rule.slot)
    }

    /// Subjects whose keys another set of rules would look for elsewhere.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<&'a Subject> {
        let missing = |from: &'a Self, to: &'a Self| {
            from.rules.iter().filter(|rule| {
                to.rules.iter().all(|o| o.subject != rule.subject || o.slot != rule.slot)
            })
        };
        let mut subjects: Vec<&Subject> = Vec::new();
        for rule in missing(self, other).chain(missing(other, self)) {
            if !subjects.contains(&&rule.subject) {
                subjects.push(&rule.subject);
            }
        }
        subjects
    }

    /// The text that [`Placement::parse`] reads back.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            if !text.is_empty() {
                text.push_str("; ");
            }
            // Writing to a String cannot fail.
            let _ = match &rule.subject {
                Subject::Database(db) => write!(text, "database {db}"),
                Subject::Prefix(prefix) => write!(text, "prefix {prefix}"),
            };
            if rule.explicit {
                let _ = write!(text, " slot {}", rule.slot.get());
            }
        }
        text
    }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let wrong = || {
        format!(
            "'{text}' is no co-location rule: database N [slot S] or prefix P [slot S] expected"
        )
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (kind, value, slot) = match words[..] {
        [kind, value] => (kind, value, None),
        [kind, value, "slot", slot] => {
            let slot = slot.parse().ok().and_then(Slot::new).ok_or_else(wrong)?;
            (kind, value, Some(slot))
        }
        _ => return Err(wrong()),
    };
    let (subject, own) = match kind {
        "database" => {
            let db: u16 = value.parse().map_err(|_| wrong())?;
            (Subject::Database(db), Slot::of_key(format!("database-{db}").as_bytes()))
        }
        "prefix" => (Subject::Prefix(value.to_owned()), Slot::of_key(value.as_bytes())),
        _ => return Err(wrong()),
    };
    Ok(Rule { subject, slot: slot.unwrap_or(own), explicit: slot.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Placement {
        Placement::parse(text).unwrap()
    }

    #[test]
    fn the_database_comes_first_then_the_longest_prefix() {
        let placement = rules("database 3; prefix bull:; prefix bull:mail: slot 77");
        let bull = Slot::of_key(b"bull:");
        assert_eq!(placement.slot_of(0, b"bull:x:wait"), bull);
        assert_eq!(placement.slot_of(0, b"bull:y:active"), bull);
        assert_eq!(placement.slot_of(0, b"bull:mail:1").get(), 77);
        assert_eq!(placement.slot_of(0, b"bul"), Slot::of_key(b"bul"));
        let third = placement.slot_of(3, b"bull:mail:1");
        assert_eq!(third, placement.slot_of(3, b"anything"));
        assert_eq!(Some(third), placement.slot_of_database(3));
    }

    #[test]
    fn rules_are_read_back_and_nonsense_is_refused() {
        for text in ["", "database 3", "prefix a; database 1 slot 16383; prefix b slot 0"] {
            assert_eq!(rules(text).describe(), text);
        }
        for text in [
            "database x",
            "prefix",
            "prefix a b",
            "database 1 slot 16384",
            "key a",
            "prefix a; prefix a slot 3",
        ] {
            assert!(Placement::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_rules_that_move_keys_differ() {
        let (old, new) =
            (rules("database 1; prefix a; prefix b"), rules("prefix a; prefix b slot 3"));
        let prefix_b = Subject::Prefix("b".to_owned());
        assert_eq!(old.differences(&new), [&Subject::Database(1), &prefix_b]);
        assert!(old.differences(&old).is_empty());
    }
}
