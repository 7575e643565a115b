//! SCAN, KEYS and RANDOMKEY; and the options that the other scans share.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::num::int_arg;
use crate::table::Keyed;
use holdfast_proto::glob;
use holdfast_proto::slot::SLOT_COUNT;

pub(super) const COMMANDS: &[Command] =
    &[Command::new("keys", keys), Command::new("randomkey", randomkey), Command::new("scan", scan)];

/// MATCH, COUNT, TYPE (SCAN only) and NOVALUES (HSCAN only).
#[derive(Debug)]
pub(crate) struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    /// How many elements are wanted per call, at least 1.
    pub(crate) count: usize,
    pub(crate) type_name: Option<&'a [u8]>,
    pub(crate) no_values: bool,
}

impl<'a> ScanOptions<'a> {
    /// The arguments after the cursor. A `*` pattern is no pattern.
    pub(crate) fn parse(args: &[&'a [u8]]) -> Result<Self, CommandError> {
        let mut options = Self { pattern: None, count: 10, type_name: None, no_values: false };
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            if is_option(arg, "NOVALUES") {
                options.no_values = true;
                continue;
            }
            let value = *args.next().ok_or(CommandError::Syntax)?;
            if is_option(arg, "COUNT") {
                let count = int_arg(value)?;
                options.count = usize::try_from(count)
                    .ok()
                    .filter(|&count| count > 0)
                    .ok_or(CommandError::Syntax)?;
            } else if is_option(arg, "MATCH") {
                options.pattern = (value != b"*").then_some(value);
            } else if is_option(arg, "TYPE") {
                options.type_name = Some(value);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }

    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, text))
    }
}

/// The cursor argument of a scan, as C's `strtoul` reads it: a sign is allowed, a NUL ends it, no
/// text is 0.
pub(crate) fn cursor_arg(text: &[u8]) -> Result<u64, CommandError> {
    const INVALID: CommandError = CommandError::Text("ERR invalid cursor");
    let (negative, digits) = match &text[..memchr::memchr(0, text).unwrap_or(text.len())] {
        [] => return Ok(0),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| INVALID)?;
    let cursor: u64 = digits.parse().map_err(|_| INVALID)?;
    Ok(if negative { cursor.wrapping_neg() } else { cursor })
}

/// Bits of a SCAN cursor that name the slot; the others are the position inside the slot.
const SLOT_BITS: u32 = SLOT_COUNT.trailing_zeros();

fn scan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let mut cursor = cursor_arg(args[1])?;
    let options = ScanOptions::parse(&args[2..])?;
    if options.no_values {
        return Err(CommandError::Syntax);
    }
    let mut found = Vec::new();
    // Empty buckets count too, so that a sparse table cannot hold up others.
    for _ in 0..options.count.saturating_mul(10) {
        cursor = scan_bucket(&mut ctx.keys, cursor, &mut found);
        if cursor == 0 || found.len() >= options.count {
            break;
        }
    }
    let type_name = options.type_name;
    found.retain(|key| {
        options.matches(key)
            && type_name.is_none_or(|name| has_type(&mut ctx.keys, key, name))
            && is_live(&mut ctx.keys, key)
    });
    ctx.reply.array(2);
    ctx.reply.bulk_unsigned(cursor);
    ctx.reply.array(found.len());
    for key in &found {
        ctx.reply.bulk(key);
    }
    Ok(())
}

/// Adds the keys of one bucket; returns the cursor of the next, 0 at the end.
fn scan_bucket(keys: &mut Keys<'_>, cursor: u64, found: &mut Vec<Vec<u8>>) -> u64 {
    let db = usize::from(keys.db());
    let db = &keys.space().dbs[db];
    let wanted = (cursor % u64::from(SLOT_COUNT)) as usize;
    let Some(slot) = db.next_occupied(wanted) else { return 0 };
    let inner = if slot == wanted { cursor >> SLOT_BITS } else { 0 };
    let next = db
        .slot(slot)
        .map_or(0, |keys| keys.entries.scan(inner, |entry| found.push(entry.key().to_vec())));
    if next != 0 {
        return next << SLOT_BITS | slot as u64;
    }
    db.next_occupied(slot + 1).map_or(0, |slot| slot as u64)
}

fn has_type(keys: &mut Keys<'_>, key: &[u8], name: &[u8]) -> bool {
    keys.peek(key).is_some_and(|value| name.eq_ignore_ascii_case(value.type_name().as_bytes()))
}

/// Whether a listed key is not expired; in apply mode an expired one is deleted.
fn is_live(keys: &mut Keys<'_>, key: &[u8]) -> bool {
    keys.peek_entry(key).is_some()
}

fn keys(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let pattern = args[1];
    let now_ms = ctx.keys.now_ms();
    let clock = ctx.keys.clock();
    let db = usize::from(ctx.keys.db());
    let start = ctx.reply.deferred();
    let mut count = 0;
    let mut due = false;
    for (_, entry) in ctx.keys.space().dbs[db].iter() {
        if pattern != b"*" && !glob::matches(pattern, entry.key()) {
            continue;
        }
        match entry.expire_at() {
            Some(at) if at <= now_ms => due |= at > clock.applied_ms,
            _ => {
                ctx.reply.bulk(entry.key());
                count += 1;
            }
        }
    }
    if due {
        ctx.keys.note_due();
    }
    ctx.reply.finish_array(start, count);
    Ok(())
}

/// How often an expired key is drawn before RANDOMKEY gives up.
const RANDOMKEY_TRIES: usize = 100;

fn randomkey(ctx: &mut Ctx<'_>, _args: &[&[u8]]) -> CommandResult {
    for _ in 0..RANDOMKEY_TRIES {
        let db = usize::from(ctx.keys.db());
        let Some(key) = ctx.keys.space().dbs[db].random_key(&mut ctx.rng) else { break };
        if ctx.keys.exists(&key) {
            ctx.reply.bulk(&key);
            return Ok(());
        }
    }
    ctx.reply.null();
    Ok(())
}
