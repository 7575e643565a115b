//! Inline commands: a line of text with quoting, for people with telnet.

/// Splits a line into arguments by the rules of Redis's `sdssplitargs`: blanks separate; inside
/// double quotes `\n \r \t \b \a \xHH` and `\` before any other character are escapes; inside single
/// quotes only `\'` is; a closing quote must be followed by a blank or the end. A NUL ends the line.
/// `None` when quotes are unbalanced.
pub fn split_args(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let line = &line[..memchr::memchr(0, line).unwrap_or(line.len())];
    let mut args = Vec::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|&c| is_space(c)) {
            at += 1;
        }
        if at == line.len() {
            return Some(args);
        }
        let (arg, next) = split_one(line, at)?;
        args.push(arg);
        at = next;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

/// One argument that starts at `at`, and where the text after it starts.
fn split_one(line: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut arg = Vec::new();
    let mut quote = Quote::None;
    loop {
        let Some(&c) = line.get(at) else {
            return (quote == Quote::None).then_some((arg, at));
        };
        match (quote, c) {
            (Quote::None, b' ' | b'\n' | b'\r' | b'\t') => return Some((arg, at)),
            (Quote::None, b'"') => quote = Quote::Double,
            (Quote::None, b'\'') => quote = Quote::Single,
            (Quote::Double, b'\\') if at + 1 < line.len() => {
                let (byte, len) = unescape(&line[at + 1..]);
                arg.push(byte);
                at += len;
            }
            (Quote::Single, b'\\') if line.get(at + 1) == Some(&b'\'') => {
                arg.push(b'\'');
                at += 1;
            }
            (Quote::Double, b'"') | (Quote::Single, b'\'') => {
                return match line.get(at + 1) {
                    Some(&next) if !is_space(next) => None,
                    _ => Some((arg, at + 1)),
                };
            }
            _ => arg.push(c),
        }
        at += 1;
    }
}

/// The byte that the escape after a backslash stands for, and how many characters it took.
fn unescape(rest: &[u8]) -> (u8, usize) {
    if let [b'x', high, low, ..] = rest
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return (high << 4 | low, 3);
    }
    let byte = match rest[0] {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    };
    (byte, 1)
}

fn hex(c: u8) -> Option<u8> {
    (c as char).to_digit(16).map(|digit| digit as u8)
}

/// C's `isspace`, which knows the vertical tab as well.
fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::split_args;

    fn split(line: &str) -> Option<Vec<String>> {
        let bytes = |arg: Vec<u8>| arg.into_iter().map(char::from).collect();
        split_args(line.as_bytes()).map(|args| args.into_iter().map(bytes).collect())
    }

    #[test]
    fn quoting_follows_redis() {
        for (line, args) in [
            ("", &[][..]),
            ("  \t ", &[]),
            ("PING", &["PING"]),
            (" set  key value ", &["set", "key", "value"]),
            (r#"set "a b" 'c d'"#, &["set", "a b", "c d"]),
            (r#""\x41\n\r\t\b\a\q\"""#, &["A\n\r\t\u{8}\u{7}q\""]),
            (r#""\xzz""#, &["xzz"]),
            (r#"'it\'s \n'"#, &["it's \\n"]),
            (r#"foo"bar" x"#, &["foobar", "x"]),
            (r#""" ''"#, &["", ""]),
            ("a\0 b", &["a"]),
        ] {
            assert_eq!(split(line).unwrap(), args, "{line:?}");
        }
        for line in [r#"""#, "'", r#""a"b"#, "'a'b", r#""\"#, r#""\""#, r#"a "b"#] {
            assert_eq!(split(line), None, "{line:?}");
        }
    }
}
