//! ACL rules and CONFIG values beside a stock redis-server: the same are accepted and refused, what is
//! stored is shown alike, and the same commands are allowed.
//!
//! Without a redis-server in PATH the tests say so and pass. The reference is 7.2, the server may be a
//! 7.0: command rules are compared by what they allow, not by their order.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use holdfast_proto::acl::{Denied, User, merge_selectors};
use holdfast_proto::command;
use holdfast_proto::parameters::{self, Scope};
use holdfast_proto::resp::encode;
use holdfast_proto::resp::reply::{Value, decode};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Server {
    child: Child,
    stream: TcpStream,
    input: BytesMut,
}

impl Server {
    /// `None` when there is no redis-server on this machine.
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--dir", "/tmp"])
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("skipped: no redis-server in PATH");
            return None;
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                return Some(Self { child, stream, input: BytesMut::new() });
            }
            assert!(Instant::now() < deadline, "the server does not listen");
            // The server has just been started; there is nothing to wait for but time.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn call(&mut self, words: &[&str]) -> Value {
        let mut out = BytesMut::new();
        encode::command(&mut out, words.iter().map(|word| word.as_bytes()));
        self.stream.write_all(&out).unwrap();
        loop {
            if let Some(value) = decode(&mut self.input).unwrap() {
                return value;
            }
            let mut chunk = [0; 16 * 1024];
            let len = self.stream.read(&mut chunk).unwrap();
            assert!(len > 0, "the server closed the connection");
            self.input.extend_from_slice(&chunk[..len]);
        }
    }

    fn text(&mut self, words: &[&str]) -> String {
        match self.call(words) {
            Value::Simple(text) | Value::Bulk(text) | Value::Error(text) => {
                String::from_utf8_lossy(&text).into_owned()
            }
            other => format!("{other:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// xorshift64: one seed decides everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const RULES: &[&str] = &[
    "on",
    "off",
    "nopass",
    "resetpass",
    ">pw",
    ">other",
    "<pw",
    "~*",
    "~a*",
    "~b?",
    "%R~r*",
    "%W~w*",
    "%RW~x",
    "%~x",
    "resetkeys",
    "allkeys",
    "&ch*",
    "&*",
    "resetchannels",
    "allchannels",
    "+@all",
    "-@all",
    "+@read",
    "-@read",
    "+@write",
    "-@write",
    "+@string",
    "-@string",
    "+@hash",
    "+@keyspace",
    "-@dangerous",
    "+@fast",
    "-@slow",
    "+@connection",
    "+@pubsub",
    "+get",
    "-get",
    "+set",
    "-set",
    "+del",
    "+config|get",
    "-config|set",
    "+config",
    "-config",
    "+client|id",
    "-client",
    "+select|1",
    "+mget",
    "+copy",
    "+publish",
    "+subscribe",
    "+nosuch",
    "-nosuch",
    "foo",
    "+@nosuch",
    "+config|x",
    "(+get ~s*)",
    "(%R~t* +@read -mget)",
    "(+@all &x)",
    "clearselectors",
    "(foo)",
    "~a b",
];

const COMMANDS: &[&str] = &[
    "get a1",
    "get r1",
    "get s1",
    "get t1",
    "get z",
    "set a1 v",
    "set w1 v",
    "set r1 v",
    "set z v get",
    "mget a1 r1",
    "mget a1 z",
    "del a1",
    "del x",
    "exists a1 b1",
    "copy a1 x",
    "copy r1 w1",
    "hset a1 f v",
    "hget r1 f",
    "lpush w1 v",
    "config get x",
    "config set x y",
    "client id",
    "client list",
    "select 0",
    "select 1",
    "publish ch1 m",
    "publish x m",
    "subscribe ch1",
    "subscribe y",
    "psubscribe ch*",
    "psubscribe c*",
    "keys *",
    "flushall",
    "object encoding a1",
    "touch a1 z",
    "rename a1 b1",
    "expire x 1",
    "sinterstore w1 r1 a1",
    "bitop and w1 r1 r2",
    "zunionstore w1 2 r1 r2",
    "xadd a1 * f v",
    "ping",
    "info",
    "multi",
    "eval x 1 a1",
    "sort a1 store w1",
    "lmove r1 w1 left right",
    "setrange a1 0 x",
    "getdel a1",
];

fn kind(text: &str) -> &'static str {
    match text {
        "OK" => "allowed",
        _ if text.ends_with("command") => "command",
        _ if text.ends_with("key") => "key",
        _ if text.ends_with("channel") => "channel",
        _ => "error",
    }
}

fn decision(user: &User, command: &str) -> &'static str {
    let args: Vec<&str> = command.split(' ').collect();
    let name = args[0].as_bytes();
    let spec = command::resolve(name, args.get(1).map(|arg| arg.as_bytes())).unwrap();
    match user.check(spec, &args) {
        Ok(()) => "allowed",
        Err(Denied::Command) => "command",
        Err(Denied::Key(_)) => "key",
        Err(Denied::Channel(_)) => "channel",
    }
}

