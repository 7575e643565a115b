//! When two replies are equal. What may differ is listed in docs/differences.md.

use super::grammar::Args;
use holdfast_proto::resp::Value;

/// Replies to the same command of the same state.
pub(crate) fn same(args: &Args, ours: &Value, theirs: &Value) -> bool {
    if ours == theirs {
        return true;
    }
    if same_error(ours, theirs) {
        return true;
    }
    let name = args[0].to_ascii_uppercase();
    let sub = args.get(1).map(|sub| sub.to_ascii_uppercase()).unwrap_or_default();
    match name.as_slice() {
        // Sets and tables have no order.
        b"SMEMBERS" | b"SINTER" | b"SUNION" | b"SDIFF" | b"KEYS" | b"HKEYS" | b"HVALS" => {
            unordered(ours) == unordered(theirs)
        }
        b"HGETALL" => pairs(ours) == pairs(theirs),
        b"SRANDMEMBER" | b"HRANDFIELD" | b"ZRANDMEMBER" | b"RANDOMKEY" | b"SPOP" => {
            random_picks(args, ours, theirs)
        }
        // Both sides read their clocks for themselves.
        b"TTL" | b"EXPIRETIME" => near(ours, theirs, 1),
        b"PTTL" | b"PEXPIRETIME" => near(ours, theirs, 1500),
        // Encodings and sizes are those of 7.2 and of ours.
        b"OBJECT" if sub == b"ENCODING" => same_encoding(ours, theirs),
        b"OBJECT" if sub == b"IDLETIME" || sub == b"REFCOUNT" => both_integers(ours, theirs),
        b"OBJECT" if sub == b"HELP" => shape(ours) == shape(theirs),
        b"MEMORY" => both_integers(ours, theirs),
        b"DUMP" => shape(ours) == shape(theirs),
        b"XINFO" | b"XGROUP" if sub == b"HELP" => shape(ours) == shape(theirs),
        b"XINFO" => same_stream_info(&as_pairs(ours), &as_pairs(theirs)),
        b"XPENDING" => same_pending(ours, theirs),
        b"SORT" | b"SORT_RO" => same_sort(args, ours, theirs),
        b"GET" => same_hyperloglog(ours, theirs),
        // 7.2 reads the arguments before it looks at the key.
        b"BITCOUNT" | b"BITPOS" => {
            let bad = [&b"ERR syntax error"[..], b"ERR value is not an integer or out of range"];
            matches!(ours, Value::Error(text) if bad.contains(&text.as_ref()))
                && (matches!(theirs, Value::Integer(-1..=0)) || theirs.is_error())
        }
        _ if name.starts_with(b"GEO") => same_geo(args, ours, theirs),
        _ if is_distances(args) => same_order_of_distances(ours, theirs),
        // 7.0 writes doubles with 17 digits, 7.2 the shortest that mean the same.
        _ if name.first() == Some(&b'Z') || name.starts_with(b"BZ") => same_numbers(ours, theirs),
        _ => false,
    }
}

/// Errors quote what the client sent; bytes that are no UTF-8 are shown differently.
fn same_error(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        // 7.2 looks at the range first.
        (Value::Error(a), Value::Error(b)) if a.as_ref() == b"ERR timeout is out of range" => {
            b.as_ref() == b"ERR timeout is negative"
        }
        // New in 7.2: a fourth argument.
        (Value::Error(a), Value::Error(b)) if a.as_ref() == b"ERR syntax error" => {
            b.ends_with(b"rank' command")
        }
        // 7.2 writes the command's name otherwise.
        (Value::Error(a), Value::Error(b)) if a.starts_with(b"ERR Unbalanced '") => {
            b.starts_with(b"ERR Unbalanced ")
        }
        // 7.2 runs a blocked XREADGROUP again, and that has one error for both.
        (Value::Error(a), Value::Error(b))
            if a.starts_with(b"NOGROUP No such key")
                && (b.starts_with(b"NOGROUP the consumer group this client was blocked on")
                    || b.starts_with(b"UNBLOCKED the stream key no longer exists")) =>
        {
            true
        }
        (Value::Error(a), Value::Error(b)) => {
            String::from_utf8_lossy(a).replace(char::REPLACEMENT_CHARACTER, "?")
                == String::from_utf8_lossy(b).replace(char::REPLACEMENT_CHARACTER, "?")
        }
        _ => false,
    }
}

fn both_integers(ours: &Value, theirs: &Value) -> bool {
    matches!((ours, theirs), (Value::Integer(_), Value::Integer(_)))
}

