//! The `struct` library: packs values into bytes by a format, after Roberto Ierusalimschy's
//! struct 0.2 as Redis bundles it.

use super::api::{bad_argument, integer_arg, number_arg, string_arg};
use super::vm::{Shared, error_at_caller};
use mlua::{Lua, MultiValue, Table, Value};

/// Widest integer, bytes.
const INTEGER_MAX: usize = 32;
/// Alignment that `!` alone stands for: that of a double.
const NATIVE_ALIGN: usize = 8;
/// Values that one unpack gives, as many as fit onto Lua's stack of C functions.
const RESULTS_MAX: usize = 7_900;
/// Input or output bytes that cost one instruction.
const BYTES_PER_INSTRUCTION: u64 = 8;

pub(super) fn library(lua: &Lua, shared: &Shared) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    let charged = shared.clone();
    library.set("pack", lua.create_function(move |lua, args| pack(lua, &charged, &args))?)?;
    let charged = shared.clone();
    library.set("unpack", lua.create_function(move |lua, args| unpack(lua, &charged, &args))?)?;
    library.set("size", lua.create_function(size)?)?;
    Ok(library)
}

/// Reads a format. It ends at its first zero byte, as a C string does.
struct Format<'a> {
    lua: &'a Lua,
    function: &'static str,
    rest: &'a [u8],
    big_endian: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(lua: &'a Lua, function: &'static str, text: &'a [u8]) -> Self {
        let end = memchr::memchr(0, text).unwrap_or(text.len());
        Self { lua, function, rest: &text[..end], big_endian: false, align: 1 }
    }

    /// The next option and the size of its value; 0 where it has none of its own.
    fn next(&mut self) -> mlua::Result<Option<(u8, usize)>> {
        let Some((&option, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        let size = match option {
            b'B' | b'b' | b'x' => 1,
            b'H' | b'h' => 2,
            b'L' | b'l' | b'T' | b'd' => 8,
            b'f' => 4,
            b'c' => self.number(1)?,
            b'i' | b'I' => {
                let size = self.number(4)?;
                if size > INTEGER_MAX {
                    let text =
                        format!("integral size {size} is larger than limit of {INTEGER_MAX}");
                    return Err(error_at_caller(self.lua, text));
                }
                size
            }
            _ => 0,
        };
        Ok(Some((option, size)))
    }

    fn number(&mut self, default: usize) -> mlua::Result<usize> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Ok(default);
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<i32>().ok());
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| error_at_caller(self.lua, "integral size overflow"))
    }

    /// Bytes that align a value of this size at `position`.
    fn padding(&self, position: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let size = size.min(self.align);
        size.wrapping_sub(position & size.wrapping_sub(1)) & size.wrapping_sub(1)
    }

    fn control(&mut self, option: u8) -> mlua::Result<()> {
        match option {
            b' ' => {}
            b'>' => self.big_endian = true,
            b'<' => self.big_endian = false,
            b'!' => {
                let align = self.number(NATIVE_ALIGN)?;
                if !align.is_power_of_two() {
                    let text = format!("alignment {align} is not a power of 2");
                    return Err(error_at_caller(self.lua, text));
                }
                self.align = align;
            }
            other => {
                let problem = format!("invalid format option '{}'", char::from(other));
                return Err(bad_argument(self.lua, 1, self.function, &problem));
            }
        }
        Ok(())
    }

    /// Little-endian bytes in the order asked for.
    fn ordered(&self, bytes: &mut [u8]) {
        if self.big_endian {
            bytes.reverse();
        }
    }
}

fn pack(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<mlua::String> {
    // The original puts a nil behind its arguments.
    let mut args = args.clone();
    if !args.is_empty() {
        args.push_back(Value::Nil);
    }
    let args = &args;
    let text = string_arg(lua, args, 1, "pack")?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, "pack", &text);
    let mut out = Vec::new();
    let mut position = 2;
    while let Some((option, size)) = format.next()? {
        let padding = format.padding(out.len(), option, size);
        out.resize(out.len() + padding, 0);
        shared.fuel.charge(1)?;
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = number_arg(lua, args, position, "pack")?;
                let value = if number < 0.0 {
                    super::convert::truncate(number) as u64
                } else {
                    number as u64
                };
                let mut bytes = [0; INTEGER_MAX];
                bytes[..8].copy_from_slice(&value.to_le_bytes());
                format.ordered(&mut bytes[..size]);
                out.extend_from_slice(&bytes[..size]);
                position += 1;
            }
            b'x' => out.push(0),
            b'f' => {
                let mut bytes = (number_arg(lua, args, position, "pack")? as f32).to_le_bytes();
                format.ordered(&mut bytes);
                out.extend_from_slice(&bytes);
                position += 1;
            }
            b'd' => {
                let mut bytes = number_arg(lua, args, position, "pack")?.to_le_bytes();
                format.ordered(&mut bytes);
                out.extend_from_slice(&bytes);
                position += 1;
            }
            b'c' | b's' => {
                let string = string_arg(lua, args, position, "pack")?;
                let string = string.as_bytes();
                position += 1;
                let size = if size == 0 { string.len() } else { size };
                let Some(part) = string.get(..size) else {
                    return Err(bad_argument(lua, position, "pack", "string too short"));
                };
                out.extend_from_slice(part);
                if option == b's' {
                    out.push(0);
                }
                shared.fuel.charge(size as u64 / BYTES_PER_INSTRUCTION)?;
            }
            other => format.control(other)?,
        }
    }
    lua.create_string(out)
}

