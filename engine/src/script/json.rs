//! The `cjson` library: JSON as lua-cjson 2.1.0 writes and reads it, its limits and texts included.

use super::api::{bad_argument, integer_arg, string_arg, type_name};
use super::number;
use super::vm::{Shared, error_at_caller};
use mlua::{Lua, MultiValue, Table, Value};
use std::sync::{Arc, Mutex, MutexGuard};

/// Deepest nesting that any setting allows: values are written and read recursively.
const DEPTH_CAP: i64 = 1000;
/// Output, bytes: shared tables can make a small value large.
const OUTPUT_MAX: usize = 64 * 1024 * 1024;

/// What a script may set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    sparse_convert: bool,
    sparse_ratio: i64,
    sparse_safe: i64,
    encode_depth_max: i64,
    decode_depth_max: i64,
    keep_buffer: bool,
    digits: i64,
    /// 0 refuse, 1 write as they are, 2 write null.
    encode_invalid_numbers: u8,
    decode_invalid_numbers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth_max: 1000,
            decode_depth_max: 1000,
            keep_buffer: true,
            digits: 14,
            encode_invalid_numbers: 0,
            decode_invalid_numbers: true,
        }
    }
}

/// The settings of one `cjson` table.
pub(super) type SharedConfig = Arc<Mutex<Config>>;

fn lock(config: &SharedConfig) -> MutexGuard<'_, Config> {
    config.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Settings do not outlast a script: replicas would have to agree on who ran which scripts.
pub(super) fn reset(config: &SharedConfig) {
    *lock(config) = Config::default();
}

pub(super) fn library(lua: &Lua, shared: &Shared, config: &SharedConfig) -> mlua::Result<Table> {
    let library = lua.create_table()?;
    let (charged, settings) = (shared.clone(), config.clone());
    let encode = move |lua: &Lua, args: MultiValue| encode(lua, &charged, *lock(&settings), &args);
    library.set("encode", lua.create_function(encode)?)?;
    let (charged, settings) = (shared.clone(), config.clone());
    let decode = move |lua: &Lua, args: MultiValue| decode(lua, &charged, *lock(&settings), &args);
    library.set("decode", lua.create_function(decode)?)?;
    for (name, change) in SETTINGS {
        let settings = config.clone();
        let set = move |lua: &Lua, args: MultiValue| change(lua, &mut lock(&settings), &args);
        library.set(*name, lua.create_function(set)?)?;
    }
    let shared = shared.clone();
    let new = move |lua: &Lua, _: MultiValue| library_new(lua, &shared);
    library.set("new", lua.create_function(new)?)?;
    library.set("null", Value::NULL)?;
    library.set("_NAME", "cjson")?;
    library.set("_VERSION", "2.1.0")?;
    Ok(library)
}

fn library_new(lua: &Lua, shared: &Shared) -> mlua::Result<Table> {
    library(lua, shared, &SharedConfig::default())
}

// ---- settings ------------------------------------------------------------------------------------

type Setting = fn(&Lua, &mut Config, &MultiValue) -> mlua::Result<MultiValue>;

