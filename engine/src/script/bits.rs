//! The `bit` library: LuaBitOp 1.0.2 on 32-bit numbers.

use super::api::{number_arg, wrong_type};
use mlua::{Lua, MultiValue, Table, Value};

pub(super) fn library(lua: &Lua) -> mlua::Result<Table> {
    let bit = lua.create_table()?;
    add(lua, &bit, "tobit", |bits| bits(1))?;
    add(lua, &bit, "bnot", |bits| Ok(!bits(1)?))?;
    add(lua, &bit, "bswap", |bits| Ok(bits(1)?.swap_bytes()))?;
    add(lua, &bit, "lshift", |bits| Ok(bits(1)? << (bits(2)? & 31)))?;
    add(lua, &bit, "rshift", |bits| Ok(bits(1)? >> (bits(2)? & 31)))?;
    add(lua, &bit, "arshift", |bits| Ok((bits(1)? as i32 >> (bits(2)? & 31)) as u32))?;
    add(lua, &bit, "rol", |bits| Ok(bits(1)?.rotate_left(bits(2)? & 31)))?;
    add(lua, &bit, "ror", |bits| Ok(bits(1)?.rotate_right(bits(2)? & 31)))?;
    add_fold(lua, &bit, "band", |a, b| a & b)?;
    add_fold(lua, &bit, "bor", |a, b| a | b)?;
    add_fold(lua, &bit, "bxor", |a, b| a ^ b)?;
    bit.set("tohex", lua.create_function(tohex)?)?;
    Ok(bit)
}

/// A function of a fixed number of arguments; `compute` asks for them by position.
fn add(
    lua: &Lua,
    bit: &Table,
    name: &'static str,
    compute: fn(&dyn Fn(usize) -> mlua::Result<u32>) -> mlua::Result<u32>,
) -> mlua::Result<()> {
    let function = lua.create_function(move |lua, args: MultiValue| {
        let bits = |position| bits_arg(lua, &args, position, name);
        Ok(f64::from(compute(&bits)? as i32))
    })?;
    bit.set(name, function)
}

fn add_fold(
    lua: &Lua,
    bit: &Table,
    name: &'static str,
    combine: fn(u32, u32) -> u32,
) -> mlua::Result<()> {
    let function = lua.create_function(move |lua, args: MultiValue| {
        let mut result = bits_arg(lua, &args, 1, name)?;
        for position in (2..=args.len()).rev() {
            result = combine(result, bits_arg(lua, &args, position, name)?);
        }
        Ok(f64::from(result as i32))
    })?;
    bit.set(name, function)
}

fn tohex(lua: &Lua, args: MultiValue) -> mlua::Result<String> {
    let mut bits = bits_arg(lua, &args, 1, "tohex")?;
    let digits = if args.len() < 2 { 8 } else { bits_arg(lua, &args, 2, "tohex")? as i32 };
    let count = digits.unsigned_abs().min(8);
    let mut text = Vec::new();
    for _ in 0..count {
        let digit = char::from_digit(bits & 15, 16).expect("below 16");
        text.push(if digits < 0 { digit.to_ascii_uppercase() } else { digit });
        bits >>= 4;
    }
    Ok(text.iter().rev().collect())
}

/// The low 32 bits of a number, rounded to the nearest integer.
fn bits_arg(lua: &Lua, args: &MultiValue, position: usize, function: &str) -> mlua::Result<u32> {
    /// 2^52 + 2^51: adding it moves the integer part into the low bits.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    if let Some(Value::Boolean(_) | Value::Nil) = args.get(position - 1) {
        return Err(wrong_type(lua, args, position, function, "number"));
    }
    Ok((number_arg(lua, args, position, function)? + MAGIC).to_bits() as u32)
}
