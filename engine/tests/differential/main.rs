//! Differential test: random commands, a stock redis-server beside the engine, equal replies.
//!
//! Without a redis-server in PATH the tests say so and pass. Settings, by environment variable:
//!
//! - `HOLDFAST_DIFF_SEED`: first seed (default 1); every sequence has its own, printed on failure.
//! - `HOLDFAST_DIFF_SEQUENCES`: how many sequences (default 300).
//! - `HOLDFAST_DIFF_LENGTH`: steps in each (default 120).
//! - `HOLDFAST_DIFF_FAMILIES`: a comma-separated choice of strings, keys, hashes, lists, sets, zsets,
//!   streams, bitmaps, hyperloglogs, geo.
//! - `HOLDFAST_DIFF_ENDPOINT`: `host:port` of a server to compare instead of the engine. It is emptied!
//! - `HOLDFAST_DIFF_KEY_PREFIX`: before every key, such as `{t}` to keep to one slot.
//! - `HOLDFAST_DIFF_FAILURES`: how many distinct failures to collect before giving up (default 1).
//! - `HOLDFAST_DIFF_SKIP`: commands left out, comma-separated.

#![allow(clippy::unwrap_used)] // Helpers of tests, outside of test functions.

mod blocking;
mod compare;
mod events;
mod grammar;
mod in_process;
mod play;
mod rng;
mod target;

use grammar::{Args, Family, Generator};
use in_process::InProcess;
use play::{Mismatch, Player, Step};
use rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use target::{Endpoint, Target};

struct Settings {
    seed: u64,
    sequences: u64,
    length: usize,
    families: String,
    endpoint: Option<String>,
    key_prefix: String,
    failures: usize,
    skip: BTreeSet<String>,
}

impl Settings {
    /// Leaves out the commands that our side does not know or support yet, and says so.
    fn without_missing(mut self, ours: &mut dyn Target, families: &[Family]) -> Self {
        ours.reset(false);
        let names: BTreeSet<_> = families.iter().flat_map(Family::commands).collect();
        for name in names {
            let spec = holdfast_proto::command::lookup(name.as_bytes()).expect("in the table");
            let mut args = vec![b"x".to_vec(); spec.arity.unsigned_abs() as usize];
            args[0] = name.clone().into_bytes();
            let reply = ours.run(0, &args);
            let text = String::from_utf8_lossy(reply.as_bytes().unwrap_or_default()).into_owned();
            if text.starts_with("ERR unknown command") || text.contains("is not supported yet") {
                eprintln!("left out, not there yet: {name}");
                self.skip.insert(name);
            }
        }
        self
    }
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    let name = format!("HOLDFAST_DIFF_{name}");
    match std::env::var(&name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not understood: {text}")),
        Err(_) => default,
    }
}

impl Settings {
    fn from_environment() -> Self {
        let skip: String = setting("SKIP", String::new());
        Self {
            seed: setting("SEED", 1),
            sequences: setting("SEQUENCES", 300),
            length: setting("LENGTH", 120),
            families: setting("FAMILIES", String::new()),
            endpoint: std::env::var("HOLDFAST_DIFF_ENDPOINT").ok(),
            key_prefix: setting("KEY_PREFIX", String::new()),
            failures: setting("FAILURES", 1),
            skip: skip.split(',').map(str::to_ascii_uppercase).collect(),
        }
    }
}

