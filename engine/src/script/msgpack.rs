//! The `cmsgpack` library: MessagePack as lua-cmsgpack 0.4.0 writes and reads it.

use super::api::{integer_arg, string_arg};
use super::vm::{Shared, error_at_caller};
use mlua::{Lua, MultiValue, Table, Value};

/// Tables nested deeper are written as nil.
const PACK_DEPTH_MAX: usize = 16;
/// Input nested deeper is refused; the original runs out of Lua's stack somewhere there.
const UNPACK_DEPTH_MAX: usize = 1000;
/// Values at the top, as many as fit onto Lua's stack of C functions.
const RESULTS_MAX: usize = 7_900;
/// Output, bytes: shared tables can make a small value large.
const OUTPUT_MAX: usize = 64 * 1024 * 1024;

pub(super) fn library(lua: &Lua, shared: &Shared) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    let charged = shared.clone();
    library.set("pack", lua.create_function(move |lua, args| pack(lua, &charged, &args))?)?;
    let charged = shared.clone();
    let all = move |lua: &Lua, args: MultiValue| unpack(lua, &charged, &args, None, 0, "unpack");
    library.set("unpack", lua.create_function(all)?)?;
    let charged = shared.clone();
    let one = move |lua: &Lua, args: MultiValue| {
        let offset = optional(lua, &args, 2, "unpack_one")?;
        unpack(lua, &charged, &args, Some(1), offset, "unpack_one")
    };
    library.set("unpack_one", lua.create_function(one)?)?;
    let charged = shared.clone();
    let limited = move |lua: &Lua, args: MultiValue| {
        let limit = integer_arg(lua, &args, 2, "unpack_limit")?;
        let offset = optional(lua, &args, 3, "unpack_limit")?;
        unpack(lua, &charged, &args, Some(limit), offset, "unpack_limit")
    };
    library.set("unpack_limit", lua.create_function(limited)?)?;
    library.set("_NAME", "cmsgpack")?;
    library.set("_VERSION", "lua-cmsgpack 0.4.0")?;
    library.set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    library.set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(library)
}

fn optional(lua: &Lua, args: &MultiValue, position: usize, function: &str) -> mlua::Result<i64> {
    match args.get(position - 1) {
        None | Some(Value::Nil) => Ok(0),
        Some(_) => integer_arg(lua, args, position, function),
    }
}

// ---- packing -------------------------------------------------------------------------------------

fn pack(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<mlua::String> {
    if args.is_empty() {
        let text = "bad argument #0 to 'pack' (MessagePack pack needs input.)";
        return Err(error_at_caller(lua, text));
    }
    let mut packer = Packer { lua, shared, out: Vec::new() };
    for value in args {
        packer.value(value, 0)?;
    }
    shared.fuel.charge(packer.out.len() as u64 / 8)?;
    lua.create_string(packer.out)
}

struct Packer<'a> {
    lua: &'a Lua,
    shared: &'a Shared,
    out: Vec<u8>,
}

