//! The functions of the `string` library that can run long: searching, replacing, repeating.

use super::api::{bad_argument, integer_arg, string_arg};
use super::pattern::{Capture, Matcher, Problem};
use super::vm::{Shared, error_at_caller};
use mlua::{Error, Lua, MultiValue, Table, Value};

/// Longest string that one call makes, bytes.
const RESULT_MAX: usize = 256 * 1024 * 1024;
/// Bytes copied or searched that cost one instruction.
const BYTES_PER_INSTRUCTION: u64 = 64;

pub(super) fn library(lua: &Lua, shared: &Shared) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    let with = |function: fn(&Lua, &Shared, &MultiValue) -> mlua::Result<MultiValue>| {
        let shared = shared.clone();
        lua.create_function(move |lua, args: MultiValue| function(lua, &shared, &args))
    };
    library.set("find", with(|lua, shared, args| find(lua, shared, args, true))?)?;
    library.set("match", with(|lua, shared, args| find(lua, shared, args, false))?)?;
    library.set("gmatch", with(gmatch)?)?;
    library.set("gfind", with(gmatch)?)?;
    library.set("rep", with(rep)?)?;
    library.set("gsub_text", with(gsub_text)?)?;
    library.set("gsub_matches", with(gsub_matches)?)?;
    Ok(library)
}

fn raise(lua: &Lua, problem: Problem) -> Error {
    match problem {
        Problem::Pattern(text) => error_at_caller(lua, text),
        Problem::Stopped(raised) => raised.into(),
    }
}

fn capture_value(lua: &Lua, capture: Capture<'_>) -> mlua::Result<Value> {
    Ok(match capture {
        Capture::Text(text) => Value::String(lua.create_string(text)?),
        Capture::Position(position) => Value::Number(position as f64),
    })
}

/// string.find and string.match.
fn find(lua: &Lua, shared: &Shared, args: &MultiValue, find: bool) -> mlua::Result<MultiValue> {
    let name = if find { "find" } else { "match" };
    let text = string_arg(lua, args, 1, name)?;
    let text = &*text.as_bytes();
    let pattern = string_arg(lua, args, 2, name)?;
    let pattern = &*pattern.as_bytes();
    let init = match args.get(2) {
        None | Some(Value::Nil) => 1,
        Some(_) => integer_arg(lua, args, 3, name)?,
    };
    let init = if init < 0 { (text.len() as i64 + init).max(0) } else { (init - 1).max(0) };
    let init = (init as usize).min(text.len());
    let plain = !matches!(args.get(3), None | Some(Value::Nil | Value::Boolean(false)));
    let shown = pattern.split(|byte| *byte == 0).next().unwrap_or_default();
    let special = shown.iter().any(|byte| b"^$*+?.([%-".contains(byte));
    if find && (plain || !special) {
        shared.fuel.charge((text.len() - init) as u64 / BYTES_PER_INSTRUCTION)?;
        return Ok(match memchr::memmem::find(&text[init..], pattern) {
            Some(at) => {
                let start = init + at;
                pair((start + 1) as f64, (start + pattern.len()) as f64)
            }
            None => one(Value::Nil),
        });
    }
    let (anchored, pattern) = anchor(pattern);
    let mut matcher = Matcher::new(text, pattern, &shared.fuel);
    for start in init..=text.len() {
        if let Some(end) = matcher.match_at(start).map_err(|problem| raise(lua, problem))? {
            let mut results = MultiValue::new();
            if find {
                results.push_back(Value::Number((start + 1) as f64));
                results.push_back(Value::Number(end as f64));
            }
            if !find || matcher.has_captures() {
                let captures = matcher.captures(start, end);
                for capture in captures.map_err(|problem| raise(lua, problem))? {
                    results.push_back(capture_value(lua, capture)?);
                }
            }
            return Ok(results);
        }
        if anchored {
            break;
        }
    }
    Ok(one(Value::Nil))
}

fn anchor(pattern: &[u8]) -> (bool, &[u8]) {
    match pattern.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    }
}

fn one(value: Value) -> MultiValue {
    [value].into_iter().collect()
}

fn pair(a: f64, b: f64) -> MultiValue {
    [Value::Number(a), Value::Number(b)].into_iter().collect()
}

fn gmatch(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_arg(lua, args, 1, "gmatch")?;
    let pattern = string_arg(lua, args, 2, "gmatch")?;
    let shared = shared.clone();
    let mut from = 0;
    let next = lua.create_function_mut(move |lua, _: MultiValue| {
        let (text, pattern) = (&*text.as_bytes(), &*pattern.as_bytes());
        let mut matcher = Matcher::new(text, pattern, &shared.fuel);
        let mut start = from;
        while start <= text.len() {
            if let Some(end) = matcher.match_at(start).map_err(|problem| raise(lua, problem))? {
                // An empty match moves on by one.
                from = end + usize::from(end == start);
                let mut results = MultiValue::new();
                let captures = matcher.captures(start, end);
                for capture in captures.map_err(|problem| raise(lua, problem))? {
                    results.push_back(capture_value(lua, capture)?);
                }
                return Ok(results);
            }
            start += 1;
        }
        from = text.len() + 1;
        Ok(one(Value::Nil))
    })?;
    Ok(one(Value::Function(next)))
}

