//! Where the keys of a command are, as Redis's `getKeysFromCommand` finds them.

use super::spec::{Begin, CommandSpec, Find, KeyFlags, KeySpec, flag, key};
use crate::resp::decode::parse_integer;
use smallvec::SmallVec;

/// One key of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyPosition {
    /// Index of the argument.
    pub index: u32,
    /// What the command does with it.
    pub flags: KeyFlags,
}

/// The keys of a command in the order of its specifications. A key may stand there twice.
pub type KeyPositions = SmallVec<[KeyPosition; 4]>;

/// Why a command's keys cannot be told. The texts are those of COMMAND GETKEYS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    #[error("ERR Invalid number of arguments specified for command")]
    WrongArity,
    /// For a router: the command will fail with an error of syntax, wherever it is executed.
    #[error("ERR Invalid arguments specified for command")]
    Invalid,
}

/// The keys of a request; `args` are its arguments with the command's name (and the subcommand's).
/// Empty for a command without keys. A command with an unclear number of keys (`EVAL` with a bad
/// number, `SORT` with a `BY` pattern) gives what is certain or [`KeyError::Invalid`].
pub fn keys<A: AsRef<[u8]>>(spec: &CommandSpec, args: &[A]) -> Result<KeyPositions, KeyError> {
    if !spec.arity_fits(args.len()) {
        return Err(KeyError::WrongArity);
    }
    // By far the most frequent: one key at a fixed place, or a plain range.
    let mut found = KeyPositions::new();
    match spec.name {
        "sort" => sort(args, &mut found),
        "sort_ro" => found.push(at(1, key::RO | key::ACCESS)),
        "migrate" => migrate(args, &mut found),
        "georadius" => georadius(args, 6, &mut found),
        "georadiusbymember" => georadius(args, 5, &mut found),
        "set" => found.push(at(1, set_flags(args))),
        "bitfield" => found.push(at(1, bitfield_flags(args))),
        _ => {
            for key_spec in spec.key_specs {
                if !key_spec.flags.has(key::NOT_KEY) {
                    by_spec(key_spec, args, &mut found)?;
                }
            }
        }
    }
    if found.is_empty() && spec.takes_keys() && !spec.flags.has(flag::NO_MANDATORY_KEYS) {
        return Err(KeyError::Invalid);
    }
    Ok(found)
}

fn at(index: usize, flags: u16) -> KeyPosition {
    KeyPosition { index: index as u32, flags: KeyFlags(flags) }
}

fn by_spec<A: AsRef<[u8]>>(
    spec: &KeySpec,
    args: &[A],
    found: &mut KeyPositions,
) -> Result<(), KeyError> {
    let Some(begin) = begin(spec.begin, args)? else { return Ok(()) };
    // Positions are compared as i64: everything below is at most the number of arguments, or a
    // number of keys that a client claims.
    let count = args.len() as i64;
    let (first, last, step) = match spec.find {
        Find::Range { last, step, limit } => {
            let last = match (last, limit) {
                (0.., _) => begin + i64::from(last),
                (_, 0 | 1) => count + i64::from(last),
                _ => begin + (count - begin) / i64::from(limit) + i64::from(last),
            };
            (begin, last, step)
        }
        Find::KeyNum { index, first, step } => {
            let number = args
                .get(usize::try_from(begin).unwrap_or(usize::MAX).saturating_add(index as usize))
                .and_then(|arg| parse_integer(arg.as_ref()))
                .filter(|number| (0..=count).contains(number))
                .ok_or(KeyError::Invalid)?;
            if number == 0 {
                return Ok(());
            }
            let first = begin + i64::from(first);
            (first, first + (number - 1) * i64::from(step), step)
        }
        Find::Unknown => return Err(KeyError::Invalid),
    };
    if first >= count || last >= count || last < first {
        return Err(KeyError::Invalid);
    }
    let positions = (first..=last).step_by(step.max(1) as usize);
    found.extend(positions.map(|index| KeyPosition { index: index as u32, flags: spec.flags }));
    Ok(())
}