fn is_count(value: &Value) -> bool {
    matches!(value, Value::Integer(_) | Value::Null)
}

fn near(ours: &Value, theirs: &Value, tolerance: u64) -> bool {
    match (ours, theirs) {
        (Value::Integer(a), Value::Integer(b)) => *a >= 0 && *b >= 0 && a.abs_diff(*b) <= tolerance,
        _ => false,
    }
}

fn unordered(value: &Value) -> Vec<String> {
    let mut elements: Vec<_> =
        value.as_array().unwrap_or_default().iter().map(|e| format!("{e:?}")).collect();
    elements.sort();
    if value.as_array().is_none() {
        elements.push(format!("{value:?}"));
    }
    elements
}

fn pairs(value: &Value) -> Vec<String> {
    let mut pairs: Vec<_> = match value {
        Value::Map(pairs) => pairs.iter().map(|pair| format!("{pair:?}")).collect(),
        Value::Array(elements) => elements.chunks(2).map(|pair| format!("{pair:?}")).collect(),
        other => vec![format!("{other:?}")],
    };
    pairs.sort();
    pairs
}

/// Same kind, and of aggregates the same number of elements.
fn shape(value: &Value) -> (std::mem::Discriminant<Value>, usize) {
    (std::mem::discriminant(value), value.as_array().map_or(0, <[_]>::len))
}

/// Random picks: as many, and distinct where they have to be. That the picks are members is checked
/// by the caller, who can ask.
fn random_picks(args: &Args, ours: &Value, theirs: &Value) -> bool {
    if ours.is_error() || theirs.is_error() || shape(ours) != shape(theirs) {
        return false;
    }
    let distinct = args.get(2).is_some_and(|count| count.first() != Some(&b'-'));
    if let (true, 3, Some(elements)) = (distinct, args.len(), ours.as_array()) {
        let mut texts: Vec<_> = elements.iter().map(Value::as_bytes).collect();
        texts.sort();
        texts.dedup();
        return texts.len() == elements.len();
    }
    true
}

/// 7.0 has no listpacks for lists and sets.
fn same_encoding(ours: &Value, theirs: &Value) -> bool {
    match (ours.as_bytes(), theirs.as_bytes()) {
        (Some(b"listpack"), Some(b"quicklist" | b"hashtable")) => true,
        // A string's form follows from its content here, not from how it was made.
        (Some(b"int"), Some(b"embstr" | b"raw")) => true,
        (Some(b"embstr"), Some(b"raw")) => true,
        // SORT turns a small sorted set into a skip list there, for no reader's sake.
        (Some(b"listpack"), Some(b"skiplist")) => true,
        _ => false,
    }
}

fn same_numbers(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || same_numbers(a, b))
        }
        (Value::Bulk(a), Value::Bulk(b)) => a == b || same_double(number(a), number(b)),
        (Value::Double(a), Value::Double(b)) => same_double(Some(*a), Some(*b)),
        _ => ours == theirs,
    }
}

/// The cardinality that PFCOUNT caches in the value is not stored here.
fn same_hyperloglog(ours: &Value, theirs: &Value) -> bool {
    match (ours.as_bytes(), theirs.as_bytes()) {
        (Some(a), Some(b)) => {
            let prefix = |text: &[u8]| text.len() >= 16 && text.starts_with(b"HYLL");
            prefix(a) && prefix(b) && a[..8] == b[..8] && a[16..] == b[16..]
        }
        _ => false,
    }
}

/// Distances are computed with other sines; at equal distances the order is not defined.
fn same_geo(args: &Args, ours: &Value, theirs: &Value) -> bool {
    let has = |word: &str| args.iter().any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    if near_numbers(ours, theirs, 1.1e-4) {
        return true;
    }
    (has("ASC") || has("DESC") || has("COUNT"))
        && shape(ours) == shape(theirs)
        && unordered(ours) == unordered(theirs)
}

/// Sorted sets named `d…` hold distances (see the templates).
fn is_distances(args: &Args) -> bool {
    args.get(1).is_some_and(|key| key.len() >= 2 && key[key.len() - 2] == b'd')
}

/// Distances may differ in the last of their 16 digits.
fn same_order_of_distances(ours: &Value, theirs: &Value) -> bool {
    near_numbers(ours, theirs, 1e-6)
}

