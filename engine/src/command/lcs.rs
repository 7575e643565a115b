//! LCS, the longest common subsequence of two strings.

use super::string::STRING_LEN_MAX;
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::num::int_arg;
use std::ops::Range;

pub(super) const COMMANDS: &[Command] = &[Command::new("lcs", lcs)];

#[derive(Default)]
struct Options {
    len: bool,
    index: bool,
    with_match_len: bool,
    match_len_min: i64,
}

/// A run of equal bytes in both strings.
struct Match {
    a: Range<usize>,
    b: Range<usize>,
}

fn lcs(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    // Both are looked up, which may be told as misses, before either is refused.
    let (a, b) = (operand(ctx, args[1]), operand(ctx, args[2]));
    let (a, b) = (a?, b?);
    let options = Options::parse(&args[3..])?;
    if options.len && options.index {
        return Err(CommandError::Text(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    let lengths = Lengths::new(&a, &b)?;
    if options.len {
        ctx.reply.count(lengths.at(a.len(), b.len()));
    } else if options.index {
        reply_matches(ctx, &options, &lengths, &a, &b);
    } else {
        let common: Vec<u8> = lengths
            .matches(&a, &b)
            .iter()
            .rev()
            .flat_map(|found| &a[found.a.clone()])
            .copied()
            .collect();
        ctx.reply.bulk(&common);
    }
    Ok(())
}

fn operand(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Vec<u8>, CommandError> {
    let value = ctx
        .keys
        .string(key)
        .map_err(|_| CommandError::Text("ERR The specified keys must contain string values"))?;
    Ok(value.map_or_else(Vec::new, |value| value.bytes(&mut itoa::Buffer::new()).to_vec()))
}

fn reply_matches(ctx: &mut Ctx<'_>, options: &Options, lengths: &Lengths, a: &[u8], b: &[u8]) {
    let matches: Vec<Match> = lengths
        .matches(a, b)
        .into_iter()
        .filter(|found| found.a.len() as i64 >= options.match_len_min)
        .collect();
    let reply = &mut ctx.reply;
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.len());
    for Match { a, b } in &matches {
        reply.array(if options.with_match_len { 3 } else { 2 });
        for range in [a, b] {
            reply.array(2);
            reply.count(range.start);
            reply.count(range.end - 1);
        }
        if options.with_match_len {
            reply.count(a.len());
        }
    }
    reply.bulk(b"len");
    reply.count(lengths.at(a.len(), b.len()));
}

impl Options {
    fn parse(args: &[&[u8]]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if is_option(arg, "IDX") {
                options.index = true;
            } else if is_option(arg, "LEN") {
                options.len = true;
            } else if is_option(arg, "WITHMATCHLEN") {
                options.with_match_len = true;
            } else if is_option(arg, "MINMATCHLEN") {
                let len = args.next().ok_or(CommandError::Syntax)?;
                options.match_len_min = int_arg(len)?.max(0);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }
}

/// Lengths of the common subsequence of every pair of prefixes.
struct Lengths {
    table: Vec<u32>,
    width: usize,
}

impl Lengths {
    fn new(a: &[u8], b: &[u8]) -> Result<Self, CommandError> {
        let width = b.len() + 1;
        let cells = (a.len() + 1).checked_mul(width).filter(|cells| cells * 4 <= STRING_LEN_MAX);
        let Some(cells) = cells else {
            return Err(CommandError::Text(
                "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
            ));
        };
        let mut lengths = Self { table: vec![0; cells], width };
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                let len = if x == y {
                    lengths.at(i, j) + 1
                } else {
                    lengths.at(i, j + 1).max(lengths.at(i + 1, j))
                };
                lengths.table[(i + 1) * width + j + 1] = len as u32;
            }
        }
        Ok(lengths)
    }

    fn at(&self, i: usize, j: usize) -> usize {
        self.table[i * self.width + j] as usize
    }

    /// Runs of one longest common subsequence, the last first: which one, of several, is Redis's
    /// choice (`lcsCommand` walks back preferring the second string).
    fn matches(&self, a: &[u8], b: &[u8]) -> Vec<Match> {
        let mut found: Vec<Match> = Vec::new();
        let (mut i, mut j) = (a.len(), b.len());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                (i, j) = (i - 1, j - 1);
                match found.last_mut() {
                    Some(last) if last.a.start == i + 1 && last.b.start == j + 1 => {
                        (last.a.start, last.b.start) = (i, j);
                    }
                    _ => found.push(Match { a: i..i + 1, b: j..j + 1 }),
                }
            } else if self.at(i - 1, j) > self.at(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        found
    }
}