const SETTINGS: &[(&str, Setting)] = &[
    ("encode_sparse_array", |lua, config, args| {
        at_most(lua, args, 3, "encode_sparse_array")?;
        let convert = flag(lua, args, &mut config.sparse_convert, "encode_sparse_array")?;
        let name = "encode_sparse_array";
        let ratio = number_in(lua, args, 2, &mut config.sparse_ratio, 0, i32::MAX.into(), name)?;
        let safe = number_in(lua, args, 3, &mut config.sparse_safe, 0, i32::MAX.into(), name)?;
        Ok([convert, ratio, safe].into_iter().collect())
    }),
    ("encode_max_depth", |lua, config, args| {
        at_most(lua, args, 1, "encode_max_depth")?;
        let (setting, name) = (&mut config.encode_depth_max, "encode_max_depth");
        Ok([number_in(lua, args, 1, setting, 1, i32::MAX.into(), name)?].into_iter().collect())
    }),
    ("decode_max_depth", |lua, config, args| {
        at_most(lua, args, 1, "decode_max_depth")?;
        let (setting, name) = (&mut config.decode_depth_max, "decode_max_depth");
        Ok([number_in(lua, args, 1, setting, 1, i32::MAX.into(), name)?].into_iter().collect())
    }),
    ("encode_number_precision", |lua, config, args| {
        at_most(lua, args, 1, "encode_number_precision")?;
        let name = "encode_number_precision";
        Ok([number_in(lua, args, 1, &mut config.digits, 1, 14, name)?].into_iter().collect())
    }),
    ("encode_keep_buffer", |lua, config, args| {
        at_most(lua, args, 1, "encode_keep_buffer")?;
        Ok([flag(lua, args, &mut config.keep_buffer, "encode_keep_buffer")?].into_iter().collect())
    }),
    ("decode_invalid_numbers", |lua, config, args| {
        let name = "decode_invalid_numbers";
        at_most(lua, args, 1, name)?;
        Ok([flag(lua, args, &mut config.decode_invalid_numbers, name)?].into_iter().collect())
    }),
    ("encode_invalid_numbers", |lua, config, args| {
        let name = "encode_invalid_numbers";
        at_most(lua, args, 1, name)?;
        match args.front() {
            None | Some(Value::Nil) => {}
            Some(Value::Boolean(on)) => config.encode_invalid_numbers = u8::from(*on),
            Some(_) => {
                let option = string_arg(lua, args, 1, name)?;
                config.encode_invalid_numbers = match &*option.as_bytes() {
                    b"off" => 0,
                    b"on" => 1,
                    b"null" => 2,
                    other => return Err(invalid_option(lua, other, name)),
                };
            }
        }
        let shown = match config.encode_invalid_numbers {
            2 => Value::String(lua.create_string("null")?),
            setting => Value::Boolean(setting == 1),
        };
        Ok([shown].into_iter().collect())
    }),
];

fn at_most(lua: &Lua, args: &MultiValue, count: usize, name: &str) -> mlua::Result<()> {
    if args.len() <= count {
        return Ok(());
    }
    Err(bad_argument(lua, count + 1, name, "found too many arguments"))
}

fn flag(lua: &Lua, args: &MultiValue, setting: &mut bool, name: &str) -> mlua::Result<Value> {
    match args.front() {
        None | Some(Value::Nil) => {}
        Some(Value::Boolean(on)) => *setting = *on,
        Some(_) => {
            let option = string_arg(lua, args, 1, name)?;
            *setting = match &*option.as_bytes() {
                b"off" => false,
                b"on" => true,
                other => return Err(invalid_option(lua, other, name)),
            };
        }
    }
    Ok(Value::Boolean(*setting))
}

fn invalid_option(lua: &Lua, option: &[u8], name: &str) -> mlua::Error {
    let problem = format!("invalid option '{}'", String::from_utf8_lossy(option));
    bad_argument(lua, 1, name, &problem)
}

fn number_in(
    lua: &Lua,
    args: &MultiValue,
    position: usize,
    setting: &mut i64,
    min: i64,
    max: i64,
    name: &str,
) -> mlua::Result<Value> {
    if !matches!(args.get(position - 1), None | Some(Value::Nil)) {
        let value = integer_arg(lua, args, position, name)?;
        if !(min..=max).contains(&value) {
            let problem = format!("expected integer between {min} and {max}");
            return Err(bad_argument(lua, 1, name, &problem));
        }
        *setting = value;
    }
    Ok(Value::Number(*setting as f64))
}

// ---- encoding ------------------------------------------------------------------------------------

fn encode(
    lua: &Lua,
    shared: &Shared,
    config: Config,
    args: &MultiValue,
) -> mlua::Result<mlua::String> {
    if args.len() != 1 {
        return Err(bad_argument(lua, 1, "encode", "expected 1 argument"));
    }
    let mut encoder = Encoder { lua, shared, config, out: Vec::new() };
    encoder.value(&args[0], 0)?;
    shared.fuel.charge(encoder.out.len() as u64 / 8)?;
    lua.create_string(encoder.out)
}

struct Encoder<'a> {
    lua: &'a Lua,
    shared: &'a Shared,
    config: Config,
    out: Vec<u8>,
}

