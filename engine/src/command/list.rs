//! The list commands.

use super::collection::{
    at_least, clamp, count_arg, counted_keys, index_of, pop_count, signed_arg,
};
use super::{Command, CommandResult, Ctx, is_option};
use crate::blocking::BlockKind;
use crate::error::CommandError;
use crate::num::int_arg;
use crate::value::list::{End, List};
use crate::value::packed::Item;
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("blmove", blmove),
    Command::new("blmpop", blmpop),
    Command::new("blpop", |ctx, args| blocking_pop(ctx, args, End::Front)),
    Command::new("brpop", |ctx, args| blocking_pop(ctx, args, End::Back)),
    Command::new("brpoplpush", brpoplpush),
    Command::new("lindex", lindex),
    Command::new("linsert", linsert),
    Command::new("llen", llen),
    Command::new("lmove", lmove),
    Command::new("lmpop", lmpop),
    Command::new("lpop", |ctx, args| pop(ctx, args, End::Front)),
    Command::new("lpos", lpos),
    Command::new("lpush", |ctx, args| push(ctx, args, End::Front)),
    Command::new("lpushx", |ctx, args| push_existing(ctx, args, End::Front)),
    Command::new("lrange", lrange),
    Command::new("lrem", lrem),
    Command::new("lset", lset),
    Command::new("ltrim", ltrim),
    Command::new("rpop", |ctx, args| pop(ctx, args, End::Back)),
    Command::new("rpoplpush", rpoplpush),
    Command::new("rpush", |ctx, args| push(ctx, args, End::Back)),
    Command::new("rpushx", |ctx, args| push_existing(ctx, args, End::Back)),
];

// ---- one element or a few ------------------------------------------------------------------------

fn push(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> CommandResult {
    let list = ctx.keys.list_or_new(args[1])?;
    for element in &args[2..] {
        list.push(end, element, ctx.limits);
    }
    let len = list.len();
    ctx.keys.changed_by(args[1], EventClasses::LIST, push_event(end));
    ctx.reply.count(len);
    Ok(())
}

fn push_event(end: End) -> &'static str {
    match end {
        End::Front => "lpush",
        End::Back => "rpush",
    }
}

fn pop_event(end: End) -> &'static str {
    match end {
        End::Front => "lpop",
        End::Back => "rpop",
    }
}

fn push_existing(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> CommandResult {
    if ctx.keys.list_mut(args[1])?.is_none() {
        ctx.reply.int(0);
        return Ok(());
    }
    push(ctx, args, end)
}

fn pop(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> CommandResult {
    let (key, count) = match args {
        [_, key] => (*key, None),
        [_, key, count] => (*key, Some(count_arg(count)?)),
        _ => return Err(arity_error(args)),
    };
    let Some(list) = ctx.keys.list_mut(key)? else {
        match count {
            Some(_) => ctx.reply.null_array(),
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    match count {
        None => ctx.reply.bulk_or_null(list.pop(end).as_deref()),
        Some(0) => {
            ctx.reply.array(0);
            return Ok(());
        }
        Some(count) => {
            let count = count.min(list.len());
            ctx.reply.array(count);
            reply_end(&mut ctx.reply, list, count, end);
            remove_end(list, count, end);
        }
    }
    ctx.keys.changed_by(key, EventClasses::LIST, pop_event(end));
    Ok(())
}

fn arity_error(args: &[&[u8]]) -> CommandError {
    CommandError::Arity(String::from_utf8_lossy(args[0]).to_ascii_lowercase())
}

/// Writes `count` elements from one end inwards.
fn reply_end(reply: &mut crate::reply::Reply<'_>, list: &List, count: usize, end: End) {
    match end {
        End::Front => list.range(0, count).for_each(|item| reply.item(item)),
        End::Back => list.range_back(list.len()).take(count).for_each(|item| reply.item(item)),
    }
}

fn remove_end(list: &mut List, count: usize, end: End) {
    match end {
        End::Front => list.remove_run(0, count),
        End::Back => list.remove_run(list.len() - count, count),
    }
}

fn llen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let len = ctx.keys.list(args[1])?.map_or(0, List::len);
    ctx.reply.count(len);
    Ok(())
}

fn lindex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let Some(list) = ctx.keys.list(args[1])? else {
        ctx.reply.null();
        return Ok(());
    };
    let index = index_of(int_arg(args[2])?, list.len());
    ctx.reply.item_or_null(index.and_then(|index| list.get(index)));
    Ok(())
}

fn lset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let list = ctx.keys.list_mut(args[1])?.ok_or(CommandError::NoSuchKey)?;
    let index = index_of(int_arg(args[2])?, list.len()).ok_or(CommandError::IndexOutOfRange)?;
    list.set(index, args[3], ctx.limits);
    ctx.keys.changed_by(args[1], EventClasses::LIST, "lset");
    ctx.reply.ok();
    Ok(())
}

fn linsert(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let after = match args[2] {
        place if is_option(place, "AFTER") => true,
        place if is_option(place, "BEFORE") => false,
        _ => return Err(CommandError::Syntax),
    };
    let Some(list) = ctx.keys.list_mut(args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let pivot = Item::of(args[3]);
    let Some(index) = list.iter().position(|item| item == pivot) else {
        ctx.reply.int(-1);
        return Ok(());
    };
    list.insert(index + usize::from(after), args[4], ctx.limits);
    let len = list.len();
    ctx.keys.changed_by(args[1], EventClasses::LIST, "linsert");
    ctx.reply.count(len);
    Ok(())
}

// ---- ranges --------------------------------------------------------------------------------------

fn lrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (start, stop) = (int_arg(args[2])?, int_arg(args[3])?);
    let Some(list) = ctx.keys.list(args[1])? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let range = clamp(start, stop, list.len());
    ctx.reply.array(range.len());
    for item in list.range(range.start, range.len()) {
        ctx.reply.item(item);
    }
    Ok(())
}

fn ltrim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (start, stop) = (int_arg(args[2])?, int_arg(args[3])?);
    if let Some(list) = ctx.keys.list_mut(args[1])? {
        let keep = clamp(start, stop, list.len());
        list.remove_run(keep.end, list.len() - keep.end);
        list.remove_run(0, keep.start);
        ctx.keys.changed_by(args[1], EventClasses::LIST, "ltrim");
    }
    ctx.reply.ok();
    Ok(())
}

