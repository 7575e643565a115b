//! Keyspace events: the same commands, the same events in the same order, of every class.

use super::grammar::{self, Args};
use super::in_process::InProcess;
use super::play::{Step, show};
use super::target::{Connection, Endpoint, Target};
use super::{Settings, sequence};
use holdfast_proto::command;
use holdfast_proto::resp::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// A stock server whose events are read.
struct Stock {
    server: Endpoint,
    events: Connection,
    probe: Connection,
}

impl Stock {
    fn start() -> Option<Self> {
        let server = Endpoint::stock()?;
        let (mut events, mut probe) = (server.connect(), server.connect());
        assert!(probe.run_words("CONFIG SET notify-keyspace-events EAmn").is_ok());
        // Expired keys go when a command meets them, not at a moment of the server's own.
        assert!(probe.run_words("DEBUG SET-ACTIVE-EXPIRE 0").is_ok());
        events.run_words("PSUBSCRIBE __keyevent@*");
        events.run_words("SUBSCRIBE marker");
        Some(Self { server, events, probe })
    }

    /// The events of what was run so far, as `event db key`.
    fn take_events(&mut self) -> Vec<String> {
        self.probe.run_words("PUBLISH marker x");
        let mut all = Vec::new();
        loop {
            let message = self.events.receive(PATIENCE).expect("the marker comes");
            let words: Vec<_> =
                message.as_array().unwrap().iter().filter_map(Value::as_bytes).collect();
            match words[..] {
                [b"pmessage", _, channel, key] => {
                    let channel = std::str::from_utf8(channel).unwrap();
                    let place = channel.strip_prefix("__keyevent@").unwrap();
                    let (db, event) = place.split_once("__:").unwrap();
                    all.push(format!("{event} {db} {}", key.escape_ascii()));
                }
                _ => return all,
            }
        }
    }
}

/// What is compared command by command. Not expiry, which comes when each side looks, or by itself:
/// it is compared on its own, below. Not the misses of writes, nor how often and in which order a
/// read missed its keys: they depend on how each looks its keys up.
fn comparable(args: &Args, events: Vec<String>) -> Vec<String> {
    let spec = command::resolve(&args[0], args.get(1).map(Vec::as_slice));
    // Of the reads, BITCOUNT and BITPOS look at their arguments first, as in 7.2.
    let reads =
        spec.is_ok_and(|spec| spec.is_readonly() && !matches!(spec.name, "bitcount" | "bitpos"));
    let keep = |event: &String| {
        !event.starts_with("expired ") && (reads || !event.starts_with("keymiss "))
    };
    let mut kept: Vec<String> = events.into_iter().filter(keep).collect();
    let mut misses: Vec<String> =
        kept.extract_if(.., |event| event.starts_with("keymiss ")).collect();
    misses.sort();
    misses.dedup();
    kept.extend(misses);
    kept
}

#[test]
fn random_commands_have_equal_events() {
    let Some(mut stock) = Stock::start() else {
        eprintln!("skipped: no redis-server in PATH");
        return;
    };
    let mut ours = InProcess::new();
    let families = grammar::families("");
    let mut settings = Settings::from_environment().without_missing(&mut ours, &families);
    // Each side pops what it likes; what a scan sees differs.
    let left_out = ["SPOP", "SCAN", "SSCAN", "HSCAN", "ZSCAN", "DUMP"];
    settings.skip.extend(left_out.map(str::to_owned));
    let mut compared = 0;
    for seed in settings.seed..settings.seed + settings.sequences / 3 {
        let steps = sequence(seed, &settings, &families);
        ours.reset(false);
        ours.watch_events();
        stock.server.reset(false);
        stock.take_events();
        for (at, step) in steps.iter().enumerate() {
            let args = match step {
                Step::Run { client, args } => {
                    ours.run(*client, args);
                    stock.server.run(*client, args);
                    args
                }
                Step::Sleep(ms) => {
                    std::thread::sleep(Duration::from_millis(*ms));
                    continue;
                }
                Step::Exchange(_) => continue,
            };
            let got = comparable(args, ours.take_events());
            let want = comparable(args, stock.take_events());
            compared += want.len();
            let before: String = steps[at.saturating_sub(30)..at]
                .iter()
                .map(|step| format!("    {step}\n"))
                .collect();
            assert_eq!(got, want, "seed {seed}, after\n{before}  {}", show(args));
        }
    }
    eprintln!("differential: {compared} keyspace events");
    assert!(compared > 1000);
}

