//! Lua's patterns, after `lstrlib.c` of Lua 5.1, with every step charged to the budget: the original
//! can run for years on a short pattern without executing an instruction of Lua.

use super::vm::{Fuel, Raised};

/// Captures of a pattern.
const CAPTURES_MAX: usize = 32;
/// Nested attempts. A pattern nests one for each of its items at most.
const DEPTH_MAX: usize = 2000;
/// Steps between two charges.
const STEPS_CHARGED: u64 = 1024;
const STEPS_PER_INSTRUCTION: u64 = 4;

const ESCAPE: u8 = b'%';

/// Why a match ended without an answer.
#[derive(Debug)]
pub(super) enum Problem {
    /// Of the pattern: an error for the caller.
    Pattern(&'static str),
    Stopped(Raised),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Open,
    Position,
    Bytes(usize),
}

/// One pattern at work on one string.
pub(super) struct Matcher<'a> {
    text: &'a [u8],
    pattern: &'a [u8],
    fuel: &'a Fuel,
    steps: u64,
    depth: usize,
    captures: Vec<(usize, Length)>,
}

/// What a match captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture<'a> {
    Text(&'a [u8]),
    /// Counted from 1.
    Position(usize),
}

type Found = Result<Option<usize>, Problem>;

impl<'a> Matcher<'a> {
    /// `pattern` is without a leading `^`. It ends at its first zero byte, as a C string does.
    pub(super) fn new(text: &'a [u8], pattern: &'a [u8], fuel: &'a Fuel) -> Self {
        let end = memchr::memchr(0, pattern).unwrap_or(pattern.len());
        let pattern = &pattern[..end];
        Self { text, pattern, fuel, steps: 0, depth: 0, captures: Vec::new() }
    }

    /// The end of a match that begins at `start`.
    pub(super) fn match_at(&mut self, start: usize) -> Found {
        self.captures.clear();
        self.depth = 0;
        let found = self.run(start, 0);
        // The rest of the steps, so that many short matches are not free.
        let rest = std::mem::take(&mut self.steps);
        self.fuel.charge(1 + rest / STEPS_PER_INSTRUCTION).map_err(Problem::Stopped)?;
        found
    }

