//! BITFIELD and BITFIELD_RO: integers of 1 to 64 bits at any bit of a string.

use super::bitmap::{bit_offset, bits_to_change};
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::{int_arg, parse_i64};
use holdfast_proto::events::EventClasses;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("bitfield", |ctx, args| bitfield(ctx, args, false)),
    Command::new("bitfield_ro", |ctx, args| bitfield(ctx, args, true)),
];

/// `u8`, `i16` and the like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FieldType {
    signed: bool,
    /// 1 to 64; unsigned ones at most 63, so that every value fits the reply.
    bits: u32,
}

/// What to do with a value that does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64),
    IncrementBy(i64),
}

struct Operation {
    field: FieldType,
    offset: usize,
    action: Action,
    overflow: Overflow,
}

impl Operation {
    fn last_bit(&self) -> usize {
        self.offset + self.field.bits as usize - 1
    }
}

fn bitfield(ctx: &mut Ctx<'_>, args: &[&[u8]], read_only: bool) -> CommandResult {
    let operations = parse(&args[2..])?;
    let last_written = operations
        .iter()
        .filter(|operation| !matches!(operation.action, Action::Get))
        .map(Operation::last_bit)
        .max();
    match last_written {
        None => read(ctx, args[1], &operations),
        Some(_) if read_only => {
            Err(CommandError::Text("ERR BITFIELD_RO only supports the GET subcommand"))
        }
        Some(last) => write(ctx, args[1], &operations, last),
    }
}

fn parse(mut args: &[&[u8]]) -> Result<Vec<Operation>, CommandError> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    while let Some((&name, rest)) = args.split_first() {
        let arguments = match name {
            name if is_option(name, "GET") => 2,
            name if is_option(name, "SET") || is_option(name, "INCRBY") => 3,
            name if is_option(name, "OVERFLOW") => 1,
            _ => return Err(CommandError::Syntax),
        };
        let Some((given, after)) = rest.split_at_checked(arguments) else {
            return Err(CommandError::Syntax);
        };
        args = after;
        if arguments == 1 {
            overflow = match given[0] {
                mode if is_option(mode, "WRAP") => Overflow::Wrap,
                mode if is_option(mode, "SAT") => Overflow::Saturate,
                mode if is_option(mode, "FAIL") => Overflow::Fail,
                _ => return Err(CommandError::Text("ERR Invalid OVERFLOW type specified")),
            };
            continue;
        }
        let field = FieldType::parse(given[0])?;
        let offset = field_offset(given[1], field)?;
        let action = match given.get(2) {
            None => Action::Get,
            Some(value) if is_option(name, "SET") => Action::Set(int_arg(value)?),
            Some(value) => Action::IncrementBy(int_arg(value)?),
        };
        operations.push(Operation { field, offset, action, overflow });
    }
    Ok(operations)
}

/// The offset of a field's first bit: `#3` is the fourth field of this size.
fn field_offset(text: &[u8], field: FieldType) -> Result<usize, CommandError> {
    bit_offset(match text {
        // Redis multiplies without looking at the size.
        [b'#', index @ ..] => {
            parse_i64(index).map(|index| index.wrapping_mul(i64::from(field.bits)))
        }
        _ => parse_i64(text),
    })
}

fn read(ctx: &mut Ctx<'_>, key: &[u8], operations: &[Operation]) -> CommandResult {
    let mut buffer = itoa::Buffer::new();
    let bytes = match ctx.keys.string(key)? {
        Some(value) => value.bytes(&mut buffer),
        None => b"",
    };
    ctx.reply.array(operations.len());
    for Operation { field, offset, .. } in operations {
        ctx.reply.int(field.get(bytes, *offset));
    }
    Ok(())
}

fn write(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    operations: &[Operation],
    last_written: usize,
) -> CommandResult {
    let (bytes, grown) = bits_to_change(ctx, key, last_written)?;
    let mut changed = false;
    let mut results = Vec::with_capacity(operations.len());
    for &Operation { field, offset, action, overflow } in operations {
        let old = field.get(bytes, offset);
        let (wanted, replies_old) = match action {
            Action::Get => {
                results.push(Some(old));
                continue;
            }
            // An unsigned field takes a negative number for a huge one.
            Action::Set(value) if !field.signed => (i128::from(value as u64), true),
            Action::Set(value) => (field.signed_value(value), true),
            Action::IncrementBy(by) => (i128::from(old) + i128::from(by), false),
        };
        let new = field.fit(wanted, overflow);
        if let Some(new) = new {
            field.set(bytes, offset, new);
            changed |= grown || new != old;
        }
        results.push(new.map(|new| if replies_old { old } else { new }));
    }
    if changed {
        ctx.keys.changed_by(key, EventClasses::STRING, "setbit");
    } else if grown {
        // Every write was refused. Redis has made room all the same, and tells nobody; but who
        // watches or caches the key has another value than there is now.
        ctx.keys.modified_quietly(key);
    }
    ctx.reply.array(results.len());
    for result in results {
        match result {
            Some(value) => ctx.reply.int(value),
            None => ctx.reply.null(),
        }
    }
    Ok(())
}

