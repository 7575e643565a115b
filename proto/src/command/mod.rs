//! The table of every Redis 7.2 command, as data that proxy, engine and documents share.
//!
//! [`lookup`] and [`lookup_sub`] find a command; [`CommandSpec`] says what it is; [`keys`] says where
//! its keys are; [`describe`] writes the replies of `COMMAND`. The data in `table/` is generated
//! from a stock server (see `proto/tools/generate_commands.py`).

pub mod describe;
pub mod docs;
mod keys;
pub mod notes;
mod spec;
mod table;

pub use keys::{KeyError, KeyPosition, KeyPositions, keys};
pub use spec::{
    AclCategories, Begin, CommandFlags, CommandSpec, Find, Group, KeyFlags, KeySpec, Support, cat,
    flag, key,
};
pub use table::COMMAND_COUNT;

use std::sync::LazyLock;

/// The command of this name in any case; of a container command (`CLIENT`) the container.
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    INDEX.find(name)
}

/// The subcommand of a container (`b"list"` of `CLIENT`) in any case.
pub fn lookup_sub(parent: &'static CommandSpec, name: &[u8]) -> Option<&'static CommandSpec> {
    parent.subcommands.iter().find(|sub| sub.own_name().as_bytes().eq_ignore_ascii_case(name))
}

/// The command that a request names: of a container, its subcommand. `Err` says what is unknown.
pub fn resolve<'a>(
    name: &[u8],
    first_argument: Option<&'a [u8]>,
) -> Result<&'static CommandSpec, UnknownCommand<'a>> {
    let spec = lookup(name).ok_or(UnknownCommand::Command)?;
    match first_argument {
        Some(sub) if !spec.subcommands.is_empty() => {
            lookup_sub(spec, sub).ok_or(UnknownCommand::Subcommand(spec, sub))
        }
        _ => Ok(spec),
    }
}

/// Whether a request may have to wait although its command only reads: XREAD with BLOCK. It has to be
/// a record of the log then, as the commands that wait and write are.
pub fn may_wait<'a>(spec: &CommandSpec, args: impl IntoIterator<Item = &'a [u8]>) -> bool {
    spec.name == "xread"
        && args
            .into_iter()
            .take_while(|arg| !arg.eq_ignore_ascii_case(b"streams"))
            .any(|arg| arg.eq_ignore_ascii_case(b"block"))
}

/// What [`resolve`] did not find.
#[derive(Clone, Copy, Debug)]
pub enum UnknownCommand<'a> {
    Command,
    Subcommand(&'static CommandSpec, &'a [u8]),
}

/// Every command in order of [`CommandSpec::index`]; subcommands are inside their containers.
pub fn all() -> impl ExactSizeIterator<Item = &'static CommandSpec> {
    INDEX.by_rank.iter().copied()
}

/// Redis's reply to a command that does not exist (`rejectCommandFormat` in `server.c`): the name
/// and the first arguments, shortened.
pub fn unknown_command_error<'a>(name: &[u8], args: impl Iterator<Item = &'a [u8]>) -> String {
    let mut shown = String::new();
    for arg in args {
        if shown.len() >= 128 {
            break;
        }
        let room = 128 - shown.len();
        shown.push('\'');
        shown.push_str(&clean(&arg[..arg.len().min(room)]));
        shown.push_str("' ");
    }
    let name = clean(&name[..name.len().min(128)]);
    format!("ERR unknown command '{name}', with args beginning with: {shown}")
}

/// Redis's reply to a subcommand that does not exist.
pub fn unknown_subcommand_error(parent: &CommandSpec, sub: &[u8]) -> String {
    let sub = clean(&sub[..sub.len().min(128)]);
    let parent = parent.name.to_ascii_uppercase();
    format!("ERR unknown subcommand '{sub}'. Try {parent} HELP.")
}

/// Redis's reply to a wrong number of arguments.
pub fn arity_error(spec: &CommandSpec) -> String {
    format!("ERR wrong number of arguments for '{}' command", spec.name)
}

/// The reply to a command that [`Support`] excludes; `None` for one that works.
pub fn support_error(spec: &CommandSpec) -> Option<String> {
    let name = spec.name.to_ascii_uppercase().replace('|', " ");
    match spec.support {
        Support::Supported => None,
        Support::NotYet => Some(format!("ERR {name} is not supported yet")),
        Support::Refused => Some(format!("ERR {name} is not available: Holdfast does this itself")),
    }
}

/// Text for an error line: line breaks as blanks (the client's bytes must not end the line), and
/// nothing from a NUL on, where Redis's format ends.
fn clean(bytes: &[u8]) -> String {
    let bytes = &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())];
    String::from_utf8_lossy(bytes).replace(['\r', '\n'], " ")
}

/// Slots of the hash table over names; about a fifth is used, so probes are short.
const INDEX_SLOTS: usize = 1024;
/// No command's name is longer ("georadiusbymember_ro" has 20).
const NAME_LEN_MAX: usize = 32;

struct Index {
    /// Rank plus one; zero is empty. Collisions go to the next slot.
    slots: [u16; INDEX_SLOTS],
    by_rank: Vec<&'static CommandSpec>,
}

static INDEX: LazyLock<Index> = LazyLock::new(Index::new);

impl Index {
    fn new() -> Self {
        let mut by_rank: Vec<_> = table::TABLES.iter().flat_map(|part| part.iter()).collect();
        by_rank.sort_by_key(|spec| spec.index);
        let mut slots = [0; INDEX_SLOTS];
        for spec in &by_rank {
            let mut slot = hash(spec.name.as_bytes());
            while slots[slot] != 0 {
                slot = (slot + 1) % INDEX_SLOTS;
            }
            slots[slot] = spec.index + 1;
        }
        Self { slots, by_rank }
    }

    fn find(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        if name.len() > NAME_LEN_MAX {
            return None;
        }
        let mut slot = hash(name);
        while let Some(rank) = self.slots[slot].checked_sub(1) {
            let spec = self.by_rank[rank as usize];
            if spec.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(spec);
            }
            slot = (slot + 1) % INDEX_SLOTS;
        }
        None
    }
}

/// FNV-1a over the bytes with the case bit set, which makes letters lower case.
fn hash(name: &[u8]) -> usize {
    let step = |hash: u32, &c: &u8| (hash ^ u32::from(c | 0x20)).wrapping_mul(0x0100_0193);
    let hash = name.iter().fold(0x811c_9dc5, step);
    (hash ^ (hash >> 15)) as usize % INDEX_SLOTS
}

#[cfg(test)]
mod tests;
