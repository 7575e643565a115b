use super::*;
use crate::resp::{ReplyScanner, Value, encode};
use bytes::{Bytes, BytesMut};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[test]
fn names_are_found_in_any_case() {
    assert_eq!(all().len(), COMMAND_COUNT);
    for (rank, spec) in all().enumerate() {
        assert_eq!(spec.index as usize, rank);
        assert!(spec.name.len() <= NAME_LEN_MAX);
        assert!(std::ptr::eq(lookup(spec.name.as_bytes()).unwrap(), spec));
        assert!(std::ptr::eq(lookup(spec.name.to_uppercase().as_bytes()).unwrap(), spec));
        for sub in spec.subcommands {
            let own = sub.own_name().to_uppercase();
            assert!(std::ptr::eq(lookup_sub(spec, own.as_bytes()).unwrap(), sub));
            assert_eq!(sub.index, spec.index);
        }
    }
    for name in [&b""[..], b"gett", b"ge", b"client|list", &[b'x'; 1000], b"\x07\x05\x14"] {
        assert!(lookup(name).is_none(), "{}", name.escape_ascii());
    }
}

#[test]
fn what_7_2_adds_is_there() {
    assert_eq!(lookup(b"waitaof").unwrap().arity, 4);
    let client = lookup(b"client").unwrap();
    assert!(lookup_sub(client, b"no-touch").is_some() && lookup_sub(client, b"setinfo").is_some());
    assert!(lookup_sub(lookup(b"cluster").unwrap(), b"myshardid").is_some());
    assert_eq!(lookup(b"zrank").unwrap().arity, -3);
}

fn key_indexes(line: &str) -> Result<Vec<u32>, KeyError> {
    let args: Vec<&str> = line.split(' ').map(|arg| if arg == "''" { "" } else { arg }).collect();
    let spec = resolve(args[0].as_bytes(), args.get(1).map(|a| a.as_bytes())).unwrap();
    keys(spec, &args).map(|found| found.iter().map(|key| key.index).collect())
}

#[test]
fn keys_are_where_redis_finds_them() {
    for (line, indexes) in [
        ("get k", &[1][..]),
        ("PING", &[]),
        ("mset a 1 b 2", &[1, 3]),
        ("del a b c", &[1, 2, 3]),
        ("blpop a b 0", &[1, 2]),
        ("eval s 2 a b c", &[3, 4]),
        ("eval s 0 a", &[]),
        ("fcall f 1 k", &[3]),
        ("zunionstore d 2 a b weights 1 2", &[1, 3, 4]),
        ("zunion 2 a b", &[2, 3]),
        ("sintercard 2 a b limit 1", &[2, 3]),
        ("lmpop 2 a b left", &[2, 3]),
        ("blmpop 0 2 a b left", &[3, 4]),
        ("bzmpop 0 1 a min", &[3]),
        ("sort k", &[1]),
        ("sort k by w_* get store store d", &[1, 7]),
        ("sort k store a store b", &[1, 5]),
        ("sort k limit store x", &[1]),
        ("sort_ro k by w", &[1]),
        ("xread count 2 streams a b 0 0", &[4, 5]),
        ("xreadgroup group streams c streams a 0", &[5]),
        ("xgroup create k g 0", &[2]),
        ("object encoding k", &[2]),
        ("georadius k 0 0 1 m store d", &[1, 7]),
        ("georadius k 0 0 1 m", &[1]),
        ("migrate h 1 k 0 9", &[3]),
        ("migrate h 1 '' 0 9 copy keys a b", &[8, 9]),
        ("migrate h 1 '' 0 9 auth keys keys a", &[9]),
        ("bitop and d a b", &[2, 3, 4]),
        ("memory usage k", &[2]),
        ("rename a b", &[1, 2]),
        ("lcs a b", &[1, 2]),
        ("spublish channel m", &[]),
        ("copy a b", &[1, 2]),
    ] {
        assert_eq!(key_indexes(line).as_deref(), Ok(indexes), "{line}");
    }
    for line in ["eval s x a", "eval s -1 a", "eval s 3 a b", "zunion 9999999999 a"] {
        assert_eq!(key_indexes(line), Err(KeyError::Invalid), "{line}");
    }
    assert_eq!(key_indexes("get"), Err(KeyError::WrongArity));
}