/// The rules without those of commands, whose order differs between 7.0 and 7.2.
fn without_commands(line: &str) -> String {
    let words = line.split(' ').filter(|word| {
        let word = word.trim_start_matches('(').trim_end_matches(')');
        !word.starts_with('+') && !word.starts_with('-')
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn users_may_do_what_they_may_on_a_stock_server() {
    let Some(mut server) = Server::start() else { return };
    let mut compared = 0;
    for seed in 1..=400u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut user = User::default();
        server.text(&["ACL", "SETUSER", "t", "reset"]);
        let mut given = Vec::new();
        for _ in 0..1 + dice.below(8) {
            let rule = dice.pick(RULES);
            given.push(rule);
            let theirs = server.text(&["ACL", "SETUSER", "t", rule]);
            let rules = merge_selectors(&[rule]).unwrap();
            let ours = rules.iter().try_for_each(|rule| user.apply(rule));
            let ours = match ours {
                Ok(()) => "OK".to_owned(),
                Err(error) => format!("ERR Error in ACL SETUSER modifier '{rule}': {error}"),
            };
            assert_eq!(ours, theirs, "{given:?}");
        }
        let Value::Array(lines) = server.call(&["ACL", "LIST"]) else { panic!() };
        let lines: Vec<String> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line.as_bytes().unwrap()).into_owned())
            .collect();
        let theirs = lines.iter().find_map(|line| line.strip_prefix("user t ")).unwrap();
        assert_eq!(without_commands(&user.describe()), without_commands(theirs), "{given:?}");
        // What is shown means the same.
        let again = User::parse(&user.describe()).unwrap();
        for command in COMMANDS {
            let words: Vec<&str> = command.split(' ').collect();
            let theirs = server.text(&[&["ACL", "DRYRUN", "t"], &words[..]].concat());
            assert_eq!(decision(&user, command), kind(&theirs), "{given:?}: {command}: {theirs}");
            assert_eq!(decision(&again, command), decision(&user, command), "{given:?}: {command}");
            compared += 1;
        }
    }
    assert!(compared > 10_000);
}

/// Values that are tried with every parameter.
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "7",
    "100",
    "yes",
    "NO",
    "maybe",
    "1kb",
    "64m",
    "2GB",
    "x",
    "1.5",
    "10%",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "allkeys-lru",
    "KEA",
    "Kx",
    "Kq",
    "verbose",
    "normal 1 2 3",
    "pubsub 1mb 2mb 60",
    "normal a b c",
    "normal 1",
    "weird 1 2 3",
    "50 99",
    "50 101",
    "50 x",
    "resetchannels",
];

/// Where a stock 7.0 server takes or shows something else than a 7.2.
const NOT_COMPARED: &[&str] = &[
    // Differ by version.
    "maxmemory-samples",
    // Would end the comparison or depend on the machine.
    "maxclients",
    "requirepass",
    "maxmemory",
    "activedefrag",
    "loglevel",
    // `n` is not shown together with `A` by 7.0.
    "notify-keyspace-events",
];

#[test]
fn parameters_take_the_values_of_a_stock_server() {
    let Some(mut server) = Server::start() else { return };
    let mut compared = 0;
    let mut different = Vec::new();
    for parameter in parameters::PARAMETERS {
        if parameter.scope != Scope::Cluster || NOT_COMPARED.contains(&parameter.name) {
            continue;
        }
        let shown = |server: &mut Server| match server.call(&["CONFIG", "GET", parameter.name]) {
            Value::Array(pair) if pair.len() == 2 => {
                Some(String::from_utf8_lossy(pair[1].as_bytes().unwrap()).into_owned())
            }
            _ => None,
        };
        // Not a parameter of 7.0.
        let Some(mut current) = shown(&mut server) else { continue };
        for value in VALUES {
            let theirs = server.text(&["CONFIG", "SET", parameter.name, value]);
            let ours = match parameters::check(parameter, value, &current) {
                Ok(canonical) => {
                    current = canonical;
                    "OK".to_owned()
                }
                Err(error) => format!(
                    "ERR CONFIG SET failed (possibly related to argument '{}') - {error}",
                    parameter.name
                ),
            };
            let theirs_now = shown(&mut server).unwrap();
            if ours != theirs || current != theirs_now {
                different.push(format!(
                    "{} = {value:?}: {ours} {current}, there {theirs} {theirs_now}",
                    parameter.name
                ));
                current = theirs_now;
            }
            compared += 1;
        }
    }
    assert!(different.is_empty(), "{different:#?}");
    assert!(compared > 500);
}
