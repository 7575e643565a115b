//! Users and what they may do: the rules of ACL SETUSER, as in Redis 7.2 (`acl.c`).
//!
//! A user has passwords and selectors; each selector allows some commands on some keys and channels,
//! and a command may run if one selector allows all of it. [`User::apply`] takes one rule,
//! [`User::describe`] gives the canonical rules, which are what the cluster's metadata holds.

mod caller;
mod check;
mod selector;
#[cfg(test)]
mod tests;

pub use caller::{Caller, split_caller};
pub use check::Denied;
pub use selector::Selector;

use crate::command::{self, CommandSpec};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// Why a rule is refused; the texts are Redis's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("Syntax error")]
    Syntax,
    #[error("Unknown command or category name in ACL")]
    UnknownCommand,
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not \
         have any effect. Try 'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does \
         not have any effect. Try 'resetchannels' to start with an empty list of channels"
    )]
    AfterAllChannels,
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal \
         characters"
    )]
    BadHash,
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgOfSubcommand,
}

/// What a user may do, without the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub enabled: bool,
    /// Any password will do.
    pub nopass: bool,
    /// `skip-sanitize-payload` is not set. Payloads are always checked here; it is only shown.
    sanitize_payload: bool,
    /// SHA-256 of each password, lower-case hexadecimal.
    passwords: Vec<String>,
    root: Selector,
    selectors: Vec<Selector>,
}

impl Default for User {
    /// As ACL SETUSER creates one: off, may do nothing.
    fn default() -> Self {
        Self {
            enabled: false,
            nopass: false,
            sanitize_payload: true,
            passwords: Vec::new(),
            root: Selector::default(),
            selectors: Vec::new(),
        }
    }
}

impl User {
    /// The user "default" of a cluster without users of its own: may do everything with this
    /// password; an empty one means that none is needed.
    pub fn with_password(password: &str) -> Self {
        let mut user = Self::default();
        for rule in ["on", "allkeys", "allchannels", "allcommands"] {
            user.apply(rule).expect("the rules are constants that exist");
        }
        user.set_password(password);
        user
    }

    /// `requirepass`: this password and no other; none when it is empty.
    pub fn set_password(&mut self, password: &str) {
        self.passwords.clear();
        self.nopass = password.is_empty();
        if !password.is_empty() {
            self.passwords.push(hash(password.as_bytes()));
        }
    }

    /// The user that [`User::describe`] describes.
    pub fn parse(rules: &str) -> Result<Self, RuleError> {
        let words: Vec<&str> = rules.split(' ').filter(|word| !word.is_empty()).collect();
        let words = merge_selectors(&words).map_err(|_| RuleError::Syntax)?;
        let mut user = Self::default();
        for word in words {
            user.apply(&word)?;
        }
        Ok(user)
    }

    /// Changes the user as one argument of ACL SETUSER says. An error changes nothing.
    pub fn apply(&mut self, rule: &str) -> Result<(), RuleError> {
        match rule.to_ascii_lowercase().as_str() {
            "on" => self.enabled = true,
            "off" => self.enabled = false,
            "nopass" => {
                self.nopass = true;
                self.passwords.clear();
            }
            "resetpass" => {
                self.nopass = false;
                self.passwords.clear();
            }
            "sanitize-payload" => self.sanitize_payload = true,
            "skip-sanitize-payload" => self.sanitize_payload = false,
            "clearselectors" => self.selectors.clear(),
            "reset" => *self = Self::default(),
            _ => return self.apply_with_argument(rule),
        }
        Ok(())
    }

    fn apply_with_argument(&mut self, rule: &str) -> Result<(), RuleError> {
        match rule.as_bytes().first() {
            Some(b'>') => self.add_password(hash(&rule.as_bytes()[1..])),
            Some(b'#') => self.add_password(checked_hash(&rule[1..])?),
            Some(b'<') => self.remove_password(&hash(&rule.as_bytes()[1..]))?,
            Some(b'!') => self.remove_password(&checked_hash(&rule[1..])?)?,
            Some(b'(') => {
                let inner = rule[1..].strip_suffix(')').ok_or(RuleError::Syntax)?;
                self.selectors.push(Selector::parse(inner)?);
            }
            _ => self.root.apply(rule)?,
        }
        Ok(())
    }