fn rep(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_arg(lua, args, 1, "rep")?;
    let count = usize::try_from(integer_arg(lua, args, 2, "rep")?).unwrap_or(0);
    let text = text.as_bytes();
    let len = text.len().checked_mul(count).filter(|len| *len <= RESULT_MAX);
    let len = len.ok_or_else(|| error_at_caller(lua, "resulting string too large"))?;
    shared.fuel.charge(len as u64 / BYTES_PER_INSTRUCTION)?;
    let repeated = if len == 0 { Vec::new() } else { text.repeat(count) };
    Ok(one(Value::String(lua.create_string(repeated)?)))
}

/// The arguments of string.gsub and every match, in order.
fn gsub(
    lua: &Lua,
    shared: &Shared,
    args: &MultiValue,
    mut each: impl FnMut(&Matcher<'_>, usize, usize) -> mlua::Result<()>,
) -> mlua::Result<usize> {
    let text = string_arg(lua, args, 1, "gsub")?;
    let text = &*text.as_bytes();
    let pattern = string_arg(lua, args, 2, "gsub")?;
    let pattern = &*pattern.as_bytes();
    let max = match args.get(3) {
        None | Some(Value::Nil) => text.len() as i64 + 1,
        Some(_) => integer_arg(lua, args, 4, "gsub")?,
    };
    let (anchored, pattern) = anchor(pattern);
    let mut matcher = Matcher::new(text, pattern, &shared.fuel);
    let (mut at, mut count) = (0, 0);
    while count < max {
        let end = matcher.match_at(at).map_err(|problem| raise(lua, problem))?;
        if let Some(end) = end {
            count += 1;
            each(&matcher, at, end)?;
        }
        match end {
            Some(end) if end > at => at = end,
            _ if at < text.len() => at += 1,
            _ => break,
        }
        if anchored {
            break;
        }
    }
    Ok(count as usize)
}

/// string.gsub with a string as the replacement.
fn gsub_text(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_arg(lua, args, 1, "gsub")?;
    let text = &*text.as_bytes();
    string_arg(lua, args, 2, "gsub")?;
    let Some(Value::String(_) | Value::Integer(_) | Value::Number(_)) = args.get(2) else {
        return Err(bad_argument(lua, 3, "gsub", "string/function/table expected"));
    };
    let replacement = string_arg(lua, args, 3, "gsub")?;
    let replacement = &*replacement.as_bytes();
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    let count = gsub(lua, shared, args, |matcher, start, end| {
        out.extend_from_slice(&text[copied..start]);
        copied = end;
        shared.fuel.charge(replacement.len() as u64 / BYTES_PER_INSTRUCTION)?;
        let mut bytes = replacement.iter();
        while let Some(&byte) = bytes.next() {
            if byte != b'%' {
                out.push(byte);
                continue;
            }
            match bytes.next() {
                Some(b'0') => out.extend_from_slice(&text[start..end]),
                Some(digit) if digit.is_ascii_digit() => {
                    let index = usize::from(digit - b'1');
                    let capture = matcher.capture_or_whole(index, start, end);
                    match capture.map_err(|problem| raise(lua, problem))? {
                        Capture::Text(text) => out.extend_from_slice(text),
                        Capture::Position(position) => {
                            out.extend_from_slice(position.to_string().as_bytes());
                        }
                    }
                }
                Some(other) => out.push(*other),
                // Behind the end of a C string stands a zero.
                None => out.push(0),
            }
        }
        if out.len() > RESULT_MAX {
            return Err(error_at_caller(lua, "resulting string too large"));
        }
        Ok(())
    })?;
    out.extend_from_slice(&text[copied..]);
    shared.fuel.charge(out.len() as u64 / BYTES_PER_INSTRUCTION)?;
    let mut results = one(Value::String(lua.create_string(out)?));
    results.push_back(Value::Number(count as f64));
    Ok(results)
}

/// For string.gsub with a table or function: the string cut into what is kept and what matched, by
/// turns; the captures of each match; how many matches.
fn gsub_matches(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_arg(lua, args, 1, "gsub")?;
    let text = &*text.as_bytes();
    let pieces = lua.create_table()?;
    let captures = lua.create_table()?;
    let mut copied = 0;
    let arguments: MultiValue = [Some(0), Some(1), None, Some(3)]
        .into_iter()
        .map(|index| index.and_then(|index| args.get(index)).cloned().unwrap_or(Value::Nil))
        .collect();
    let count = gsub(lua, shared, &arguments, |matcher, start, end| {
        pieces.raw_push(lua.create_string(&text[copied..start])?)?;
        pieces.raw_push(lua.create_string(&text[start..end])?)?;
        copied = end;
        let list = lua.create_table()?;
        let captured = matcher.captures(start, end);
        for capture in captured.map_err(|problem| raise(lua, problem))? {
            list.raw_push(capture_value(lua, capture)?)?;
        }
        captures.raw_push(list)
    })?;
    pieces.raw_push(lua.create_string(&text[copied..])?)?;
    Ok([Value::Table(pieces), Value::Table(captures), Value::Number(count as f64)]
        .into_iter()
        .collect())
}
