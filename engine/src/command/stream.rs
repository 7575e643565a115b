//! The stream commands that need no consumer group.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::{int_arg, parse_i64};
use crate::reply::Reply;
use crate::value::Aggregate;
use crate::value::stream::log::{NewId, Trim, TrimUntil};
use crate::value::stream::node::Entry;
use crate::value::stream::{Stream, StreamId};
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("xadd", xadd),
    Command::new("xdel", xdel),
    Command::new("xlen", xlen),
    Command::new("xrange", |ctx, args| range(ctx, args[2], args[3], args, false)),
    Command::new("xrevrange", |ctx, args| range(ctx, args[3], args[2], args, true)),
    Command::new("xsetid", xsetid),
    Command::new("xtrim", xtrim),
];

/// The strings of one entry together; more would not fit the 32-bit lengths of a node.
const ENTRY_BYTES_MAX: usize = 1 << 30;

const INVALID_ID: CommandError =
    CommandError::Text("ERR Invalid stream ID specified as stream command argument");

// ---- replies -------------------------------------------------------------------------------------

impl Reply<'_> {
    pub(super) fn stream_id(&mut self, id: StreamId) {
        let mut text = [0; 41];
        let (mut ms, mut seq) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (ms, seq) = (ms.format(id.ms).as_bytes(), seq.format(id.seq).as_bytes());
        let len = ms.len() + 1 + seq.len();
        text[..ms.len()].copy_from_slice(ms);
        text[ms.len()] = b'-';
        text[ms.len() + 1..len].copy_from_slice(seq);
        self.bulk(&text[..len]);
    }

    /// `[id, [field, value, ...]]`
    pub(super) fn stream_entry(&mut self, entry: &Entry<'_>) {
        self.array(2);
        self.stream_id(entry.id);
        self.array(entry.len() * 2);
        for (field, value) in entry.pairs() {
            self.item(field);
            self.item(value);
        }
    }

    /// An array of entries.
    pub(super) fn stream_entries<'e>(&mut self, entries: impl Iterator<Item = Entry<'e>>) {
        let array = self.deferred();
        let mut len = 0;
        for entry in entries {
            self.stream_entry(&entry);
            len += 1;
        }
        self.finish_array(array, len);
    }
}

/// Text of a client's as an error line may hold it.
pub(super) fn quoted(text: &[u8]) -> String {
    let text = &text[..memchr::memchr(0, text).unwrap_or(text.len())];
    String::from_utf8_lossy(text).replace(['\r', '\n'], " ")
}

// ---- arguments -----------------------------------------------------------------------------------

/// An id as a client writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdArg {
    /// `-` or `+`.
    Edge(StreamId),
    Full(StreamId),
    /// Only milliseconds.
    Millis(u64),
    /// `ms-*`
    AnyOf(u64),
}

impl IdArg {
    fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > 127 {
            return None;
        }
        let text = &text[..memchr::memchr(0, text).unwrap_or(text.len())];
        match text {
            b"-" => return Some(Self::Edge(StreamId::MIN)),
            b"+" => return Some(Self::Edge(StreamId::MAX)),
            _ => {}
        }
        let Some(dash) = memchr::memchr(b'-', text) else {
            return Some(Self::Millis(parse_u64(text)?));
        };
        let ms = parse_u64(&text[..dash])?;
        match &text[dash + 1..] {
            b"*" => Some(Self::AnyOf(ms)),
            seq => Some(Self::Full(StreamId::new(ms, parse_u64(seq)?))),
        }
    }
}