    fn add_password(&mut self, hash: String) {
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
        self.nopass = false;
    }

    fn remove_password(&mut self, hash: &str) -> Result<(), RuleError> {
        let at = self.passwords.iter().position(|known| known == hash);
        self.passwords.remove(at.ok_or(RuleError::NoSuchPassword)?);
        Ok(())
    }

    /// Is this one of the user's passwords? Takes as long for a wrong one as for the right one.
    pub fn accepts(&self, password: &[u8]) -> bool {
        let given = hash(password);
        let mut right = self.nopass;
        for known in &self.passwords {
            let differs = known.bytes().zip(given.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
            right |= differs == 0;
        }
        right
    }

    /// May the user do everything?
    pub fn is_unrestricted(&self) -> bool {
        self.root.is_unrestricted()
    }

    /// The rules that make this user out of a new one, as ACL LIST shows them after the name.
    pub fn describe(&self) -> String {
        let mut words: Vec<String> = self.flags().into_iter().map(str::to_owned).collect();
        words.extend(self.passwords.iter().map(|hash| format!("#{hash}")));
        words.push(self.permissions());
        words.join(" ")
    }

    /// What of the rules says what the user may do: no passwords.
    pub fn permissions(&self) -> String {
        let mut words = vec![self.root.describe()];
        words.extend(self.selectors.iter().map(|s| format!("({})", s.describe())));
        words.join(" ")
    }

    /// As ACL GETUSER lists them.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        if self.nopass {
            flags.push("nopass");
        }
        let skips = !self.sanitize_payload;
        flags.push(if skips { "skip-sanitize-payload" } else { "sanitize-payload" });
        flags
    }

    /// Hashes of the passwords.
    pub fn passwords(&self) -> &[String] {
        &self.passwords
    }

    /// The rules outside of parentheses.
    pub fn root(&self) -> &Selector {
        &self.root
    }

    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }
}

/// Joins arguments that belong to one selector: `(+get`, `~a*)`. An error is the argument whose
/// parenthesis is never closed.
pub fn merge_selectors<'a>(words: &[&'a str]) -> Result<Vec<String>, &'a str> {
    let mut merged = Vec::new();
    let mut open: Option<(&'a str, String)> = None;
    for &word in words {
        if let Some((_, text)) = &mut open {
            text.push(' ');
            text.push_str(word);
        } else if word.starts_with('(') && !word.ends_with(')') {
            open = Some((word, word.to_owned()));
            continue;
        } else {
            merged.push(word.to_owned());
            continue;
        }
        if word.ends_with(')') {
            merged.extend(open.take().map(|(_, text)| text));
        }
    }
    match open {
        Some((first, _)) => Err(first),
        None => Ok(merged),
    }
}

/// What is stored of a password.
pub fn hash(password: &[u8]) -> String {
    Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn checked_hash(text: &str) -> Result<String, RuleError> {
    let is_hex = text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if text.len() == 64 && is_hex { Ok(text.to_owned()) } else { Err(RuleError::BadHash) }
}

/// Commands and subcommands by name; the position is the bit of a selector.
static COMMANDS: LazyLock<Vec<&'static CommandSpec>> = LazyLock::new(|| {
    let mut all: Vec<_> =
        command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)).collect();
    all.sort_unstable_by_key(|spec| spec.name);
    all
});

/// Every command and subcommand, sorted by name.
pub fn commands() -> impl Iterator<Item = &'static CommandSpec> {
    COMMANDS.iter().copied()
}

fn bit_of(name: &str) -> Option<usize> {
    COMMANDS.binary_search_by_key(&name, |spec| spec.name).ok()
}