fn near_numbers(ours: &Value, theirs: &Value, tolerance: f64) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= tolerance;
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) => {
            let pairs = || a.iter().zip(b);
            a.len() == b.len() && pairs().all(|(a, b)| near_numbers(a, b, tolerance))
        }
        (Value::Bulk(a), Value::Bulk(b)) => {
            let numbers = number(a).zip(number(b));
            a == b
                || (a.iter().any(|c| b".e".contains(c)) && numbers.is_some_and(|(a, b)| near(a, b)))
        }
        (Value::Double(a), Value::Double(b)) => near(*a, *b),
        _ => ours == theirs,
    }
}

fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn same_double(a: Option<f64>, b: Option<f64>) -> bool {
    // Minus zero is a zero: 7.0 and 7.2 write it differently in some replies.
    matches!((a, b), (Some(a), Some(b)) if a == b)
}

/// RESP2 has labelled values in an array; as a map.
fn as_pairs(value: &Value) -> Value {
    match value {
        Value::Array(elements) => {
            let labelled = elements.len() % 2 == 0
                && matches!(elements.first().and_then(Value::as_bytes), Some(b"name" | b"length"));
            if labelled {
                let pair = |pair: &[Value]| (as_pairs(&pair[0]), as_pairs(&pair[1]));
                return Value::Map(elements.chunks(2).map(pair).collect());
            }
            Value::Array(elements.iter().map(as_pairs).collect())
        }
        Value::Map(pairs) => {
            Value::Map(pairs.iter().map(|(k, v)| (as_pairs(k), as_pairs(v))).collect())
        }
        other => other.clone(),
    }
}

/// New in 7.2 is when a consumer was last active, and since 7.2.7 groups count otherwise where entries
/// are missing; the radix tree's nodes are the other's own.
fn same_stream_info(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Map(a), Value::Map(b)) => {
            let label = |value: &Value| value.as_bytes().unwrap_or_default().to_vec();
            let known = |label: &[u8]| !matches!(label, b"active-time" | b"inactive");
            let mut ours = a.iter().filter(|(name, _)| known(&label(name)));
            let equal = b.iter().all(|(name, theirs)| {
                ours.next().is_some_and(|(ours_name, ours)| {
                    ours_name == name
                        && match label(name).as_slice() {
                            b"radix-tree-nodes" => both_integers(ours, theirs),
                            b"entries-read" | b"lag" => is_count(ours) && is_count(theirs),
                            b"pending" => same_pending(ours, theirs),
                            b"idle" | b"seen-time" => near(ours, theirs, 1500),
                            _ => same_stream_info(ours, theirs),
                        }
                })
            });
            equal && ours.next().is_none()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_stream_info(a, b))
        }
        _ => ours == theirs,
    }
}

/// Entries whose third last number is a time or an age, up to what the two clocks differ.
fn same_pending(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_pending(a, b))
        }
        (Value::Integer(a), Value::Integer(b)) if *a > 1500 || *b > 1500 => a.abs_diff(*b) <= 1500,
        (Value::Integer(a), Value::Integer(b)) => a == b || a.abs_diff(*b) <= 1500,
        _ => ours == theirs,
    }
}

/// Without an order that tells all elements apart, any order will do.
fn same_sort(args: &Args, ours: &Value, theirs: &Value) -> bool {
    let has = |word: &str| args.iter().any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    let partial = has("BY") || theirs.as_array().is_some_and(|all| all.iter().any(has_nul));
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) if partial && a.len() == b.len() => {
            has("LIMIT") || has("GET") || unordered(ours) == unordered(theirs)
        }
        _ => false,
    }
}

/// Redis compares with `strcoll`, which stops at a NUL.
fn has_nul(value: &Value) -> bool {
    value.as_bytes().is_some_and(|text| text.contains(&0))
}

/// One scan from beginning to end: what it found, without order or repetition.
pub(crate) fn scanned(name: &[u8], elements: &[Value]) -> Vec<String> {
    let width = if name.eq_ignore_ascii_case(b"HSCAN") || name.eq_ignore_ascii_case(b"ZSCAN") {
        2
    } else {
        1
    };
    let show = |element: &[Value]| {
        let mut text = format!("{:?}", element[0]);
        if let Some(score) = element.get(1) {
            let score = score.as_bytes().unwrap_or_default();
            match number(score).filter(|_| name.eq_ignore_ascii_case(b"ZSCAN")) {
                Some(score) => text.push_str(&format!(" {score}")),
                None => text.push_str(&format!(" {}", score.escape_ascii())),
            }
        }
        text
    };
    let mut found: Vec<_> = elements.chunks(width).map(show).collect();
    found.sort();
    found.dedup();
    found
}
