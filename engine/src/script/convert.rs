//! Replies into Lua values and back, as Redis converts them (`script_lua.c`).

use holdfast_proto::resp::encode;
use mlua::{Lua, Table, Value};

/// Deepest nesting of a result, below what readers of replies accept
/// ([`NESTING_MAX`](holdfast_proto::resp::reply::NESTING_MAX)); Redis has a bound too, farther away.
const DEPTH_MAX: usize = 120;
/// Largest result, bytes: shared tables can make a small value large.
const RESULT_MAX: usize = 64 * 1024 * 1024;

/// The Lua value of one reply in RESP, which comes from a command of ours and is well formed.
pub(super) fn to_lua(lua: &Lua, reply: &[u8]) -> mlua::Result<Value> {
    Parser { rest: reply }.value(lua)
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn line(&mut self) -> &'a [u8] {
        let end = memchr::memchr(b'\r', self.rest).unwrap_or(self.rest.len());
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 2..).unwrap_or_default();
        line
    }

    /// `-1` for null.
    fn number(&mut self) -> i64 {
        crate::num::parse_i64(self.line()).unwrap_or(-1)
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, b""));
        self.rest = rest.get(2..).unwrap_or_default();
        bytes
    }

    fn value(&mut self, lua: &Lua) -> mlua::Result<Value> {
        let Some((kind, rest)) = self.rest.split_first() else { return Ok(Value::Nil) };
        self.rest = rest;
        Ok(match kind {
            b':' => Value::Number(self.number() as f64),
            b'$' => match usize::try_from(self.number()) {
                Ok(len) => Value::String(lua.create_string(self.bytes(len))?),
                Err(_) => Value::Boolean(false),
            },
            b'+' => self.single(lua, "ok")?,
            b'-' => error_table(lua, self.line())?,
            b'*' => match usize::try_from(self.number()) {
                Ok(len) => {
                    let table = lua.create_table_with_capacity(len.min(1 << 16), 0)?;
                    for index in 1..=len {
                        table.raw_set(index, self.value(lua)?)?;
                    }
                    Value::Table(table)
                }
                Err(_) => Value::Boolean(false),
            },
            b'%' => {
                let content = lua.create_table()?;
                for _ in 0..self.number().max(0) {
                    let key = self.value(lua)?;
                    content.raw_set(key, self.value(lua)?)?;
                }
                wrapped(lua, "map", Value::Table(content))?
            }
            b'~' => {
                let content = lua.create_table()?;
                for _ in 0..self.number().max(0) {
                    content.raw_set(self.value(lua)?, true)?;
                }
                wrapped(lua, "set", Value::Table(content))?
            }
            b'_' => {
                self.line();
                Value::Nil
            }
            b'#' => Value::Boolean(self.line() == b"t"),
            b',' => {
                let number = std::str::from_utf8(self.line()).ok();
                let number = number.and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
                wrapped(lua, "double", Value::Number(number))?
            }
            b'(' => self.single(lua, "big_number")?,
            b'=' => {
                let len = usize::try_from(self.number()).unwrap_or(0);
                let bytes = self.bytes(len);
                let (format, text) = bytes.split_at_checked(4).unwrap_or((b"txt:", bytes));
                let content = lua.create_table()?;
                content.raw_set("string", lua.create_string(text)?)?;
                content.raw_set("format", lua.create_string(&format[..3])?)?;
                wrapped(lua, "verbatim_string", Value::Table(content))?
            }
            _ => Value::Nil,
        })
    }

    fn single(&mut self, lua: &Lua, field: &str) -> mlua::Result<Value> {
        wrapped(lua, field, Value::String(lua.create_string(self.line())?))
    }
}

fn wrapped(lua: &Lua, field: &str, value: Value) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(field, value)?;
    Ok(Value::Table(table))
}

/// What redis.pcall returns for an error reply.
pub(super) fn error_table(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    wrapped(lua, "err", Value::String(lua.create_string(text)?))
}

/// Where a result goes.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    /// The client's protocol.
    pub(super) resp3: bool,
    /// What the script asked for with redis.setresp: booleans are booleans.
    pub(super) script_resp3: bool,
    /// The result is larger than may be; it is not complete.
    pub(super) overflow: bool,
}