impl Encoder<'_> {
    fn value(&mut self, value: &Value, depth: i64) -> mlua::Result<()> {
        self.shared.fuel.charge(1)?;
        if self.out.len() > OUTPUT_MAX {
            return Err(error_at_caller(self.lua, "Cannot serialise, the result is too large"));
        }
        match value {
            Value::String(text) => self.string(&text.as_bytes()),
            Value::Integer(number) => self.number(*number as f64, "number")?,
            Value::Number(number) => self.number(*number, "number")?,
            Value::Boolean(true) => self.out.extend_from_slice(b"true"),
            Value::Boolean(false) => self.out.extend_from_slice(b"false"),
            Value::Nil => self.out.extend_from_slice(b"null"),
            Value::LightUserData(data) if data.0.is_null() => self.out.extend_from_slice(b"null"),
            Value::Table(table) => self.table(table, depth + 1)?,
            other => return Err(self.cannot(type_name(other), "type not supported")),
        }
        Ok(())
    }

    fn cannot(&self, kind: &str, reason: &str) -> mlua::Error {
        error_at_caller(self.lua, format!("Cannot serialise {kind}: {reason}"))
    }

    fn number(&mut self, number: f64, kind: &str) -> mlua::Result<()> {
        if !number.is_finite() {
            match self.config.encode_invalid_numbers {
                0 => return Err(self.cannot(kind, "must not be NaN or Inf")),
                1 if number.is_nan() => {
                    self.out.extend_from_slice(b"nan");
                    return Ok(());
                }
                1 => {}
                _ => {
                    self.out.extend_from_slice(b"null");
                    return Ok(());
                }
            }
        }
        let text = number::general(number, self.config.digits as usize);
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn string(&mut self, text: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.out.push(b'"');
        for &byte in text {
            let short = match byte {
                b'"' | b'\\' | b'/' => byte,
                0x08 => b'b',
                b'\t' => b't',
                b'\n' => b'n',
                0x0c => b'f',
                b'\r' => b'r',
                0..=0x1f | 0x7f => {
                    let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
                    self.out.extend_from_slice(b"\\u00");
                    self.out.extend_from_slice(&digits);
                    continue;
                }
                _ => {
                    self.out.push(byte);
                    continue;
                }
            };
            self.out.extend_from_slice(&[b'\\', short]);
        }
        self.out.push(b'"');
    }

    fn table(&mut self, table: &Table, depth: i64) -> mlua::Result<()> {
        if depth > self.config.encode_depth_max.min(DEPTH_CAP) {
            let text = format!("Cannot serialise, excessive nesting ({depth})");
            return Err(error_at_caller(self.lua, text));
        }
        match self.array_len(table)? {
            Some(len) if len > 0 => self.array(table, len, depth),
            _ => self.object(table, depth),
        }
    }

    /// The greatest index; `None` if there are keys that are no index, or it is better an object.
    fn array_len(&self, table: &Table) -> mlua::Result<Option<i64>> {
        let (mut items, mut max) = (0i64, 0.0f64);
        // Stops at the first key that is none: an error that nobody sees.
        let walked = table.for_each(|key: Value, _: Value| {
            let index = match key {
                Value::Integer(index) => index as f64,
                Value::Number(index) => index,
                _ => 0.0,
            };
            if index < 1.0 || index != index.floor() {
                return Err(mlua::Error::runtime("no array"));
            }
            max = max.max(index);
            items += 1;
            Ok(())
        });
        if walked.is_err() {
            return Ok(None);
        }
        self.shared.fuel.charge(items as u64)?;
        let max = super::convert::truncate(max);
        let Config { sparse_ratio, sparse_safe, sparse_convert, .. } = self.config;
        if sparse_ratio > 0 && max > items.saturating_mul(sparse_ratio) && max > sparse_safe {
            if !sparse_convert {
                return Err(self.cannot("table", "excessively sparse array"));
            }
            return Ok(None);
        }
        Ok(Some(max))
    }

    fn array(&mut self, table: &Table, len: i64, depth: i64) -> mlua::Result<()> {
        self.out.push(b'[');
        for index in 1..=len {
            if index > 1 {
                self.out.push(b',');
            }
            self.value(&table.raw_get::<Value>(index)?, depth)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, table: &Table, depth: i64) -> mlua::Result<()> {
        let mut pairs = Vec::new();
        table.for_each(|key: Value, value: Value| {
            pairs.push((key, value));
            Ok(())
        })?;
        if let Some((key, _)) = pairs.iter().find(|(key, _)| {
            !matches!(key, Value::String(_) | Value::Integer(_) | Value::Number(_))
        }) {
            return Err(self.cannot(type_name(key), "table key must be a number or string"));
        }
        self.out.push(b'{');
        for (index, (key, value)) in pairs.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            match key {
                Value::String(text) => self.string(&text.as_bytes()),
                key => {
                    let number = key.as_number().or_else(|| key.as_integer().map(|key| key as f64));
                    self.out.push(b'"');
                    self.number(number.unwrap_or(0.0), "number")?;
                    self.out.push(b'"');
                }
            }
            self.out.push(b':');
            self.value(value, depth)?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

// ---- decoding ------------------------------------------------------------------------------------

fn decode(lua: &Lua, shared: &Shared, config: Config, args: &MultiValue) -> mlua::Result<Value> {
    if args.len() != 1 {
        return Err(bad_argument(lua, 1, "decode", "expected 1 argument"));
    }
    let input = string_arg(lua, args, 1, "decode")?;
    let input = input.as_bytes();
    if let [first, second, ..] = input[..]
        && (first == 0 || second == 0)
    {
        return Err(error_at_caller(lua, "JSON parser does not support UTF-16 or UTF-32"));
    }
    shared.fuel.charge(input.len() as u64)?;
    let mut decoder = Decoder { lua, config, input: &input, at: 0, depth: 0 };
    let token = decoder.next();
    let value = decoder.value(token)?;
    let token = decoder.next();
    match token.kind {
        Kind::End => Ok(value),
        _ => Err(decoder.expected("the end", &token)),
    }
}

struct Token {
    kind: Kind,
    /// Where it begins.
    at: usize,
}

enum Kind {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::ObjectBegin => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::ArrayBegin => "T_ARR_BEGIN",
            Self::ArrayEnd => "T_ARR_END",
            Self::String(_) => "T_STRING",
            Self::Number(_) => "T_NUMBER",
            Self::Boolean(_) => "T_BOOLEAN",
            Self::Null => "T_NULL",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::End => "T_END",
            Self::Error(problem) => problem,
        }
    }
}

struct Decoder<'a> {
    lua: &'a Lua,
    config: Config,
    input: &'a [u8],
    at: usize,
    depth: i64,
}

