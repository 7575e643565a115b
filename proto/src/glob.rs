//! Glob patterns of KEYS, SCAN and PSUBSCRIBE, as Redis's `stringmatchlen` reads them.

/// Whether `text` matches: `*`, `?`, `[abc]`, `[^a]`, `[a-z]` and `\` to quote.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on when a mismatch lets the last star take one more byte. Only the last star ever
    // needs to be reconsidered, so the time is bounded by the product of the lengths.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match pattern.split_first() {
            Some((b'*', rest)) => {
                retry = Some((rest, text));
                pattern = rest;
                continue;
            }
            None if text.is_empty() => return true,
            None => None,
            Some(_) if text.is_empty() => None,
            Some(_) => match_one(pattern, text[0]),
        };
        if let Some(rest) = step {
            (pattern, text) = (rest, &text[1..]);
            continue;
        }
        let Some((after_star, from)) = retry else { return false };
        let Some((_, from)) = from.split_first() else { return false };
        retry = Some((after_star, from));
        (pattern, text) = (after_star, from);
    }
}

/// Matches one byte with the first element of the pattern; the rest of the pattern if it fits.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match_class(rest, byte),
        [b'\\', quoted, rest @ ..] => (*quoted == byte).then_some(rest),
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

/// A class after its `[`. An unclosed class ends with the pattern.
fn match_class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut found = false;
    loop {
        match rest {
            [b'\\', quoted, after @ ..] => {
                found |= *quoted == byte;
                rest = after;
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [] => break,
            [low, b'-', high, after @ ..] => {
                found |= (low.min(high)..=low.max(high)).contains(&&byte);
                rest = after;
            }
            [literal, after @ ..] => {
                found |= *literal == byte;
                rest = after;
            }
        }
    }
    (found != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_of_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c", "xxaxxbxxcxx", false),
            ("a*", "a", true),
            ("[a", "a", true),
            ("a\\", "a\\", true),
            ("foo:*:bar", "foo:1:2:bar", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(5000).as_bytes()));
    }
}