fn unpack(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_arg(lua, args, 1, "unpack")?;
    let text = text.as_bytes();
    let data = string_arg(lua, args, 2, "unpack")?;
    let data = data.as_bytes();
    let start = match args.get(2) {
        None | Some(Value::Nil) => 1,
        Some(_) => integer_arg(lua, args, 3, "unpack")?,
    };
    // A negative offset is a huge one in the original.
    if start == 0 {
        return Err(bad_argument(lua, 3, "unpack", "offset must be 1 or greater"));
    }
    let too_short = || bad_argument(lua, 2, "unpack", "data string too short");
    let mut at = usize::try_from(start - 1).map_err(|_| too_short())?;
    let mut format = Format::new(lua, "unpack", &text);
    let mut results: Vec<Value> = Vec::new();
    while let Some((option, size)) = format.next()? {
        at = at.saturating_add(format.padding(at, option, size));
        shared.fuel.charge(1)?;
        let field = at.checked_add(size).and_then(|end| data.get(at..end)).ok_or_else(too_short)?;
        if results.len() >= RESULTS_MAX {
            return Err(error_at_caller(lua, "stack overflow (too many results)"));
        }
        let mut used = size;
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let signed = option.is_ascii_lowercase();
                results.push(Value::Number(integer(field, format.big_endian, signed)));
            }
            b'x' => {}
            b'f' => {
                let mut bytes: [u8; 4] = field.try_into().expect("four bytes");
                format.ordered(&mut bytes);
                results.push(Value::Number(f32::from_le_bytes(bytes).into()));
            }
            b'd' => {
                let mut bytes: [u8; 8] = field.try_into().expect("eight bytes");
                format.ordered(&mut bytes);
                results.push(Value::Number(f64::from_le_bytes(bytes)));
            }
            b'c' => {
                let mut field = field;
                if size == 0 {
                    let length = match results.pop() {
                        Some(Value::Number(length)) => length,
                        _ => {
                            let text = "format 'c0' needs a previous size";
                            return Err(error_at_caller(lua, text));
                        }
                    };
                    used = if length >= 0.0 { length as usize } else { usize::MAX };
                    let end = at.checked_add(used);
                    field = end.and_then(|end| data.get(at..end)).ok_or_else(too_short)?;
                }
                shared.fuel.charge(used as u64 / BYTES_PER_INSTRUCTION)?;
                results.push(Value::String(lua.create_string(field)?));
            }
            b's' => {
                let Some(len) = memchr::memchr(0, &data[at..]) else {
                    return Err(error_at_caller(lua, "unfinished string in data"));
                };
                shared.fuel.charge(len as u64 / BYTES_PER_INSTRUCTION)?;
                results.push(Value::String(lua.create_string(&data[at..at + len])?));
                used = len + 1;
            }
            other => format.control(other)?,
        }
        at += used;
    }
    results.push(Value::Number((at + 1) as f64));
    Ok(results.into_iter().collect())
}

fn integer(field: &[u8], big_endian: bool, signed: bool) -> f64 {
    let shift_in = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    let value = if big_endian {
        field.iter().fold(0, shift_in)
    } else {
        field.iter().rev().fold(0, shift_in)
    };
    if !signed {
        return value as f64;
    }
    // Beyond eight bytes the shift wraps, as it does on x86 in the original.
    let mask = u64::MAX.wrapping_shl((field.len() as u32 * 8).wrapping_sub(1));
    (if value & mask != 0 { value | mask } else { value }) as i64 as f64
}

fn size(lua: &Lua, args: MultiValue) -> mlua::Result<f64> {
    let text = string_arg(lua, &args, 1, "size")?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, "size", &text);
    let mut position = 0usize;
    while let Some((option, size)) = format.next()? {
        position = position.saturating_add(format.padding(position, option, size));
        let problem = match option {
            b's' => "option 's' has no fixed size",
            b'c' if size == 0 => "option 'c0' has no fixed size",
            _ => "",
        };
        if !problem.is_empty() {
            return Err(bad_argument(lua, 1, "size", problem));
        }
        if !option.is_ascii_alphanumeric() {
            format.control(option)?;
        }
        position = position.saturating_add(size);
    }
    Ok(position as f64)
}
