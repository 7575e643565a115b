//! One set of permissions: commands, keys and channels.

use super::{COMMANDS, RuleError, bit_of};
use crate::command::{AclCategories, CommandSpec};
use std::collections::BTreeMap;

/// A key pattern and what may be done with keys that match it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPattern {
    pub(super) pattern: String,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// Commands, keys and channels that are allowed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub(super) all_keys: bool,
    pub(super) all_channels: bool,
    pub(super) keys: Vec<KeyPattern>,
    pub(super) channels: Vec<String>,
    /// Nothing was taken away since `+@all`.
    pub(super) all_commands: bool,
    /// `+@all` came after `-@all`: what is shown begins with it.
    future_commands: bool,
    /// One bit per command of [`super::commands`].
    allowed: Vec<u64>,
    /// `+select|0`: first arguments with which a command that is not allowed may run.
    first_args: BTreeMap<usize, Vec<String>>,
    /// The command rules in their order, without those that later ones made void.
    rules: Vec<String>,
}

impl Selector {
    pub(super) fn parse(rules: &str) -> Result<Self, RuleError> {
        let mut selector = Self::default();
        for rule in rules.split(' ').filter(|word| !word.is_empty()) {
            selector.apply(rule)?;
        }
        Ok(selector)
    }

    pub(super) fn apply(&mut self, rule: &str) -> Result<(), RuleError> {
        match rule.to_ascii_lowercase().as_str() {
            "allkeys" | "~*" => {
                self.all_keys = true;
                self.keys.clear();
            }
            "resetkeys" => {
                self.all_keys = false;
                self.keys.clear();
            }
            "allchannels" | "&*" => {
                self.all_channels = true;
                self.channels.clear();
            }
            "resetchannels" => {
                self.all_channels = false;
                self.channels.clear();
            }
            "allcommands" | "+@all" => self.set_all(true),
            "nocommands" | "-@all" => self.set_all(false),
            _ => return self.apply_with_argument(rule),
        }
        Ok(())
    }

    fn apply_with_argument(&mut self, rule: &str) -> Result<(), RuleError> {
        let (first, rest) = rule.split_at_checked(1).ok_or(RuleError::Syntax)?;
        match first {
            "~" | "%" => self.add_keys(first, rest),
            "&" => self.add_channel(rest),
            "+" | "-" if rest.starts_with('@') => self.set_category(rest, first == "+"),
            "+" => self.allow(rest),
            "-" => self.forbid(rest),
            _ => Err(RuleError::Syntax),
        }
    }