/// An unsigned number as C's `strtoull` reads it, of which Redis forgives all but what reads as a
/// negative 64-bit integer: leading blanks, a sign and leading zeros.
fn parse_u64(text: &[u8]) -> Option<u64> {
    if let Some(value) = parse_i64(text) {
        return u64::try_from(value).ok();
    }
    let start = text.iter().position(|c| !matches!(c, b' ' | 9..=13))?;
    let (negative, digits) = match &text[start..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// An id that is not `-` or `+`.
pub(super) fn id_arg(text: &[u8]) -> Result<StreamId, CommandError> {
    match IdArg::parse(text) {
        Some(IdArg::Full(id)) => Ok(id),
        Some(IdArg::Millis(ms)) => Ok(StreamId::new(ms, 0)),
        _ => Err(INVALID_ID),
    }
}

/// An id, `-` or `+`.
pub(super) fn id_or_edge_arg(text: &[u8], missing_seq: u64) -> Result<StreamId, CommandError> {
    match IdArg::parse(text) {
        Some(IdArg::Full(id) | IdArg::Edge(id)) => Ok(id),
        Some(IdArg::Millis(ms)) => Ok(StreamId::new(ms, missing_seq)),
        _ => Err(INVALID_ID),
    }
}

/// The lower end of an interval; `(` excludes the id.
pub(super) fn start_arg(text: &[u8]) -> Result<StreamId, CommandError> {
    match text {
        [b'(', open @ ..] if !open.is_empty() => {
            id_arg(open)?.next().ok_or(CommandError::Text("ERR invalid start ID for the interval"))
        }
        _ => id_or_edge_arg(text, 0),
    }
}

/// The upper end of an interval.
pub(super) fn end_arg(text: &[u8]) -> Result<StreamId, CommandError> {
    match text {
        [b'(', open @ ..] if !open.is_empty() => {
            let id = match IdArg::parse(open) {
                Some(IdArg::Full(id)) => id,
                Some(IdArg::Millis(ms)) => StreamId::new(ms, u64::MAX),
                _ => return Err(INVALID_ID),
            };
            id.previous().ok_or(CommandError::Text("ERR invalid end ID for the interval"))
        }
        _ => id_or_edge_arg(text, u64::MAX),
    }
}

/// Every argument as an id.
pub(super) fn id_args(args: &[&[u8]]) -> Result<Vec<StreamId>, CommandError> {
    args.iter().map(|arg| id_arg(arg)).collect()
}

/// The options of XADD and XTRIM.
struct Options {
    trim: Option<Trim>,
    create: bool,
    /// XADD: where the id is.
    id_at: usize,
    id: NewId,
}

impl Options {
    fn parse(args: &[&[u8]], xadd: bool) -> Result<Self, CommandError> {
        let mut until = None;
        let mut approximate = false;
        let mut limit = None;
        let mut create = true;
        let mut id = NewId::Auto;
        let mut at = 2;
        while at < args.len() {
            let option = args[at];
            let more = args.len() - 1 - at;
            if xadd && option == b"*" {
                break;
            }
            let is_len = is_option(option, "MAXLEN");
            if (is_len || is_option(option, "MINID")) && more > 0 {
                if until.is_some() {
                    return Err(CommandError::Text(
                        "ERR syntax error, MAXLEN and MINID options at the same time are not \
                         compatible",
                    ));
                }
                if more > 1 && matches!(args[at + 1], b"~" | b"=") {
                    approximate = args[at + 1] == b"~";
                    at += 1;
                }
                at += 1;
                until = Some(if is_len {
                    let max = u64::try_from(int_arg(args[at])?)
                        .map_err(|_| CommandError::Text("ERR The MAXLEN argument must be >= 0."))?;
                    TrimUntil::MaxLen(max)
                } else {
                    TrimUntil::MinId(id_arg(args[at])?)
                });
            } else if is_option(option, "LIMIT") && more > 0 {
                at += 1;
                limit = Some(
                    u64::try_from(int_arg(args[at])?)
                        .map_err(|_| CommandError::Text("ERR The LIMIT argument must be >= 0."))?,
                );
            } else if xadd && is_option(option, "NOMKSTREAM") {
                create = false;
            } else if xadd {
                id = match IdArg::parse(option) {
                    Some(IdArg::Full(id)) => NewId::Exactly(id),
                    Some(IdArg::Millis(ms)) => NewId::Exactly(StreamId::new(ms, 0)),
                    Some(IdArg::AnyOf(ms)) => NewId::Millis(ms),
                    Some(IdArg::Edge(_)) | None => return Err(INVALID_ID),
                };
                break;
            } else {
                return Err(CommandError::Syntax);
            }
            at += 1;
        }
        let trim = Self::trim(until, approximate, limit, xadd)?;
        Ok(Self { trim, create, id_at: at, id })
    }

    fn trim(
        until: Option<TrimUntil>,
        approximate: bool,
        limit: Option<u64>,
        xadd: bool,
    ) -> Result<Option<Trim>, CommandError> {
        if until.is_none() && limit.is_some_and(|limit| limit > 0) {
            return Err(CommandError::Text(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            ));
        }
        if !xadd && until.is_none() {
            return Err(CommandError::Text(
                "ERR syntax error, XTRIM must be called with a trimming strategy",
            ));
        }
        if limit.is_some() && !approximate {
            return Err(CommandError::Text(
                "ERR syntax error, LIMIT cannot be used without the special ~ option",
            ));
        }
        let default = if approximate { Trim::DEFAULT_LIMIT } else { 0 };
        let limit = limit.unwrap_or(default);
        Ok(until.map(|until| Trim { until, approximate, limit }))
    }
}

// ---- writing -------------------------------------------------------------------------------------

fn xadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let options = Options::parse(args, true)?;
    let pairs = args.get(options.id_at + 1..).unwrap_or_default();
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(CommandError::Arity("xadd".to_owned()));
    }
    if options.id == NewId::Exactly(StreamId::MIN) {
        return Err(CommandError::Text("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let key = args[1];
    let now_ms = ctx.keys.now_ms();
    let existing = ctx.keys.stream_mut(key)?;
    if existing.is_none() && !options.create {
        ctx.reply.null();
        return Ok(());
    }
    let id = match existing {
        Some(stream) if stream.log.last_id == StreamId::MAX => {
            return Err(CommandError::Text(
                "ERR The stream has exhausted the last possible ID, unable to add more items",
            ));
        }
        Some(stream) => stream.log.next_id(options.id, now_ms),
        None => Stream::default().log.next_id(options.id, now_ms),
    };
    let id = id.ok_or(CommandError::Text(
        "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    ))?;
    if pairs.iter().map(|text| text.len()).sum::<usize>() > ENTRY_BYTES_MAX {
        return Err(CommandError::Text("ERR Elements are too large to be stored"));
    }
    let stream = ctx.keys.stream_or_new(key)?;
    stream.log.append(id, pairs);
    let trimmed = options.trim.map_or(0, |trim| stream.log.trim(trim));
    ctx.keys.modified(key);
    ctx.keys.notify(EventClasses::STREAM, "xadd", key);
    if trimmed > 0 {
        ctx.keys.notify(EventClasses::STREAM, "xtrim", key);
    }
    ctx.reply.stream_id(id);
    Ok(())
}

fn xtrim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let trim = Options::parse(args, false)?.trim.expect("a strategy is required");
    let removed = ctx.keys.stream_mut(args[1])?.map_or(0, |stream| stream.log.trim(trim));
    if removed > 0 {
        ctx.keys.modified_quietly(args[1]);
        ctx.keys.notify(EventClasses::STREAM, "xtrim", args[1]);
    }
    ctx.reply.int(removed as i64);
    Ok(())
}

fn xdel(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let Some(stream) = ctx.keys.stream_mut(args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let deleted = stream.log.delete(&id_args(&args[2..])?);
    if deleted > 0 {
        ctx.keys.modified_quietly(args[1]);
        ctx.keys.notify(EventClasses::STREAM, "xdel", args[1]);
    }
    ctx.reply.int(deleted as i64);
    Ok(())
}

/// XSETID key last-id [ENTRIESADDED count] [MAXDELETEDID id]
fn xsetid(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let id = id_arg(args[2])?;
    let mut added = None;
    let mut max_deleted = StreamId::MIN;
    let mut options = args[3..].iter();
    while let Some(option) = options.next() {
        let value = options.next().ok_or(CommandError::Syntax);
        if is_option(option, "ENTRIESADDED") {
            added = Some(
                u64::try_from(int_arg(value?)?)
                    .map_err(|_| CommandError::Text("ERR entries_added must be positive"))?,
            );
        } else if is_option(option, "MAXDELETEDID") {
            max_deleted = id_arg(value?)?;
            if id < max_deleted {
                return Err(CommandError::Text(
                    "ERR The ID specified in XSETID is smaller than the provided \
                     max_deleted_entry_id",
                ));
            }
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let log = &mut ctx.keys.stream_mut(args[1])?.ok_or(CommandError::NoSuchKey)?.log;
    if id < log.max_deleted_id {
        return Err(CommandError::Text(
            "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id",
        ));
    }
    if log.last_live_id().is_some_and(|last| id < last) {
        return Err(CommandError::Text(
            "ERR The ID specified in XSETID is smaller than the target stream top item",
        ));
    }
    if added.is_some_and(|added| log.len() > added) {
        return Err(CommandError::Text(
            "ERR The entries_added specified in XSETID is smaller than the target stream length",
        ));
    }
    log.last_id = id;
    log.entries_added = added.unwrap_or(log.entries_added);
    if !max_deleted.is_zero() {
        log.max_deleted_id = max_deleted;
    }
    ctx.keys.notify(EventClasses::STREAM, "xsetid", args[1]);
    ctx.reply.ok();
    Ok(())
}

// ---- reading -------------------------------------------------------------------------------------

fn xlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let len = ctx.keys.stream(args[1])?.map_or(0, Aggregate::len);
    ctx.reply.count(len);
    Ok(())
}

fn range(ctx: &mut Ctx<'_>, start: &[u8], end: &[u8], args: &[&[u8]], back: bool) -> CommandResult {
    let (start, end) = (start_arg(start)?, end_arg(end)?);
    let mut count = usize::MAX;
    let mut options = args[4..].iter();
    while let Some(option) = options.next() {
        let value = options.next().filter(|_| is_option(option, "COUNT"));
        let value = int_arg(value.ok_or(CommandError::Syntax)?)?;
        // Redis means "all" by -1 where it looks at the count, and takes it from the client too.
        count = if value < 0 { 0 } else { value as usize };
    }
    let Some(stream) = ctx.keys.stream(args[1])? else {
        ctx.reply.array(0);
        return Ok(());
    };
    if count == 0 {
        ctx.reply.null_array();
    } else if back {
        ctx.reply.stream_entries(stream.log.range_back(start, end).take(count));
    } else {
        ctx.reply.stream_entries(stream.log.range(start, end).take(count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_strtoull_does() {
        for (text, value) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("007", Some(7)),
            (" +5", Some(5)),
            ("-1", None),
            ("-0", Some(0)),
            ("-9223372036854775809", Some(9_223_372_036_854_775_807)),
            ("5 ", None),
            ("", None),
            ("+", None),
            ("0x10", None),
        ] {
            assert_eq!(parse_u64(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn ids_have_their_forms() {
        for (text, id) in [
            ("5", Some(IdArg::Millis(5))),
            ("5-6", Some(IdArg::Full(StreamId::new(5, 6)))),
            ("5-*", Some(IdArg::AnyOf(5))),
            ("-", Some(IdArg::Edge(StreamId::MIN))),
            ("+", Some(IdArg::Edge(StreamId::MAX))),
            ("5-", None),
            ("-5", None),
            ("5--1", None),
            ("*-5", None),
        ] {
            assert_eq!(IdArg::parse(text.as_bytes()), id, "{text:?}");
        }
        assert_eq!(start_arg(b"(5").ok(), Some(StreamId::new(5, 1)));
        assert_eq!(end_arg(b"(5").ok(), Some(StreamId::new(5, u64::MAX - 1)));
        assert!(end_arg(b"(0-0").is_err());
        assert!(start_arg(b"(").is_err());
    }
}