#[test]
fn random_commands_have_equal_replies() {
    let settings = Settings::from_environment();
    let Some(mut stock) = Endpoint::stock() else {
        eprintln!("skipped: no redis-server in PATH");
        return;
    };
    let mut ours: Box<dyn Target> = match &settings.endpoint {
        Some(address) => Box::new(Endpoint::at(address)),
        None => Box::new(InProcess::new()),
    };
    let families = grammar::families(&settings.families);
    let settings = settings.without_missing(&mut *ours, &families);
    let mut commands = 0;
    let mut per_command = BTreeMap::new();
    let mut failures = BTreeMap::new();
    for seed in settings.seed..settings.seed + settings.sequences {
        let steps = sequence(seed, &settings, &families);
        count(&steps, &mut per_command);
        let mut player = Player::new(&mut *ours, &mut stock);
        let resp3 = seed % 2 == 0;
        let result = player.play(&steps, resp3, 3);
        commands += player.commands;
        if let Err(mismatch) = result {
            let kind = (mismatch.args[0].to_ascii_uppercase(), mismatch.at == steps.len());
            if failures.contains_key(&kind) {
                continue;
            }
            let (steps, mismatch) = shrink(&mut player, steps, mismatch, resp3);
            let report = report(seed, resp3, &steps, &mismatch);
            eprintln!("{report}");
            failures.insert(kind, report);
            if failures.len() >= settings.failures {
                break;
            }
        }
    }
    eprintln!("differential: {commands} commands in {} sequences", settings.sequences);
    let restarts = in_process::RESTARTS.load(Ordering::Relaxed);
    eprintln!("differential: {restarts} restarts of a replica");
    for (name, count) in &per_command {
        eprint!("{name} {count}, ");
    }
    eprintln!();
    assert!(failures.is_empty(), "{} kinds of difference, shown above", failures.len());
}

/// A random sequence: mostly one or two families mixed, some transactions, some expiry.
fn sequence(seed: u64, settings: &Settings, families: &[Family]) -> Vec<Step> {
    let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let main = rng.below(families.len());
    let mut generator =
        Generator { rng: &mut rng, key_prefix: &settings.key_prefix, faithful: false };
    let mut steps = Vec::new();
    let mut queued = [None::<usize>; target::CLIENTS];
    while steps.len() < settings.length {
        let client = usize::from(generator.rng.one_in(6));
        let choice = match generator.rng.below(10) {
            0..7 => main,
            _ => generator.rng.below(families.len()),
        };
        let words = |text: &str| text.split(' ').map(|w| w.as_bytes().to_vec()).collect();
        let special = generator.rng.below(220);
        let key = generator.key('k');
        let args: Args = match special {
            0..4 => words("MULTI"),
            4 | 5 => vec![b"WATCH".to_vec(), key],
            6 => words(["UNWATCH", "DISCARD", "EXEC", "MULTI extra"][generator.rng.below(4)]),
            7 => vec![b"SELECT".to_vec(), generator.argument('n')],
            8 => words(
                ["NOSUCH command", "GET", "get a b", "OBJECT", "CLIENT NOSUCH"]
                    [generator.rng.below(5)],
            ),
            9 if queued[client].is_none() => {
                let ms = (1 + special % 3).to_string().into_bytes();
                let expire = vec![b"PEXPIRE".to_vec(), key.clone(), ms];
                steps.push(Step::Run { client, args: expire });
                steps.push(Step::Sleep(8));
                // A write looks at the key, so that both sides delete it and count alike.
                steps.push(Step::Run { client, args: vec![b"PERSIST".to_vec(), key] });
                continue;
            }
            10..16 if !settings.skip.contains("DUMP") => {
                steps.push(Step::Exchange(key));
                continue;
            }
            _ => match queued[client] {
                Some(n) if n > 2 && generator.rng.one_in(3) => {
                    words(if generator.rng.one_in(6) { "DISCARD" } else { "EXEC" })
                }
                _ => generator.command(&families[choice]),
            },
        };
        if !playable(&args, queued[client].is_some(), settings) {
            continue;
        }
        // Flushing fails every transaction that watches anything, here; in Redis, only those that
        // watch a key which was there. A BITFIELD that is refused but makes its key longer fails
        // those that watch it.
        let may_be_refused = || args.iter().any(|arg| arg.eq_ignore_ascii_case(b"FAIL"));
        let left_out = match args[0].to_ascii_uppercase().as_slice() {
            b"WATCH" => seed % 4 < 2,
            b"FLUSHDB" | b"FLUSHALL" | b"SWAPDB" => seed % 4 >= 2,
            b"BITFIELD" => seed % 4 >= 2 && may_be_refused(),
            _ => false,
        };
        if left_out {
            continue;
        }
        queued[client] = match args[0].to_ascii_uppercase().as_slice() {
            b"MULTI" => queued[client].or(Some(0)),
            b"EXEC" | b"DISCARD" => None,
            _ => queued[client].map(|n| n + 1),
        };
        for consumer in consumers_of(&args) {
            steps.push(Step::Run { client, args: consumer });
        }
        steps.push(Step::Run { client, args });
    }
    steps
}