/// Index of the argument where the search begins; `None` when its keyword is not there.
fn begin<A: AsRef<[u8]>>(begin: Begin, args: &[A]) -> Result<Option<i64>, KeyError> {
    match begin {
        Begin::Index(index) => Ok(Some(i64::from(index))),
        // A keyword that is the last argument has nothing after it, so it is not looked at.
        Begin::Keyword(word, from @ 0..) => {
            let from = from as usize;
            let end = args.len().saturating_sub(1);
            Ok((from..end).find(|&i| is(&args[i], word)).map(|i| i as i64 + 1))
        }
        Begin::Keyword(word, back) => {
            let from = args.len().saturating_sub(back.unsigned_abs() as usize);
            Ok((2..=from).rev().find(|&i| is(&args[i], word)).map(|i| i as i64 + 1))
        }
        Begin::Unknown => Err(KeyError::Invalid),
    }
}

fn is<A: AsRef<[u8]>>(arg: &A, word: &str) -> bool {
    arg.as_ref().eq_ignore_ascii_case(word.as_bytes())
}

/// `SORT key [BY pattern] [LIMIT offset count] [GET pattern …] … [STORE destination]`: the last STORE
/// counts. Keys that BY and GET patterns name depend on the data and are not reported.
fn sort<A: AsRef<[u8]>>(args: &[A], found: &mut KeyPositions) {
    found.push(at(1, key::RO | key::ACCESS));
    let mut store = None;
    let mut i = 2;
    while i < args.len() {
        if is(&args[i], "limit") {
            i += 2;
        } else if is(&args[i], "get") || is(&args[i], "by") {
            i += 1;
        } else if is(&args[i], "store") && i + 1 < args.len() {
            store = Some(i + 1);
            i += 1;
        }
        i += 1;
    }
    found.extend(store.map(|index| at(index, key::OW | key::UPDATE)));
}

/// `MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH p] [AUTH2 u p] [KEYS key …]`
fn migrate<A: AsRef<[u8]>>(args: &[A], found: &mut KeyPositions) {
    let flags = key::RW | key::ACCESS | key::DELETE;
    let mut i = 6;
    while i < args.len() {
        if is(&args[i], "keys") && args[3].as_ref().is_empty() {
            found.extend((i + 1..args.len()).map(|index| at(index, flags)));
            return;
        }
        i += match () {
            () if is(&args[i], "auth") => 2,
            () if is(&args[i], "auth2") => 3,
            () => 1,
        };
    }
    found.push(at(3, flags));
}

/// `GEORADIUS key … [STORE destination | STOREDIST destination]`, options from `from` on: the last one
/// counts.
fn georadius<A: AsRef<[u8]>>(args: &[A], from: usize, found: &mut KeyPositions) {
    let mut store = None;
    let mut i = from;
    while i + 1 < args.len() {
        if is(&args[i], "store") || is(&args[i], "storedist") {
            store = Some(i + 1);
            i += 1;
        }
        i += 1;
    }
    found.push(at(1, key::RO | key::ACCESS));
    found.extend(store.map(|index| at(index, key::OW | key::UPDATE)));
}

fn set_flags<A: AsRef<[u8]>>(args: &[A]) -> u16 {
    if args[3..].iter().any(|arg| is(arg, "get")) {
        key::RW | key::ACCESS | key::UPDATE
    } else {
        key::OW | key::UPDATE
    }
}

/// BITFIELD only reads when it is all GETs.
fn bitfield_flags<A: AsRef<[u8]>>(args: &[A]) -> u16 {
    let mut i = 2;
    while i < args.len() {
        let rest = args.len() - i - 1;
        if is(&args[i], "get") && rest >= 2 {
            i += 3;
        } else if is(&args[i], "overflow") && rest >= 1 {
            i += 2;
        } else {
            return key::RW | key::ACCESS | key::UPDATE;
        }
    }
    key::RO | key::ACCESS
}