impl Writer<'_> {
    /// Appends the reply of a script that returned `value`.
    pub(super) fn value(&mut self, value: &Value, depth: usize) {
        self.overflow |= self.out.len() > RESULT_MAX;
        if self.overflow {
            return;
        }
        match value {
            Value::String(text) => encode::bulk(self.out, &text.as_bytes()),
            Value::Boolean(truth) if self.script_resp3 => {
                encode::boolean(self.out, *truth, self.resp3);
            }
            Value::Boolean(true) => encode::integer(self.out, 1),
            Value::Integer(number) => encode::integer(self.out, *number),
            Value::Number(number) => encode::integer(self.out, truncate(*number)),
            Value::Table(_) if depth >= DEPTH_MAX => {
                encode::error(self.out, "ERR reached lua stack limit");
            }
            Value::Table(table) => self.table(table, depth + 1),
            _ => encode::null(self.out, self.resp3),
        }
    }

    fn table(&mut self, table: &Table, depth: usize) {
        let field = |name: &str| table.raw_get::<Value>(name).unwrap_or(Value::Nil);
        if let Value::String(text) = field("err") {
            return error(self.out, &text.as_bytes());
        }
        if let Value::String(text) = field("ok") {
            self.out.push(b'+');
            self.out.extend(text.as_bytes().iter().map(|byte| match byte {
                b'\r' | b'\n' => b' ',
                byte => *byte,
            }));
            return self.out.extend_from_slice(b"\r\n");
        }
        match field("double") {
            Value::Number(number) => return encode::double(self.out, number, self.resp3),
            Value::Integer(number) => return encode::double(self.out, number as f64, self.resp3),
            _ => {}
        }
        if let Value::Table(content) = field("map") {
            return self.pairs(&content, depth, true);
        }
        if let Value::Table(content) = field("set") {
            return self.pairs(&content, depth, false);
        }
        if let Value::String(digits) = field("big_number") {
            let digits: Vec<u8> = digits
                .as_bytes()
                .iter()
                .map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte })
                .collect();
            return encode::big_number(self.out, &digits, self.resp3);
        }
        if let Value::Table(content) = field("verbatim_string") {
            let format = content.raw_get::<Value>("format");
            let text = content.raw_get::<Value>("string");
            if let (Ok(Value::String(format)), Ok(Value::String(text))) = (format, text) {
                let format = <[u8; 3]>::try_from(&*format.as_bytes()).unwrap_or(*b"txt");
                return encode::verbatim(self.out, &format, &text.as_bytes(), self.resp3);
            }
        }
        self.sequence(table, depth);
    }

    /// Elements up to the first nil. Their number comes first, so the header is put in afterwards.
    fn sequence(&mut self, table: &Table, depth: usize) {
        let start = self.out.len();
        let mut count = 0;
        loop {
            let index = count + 1;
            match table.raw_get::<Value>(index) {
                Ok(Value::Nil) | Err(_) => break,
                Ok(_) if self.overflow => break,
                Ok(element) => self.value(&element, depth),
            }
            count += 1;
        }
        let end = self.out.len();
        encode::array(self.out, count);
        let header = self.out.len() - end;
        self.out[start..].rotate_right(header);
    }

    fn pairs(&mut self, content: &Table, depth: usize, map: bool) {
        let start = self.out.len();
        let mut count = 0;
        // The closure never fails.
        let _ = content.for_each(|key: Value, value: Value| {
            self.value(&key, depth);
            if map {
                self.value(&value, depth);
            }
            count += 1;
            Ok(())
        });
        let end = self.out.len();
        if map {
            encode::map(self.out, count, self.resp3);
        } else {
            encode::set(self.out, count, self.resp3);
        }
        let header = self.out.len() - end;
        self.out[start..].rotate_right(header);
    }
}

/// An error reply of any bytes.
pub(super) fn error(out: &mut Vec<u8>, text: &[u8]) {
    let end = text.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
    out.push(b'-');
    out.extend(text[..end].iter().map(|byte| match byte {
        b'\r' | b'\n' => b' ',
        byte => *byte,
    }));
    out.extend_from_slice(b"\r\n");
}

/// A double as C's cast to a 64-bit integer gives it on x86: what does not fit is the smallest.
pub(super) fn truncate(number: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&number) { number as i64 } else { i64::MIN }
}