    /// The captures of the last match, which covered `start..end`: the whole if there are none.
    pub(super) fn captures(&self, start: usize, end: usize) -> Result<Vec<Capture<'a>>, Problem> {
        if self.captures.is_empty() {
            return Ok(vec![Capture::Text(&self.text[start..end])]);
        }
        (0..self.captures.len()).map(|index| self.capture(index)).collect()
    }

    pub(super) fn has_captures(&self) -> bool {
        !self.captures.is_empty()
    }

    /// Capture `%1` is number 0; without captures that is the whole match.
    pub(super) fn capture_or_whole(
        &self,
        index: usize,
        start: usize,
        end: usize,
    ) -> Result<Capture<'a>, Problem> {
        if index >= self.captures.len() {
            if index == 0 {
                return Ok(Capture::Text(&self.text[start..end]));
            }
            return Err(Problem::Pattern("invalid capture index"));
        }
        self.capture(index)
    }

    fn capture(&self, index: usize) -> Result<Capture<'a>, Problem> {
        let (start, length) = self.captures[index];
        match length {
            Length::Open => Err(Problem::Pattern("unfinished capture")),
            Length::Position => Ok(Capture::Position(start + 1)),
            Length::Bytes(len) => Ok(Capture::Text(&self.text[start..start + len])),
        }
    }

    fn step(&mut self) -> Result<(), Problem> {
        self.steps += 1;
        if self.steps >= STEPS_CHARGED {
            self.steps = 0;
            let cost = STEPS_CHARGED / STEPS_PER_INSTRUCTION;
            self.fuel.charge(cost).map_err(Problem::Stopped)?;
        }
        Ok(())
    }

    fn at(&self, p: usize) -> Option<u8> {
        self.pattern.get(p).copied()
    }

    fn run(&mut self, s: usize, p: usize) -> Found {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Problem::Pattern("pattern too complex"));
        }
        let found = self.items(s, p);
        self.depth -= 1;
        found
    }

    fn items(&mut self, mut s: usize, mut p: usize) -> Found {
        loop {
            self.step()?;
            let Some(item) = self.at(p) else { return Ok(Some(s)) };
            match (item, self.at(p + 1)) {
                (b'(', Some(b')')) => return self.open_capture(s, p + 2, Length::Position),
                (b'(', _) => return self.open_capture(s, p + 1, Length::Open),
                (b')', _) => return self.close_capture(s, p + 1),
                (ESCAPE, Some(b'b')) => match self.balanced(s, p + 2)? {
                    Some(end) => {
                        s = end;
                        p += 4;
                        continue;
                    }
                    None => return Ok(None),
                },
                (ESCAPE, Some(b'f')) => {
                    p += 2;
                    if self.at(p) != Some(b'[') {
                        return Err(Problem::Pattern("missing '[' after '%f' in pattern"));
                    }
                    let end = self.class_end(p)?;
                    let before = if s == 0 { 0 } else { self.text[s - 1] };
                    let here = self.text.get(s).copied().unwrap_or(0);
                    if self.in_set(before, p, end - 1) || !self.in_set(here, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                    continue;
                }
                (ESCAPE, Some(digit)) if digit.is_ascii_digit() => {
                    match self.back_reference(s, digit)? {
                        Some(end) => {
                            s = end;
                            p += 2;
                            continue;
                        }
                        None => return Ok(None),
                    }
                }
                (b'$', None) => return Ok((s == self.text.len()).then_some(s)),
                _ => {}
            }
            let end = self.class_end(p)?;
            let fits = self.fits(s, p, end);
            match self.at(end) {
                Some(b'?') => {
                    if fits && let Some(found) = self.run(s + 1, end + 1)? {
                        return Ok(Some(found));
                    }
                    p = end + 1;
                }
                Some(b'*') => return self.most(s, p, end),
                Some(b'+') => return if fits { self.most(s + 1, p, end) } else { Ok(None) },
                Some(b'-') => return self.least(s, p, end),
                _ if !fits => return Ok(None),
                _ => {
                    s += 1;
                    p = end;
                }
            }
        }
    }

    /// As many as fit, then fewer until the rest matches.
    fn most(&mut self, s: usize, p: usize, end: usize) -> Found {
        let mut count = 0;
        while self.fits(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.run(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    /// As few as possible.
    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Found {
        loop {
            if let Some(found) = self.run(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.fits(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open_capture(&mut self, s: usize, p: usize, length: Length) -> Found {
        if self.captures.len() >= CAPTURES_MAX {
            return Err(Problem::Pattern("too many captures"));
        }
        self.captures.push((s, length));
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures.pop();
        }
        Ok(found)
    }

    fn close_capture(&mut self, s: usize, p: usize) -> Found {
        let open = self.captures.iter().rposition(|(_, length)| *length == Length::Open);
        let index = open.ok_or(Problem::Pattern("invalid pattern capture"))?;
        self.captures[index].1 = Length::Bytes(s - self.captures[index].0);
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures[index].1 = Length::Open;
        }
        Ok(found)
    }

    fn back_reference(&mut self, s: usize, digit: u8) -> Found {
        let index = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let captured = self.captures.get(index).copied();
        let Some((start, Length::Bytes(len))) = captured else {
            // A position captures nothing that could be repeated.
            if let Some((_, Length::Position)) = captured {
                return Ok(None);
            }
            return Err(Problem::Pattern("invalid capture index"));
        };
        let same = self.text[s..].starts_with(&self.text[start..start + len]);
        Ok(same.then_some(s + len))
    }

    fn balanced(&mut self, s: usize, p: usize) -> Found {
        let (Some(open), Some(close)) = (self.at(p), self.at(p + 1)) else {
            return Err(Problem::Pattern("unbalanced pattern"));
        };
        if self.text.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.text.len() {
            self.step()?;
            let byte = self.text[at];
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// Where the single-character item at `p` ends.
    fn class_end(&self, p: usize) -> Result<usize, Problem> {
        match self.at(p) {
            Some(ESCAPE) => match self.at(p + 1) {
                Some(_) => Ok(p + 2),
                None => Err(Problem::Pattern("malformed pattern (ends with '%')")),
            },
            Some(b'[') => {
                const MISSING: Problem = Problem::Pattern("malformed pattern (missing ']')");
                let mut at = p + 1;
                if self.at(at) == Some(b'^') {
                    at += 1;
                }
                // The first character may be the bracket itself.
                loop {
                    let byte = self.at(at).ok_or(MISSING)?;
                    at += 1;
                    if byte == ESCAPE {
                        self.at(at).ok_or(MISSING)?;
                        at += 1;
                    }
                    if self.at(at) == Some(b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    fn fits(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.text.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => is_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }

    /// The set stands from its bracket at `p` to its bracket at `end`.
    fn in_set(&self, byte: u8, p: usize, end: usize) -> bool {
        let set = &self.pattern[p + 1..end];
        let (wanted, mut set) = match set.split_first() {
            Some((b'^', rest)) => (false, rest),
            _ => (true, set),
        };
        loop {
            set = match set {
                [] => return !wanted,
                [ESCAPE, class, rest @ ..] => {
                    if is_class(byte, *class) {
                        return wanted;
                    }
                    rest
                }
                [low, b'-', high, rest @ ..] => {
                    if (*low..=*high).contains(&byte) {
                        return wanted;
                    }
                    rest
                }
                [literal, rest @ ..] => {
                    if *literal == byte {
                        return wanted;
                    }
                    rest
                }
            };
        }
    }
}

fn is_class(byte: u8, class: u8) -> bool {
    let inside = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    inside != class.is_ascii_uppercase()
}
