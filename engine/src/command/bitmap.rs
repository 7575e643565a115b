//! Strings as arrays of bits: SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP. Integers inside them are in
//! `bitfield`.
//!
//! Bit 0 is the most significant bit of the first byte. Beyond its end a string is all zeros.

use super::string::STRING_LEN_MAX;
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::keyspace::NewExpiry;
use crate::num::{int_arg, parse_i64};
use crate::value::ValueRef;
use holdfast_proto::events::EventClasses;
use std::ops::RangeInclusive;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("bitcount", bitcount),
    Command::new("bitop", bitop),
    Command::new("bitpos", bitpos),
    Command::new("getbit", getbit),
    Command::new("setbit", setbit),
];

/// The offset of a bit, below the number of bits of the longest string.
pub(super) fn bit_offset(offset: Option<i64>) -> Result<usize, CommandError> {
    offset
        .and_then(|offset| usize::try_from(offset).ok())
        .filter(|offset| offset / 8 < STRING_LEN_MAX)
        .ok_or(CommandError::Text("ERR bit offset is not an integer or out of range"))
}

// ---- single bits ---------------------------------------------------------------------------------

fn setbit(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let offset = bit_offset(parse_i64(args[2]))?;
    let on = match parse_i64(args[3]) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(CommandError::Text("ERR bit is not an integer or out of range")),
    };
    let (bytes, grown) = bits_to_change(ctx, args[1], offset)?;
    let mask = 0x80 >> (offset % 8);
    let byte = &mut bytes[offset / 8];
    let was_on = *byte & mask != 0;
    *byte = if on { *byte | mask } else { *byte & !mask };
    if grown || was_on != on {
        ctx.keys.changed_by(args[1], EventClasses::STRING, "setbit");
    }
    ctx.reply.flag(was_on);
    Ok(())
}

/// The string to change, long enough to have bit `last`; whether it was not before.
pub(super) fn bits_to_change<'a>(
    ctx: &'a mut Ctx<'_>,
    key: &[u8],
    last: usize,
) -> Result<(&'a mut Vec<u8>, bool), CommandError> {
    let bytes = ctx.keys.string_mut(key)?;
    let grown = bytes.len() <= last / 8;
    if grown {
        bytes.resize(last / 8 + 1, 0);
    }
    Ok((bytes, grown))
}

fn getbit(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let offset = bit_offset(parse_i64(args[2]))?;
    let mut buffer = itoa::Buffer::new();
    let value = ctx.keys.string(args[1])?;
    let byte = value.and_then(|value| value.bytes(&mut buffer).get(offset / 8).copied());
    ctx.reply.flag(byte.unwrap_or(0) & (0x80 >> (offset % 8)) != 0);
    Ok(())
}

// ---- ranges --------------------------------------------------------------------------------------

/// `start [end [BYTE | BIT]]` of BITCOUNT and BITPOS.
struct BitRange {
    start: i64,
    end: Option<i64>,
    in_bits: bool,
}

impl BitRange {
    /// As 7.2 reads it: before the key is looked at.
    fn parse(args: &[&[u8]]) -> Result<Option<Self>, CommandError> {
        let (start, end, unit) = match *args {
            [] => return Ok(None),
            [start] => (start, None, None),
            [start, end] => (start, Some(end), None),
            [start, end, unit] => (start, Some(end), Some(unit)),
            _ => return Err(CommandError::Syntax),
        };
        let start = int_arg(start)?;
        let end = end.map(int_arg).transpose()?;
        let in_bits = match unit {
            Some(unit) if is_option(unit, "BIT") => true,
            Some(unit) if !is_option(unit, "BYTE") => return Err(CommandError::Syntax),
            _ => false,
        };
        Ok(Some(Self { start, end, in_bits }))
    }

    /// The bits of a string of `len` bytes that the range names, if there are any.
    fn bits(&self, len: usize) -> Option<RangeInclusive<usize>> {
        let total = if self.in_bits { len as i64 * 8 } else { len as i64 };
        let absolute = |at: i64| if at < 0 { at.saturating_add(total).max(0) } else { at };
        let start = absolute(self.start);
        let end = absolute(self.end.unwrap_or(-1)).min(total - 1);
        if start > end {
            return None;
        }
        let (start, end) = (start as usize, end as usize);
        Some(if self.in_bits { start..=end } else { start * 8..=end * 8 + 7 })
    }
}

fn bitcount(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    if args.len() == 3 {
        return Err(CommandError::Syntax);
    }
    let range = BitRange::parse(&args[2..])?;
    let mut buffer = itoa::Buffer::new();
    let bytes = match ctx.keys.string(args[1])? {
        Some(value) => value.bytes(&mut buffer),
        None => b"",
    };
    let count = match range {
        None => count_ones(bytes),
        // Two ends before the first bit, the wrong way round: clamped they would name it.
        Some(BitRange { start, end: Some(end), .. }) if start < 0 && end < 0 && start > end => 0,
        Some(range) => range.bits(bytes.len()).map_or(0, |bits| count_ones_in(bytes, bits)),
    };
    ctx.reply.count(count);
    Ok(())
}

fn count_ones(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let in_words: u64 =
        words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
    in_words as usize + rest.iter().map(|byte| byte.count_ones() as usize).sum::<usize>()
}