    fn add_keys(&mut self, first: &str, rest: &str) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::AfterAllKeys);
        }
        let (pattern, read, write) = match first {
            "~" => (rest, true, true),
            _ => {
                let (permissions, pattern) = rest.split_once('~').ok_or(RuleError::Syntax)?;
                match permissions.to_ascii_uppercase().as_str() {
                    "R" => (pattern, true, false),
                    "W" => (pattern, false, true),
                    "RW" | "WR" => (pattern, true, true),
                    _ => return Err(RuleError::Syntax),
                }
            }
        };
        if has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        match self.keys.iter_mut().find(|known| known.pattern == pattern) {
            Some(known) => {
                known.read |= read;
                known.write |= write;
            }
            None => self.keys.push(KeyPattern { pattern: pattern.to_owned(), read, write }),
        }
        Ok(())
    }

    fn add_channel(&mut self, pattern: &str) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::AfterAllChannels);
        }
        if has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        if !self.channels.iter().any(|known| known == pattern) {
            self.channels.push(pattern.to_owned());
        }
        Ok(())
    }

    fn set_all(&mut self, allow: bool) {
        let words = COMMANDS.len().div_ceil(64);
        self.allowed = vec![if allow { u64::MAX } else { 0 }; words];
        self.all_commands = allow;
        self.future_commands = allow;
        self.first_args.clear();
        self.rules.clear();
    }

    fn set_category(&mut self, category: &str, allow: bool) -> Result<(), RuleError> {
        let category = category.to_ascii_lowercase();
        let bit = AclCategories::bit(category.as_bytes()).ok_or(RuleError::UnknownCommand)?;
        for spec in COMMANDS.iter().filter(|spec| spec.categories.has(bit)) {
            self.set(spec, allow);
        }
        self.note(&category, allow);
        Ok(())
    }

    fn allow(&mut self, name: &str) -> Result<(), RuleError> {
        let name = name.to_ascii_lowercase();
        let Some((parent, argument)) = name.rsplit_once('|') else {
            return self.set_named(&name, true);
        };
        let bit = bit_of(parent).ok_or(RuleError::UnknownCommand)?;
        if parent.contains('|') {
            return Err(RuleError::FirstArgOfSubcommand);
        }
        if argument.is_empty() {
            return Err(RuleError::Syntax);
        }
        if !COMMANDS[bit].subcommands.is_empty() {
            return self.set_named(&name, true);
        }
        let known = self.first_args.entry(bit).or_default();
        if !known.iter().any(|other| other == argument) {
            known.push(argument.to_owned());
        }
        self.note(&name, true);
        Ok(())
    }

    fn forbid(&mut self, name: &str) -> Result<(), RuleError> {
        self.set_named(&name.to_ascii_lowercase(), false)
    }

    fn set_named(&mut self, name: &str, allow: bool) -> Result<(), RuleError> {
        let bit = bit_of(name).ok_or(RuleError::UnknownCommand)?;
        self.set(COMMANDS[bit], allow);
        self.note(name, allow);
        Ok(())
    }

    /// Allows or forbids a command and all its subcommands.
    fn set(&mut self, spec: &CommandSpec, allow: bool) {
        if self.allowed.is_empty() {
            self.allowed = vec![0; COMMANDS.len().div_ceil(64)];
        }
        for spec in std::iter::once(spec).chain(spec.subcommands) {
            let bit = bit_of(spec.name).expect("a command of the table has a bit");
            if allow {
                self.allowed[bit / 64] |= 1 << (bit % 64);
            } else {
                self.allowed[bit / 64] &= !(1 << (bit % 64));
                self.all_commands = false;
            }
            self.first_args.remove(&bit);
        }
    }

    /// Appends a command rule; earlier ones about the same command, or its subcommands, are void.
    fn note(&mut self, name: &str, allow: bool) {
        let is_void = |rule: &String| {
            let other = &rule[1..];
            other == name || other.strip_prefix(name).is_some_and(|rest| rest.starts_with('|'))
        };
        self.rules.retain(|rule| !is_void(rule));
        self.rules.push(format!("{}{name}", if allow { '+' } else { '-' }));
    }

    pub(super) fn allows(&self, spec: &CommandSpec, first_arg: Option<&[u8]>) -> bool {
        if self.all_commands {
            return true;
        }
        let Some(bit) = bit_of(spec.name) else { return false };
        if self.allowed.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1) {
            return true;
        }
        let known = self.first_args.get(&bit);
        first_arg.zip(known).is_some_and(|(given, known)| {
            known.iter().any(|arg| given.eq_ignore_ascii_case(arg.as_bytes()))
        })
    }

    pub(super) fn is_unrestricted(&self) -> bool {
        self.all_commands && self.all_keys && self.all_channels
    }

    /// The rules that make this selector out of a new one.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        match self.describe_keys() {
            keys if keys.is_empty() => {}
            keys => words.push(keys),
        }
        if !self.all_channels {
            words.push("resetchannels".to_owned());
        }
        match self.describe_channels() {
            channels if channels.is_empty() => {}
            channels => words.push(channels),
        }
        words.push(self.describe_commands());
        words.join(" ")
    }

    /// As ACL GETUSER shows it.
    pub fn describe_commands(&self) -> String {
        let mut text = if self.future_commands { "+@all" } else { "-@all" }.to_owned();
        for rule in &self.rules {
            text.push(' ');
            text.push_str(rule);
        }
        text
    }

    /// As ACL GETUSER shows it.
    pub fn describe_keys(&self) -> String {
        if self.all_keys {
            return "~*".to_owned();
        }
        let words: Vec<String> = self
            .keys
            .iter()
            .map(|key| match (key.read, key.write) {
                (true, false) => format!("%R~{}", key.pattern),
                (false, true) => format!("%W~{}", key.pattern),
                _ => format!("~{}", key.pattern),
            })
            .collect();
        words.join(" ")
    }

    /// As ACL GETUSER shows it.
    pub fn describe_channels(&self) -> String {
        if self.all_channels {
            return "&*".to_owned();
        }
        let words: Vec<String> = self.channels.iter().map(|c| format!("&{c}")).collect();
        words.join(" ")
    }
}

/// Rules are separated by blanks when they are stored.
fn has_spaces(text: &str) -> bool {
    text.bytes().any(|c| c.is_ascii_whitespace() || c == 0 || c == 0x0b)
}
