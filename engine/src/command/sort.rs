//! SORT and SORT_RO.

use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::num::{int_arg, parse_f64};
use crate::value::list::{End, List};
use crate::value::{Value, ValueRef};
use holdfast_proto::events::EventClasses;
use std::cmp::Ordering;
use std::ops::Range;

pub(super) const COMMANDS: &[Command] =
    &[Command::new("sort", sort), Command::new("sort_ro", sort_ro)];

fn sort(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    run(ctx, args, true)
}

fn sort_ro(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    run(ctx, args, false)
}

#[derive(Default)]
struct Options<'a> {
    by: Option<&'a [u8]>,
    offset: i64,
    /// Negative: no limit.
    count: i64,
    get: Vec<&'a [u8]>,
    descending: bool,
    alpha: bool,
    store: Option<&'a [u8]>,
}

/// What an element is compared by.
enum Weight {
    Number(f64),
    /// `None`: the key of the BY pattern is missing, which comes first.
    Text(Option<Vec<u8>>),
}

fn run(ctx: &mut Ctx<'_>, args: &[&[u8]], may_store: bool) -> CommandResult {
    let options = Options::parse(&args[2..], may_store)?;
    // A BY pattern without a star names no key: elements keep the order that they are stored in.
    let keep_order = options.by.is_some_and(|by| !by.contains(&b'*'));
    let elements = match Source::read(ctx, args[1])? {
        // A set has no order, and what is stored must not depend on the layout of a table.
        Source::Set(elements) if keep_order && options.store.is_some() => {
            Options { alpha: true, ..Options::default() }.sorted(&mut ctx.keys, elements)?
        }
        Source::Set(elements) if keep_order => elements,
        Source::Ordered(mut elements) if keep_order => {
            if options.descending {
                elements.reverse();
            }
            elements
        }
        Source::Set(elements) | Source::Ordered(elements) => {
            options.sorted(&mut ctx.keys, elements)?
        }
    };
    let chosen = &elements[options.limit(elements.len())];
    match options.store {
        Some(key) => store(ctx, key, chosen, &options.get),
        None => reply(ctx, chosen, &options.get),
    }
    Ok(())
}

impl<'a> Options<'a> {
    fn parse(args: &[&'a [u8]], may_store: bool) -> Result<Self, CommandError> {
        let mut options = Self { count: -1, ..Self::default() };
        let mut args = args.iter().copied();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(CommandError::Syntax);
            if is_option(arg, "ASC") {
                options.descending = false;
            } else if is_option(arg, "DESC") {
                options.descending = true;
            } else if is_option(arg, "ALPHA") {
                options.alpha = true;
            } else if is_option(arg, "LIMIT") {
                let (offset, count) = (value()?, value()?);
                (options.offset, options.count) = (int_arg(offset)?, int_arg(count)?);
            } else if may_store && is_option(arg, "STORE") {
                options.store = Some(value()?);
            } else if is_option(arg, "BY") {
                options.by = Some(value()?);
            } else if is_option(arg, "GET") {
                options.get.push(value()?);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }

    fn limit(&self, len: usize) -> Range<usize> {
        let start = usize::try_from(self.offset).unwrap_or(0).min(len);
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        start..start.saturating_add(count).min(len)
    }

    fn sorted(
        &self,
        keys: &mut Keys<'_>,
        elements: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, CommandError> {
        let mut weighted = Vec::with_capacity(elements.len());
        for element in elements {
            weighted.push((self.weight(keys, &element)?, element));
        }
        // Stable, and equal weights fall back on the elements: the result is the same everywhere.
        weighted.sort_by(|a, b| {
            let order = a.0.compare(&b.0).then_with(|| a.1.cmp(&b.1));
            if self.descending { order.reverse() } else { order }
        });
        Ok(weighted.into_iter().map(|(_, element)| element).collect())
    }

    fn weight(&self, keys: &mut Keys<'_>, element: &[u8]) -> Result<Weight, CommandError> {
        let text = match self.by {
            Some(pattern) => lookup(keys, pattern, element),
            None => Some(element.to_vec()),
        };
        if self.alpha {
            return Ok(Weight::Text(text));
        }
        match text {
            None => Ok(Weight::Number(0.0)),
            Some(text) => weight(&text)
                .map(Weight::Number)
                .ok_or(CommandError::Text("ERR One or more scores can't be converted into double")),
        }
    }
}

impl Weight {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

/// The elements to be sorted.
enum Source {
    Set(Vec<Vec<u8>>),
    /// A list, or a sorted set in its order.
    Ordered(Vec<Vec<u8>>),
}

impl Source {
    fn read(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Self, CommandError> {
        Ok(match ctx.keys.get(key) {
            None => Self::Ordered(Vec::new()),
            Some(ValueRef::List(list)) => {
                Self::Ordered(list.iter().map(|item| item.to_vec()).collect())
            }
            Some(ValueRef::Set(set)) => Self::Set(set.iter().map(|item| item.to_vec()).collect()),
            Some(ValueRef::ZSet(zset)) => {
                Self::Ordered(zset.iter().map(|(item, _)| item.to_vec()).collect())
            }
            Some(_) => return Err(CommandError::WrongType),
        })
    }
}

/// What a BY or GET pattern means for an element: `#` is the element; the first `*` is replaced by
/// it, and `->field` after the star reads a field of a hash.
fn lookup(keys: &mut Keys<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|&byte| byte == b'*')?;
    let (prefix, rest) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = rest.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < rest.len());
    let (postfix, field) = match arrow {
        Some(at) => (&rest[..at], Some(&rest[at + 2..])),
        None => (rest, None),
    };
    let key = [prefix, element, postfix].concat();
    match (keys.get(&key)?, field) {
        (ValueRef::Hash(hash), Some(field)) => hash.get(field).map(|value| value.to_vec()),
        (ValueRef::Int(value), None) => Some(itoa::Buffer::new().format(value).into()),
        (ValueRef::Str(bytes), None) => Some(bytes.to_vec()),
        _ => None,
    }
}

fn reply(ctx: &mut Ctx<'_>, chosen: &[Vec<u8>], get: &[&[u8]]) {
    ctx.reply.array(chosen.len() * get.len().max(1));
    for element in chosen {
        if get.is_empty() {
            ctx.reply.bulk(element);
        }
        for pattern in get {
            let value = lookup(&mut ctx.keys, pattern, element);
            ctx.reply.bulk_or_null(value.as_deref());
        }
    }
}

fn store(ctx: &mut Ctx<'_>, key: &[u8], chosen: &[Vec<u8>], get: &[&[u8]]) {
    let mut list = List::new();
    for element in chosen {
        if get.is_empty() {
            list.push(End::Back, element, ctx.limits);
        }
        for pattern in get {
            let value = lookup(&mut ctx.keys, pattern, element).unwrap_or_default();
            list.push(End::Back, &value, ctx.limits);
        }
    }
    let len = list.len();
    if len == 0 {
        ctx.keys.delete(key);
    } else {
        ctx.keys.insert(key, Value::List(Box::new(list)), None);
        ctx.keys.notify(EventClasses::LIST, "sortstore", key);
    }
    ctx.reply.count(len);
}

/// A number as Redis's `strtod` reads it here: up to a NUL, with blanks in front, nothing as zero.
fn weight(text: &[u8]) -> Option<f64> {
    match text.split(|&byte| byte == 0).next().unwrap_or_default() {
        b"" => Some(0.0),
        number => parse_f64(number.trim_ascii_start()),
    }
}