/// Commands that make the consumer which a command names: 7.2 makes it whenever it is named, 7.0 only
/// when it gets something.
fn consumers_of(args: &Args) -> Vec<Args> {
    let create = |key: &Vec<u8>, group: &Vec<u8>, consumer: &Vec<u8>| {
        let words = [b"XGROUP".to_vec(), b"CREATECONSUMER".to_vec()];
        words.into_iter().chain([key, group, consumer].map(Vec::clone)).collect()
    };
    match args[0].to_ascii_uppercase().as_slice() {
        b"XCLAIM" | b"XAUTOCLAIM" if args.len() > 3 => vec![create(&args[1], &args[2], &args[3])],
        b"XREADGROUP" if args.len() > 3 => {
            let is_streams = |arg: &Vec<u8>| arg.eq_ignore_ascii_case(b"STREAMS");
            let Some(at) = args.iter().position(is_streams) else { return Vec::new() };
            let keys = &args[at + 1..at + 1 + (args.len() - at - 1) / 2];
            keys.iter().map(|key| create(key, &args[2], &args[3])).collect()
        }
        _ => Vec::new(),
    }
}

/// Not inside a transaction: what cannot be made equal afterwards. Not over the network: what the
/// proxy answers in its own way.
fn playable(args: &Args, queued: bool, settings: &Settings) -> bool {
    let name = String::from_utf8_lossy(&args[0]).to_uppercase();
    let random = matches!(
        name.as_str(),
        "SPOP"
            | "UNWATCH"
            | "SCAN"
            | "HSCAN"
            | "SSCAN"
            | "ZSCAN"
            | "WATCH"
            | "SELECT"
            | "SRANDMEMBER"
            | "HRANDFIELD"
    );
    let new_in_7_2 = matches!(name.as_str(), "ZRANK" | "ZREVRANK") && args.len() == 4;
    // A stock server makes as many picks as it is asked for, and is busy for hours.
    let endless = matches!(name.as_str(), "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER")
        && args.get(2).is_some_and(|count| count.first() == Some(&b'-') && count.len() > 6);
    // A stock server stores elements of equal weight in any order.
    let has = |word: &str| args.iter().any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    let any_order = name == "SORT" && has("BY") && has("ALPHA") && has("STORE");
    let left_out =
        (queued && random) || new_in_7_2 || endless || any_order || settings.skip.contains(&name);
    !left_out
}

fn count(steps: &[Step], per_command: &mut BTreeMap<String, u64>) {
    for step in steps {
        if let Step::Run { args, .. } = step {
            let name = String::from_utf8_lossy(&args[0]).to_uppercase();
            *per_command.entry(name).or_default() += 1;
        }
    }
}

/// Leaves out whatever the mismatch does not need, within a budget of replays.
fn shrink(
    player: &mut Player<'_>,
    steps: Vec<Step>,
    found: Mismatch,
    resp3: bool,
) -> (Vec<Step>, Mismatch) {
    let mut steps = steps;
    let mut found = found;
    steps.truncate(found.at + 1);
    let mut budget = 400;
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 && budget > 0 {
        let mut at = 0;
        while at < steps.len() && budget > 0 {
            budget -= 1;
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(steps.len()));
            match player.play(&fewer, resp3, 3) {
                Err(mismatch) if mismatch.args[0].eq_ignore_ascii_case(&found.args[0]) => {
                    fewer.truncate(mismatch.at + 1);
                    steps = fewer;
                    found = mismatch;
                }
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    (steps, found)
}

fn report(seed: u64, resp3: bool, steps: &[Step], mismatch: &Mismatch) -> String {
    let mut text = format!("--- difference, seed {seed}, RESP{}\n", if resp3 { 3 } else { 2 });
    for step in steps {
        text.push_str(&format!("    {step}\n"));
    }
    text.push_str(&format!("  at {}\n", play::show(&mismatch.args)));
    text.push_str(&format!("  ours   {}\n  theirs {}\n", mismatch.ours, mismatch.theirs));
    text
}