#[test]
fn hostile_arguments_do_not_panic() {
    let words =
        ["", "1", "2", "-1", "9223372036854775807", "-9223372036854775808", "streams", "store"];
    let words = words.map(str::as_bytes);
    for spec in all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)) {
        for count in 0..9 {
            for salt in 0..words.len() {
                let args: Vec<&[u8]> = (0..count).map(|i| words[(i * 3 + salt) % 8]).collect();
                if let Ok(found) = keys(spec, &args) {
                    assert!(found.iter().all(|key| (key.index as usize) < count), "{}", spec.name);
                }
            }
        }
    }
}

#[test]
fn reads_that_may_wait_are_told_apart() {
    for (request, waits) in [
        ("xread streams a 0", false),
        ("xread count 2 streams block 0", false),
        ("XREAD count 2 BLOCK 0 streams a 0", true),
        ("xread block", true),
        ("blpop a 0", false),
        ("get block", false),
    ] {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        assert_eq!(may_wait(lookup(args[0]).unwrap(), args), waits, "{request}");
    }
}

#[test]
fn errors_name_what_is_unknown() {
    assert_eq!(
        unknown_command_error(b"foo", [&b"a\r\nb"[..], b"c"].into_iter()),
        "ERR unknown command 'foo', with args beginning with: 'a  b' 'c' "
    );
    let refused = "ERR SYNC is not available: Holdfast does this itself";
    assert_eq!(support_error(lookup(b"sync").unwrap()).unwrap(), refused);
    assert!(support_error(lookup(b"zadd").unwrap()).is_none());
}

/// A stock server on a free port; ends with the test.
struct Stock {
    child: Child,
    stream: TcpStream,
}