fn count_ones_in(bytes: &[u8], bits: RangeInclusive<usize>) -> usize {
    let (start, end) = (*bits.start(), *bits.end());
    let whole = count_ones(&bytes[start / 8..=end / 8]);
    let before = bytes[start / 8] & !(0xff >> (start % 8));
    let after = bytes[end / 8] & (0x7f >> (end % 8));
    whole - (before.count_ones() + after.count_ones()) as usize
}

fn bitpos(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let bit = match int_arg(args[2])? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::Text("ERR The bit argument must be 1 or 0.")),
    };
    let range = BitRange::parse(&args[3..])?;
    let mut buffer = itoa::Buffer::new();
    let Some(value) = ctx.keys.string(args[1])? else {
        ctx.reply.int(if bit { -1 } else { 0 });
        return Ok(());
    };
    let bytes = value.bytes(&mut buffer);
    let range = range.unwrap_or(BitRange { start: 0, end: None, in_bits: false });
    let position = range.bits(bytes.len()).and_then(|bits| {
        let end = *bits.end();
        // Without a given end the string goes on with zeros.
        let after = (!bit && range.end.is_none()).then_some(end + 1);
        find_bit(bytes, bits, bit).or(after)
    });
    ctx.reply.int(position.map_or(-1, |position| position as i64));
    Ok(())
}

/// The first bit of the range that is on (or off).
fn find_bit(bytes: &[u8], bits: RangeInclusive<usize>, on: bool) -> Option<usize> {
    let (start, end) = (*bits.start(), *bits.end());
    let flip = if on { 0 } else { 0xff };
    let first = (bytes[start / 8] ^ flip) & (0xff >> (start % 8));
    let position = if first != 0 {
        start / 8 * 8 + first.leading_zeros() as usize
    } else {
        let skipped = start / 8 + 1;
        let rest = bytes.get(skipped..=end / 8)?;
        let at = find_byte_other_than(rest, flip)?;
        (skipped + at) * 8 + (rest[at] ^ flip).leading_zeros() as usize
    };
    (position <= end).then_some(position)
}

/// The first byte that is not `byte`.
fn find_byte_other_than(bytes: &[u8], byte: u8) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    let same = [byte; 8];
    let at = words.iter().position(|word| *word != same);
    match at {
        Some(at) => words[at].iter().position(|&b| b != byte).map(|b| at * 8 + b),
        None => rest.iter().position(|&b| b != byte).map(|b| words.len() * 8 + b),
    }
}

// ---- several strings -----------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

impl Operation {
    fn parse(name: &[u8]) -> Option<Self> {
        [("AND", Self::And), ("OR", Self::Or), ("XOR", Self::Xor), ("NOT", Self::Not)]
            .into_iter()
            .find_map(|(option, operation)| is_option(name, option).then_some(operation))
    }
}

fn bitop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let operation = Operation::parse(args[1]).ok_or(CommandError::Syntax)?;
    let (destination, sources) = (args[2], &args[3..]);
    if operation == Operation::Not && sources.len() != 1 {
        return Err(CommandError::Text("ERR BITOP NOT must be called with a single source key."));
    }
    let mut len = 0;
    for key in sources {
        len = len.max(ctx.keys.string(key)?.map_or(0, |value| value.len()));
    }
    let mut result = Vec::with_capacity(len);
    for (nth, key) in sources.iter().enumerate() {
        let mut buffer = itoa::Buffer::new();
        // Looked up a second time, but counted once.
        let source = match ctx.keys.peek(key) {
            Some(ValueRef::Int(value)) => buffer.format(value).as_bytes(),
            Some(ValueRef::Str(bytes)) => bytes,
            _ => b"",
        };
        match operation {
            Operation::Not => result.extend(source.iter().map(|byte| !byte)),
            _ if nth == 0 => {
                result.extend_from_slice(source);
                result.resize(len, 0);
            }
            Operation::And => {
                let (common, beyond) = result.split_at_mut(source.len());
                common.iter_mut().zip(source).for_each(|(byte, other)| *byte &= other);
                beyond.fill(0);
            }
            Operation::Or => result.iter_mut().zip(source).for_each(|(byte, other)| *byte |= other),
            Operation::Xor => {
                result.iter_mut().zip(source).for_each(|(byte, other)| *byte ^= other);
            }
        }
    }
    if result.is_empty() {
        ctx.keys.delete(destination);
    } else {
        ctx.keys.insert_string(destination, &result, NewExpiry::Never);
        ctx.keys.notify(EventClasses::STRING, "set", destination);
    }
    ctx.reply.count(len);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_bits_are_searched_as_bit_by_bit() {
        let mut state = 7u32;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let len = 1 + (state >> 8) as usize % 20;
            let fill = [0, 0xff, 0x10, 0xef][(state >> 28) as usize % 4];
            let mut bytes = vec![fill; len];
            bytes[(state >> 13) as usize % len] ^= 1 << (state % 8);
            let start = (state >> 16) as usize % (len * 8);
            let end = start + (state >> 5) as usize % (len * 8 - start);
            let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
            let ones = (start..=end).filter(|&at| bit(at)).count();
            assert_eq!(count_ones_in(&bytes, start..=end), ones, "{bytes:x?} {start} {end}");
            for on in [false, true] {
                let first = (start..=end).find(|&at| bit(at) == on);
                assert_eq!(find_bit(&bytes, start..=end, on), first, "{bytes:x?} {start} {end}");
            }
        }
    }
}