impl Packer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> mlua::Result<()> {
        self.shared.fuel.charge(1)?;
        if self.out.len() > OUTPUT_MAX {
            return Err(error_at_caller(self.lua, "the packed value is too large"));
        }
        match value {
            Value::Boolean(truth) => self.out.push(if *truth { 0xc3 } else { 0xc2 }),
            Value::Integer(number) => self.integer(*number),
            Value::Number(number) => self.number(*number),
            Value::String(text) => self.string(&text.as_bytes()),
            Value::Table(table) if depth < PACK_DEPTH_MAX => self.table(table, depth)?,
            _ => self.out.push(0xc0),
        }
        Ok(())
    }

    fn number(&mut self, number: f64) {
        let whole = super::convert::truncate(number);
        if whole as f64 == number {
            return self.integer(whole);
        }
        let narrow = number as f32;
        if f64::from(narrow) == number {
            self.out.push(0xca);
            self.out.extend_from_slice(&narrow.to_be_bytes());
        } else {
            self.out.push(0xcb);
            self.out.extend_from_slice(&number.to_be_bytes());
        }
    }

    fn integer(&mut self, number: i64) {
        let out = &mut self.out;
        match number {
            0..=127 => out.push(number as u8),
            128..=0xff => out.extend_from_slice(&[0xcc, number as u8]),
            0x100..=0xffff => {
                out.push(0xcd);
                out.extend_from_slice(&(number as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                out.push(0xce);
                out.extend_from_slice(&(number as u32).to_be_bytes());
            }
            0x1_0000_0000.. => {
                out.push(0xcf);
                out.extend_from_slice(&number.to_be_bytes());
            }
            -32..=-1 => out.push(number as u8),
            -128..=-33 => out.extend_from_slice(&[0xd0, number as u8]),
            -32768..=-129 => {
                out.push(0xd1);
                out.extend_from_slice(&(number as i16).to_be_bytes());
            }
            -2_147_483_648..=-32769 => {
                out.push(0xd2);
                out.extend_from_slice(&(number as i32).to_be_bytes());
            }
            _ => {
                out.push(0xd3);
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }

    fn string(&mut self, text: &[u8]) {
        match text.len() {
            len @ 0..=31 => self.out.push(0xa0 | len as u8),
            len @ 32..=0xff => self.out.extend_from_slice(&[0xd9, len as u8]),
            len => self.header(len, 0xda),
        }
        self.out.extend_from_slice(text);
    }

    /// `wide` and two bytes of length, or the next code and four.
    fn header(&mut self, len: usize, wide: u8) {
        if let Ok(len) = u16::try_from(len) {
            self.out.push(wide);
            self.out.extend_from_slice(&len.to_be_bytes());
        } else {
            self.out.push(wide + 1);
            self.out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }

    fn table(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        let (mut count, mut max, mut array, mut ordered) = (0u64, 0.0, true, true);
        table.for_each(|key: Value, _: Value| {
            count += 1;
            let number = match &key {
                Value::Integer(number) => Some(*number as f64),
                Value::Number(number) => Some(*number),
                Value::String(_) | Value::Boolean(_) => None,
                _ => {
                    ordered = false;
                    None
                }
            };
            match number {
                Some(number) if number > 0.0 && number == number.floor() && number < 2e9 => {
                    max = number.max(max);
                }
                _ => array = false,
            }
            Ok(())
        })?;
        self.shared.fuel.charge(count)?;
        if !ordered {
            let text =
                "a table whose keys are tables, functions or coroutines has no order to pack in";
            return Err(error_at_caller(self.lua, text));
        }
        if array && max == count as f64 {
            return self.array(table, depth);
        }
        match count {
            0..=15 => self.out.push(0x80 | count as u8),
            _ => self.header(count as usize, 0xde),
        }
        let mut pairs = Vec::new();
        table.for_each(|key: Value, value: Value| {
            pairs.push((key, value));
            Ok(())
        })?;
        for (key, value) in pairs {
            self.value(&key, depth + 1)?;
            self.value(&value, depth + 1)?;
        }
        Ok(())
    }

    fn array(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        let len = table.raw_len();
        match len {
            0..=15 => self.out.push(0x90 | len as u8),
            _ => self.header(len, 0xdc),
        }
        for index in 1..=len {
            self.value(&table.raw_get::<Value>(index)?, depth + 1)?;
        }
        Ok(())
    }
}

// ---- unpacking -----------------------------------------------------------------------------------

fn unpack(
    lua: &Lua,
    shared: &Shared,
    args: &MultiValue,
    limit: Option<i64>,
    offset: i64,
    function: &str,
) -> mlua::Result<MultiValue> {
    let input = string_arg(lua, args, 1, function)?;
    let input = input.as_bytes();
    let len = input.len();
    if offset < 0 || limit.is_some_and(|limit| limit < 0) {
        let text = format!("Invalid request to unpack with offset of {offset} and limit of {len}.");
        return Err(error_at_caller(lua, text));
    }
    let Some(rest) = usize::try_from(offset).ok().and_then(|offset| input.get(offset..)) else {
        let text = format!("Start offset {offset} greater than input length {len}.");
        return Err(error_at_caller(lua, text));
    };
    shared.fuel.charge(rest.len() as u64)?;
    // A limit of 0 is none, as no limit is 0.
    let all = limit.is_none() || limit == Some(0) && offset == 0;
    let limit = if all { i64::MAX } else { limit.unwrap_or(i64::MAX) };
    let mut unpacker = Unpacker { lua, rest };
    let mut results = Vec::new();
    while !unpacker.rest.is_empty() && (results.len() as i64) < limit {
        if results.len() >= RESULTS_MAX {
            return Err(error_at_caller(lua, "stack overflow (in function mp_decode_to_lua_type)"));
        }
        results.push(unpacker.value(0)?);
    }
    if !all {
        let left = unpacker.rest.len();
        let next = if left == 0 { -1.0 } else { (len - left) as f64 };
        results.insert(0, Value::Number(next));
    }
    Ok(results.into_iter().collect())
}

struct Unpacker<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
}

impl<'a> Unpacker<'a> {
    fn bytes(&mut self, len: usize) -> mlua::Result<&'a [u8]> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(error_at_caller(self.lua, "Missing bytes in input."));
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn unsigned(&mut self, len: usize) -> mlua::Result<u64> {
        Ok(self.bytes(len)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, len: usize) -> mlua::Result<i64> {
        let shift = 64 - 8 * len as u32;
        Ok((self.unsigned(len)? << shift) as i64 >> shift)
    }

    fn value(&mut self, depth: usize) -> mlua::Result<Value> {
        if depth > UNPACK_DEPTH_MAX {
            let text = "stack overflow (in function mp_decode_to_lua_array)";
            return Err(error_at_caller(self.lua, text));
        }
        let code = self.bytes(1)?[0];
        Ok(match code {
            0x00..=0x7f => Value::Number(code.into()),
            0xe0..=0xff => Value::Number((code as i8).into()),
            0x80..=0x8f => self.map((code & 15).into(), depth)?,
            0x90..=0x9f => self.array((code & 15).into(), depth)?,
            0xa0..=0xbf => self.string((code & 31).into())?,
            0xc0 => Value::Nil,
            0xc2 => Value::Boolean(false),
            0xc3 => Value::Boolean(true),
            0xca => {
                let bits = self.unsigned(4)? as u32;
                Value::Number(f32::from_bits(bits).into())
            }
            0xcb => Value::Number(f64::from_bits(self.unsigned(8)?)),
            0xcc..=0xcf => Value::Number(self.unsigned(1 << (code - 0xcc))? as f64),
            0xd0..=0xd3 => Value::Number(self.signed(1 << (code - 0xd0))? as f64),
            0xd9..=0xdb => {
                let len = self.unsigned(1 << (code - 0xd9))?;
                self.string(len)?
            }
            0xdc | 0xdd => {
                let len = self.unsigned(2 << (code - 0xdc))?;
                self.array(len, depth)?
            }
            0xde | 0xdf => {
                let len = self.unsigned(2 << (code - 0xde))?;
                self.map(len, depth)?
            }
            _ => return Err(error_at_caller(self.lua, "Bad data format in input.")),
        })
    }

    fn string(&mut self, len: u64) -> mlua::Result<Value> {
        let bytes = self.bytes(usize::try_from(len).unwrap_or(usize::MAX))?;
        Ok(Value::String(self.lua.create_string(bytes)?))
    }

    fn array(&mut self, len: u64, depth: usize) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        for index in 1..=len {
            table.raw_set(index, self.value(depth + 1)?)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, len: u64, depth: usize) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        for _ in 0..len {
            let key = self.value(depth + 1)?;
            let value = self.value(depth + 1)?;
            let problem = match &key {
                Value::Nil => "table index is nil",
                Value::Number(number) if number.is_nan() => "table index is NaN",
                _ => {
                    table.raw_set(key, value)?;
                    continue;
                }
            };
            return Err(super::vm::Raised::Text(problem.as_bytes().to_vec()).into());
        }
        Ok(Value::Table(table))
    }
}