impl Decoder<'_> {
    /// The byte at an offset from here; 0 behind the end, as behind a C string.
    fn peek(&self, offset: usize) -> u8 {
        self.input.get(self.at + offset).copied().unwrap_or(0)
    }

    fn expected(&self, what: &str, found: &Token) -> mlua::Error {
        let text = format!(
            "Expected {what} but found {} at character {}",
            found.kind.name(),
            found.at + 1
        );
        error_at_caller(self.lua, text)
    }

    fn next(&mut self) -> Token {
        while matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        let at = self.at;
        let kind = match self.peek(0) {
            0 => return Token { kind: Kind::End, at },
            b'{' => Kind::ObjectBegin,
            b'}' => Kind::ObjectEnd,
            b'[' => Kind::ArrayBegin,
            b']' => Kind::ArrayEnd,
            b',' => Kind::Comma,
            b':' => Kind::Colon,
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => {
                if !self.config.decode_invalid_numbers && self.is_invalid_number() {
                    return Token { kind: Kind::Error("invalid number"), at };
                }
                return self.number();
            }
            _ if self.input[at..].starts_with(b"true") => {
                self.at += 4;
                return Token { kind: Kind::Boolean(true), at };
            }
            _ if self.input[at..].starts_with(b"false") => {
                self.at += 5;
                return Token { kind: Kind::Boolean(false), at };
            }
            _ if self.input[at..].starts_with(b"null") => {
                self.at += 4;
                return Token { kind: Kind::Null, at };
            }
            b'+' | b'i' | b'I' | b'n' | b'N'
                if self.config.decode_invalid_numbers && self.is_invalid_number() =>
            {
                return self.number();
            }
            _ => return Token { kind: Kind::Error("invalid token"), at },
        };
        self.at += 1;
        Token { kind, at }
    }

    /// What strtod reads and JSON does not know.
    fn is_invalid_number(&self) -> bool {
        if self.peek(0) == b'+' {
            return true;
        }
        let start = self.at + usize::from(self.peek(0) == b'-');
        let rest = &self.input[start..];
        match rest.first() {
            Some(b'0') => {
                matches!(rest.get(1), Some(b'x' | b'X' | b'0'..=b'9'))
            }
            Some(byte) if *byte <= b'9' => false,
            _ => rest
                .get(..3)
                .is_some_and(|s| s.eq_ignore_ascii_case(b"inf") || s.eq_ignore_ascii_case(b"nan")),
        }
    }

    fn number(&mut self) -> Token {
        let at = self.at;
        match number::parse_prefix(&self.input[at..]) {
            Some((number, len)) => {
                self.at += len;
                Token { kind: Kind::Number(number), at }
            }
            None => Token { kind: Kind::Error("invalid number"), at },
        }
    }

    fn string(&mut self) -> Token {
        let at = self.at;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            match self.peek(0) {
                b'"' => break,
                0 => return Token { kind: Kind::Error("unexpected end of string"), at: self.at },
                b'\\' => match self.peek(1) {
                    b'u' => {
                        if self.unicode(&mut text).is_none() {
                            let kind = Kind::Error("invalid unicode escape code");
                            return Token { kind, at: self.at };
                        }
                        continue;
                    }
                    escape => {
                        let byte = match escape {
                            b'"' | b'\\' | b'/' => escape,
                            b'b' => 0x08,
                            b'f' => 0x0c,
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            _ => {
                                let kind = Kind::Error("invalid escape code");
                                return Token { kind, at: self.at };
                            }
                        };
                        text.push(byte);
                        self.at += 2;
                    }
                },
                byte => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        Token { kind: Kind::String(text), at }
    }

    /// `\uXXXX`, or two of them for a character beyond 16 bits.
    fn unicode(&mut self, text: &mut Vec<u8>) -> Option<()> {
        let high = self.hex4(2)?;
        let (code, len) = if high & 0xf800 == 0xd800 {
            let pair = high & 0x400 == 0 && self.peek(6) == b'\\' && self.peek(7) == b'u';
            let low = self.hex4(8).filter(|low| pair && low & 0xfc00 == 0xdc00)?;
            (((high & 0x3ff) << 10 | low & 0x3ff) + 0x1_0000, 12)
        } else {
            (high, 6)
        };
        let mut buffer = [0; 4];
        text.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes());
        self.at += len;
        Some(())
    }

    fn hex4(&self, offset: usize) -> Option<u32> {
        (0..4).try_fold(0, |code, i| {
            Some(code << 4 | char::from(self.peek(offset + i)).to_digit(16)?)
        })
    }

    fn value(&mut self, token: Token) -> mlua::Result<Value> {
        Ok(match token.kind {
            Kind::String(text) => Value::String(self.lua.create_string(text)?),
            Kind::Number(number) => Value::Number(number),
            Kind::Boolean(truth) => Value::Boolean(truth),
            Kind::Null => Value::NULL,
            Kind::ObjectBegin => self.object()?,
            Kind::ArrayBegin => self.array()?,
            _ => return Err(self.expected("value", &token)),
        })
    }

    fn descend(&mut self) -> mlua::Result<()> {
        self.depth += 1;
        if self.depth <= self.config.decode_depth_max.min(DEPTH_CAP) {
            return Ok(());
        }
        let text = format!(
            "Found too many nested data structures ({}) at character {}",
            self.depth, self.at
        );
        Err(error_at_caller(self.lua, text))
    }

    fn object(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.next();
        if matches!(token.kind, Kind::ObjectEnd) {
            self.depth -= 1;
            return Ok(Value::Table(table));
        }
        loop {
            let Kind::String(key) = token.kind else {
                return Err(self.expected("object key string", &token));
            };
            let colon = self.next();
            if !matches!(colon.kind, Kind::Colon) {
                return Err(self.expected("colon", &colon));
            }
            let token_of_value = self.next();
            let value = self.value(token_of_value)?;
            table.raw_set(self.lua.create_string(key)?, value)?;
            let end = self.next();
            match end.kind {
                Kind::ObjectEnd => break,
                Kind::Comma => token = self.next(),
                _ => return Err(self.expected("comma or object end", &end)),
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn array(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.next();
        if matches!(token.kind, Kind::ArrayEnd) {
            self.depth -= 1;
            return Ok(Value::Table(table));
        }
        for index in 1.. {
            let value = self.value(token)?;
            table.raw_set(index, value)?;
            let end = self.next();
            match end.kind {
                Kind::ArrayEnd => break,
                Kind::Comma => token = self.next(),
                _ => return Err(self.expected("comma or array end", &end)),
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }
}
