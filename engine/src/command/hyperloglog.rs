//! PFADD, PFCOUNT, PFMERGE and what helps to look into their values.
//!
//! PFCOUNT is a read here: where Redis writes the computed cardinality into the value, this replica
//! remembers it beside the data ([`Cardinalities`]). Only the values' cached cardinality differs for
//! that reason; one that Redis has stored (a restored key) is believed.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::hyperloglog::{self as hll, Corrupted, Union};
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("pfadd", pfadd),
    Command::new("pfcount", pfcount),
    Command::new("pfdebug", pfdebug),
    Command::new("pfmerge", pfmerge),
    Command::new("pfselftest", pfselftest),
];

const NOT_HLL: CommandError =
    CommandError::Text("WRONGTYPE Key is not a valid HyperLogLog string value.");

impl From<Corrupted> for CommandError {
    fn from(_: Corrupted) -> Self {
        Self::Text("INVALIDOBJ Corrupted HLL object detected")
    }
}

fn pfadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let key = args[1];
    let created = !check(ctx, key)?;
    let value = ctx.keys.string_mut(key)?;
    if created {
        *value = hll::empty();
    }
    let mut changed = created;
    let mut result = Ok(());
    for element in &args[2..] {
        match hll::add(value, element) {
            Ok(grew) => changed |= grew,
            Err(corrupted) => {
                // Elements before this one stay added, in Redis too.
                result = Err(corrupted.into());
                break;
            }
        }
    }
    if changed {
        hll::invalidate(value);
        match result {
            Ok(()) => ctx.keys.changed_by(key, EventClasses::STRING, "pfadd"),
            // Redis tells nobody of what was added before the error. There is no event here either,
            // but who watches or caches the key has another value than there is now.
            Err(_) => ctx.keys.modified_quietly(key),
        }
    }
    ctx.reply.flag(changed);
    result
}

/// Whether the key exists; an error if it is no HyperLogLog.
fn check(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<bool, CommandError> {
    Ok(read(ctx, key)?.is_some())
}

fn read<'a>(ctx: &'a mut Ctx<'_>, key: &[u8]) -> Result<Option<&'a [u8]>, CommandError> {
    use crate::value::StrRef;
    match ctx.keys.string(key)? {
        None => Ok(None),
        Some(StrRef::Bytes(value)) if hll::is_valid(value) => Ok(Some(value)),
        Some(_) => Err(NOT_HLL),
    }
}

fn pfcount(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let count = match args {
        [_, key] => match read(ctx, key)? {
            None => 0,
            Some(value) => match hll::cached_count(value) {
                Some(count) => count,
                None => computed_count(ctx, key)?,
            },
        },
        _ => union(ctx, &args[1..])?.0.count(),
    };
    ctx.reply.int(count as i64);
    Ok(())
}

/// The count of a key that exists and is valid.
fn computed_count(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<u64, CommandError> {
    let db = ctx.keys.db();
    let (_, version) = ctx.keys.space().version(db, key);
    if let Some(count) = ctx.keys.space().cardinalities.find(db, key, version) {
        return Ok(count);
    }
    let count = match read(ctx, key)? {
        Some(value) => hll::count(value)?,
        None => 0,
    };
    ctx.keys.space().cardinalities.remember(db, key, version, count);
    Ok(count)
}

/// The union of all keys that exist; whether one of them is dense.
fn union(ctx: &mut Ctx<'_>, keys: &[&[u8]]) -> Result<(Union, bool), CommandError> {
    let mut union = Union::new();
    let mut any_dense = false;
    for key in keys {
        if let Some(value) = read(ctx, key)? {
            any_dense |= !hll::is_sparse(value);
            union.merge(value)?;
        }
    }
    Ok((union, any_dense))
}

fn pfmerge(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let key = args[1];
    let (union, any_dense) = union(ctx, &args[1..])?;
    let created = !check(ctx, key)?;
    let value = ctx.keys.string_mut(key)?;
    if created {
        *value = hll::empty();
    }
    // The union includes this value, so it is not corrupted.
    if any_dense {
        hll::to_dense(value)?;
    }
    for (index, &rank) in union.registers().iter().enumerate() {
        if rank > 0 {
            hll::raise(value, index, rank)?;
        }
    }
    hll::invalidate(value);
    ctx.keys.changed_by(key, EventClasses::STRING, "pfadd");
    ctx.reply.ok();
    Ok(())
}

fn pfdebug(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (sub, key) = (args[1], args[2]);
    if !check(ctx, key)? {
        return Err(CommandError::Text("ERR The specified key does not exist"));
    }
    let value = ctx.keys.string_mut(key)?;
    let was_sparse = hll::is_sparse(value);
    if is_option(sub, "GETREG") {
        hll::to_dense(value)?;
        let registers = hll::dense_registers(value);
        if was_sparse {
            ctx.keys.modified(key);
        }
        ctx.reply.array(registers.len());
        registers.iter().for_each(|&rank| ctx.reply.int(rank.into()));
    } else if is_option(sub, "DECODE") {
        if !was_sparse {
            return Err(CommandError::Text("ERR HLL encoding is not sparse"));
        }
        let text = hll::decode(value);
        ctx.reply.bulk(text.as_bytes());
    } else if is_option(sub, "ENCODING") {
        ctx.reply.simple(if was_sparse { "sparse" } else { "dense" });
    } else if is_option(sub, "TODENSE") {
        hll::to_dense(value)?;
        if was_sparse {
            ctx.keys.modified(key);
        }
        ctx.reply.flag(was_sparse);
    } else {
        let sub = String::from_utf8_lossy(sub);
        return Err(CommandError::Owned(format!("ERR Unknown PFDEBUG subcommand '{sub}'")));
    }
    Ok(())
}

fn pfselftest(ctx: &mut Ctx<'_>, _args: &[&[u8]]) -> CommandResult {
    hll::self_test().map_err(CommandError::Owned)?;
    ctx.reply.ok();
    Ok(())
}

/// Counts that this replica has computed, so that counting an unchanged key again costs nothing. Not
/// part of the replicated state, and derived from it: whether a count is still right is told by the
/// key's version, which every change of the key bumps.
#[derive(Default)]
pub(crate) struct Cardinalities(Vec<Option<Remembered>>);

struct Remembered {
    db: u16,
    key: Box<[u8]>,
    version: u64,
    count: u64,
}

/// Places of [`Cardinalities`], a power of two; a key that falls on a taken place takes it over.
const REMEMBERED_MAX: usize = 4096;
/// Longer keys are not worth remembering.
const REMEMBERED_KEY_MAX: usize = 512;

impl Cardinalities {
    fn place(db: u16, key: &[u8]) -> usize {
        crate::hash::hash(u64::from(db), key) as usize % REMEMBERED_MAX
    }

    fn find(&self, db: u16, key: &[u8], version: u64) -> Option<u64> {
        let found = self.0.get(Self::place(db, key))?.as_ref()?;
        let same = found.db == db && *found.key == *key && found.version == version;
        same.then_some(found.count)
    }

    fn remember(&mut self, db: u16, key: &[u8], version: u64, count: u64) {
        if key.len() > REMEMBERED_KEY_MAX {
            return;
        }
        if self.0.is_empty() {
            self.0.resize_with(REMEMBERED_MAX, || None);
        }
        self.0[Self::place(db, key)] = Some(Remembered { db, key: key.into(), version, count });
    }
}