impl Stock {
    /// `None` when none is installed.
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--dir", "/tmp"])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        for _ in 0..200 {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                return Some(Self { child, stream });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("redis-server does not listen on port {port}");
    }

    fn ask(&mut self, args: &[&str]) -> Value {
        let mut request = Vec::new();
        encode::command(&mut request, args.iter().map(|arg| arg.as_bytes()));
        self.stream.write_all(&request).unwrap();
        let mut scanner = ReplyScanner::default();
        let mut buffer = BytesMut::new();
        let mut chunk = vec![0; 1 << 16];
        loop {
            let len = self.stream.read(&mut chunk).unwrap();
            assert!(len > 0, "redis-server closed the connection");
            buffer.extend_from_slice(&chunk[..len]);
            if let Some(value) = scanner.decode(&mut buffer).unwrap() {
                return value;
            }
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What differs between the 7.0 server that the test finds and the 7.2 of the table.
const ADDED: [&str; 4] = ["waitaof", "client|no-touch", "client|setinfo", "cluster|myshardid"];
const CHANGED: [&str; 5] = ["wait", "zrank", "zrevrank", "xinfo|consumers", "xinfo|stream"];

/// Makes replies comparable: order of sets and subcommands is of no meaning.
fn sorted(value: Value) -> Value {
    let by_text = |a: &Value, b: &Value| format!("{a:?}").cmp(&format!("{b:?}"));
    let name = |value: &Value| match value {
        Value::Array(elements) => elements.first().and_then(Value::as_bytes).map(<[u8]>::to_vec),
        _ => None,
    };
    match value {
        Value::Set(elements) => {
            let mut elements: Vec<_> = elements.into_iter().map(sorted).collect();
            elements.sort_by(by_text);
            Value::Set(elements)
        }
        Value::Array(elements) => {
            let elements = elements.into_iter().map(sorted);
            // Commands and subcommands: arrays that begin with a name.
            let mut elements: Vec<_> = elements
                .filter(|e| {
                    !name(e).is_some_and(|n| is_one_of(&n, &ADDED) || is_one_of(&n, &CHANGED))
                })
                .collect();
            if elements.iter().all(|e| name(e).is_some()) {
                elements.sort_by(by_text);
            }
            Value::Array(elements)
        }
        Value::Map(pairs) => {
            let mut pairs: Vec<_> = pairs
                .into_iter()
                .filter(|(k, _)| {
                    let name = k.as_bytes().unwrap_or_default();
                    !is_one_of(name, &ADDED) && !is_one_of(name, &CHANGED)
                })
                .map(|(k, v)| (k, sorted(v)))
                .collect();
            pairs.sort_by(|a, b| by_text(&a.0, &b.0));
            Value::Map(pairs)
        }
        other => other,
    }
}

fn is_one_of(name: &[u8], list: &[&str]) -> bool {
    list.iter().any(|entry| entry.as_bytes() == name)
}

fn parsed(out: Vec<u8>) -> Value {
    crate::resp::reply::parse(&Bytes::from(out)).unwrap()
}

#[test]
fn the_table_says_what_a_stock_server_says() {
    let Some(mut stock) = Stock::start() else {
        eprintln!("skipped: no redis-server in PATH");
        return;
    };
    stock.ask(&["HELLO", "3"]);
    for spec in all().filter(|spec| !is_one_of(spec.name.as_bytes(), &ADDED)) {
        let mut ours = Vec::new();
        describe::info(&mut ours, Some(spec), true);
        let Value::Array(mut theirs) = stock.ask(&["COMMAND", "INFO", spec.name]) else { panic!() };
        let wrap = |value| sorted(Value::Array(vec![value]));
        assert_eq!(wrap(parsed(ours)), wrap(theirs.remove(0)), "{}", spec.name);
        let mut ours = Vec::new();
        encode::map(&mut ours, 1, true);
        describe::docs(&mut ours, spec, true);
        let theirs = stock.ask(&["COMMAND", "DOCS", spec.name]);
        assert_eq!(sorted(parsed(ours)), sorted(theirs), "{}", spec.name);
    }
    let Value::Integer(count) = stock.ask(&["COMMAND", "COUNT"]) else { panic!() };
    assert_eq!(count as usize + 1, COMMAND_COUNT, "only WAITAOF is new in 7.2 at the top");
}

/// Arguments that look like options and counts often enough to lead a search for keys astray.
fn keyish_args(spec: &CommandSpec, salt: u64) -> Vec<String> {
    const WORDS: [&str; 12] =
        ["a", "b", "1", "2", "3", "0", "STORE", "streams", "KEYS", "GET", "limit", "by"];
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(spec.index);
    let mut next = |bound: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % bound
    };
    let names = spec.name.split('|').map(str::to_owned);
    let mut args: Vec<String> = names.collect();
    let least = spec.arity.unsigned_abs() as usize;
    let len = least + if spec.arity < 0 { next(6) as usize } else { 0 };
    while args.len() < len {
        args.push(WORDS[next(WORDS.len() as u64) as usize].to_owned());
    }
    args
}

#[test]
fn keys_are_those_that_a_stock_server_names() {
    let Some(mut stock) = Stock::start() else {
        eprintln!("skipped: no redis-server in PATH");
        return;
    };
    let commands = all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    let mut differences = Vec::new();
    for spec in commands.filter(|spec| spec.takes_keys()) {
        for salt in 0..60 {
            let args = keyish_args(spec, salt);
            // GETKEYS names the destination given first, the command writes the one given last.
            let stores = args.iter().filter(|arg| *arg == "STORE").count();
            if (spec.name.starts_with("georadius") || spec.name == "sort") && stores > 1 {
                continue;
            }
            let mut request = vec!["COMMAND", "GETKEYS"];
            request.extend(args.iter().map(String::as_str));
            let theirs = match stock.ask(&request) {
                Value::Array(keys) => keys,
                // Ours says what is certain, or nothing.
                _ => continue,
            };
            let theirs: Vec<_> = theirs.iter().filter_map(Value::as_bytes).collect();
            let found = keys(spec, &args).unwrap_or_default();
            let ours: Vec<_> =
                found.iter().map(|key| args[key.index as usize].as_bytes()).collect();
            let show = |keys: &[&[u8]]| {
                keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>()
            };
            if ours != theirs {
                differences.push(format!(
                    "{args:?}\n  ours {:?}\n  theirs {:?}",
                    show(&ours),
                    show(&theirs)
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn unknown_names_are_nulls() {
    let mut out = Vec::new();
    describe::info(&mut out, None, false);
    assert_eq!(out, b"*-1\r\n");
}