/// Commands of which the random test sees little: expiry, random members.
#[test]
fn expiry_and_random_members_have_equal_events() {
    let Some(mut stock) = Stock::start() else {
        eprintln!("skipped: no redis-server in PATH");
        return;
    };
    let mut ours = InProcess::new();
    ours.watch_events();
    let script = "
        SET k 1 PX 3; sleep; GET k; GET k
        SET k 1 PX 3; sleep; SET k 2
        SET k 1 PX 3; sleep; RPUSH k a; DEL k
        SET k 1 PX 3; sleep; INCR k; DEL k
        SET k 1 PX 3; sleep; APPEND k x; SETRANGE k 2 y; INCRBYFLOAT n 1.5; DEL k n
        SADD s a b; PEXPIRE s 3; sleep; SADD t x; SUNIONSTORE s t; DEL s t
        SADD s a; SPOP s; SADD s a b c; SPOP s 2; SPOP s 5; SPOP s
        SET k 1; EXPIRE k -1; SET k 1; GETEX k PXAT 1; SET k 1; GETEX k EX 9; GETEX k PERSIST
        GETDEL k; GETDEL k; GETSET k 1; SETEX k 9 1; PSETEX k 9 1; PERSIST k; SETNX k 1; DEL k
        HSET h f 1; HDEL h f; HINCRBY h f 1; HINCRBYFLOAT h f 1; HSETNX h g 1; DEL h
        ZADD z 1 a 2 b; ZADD z INCR 1 a; ZINCRBY z 1 a; ZPOPMIN z; ZPOPMAX z; ZADD z XX 1 a
        SMOVE s t x; SADD s x; SMOVE s t x; SADD s x; SMOVE s t x; DEL s t
        BITFIELD k OVERFLOW FAIL SET u8 100 300; BITFIELD k SET u8 100 0; STRLEN k; DEL k
        SET k a; BITFIELD k OVERFLOW FAIL SET u8 100 300 INCRBY u8 0 -98; STRLEN k
        BITFIELD k OVERFLOW FAIL SET u8 200 300 SET u8 0 97; STRLEN k; DEL k
        RPUSH l x; LCS l s; LCS s l; LCS s t; LCS s t LEN IDX; LCS s t x; DEL l
        MULTI; SET a 1; INCR a; DEL a; GET a; EXEC";
    let (mut our_expired, mut their_expired) = (Vec::new(), Vec::new());
    let read = |line: &str| -> Vec<Vec<u8>> {
        line.split_ascii_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    };
    for line in script.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty()) {
        if line == "sleep" {
            // Each record is at least a millisecond later than the one before, so the engine's time
            // may be ahead of the clock by as many milliseconds as there were commands.
            std::thread::sleep(Duration::from_millis(150));
            continue;
        }
        let args = read(line);
        ours.run(0, &args);
        stock.server.run(0, &args);
        let (got, want) = (ours.take_events(), stock.take_events());
        let expired = |all: &[String]| -> Vec<String> {
            all.iter().filter(|event| event.starts_with("expired ")).cloned().collect()
        };
        our_expired.extend(expired(&got));
        their_expired.extend(expired(&want));
        assert_eq!(comparable(&args, got), comparable(&args, want), "{line}");
    }
    // A read here leaves the deletion to the log, a server deletes by itself in between: the same
    // keys expire, at other moments.
    assert_eq!(our_expired, their_expired);
    assert!(our_expired.len() >= 6, "{our_expired:?}");
}