fn lrem(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let count = signed_arg(args[2])?;
    let Some(list) = ctx.keys.list_mut(args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let limit = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let end = if count < 0 { End::Back } else { End::Front };
    let removed = list.remove_equal(args[3], limit, end);
    if removed > 0 {
        ctx.keys.changed_by(args[1], EventClasses::LIST, "lrem");
    }
    ctx.reply.count(removed);
    Ok(())
}

/// The options of LPOS.
struct LposOptions {
    /// How many matches to pass over.
    skip: usize,
    /// From the back of the list.
    backwards: bool,
    /// How many matches to return as an array; 0 means all.
    count: Option<usize>,
    /// How many elements to compare.
    max_len: usize,
}

impl LposOptions {
    fn parse(args: &[&[u8]]) -> Result<Self, CommandError> {
        let mut options = Self { skip: 0, backwards: false, count: None, max_len: usize::MAX };
        for option in args.chunks(2) {
            let &[name, value] = option else { return Err(CommandError::Syntax) };
            if is_option(name, "RANK") {
                let rank = signed_arg(value)?;
                if rank == 0 {
                    return Err(CommandError::Text(
                        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the \
                         second ... or use negative to start from the end of the list",
                    ));
                }
                options.backwards = rank < 0;
                options.skip = rank.unsigned_abs() as usize - 1;
            } else if is_option(name, "COUNT") {
                options.count = Some(at_least(0, value, "ERR COUNT can't be negative")?);
            } else if is_option(name, "MAXLEN") {
                let max_len = at_least(0, value, "ERR MAXLEN can't be negative")?;
                options.max_len = if max_len == 0 { usize::MAX } else { max_len };
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }
}

fn lpos(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let options = LposOptions::parse(&args[3..])?;
    let Some(list) = ctx.keys.list(args[1])? else {
        match options.count {
            Some(_) => ctx.reply.array(0),
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    let wanted = Item::of(args[2]);
    let limit = match options.count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let positions: Vec<usize> = if options.backwards {
        matching(list.range_back(list.len()), wanted, &options)
            .map(|from_end| list.len() - 1 - from_end)
            .take(limit)
            .collect()
    } else {
        matching(list.iter(), wanted, &options).take(limit).collect()
    };
    match (options.count, positions.first()) {
        (Some(_), _) => {
            ctx.reply.array(positions.len());
            positions.into_iter().for_each(|position| ctx.reply.count(position));
        }
        (None, Some(&position)) => ctx.reply.count(position),
        (None, None) => ctx.reply.null(),
    }
    Ok(())
}

fn matching<'a>(
    items: impl Iterator<Item = Item<'a>>,
    wanted: Item<'a>,
    options: &LposOptions,
) -> impl Iterator<Item = usize> {
    items
        .take(options.max_len)
        .enumerate()
        .filter(move |(_, item)| *item == wanted)
        .map(|(position, _)| position)
        .skip(options.skip)
}

// ---- from list to list ---------------------------------------------------------------------------

fn lmove(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (from, to) = (end_arg(args[3])?, end_arg(args[4])?);
    move_element(ctx, args[1], args[2], from, to)
}

fn rpoplpush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    move_element(ctx, args[1], args[2], End::Back, End::Front)
}

fn blmove(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let (from, to) = (end_arg(args[3])?, end_arg(args[4])?);
    blocking_move(ctx, args, args[5], from, to)
}

fn brpoplpush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    blocking_move(ctx, args, args[3], End::Back, End::Front)
}

fn blocking_move(
    ctx: &mut Ctx<'_>,
    args: &[&[u8]],
    timeout: &[u8],
    from: End,
    to: End,
) -> CommandResult {
    let deadline_ms = ctx.deadline_arg(timeout)?;
    if ctx.keys.list_mut(args[1])?.is_some() || !ctx.may_block() {
        return move_element(ctx, args[1], args[2], from, to);
    }
    ctx.block_on(&args[1..2], deadline_ms, BlockKind::List);
    Ok(())
}

fn move_element(
    ctx: &mut Ctx<'_>,
    source: &[u8],
    target: &[u8],
    from: End,
    to: End,
) -> CommandResult {
    if ctx.keys.list_mut(source)?.is_none() {
        ctx.reply.null();
        return Ok(());
    }
    ctx.keys.list_mut(target)?;
    let list = ctx.keys.list_mut(source)?.ok_or(CommandError::NoSuchKey)?;
    let element = list.pop(from).ok_or(CommandError::NoSuchKey)?;
    if source == target {
        list.push(to, &element, ctx.limits);
        ctx.keys.notify(EventClasses::LIST, push_event(to), source);
    } else {
        ctx.keys.list_or_new(target)?.push(to, &element, ctx.limits);
        ctx.keys.changed_by(target, EventClasses::LIST, push_event(to));
    }
    ctx.keys.changed_by(source, EventClasses::LIST, pop_event(from));
    ctx.reply.bulk(&element);
    Ok(())
}

fn end_arg(text: &[u8]) -> Result<End, CommandError> {
    if is_option(text, "LEFT") {
        Ok(End::Front)
    } else if is_option(text, "RIGHT") {
        Ok(End::Back)
    } else {
        Err(CommandError::Syntax)
    }
}

// ---- the first list that has elements ------------------------------------------------------------

fn blocking_pop(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> CommandResult {
    let (&timeout, keys) = args[1..].split_last().expect("the arity is checked");
    let deadline_ms = ctx.deadline_arg(timeout)?;
    for &key in keys {
        let Some(list) = ctx.keys.list_mut(key)? else { continue };
        ctx.reply.array(2);
        ctx.reply.bulk(key);
        ctx.reply.bulk_or_null(list.pop(end).as_deref());
        ctx.keys.changed_by(key, EventClasses::LIST, pop_event(end));
        return Ok(());
    }
    wait_for(ctx, keys, deadline_ms);
    Ok(())
}

fn lmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let request = MultiPop::parse(&args[1..])?;
    if !request.serve(ctx)? {
        ctx.reply.null_array();
    }
    Ok(())
}

fn blmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let request = MultiPop::parse(&args[2..])?;
    let deadline_ms = ctx.deadline_arg(args[1])?;
    if !request.serve(ctx)? {
        wait_for(ctx, request.keys, deadline_ms);
    }
    Ok(())
}

fn wait_for(ctx: &mut Ctx<'_>, keys: &[&[u8]], deadline_ms: Option<u64>) {
    if ctx.may_block() {
        ctx.block_on(keys, deadline_ms, BlockKind::List);
    } else {
        ctx.reply.null_array();
    }
}

/// `numkeys key [key ...] LEFT|RIGHT [COUNT count]`.
struct MultiPop<'a, 'b> {
    keys: &'a [&'b [u8]],
    end: End,
    count: usize,
}

impl<'a, 'b> MultiPop<'a, 'b> {
    fn parse(args: &'a [&'b [u8]]) -> Result<Self, CommandError> {
        let (keys, rest) = counted_keys(args)?;
        let end = end_arg(rest[0])?;
        let count = pop_count(&rest[1..])?;
        Ok(Self { keys, end, count })
    }

    /// Pops from the first list that has elements; `false` if there is none.
    fn serve(&self, ctx: &mut Ctx<'_>) -> Result<bool, CommandError> {
        for &key in self.keys {
            let Some(list) = ctx.keys.list_mut(key)? else { continue };
            let count = self.count.min(list.len());
            ctx.reply.array(2);
            ctx.reply.bulk(key);
            ctx.reply.array(count);
            reply_end(&mut ctx.reply, list, count, self.end);
            remove_end(list, count, self.end);
            ctx.keys.changed_by(key, EventClasses::LIST, pop_event(self.end));
            return Ok(true);
        }
        Ok(false)
    }
}