impl FieldType {
    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let parsed = match text {
            [b'i', bits @ ..] => parse_i64(bits).map(|bits| (true, bits, 64)),
            [b'u', bits @ ..] => parse_i64(bits).map(|bits| (false, bits, 63)),
            _ => None,
        };
        match parsed {
            Some((signed, bits, most)) if (1..=most).contains(&bits) => {
                Ok(Self { signed, bits: bits as u32 })
            }
            _ => Err(CommandError::Text(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not \
                 supported but i64 is.",
            )),
        }
    }

    /// The value at a bit of a string that goes on with zeros.
    fn get(self, bytes: &[u8], offset: usize) -> i64 {
        // At most 64 bits that begin inside the first byte: 9 bytes hold them.
        let mut window = [0; 16];
        if let Some(rest) = bytes.get(offset / 8..) {
            let len = rest.len().min(9);
            window[..len].copy_from_slice(&rest[..len]);
        }
        let window = u128::from_be_bytes(window) << (offset % 8);
        if self.signed {
            ((window as i128) >> (128 - self.bits)) as i64
        } else {
            (window >> (128 - self.bits)) as i64
        }
    }

    /// Writes the lowest bits of a value; the string is long enough.
    fn set(self, bytes: &mut [u8], offset: usize, value: i64) {
        let (at, shift) = (offset / 8, 128 - self.bits - (offset % 8) as u32);
        let mask = (u128::MAX >> (128 - self.bits)) << shift;
        let value = ((value as u128) << shift) & mask;
        let len = (bytes.len() - at).min(9);
        let mut window = [0; 16];
        window[..len].copy_from_slice(&bytes[at..at + len]);
        let window = (u128::from_be_bytes(window) & !mask) | value;
        bytes[at..at + len].copy_from_slice(&window.to_be_bytes()[..len]);
    }

    /// The value that SET gives to a signed field. Redis takes numbers that are too far below the
    /// field's range for numbers above it: how far they are is no 64-bit number.
    fn signed_value(self, value: i64) -> i128 {
        let max = (1i128 << (self.bits - 1)) - 1;
        let value = i128::from(value);
        let too_far = self.bits < 64 && max - value > i128::from(i64::MAX);
        if too_far { value + (1 << 64) } else { value }
    }

    /// The value as the field can hold it; `None` if it cannot and must not be made to.
    fn fit(self, value: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = if self.signed {
            (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1)
        } else {
            (0, (1i128 << self.bits) - 1)
        };
        let fitting = match overflow {
            _ if (min..=max).contains(&value) => value,
            Overflow::Fail => return None,
            Overflow::Saturate => value.clamp(min, max),
            Overflow::Wrap => (value - min).rem_euclid(1i128 << self.bits) + min,
        };
        Some(fitting as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_written_bit_by_bit() {
        let mut state = 3u64;
        let mut bytes = vec![0u8; 40];
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bits = 1 + (state >> 20) as u32 % 64;
            let offset = (state >> 30) as usize % (320 - bits as usize + 1);
            let field = FieldType { signed: true, bits };
            let value = state as i64;
            field.set(&mut bytes, offset, value);
            let read = (offset..offset + bits as usize)
                .fold(0u64, |read, at| read << 1 | u64::from(bytes[at / 8] >> (7 - at % 8) & 1));
            assert_eq!(read, value as u64 & (u64::MAX >> (64 - bits)));
            let shift = 64 - bits;
            assert_eq!(field.get(&bytes, offset), value << shift >> shift);
            let unsigned = FieldType { signed: false, bits };
            assert_eq!(unsigned.get(&bytes, offset) as u64, read);
        }
    }

    #[test]
    fn values_that_do_not_fit() {
        let (i8, u8) = (FieldType { signed: true, bits: 8 }, FieldType { signed: false, bits: 8 });
        for (field, value, wrapped, saturated) in [
            (i8, 128, -128, 127),
            (i8, -129, 127, -128),
            (i8, 1000, -24, 127),
            (u8, 256, 0, 255),
            (u8, -1, 255, 0),
            (u8, i128::from(u64::MAX), 255, 255),
        ] {
            assert_eq!(field.fit(value, Overflow::Wrap), Some(wrapped));
            assert_eq!(field.fit(value, Overflow::Saturate), Some(saturated));
            assert_eq!(field.fit(value, Overflow::Fail), None);
        }
        // Replies of a stock Redis 7.0.
        for (value, saturated) in [(i64::MIN, 127), (i64::MIN + 128, -128), (i64::MAX, 127)] {
            assert_eq!(i8.fit(i8.signed_value(value), Overflow::Saturate), Some(saturated));
        }
    }
}
